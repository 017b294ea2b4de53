"""Dropping features by modality (OPM): how likely, for which samples, and what makes up for it."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1e-3  # bound of a divisor


def drop_probability(rho: Tensor, base: float, lam: float) -> Tensor:
    """q [S,M] of discrepancies rho: 0 up to rho = 1, from there base (1 + lam tanh(rho - 1)), at most 1."""
    lead = torch.tanh((rho - 1).clamp_min(0))
    return torch.where(lead > 0, base * (1 + lam * lead), 0.0).clamp(0, 1)


def survivors(keep: Tensor, present: Tensor) -> Tensor:
    """Samples [S,B] that still have a modality, or never had one, from `keep` and `present` [S,M,B]."""
    return (keep & present).any(1) | ~present.any(1)


def divisor(q: Tensor, rule: str) -> Tensor:
    """What features are divided by, [S,M]: 1 - mean q for all (`joint`), 1 - q of each (`per_modality`), or 1."""
    if rule == "none":
        return torch.ones_like(q)
    gone = q if rule == "per_modality" else q.mean(1, keepdim=True).expand_as(q)
    return (1 - gone).clamp_min(LEAST)
