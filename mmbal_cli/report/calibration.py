"""Calibration of the fused prediction and of each modality, as predicted and after temperature scaling.

Per seed, on the samples that have the modality (all of them for the fused prediction), with p the predicted
probabilities [n,C], c = max p the confidence and y the label:

- `overconfidence`: mean of c - [argmax p = y]; above 0 the model is surer than it is right.
- `ece`: over 15 bins of equal mass, sum of share of samples * |mean confidence - accuracy| (`report/metrics.py`).
- `ece_chance`: the `ece` that a perfectly calibrated model with these confidences is expected to have on this many
  samples: sum over bins of sqrt(2 v / pi) / n, v = sum of c (1 - c) over the bin (half-normal approximation). ECE is
  biased upwards by about that much on small sets (Roelofs et al. 2022, arXiv 2012.08668).
- `nll`: mean of -log p(y) in nats, p clipped at 1e-12.
- `brier`: mean over samples of the sum over classes of (p - [y])^2, 0 to 2 (Brier 1950).
- `temperature`: T > 0 that minimises the NLL of softmax(log p / T) on VALIDATION predictions (Guo et al. 2017, arXiv
  1706.04599, section 4.2), within [1/100, 100]. softmax(log p / T) = softmax(z / T) where p = softmax(z), so that
  logits are not needed and predictions that are no softmax (averaged, evidential) are scaled the same way.
- `ece_scaled`, `nll_scaled`, `brier_scaled`: of the scored split after scaling with the seed's own T;
  `ece_change`, `nll_change`, `brier_change`: after minus before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.errors import CacheError
from mmbal_cli.report.calibration_views import document, lines, sheets
from mmbal_cli.report.groups import Group, groups
from mmbal_cli.report.influence import value_and_influence
from mmbal_cli.report.runs import Predictions, Run
from mmbal_cli.report.statistics import Estimate, Measured, combined, estimates, within
from mmbal_cli.report.temperature import (
    Bin,
    Temperature,
    ece_by_chance,
    fit_temperature,
    log_probabilities,
    reliability,
    scaled,
)

__all__ = ["Bin", "Calibration", "Part", "calibration", "document", "lines", "reliability", "scaled", "sheets"]

PLAIN = ("accuracy", "overconfidence", "ece", "ece_chance", "nll", "brier")
SCALED = ("ece_scaled", "nll_scaled", "brier_scaled")
_SHARE = (0.0, 1.0)
_RANGE = {  # where intervals end because the quantity does; of the others they are left as they are
    "accuracy": _SHARE,
    "overconfidence": (-1.0, 1.0),
    "ece": _SHARE,
    "ece_chance": _SHARE,
    "ece_change": (-1.0, 1.0),
    "brier_change": (-2.0, 2.0),
    "nll": (0.0, math.inf),
    "brier": (0.0, 2.0),
    "temperature": (0.0, math.inf),
}


@dataclass(frozen=True)
class Part:
    """The fused prediction (modality None) or one modality of a run.

    values {metric: {seed: value}}, estimates {metric: Estimate}, samples {seed: n}, temperatures {seed: Temperature}.
    """

    modality: str | None
    values: Mapping[str, Mapping[int, float]]
    estimates: Mapping[str, Estimate]
    samples: Mapping[int, int]
    temperatures: Mapping[int, Temperature]

    @property
    def name(self) -> str:
        """What the part is called in tables."""
        return self.modality or "fused"


@dataclass(frozen=True)
class Calibration:
    """One run; runs with the same `group` are comparable.

    `problem` is why the run could not be scored, `unscaled` why no temperature could be fitted, if so.
    """

    run: Run
    label: str
    split: str
    group: Group
    parts: tuple[Part, ...] = ()
    failed: Mapping[int, str] | None = None
    problem: str = ""
    unscaled: str = ""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that were scored."""
        return tuple(self.parts[0].samples) if self.parts else ()


def calibration(runs: Sequence[Run], split: str = "test") -> list[Calibration]:
    """Calibration of `runs` on saved predictions of `split`, comparable ones next to each other.

    Temperatures come from saved validation predictions alone; for split "val" there are none, because they would be
    scored on what they were fitted to.
    """
    found: list[Calibration] = []
    for group in groups(runs, split):
        found += [_scored(member.run, member.label, split, group) for member in group.members]
    return found


def _scored(run: Run, label: str, split: str, group: Group) -> Calibration:
    if group.problem:
        return Calibration(run, label, split, group, problem=group.problem)
    good, failed = run.collect(split)
    if not good:
        return Calibration(run, label, split, group, failed=failed, problem="no seed has finished")
    fitting, unscaled = _validation(run, split, good)
    heads = {m for each in good.values() for m in each.logits}
    order = [m for m in dict.fromkeys([*run.facts.data.modalities, *sorted(heads)]) if m in heads]
    parts = tuple(_part(m, good, fitting) for m in (None, *order))
    if not unscaled and (lacking := sorted(set(good) - set(fitting))):
        unscaled = f"validation predictions of seed {', '.join(map(str, lacking))} cannot be scored"
    return Calibration(run, label, split, group, parts, failed, "", unscaled)


def _validation(run: Run, split: str, good: Mapping[int, Predictions]) -> tuple[dict[int, Predictions], str]:
    """Validation predictions to fit on, and why there are none."""
    if split == "val":
        return {}, "a temperature is fitted on validation and would be scored on the same samples"
    try:
        fitting, _ = run.collect("val")
    except CacheError as error:
        return {}, f"validation predictions cannot be read: {error}"
    fitting = {seed: each for seed, each in fitting.items() if len(each.labels)}
    if not fitting:
        return {}, "there are no validation samples"
    scored = {name for each in good.values() for name in each.ids.tolist()}
    shared = scored & {name for each in fitting.values() for name in each.ids.tolist()}
    if shared:
        return {}, f"validation and {split} share {len(shared)} samples"
    return fitting, ""


def _taken(predictions: Predictions, modality: str | None) -> tuple[NDArray, NDArray, NDArray]:
    """Probabilities, labels and mask of one part: [n,C], [n], [N]."""
    if modality is None:
        return predictions.probs.astype(np.float64), predictions.labels, np.ones(len(predictions.labels), bool)
    if modality not in predictions.logits:
        return np.zeros((0, 1)), np.zeros(0, np.int64), np.zeros(len(predictions.labels), bool)
    return predictions.modality(modality)


def _part(modality: str | None, good: Mapping[int, Predictions], fitting: Mapping[int, Predictions]) -> Part:
    temperatures: dict[int, Temperature] = {}
    found: dict[str, dict[int, tuple[float, NDArray]]] = {}
    samples = {}
    for seed, each in good.items():
        probs, labels, mask = _taken(each, modality)
        samples[seed] = len(labels)
        if not len(labels):
            continue
        measured = _measured(probs, labels, PLAIN)
        if seed in fitting and len((other := _taken(fitting[seed], modality))[1]):
            temperatures[seed] = fit_temperature(log_probabilities(other[0]), other[1])
            after = _measured(scaled(probs, temperatures[seed].value), labels, ("ece", "nll", "brier"))
            measured |= {f"{key}_scaled": value for key, value in after.items()}
        for key, (value, slope) in measured.items():
            whole = np.zeros(len(mask))
            whole[mask] = slope
            found.setdefault(key, {})[seed] = (value, whole)
    return _estimated(modality, found, samples, temperatures)


def _estimated(
    modality: str | None,
    found: Mapping[str, Mapping[int, tuple[float, NDArray]]],
    samples: Mapping[int, int],
    temperatures: Mapping[int, Temperature],
) -> Part:
    quantities = {
        key: Measured({s: v for s, (v, _) in seeds.items()}, {s: slope for s, (_, slope) in seeds.items()}, samples)
        for key, seeds in found.items()
    }
    for key in SCALED:
        if key in quantities:
            before = quantities[key.replace("_scaled", "")]
            quantities[key.replace("_scaled", "_change")] = combined([(1.0, quantities[key]), (-1.0, before)])
    if temperatures:
        quantities["temperature"] = Measured({seed: each.value for seed, each in temperatures.items()}, {})
    spans = {
        key: within(span, *_RANGE.get(key.replace("_scaled", ""), (-math.inf, math.inf)))
        for key, span in zip(quantities, estimates(list(quantities.values())), strict=True)
    }
    values = {key: dict(each.values) for key, each in quantities.items()}
    return Part(modality, values, spans, samples, temperatures)


def _measured(probs: NDArray, labels: NDArray, keys: Sequence[str]) -> dict[str, tuple[float, NDArray]]:
    """{metric: (value, influence of each sample [n])}; the temperature and the bins count as given."""
    found = {}
    for key in keys:
        if key == "ece_chance":
            found[key] = ece_by_chance(probs, labels), np.zeros(len(labels))
        elif key == "overconfidence":
            each = probs.max(axis=1) - (probs.argmax(axis=1) == labels)
            found[key] = float(each.mean()), (each - each.mean()) / len(labels)
        else:
            found[key] = value_and_influence(key, probs, labels)
    return found
