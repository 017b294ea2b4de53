"""AdamW whose seeds may have taken different numbers of steps: torch's counts one for a whole stacked tensor.

The bias correction 1 - beta^t is the same moving average of ones: 0 before the first step, and exact for each seed
without a power, whose rounding would depend on its place in the stack.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mmbal_cli.nn.stacked import per_seed

BETAS, EPS = (0.9, 0.999), 1e-8


class PacedAdamW(torch.optim.Optimizer):
    """Loshchilov, Hutter, ICLR 2019 (arXiv 1711.05101) on parameters [S,...], without torch's shared step count."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient; a caller holds single seeds by restoring them."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, p.grad, group["lr"], group["weight_decay"])

    def _move(self, p: nn.Parameter, g: Tensor, lr: float, decay: float) -> None:
        state = self.state[p]
        if not state:
            ones = p.new_zeros(len(p))
            state |= {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            state |= {"one": ones, "one_sq": ones.clone()}
        for name, value in (("exp_avg", g), ("exp_avg_sq", g * g)):
            beta = BETAS[name == "exp_avg_sq"]
            state[name].mul_(beta).add_(value * (1 - beta))
        for name, beta in zip(("one", "one_sq"), BETAS, strict=True):
            state[name].mul_(beta).add_(1 - beta)
        mean, square = state["exp_avg"] / per_seed(state["one"], p), state["exp_avg_sq"] / per_seed(state["one_sq"], p)
        p.mul_(1 - lr * decay).sub_(mean / (square.sqrt() + EPS) * lr)
