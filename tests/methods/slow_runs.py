"""Whole runs of one seed in plain loops over samples, batches and epochs: what schedules are compared with.

Additive heads only (`sum`, `concat`), with auxiliary heads where the method has them; a sample may lack modalities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from mmbal_cli.engine.feed import Feed
from mmbal_cli.methods.base import Method
from mmbal_cli.seeds import SeedStreams
from tests.methods import reference

D64 = torch.float64
Params = reference.Params
Rows = list[int]


@dataclass
class SlowRun:
    """Weights of seed `i` of a method that was just built, and the samples that the engine would give it."""

    method: Method
    data: Feed
    i: int
    p: Params = field(init=False)
    velocity: Params = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mods, self.config, self.D = self.method.mods, self.method.config, self.method.D
        learned = {k: v for k, v in self.method.named_parameters() if v.requires_grad}
        self.p = {k: v[self.i].detach().clone().requires_grad_() for k, v in learned.items()}
        self.rng = SeedStreams((self.method.rng.seeds[self.i],))

    # ------------------------------------------------------------------------------------ the model

    def features(self, p: Params, row: int) -> dict[str, torch.Tensor]:
        """h of the modalities that a sample has."""
        masks = {m: self.data.mask[m] for m in self.mods}
        has = [m for m, mask in masks.items() if mask is None or bool(mask[row].any())]
        return {m: reference.adapter(p, m, self.data.x[m][row]) for m in has}

    def own(self, p: Params, m: str, h: torch.Tensor) -> torch.Tensor:
        """Logits of an auxiliary head."""
        return h @ p[f"heads.{m}_.weight"] + p[f"heads.{m}_.bias"][0]

    def share(self, p: Params, m: str, h: torch.Tensor | None) -> torch.Tensor:
        """What a modality adds to the fused logits; a missing one adds its bias."""
        h = torch.zeros(self.D, dtype=D64) if h is None else h
        if "fusion.head.weight" not in p:
            return h @ p[f"fusion.heads.{m}_.weight"] + p[f"fusion.heads.{m}_.bias"][0]
        j = self.mods.index(m)
        return h @ p["fusion.head.weight"][j * self.D : (j + 1) * self.D] + p["fusion.head.bias"][0] / len(self.mods)

    def fused(self, p: Params, h: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum(self.share(p, m, h.get(m)) for m in self.mods)

    def losses(self, p: Params, rows: Rows, logits: Callable[[Params, str, torch.Tensor], torch.Tensor]) -> dict:
        """Mean cross-entropies of each modality (over samples that have it) and of the fused logits."""
        each: dict[str, list[torch.Tensor]] = {k: [] for k in (*self.mods, "fused")}
        for row in rows:
            h, y = self.features(p, row), int(self.data.y[row])
            for m, value in h.items():
                each[m].append(reference.cross_entropy(logits(p, m, value), y))
            each["fused"].append(reference.cross_entropy(self.fused(p, h), y))
        return {k: sum(v) / max(len(v), 1) for k, v in each.items()}

    # --------------------------------------------------------------------------------- the training

    def lr(self, epoch: int) -> float:
        late = epoch >= round(self.config.step_at * self.config.epochs)
        return self.config.lr * (self.config.step_factor if late else 1.0)

    def split(self, name: str) -> Rows:
        return self.data.rows[name].tolist()

    def batches(self, stream: str = "shuffle") -> Iterator[Rows]:
        order = self.data.rows["train"][self.rng.permutation(stream, len(self.data.rows["train"]))[0]]
        yield from (part.tolist() for part in order.split(self.config.batch))

    def clip(self, p: Params) -> None:
        grads = [v.grad for v in p.values() if v.grad is not None]
        if self.config.clip is not None:
            norm = math.sqrt(sum(float((g**2).sum()) for g in grads))
            for g in grads:
                g *= min(1.0, self.config.clip / (norm + 1e-6))

    def step(self, p: Params, loss: torch.Tensor, velocity: Params, epoch: int) -> None:
        """A step of SGD on everything that the loss reaches."""
        loss.backward()
        self.clip(p)
        reference.sgd(p, velocity, self.lr(epoch), self.config.momentum, self.config.weight_decay)

    def branch(self, name: str) -> dict[str, torch.Tensor | slice]:
        """Which rows of parameter `name` belong to which modality's branch (with the additive head's part)."""
        if name == "fusion.head.weight":
            return {m: slice(j * self.D, (j + 1) * self.D) for j, m in enumerate(self.mods)}
        return {m: slice(None) for m in self.mods if f".{m}_." in name}

    def paced_step(self, loss: torch.Tensor, f: dict[str, float], epoch: int, rest: float = 1.0) -> None:
        """As `step`, with the learning rate times f[m] in branch m and times `rest` in no branch."""
        loss.backward()
        self.clip(self.p)
        c = self.config
        with torch.no_grad():
            for name, value in self.p.items():
                if value.grad is None:
                    continue
                g = value.grad + c.weight_decay * value
                self.velocity[name] = c.momentum * self.velocity[name] + g if name in self.velocity else g.clone()
                rate = torch.full_like(value, rest)
                for m, rows in self.branch(name).items():
                    rate[rows] = f[m]
                value -= self.lr(epoch) * rate * self.velocity[name]
                value.grad = None
