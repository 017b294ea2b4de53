"""What is checked: a method class with the settings of the checks, and how a check says that a promise is broken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmbal_cli.conform.samples import CONFIG
from mmbal_cli.engine.feed import Feed, predictions
from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods.base import Method
from mmbal_cli.recipe import TrainConfig

Seeds = tuple[int, ...]
Knobs = Mapping[str, Any]
NONE: Knobs = {}
SEEDS: Seeds = (1, 2, 3)


class Broken(Exception):
    """A promise of the contract that a method breaks, with what was found."""


class Skip(Exception):
    """A check that says nothing about this method, with the reason."""


def demand(holds: bool, found: str) -> None:
    """Broken(found) unless it holds."""
    if not holds:
        raise Broken(found)


@dataclass(frozen=True)
class Subject:
    """A method under the settings of its card's `exercise`, and `knobs` over them."""

    cls: type[Method]
    knobs: Knobs = field(default_factory=dict)

    @property
    def sizes(self) -> list[int]:
        """Which of M = 1 to 4 the card allows."""
        card = self.cls.card
        return [M for M in range(1, 5) if card.min_modalities <= M <= (card.max_modalities or M)]

    def plain(
        self, data: Feed, seeds: Seeds = SEEDS, config: TrainConfig = CONFIG, fusion: str = "", knobs: Knobs = NONE
    ) -> Method:
        """The method with its defaults and the settings given."""
        return self.cls(data.shape, config, seeds, fusion or self.cls.default_fusion(), {**self.knobs, **knobs})

    def build(
        self, data: Feed, seeds: Seeds = SEEDS, config: TrainConfig = CONFIG, fusion: str = "", knobs: Knobs = NONE
    ) -> Method:
        """The method doing everything it can do within the few epochs of a check."""
        return self.plain(data, seeds, config, fusion, {**self.cls.card.exercise, **self.knobs, **knobs})


def fitted(method: Method, data: Feed) -> Fit:
    """All phases through the engine."""
    run = Fit(method, data)
    list(run.run())
    return run


def states(method: Method) -> Iterator[tuple[str, Tensor]]:
    """Names and values [S,...] of everything a method keeps."""
    yield from method.state_dict().items()


def gap(one: Tensor, other: Tensor) -> float:
    """Largest absolute difference; a number that is none on one side only is infinitely far."""
    a, b = one.double(), other.double()
    same = (a == b) | (a.isnan() & b.isnan())
    return float(torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=float("inf")).max()) if a.numel() else 0.0


def apart(stacked: Method, solo: Method, i: int, row: int = 0) -> tuple[float, str]:
    """Largest difference between seed `i` of one method and seed `row` of another, and where it is."""
    found = [(gap(value[row], stacked.state_dict()[name][i]), name) for name, value in states(solo)]
    return max(found, default=(0.0, ""))


def answers(method: Method, data: Feed, split: str = "val") -> Tensor:
    """Probabilities [S,N,C] of a split."""
    return predictions(method.eval(), data, split)["probs"]
