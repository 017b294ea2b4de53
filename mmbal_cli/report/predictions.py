"""Saved predictions: one file for each seed and split, checked and sorted by sample id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.errors import CacheError
from mmbal_cli.report.metrics import softmax

AGAIN = "train it again: mmbal train ... --overwrite"


@dataclass(frozen=True)
class Predictions:
    """Predictions of one seed on one split, sorted by sample id.

    ids [N] str, labels [N] int64, probs [N,C], logits {modality: [N,C]}, present {modality: [N] bool}; `something` [N]
    says which samples have any modality at all, None when every one has.
    """

    ids: NDArray
    labels: NDArray
    probs: NDArray
    logits: Mapping[str, NDArray]
    present: Mapping[str, NDArray]
    something: NDArray | None = None
    named: str = field(default="", repr=False)  # digest of the ids, where it is known

    @property
    def kept(self) -> int:
        """Samples with at least one modality."""
        return len(self.ids) if self.something is None else int(self.something.sum())

    def samples(self) -> str:
        """Digest of ids and labels: equal means scored on the same samples."""
        named = self.named or _digest(self.ids.tolist())
        return hashlib.sha256(named.encode() + np.ascontiguousarray(self.labels, np.int64).tobytes()).hexdigest()

    def flaw(self) -> str:
        """Why these numbers cannot be scored, or an empty string."""
        if not np.isfinite(self.probs).all():
            return "its probabilities are not finite"
        for m, logits in self.logits.items():
            if not np.isfinite(logits[self.present[m]]).all():
                return f"its logits of {m} are not finite"
        return ""

    def modality(self, m: str) -> tuple[NDArray, NDArray, NDArray]:
        """Softmax of the logits of `m` and labels where `m` is present, and the mask: [n,C], [n], [N]."""
        mask = self.present[m]
        return softmax(self.logits[m][mask]), self.labels[mask], mask


def read_predictions(path: Path, classes: Sequence[str]) -> Predictions:
    """Read one prediction file (safetensors; sample ids in its metadata)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            listed = (file.metadata() or {}).get("ids")
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        if listed is None:
            raise ValueError("it has no sample ids")
        return _checked(arrays, _parsed(listed), classes)
    except FileNotFoundError as error:
        raise CacheError(f"{path} is missing.", "Expected the predictions of a finished seed.", AGAIN) from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        problem = f"it has no {error}" if isinstance(error, KeyError) else f"{error}"
        raise CacheError(
            f"{path} cannot be read: {problem}.", "Expected predictions written by mmbal train.", AGAIN
        ) from error


def as_predictions(arrays: Mapping[str, NDArray], ids: Sequence[str], classes: Sequence[str]) -> Predictions:
    """Check and sort the arrays of a prediction file. Raises ValueError or KeyError when they do not fit."""
    return _checked(arrays, _sorted_ids(ids), classes)


@dataclass(frozen=True)
class _Ids:
    """Sample ids [N], sorted, the order that sorts them, and their digest."""

    ids: NDArray
    order: NDArray
    digest: str
    in_order: bool


def _digest(ids: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def _sorted_ids(ids: Sequence[str]) -> _Ids:
    if len(set(ids)) < len(ids):
        raise ValueError("sample ids repeat")
    named = np.array(ids, dtype=object)
    order = np.argsort(named, kind="stable")
    named = named[order]
    named.flags.writeable = False  # shared by all seeds and runs of the same samples
    return _Ids(named, order, _digest(named.tolist()), bool((np.diff(order) > 0).all()))


@lru_cache(maxsize=32)
def _parsed(listed: str) -> _Ids:
    """Ids as a prediction file lists them; all runs on one data set have the same text."""
    ids = json.loads(listed)
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise ValueError("its sample ids are not a list of texts")
    return _sorted_ids(ids)


def _checked(arrays: Mapping[str, NDArray], names: _Ids, classes: Sequence[str]) -> Predictions:
    """The arrays, checked against the number of samples and classes, in the order of their ids."""
    labels, shape = arrays["labels"].astype(np.int64), (len(names.ids), len(classes))
    heads = {key.partition("/")[2]: array for key, array in arrays.items() if key.startswith("logits/")}
    present = {m: arrays.get(f"present/{m}", np.ones(shape[0], bool)).astype(bool) for m in heads}
    for name, array in (("probs", arrays["probs"]), *heads.items()):
        if array.shape != shape:
            raise ValueError(f"{name} has shape {list(array.shape)}, expected {list(shape)}")
    something = arrays["present"].astype(bool) if "present" in arrays else None
    masks = [*present.values(), *([] if something is None else [something])]
    if any(array.shape != shape[:1] for array in (labels, *masks)):
        raise ValueError(f"labels and masks must have {shape[0]} rows")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(f"labels must lie in 0..{len(classes) - 1}")

    def sort(array: NDArray) -> NDArray:
        return array if names.in_order else array[names.order]

    return Predictions(
        names.ids,
        sort(labels),
        sort(arrays["probs"]),
        {m: sort(array) for m, array in heads.items()},
        {m: sort(array) for m, array in present.items()},
        None if something is None else sort(something),
        names.digest,
    )
