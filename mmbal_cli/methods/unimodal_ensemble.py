"""Mean of the logits of independently trained unimodal models: a very strong reference that few tables show.

Changes: inference. The M unimodal models are trained side by side, share nothing, and each keeps its own best
epoch by its own validation accuracy: every part equals the run `unimodal:m` of the same seed exactly.
Formula: z = mean over the modalities that a sample has of z_m.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out
from mmbal_cli.nn.stacked import total
from mmbal_cli.ops.losses import ce


class UnimodalEnsemble(Method):
    """Late fusion without any joint training."""

    card = Card("unimodal-ensemble", "reference", changes="inference", reference=True, fusions=("sum",))

    def forward(self, batch: Batch) -> Out:
        """Per-modality logits, averaged over the modalities that are present."""
        out = super().forward(batch)
        masks = [batch.present(m) for m in self.mods]
        weights = [torch.ones_like(out.fused[..., 0]) if mask is None else mask.to(self.dtype) for mask in masks]
        z = total(w[..., None] * out.z[m] for m, w in zip(self.mods, weights, strict=True))
        out.fused = z / total(weights).clamp_min(1)[..., None]
        return out

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Sum of M losses that have no parameter in common."""
        return total(ce(out.z[m], batch.y, batch.present(m)) for m in self.mods)

    def selects(self, parameter: str) -> str:
        """Each modality's adapter and head follow that modality's own validation score."""
        return next(m for m in self.mods if parameter.startswith((f"enc.{m}_.", f"fusion.heads.{m}_.")))
