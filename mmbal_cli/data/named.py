"""Splits and subsets that have a name: overlays on a prepared set, each with a hash that travels with every result.

`cache/NAME/splits/speaker.json` says which part each sample is in; `cache/NAME/subsets/mine-1a2b3c4d.json` which
samples are kept. Features do not depend on either, so that nothing is encoded again.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mmbal_cli.data.manifest import NAME, SPLITS
from mmbal_cli.data.paths import CONTROL
from mmbal_cli.data.problems import some
from mmbal_cli.errors import CacheError, ManifestError, UsageError, nearest
from mmbal_cli.store.atomic import digest_of, plain_name, publish
from mmbal_cli.store.index import Finding, Record, seal, unseal

SPLIT_FOLDER, SUBSET_FOLDER = "splits", "subsets"


# ------------------------------------------------------------------------------------------ subsets


@dataclass(frozen=True)
class Subset:
    """A named set of sample ids; `hash` is the digest of the sorted ids, 64 hex digits."""

    name: str
    ids: frozenset[str]
    hash: str

    @property
    def key(self) -> str:
        """Name and hash, as the stored copy is called."""
        return f"{self.name}-{self.hash[:8]}"

    def check(self, dataset: str, ids: Iterable[str]) -> None:
        """Refuse ids that the data set does not have."""
        if unknown := sorted(self.ids - set(ids)):
            raise ManifestError(
                f"{len(unknown)} of {len(self.ids)} ids of the subset '{self.name}' are not in '{dataset}': "
                f"{some(unknown)}.",
                "A subset names samples that were prepared, by their ids.",
            )


class _StoredSubset(Record):
    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    ids: tuple[str, ...]


def subset_of(name: str, ids: Iterable[str]) -> Subset:
    """The subset of these ids, in any order."""
    ordered = sorted(ids)
    return Subset(name, frozenset(ordered), digest_of(ordered))


def read_ids(path: Path) -> Subset:
    """The subset in a file with one id a line; lines that start with `#` and blank ones do not count.

    Its name is that of the file, in lower case. Raises ManifestError with the lines of ids that come twice, of text
    that is not UTF-8, and for a file without ids.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"Cannot read {path}: {error.strerror}.", "Expected a file with one id a line.") from error
    lines: dict[str, int] = {}
    twice: list[str] = []
    for number, line in enumerate(raw.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        try:
            name = line.decode().strip()
        except UnicodeDecodeError as error:
            raise ManifestError(f"{path}, line {number}, is not UTF-8.", "Expected one id a line.") from error
        if not name or name.startswith("#"):
            continue
        if CONTROL.search(name):
            raise ManifestError(f"{path}, line {number}: id {name!r}.", "An id has no control characters.")
        if name in lines:
            twice.append(f"'{name}' (lines {lines[name]} and {number})")
        lines.setdefault(name, number)
    if twice:
        raise ManifestError(f"{path}: {len(twice)} ids come twice: {some(twice)}.", "Every id once.")
    if not lines:
        raise ManifestError(f"{path} holds no id.", "Expected one id a line; '#' begins a comment line.")
    return subset_of(_plain(path.stem), lines)


def _plain(stem: str) -> str:
    """A file's stem as a name: lower case, other signs than letters and digits as a dash."""
    kept = "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in stem.lower())
    return "-".join(part for part in kept.split("-") if part) or "subset"


def store_subset(cache: Path, dataset: str, subset: Subset) -> Path:
    """Keep a copy beside the features, so that evaluation finds it again."""
    folder, name = cache / dataset / SUBSET_FOLDER, f"{subset.key}.json"
    if (folder / name).exists() and load_subset(cache, dataset, subset.key) == subset:
        return folder / name
    return publish(folder, name, seal(_StoredSubset(name=subset.name, ids=tuple(sorted(subset.ids)))))


def load_subset(cache: Path, dataset: str, key: str) -> Subset:
    """The stored subset `name-hash8`; CacheError when it is missing, changed or not of that hash."""
    path = cache / dataset / SUBSET_FOLDER / plain_name(f"{key}.json")
    repair = "mmbal train ... --subset FILE (again, with the list of ids)"
    try:
        stored = unseal(path, _StoredSubset)
    except CacheError as error:
        raise CacheError(error.found, "The run was trained on these samples only.", repair) from error
    found = subset_of(stored.name, stored.ids)
    if found.key != key:
        raise CacheError(f"{path} holds the subset {found.key}.", f"Expected {key}.", repair)
    return found


def find_subset(cache: Path, dataset: str, text: str) -> Subset:
    """The subset in the file `text`, or else the stored one of that name."""
    if Path(text).is_file():
        return read_ids(Path(text))
    known = [path.stem for path in sorted((cache / dataset / SUBSET_FOLDER).glob("*.json"))]
    fits = [key for key in known if text in (key, key.rpartition("-")[0])]
    if len(fits) != 1:
        found = f"there are {', '.join(fits)}" if fits else f"there is no file {text}, and no subset of that name"
        offered = nearest(text, {key.rpartition("-")[0] for key in known}) if not fits else "Name one with its digits."
        raise UsageError(f"--subset {text}: {found}.", offered.replace("Known:", "Stored:"))
    return load_subset(cache, dataset, fits[0])


# ------------------------------------------------------------------------------------------- splits


class NamedSplit(Record):
    """A split of its own: `parts` {id: train, val or test}; `way` says how it was made, `by` which column kept whole.

    `hash` is the digest of `parts`, 64 hex digits; samples that it does not name belong to no part.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    way: str
    by: str = ""
    seed: int = 0
    parts: dict[str, Literal["train", "val", "test"]]
    hash: str

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.hash != digest_of(self.parts):
            raise ValueError("the hash is not that of the parts")
        return self

    @property
    def counts(self) -> dict[str, int]:
        """Samples of each part."""
        found: Counter[str] = Counter(self.parts.values())
        return {split: found[split] for split in SPLITS}


def named_split(name: str, parts: Mapping[str, str], way: str, by: str = "", seed: int = 0) -> NamedSplit:
    """A split with its hash; UsageError for a name that cannot be a file's, or is that of a part."""
    if not NAME.fullmatch(name) or name in SPLITS:
        raise UsageError(f"'{name}' cannot name a split.", "Expected lower case a-z 0-9 _ -, and not train, val, test.")
    values: dict[str, Any] = dict(sorted(parts.items()))
    return NamedSplit(name=name, way=way, by=by, seed=seed, parts=values, hash=digest_of(values))


def store_split(cache: Path, dataset: str, split: NamedSplit) -> bool:
    """Publish `cache/NAME/splits/<name>.json`; False when one of that name is there, which is never replaced.

    Runs name their split by name and hash: another one under the same name would leave them without theirs.
    """
    folder = cache / dataset / SPLIT_FOLDER
    if (folder / f"{split.name}.json").exists():
        return False
    publish(folder, f"{split.name}.json", seal(split))
    return True


def list_splits(cache: Path, dataset: str) -> list[str]:
    """Names of the stored splits of a data set."""
    return sorted(path.stem for path in (cache / dataset / SPLIT_FOLDER).glob("*.json"))


def read_split(cache: Path, dataset: str, name: str) -> NamedSplit:
    """The stored split of that name; UsageError with the known ones, CacheError when it is damaged."""
    repair = f"mmbal data audit {dataset} --propose --name {name}"
    if name not in list_splits(cache, dataset):
        known = nearest(name, list_splits(cache, dataset)).replace("Known:", "Stored:")
        raise UsageError(f"'{dataset}' has no split '{name}'.", known, repair)
    path = cache / dataset / SPLIT_FOLDER / f"{name}.json"
    try:
        return unseal(path, NamedSplit)
    except CacheError as error:
        raise CacheError(error.found, "A split is made again from the same data.", f"rm {path}; {repair}") from error


def damaged(cache: Path, dataset: str) -> list[Finding]:
    """Stored splits and subsets that cannot be read as they were written."""
    found = []
    for folder, kind in ((SPLIT_FOLDER, NamedSplit), (SUBSET_FOLDER, _StoredSubset)):
        for path in sorted((cache / dataset / folder).glob("*.json")):
            try:
                unseal(path, kind)
            except CacheError as error:
                found.append(Finding(path.parent, path.name, error.found))
    return found


# ------------------------------------------------------------------------------------------ overlay


@dataclass(frozen=True)
class Overlay:
    """What of a prepared set is used, and in which part: a named split, a subset, both or neither."""

    split: NamedSplit | None = None
    subset: Subset | None = None

    def parts(self, ids: Sequence[str], splits: Sequence[str]) -> list[str]:
        """Part of each sample, "" for none, where the prepared set has `splits`."""
        found = list(splits) if self.split is None else [self.split.parts.get(name, "") for name in ids]
        if self.subset is None:
            return found
        return [part if name in self.subset.ids else "" for name, part in zip(ids, found, strict=True)]

    def check(self, dataset: str, ids: Sequence[str], splits: Sequence[str]) -> None:
        """Refuse an overlay that does not fit: unknown ids of the subset, nothing left to train or to select on."""
        if self.subset is not None:
            self.subset.check(dataset, ids)
        counts, before = Counter(self.parts(ids, splits)), Counter(splits)
        for part in SPLITS:
            if not counts[part] and (part != "test" or before[part]):
                names = [f"split '{self.split.name}'"] if self.split else []
                names += [f"subset '{self.subset.name}'"] if self.subset else []
                raise ManifestError(
                    f"No {part} sample of '{dataset}' is left with {' and '.join(names)}.",
                    "Training needs train and val samples, a result needs test samples.",
                )

    def listed(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Samples of each part before the subset, and of the split before samples were lacking."""
        return self.split.counts if self.split else dict(counts)


def load_overlay(cache: Path, dataset: str, split: str = "", subset: str = "") -> Overlay:
    """The stored split of that name and the stored subset of that key; "" for none."""
    return Overlay(
        read_split(cache, dataset, split) if split else None,
        load_subset(cache, dataset, subset) if subset else None,
    )
