"""Curves as one line of characters, and the tables that show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.report.captions import failures
from mmbal_cli.report.dynamics import COEFFICIENT, FAILED, RUNNING, Dynamics, Family, families, scale
from mmbal_cli.report.tables import Entry, Sheet

BLOCKS, PLAIN = "▁▂▃▄▅▆▇█", ".:-=+*#@"
WIDTH = 10
LOGARITHMIC = ("train/loss", "grad", "discrepancy")


def sparkline(values: NDArray, low: float, high: float, levels: str = BLOCKS, width: int = WIDTH) -> str:
    """A curve [E] as at most `width` characters of `levels` between `low` and `high`; a space where all is NaN."""
    cells = []
    for part in np.array_split(values, min(width, len(values))) if len(values) else ():
        known = part[np.isfinite(part)]
        if not len(known):
            cells.append(" ")
            continue
        share = (float(known.mean()) - low) / (high - low) if high > low else 0.0
        cells.append(levels[min(int(max(share, 0.0) * len(levels)), len(levels) - 1)])
    return "".join(cells)


class _Scale(NamedTuple):
    """How a family is drawn: its limits, on a logarithmic axis or not; what is not positive is lowest on one."""

    low: float
    high: float
    logarithmic: bool

    def curve(self, values: NDArray, levels: str) -> str:
        """The sparkline of a curve [E]."""
        if not self.logarithmic:
            return sparkline(values, self.low, self.high, levels)
        known = np.where(np.isfinite(values), np.log(np.maximum(values, self.low)), np.nan)
        return sparkline(known, math.log(self.low), math.log(self.high), levels)


def _scaled(many: Sequence[Dynamics], family: Family) -> _Scale:
    low, high = scale(many, family)
    if family.name not in LOGARITHMIC or not high > 0:
        return _Scale(low, high, False)
    means = np.concatenate([each.band(column).mean for each in many for _, column in family.columns])
    return _Scale(float(means[means > 0].min()), high, True)


def sheets(many: Sequence[Dynamics], precision: int, pattern: str | None = None, levels: str = BLOCKS) -> list[Sheet]:
    """One sheet a family of columns, one row a run that has any of them; coefficients share the last sheet."""
    found = families(many, pattern)
    shared = [family for family in found if not family.name.startswith(COEFFICIENT)]
    made = [_sheet(many, [family], precision, levels) for family in shared]
    if own := [family for family in found if family.name.startswith(COEFFICIENT)]:
        made.append(_sheet(many, own, precision, levels))
    if made:
        made[-1] = replace(made[-1], notes=[*made[-1].notes, *notes(many, levels)])
    return made


def _sheet(many: Sequence[Dynamics], group: Sequence[Family], precision: int, levels: str) -> Sheet:
    """One sheet of families; several, as of coefficients, have their names in a second column."""
    named = group[0].name.startswith(COEFFICIENT)
    heads = list(dict.fromkeys(head for family in group for head, _ in family.columns))
    scales = {family.name: _scaled(many, family) for family in group}
    rows: list[list[Entry | _Cell]] = []
    rules: set[int] = set()
    for each in many:
        own = [family for family in group if any(column in each.table for _, column in family.columns)]
        rules |= {len(rows)} if named and own and rows else set()
        for i, family in enumerate(own):
            columns = dict(family.columns)
            label = Entry(each.run.facts.title if i == 0 else "")
            name = [Entry(family.name.removeprefix(COEFFICIENT))] if named else []
            cells = [_cell(each, columns.get(h), scales[family.name], family.percent, precision, levels)
                     for h in heads]  # fmt: skip
            rows.append([label, *name, Entry(_seeds(each)), *cells])
    left = 2 if named else 1
    return Sheet(
        "coefficients by epoch" if named else f"{group[0].title} by epoch",
        ["method", *(["name"] if named else []), "n", *heads],
        _aligned(rows, levels),
        ["Each name has its own scale over all runs." if named else _scale_note(group[0], scales, precision)],
        left=left,
        rules=frozenset(rules),
        hide=list(range(left + len(heads), left + 1, -1)),
    )


def _scale_note(family: Family, scales: Mapping[str, _Scale], precision: int) -> str:
    own = scales[family.name]
    kind = "Logarithmic scale" if own.logarithmic else "Scale in percent" if family.percent else "Scale"
    low, high = (_number(value, family.percent, precision) for value in own[:2])
    return f"{kind}, one for all curves: {low} to {high}."


def _seeds(each: Dynamics) -> str:
    kept = sum(status != FAILED for status in each.status)
    return f"{kept}/{len(each.seeds)}" if kept < len(each.seeds) else f"{kept}"


class _Cell(NamedTuple):
    """A curve, its first and its last value; no `curve` for a column that the run does not have."""

    curve: str | None
    first: str = ""
    last: str = ""


def _cell(each: Dynamics, column: str | None, limits: _Scale, percent: bool, precision: int, levels: str) -> _Cell:
    if column is None or column not in each.table:
        return _Cell(None)
    mean = each.band(column).mean
    known = mean[np.isfinite(mean)]
    ends = [_number(float(known[i]), percent, precision) if len(known) else "–" for i in (0, -1)]
    return _Cell(limits.curve(mean, levels), *ends)


def _aligned(rows: Sequence[Sequence[Entry | _Cell]], levels: str) -> list[list[Entry]]:
    """Cells as entries of one width, so that curves and arrows stand below each other."""
    arrow, none = ("→", "–") if levels is BLOCKS else (">", "-")
    columns = []
    for column in zip(*rows, strict=True):
        cells = [cell for cell in column if isinstance(cell, _Cell)]
        first, last = (max((len(cell[i] or "") for cell in cells), default=0) for i in (1, 2))
        made = []
        for cell in column:
            if isinstance(cell, Entry):
                made.append(cell)
            elif cell.curve is None:
                made.append(Entry(none, style="dim"))
            else:
                made.append(Entry(f"{cell.curve:<{WIDTH}} {cell.first:>{first}}{arrow}{cell.last:<{last}}"))
        columns.append(made)
    return [list(row) for row in zip(*columns, strict=True)]


def _number(value: float, percent: bool, precision: int) -> str:
    """Percent with `precision` decimals, else as many significant digits as fit four places."""
    if not math.isfinite(value):
        return "–"
    return f"{value * 100:.{precision}f}" if percent else f"{value:.{precision + 2}g}"


def notes(many: Sequence[Dynamics], levels: str = BLOCKS) -> list[str]:
    """What the sparklines mean, and which seeds are not in them."""
    arrow = "→" if levels is BLOCKS else ">"
    found = [f"Curves and first{arrow}last value: means over the n seeds that did not fail."]
    for each in many:
        title = each.run.facts.title
        if len(each.phases) > 1:
            spans = ", ".join(f"{p.name or 'unnamed'} {p.first}-{p.last}" for p in each.phases)
            found.append(f"{title}: phases {spans}.")
        found += failures(each.failed, title)
        if each.failed and all(status == FAILED for status in each.status):
            found.append(f"{title}: every seed failed; the curves are of the failed ones.")
        found += [f"{title}: seed {seed}: {reason}" for seed, reason in each.unreadable.items()]
        running = [str(s) for s, status in zip(each.seeds, each.status, strict=True) if status == RUNNING]
        if running:
            found.append(f"{title}: seed {', '.join(running)} in progress or interrupted.")
        if not each.table:
            found.append(f"{title}: no epoch has been recorded.")
        found += [f"{title}: {note}." for note in each.notes]
    return found
