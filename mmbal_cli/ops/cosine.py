"""Cosines of features and class weights."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6  # least norm that has a direction: bounds the gradient of a nearly dead feature


def directed(x: Tensor, dim: int) -> Tensor:
    """x over max(its 2-norm along `dim`, EPS); zero stays zero, with a gradient."""
    return x * x.square().sum(dim, keepdim=True).clamp_min(EPS**2).rsqrt()


def cosines(h: Tensor, weight: Tensor) -> Tensor:
    """Cosine [S,B,C] of each feature h [S,B,D] and each class's column of weight [S,D,C]; 0 for a feature of zeros."""
    return torch.bmm(directed(h, 2), directed(weight, 1))
