"""Run folders in the format that training writes, with predictions of a chosen strength."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

CLASSES = ("anger", "fear", "joy")
ENCODERS = {"audio": "logmel-stats", "video": "hog-motion"}
PROTOCOL = {"selection": "validation accuracy", "epochs": 30}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def predictions(
    seed: int,
    strengths: Mapping[str, float],
    *,
    name: str = "",
    samples: int = 120,
    classes: int = len(CLASSES),
    fused: float | None = None,
) -> dict[str, np.ndarray]:
    """Arrays of a prediction file: logits are noise plus `strengths[m]` at the label, `fused` or their sum."""
    labels = np.arange(samples) % classes
    target = np.eye(classes)[labels]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    shared = np.random.default_rng(0).normal(size=(len(strengths), samples, classes))  # hard for every model
    noise = 0.6 * shared + 0.8 * rng.normal(size=shared.shape)
    logits = {m: s * target + noise[i] for i, (m, s) in enumerate(strengths.items())}
    total = sum(logits.values()) if fused is None else fused * target + noise.mean(axis=0)
    weights = np.exp(total - total.max(axis=1, keepdims=True))
    arrays = {"probs": weights / weights.sum(axis=1, keepdims=True), "logits": total}
    arrays |= {f"logits/{m}": each for m, each in logits.items()}
    arrays = {key: array.astype(np.float32) for key, array in arrays.items()}
    arrays |= {f"present/{m}": np.ones(samples, np.uint8) for m in logits}
    return arrays | {"labels": labels.astype(np.int64)}


def write_predictions(
    folder: Path, split: str, arrays: Mapping[str, np.ndarray], ids: Sequence[str] | None = None
) -> None:
    ids = [f"clip-{i:04d}" for i in range(len(arrays["labels"]))] if ids is None else list(ids)
    metadata = {"ids": json.dumps(ids), "split": split}
    save_file(
        {k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / f"predictions-{split}.safetensors", metadata
    )


def write_run(
    root: Path,
    label: str,
    strengths: Mapping[str, float],
    *,
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
    failed: Mapping[int, str] | None = None,
    ids: Sequence[str] | None = None,
    fused: float | None = None,
    samples: int = 120,
    classes: Sequence[str] = CLASSES,
    fingerprint: str = "one",
    split: str = "one",
    **facts: Any,
) -> Path:
    """Write one run folder below `root`; further keyword arguments replace fields of run.json."""
    spec = digest(json.dumps([label, fingerprint, split, facts], sort_keys=True))
    run = {
        "schema": 1,
        "dataset": "demo",
        "label": label,
        "method": label.partition(":")[0],
        "kind": "fusion" if label in ("concat", "sum") else "gradient",
        "reference": label.partition(":")[0] in ("unimodal", "unimodal-ensemble", "concat", "uniform"),
        "spec": spec,
        "config": {"train": {"lr": 0.01}},
        "data": {
            "fingerprint": digest(fingerprint),
            "split_hash": digest(split),
            "split_note": "",
            "classes": list(classes),
            "modalities": ENCODERS,
            "counts": {"train": 500, "val": samples, "test": samples},
        },
        "protocol": PROTOCOL,
        "deviates": [],
    } | facts
    folder = root / f"{run['dataset']}-{re.sub(r'[^a-zA-Z0-9_.]+', '-', label)}-{spec[:8]}"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run))
    for seed in (*seeds, *(failed or {})):
        reason = (failed or {}).get(seed)
        place = folder / f"seed-{seed}"
        place.mkdir()
        done = {"seed": seed, "status": "failed" if reason else "done", "reason": reason or ""}
        (place / "done.json").write_text(
            json.dumps(done | {"best_epoch": {"fused": 10 + seed}, "seconds": 1.5, "epochs": 30})
        )
        records = [{"epoch": epoch, "val/accuracy": 0.5, "train/loss": 1.0 / (epoch + 1)} for epoch in range(3)]
        (place / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        if not reason:
            arrays = predictions(seed, strengths, name=label, samples=samples, classes=len(classes), fused=fused)
            for name in ("val", "test"):
                write_predictions(place, name, arrays, ids)
    return folder


def write_study(root: Path, **facts: Any) -> dict[str, Path]:
    """A small study with a strong and a weak modality: references and three balancing methods."""
    study = {
        "unimodal:audio": ({"audio": 1.6}, None),
        "unimodal:video": ({"video": 1.1}, None),
        "unimodal-ensemble": ({"audio": 1.6, "video": 1.1}, None),
        "concat": ({"audio": 1.6, "video": 0.5}, 1.7),
        "ogm-ge": ({"audio": 1.55, "video": 0.8}, 1.8),
        "arl": ({"audio": 1.55, "video": 1.05}, 2.0),
        "lfm-h": ({"audio": 1.6, "video": 0.75}, 1.75),
    }
    return {k: write_run(root, k, strengths, fused=fused, **facts) for k, (strengths, fused) in study.items()}
