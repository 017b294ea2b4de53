"""FiLM (Perez et al. 2018; GeWu-Lab/OGM-GE_CVPR2022): the first modality scales and shifts the last.

(gamma, beta) = split(h_a U + c); z = (gamma * h_v + beta) W + b, without "1 + gamma", as the code has it.
More than two modalities (ours): x = h_M, then x <- gamma_m(h_m) * x + beta_m(h_m) for m = 1 .. M-1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.nn.fusion.base import Features, Fusion
from mmbal_cli.nn.stacked import Linear, PerModality
from mmbal_cli.seeds import SeedStreams


class Affine(Fusion):
    """Conditioners are all modalities but the last, which is the target."""

    def __init__(self, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, dtype: torch.dtype) -> None:
        super().__init__(rng, mods, width, classes, dtype)
        self.film = PerModality({m: Linear(rng, f"fusion/affine/{m}", width, 2 * width, dtype) for m in mods[:-1]})
        self.head = Linear(rng, "fusion/affine/head", width, classes, dtype)

    def logits(self, h: Features) -> Tensor:
        """Fused logits [S,B,C]."""
        x = h[self.mods[-1]]
        for m in self.mods[:-1]:
            gamma, beta = self.film[m](h[m]).chunk(2, dim=-1)
            x = gamma * x + beta
        return self.head(x)
