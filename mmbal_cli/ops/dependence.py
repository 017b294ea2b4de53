"""On which modality the joint logits depend, and masks that take a part of it away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from mmbal_cli.ops.losses import both, masked_mean


def shares(z: Sequence[Tensor], present: Sequence[Tensor | None]) -> Tensor:
    """Mass of each modality in the softmax over all logits z[m] [S,B,C] side by side, [S,M].

    The mean over the samples that have every modality: others would count logits of nothing. 0 where there are none.
    """
    mass = torch.cat(list(z), -1).softmax(-1).unflatten(-1, (len(z), -1)).sum(-1)  # [S,B,M]
    every = reduce(both, present)
    return torch.stack([masked_mean(mass[..., j], every) for j in range(len(z))], 1)


def sine_ramp(progress: float) -> float:
    """sin(pi/2 * progress), 1 from progress 1 on."""
    return math.sin(math.pi / 2 * min(1.0, progress))


def without(order: Tensor, share: float) -> Tensor:
    """Mask [S,n] with int(share * n) zeros, where a permutation [S,n] is lowest; one entry always stays."""
    n = order.shape[1]
    return order >= min(int(share * n), n - 1)


def hide(x: Tensor, mask: Tensor, where: Tensor) -> Tensor:
    """x [S,B,n] times the mask [S,n], for the seeds in `where` [S] only."""
    return torch.where((mask | ~where[:, None])[:, None], x, 0.0)
