"""Metrics of saved predictions with their influences, as the statistics take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.report.influence import value_and_influence
from mmbal_cli.report.metrics import METRICS
from mmbal_cli.report.predictions import Predictions
from mmbal_cli.report.statistics import Estimate, Measured, estimates, measured_mean, within


def measure(predictions: Mapping[int, Predictions], metric: str, modality: str | None = None) -> Measured:
    """A metric of {seed: predictions}, fused or of one modality on the samples that have it.

    Seeds without a value are left out: no logits of that modality, no sample, a metric that says nothing about so few
    classes.
    """
    if metric == "accuracy":
        return measured_mean({seed: _right(each, modality) for seed, each in predictions.items()})
    values, slopes, counts = {}, {}, {}
    for seed, each in predictions.items():
        if modality is None:
            value, slope = value_and_influence(metric, each.probs, each.labels)
            counted = len(slope)
        elif modality not in each.logits or not each.present[modality].any():
            continue
        else:
            probs, labels, mask = each.modality(modality)
            value, own = value_and_influence(metric, probs, labels)
            slope = np.zeros(len(mask))
            slope[mask], counted = own, len(own)
        if np.isfinite(value):
            values[seed], slopes[seed], counts[seed] = value, slope, counted
    return Measured(values, slopes, counts)


def bounded(many: Sequence[tuple[str, Measured]]) -> list[Estimate]:
    """Estimates of (metric, its measured values), each interval within what the metric can be."""
    found = estimates([measured for _, measured in many])
    return [within(each, most=METRICS[metric].most) for (metric, _), each in zip(many, found, strict=True)]


def correct(predictions: Mapping[int, Predictions]) -> dict[int, NDArray]:
    """{seed: whether the fused prediction of each sample is right [N]}."""
    return {seed: each.probs.argmax(axis=1) == each.labels for seed, each in predictions.items()}


def _right(predictions: Predictions, modality: str | None) -> NDArray:
    """1 for right, 0 for wrong, NaN for samples without the modality. [N]"""
    if modality is None:
        return (predictions.probs.argmax(axis=1) == predictions.labels).astype(np.float64)
    if modality not in predictions.logits:
        return np.full(len(predictions.labels), np.nan)
    right = (predictions.logits[modality].argmax(axis=1) == predictions.labels).astype(np.float64)
    return np.where(predictions.present[modality], right, np.nan)
