"""What a report looks like, once for all formats: a `Sheet` of entries, and its form for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

GAP = 2  # columns of white between two table columns
MARKS = {"best": "*", "tied": "≈", "below": "↓", "above": "↑"}
STYLES = {"best": "bold green", "tied": "green", "below": "red", "above": "green"}
WIDEST_NOTE = 120


@dataclass(frozen=True)
class Entry:
    """One field of a table: a text, or a mean with its spread and mark (a key of MARKS)."""

    text: str
    spread: str = ""
    mark: str = ""
    style: str = ""


@dataclass(frozen=True)
class Sheet:
    """One table: `left` text columns first, then numbers; a rule before each row in `rules`.

    `hide` lists the columns a narrow terminal may lose, in that order. `caution` is printed above.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    notes: Sequence[str] = ()
    caution: str = ""
    left: int = 1
    rules: frozenset[int] = frozenset()
    hide: Sequence[int] = field(default=())


def literal(text: str) -> str:
    """`text` with every unprintable character shown as its escape, so that a terminal never obeys it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def number(value: float | None, *, percent: bool, precision: int) -> str:
    """A fraction in percent with `precision` decimals, any other number with one more; a dash for None."""
    if value is None:
        return "–"
    return f"{value * 100:.{precision}f}" if percent else f"{value:.{precision + 1}f}"


def widths(sheet: Sheet) -> list[int]:
    """Width of each column on a terminal."""
    columns = [_aligned(column, i, sheet) for i, column in enumerate(_columns(sheet))]
    heads = [cell_len(literal(head)) for head in sheet.heads]
    return [max([head, *(text.cell_len for text in c)]) for head, c in zip(heads, columns, strict=True)]


def natural_width(sheet: Sheet) -> int:
    """Width at which no column has to be hidden."""
    return sum(widths(sheet)) + GAP * (len(sheet.heads) - 1)


def terminal(sheet: Sheet, width: int) -> RenderableType:
    """The sheet for a terminal of `width` columns; hidden columns are named below the table."""
    every, hidden = widths(sheet), []
    spare = width - natural_width(sheet)
    for column in sheet.hide:
        if spare >= 0:
            break
        hidden.append(column)
        spare += every[column] + GAP
    notes = list(sheet.notes)
    if hidden:
        names = ", ".join(sheet.heads[column] for column in hidden)
        notes.append(f"Hidden at width {width}: {names} (a wider terminal or --format md shows all).")
    parts: list[RenderableType] = [Text(literal(sheet.title), style="bold")]
    if sheet.caution:
        parts.append(Text(literal(sheet.caution), style="yellow"))
    parts.append(_table(sheet, {i: every[i] for i in range(len(sheet.heads)) if i not in hidden}))
    caption = Table.grid(padding=(0, 1))
    caption.add_column(width=1)
    caption.add_column(max_width=min(width, WIDEST_NOTE) - 2)
    for note in notes:
        caption.add_row(Text("·", style="dim"), Text(literal(note), style="dim"))
    return Group(*parts, Text(), caption)


def _table(sheet: Sheet, shown: dict[int, int]) -> Table:
    """Columns `shown` {index: width}; numbers are padded here, because Rich would move short ones."""
    table = Table(box=box.HORIZONTALS, show_edge=False, pad_edge=False, border_style="dim", padding=(0, GAP - 1, 0, 0))
    columns = _columns(sheet)
    aligned = []
    for i, width in shown.items():
        texts, head = _aligned(columns[i], i, sheet), Text(literal(sheet.heads[i]))
        if i >= sheet.left:
            for text in (head, *texts):
                text.pad_left(width - text.cell_len)
        table.add_column(head, overflow="fold", header_style="bold", no_wrap=i >= sheet.left)
        aligned.append(texts)
    for row, entries in enumerate(zip(*aligned, strict=True)):
        if row in sheet.rules:
            table.add_section()
        table.add_row(*entries)
    return table


def _columns(sheet: Sheet) -> list[list[Entry]]:
    return [[row[i] for row in sheet.rows] for i in range(len(sheet.heads))]


def _aligned(column: list[Entry], index: int, sheet: Sheet) -> list[Text]:
    """Entries of one column as texts; in number columns marks, means and spreads stand below each other."""
    if index < sheet.left:
        return [Text(literal(entry.text), style=entry.style) for entry in column]
    spread = max((cell_len(entry.spread) for entry in column), default=0)
    means = max((cell_len(entry.text) for entry in column), default=0)
    marked = any(entry.mark for entry in column)
    texts = []
    for entry in column:
        text, style = Text(), STYLES.get(entry.mark, entry.style)
        text.append(MARKS.get(entry.mark, " ") if marked else "", style=style)
        text.append(f"{literal(entry.text):>{means}}", style=style if entry.mark != "tied" else "")
        text.append(f" ± {entry.spread:>{spread}}" if entry.spread else " " * (spread + 3 * (spread > 0)), "dim")
        texts.append(text)
    return texts
