"""Several tasks on shared encoders: distillation, task weights from scores and dependence, equal gradient norms.

Task 0 is the fused one, task j > 0 that of modality j; K = M + 1 tasks. Scores F and weights w are [S,K].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmbal_cli.nn.stacked import per_seed, total
from mmbal_cli.ops.losses import ce, kl, masked_mean


def of_each(values: Sequence[Tensor], index: Tensor) -> Tensor:
    """values[index[s]][s] for each seed s: [S,...] each, index [S]."""
    table = torch.stack(list(values), 1)
    return table.take_along_dim(per_seed(index, table), 1).squeeze(1)


def distillation(
    z: Tensor, y: Tensor, taught: Tensor, lam: float, T: float, present: Tensor | None, shared: Tensor | None
) -> Tensor:
    """(1 - lam) CE + lam T^2 KL(softmax(taught / T) || softmax(z / T)), [S].

    CE is the mean over the samples that are `present`, KL over those that also the teacher has.
    """
    soft = masked_mean(kl((taught / T).softmax(-1), z / T), shared)
    return (1 - lam) * ce(z, y, present) + lam * T**2 * soft


def needs(F: Tensor, nmi: Tensor, eps0: float, role: str) -> Tensor:
    """How much weight each task asks for, [S,K]: what it lacks, times what dependence nmi [S,K,K] says of it."""
    if role == "none":
        return 1 - F
    M = F.shape[1] - 1
    nu = [total(nmi[:, j, k] for k in range(1, M + 1) if k != j) / (M - 1) for j in range(1, M + 1)]
    factor = [1 - total(nu) / M]
    for j, shared in enumerate(nu, 1):
        factor.append({"dependence": shared, "complement": 1 - shared, "dominance": 1 - nmi[:, 0, j]}[role])
    return (1 - F) * (eps0 + torch.stack(factor, 1))


def reweighted(w: Tensor, a: Tensor, low: float, high: float, rho: float) -> Tensor:
    """rho w + (1 - rho) clip(K a / sum a, low, high); w where every a is 0. Not normalised again after the clip."""
    whole = total(a[:, j] for j in range(a.shape[1]))[:, None]
    target = (a.shape[1] * a / torch.where(whole > 0, whole, 1.0)).clamp(low, high)
    return torch.where(whole > 0, rho * w + (1 - rho) * target, w)


def at_mean_norm(
    params: Sequence[nn.Parameter], losses: tuple[Tensor, Tensor], weights: tuple[Tensor, Tensor]
) -> list[Tensor]:
    """Gradients of both losses on `params`, brought to the mean of their norms, then added by weight [S].

    A loss without gradient has no direction: it adds nothing and is left out of the mean.
    """
    grads = [torch.autograd.grad(each, params, torch.ones_like(each), retain_graph=True) for each in losses]
    norms = [torch.stack([g.flatten(1).square().sum(1) for g in task], 1).sum(1).sqrt() for task in grads]
    moved = [(norm > 0).to(norm.dtype) for norm in norms]
    mean = total(norms) / total(moved).clamp_min(1)
    factors = [w * mean / torch.where(n > 0, n, torch.inf) for w, n in zip(weights, norms, strict=True)]
    return [total(per_seed(f, g) * g for f, g in zip(factors, pair, strict=True)) for pair in zip(*grads, strict=True)]
