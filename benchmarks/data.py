"""Looking at data, as ratios measured in one run: `python benchmarks/data.py [--samples 20000] [--clips 150]`.

- audit: near-duplicates of N x 2 x 768 features between three parts, in times of the bare matrix products it needs;
- probe: two modalities and both together with the choice of the penalty, in times of one scikit-learn fit of both;
- check: `mmbal data check` of clips as CREMA-D's (digests and headers), in times of `--full`, which decodes them;
- prepare: `mmbal prepare features.npz` (N x (768 + 50 x 5)), in times of a bare loop that reads and writes them.

Commands are timed as whole processes, start-up included.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mmbal_cli.data.features import FeatureSet
from mmbal_cli.data.near import comparable, exact_twins, near_twins
from mmbal_cli.report.probe import probe

WIDTH, CLASSES = 768, 30
COPY = """
import sys
import h5py
import numpy as np
with np.load(sys.argv[1]) as given, h5py.File(sys.argv[2], "w") as out:
    for name in given.files:
        if given[name].dtype.kind in "fi":
            out[name] = given[name].astype("float16")
"""


def timed(work: Callable[[], object]) -> float:
    """Wall seconds of `work`."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def parts(n: int) -> list[np.ndarray]:
    """Rows of train, val and test: 70, 10 and 20 percent."""
    rows = np.random.default_rng(0).permutation(n)
    return np.split(rows, [round(0.7 * n), round(0.8 * n)])


def audit(n: int) -> tuple[float, float]:
    """Seconds of the search for copies, and of its matrix products alone."""
    g = np.random.default_rng(1)
    x = {m: g.standard_normal((n, WIDTH), dtype=np.float32) for m in ("audio", "video")}
    mask = {m: np.ones(n, bool) for m in x}
    rows = parts(n)
    pairs = [(rows[0], rows[1]), (rows[0], rows[2]), (rows[1], rows[2])]

    def search() -> None:
        data = comparable(x, mask)
        for one, other in pairs:
            exact_twins(data, one, other)
            near_twins(data, one, other, 0.999)

    def bare() -> None:
        for one, other in pairs:
            for values in x.values():
                right = values[other].T
                for start in range(0, len(one), 1024):
                    (values[one[start : start + 1024]] @ right).max()

    return timed(search), timed(bare)


def probing(n: int) -> tuple[float, float]:
    """Seconds of a probe, and of one fit of both modalities."""
    from sklearn.linear_model import LogisticRegression

    g = torch.Generator().manual_seed(2)
    y = torch.randint(CLASSES, (n,), generator=g)
    centres = {m: torch.randn(CLASSES, WIDTH, generator=g) for m in ("audio", "video")}
    x = {m: 0.15 * centre[y] + torch.randn(n, WIDTH, generator=g) for m, centre in centres.items()}
    rows = {name: torch.from_numpy(part) for name, part in zip(("train", "val", "test"), parts(n), strict=True)}
    names = tuple(f"c{i:02d}" for i in range(CLASSES))
    data = FeatureSet("bench", "0", names, [str(i) for i in range(n)], y, x, dict.fromkeys(x), rows)
    both = torch.cat([x["audio"], x["video"]], 1)[rows["train"]].numpy()
    return timed(lambda: probe(data)), timed(lambda: LogisticRegression().fit(both, y[rows["train"]].numpy()))


def mmbal(*args: str) -> float:
    """Seconds of one command."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return timed(lambda: subprocess.run([sys.executable, "-m", "mmbal_cli", *args], check=True, env=env,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))  # fmt: skip


def checking(folder: Path, clips: int) -> tuple[float, float]:
    """Seconds of `data check` without and with decoding."""
    sys.path.insert(0, str(Path(__file__).parent))
    from prepare import write_clip

    lines = ["id,split,label,video,audio"]
    for i in range(clips):
        write_clip(folder / f"{i:04d}.mp4", i)
        lines.append(f"s{i},{('train', 'val', 'test')[i % 3]},c{i % 5},{i:04d}.mp4,{i:04d}.mp4")
    table = folder / "clips.csv"
    table.write_text("\n".join(lines) + "\n")
    return mmbal("data", "check", str(table)), mmbal("data", "check", str(table), "--full")


def arrays(folder: Path, n: int) -> tuple[float, float]:
    """Seconds of `prepare` from an .npz, and of a bare copy of the same arrays."""
    g = np.random.default_rng(3)
    split = np.array(["train", "val", "test"])[np.arange(n) % 3]
    features = {"text": g.random((n, WIDTH), np.float32), "audio": g.random((n, 50, 5), np.float32)}
    np.savez(folder / "features.npz", **features, label=np.arange(n) % CLASSES, split=split)
    made = mmbal("prepare", str(folder / "features.npz"), "--cache", str(folder / "cache"))
    command = [sys.executable, "-c", COPY, str(folder / "features.npz"), str(folder / "copy.h5")]
    return made, timed(lambda: subprocess.run(command, check=True))


def main() -> None:
    """Measure all four and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--clips", type=int, default=150)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "clips").mkdir()
        found = {
            f"audit, {given.samples:,} x 2 x {WIDTH}, against its products": audit(given.samples),
            f"probe, {given.samples:,} x 2 x {WIDTH}, against one fit": probing(given.samples),
            f"check, {given.clips} clips, against check --full": checking(Path(name) / "clips", given.clips),
            f"prepare from .npz, {given.samples:,} rows, against a copy": arrays(Path(name), given.samples),
        }
    for label, (ours, other) in found.items():
        print(f"{label:55} {ours:7.2f} s  {other:7.2f} s  ratio {ours / other:.2f}")


if __name__ == "__main__":
    main()
