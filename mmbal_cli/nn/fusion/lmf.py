"""Low-rank multimodal fusion (Liu et al., ACL 2018; pliang279/MultiBench): a tensor product that is never formed.

    f_r = prod_m [1; h_m] F_m,r  (each [D+1, C]);  z = sum_r w_r f_r + b,  rank 8

The factors learn (MultiBench keeps them in a list outside the parameters, so there they stay as drawn). Each starts as
a linear layer of D inputs with an offset, the row of the constant 1, of one: products of small numbers would vanish.
Per-modality logits set the other features to zero, which leaves the constant of their factors.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn

from mmbal_cli.nn.fusion.base import Features, Fusion
from mmbal_cli.nn.stacked import Linear, PerModality
from mmbal_cli.seeds import SeedStreams

RANK = 8


class LMF(Fusion):
    """Products of affine maps, summed over the rank."""

    def __init__(
        self, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, dtype: torch.dtype, variant: str = ""
    ) -> None:
        super().__init__(rng, mods, width, classes, dtype, variant)
        self.factors = PerModality({m: Linear(rng, f"fusion/lmf/{m}", width, classes * RANK, dtype) for m in mods})
        for name, value in self.factors.named_parameters():
            if name.endswith("bias"):
                nn.init.ones_(value)
        bound = RANK**-0.5
        self.weight = nn.Parameter(rng.uniform("init/fusion/lmf/weight", (1, 1, RANK), -bound, bound, dtype))
        self.bias = nn.Parameter(torch.zeros(len(rng.seeds), 1, classes, dtype=dtype))

    def logits(self, h: Features) -> Tensor:
        """Fused logits [S,B,C]."""
        f = reduce(torch.mul, (self.factors[m](h[m]) for m in self.mods))
        return (f.unflatten(-1, (-1, self.weight.shape[-1])) * self.weight).sum(-1) + self.bias
