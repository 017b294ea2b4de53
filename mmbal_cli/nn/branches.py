"""The encoders and heads of all modalities as one module: what is taught, kept and put back by distillation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmbal_cli.nn.stacked import PerModality, per_seed


class Branches(nn.Module):
    """One encoder and one head for each modality; the entries of its state are called `enc.*` and `heads.*`."""

    def __init__(self, enc: PerModality, heads: PerModality) -> None:
        super().__init__()
        self.enc, self.heads = enc, heads

    def forward(self, inputs: Mapping[str, tuple[Tensor | None, ...]]) -> dict[str, Tensor]:
        """Logits z[m] [S,B,C] of what each encoder takes."""
        return {m: self.heads[m](self.enc[m](*values)) for m, values in inputs.items()}

    def put(self, chosen: Tensor, state: Mapping[str, Tensor]) -> None:
        """Take the weights of `state` (it may hold more) where `chosen` [S,M] is true."""
        for j, m in enumerate(self.enc):
            for name, value in self.state_dict().items():
                if f".{m}." in name:
                    value.copy_(torch.where(per_seed(chosen[:, j], value), state[name], value))
