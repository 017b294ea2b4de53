"""Cosines of features and class weights."""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.ops.losses import unit

EPS = 1e-6  # least norm that has a direction: bounds the gradient of a nearly dead feature


def cosines(h: Tensor, weight: Tensor) -> Tensor:
    """Cosine [S,B,C] of each feature h [S,B,D] and each class's column of weight [S,D,C]; 0 for a feature of zeros."""
    return torch.bmm(unit(h, 2, EPS), unit(weight, 1, EPS))
