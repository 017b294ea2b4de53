"""What each modality contributes: definitions on arrays, nothing of runs or files (docs/metrics.md has them in words).

Coalitions of M modalities are the codes 0 .. 2^M - 1, bit i for modality i: 0 is nobody, 2^M - 1 everybody. Values
v [...,2^M] are indexed by code.

- `shapley`: phi_m = sum over A without m of |A|! (M-|A|-1)! / M! (v(A+m) - v(A)) (Shapley 1953); their sum is
  v(all) - v(none), where v(none) is measured and not taken to be zero.
- `interaction`: I_ij = sum over A without i, j of |A|! (M-|A|-2)! / (M-1)! (v(A+ij) - v(A+i) - v(A+j) + v(A))
  (Grabisch and Roubens 1999, doi 10.1007/s001820050125): negative = redundant, positive = synergistic.
- `imbalance_degree`: (max phi - min phi) / sum |phi|, 0 balanced, 1 one-sided (ours: the term is that of
  BalanceBenchmark, arXiv 2502.10816, whose code does not aggregate).
- `utilisation`: u(m) = (A(all) - A(all without m)) / A(all), conditional utilisation rate (Wu et al. 2022,
  arXiv 2202.05306), here of the fused prediction.
- `gradient_share`: g_m / sum_j g_j of the gradient norms of the adapters (ours).
- `patterns`, `oracle`: which modalities were right (ours).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

MOST_MODALITIES = 6  # 64 coalitions


def members(code: int, mods: Sequence[str]) -> tuple[str, ...]:
    """The modalities of a coalition, in the order of `mods`."""
    return tuple(m for i, m in enumerate(mods) if code >> i & 1)


@cache
def _shapley_weights(M: int) -> NDArray:
    """[M,2^M]: phi = weights @ v."""
    weights = np.zeros((M, 2**M))
    for m in range(M):
        for code in range(2**M):
            if not code >> m & 1:
                weight = 1 / (M * comb(M - 1, code.bit_count()))
                weights[m, code | 1 << m] += weight
                weights[m, code] -= weight
    return weights


@cache
def _interaction_weights(M: int) -> NDArray:
    """[pairs,2^M] in the order of `combinations`."""
    pairs = list(combinations(range(M), 2))
    weights = np.zeros((len(pairs), 2**M))
    for row, (i, j) in zip(weights, pairs, strict=True):
        both = 1 << i | 1 << j
        for code in range(2**M):
            if not code & both:
                weight = 1 / ((M - 1) * comb(M - 2, code.bit_count()))
                row[[code | both, code]] += weight
                row[[code | 1 << i, code | 1 << j]] -= weight
    return weights


def shapley(values: NDArray) -> NDArray:
    """Shapley values [...,M] of coalition values [...,2^M]."""
    return values @ _shapley_weights(_players(values)).T


def interaction(values: NDArray) -> NDArray:
    """Interaction of each pair (0,1), (0,2), .., (1,2), .. [...,pairs] of coalition values [...,2^M]."""
    return values @ _interaction_weights(_players(values)).T


def _players(values: NDArray) -> int:
    M = values.shape[-1].bit_length() - 1
    if values.shape[-1] != 2**M:
        raise ValueError(f"{values.shape[-1]} coalition values: expected a power of two")
    return M


def imbalance_degree(phi: NDArray) -> NDArray:
    """(max - min) / sum of absolute values over the last axis [...,M] -> [...]; NaN where all are zero."""
    return _ratio(phi.max(-1) - phi.min(-1), np.abs(phi).sum(-1))


def shares(phi: NDArray) -> NDArray:
    """phi_m / sum |phi|, [...,M]: the imbalance degree is the largest minus the smallest share."""
    return _ratio(phi, np.abs(phi).sum(-1, keepdims=True))


def utilisation(everybody: NDArray, without: NDArray) -> NDArray:
    """(A(all) - A(all without m)) / A(all); NaN where A(all) is zero."""
    return _ratio(everybody - without, everybody)


def gradient_share(norms: NDArray) -> NDArray:
    """g_m / sum_j g_j, [...,M]; NaN where all are zero."""
    return _ratio(norms, norms.sum(-1, keepdims=True))


def _ratio(top: NDArray, bottom: NDArray) -> NDArray:
    top, bottom = np.broadcast_arrays(np.asarray(top, np.float64), np.asarray(bottom, np.float64))
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom != 0)


def patterns(right: NDArray) -> NDArray:
    """Code of the modalities that were right for each sample: bool [M,N] -> [N]."""
    return (np.asarray(right, np.int64) << np.arange(len(right))[:, None]).sum(0)


def oracle(right: NDArray) -> NDArray:
    """Whether any modality was right: bool [M,N] -> [N]."""
    return np.any(np.asarray(right, bool), axis=0)


@dataclass(frozen=True)
class Course:
    """A quantity over the epochs in which it was recorded: the first, middle and last value, and the mean."""

    first: float
    middle: float
    last: float
    mean: float


def course(values: Sequence[float | None]) -> Course | None:
    """The course of recorded numbers; None (no probe, not finite) is passed over, the lower middle is taken."""
    known = [float(value) for value in values if value is not None and np.isfinite(value)]
    if not known:
        return None
    return Course(known[0], known[(len(known) - 1) // 2], known[-1], float(np.mean(known)))


def last_phase(records: Sequence[Mapping]) -> list[Mapping]:
    """The records of the last phase: the one whose best epoch is the result."""
    phase = records[-1].get("phase") if records else None
    return [record for record in records if record.get("phase") == phase]
