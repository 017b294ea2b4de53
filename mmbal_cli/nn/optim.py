"""One optimizer over stacked parameters: torch's SGD or AdamW, with per-seed clip and masked step.

A zero gradient is not a freeze: momentum, decay and Adam's moments still move a weight. Whoever must hold a
seed still passes its mask, and parameters *and* optimizer state of that seed stay as they were, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmbal_cli.nn.adamw import PacedAdamW
from mmbal_cli.nn.stacked import per_seed
from mmbal_cli.recipe import TrainConfig

VECTOR = 64  # elements; torch's fused kernels round the rest of a tensor differently from its body


class StackedOptimizer:
    """SGD with momentum, or AdamW; one state for all seeds, every tensor with a leading S.

    `rates` holds a factor on the update of a parameter, [S] or of a shape that broadcasts over it: p + f (p' - p) is a
    change of the learning rate, exact for both optimizers; 0 freezes and 1 changes nothing, bit for bit. It is not part
    of `state`.

    Fused kernels where a seed's share of a tensor is a multiple of `VECTOR`; elsewhere the position of the rest,
    and with it the last bit of a seed's numbers, would depend on how many seeds are stacked. `uneven` where seeds take
    different numbers of steps; weights in `undecayed` have no weight decay.
    """

    def __init__(self, params: Iterable[nn.Parameter], config: TrainConfig, uneven: bool = False,
                 undecayed: Iterable[nn.Parameter] = ()) -> None:  # fmt: skip
        self.params, self.config = list(params), config
        self.rates: dict[nn.Parameter, Tensor] = {}
        free = set(undecayed)
        groups = []
        for some, own in ((set(self.params) - free, {}), (free, {"weight_decay": 0.0})):
            even = [p for p in self.params if p in some and p[0].numel() % VECTOR == 0]
            odd = [p for p in self.params if p in some and p[0].numel() % VECTOR != 0]
            groups += [{"params": even, "fused": True} | own, {"params": odd, "fused": False, "foreach": True} | own]
        if config.optimizer == "sgd":
            self.inner: torch.optim.Optimizer = torch.optim.SGD(
                groups, config.lr, momentum=config.momentum, weight_decay=config.weight_decay
            )
        elif uneven:
            self.inner = PacedAdamW(groups, config.lr, config.weight_decay)
        else:
            self.inner = torch.optim.AdamW(groups, config.lr, weight_decay=config.weight_decay)

    @property
    def lr(self) -> float:
        """Learning rate of the current epoch."""
        return self.inner.param_groups[0]["lr"]

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Learning rate of `epoch` (0-based) out of `epochs`; the step decay acts after its epoch."""
        for group in self.inner.param_groups:
            group["lr"] = self.config.lr * schedule(self.config, epoch, epochs)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.params:
            p.grad = None

    def step(self, mask: Tensor | None = None) -> None:
        """Clip each seed's gradient (if asked), then update; `mask` [S] bool holds the other seeds still."""
        if self.config.clip is not None:
            clip_per_seed(self.params, self.config.clip)
        self._begin_moments()
        slowed = [(p, f, p.detach().clone()) for p, f in self.rates.items() if p.grad is not None]
        self._masked_step(mask)
        with torch.no_grad():
            for p, factor, old in slowed:
                f = factor if factor.dim() == p.dim() else per_seed(factor, p)
                p.copy_(torch.where(f == 1, p, torch.where(f == 0, old, old + f * (p - old))))

    def forget(self, params: Iterable[nn.Parameter], mask: Tensor | None = None) -> None:
        """Zero the moments of `params`, of the seeds in `mask` [S] bool only where it is given."""
        for p in params:
            for value in self._moments(p).values():
                value.copy_(torch.zeros_like(value) if mask is None else value.where(~per_seed(mask, value), 0.0))

    def _begin_moments(self) -> None:
        """Momentum of zero for who moves for the first time: torch's fused SGD takes no mixture of with and without.

        Bit for bit what a first step without any makes of it.
        """
        if isinstance(self.inner, torch.optim.SGD) and self.config.momentum:
            for p in self.params:
                if p.grad is not None and self.inner.state[p].get("momentum_buffer") is None:
                    self.inner.state[p]["momentum_buffer"] = torch.zeros_like(p)

    def _masked_step(self, mask: Tensor | None) -> None:
        if mask is None:
            self.inner.step()
            return
        held = [p for p in self.params if p.grad is not None]
        before = [p.detach().clone() for p in held]
        states = [{k: v.clone() for k, v in self._moments(p).items()} for p in held]
        self.inner.step()
        with torch.no_grad():
            for p, old, state in zip(held, before, states, strict=True):
                p.copy_(torch.where(per_seed(mask, p), p, old))
                for key, value in self._moments(p).items():
                    previous = state.get(key, torch.zeros_like(value))
                    value.copy_(torch.where(per_seed(mask, value), value, previous))

    def _moments(self, p: nn.Parameter) -> dict[str, Tensor]:
        return {k: v for k, v in self.inner.state[p].items() if isinstance(v, Tensor) and v.dim() > 0}

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts by `index/name`."""
        return {
            f"{i}/{key}": value
            for i, p in enumerate(self.params)
            for key, value in self.inner.state[p].items()
            if isinstance(value, Tensor)
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from `state`."""
        for key, value in state.items():
            index, _, name = key.partition("/")
            self.inner.state[self.params[int(index)]][name] = value.clone()


def schedule(config: TrainConfig, epoch: int, epochs: int) -> float:
    """Factor on the learning rate in `epoch` (0-based)."""
    if config.schedule == "step":
        return config.step_factor if epoch >= round(config.step_at * epochs) else 1.0
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / max(epochs, 1)))
    return 1.0


def clip_per_seed(params: Iterable[nn.Parameter], bound: float) -> None:
    """Scale each seed's whole gradient so that its 2-norm is at most `bound`."""
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.stack([g.flatten(1).square().sum(1) for g in grads], 1).sum(1).sqrt()  # [S]
    factor = (bound / (norm + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(per_seed(factor, g))
