"""`mmbal audit`: was the test set sealed, and how much would selecting on it have added."""

from __future__ import annotations

from typing import Annotated

import typer

from mmbal_cli.cli.compare import metric_names
from mmbal_cli.cli.options import RUNS, RunNames, Runs
from mmbal_cli.cli.output import Formats, Output, Precision, Report, deliver, say_left_out
from mmbal_cli.errors import EXIT_FINDINGS, UsageError


def audit(
    names: RunNames = None,
    runs: Runs = RUNS,
    metric: Annotated[str, typer.Option("--metric", "-m", help="The figure whose inflation is measured.")] = "accuracy",
    format: Formats = None,
    precision: Precision = 2,
    output: Output = None,
) -> None:
    """Check how epochs were selected; of runs with --protocol legacy, print what selecting on TEST adds.

    Exit code 1 when a selection does not follow from a run's own records, or a run cannot be read.
    """
    chosen = metric_names(metric)
    if len(chosen) > 1:
        raise UsageError("audit takes one metric.", "Run it once for each.")

    from mmbal_cli.report.audit import audit as audit_runs
    from mmbal_cli.report.audit import document, lines, sheets
    from mmbal_cli.report.runs import find_runs, read_runs

    found, unreadable = read_runs(find_runs(names or [], runs))
    audits = audit_runs(found, chosen[0])
    report = Report(
        lambda digits: sheets(audits, digits),
        lambda: document(audits) | {"unreadable": unreadable},
        lambda: lines(audits),
    )
    deliver(report, format, output, precision)
    say_left_out(unreadable)
    if unreadable or any(row.faults for each in audits for row in each.rows):
        raise typer.Exit(EXIT_FINDINGS)
