"""Run folders as typed objects: what was run, which seeds ended how, and their saved predictions.

Reading is tolerant where a run may be in progress or written by a later version (unknown fields, a torn
last record line, no finished seed yet) and strict where a number would be wrong.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmbal_cli.engine.runs import LEGACY, TUNING
from mmbal_cli.errors import CacheError, nearest
from mmbal_cli.report.predictions import AGAIN
from mmbal_cli.report.predictions import Predictions as Predictions
from mmbal_cli.report.predictions import as_predictions as as_predictions
from mmbal_cli.report.predictions import read_predictions as read_predictions

SCHEMA = 1
STAMP = "selected on TEST"
_F = TypeVar("_F", bound=BaseModel)


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SplitFacts(_Facts):
    """The stored split of a run: its name, the column that it keeps whole, its hash."""

    name: str
    by: str = ""
    seed: int = 0
    hash: str


class SubsetFacts(_Facts):
    """The subset of a run: its name, how many ids it has, the digest of them."""

    name: str
    ids: int = 0
    hash: str


class DataFacts(_Facts):
    """The data a run saw; equal `fingerprint`, `split_hash` and subset mean the same samples and features.

    `listed` are the samples of each part in the whole split, where that has more than `counts`.
    """

    fingerprint: str
    split_hash: str
    split_note: str = ""
    classes: tuple[str, ...]
    modalities: dict[str, str]
    counts: dict[str, int] = {}
    split: SplitFacts | None = None
    subset: SubsetFacts | None = None
    listed: dict[str, int] = {}

    @property
    def split_title(self) -> str:
        """Name, if it has one, and hash of the split."""
        return f"{self.split.name} {self.split_hash[:8]}" if self.split else self.split_hash[:8]

    @property
    def subset_title(self) -> str:
        """Name and hash of the subset; "none" for all samples."""
        return f"{self.subset.name} {self.subset.hash[:8]}" if self.subset else "none"

    def where(self, dataset: str) -> str:
        """The data set with the names of the split and the subset, where there are any."""
        named = [f"split {self.split.name}"] if self.split else []
        return ", ".join([dataset, *named, *([f"subset {self.subset.name}"] if self.subset else [])])

    def coverage(self, part: str, samples: int, kept: int) -> dict[str, int]:
        """How many samples of a part are listed, scored, and have something to score: {listed, scored, kept}."""
        return {"listed": max(self.listed.get(part, samples), samples), "scored": samples, "kept": kept}


def coverage_note(part: str, numbers: Mapping[str, int], subset: str) -> str:
    """One sentence where not every listed sample is there or has data; `subset` is its title or "none"."""
    listed, scored, kept = (numbers[key] for key in ("listed", "scored", "kept"))
    if not scored or kept == listed:
        return ""
    reasons = []
    if scored < listed:
        why = "are not in the prepared set" if subset == "none" else f"are not in the subset {subset} or not prepared"
        reasons.append(f"{listed - scored:,} {why}")
    if kept < scored:
        reasons.append(f"{scored - kept:,} without any readable modality stay in every figure, answered without input")
    return f"{part}: kept {kept:,} of {listed:,} samples ({'; '.join(reasons)})."


class RunFacts(_Facts):
    """The content of run.json that reports use."""

    version: int = Field(alias="schema")
    dataset: str
    label: str
    method: str
    kind: str = ""
    reference: bool = False
    spec: str = ""
    note: str = ""
    config: dict[str, Any] = {}
    data: DataFacts
    protocol: dict[str, Any] = {}
    deviates: tuple[str, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        """What runs of one data set must share to be compared, but for the samples that were scored."""
        data = self.data
        return {
            "data fingerprint": data.fingerprint,
            "split": data.split_hash,
            "subset": data.subset.hash if data.subset else "",
            "protocol": self.protocol,
        }

    @property
    def suffix(self) -> str:
        """The notes as they are shown behind a label: " (reconstructed, selected on TEST)"."""
        notes = ", ".join(filter(None, (self.note, self.stamp)))
        return f" ({notes})" if notes else ""

    @property
    def stamp(self) -> str:
        """What every place that shows a number of a legacy run must say; empty for sealed runs."""
        return STAMP if self.protocol.get("name") == LEGACY else ""

    @property
    def title(self) -> str:
        """Label and note."""
        return self.label + self.suffix


class SeedFacts(_Facts):
    """The content of done.json: how one seed ended."""

    seed: int
    status: str
    reason: str | None = ""
    best_epoch: int | dict[str, int] | None = None  # of each separately selected part: {"fused": 7}
    sealed_epoch: dict[str, int] | None = None  # of a legacy run: what validation would have selected
    epochs: int | None = None
    seconds: float | None = None

    @property
    def selected(self) -> float | None:
        """The selected epoch, the mean of the parts where each has its own."""
        if isinstance(self.best_epoch, dict):
            return sum(self.best_epoch.values()) / len(self.best_epoch) if self.best_epoch else None
        return self.best_epoch


@dataclass(frozen=True)
class SeedResult:
    """One seed of a run that has ended; arrays are read when asked for."""

    folder: Path
    facts: SeedFacts
    classes: tuple[str, ...]

    def predictions(self, split: str) -> Predictions:
        """The saved predictions of `split`. Raises CacheError when they are absent or damaged."""
        return read_predictions(self.folder / f"predictions-{split}.safetensors", self.classes)

    def records(self) -> tuple[list[dict[str, Any]], str]:
        """The records of all epochs, and a note when a torn last line was dropped."""
        return read_records(self.folder / "records.jsonl")


@dataclass(frozen=True)
class Run:
    """One run folder: a spec and its seeds that have ended; `running` while a job folder exists."""

    folder: Path
    facts: RunFacts
    seeds: tuple[SeedResult, ...]
    running: bool

    @property
    def name(self) -> str:
        """Name by which commands accept the run: its folder's, of a candidate with the folder of candidates."""
        above = self.folder.parent.name
        return f"{above}/{self.folder.name}" if above == TUNING else self.folder.name

    def collect(self, split: str) -> tuple[dict[int, Predictions], dict[int, str]]:
        """Saved predictions of each good seed, and the reason of each failed one."""
        done = [result for result in self.seeds if result.facts.status == "done"]
        return self.judge({result.facts.seed: result.predictions(split) for result in done})

    def judge(self, predictions: Mapping[int, Predictions]) -> tuple[dict[int, Predictions], dict[int, str]]:
        """Split {seed: predictions} into good ones and reasons, and add the seeds whose training failed.

        Raises CacheError when seeds were scored on different samples.
        """
        flaws = {seed: each.flaw() for seed, each in predictions.items()}
        good = {seed: each for seed, each in predictions.items() if not flaws[seed]}
        if len({each.samples() for each in good.values()}) > 1:
            raise CacheError(f"The seeds of {self.name} were scored on different samples.")
        ended = [result.facts for result in self.seeds if result.facts.status != "done"]
        failed = {facts.seed: facts.reason or f"status {facts.status}" for facts in ended}
        return good, failed | {seed: flaw for seed, flaw in flaws.items() if flaw}


def read_run(folder: Path) -> Run:
    """Read one run folder. Raises CacheError when it is none, or of a later schema."""
    facts = _read_facts(folder / "run.json", RunFacts, _current)
    ended = (path.parent for path in folder.glob("seed-*/done.json"))
    seeds = [SeedResult(path, _read_facts(path / "done.json", SeedFacts), facts.data.classes) for path in ended]
    return Run(folder, facts, tuple(sorted(seeds, key=lambda result: result.facts.seed)), any(folder.glob(".job-*")))


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], dict[str, str]]:
    """The runs that can be read, and {name: reason} of the others. Raises CacheError when none can be."""
    runs, unreadable = [], {}
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except CacheError as error:
            if len(folders) == 1:
                raise
            unreadable[folder.name if folder.name not in unreadable else str(folder)] = str(error)
    if unreadable and not runs:
        name, reason = next(iter(unreadable.items()))
        raise CacheError(f"None of the {len(folders)} runs can be read.", f"The first, {name}: {reason}")
    return runs, unreadable


def _current(path: Path, document: Any) -> None:
    """Refuse the schema of a later version before its fields are judged."""
    schema = document.get("schema", SCHEMA) if isinstance(document, dict) else SCHEMA
    if schema != SCHEMA:
        raise CacheError(
            f"{path.parent.name}/{path.name} has schema {schema}.",
            f"This version of mmbal reads schema {SCHEMA}.",
            "install the version of mmbal that its env.json names",
        )


def find_runs(names: Sequence[Path], root: Path) -> list[Path]:
    """Folders of the runs `names` (paths, or names below `root`), all runs of `root` for no names.

    Plain files (a shell's `runs/*` may match some) are passed over, a folder that is named twice counts once. Raises
    CacheError for anything else.
    """
    known = sorted(path.parent for path in root.glob("*/run.json"))
    if not names:
        if not known:
            found = f"There is no run in {root}." if root.is_dir() else f"There is no folder {root}."
            raise CacheError(found, "Expected a folder of runs.", "mmbal train --method concat --seeds 5")
        return known
    folders = [_find_run(name, root, known) for name in names if not name.is_file()]
    if not folders:
        raise CacheError(f"{names[0]} is a file, not a run folder.", nearest(names[0].name, _names(known)))
    first: dict[Path, Path] = {}
    for folder in folders:
        first.setdefault(folder.resolve(), folder)
    return list(first.values())


def _find_run(name: Path, root: Path, known: list[Path]) -> Path:
    for folder in (name, root / name):
        if (folder / "run.json").is_file():
            return folder.resolve() if folder.name in ("", "..") else folder
    if inside := len(list(name.glob("*/run.json"))):
        raise CacheError(f"{name} is a folder of {inside} runs, not a run.", repair=f"mmbal compare --runs {name}")
    found = f"{name} is no run: it has no run.json." if name.is_dir() else f"There is no run {name}."
    raise CacheError(found, nearest(name.name, _names(known)), f"mmbal compare --runs {root}")


def _names(folders: list[Path]) -> list[str]:
    return [folder.name for folder in folders]


def _read_facts(path: Path, model: type[_F], check: Callable[[Path, Any], None] | None = None) -> _F:
    try:
        text = path.read_bytes()
        if check is not None:
            with contextlib.suppress(ValueError):  # what is no JSON is named below
                check(path, json.loads(text))
        return model.model_validate_json(text)
    except CacheError:
        raise
    except OSError as error:
        raise CacheError(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}." for part in first["loc"]).rstrip(".")
        raise CacheError(f"{path} is damaged: {where and where + ': '}{first['msg']}.", repair=AGAIN) from error


def read_records(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Records of a JSONL file; a torn last line is dropped, with a note. Raises CacheError inside."""
    lines = path.read_bytes().split(b"\n")
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
            records.append(record)
        except ValueError as error:
            if number < len(lines):
                raise CacheError(f"{path}, line {number}, is damaged: {error}.") from error
            return records, f"{path.name}: a torn last line was dropped" if line.strip() else ""
    return records, ""
