"""What every fusion offers: fused logits, and logits of each modality by itself.

`unimodal` are the shares the balancing methods compare (they add up to the fused logits when the fusion is
additive); `alone` is the answer of the shared head when the other modalities are absent. Both default to the
zero-out rule: keep h_m, set the others to zero, call `logits`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmbal_cli.nn.stacked import total
from mmbal_cli.seeds import SeedStreams

Features = dict[str, Tensor]


class Fusion(nn.Module):
    """h_m [S,B,D] of each modality -> logits [S,B,C]."""

    additive: bool = False  # True iff logits(h) is exactly the sum of unimodal(h); a variant may differ

    def __init__(
        self, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, dtype: torch.dtype, variant: str = ""
    ) -> None:
        super().__init__()
        self.mods, self.variant = mods, variant

    def logits(self, h: Features) -> Tensor:
        """Fused logits [S,B,C]."""
        raise TypeError(f"{type(self).__name__} must define logits(h)")

    def unimodal(self, h: Features) -> Features:
        """Per-modality logits [S,B,C]."""
        return self.alone(h)

    def alone(self, h: Features) -> Features:
        """Logits of the shared head with every other modality's feature set to zero."""
        if len(self.mods) == 1:
            return {self.mods[0]: self.logits(h)}
        return {m: self.logits({q: h[q] if q == m else torch.zeros_like(h[q]) for q in self.mods}) for m in self.mods}


class AdditiveFusion(Fusion):
    """A fusion whose logits are the sum of its per-modality logits."""

    additive = True

    def logits(self, h: Features) -> Tensor:
        """Sum of the shares, in the order of the modalities."""
        shares = self.unimodal(h)
        return total(shares[m] for m in self.mods)
