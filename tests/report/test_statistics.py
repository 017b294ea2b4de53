"""Mean and spread, the variance of a mean, and the draws, against definitions, scipy and a slow loop."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from mmbal_cli.report import statistics
from mmbal_cli.report.influence import value_and_influence
from mmbal_cli.report.metrics import metrics
from mmbal_cli.report.statistics import (
    DRAWS,
    Estimate,
    Measured,
    combined,
    drawn,
    estimate,
    estimate_of,
    estimates,
    measured_mean,
    over_seeds,
    summary,
    variance,
    within,
)
from tests.kit.runs import predictions

CLASSES = ("a", "b", "c")
Seeds = dict[int, tuple[np.ndarray, np.ndarray]]


def model(name: str, strength: float, seeds: tuple[int, ...] = (1, 2, 3), samples: int = 60) -> Seeds:
    made = {seed: predictions(seed, {"m": strength}, name=name, samples=samples) for seed in seeds}
    return {seed: (each["probs"].astype(float), each["labels"]) for seed, each in made.items()}


def measured(seeds: Seeds, metric: str) -> Measured:
    both = {seed: value_and_influence(metric, *each) for seed, each in seeds.items()}
    return Measured({s: value for s, (value, _) in both.items()}, {s: slopes for s, (_, slopes) in both.items()})


def table(seeds: int, samples: int, number: int = 0) -> np.ndarray:
    """Numbers with effects of seeds and of samples. [S,N]"""
    rng = np.random.default_rng([seeds, samples, number])
    return 0.3 * rng.normal(size=(seeds, 1)) + rng.normal(size=samples) + rng.normal(size=(seeds, samples))


def mean_of(numbers: np.ndarray) -> Measured:
    return measured_mean(dict(enumerate(numbers)))


def bounds(found: Estimate) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def test_summary_by_hand() -> None:
    found = summary({1: 2.0, 2: 4.0, 5: 9.0})
    assert (found.mean, found.sd, found.n) == (5.0, pytest.approx(13**0.5), 3)  # (9 + 1 + 16) / 2
    assert (summary({3: 0.5}).mean, summary({3: 0.5}).sd) == (0.5, None)
    assert summary({}).mean is None
    assert summary({1: float("nan"), 2: 1.0}).n == 1


def test_a_mean_counts_only_the_samples_that_have_a_number() -> None:
    found = measured_mean({1: np.array([1.0, np.nan, 4.0, 1.0]), 2: np.full(4, np.nan)})
    assert found.values == {1: 2.0}
    assert found.slopes[1] == pytest.approx(np.array([-1, 0, 2, -1]) / 3)


def test_combination_keeps_common_seeds_and_is_linear() -> None:
    one, other = mean_of(table(4, 9)), measured_mean({2: np.arange(9.0), 3: np.ones(9), 8: np.ones(9)})
    found = combined([(2.0, one), (-1.0, other)])
    assert found.seeds == (2, 3)
    assert found.values[3] == pytest.approx(2 * one.values[3] - 1)
    assert found.slopes[2] == pytest.approx(2 * one.slopes[2] - other.slopes[2])
    assert combined([]) == Measured({}, {})
    assert combined([(1.0, one), (1.0, Measured({1: 3.0}, {}))]).slopes == {}


@pytest.mark.parametrize("shape", [(2, 7), (5, 40), (3, 200)])
def test_variance_is_that_of_the_mean_squares_of_a_two_way_table(shape: tuple[int, int]) -> None:
    numbers = table(*shape)
    seeds, samples = shape
    rows, columns, mean = numbers.mean(axis=1), numbers.mean(axis=0), numbers.mean()
    between_seeds = sum(samples * (row - mean) ** 2 for row in rows) / (seeds - 1)
    between_samples = sum(seeds * (column - mean) ** 2 for column in columns) / (samples - 1)
    rest = sum((numbers[s, i] - rows[s] - columns[i] + mean) ** 2 for s in range(seeds) for i in range(samples))
    rest /= (seeds - 1) * (samples - 1)
    whole = mean_of(numbers)
    found = variance(np.array(list(whole.values.values())), np.stack(list(whole.slopes.values())))
    assert found.seed == pytest.approx(between_seeds / (seeds * samples))
    assert found.sample == pytest.approx(between_samples / (seeds * samples))
    assert found.interaction == pytest.approx(rest / (seeds * samples))
    assert found.total == pytest.approx(
        max(found.seed + found.sample - found.interaction, found.seed, found.sample)
    )  # no component below 0


def test_variance_is_unbiased() -> None:
    seeds, samples, times = 4, 30, 3000
    true = (0.5**2 / seeds) + (1.0 / samples) + (0.8**2 / (seeds * samples))
    rng = np.random.default_rng(0)
    found = []
    for _ in range(times):
        numbers = 0.5 * rng.normal(size=(seeds, 1)) + rng.normal(size=samples) + 0.8 * rng.normal(size=(seeds, samples))
        centred = numbers - numbers.mean(axis=1, keepdims=True)
        parts = variance(numbers.mean(axis=1), centred / samples)
        found.append(parts.seed + parts.sample - parts.interaction)
    assert np.mean(found) == pytest.approx(true, rel=0.04)


def slow(seeds: Seeds, metric: str) -> tuple[np.ndarray, float]:
    """Deviations under each draw, one resample and one metric at a time, and their mean: nothing linearised."""
    counts = np.concatenate(list(statistics._sample_counts(len(seeds[min(seeds)][1]))))
    values = {s: metrics(*each, CLASSES, [metric])[metric] for s, each in seeds.items()}
    mean = np.mean(list(values.values()))
    moves = []
    for draw, count in enumerate(counts):
        index = np.repeat(np.arange(len(count)), count)
        resampled = [
            metrics(probs[index], labels[index], CLASSES, [metric])[metric] for probs, labels in seeds.values()
        ]
        by_seed = sum(statistics._seed_weights(s)[draw] * (value - mean) for s, value in values.items())
        n = len(seeds)
        moves.append(np.mean(resampled) - mean + (by_seed / (n * (n - 1)) ** 0.5 if n > 1 else 0))
    return np.array(moves), float(mean)


@pytest.mark.parametrize(("metric", "seeds"), [("accuracy", (1, 2, 3)), ("nll", (4,))])
def test_draws_equal_a_slow_loop_for_means(metric: str, seeds: tuple[int, ...]) -> None:
    runs = model("x", 1.2, seeds=seeds)
    moves, mean = slow(runs, metric)
    found = drawn([measured(runs, metric)])[0]
    assert found is not None
    z = (moves - moves.mean()) / moves.std()
    assert found.z == pytest.approx(z, abs=1e-9)
    half = [stats.t.ppf(stats.norm.cdf(q), found.parts.freedom) for q in np.quantile(z, [0.025, 0.975])]
    assert bounds(found.estimate()) == pytest.approx(mean + found.parts.total**0.5 * np.array(half))


@pytest.mark.parametrize("metric", ["macro_f1", "balanced_accuracy"])
def test_draws_are_close_to_a_slow_loop_for_ratios(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "DRAWS", 300)
    statistics._kept_counts.cache_clear()
    statistics._seed_weights.cache_clear()
    try:
        runs = model("x", 1.4, samples=150)
        moves, _ = slow(runs, metric)
        found = drawn([measured(runs, metric)])[0]
    finally:
        statistics._kept_counts.cache_clear()
        statistics._seed_weights.cache_clear()
    assert found is not None
    assert np.corrcoef(found.z, moves)[0, 1] > 0.98
    assert moves.std() == pytest.approx((found.parts.seed + found.parts.sample) ** 0.5, rel=0.1)


def test_one_seed_is_the_bootstrap_of_its_samples() -> None:
    numbers = np.random.default_rng(3).exponential(size=400)  # skewed
    found = estimate(measured_mean({7: numbers}))
    assert (found.over, found.n, found.sd) == ("samples", 1, None)
    expected = stats.bootstrap((numbers,), np.mean, n_resamples=9_999, method="percentile", rng=0).confidence_interval
    width = expected.high - expected.low
    assert bounds(found) == pytest.approx((expected.low, expected.high), abs=0.06 * width)


def test_without_variation_of_samples_it_is_the_t_interval_over_seeds() -> None:
    values = {1: 0.5, 2: 0.9, 3: 0.7, 4: 0.8}
    found = estimate(Measured(values, {seed: np.zeros(50) for seed in values}))
    expected = over_seeds(values)
    assert bounds(found) == pytest.approx(bounds(expected), abs=0.05 * (bounds(expected)[1] - bounds(expected)[0]))
    known = stats.t.interval(0.95, 3, np.mean(list(values.values())), stats.sem(list(values.values())))
    assert bounds(expected) == pytest.approx(known)
    assert expected.over == "seeds"
    assert (over_seeds({1: 0.5}).mean, over_seeds({1: 0.5}).low, over_seeds({}).n) == (0.5, None, 0)


def test_the_same_quantity_gets_the_same_interval_in_any_company() -> None:
    one, other = mean_of(table(3, 50)), mean_of(table(5, 50, 1))
    company = estimates([mean_of(table(2, 80)), other, Measured({1: 2.0, 2: 3.0}, {}), one, Measured({}, {})])
    assert bounds(company[3]) == pytest.approx(bounds(estimate(one)), abs=1e-12)
    assert bounds(company[1]) == pytest.approx(bounds(estimate(other)), abs=1e-12)
    assert company[2] == over_seeds({1: 2.0, 2: 3.0})
    assert company[4] == Estimate(None, None, 0)


def test_equal_runs_differ_by_nothing_and_strangers_cannot_be_paired() -> None:
    one, same = mean_of(table(3, 40)), mean_of(table(3, 40))
    nothing = estimate(combined([(1, one), (-1, same)]))
    assert (nothing.mean, *bounds(nothing)) == (0, 0, 0)
    stranger = measured_mean({8: np.arange(40.0)})
    assert estimate(combined([(1, one), (-1, stranger)])) == Estimate(None, None, 0)


def test_seeds_without_a_value_do_not_count() -> None:
    whole = mean_of(table(3, 40))
    broken = Measured({**whole.values, 9: float("nan")}, {**whole.slopes, 9: np.full(40, np.nan)})
    assert estimate(broken) == estimate(whole)


def test_pairing_narrows_the_interval_and_a_higher_level_widens_it() -> None:
    one, other = measured(model("x", 1.0), "nll"), measured(model("x", 1.1), "nll")
    difference = combined([(1, one), (-1, other)])
    paired, alone, wide = (np.diff(bounds(e))[0] for e in (estimate(difference), estimate(one), estimate(one, 0.99)))
    assert paired < 0.5 * alone < alone < wide


@pytest.mark.parametrize("seeds", [1, 3])
def test_p_is_the_level_at_which_the_interval_reaches_zero(seeds: int) -> None:
    for number in range(20):
        found = drawn([mean_of(table(seeds, 60, number) + 0.3)])[0]
        assert found is not None
        p = found.p()
        assert p is not None
        assert 2 / (DRAWS + 1) <= p <= 1
        if 0.01 < p < 1:
            inside, outside = found.estimate(1 - p + 0.004), found.estimate(1 - p - 0.004)
            assert bounds(inside)[0] <= 0 <= bounds(inside)[1]
            assert not bounds(outside)[0] <= 0 <= bounds(outside)[1]


def test_p_of_one_seed_is_close_to_the_t_test_of_its_samples() -> None:
    for shift in (0.0, 0.05, 0.1, 0.2):
        numbers = np.random.default_rng(1).normal(size=500) + shift
        found = drawn([measured_mean({0: numbers})])[0]
        assert found is not None
        assert found.p() == pytest.approx(stats.ttest_1samp(numbers, 0).pvalue, abs=0.03)


def test_a_linear_function_has_the_interval_of_the_combination() -> None:
    one, other = mean_of(table(3, 50)), mean_of(table(4, 50, 1))
    found = estimate_of(lambda means: 2 * means[0] - means[1], [one, other])
    expected = estimate(combined([(2, one), (-1, other)]))
    assert (found.mean, found.sd, *bounds(found)) == pytest.approx(
        (expected.mean, expected.sd, *bounds(expected)), abs=1e-6
    )
    assert (found.n, found.over) == (3, "seeds and samples")


def test_a_ratio_has_the_interval_of_its_linear_part() -> None:
    one, other = mean_of(table(5, 800) + 9), mean_of(table(5, 800, 1) + 12)
    found = estimate_of(lambda means: means[0] / means[1], [one, other])
    a, b = (np.mean(list(each.values.values())) for each in (one, other))
    assert found.mean == pytest.approx(a / b)
    linear = estimate(combined([(float(1 / b), one), (float(-a / b**2), other)]))
    width = np.diff(bounds(linear))[0]
    assert np.subtract(bounds(found), a / b) == pytest.approx(
        np.subtract(bounds(linear), linear.mean or 0), abs=0.03 * width
    )


def test_functions_that_are_not_smooth_or_not_defined() -> None:
    one, other = mean_of(table(3, 60)), mean_of(table(3, 60, 1))
    larger = estimate_of(lambda means: means.max(axis=0), [one, other])
    assert bounds(larger)[0] <= (larger.mean or 0) <= bounds(larger)[1]
    constant = estimate_of(lambda means: 0 * means[0] + 3, [one, other])
    assert (constant.mean, *bounds(constant)) == (3, 3, 3)
    undefined = estimate_of(lambda means: means[0] / (0 * means[1]), [one, other])
    assert undefined.mean is None
    sometimes = estimate_of(lambda means: np.sqrt(means[0] - means[0].min()), [one, other])
    assert sometimes.mean == 0
    root = estimate_of(lambda means: np.sqrt(means[0]), [mean_of(table(3, 60) - table(3, 60).mean() + 0.01)])
    assert (root.low, root.high) == (None, None)
    assert estimate_of(lambda means: means[0], []) == Estimate(None, None, 0)
    unsampled = estimate_of(lambda means: means[0] / 2, [Measured({1: 1.0, 2: 3.0}, {})])
    assert (unsampled.mean, unsampled.over) == (1.0, "seeds")


def benchmark() -> ModuleType:
    """benchmarks/coverage.py as a module."""
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("metric", "seeds"), [("accuracy", 5), ("accuracy", 2), ("macro_f1", 5), ("nll", 3)])
def test_intervals_cover_and_tests_hold_their_level(metric: str, seeds: int) -> None:
    simulation = benchmark()
    counts = simulation.coverage(simulation.Setting(metric, seeds, 300, 0.65, 0.0075), 120)
    assert 0.88 * 120 <= counts.mean <= 120  # three standard errors below 95%
    assert 0.88 * 120 <= counts.difference <= 120
    assert counts.rejected["paired-bootstrap"] <= 0.12 * 120


def test_truths_of_the_simulation_are_what_many_samples_show() -> None:
    simulation = benchmark()
    for metric in ("accuracy", "macro_f1", "nll"):
        setting = simulation.Setting(metric, 40, 4000, 0.65, 0.02)
        (first, better, equal), _ = simulation.experiment(setting, np.random.default_rng(0))
        shown = [np.mean(list(each.values.values())) for each in (first, better, equal)]
        true = [simulation.truth(setting, level) for level in (0.65, 0.67, 0.65)]
        assert shown == pytest.approx(true, abs=0.05 * true[0])


@pytest.mark.parametrize("samples", [2, 3, 4])
@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_few_samples_give_wide_intervals_and_not_absurd_ones(samples: int, seeds: int) -> None:
    rng = np.random.default_rng([samples, seeds])
    for _ in range(20):
        measured = measured_mean({seed: (rng.random(samples) < 0.5).astype(float) for seed in range(seeds)})
        parts = variance(*(np.array(list(each.values())) for each in (measured.values, measured.slopes)), samples)
        assert parts.freedom >= (min(seeds, samples) if seeds > 1 else samples) - 1  # those of its worst part
        found = estimate(measured)
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.mean <= found.high
        assert found.high - found.low < 2 * 1.5 * stats.t.ppf(0.995, 1)  # the draws of 2 samples have few values


def test_equal_models_but_for_two_samples_are_known_as_such() -> None:
    """One right where the other is wrong, and the reverse: 500 samples count, not the two that differ."""
    one = np.ones(500)
    other = one.copy()
    one[0] = other[1] = 0
    difference = combined([(1, measured_mean({1: one})), (-1, measured_mean({1: other}))])
    found = estimate(difference)
    assert found.mean == 0
    assert found.high == pytest.approx(stats.t.ppf(0.975, 499) * 2**0.5 / 500, rel=0.1)
    (draws,) = drawn([difference])
    assert draws is not None
    assert draws.p() == 1


def test_samples_that_do_not_count_are_not_counted() -> None:
    rng = np.random.default_rng(0)
    each = {seed: rng.normal(size=12) for seed in (1, 2, 3)}
    padded = {seed: np.concatenate([numbers, np.full(30, np.nan)]) for seed, numbers in each.items()}
    one, other = (drawn([measured_mean(given)])[0] for given in (each, padded))
    assert one is not None
    assert other is not None
    assert (other.parts.total, other.parts.freedom) == pytest.approx((one.parts.total, one.parts.freedom))


def test_what_rounding_leaves_is_no_difference() -> None:
    right = (np.arange(50) % 3 > 0).astype(float)
    clean = measured_mean({1: right, 2: right})
    found = estimate(combined([(1, clean), *[(-0.1, clean)] * 10]))
    assert sum([0.1] * 10) != 1  # so that something is left
    assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_the_interval_of_a_range_reaches_the_range() -> None:
    """Equal parts but for noise: all draws of their range lie above the range of the means."""
    rng = np.random.default_rng(1)
    numbers = rng.normal(size=(4, 30))
    numbers -= numbers.mean(axis=1, keepdims=True)
    found = estimate_of(lambda x: x.max(0) - x.min(0), [measured_mean({1: each}) for each in numbers])
    assert found.low is not None
    assert found.low <= found.mean == pytest.approx(0)


def test_intervals_are_cut_where_the_quantity_ends() -> None:
    found = Estimate(0.9, 0.1, 3, 0.4, 1.4, "seeds")
    assert within(found) == Estimate(0.9, 0.1, 3, 0.4, 1.0, "seeds")
    assert within(found, 0.5, 2.0) == Estimate(0.9, 0.1, 3, 0.5, 1.4, "seeds")
    assert within(Estimate(0.9, None, 1)) == Estimate(0.9, None, 1)
