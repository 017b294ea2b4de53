"""`mmbal compare` with statistics and a baseline: `python benchmarks/compare.py [--methods 40] [--seeds 20]`.

Run folders as training writes them, of three data sets with CREMA-D's test set (744 samples, 6 classes, audio and
video), are written to a temporary folder: a strong, a weak and a joint model for each method, all wrong on much the
same samples. Timed are whole processes, start-up included: `mmbal compare --baseline concat` as a table and as JSON,
and a process that only reads the same prediction files (target: 5 s for the table on 2 cores).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SAMPLES = 744
CLASSES = ("anger", "disgust", "fear", "happy", "neutral", "sad")
MODALITIES = {"audio": "logmel-stats", "video": "hog-motion"}
SETS = ("first", "second", "third")
REFERENCES = ("unimodal:audio", "unimodal:video", "unimodal-ensemble", "concat", "uniform")
PROTOCOL = {"selection": "validation accuracy, ties by NLL, each seed apart"}
BARE = """
import json, sys
from pathlib import Path
from safetensors import safe_open
for path in sorted(Path(sys.argv[1]).glob("*/seed-*/predictions-test.safetensors")):
    with safe_open(path, framework="np") as file:
        json.loads(file.metadata()["ids"])
        arrays = {key: file.get_tensor(key) for key in file.keys()}
"""


def digest(text: str) -> str:
    """sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def arrays(label: str, shared: np.ndarray, rng: np.random.Generator, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Tensors of one prediction file; logits share their noise over methods and seeds."""
    right = np.eye(len(CLASSES))[labels]
    skill = {"audio": 1.9, "video": 1.2} | ({"video": 0.8} if label == "concat" else {})
    heads = [label.partition(":")[2]] if ":" in label else list(MODALITIES)
    noise = 0.9 * shared + 0.6 * rng.normal(size=shared.shape)
    own = {m: skill[m] * right + noise[list(MODALITIES).index(m)] for m in heads}
    fused = sum(own.values()) / len(own)
    probs = np.exp(2 * fused)
    found = {"probs": probs / probs.sum(axis=1, keepdims=True), "logits": fused}
    found |= {f"logits/{m}": logits for m, logits in own.items()}
    found = {name: array.astype(np.float32) for name, array in found.items()}
    return found | {"labels": labels} | {f"present/{m}": np.ones(SAMPLES, np.uint8) for m in own}


def write_run(root: Path, dataset: str, label: str, seeds: int) -> None:
    """One run folder with its finished seeds."""
    number = SETS.index(dataset)
    shared = np.random.default_rng(number).normal(size=(len(MODALITIES), SAMPLES, len(CLASSES)))
    spec, labels = digest(f"{dataset} {label}"), np.random.default_rng(number).integers(len(CLASSES), size=SAMPLES)
    folder = root / f"{dataset}-{label.replace(':', '-')}-{spec[:8]}"
    folder.mkdir(parents=True)
    data = {"fingerprint": digest(dataset), "split_hash": digest(f"split {dataset}"), "classes": CLASSES}
    data |= {"modalities": MODALITIES, "counts": {"train": 6028, "val": 670, "test": SAMPLES}}
    facts = {"schema": 1, "dataset": dataset, "label": label, "method": label.partition(":")[0], "spec": spec}
    facts |= {"kind": "reference" if label in REFERENCES else "gradient", "reference": label in REFERENCES}
    (folder / "run.json").write_text(json.dumps(facts | {"config": {}, "data": data, "protocol": PROTOCOL}))
    ids = json.dumps([f"{1001 + i // 8}_{dataset[:3].upper()}_{i:04d}_XX" for i in range(SAMPLES)])
    for seed in range(1, seeds + 1):
        place = folder / f"seed-{seed}"
        place.mkdir()
        done = {"seed": seed, "status": "done", "reason": "", "best_epoch": {"fused": 31}, "epochs": 50, "seconds": 1.5}
        (place / "done.json").write_text(json.dumps(done))
        rng = np.random.default_rng([seed, int(spec[:8], 16)])
        found = arrays(label, shared, rng, labels)
        save_file(found, place / "predictions-test.safetensors", {"ids": ids, "split": "test", "seed": str(seed)})


def seconds(command: Sequence[str], folder: str) -> tuple[float, float]:
    """Wall and processor seconds of one process; it must succeed."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, cwd=folder, env=os.environ | {"COLUMNS": "150"})
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Write the runs, time reading and both forms of the comparison in turn, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    labels = [*REFERENCES, *(f"method-{i:02d}" for i in range(1, asked.methods - len(REFERENCES) + 1))]
    with tempfile.TemporaryDirectory() as folder:
        for dataset in SETS:
            for label in labels:
                write_run(Path(folder) / "runs", dataset, label, asked.seeds)
        compare = [sys.executable, "-m", "mmbal_cli", "compare", "--baseline", "concat"]
        bare = [sys.executable, "-c", BARE, str(Path(folder) / "runs")]
        seconds(bare, folder)  # the files are in memory from here on
        rounds = [[seconds(each, folder) for each in (bare, compare, [*compare, "-f", "json"])]
                  for _ in range(asked.repeats)]  # fmt: skip
    wall, work = ([statistics.median(each[i] for each in column) for column in zip(*rounds, strict=True)]
                  for i in range(2))  # fmt: skip
    files, cores = len(labels) * len(SETS) * asked.seeds, len(os.sched_getaffinity(0))
    print(f"{len(labels)} methods x {asked.seeds} seeds x {len(SETS)} data sets, {files} files, {cores} cores")
    print(f"only reading the files: {wall[0]:.2f} s, {work[0]:.2f} s of processor time")
    print(f"mmbal compare --baseline concat: {wall[1]:.2f} s (target 5), {work[1]:.2f} s of processor time")
    print(f"  {wall[1] / wall[0]:.1f} times reading")
    print(f"the same with --format json: {wall[2]:.2f} s, {work[2]:.2f} s of processor time")


if __name__ == "__main__":
    main()
