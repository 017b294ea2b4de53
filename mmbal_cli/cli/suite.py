"""`mmbal suite list|show|run|status|table`: a whole table as one recipe."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbal_cli.cli.compare import (
    METRICS,
    Alpha,
    BaselineRow,
    Corrected,
    Correction,
    Literature,
    Metrics,
    Test,
    TestName,
    baseline_of,
    beside_literature,
    few_threads,
    hand_over,
    metric_names,
)
from mmbal_cli.cli.console import emit_json, err, note
from mmbal_cli.cli.listing import show_facts, show_rows
from mmbal_cli.cli.options import (
    CACHE,
    RUNS,
    SEEDS,
    Cache,
    Dataset,
    Device,
    DryRun,
    Features,
    Listing,
    Listings,
    NamedSplit,
    Runs,
    Seeds,
    Split,
    Subset,
    Workers,
)
from mmbal_cli.cli.output import Formats, Output, Precision, Report
from mmbal_cli.cli.train import Failure, open_data, refuse, run_planned, show_plan, warn
from mmbal_cli.errors import EXIT_FINDINGS, CacheError, UsageError

if TYPE_CHECKING:
    from mmbal_cli.engine.suite import Row
    from mmbal_cli.recipe import SuiteRecipe
    from mmbal_cli.report.contrast import Against
    from mmbal_cli.report.suite import Table

app = typer.Typer(
    help="Whole tables as one recipe: references, a method, its variants, tuned rows.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="A shipped suite (`mmbal suite list`), or a YAML file.")]
Parts = Annotated[
    list[str] | None,
    typer.Option(
        "--split",
        metavar="test|val|NAME",
        help="What to score (test by default); the stored split of the runs; or both.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="A training setting of all rows, train.epochs=30 (repeatable); a row's own win."),
]


@app.command("list")
def list_(format: Listings = Listing.table) -> None:
    """List the shipped suites."""
    from mmbal_cli.methods import with_every_method
    from mmbal_cli.recipe import recipe_names, suite_recipe

    suites = [suite_recipe(name) for name in recipe_names("suites")]
    rows = [{"name": s.name, "rows": len(with_every_method(s.rows)), "note": s.note} for s in suites]
    if format is Listing.json:
        return emit_json({"schema": 1, "suites": rows})
    show_rows(("name", "rows", "what it asks"), [row.values() for row in rows])


@app.command()
def show(name: Name, format: Listings = Listing.table) -> None:
    """Show the rows of a suite, what each changes, and the candidates of tuned ones."""
    from mmbal_cli.methods import with_every_method
    from mmbal_cli.recipe import suite_recipe

    suite = suite_recipe(name)
    suite = suite.model_copy(update={"rows": with_every_method(suite.rows)})
    if format is Listing.json:
        return emit_json({"schema": 1, **suite.model_dump(), "candidates": suite.budget})
    facts = {"suite": suite.name, "note": suite.note, "candidates": f"{suite.budget} for each tuned row"}
    show_facts(list(facts.items())[: 3 if suite.budget else 2])
    table = []
    for row in suite.rows:
        changes = {**({"fusion": row.fusion} if row.fusion else {}), **row.knobs, **row.train}
        changes |= {key: f"{{{', '.join(values)}}}" for key, values in row.tune.items()}
        table.append((row.label or None, row.method, ", ".join(f"{key}={value}" for key, value in changes.items())))
    show_rows(("label", "method", "changes"), table)


@dataclass(frozen=True)
class Study:
    """A suite resolved on a data set; `words` are the arguments that name it again."""

    suite: SuiteRecipe
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    runs: Path
    words: str

    def jobs(self) -> list[dict[str, Any]]:
        """Every run with its state, as plain data."""
        from mmbal_cli.engine.suite import state_of

        found = []
        for row in self.rows:
            for plan, values in zip(row.runs, row.values or [None], strict=True):
                folder = plan.folder(self.runs)
                state = state_of(folder, self.seeds)
                facts = {"row": row.label, "values": values, "title": plan.title, "spec": plan.spec.digest}
                found.append({**facts, "run": str(folder.path), "state": state.text, **asdict(state)})
        return found


def study(
    name: str,
    dataset: str | None,
    seeds: str,
    sets: list[str] | None,
    cache: Path,
    runs: Path,
    split: str | None = None,
    subset: str | None = None,
    encoders: list[str] | None = None,
) -> Study:
    """Load, resolve and check a suite as a whole."""
    from mmbal_cli.engine.plan import parse_seeds
    from mmbal_cli.engine.suite import plan_suite
    from mmbal_cli.recipe import parse_sets, suite_recipe

    suite, train = suite_recipe(name), parse_sets(sets or [], ("train",))["train"]
    wanted = parse_seeds(seeds)
    rows = plan_suite(open_data(cache, dataset, split, subset, encoders), suite, train)
    options = [("-d", dataset), ("--split", split), ("--subset", subset), ("-s", seeds if seeds != SEEDS else None)]
    options += [("--set", each) for each in sets or []] + [("--encoder", each) for each in encoders or []]
    words = [name, *(word for option, value in options if value is not None for word in (option, value))]
    return Study(suite, rows, wanted, runs, shlex.join(words))


def parts_of(given: list[str] | None) -> tuple[Split, str | None]:
    """`--split val --split speaker`, in any order: what is scored, and the stored split of the runs."""
    names = [name for name in given or [] if name not in set(Split)]
    parts = [Split(name) for name in given or [] if name in set(Split)]
    if len(names) > 1 or len(parts) > 1:
        raise UsageError(f"--split {' --split '.join(given or [])}.", "Expected test or val, and one stored split.")
    if parts == [Split.train]:
        raise UsageError("Predictions on train are not saved.", "Saved are test and val.")
    return (parts or [Split.test])[0], (names[0] if names else None)


@app.command()
def run(
    name: Name,
    dataset: Dataset = None,
    split: NamedSplit = None,
    subset: Subset = None,
    encoder: Features = None,
    seeds: Seeds = SEEDS,
    set_: Sets = None,
    device: Device = "auto",
    jobs: Workers = None,
    dry_run: DryRun = False,
    cache: Cache = CACHE,
    runs: Runs = RUNS,
) -> None:
    """Train what is missing of a suite, continue what was interrupted, then print its table."""
    from mmbal_cli.engine.device import resolve_device

    target = resolve_device(device)
    whole = study(name, dataset, seeds, set_, cache, runs, split, subset, encoder)
    planned = [plan for row in whole.rows for plan in row.runs]
    _show_jobs(whole.jobs(), on_stdout=False)
    warn(planned)
    if dry_run:
        return show_plan(planned, whole.seeds)
    failed = run_planned(planned, whole.seeds, runs, cache, target, jobs, resume=True)
    note(f"runs in {runs}/ · this table again: mmbal suite table {whole.words}")
    table = _table(whole, metric_names(METRICS), Split.test, failed)
    hand_over(_report(table), table.comparison.unreadable, None, None, 2)
    refuse(failed)


@app.command()
def status(
    name: Name,
    dataset: Dataset = None,
    split: NamedSplit = None,
    subset: Subset = None,
    encoder: Features = None,
    seeds: Seeds = SEEDS,
    set_: Sets = None,
    cache: Cache = CACHE,
    runs: Runs = RUNS,
    format: Listings = Listing.table,
) -> None:
    """Show how far every run of a suite is. Exit code 1 while seeds are missing."""
    whole = study(name, dataset, seeds, set_, cache, runs, split, subset, encoder)
    found = whole.jobs()
    complete = not any(job["missing"] for job in found)
    if format is Listing.json:
        facts = {"suite": whole.suite.name, "seeds": list(whole.seeds), "complete": complete}
        emit_json({"schema": 1, "report": "suite", **facts, "jobs": found})
    else:
        _show_jobs(found, on_stdout=True)
    if not complete:
        raise typer.Exit(EXIT_FINDINGS)


@app.command()
def table(
    name: Name,
    dataset: Dataset = None,
    seeds: Seeds = SEEDS,
    set_: Sets = None,
    metric: Metrics = METRICS,
    baseline: BaselineRow = None,
    test: TestName = Test.auto,
    correction: Corrected = Correction.holm,
    alpha: Alpha = 0.05,
    split: Parts = None,
    subset: Subset = None,
    encoder: Features = None,
    cache: Cache = CACHE,
    runs: Runs = RUNS,
    format: Formats = None,
    precision: Precision = 2,
    output: Output = None,
    with_literature: Literature = False,
) -> None:
    """Compare exactly the rows of a suite, in its order. Exit code 1 when a row is not there yet."""
    few_threads()
    part, named = parts_of(split)
    against = baseline_of(baseline, test, correction, alpha)
    whole = study(name, dataset, seeds, set_, cache, runs, named, subset, encoder)
    found = _table(whole, metric_names(metric), part, [], against)
    report = _report(found)
    if with_literature:
        report = beside_literature(report, found.comparison)
    hand_over(report, found.comparison.unreadable, format, output, precision)
    if not found.complete:
        raise typer.Exit(EXIT_FINDINGS)


def _show_jobs(jobs: list[dict[str, Any]], *, on_stdout: bool) -> None:
    rows = [(job["title"], job["spec"][:8], job["state"]) for job in jobs]
    show_rows(("row", "spec", "state"), rows, None if on_stdout else err())


def _report(table: Table) -> Report:
    return Report(table.sheets, table.document, table.lines)


def _table(
    whole: Study, metrics: list[str], split: Split, failed: list[Failure], against: Against | None = None
) -> Table:
    """Rows that are there, compared; a tuned row by the run that validation chose."""
    from mmbal_cli.engine.suite import candidates, choose
    from mmbal_cli.report.runs import read_run
    from mmbal_cli.report.suite import Shown, Table, compare_rows, seeds_only

    shown, left_out = [], {}
    for row in whole.rows:
        try:
            found = candidates(row, whole.runs, whole.seeds) if row.values else []
            index = choose(found) if found else 0
            run = seeds_only(read_run(row.runs[index].folder(whole.runs).path), whole.seeds)
        except CacheError as problem:
            left_out[row.label] = problem.found.rstrip(".")
            continue
        documents = tuple({**each.document(), "chosen": i == index} for i, each in enumerate(found))
        shown.append(Shown(row.chosen(index) if found else row.label, run, documents))
    if not shown:
        raise CacheError(f"No row of suite '{whole.suite.name}' is there yet.", "", f"mmbal suite run {whole.words}")
    reasons = {failure.title: failure.reason for failure in failed}
    comparison = compare_rows(shown, metrics, split.value, against)
    return Table(whole.suite.name, whole.suite.note, shown, comparison, left_out, reasons)
