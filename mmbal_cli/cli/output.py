"""How `eval` and `compare` hand over a report: one of six formats, to stdout or into a file."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbal_cli.cli.console import note, out
from mmbal_cli.errors import EXIT_FINDINGS, UsageError

if TYPE_CHECKING:
    from mmbal_cli.report.tables import Sheet


class Format(StrEnum):
    """Output formats of reports."""

    table = "table"
    md = "md"
    csv = "csv"
    json = "json"
    latex = "latex"
    html = "html"


Formats = Annotated[
    Format | None, typer.Option("--format", "-f", help="Output format; by default that of -o's suffix, else table.")
]
Precision = Annotated[int, typer.Option("--precision", min=0, max=6, help="Decimals of percentages.")]


def check_output(output: Path | None) -> Path | None:
    """`output` when a file can be written there, before any work is done. Raises UsageError when it cannot."""
    if output is None:
        return None
    try:
        folder = output.resolve().parent
        place = output if output.exists() else folder
        if output.is_dir():
            raise UsageError(f"{output} is a folder.", "Expected the name of a file to write.", f"-o {output}/NAME")
        if not folder.is_dir():
            raise UsageError(f"{output} cannot be written: there is no folder {folder}.", repair=f"mkdir -p {folder}")
    except (OSError, RuntimeError) as error:  # a name that is too long, a link to itself
        raise UsageError(f"{output} cannot be written: {getattr(error, 'strerror', error)}.") from error
    if not os.access(place, os.W_OK):
        raise UsageError(
            f"{output} cannot be written: {place} is read-only.", "Expected a place that you may write to."
        )
    return output


Output = Annotated[
    Path | None, typer.Option("--out", "-o", callback=check_output, help="Write to this file instead of stdout.")
]


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
        Format.html: lambda: export.html_page(report.sheets(precision)),
        Format.csv: lambda: export.csv_text(report.lines()),
        Format.json: lambda: export.json_text(report.document()),
    }
    text = makers[format]()
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()  # a full disk is an error here, not a line of Python's when it ends
        return
    write_text(output, text)
    note(f"wrote {output} ({format})")


def say_left_out(runs: Mapping[str, str]) -> None:
    """Name the runs that could not be read, {name: reason}."""
    for name, reason in runs.items():
        note(f"left out: {name}: {reason}")


def end_with(unreadable: Mapping[str, str], problems: Mapping[str, str], words: str) -> None:
    """Name the runs that could not be read and those without numbers; with any of them exit code 1."""
    say_left_out(unreadable)
    for name, reason in problems.items():
        note(f"{words}: {name}: {reason}")
    if unreadable or problems:
        raise typer.Exit(EXIT_FINDINGS)


def write_bytes(output: Path, data: bytes) -> None:
    """Write a file that the user named, complete or not at all. Raises UsageError when that cannot be done.

    The data are written beside the file and renamed, so that a full disk or Ctrl-C leaves what was there before;
    what is no plain file (/dev/stdout, a pipe) is written to directly.
    """
    check_output(output)
    target = output.resolve()
    part = target.with_name(f".mmbal-{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        if output.exists() and not target.is_file():
            output.write_bytes(data)
            return
        part.write_bytes(data)
        part.replace(target)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}.", f"It needs {len(data):,} bytes.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def write_text(output: Path, text: str) -> None:
    """Write a text file that the user named, in UTF-8; as `write_bytes`."""
    write_bytes(output, text.encode("utf-8"))
