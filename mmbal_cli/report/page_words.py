"""The result of a comparison in plain sentences, each with its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mmbal_cli.report.blocks import Block, Column, Row
from mmbal_cli.report.compare import compare
from mmbal_cli.report.contrast import Against, Contrast
from mmbal_cli.report.page_html import escape, paragraph
from mmbal_cli.report.statistics import Estimate
from mmbal_cli.report.tables import number

Line = tuple[str, str]  # a lead and the sentences after it
NAMES = 8  # at most so many labels in a sentence
SMALLEST_SHOWN_P = 0.001


def conclusions(block: Block, named: bool, precision: int = 2) -> str:
    """The main sentences of a block as HTML; with `named`, the data set first."""
    rows = [row for row in block.rows if row.cells[block.columns[0].key].summary.mean is not None]
    if not rows:
        return ""
    lines = [*_best(block, rows, precision), *_against_baseline(block, precision),
             *_against_unimodal(block, rows, precision), *_limits(block)]  # fmt: skip
    where = f"{block.facts.data.where(block.facts.dataset)}:" if named else ""
    apart = f"Not comparable with the runs above: {block.apart}." if block.apart else ""
    items = "".join(f"<li><strong>{escape(lead)}</strong> {escape(text)}</li>" for lead, text in lines)
    return paragraph(where, apart) + f'<ul class="summary">{items}</ul>'


def _best(block: Block, rows: Sequence[Row], precision: int) -> Iterable[Line]:
    """Who has the best mean, and who cannot be told apart from it."""
    column = block.columns[0]
    ordered = sorted(rows, key=lambda row: _order(row, column))
    best, found = ordered[0], ordered[0].cells[column.key].summary
    kind = "" if best.is_other else ", a reference and no balancing method"
    spread = (
        f"sd {_plain(found.sd, column, precision)} over {found.n} seeds" if found.sd is not None else "one seed, no sd"
    )
    unfinished = f" {len(block.rows) - len(rows)} more have no finished seed." if len(rows) < len(block.rows) else ""
    yield (
        "Best mean.",
        f"Of {len(rows)} runs, {best.label}{kind} has the best mean {column.title} on {block.split}: "
        f"{_value(found.mean, column, precision)} ({spread}; {block.samples:,} samples).{unfinished}",
    )
    tied = [row.label for row in ordered if row.cells[column.key].mark == "tied"]
    if tied:
        yield (
            "Not the only one.",
            f"{len(tied)} of the other {len(rows) - 1} cannot be told apart from it: {_names(tied)} (95% intervals of "
            "the difference hold 0, not corrected).",
        )
    elif len(rows) > 1:
        yield "Clear.", "All others are distinguishably worse (95% intervals of the difference, not corrected)."
    methods = [row for row in ordered if row.balances]
    if methods and not best.balances:
        mean = methods[0].cells[column.key].summary.mean
        yield "Best balancing method.", f"{methods[0].label}, {_value(mean, column, precision)}."


def _against_baseline(block: Block, precision: int) -> Iterable[Line]:
    """How the best method and all methods stand against the baseline of the block."""
    baseline, key = block.baseline, block.columns[0].key
    if baseline is None or baseline.missing or not baseline.label:
        return
    found = [(row, row.cells[key].contrast) for row in block.rows]
    yield from _standing(block, baseline.label, found, baseline.against, precision)
    if warning := baseline.warning(key):
        yield "Too few seeds.", warning


def _against_unimodal(block: Block, rows: Sequence[Row], precision: int) -> Iterable[Line]:
    """The same against the best model of one modality alone."""
    alone = next((row for row in rows if row.best_unimodal), None)
    if alone is None:
        yield "No unimodal model", "is among these runs, so whether fusing helps at all cannot be said."
        return
    if block.baseline is not None and alone.label == block.baseline.label:
        return
    given = block.baseline.against if block.baseline else Against("")
    against = Against(str(alone.run.folder), given.test, given.correction, given.alpha)
    other = compare([row.run for row in rows], [block.columns[0].key], block.split, against=against)
    found = [(row, row.cells[block.columns[0].key].contrast) for each in other.blocks for row in each.rows]
    yield from _standing(block, f"{alone.label}, the best unimodal model", found, against, precision)


def _standing(
    block: Block, label: str, found: Sequence[tuple[Row, Contrast | None]], against: Against, precision: int
) -> Iterable[Line]:
    column = block.columns[0]
    known = [(row, contrast) for row, contrast in found if contrast is not None and row.balances]
    if not known:
        return
    row, contrast = min(known, key=lambda pair: _order(pair[0], column))
    count = sum(contrast is not None for _, contrast in found)
    correction = f"Holm's correction for {count} comparisons" if against.correction == "holm" else "not corrected"
    better = sum(each.significant and each.better for _, each in known)
    worse = sum(each.significant and not each.better for _, each in known)
    many = (
        f" Of {len(known)} balancing methods, {better} are distinguishably better, {worse} distinguishably worse, "
        f"{len(known) - better - worse} cannot be told apart from it."
    )
    yield (
        f"Against {label}.",
        f"{row.label}, the best balancing method, is {'' if contrast.significant else 'not '}distinguishable from it "
        f"at {against.alpha:g}: {_difference(contrast.difference, column, precision)}; {_p(contrast.counts)} "
        f"({against.chosen}, {correction}).{many if len(known) > 1 else ''}",
    )


def _limits(block: Block) -> Iterable[Line]:
    """What keeps these numbers from saying more."""
    if {len(row.seeds) for row in block.rows if row.seeds} == {1}:
        yield "One seed.", "Every run has one seed: nothing here speaks of other seeds."
    failed = [f"{row.label} ({len(row.failed)})" for row in block.rows if row.failed]
    if failed:
        yield "Failed seeds", f"are in no mean: {_names(failed)}."


def _order(row: Row, column: Column) -> float:
    mean = row.mean(column.key)
    return float("inf") if mean is None else round(-mean if column.metric.larger_is_better else mean, 12)


def _value(mean: float | None, column: Column, precision: int) -> str:
    unit = "%" if column.metric.percent else ""
    return f"{_plain(mean, column, precision)}{unit}"


def _plain(value: float | None, column: Column, precision: int) -> str:
    return "" if value is None else number(value, percent=column.metric.percent, precision=precision)


def _difference(found: Estimate, column: Column, precision: int) -> str:
    unit = " points" if column.metric.percent else ""
    if found.mean is None:
        return "an unknown amount"
    sign = "+" if found.mean > 0 else ""
    span = ""
    if found.low is not None and found.high is not None:
        low, high = (_plain(end, column, precision) for end in (found.low, found.high))
        span = f" (95% interval {low} to {high} over {found.over}, n = {found.n} seeds)"
    return f"{sign}{_plain(found.mean, column, precision)}{unit}{span}"


def _p(value: float | None) -> str:
    if value is None:
        return "no p-value can be had"
    return f"p < {SMALLEST_SHOWN_P}" if value < SMALLEST_SHOWN_P else f"p = {value:.3f}"


def _names(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - NAMES} more" if len(labels) > NAMES else ""
    return ", ".join(labels[:NAMES]) + more
