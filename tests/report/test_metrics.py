"""Metrics and their influences against scikit-learn, hand-computed numbers and brute force."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from mmbal_cli.report.influence import value_and_influence
from mmbal_cli.report.metrics import METRICS, absent, defined, ece_bins, metrics, softmax

NAMES = ("a", "b", "c")
PROBS = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.4, 0.1], [0.2, 0.2, 0.6]])
LABELS = np.array([0, 1, 1, 2])


def test_hand_computed_numbers() -> None:
    found = metrics(PROBS, LABELS, NAMES)
    assert found["accuracy"] == 0.75
    # F1: a 2/(2+1) = 2/3, b 2/(2+1) = 2/3, c 1
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert found["map"] == pytest.approx(1.0)  # every class ranks its own samples first
    assert found["nll"] == pytest.approx(-(math.log(0.7) + math.log(0.6) + math.log(0.4) + math.log(0.6)) / 4)
    assert found["balanced_accuracy"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert found["weighted_f1"] == pytest.approx((1 * 2 / 3 + 2 * 2 / 3 + 1 * 1) / 4)
    squares = (0.09 + 0.04 + 0.01, 0.01 + 0.16 + 0.09, 0.25 + 0.36 + 0.01, 0.04 + 0.04 + 0.16)
    assert found["brier"] == pytest.approx(sum(squares) / 4)
    # four samples, four bins: |0.7-1| + |0.6-1| + |0.5-0| + |0.6-1|, each with mass 1/4
    assert found["ece"] == pytest.approx((0.3 + 0.4 + 0.5 + 0.4) / 4)


def test_average_precision_by_hand_with_a_tie() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.1])
    labels = np.array([1, 0, 1, 0])  # class 1: thresholds 0.9 (P 1, R 1/2) and 0.8 (P 2/3, R 1)
    probs = np.stack([1 - scores, scores], axis=1)
    one = 1 * 0.5 + 2 / 3 * 0.5
    zero = 1 * 0.5 + 2 / 3 * 0.5  # class 0: thresholds 0.9 (P 1, R 1/2), 0.2 (P 2/3, R 1)
    assert metrics(probs, labels, ("x", "y"), ["map"])["map"] == pytest.approx((one + zero) / 2)


def brute(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    rows = [(list(map(float, p)), int(y)) for p, y in zip(probs, labels, strict=True)]
    guess = [p.index(max(p)) for p, _ in rows]
    present = sorted({y for _, y in rows})
    f1s, aps, recalls, shares = [], [], [], []
    for c in present:
        hits = sum(g == c == y for g, (_, y) in zip(guess, rows, strict=True))
        f1s.append(2 * hits / (sum(g == c for g in guess) + sum(y == c for _, y in rows)))
        shares.append(sum(y == c for _, y in rows) / len(rows))
        recalls.append(hits / sum(y == c for _, y in rows))
        total, recall = 0.0, 0.0
        for threshold in sorted({p[c] for p, _ in rows}, reverse=True):
            above = [y == c for p, y in rows if p[c] >= threshold]
            now = sum(above) / sum(y == c for _, y in rows)
            total, recall = total + (now - recall) * sum(above) / len(above), now
        aps.append(total)
    ordered = sorted((max(p), g == y) for g, (p, y) in zip(guess, rows, strict=True))
    ece, start = 0.0, 0
    for number in range(15):
        size = len(rows) // 15 + (number < len(rows) % 15)
        part = ordered[start : start + size]
        ece += abs(sum(p for p, _ in part) - sum(right for _, right in part)) / len(rows)
        start += size
    top5 = [sorted(range(len(p)), key=lambda c: -p[c])[:5] for p, _ in rows]
    defined_top5 = {"top5": sum(y in top for top, (_, y) in zip(top5, rows, strict=True)) / len(rows)}
    return (defined_top5 if probs.shape[1] > 5 else {}) | {
        "balanced_accuracy": sum(recalls) / len(recalls),
        "weighted_f1": sum(share * f1 for share, f1 in zip(shares, f1s, strict=True)),
        "brier": sum((value - (c == y)) ** 2 for p, y in rows for c, value in enumerate(p)) / len(rows),
        "accuracy": sum(g == y for g, (_, y) in zip(guess, rows, strict=True)) / len(rows),
        "macro_f1": sum(f1s) / len(f1s),
        "map": sum(aps) / len(aps),
        "nll": -sum(math.log(max(p[y], 1e-12)) for p, y in rows) / len(rows),
        "ece": ece,
    }


@pytest.mark.parametrize("seed", range(8))
def test_equal_to_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples, classes = int(rng.integers(15, 90)), int(rng.integers(2, 6))
    labels = rng.integers(classes - seed % 2, size=samples)  # odd seeds: the last class is absent
    probs = softmax(rng.normal(size=(samples, classes)) + 1.2 * np.eye(classes)[labels]).round(2)  # with ties
    found, expected = metrics(probs, labels, [str(c) for c in range(classes)]), brute(probs, labels)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_order_of_samples_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    probs, labels = softmax(rng.normal(size=(80, 3))).round(1), rng.integers(3, size=80)
    order = rng.permutation(80)
    found = metrics(probs[order], labels[order], NAMES)
    assert found == pytest.approx(metrics(probs, labels, NAMES), abs=1e-12, nan_ok=True)


def test_absent_class_is_named_and_left_out_of_the_means() -> None:
    labels = np.array([0, 1, 1, 1])
    assert absent(labels, NAMES) == ["c"]
    found = metrics(PROBS, labels, NAMES)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 4) / 2)  # the miss as "c" still lowers "b"
    assert found["map"] <= 1


def test_confident_and_wrong_is_finite() -> None:
    assert metrics(np.array([[1.0, 0.0]]), np.array([1]), ("x", "y"))["nll"] == pytest.approx(-math.log(1e-12))


def test_no_sample_is_nan_and_a_wrong_shape_is_refused() -> None:
    empty = metrics(np.zeros((0, 3)), np.zeros(0, int), NAMES)
    assert set(empty) == set(METRICS)
    assert all(math.isnan(value) for value in empty.values())
    with pytest.raises(ValueError, match=r"probs \(4, 3\) do not fit"):
        metrics(PROBS, LABELS, ("a", "b"))


def test_bins_have_equal_mass() -> None:
    probs = softmax(np.random.default_rng(0).normal(size=(152, 3)))
    sizes = np.bincount(ece_bins(probs, np.zeros(152, int))[0])
    assert len(sizes) == 15
    assert set(sizes) == {10, 11}


def test_softmax_of_large_logits() -> None:
    assert softmax(np.array([[1e4, 0.0], [0.0, 0.0]])).tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert softmax(np.zeros((0, 3))).shape == (0, 3)


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [N,C] and labels: ties from rounding, classes that nothing has, constant rows, few samples."""
    classes, samples = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(draw(st.integers(1, classes)), size=samples)
    logits = rng.normal(size=(samples, classes)) * draw(st.sampled_from([0.0, 1.0, 8.0]))
    probs = softmax(logits + draw(st.sampled_from([0.0, 1.5])) * np.eye(classes)[labels])
    kind = draw(st.sampled_from(["free", "rounded", "constant", "sure"]))
    if kind == "rounded":
        probs = probs.round(1)
    elif kind == "constant":
        probs = np.repeat(probs[:1], samples, axis=0)
    elif kind == "sure":
        probs = np.eye(classes)[probs.argmax(axis=1)]
    return probs, labels


def by_sklearn(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    classes, present = probs.shape[1], np.unique(labels)
    guess, full = probs.argmax(axis=1), np.arange(classes)
    averages = [sklearn_metrics.average_precision_score(labels == c, probs[:, c]) for c in present]
    found = {
        "accuracy": sklearn_metrics.accuracy_score(labels, guess),
        "macro_f1": sklearn_metrics.f1_score(labels, guess, labels=present, average="macro", zero_division=0),
        "weighted_f1": sklearn_metrics.f1_score(labels, guess, labels=full, average="weighted", zero_division=0),
        "map": np.mean(averages),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of predicted classes that no sample has
        found["balanced_accuracy"] = sklearn_metrics.balanced_accuracy_score(labels, guess)
    if classes > 5:  # scikit-learn takes the last of equal classes, argmax the first: reversed they agree
        found["top5"] = sklearn_metrics.top_k_accuracy_score(
            classes - 1 - labels, probs[:, ::-1], k=5, labels=np.arange(classes)
        )
    if classes > 1:
        clipped = np.maximum(probs, 1e-12)
        found["nll"] = -np.mean([np.log(row[y]) for row, y in zip(clipped, labels, strict=True)])
    if classes > 1 and np.allclose(probs.sum(axis=1), 1):
        kind = {"pos_label": 1, "labels": [0, 1]} if classes == 2 else {"labels": full}
        scores = probs[:, 1] if classes == 2 else probs
        found["brier"] = sklearn_metrics.brier_score_loss(labels, scores, scale_by_half=False, **kind)
    return found


@given(scored())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_equal_to_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    probs, labels = case
    found = metrics(probs, labels, [str(c) for c in range(probs.shape[1])])
    expected = by_sklearn(probs, labels)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert math.isnan(found["top5"]) == (probs.shape[1] <= 5)


@given(scored())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_equal_to_the_definitions(case: tuple[np.ndarray, np.ndarray]) -> None:
    probs, labels = case
    found = metrics(probs, labels, [str(c) for c in range(probs.shape[1])])
    expected = brute(probs, labels)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@given(scored(), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_influence_is_the_derivative_by_the_weight_of_a_sample(case: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    """Copies are weights: all samples `often` times and one once more, against the metric without that one."""
    probs, labels = case
    one, often = int(np.random.default_rng(seed).integers(len(labels))), 4000 // len(labels)
    classes = [str(c) for c in range(probs.shape[1])]
    names = [name for name in METRICS if name != "ece" and defined(name, len(classes))]
    times = np.full(len(labels), often)
    times[one] += 1
    more = metrics(np.repeat(probs, times, axis=0), np.repeat(labels, times), classes, names)
    base = metrics(probs, labels, classes, names)
    for name in names:
        value, slopes = value_and_influence(name, probs, labels)
        assert value == pytest.approx(base[name], abs=1e-12)
        assert slopes.sum() == pytest.approx(0, abs=1e-9)
        step = 1 / often
        room = 40 * step**2 * (1 if name != "nll" else 30)  # second order, from curvatures of at most 2 / share^2
        assert more[name] - base[name] == pytest.approx(step * slopes[one], abs=room), name


def test_influence_of_ece_holds_while_its_bins_stay() -> None:
    """Within a bin, the ECE is the weighted absolute mean gap: its slope by the definition of the bins at hand."""
    rng = np.random.default_rng(3)
    probs, labels = softmax(rng.normal(size=(90, 4)) * 2), rng.integers(4, size=90)
    bins, gap = ece_bins(probs, labels)

    def weighted(weights: np.ndarray) -> float:
        return float(np.abs(np.bincount(bins, weights=weights * gap)).sum() / weights.sum())

    value, slopes = value_and_influence("ece", probs, labels)
    assert value == pytest.approx(weighted(np.ones(90)))
    for one in range(90):
        up, down = np.ones(90), np.ones(90)
        up[one], down[one] = 1 + 1e-6, 1 - 1e-6
        assert slopes[one] == pytest.approx((weighted(up) - weighted(down)) / 2e-6, abs=1e-8)


def test_top5_is_undefined_for_few_classes() -> None:
    found = metrics(PROBS, LABELS, NAMES, ["top5", "accuracy"])
    assert math.isnan(found["top5"])
    assert found["accuracy"] == 0.75
    assert not defined("top5", 5)
    assert defined("top5", 6)
    value, slopes = value_and_influence("top5", PROBS, LABELS)
    assert math.isnan(value)
    assert not slopes.any()


def test_one_class_one_sample_and_none() -> None:
    for samples in (1, 3):
        found = metrics(np.ones((samples, 1)), np.zeros(samples, int), ("only",))
        assert math.isnan(found.pop("top5"))
        assert {name: found.pop(name) for name in ("nll", "brier", "ece")} == {"nll": 0, "brier": 0, "ece": 0}
        assert set(found.values()) == {1.0}
    for name in METRICS:
        value, slopes = value_and_influence(name, np.zeros((0, 3)), np.zeros(0, int))
        assert math.isnan(value)
        assert slopes.shape == (0,)
