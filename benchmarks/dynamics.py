"""What the records cost: `python benchmarks/dynamics.py [--rounds 9] [METHOD ...]`.

Time of looking at a batch once more, over the time of the training steps between two such looks. 640 samples like those
of `benchmarks/train.py` (two 768-wide modalities, width 256, batch 64), one core, five stacked seeds. A round takes an
epoch of steps and as many looks; printed is the median over the rounds of the ratio inside a round. At most 3 %.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from train import CONFIG, crema_like

from mmbal_cli.engine.feed import Feed
from mmbal_cli.engine.fit import Fit
from mmbal_cli.engine.recorder import EVERY, record_batch
from mmbal_cli.methods import method_class
from mmbal_cli.methods.base import Batch

METHODS = ("concat", "unimodal-ensemble", "ogm-ge", "arl", "lfm-lb", "mla", "etmc", "mmpareto")


def seconds(call: Callable[[Batch], object], batches: list[Batch]) -> float:
    """One call a batch."""
    start = time.perf_counter()
    for batch in batches:
        call(batch)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("methods", nargs="*", default=METHODS)
    options.add_argument("--rounds", type=int, default=9)
    given = options.parse_args()
    torch.set_num_threads(1)
    features = crema_like()
    features.rows |= {"train": features.rows["train"][:640], "val": features.rows["val"][:160]}
    feed = Feed(features, torch.device("cpu"), torch.float32)
    print(f"{'method':<20}{'step':>10}{'look':>10}{f'one in {EVERY}':>12}")
    for name in given.methods:
        cls = method_class(name)
        method = cls(feed.shape, CONFIG, (1, 2, 3, 4, 5), cls.default_fusion())
        next(Fit(method, feed).run())  # optimizers and buffers are there after an epoch
        method.train()
        batches = list(feed.epoch(method.rng, CONFIG.batch))
        pairs = []
        for _ in range(given.rounds):
            pairs.append((seconds(method.step, batches), seconds(partial(record_batch, method), batches)))
        step, look = (1000 * statistics.median(column) / len(batches) for column in zip(*pairs, strict=True))
        share = statistics.median(look / step for step, look in pairs) / EVERY
        print(f"{name:<20}{step:>7.1f} ms{look:>7.1f} ms{100 * share:>10.1f} %", flush=True)


if __name__ == "__main__":
    main()
