"""Metrics of class probabilities, with the definitions they are published under.

- `accuracy`: share of samples whose largest probability is at the label (of equal ones the first class counts).
- `balanced_accuracy`: unweighted mean over classes of the recall TP / (TP + FN) (Brodersen et al. 2010, ICPR, for two
  classes); `sklearn.metrics.balanced_accuracy_score`.
- `macro_f1`: unweighted mean over classes of 2 TP / (2 TP + FP + FN), the first of the two readings in
  Opitz and Burst 2019 (arXiv 1911.03347); `sklearn.metrics.f1_score(average="macro")`.
- `weighted_f1`: the same F1 weighted by the share of samples of each class; `f1_score(average="weighted")`.
- `map`: unweighted mean over classes of the one-vs-rest average precision sum_n (R_n - R_{n-1}) P_n of the
  probabilities, over their distinct values; `sklearn.metrics.average_precision_score` (the mean over classes as in
  Everingham et al. 2010, IJCV 88, but without their interpolation).
- `top5`: share of samples whose label is among the 5 classes of largest probability (Russakovsky et al. 2015,
  arXiv 1409.0575; of equal ones the first classes count). Not defined for 5 classes or fewer: NaN.
- `nll`: mean of -log p(label) in nats, the logarithmic score of Good 1952 (J. R. Statist. Soc. B 14) with its sign
  turned; p is clipped at 1e-12 (27.6 nats).
- `brier`: mean over samples of the sum over all classes of (p - onehot)^2, from 0 to 2 (score P of Brier 1950,
  Monthly Weather Review 78); `sklearn.metrics.brier_score_loss(scale_by_half=False)`.
- `ece`: sum over 15 bins of equal mass of (share of samples) |mean confidence - accuracy| (bins: Nguyen
  and O'Connor 2015, arXiv 1508.05154; 15 of them: Guo et al. 2017, arXiv 1706.04599).

Absent classes: a class without a sample in the labels is left out of the means of `macro_f1`, `map` and
`balanced_accuracy` (its F1, AP and recall are 0/0) and has no weight in `weighted_f1`; a prediction of it still counts
as a miss of the true class. `absent` names them. All samples count, in any order. No sample at all gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15
SMALLEST_P = 1e-12
TOP = 5


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: column title, in percent or not, whether larger is better; it lies in [0, most]."""

    title: str
    percent: bool = True
    larger_is_better: bool = True
    most: float = 1.0


METRICS = {
    "accuracy": Metric("accuracy"),
    "balanced_accuracy": Metric("balanced acc"),
    "macro_f1": Metric("macro-F1"),
    "weighted_f1": Metric("weighted-F1"),
    "map": Metric("mAP"),
    "top5": Metric("top-5"),
    "nll": Metric("NLL", percent=False, larger_is_better=False, most=math.inf),
    "brier": Metric("Brier", percent=False, larger_is_better=False, most=2.0),
    "ece": Metric("ECE", larger_is_better=False),
}


def defined(name: str, classes: int) -> bool:
    """Whether the metric `name` says anything about so many classes."""
    return name != "top5" or classes > TOP


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


def label_ranks(probs: NDArray, labels: NDArray) -> NDArray:
    """How many classes stand before the label, of equal probabilities the first ones. [N,C], [N] -> [N]"""
    own = probs[np.arange(len(labels)), labels][:, None]
    before = np.arange(probs.shape[1]) < labels[:, None]
    return np.count_nonzero((probs > own) | ((probs == own) & before), axis=1)


def log_losses(probs: NDArray, labels: NDArray) -> NDArray:
    """-log p(label) of each sample, p clipped at SMALLEST_P. [N,C], [N] -> [N]"""
    return -np.log(np.maximum(probs[np.arange(len(labels)), labels], SMALLEST_P))


def squared_errors(probs: NDArray, labels: NDArray) -> NDArray:
    """Sum over classes of (p - onehot)^2 of each sample. [N,C], [N] -> [N]"""
    errors = np.array(probs, np.float64)
    errors[np.arange(len(labels)), labels] -= 1.0
    return np.einsum("nc,nc->n", errors, errors)


def ece_bins(probs: NDArray, labels: NDArray) -> tuple[NDArray, NDArray]:
    """Bin of each sample [N] and its confidence minus its correctness [N]; ties do not depend on order."""
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == labels
    order = np.lexsort((correct, confidence))
    bins = np.empty(len(labels), np.int64)
    for number, members in enumerate(np.array_split(order, min(ECE_BINS, len(labels)))):
        bins[members] = number
    return bins, confidence - correct


@dataclass(frozen=True)
class Confusion:
    """Counts of each class, all [C]: samples that have it, samples predicted as it, and those that are both."""

    truth: NDArray
    predicted: NDArray
    hits: NDArray

    @classmethod
    def of(cls, predicted: NDArray, labels: NDArray, classes: int) -> Confusion:
        """Count predicted classes [N] against labels [N]."""
        truth, guessed = np.bincount(labels, minlength=classes), np.bincount(predicted, minlength=classes)
        return cls(truth, guessed, np.bincount(labels[predicted == labels], minlength=classes))

    @property
    def sizes(self) -> NDArray:
        """2 TP + FP + FN, 1 for classes that nothing has or is predicted as."""
        return np.maximum(self.truth + self.predicted, 1)

    @property
    def f1(self) -> NDArray:
        """F1 of each class; 0 where it is 0/0."""
        return 2 * self.hits / self.sizes


@dataclass(frozen=True)
class Ranking:
    """Samples by falling score, for each of K classes that occur, all [K,N].

    order: sample at each place; hit: 1 where it is of the class; precision: at the last place of equal scores;
    above: how many samples score at least as much; tied: whether any scores are equal.
    """

    order: NDArray
    hit: NDArray
    precision: NDArray
    above: NDArray
    tied: bool

    @property
    def average_precision(self) -> NDArray:
        """Average precision of each class [K]."""
        return (self.hit * self.precision).sum(axis=1) / self.hit.sum(axis=1)


def ranking(probs: NDArray, labels: NDArray) -> Ranking:
    """Rank the samples [N,C] for each class that occurs in labels [N]; equal scores share one threshold."""
    present = np.unique(labels)
    falling = -np.ascontiguousarray(probs.T[present])
    order = np.argsort(falling, axis=1)
    ranked = np.take_along_axis(falling, order, axis=1)
    hit = (labels[order] == present[:, None]).astype(np.float64)
    above = np.arange(1, len(labels) + 1)
    precision = np.cumsum(hit, axis=1) / above
    tied = ranked[:, 1:] == ranked[:, :-1]
    if not tied.any():
        return Ranking(order, hit, precision, np.broadcast_to(above, hit.shape), tied=False)
    last = np.broadcast_to(above - 1, hit.shape).copy()
    last[:, :-1][tied] = len(labels)
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    return Ranking(order, hit, np.take_along_axis(precision, last, axis=1), last + 1, tied=True)


def _confusion(probs: NDArray, labels: NDArray) -> Confusion:
    return Confusion.of(probs.argmax(axis=1), labels, probs.shape[1])


def _accuracy(probs: NDArray, labels: NDArray) -> float:
    return np.mean(probs.argmax(axis=1) == labels)


def _balanced_accuracy(probs: NDArray, labels: NDArray) -> float:
    counts = _confusion(probs, labels)
    seen = counts.truth > 0
    return np.mean(counts.hits[seen] / counts.truth[seen])


def _macro_f1(probs: NDArray, labels: NDArray) -> float:
    counts = _confusion(probs, labels)
    return np.mean(counts.f1[counts.truth > 0])


def _weighted_f1(probs: NDArray, labels: NDArray) -> float:
    counts = _confusion(probs, labels)
    return counts.f1 @ counts.truth / len(labels)


def _mean_average_precision(probs: NDArray, labels: NDArray) -> float:
    return np.mean(ranking(probs, labels).average_precision)


def _top5(probs: NDArray, labels: NDArray) -> float:
    return float(np.mean(label_ranks(probs, labels) < TOP)) if defined("top5", probs.shape[1]) else float("nan")


def _nll(probs: NDArray, labels: NDArray) -> float:
    return np.mean(log_losses(probs, labels))


def _brier(probs: NDArray, labels: NDArray) -> float:
    return np.mean(squared_errors(probs, labels))


def _ece(probs: NDArray, labels: NDArray) -> float:
    bins, gap = ece_bins(probs, labels)
    return np.abs(np.bincount(bins, weights=gap)).sum() / len(labels)


_FUNCTIONS = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "weighted_f1": _weighted_f1,
    "map": _mean_average_precision,
    "top5": _top5,
    "nll": _nll,
    "brier": _brier,
    "ece": _ece,
}
