"""How the epoch of every run was selected, checked from its records, and what selecting it on test would be worth.

A legacy run is trained as the sealed run of the same settings, bit for bit. Of each seed it keeps two sets of test
predictions: at the epoch that is best on test, and at the one that validation selects. Their difference is the
*inflation*: what the habit of reporting the best test epoch adds to a number. Stages before the last are selected on
validation in both, so for methods with stages it is a lower bound.

Checked of every seed: its epochs are the best by its own records (which columns, the protocol says); every sample of
the test split was scored; a sealed run has no test figure in its records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mmbal_cli.errors import CacheError
from mmbal_cli.report.captions import failures
from mmbal_cli.report.groups import Group, groups
from mmbal_cli.report.measure import measure
from mmbal_cli.report.metrics import METRICS
from mmbal_cli.report.runs import Run, SeedFacts
from mmbal_cli.report.statistics import Estimate, Measured, Summary, combined, estimate, summary, within
from mmbal_cli.report.tables import Entry, Sheet, number, with_sign

SCHEMA = 1
_NOTHING = estimate(Measured({}, {}))
SEALED = "test-sealed"  # test predictions of a legacy run at the epoch that validation selects
LINE_HEAD = ("dataset", "run", "label", "protocol", "metric", "quantity", "mean", "sd", "n", "low", "high")


@dataclass(frozen=True)
class Audited:
    """One run: its test figure at the epoch that validation selects and, for a legacy run, at the best on test.

    `last` is the test accuracy after the last epoch; `faults` are what the check of the records found; `failed` {seed:
    reason} are left out of every number.
    """

    run: Run
    label: str
    sealed: Estimate
    peeked: Estimate | None
    inflation: Estimate | None
    last: Summary
    epochs: tuple[float | None, float | None]  # by validation, on test: means over seeds
    faults: tuple[str, ...]
    failed: Mapping[int, str] = field(default_factory=dict)

    @property
    def legacy(self) -> bool:
        """Whether its epochs were selected on test."""
        return bool(self.run.facts.stamp)


@dataclass(frozen=True)
class Audit:
    """Comparable runs by one metric."""

    group: Group
    metric: str
    rows: tuple[Audited, ...]


def audit(runs: Sequence[Run], metric: str = "accuracy") -> list[Audit]:
    """The runs in comparable groups, legacy ones first: what there is to measure stands on top."""
    found = []
    for group in groups(runs, "test"):
        rows = [_audited(member.run, member.label, metric) for member in group.members]
        rows.sort(key=lambda row: -(row.inflation.mean or 0.0) if row.inflation else 0.0)
        found.append(Audit(group, metric, tuple(rows)))
    return sorted(found, key=lambda each: not any(row.legacy for row in each.rows))


def _audited(run: Run, label: str, metric: str) -> Audited:
    done, legacy = [result for result in run.seeds if result.facts.status == "done"], bool(run.facts.stamp)
    try:
        saved = {result.facts.seed: result.predictions("test") for result in done}
        rows = {result.facts.seed: result.records()[0] for result in done}
        peeked, failed = run.judge(saved)
        sealed = peeked
        if legacy:
            sealed, flawed = run.judge({result.facts.seed: result.predictions(SEALED) for result in done})
            failed |= flawed
        faults = [
            f"seed {seed}: {fault}"
            for seed, facts in ((result.facts.seed, result.facts) for result in done)
            for fault in _faults(run, facts, rows[seed], len(saved[seed].ids))
        ]
    except (CacheError, OSError) as error:
        why = str(error) if isinstance(error, CacheError) else f"{error.filename} cannot be read: {error.strerror}"
        return Audited(run, label, _NOTHING, None, None, summary({}), (None, None), (why.rstrip("."),))
    kept = [result for result in done if result.facts.seed not in failed]
    of_test, of_validation = (
        measure({result.facts.seed: found[result.facts.seed] for result in kept}, metric) for found in (peeked, sealed)
    )
    by_test = [result.facts.selected for result in kept]
    by_validation = [_average([*(result.facts.sealed_epoch or {}).values()]) for result in kept] if legacy else by_test
    last = {seed: rows[seed][-1].get("test/accuracy") for seed in (each.facts.seed for each in kept) if rows[seed]}
    most = METRICS[metric].most
    return Audited(
        run,
        label,
        within(estimate(of_validation), most=most),
        within(estimate(of_test), most=most) if legacy else None,
        within(estimate(combined([(1, of_test), (-1, of_validation)])), -most, most) if legacy else None,
        summary({seed: value for seed, value in last.items() if isinstance(value, (int, float))}),
        (_average(by_validation), _average(by_test) if legacy else None),
        tuple(faults),
        failed,
    )


# ------------------------------------------------------------------------------------------ checks


def _faults(run: Run, facts: SeedFacts, rows: Sequence[Mapping[str, Any]], scored: int) -> list[str]:
    """What is wrong with the selection of one seed, by its own records `rows`; `scored` test samples."""
    legacy = bool(run.facts.stamp)
    stage, faults = _last_stage(rows), [] if rows else ["its records are empty"]
    selected = {
        "test" if legacy else "val": facts.best_epoch,
        **({"val": facts.sealed_epoch} if legacy else {}),
    }
    for split, epochs in selected.items():
        for unit, epoch in (epochs if isinstance(epochs, dict) else {}).items():
            best = _best(stage, split, "" if unit == "fused" else f"/{unit}", _select(run))
            if best is not None and best != epoch:
                faults.append(f"its epoch ({unit}) by {split} is {epoch}, by its records {best}")
    expected = run.facts.data.counts.get("test")
    if expected is not None and scored != expected:
        faults.append(f"{scored} of {expected} test samples were scored")
    if not legacy and any(key.startswith("test/") for row in rows for key in row):
        faults.append("its records have test figures of single epochs")
    return faults


def _select(run: Run) -> str:
    return run.facts.config.get("train", {}).get("select", "accuracy")


def _last_stage(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records of the last stretch of epochs with one phase: only they can be selected."""
    start = next((i + 1 for i in reversed(range(len(rows))) if rows[i].get("phase") != rows[-1].get("phase")), 0)
    return list(rows[start:])


def _best(rows: Sequence[Mapping[str, Any]], split: str, suffix: str, select: str) -> int | None:
    """The epoch that the rule selects from records of alive epochs; None when they lack the columns."""
    accuracy, nll = f"{split}/accuracy{suffix}", f"{split}/nll{suffix}"
    needed = (accuracy, nll, "epoch")
    known = [
        row for row in rows if row.get("alive", True) and all(isinstance(row.get(k), (int, float)) for k in needed)
    ]
    if not known:
        return None
    key = (lambda row: -row[nll]) if select == "nll" else (lambda row: (row[accuracy], -row[nll]))
    return int(max(known, key=lambda row: (key(row), -row["epoch"]))["epoch"])


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


# ------------------------------------------------------------------------------------------ report


def sheets(audits: Sequence[Audit], precision: int = 2) -> list[Sheet]:
    """One table a group: inflation of legacy runs, or the checked selection of sealed ones."""
    return [_legacy_sheet(each, precision) if _has_legacy(each) else _sealed_sheet(each, precision) for each in audits]


def _has_legacy(each: Audit) -> bool:
    return any(row.legacy for row in each.rows)


def _legacy_sheet(each: Audit, precision: int) -> Sheet:
    percent, title = METRICS[each.metric].percent, METRICS[each.metric].title

    def mean(value: Estimate | Summary | None) -> Entry:
        if value is None or value.mean is None:
            return Entry("–", style="dim")
        sd = "" if value.sd is None else number(value.sd, percent=percent, precision=precision)
        return Entry(number(value.mean, percent=percent, precision=precision), sd)

    rows = [
        [
            Entry(row.label, style="cyan"),
            Entry(str(row.sealed.n)),
            mean(row.sealed),
            mean(row.peeked),
            _signed(row.inflation, percent, precision),
            _span(row.inflation, percent, precision),
            mean(row.last),
            Entry(" / ".join(number(epoch, percent=False, precision=0) for epoch in row.epochs)),
        ]
        for row in each.rows
    ]
    heads = ("method", "n", f"{title} by validation", "best on test", "inflation", "95% interval", "last", "epochs")
    return Sheet(
        f"{each.group.title} · inflation by selecting the epoch on TEST",
        heads,
        rows,
        list(_legacy_notes(each, precision)),
        f"Not comparable with the other runs on {each.group.dataset}: {each.group.apart}." if each.group.apart else "",
        hide=(7, 6, 5),
    )


def _legacy_notes(each: Audit, precision: int) -> list[str]:
    notes = [
        "Inflation: test figure at the epoch that is best on test less that at the epoch that validation selects, in "
        "the same training; mean ± sample standard deviation over seeds, interval over seeds and samples.",
        "last: accuracy after the last epoch; epochs: selected by validation / on test, mean over seeds.",
    ]
    rows = [row for row in each.rows if row.inflation and row.inflation.mean is not None and row.peeked]
    if any((row.inflation.mean or 0) < 0 for row in rows if row.inflation):
        notes.append(
            "A negative one: parts that are selected apart, each by its own figure, need not be best together."
        )
    if len(rows) > 1:
        means = [row.inflation.mean for row in rows if row.inflation and row.inflation.mean is not None]
        unit, factor = (" points", 100) if METRICS[each.metric].percent else ("", 1)
        notes.append(f"Mean inflation over {len(rows)} runs: {factor * sum(means) / len(means):+.{precision}f}{unit}.")
        good = 1 if METRICS[each.metric].larger_is_better else -1
        orders = [
            sorted(rows, key=lambda row: -good * (part(row).mean or 0.0))[0].label
            for part in (lambda row: row.sealed, lambda row: row.peeked)
        ]
        if orders[0] != orders[1]:
            notes.append(f"The best method changes: {orders[0]} by validation, {orders[1]} on test.")
    return notes + _fault_notes(each)


def _sealed_sheet(each: Audit, precision: int) -> Sheet:
    percent, title = METRICS[each.metric].percent, METRICS[each.metric].title
    rows = []
    for row in each.rows:
        value = Entry("–", style="dim")
        if row.sealed.mean is not None:
            sd = "" if row.sealed.sd is None else number(row.sealed.sd, percent=percent, precision=precision)
            value = Entry(number(row.sealed.mean, percent=percent, precision=precision), sd)
        verdict = (
            Entry("sealed", style="green")
            if not row.faults
            else Entry(f"{len(row.faults)} fault{'s' * (len(row.faults) > 1)}", style="red")
        )
        epoch = Entry(number(row.epochs[0], percent=False, precision=0))
        rows.append([Entry(row.label, style="cyan"), verdict, Entry(str(row.sealed.n)), value, epoch])
    notes = [
        "sealed: of every seed the epoch is the best on validation by its own records, every test sample was scored, "
        "and no test figure is in the records.",
        "What selecting on test would add: mmbal train --method ... --protocol legacy, then mmbal audit on those runs.",
    ]
    return Sheet(
        f"{each.group.title} · selection",
        ("method", "selection", "n", title, "epoch"),
        rows,
        notes + _fault_notes(each),
        f"Not comparable with the other runs on {each.group.dataset}: {each.group.apart}." if each.group.apart else "",
        left=2,
        hide=(4,),
    )


def _fault_notes(each: Audit) -> list[str]:
    problem = [text for row in each.rows for text in failures(row.failed, row.label)]
    return problem + [f"FAULT {row.label}: {'; '.join(row.faults)}." for row in each.rows if row.faults]


def _signed(value: Estimate | None, percent: bool, precision: int) -> Entry:
    if value is None or value.mean is None:
        return Entry("–", style="dim")
    text = number(value.mean, percent=percent, precision=precision)
    sd = "" if value.sd is None else number(value.sd, percent=percent, precision=precision)
    return Entry(with_sign(text), sd, style="bold")


def _span(value: Estimate | None, percent: bool, precision: int) -> Entry:
    if value is None or value.low is None or value.high is None:
        return Entry("–", style="dim")
    low, high = (number(edge, percent=percent, precision=precision) for edge in (value.low, value.high))
    return Entry(f"[{low}, {high}]")


def document(audits: Sequence[Audit]) -> dict[str, Any]:
    """The audit as plain data; fractions."""
    return {
        "schema": SCHEMA,
        "report": "audit",
        "groups": [
            {
                "dataset": each.group.dataset,
                "split_hash": each.group.data.split_hash,
                "apart": each.group.apart,
                "metric": each.metric,
                "rows": [_row_document(row) for row in each.rows],
            }
            for each in audits
        ],
    }


def _row_document(row: Audited) -> dict[str, Any]:
    return {
        "run": row.run.name,
        "label": row.label,
        "protocol": "legacy" if row.legacy else "sealed",
        "by_validation": asdict(row.sealed),
        "best_on_test": asdict(row.peeked) if row.peeked else None,
        "inflation": asdict(row.inflation) if row.inflation else None,
        "last_accuracy": asdict(row.last),
        "epoch_by_validation": row.epochs[0],
        "epoch_on_test": row.epochs[1],
        "faults": list(row.faults),
        "failed": {str(seed): reason for seed, reason in row.failed.items()},
    }


def lines(audits: Sequence[Audit]) -> list[list[Any]]:
    """Long format, one line for each run and quantity; fractions."""
    table: list[list[Any]] = [list(LINE_HEAD)]
    for each in audits:
        for row in each.rows:
            place = [each.group.dataset, row.run.name, row.label, "legacy" if row.legacy else "sealed", each.metric]
            quantities = {"by_validation": row.sealed, "best_on_test": row.peeked, "inflation": row.inflation}
            for name, value in quantities.items():
                if value is not None:
                    table.append([*place, name, value.mean, value.sd, value.n, value.low, value.high])
    return table
