"""How `eval` and `compare` hand over a report: one of five formats, to stdout or into a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbal_cli.cli.console import note, out
from mmbal_cli.errors import UsageError

if TYPE_CHECKING:
    from mmbal_cli.report.tables import Sheet


class Format(StrEnum):
    """Output formats of reports."""

    table = "table"
    md = "md"
    csv = "csv"
    json = "json"
    latex = "latex"


Formats = Annotated[
    Format | None, typer.Option("--format", "-f", help="Output format; by default that of -o's suffix, else table.")
]
Precision = Annotated[int, typer.Option("--precision", min=0, max=6, help="Decimals of percentages.")]
Output = Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file instead of stdout.")]


@dataclass(frozen=True)
class Report:
    """One report in its three forms, each made when asked for."""

    sheets: Callable[[int], list[Sheet]]
    document: Callable[[], dict[str, Any]]
    lines: Callable[[], list[list[Any]]]


def deliver(report: Report, format: Format | None, output: Path | None, precision: int) -> None:
    """Print or write `report`. Raises UsageError when the file cannot be written."""
    from mmbal_cli.report import export
    from mmbal_cli.report.tables import natural_width, terminal

    if format is None:
        format = Format(export.SUFFIXES.get(output.suffix.lower() if output else "", "table"))
    if format is Format.table and output is None:
        console = out()
        for sheet in report.sheets(precision):
            if not console.is_terminal and "COLUMNS" not in os.environ:  # a pipe has no width to keep to
                console.width = max(natural_width(sheet), 100)
            console.print(terminal(sheet, console.width))
            console.print()
        return
    makers: dict[Format, Callable[[], str]] = {
        Format.table: lambda: export.plain(report.sheets(precision)),
        Format.md: lambda: export.markdown(report.sheets(precision)),
        Format.latex: lambda: export.latex(report.sheets(precision)),
        Format.csv: lambda: export.csv_text(report.lines()),
        Format.json: lambda: export.json_text(report.document()),
    }
    text = makers[format]()
    if output is None:
        sys.stdout.write(text)
        return
    write_text(output, text)
    note(f"wrote {output} ({format})")


def write_text(output: Path, text: str) -> None:
    """Write a file that the user named. Raises UsageError when that cannot be done."""
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}.") from error
