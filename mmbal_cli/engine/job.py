"""One job: train a stack of seeds of one run from wherever it was left, and publish each seed's folder."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor

from mmbal_cli.data.features import FeatureSet, load_features
from mmbal_cli.engine.checkpoint import load_checkpoint, save_checkpoint
from mmbal_cli.engine.feed import Feed, predictions
from mmbal_cli.engine.fit import Fit
from mmbal_cli.engine.runs import LEGACY, RunFolder, RunSpec
from mmbal_cli.errors import CacheError
from mmbal_cli.methods import method_class
from mmbal_cli.methods.base import Method
from mmbal_cli.store.atomic import canonical_json, publish

CHECKPOINT_EVERY_S = 10.0
Event = dict[str, Any]


class DataKey(NamedTuple):
    """What of a spec decides the samples and features of a run."""

    dataset: str
    fingerprint: str
    split: str
    subset: str
    split_hash: str
    encoders: tuple[tuple[str, str], ...]


@lru_cache(maxsize=2)
def _features(cache: Path, dataset: str, split: str, subset: str, encoders: tuple[tuple[str, str], ...]) -> FeatureSet:
    return load_features(cache, dataset, split, subset, dict(encoders))[1]


@lru_cache(maxsize=2)
def _feed(cache: Path, data: DataKey, device: str, dtype: str, standardise: bool) -> Feed:
    features = _features(cache, data.dataset, data.split, data.subset, data.encoders)
    if features.fingerprint != data.fingerprint:
        raise CacheError(
            f"'{data.dataset}' was prepared again while training was planned (fingerprint {features.fingerprint[:8]}, "
            f"expected {data.fingerprint[:8]}).",
            repair="mmbal train ... (again, on the new features)",
        )
    if data.split and features.split_hash != data.split_hash:
        raise CacheError(
            f"The split '{data.split}' of '{data.dataset}' is another one now (hash {features.split_hash[:8]}, "
            f"expected {data.split_hash[:8]}).",
            repair="mmbal train ... (again, on the split that is stored now)",
        )
    if standardise:
        features = features.standardised(features.stats())
    return Feed(features, torch.device(device), getattr(torch, dtype))


def run_job(
    spec: RunSpec, seeds: tuple[int, ...], folder: RunFolder, cache: Path, device: str, stop: Callable[[], bool]
) -> Iterator[Event]:
    """Train `seeds` and write their folders; yields one event an epoch and one at the end."""
    data = DataKey(
        spec.dataset, spec.fingerprint, spec.split, spec.subset, spec.split_hash, tuple(spec.encoders.items())
    )
    feed = _feed(cache, data, device, spec.train.dtype, spec.train.standardise)
    method = method_class(spec.method)(feed.shape, spec.train, seeds, spec.fusion, spec.knobs).to(device)
    fit = Fit(method, feed, legacy=spec.protocol == LEGACY)
    epochs = sum(phase.epochs for phase in method.phases())
    work = folder.job(seeds)
    work.mkdir(parents=True, exist_ok=True)
    if (saved := load_checkpoint(work)) is not None:
        fit.load(*saved)
    log = work / "records.jsonl"
    _cut_records(log, fit.finished)
    yield {"event": "start", "epoch": fit.finished, "epochs": epochs}
    last, stopped = time.monotonic(), False

    def should_stop() -> bool:
        nonlocal stopped
        stopped = stopped or stop()
        return stopped

    with log.open("a", encoding="utf-8") as lines:
        for rows in fit.run(should_stop):
            for row in rows:
                lines.write(json.dumps({k: _plain(v) for k, v in row.items()}) + "\n")
            lines.flush()
            if time.monotonic() - last > CHECKPOINT_EVERY_S:
                save_checkpoint(work, fit.finished, *fit.state())
                last = time.monotonic()
            found = fit.chosen.score
            whole = found.get("fused") if len(found) > 1 else next(iter(found.values()))
            best = [] if whole is None else [score for score in whole.tolist() if math.isfinite(score)]
            yield {"event": "epoch", "epoch": fit.finished, "epochs": epochs, "val": best}
    if stopped and fit.finished < epochs:
        save_checkpoint(work, fit.finished, *fit.state())
        yield {"event": "stopped", "epoch": fit.finished, "epochs": epochs}
        return
    status = publish_seeds(fit, feed, folder, work, epochs)
    shutil.rmtree(work)
    yield {"event": "done", "epoch": epochs, "epochs": epochs, "seeds": status, "seconds": fit.seconds}


def publish_seeds(fit: Fit, feed: Feed, folder: RunFolder, work: Path, epochs: int) -> dict[int, str]:
    """Predict validation and test once at the selected epochs, and rename each seed's folder into place.

    In the legacy protocol these are the epochs that are best on test; what validation selects is kept beside.
    """
    method, selection, found = fit.method, fit.peeked or fit.chosen, {}
    if fit.peeked:
        fit.use_best()
        found["test-sealed"] = predictions(method, feed, "test")
    fit.use(selection)
    found |= {split: predictions(method, feed, split) for split in ("val", "test") if len(feed.rows[split])}
    state = {k: v.cpu() for k, v in method.state_dict().items()}
    stats = feed.features.scaling
    records: dict[int, list[str]] = {seed: [] for seed in method.rng.seeds}
    for line in (work / "records.jsonl").read_text(encoding="utf-8").splitlines():
        records[json.loads(line)["seed"]].append(line)
    status: dict[int, str] = {}
    for i, seed in enumerate(method.rng.seeds):
        died = int(fit.died[i])
        status[seed] = "done" if died < 0 else "failed"
        done = {
            "seed": seed,
            "status": status[seed],
            "best_epoch": {unit: int(epoch[i]) for unit, epoch in selection.epoch.items()},
            "epochs": fit.finished + fit.method.side_epochs(),
            "seconds": round(fit.seconds / method.S, 3),
            "val": _selected(found["val"], i) if died < 0 else None,
            "reason": "" if died < 0 else f"loss was not finite at step {died}",
        }
        if fit.peeked:
            done["sealed_epoch"] = {unit: int(epoch[i]) for unit, epoch in fit.chosen.epoch.items()}
        target = work / f"seed-{seed}"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        publish(target, "records.jsonl", ("\n".join(records[seed]) + "\n").encode())
        if died < 0:
            for split, tensors in found.items():
                publish(target, f"predictions-{split}.safetensors", _prediction_file(tensors, i, seed, split, feed))
            model = {f"model/{k}": v[i : i + 1].clone() for k, v in state.items()}
            for m, (mean, deviation) in stats.items():
                model |= {f"input/{m}/mean": mean, f"input/{m}/deviation": deviation}
            publish(target, "model.safetensors", save_tensors({k: v.contiguous() for k, v in model.items()}))
        publish(target, "done.json", canonical_json(done))
        shutil.rmtree(folder.path / target.name, ignore_errors=True)
        target.replace(folder.path / target.name)
    return status


def _selected(val: dict[str, Tensor], i: int) -> dict[str, float]:
    """Accuracy and NLL of one seed's validation predictions: what tuning may look at."""
    true = val["probs"][i].gather(-1, val["labels"][:, None]).squeeze(-1)
    hit = val["probs"][i].argmax(-1) == val["labels"]
    return {"accuracy": hit.double().mean().item(), "nll": -true.double().clamp_min(1e-38).log().mean().item()}


def _prediction_file(tensors: dict[str, Tensor], i: int, seed: int, split: str, feed: Feed) -> bytes:
    table = {k: v if k == "labels" else v[i] for k, v in tensors.items()}
    table = {k: v.to(torch.uint8) if v.dtype is torch.bool else v for k, v in table.items()}
    table = {k: v.float().contiguous() if v.is_floating_point() else v.contiguous() for k, v in table.items()}
    features, rows = feed.features, feed.features.rows[split.partition("-")[0]]
    ids = [features.ids[row] for row in rows.tolist()]
    meta = {"ids": json.dumps(ids), "seed": str(seed), "split": split, "fingerprint": features.fingerprint}
    meta |= {"split_hash": features.split_hash, "subset_hash": features.subset_hash}
    if (some := features.somewhere()) is not None:
        table["present"] = some[rows].to(torch.uint8)
    return save_tensors(table, meta)


def _cut_records(path: Path, finished: int) -> None:
    """Drop records after the checkpoint, and a torn last line: they will be written again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["epoch"] <= finished:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _plain(value: Any) -> Any:
    """Numbers that JSON has no word for become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def restore(spec: RunSpec, folder: Path, seeds: tuple[int, ...], feed: Feed, device: str) -> Method:
    """The method of a finished run with the selected weights of `seeds` stacked."""
    method = method_class(spec.method)(feed.shape, spec.train, seeds, spec.fusion, spec.knobs)
    method.see(feed.x, feed.mask)
    files = [load_file(folder / f"seed-{seed}" / "model.safetensors") for seed in seeds]
    try:
        method.load_state_dict({k: torch.cat([file[f"model/{k}"] for file in files]) for k in method.state_dict()})
    except (KeyError, RuntimeError) as problem:
        raise CacheError(
            f"The weights in {folder} are not those of this version's {spec.label}: {problem}.",
            "They were written by another version of mmbal.",
            f"mmbal train --method {spec.method} --dataset {spec.dataset} --overwrite",
        ) from None
    return method.to(device).eval()
