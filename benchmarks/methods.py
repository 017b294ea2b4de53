"""What each method costs, in multiples of concat: `python benchmarks/methods.py [--rounds 5] [--seeds 5] [METHOD ...]`.

The data and the model of `benchmarks/train.py` (6,698 samples, two 768-wide modalities, width 256), one core, five
stacked seeds. In every round one epoch of every phase of every method is timed, selection and records included; printed
are medians over the rounds of the ratios inside a round, so that a drifting machine cancels out.

- backward: passes through the autograd engine for each step of the main phase, and for each of its epochs beyond steps
- epoch:    an epoch of the main phase in epochs of concat
- run:      all phases with the epochs they have in a run of 100, in runs of concat
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from train import CONFIG, crema_like

from mmbal_cli.data.features import FeatureSet
from mmbal_cli.engine.feed import Feed
from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods import METHODS, method_class

EPOCHS = 100
NO_WARM_UP = {"arl": {"start": -1}, "bmlr": {"warmup": 0}, "iibalance": {"warmup": -1}}  # the epochs that cost


@dataclass(frozen=True)
class Cost:
    """Seconds of one epoch of the main phase and of a whole run; backward passes a step and an epoch."""

    epoch: float
    run: float
    step_passes: float
    epoch_passes: int


def measure(features: FeatureSet, name: str, S: int) -> Cost:
    """One epoch of each phase."""
    feed = Feed(features, torch.device("cpu"), torch.float32)
    cls, config = method_class(name), CONFIG.model_copy(update={"epochs": EPOCHS})
    method = cls(feed.shape, config, tuple(range(S)), cls.card.fusions[0], NO_WARM_UP.get(name))
    fit = Fit(method, feed)
    whole = {phase.name: phase.epochs for phase in fit.phases}
    main = next(phase.name for phase in fit.phases if phase.name == "train")
    fit.phases = [replace(phase, epochs=1) for phase in fit.phases]
    seconds: dict[str, float] = {}
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
            seconds[str(rows[0]["phase"])] = time.perf_counter() - start
            start = time.perf_counter()
    total = sum(seconds[phase] * epochs for phase, epochs in whole.items())
    return Cost(seconds[main], total, passes[f"{main}/step"] / passes[f"{main}/steps"], passes[f"{main}/hook"])


def main() -> None:
    """Print one line for each method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", default=[name for name in METHODS if name != "unimodal"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    features = crema_like()
    measure(features, "concat", options.seeds)  # warms up
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in options.methods}
    passes: dict[str, Cost] = {}
    for _ in range(options.rounds):
        base = measure(features, "concat", options.seeds)
        for name in options.methods:
            passes[name] = cost = measure(features, name, options.seeds)
            ratios[name].append((cost.epoch / base.epoch, cost.run / (base.epoch * EPOCHS)))
    print(f"{'method':20}{'backward':>12}{'epoch':>8}{'run':>8}   stages")
    for name, found in ratios.items():
        cost = passes[name]
        count = f"{cost.step_passes:.0f}" + (f" + {cost.epoch_passes}" if cost.epoch_passes else "")
        epoch, run = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{name:20}{count:>12}{epoch:8.2f}{run:8.2f}   {method_class(name).card.stages}")


if __name__ == "__main__":
    main()
