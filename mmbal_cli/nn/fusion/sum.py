"""Sum of predictions: z = sum_m (h_m W_m + b_m), z_m = h_m W_m + b_m (GeWu-Lab/OGM-GE_CVPR2022, CMML).

Same function class as `concat`; it differs in fan-in, in the bias (M copies) and in how the bias is split.
Deviation: the official evaluation halves the bias of each branch; a branch always keeps its own bias here.
"""

from __future__ import annotations

import torch

from mmbal_cli.nn.fusion.base import AdditiveFusion, Features
from mmbal_cli.nn.stacked import Linear, PerModality
from mmbal_cli.seeds import SeedStreams


class Sum(AdditiveFusion):
    """One linear head for each modality."""

    def __init__(self, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, dtype: torch.dtype) -> None:
        super().__init__(rng, mods, width, classes, dtype)
        self.heads = PerModality({m: Linear(rng, f"fusion/sum/{m}", width, classes, dtype) for m in mods})

    def unimodal(self, h: Features) -> Features:
        """h_m W_m + b_m."""
        return {m: self.heads[m](h[m]) for m in self.mods}

    def alone(self, h: Features) -> Features:
        """A branch alone is the branch: the others' biases are not its answer."""
        return self.unimodal(h)
