"""Tensor fusion network (Zadeh et al., EMNLP 2017; pliang279/MultiBench): one linear layer on the whole outer product.

    p_m = h_m P_m + c_m;  z = flatten([1; p_1] x .. x [1; p_M]) W + b

Each p_m has min(32, D) numbers, fewer where the product would pass 40,000 columns: 13 for four modalities, 7 for five.
The product is taken in alphabetical order, so that W does not depend on the order of the data set, and never formed: W
meets one modality after the other. Per-modality logits set the other features to zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmbal_cli.nn.fusion.base import Features, Fusion
from mmbal_cli.nn.stacked import Linear, PerModality
from mmbal_cli.seeds import SeedStreams

WIDTH, COLUMNS = 32, 40_000


class TFN(Fusion):
    """Every product of features of different modalities."""

    def __init__(
        self, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, dtype: torch.dtype, variant: str = ""
    ) -> None:
        super().__init__(rng, mods, width, classes, dtype, variant)
        k = narrow(width, len(mods))
        self.project = PerModality({m: Linear(rng, f"fusion/tfn/{m}", width, k, dtype) for m in mods})
        self.head = Linear(rng, "fusion/tfn/head", (k + 1) ** len(mods), classes, dtype)

    def logits(self, h: Features) -> Tensor:
        """Fused logits [S,B,C]."""
        assert self.head.bias is not None
        parts = [extended(self.project[m](h[m])) for m in sorted(self.mods)]
        return contracted(parts, self.head.weight) + self.head.bias


def narrow(width: int, M: int) -> int:
    """Numbers of each modality that enter the product of M."""
    return next(k for k in range(min(WIDTH, width), 0, -1) if k == 1 or (k + 1) ** M <= COLUMNS)


def extended(x: Tensor) -> Tensor:
    """[1; x], [S,B,k] -> [S,B,k+1]."""
    return torch.cat([torch.ones_like(x[..., :1]), x], -1)


def contracted(parts: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Outer product of `parts` [S,B,k] times weight [S,k^M,C], the last part fastest: [S,B,C]."""
    S, B, k = parts[0].shape
    z = torch.bmm(parts[0], weight.view(S, k, -1))
    for x in parts[1:]:
        z = (x[..., None] * z.view(S, B, k, -1)).sum(2)
    return z
