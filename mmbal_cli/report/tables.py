"""What a report looks like, once for all formats: a `Sheet` of entries, and its form for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

GAP = 2  # columns of white between two table columns
MARKS = {"best": "*", "tied": "≈", "below": "↓", "above": "↑"}
STYLES = {"best": "bold green", "tied": "green", "below": "red", "above": "green"}
WIDEST_NOTE = 120
BREAK = re.compile(r"(?<=[^\w(\[{\\])(?=\S)|(?<=_)|(?=[(\[{])")  # behind a space or sign, before a bracket
TEXT_WIDTH, SHORTEST_TEXT = 16, 12  # a text column keeps 16 columns (or half of the terminal) while others can go


@dataclass(frozen=True)
class Entry:
    """One field of a table: a text, or a mean with its spread, mark (a key of MARKS) and rank in its column.

    `rank` is 1 for the best and 2 for the second of a column (LaTeX, markdown and HTML show it), else 0;
    `remark` is shown in brackets behind the number ("n=4").
    """

    text: str
    spread: str = ""
    mark: str = ""
    style: str = ""
    rank: int = 0
    remark: str = ""

    @property
    def best(self) -> bool:
        """To be shown in bold."""
        return self.rank == 1 or self.mark == "best"


@dataclass(frozen=True)
class Sheet:
    """One table: `left` text columns first, then numbers; a rule before each row in `rules`.

    `hide` lists the columns a narrow terminal may lose, in that order. `caution` is printed above. `over` has the
    upper part of each head (a data set over its metrics), "" for none; neighbours with the same one share it.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    notes: Sequence[str] = ()
    caution: str = ""
    left: int = 1
    rules: frozenset[int] = frozenset()
    hide: Sequence[int] = field(default=())
    over: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """Each head in one line."""
        over = self.over or [""] * len(self.heads)
        return [" ".join(filter(None, pair)) for pair in zip(over, self.heads, strict=True)]

    @property
    def spans(self) -> list[tuple[str, int]]:
        """The upper heads with the number of columns below each; empty without any."""
        return [(text, len(list(group))) for text, group in groupby(self.over)] if any(self.over) else []


def literal(text: str) -> str:
    """`text` with every unprintable character shown as its escape, so that a terminal never obeys it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def number(value: float | None, *, percent: bool, precision: int) -> str:
    """A fraction in percent with `precision` decimals, any other number with one more; a dash for None.

    Negative numbers have a minus sign, and what rounds to zero has none.
    """
    if value is None:
        return "–"
    text = f"{value * 100:z.{precision}f}" if percent else f"{value:z.{precision + 1}f}"
    return text.replace("-", "−")


def with_sign(text: str) -> str:
    """The `number` of a difference with its sign; 0 and a dash have none."""
    positive = text[:1].isdigit() and any(digit in "123456789" for digit in text)
    return f"+{text}" if positive else text


def reading(sheet: Sheet) -> list[str]:
    """The notes for formats that show the best value bold and the second underlined, which they say."""
    entries = [entry for row in sheet.rows for entry in row]
    second = ", underlined: second" if any(entry.rank == 2 for entry in entries) else ""
    star = f"{MARKS['best']} best"
    notes = [note.replace(star, f"bold: best{second}") for note in sheet.notes]
    if any(entry.best for entry in entries) and not any(star in note for note in sheet.notes):
        notes.append(f"Bold: best{second}.")
    return notes


def widths(sheet: Sheet) -> list[int]:
    """Width of each column on a terminal."""
    columns = [_aligned(column, i, sheet) for i, column in enumerate(_columns(sheet))]
    heads = [max(cell_len(line) for line in head) for head in _heads(sheet)]
    return [max([head, *(text.cell_len for text in c)]) for head, c in zip(heads, columns, strict=True)]


def widest(sheet: Sheet) -> list[tuple[str, str]]:
    """The longest spread and the longest remark of each column; other fields keep their room."""
    found = []
    for column in _columns(sheet):
        spreads, remarks = [entry.spread for entry in column], [entry.remark for entry in column]
        found.append((max(spreads, key=len, default=""), max(remarks, key=len, default="")))
    return found


def natural_width(sheet: Sheet) -> int:
    """Width at which no column has to be hidden."""
    return sum(widths(sheet)) + GAP * (len(sheet.heads) - 1)


def terminal(sheet: Sheet, width: int) -> RenderableType:
    """The sheet for a terminal of `width` columns; hidden columns are named below the table.

    Columns go in the order of `sheet.hide`; then texts are folded, then columns go from the right.
    """
    every, hidden = _fit(sheet, width)
    notes = list(sheet.notes)
    if hidden:
        names = ", ".join(sheet.names[column] for column in hidden)
        notes.append(f"Hidden at width {width}: {names} (a wider terminal or --format md shows all).")
    parts: list[RenderableType] = [Text(literal(sheet.title), style="bold")]
    if sheet.caution:
        parts.append(Text(literal(sheet.caution), style="yellow"))
    parts.append(_table(sheet, {i: every[i] for i in range(len(sheet.heads)) if i not in hidden}))
    caption = Table.grid(padding=(0, 1))
    caption.add_column(width=1)
    caption.add_column(max_width=max(min(width, WIDEST_NOTE) - 2, 1))
    for note in notes:
        caption.add_row(Text("·", style="dim"), Text(literal(note), style="dim"))
    return Group(*parts, Text(), caption)


def _fit(sheet: Sheet, width: int) -> tuple[list[int], list[int]]:
    """Width of each column on a terminal of `width`, and the hidden ones in the order in which they went."""
    every = widths(sheet)
    every[: sheet.left] = [min(each, max(TEXT_WIDTH, width // 2)) for each in every[: sheet.left]]
    spare = width - sum(every) - GAP * (len(every) - 1)
    hidden: list[int] = []
    for column in (*sheet.hide, -1, *reversed(range(sheet.left + 1, len(every)))):
        if spare >= 0:
            break
        if column < 0:
            folded = [min(each, SHORTEST_TEXT) for each in every[: sheet.left]]
            spare += sum(every[: sheet.left]) - sum(folded)
            every[: sheet.left] = folded
        elif column not in hidden:
            hidden.append(column)
            spare += every[column] + GAP
    if sheet.left and spare > 0:  # what is left over goes back to the first text
        every[0] = min(every[0] + spare, widths(sheet)[0])
    return every, hidden


def _table(sheet: Sheet, shown: dict[int, int]) -> Table:
    """Columns `shown` {index: width}; numbers are padded here, because Rich would move short ones."""
    table = Table(box=box.HORIZONTALS, show_edge=False, pad_edge=False, border_style="dim", padding=(0, GAP - 1, 0, 0))
    columns, heads = _columns(sheet), _heads(sheet)
    aligned = []
    for i, width in shown.items():
        texts, lines = _aligned(columns[i], i, sheet), [Text(line) for line in heads[i]]
        if i >= sheet.left:
            for text in (*lines, *texts):
                text.pad_left(width - text.cell_len)
        else:
            texts = [Text(_folded(text.plain, width), style=text.style) for text in texts]
        head = Text("\n").join(lines)
        table.add_column(head, overflow="fold", header_style="bold", no_wrap=i >= sheet.left, max_width=width)
        aligned.append(texts)
    for row, entries in enumerate(zip(*aligned, strict=True)):
        if row in sheet.rules:
            table.add_section()
        table.add_row(*entries)
    return table


def _folded(text: str, width: int) -> str:
    """`text` in lines of at most `width`, broken behind a space or sign rather than inside a word."""
    if cell_len(text) <= width:
        return text
    lines = [""]
    for word in filter(None, BREAK.split(text)):
        if lines[-1] and cell_len(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines)


def _heads(sheet: Sheet) -> list[list[str]]:
    """Lines of each head: the upper part, empty where only others have one, and the head."""
    if not any(sheet.over):
        return [[literal(head)] for head in sheet.heads]
    return [[literal(over), literal(head)] for over, head in zip(sheet.over, sheet.heads, strict=True)]


def _columns(sheet: Sheet) -> list[list[Entry]]:
    return [[row[i] for row in sheet.rows] for i in range(len(sheet.heads))]


def _aligned(column: list[Entry], index: int, sheet: Sheet) -> list[Text]:
    """Entries of one column as texts; in number columns marks, means and spreads stand below each other."""
    if index < sheet.left:
        return [Text(literal(entry.text), style=entry.style) for entry in column]
    bodies = [literal(entry.text) for entry in column]
    tails = [(f" ± {literal(entry.spread)}" if entry.spread else "") for entry in column]
    ends = [(f" ({literal(entry.remark)})" if entry.remark else "") for entry in column]
    body, tail, end = (max(map(cell_len, texts), default=0) for texts in (bodies, tails, ends))
    marked = any(entry.mark for entry in column)
    found = []
    for entry, *texts in zip(column, bodies, tails, ends, strict=True):
        text, style = Text(), STYLES.get(entry.mark, entry.style)
        text.append(MARKS.get(entry.mark, " ") if marked else "", style=style)
        text.append(_right(texts[0], body), style=style if entry.mark != "tied" else "")
        text.append(f" ± {_right(literal(entry.spread), tail - 3)}" if entry.spread else " " * tail, "dim")
        text.append(texts[2] + " " * (end - cell_len(texts[2])), "yellow")
        found.append(text)
    return found


def _right(text: str, width: int) -> str:
    """`text` flush right in `width` terminal columns (a Chinese letter takes two)."""
    return " " * (width - cell_len(text)) + text
