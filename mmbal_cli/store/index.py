"""`index.json` of one modality folder: written last, so that its presence means the features are complete.

It holds everything that decided the content, and its own digest. An index that is torn, edited or of another
version counts as absent: the shards beside it prove themselves, so nothing is lost by writing it again.
"""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from mmbal_cli.errors import CacheError
from mmbal_cli.store.atomic import canonical_json, digest_of, publish, sha256_hex
from mmbal_cli.store.shard import NAME, is_intact, read_image

INDEX = "index.json"
STORE_VERSION = 1
MAX_JSON = 64 << 20  # bytes
WIDTH = {"float16": 2, "float32": 4, "float64": 8}

Model = TypeVar("Model", bound=BaseModel)


class Record(BaseModel):
    """Base of everything the store writes as JSON: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class ShardEntry(Record):
    """One shard: file name, number of samples, size in bytes, SHA-256 of the content (64 hex digits)."""

    name: str
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _name_is_digest(self) -> Self:
        match = NAME.fullmatch(self.name)
        if match is None or not self.sha256.startswith(match["digest"]):
            raise ValueError(f"shard name {self.name[:80]!r} does not match its digest")
        return self

    @property
    def number(self) -> int:
        """Chunk number."""
        return int(self.name.split("-")[0])


class BadSample(Record):
    """A sample whose source could not be used; it is carried with mask False."""

    id: str
    split: str
    modality: str
    reason: str


class Index(Record):
    """Everything that decided the features of one modality, and where they are.

    `shape` is that of one sample: (F,) or (T,F); `spec` what the fingerprint was taken of; `made_with` versions and
    device, recorded only.
    """

    version: int = STORE_VERSION
    modality: str
    kind: str
    encoder: str
    fingerprint: str
    spec: dict[str, Any]
    rows: int = Field(ge=0)
    shape: tuple[PositiveInt, ...] = Field(min_length=1, max_length=2)
    dtype: Literal["float16", "float32", "float64"]
    classes: tuple[str, ...]
    shards: tuple[ShardEntry, ...]
    bad: tuple[BadSample, ...] = ()
    made_with: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if [shard.number for shard in self.shards] != list(range(len(self.shards))):
            raise ValueError("shards are not numbered 0, 1, 2, ...")
        if sum(shard.rows for shard in self.shards) != self.rows:
            raise ValueError("rows of the shards do not add up")
        if self.rows * math.prod(self.shape) * WIDTH[self.dtype] > sum(shard.bytes for shard in self.shards):
            raise ValueError("the shards are too small for the stated shape")
        return self


@dataclass(frozen=True)
class Finding:
    """One problem of a cache folder; `shard` is a file name in it."""

    folder: Path
    shard: str
    problem: str


def write_index(folder: Path, index: Index) -> Path:
    """Publish `index.json`; only after all its shards are published."""
    return publish(folder, INDEX, seal(index))


def read_index(folder: Path) -> Index | None:
    """The index, or None when it is absent, torn, edited by hand or of another version."""
    with contextlib.suppress(CacheError):
        return load_index(folder)
    return None


def load_index(folder: Path) -> Index:
    """The index; CacheError that says why there is none."""
    index = unseal(folder / INDEX, Index)
    if index.version != STORE_VERSION:
        raise CacheError(f"{folder / INDEX} has version {index.version}, this mmbal writes {STORE_VERSION}.")
    return index


def is_complete(folder: Path) -> Index | None:
    """The index when each of its shards is there with the right size (contents are not read), else None."""
    index = read_index(folder)
    if index is None:
        return None
    with contextlib.suppress(OSError):
        if all((folder / shard.name).stat().st_size == shard.bytes for shard in index.shards):
            return index
    return None


def shards_present(folder: Path) -> dict[int, Path]:
    """Chunk number -> shard file, by name; where one chunk has several, the first that is intact."""
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("*.h5")):
        if match := NAME.fullmatch(path.name):
            found.setdefault(int(match["number"]), []).append(path)
    return {
        number: paths[0] if len(paths) == 1 else next(filter(is_intact, paths), paths[0])
        for number, paths in sorted(found.items())
    }


def verify(folder: Path) -> list[Finding]:
    """Every problem of one modality folder, by reading all of it; nothing is changed."""
    try:
        index = load_index(folder)
    except CacheError as error:
        return [Finding(folder, INDEX, error.found), *_verify_names(folder, ())]
    findings = []
    for entry in index.shards:
        try:
            image = read_image(folder / entry.name)
        except CacheError as error:
            missing = not (folder / entry.name).exists()
            findings.append(Finding(folder, entry.name, "missing" if missing else error.found))
            continue
        if len(image) != entry.bytes:
            findings.append(Finding(folder, entry.name, f"{len(image):,} bytes instead of {entry.bytes:,}"))
        elif sha256_hex(image) != entry.sha256:
            findings.append(Finding(folder, entry.name, "content does not match its digest"))
    return findings + _verify_names(folder, index.shards)


def _verify_names(folder: Path, listed: tuple[ShardEntry, ...]) -> list[Finding]:
    """Damaged or contradicting shards that the index does not list."""
    known = {entry.name for entry in listed}
    names: dict[int, list[str]] = {}
    for path in sorted(folder.glob("*.h5")):
        if match := NAME.fullmatch(path.name):
            names.setdefault(int(match["number"]), []).append(path.name)
    findings = []
    for number, same in sorted(names.items()):
        for name in same:
            if name not in known and not is_intact(folder / name):
                findings.append(Finding(folder, name, "content does not match its digest"))
        if len(same) > 1:
            why = f"chunk {number} has {len(same)} digests: encoding is not deterministic, or a file was damaged"
            findings.append(Finding(folder, same[-1], why))
    return findings


def discard_damaged(folder: Path) -> list[Path]:
    """Remove the shards of `folder` that do not match their own digest, so that prepare redoes exactly those."""
    removed = []
    for path in sorted(folder.glob("*.h5")):
        if NAME.fullmatch(path.name) and not is_intact(path):
            try:
                path.unlink()
            except OSError as error:
                raise CacheError(f"Could not remove the damaged {path}: {error.strerror}.") from error
            removed.append(path)
    return removed


def seal(record: BaseModel) -> bytes:
    """A record as canonical JSON with its own digest."""
    content = json.loads(canonical_json(record.model_dump(mode="json", by_alias=True)))  # as it will be read
    return canonical_json({**content, "digest": digest_of(content)})


def unseal(path: Path, kind: type[Model]) -> Model:
    """The record in a file written with `seal`; CacheError when it is absent, torn or edited."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise CacheError(f"{path} is larger than {MAX_JSON >> 20} MiB.")
        content = json.loads(read_image(path))
        digest = content.pop("digest")
    except FileNotFoundError:
        raise CacheError(f"{path} does not exist.") from None
    except CacheError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CacheError(f"{path} is not readable ({type(error).__name__}).") from error
    try:
        if digest != digest_of(content):
            raise CacheError(f"{path} was changed after it was written.")
        return kind.model_validate(content)
    except (ValidationError, RecursionError) as error:
        raise CacheError(f"{path} is of another version of mmbal, or damaged.") from error
