"""The work on one modality: rows of open chunks, shards that are missing, samples that cannot be used.

A bad sample is never dropped: its features are zeros, its mask is False, its reason is in `bad/NNNNN.json` beside
the shards (published before the shard, so a shard that is there has its reasons) and in `index.json`.
"""

from __future__ import annotations

import contextlib
import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.data.manifest import Sample
from mmbal_cli.data.problems import EXAMPLES
from mmbal_cli.data.values import file_of, part_of
from mmbal_cli.encode.base import Encoder
from mmbal_cli.encode.plan import ModalityPlan, Plan
from mmbal_cli.encode.worker import Reading, read_job
from mmbal_cli.errors import CacheError, MediaError
from mmbal_cli.media.text import read_text_file
from mmbal_cli.store.atomic import canonical_json, publish, sha256_hex
from mmbal_cli.store.index import BadSample, Index, ShardEntry, discard_damaged, shards_present, write_index
from mmbal_cli.store.shard import read_image, read_shard, shard_image, shard_name

PATIENCE = 20  # bad samples before a run over its limit stops early; a short list helps more than one name
REASON = 300  # characters kept of a reason
BAD = "bad"
PACKAGES = ("numpy", "h5py", "decord", "av", "pillow")
MODELS = ("torch", "transformers")


@dataclass(frozen=True)
class Limit:
    """How many bad samples are accepted: a share of the samples, or a count."""

    share: float = 0.0
    count: int = 0

    def allows(self, bad: int, samples: int) -> bool:
        """Whether `bad` of `samples` are within the limit."""
        return bad <= max(self.count, int(self.share * samples))


@dataclass(frozen=True)
class Limits:
    """Limits for all samples of a modality, and for those of its test split."""

    all: Limit = Limit(share=0.01)
    test: Limit = Limit()


@dataclass
class ModalityWork:
    """The work on one modality: which chunks are missing, the rows of open chunks, what was bad."""

    plan: Plan
    one: ModalityPlan
    chunks: int
    limits: Limits
    retry_bad: bool
    todo: set[int] = field(default_factory=set)
    rows: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)
    faults: dict[int, dict[int, BadSample]] = field(default_factory=dict)
    bad: Counter[str] = field(default_factory=Counter)  # by split
    refused: dict[str, str] = field(default_factory=dict)  # text files that cannot be read, by sample
    short: dict[int, dict[str, str]] = field(default_factory=dict)  # chunk -> sample -> "13 of 75 frames"
    steps: dict[int, dict[int, Sequence[Sequence[float]]]] = field(default_factory=dict)  # seconds of each stored step
    made: int = 0
    form: tuple[tuple[int, ...], int] | None = None  # shape of a sample, rank of the mask

    def __post_init__(self) -> None:
        self.having = Counter(s.split for s in self.plan.manifest.samples if s.values[self.name] is not None)
        discard_damaged(self.folder)
        present = {number: path for number, path in shards_present(self.folder).items() if self._is_own(number, path)}
        for number in present:
            self.faults[number] = dict(enumerate(self._recorded(number)))
        if self.retry_bad:
            for number in [number for number, faults in self.faults.items() if faults]:
                present.pop(number).unlink()
                del self.faults[number]
        for faults in self.faults.values():
            self.bad.update(fault.split for fault in faults.values())
        self.todo = set(range(self.chunks)) - present.keys()

    def _is_own(self, number: int, path: Path) -> bool:
        """Whether an intact shard is this chunk of this modality; a stray copy of another one is removed."""
        arrays, facts = read_shard(path)
        own = facts.get("fingerprint") == self.one.fingerprint and facts.get("chunk") == number < self.chunks
        if own:
            self.form = np.shape(arrays["features"])[1:], np.ndim(arrays["mask"])
        else:
            path.unlink()
        return own

    @property
    def name(self) -> str:
        return self.one.modality

    @property
    def key(self) -> str:
        return self.one.key

    @property
    def folder(self) -> Path:
        return self.one.folder

    @property
    def encoder(self) -> Encoder:
        return self.one.encoder

    def read(self, sample: Sample) -> dict[str, Any]:
        """The child's job for one sample."""
        value: Any = sample.values[self.name]
        path = file_of(self.encoder.kind, value)
        if path is not None:
            value = f"{self.plan.manifest.root / path}{part_of(self.encoder.kind, value)}"
            if self.encoder.kind == "text":
                try:
                    value = read_text_file(Path(value))
                except MediaError as error:
                    value, self.refused[sample.id] = "", error.found
        return read_job(self.key, value, self.encoder)

    def take(self, number: int, row: int, sample: Sample, reading: Reading) -> None:
        """Keep what the child gave for one sample, or why it gave nothing."""
        refused = self.refused.get(sample.id)
        if refused or reading.array is None:
            self.fault(number, row, sample, refused or (reading.error or {}).get("reason", "no result"))
        else:
            self.rows.setdefault(number, {})[row] = reading.array
            if steps := self.encoder.steps(reading.facts):
                self.steps.setdefault(number, {})[row] = steps
            if short := reading.facts.get("short"):  # decoders end quietly where a file was cut off
                self.short.setdefault(number, {})[sample.id] = str(short)

    def fault(self, number: int, row: int, sample: Sample, reason: str) -> None:
        """Note a bad sample; stop early when there are clearly too many."""
        reason = " ".join(reason.replace(f"{self.plan.manifest.root}/", "").split())[:REASON]
        self.faults.setdefault(number, {})[row] = BadSample(
            id=sample.id, split=sample.split, modality=self.name, reason=reason
        )
        self.bad[sample.split] += 1
        if self.bad.total() > PATIENCE:
            self.check_limits()

    def publish(self, number: int, chunk: tuple[Sample, ...]) -> None:
        """Encode one complete chunk and publish it; one without a usable row waits for the shape."""
        if number not in self.todo:
            return
        found = self.rows.pop(number, {})
        usual = self.encoder.uniform or type(self.encoder).batch is Encoder.batch
        if usual and found:  # stacking: a row of another shape is that sample's fault, not the chunk's
            shape = self.form[0] if self.form else next(iter(dict(sorted(found.items())).values())).shape
            for row in [row for row, array in found.items() if array.shape != shape]:
                self.fault(number, row, chunk[row], f"has shape {list(found.pop(row).shape)}, others {list(shape)}")
        if not found:
            return
        rows = sorted(found)
        features, mask = self.encoder.batch([found[row] for row in rows])
        self.form = self.form or (features.shape[1:], mask.ndim)
        if (features.shape[1:], mask.ndim) != self.form:
            raise CacheError(
                f"{self.name}: chunk {number} has shape {list(features.shape[1:])}, others {list(self.form[0])}.",
                "All samples of a modality need one shape.",
            )
        self._write(number, chunk, rows, features, mask)

    def publish_empty(self, chunks: list[tuple[Sample, ...]]) -> None:
        """Chunks without any usable row: zeros and a false mask, once the shape is known."""
        for number in sorted(self.todo):
            if self.form is None:
                self.check_limits()
                raise MediaError(f"No sample of '{self.name}' could be used:\n{self._examples()}")
            shape, _ = self.form
            self._write(number, chunks[number], [], np.zeros((0, *shape), np.float32), np.zeros((0, *shape[:-1]), bool))

    def _write(
        self, number: int, chunk: tuple[Sample, ...], rows: list[int], values: np.ndarray, valid: np.ndarray
    ) -> None:
        assert self.form is not None
        shape, rank = self.form
        dtype = np.dtype(self.plan.dtype)
        features = np.zeros((len(chunk), *shape), dtype)
        mask = np.zeros((len(chunk), *shape[: rank - 1]), bool)
        for row, value, present in zip(rows, values, valid, strict=True):
            with np.errstate(over="ignore"):
                stored = value.astype(dtype)
            if reason := _unusable(value, stored, present):
                self.fault(number, row, chunk[row], reason)
            else:
                features[row], mask[row] = stored, present
        arrays: dict[str, Any] = {
            "features": features,
            "mask": mask,
            "labels": np.array([sample.label for sample in chunk], np.int64),
            "ids": [sample.id for sample in chunk],
            "splits": [sample.split for sample in chunk],
            "groups": [sample.group for sample in chunk],
        }
        if steps := self.steps.pop(number, {}):
            arrays["times"] = _times(steps, mask, shape)
        facts = {"chunk": number, "modality": self.name, "fingerprint": self.one.fingerprint}
        short = dict(sorted(self.short.get(number, {}).items())[:REASON])
        image = shard_image(arrays, facts | ({"short": short} if short else {}))
        self._record(number)  # before the shard: a shard that is there has its reasons beside it
        publish(self.folder, shard_name(number, image), image)
        self.todo.discard(number)
        self.made += 1

    def _record(self, number: int) -> None:
        faults = dict(sorted(self.faults.get(number, {}).items()))
        path = self.folder / BAD / f"{number:05d}.json"
        if faults:
            publish(path.parent, path.name, canonical_json([fault.model_dump() for fault in faults.values()]))
        else:
            path.unlink(missing_ok=True)

    def _recorded(self, number: int) -> list[BadSample]:
        try:
            entries = json.loads((self.folder / BAD / f"{number:05d}.json").read_bytes())
            return [BadSample.model_validate(entry) for entry in entries]
        except (OSError, ValueError):
            return []

    def check_limits(self) -> None:
        """MediaError when too many samples are bad; shards and `bad/` stay for the next call."""
        total = self.limits.all.allows(self.bad.total(), self.having.total())
        if total and self.limits.test.allows(self.bad["test"], self.having["test"]):
            return
        for number in self.faults:
            self._record(number)
        counts = f"{self.bad.total()} of {self.having.total()} samples ({self.bad['test']} of them in test)"
        raise MediaError(
            f"{self.name}: {counts} cannot be used:\n{self._examples()}",
            f"Listed in {self.folder / BAD}. By default at most 1% may be bad, and none of the test split.",
            f"mmbal prepare {self.plan.manifest.name} --skip-bad   (or --retry-bad once the cause is gone)",
        )

    def _examples(self) -> str:
        faults = [fault for number in sorted(self.faults) for _, fault in sorted(self.faults[number].items())]
        faults.sort(key=lambda fault: fault.split != "test")
        lines = [f"  {fault.id} ({fault.split}): {fault.reason}" for fault in faults[:EXAMPLES]]
        return "\n".join(lines + ([f"  ... and {len(faults) - EXAMPLES} more"] if len(faults) > EXAMPLES else []))

    def shortened(self) -> Iterator[str]:
        """One line, with an example, when clips gave less than their headers promise; they are used as they are."""
        cut = [(name, what) for number in sorted(self.short) for name, what in sorted(self.short[number].items())]
        if cut:
            yield f"warning: {len(cut)} samples of {self.name} end early, e.g. {cut[0][0]}: {cut[0][1]}"

    def finish(self, chunks: list[tuple[Sample, ...]]) -> None:
        """Check the limits and publish the index."""
        self.check_limits()
        assert self.form is not None
        present, entries = shards_present(self.folder), []
        for number, chunk in enumerate(chunks):
            if number not in present:
                raise CacheError(f"Chunk {number} vanished from {self.folder}.", "Is it being repaired?", "Run again.")
            image = read_image(present[number])
            name, digest = present[number].name, sha256_hex(image)
            entries.append(ShardEntry(name=name, rows=len(chunk), bytes=len(image), sha256=digest))
        bad = [fault for number in sorted(self.faults) for _, fault in sorted(self.faults[number].items())]
        index = Index(
            modality=self.name,
            kind=self.encoder.kind,
            encoder=self.encoder.name,
            fingerprint=self.one.fingerprint,
            spec=self.one.spec,
            rows=len(self.plan.manifest.samples),
            shape=self.form[0],
            dtype=self.plan.dtype,
            classes=self.plan.manifest.classes,
            shards=tuple(entries),
            bad=tuple(bad),
            made_with=made_with(self.encoder) | {"device": _device(self.encoder)},
        )
        write_index(self.folder, index)


def _times(steps: Mapping[int, Sequence[Sequence[float]]], mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Start and end in seconds of each stored step, float32 [n,2] or [n,T,2]; NaN where nothing is."""
    times = np.full((len(mask), *shape[:-1], 2), np.nan, np.float32)
    for row, found in steps.items():
        if mask[row].any():
            times[row, ...] = found[0] if times.ndim == 2 else np.nan
            if times.ndim == 3:
                times[row, : len(found)] = np.asarray(found, np.float32)[: times.shape[1]]
    return times


def _unusable(value: np.ndarray, stored: np.ndarray, present: np.ndarray) -> str:
    """Why features cannot be used, or ""; `value` [F] or [T,F] before, `stored` after rounding."""
    if not np.isfinite(value).all():
        return "features are not finite"
    if not np.isfinite(stored).all():
        return f"a feature of {np.abs(value).max():.3g} does not fit {stored.dtype}; use --dtype float32"
    if not np.any(present):
        return "the encoder found nothing in it"
    valid = value[present] if present.ndim else value
    if valid.size > 1 and valid.min() == valid.max():
        return "features are constant"
    return ""


def made_with(encoder: Encoder) -> dict[str, Any]:
    """Versions behind the numbers: recorded, and compared to warn, but no part of the fingerprint."""
    versions = {"python": platform.python_version()}
    for package in (*PACKAGES, *(MODELS if "device" in encoder.params else ())):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {"versions": versions}


def _device(encoder: Encoder) -> str:
    """The kind of device the batch half ran on."""
    asked = str(encoder.params.get("device", "cpu"))
    if asked == "auto":
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    return asked.partition(":")[0]
