"""LFM-H: dynamically learning the modality gap, heuristic schedule (Yang et al., NeurIPS 2024).

Changes: loss and schedule. Official code: njustkmg/NeurIPS24-LFM (CREMA-D only). Alignment first, classification
later, mixed by a weight that decays over the epochs:

    L = (1 - alpha) CE(z, y) + alpha * mean over pairs of InfoNCE(h_j, h_l; tau)
    alpha(t) = 1 - exp(-1/t), t = 1-based epoch;  z = mean of per-modality logits (separate heads)

InfoNCE is the symmetric cross-entropy of the cosine matrix over tau, negatives = the batch, no projection head.
Deviations from the official code: the poster's formulas are followed (the released command uses a polynomial of the
epoch and a Jensen-Shannon term with reversed arguments); no unimodal pre-training; the loss is not doubled
(`loss_scale`). With `fusion=sum` (default) logits are averaged as in the code; other fusions use their own z.
Pairs count only samples that have both modalities; with one modality alpha is 0.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out, knob
from mmbal_cli.nn.fusion import FUSIONS
from mmbal_cli.nn.stacked import total
from mmbal_cli.ops.losses import ce, contrastive


class LFMH(Method):
    """The scheduled mix of alignment and classification."""

    card = Card(
        "lfm-h", "loss, schedule", "Yang, Wan, Jiang, Xu, NeurIPS 2024", "njustkmg/NeurIPS24-LFM", "loss, schedule",
        ("alpha and alignment as the paper states them, not as the released command", "from scratch"),
        fusions=("sum", *(name for name in FUSIONS if name != "sum")),
    )  # fmt: skip
    tau = knob(0.07, "temperature of the contrastive term", source="official code history", low=1e-3, high=100)
    loss_scale = knob(1.0, "factor on the whole loss", source="paper (official code: 2)", low=0.01, high=100)

    @property
    def alpha(self) -> float:
        """Weight of the alignment in this epoch."""
        return 1 - math.exp(-1 / (self.epoch + 1)) if len(self.mods) > 1 else 0.0

    def classify(self, h: dict[str, Tensor]) -> Out:
        """Averaged, not summed, logits for separate heads."""
        out = super().classify(h)
        return replace(out, fused=out.fused / len(self.mods)) if self.fusion_name == "sum" else out

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """(1 - alpha) classification + alpha alignment, [S]."""
        classification = ce(out.fused, batch.y)
        alignment = self.alignment(out, batch)
        self.log("coef/alpha", torch.full_like(classification, self.alpha))
        self.log("train/alignment", alignment)
        return self.loss_scale * ((1 - self.alpha) * classification + self.alpha * alignment)

    def alignment(self, out: Out, batch: Batch) -> Tensor:
        """Mean contrastive loss over the pairs of modalities, [S]."""
        pairs = [
            contrastive(out.h[j], out.h[k], self.tau, _both(batch.present(j), batch.present(k)))
            for j, k in combinations(self.mods, 2)
        ]
        return total(pairs) / len(pairs) if pairs else torch.zeros(self.S, dtype=self.dtype, device=out.fused.device)


def _both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a & b
