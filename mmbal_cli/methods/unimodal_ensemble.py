"""Mean of the logits of independently trained unimodal models: a very strong reference that few tables show.

Changes: inference. The M unimodal models are trained side by side, share nothing, and each keeps its own best
epoch by its own validation accuracy: every part equals the run `unimodal:m` of the same seed exactly.
Formula: z = mean over the modalities that a sample has of z_m.
"""

from __future__ import annotations

from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out


class UnimodalEnsemble(Method):
    """Late fusion without any joint training."""

    card = Card("unimodal-ensemble", "reference", changes="inference", reference=True, fusions=("sum",))

    def forward(self, batch: Batch) -> Out:
        """Per-modality logits, averaged over the modalities that are present."""
        out = super().forward(batch)
        out.fused = self.mean_logits(out, batch)
        return out

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Sum of M losses that have no parameter in common."""
        return self.unimodal_loss(out, batch)

    def selects(self, parameter: str) -> str:
        """Each modality's adapter and head follow that modality's own validation score."""
        return self.owner(parameter)
