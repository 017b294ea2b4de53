"""Concatenation and one linear layer: z = sum_m h_m W_m + b, z_m = h_m W_m + b/M (GeWu-Lab/OGM-GE_CVPR2022).

One weight [S, M*D, C], initialised as the concatenated layer (fan-in M*D). The shares are the products of its blocks.

`mlp`: a hidden layer of width D with ReLU between. Unlike the linear layer it is not the same function class as `sum`;
it has no shares, so per-modality logits set the other features to zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.nn.fusion.base import AdditiveFusion, Features, Fusion
from mmbal_cli.nn.stacked import Linear
from mmbal_cli.seeds import SeedStreams


class Concat(AdditiveFusion):
    """The plain joint head."""

    def __init__(
        self, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, dtype: torch.dtype, variant: str = ""
    ) -> None:
        super().__init__(rng, mods, width, classes, dtype, variant)
        self.additive = variant != "mlp"
        joined = len(mods) * width
        if variant == "mlp":
            self.hidden = Linear(rng, "fusion/concat/hidden", joined, width, dtype)
        self.head = Linear(rng, "fusion/concat", joined if self.additive else width, classes, dtype)

    def logits(self, h: Features) -> Tensor:
        """One product on the concatenated features, or two."""
        x = torch.cat([h[m] for m in self.mods], -1)
        return self.head(x if self.additive else torch.relu(self.hidden(x)))

    def _blocks(self, h: Features, bias: Tensor) -> Features:
        blocks = self.head.weight.chunk(len(self.mods), dim=1)
        return {m: torch.baddbmm(bias, h[m], block) for m, block in zip(self.mods, blocks, strict=True)}

    def unimodal(self, h: Features) -> Features:
        """h_m W_m + b/M."""
        if not self.additive:
            return self.alone(h)
        assert self.head.bias is not None
        return self._blocks(h, self.head.bias / len(self.mods))

    def alone(self, h: Features) -> Features:
        """h_m W_m + b: the whole bias, as the head answers when the others are zero."""
        if not self.additive:
            return Fusion.alone(self, h)
        assert self.head.bias is not None
        return self._blocks(h, self.head.bias)
