"""`mmbal eval`: all metrics of a run, fused and for each modality, of saved or of fresh predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbal_cli.cli.compare import Metrics, few_threads, metric_names
from mmbal_cli.cli.options import CACHE, RUNS, Cache, Device, Runs, Split
from mmbal_cli.cli.output import Formats, Output, Precision, Report, deliver, say_left_out
from mmbal_cli.errors import EXIT_FINDINGS, CacheError, UsageError

if TYPE_CHECKING:
    from mmbal_cli.report.evaluate import Evaluation
    from mmbal_cli.report.runs import Predictions, Run

METRICS = "accuracy,macro_f1,map,nll,ece"


def evaluate(
    names: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, or names below --runs.")],
    split: Annotated[Split, typer.Option(help="Split to score; train needs --fresh.")] = Split.test,
    fresh: Annotated[bool, typer.Option("--fresh", help="Predict again from the checkpoints.")] = False,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", "-d", help="Predict on this prepared data set (same encoders and classes)."),
    ] = None,
    cache: Cache = CACHE,
    runs: Runs = RUNS,
    device: Device = "auto",
    metric: Metrics = METRICS,
    format: Formats = None,
    precision: Precision = 2,
    output: Output = None,
) -> None:
    """Score runs: accuracy, macro-F1, mAP, NLL and ECE, for each seed, mean ± sd and 95% interval.

    Exit code 1 when one of several runs cannot be read or has no finished seed.
    """
    few_threads()
    fresh = fresh or dataset is not None
    if split is Split.train and not fresh:
        raise UsageError("Predictions on train are not saved.", "Saved are val and test.", "add --fresh")

    wanted = list(dict.fromkeys(metric_names(metric)))

    from mmbal_cli.report.evaluate import document, lines, sheet
    from mmbal_cli.report.evaluate import evaluate as score
    from mmbal_cli.report.runs import find_runs, read_runs

    found, left_out = read_runs(find_runs(names, runs))
    evaluations, unfinished = [], []
    for run in found:
        if not any(result.facts.status == "done" for result in run.seeds):
            unfinished.append(run.name)
            continue
        try:
            good, failed = _predict(run, cache, dataset, split.value, device) if fresh else run.collect(split.value)
        except CacheError as error:
            if len(found) + len(left_out) == 1:
                raise
            left_out[run.name] = str(error)
            continue
        source = "fresh" if fresh else "saved"
        evaluations.append(score(run, good, failed, split=split.value, dataset=dataset, source=source, names=wanted))
    _refuse_nothing(evaluations, unfinished, left_out)
    report = Report(
        lambda digits: [sheet(each, digits) for each in evaluations],
        lambda: document(evaluations) | {"unfinished": unfinished, "unreadable": left_out},
        lambda: lines(evaluations),
    )
    deliver(report, format, output, precision)
    say_left_out(left_out | dict.fromkeys(unfinished, "no seed has finished"))
    if unfinished or left_out:
        raise typer.Exit(EXIT_FINDINGS)


def _refuse_nothing(evaluations: Sequence[Evaluation], unfinished: list[str], left_out: dict[str, str]) -> None:
    """Raise CacheError when no run could be scored."""
    if evaluations:
        return
    if left_out:
        name, reason = next(iter(left_out.items()))
        raise CacheError(f"No run can be scored; {name}: {reason}")
    raise CacheError(
        f"No seed has finished in {', '.join(unfinished)}.", "Expected a trained run.", "mmbal train ... --resume"
    )


def _predict(
    run: Run, cache: Path, dataset: str | None, split: str, device: str
) -> tuple[dict[int, Predictions], dict[int, str]]:
    """Fresh predictions of the finished seeds, and the reasons of the failed ones."""
    from mmbal_cli.engine.opened import open_run
    from mmbal_cli.report.fresh import fresh

    return run.judge(fresh(open_run(run.folder, cache, dataset, device), split))
