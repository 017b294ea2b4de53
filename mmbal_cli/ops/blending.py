"""Weights of G-Blend from losses before and after a stretch of training: generalisation over squared overfitting."""

from __future__ import annotations

import torch
from torch import Tensor

CAP = 0.98  # most weight of one stream: the others never stop learning


def growth(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """G and O [S,K] of losses [S,K,2] (train, held out): fall of the held-out loss, growth of the gap to training."""
    change = after - before
    return -change[..., 1], change[..., 1] - change[..., 0]


def blend(before: Tensor, after: Tensor, o_min: float, sign: str = "clamp", cap: float = CAP) -> Tensor:
    """Weights [S,K] in proportion to G / max(|O|, o_min)^2, sum 1; equal where no stream generalised.

    A negative G counts as 0 (`clamp`) or by its size (`abs`); losses that are not finite count as no gain. What a
    weight has above `cap` goes to the other streams in equal parts.
    """
    G, O = growth(before, after)  # noqa: E741
    raw = (G.abs() if sign == "abs" else G.clamp_min(0)) / O.abs().clamp_min(o_min).square()
    raw = torch.where(torch.isfinite(raw), raw, 0.0)
    whole, K = raw.sum(1, keepdim=True), raw.shape[1]
    w = torch.where(whole > 0, raw / torch.where(whole > 0, whole, 1.0), 1 / K)
    excess = (w - cap).clamp_min(0)
    return w - excess + (excess.sum(1, keepdim=True) - excess) / (K - 1)


def super_epoch(epoch: int, epochs: int, first: int, n: int) -> int:
    """Length of the super-epoch that begins with `epoch` (0-based) of `epochs`, `first` and then `n`; 0 within one."""
    late = epoch - first
    length = first if epoch == 0 else n if late >= 0 and late % n == 0 else 0
    return min(length, epochs - epoch)
