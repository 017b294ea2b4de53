"""Fresh predictions of a finished run: any split, any prepared data set with the same encoders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from mmbal_cli.data.features import FeatureSet, Stats, load_features
from mmbal_cli.engine.device import resolve_device
from mmbal_cli.engine.feed import Feed, predictions
from mmbal_cli.engine.job import restore
from mmbal_cli.engine.runs import RunFolder, RunSpec
from mmbal_cli.errors import CacheError, UsageError, nearest
from mmbal_cli.store.index import load_index

Predictions = dict[int, dict[str, np.ndarray]]


def read_spec(folder: Path) -> RunSpec:
    """The spec of a run folder."""
    try:
        return RunSpec.model_validate(json.loads((folder / "run.json").read_text())["config"])
    except (OSError, KeyError, ValueError) as problem:
        raise CacheError(f"{folder} is no run folder ({problem}).", "Expected a folder made by mmbal train.") from None


def predict_run(
    folder: Path, cache: Path, dataset: str | None = None, split: str = "test", device: str = "auto"
) -> Predictions:
    """For each finished seed: `probs`, `logits`, `logits/m`, `present/m`, `labels`, `ids` on `split`.

    On the data set of the run its own named split and subset hold, on another one those that were prepared.
    `present` [N], whether a sample has any modality, is there when some have none.
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
    trained = json.loads((folder / "run.json").read_text())["data"]
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
    if spec.train.standardise:
        features = features.standardised(_stats(folder, seeds[0], wanted))
    feed = Feed(features, torch.device(target), getattr(torch, spec.train.dtype))
    if len(feed.rows[split]) == 0:
        raise UsageError(f"'{features.name}' has no sample in split '{split}'.")
    fresh = predictions(restore(spec, folder, seeds, feed, target), feed, split)
    ids = np.array([features.ids[row] for row in features.rows[split].tolist()])
    extra = {"ids": ids}
    if (some := features.somewhere()) is not None:
        extra["present"] = some[features.rows[split]].numpy()
    return {
        seed: {k: (v if k == "labels" else v[i]).numpy() for k, v in fresh.items()} | extra
        for i, seed in enumerate(seeds)
    }


def _stats(folder: Path, seed: int, mods: dict[str, tuple[int, ...]]) -> Stats:
    file = load_file(folder / f"seed-{seed}" / "model.safetensors")
    return {m: (file[f"input/{m}/mean"], file[f"input/{m}/deviation"]) for m in mods}


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
