"""Plain listings on stdout: bold headers, no lines, literal text, never cut where the output is a file or pipe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from mmbal_cli.cli.console import out

PIPE_WIDTH = 10_000  # columns: a pipe has no edge to cut at


def show_rows(headers: Iterable[str], rows: Iterable[Iterable[Any]], console: Console | None = None) -> None:
    """Print rows of cells under headers, on stdout unless told; None is shown as a dash."""
    table = Table(*headers, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text("-" if cell is None else str(cell), overflow="fold") for cell in row))
    _print(table, console or out())


def show_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Print `name value` pairs."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in facts:
        table.add_row(Text(key, style="bold"), Text(str(value), overflow="fold"))
    _print(table, out())


def show_parts(parts: Iterable[RenderableType]) -> None:
    """Print tables and lines on stdout, never cut where the output is a file or pipe."""
    for part in parts:
        _print(part, out())


def _print(table: RenderableType, console: Console) -> None:
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(table)


def say(line: str) -> None:
    """Print one line on stdout, literally and unwrapped."""
    out().print(Text(line), soft_wrap=True)
