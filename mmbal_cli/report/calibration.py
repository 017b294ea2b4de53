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

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.errors import CacheError
from mmbal_cli.report.groups import Group, groups
from mmbal_cli.report.influence import value_and_influence
from mmbal_cli.report.runs import Predictions, Run
from mmbal_cli.report.statistics import Estimate, Measured, combined, estimates
from mmbal_cli.report.tables import Entry, Sheet, number
from mmbal_cli.report.temperature import (
    LIMITS,
    Bin,
    Temperature,
    ece_by_chance,
    fit_temperature,
    log_probabilities,
    reliability,
    scaled,
)

__all__ = ["Bin", "Calibration", "Part", "calibration", "document", "lines", "reliability", "scaled", "sheets"]

SCHEMA = 1
LINE_HEAD = (
    *("run", "label", "dataset", "split", "group", "part", "samples", "metric"),
    *("mean", "sd", "n", "low", "high", "over"),
)
PLAIN = ("accuracy", "overconfidence", "ece", "ece_chance", "nll", "brier")
SCALED = ("ece_scaled", "nll_scaled", "brier_scaled")


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
        key: Measured({s: v for s, (v, _) in seeds.items()}, {s: slope for s, (_, slope) in seeds.items()})
        for key, seeds in found.items()
    }
    for key in SCALED:
        if key in quantities:
            before = quantities[key.replace("_scaled", "")]
            quantities[key.replace("_scaled", "_change")] = combined([(1.0, quantities[key]), (-1.0, before)])
    if temperatures:
        quantities["temperature"] = Measured({seed: each.value for seed, each in temperatures.items()}, {})
    spans = dict(zip(quantities, estimates(list(quantities.values())), strict=True))
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


@dataclass(frozen=True)
class _Column:
    """A column of the tables: metric, title, in percent or not, and what it shows."""

    key: str
    title: str
    percent: bool = True
    interval: bool = False


_BEFORE = (
    _Column("accuracy", "accuracy"),
    _Column("overconfidence", "conf − acc"),
    _Column("overconfidence", "conf − acc 95%", interval=True),
    _Column("ece", "ECE"),
    _Column("ece", "ECE 95%", interval=True),
    _Column("ece_chance", "ECE by chance"),
    _Column("nll", "NLL", percent=False),
    _Column("brier", "Brier", percent=False),
)
_AFTER = (
    _Column("temperature", "T", percent=False),
    _Column("ece_scaled", "ECE at T"),
    _Column("ece_change", "ECE change"),
    _Column("ece_change", "ECE change 95%", interval=True),
    _Column("nll_scaled", "NLL at T", percent=False),
    _Column("nll_change", "NLL change", percent=False),
    _Column("brier_scaled", "Brier at T", percent=False),
)


def sheets(found: Sequence[Calibration], precision: int = 2) -> list[Sheet]:
    """For each group of comparable runs a table as predicted and, where temperatures were fitted, one after scaling."""
    made = []
    for number_ in dict.fromkeys(each.group.number for each in found):
        members = [each for each in found if each.group.number == number_]
        made.append(
            _sheet(
                members, _BEFORE, (7, 6, 5, 4, 2, 0, -1), "calibration as predicted", precision, _plain_notes(members)
            )
        )
        if any(part.temperatures for each in members for part in each.parts):
            notes = list(_scaled_notes(members))
            made.append(
                _sheet(
                    members, _AFTER, (6, 5, 3, 4, -1), "calibration at the temperature of validation", precision, notes
                )
            )
    return made


def _sheet(
    members: Sequence[Calibration],
    columns: Sequence[_Column],
    hide: Sequence[int],
    title: str,
    precision: int,
    notes: Sequence[str],
) -> Sheet:
    """One table; `hide` are indices of `columns`, -1 the number of samples."""
    rows: list[list[Entry]] = []
    rules = set()
    for each in members:
        rules.add(len(rows))
        count = f"{len(each.seeds)}" + (f"/{len(each.seeds) + len(each.failed)}" if each.failed else "")
        for part in each.parts or (Part(None, {}, {}, {}, {}),):
            first = part.modality is None
            head = [Entry(each.label if first else ""), Entry(part.name), Entry(count if first else "")]
            rows.append([*head, Entry(_samples(part)), *(_entry(part, column, precision) for column in columns)])
    group, split = members[0].group, members[0].split
    return Sheet(
        f"{group.title} · {split} · {title}",
        ("method", "part", "n", "samples", *(column.title for column in columns)),
        rows,
        [note for note in notes if note],
        f"Not comparable with the tables above: {group.apart}." if group.apart else "",
        left=2,
        rules=frozenset(rules - {0}),
        hide=tuple(4 + i if i >= 0 else 3 for i in hide),
    )


def _samples(part: Part) -> str:
    counts = sorted(set(part.samples.values()))
    return "–" if not counts else f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def _entry(part: Part, column: _Column, precision: int) -> Entry:
    found = part.estimates.get(column.key)
    if found is None or found.mean is None or (column.interval and found.low is None):
        return Entry("–", style="dim")
    digits = precision if column.percent or column.key == "temperature" else precision + 1
    if column.interval:
        ends = (number(end, percent=column.percent, precision=digits) for end in (found.low, found.high))
        return Entry(f"[{', '.join(ends)}]")
    text = number(found.mean, percent=column.percent, precision=digits)
    spread = "" if found.sd is None else number(found.sd, percent=column.percent, precision=digits)
    return Entry(text, "" if column.key == "ece_chance" else spread)


def _plain_notes(members: Sequence[Calibration]) -> list[str]:
    return [
        "Mean ± sample sd over n seeds; intervals over seeds and samples. Percent, but NLL (nats) and Brier (0 to 2).",
        "conf − acc: mean confidence minus accuracy, above 0 = over-confident. Modalities: the softmax of their own "
        "logits inside the model, on the samples that have them.",
        "ECE: 15 bins of equal mass; by chance: that expected of a perfectly calibrated model on so few samples.",
        *_warnings(members),
    ]


def _scaled_notes(members: Sequence[Calibration]) -> list[str]:
    edges = [
        f"{each.label} {part.name} (seed {seed}: T = {fit.value:g}{_BOUNDS[fit.bound]})"
        for each in members
        for part in each.parts
        for seed, fit in part.temperatures.items()
        if fit.bound
    ]
    return [
        "T: temperature with the smallest NLL on validation predictions, a seed and a part each; the "
        f"{members[0].split} split is only scored. T > 1 makes predictions less sure.",
        "change: after minus before scaling, below 0 = better.",
        f"No optimum within [{LIMITS[0]:g}, {LIMITS[1]:g}]: {'; '.join(edges)}." if edges else "",
        *(f"{each.label}: no temperature, {each.unscaled}." for each in members if each.unscaled),
    ]


_BOUNDS = {"lower": ", the lower bound", "upper": ", the upper bound", "flat": ", no T makes a difference"}


def _warnings(members: Sequence[Calibration]) -> list[str]:
    found = []
    for each in members:
        if each.problem:
            found.append(f"{each.label}: not scored, {each.problem}")
        found += [
            f"{each.label}: seed {seed} failed and is left out ({why})." for seed, why in (each.failed or {}).items()
        ]
        empty = [part.name for part in each.parts if not any(part.samples.values())]
        if empty:
            found.append(f"{each.label}: no sample has {', '.join(empty)}.")
        if each.unscaled:
            found.append(f"{each.label}: no temperature, {each.unscaled}.")
    if any(len(each.seeds) == 1 for each in members):
        found.append("Rows with one seed have no sd; their intervals are over samples alone.")
    return found


def document(found: Sequence[Calibration]) -> dict[str, Any]:
    """The calibrations as plain data: fractions instead of percent, values of each seed, None for unknown."""
    return {"schema": SCHEMA, "report": "calibration", "runs": [_run_document(each) for each in found]}


def _run_document(each: Calibration) -> dict[str, Any]:
    return {
        "run": each.run.name,
        "label": each.label,
        "dataset": each.group.dataset,
        "split": each.split,
        "group": each.group.number,
        "apart": each.group.apart,
        "data": each.run.facts.data.model_dump(mode="json"),
        "stamp": each.run.facts.stamp,
        "seeds": list(each.seeds),
        "failed": {str(seed): reason for seed, reason in (each.failed or {}).items()},
        "problem": each.problem,
        "unscaled": each.unscaled,
        "parts": [
            {
                "modality": part.modality,
                "samples": {str(seed): n for seed, n in part.samples.items()},
                "temperatures": {str(seed): asdict(fit) for seed, fit in part.temperatures.items()},
                "metrics": {
                    key: asdict(span) | {"values": {str(seed): v for seed, v in part.values[key].items()}}
                    for key, span in part.estimates.items()
                },
            }
            for part in each.parts
        ],
    }


def lines(found: Sequence[Calibration]) -> list[list[Any]]:
    """Long format, one line for each run, part and metric, `LINE_HEAD` first; fractions."""
    table: list[list[Any]] = [list(LINE_HEAD)]
    for each in found:
        place = [each.run.name, each.label, each.group.dataset, each.split, each.group.number]
        for part in each.parts:
            for key, span in part.estimates.items():
                table.append([*place, part.name, _samples(part), key, *asdict(span).values()])
    return table
