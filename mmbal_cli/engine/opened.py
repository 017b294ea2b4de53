"""A finished run with its models and features: predictions on any split, under changed inputs, and adapter outputs."""

from __future__ import annotations

import json
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from mmbal_cli.data.features import CLAMP, FeatureSet, Stats, load_features
from mmbal_cli.engine.changes import Change, Inputs
from mmbal_cli.engine.device import one_thread, resolve_device
from mmbal_cli.engine.feed import Feed, predictions
from mmbal_cli.engine.job import restore
from mmbal_cli.engine.runs import RunFolder, RunSpec
from mmbal_cli.errors import CacheError, UsageError, nearest
from mmbal_cli.methods.base import Method
from mmbal_cli.store.index import load_index
from mmbal_cli.store.sets import PreparedSet


@dataclass
class Opened:
    """The selected models of all finished seeds, stacked, on the features of a data set."""

    spec: RunSpec
    seeds: tuple[int, ...]
    method: Method
    feed: Feed

    @property
    def mods(self) -> tuple[str, ...]:
        """Modalities that the method uses."""
        return self.method.mods

    def ids(self, split: str) -> list[str]:
        """Sample ids in the order of the predictions."""
        features = self.feed.features
        return [features.ids[row] for row in features.rows[split].tolist()]

    def predict(self, split: str, change: Change | None = None) -> dict[str, Tensor]:
        """`probs`, `logits`, `logits/m` [S,N,C], `present/m` [S,N], `labels` [N] on the CPU, of changed inputs."""
        with one_thread():
            return predictions(self.method, self._seen(split, change), split)

    @torch.no_grad()
    def features(self, split: str, change: Change | None = None) -> dict[str, Tensor]:
        """What the adapters make of each modality, h[m] [S,N,D] on the CPU."""
        with one_thread():
            feed = self._seen(split, change)
            parts = [self.method.encode(batch) for batch in feed.split(split, self.method.S)]
        return {m: torch.cat([part[m].cpu() for part in parts], 1) for m in self.mods}

    def _seen(self, split: str, change: Change | None) -> Feed:
        """The feed with the inputs of `split` changed; transductive methods see it as their data."""
        if len(self.feed.rows[split]) == 0:
            raise UsageError(f"'{self.feed.features.name}' has no sample in split '{split}'.")
        feed = self.feed if change is None else self._changed(split, change)
        self.method.see(feed.x, feed.mask)
        return feed

    def _changed(self, split: str, change: Change) -> Feed:
        rows, feed = self.feed.rows[split], copy(self.feed)
        feed.x, feed.mask = dict(feed.x), dict(feed.mask)
        for m in self.mods:
            given = self._inputs(m, rows)
            x, mask = change(m, given)
            if x is given.x:
                continue
            feed.x[m] = feed.x[m].index_copy(0, rows, x)
            feed.mask[m] = self._mask(m).index_copy(0, rows, mask)
        return feed

    def _inputs(self, m: str, rows: Tensor) -> Inputs:
        x, mask = self.feed.x[m], self._mask(m)
        return Inputs(x[rows], mask[rows], *self._training[m])

    def _mask(self, m: str) -> Tensor:
        x, mask = self.feed.x[m], self.feed.mask[m]
        return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device) if mask is None else mask

    @cached_property
    def _training(self) -> dict[str, tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor]]:
        """Of each modality its training samples, a raw zero, mean and deviation: as `Inputs` takes them."""
        return {m: self._trained_on(m) for m in self.mods}

    def _trained_on(self, m: str) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor]:
        x, mask, train = self.feed.x[m], self._mask(m), self.feed.rows["train"]
        train = train[(mask if mask.ndim == 1 else mask.any(1))[train]]
        mean, deviation = (value.to(x.device, x.dtype) for value in self._stats[m])
        zero = torch.zeros_like(mean)
        if m in (scaling := self.feed.features.scaling):
            raw = [value.to(x.device, x.dtype) for value in scaling[m]]
            zero = (-raw[0] / raw[1]).clamp(-CLAMP, CLAMP)
        return (x[train], mask[train]), zero, mean, deviation

    @cached_property
    def _stats(self) -> Stats:
        return self.feed.features.stats()


def read_spec(folder: Path) -> RunSpec:
    """The spec of a run folder."""
    try:
        return RunSpec.model_validate(json.loads((folder / "run.json").read_text())["config"])
    except ValidationError as problem:
        first = problem.errors()[0]
        why = f"its settings are not those of this version ({'.'.join(map(str, first['loc']))}: {first['msg']})"
    except (OSError, KeyError, ValueError) as problem:
        why = f"{type(problem).__name__}: {problem}"
    raise CacheError(f"{folder.name} is no run folder: {why}.", "Expected a folder made by mmbal train.")


def open_run(folder: Path, cache: Path, dataset: str | None = None, device: str = "auto") -> Opened:
    """The models of a run on its own data set, split and subset, or on another prepared `dataset` as it is.

    CacheError when the features are gone or others now, UsageError when another data set does not fit the run.
    """
    spec = read_spec(folder)
    seeds = tuple(sorted(s for s, status in RunFolder(folder).finished().items() if status == "done"))
    if not seeds:
        raise CacheError(f"{folder} has no finished seed.", repair="mmbal train ... --resume")
    target = resolve_device(device)
    own = dataset in (None, spec.dataset)
    prepared, features = load_features(
        cache,
        dataset or spec.dataset,
        *((spec.split, spec.subset, spec.encoders) if own else ()),
    )
    if own:
        _refuse_others(spec, features)
    features = _fitting(features, prepared, json.loads((folder / "run.json").read_text())["data"], cache)
    if spec.train.standardise:
        features = features.standardised(_scaling(folder, seeds[0], features))
    feed = Feed(features, torch.device(target), getattr(torch, spec.train.dtype))
    return Opened(spec, seeds, restore(spec, folder, seeds, feed, target), feed)


def _fitting(features: FeatureSet, prepared: PreparedSet, trained: dict, cache: Path) -> FeatureSet:
    """Only the modalities of the run; UsageError when classes, encoders or widths differ."""
    if list(features.classes) != trained["classes"]:
        raise UsageError(f"'{features.name}' has classes {list(features.classes)}, the run {trained['classes']}.")
    wanted = {m: tuple(shape) for m, shape in trained["shapes"].items()}
    for m, encoder in trained["modalities"].items():
        if m not in features.x:
            raise UsageError(f"'{features.name}' lacks modality '{m}' of the run.", nearest(m, features.x))
        found = load_index(cache / prepared.name / prepared.modalities[m]).encoder
        if found != encoder or features.shapes[m] != wanted[m]:
            raise UsageError(
                f"'{features.name}' has {m} from {found} {list(features.shapes[m])}, "
                f"the run was trained on {encoder} {list(wanted[m])}.",
                "Prepare the data set with the same encoders.",
                f"mmbal prepare {features.name} --encoder {m}={encoder}",
            )
    features.x, features.mask = {m: features.x[m] for m in wanted}, {m: features.mask[m] for m in wanted}
    return features


def _scaling(folder: Path, seed: int, features: FeatureSet) -> Stats:
    file = load_file(folder / f"seed-{seed}" / "model.safetensors")
    return {m: (file[f"input/{m}/mean"], file[f"input/{m}/deviation"]) for m in features.x}


def _refuse_others(spec: RunSpec, features: FeatureSet) -> None:
    """The data set may have been prepared again since the run: CacheError when it has another split or features."""
    if features.split_hash != spec.split_hash:
        which = f"The split '{spec.split}' of '{spec.dataset}'" if spec.split else f"The split of '{spec.dataset}'"
        raise CacheError(
            f"{which} is another one now (hash {features.split_hash[:8]}, "
            f"the run was trained on {spec.split_hash[:8]}).",
            "Test samples of this one may have been trained on.",
        )
    if features.fingerprint != spec.fingerprint:
        raise CacheError(
            f"The features of '{spec.dataset}' are others now (fingerprint {features.fingerprint[:8]}, the run was "
            f"trained on {spec.fingerprint[:8]}).",
            "A model predicts from features made as those it was trained on.",
            f"mmbal prepare {spec.dataset} ... (as for the run), or eval --fresh --dataset OTHER",
        )
