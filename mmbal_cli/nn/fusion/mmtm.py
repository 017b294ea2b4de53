"""MMTM, the multimodal transfer module (Joze et al., CVPR 2020; as in njustkmg/TPAMI-AMSS and Wu et al., ICML 2022).

A joint squeeze of all features gates every channel of every modality, and each modality has a linear head:

    q = ReLU([h_1;..;h_M] V + c), width 2 M D / 4;  g_m = sigmoid(q E_m + e_m);  z_m = (g_m * h_m) W_m + b_m
    z = mean over m of z_m

`double`: gates 2 sigmoid, as in the paper; both released codes leave the factor out. A pooled feature needs no squeeze
over space. The branches z_m see the other modalities through their gates, so they are no unimodal logits (the released
codes log them as such): those are the answers with the other modalities at zero. A single modality has no gate: one
linear head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.nn.fusion.base import Features, Fusion
from mmbal_cli.nn.stacked import Linear, PerModality, sigmoid, total
from mmbal_cli.seeds import SeedStreams

RATIO = 4


class MMTM(Fusion):
    """Gates from all modalities on the channels of each, then the mean of the heads' logits."""

    def __init__(
        self, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, dtype: torch.dtype, variant: str = ""
    ) -> None:
        super().__init__(rng, mods, width, classes, dtype, variant)
        self.gain = 2.0 if variant == "double" else 1.0
        joined = len(mods) * width
        squeezed = max(2 * joined // RATIO, 1)
        if len(mods) > 1:
            self.squeeze = Linear(rng, "fusion/mmtm/squeeze", joined, squeezed, dtype)
            self.excite = PerModality({m: Linear(rng, f"fusion/mmtm/gate/{m}", squeezed, width, dtype) for m in mods})
        self.heads = PerModality({m: Linear(rng, f"fusion/mmtm/{m}", width, classes, dtype) for m in mods})

    def gates(self, h: Features) -> Features:
        """g_m of each modality [S,B,D]; ones where there is nothing to exchange."""
        if len(self.mods) == 1:
            return {m: torch.ones_like(h[m]) for m in self.mods}
        q = torch.relu(self.squeeze(torch.cat([h[m] for m in self.mods], -1)))
        return {m: self.gain * sigmoid(self.excite[m](q)) for m in self.mods}

    def branches(self, h: Features, gates: Features) -> Features:
        """z_m [S,B,C] of features behind `gates` (whatever broadcasts over [S,B,D])."""
        return {m: self.heads[m](gates[m] * h[m]) for m in self.mods}

    def logits(self, h: Features) -> Tensor:
        """Mean of the branches."""
        z = self.branches(h, self.gates(h))
        return total(z[m] for m in self.mods) / len(self.mods)
