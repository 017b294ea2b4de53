"""Small feature sets in memory: random ones, and an easy one that every method must learn."""

from __future__ import annotations

import numpy as np
import torch

from mmbal_cli.data.features import FeatureSet, from_arrays
from mmbal_cli.engine.feed import Feed
from mmbal_cli.recipe import TrainConfig

SHAPES: dict[str, tuple[int, ...]] = {"audio": (7,), "video": (3, 5), "text": (6,), "depth": (4,)}
CONFIG = TrainConfig(epochs=4, batch=16, width=8, lr=0.05, dtype="float64")


def feature_set(
    M: int = 2,
    n: int = 60,
    classes: int = 4,
    seed: int = 0,
    easy: float = 0.0,
    absent: float = 0.0,
    flat: bool = False,
) -> FeatureSet:
    """n training, n/3 validation and n/3 test samples.

    `easy` adds class means, `absent` removes modalities, `flat` leaves out the time steps of those that have some.
    """
    g = np.random.default_rng(seed)
    total = n + 2 * (n // 3)
    labels = np.arange(total) % classes
    features, masks = {}, {}
    for m in list(SHAPES)[:M]:
        shape = SHAPES[m][-1:] if flat else SHAPES[m]
        means = g.normal(size=(classes, shape[-1]))
        x = g.normal(size=(total, *shape))
        x += easy * (means[labels] if len(shape) == 1 else means[labels][:, None])
        mask = np.ones((total, *shape[:-1]), bool)
        gone = g.random(total) < absent
        mask[gone] = False
        features[m], masks[m] = x.astype("float32"), mask
    splits = ["train"] * n + ["val"] * (n // 3) + ["test"] * (n // 3)
    ids = [f"s{i}" for i in range(total)]
    arrays = {"ids": ids, "splits": splits, "labels": labels, "features": features, "mask": masks}
    return from_arrays("tiny", "f" * 64, tuple(f"c{i}" for i in range(classes)), arrays)


def feed(features: FeatureSet, dtype: str = "float64") -> Feed:
    """The set standardised, on the CPU."""
    return Feed(features.standardised(features.stats()), torch.device("cpu"), getattr(torch, dtype))
