"""Metrics of class probabilities, with the definitions they are published under.

- `accuracy`: share of samples whose largest probability is at the label.
- `macro_f1`: unweighted mean over classes of 2 TP / (2 TP + FP + FN), the first of the two readings in
  Opitz and Burst 2019 (arXiv 1911.03347); `sklearn.metrics.f1_score`.
- `map`: unweighted mean over classes of the one-vs-rest average precision sum_n (R_n - R_{n-1}) P_n
  of the probabilities, without interpolation; `sklearn.metrics.average_precision_score`.
- `nll`: mean of -log p(label) in nats; p is clipped at 1e-12 (27.6 nats).
- `ece`: sum over 15 bins of equal mass of (share of samples) |mean confidence - accuracy| (bins: Nguyen
  and O'Connor 2015, arXiv 1508.05154; 15 of them: Guo et al. 2017, arXiv 1706.04599).

Absent classes: a class without a sample in the labels is left out of the means of `macro_f1` and `map`
(its F1 and AP are 0/0); a prediction of it still counts as a miss of the true class. `absent` names them.
All samples count, in any order. No sample at all gives NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15
SMALLEST_P = 1e-12


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: column title, in percent or not, and whether larger is better."""

    title: str
    percent: bool = True
    larger_is_better: bool = True


METRICS = {
    "accuracy": Metric("accuracy"),
    "macro_f1": Metric("macro-F1"),
    "map": Metric("mAP"),
    "nll": Metric("NLL", percent=False, larger_is_better=False),
    "ece": Metric("ECE", larger_is_better=False),
}


def softmax(logits: NDArray) -> NDArray:
    """Row-wise softmax in float64. [N,C] -> [N,C]"""
    shifted = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True, initial=-np.inf))
    return shifted / shifted.sum(axis=1, keepdims=True)


def absent(labels: NDArray, classes: Sequence[str]) -> list[str]:
    """Names of the classes without a sample in `labels` [N]."""
    present = set(np.unique(labels).tolist())
    return [name for index, name in enumerate(classes) if index not in present]


def metrics(
    probs: NDArray, labels: NDArray, classes: Sequence[str], names: Iterable[str] = tuple(METRICS)
) -> dict[str, float]:
    """The metrics `names` of probabilities [N,C] against labels [N] in [0, C); fractions, not percent."""
    if probs.shape != (len(labels), len(classes)):
        raise ValueError(f"probs {probs.shape} do not fit {len(labels)} labels and {len(classes)} classes")
    if not len(labels):
        return dict.fromkeys(names, float("nan"))
    probs = np.asarray(probs, np.float64)
    return {name: float(_FUNCTIONS[name](probs, labels)) for name in names}


def ece_bins(probs: NDArray, labels: NDArray) -> tuple[NDArray, NDArray]:
    """Bin of each sample [N] and its confidence minus its correctness [N]; ties do not depend on order."""
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == labels
    order = np.lexsort((correct, confidence))
    bins = np.empty(len(labels), np.int64)
    for number, members in enumerate(np.array_split(order, min(ECE_BINS, len(labels)))):
        bins[members] = number
    return bins, confidence - correct


def _accuracy(probs: NDArray, labels: NDArray) -> float:
    return np.mean(probs.argmax(axis=1) == labels)


def _macro_f1(probs: NDArray, labels: NDArray) -> float:
    from sklearn.metrics import f1_score

    return f1_score(labels, probs.argmax(axis=1), labels=np.unique(labels), average="macro", zero_division=0)


def _mean_average_precision(probs: NDArray, labels: NDArray) -> float:
    from sklearn.metrics import average_precision_score

    return np.mean([average_precision_score(labels == c, probs[:, c]) for c in np.unique(labels)])


def _nll(probs: NDArray, labels: NDArray) -> float:
    return -np.mean(np.log(np.maximum(probs[np.arange(len(labels)), labels], SMALLEST_P)))


def _ece(probs: NDArray, labels: NDArray) -> float:
    bins, gap = ece_bins(probs, labels)
    return np.abs(np.bincount(bins, weights=gap)).sum() / len(labels)


_FUNCTIONS = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "map": _mean_average_precision,
    "nll": _nll,
    "ece": _ece,
}
