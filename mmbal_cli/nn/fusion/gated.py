"""Gated fusion (Kiela et al. 2018, arXiv 1802.02892; GeWu-Lab/OGM-GE_CVPR2022): one modality gates another.

z = (sigmoid(h_a U_a + c_a) * (h_v U_v + c_v)) W + b. More than two modalities (ours): the product of the
gates of modalities 1 .. M-1 acts on modality M.

`sym` (MMCosine's code): every modality is gated once, by the product of the gates of all others, and one linear layer
takes the concatenation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.nn.fusion.base import Features, Fusion
from mmbal_cli.nn.stacked import Linear, PerModality, sigmoid
from mmbal_cli.seeds import SeedStreams


class Gated(Fusion):
    """Gates are all modalities but the target, which is the last one."""

    def __init__(
        self, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, dtype: torch.dtype, variant: str = ""
    ) -> None:
        super().__init__(rng, mods, width, classes, dtype, variant)
        self.targets = mods if variant == "sym" else mods[-1:]
        self.project = PerModality({m: Linear(rng, f"fusion/gated/{m}", width, width, dtype) for m in mods})
        self.head = Linear(rng, "fusion/gated/head", len(self.targets) * width, classes, dtype)

    def logits(self, h: Features) -> Tensor:
        """Fused logits [S,B,C]."""
        v = {m: self.project[m](h[m]) for m in self.mods}
        return self.head(torch.cat([self.gated(v, target) for target in self.targets], -1))

    def gated(self, v: Features, target: str) -> Tensor:
        """Projection of `target` behind the gates of all others."""
        x = v[target]
        for m in self.mods:  # a sigmoid whose rounding ignores the layout
            x = x if m == target else sigmoid(v[m]) * x
        return x
