"""A suite, a whole table as one recipe: its rows as planned runs, how far they are, which candidate a tuned row takes.

Nothing about a suite is stored: its runs are named by their specs, so suites and `mmbal train` share them. Candidates
of tuned rows live in `runs/.tuning/`, where `mmbal compare runs/*` does not see them. The candidate with the best mean
validation accuracy over seeds wins; ties go to the lower mean validation NLL, then to the earlier in the grid.
The test split plays no role. Settings of a row win over those given for the whole suite.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from mmbal_cli.engine.plan import Data, Planned, expand_methods, plan_run
from mmbal_cli.engine.runs import TUNING, RunFolder
from mmbal_cli.errors import CacheError, RecipeError, UsageError
from mmbal_cli.methods import with_every_method
from mmbal_cli.recipe import SuiteRecipe, SuiteRow, TrainConfig, build

Values = dict[str, str]


@dataclass(frozen=True)
class Row:
    """One row of the table: a single run, or a candidate for each of `values`."""

    label: str
    runs: tuple[Planned, ...]
    values: tuple[Values, ...] = ()

    def chosen(self, index: int) -> str:
        """The label of a tuned row that took candidate `index`."""
        return f"{self.label} (tuned: {_words(self.values[index])}; best of {len(self.values)} on validation)"


def plan_suite(data: Data, suite: SuiteRecipe, train: Values) -> tuple[Row, ...]:
    """Resolve and check every row before anything is trained; an impossible one is refused by its label."""
    build(TrainConfig, {**data.prepared.settings, **train}, "train")
    rows = [row for given in with_every_method(suite.rows) for row in _plan_row(data, suite.name, given, train)]
    names = Counter((row.label, bool(row.values)) for row in rows)
    if repeated := [label for (label, _), count in names.items() if count > 1]:
        raise RecipeError(f"Suite '{suite.name}' has several rows '{repeated[0]}'.", "Give each a label of its own.")
    return tuple(rows)


def _plan_row(data: Data, suite: str, given: SuiteRow, train: Values) -> list[Row]:
    try:
        names = expand_methods([given.method], tuple(data.shapes))
        return [_planned(data, given, name, implied, train, len(names)) for name, implied in names]
    except UsageError as problem:
        row = given.label or given.method
        raise RecipeError(
            f"Row '{row}' of suite '{suite}': {problem.found}", problem.expected, problem.repair
        ) from None


def _planned(data: Data, given: SuiteRow, name: str, implied: Values, train: Values, copies: int) -> Row:
    def plan(values: Values) -> Planned:
        own = {key.removeprefix("train."): value for key, value in values.items() if key.startswith("train.")}
        knobs = {key: value for key, value in values.items() if not key.startswith("train.")}
        settings = {**train, **given.train, **own}
        return plan_run(data, name, dict(implied), given.fusion, settings, {**given.knobs, **knobs})

    values = given.candidates()
    runs = [plan(each) for each in values or [{}]]
    modality = implied.get("modality", "")
    label = f"{given.label}:{modality}" if given.label and copies > 1 else given.label
    label = label or ", ".join([runs[0].spec.label, *filter(None, [_words({**given.knobs, **given.train})])])
    if len({run.spec.digest for run in runs}) < len(runs):
        raise UsageError("two candidates of its grid are the same.", "Expected different values.")
    if not values:
        return Row(label, (replace(runs[0], title=label),))
    titles = [f"{label} [{_words(each)}]" for each in values]
    hidden = (replace(run, title=title, below=TUNING) for run, title in zip(runs, titles, strict=True))
    return Row(label, tuple(hidden), tuple(values))


def _words(values: Values) -> str:
    return ", ".join(f"{key.removeprefix('train.')}={value}" for key, value in values.items())


# ------------------------------------------------------------------------------------------ state


@dataclass(frozen=True)
class State:
    """How far one run is with the seeds asked for; `holder` is the process that trains it now."""

    finished: tuple[int, ...]
    failed: tuple[int, ...]
    missing: tuple[int, ...]
    interrupted: bool
    holder: int | None

    @property
    def text(self) -> str:
        """In words."""
        bad = f"seed {', '.join(map(str, self.failed))} failed" if self.failed else ""
        if not self.missing:
            return ", ".join(filter(None, ["finished", bad]))
        work = "" if not self.interrupted else f"in work (process {self.holder})" if self.holder else "interrupted"
        every = len(self.finished) + len(self.failed) + len(self.missing)
        return ", ".join(filter(None, [work, f"{len(self.missing)} of {every} seeds missing", bad]))


def state_of(folder: RunFolder, seeds: Sequence[int]) -> State:
    """What is there of `seeds`."""
    status = folder.finished()
    groups = folder.interrupted().values()
    return State(
        tuple(seed for seed in seeds if status.get(seed) == "done"),
        tuple(seed for seed in seeds if status.get(seed, "done") != "done"),
        tuple(seed for seed in seeds if seed not in status),
        any(seed in group for group in groups for seed in seeds),
        _holder(folder.path / ".lock"),
    )


def _holder(lock: Path) -> int | None:
    """The other process that wrote itself into a lock file, if it still runs; taking the lock would disturb it."""
    try:
        process = int(lock.read_text())
        os.kill(process, 0)
    except PermissionError:
        return process
    except (OSError, ValueError):
        return None
    return process if process != os.getpid() else None


# -------------------------------------------------------------------------------------- selection


@dataclass(frozen=True)
class Candidate:
    """Validation scores of one candidate at the selected epochs: {seed: (accuracy, NLL)}; its failed seeds."""

    values: Values
    run: str
    scores: dict[int, tuple[float, float]]
    failed: tuple[int, ...]

    def mean(self, which: int) -> float | None:
        """Mean accuracy (0) or NLL (1) over seeds, rounded, so that equal means do not differ by rounding."""
        return round(fmean(score[which] for score in self.scores.values()), 12) if self.scores else None

    def document(self) -> dict[str, Any]:
        """As plain data."""
        seeds = {str(seed): {"accuracy": accuracy, "nll": nll} for seed, (accuracy, nll) in self.scores.items()}
        means = {"accuracy": self.mean(0), "nll": self.mean(1)}
        return {"values": self.values, "run": self.run, "validation": means | {"seeds": seeds},
                "failed": list(self.failed)}  # fmt: skip


def candidates(row: Row, runs: Path, seeds: Sequence[int]) -> list[Candidate]:
    """All candidates of a tuned row with their validation scores. Raises CacheError while a seed is missing."""
    found = []
    for plan, values in zip(row.runs, row.values, strict=True):
        folder = plan.folder(runs)
        state = state_of(folder, seeds)
        if state.missing:
            raise CacheError(f"candidate {_words(values)}: {state.text}.")
        scores = {seed: _validation(folder.path / f"seed-{seed}" / "done.json") for seed in state.finished}
        found.append(Candidate(values, f"{plan.below}/{plan.spec.folder}", scores, state.failed))
    return found


def choose(found: Sequence[Candidate]) -> int:
    """Index of the best candidate: fewest failed seeds, then accuracy, then NLL, then the order of the grid."""

    def merit(i: int) -> tuple[float, ...]:
        accuracy, nll = found[i].mean(0), found[i].mean(1)
        return (len(found[i].failed), -(accuracy if accuracy is not None else -1), nll if nll is not None else 0, i)

    return min(range(len(found)), key=merit)


def _validation(path: Path) -> tuple[float, float]:
    scores = json.loads(path.read_text()).get("val") or {}
    if not {"accuracy", "nll"} <= scores.keys():
        folder = path.parents[1]
        raise CacheError(f"{path} holds no validation scores.", "An earlier version wrote it.", f"rm -r {folder}")
    return float(scores["accuracy"]), float(scores["nll"])
