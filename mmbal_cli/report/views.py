"""A comparison as sheets with the notes that make each number readable, as a document and as lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from mmbal_cli.report.blocks import Block, Cell, Column, Row
from mmbal_cli.report.captions import captions, caution, coverage
from mmbal_cli.report.captions import seed_range as seed_range
from mmbal_cli.report.compare import Comparison
from mmbal_cli.report.contrast import Baseline, Contrast
from mmbal_cli.report.settings import Look, setting_columns
from mmbal_cli.report.statistics import Estimate
from mmbal_cli.report.tables import Entry, Sheet, number, with_sign

DAGGER = " †"
SCHEMA = 1
LINE_HEAD = (
    *("dataset", "split", "block", "apart", "label", "run", "method", "kind", "reference"),
    *("metric", "mean", "sd", "n", "failed", "mark", "low", "high"),
    *("split_name", "split_hash", "subset", "subset_hash", "listed", "scored", "kept"),
    *("ci_low", "ci_high", "ci_over", "rank", "stamp"),
    *("baseline", "difference", "difference_low", "difference_high", "p", "p_holm", "test", "comparisons"),
)
DASH = Entry("–", style="dim")
LONGEST_NAME = 16


def sheets(comparison: Comparison, precision: int = 2) -> list[Sheet]:
    """One sheet a block, comparable groups of one data set below each other."""
    found, seen = [], set()
    for block in comparison.blocks:
        found.append(_sheet(block, precision, comparison.look, first=block.facts.dataset not in seen))
        seen.add(block.facts.dataset)
    if found and comparison.unseen:
        note = f"All rows are hidden of a table on {', '.join(comparison.unseen)}."
        found[0] = replace(found[0], notes=[*found[0].notes, note])
    return found


def document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain data: fractions instead of percent, values of each seed, None for unknown."""
    return {
        "schema": SCHEMA,
        "report": "compare",
        "split": comparison.split,
        "blocks": [_block_document(block, comparison.look) for block in comparison.blocks],
        "unreadable": dict(comparison.unreadable),
    }


def lines(comparison: Comparison) -> list[list[Any]]:
    """Long format, one line for each run and metric, `LINE_HEAD` first; fractions instead of percent."""
    table: list[list[Any]] = [list(LINE_HEAD)]
    for index, block in enumerate(comparison.blocks):
        for row in _block_document(block, comparison.look)["rows"]:
            place = [block.facts.dataset, block.split, index, block.apart]
            place += [row[key] for key in ("label", "run", "method", "kind", "reference")]
            effort = {key: row[key] for key in ("best_epoch", "seconds")}
            for key, cell in (row["metrics"] | effort).items():
                numbers = [cell["mean"], cell["sd"], cell["n"], len(row["failed"])]
                marks = [cell.get("mark", ""), *(cell.get("interval") or ["", ""])]
                own = [*(cell.get("ci") or ["", ""]), cell.get("over", ""), cell.get("rank", ""), row["stamp"]]
                line = [*place, key, *numbers, *marks, *_provenance(block), *own]
                table.append([*line, *_against(block.baseline, key, cell.get("baseline"))])
    return table


def _provenance(block: Block) -> list[Any]:
    """Split, subset and samples, as columns of `LINE_HEAD`."""
    data = block.facts.data
    subset = [data.subset.name, data.subset.hash] if data.subset else ["", ""]
    return [data.split.name if data.split else "", data.split_hash, *subset, *coverage(block).values()]


def _against(baseline: Baseline | None, key: str, contrast: dict[str, Any] | None) -> list[Any]:
    """The contrast of one cell, as the last columns of `LINE_HEAD`."""
    if baseline is None or contrast is None:
        return [""] * 8
    test, difference = baseline.against.chosen, contrast["difference"]
    numbers = [difference["mean"], difference["low"], difference["high"], contrast["p"][test], contrast["holm"][test]]
    return [baseline.label, *numbers, test, baseline.comparisons.get(key, "")]


def _block_document(block: Block, look: Look) -> dict[str, Any]:
    facts = block.facts
    keys, settings = setting_columns([row.run.facts for row in block.rows], look)
    rows = [_row_document(row) for row in block.rows]
    if look.params or look.only_changed:
        rows = [{**row, "settings": dict(zip(keys, own, strict=True))} for row, own in zip(rows, settings, strict=True)]
    return {
        "dataset": facts.dataset,
        "apart": block.apart,
        "samples": block.samples,
        "coverage": coverage(block),
        "data": facts.data.model_dump(mode="json"),
        "protocol": facts.protocol,
        "absent_classes": list(block.absent),
        "versus": [asdict(each) for each in block.versus],
        "baseline": block.baseline and _baseline_document(block.baseline),
        "hidden": list(block.hidden),
        "caption": captions(block),
        "rows": rows,
    }


def _baseline_document(baseline: Baseline) -> dict[str, Any]:
    against = baseline.against
    return {
        "asked": against.baseline,
        "label": baseline.label,
        "missing": baseline.missing,
        "test": against.chosen,
        "correction": against.correction,
        "alpha": against.alpha,
        "comparisons": dict(baseline.comparisons),
        "common_seeds": baseline.seeds,
        "warnings": {key: text for key in baseline.comparisons if (text := baseline.warning(key))},
    }


def _row_document(row: Row) -> dict[str, Any]:
    facts = row.run.facts
    return {
        "label": row.label,
        "run": row.run.name,
        **{key: getattr(facts, key) for key in ("method", "kind", "reference", "note", "stamp", "spec")},
        "deviates": list(facts.deviates),
        "seeds": list(row.seeds),
        "failed": {str(seed): reason for seed, reason in row.failed.items()},
        "in_progress": row.run.running,
        "best_unimodal": row.best_unimodal,
        "best_epoch": asdict(row.effort("selected")),
        "seconds": asdict(row.effort("seconds")),
        "metrics": {key: _cell_document(cell) for key, cell in row.cells.items()},
    }


def _cell_document(cell: Cell) -> dict[str, Any]:
    """`ci` is the interval of the mean, `interval` that of the difference behind the mark."""
    ci = [cell.estimate.low, cell.estimate.high]
    return asdict(cell.summary) | {
        "ci": None if None in ci else ci,
        "over": cell.estimate.over,
        "values": {str(seed): value for seed, value in cell.values.items()},
        "mark": cell.mark,
        "rank": cell.rank,
        "interval": cell.interval and list(cell.interval),
        "baseline": cell.contrast and _contrast_document(cell.contrast),
    }


def _contrast_document(contrast: Contrast) -> dict[str, Any]:
    return {
        "difference": asdict(contrast.difference),
        "p": dict(contrast.p),
        "holm": dict(contrast.holm),
        "significant": contrast.significant,
        "better": contrast.better,
    }


@dataclass(frozen=True)
class _Shown:
    """One column of a sheet: its head, what it is (a key of HIDE or "" for what always stays), and its entries."""

    head: str
    role: str
    entry: Callable[[Row], Entry]


HIDE = ("setting", "interval", "detail", "modality", "metric")


def _sheet(block: Block, precision: int, look: Look, *, first: bool) -> Sheet:
    title = f"{block.facts.data.where(block.facts.dataset)} · {block.split}"
    if block.samples:
        title += f", {block.samples} samples, {len(block.facts.data.classes)} classes"
    shown = [_Shown("method", "", _label), _Shown("n", "", _count)]
    for i, column in enumerate(block.columns):
        role = "modality" if column.modality else "metric" if i else ""
        shown.append(_Shown(column.title, role, partial(_metric, column, precision)))
        if not i:
            shown += _details(block, column, precision)
    keys, settings = setting_columns([row.run.facts for row in block.rows], look)
    rows = [
        [*(each.entry(row) for each in shown), *map(Entry, own)] for row, own in zip(block.rows, settings, strict=True)
    ]
    roles = [each.role for each in shown] + ["setting"] * len(keys)
    notes = captions(block)
    if look.only_changed and not keys:
        notes.append("The shown rows have the same settings.")
    return Sheet(
        title,
        [*(each.head for each in shown), *keys],
        rows,
        notes,
        caution(block, first=first),
        rules=frozenset(i for i, row in enumerate(block.rows) if i and row.is_other != block.rows[i - 1].is_other),
        hide=[i for role in HIDE for i in reversed(range(len(roles))) if roles[i] == role],
    )


def _details(block: Block, column: Column, precision: int) -> list[_Shown]:
    """The interval of a metric, and the columns of its difference to the baseline."""
    found = [_Shown("95% interval", "interval", lambda row: _span(row.cells[column.key].estimate, column, precision))]
    baseline = block.baseline
    if baseline is None or baseline.missing:
        return found
    short = baseline.label if len(baseline.label) <= LONGEST_NAME else "baseline"

    def at(show: Callable[[Contrast], Entry], own: str = "") -> Callable[[Row], Entry]:
        def entry(row: Row) -> Entry:
            if row.label == baseline.label:
                return Entry(own, style="dim")
            contrast = row.cells[column.key].contrast
            return DASH if contrast is None else show(contrast)

        return entry

    def difference(contrast: Contrast) -> Entry:
        mark = ("above" if contrast.better else "below") if contrast.significant else ""
        return Entry(_signed(contrast.difference.mean, column, precision), mark=mark)

    p = "p (Holm)" if baseline.against.correction == "holm" else "p"
    return [
        *found,
        _Shown(f"Δ {short}", "", at(difference, "base")),
        _Shown("Δ 95%", "detail", at(lambda each: _span(each.difference, column, precision, signed=True))),
        _Shown(p, "detail", at(lambda each: _p(each.counts))),
    ]


def _label(row: Row) -> Entry:
    return Entry(row.label + (DAGGER if row.best_unimodal else ""), style="" if row.is_other else "cyan")


def _count(row: Row) -> Entry:
    count = str(len(row.seeds)) + (f"/{len(row.seeds) + len(row.failed)}" if row.failed else "")
    return Entry(count, style="yellow" if row.failed or not row.seeds else "")


def _metric(column: Column, precision: int, row: Row) -> Entry:
    cell = row.cells[column.key]
    if not cell.values:
        return DASH
    mean, sd, percent = cell.summary.mean, cell.summary.sd, column.metric.percent
    spread = "" if sd is None else number(sd, percent=percent, precision=precision)
    return Entry(number(mean, percent=percent, precision=precision), spread, cell.mark, rank=cell.rank)


def _span(found: Estimate, column: Column, precision: int, *, signed: bool = False) -> Entry:
    if found.low is None or found.high is None:
        return DASH
    show = _signed if signed else _plain
    return Entry(f"[{show(found.low, column, precision)}, {show(found.high, column, precision)}]")


def _plain(value: float | None, column: Column, precision: int) -> str:
    return number(value, percent=column.metric.percent, precision=precision)


def _signed(value: float | None, column: Column, precision: int) -> str:
    return with_sign(_plain(value, column, precision))


def _p(value: float | None) -> Entry:
    if value is None:
        return DASH
    return Entry("<0.001" if value < 0.001 else f"{value:.3f}")
