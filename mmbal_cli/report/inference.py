"""Tests of a difference between two runs, Holm's correction, and which p-values a number of seeds can reach.

- `paired-bootstrap`: the draws behind the interval of the difference (statistics.py): p = 1 - the level at which the
  interval reaches 0, counted as (k + 1) / (draws + 1) a side (Davison & Hinkley, Bootstrap Methods, 1997, ch. 4),
  so never 0. It speaks of new seeds and new samples; with one seed, of new samples only.
- `mcnemar`: the exact binomial test of the samples that only one run gets right (McNemar, Psychometrika 12, 1947),
  for accuracy. One p for each seed of both; several are combined by twice their median, which is valid however they
  depend on each other (Rüger, Metrika 25, 1978). It speaks of these trained models on new samples.
- `sign-flip`: exact permutation test over all 2^n signs of the differences of the n seeds of both (Fisher, The Design
  of Experiments, 1935, sec. 21). It speaks of new seeds on these samples.
- `welch`: t-test of the seed means with unequal variances (Welch, Biometrika 34, 1947), on all seeds of either run,
  unpaired. It speaks of new seeds on these samples.

Formulas use scipy.special; scipy.stats takes 0.4 s to import and serves as the reference in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import comb

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.report.statistics import DRAWS, LEVEL, Estimate, Measured, combined, drawn, over_seeds

EXACT_SEEDS = 30  # more seeds draw half a million sign vectors at random
EQUAL = 1e-12  # differences of metrics below this are rounding


class Test(StrEnum):
    """The tests that `paired` makes."""

    __test__ = False  # no test class of pytest

    bootstrap = "paired-bootstrap"
    mcnemar = "mcnemar"
    sign_flip = "sign-flip"
    welch = "welch"


TESTS = tuple(Test)
RANK_SUM = "rank-sum"  # in `smallest_p` only, as a measure for unpaired seeds
Correct = Mapping[int, NDArray]


@dataclass(frozen=True)
class Paired:
    """First minus second on the seeds of both, and {test: two-sided p}; None where a test does not apply."""

    difference: Estimate
    p: dict[str, float | None]


def paired(
    first: Measured, second: Measured, correct: tuple[Correct, Correct] | None = None, level: float = LEVEL
) -> Paired:
    """The difference of two quantities of the same samples, with all tests.

    `correct` is {seed: right or wrong [N]} of both, for accuracy; without it there is no McNemar test.
    """
    return paired_all([(first, second, correct)], level)[0]


def paired_all(
    pairs: Sequence[tuple[Measured, Measured, tuple[Correct, Correct] | None]], level: float = LEVEL
) -> list[Paired]:
    """`paired` of many pairs at once."""
    differences = [combined([(1.0, first), (-1.0, second)]) for first, second, _ in pairs]
    found = []
    for (first, second, correct), difference, draws in zip(pairs, differences, drawn(differences), strict=True):
        values = np.array([difference.values[seed] for seed in difference.seeds])
        p = {
            Test.bootstrap: draws.p() if draws else None,
            Test.mcnemar: mcnemar(*correct) if correct else None,
            Test.sign_flip: sign_flip(values),
            Test.welch: welch(*([each.values[seed] for seed in each.seeds] for each in (first, second))),
        }
        interval = draws.estimate(level) if draws else over_seeds(difference.values, level)
        found.append(Paired(interval, {str(test): value for test, value in p.items()}))
    return found


def mcnemar(first: Correct, second: Correct) -> float | None:
    """Twice the median of the exact McNemar p of each common seed (that p itself for one); None without any."""
    from scipy.special import bdtr

    common = sorted(set(first) & set(second))
    if not common:
        return None
    only = np.array([_only_one(first[seed], second[seed]) for seed in common])  # [S, 2]
    p = np.minimum(1.0, 2 * bdtr(only.min(axis=1).astype(float), only.sum(axis=1), 0.5))
    return float(p[0]) if len(p) == 1 else min(1.0, 2 * float(np.median(p)))


def _only_one(first: NDArray, second: NDArray) -> tuple[int, int]:
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    return int(np.count_nonzero(first & ~second)), int(np.count_nonzero(second & ~first))


def sign_flip(differences: Sequence[float] | NDArray) -> float | None:
    """Share of sign vectors whose sum is as far from 0 as the observed one. [n] -> p; None without any."""
    given = np.asarray(differences, np.float64)
    if not len(given):
        return None
    observed = abs(given.sum())
    slack = EQUAL * max(1.0, float(np.abs(given).sum()))
    if len(given) <= EXACT_SEEDS:
        limit = observed - slack
        if limit <= 0:
            return 1.0
        half = len(given) // 2  # every sum is one of each half: counted without making all of them
        one, other = _signed_sums(given[:half]), np.sort(_signed_sums(given[half:]))
        above = len(other) - np.searchsorted(other, limit - one, "left")
        below = np.searchsorted(other, -limit - one, "right")
        return float((above + below).sum() / (len(one) * len(other)))
    rng = np.random.default_rng(len(given))
    draws = 2**19
    further = 0
    for rows in np.full(draws // 2**13, 2**13):
        signs = rng.integers(2, size=(rows, len(given))) * 2 - 1
        further += int(np.count_nonzero(np.abs(signs @ given) >= observed - slack))
    return (further + 1) / (draws + 1)


def _signed_sums(given: NDArray) -> NDArray:
    """Sums of `given` [n] under all signs, [2^n]."""
    sums = np.zeros(1)
    for each in given:
        sums = np.concatenate([sums + each, sums - each])
    return sums


def welch(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Welch's t-test of two sets of seeds; None for a single seed, or where neither set varies and they differ."""
    from scipy.special import stdtr

    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if min(len(one), len(other)) < 2:
        return None
    gap = abs(one.mean() - other.mean())
    if gap < EQUAL:
        return 1.0
    shares = np.array([each.var(ddof=1) / len(each) for each in (one, other)])
    if shares.sum() < EQUAL**2:
        return None
    freedom = shares.sum() ** 2 / (shares**2 / [len(one) - 1, len(other) - 1]).sum()
    return float(2 * stdtr(freedom, -gap / shares.sum() ** 0.5))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values of Holm's step-down procedure (Scandinavian Journal of Statistics 6, 1979).

    In the order given, at most 1; None stays None and is no comparison.
    """
    known = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[place] = highest
    return adjusted


def smallest_p(test: str, first: int, second: int | None = None) -> float:
    """The smallest two-sided p that `test` can give with so many seeds (the paired ones for paired tests).

    `rank-sum` stands for any permutation test of unpaired seeds. McNemar and Welch have no bound that matters: 0.
    One seed: 1 for tests of seeds.
    """
    second = first if second is None else second
    if test == Test.bootstrap:
        return 2 / (DRAWS + 1) if first >= 1 else 1.0
    if test == Test.sign_flip:
        return max(2.0 ** (1 - first), 1 / (2**19 + 1) if first > EXACT_SEEDS else 0.0) if first >= 1 else 1.0
    if test == RANK_SUM:
        return min(1.0, 2 / comb(first + second, first))
    if test == Test.welch:
        return 0.0 if min(first, second) > 1 else 1.0
    if test == Test.mcnemar:
        return 0.0 if first >= 1 else 1.0
    raise ValueError(f"no test {test!r}")


def cannot_reach(test: str, seeds: int, alpha: float = 0.05, comparisons: int = 1) -> str:
    """A sentence if no difference can be significant with so many seeds at Holm's first step; else ""."""
    reached, needed = smallest_p(test, seeds), alpha / max(comparisons, 1)
    if reached <= needed:
        return ""
    if reached >= 1:
        return f"With {seeds or 'no'} seed{'s' * (seeds != 1)} the {test} test has nothing to compare."
    given = f"{DRAWS:,} draws" if test == Test.bootstrap else f"{seeds} paired seeds"
    goal = f"{alpha:g}"
    if comparisons > 1:
        goal = f"{needed:.2g}, the first step of Holm's correction for {comparisons} comparisons at {alpha:g}"
    return f"With {given} the {test} test cannot go below p = {reached:.4g}: no difference can reach {goal}."
