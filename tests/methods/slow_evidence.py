"""Evidence as published: Dempster's rule of two opinions with its conflict, and the loss of one, class by class."""

from __future__ import annotations

import math

import torch
from torch import Tensor

D64 = torch.float64


def dempster(e1: Tensor, e2: Tensor) -> Tensor:
    """The reduced rule of two opinions [C], with its conflict, class by class."""
    C = len(e1)
    S1, S2 = C + sum(e1), C + sum(e2)
    b1, b2, u1, u2 = e1 / S1, e2 / S2, C / S1, C / S2
    K = sum(b1[i] * b2[j] for i in range(C) for j in range(C) if i != j)
    b = torch.stack([(b1[k] * b2[k] + b1[k] * u2 + b2[k] * u1) / (1 - K) for k in range(C)])
    u = u1 * u2 / (1 - K)
    assert abs((b.sum() + u).item() - 1) < 1e-12
    return b * (C / u)


def edl(e: Tensor, y: int, weight: float) -> Tensor:
    """The loss of one opinion [C], as published."""
    alpha, C = e + 1, len(e)
    fit = torch.digamma(alpha.sum()) - torch.digamma(alpha[y])
    wrong = torch.stack([torch.ones((), dtype=D64) if k == y else alpha[k] for k in range(C)])
    S = wrong.sum()
    kl = torch.lgamma(S) - sum(torch.lgamma(a) for a in wrong) - math.lgamma(C)
    kl = kl + sum((a - 1) * (torch.digamma(a) - torch.digamma(S)) for a in wrong)
    return fit + weight * kl
