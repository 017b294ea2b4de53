"""Prepared features as tensors in memory: the only thing training sees of a data set.

Absent modalities are zeros with a mask, whatever was stored in their place. Features of a finished cache are
read whole (milliseconds per 10,000 rows); nothing is read row by row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbal_cli.data.named import Overlay, load_overlay
from mmbal_cli.data.splits import carve
from mmbal_cli.errors import CacheError
from mmbal_cli.store.index import load_index
from mmbal_cli.store.sets import PreparedSet, read_arrays, read_set, with_encoders
from mmbal_cli.store.shard import read_shard

SPLITS = ("train", "val", "test")
INNER_SEED = 1  # another order than the validation split, which has seed 0
CLAMP = 10.0  # standardised values of rare features (a hashed word seen once) would dominate the adapter

Stats = dict[str, tuple[Tensor, Tensor]]


@dataclass
class FeatureSet:
    """x[m] [N,F] or [N,T,F] float32; mask[m] None (all present), [N] or [N,T] bool; y [N]; rows of each split."""

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    ids: list[str]
    y: Tensor
    x: dict[str, Tensor]
    mask: dict[str, Tensor | None]
    rows: dict[str, Tensor]
    groups: list[str] = field(default_factory=list)  # empty when the data name none
    scaling: Stats = field(default_factory=dict)  # what `standardised` used, empty before
    split_hash: str = ""  # of the split and the subset in use; empty where the caller has the prepared set
    subset_hash: str = ""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Feature shape of each modality, (F,) or (T,F)."""
        return {m: tuple(x.shape[1:]) for m, x in self.x.items()}

    def somewhere(self) -> Tensor | None:
        """Whether a sample has any modality at all, bool [N]; None when every one has."""
        masks = [mask if mask is None or mask.ndim == 1 else mask.any(1) for mask in self.mask.values()]
        present = [mask for mask in masks if mask is not None]
        if len(present) < len(masks):
            return None
        found = torch.stack(present).any(0)
        return None if bool(found.all()) else found

    def stats(self) -> Stats:
        """Mean and deviation [F] of each modality over the present training samples."""
        found: Stats = {}
        for m, x in self.x.items():
            rows = self.rows["train"]
            values, mask = x[rows], self.mask[m]
            valid = values.flatten(0, -2) if mask is None else values[mask[rows]]
            if len(valid) == 0:
                raise CacheError(f"No training sample of '{self.name}' has modality '{m}'.")
            found[m] = (valid.mean(0), valid.std(0, unbiased=False).clamp_min(1e-5))
        return found

    def in_parts(self, splits: Sequence[str]) -> FeatureSet:
        """The same samples in other parts, "" for none; a sample without any modality is never in train.

        There is nothing to learn from it; where it is to be evaluated it stays, so that no figure rests on fewer
        samples than are listed.
        """
        some = self.somewhere()
        usable = [True] * len(splits) if some is None else some.tolist()
        wanted = {part: [i for i, split in enumerate(splits) if split == part] for part in SPLITS}
        wanted["train"] = [i for i in wanted["train"] if usable[i]]
        return replace(self, rows={part: torch.tensor(rows, dtype=torch.long) for part, rows in wanted.items()})

    def inner(self, share: float) -> dict[str, Tensor]:
        """Rows of `train` without, and of `inner` with, about `share` of the training samples of every class."""
        rows = self.rows["train"].tolist()
        ids, labels = [self.ids[row] for row in rows], self.y[rows].tolist()
        groups = [self.groups[row] for row in rows] if self.groups else []
        chosen, _ = carve(ids, labels, groups, share, INNER_SEED)
        inside = torch.tensor([name in chosen for name in ids])
        return {"train": self.rows["train"][~inside], "inner": self.rows["train"][inside]}

    def standardised(self, stats: Stats) -> FeatureSet:
        """The same set with every modality scaled by `stats`, bounded, and exactly zero where absent."""
        x: dict[str, Tensor] = {}
        for m, values in self.x.items():
            mean, deviation = stats[m]
            scaled = ((values - mean) / deviation).clamp_(-CLAMP, CLAMP)
            mask = self.mask[m]
            x[m] = scaled if mask is None else torch.where(mask[..., None], scaled, 0.0)
        return replace(self, x=x, scaling=stats)


def from_arrays(name: str, fingerprint: str, classes: tuple[str, ...], arrays: dict[str, Any]) -> FeatureSet:
    """Tensors from what the store read: ids, splits, groups, labels [N], features {m: array}, mask {m: bool array}."""
    x: dict[str, Tensor] = {}
    masks: dict[str, Tensor | None] = {}
    for m, values in arrays["features"].items():
        mask = torch.from_numpy(arrays["mask"][m].astype(bool))
        features = torch.from_numpy(values.astype("float32"))
        masks[m] = None if bool(mask.all()) else mask
        x[m] = features if masks[m] is None else torch.where(mask[..., None], features, 0.0)
    y = torch.from_numpy(arrays["labels"].astype("int64"))
    groups = list(arrays["groups"]) if any(arrays.get("groups", ())) else []
    found = FeatureSet(name, fingerprint, classes, list(arrays["ids"]), y, x, masks, {}, groups)
    return found.in_parts(arrays["splits"])


def load_features(
    cache: Path, dataset: str, split: str = "", subset: str = "", encoders: Mapping[str, str] | None = None
) -> tuple[PreparedSet, FeatureSet]:
    """A prepared data set as tensors, in a named split and of a stored subset where such are given.

    `encoders` says which features of a modality to take that has several.

    CacheError when it is missing or damaged.
    """
    prepared = with_encoders(cache, read_set(cache, dataset), encoders or {})
    arrays = read_arrays(cache, prepared)
    overlay = load_overlay(cache, dataset, split, subset)
    overlay.check(dataset, arrays["ids"], arrays["splits"])
    arrays["splits"] = overlay.parts(arrays["ids"], arrays["splits"])
    features = from_arrays(prepared.name, prepared.fingerprint, tuple(prepared.classes), arrays)
    features.split_hash = overlay.split.hash if overlay.split else prepared.split_hash
    features.subset_hash = overlay.subset.hash if overlay.subset else ""
    return prepared, features


def laid_over(cache: Path, prepared: PreparedSet, overlay: Overlay) -> PreparedSet:
    """The prepared set with the counts, hash and note of what an overlay leaves of it; features are not read."""
    if overlay.split is None and overlay.subset is None:
        return prepared
    folder = cache / prepared.name / next(iter(prepared.modalities.values()))
    ids: list[str] = []
    splits: list[str] = []
    for entry in load_index(folder).shards:
        arrays, _ = read_shard(folder / entry.name, entry.sha256)
        ids += arrays["ids"]
        splits += arrays["splits"]
    overlay.check(prepared.name, ids, splits)
    parts = overlay.parts(ids, splits)
    changes: dict[str, Any] = {"counts": {split: parts.count(split) for split in SPLITS}}
    if overlay.split is not None:
        changes |= {"split_hash": overlay.split.hash, "split_note": overlay.split.way}
    return prepared.model_copy(update=changes)
