"""The best epoch of each seed by the scores of one split, and the state that the method had then.

Higher accuracy (or lower NLL) is better; ties go to the lower NLL, then to the earlier epoch. Parts of a method that
are selected apart ("units", such as the models of an ensemble) each keep their own epoch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmbal_cli.methods.base import Method
from mmbal_cli.nn.stacked import per_seed


class Selection:
    """state {entry: [S,...]}, and for each unit: score, nll, epoch [S]; empty before the first epoch."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}
        self.score: dict[str, Tensor] = {}
        self.nll: dict[str, Tensor] = {}
        self.epoch: dict[str, Tensor] = {}

    def update(self, method: Method, found: dict[str, Tensor], epoch: int) -> None:
        """Keep the state of every living seed that improved; `found` are `scores` of the split that selects."""
        state = dict(method.state_dict())
        units = {name: method.selects(name) for name in state}
        improved: dict[str, Tensor] = {}
        for unit in set(units.values()):
            suffix = "" if unit == "fused" else f"/{unit}"
            score, nll = found[f"accuracy{suffix}"], found[f"nll{suffix}"]
            if method.config.select == "nll":
                score = -nll
            best = self.score.get(unit, torch.full_like(score, -torch.inf))
            best_nll = self.nll.get(unit, torch.full_like(nll, torch.inf))
            better = ((score > best) | ((score == best) & (nll < best_nll))) & method.alive
            self.score[unit] = torch.where(better, score, best)
            self.nll[unit] = torch.where(better, nll, best_nll)
            previous = self.epoch.get(unit, torch.zeros_like(better, dtype=torch.long))
            self.epoch[unit] = torch.where(better, epoch, previous)
            improved[unit] = better
        if not self.state:
            self.state = {name: value.clone() for name, value in state.items()}
            return
        for name, value in state.items():
            self.state[name] = torch.where(per_seed(improved[units[name]], value), value, self.state[name])

    def tables(self, prefix: str = "") -> dict[str, dict[str, Tensor]]:
        """Everything by name, for a checkpoint."""
        return {f"{prefix}{name}": table for name, table in self._tables().items()}

    def load(self, read: Callable[[str], dict[str, Tensor]], prefix: str = "") -> None:
        """The inverse of `tables`: `read(name)` gives each of them."""
        for name, table in self._tables().items():
            table.update(read(f"{prefix}{name}"))

    def _tables(self) -> dict[str, dict[str, Tensor]]:
        return {"best": self.state, "score": self.score, "nll": self.nll, "epoch": self.epoch}
