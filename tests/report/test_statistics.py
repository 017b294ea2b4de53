"""Mean and spread, influences against finite differences, the bootstrap against a slow loop."""

from __future__ import annotations

import numpy as np
import pytest

from mmbal_cli.report.metrics import METRICS, ece_bins, metrics
from mmbal_cli.report.statistics import (
    DRAWS,
    influence,
    interval,
    resample,
    sample_draws,
    seed_draws,
    summary,
)
from tests.kit.runs import predictions

CLASSES = ("a", "b", "c")
Seeds = dict[int, tuple[np.ndarray, np.ndarray]]


def model(name: str, strength: float, seeds: tuple[int, ...] = (1, 2, 3), samples: int = 60) -> Seeds:
    made = {seed: predictions(seed, {"m": strength}, name=name, samples=samples) for seed in seeds}
    return {seed: (each["probs"].astype(float), each["labels"]) for seed, each in made.items()}


def measured(seeds: Seeds, metric: str) -> dict[int, tuple[float, np.ndarray]]:
    return {seed: (metrics(*each, CLASSES, [metric])[metric], influence(metric, *each)) for seed, each in seeds.items()}


def test_summary_by_hand() -> None:
    found = summary({1: 2.0, 2: 4.0, 5: 9.0})
    assert (found.mean, found.sd, found.n) == (5.0, pytest.approx(13**0.5), 3)  # (9 + 1 + 16) / 2
    assert (summary({3: 0.5}).mean, summary({3: 0.5}).sd) == (0.5, None)
    assert summary({}).mean is None
    assert summary({1: float("nan"), 2: 1.0}).n == 1


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "map", "nll"])
def test_influence_is_the_derivative_with_respect_to_a_sample_s_weight(metric: str) -> None:
    probs, labels = model("x", 1.0, samples=30)[1]
    probs = probs.round(1)  # with ties
    slopes = influence(metric, probs, labels)
    copies = 4000  # a dataset of many copies and one extra sample: a weight of 1 + 1/copies
    base = metrics(probs, labels, CLASSES, [metric])[metric]
    for extra in (0, 7, 29):
        index = np.r_[np.repeat(np.arange(30), copies), extra]
        step = metrics(probs[index], labels[index], CLASSES, [metric])[metric] - base
        assert step * copies == pytest.approx(slopes[extra], rel=2e-3, abs=1e-5)


def test_influence_of_ece_with_fixed_bins() -> None:
    probs, labels = model("x", 1.0, samples=50)[1]
    bins, gap = ece_bins(probs, labels)

    def weighted(weights: np.ndarray) -> float:
        return np.abs(np.bincount(bins, weights=weights * gap)).sum() / weights.sum()

    for sample in (0, 17, 49):
        step = np.zeros(50)
        step[sample] = 1e-6
        slope = (weighted(1 + step) - weighted(1 - step)) / 2e-6
        assert influence("ece", probs, labels)[sample] == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("metric", METRICS)
def test_influences_sum_to_zero(metric: str) -> None:
    assert influence(metric, *model("x", 1.0)[2]).sum() == pytest.approx(0, abs=1e-12)


def slow(first: Seeds, second: Seeds, metric: str, draws: int) -> tuple[float, float]:
    """The same draws of seeds and samples, one metric evaluation at a time, nothing linearised."""
    common = sorted(set(first) & set(second))
    weights = seed_draws(len(common))[:draws]
    samples = [row for chunk in sample_draws(len(first[common[0]][1])) for row in chunk][:draws]
    found = []
    for weight, index in zip(weights, samples, strict=True):
        total = 0.0
        for share, seed in zip(weight, common, strict=True):
            if share:
                one, other = (
                    metrics(probs[index], labels[index], CLASSES, [metric])[metric]
                    for probs, labels in (first[seed], second[seed])
                )
                total += share * (one - other)
        found.append(total)
    low, high = np.quantile(found, [0.025, 0.975])
    return low, high


@pytest.mark.parametrize("metric", ["accuracy", "nll"])
def test_bootstrap_equals_a_slow_loop_for_means(metric: str) -> None:
    first, second = model("x", 1.2), model("y", 0.9, seeds=(2, 3, 4))
    one, other = resample([measured(first, metric), measured(second, metric)])
    assert interval(one, other) == pytest.approx(slow(first, second, metric, DRAWS), abs=1e-12)


@pytest.mark.parametrize("metric", ["macro_f1", "map"])
def test_bootstrap_is_close_to_a_slow_loop_for_ratios(metric: str) -> None:
    first, second = model("x", 1.4, samples=150), model("y", 0.9, samples=150)
    one, other = resample([measured(first, metric), measured(second, metric)])
    low, high = interval(one, other) or (0, 0)
    expected = slow(first, second, metric, 150)
    assert (low, high) == pytest.approx(expected, abs=0.25 * (expected[1] - expected[0]))


def test_draws_do_not_depend_on_what_else_is_resampled() -> None:
    one, other = measured(model("x", 1.0), "accuracy"), measured(model("y", 1.0), "accuracy")
    alone, company = resample([one, other]), resample([measured(model("z", 2.0), "nll"), one, other])
    assert interval(*alone) == pytest.approx(interval(*company[1:]), abs=1e-12)


def test_equal_models_differ_by_nothing_and_strangers_cannot_be_paired() -> None:
    one, same, stranger = resample(
        [
            measured(model("x", 1.0), "accuracy"),
            measured(model("x", 1.0), "accuracy"),
            measured(model("x", 1.0, (8, 9)), "accuracy"),
        ]
    )
    assert interval(one, same) == (0, 0)
    assert interval(one, stranger) is None
    assert resample([{}])[0].draws == {}


def test_pairing_narrows_the_interval() -> None:
    first, second = measured(model("x", 1.0), "nll"), measured(model("x", 1.1), "nll")
    one, other = resample([first, second])
    low, high = interval(one, other) or (0, 0)
    spread = np.diff(np.quantile(np.mean(list(one.draws.values()), axis=0), [0.025, 0.975]))[0]
    assert high - low < 0.5 * spread
