"""One block of comparable runs: columns, rows, marks, and what the marks rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mmbal_cli.report.contrast import Against, Baseline, Contrast, Side, contrasts, named
from mmbal_cli.report.measure import bounded, correct, measure
from mmbal_cli.report.metrics import METRICS, Metric, absent
from mmbal_cli.report.predictions import Predictions
from mmbal_cli.report.runs import Run, RunFacts
from mmbal_cli.report.settings import flat
from mmbal_cli.report.statistics import Estimate, Measured, Summary, combined, estimates, summary

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
    """{seed: value}, their mean with its 95% interval, and how it stands.

    Marks: "best", "tied" (not distinguishable from the best); for modality columns "below" or "above"
    (distinguishable from the modality's own unimodal model). `difference` is to the best row, or to that model;
    `rank` is 1 for the best mean of a metric, 2 for the second, else 0; `contrast` is against the baseline.
    """

    values: Mapping[int, float]
    estimate: Estimate
    measured: Measured = field(repr=False, compare=False)
    mark: str = ""
    rank: int = 0
    difference: Estimate | None = None
    contrast: Contrast | None = None

    @property
    def summary(self) -> Summary:
        """Mean, sample standard deviation and n over seeds."""
        return Summary(self.estimate.mean, self.estimate.sd, self.estimate.n)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% interval of `difference`; None without a common seed."""
        return _interval(self.difference) if self.difference else None


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
    def names(self) -> set[str]:
        """What a user may call the row, besides its label."""
        facts = self.run.facts
        own = {self.run.name, self.run.folder.name, str(self.run.folder.resolve()), facts.label, facts.title}
        return own | set(self.label.removesuffix(facts.suffix).split(" = "))

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
    """Comparable rows of one data set; `apart` says why they are not in the block before.

    `hidden` are the labels of rows that are not shown, but take part in marks, ranks and corrections; `intervals` is
    how many intervals the marks of all rows rest on.
    """

    split: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    apart: str = ""
    samples: int = 0
    kept: int = 0  # of them, those with any modality
    absent: tuple[str, ...] = ()
    versus: tuple[Versus, ...] = ()
    baseline: Baseline | None = None
    hidden: tuple[str, ...] = ()
    intervals: int = 0

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
    against: Against | None = None,
) -> Block:
    """The block of comparable runs `group`, with columns `names` and rows sorted by `sort_by`.

    With labels `given` {run folder name: label}, rows stay in the order of `group`. With `against`, every fused cell
    has its contrast to that baseline, if it is in the group.
    """
    columns = _columns(group, names)
    cells = _cells(group, columns)
    alone = [i for i, each in enumerate(group) if each.run.facts.label.startswith(f"{UNIMODAL}:")]
    best_alone = _best(cells[names[0]], METRICS[names[0]], alone)
    rows = []
    for i, (each, label) in enumerate(zip(group, labels([each.run for each in group], given or {}), strict=True)):
        own = {key: column_cells[i] for key, column_cells in cells.items()}
        rows.append(Row(each.run, label, tuple(each.good), each.failed, own, i == best_alone))
    baseline = None
    if against is not None:
        rows, baseline = _contrasted(rows, group, columns, against)
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
        baseline,
        intervals=sum(cell.interval is not None for row in rows for cell in row.cells.values()),
    )


def _columns(group: list[Scored], names: Sequence[str]) -> list[Column]:
    heads = {m for each in group for predictions in each.good.values() for m in predictions.logits}
    modalities = dict.fromkeys(m for each in group for m in each.run.facts.data.modalities)
    inside = [Column(f"accuracy/{m}", METRICS["accuracy"], m) for m in modalities if m in heads]
    return [Column(name, METRICS[name]) for name in names] + inside


def _cells(group: list[Scored], columns: list[Column]) -> dict[str, list[Cell]]:
    """Cells of each column, one a run, with marks and ranks; all are estimated together."""
    names = [column.key.partition("/")[0] for column in columns]
    measured = [[measure(each.good, name, column.modality) for each in group]
                for name, column in zip(names, columns, strict=True)]  # fmt: skip
    found = iter(bounded([(name, each) for name, own in zip(names, measured, strict=True) for each in own]))
    cells = {
        column.key: [Cell(each.values, next(found), each) for each in own]
        for column, own in zip(columns, measured, strict=True)
    }
    bases = {}
    for column in columns:
        own = cells[column.key]
        base = _own_unimodal(group, column) if column.modality else _best(own, column.metric)
        if base is not None and sum(bool(cell.values) for cell in own) > 1:
            bases[column.key] = base
    pairs = [(key, i) for key, base in bases.items() for i, cell in enumerate(cells[key]) if i != base and cell.values]
    differences = [
        combined([(1.0, cells[key][i].measured), (-1.0, cells[key][bases[key]].measured)]) for key, i in pairs
    ]
    spans = dict(zip(pairs, estimates(differences), strict=True))
    for column in columns:
        if column.key in bases:
            cells[column.key] = _marked(cells[column.key], bases[column.key], column, spans)
    return cells


def _interval(found: Estimate) -> tuple[float, float] | None:
    return None if found.low is None or found.high is None else (found.low, found.high)


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


def _marked(cells: list[Cell], base: int, column: Column, spans: Mapping[tuple[str, int], Estimate]) -> list[Cell]:
    """Cells with marks against the cell `base`: the best one, or the modality's own unimodal model."""
    merits = [None if (mean := cell.summary.mean) is None else _merit(mean, column.metric) for cell in cells]
    marked = []
    for i, cell in enumerate(cells):
        difference = spans.get((column.key, i))
        span = _interval(difference) if difference else None
        merit, mark, rank = merits[i], "", 0
        if column.modality is None and merit is not None:
            mark = "best" if i == base else "tied" if span and span[0] <= 0 <= span[1] else ""
            rank = 1 + sum(other is not None and other > merit for other in merits)
        elif span:
            mark = "below" if span[1] < 0 else "above" if span[0] > 0 else ""
        marked.append(replace(cell, mark=mark, rank=rank if rank <= 2 else 0, difference=difference if span else None))
    return marked


def _contrasted(
    rows: list[Row], group: list[Scored], columns: list[Column], against: Against
) -> tuple[list[Row], Baseline]:
    """Rows with the contrast of every fused cell to the baseline, and what the contrasts rest on."""
    base = named(against.baseline, [row.label for row in rows], [row.names for row in rows])
    if base is None:
        return rows, Baseline(against, missing="it is not among these runs")
    if not rows[base].seeds:
        return rows, Baseline(against, rows[base].label, "it has no finished seed")
    right = [correct(each.good) for each in group]
    found, comparisons, paired = list(rows), {}, set()
    for column in columns:
        if column.modality is not None:
            continue
        key = column.key
        marks = right if key == "accuracy" else [None] * len(rows)
        sides = [Side(row.cells[key].measured, seeds) for row, seeds in zip(rows, marks, strict=True)]
        against_base = contrasts(sides, base, column.metric, against)
        comparisons[key] = sum(each is not None and each.p[against.chosen] is not None for each in against_base)
        for i, each in enumerate(against_base):
            if each is not None:
                paired.add(min(len(found[i].seeds), len(found[base].seeds)) if against.chosen == "welch"
                           else each.difference.n)  # fmt: skip
                cells = found[i].cells
                found[i] = replace(found[i], cells={**cells, key: replace(cells[key], contrast=each)})
    return found, Baseline(against, rows[base].label, "", comparisons, min(paired, default=0))


def _versus(rows: list[Row], key: str) -> Iterator[Versus]:
    """How the balancing methods stand against the best unimodal model and `concat`."""
    methods = [row for row in rows if row.balances and row.seeds]
    bases = [row for row in rows if row.seeds and (row.best_unimodal or row.run.facts.label == "concat")]
    for base in bases if methods else ():
        limit = _merit(base.mean(key) or 0.0, METRICS[key])
        better = [row for row in methods if _merit(row.mean(key) or 0.0, METRICS[key]) > limit]
        own = base.cells[key].measured
        spans = map(_interval, estimates([combined([(1.0, row.cells[key].measured), (-1.0, own)]) for row in better]))
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


def labels(runs: Sequence[Run], given: Mapping[str, str]) -> list[str]:
    """Label of each run, `given` or its own; namesakes get the settings that differ, or digits of their spec."""
    found = []
    for run in runs:
        facts = run.facts
        namesakes = [flat(other.facts.config) for other in runs if other.facts.label == facts.label]
        keys = sorted({key for settings in namesakes for key in settings})
        differing = [key for key in keys if len({repr(settings.get(key)) for settings in namesakes}) > 1]
        mine = flat(facts.config)
        variant = ", ".join(f"{key.rpartition('.')[2]}={mine[key]}" for key in differing if key in mine)
        if len(namesakes) > 1 and len(differing) not in (1, 2):
            variant = facts.spec[:8]
        label = facts.label + (f" [{variant}]" if variant else "")
        found.append(given.get(run.name, label) + facts.suffix)
    counts = Counter(found)
    return [label if counts[label] == 1 else f"{label} ({run.folder})" for label, run in zip(found, runs, strict=True)]
