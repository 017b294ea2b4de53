"""`mmbal report dynamics`: what training recorded, as sparklines or in long format."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mmbal_cli.cli.console import note
from mmbal_cli.cli.options import RUNS, RunNames, Runs
from mmbal_cli.cli.output import Formats, Output, Precision, Report, deliver, say_left_out
from mmbal_cli.errors import EXIT_FINDINGS


def dynamics(
    names: RunNames = None,
    runs: Runs = RUNS,
    column: Annotated[
        str | None, typer.Option("--column", metavar="REGEX", help="Columns of the records; the main ones by default.")
    ] = None,
    format: Formats = None,
    precision: Precision = 1,
    output: Output = None,
) -> None:
    """Show how training went: accuracies, losses, gradient norms and coefficients by epoch, all methods on one scale.

    CSV and JSON hold every value of every seed (all columns without --column).

    Exit code 1 when a run or its records cannot be read.
    """
    from mmbal_cli.report.dynamics import document, families, lines
    from mmbal_cli.report.dynamics import dynamics as read
    from mmbal_cli.report.runs import find_runs, read_runs
    from mmbal_cli.report.sparklines import BLOCKS, PLAIN, sheets

    found, unreadable = read_runs(find_runs(names or [], runs))
    many = [read(run) for run in found]
    families(many, column)  # a wrong pattern is refused before anything is written
    levels = PLAIN if output is None and not _prints(BLOCKS + "→") else BLOCKS
    report = Report(
        lambda digits: sheets(many, digits, column, levels),
        lambda: document(many, column) | {"unreadable": unreadable},
        lambda: lines(many, column),
    )
    deliver(report, format, output, precision)
    say_left_out(unreadable)
    damaged = [(each.run.name, seed, reason) for each in many for seed, reason in each.unreadable.items()]
    for name, seed, reason in damaged:
        note(f"left out: {name}: seed {seed}: {reason}")
    if damaged or unreadable:
        raise typer.Exit(EXIT_FINDINGS)


def _prints(text: str) -> bool:
    """Whether stdout's encoding has all these characters."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
