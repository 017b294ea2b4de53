"""What the alternating methods share in their slow references: batches as samples, means, and the engine's epochs."""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.engine.feed import Feed
from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods.base import Batch, Method

Sample = tuple[dict[str, Tensor], int]  # features of the modalities that it has, label


def samples(method: Method, i: int, batch: Batch) -> list[Sample]:
    """Seed i's samples of a batch; a modality that a sample lacks is not among its features."""
    found = []
    for b in range(batch.y.shape[1]):
        masks = {m: batch.present(m) for m in method.mods}
        has = [m for m in method.mods if masks[m] is None or bool(masks[m][i, b])]
        found.append(({m: batch.x[m][i, b] for m in has}, int(batch.y[i, b])))
    return found


def mean(values: list[Tensor], like: Tensor) -> Tensor:
    """Their mean; zero of the shape of `like` when there are none."""
    return sum(values[1:], values[0]) / len(values) if values else torch.zeros_like(like)


def epochs(method: Method, data: Feed, limit: int | None = None) -> list[list[Batch]]:
    """Train through the engine (`limit` epochs of it); the batches of each epoch."""
    run, fed, step = Fit(method, data), [], method.step

    def recorded(batch: Batch) -> Tensor:
        fed[-1].append(batch)
        return step(batch)

    method.step = recorded  # type: ignore[method-assign]
    fed.append([])
    for _ in run.run(lambda: run.finished == limit):
        fed.append([])
    del method.step
    return fed[:-1]
