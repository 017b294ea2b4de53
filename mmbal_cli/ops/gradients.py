"""Per-seed arithmetic on gradients of stacked parameters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmbal_cli.nn.stacked import per_seed


def scale_gradients(params: Iterable[nn.Parameter], factor: Tensor) -> None:
    """Multiply every gradient by its seed's factor [S], in place."""
    for p in params:
        if p.grad is not None:
            p.grad.mul_(per_seed(factor, p))


def gradient_norm(params: Iterable[nn.Parameter]) -> Tensor | None:
    """2-norm [S] of all gradients together; None when there are none."""
    squares = [p.grad.flatten(1).square().sum(1) for p in params if p.grad is not None]
    return torch.stack(squares, 1).sum(1).sqrt() if squares else None


def deviation(g: Tensor) -> Tensor:
    """Unbiased standard deviation [S] over all elements of each seed; 0 for a single element.

    From sum and sum of squares: a quarter of the time of `std` over a dimension, and gradients are centred
    closely enough that no digits are lost.
    """
    flat = g.flatten(1)
    n = flat.shape[1]
    if n == 1:
        return flat.new_zeros(flat.shape[0])
    mean = flat.mean(1)
    return ((flat.square().sum(1) - n * mean.square()) / (n - 1)).clamp_min(0).sqrt()
