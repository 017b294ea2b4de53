"""Training speed, as ratios measured in one run: `python benchmarks/train.py [--rounds 5]`.

CREMA-D size: 6,698 training samples, two 768-wide modalities, 6 classes, batch 64, adapters 768-256-256, concat.
Rates are seed-samples/s (samples a second, summed over seeds). Everything is measured once in each of several rounds;
printed are medians over the rounds, of rates and of the ratios inside a round, so that a drifting machine cancels out.

- limit:   the matrix products of one step, forward and backward, and nothing else, on one core
- mmbal:   the real loop (shuffle, gather, step, fused SGD, validation and selection every epoch), on one core
- 2 cores: the real runner with one single-thread process for each core
- loader:  an ordinary in-memory DataLoader loop over the same head (one thread, and torch's default threads)
- rows:    the same loop that reads HDF5 rows one by one
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ["MKL_CBWR"] = "AUTO,STRICT"  # as the training workers have it; read when torch is imported

import h5py
import numpy as np
import torch
from torch import nn

from mmbal_cli.data.features import FeatureSet, from_arrays
from mmbal_cli.engine.feed import Feed
from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods import method_class
from mmbal_cli.recipe import TrainConfig

N, VAL, F, D, C, B = 6698, 744, 768, 256, 6, 64
CONFIG = TrainConfig(epochs=3, batch=B, width=D, lr=1e-2)


def crema_like() -> FeatureSet:
    """Random features with class means, 6,698 / 744 / 0 samples."""
    g = np.random.default_rng(0)
    total = N + VAL
    labels = g.integers(0, C, total)
    features = {
        m: (g.normal(size=(total, F)) + 0.3 * g.normal(size=(C, F))[labels]).astype("float32") for m in ("a", "v")
    }
    arrays = {
        "ids": [str(i) for i in range(total)],
        "splits": ["train"] * N + ["val"] * VAL,
        "labels": labels,
        "features": features,
        "mask": {m: np.ones(total, bool) for m in features},
    }
    return from_arrays("crema-like", "0" * 64, tuple("abcdef"), arrays)


def limit(S: int, steps: int) -> float:
    """Seed-samples/s of the bare products of a step of S stacked seeds."""
    shapes = [(F, D, False), (D, D, True)] * 2 + [(2 * D, C, True)]
    operands = [(torch.randn(S, B, i), torch.randn(S, i, o), torch.randn(S, B, o), dx) for i, o, dx in shapes]

    for _ in range(2):  # the first one warms up
        start = time.perf_counter()
        for _ in range(steps):
            for x, w, g, dx in operands:
                torch.bmm(x, w)
                torch.bmm(x.transpose(1, 2), g)
                if dx:
                    torch.bmm(g, w.transpose(1, 2))
    return S * B * steps / (time.perf_counter() - start)


def stacked(features: FeatureSet, S: int, method: str = "concat") -> float:
    """Seed-samples/s of the engine's loop with S seeds, records and selection included."""
    feed = Feed(features, torch.device("cpu"), torch.float32)
    cls = method_class(method)
    fit = Fit(cls(feed.shape, CONFIG, tuple(range(S)), cls.card.fusions[0]), feed)
    start = time.perf_counter()
    list(fit.run())
    return S * N * CONFIG.epochs / (time.perf_counter() - start)


class Head(nn.Module):
    """The same head for one seed."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.ModuleList(
            nn.Sequential(nn.Linear(F, D), nn.ReLU(), nn.Linear(D, D), nn.ReLU()) for _ in range(2)
        )
        self.head = nn.Linear(2 * D, C)

    def forward(self, a: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.enc[0](a), self.enc[1](v)], -1))


class Rows(torch.utils.data.Dataset):
    """Reads one row at a time from HDF5, as many loaders do."""

    def __init__(self, path: Path, features: FeatureSet) -> None:
        with h5py.File(path, "w") as file:
            for m, x in features.x.items():
                file.create_dataset(m, data=x[:N].numpy(), chunks=(256, F))
        self.file, self.y = h5py.File(path), features.y

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self.file["a"][i]), torch.from_numpy(self.file["v"][i]), self.y[i]


def loader(dataset: torch.utils.data.Dataset, steps: int) -> float:
    """Samples/s of a plain training loop: DataLoader, SGD, `.item()` each step."""
    model = Head()
    optimizer = torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9, weight_decay=1e-4)
    batches = iter(torch.utils.data.DataLoader(dataset, B, shuffle=True, drop_last=True))
    start, total = time.perf_counter(), 0.0
    for _ in range(steps):
        a, v, y = next(batches)
        loss = nn.functional.cross_entropy(model(a, v), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return B * steps / (time.perf_counter() - start)


def two_cores(features: FeatureSet, epochs: int) -> float:
    """Seed-samples/s of the real runner with two worker processes, from first start to last end."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from mmbal_cli.cli.train import open_data
    from mmbal_cli.engine.plan import plan_run
    from mmbal_cli.engine.runner import Job, Runner, seed_groups
    from mmbal_cli.engine.runs import RunFolder
    from tests.kit.prepared import write_prepared

    seeds = tuple(range(1, 11))
    with tempfile.TemporaryDirectory() as folder:
        cache, runs = Path(folder) / "cache", Path(folder) / "runs"
        write_prepared(cache, features, "crema-like")
        plan = plan_run(open_data(cache, "crema-like"), "concat", {}, None, {"epochs": epochs, "width": D}, {})
        run = RunFolder(runs / plan.spec.folder)
        jobs = [Job(plan.spec, run, group) for group in seed_groups(seeds, 1, 2, "cpu")]
        times: list[float] = []
        Runner(jobs, 2, cache, "cpu").run(lambda job, event: times.append(time.perf_counter()))
    return len(seeds) * N * epochs / (times[-1] - times[0])


def one_round(
    features: FeatureSet, memory: torch.utils.data.Dataset, rows: torch.utils.data.Dataset
) -> dict[str, float]:
    """Every rate once."""
    found = {}
    for S in (1, 5):
        found[f"limit {S}"], found[f"mmbal {S}"] = limit(S, 200 // S), stacked(features, S)
    found["loader"], found["rows"] = loader(memory, 100), loader(rows, 40)
    torch.set_num_threads(os.cpu_count() or 1)
    found["loader, all threads"] = loader(memory, 100)
    torch.set_num_threads(1)
    found["mmbal, 2 cores"] = two_cores(features, 20)  # real runs have about a hundred epochs
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    count = parser.parse_args().rounds
    torch.set_num_threads(1)
    features = crema_like()
    memory = torch.utils.data.TensorDataset(*(x[:N] for x in features.x.values()), features.y[:N])
    with tempfile.TemporaryDirectory() as folder:
        rows = Rows(Path(folder) / "rows.h5", features)
        rounds = [one_round(features, memory, rows) for _ in range(count + 1)][1:]
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, {count} rounds after a warm-up")
    for name in rounds[0]:
        print(f"{name:20s} {statistics.median(r[name] for r in rounds):9.0f} seed-samples/s")

    def ratio(a: str, b: str, target: str) -> None:
        print(f"{a} / {b}: {statistics.median(r[a] / r[b] for r in rounds):.2f} {target}")

    ratio("mmbal 1", "limit 1", "(target 0.65)")
    ratio("mmbal 5", "limit 5", "(target 0.65)")
    ratio("mmbal, 2 cores", "loader", "(target 2.0)")
    ratio("mmbal, 2 cores", "loader, all threads", "")
    ratio("mmbal, 2 cores", "rows", "(target 13)")


if __name__ == "__main__":
    main()
