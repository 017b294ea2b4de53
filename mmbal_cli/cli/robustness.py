"""`mmbal report robustness`: what is left of a result when modalities are absent, noisy or another sample's."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from mmbal_cli.cli.compare import Saved
from mmbal_cli.cli.console import stage
from mmbal_cli.cli.options import CACHE, RUNS, Cache, Device, RunNames, Runs, Split
from mmbal_cli.cli.output import Formats, Output, Precision, Report, deliver, end_with
from mmbal_cli.errors import UsageError


class Absence(StrEnum):
    """What stands for an absent modality."""

    masked = "masked"
    zeros = "zeros"
    mean = "mean"
    resampled = "resampled"


def robustness(
    names: RunNames = None,
    runs: Runs = RUNS,
    cache: Cache = CACHE,
    split: Saved = Split.test,
    metric: Annotated[str, typer.Option("--metric", "-m", help="accuracy, macro_f1, map, ...")] = "accuracy",
    absent: Annotated[
        Absence, typer.Option(help="Absent modalities: declared missing, raw zeros, training mean, random samples.")
    ] = Absence.masked,
    snr: Annotated[
        str, typer.Option(help="Noise levels in dB, falling; 0 = as strong as the signal.")
    ] = "20,10,5,0,-5",
    draws: Annotated[int, typer.Option(min=1, help="Random draws of noise and of wrong pairs that are averaged.")] = 3,
    baseline: Annotated[
        str | None,
        typer.Option(help="Run that effective robustness is measured against (default: late-fusion, else concat)."),
    ] = None,
    device: Device = "auto",
    format: Formats = None,
    precision: Precision = 1,
    output: Output = None,
) -> None:
    """Show robustness of RUNs: every subset of modalities, feature noise, modalities of another sample.

    The selected models predict again from the prepared features; nothing is trained.

    Exit code 1 when a run could not be measured.
    """
    levels = _levels(snr)

    from mmbal_cli.report.robustness import Asked, check, document, lines, sheets
    from mmbal_cli.report.robustness import robustness as measure
    from mmbal_cli.report.runs import find_runs, read_runs

    key = metric.strip().lower().replace("-", "_")
    asked = check(Asked(key, absent.value, levels, draws, baseline or "", device))
    found_runs, unreadable = read_runs(find_runs(names or [], runs))
    with stage("robustness", len(found_runs)) as advance:
        found = measure(found_runs, cache, split.value, asked, advance)
    report = Report(
        lambda digits: sheets(found, digits),
        lambda: document(found) | {"unreadable": unreadable},
        lambda: lines(found),
    )
    deliver(report, format, output, precision)
    end_with(unreadable, {each.run.name: each.problem for each in found if each.problem}, "not measured")


def _levels(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"--snr {text} is no list of numbers.", "Expected decibels.", "--snr 20,10,5,0,-5") from None
