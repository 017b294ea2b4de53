"""A prepared data set: `dataset.json` names the feature folder of each modality; `latest.json` the last one made.

Both are pointers: they may be replaced (through `publish`), what they point to never changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from mmbal_cli.errors import CacheError, UsageError, nearest
from mmbal_cli.store.atomic import digest_of, plain_name, publish
from mmbal_cli.store.index import Index, Record, load_index, seal, unseal
from mmbal_cli.store.shard import TEXT, Arrays, read_shard

SET = "dataset.json"
LATEST = "latest.json"
TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# Features made by mmbal; `mmbal prepare` makes them again.\n"


class PreparedSet(Record):
    """What `mmbal prepare` made of a data set.

    `modalities` maps each modality to its folder beside `dataset.json`, `kinds` to its kind, `encoders` those with
    several encoders to the folder of each (`modalities` has the first); `counts` are samples of each split,
    `settings` training defaults of the recipe, `source` where the manifest came from.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    fingerprint: str
    modalities: dict[str, str]
    encoders: dict[str, dict[str, str]] = Field(default_factory=dict)
    kinds: dict[str, str]
    classes: tuple[str, ...]
    counts: dict[str, int]
    split_hash: str
    split_note: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    source: dict[str, Any] = Field(default_factory=dict)

    @property
    def folders(self) -> set[str]:
        """Every feature folder that the set names, of all its encoders."""
        return {folder for folders in (self.modalities, *self.encoders.values()) for folder in folders.values()}

    @model_validator(mode="after")
    def _stay_inside(self) -> PreparedSet:
        try:
            for folder in self.folders:
                plain_name(folder)
        except CacheError as error:
            raise ValueError(str(error)) from error
        return self


class Latest(Record):
    """The data set that was prepared last."""

    name: str


def write_set(cache: Path, prepared: PreparedSet) -> Path:
    """Publish `cache/NAME/dataset.json`, make it the latest, and mark the folder as a cache."""
    path = publish(cache / plain_name(prepared.name), SET, seal(prepared))
    publish(cache, LATEST, seal(Latest(name=prepared.name)))
    if not (cache / "CACHEDIR.TAG").exists():
        publish(cache, "CACHEDIR.TAG", TAG)
    return path


def read_set(cache: Path, name: str) -> PreparedSet:
    """The prepared data set of that name; CacheError that lists what is prepared, or says what is damaged."""
    repair = f"mmbal prepare {name}"
    if not (cache / plain_name(name) / SET).exists():
        known = nearest(name, list_sets(cache)).replace("Known:", "Prepared:")
        raise CacheError(f"There is no prepared data set '{name}' in {cache}.", known, repair)
    try:
        prepared = unseal(cache / name / SET, PreparedSet)
    except CacheError as error:
        raise CacheError(
            error.found, "Finished features are kept; only the pointer is written again.", repair
        ) from error
    return prepared.model_copy(update={"name": name})  # a folder may be renamed or copied


def with_encoders(cache: Path, prepared: PreparedSet, chosen: Mapping[str, str]) -> PreparedSet:
    """The same set with the features of these encoders, by modality; UsageError for one that it does not have.

    Its fingerprint is that of a set prepared with these encoders alone.
    """
    modalities = dict(prepared.modalities)
    for modality, label in chosen.items():
        if modality not in modalities:
            raise UsageError(f"'{prepared.name}' has no modality '{modality}'.", nearest(modality, modalities))
        offered = prepared.encoders.get(modality, {})
        if label not in offered:
            expected = nearest(label, offered) if offered else "It was prepared with one encoder."
            repair = f"mmbal prepare {prepared.name} --encoder {modality}=A,{modality}=B"
            raise UsageError(f"'{prepared.name}' has no features '{label}' of {modality}.", expected, repair)
        modalities[modality] = offered[label]
    found = {m: load_index(cache / prepared.name / folder).fingerprint for m, folder in modalities.items()}
    return prepared.model_copy(update={"modalities": modalities, "fingerprint": digest_of(found)})


def list_sets(cache: Path) -> list[str]:
    """Names of the prepared data sets, sorted; those whose `dataset.json` is damaged are left out."""
    names = []
    for path in cache.glob(f"*/{SET}"):
        with contextlib.suppress(CacheError):
            unseal(path, PreparedSet)
            names.append(path.parent.name)
    return sorted(names)


def latest_set(cache: Path) -> str | None:
    """Name of the data set prepared last, or None."""
    with contextlib.suppress(CacheError):
        name = unseal(cache / LATEST, Latest).name
        return read_set(cache, name).name
    return None


def read_arrays(cache: Path, prepared: PreparedSet) -> dict[str, Any]:
    """All features of a data set, each byte checked against its digest before use; nothing is written.

    Gives ids, splits, groups (lists of N strings), labels int64 [N], features {m: [N,F] or [N,T,F] in the stored type}
    and mask {m: bool [N] or [N,T]}; rows are aligned over modalities, which is verified.
    """
    if not prepared.modalities:
        raise CacheError(f"'{prepared.name}' has no modality.", repair=f"mmbal prepare {prepared.name}")
    out: dict[str, Any] = {"features": {}, "mask": {}}
    for modality, folder in prepared.modalities.items():
        place = cache / prepared.name / folder
        arrays = _read_modality(place, prepared.name)
        out["features"][modality] = arrays.pop("features")
        out["mask"][modality] = arrays.pop("mask")
        for column, values in arrays.items():
            if not np.array_equal(out.setdefault(column, values), values):
                raise CacheError(
                    f"{place} has other {column} than the other modalities of '{prepared.name}'.",
                    "Expected the same samples in the same order in every modality.",
                    f"mmbal prepare {prepared.name}",
                )
    return out


def _read_modality(folder: Path, name: str) -> dict[str, Any]:
    """One modality: its shards joined, checked against its index."""
    try:
        index = load_index(folder)
    except CacheError as error:
        raise CacheError(f"Features are not complete: {error.found}", repair=f"mmbal prepare {name}") from error
    out: dict[str, Any] = {
        "features": np.empty((index.rows, *index.shape), dtype=index.dtype),
        "labels": np.empty(index.rows, dtype=np.int64),
        **{column: [] for column in TEXT},
    }
    masks, start = [], 0
    for entry in index.shards:
        try:
            arrays, _ = read_shard(folder / entry.name, entry.sha256)
            _check_fit(folder / entry.name, arrays, index, entry.rows)
        except CacheError as error:
            raise CacheError(error.found, error.expected, f"mmbal cache repair {name}") from error
        masks.append(arrays["mask"])
        for column in ("features", "labels"):
            out[column][start : start + entry.rows] = arrays[column]
        for column in TEXT:
            out[column] += arrays[column]
        start += entry.rows
    out["mask"] = np.concatenate(masks) if masks else np.zeros(0, dtype=bool)
    return out


def _check_fit(path: Path, arrays: Arrays, index: Index, rows: int) -> None:
    missing = {"features", "mask", "labels", *TEXT} - set(arrays)
    if missing:
        raise CacheError(f"{path} lacks {', '.join(sorted(missing))}.")
    features, mask = np.asarray(arrays["features"]), np.asarray(arrays["mask"])
    if features.shape != (rows, *index.shape) or features.dtype != index.dtype:
        raise CacheError(f"{path} holds {features.dtype} {list(features.shape)}, the index says otherwise.")
    if mask.shape != features.shape[:-1] and mask.shape != features.shape[:1]:
        raise CacheError(f"{path} has a mask {list(mask.shape)} for features {list(features.shape)}.")
