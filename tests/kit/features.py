"""Methods on small feature sets, through the engine and by bare loops."""

from __future__ import annotations

from torch import Tensor

from mmbal_cli.conform.samples import CONFIG, SHAPES, feature_set, feed
from mmbal_cli.conform.subject import fitted as fit
from mmbal_cli.engine.feed import Feed
from mmbal_cli.methods import method_class
from mmbal_cli.methods.base import Batch, Method
from mmbal_cli.recipe import TrainConfig

__all__ = ["CONFIG", "SHAPES", "build", "feature_set", "feed", "fit", "steps", "train"]


def build(
    name: str, data: Feed, seeds: tuple[int, ...] = (1, 2, 3), config: TrainConfig = CONFIG, **knobs: object
) -> Method:
    """A method of the table on `data`, with its default fusion."""
    cls = method_class(name)
    fusion = str(knobs.pop("fusion", cls.default_fusion()))
    return cls(data.shape, config, seeds, fusion, dict(knobs))


def steps(method: Method, data: Feed, n: int, split: str = "train") -> list[Batch]:
    """The next n batches of `split` (of as many epochs as they need), taken as training steps; returns them."""
    taken: list[Batch] = []
    while len(taken) < n:
        for batch in list(data.epoch(method.rng, method.config.batch, split))[: n - len(taken)]:
            method.step(batch)
            taken.append(batch)
    return taken


def train(method: Method, data: Feed, epochs: int = 1) -> list[Tensor]:
    """A bare loop, without the engine: the losses of every step."""
    losses = []
    for method.epoch in range(epochs):
        method.opt.set_epoch(method.epoch, epochs)
        method.train()
        losses += [method.step(batch) for batch in data.epoch(method.rng, method.config.batch)]
    return losses
