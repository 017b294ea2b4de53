"""An independent slow trainer: loops over seeds and samples, plain float64 autograd, no stacked layer.

It copies the initial weights of one seed out of a method, and repeats its steps from the published formulas.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmbal_cli.methods.base import Method

Params = dict[str, Tensor]


def parameters_of(method: Method, i: int) -> Params:
    """Seed i's weights as leaves."""
    return {k: v[i].detach().clone().requires_grad_() for k, v in method.state_dict().items()}


def adapter(p: Params, m: str, x: Tensor) -> Tensor:
    """One sample [F] or [T,F] -> [D]."""
    h = x
    layer = 0
    while f"enc.{m}_.mlp.layers.{layer}.weight" in p:
        h = torch.relu(h @ p[f"enc.{m}_.mlp.layers.{layer}.weight"] + p[f"enc.{m}_.mlp.layers.{layer}.bias"][0])
        layer += 1
    if x.dim() == 1:
        return h
    score = (h @ p[f"enc.{m}_.score.weight"] + p[f"enc.{m}_.score.bias"])[:, 0]
    weight = torch.exp(score - score.max())
    return (weight / weight.sum()) @ h


def cross_entropy(z: Tensor, y: int) -> Tensor:
    """-log softmax(z)[y] of one sample."""
    return torch.logsumexp(z, 0) - z[y]


def sgd(p: Params, velocity: Params, lr: float, momentum: float, decay: float) -> None:
    """torch's SGD with momentum, written out."""
    with torch.no_grad():
        for name, value in p.items():
            if value.grad is None:
                continue
            g = value.grad + decay * value
            velocity[name] = momentum * velocity[name] + g if name in velocity else g.clone()
            value -= lr * velocity[name]
            value.grad = None


Loss = Callable[[Params, list[dict[str, Tensor]], list[int]], Tensor]
Change = Callable[[Params, list[dict[str, Tensor]], list[int]], None]


def run(method: Method, i: int, batches: list, loss: Loss, change: Change | None = None) -> Params:
    """Train seed i on `batches` by loops; returns its weights."""
    p, velocity, c = parameters_of(method, i), {}, method.config
    for batch in batches:
        samples = [{m: batch.x[m][i, b] for m in method.mods} for b in range(batch.y.shape[1])]
        labels = [int(y) for y in batch.y[i]]
        loss(p, samples, labels).backward()
        if change is not None:
            change(p, samples, labels)
        if c.clip is not None:
            norm = torch.sqrt(sum((v.grad**2).sum() for v in p.values() if v.grad is not None))
            for v in p.values():
                if v.grad is not None and norm > c.clip:
                    v.grad *= c.clip / (norm + 1e-6)
        sgd(p, velocity, c.lr, c.momentum, c.weight_decay)
    return p


def agrees(method: Method, fresh: Method, batches: list, loss: Loss, change: Change | None = None) -> None:
    """`method`, trained on `batches`, has the weights that loops from those of `fresh` end with, seed by seed."""
    for i in range(method.S):
        slow = run(fresh, i, batches, loss, change)
        for name, value in method.state_dict().items():
            assert (value[i] - slow[name]).abs().max() < 1e-10, name
