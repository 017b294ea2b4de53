"""What each method costs, in multiples of concat: `python benchmarks/methods.py [--rounds 3] [--write] [METHOD ...]`.

Whole runs, with all their stages, side trainings and windows: 640 samples like those of `benchmarks/train.py` (two
768-wide modalities, width 256), 20 epochs, one core, five stacked seeds, selection and records included. Printed are
medians over the rounds of the ratios inside a round, so that a drifting machine cancels out. `--write` puts them into
the table of methods.

- backward: passes through the autograd engine for each step of the main phase, and for each of its epochs beyond steps
- epoch:    an epoch of the main phase in epochs of concat
- run:      all phases in runs of concat
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from train import CONFIG, crema_like

from mmbal_cli.data.features import FeatureSet
from mmbal_cli.engine.feed import Feed
from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods import METHODS, method_class, table

EPOCHS, SAMPLES = 20, {"train": 640, "val": 160}


@dataclass(frozen=True)
class Cost:
    """Mean seconds of an epoch of the main phase, seconds of the run; backward passes a step and an epoch."""

    epoch: float
    run: float
    step_passes: float
    epoch_passes: float


def measure(features: FeatureSet, name: str, S: int) -> Cost:
    """One whole run."""
    feed = Feed(features, torch.device("cpu"), torch.float32)
    cls, config = method_class(name), CONFIG.model_copy(update={"epochs": EPOCHS})
    method = cls(feed.shape, config, tuple(range(S)), cls.default_fusion())
    fit = Fit(method, feed)
    main = next(phase for phase in fit.phases if phase.name == "train")
    seconds: Counter[str] = Counter()
    passes: Counter[str] = Counter()
    inside = False  # a training step, not a hook
    step = method.step

    def stepping(batch: object) -> torch.Tensor:
        nonlocal inside
        inside = True
        passes[f"{method.phase}/steps"] += 1
        loss = step(batch)  # type: ignore[arg-type]
        inside = False
        return loss

    def counted(function):  # type: ignore[no-untyped-def]
        def call(*args: object, **kwargs: object) -> object:
            passes[f"{method.phase}/{'step' if inside else 'hook'}"] += 1
            return function(*args, **kwargs)

        return call

    method.step = stepping  # type: ignore[method-assign]
    backward, grad = torch.autograd.backward, torch.autograd.grad
    with patch("torch.autograd.backward", counted(backward)), patch("torch.autograd.grad", counted(grad)):
        start = time.perf_counter()
        for rows in fit.run():
            seconds[str(rows[0]["phase"])] += time.perf_counter() - start
            start = time.perf_counter()
    steps = passes["train/step"] / passes["train/steps"]
    return Cost(seconds["train"] / main.epochs, sum(seconds.values()), steps, passes["train/hook"] / main.epochs)


def main() -> None:
    """Print one line for each method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", default=[name for name in METHODS if name != "unimodal"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the ratios into the table of methods")
    options = parser.parse_args()
    torch.set_num_threads(1)
    features = crema_like()
    features.rows |= {split: features.rows[split][:n] for split, n in SAMPLES.items()}
    measure(features, "concat", options.seeds)  # warms up
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in options.methods}
    passes: dict[str, Cost] = {}
    for _ in range(options.rounds):
        base = measure(features, "concat", options.seeds)
        for name in options.methods:
            passes[name] = cost = measure(features, name, options.seeds)
            ratios[name].append((cost.epoch / base.epoch, cost.run / base.run))
    print(f"{'method':20}{'backward':>12}{'epoch':>8}{'run':>8}   stages")
    for name, found in ratios.items():
        cost = passes[name]
        count = f"{cost.step_passes:.0f}" + (f" + {cost.epoch_passes:.0f}" if cost.epoch_passes else "")
        epoch, run = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{name:20}{count:>12}{epoch:8.2f}{run:8.2f}   {method_class(name).card.stages}")
    if options.write:
        write({name: statistics.median(run for _, run in found) for name, found in ratios.items()})


def write(costs: dict[str, float]) -> None:
    """Replace the column `cost` of the table of methods."""
    path = Path(table.__file__).with_suffix(".csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["cost"] = f"{costs[row['name']]:.1f}" if row["name"] in costs else row["cost"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
