"""IIBalance once more, one seed in plain loops over modalities, samples and classes: what the tests compare with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Method
from tests.methods import reference

D64 = torch.float64


def parameters(method: Method, s: int) -> reference.Params:
    return {k: p[s].detach().clone().requires_grad_() for k, p in method.named_parameters() if p.requires_grad}


@dataclass
class Slow:
    """One seed: plain loops over modalities, samples and classes."""

    method: Method
    s: int
    align: str = "kl"
    level: str = "sample"
    target: str = "logits"
    p: reference.Params = field(init=False)
    P: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    mean: dict[str, float] = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)
    hits: int = 0
    pairs: int = 0

    def __post_init__(self) -> None:
        self.p = parameters(self.method, self.s)
        self.mods = self.method.mods
        share = self.method.budgets.share[self.s].tolist()
        self.beta = {m: max(0.01, b) for m, b in zip(self.mods, share, strict=True)}
        self.pi = {m: b / sum(self.beta.values()) for m, b in self.beta.items()}
        self.anchor = max(self.mods, key=lambda m: self.beta[m])
        self.momenta: dict[str, Any] = {}

    def samples(self, batch: Batch) -> list[tuple[dict[str, Tensor], int]]:
        """Present features and label of every sample."""
        found = []
        for b in range(batch.y.shape[1]):
            has = [m for m in self.mods if batch.present(m) is None or batch.present(m)[self.s, b]]
            found.append(({m: batch.x[m][self.s, b] for m in has}, int(batch.y[self.s, b])))
        return found

    def encode(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        return {m: reference.adapter(self.p, m, x[m]) for m in x}

    def own(self, m: str, h: Tensor) -> Tensor:
        return h @ self.p[f"heads.{m}_.weight"] + self.p[f"heads.{m}_.bias"][0]

    def weights(self, z: dict[str, Tensor], gate: bool) -> dict[str, Tensor]:
        """softmax of ln pi - Hn (+ the gate) over the modalities at hand."""
        C = self.method.C
        Hn = dict.fromkeys(self.mods, torch.tensor(1.0, dtype=D64))
        top = dict.fromkeys(self.mods, torch.tensor(1 / C, dtype=D64))
        for m, v in z.items():
            q = torch.exp(v - torch.logsumexp(v, 0))
            Hn[m], top[m] = -(q * q.log()).sum() / math.log(C), q.max()
        extra = torch.zeros(len(self.mods), dtype=D64)
        if gate:
            x = torch.stack([Hn[m] for m in self.mods] + [top[m] for m in self.mods])
            hidden = torch.relu(x @ self.p["judge.0.weight"] + self.p["judge.0.bias"][0])
            extra = hidden @ self.p["judge.2.weight"] + self.p["judge.2.bias"][0]
        e = {m: self.pi[m] * torch.exp(-Hn[m] + extra[self.mods.index(m)]) for m in z}
        return {m: v / sum(e.values()) for m, v in e.items()}

    def classes(self, *mods: str) -> list[int]:
        return [c for c in range(self.method.C) if all((m, c) in self.P for m in mods)]

    def q(self, m: str, h: Tensor, classes: list[int]) -> dict[int, Tensor]:
        u = h / h.norm().clamp_min(1e-8)
        e = {c: torch.exp((u @ self.P[m, c]) / 0.2) for c in classes}
        return {c: v / sum(e.values()) for c, v in e.items()}

    def fused(self, h: dict[str, Tensor], w: dict[str, Tensor] | None) -> Tensor:
        D = self.method.D
        parts = [h.get(m, torch.zeros(D, dtype=D64)) for m in self.mods]
        if w is not None:
            scale = [w[m].detach() if m in w else 0.0 for m in self.mods]
            parts = [len(self.mods) * k * v for k, v in zip(scale, parts, strict=True)]
        return torch.cat(parts) @ self.p["fusion.head.weight"] + self.p["fusion.head.bias"][0]

    def train_loss(self, batch: Batch) -> Tensor:
        rows = [(self.encode(x), y) for x, y in self.samples(batch)]
        total, logits = 0.0, [{m: self.own(m, v) for m, v in h.items()} for h, _ in rows]
        for (h, y), z in zip(rows, logits, strict=True):
            w = self.weights(z, gate=True) if self.target == "features" and z else None
            total = total + reference.cross_entropy(self.fused(h, w), y) / len(rows)
        self.now: dict[str, float] = {}
        for m in self.mods:
            mine = [(h[m], z[m], y) for (h, y), z in zip(rows, logits, strict=True) if m in h]
            total = total + sum(reference.cross_entropy(z, y) for _, z, y in mine) / max(len(mine), 1)
            q = [self.q(m, h, self.classes(m))[y] for h, _, y in mine if (m, y) in self.P]
            if q:
                total = total + 0.5 * sum(-v.log() for v in q) / len(q)
                self.now[m] = float(sum(q).detach()) / len(q)
            if m != self.anchor:
                total = total + 0.5 * 0.5 * self.pull(m, [(h, y) for h, y in rows if m in h and self.anchor in h])
        self.rows = rows
        return total

    def pull(self, m: str, rows: list[tuple[dict[str, Tensor], int]]) -> Tensor | float:
        a, total = self.anchor, 0.0
        both = self.classes(m, a)
        for h, y in rows:
            self.pairs += 1
            if y not in both:
                continue
            qa = {c: v.detach() for c, v in self.q(a, h[a], both).items()}
            qm = self.q(m, h[m], both)
            lag = qa[y] - qm[y]
            if (lag > self.beta[a] - self.beta[m]) if self.level == "sample" else self.flags.get(m, False):
                self.hits += 1
                if self.align == "kl":
                    total = total + sum(qa[c] * (qa[c] / qm[c]).log() for c in both)
                else:
                    total = total + torch.relu(lag - (self.beta[a] - self.beta[m]))
        return total / max(len(rows), 1)

    def follow(self) -> None:
        for m, c in product(self.mods, range(self.method.C)):
            units = [h[m].detach() / h[m].detach().norm() for h, y in self.rows if y == c and m in h]
            if units:
                v = sum(units) / len(units)
                v = 0.9 * self.P[m, c] + 0.1 * v if (m, c) in self.P else v
                self.P[m, c] = v / v.norm()
        for m, value in self.now.items():
            self.mean[m] = 0.9 * self.mean[m] + 0.1 * value if m in self.mean else value

    def begin_epoch(self) -> None:
        a = self.anchor
        if a in self.mean:
            self.flags = {m: self.mean[m] / self.mean[a] < self.beta[m] / self.beta[a] for m in self.mean if m != a}

    def train_step(self, batch: Batch) -> None:
        self.train_loss(batch).backward()
        c = self.method.config
        reference.sgd(self.p, self.momenta, c.lr, c.momentum, c.weight_decay)
        self.follow()

    def budget_step(self, batch: Batch) -> None:
        rows = [(self.encode(x), y) for x, y in self.samples(batch)]
        for m in self.mods:
            mine = [(h[m], y) for h, y in rows if m in h]
            (sum(reference.cross_entropy(self.own(m, h), y) for h, y in mine) / len(mine)).backward()
        c = self.method.config
        reference.sgd(self.p, self.momenta, c.lr, c.momentum, c.weight_decay)

    def gate_step(self, batch: Batch) -> None:
        total = 0.0
        rows = self.samples(batch)
        for x, y in rows:
            z = {m: self.own(m, h).detach() for m, h in self.encode(x).items()}
            w = self.weights(z, gate=True)
            if z:
                total = total + reference.cross_entropy(sum(w[m] * z[m] for m in z), y) / len(rows)
        total.backward()
        t = self.momenta["t"] = self.momenta.get("t", 0) + 1
        with torch.no_grad():
            for name, value in self.p.items():
                if name.startswith("judge"):
                    g = value.grad
                    one, two = self.momenta.get(name, (torch.zeros_like(g), torch.zeros_like(g)))
                    one, two = 0.9 * one + 0.1 * g, 0.999 * two + 0.001 * g**2
                    self.momenta[name] = (one, two)
                    value -= 1e-3 * (one / (1 - 0.9**t)) / ((two / (1 - 0.999**t)).sqrt() + 1e-8)
                value.grad = None
