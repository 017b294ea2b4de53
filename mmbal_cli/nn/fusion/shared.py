"""One linear layer for all modalities, their logits summed: z = sum_m (h_m W + b), z_m = h_m W + b.

The head of the alternating methods (MLA, ReconBoost): modalities must agree on one space. Equal widths only.
"""

from __future__ import annotations

import torch

from mmbal_cli.nn.fusion.base import AdditiveFusion, Features
from mmbal_cli.nn.stacked import Linear
from mmbal_cli.seeds import SeedStreams


class Shared(AdditiveFusion):
    """A single head."""

    def __init__(
        self, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, dtype: torch.dtype, variant: str = ""
    ) -> None:
        super().__init__(rng, mods, width, classes, dtype, variant)
        self.head = Linear(rng, "fusion/shared", width, classes, dtype)

    def unimodal(self, h: Features) -> Features:
        """h_m W + b."""
        return {m: self.head(h[m]) for m in self.mods}

    def alone(self, h: Features) -> Features:
        """A branch alone is the branch."""
        return self.unimodal(h)
