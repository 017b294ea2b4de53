"""Early stopping of several things at once: smoothed losses, patience, and who is still going, for each seed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Stopping(nn.Module):
    """S x M losses under watch: `active` 1 until a stop, the `best` smoothed loss, its epoch, and the last raw loss."""

    active: Tensor
    best: Tensor
    since: Tensor
    last: Tensor

    def __init__(self, S: int, M: int, dtype: torch.dtype) -> None:
        super().__init__()
        for name, value in (("active", 1.0), ("best", torch.inf), ("since", 0.0), ("last", 0.0)):
            self.register_buffer(name, torch.full((S, M), value, dtype=dtype))

    def watch(self, v: Tensor, epoch: int, smoothing: float, patience: int) -> tuple[Tensor, Tensor]:
        """Which improved and which stop [S,M], from losses v [S,M] after `epoch` (0-based, each in turn).

        The smoothed loss is smoothing * (last v) + (1 - smoothing) * v; after more than `patience` epochs without a
        lower one, a stop. What is not a number is no improvement.
        """
        s = smoothing * self.last + (1 - smoothing) * v if epoch else v
        better = (self.active > 0) & (s < self.best)
        self.last.copy_(v)
        self.best.copy_(torch.where(better, s, self.best))
        self.since.masked_fill_(better, epoch)
        stop = (self.active > 0) & (epoch - self.since > patience)
        self.active.masked_fill_(stop, 0.0)
        return better, stop

    def latest(self, chosen: Tensor) -> Tensor:
        """Those of `chosen` [S,M] whose best epoch is the latest among them."""
        epoch = torch.where(chosen, self.since, -1.0)
        return chosen & (epoch == epoch.amax(1, keepdim=True))
