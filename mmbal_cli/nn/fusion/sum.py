"""Sum of predictions: z = sum_m (h_m W_m + b_m), z_m = h_m W_m + b_m (GeWu-Lab/OGM-GE_CVPR2022, CMML).

Same function class as `concat`; it differs in fan-in, in the bias (M copies) and in how the bias is split.
Deviation: the official evaluation halves the bias of each branch; a branch always keeps its own bias here.

`mean`: z = mean_m z_m with the same z_m, the late fusion of G2D; the shares then add up to M z, so it is not additive.
`feature`: z = (sum_m h_m) W + b with one W for all modalities; z_m = h_m W + b/M.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.nn.fusion.base import AdditiveFusion, Features
from mmbal_cli.nn.stacked import Linear, PerModality, total
from mmbal_cli.seeds import SeedStreams


class Sum(AdditiveFusion):
    """One linear head for each modality, or one for all."""

    def __init__(
        self, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, dtype: torch.dtype, variant: str = ""
    ) -> None:
        super().__init__(rng, mods, width, classes, dtype, variant)
        self.additive = variant != "mean"
        if variant == "feature":
            self.head = Linear(rng, "fusion/sum/feature", width, classes, dtype)
        else:
            self.heads = PerModality({m: Linear(rng, f"fusion/sum/{m}", width, classes, dtype) for m in mods})

    def logits(self, h: Features) -> Tensor:
        """The sum or mean of the predictions, or the prediction of the summed features."""
        if self.variant == "feature":
            return self.head(total(h[m] for m in self.mods))
        z = super().logits(h)
        return z / len(self.mods) if self.variant == "mean" else z

    def unimodal(self, h: Features) -> Features:
        """h_m W_m + b_m, or h_m W + b/M."""
        if self.variant == "feature":
            assert self.head.bias is not None
            return {m: torch.baddbmm(self.head.bias / len(self.mods), h[m], self.head.weight) for m in self.mods}
        return {m: self.heads[m](h[m]) for m in self.mods}

    def alone(self, h: Features) -> Features:
        """A branch alone is the branch: the others' biases are not its answer. One head answers with its whole bias."""
        return {m: self.head(h[m]) for m in self.mods} if self.variant == "feature" else self.unimodal(h)
