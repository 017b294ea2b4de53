"""What the records cost: `python benchmarks/dynamics.py [--rounds 5] [METHOD ...]`.

Whole trainings with the batch looked at once more in every 32 steps, over the same trainings without: 640 and 6,698
samples like those of `benchmarks/train.py` (two 768-wide modalities, width 256), one core, five stacked seeds. A round
trains both ways in turn; printed is the median over the rounds of the ratio inside a round, less one. At most 3 %.
"""

from __future__ import annotations

import argparse
import statistics
import time
from unittest.mock import patch

import torch
from train import CONFIG, crema_like

from mmbal_cli.engine import fit as engine
from mmbal_cli.engine.feed import Feed
from mmbal_cli.methods import method_class

SIZES = {"640 samples": ({"train": 640, "val": 160}, 40), "6,698 samples": ({"train": 6698, "val": 744}, 4)}
METHODS = ("concat", "unimodal-ensemble", "ogm-ge", "arl", "mla", "etmc", "mmpareto")


def seconds(feed: Feed, name: str, epochs: int, recorded: bool) -> float:
    """One training of five seeds."""
    cls = method_class(name)
    method = cls(feed.shape, CONFIG.model_copy(update={"epochs": epochs}), (1, 2, 3, 4, 5), cls.default_fusion())
    run = engine.Fit(method, feed)
    with patch.object(engine, "record_batch", engine.record_batch if recorded else lambda *_: None):
        start = time.perf_counter()
        for _ in run.run():
            pass
        return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("methods", nargs="*", default=METHODS)
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    torch.set_num_threads(1)
    print(f"{'cost of the records':<22}" + "".join(f"{size:>16}" for size in SIZES))
    for name in given.methods:
        line = []
        for counts, epochs in SIZES.values():
            features = crema_like()
            features.rows |= {split: features.rows[split][:n] for split, n in counts.items()}
            feed = Feed(features, torch.device("cpu"), torch.float32)
            seconds(feed, name, 1, recorded=True)
            pairs = []
            for turn in range(given.rounds):
                order = (True, False) if turn % 2 else (False, True)
                took = {recorded: seconds(feed, name, epochs, recorded) for recorded in order}
                pairs.append(took[True] / took[False])
            line.append(f"{100 * (statistics.median(pairs) - 1):>14.1f} %")
        print(f"{name:<22}" + "".join(line), flush=True)


if __name__ == "__main__":
    main()
