"""Tests of differences against scipy and enumeration, Holm against its definition, reachable p against a table."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from mmbal_cli.report.inference import (
    DRAWS,
    TESTS,
    cannot_reach,
    holm,
    mcnemar,
    paired,
    paired_all,
    sign_flip,
    smallest_p,
    welch,
)
from mmbal_cli.report.statistics import Measured, combined, estimate, measured_mean

Correct = dict[int, np.ndarray]


def answers(accuracy: float, seeds: range, samples: int = 80, number: int = 0) -> Correct:
    """Right answers; some samples are harder than others for all."""
    easy = np.random.default_rng(samples).normal(size=samples)
    rng = np.random.default_rng([number, samples])
    level = stats.norm.ppf(accuracy) * 1.2
    return {seed: easy + 0.66 * rng.normal(size=samples) + level > 0 for seed in seeds}


def accuracy(correct: Correct) -> Measured:
    return measured_mean({seed: each.astype(float) for seed, each in correct.items()})


@pytest.mark.parametrize("n", range(1, 9))
def test_sign_flip_is_the_permutation_test_over_all_signs(n: int) -> None:
    for number in range(5):
        differences = np.random.default_rng([n, number]).normal(size=n).round(1) + 0.3 * number
        sums = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=n)]
        expected = np.mean([each >= abs(differences.sum()) - 1e-9 for each in sums])
        assert sign_flip(differences) == pytest.approx(expected)
        if n > 1 and differences.any():
            given = stats.permutation_test(
                (differences,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
            )
            assert sign_flip(differences) == pytest.approx(min(1.0, given.pvalue))


def test_sign_flip_at_its_ends() -> None:
    assert sign_flip([]) is None
    assert sign_flip([0.3]) == 1
    assert sign_flip(np.zeros(5)) == 1
    assert sign_flip([0.1, 0.2, 0.3]) == 0.25
    many = np.random.default_rng(0).normal(size=25) + 0.5
    assert sign_flip(many) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.01)
    assert sign_flip(many) == sign_flip(many)


def test_mcnemar_is_the_binomial_test_of_each_seed_combined_by_twice_the_median() -> None:
    first, second = answers(0.7, range(5)), answers(0.55, range(1, 6), number=1)
    ps = []
    for seed in range(1, 5):
        only_first = int(np.count_nonzero(first[seed] & ~second[seed]))
        only_second = int(np.count_nonzero(second[seed] & ~first[seed]))
        ps.append(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)
    assert mcnemar(first, second) == pytest.approx(min(1, 2 * np.median(ps)))
    assert mcnemar({1: first[1]}, second) == pytest.approx(ps[0])
    assert mcnemar(first, first) == 1
    assert mcnemar({1: first[1]}, {2: second[2]}) is None


@pytest.mark.parametrize("sizes", [(2, 2), (5, 5), (3, 8)])
def test_welch_is_scipy_s(sizes: tuple[int, int]) -> None:
    one, other = ([*np.random.default_rng(n).normal(size=n) * (1 + i)] for i, n in enumerate(sizes))
    assert welch(one, other) == pytest.approx(stats.ttest_ind(one, other, equal_var=False).pvalue)


def test_welch_without_spread() -> None:
    assert welch([0.5, 0.5], [0.5, 0.5]) == 1
    assert welch([0.5, 0.5], [0.6, 0.6]) is None
    assert welch([0.5], [0.6, 0.7]) is None
    assert 0.2 < (welch([0.5, 0.5], [0.6, 0.8]) or 0) < 0.5  # t = 2 with 1 degree of freedom


def test_holm_by_definition() -> None:
    ps = [0.01, None, 0.04, 0.03, 0.005, None, 0.9]
    adjusted = holm(ps)
    known = [p for p in ps if p is not None]
    for alpha in (0.01, 0.024, 0.026, 0.05, 0.06, 0.08, 0.1, 0.5):
        rejected = set()
        for step, p in enumerate(sorted(known)):  # step down until the first that stays
            if p > alpha / (len(known) - step):
                break
            rejected.add(p)
        assert {p for p, q in zip(ps, adjusted, strict=True) if q is not None and q <= alpha} == rejected
    assert (adjusted[1], adjusted[6]) == (None, 0.9)
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([None]) == [None]
    assert holm([]) == []
    assert holm([0.2, 0.02, 0.2]) == pytest.approx([0.4, 0.06, 0.4])


def test_all_tests_of_two_runs() -> None:
    first, second = answers(0.75, range(5), 300), answers(0.6, range(5), 300, number=1)
    found = paired(accuracy(first), accuracy(second), (first, second))
    difference = combined([(1, accuracy(first)), (-1, accuracy(second))])
    assert found.difference == estimate(difference)
    assert tuple(found.p) == TESTS
    assert found.p["sign-flip"] == sign_flip(list(difference.values.values())) == 0.0625
    assert found.p["mcnemar"] == mcnemar(first, second)
    assert found.p["welch"] == welch(list(accuracy(first).values.values()), list(accuracy(second).values.values()))
    assert found.p["paired-bootstrap"] is not None
    assert found.p["paired-bootstrap"] < 0.01


def test_the_paired_bootstrap_agrees_with_its_interval() -> None:
    pairs = []
    for number in range(40):
        first, second = answers(0.66, range(3), 200, number), answers(0.6, range(3), 200, 100 + number)
        pairs.append((accuracy(first), accuracy(second), None))
    for each in paired_all(pairs):
        p, low, high = each.p["paired-bootstrap"], each.difference.low, each.difference.high
        assert p is not None
        assert low is not None
        assert high is not None
        if abs(p - 0.05) > 0.004:
            assert (p < 0.05) == (not low <= 0 <= high)


def test_nothing_to_tell_apart() -> None:
    always = {seed: np.ones(50, bool) for seed in range(3)}
    for correct in (always, answers(0.6, range(3))):
        found = paired(accuracy(correct), accuracy(correct), (correct, correct))
        assert found.difference.mean == found.difference.low == found.difference.high == 0
        assert set(found.p.values()) == {1.0}


def test_constant_predictions_that_differ() -> None:
    right, wrong = ({seed: np.full(50, value) for seed in range(6)} for value in (True, False))
    found = paired(accuracy(right), accuracy(wrong), (right, wrong))
    assert found.p == {
        "paired-bootstrap": pytest.approx(2 / (DRAWS + 1)),
        "mcnemar": pytest.approx(4 * 0.5**50),
        "sign-flip": 2 / 2**6,
        "welch": None,
    }


def test_runs_without_common_seeds_or_without_samples() -> None:
    first, second = answers(0.7, range(3)), answers(0.6, range(3, 6), number=1)
    found = paired(accuracy(first), accuracy(second), (first, second))
    assert (found.difference.n, found.difference.mean) == (0, None)
    assert [name for name, p in found.p.items() if p is not None] == ["welch"]
    single = paired(accuracy({1: first[1]}), accuracy({1: second[3]}))
    assert single.difference.over == "samples"
    assert [name for name, p in single.p.items() if p is not None] == ["paired-bootstrap", "sign-flip"]
    seconds = paired(Measured({1: 1.0, 2: 2.0, 3: 3.5}, {}), Measured({1: 2.0, 2: 3.5, 3: 4.0}, {}))
    assert seconds.p["paired-bootstrap"] is None
    assert seconds.p["sign-flip"] == 0.25


@pytest.mark.parametrize(
    ("seeds", "flip", "ranks"), [(3, 0.25, 0.1), (5, 0.0625, 0.0079), (6, 0.0313, 0.0022), (8, 0.0078, 0.0002)]
)
def test_smallest_p(seeds: int, flip: float, ranks: float) -> None:
    assert smallest_p("sign-flip", seeds) == pytest.approx(flip, abs=1e-4)
    assert smallest_p("rank-sum", seeds, seeds) == pytest.approx(ranks, abs=1e-4)
    clear = np.arange(1.0, seeds + 1)
    assert sign_flip(clear) == smallest_p("sign-flip", seeds)
    exact = stats.mannwhitneyu(clear, -clear, method="exact").pvalue
    assert exact == pytest.approx(smallest_p("rank-sum", seeds, seeds))


def test_smallest_p_of_one_seed_and_of_unknown_tests() -> None:
    assert {test: smallest_p(test, 1) for test in ("sign-flip", "rank-sum", "welch")} == {
        "sign-flip": 1,
        "rank-sum": 1,
        "welch": 1,
    }
    assert smallest_p("welch", 2, 1) == 1
    assert smallest_p("mcnemar", 1) == 0
    with pytest.raises(ValueError, match="no test 'z'"):
        smallest_p("z", 3)


def test_warning_where_no_difference_can_reach_the_level() -> None:
    assert cannot_reach("sign-flip", 5) == (
        "With 5 paired seeds the sign-flip test cannot go below p = 0.0625: no difference can reach 0.05."
    )
    assert cannot_reach("sign-flip", 6) == ""
    assert "18 comparisons" in cannot_reach("sign-flip", 8, 0.05, 18)  # 0.05 / 18 = 0.0028
    assert cannot_reach("sign-flip", 10, 0.05, 18) == ""
    assert cannot_reach("paired-bootstrap", 5, 0.05, 40) == ""
    assert f"{DRAWS:,} draws" in cannot_reach("paired-bootstrap", 5, 0.05, 300)
    assert cannot_reach("welch", 1) == "With 1 seed the welch test has nothing to compare."
