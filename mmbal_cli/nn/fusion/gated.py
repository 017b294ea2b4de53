"""Gated fusion (Kiela et al. 2018, arXiv 1802.02892; GeWu-Lab/OGM-GE_CVPR2022): one modality gates another.

z = (sigmoid(h_a U_a + c_a) * (h_v U_v + c_v)) W + b. More than two modalities (ours): the product of the
gates of modalities 1 .. M-1 acts on modality M.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.nn.fusion.base import Features, Fusion
from mmbal_cli.nn.stacked import Linear, PerModality
from mmbal_cli.seeds import SeedStreams


class Gated(Fusion):
    """Gates are all modalities but the last, which is gated."""

    def __init__(self, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, dtype: torch.dtype) -> None:
        super().__init__(rng, mods, width, classes, dtype)
        self.project = PerModality({m: Linear(rng, f"fusion/gated/{m}", width, width, dtype) for m in mods})
        self.head = Linear(rng, "fusion/gated/head", width, classes, dtype)

    def logits(self, h: Features) -> Tensor:
        """Fused logits [S,B,C]."""
        x = self.project[self.mods[-1]](h[self.mods[-1]])
        for m in self.mods[:-1]:
            x = (0.5 + 0.5 * torch.tanh(0.5 * self.project[m](h[m]))) * x  # a sigmoid whose rounding ignores the layout
        return self.head(x)
