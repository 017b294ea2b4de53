"""A module that never learns: the teacher of a distillation, kept in the method's state."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from mmbal_cli.nn.stacked import Dropout


class Frozen(nn.Module):
    """A copy of `module`: saved, moved and resumed with its method, without gradient, in evaluation mode."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        streams = {id(part.rng): part.rng for part in module.modules() if isinstance(part, Dropout)}
        self.module = deepcopy(module, streams).requires_grad_(False).eval()

    def take(self, module: nn.Module) -> None:
        """Copy the weights of `module` as they are now."""
        self.module.load_state_dict(module.state_dict())

    def train(self, mode: bool = True) -> Frozen:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, *args: Any) -> Any:
        """What the module answers."""
        return self.module(*args)
