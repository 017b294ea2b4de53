"""FiLM (Perez et al. 2018; GeWu-Lab/OGM-GE_CVPR2022): the first modality scales and shifts the last.

(gamma, beta) = split(h_a U + c); z = (gamma * h_v + beta) W + b, without "1 + gamma", as the code has it.
More than two modalities (ours): x = h_M, then x <- gamma_m(h_m) * x + beta_m(h_m) for m = 1 .. M-1.

`sym` (MMCosine's code): every modality is a target once, all others scale and shift it in turn, and one linear layer
takes the concatenation: (gamma_v * h_a + beta_v, gamma_a * h_v + beta_a) W + b for two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.nn.fusion.base import Features, Fusion
from mmbal_cli.nn.stacked import Linear, PerModality
from mmbal_cli.seeds import SeedStreams


class Affine(Fusion):
    """Conditioners are all modalities but the target, which is the last one."""

    def __init__(
        self, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, dtype: torch.dtype, variant: str = ""
    ) -> None:
        super().__init__(rng, mods, width, classes, dtype, variant)
        self.targets = mods if variant == "sym" else mods[-1:]
        conditioners = [m for m in mods if len(mods) > 1 and (variant == "sym" or m != mods[-1])]
        self.film = PerModality({m: Linear(rng, f"fusion/affine/{m}", width, 2 * width, dtype) for m in conditioners})
        self.head = Linear(rng, "fusion/affine/head", len(self.targets) * width, classes, dtype)

    def logits(self, h: Features) -> Tensor:
        """Fused logits [S,B,C]."""
        films = {m: self.film[m](h[m]).chunk(2, dim=-1) for m in self.mods if f"{m}_" in self.film}
        return self.head(torch.cat([self.conditioned(h, films, target) for target in self.targets], -1))

    def conditioned(self, h: Features, films: dict[str, tuple[Tensor, Tensor]], target: str) -> Tensor:
        """Feature of `target`, scaled and shifted by all others in turn."""
        x = h[target]
        for m, (gamma, beta) in films.items():
            x = x if m == target else gamma * x + beta
        return x
