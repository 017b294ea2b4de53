"""Concat plus equal unimodal losses through the shared head: the control for every loss-based method.

Changes: loss. Formula: L = CE(z, y) + gamma * sum_m CE(z_m, y), with z_m the modality's share of the logits
(sum_m z_m = z for additive heads). Read by MMPareto, ARL (modulate=off) and G-Blend as their special case.
"""

from __future__ import annotations

from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out, knob
from mmbal_cli.ops.losses import ce


class Uniform(Method):
    """Every modality is asked for the label as well."""

    card = Card("uniform", "loss", changes="loss", reduces_to="concat at gamma=0", min_modalities=2, reference=True)
    gamma = knob(1.0, "weight of the unimodal losses", source="ours: equal weights", low=0, high=100)

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Joint plus unimodal cross-entropies, [S]."""
        return ce(out.fused, batch.y) + self.gamma * self.unimodal_loss(out, batch)
