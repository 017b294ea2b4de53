"""Calibration as tables with notes, as a document and as lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mmbal_cli.report.captions import failures
from mmbal_cli.report.tables import Entry, Sheet, number
from mmbal_cli.report.temperature import LIMITS

if TYPE_CHECKING:
    from mmbal_cli.report.calibration import Calibration, Part

SCHEMA = 1
LINE_HEAD = (
    *("run", "label", "dataset", "split", "group", "part", "samples", "metric"),
    *("mean", "sd", "n", "low", "high", "over"),
)


@dataclass(frozen=True)
class _Column:
    """A column of the tables: metric, title, in percent or not, and what it shows."""

    key: str
    title: str
    percent: bool = True
    interval: bool = False


_NONE = Entry("–", style="dim")
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
        if not each.parts:
            rows.append([Entry(each.label), Entry("fused"), Entry(count), *[_NONE] * (1 + len(columns))])
        for part in each.parts:
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
        return _NONE
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
        found += failures(each.failed or {}, each.label)
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
