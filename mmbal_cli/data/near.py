"""Samples whose features are the same, or nearly so, in two parts of a split.

Cosine of standardised features, compared in blocks of bounded memory; sequences [N,T,F] by their mean over time. What
says nothing is left out: columns that never change, and samples whose values are all the same (silence, empty text).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS, COLUMNS = 1024, 8192  # of one block of similarities: 32 MiB
CLAMP = 10.0  # as in training: a hashed word seen once must not decide alone
MOST = 20  # examples kept
ALL = "all modalities"


@dataclass
class Twins:
    """Pairs found between two parts: rows of the first that have one, and examples (row, row, cosine)."""

    rows: set[int] = field(default_factory=set)
    pairs: int = 0
    examples: list[tuple[int, int, float]] = field(default_factory=list)

    def add(self, first: NDArray, second: NDArray, cosine: NDArray) -> None:
        self.rows.update(first.tolist())
        self.pairs += len(first)
        room = max(0, MOST - len(self.examples))
        self.examples += list(zip(first[:room].tolist(), second[:room].tolist(), cosine[:room].tolist(), strict=True))


@dataclass(frozen=True)
class Comparable:
    """Unit rows [N,F] of each modality (zero where there is nothing to compare), and what each row exactly is.

    `code` [N] numbers equal features alike, -1 for absent and -2 for constant ones; `present` [N]; `constant` counts
    the samples whose values are all the same.
    """

    unit: dict[str, NDArray]
    code: dict[str, NDArray]
    constant: dict[str, int]


def comparable(features: Mapping[str, NDArray], mask: Mapping[str, NDArray]) -> Comparable:
    """Features [N,F] or [N,T,F] with masks [N] or [N,T], ready to be compared."""
    unit, code, constant = {}, {}, {}
    for m, x in features.items():
        valid = mask[m].astype(bool)
        there = valid if valid.ndim == 1 else valid.any(1)
        flat = _constant(x, valid) & there
        code[m] = _codes(x, valid)
        code[m][flat] = -2
        code[m][~there] = -1
        constant[m] = int(flat.sum())
        unit[m] = _unit(x, valid, there & ~flat)
    return Comparable(unit, code, constant)


def _constant(x: NDArray, valid: NDArray) -> NDArray:
    """Samples all of whose (present) values are the same, bool [N]; of one number a sample: none."""
    if x[0].size < 2:
        return np.zeros(len(x), bool)
    if valid.ndim == 1:
        flat = x.reshape(len(x), -1)
        return flat.max(1) == flat.min(1)
    high = np.where(valid, x.max(-1), -np.inf).max(1)
    return high == np.where(valid, x.min(-1), np.inf).min(1)


def _codes(x: NDArray, valid: NDArray) -> NDArray:
    """One number for each different content, by a digest of the bytes."""
    seen: dict[bytes, int] = {}
    found = np.empty(len(x), np.int64)
    for row, values in enumerate(x):
        kept = values if valid.ndim == 1 else values[valid[row]]
        digest = hashlib.blake2b(np.ascontiguousarray(kept).tobytes(), digest_size=16).digest()
        found[row] = seen.setdefault(digest, len(seen))
    return found


def _unit(x: NDArray, valid: NDArray, usable: NDArray) -> NDArray:
    """Standardised rows of length 1, float32 [N,F]; zero where not usable."""
    if x.ndim == 3:
        weight = valid if valid.ndim == 2 else np.broadcast_to(valid[:, None], x.shape[:2])
        steps = np.maximum(weight.sum(1), 1)[:, None]
        pooled = np.einsum("ntf,nt->nf", x, weight, dtype=np.float32, casting="unsafe") / steps
    else:
        pooled = x.astype(np.float32)
    pooled = np.where(np.isfinite(pooled), pooled, 0).astype(np.float32)
    out = np.zeros_like(pooled)
    if not usable.any():
        return out
    mean = pooled[usable].mean(0, dtype=np.float64)
    deviation = pooled[usable].std(0, dtype=np.float64)
    alive = deviation > 1e-6 * np.maximum(1.0, np.abs(mean))
    if not alive.any():
        return out
    scaled = (pooled[:, alive] - mean[alive].astype(np.float32)) / deviation[alive].astype(np.float32)
    np.clip(scaled, -CLAMP, CLAMP, out=scaled)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    scaled = np.divide(scaled, length, out=np.zeros_like(scaled), where=length > 1e-6)
    scaled[~usable] = 0
    return scaled


def exact_twins(data: Comparable, first: NDArray, second: NDArray) -> dict[str, Twins]:
    """Rows of `first` whose features are exactly those of a row of `second`, by modality and in all of them."""
    found = {}
    for m, code in [*data.code.items(), *_joined(data)]:
        home = {value: row for row, value in zip(second[::-1].tolist(), code[second[::-1]].tolist(), strict=True)}
        hits = [(row, home[value]) for row, value in zip(first.tolist(), code[first].tolist(), strict=True)
                if value >= 0 and value in home]  # fmt: skip
        found[m] = Twins({row for row, _ in hits}, len(hits), [(one, other, 1.0) for one, other in hits[:MOST]])
    return found


def _joined(data: Comparable) -> Iterator[tuple[str, NDArray]]:
    """Codes of all modalities together, where there are several; -1 where no modality can be compared."""
    if len(data.code) < 2:
        return
    table = np.stack(list(data.code.values()), 1)
    _, joined = np.unique(table, axis=0, return_inverse=True)
    yield ALL, np.where((table >= 0).any(1), joined.reshape(-1), -1)


def near_twins(data: Comparable, first: NDArray, second: NDArray, least: float) -> dict[str, Twins]:
    """Pairs with a cosine of at least `least` that are not exactly equal, by modality and in all of them.

    In all: at least `least`, or exactly equal, in every modality that the two have, and the same ones absent.
    """
    found = {m: Twins() for m in data.unit}
    several = len(data.unit) > 1
    if several:
        found[ALL] = Twins()
    for start in range(0, len(first), ROWS):
        rows = first[start : start + ROWS]
        for at in range(0, len(second), COLUMNS):
            _block(data, rows, second[at : at + COLUMNS], least, found)
    return found


def _block(data: Comparable, rows: NDArray, others: NDArray, least: float, found: dict[str, Twins]) -> None:
    hits: dict[str, tuple[NDArray, NDArray, NDArray]] = {}
    for m, unit in data.unit.items():
        cosine = unit[rows] @ unit[others].T
        one, other = np.nonzero(cosine >= least)
        hits[m] = rows[one], others[other], cosine[one, other]
        changed = data.code[m][hits[m][0]] != data.code[m][hits[m][1]]
        found[m].add(*(values[changed] for values in hits[m]))
    if ALL not in found:
        return
    m = min(hits, key=lambda name: len(hits[name][0]))  # every pair is in the shortest list, or absent there
    candidates = [hits[m]] + [hits[n] for n in hits if n != m and bool((data.code[m][rows] < 0).any())]
    one, other = (np.concatenate([each[i] for each in candidates]) for i in (0, 1))
    pairs = np.unique(np.stack([one, other], 1), axis=0) if len(one) else np.zeros((0, 2), np.int64)
    one, other = pairs[:, 0], pairs[:, 1]
    alike, same, lowest = np.ones(len(one), bool), np.ones(len(one), bool), np.ones(len(one), np.float32)
    for n, unit in data.unit.items():
        code = data.code[n]
        equal = code[one] == code[other]
        cosine = np.einsum("nf,nf->n", unit[one], unit[other])
        alike &= equal | (cosine >= least)
        same &= equal
        lowest = np.minimum(lowest, np.where(equal, 1, cosine))
    kept = alike & ~same
    found[ALL].add(one[kept], other[kept], lowest[kept])


def as_arrays(arrays: Mapping[str, Any]) -> Comparable:
    """The arrays of a prepared set, as the store reads them, ready to be compared."""
    return comparable(arrays["features"], arrays["mask"])
