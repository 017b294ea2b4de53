"""Mean and spread over seeds, and the paired bootstrap that says which differences can be told apart.

The bootstrap is hierarchical and crossed: each draw resamples seeds (shared by both methods: same seed,
same initialisation and shuffling) and test samples (one resample for all seeds, because all seeds are
scored on the same samples). Each metric enters by its value and its first-order influence of every
sample, so that one pair of weight matrices serves all methods and metrics. That is exact for accuracy
and NLL, which are means, and the infinitesimal jackknife (Efron 1982) for macro-F1, mAP and ECE.
With few seeds, resampling them understates their variance by (n - 1) / n.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.report.metrics import SMALLEST_P, ece_bins

DRAWS = 2000
LEVEL = 0.95
RNG_SEED = 0
CHUNK = 100  # draws at a time: 15,000 samples need 12 MB


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (divisor n - 1) of `n` values; None where undefined."""

    mean: float | None
    sd: float | None
    n: int


def summary(values: Mapping[int, float]) -> Summary:
    """Summary of the finite values of {seed: value}."""
    kept = np.array([value for value in values.values() if np.isfinite(value)])
    if not len(kept):
        return Summary(None, None, 0)
    return Summary(float(kept.mean()), float(kept.std(ddof=1)) if len(kept) > 1 else None, len(kept))


@dataclass(frozen=True)
class Resampled:
    """One metric of one method: its value under each draw of test samples, {seed: [DRAWS]}."""

    draws: Mapping[int, NDArray]


def influence(metric: str, probs: NDArray, labels: NDArray) -> NDArray:
    """d metric / d weight of each sample, at weight 1. [N,C], [N] -> [N]; sums to 0."""
    return _INFLUENCE[metric](np.asarray(probs, np.float64), labels)


def sample_draws(samples: int, draws: int = DRAWS):
    """Yield chunks [at most CHUNK, samples] of resampled sample indices, the same in every call."""
    rng = np.random.default_rng(RNG_SEED)
    for start in range(0, draws, CHUNK):
        yield rng.integers(samples, size=(min(CHUNK, draws - start), samples))


def seed_draws(seeds: int, draws: int = DRAWS) -> NDArray:
    """Weights [draws, seeds] of resampled seeds, rows summing to 1, the same in every call."""
    rng = np.random.default_rng([RNG_SEED, seeds])
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds


def resample(measured: list[dict[int, tuple[float, NDArray]]]) -> list[Resampled]:
    """All metrics of all methods, each {seed: (value, influence [N])} with one N, under the same draws."""
    flat = [pair for seeds in measured for pair in seeds.values()]
    if not flat:
        return [Resampled({}) for _ in measured]
    values, slopes = np.array([value for value, _ in flat]), np.stack([slope for _, slope in flat])
    shifts = []
    for index in sample_draws(slopes.shape[1]):
        rows, samples = index.shape
        cells = index + samples * np.arange(rows)[:, None]
        counts = np.bincount(cells.ravel(), minlength=index.size).reshape(index.shape)
        shifts.append(counts @ slopes.T)
    columns = iter((values + np.concatenate(shifts)).T)
    return [Resampled({seed: next(columns) for seed in seeds}) for seeds in measured]


def interval(first: Resampled, second: Resampled) -> tuple[float, float] | None:
    """95% percentile interval of mean(first) - mean(second) over their common seeds; None without any."""
    common = sorted(set(first.draws) & set(second.draws))
    if not common:
        return None
    difference = np.stack([first.draws[seed] - second.draws[seed] for seed in common], axis=1)
    means = (seed_draws(len(common)) * difference).sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _accuracy(probs: NDArray, labels: NDArray) -> NDArray:
    correct = (probs.argmax(axis=1) == labels).astype(np.float64)
    return (correct - correct.mean()) / len(labels)


def _nll(probs: NDArray, labels: NDArray) -> NDArray:
    each = -np.log(np.maximum(probs[np.arange(len(labels)), labels], SMALLEST_P))
    return (each - each.mean()) / len(labels)


def _ece(probs: NDArray, labels: NDArray) -> NDArray:
    bins, gap = ece_bins(probs, labels)
    total = np.bincount(bins, weights=gap)
    return (np.sign(total)[bins] * gap - np.abs(total).sum() / len(labels)) / len(labels)


def _macro_f1(probs: NDArray, labels: NDArray) -> NDArray:
    classes = probs.shape[1]
    predicted = probs.argmax(axis=1)
    correct = predicted == labels
    truth = np.bincount(labels, minlength=classes)
    size = np.maximum(truth + np.bincount(predicted, minlength=classes), 1)
    f1 = 2 * np.bincount(labels[correct], minlength=classes) / size
    slope = np.where(truth > 0, f1 / size, 0.0)
    return (2 * correct / size[labels] - slope[labels] - slope[predicted]) / np.count_nonzero(truth)


def _mean_average_precision(probs: NDArray, labels: NDArray) -> NDArray:
    present = np.unique(labels)
    return np.mean([_average_precision(probs[:, c], labels == c) for c in present], axis=0)


def _average_precision(scores: NDArray, positive: NDArray) -> NDArray:
    order = np.argsort(-scores, kind="stable")
    ranked, hit = scores[order], positive[order].astype(np.float64)
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    group = np.cumsum(np.r_[True, ranked[1:] != ranked[:-1]]) - 1
    last = np.r_[starts[1:] - 1, len(ranked) - 1][group]  # ties share one threshold
    above = last + 1.0
    precision = np.cumsum(hit)[last] / above
    average = hit @ precision / hit.sum()
    gain = np.cumsum((hit / above)[::-1])[::-1][starts[group]]
    loss = np.cumsum((hit * precision / above)[::-1])[::-1][starts[group]]
    slope = np.empty_like(hit)
    slope[order] = (hit * (precision - average + gain) - loss) / hit.sum()
    return slope


_INFLUENCE = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "map": _mean_average_precision,
    "nll": _nll,
    "ece": _ece,
}
