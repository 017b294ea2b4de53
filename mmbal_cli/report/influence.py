"""First-order influence of every sample on a metric: what lets one bootstrap serve all metrics.

The influence of sample i is d metric / d w_i at w = 1, where sample i counts w_i times (the infinitesimal jackknife,
Efron 1982). Every metric is unchanged when all weights are scaled, so that influences sum to 0. For a mean over samples
(accuracy, top-5, NLL, Brier) the first order is exact but for the sum of the weights, which a resample keeps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.report.metrics import (
    TOP,
    Confusion,
    Ranking,
    defined,
    ece_bins,
    label_ranks,
    log_losses,
    metrics,
    ranking,
    squared_errors,
)


def influence(metric: str, probs: NDArray, labels: NDArray) -> NDArray:
    """d metric / d weight of each sample, at weight 1. [N,C], [N] -> [N]; sums to 0."""
    return _INFLUENCE[metric](np.asarray(probs, np.float64), labels)


def value_and_influence(metric: str, probs: NDArray, labels: NDArray) -> tuple[float, NDArray]:
    """The metric and its influence [N]; the sorting of `map` is done once for both. NaN and zeros where undefined."""
    if not len(labels):
        return float("nan"), np.zeros(0)
    if metric == "map":
        found = ranking(np.asarray(probs, np.float64), labels)
        return float(np.mean(found.average_precision)), _of_ranking(found)
    value = metrics(probs, labels, range(probs.shape[1]), [metric])[metric]  # type: ignore[arg-type]
    return value, influence(metric, probs, labels)


def _of_mean(each: NDArray) -> NDArray:
    return (each - each.mean()) / len(each)


def _accuracy(probs: NDArray, labels: NDArray) -> NDArray:
    return _of_mean((probs.argmax(axis=1) == labels).astype(np.float64))


def _top5(probs: NDArray, labels: NDArray) -> NDArray:
    if not defined("top5", probs.shape[1]):
        return np.zeros(len(labels))
    return _of_mean((label_ranks(probs, labels) < TOP).astype(np.float64))


def _nll(probs: NDArray, labels: NDArray) -> NDArray:
    return _of_mean(log_losses(probs, labels))


def _brier(probs: NDArray, labels: NDArray) -> NDArray:
    return _of_mean(squared_errors(probs, labels))


def _ece(probs: NDArray, labels: NDArray) -> NDArray:
    bins, gap = ece_bins(probs, labels)
    total = np.bincount(bins, weights=gap)
    return (np.sign(total)[bins] * gap - np.abs(total).sum() / len(labels)) / len(labels)


def _balanced_accuracy(probs: NDArray, labels: NDArray) -> NDArray:
    predicted = probs.argmax(axis=1)
    counts = Confusion.of(predicted, labels, probs.shape[1])
    truth = counts.truth[labels]
    return ((predicted == labels) - counts.hits[labels] / truth) / truth / np.count_nonzero(counts.truth)


def _f1(probs: NDArray, labels: NDArray, weighted: bool) -> NDArray:
    """Influence on the sum over classes of weight times F1; weights are 1 / K, or the share of the class."""
    predicted = probs.argmax(axis=1)
    counts = Confusion.of(predicted, labels, probs.shape[1])
    share = counts.truth / len(labels) if weighted else (counts.truth > 0) / np.count_nonzero(counts.truth)
    slope = share / counts.sizes
    found = 2 * (predicted == labels) * slope[labels] - (slope * counts.f1)[labels] - (slope * counts.f1)[predicted]
    return found + _of_mean(counts.f1[labels]) if weighted else found


def _macro_f1(probs: NDArray, labels: NDArray) -> NDArray:
    return _f1(probs, labels, weighted=False)


def _weighted_f1(probs: NDArray, labels: NDArray) -> NDArray:
    return _f1(probs, labels, weighted=True)


def _mean_average_precision(probs: NDArray, labels: NDArray) -> NDArray:
    return _of_ranking(ranking(probs, labels))


def _of_ranking(found: Ranking) -> NDArray:
    """Mean over classes of the influence on each average precision, in the order of the samples. [N]

    One more of sample i, of the class: its own precision counts, and the precision at all lower thresholds gains.
    Of any sample: the precision at all thresholds that it passes is lowered.
    """
    hit, positives = found.hit, found.hit.sum(axis=1, keepdims=True)
    share = hit / found.above
    gain, loss = _from_here(share), _from_here(share * found.precision)
    if found.tied:
        first = _first_of_equal(found.above)
        gain, loss = (np.take_along_axis(each, first, axis=1) for each in (gain, loss))
    slope = (hit * (found.precision - found.average_precision[:, None] + gain) - loss) / positives
    each = np.empty_like(slope)
    np.put_along_axis(each, found.order, slope, axis=1)
    return each.mean(axis=0)


def _from_here(numbers: NDArray) -> NDArray:
    """Sum of each number and all behind it, along the last axis."""
    return np.cumsum(numbers[:, ::-1], axis=1)[:, ::-1]


def _first_of_equal(above: NDArray) -> NDArray:
    """First place of each group of equal scores, from the last one (`above` - 1). [K,N] -> [K,N]"""
    places = np.broadcast_to(np.arange(above.shape[1]), above.shape)
    starts = np.where(np.diff(above, axis=1, prepend=0) > 0, places, 0)
    return np.maximum.accumulate(starts, axis=1)


_INFLUENCE = {
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
