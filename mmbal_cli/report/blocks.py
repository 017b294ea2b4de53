"""One block of comparable runs: columns, rows, marks, and what the marks rest on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.report.metrics import METRICS, Metric, absent, metrics
from mmbal_cli.report.runs import Predictions, Run, RunFacts
from mmbal_cli.report.statistics import Resampled, Summary, influence, interval, resample, summary

UNIMODAL = "unimodal"
FIRST_ROWS = {UNIMODAL: 0, "unimodal-ensemble": 1, "concat": 2}
OTHER_REFERENCE, OTHER = 3, 4
NOT_BALANCING = ("fusion", "baseline")


@dataclass(frozen=True)
class Scored:
    """A run with the predictions of its good seeds and the reasons of its failed ones."""

    run: Run
    good: Mapping[int, Predictions]
    failed: Mapping[int, str]


@dataclass(frozen=True)
class Column:
    """A metric of the fused prediction, or the in-model accuracy of one modality."""

    key: str
    metric: Metric
    modality: str | None = None

    @property
    def title(self) -> str:
        """Column header."""
        return self.metric.title if self.modality is None else f"acc {self.modality}"


@dataclass(frozen=True)
class Cell:
    """{seed: value}, its mark and the 95% interval behind the mark.

    Marks: "best", "tied" (not distinguishable from the best); for modality columns "below" or "above"
    (distinguishable from the modality's own unimodal model). `interval` is of the difference to that row;
    `draws` are the bootstrap values it comes from.
    """

    values: Mapping[int, float]
    draws: Resampled = field(repr=False, compare=False)
    mark: str = ""
    interval: tuple[float, float] | None = None

    @property
    def summary(self) -> Summary:
        """Mean, sample standard deviation and n over seeds."""
        return summary(self.values)


@dataclass(frozen=True)
class Row:
    """One run in a block. `label` is made unique with what its spec has that its namesakes have not."""

    run: Run
    label: str
    seeds: tuple[int, ...]
    failed: Mapping[int, str]
    cells: Mapping[str, Cell]
    best_unimodal: bool = False

    @property
    def rank(self) -> int:
        """Place among the reference rows; `OTHER` for all that are none."""
        name = self.run.facts.label.partition(":")[0]
        return FIRST_ROWS.get(name, OTHER_REFERENCE if self.run.facts.reference else OTHER)

    @property
    def is_other(self) -> bool:
        """No reference row."""
        return self.rank == OTHER

    @property
    def balances(self) -> bool:
        """Neither a reference nor a plain fusion."""
        return self.is_other and self.run.facts.kind not in NOT_BALANCING

    def mean(self, key: str) -> float | None:
        """Mean of one column, None without a finished seed."""
        return self.cells[key].summary.mean if key in self.cells else None

    def effort(self, name: str) -> Summary:
        """Summary of `selected` (epoch) or `seconds` over the finished seeds."""
        facts = [result.facts for result in self.run.seeds if result.facts.seed in self.seeds]
        known = {fact.seed: getattr(fact, name) for fact in facts}
        return summary({seed: value for seed, value in known.items() if value is not None})


@dataclass(frozen=True)
class Versus:
    """How many of `methods` balancing methods have a better mean than `label`, and distinguishably so."""

    label: str
    methods: int
    better: int
    distinguishable: int


@dataclass(frozen=True)
class Block:
    """Comparable rows of one data set; `apart` says why they are not in the block before."""

    split: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    apart: str = ""
    samples: int = 0
    kept: int = 0  # of them, those with any modality
    absent: tuple[str, ...] = ()
    versus: tuple[Versus, ...] = ()

    @property
    def facts(self) -> RunFacts:
        """Facts of the first run: data and protocol are those of all."""
        return self.rows[0].run.facts


def block(
    group: list[Scored],
    names: Sequence[str],
    split: str,
    sort_by: str,
    apart: str = "",
    given: Mapping[str, str] | None = None,
) -> Block:
    """The block of comparable runs `group`, with columns `names` and rows sorted by `sort_by`.

    With labels `given` {run folder name: label}, rows stay in the order of `group`.
    """
    columns = _columns(group, names)
    cells = _cells(group, columns)
    for column in columns:
        base = _own_unimodal(group, column) if column.modality else _best(cells[column.key], column.metric)
        if base is not None and sum(bool(cell.values) for cell in cells[column.key]) > 1:
            cells[column.key] = _marked(cells[column.key], base, column)
    alone = [i for i, each in enumerate(group) if each.run.facts.label.startswith(f"{UNIMODAL}:")]
    best_alone = _best(cells[names[0]], METRICS[names[0]], alone)
    rows = []
    for i, (each, label) in enumerate(zip(group, _labels([each.run for each in group], given or {}), strict=True)):
        own = {key: column_cells[i] for key, column_cells in cells.items()}
        rows.append(Row(each.run, label, tuple(each.good), each.failed, own, i == best_alone))
    if given is None:
        rows.sort(key=lambda row: _place(row, sort_by))
    scored = next((predictions for each in group for predictions in each.good.values()), None)
    return Block(
        split,
        tuple(rows),
        tuple(columns),
        apart,
        len(scored.labels) if scored else 0,
        scored.kept if scored else 0,
        tuple(absent(scored.labels, group[0].run.facts.data.classes)) if scored else (),
        tuple(_versus(rows, names[0])),
    )


def _columns(group: list[Scored], names: Sequence[str]) -> list[Column]:
    heads = {m for each in group for predictions in each.good.values() for m in predictions.logits}
    modalities = dict.fromkeys(m for each in group for m in each.run.facts.data.modalities)
    inside = [Column(f"accuracy/{m}", METRICS["accuracy"], m) for m in modalities if m in heads]
    return [Column(name, METRICS[name]) for name in names] + inside


def _cells(group: list[Scored], columns: list[Column]) -> dict[str, list[Cell]]:
    """Unmarked cells of each column, one a run; all are resampled together."""
    measured = [_measure(each, column) for column in columns for each in group]
    cells = iter(
        Cell({seed: value for seed, (value, _) in seeds.items()}, draws)
        for seeds, draws in zip(measured, resample(measured), strict=True)
    )
    return {column.key: [next(cells) for _ in group] for column in columns}


def _measure(each: Scored, column: Column) -> dict[int, tuple[float, NDArray]]:
    """{seed: (value, influence of each sample [N])}."""
    measured = {}
    classes = each.run.facts.data.classes
    name = column.key.partition("/")[0]
    for seed, predictions in each.good.items():
        probs, labels, mask = predictions.probs, predictions.labels, np.ones(len(predictions.labels), bool)
        if column.modality is not None:
            if column.modality not in predictions.logits or not predictions.present[column.modality].any():
                continue
            probs, labels, mask = predictions.modality(column.modality)
        slopes = np.zeros(len(predictions.labels))
        slopes[mask] = influence(name, probs, labels)
        measured[seed] = metrics(probs, labels, classes, [name])[name], slopes
    return measured


def _best(cells: list[Cell], metric: Metric, among: Sequence[int] | None = None) -> int | None:
    means = {i: cells[i].summary.mean for i in (range(len(cells)) if among is None else among)}
    known = {i: mean for i, mean in means.items() if mean is not None}
    return max(known, key=lambda i: _merit(known[i], metric)) if known else None


def _merit(mean: float, metric: Metric) -> float:
    """Larger is better; rounded, so that equal means do not differ by their order of summation."""
    return round(mean if metric.larger_is_better else -mean, 12)


def _own_unimodal(group: list[Scored], column: Column) -> int | None:
    label = f"unimodal:{column.modality}"
    return next((i for i, each in enumerate(group) if each.run.facts.label == label and each.good), None)


def _marked(cells: list[Cell], base: int, column: Column) -> list[Cell]:
    """Cells with marks against the cell `base`: the best one, or the modality's own unimodal model."""
    marked = []
    for i, cell in enumerate(cells):
        span = interval(cell.draws, cells[base].draws) if i != base else None
        mark = ""
        if column.modality is None:
            mark = "best" if i == base else "tied" if span and span[0] <= 0 <= span[1] else ""
        elif span:
            mark = "below" if span[1] < 0 else "above" if span[0] > 0 else ""
        marked.append(replace(cell, mark=mark, interval=span))
    return marked


def _versus(rows: list[Row], key: str) -> Iterator[Versus]:
    """How the balancing methods stand against the best unimodal model and `concat`."""
    methods = [row for row in rows if row.balances and row.seeds]
    bases = [row for row in rows if row.seeds and (row.best_unimodal or row.run.facts.label == "concat")]
    for base in bases if methods else ():
        limit = _merit(base.mean(key) or 0.0, METRICS[key])
        better = [row for row in methods if _merit(row.mean(key) or 0.0, METRICS[key]) > limit]
        spans = [interval(row.cells[key].draws, base.cells[key].draws) for row in better]
        clear = [span for span in spans if span and not span[0] <= 0 <= span[1]]
        yield Versus(base.label, len(methods), len(better), len(clear))


def _place(row: Row, sort_by: str) -> tuple:
    """Sort key: reference rows first, in their order; then by `sort_by`, best first, unfinished last."""
    mean = row.mean(sort_by)
    modalities = list(row.run.facts.data.modalities)
    own = row.run.facts.label.partition(":")[2]
    first = modalities.index(own) if own in modalities else len(modalities)
    value = 0.0 if mean is None else -_merit(mean, METRICS[sort_by])
    return (row.rank, first, mean is None, value, row.label)


def _labels(runs: list[Run], given: Mapping[str, str]) -> list[str]:
    """Label of each run, `given` or its own; namesakes get the settings that differ, or digits of their spec."""
    labels = []
    for run in runs:
        facts = run.facts
        namesakes = [_flat(other.facts.config) for other in runs if other.facts.label == facts.label]
        keys = sorted({key for flat in namesakes for key in flat})
        differing = [key for key in keys if len({repr(flat.get(key)) for flat in namesakes}) > 1]
        mine = _flat(facts.config)
        variant = ", ".join(f"{key.rpartition('.')[2]}={mine[key]}" for key in differing if key in mine)
        if len(namesakes) > 1 and len(differing) not in (1, 2):
            variant = facts.spec[:8]
        label = facts.label + (f" [{variant}]" if variant else "")
        labels.append(given.get(run.name, label) + facts.suffix)
    return labels


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
