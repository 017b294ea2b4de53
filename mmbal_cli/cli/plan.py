"""`mmbal plan`: what a test set and a number of seeds can show, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbal_cli.cli.compare import metric_name
from mmbal_cli.cli.options import CACHE, RUNS, Cache, Runs
from mmbal_cli.cli.output import Formats, Output, Precision, Report, deliver
from mmbal_cli.errors import UsageError, nearest

if TYPE_CHECKING:
    from mmbal_cli.report.power import Assumed


def plan(
    dataset: Annotated[str, typer.Argument(help="A prepared data set, a recipe, or any name with --samples.")],
    seeds: Annotated[int, typer.Option("--seeds", "-s", min=1, help="How many seeds are planned.")] = 5,
    metric: Annotated[str, typer.Option("--metric", "-m", help="Any but accuracy needs runs of the data set.")] = (
        "accuracy"
    ),
    level: Annotated[float, typer.Option(min=0.0001, max=0.5, help="Level of the tests; 1 - level of intervals.")] = (
        0.05
    ),
    power: Annotated[float, typer.Option(min=0.5, max=0.999, help="Chance to find the smallest difference.")] = 0.8,
    comparisons: Annotated[int, typer.Option(min=1, help="How many comparisons Holm's correction has.")] = 1,
    baseline: Annotated[str, typer.Option(help="Label of the run that others are compared with.")] = "concat",
    samples: Annotated[int | None, typer.Option(min=2, help="Test samples, instead of those of the data set.")] = None,
    accuracy: Annotated[float | None, typer.Option(help="Expected accuracy in percent.")] = None,
    discordance: Annotated[
        float | None, typer.Option(help="Percent of samples that only one of two runs gets right.")
    ] = None,
    seed_sd: Annotated[float | None, typer.Option(help="Standard deviation of accuracy over seeds, in points.")] = None,
    stable: Annotated[float | None, typer.Option(help="Percent of the discordance that all seeds share.")] = None,
    runs: Runs = RUNS,
    cache: Cache = CACHE,
    format: Formats = None,
    precision: Precision = 1,
    output: Output = None,
) -> None:
    """Show what a test set and a number of seeds can show: half-width, smallest difference, reachable p.

    Assumptions come from runs of the data set (their validation split), else from stated defaults.
    """
    key = metric_name(metric)
    given = {
        "accuracy": _share("--accuracy", accuracy),
        "discordance": _share("--discordance", discordance),
        "seed_sd": _share("--seed-sd", seed_sd, 0.0),
        "stable": _share("--stable", stable, 0.0, 100.0),
    }
    name, count, counted = _test_samples(dataset, cache, samples)

    from mmbal_cli.report.power import plan as planned
    from mmbal_cli.report.power_views import document, lines, sheet

    found = planned(
        name,
        count,
        _assumptions(runs, name, baseline, key, given),
        counted=counted,
        metric=key,
        baseline=baseline,
        seeds=seeds,
        alpha=level,
        power=power,
        comparisons=comparisons,
    )
    report = Report(lambda digits: [sheet(found, digits)], lambda: document(found), lambda: lines(found))
    deliver(report, format, output, precision)


def _assumptions(runs: Path, dataset: str, baseline: str, metric: str, given: dict[str, float | None]) -> Assumed:
    """What runs of the data set show, what is given, and defaults; metrics other than accuracy need runs."""
    from mmbal_cli.report.power import assumed, from_runs

    base = from_runs(runs, dataset, baseline, metric)
    if metric == "accuracy":
        return assumed(base, **given)
    if any(value is not None for value in given.values()):
        raise UsageError("--accuracy, --discordance, --seed-sd and --stable are for --metric accuracy.")
    if base is None:
        raise UsageError(
            f"There is no finished run '{baseline}' of {dataset} in {runs}.",
            f"The spread of {metric} over samples is known from runs only; accuracy needs none.",
            f"mmbal train --dataset {dataset} --method {baseline} --seeds 5",
        )
    return base


def _share(option: str, percent: float | None, above: float | None = None, most: float | None = None) -> float | None:
    """A fraction from percent; from `above` to `most`, or strictly between 0 and 100."""
    if percent is None:
        return None
    low, high = above if above is not None else 0.0, most if most is not None else 100.0
    inside = low <= percent if above is not None else low < percent
    if not (inside and (percent <= high if most is not None else percent < high)):
        raise UsageError(f"{option} {percent:g} is no such percentage.", f"Expected {low:g} to {high:g}.")
    return percent / 100


def _test_samples(dataset: str, cache: Path, samples: int | None) -> tuple[str, int, str]:
    """Name of the data set, its number of test samples, and where that comes from."""
    from mmbal_cli.recipe import canonical, dataset_recipe, find_recipe, recipe_names
    from mmbal_cli.store.sets import list_sets, read_set

    prepared = list_sets(cache)
    name = next((each for each in prepared if canonical(each) == canonical(dataset)), None)
    path = find_recipe("datasets", dataset) if name is None else None
    recipe = dataset_recipe(path) if path else None
    name = name or (recipe.name if recipe else dataset)
    if samples is not None:
        return name, samples, "given"
    if name in prepared:
        count = read_set(cache, name).counts.get("test", 0)
        if count < 2:
            raise UsageError(f"The prepared set {name} has {count} test samples.", "Expected at least 2.")
        return name, count, f"the prepared set {name}"
    published = recipe.splits if recipe else {}
    for title, split in published.items():
        if split.counts.get("test", 0) > 1:
            others = f", one of {len(published)}" if len(published) > 1 else ""
            return name, split.counts["test"], f"the published split {title}{others}; nothing is prepared"
    known = nearest(dataset, {*prepared, *recipe_names("datasets")})
    found = f"The recipe {name} states no published test set." if recipe else f"There is no data set '{dataset}'."
    raise UsageError(found, "" if recipe else known, f"mmbal plan {dataset} --samples N")
