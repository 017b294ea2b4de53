"""`mmbal train`: any methods, any number of seeds, all at once."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbal_cli.cli.console import err, note
from mmbal_cli.cli.options import CACHE, RUNS, Cache, Device, Runs
from mmbal_cli.errors import EXIT_DATA, EXIT_TRAINING, CacheError, TrainError, UsageError

if TYPE_CHECKING:
    from mmbal_cli.engine.plan import Data, Planned
    from mmbal_cli.engine.runner import Job
    from mmbal_cli.engine.runs import RunFolder


def train(
    method: Annotated[
        list[str], typer.Option("--method", "-m", help="Method names, separated by commas; or path/to/file.py:Class.")
    ],
    dataset: Annotated[
        str | None, typer.Option("--dataset", "-d", help="Prepared data set; the one prepared last by default.")
    ] = None,
    fusion: Annotated[str | None, typer.Option(help="Fusion; the method's own by default.")] = None,
    seeds: Annotated[str, typer.Option("--seeds", "-s", help="How many seeds, or a list such as 1,2,5.")] = "5",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a value: train.lr=1e-3 or method.alpha=0.3 (repeatable)."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue interrupted seeds.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the runs of this command and train again.")
    ] = False,
    device: Device = "auto",
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Worker processes; one for each core.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show the resolved runs and train nothing.")] = False,
    cache: Cache = CACHE,
    runs: Runs = RUNS,
) -> None:
    """Train methods on a prepared data set: one run for each method, all seeds together."""
    from mmbal_cli.recipe import parse_sets

    overrides = parse_sets(set_ or [], ("train", "method"))
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other.")
    from mmbal_cli.engine.device import resolve_device
    from mmbal_cli.engine.plan import expand_methods, parse_seeds, plan_run, settings_of

    wanted = parse_seeds(seeds)
    settings_of(overrides["train"])
    data = open_data(cache, dataset)
    target = resolve_device(device)
    names = expand_methods(method, tuple(data.shapes))
    planned = [plan_run(data, name, knobs, fusion, overrides["train"], overrides["method"]) for name, knobs in names]
    for plan in planned:
        for warning in plan.warnings:
            note(f"warning: {warning}")
    if dry_run:
        return show_plan(planned, wanted)
    workers = (jobs or len(os.sched_getaffinity(0))) if target == "cpu" else 1
    failed = run_planned(planned, wanted, runs, cache, target, workers, resume=resume, overwrite=overwrite)
    note(f"runs in {runs}/ · next: mmbal compare {runs}/*")
    if failed:
        kind = CacheError if set(failed.values()) == {EXIT_DATA} else TrainError
        raise kind("; ".join(failed), "Other seeds and runs are complete; tables show how many seeds they rest on.")


def open_data(cache: Path, dataset: str | None) -> Data:
    """The prepared set and the shapes in its indexes; without a name, the one prepared last."""
    from mmbal_cli.engine.plan import Data
    from mmbal_cli.store.index import load_index
    from mmbal_cli.store.sets import latest_set, read_set

    if dataset is None:
        dataset = latest_set(cache)
        if dataset is None:
            raise CacheError(f"No data set is prepared in {cache}/.", "Prepare one first.", "mmbal prepare demo")
        note(f"data set: {dataset} (prepared last)")
    prepared = read_set(cache, dataset)
    shapes, encoders = {}, {}
    for m, name in prepared.modalities.items():
        index = load_index(cache / prepared.name / name)
        shapes[m], encoders[m] = tuple(index.shape), index.encoder
    return Data(prepared, shapes, encoders)


def show_plan(planned: list[Planned], seeds: tuple[int, ...]) -> None:
    """Print every resolved run as one YAML document on stdout."""
    import yaml

    document = [{"folder": p.spec.folder, "seeds": list(seeds), **p.spec.model_dump()} for p in planned]
    typer.echo(yaml.safe_dump(document, sort_keys=False), nl=False)


def run_planned(planned: list[Planned], seeds: tuple[int, ...], runs: Path, cache: Path, device: str, workers: int,
                *, resume: bool, overwrite: bool) -> dict[str, int]:  # fmt: skip
    """Train what is missing of every run; returns a sentence and an exit code for each failure."""
    from mmbal_cli.engine.plan import environment
    from mmbal_cli.engine.runner import Runner
    from mmbal_cli.engine.runs import RunFolder

    folders = [(plan, RunFolder(runs / plan.spec.folder)) for plan in planned]
    with ExitStack() as locks:
        for _, folder in folders:
            locks.enter_context(folder.locked())
        jobs: list[Job] = []
        for plan, folder in folders:
            if overwrite:
                folder.clear()
            jobs += jobs_of(plan, folder, seeds, len(folders), workers, device, resume)
            folder.create(plan.facts, environment(device))
        failures: dict[str, tuple[str, int]] = {}
        if jobs:
            with TrainDisplay(jobs) as display:

                def on_event(job: Job, event: dict[str, Any]) -> None:
                    display.update(job, event)
                    if event["event"] == "error":
                        failures[job.spec.label] = (event["reason"], event["code"])

                Runner(jobs, workers, cache, device).run(on_event)
        for plan, folder in folders:
            bad = [seed for seed, status in folder.finished().items() if status == "failed" and seed in seeds]
            if bad:
                text = f"seed {', '.join(map(str, sorted(bad)))} failed"
                failures.setdefault(plan.spec.label, (text, EXIT_TRAINING))
    return {f"{label}: {reason}": code for label, (reason, code) in failures.items()}


def jobs_of(plan: Planned, folder: RunFolder, seeds: tuple[int, ...], count: int, workers: int, device: str,
            resume: bool) -> list[Job]:  # fmt: skip
    """Jobs for the seeds that are missing; stacks that were interrupted keep their membership."""
    from mmbal_cli.engine.runner import Job, seed_groups

    done = folder.finished()
    missing = [seed for seed in seeds if seed not in done]
    begun = [group for group in folder.interrupted().values() if set(group) & set(missing)]
    if begun and not resume:
        seeds_text = ", ".join(str(seed) for group in begun for seed in group)
        raise UsageError(f"{folder.path} holds an interrupted training of seeds {seeds_text}.",
                         "Add --resume to continue it, or --overwrite to begin again.")  # fmt: skip
    if not missing:
        note(f"{plan.spec.label}: up to date ({len(seeds)} seeds in {folder.path})")
        return []
    if len(missing) < len(seeds):
        note(f"{plan.spec.label}: {len(seeds) - len(missing)} seeds are there, training {len(missing)} more")
    fresh = [seed for seed in missing if not any(seed in group for group in begun)]
    groups = begun + seed_groups(fresh, count, workers, device)
    return [Job(plan.spec, folder, tuple(group)) for group in groups]


class TrainDisplay:
    """One bar for each run on a terminal; one line for each finished job otherwise."""

    def __init__(self, jobs: list[Job]) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.console = err()
        self.live = self.console.is_terminal
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} epochs"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self.console,
            disable=not self.live,
        )
        self.tasks: dict[str, Any] = {}
        self.done: dict[tuple[str, tuple[int, ...]], int] = {}
        self.totals: dict[str, int] = {}
        for job in jobs:
            epochs = job.spec.train.epochs * len(job.seeds)
            self.totals[job.spec.label] = self.totals.get(job.spec.label, 0) + epochs
        for label, total in self.totals.items():
            self.tasks[label] = self.progress.add_task(label, total=total, detail="", start=False)
        self.whole = (
            self.progress.add_task("all runs", total=sum(self.totals.values()), detail="")
            if len(self.totals) > 1
            else None
        )
        self.left = len(jobs)

    def __enter__(self) -> TrainDisplay:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, job: Job, event: dict[str, Any]) -> None:
        """Move the bar of the job's run."""
        label, task = job.spec.label, self.tasks[job.spec.label]
        self.progress.start_task(task)
        if "epoch" in event:
            self.done[label, job.seeds] = event["epoch"] * len(job.seeds)
            completed = sum(n for (name, _), n in self.done.items() if name == label)
            self.progress.update(task, completed=completed)
            if self.whole is not None:
                self.progress.update(self.whole, completed=sum(self.done.values()))
        if event.get("val"):
            self.progress.update(task, detail=f"val {100 * sum(event['val']) / len(event['val']):.1f}")
        if event["event"] in ("done", "error", "memory", "stopped"):
            self.left -= event["event"] != "memory"
            self._line(job, event)

    def _line(self, job: Job, event: dict[str, Any]) -> None:
        seeds = ",".join(map(str, job.seeds))
        if event["event"] == "done":
            text = f"{job.spec.label}: seeds {seeds} done in {event['seconds']:.1f} s"
        elif event["event"] == "stopped":
            text = f"{job.spec.label}: seeds {seeds} stopped after epoch {event['epoch']}, resumable with --resume"
        elif event["event"] == "memory":
            text = f"{job.spec.label}: seeds {seeds} do not fit in memory together; training them as two halves"
        else:
            text = f"{job.spec.label}: seeds {seeds} failed: {event['reason']}"
        if not self.live or event["event"] != "done":
            note(f"{text} ({self.left} jobs left)")
