"""`mmbal report calibration`: how far confidence can be believed, and what a temperature from validation mends."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmbal_cli.cli.compare import Saved
from mmbal_cli.cli.console import note
from mmbal_cli.cli.options import RUNS, Runs, Split
from mmbal_cli.cli.output import Formats, Output, Precision, Report, deliver, say_left_out
from mmbal_cli.errors import EXIT_FINDINGS


def calibration(
    names: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN", help="Run folders or names; all of --runs by default.")
    ] = None,
    runs: Runs = RUNS,
    split: Saved = Split.test,
    format: Formats = None,
    precision: Precision = 1,
    output: Output = None,
) -> None:
    """Show calibration of RUNs: ECE, NLL, Brier and over-confidence of the fused prediction and of each modality.

    Also after scaling with a temperature that is fitted on validation predictions, each seed and part by itself.

    Works from saved predictions. Exit code 1 when a run could not be scored.
    """
    from mmbal_cli.report.calibration import calibration as calibrate
    from mmbal_cli.report.calibration import document, lines, sheets
    from mmbal_cli.report.runs import find_runs, read_runs

    readable, unreadable = read_runs(find_runs(names or [], runs))
    found = calibrate(readable, split.value)
    report = Report(
        lambda digits: sheets(found, digits),
        lambda: document(found) | {"unreadable": unreadable},
        lambda: lines(found),
    )
    deliver(report, format, output, precision)
    say_left_out(unreadable)
    problems = [each for each in found if each.problem]
    for each in problems:
        note(f"not scored: {each.run.name}: {each.problem}")
    if problems or unreadable:
        raise typer.Exit(EXIT_FINDINGS)
