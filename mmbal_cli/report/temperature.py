"""Confidence against correctness: reliability bins, and the temperature that fits confidences to outcomes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.report.metrics import ECE_BINS, ece_bins, softmax

LIMITS = (1 / 100, 100.0)
_FLAT = 1e-6  # log-probabilities that differ less are a uniform prediction in float32
_TINY = float(np.finfo(np.float32).tiny)  # smallest probability whose logarithm is taken when scaling


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram: mean confidence, accuracy with its 95% Wilson interval, samples."""

    confidence: float
    accuracy: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature; `bound` is "lower" or "upper" where no optimum lies within the limits.

    "flat": every T gives the same NLL (uniform predictions), value 1.
    """

    value: float
    samples: int
    bound: str = ""


def reliability(probs: NDArray, labels: NDArray, bins: int = ECE_BINS) -> list[Bin]:
    """Bins of equal mass by confidence, least sure first; no more bins than samples. [n,C], [n]

    Ties in confidence are ordered as `report/metrics.py` orders them for the ECE, whose bins these are at 15. Wilson
    interval: Wilson 1927, `scipy.stats.binomtest`.
    """
    from scipy.stats import binomtest

    probs = np.asarray(probs, np.float64)
    confidence, correct = probs.max(axis=1, initial=0.0), probs.argmax(axis=1) == labels
    order = np.lexsort((correct, confidence))
    found = []
    for members in np.array_split(order, min(bins, len(labels))) if len(labels) else ():
        hits = int(correct[members].sum())
        span = binomtest(hits, len(members)).proportion_ci(0.95, method="wilson")
        share = hits / len(members)
        found.append(Bin(float(confidence[members].mean()), share, float(span.low), float(span.high), len(members)))
    return found


def log_probabilities(probs: NDArray) -> NDArray:
    """log p in float64, with p clipped at the smallest normal float32 (-87.3). [n,C] -> [n,C]"""
    return np.log(np.maximum(np.asarray(probs, np.float64), _TINY))


def fit_temperature(logits: NDArray, labels: NDArray) -> Temperature:
    """T with the smallest NLL of softmax(logits / T), within `LIMITS`; logits or log-probabilities [n,C], labels [n].

    The NLL is convex in 1/T, so that its slope has at most one zero there, found by Brent's method on log T.
    Raises ValueError without samples.
    """
    from scipy.optimize import brentq

    if not len(labels):
        raise ValueError("no sample to fit a temperature on")
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(axis=1, keepdims=True)
    if np.ptp(logits, axis=1).max() < _FLAT:
        return Temperature(1.0, len(labels), "flat")
    of_label = logits[np.arange(len(labels)), labels]

    def slope(log_t: float) -> float:
        """d NLL / d (1/T)"""
        return float(np.mean((softmax(logits * np.exp(-log_t)) * logits).sum(axis=1) - of_label))

    low, high = np.log(LIMITS)
    if slope(low) <= 0:
        return Temperature(LIMITS[0], len(labels), "lower")
    if slope(high) >= 0:
        return Temperature(LIMITS[1], len(labels), "upper")
    return Temperature(float(np.exp(brentq(slope, low, high, xtol=1e-10))), len(labels))


def scaled(probs: NDArray, temperature: float) -> NDArray:
    """softmax(log p / T). [n,C] -> [n,C]"""
    return softmax(log_probabilities(probs) / temperature)


def ece_by_chance(probs: NDArray, labels: NDArray) -> float:
    """The ECE that a calibrated model with these confidences is expected to have. [n,C], [n]"""
    bins, _ = ece_bins(probs, labels)
    confidence = np.asarray(probs, np.float64).max(axis=1)
    variances = np.bincount(bins, weights=confidence * (1 - confidence))
    return float(np.sqrt(2 * variances / np.pi).sum() / len(labels))
