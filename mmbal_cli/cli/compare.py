"""`mmbal compare`: methods as rows, metrics as columns, and what can honestly be said about them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbal_cli.cli.console import note
from mmbal_cli.cli.options import RUNS, Runs, Split
from mmbal_cli.cli.output import Format, Formats, Output, Precision, Report, deliver
from mmbal_cli.errors import EXIT_FINDINGS, UsageError, nearest

if TYPE_CHECKING:
    from mmbal_cli.report.compare import Comparison


def _saved(split: Split) -> Split:
    """Refuse the split whose predictions no run saves."""
    if split is Split.train:
        raise typer.BadParameter("predictions on train are not saved; saved are test and val.")
    return split


METRICS = "accuracy,macro_f1,map"
Metrics = Annotated[str, typer.Option("--metric", "-m", help="Columns, of accuracy, macro_f1, map, nll, ece.")]
Literature = Annotated[bool, typer.Option("--with-literature", help="Published figures too, in tables of their own.")]
Saved = Annotated[Split, typer.Option(metavar="test|val", callback=_saved, help="Which saved predictions to score.")]


def compare(
    names: Annotated[
        list[Path] | None, typer.Argument(metavar="RUNS", help="Run folders or names; all of --runs by default.")
    ] = None,
    runs: Runs = RUNS,
    metric: Metrics = METRICS,
    split: Saved = Split.test,
    sort_by: Annotated[str | None, typer.Option(help="Metric that orders the rows; the first one by default.")] = None,
    format: Formats = None,
    precision: Precision = 2,
    output: Output = None,
    with_literature: Literature = False,
) -> None:
    """Compare runs: mean ± sd over seeds, reference rows on top, what cannot be told apart marked.

    Runs that are not comparable (other data, split or protocol) are shown apart with the reason.
    Exit code 1 when a run cannot be read or no run has a finished seed.
    """
    metrics = metric_names(metric)
    order = _metric(sort_by) if sort_by else None

    from mmbal_cli.report.compare import compare as compare_runs
    from mmbal_cli.report.runs import find_runs, read_run
    from mmbal_cli.report.views import document, lines, sheets

    found = [read_run(folder) for folder in find_runs(names or [], runs)]
    comparison = compare_runs(found, metrics, split.value, order)
    report = Report(lambda digits: sheets(comparison, digits), lambda: document(comparison), lambda: lines(comparison))
    if with_literature:
        report = beside_literature(report, comparison)
    hand_over(report, comparison.unreadable, format, output, precision)
    if not comparison.complete:
        raise typer.Exit(EXIT_FINDINGS)


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
    for name, reason in unreadable.items():
        note(f"left out: {name}: {reason}")


def metric_names(text: str) -> list[str]:
    """Names in a list with commas, checked."""
    return [_metric(name) for name in text.split(",") if name.strip()] or [_metric("")]


def _metric(name: str) -> str:
    from mmbal_cli.report.metrics import METRICS

    key = name.strip().lower().replace("-", "_")
    if key not in METRICS:
        raise UsageError(f"Unknown metric '{name.strip()}'.", nearest(key, METRICS))
    return key
