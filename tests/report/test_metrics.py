"""Metrics against hand-computed numbers and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmbal_cli.report.metrics import METRICS, absent, ece_bins, metrics, softmax

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
    f1s, aps = [], []
    for c in present:
        hits = sum(g == c == y for g, (_, y) in zip(guess, rows, strict=True))
        f1s.append(2 * hits / (sum(g == c for g in guess) + sum(y == c for _, y in rows)))
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
    return {
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
    found = metrics(probs, labels, [str(c) for c in range(classes)])
    assert found == pytest.approx(brute(probs, labels), abs=1e-12)


def test_order_of_samples_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    probs, labels = softmax(rng.normal(size=(80, 3))).round(1), rng.integers(3, size=80)
    order = rng.permutation(80)
    assert metrics(probs[order], labels[order], NAMES) == pytest.approx(metrics(probs, labels, NAMES), abs=1e-12)


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
