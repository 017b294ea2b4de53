"""`mmbal report calibration`: how far confidence can be believed, and what a temperature from validation mends."""

from __future__ import annotations

from mmbal_cli.cli.compare import Saved
from mmbal_cli.cli.options import RUNS, RunNames, Runs, Split
from mmbal_cli.cli.output import Formats, Output, Precision, Report, deliver, end_with


def calibration(
    names: RunNames = None,
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
    end_with(unreadable, {each.run.name: each.problem for each in found if each.problem}, "not scored")
