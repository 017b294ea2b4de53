"""A comparison turned as the reader wants it: any of method, data set, metric and seed as rows or columns.

`method` by `dataset, metric` is the wide table of the literature. Figures that are not comparable (blocks that
stand apart) never meet in one table: each such block has tables of its own, with the reason above them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from mmbal_cli.errors import UsageError, nearest
from mmbal_cli.report.captions import HAND_MADE, RECONSTRUCTED, caution, failures
from mmbal_cli.report.metrics import METRICS
from mmbal_cli.report.runs import coverage_note
from mmbal_cli.report.statistics import summary
from mmbal_cli.report.tables import Entry, Sheet, number

if TYPE_CHECKING:
    from mmbal_cli.report.blocks import Block, Cell, Row
    from mmbal_cli.report.compare import Comparison

AXES = ("method", "dataset", "metric", "seed")
METHOD, DATASET, METRIC, SEED = AXES
Key = tuple[str, ...]


def parse_axes(rows: str | None, cols: str | None) -> tuple[Key, Key]:
    """Axes of rows and columns from the lists of a user ("dataset,metric").

    Where only one is given, the other is method, else data set and metric, else seed. Raises UsageError for an
    unknown or repeated axis, and for a list without any.
    """
    first, second = _axes(rows, "--rows"), _axes(cols, "--cols")
    if repeated := [axis for axis, count in Counter(first + second).items() if count > 1]:
        raise UsageError(f"The axis {repeated[0]} is named twice.", f"Each of {', '.join(AXES)} can be used once.")
    taken = {*first, *second}
    free = [tuple(axis for axis in axes if axis not in taken) for axes in ((METHOD,), (DATASET, METRIC), (SEED,))]
    default = next(filter(None, free), ())
    first, second = first or default, second or default
    if not first or not second:
        raise UsageError("Every axis is on one side.", f"Share {', '.join(AXES)} between --rows and --cols.")
    return first, second


def _axes(text: str | None, option: str) -> Key:
    if text is None:
        return ()
    if not text.strip(", "):
        raise UsageError(f"{option} names no axis.", f"The axes are {', '.join(AXES)}.")
    names = [name.strip().lower().replace("_", "").replace("-", "") for name in text.split(",") if name.strip()]
    names = [name if name in AXES else name.removesuffix("s") for name in names]
    for name in names:
        if name not in AXES:
            raise UsageError(f"Unknown axis '{name}'.", nearest(name, AXES))
    return tuple(names)


@dataclass(frozen=True)
class _Item:
    """One figure: its place on every axis but the seed, and where it comes from."""

    place: Mapping[str, str]
    block: Block
    row: Row
    at: int  # place of the row in its block
    cell: Cell

    @cached_property
    def values(self) -> dict[int, float]:
        """{seed: value}, the defined ones."""
        return {seed: value for seed, value in self.cell.values.items() if np.isfinite(value)}


def pivot(comparison: Comparison, rows: Sequence[str], cols: Sequence[str], precision: int = 2) -> list[Sheet]:
    """The fused metrics of `comparison` with axes `rows` and `cols`, each of AXES; one sheet for each value of others.

    The seed is the exception: unnamed, its values are averaged (mean ± sample standard deviation, n where it is not
    the usual one). Marks and ranks are among methods with all else equal. Raises UsageError for wrong axes.
    """
    rows, cols = parse_axes(",".join(rows), ",".join(cols))
    together = [block for block in comparison.blocks if not block.apart]
    groups = [together, *([block] for block in comparison.blocks if block.apart)]
    found = [sheet for group in groups if group for sheet in _sheets(group, rows, cols, precision)]
    if found and comparison.unseen:
        note = f"All rows are hidden of a table on {', '.join(comparison.unseen)}."
        found[0] = replace(found[0], notes=[*found[0].notes, note])
    return found


def _sheets(blocks: Sequence[Block], rows: Key, cols: Key, precision: int) -> Iterator[Sheet]:
    items = list(_items(blocks))
    orders = _orders(blocks, items)
    others = [axis for axis in AXES if axis not in (*rows, *cols, SEED)]
    for values in product(*(orders[axis] for axis in others)):
        fixed = dict(zip(others, values, strict=True))
        chosen = [item for item in items if all(item.place[axis] == value for axis, value in fixed.items())]
        if chosen:
            yield _Pivot(chosen, orders, rows, cols, precision).sheet(list(fixed.values()))


def _items(blocks: Iterable[Block]) -> Iterator[_Item]:
    for block in blocks:
        seen: Counter[str] = Counter()
        for at, row in enumerate(block.rows):
            seen[row.label] += 1
            label = row.label if seen[row.label] == 1 else f"{row.label} [{row.run.name}]"
            for column in block.columns:
                if column.modality is None:
                    place = {METHOD: label, DATASET: _where(block), METRIC: column.key}
                    yield _Item(place, block, row, at, row.cells[column.key])


def _where(block: Block) -> str:
    return block.facts.data.where(block.facts.dataset)


def _orders(blocks: Sequence[Block], items: Sequence[_Item]) -> dict[str, list[str]]:
    """Values of each axis in the order in which they are shown.

    Methods by their mean relative place in the blocks, references first where every block has them first.
    """
    places: dict[str, list[float]] = {}
    ranks: dict[str, int] = {}
    for item in items:
        places.setdefault(item.place[METHOD], []).append(item.at / len(item.block.rows))
        ranks[item.place[METHOD]] = min(item.row.rank, ranks.get(item.place[METHOD], item.row.rank))
    ranked = all([row.rank for row in block.rows] == sorted(row.rank for row in block.rows) for block in blocks)
    methods = sorted(places, key=lambda name: (ranks[name] if ranked else 0, float(np.mean(places[name]))))
    seeds = sorted({seed for item in items for seed in item.values})
    return {
        METHOD: methods,
        SEED: [str(seed) for seed in seeds],
        **{axis: list(dict.fromkeys(item.place[axis] for item in items)) for axis in (DATASET, METRIC)},
    }


class _Pivot:
    """The making of one sheet from `items`, which agree on the axes that are neither rows nor columns."""

    def __init__(
        self,
        items: Sequence[_Item],
        orders: Mapping[str, list[str]],
        rows: Key,
        cols: Key,
        precision: int,
    ) -> None:
        self.items, self.orders, self.rows, self.cols, self.precision = items, orders, rows, cols, precision
        self.by_seed = SEED in (*rows, *cols)
        self.blocks = list({id(item.block): item.block for item in items}.values())
        counts = Counter(len(item.values) for item in items if item.values)
        self.usual = counts.most_common(1)[0][0] if counts else 0

    def sheet(self, fixed: Sequence[str]) -> Sheet:
        """The table; `fixed` are the values of the unnamed axes, for the title."""
        cells = self._cells()
        entries = {place: self._entry(*cell) for place, cell in cells.items()}
        downs = self._present(self.rows, [place[0] for place in cells])
        acrosses = self._present(self.cols, [place[1] for place in cells])
        empty = Entry("–", style="dim")
        table = [
            [
                *self._left(down, downs[i - 1] if i else None),
                *(entries.get((down, across), empty) for across in acrosses),
            ]
            for i, down in enumerate(downs)
        ]
        heads = [*self.rows, *(self._title(self.cols[-1], across[-1]) for across in acrosses)]
        over = [" · ".join(map(self._title, self.cols[:-1], across[:-1])) for across in acrosses]
        named = [METRICS[value].title if value in METRICS else value for value in fixed]
        return Sheet(
            " · ".join([*named, f"{', '.join(self.rows)} by {', '.join(self.cols)}", self.blocks[0].split]),
            heads,
            table,
            [note for note in self._notes(entries.values()) if note],
            next(filter(None, (caution(block, first=False) for block in self.blocks)), ""),
            left=len(self.rows),
            rules=self._rules(downs),
            hide=[*reversed(range(len(self.rows) + 1, len(heads)))],
            over=[*[""] * len(self.rows), *over] if any(over) else (),
        )

    def _cells(self) -> dict[tuple[Key, Key], tuple[_Item, str | None]]:
        """{(row, column): (item, seed)}; the seed is None where seeds are averaged."""
        cells: dict[tuple[Key, Key], tuple[_Item, str | None]] = {}
        for item in self.items:
            for seed in map(str, item.values) if self.by_seed else (None,):
                place = {**item.place, SEED: seed or ""}
                key = (tuple(place[axis] for axis in self.rows), tuple(place[axis] for axis in self.cols))
                cells[key] = (item, seed)
        return cells

    def _present(self, axes: Key, keys: Iterable[Key]) -> list[Key]:
        """The keys that occur, in the order of their axes."""
        order = [{value: i for i, value in enumerate(self.orders[axis])} for axis in axes]
        return sorted(set(keys), key=lambda key: [place[value] for place, value in zip(order, key, strict=True)])

    def _rank(self, item: _Item, seed: str) -> int:
        """1 or 2 for the best shown methods of one data set and metric with this seed, else 0."""
        key = item.place[METRIC]
        sign = 1 if METRICS[key].larger_is_better else -1
        rivals = [row.cells[key].values.get(int(seed), np.nan) for row in item.block.rows]
        merits = [round(sign * value, 12) for value in rivals if np.isfinite(value)]
        own = round(sign * item.values[int(seed)], 12)
        rank = 1 + sum(merit > own for merit in merits)
        return rank if rank < 3 and len(merits) > 1 else 0

    def _entry(self, item: _Item, seed: str | None) -> Entry:
        percent = METRICS[item.place[METRIC]].percent
        if seed:
            rank = self._rank(item, seed)
            text = number(item.values[int(seed)], percent=percent, precision=self.precision)
            return Entry(text, mark="best" if rank == 1 else "", rank=rank)
        values = summary(item.values)
        if values.mean is None:
            return Entry("–", style="dim")
        mean, sd = (number(each, percent=percent, precision=self.precision) for each in (values.mean, values.sd))
        remark = f"n={values.n}" if values.n != self.usual else ""
        return Entry(mean, "" if values.sd is None else sd, item.cell.mark, rank=item.cell.rank, remark=remark)

    def _left(self, key: Key, before: Key | None) -> list[Entry]:
        """The texts of a row; what is as in the row before is not repeated."""
        fields = []
        for i, (axis, value) in enumerate(zip(self.rows, key, strict=True)):
            repeated = before is not None and key[: i + 1] == before[: i + 1] and i + 1 < len(key)
            reference = axis == METHOD and any(
                item.place[METHOD] == value and not item.row.is_other for item in self.items
            )
            fields.append(
                Entry(
                    "" if repeated else METRICS[value].title if axis == METRIC else value,
                    style="cyan" if reference else "",
                )
            )
        return fields

    def _title(self, axis: str, value: str) -> str:
        return METRICS[value].title if axis == METRIC else f"seed {value}" if axis == SEED else value

    def _rules(self, downs: Sequence[Key]) -> frozenset[int]:
        """Before each new value of the first of several row axes, and between reference and other methods."""
        other = {item.place[METHOD]: item.row.is_other for item in self.items}
        groups = [(down[0] if len(down) > 1 else "") if self.rows[0] != METHOD or len(down) > 1 else other[down[0]]
                  for down in downs]  # fmt: skip
        return frozenset(i for i in range(1, len(groups)) if groups[i] != groups[i - 1])

    def _notes(self, entries: Iterable[Entry]) -> Iterator[str]:
        entries = list(entries)
        shown = {item.place[METRIC] for item in self.items}
        apart = ["NLL in nats" if "nll" in shown else "", "Brier from 0 to 2" if "brier" in shown else ""]
        unit = "percent" + (f" ({', '.join(filter(None, apart))})" if any(apart) else "")
        if self.by_seed:
            yield f"The value of each seed, in {unit}."
        elif self.usual == 1:
            yield f"One seed, which has no standard deviation, in {unit}."
        else:
            odd = " unless the cell says otherwise" if any(entry.remark for entry in entries) else ""
            yield f"Mean ± sample standard deviation (divisor n − 1) over n = {self.usual} seeds{odd}, in {unit}."
        marks = {entry.mark for entry in entries}
        legend = ["* best" if "best" in marks else "", "≈ not distinguishable from it" if "tied" in marks else ""]
        if any(legend):
            same = "data set, metric and seed" if self.by_seed else "data set and metric"
            yield f"For each {same}, {'; '.join(filter(None, legend))}."
        if any(item.row.run.facts.note == RECONSTRUCTED for item in self.items):
            yield f"({RECONSTRUCTED}): the full paper or code could not be had; what is missing was designed by us."
        if any(entry.text == "–" for entry in entries):
            yield "–: no figure."
        for block in self.blocks:
            yield from self._about(block)

    def _about(self, block: Block) -> Iterator[str]:
        data, where = block.facts.data, _where(block)
        facts = [f"{block.samples:,} samples, {len(data.classes)} classes"] if block.samples else []
        facts.append(f"data {data.fingerprint[:8]}, split {data.split_title}")
        facts += [data.split_note] if data.split_note else []
        if "selection" in block.facts.protocol:
            facts.append(f"epoch selected by {block.facts.protocol['selection']}")
        if made := [m for m, encoder in data.modalities.items() if encoder.startswith(HAND_MADE)]:
            facts.append(f"hand-made descriptors ({', '.join(made)})")
        yield f"{where}: {'; '.join(facts)}."
        coverage = data.coverage(block.split, block.samples, block.kept)
        if text := coverage_note(block.split, coverage, data.subset_title):
            yield f"{where}, {text}"
        if block.absent:
            yield f"{where}: no sample here of {', '.join(block.absent)}."
        rows = list({id(item.row): item.row for item in self.items if item.block is block}.values())
        if block.hidden:
            taking = "are not ranked with the others here" if self.by_seed else "take part in every mark and rank"
            yield f"{where}: {len(block.hidden)} rows are hidden; they {taking}."
        for row in rows:
            yield from failures(row.failed, f"{where}, {row.label}")
        if empty := [row.label for row in rows if not row.seeds and not row.failed]:
            yield f"{where}: no finished seed yet: {', '.join(empty)}."
