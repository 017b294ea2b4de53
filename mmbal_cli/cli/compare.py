"""`mmbal compare`: methods as rows, metrics as columns, and what can honestly be said about them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbal_cli.cli.console import note
from mmbal_cli.cli.options import RUNS, RunNames, Runs, Split
from mmbal_cli.cli.output import Format, Formats, Output, Precision, Report, deliver, say_left_out
from mmbal_cli.errors import EXIT_FINDINGS, UsageError, nearest

if TYPE_CHECKING:
    from mmbal_cli.report.compare import Comparison
    from mmbal_cli.report.contrast import Against


def _saved(split: Split) -> Split:
    """Refuse the split whose predictions no run saves."""
    if split is Split.train:
        raise typer.BadParameter("predictions on train are not saved; saved are test and val.")
    return split


class Test(StrEnum):
    """Tests of a difference to the baseline."""

    auto = "auto"
    paired_bootstrap = "paired-bootstrap"
    mcnemar = "mcnemar"
    welch = "welch"
    sign_flip = "sign-flip"


class Correction(StrEnum):
    """Corrections for many comparisons."""

    holm = "holm"
    none = "none"


def _level(alpha: float) -> float:
    if not 0 < alpha < 1:
        raise typer.BadParameter(f"{alpha:g} is not between 0 and 1.")
    return alpha


METRICS = "accuracy,macro_f1,map"
NAMES = "accuracy, balanced_accuracy, macro_f1, weighted_f1, map, top5, nll, brier, ece"
Metrics = Annotated[str, typer.Option("--metric", "-m", help=f"Columns, of {NAMES}.")]
SortBy = Annotated[str | None, typer.Option(help="Metric that orders the rows; the first one by default.")]
Literature = Annotated[bool, typer.Option("--with-literature", help="Published figures too, in tables of their own.")]
Saved = Annotated[Split, typer.Option(metavar="test|val", callback=_saved, help="Which saved predictions to score.")]
BaselineRow = Annotated[
    str | None, typer.Option("--baseline", metavar="LABEL|RUN", help="Show every row's difference to this one.")
]
TestName = Annotated[Test, typer.Option("--test", help="Test of the differences; auto is paired-bootstrap.")]
Corrected = Annotated[Correction, typer.Option("--correction", help="Correction for the number of comparisons.")]
Alpha = Annotated[float, typer.Option("--alpha", callback=_level, help="Level of the tests.")]
Keep = Annotated[
    list[str] | None, typer.Option(metavar="REGEX", help="Show only rows whose label matches (repeatable).")
]
Drop = Annotated[
    list[str] | None, typer.Option(metavar="REGEX", help="Do not show rows whose label matches (repeatable).")
]
Params = Annotated[bool, typer.Option("--params", help="Show the settings of the runs as columns.")]
OnlyChanged = Annotated[bool, typer.Option("--only-changed", help="Show the settings in which the shown rows differ.")]
AXES = "Axes, of method, dataset, metric, seed: --rows method --cols dataset,metric."
Axes = Annotated[str | None, typer.Option(metavar="AXES", help=AXES)]


def compare(
    names: RunNames = None,
    runs: Runs = RUNS,
    metric: Metrics = METRICS,
    split: Saved = Split.test,
    sort_by: SortBy = None,
    baseline: BaselineRow = None,
    test: TestName = Test.auto,
    correction: Corrected = Correction.holm,
    alpha: Alpha = 0.05,
    keep: Keep = None,
    drop: Drop = None,
    params: Params = False,
    only_changed: OnlyChanged = False,
    rows: Axes = None,
    cols: Axes = None,
    format: Formats = None,
    precision: Precision = 2,
    output: Output = None,
    with_literature: Literature = False,
) -> None:
    """Compare runs: mean ± sd over seeds with 95% intervals, reference rows on top, what cannot be told apart marked.

    Runs that are not comparable (other data, split or protocol) are shown apart with the reason.

    A narrow terminal loses settings first, then the interval, then p and the interval of the difference, then
    modalities, then later metrics.

    Exit code 1 when a run cannot be read or no run has a finished seed.
    """
    few_threads()
    wanted, order = metric_names(metric), metric_names(sort_by)[0] if sort_by else None

    from mmbal_cli.report.compare import compare as compare_runs
    from mmbal_cli.report.runs import find_runs, read_runs
    from mmbal_cli.report.settings import Look

    look = Look(tuple(keep or ()), tuple(drop or ()), params, only_changed)
    against = baseline_of(baseline, test, correction, alpha)
    found, unreadable = read_runs(find_runs(names or [], runs))
    comparison = compare_runs(found, wanted, split.value, order, against=against, look=look, unreadable=unreadable)
    report = _report(comparison, rows, cols)
    if with_literature:
        report = beside_literature(report, comparison)
    hand_over(report, comparison.unreadable, format, output, precision)
    if not comparison.complete:
        raise typer.Exit(EXIT_FINDINGS)


def few_threads() -> None:
    """One thread for the small matrix products of the statistics: more only wait for each other on a busy machine."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def baseline_of(
    baseline: str | None, test: Test = Test.auto, correction: Correction = Correction.holm, alpha: float = 0.05
) -> Against | None:
    """What the rows are compared with. Raises UsageError for a test without a baseline."""
    from mmbal_cli.report.contrast import Against

    if baseline is not None:
        return Against(baseline, test.value, correction.value, alpha)
    asked = {
        "--test": test is not Test.auto,
        "--correction": correction is not Correction.holm,
        "--alpha": alpha != 0.05,
    }
    for option, given in asked.items():
        if given:
            raise UsageError(f"{option} without --baseline.", "Expected a row to compare with.", "--baseline concat")
    return None


def _report(comparison: Comparison, rows: str | None, cols: str | None) -> Report:
    """The comparison as a report, turned where axes are given."""
    from mmbal_cli.report.views import document, lines, sheets

    if rows is None and cols is None:
        shown = partial(sheets, comparison)
    else:
        from mmbal_cli.report.pivot import parse_axes, pivot

        first, second = parse_axes(rows, cols)
        shown = partial(pivot, comparison, first, second)
    return Report(shown, lambda: document(comparison), lambda: lines(comparison))


def beside_literature(report: Report, comparison: Comparison) -> Report:
    """The report followed by what is published on its data sets, in tables of their own."""
    from mmbal_cli.report.literature import known_datasets, literature

    names = sorted({block.facts.dataset for block in comparison.blocks})
    published = literature(names)
    if not published:
        note(f"No published figures for {', '.join(names)}; there are some for {', '.join(known_datasets())}.")
    return Report(
        lambda digits: [*report.sheets(digits), *(each.sheet() for each in published)],
        lambda: {**report.document(), "literature": [each.document() for each in published]},
        lambda: [*report.lines(), *(line for each in published for line in each.lines())],
    )


def hand_over(
    report: Report, unreadable: Mapping[str, str], format: Format | None, output: Path | None, precision: int
) -> None:
    """Print or write a comparison, and say which runs could not be read."""
    deliver(report, format, output, precision)
    say_left_out(unreadable)


def metric_names(text: str) -> list[str]:
    """Names in a list with commas, checked."""
    return [metric_name(name) for name in text.split(",") if name.strip()] or [metric_name("")]


def metric_name(name: str) -> str:
    """The key of one metric. Raises UsageError for an unknown one."""
    from mmbal_cli.report.metrics import METRICS

    key = name.strip().lower().replace("-", "_")
    if key not in METRICS:
        raise UsageError(f"Unknown metric '{name.strip()}'.", nearest(key, METRICS))
    return key
