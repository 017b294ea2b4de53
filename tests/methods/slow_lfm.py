"""LFM by loops over seeds and samples: both losses, and whole trainings whose alpha moves between epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from mmbal_cli.engine.feed import Feed
from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods.base import Batch, Method
from tests.methods import reference
from tests.methods.reference import Params


@dataclass
class Epoch:
    """What one epoch of the engine fed: its phase, its steps, the batch it drew, alpha [S] as recorded."""

    phase: str
    batches: list[Batch] = field(default_factory=list)
    drawn: list[Batch] = field(default_factory=list)
    alpha: list[float] = field(default_factory=list)


def record(method: Method, data: Feed) -> tuple[Fit, list[Epoch]]:
    """Train through the engine and keep everything that was fed."""
    run, history = Fit(method, data), []
    begin, step, sample = method.begin_epoch, method.step, run.peek.sample

    def begin_epoch(peek: object) -> None:
        history.append(Epoch(method.phase))
        begin(run.peek)

    def recorded_step(batch: Batch) -> Tensor:
        history[-1].batches.append(batch)
        return step(batch)

    def recorded_sample(split: str, n: int) -> Batch:
        history[-1].drawn.append(sample(split, n))
        return history[-1].drawn[-1]

    method.begin_epoch, method.step, run.peek.sample = begin_epoch, recorded_step, recorded_sample
    for number, rows in enumerate(run.run()):
        history[number].alpha = [row.get("coef/alpha", float("nan")) for row in rows]
    return run, history


@dataclass
class Slow:
    """One seed of a method, written out."""

    method: Method
    i: int

    def sample(self, batch: Batch, b: int) -> tuple[dict[str, Tensor], int, set[str]]:
        """Features, label and present modalities of one sample."""
        masks = {m: batch.present(m) for m in self.method.mods}
        present = {m for m, mask in masks.items() if mask is None or bool(mask[self.i, b])}
        return {m: batch.x[m][self.i, b] for m in self.method.mods}, int(batch.y[self.i, b]), present

    def outputs(self, p: Params, batch: Batch) -> list[tuple[dict[str, Tensor], dict[str, Tensor], Tensor, int, set]]:
        """(h, z, fused, label, present) of every sample."""
        mods, D, M = self.method.mods, self.method.D, len(self.method.mods)
        found = []
        for b in range(batch.y.shape[1]):
            x, y, present = self.sample(batch, b)
            h = {m: reference.adapter(p, m, x[m]) * float(m in present) for m in mods}
            if self.method.fusion_name == "sum":
                z = {m: h[m] @ p[f"fusion.heads.{m}_.weight"] + p[f"fusion.heads.{m}_.bias"][0] for m in mods}
                fused = sum(z.values()) / M
            else:
                W, bias = p["fusion.head.weight"], p["fusion.head.bias"][0]
                z = {m: h[m] @ W[k * D : (k + 1) * D] + bias / M for k, m in enumerate(mods)}
                fused = torch.cat([h[m] for m in mods]) @ W + bias
            found.append((h, z, fused, y, present))
        return found

    def unimodal(self, p: Params, batch: Batch) -> Tensor:
        """Sum over modalities of their own mean cross-entropy."""
        rows = self.outputs(p, batch)
        terms = []
        for m in self.method.mods:
            each = [reference.cross_entropy(z[m], y) for _, z, _, y, present in rows if m in present]
            terms.append(sum(each) / len(each))
        return sum(terms)

    def terms(self, p: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        """Classification and alignment."""
        rows = self.outputs(p, batch)
        classification = sum(reference.cross_entropy(fused, y) for _, _, fused, y, _ in rows) / len(rows)
        pairs = []
        for j, k in combinations(self.method.mods, 2):
            kept = [(h, z) for h, z, _, _, present in rows if {j, k} <= present]
            rule = js if self.method.knobs["align"] == "js" else nce
            pairs.append(rule([(h[j], h[k]) for h, _ in kept], [(z[j], z[k]) for _, z in kept], self.method.knobs)
                         if kept else torch.zeros(()))  # fmt: skip
        return classification, sum(pairs) / len(pairs)


def nce(h: list[tuple[Tensor, Tensor]], _: list[tuple[Tensor, Tensor]], knobs: dict) -> Tensor:
    """Half of the row and column cross-entropies of the cosine matrix over tau."""
    n, terms = len(h), []
    a, b = torch.stack([v / v.norm() for v, _ in h]), torch.stack([v / v.norm() for _, v in h])
    for i in range(n):
        terms.append(reference.cross_entropy(b @ a[i] / knobs["tau"], i))
        terms.append(reference.cross_entropy(a @ b[i] / knobs["tau"], i))
    return sum(terms) / (2 * n)


def js(_: list[tuple[Tensor, Tensor]], z: list[tuple[Tensor, Tensor]], knobs: dict) -> Tensor:
    """Half the divergences of the mean from both, by the definition."""
    terms = []
    for u, v in z:
        p, q = u.softmax(0), v.softmax(0)
        m = (p + q) / 2
        terms.append(0.5 * ((m * (m / p).log()).sum() + (m * (m / q).log()).sum()))
    return sum(terms) / len(terms)


def flat(loss: Tensor, p: Params, graph: bool = False) -> Tensor:
    """The gradient as one vector."""
    params = list(p.values())
    found = torch.autograd.grad(loss, params, retain_graph=True, create_graph=graph, allow_unused=True)
    return torch.cat([(torch.zeros_like(v) if g is None else g).flatten() for g, v in zip(found, params, strict=True)])


Rule = Callable[[Slow, int, Params, float, Epoch], float]


def train(slow: Slow, history: list[Epoch], start: Params, alpha: float, rule: Rule) -> tuple[Params, list[float]]:
    """SGD over the recorded batches from `start`; `rule` gives alpha before each epoch."""
    c, scale = slow.method.config, slow.method.knobs["loss_scale"]
    p = {name: v.detach().clone().requires_grad_() for name, v in start.items() if name != "alpha"}
    velocity: Params = {}
    path = []
    for e, epoch in enumerate(history):
        if epoch.phase == "train":
            alpha = rule(slow, e, p, alpha, epoch)
            path.append(alpha)
        lr = c.lr * (c.step_factor if e >= round(c.step_at * len(history)) else 1.0)
        for batch in epoch.batches:
            if epoch.phase == "unimodal":
                loss = slow.unimodal(p, batch)
            else:
                classification, alignment = slow.terms(p, batch)
                loss = scale * ((1 - alpha) * classification + alpha * alignment)
            loss.backward()
            reference.sgd(p, velocity, lr, c.momentum, c.weight_decay)
    return p, path


def differences(method: Method, i: int, p: Params) -> dict[str, float]:
    """Largest difference of every parameter of seed i from the slow one's."""
    state = method.state_dict()
    return {name: (state[name][i] - value.detach()).abs().max().item() for name, value in p.items()}
