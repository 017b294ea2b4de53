"""`mmbal train`: any methods, any number of seeds, all at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbal_cli.cli.console import bars, err, note
from mmbal_cli.cli.options import (
    CACHE,
    RUNS,
    SEEDS,
    Cache,
    Dataset,
    Device,
    DryRun,
    Features,
    NamedSplit,
    Runs,
    Seeds,
    Subset,
    Workers,
)
from mmbal_cli.errors import EXIT_DATA, EXIT_TRAINING, CacheError, TrainError, UsageError

if TYPE_CHECKING:
    from rich.progress import TaskID

    from mmbal_cli.engine.plan import Data, Planned
    from mmbal_cli.engine.runner import Job
    from mmbal_cli.engine.runs import RunFolder


class Protocol(StrEnum):
    """Which split selects epochs."""

    sealed = "sealed"
    legacy = "legacy"


MOST_BARS = 12  # more runs than this: only those in work have a bar


def train(
    method: Annotated[
        list[str], typer.Option("--method", "-m", help="Method names, separated by commas; or path/to/file.py:Class.")
    ],
    dataset: Dataset = None,
    encoder: Features = None,
    split: NamedSplit = None,
    subset: Subset = None,
    fusion: Annotated[str | None, typer.Option(help="Fusion; the method's own by default.")] = None,
    seeds: Seeds = SEEDS,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a value: train.lr=1e-3 or method.alpha=0.3 (repeatable)."),
    ] = None,
    protocol: Annotated[
        Protocol,
        typer.Option(help="sealed; legacy selects epochs on TEST, for `mmbal audit` to measure what that does."),
    ] = Protocol.sealed,
    resume: Annotated[bool, typer.Option("--resume", help="Continue interrupted seeds.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the runs of this command and train again.")
    ] = False,
    device: Device = "auto",
    jobs: Workers = None,
    dry_run: DryRun = False,
    cache: Cache = CACHE,
    runs: Runs = RUNS,
) -> None:
    """Train methods on a prepared data set: one run for each method, all seeds together."""
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other.")
    from mmbal_cli.engine.device import resolve_device
    from mmbal_cli.engine.plan import expand_methods, parse_seeds, plan_run
    from mmbal_cli.engine.runs import LEGACY
    from mmbal_cli.recipe import parse_sets

    overrides = parse_sets(set_ or [], ("train", "method"))
    wanted = parse_seeds(seeds)
    data = open_data(cache, dataset, split, subset, encoder)
    target = resolve_device(device)
    names = expand_methods(method, tuple(data.shapes))
    kind = LEGACY if protocol is Protocol.legacy else ""
    planned = [
        plan_run(data, name, knobs, fusion, overrides["train"], overrides["method"], kind) for name, knobs in names
    ]
    warn(planned)
    if dry_run:
        return show_plan(planned, wanted)
    if not overwrite:
        tell_finished(planned, wanted, runs)
    failed = run_planned(planned, wanted, runs, cache, target, jobs, resume=resume, overwrite=overwrite)
    note(f"runs in {runs}/ · next: mmbal compare {runs}/*")
    refuse(failed)


def warn(planned: Sequence[Planned]) -> None:
    """Print what a reader must know about these runs, each sentence once."""
    for warning in dict.fromkeys(warning for plan in planned for warning in plan.warnings):
        note(f"warning: {warning}")


def open_data(
    cache: Path,
    dataset: str | None,
    split: str | None = None,
    subset: str | None = None,
    encoders: Sequence[str] | None = None,
) -> Data:
    """The prepared set and the shapes in its indexes; without a name, the one prepared last.

    `split` names a stored split, `subset` a file of ids or a stored subset; a copy of the ids is kept in the cache.
    `encoders` are `MODALITY=LABEL` for modalities that were prepared with several.
    """
    from mmbal_cli.data.features import laid_over
    from mmbal_cli.data.named import Overlay, find_subset, read_split, store_subset
    from mmbal_cli.engine.plan import Data
    from mmbal_cli.store.index import load_index
    from mmbal_cli.store.sets import latest_set, read_set, with_encoders

    if dataset is None:
        dataset = latest_set(cache)
        if dataset is None:
            raise CacheError(f"No data set is prepared in {cache}/.", "Prepare one first.", "mmbal prepare demo")
        note(f"data set: {dataset} (prepared last)")
    first = read_set(cache, dataset)
    prepared = with_encoders(cache, first, asked_for(encoders or ()))
    shapes, names, chosen = {}, {}, {}
    counts: Iterable[Mapping[str, int]] = ()
    for m, name in prepared.modalities.items():
        index = load_index(cache / prepared.name / name)
        shapes[m], names[m] = tuple(index.shape), index.encoder
        counts = index.spec.get("counts", {}).values()
        if name != first.modalities[m]:
            chosen[m] = next(label for label, place in first.encoders[m].items() if place == name)
    kept = find_subset(cache, prepared.name, subset) if subset else None
    overlay = Overlay(read_split(cache, prepared.name, split) if split else None, kept)
    listed = overlay.listed(prepared.source.get("expected") or prepared.counts)
    prepared = laid_over(cache, prepared, overlay)
    if kept:
        store_subset(cache, prepared.name, kept)
    occurring = sum(any(part.get(name) for part in counts) for name in prepared.classes)
    return Data(prepared, shapes, names, overlay, listed, chosen, occurring)


def asked_for(encoders: Sequence[str]) -> dict[str, str]:
    """`["audio=ast,video=clip-b32"]` -> label by modality; UsageError for anything else."""
    found = {}
    for part in (part.strip() for item in encoders for part in item.split(",")):
        modality, equals, label = part.partition("=")
        if not (modality and equals and label) or modality in found:
            raise UsageError(f"--encoder {part}", "Expected MODALITY=NAME, each modality once.")
        found[modality] = label
    return found


def show_plan(planned: Sequence[Planned], seeds: tuple[int, ...]) -> None:
    """Print every resolved run as one YAML document on stdout."""
    import yaml

    document = [
        {
            **({"row": p.title} if p.title != p.spec.label else {}),
            "folder": str(p.folder(Path()).path),
            "seeds": list(seeds),
            **p.spec.model_dump(),
        }
        for p in planned
    ]
    typer.echo(yaml.safe_dump(document, sort_keys=False), nl=False)


def tell_finished(planned: Sequence[Planned], seeds: tuple[int, ...], runs: Path) -> None:
    """Say which runs need nothing and which only some seeds."""
    for plan in planned:
        folder = plan.folder(runs)
        done = folder.finished()
        missing = [seed for seed in seeds if seed not in done]
        if not missing:
            note(f"{plan.title}: up to date ({len(seeds)} seeds in {folder.path})")
        elif len(missing) < len(seeds):
            note(f"{plan.title}: {len(seeds) - len(missing)} seeds are there, training {len(missing)} more")


@dataclass(frozen=True)
class Failure:
    """Why a run lacks seeds, and the exit code of that."""

    title: str
    path: Path
    reason: str
    code: int


def refuse(failed: Sequence[Failure]) -> None:
    """End with the exit code of what failed, naming each run; nothing where none did."""
    if failed:
        kind = CacheError if {failure.code for failure in failed} == {EXIT_DATA} else TrainError
        text = "; ".join(f"{failure.title}: {failure.reason}" for failure in failed)
        raise kind(text, "Other seeds and runs are complete; tables show how many seeds they rest on.")


def run_planned(planned: Sequence[Planned], seeds: tuple[int, ...], runs: Path, cache: Path, device: str,
                workers: int | None, *, resume: bool, overwrite: bool = False) -> list[Failure]:  # fmt: skip
    """Train what is missing of every run; returns why some have no result."""
    from mmbal_cli.engine.plan import environment
    from mmbal_cli.engine.runner import Job, Runner, seed_groups

    count = (workers or len(os.sched_getaffinity(0))) if device == "cpu" else 1
    folders: dict[Path, tuple[Planned, RunFolder]] = {}
    for plan in planned:
        folders.setdefault(plan.folder(runs).path, (plan, plan.folder(runs)))  # equal runs are trained once
    with ExitStack() as locks:
        for _, folder in folders.values():
            locks.enter_context(folder.locked())
        for _, folder in folders.values():
            if overwrite:
                folder.clear()
        work = {path: work_of(folder, seeds, resume) for path, (_, folder) in folders.items()}
        busy = sum(bool(begun or fresh) for begun, fresh in work.values())
        machine = environment(device)
        jobs = []
        for path, (plan, folder) in folders.items():
            begun, fresh = work[path]
            groups = begun + seed_groups(fresh, busy, count, device)
            jobs += [Job(plan.spec, folder, tuple(group)) for group in groups]
            folder.create(plan.facts, machine)
        failures: dict[Path, tuple[str, int]] = {}
        if jobs:
            with TrainDisplay(jobs, {path: plan.title for path, (plan, _) in folders.items()}) as display:

                def on_event(job: Job, event: dict[str, Any]) -> None:
                    display.update(job, event)
                    if event["event"] == "memory" and len(job.seeds) > 1:
                        shutil.rmtree(job.folder.job(job.seeds), ignore_errors=True)  # its halves have their own
                    elif event["event"] in ("error", "memory"):
                        failures[job.folder.path] = (event["reason"], event.get("code", EXIT_TRAINING))

                Runner(jobs, count, cache, device).run(on_event)
        for path, (_, folder) in folders.items():
            done = folder.finished()
            if bad := [seed for seed in seeds if done.get(seed) != "done"]:
                failures.setdefault(path, (f"seed {', '.join(map(str, sorted(bad)))} failed", EXIT_TRAINING))
    return [Failure(folders[path][0].title, path, *why) for path, why in failures.items()]


def work_of(folder: RunFolder, seeds: tuple[int, ...], resume: bool) -> tuple[list[tuple[int, ...]], list[int]]:
    """Stacks that were interrupted, which keep their membership, and seeds that nobody began."""
    done = folder.finished()
    missing = [seed for seed in seeds if seed not in done]
    begun = [group for group in folder.interrupted().values() if set(group) & set(missing)]
    if begun and not resume:
        seeds_text = ", ".join(str(seed) for group in begun for seed in group)
        raise UsageError(f"{folder.path} holds an interrupted training of seeds {seeds_text}.",
                         "Add --resume to continue it, or --overwrite to begin again.")  # fmt: skip
    return begun, [seed for seed in missing if not any(seed in group for group in begun)]


class TrainDisplay:
    """On a terminal one bar a run (of many runs only those in work), otherwise one line a finished job."""

    def __init__(self, jobs: Sequence[Job], titles: Mapping[Path, str]) -> None:
        from rich.progress import TextColumn

        self.live = err().is_terminal
        self.progress = bars(TextColumn("{task.completed:.0f}/{task.total:.0f} epochs"), live=self.live)
        self.titles, self.left = titles, len(jobs)
        self.shares = {self.key(job): (0, job.spec.train.epochs * len(job.seeds)) for job in jobs}
        paths = list(dict.fromkeys(job.folder.path for job in jobs))
        self.crowded = len(paths) > MOST_BARS
        self.tasks = {
            path: self.progress.add_task(titles[path], start=False, visible=not self.crowded, detail="")
            for path in paths
        }
        self.whole = self.progress.add_task("all runs", detail="") if len(paths) > 1 else None
        for path in paths:
            self._count(path)

    @staticmethod
    def key(job: Job) -> tuple[Path, tuple[int, ...]]:
        """What tells the jobs of all runs apart."""
        return job.folder.path, job.seeds

    def __enter__(self) -> TrainDisplay:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, job: Job, event: dict[str, Any]) -> None:
        """Move the bar of the job's run."""
        path, task = job.folder.path, self.tasks[job.folder.path]
        halved = event["event"] == "memory" and len(job.seeds) > 1
        self.progress.start_task(task)
        if halved:
            del self.shares[self.key(job)]  # its halves come in by themselves
        elif "epoch" in event:
            self.shares[self.key(job)] = (event["epoch"] * len(job.seeds), event["epochs"] * len(job.seeds))
        self._count(path)
        if event.get("val"):
            self.progress.update(task, detail=f"val {100 * sum(event['val']) / len(event['val']):.1f}")
        if self.crowded:
            self.progress.update(task, visible=event["event"] not in ("done", "error"))
        if event["event"] in ("done", "error", "memory", "stopped"):
            self.left += 1 if halved else -1
            self._line(job, event)

    def _count(self, path: Path) -> None:
        own = [share for (where, _), share in self.shares.items() if where == path]
        self._show(self.tasks[path], own)
        if self.whole is not None:
            self._show(self.whole, list(self.shares.values()))

    def _show(self, task: TaskID, shares: list[tuple[int, int]]) -> None:
        completed, total = (sum(share[i] for share in shares) for i in (0, 1))
        self.progress.update(task, completed=completed, total=total)

    def _line(self, job: Job, event: dict[str, Any]) -> None:
        seeds, title = ",".join(map(str, job.seeds)), self.titles[job.folder.path]
        if event["event"] == "done":
            text = f"{title}: seeds {seeds} done in {event['seconds']:.1f} s"
        elif event["event"] == "stopped":
            text = f"{title}: seeds {seeds} stopped after epoch {event['epoch']}, resumable"
        elif event["event"] == "memory" and len(job.seeds) > 1:
            text = f"{title}: seeds {seeds} do not fit in memory together; training them as two halves"
        else:
            text = f"{title}: seeds {seeds} failed: {event['reason']}"
        if not self.live or event["event"] != "done":
            note(f"{text} ({self.left} jobs left)")
