"""Conditional learning speed (Greedy): how fast parameters learn relative to others, and which branch is curated."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbal_cli.nn.stacked import total

TINY = 1e-12  # parameters that do not learn at all make a speed large or small, not infinite


def learning_speed(params: Iterable[nn.Parameter]) -> Tensor:
    """Squared gradients over squared values, all tensors pooled, [S]; 0 where all values are zero."""
    known = list(params)
    size = total(p.detach().flatten(1).square().sum(1) for p in known)
    moved = total([p.grad.flatten(1).square().sum(1) for p in known if p.grad is not None] or [torch.zeros_like(size)])
    return torch.where(size > 0, moved / torch.where(size > 0, size, 1.0), 0.0)


def conditional_speed(bypass: Tensor, main: Tensor) -> Tensor:
    """log10 of the accumulated speeds of the bypasses over those of the branches themselves, [S,M]."""
    return torch.log10((bypass + TINY) / (main + TINY))


def curate(s: Tensor, curated: Tensor, left: Tensor, eps: float, Q: int) -> tuple[Tensor, Tensor]:
    """Who is curated in the next step, one-hot [S,M] or zeros, and for how many steps [S].

    `curated` and `left` are those of the step just made. Only a regular step can start a curation: of the largest
    speed s [S,M] (the first of equals), for Q steps, where the speeds are more than eps apart.
    """
    regular = left == 0
    fire = regular & (s.amax(1) - s.amin(1) > eps)
    left = torch.where(fire, Q, (left - 1).clamp_min(0))
    curated = torch.where(fire[:, None], F.one_hot(s.argmax(1), s.shape[1]), curated)
    return curated * (left > 0)[:, None], left


def running_mean(mean: Tensor, count: Tensor, x: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean [S,D] and count [S] of batch means with that of x [S,B,D] among them.

    The mean of a batch is over present samples [S,B]; a batch that has none does not count.
    """
    if present is None:
        now, some = x.mean(1), torch.ones_like(count)
    else:
        now = torch.where(present[..., None], x, 0.0).sum(1) / present.sum(1).clamp_min(1)[:, None]
        some = present.any(1).to(count.dtype)
    count = count + some
    return mean + (some / count.clamp_min(1))[:, None] * (now - mean), count


class Curation(nn.Module):
    """Running mean gates [S,M,D], accumulated speeds [S,M], and who is curated for how many more steps."""

    mean: Tensor
    count: Tensor
    bypass: Tensor
    main: Tensor
    curated: Tensor
    left: Tensor

    def __init__(self, S: int, M: int, D: int, dtype: torch.dtype) -> None:
        super().__init__()
        for name, shape in (("mean", (S, M, D)), ("count", (S, M)), ("bypass", (S, M)), ("main", (S, M))):
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))
        self.register_buffer("curated", torch.zeros(S, M, dtype=torch.long))
        self.register_buffer("left", torch.zeros(S, dtype=torch.long))

    def gate(self, i: int, live: Tensor, present: Tensor | None) -> Tensor:
        """Take the live gate [S,B,D] of modality i into its mean; the gate to use: that mean where i is curated."""
        self.mean[:, i], self.count[:, i] = running_mean(self.mean[:, i], self.count[:, i], live.detach(), present)
        return torch.where(self.curated[:, i, None, None] > 0, self.mean[:, i, None], live)

    def speeds(self, bypass: Tensor, main: Tensor) -> Tensor:
        """Conditional speeds [S,M] after a step whose learning speeds are given; a curated step does not count."""
        regular = self.curated.sum(1, keepdim=True) == 0
        self.bypass += torch.where(regular, bypass, 0.0)
        self.main += torch.where(regular, main, 0.0)
        return conditional_speed(self.bypass, self.main)

    def follow(self, s: Tensor, eps: float, Q: int) -> None:
        """Curate by speed in the next step."""
        curated, left = curate(s, self.curated, self.left, eps, Q)
        self.curated.copy_(curated)
        self.left.copy_(left)

    def choose(self, chance: Tensor) -> None:
        """Curate by chance [S] in [0,1) in the next step: each modality or none, equally often."""
        M = self.curated.shape[1]
        self.curated.copy_(F.one_hot((chance * (M + 1)).long().clamp_max(M), M + 1)[:, :M])
