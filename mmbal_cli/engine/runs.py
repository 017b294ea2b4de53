"""Run folders: one spec and all its seeds; a seed folder is complete or absent.

runs/<dataset>-<label>[-<encoder>][-<split>][-<subset>][-legacy]-<spec8>/
  run.json env.json            what was asked for, where it ran
  seed-3/                      done.json records.jsonl model.safetensors predictions-{val,test}.safetensors
                       (legacy: model and predictions of the epoch that is best on test, and predictions-test-sealed)
  .job-1-2-3/                  a stack of seeds in work: records.jsonl and two checkpoints
  .lock                        held by the training process
runs/.tuning/                  such folders for the candidates of a suite's tuned rows
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from mmbal_cli.errors import CacheError, UsageError
from mmbal_cli.recipe import Frozen, TrainConfig
from mmbal_cli.store.atomic import canonical_json, digest_of, publish

SCHEMA = 1
TUNING = ".tuning"
Protocol = Literal["", "legacy"]
LEGACY: Protocol = "legacy"  # the protocol that picks the epoch by its score on test
UNWRITTEN = ("split", "subset", "encoders", "protocol")  # where they are empty


class RunSpec(Frozen):
    """Everything that decides the numbers of a run but the seed; its digest names the folder.

    `split` names the stored split whose hash `split_hash` is, `subset` the stored subset as name-hash8, `encoders` the
    features of modalities that have several and not the first is taken, `protocol` is empty unless the test set is not
    sealed; where they are empty, as for a set as it was prepared, they are not written, so that specs without them keep
    their digest.
    """

    dataset: str
    label: str
    method: str
    fusion: str
    knobs: dict[str, Any]
    train: TrainConfig
    fingerprint: str
    split_hash: str
    method_source: str = ""
    split: str = ""
    subset: str = ""
    encoders: dict[str, str] = Field(default_factory=dict)
    protocol: Protocol = ""

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value or key not in UNWRITTEN}

    @property
    def digest(self) -> str:
        """sha256 of the spec."""
        return digest_of(self.model_dump())

    @property
    def folder(self) -> str:
        """Name of the run folder."""
        words = [self.dataset, re.sub(r"[^a-zA-Z0-9_.]+", "-", self.label), *self.encoders.values()]
        words += [self.split, self.subset.rpartition("-")[0], self.protocol]
        return "-".join([*filter(None, words), self.digest[:8]])


@dataclass
class RunFolder:
    """One folder below `runs/`."""

    path: Path

    def create(self, facts: dict[str, Any], environment: dict[str, Any]) -> None:
        """Write run.json and env.json when they are not there yet."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name, document in (("env.json", environment), ("run.json", facts)):
            if not (self.path / name).exists():
                publish(self.path, name, canonical_json(document), mode=0o644)

    def finished(self) -> dict[int, str]:
        """Status, `done` or `failed`, of every complete seed."""
        found = {}
        for path in self.path.glob("seed-*/done.json"):
            try:
                document = json.loads(path.read_text())
                found[int(document["seed"])] = str(document["status"])
            except (ValueError, KeyError, TypeError) as error:
                raise CacheError(f"{path} is damaged.", "Expected how the seed ended.", "add --overwrite") from error
        return found

    def interrupted(self) -> dict[Path, tuple[int, ...]]:
        """Job folders of stacks that were begun and not finished."""
        found = {}
        for path in sorted(self.path.glob(".job-*")):
            with contextlib.suppress(ValueError):
                found[path] = tuple(int(part) for part in path.name.removeprefix(".job-").split("-"))
        return found

    def job(self, seeds: Sequence[int]) -> Path:
        """Folder of a stack of seeds in work."""
        return self.path / (".job-" + "-".join(str(seed) for seed in seeds))

    def clear(self) -> None:
        """Remove everything but the lock that is being held."""
        for path in self.path.iterdir() if self.path.is_dir() else ():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; a second training into it is refused with the holder's process number."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                raise UsageError(
                    f"{self.path} is being trained by process {handle.read().strip() or '?'}.",
                    "One training at a time writes into a run folder.",
                ) from None
            except OSError:  # network disks without locks: names are unique for each writer, so go on
                pass
            handle.truncate(0)
            handle.write(f"{os.getpid()}\n")
            handle.flush()
            yield
