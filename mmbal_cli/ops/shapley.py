"""Shapley values of M players: what each adds to a coalition, averaged over all orders of joining (Shapley, 1953).

phi_m = sum over A without m of |A|! (M - |A| - 1)! / M! * (V(A + m) - V(A));  sum_m phi_m = V(all) - V(empty)
"""

from __future__ import annotations

from math import comb

import torch
from torch import Tensor

from mmbal_cli.nn.stacked import total


def subsets(M: int) -> list[tuple[int, ...]]:
    """All nonempty subsets of M players in binary order: (0,), (1,), (0, 1), (2,), ... ; the last one is everybody."""
    return [tuple(m for m in range(M) if code >> m & 1) for code in range(1, 2**M)]


def coalitions(h: dict[str, Tensor]) -> dict[str, Tensor]:
    """Features [S,B,D] of every proper subset of the modalities, the others zero, behind each other: [S,(2^M-2)B,D]."""
    parts = subsets(len(h))[:-1]
    return {
        m: torch.cat([x if i in part else torch.zeros_like(x) for part in parts], 1)
        for i, (m, x) in enumerate(h.items())
    }


def coalition_weight(size: int, M: int) -> float:
    """Weight of the coalitions of `size` players that one more joins: size! (M - size - 1)! / M!."""
    return 1 / (M * comb(M - 1, size))


def shapley(values: Tensor, M: int, empty: float | Tensor = 0.0) -> Tensor:
    """Shapley values [...,M] of coalition values [...,2^M - 1] in the order of `subsets`; V of nobody is `empty`."""

    def gain(code: int, m: int) -> Tensor:
        return values[..., (code | 1 << m) - 1] - (values[..., code - 1] if code else empty)

    def share(m: int) -> Tensor:
        without = [code for code in range(2**M) if not code >> m & 1]
        # one term after the other: a product with the weights would round by its layout
        return total(coalition_weight(code.bit_count(), M) * gain(code, m) for code in without)

    return torch.stack([share(m) for m in range(M)], -1)
