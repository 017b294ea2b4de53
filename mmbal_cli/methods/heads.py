"""Joint training with a linear head of its own for each modality: the control of every method with such heads.

Changes: loss. Formula: L = CE(z_f, y) + beta * sum_m CE(z_m, y), z_m = h_m A_m + a_m, z_f from the fusion. Unlike
`uniform`, whose unimodal logits are shares of the joint head, nothing but the encoders is shared between the losses
(G-Blend, CVPR 2020; MatthewMaxy/Remix_ICML2025 has the same three heads).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out, knob
from mmbal_cli.nn.stacked import Linear, PerModality
from mmbal_cli.ops.losses import ce


class Heads(Method):
    """The fused head predicts; the auxiliary heads make every encoder learn the label by itself."""

    card = Card("heads", "loss", changes="loss", reduces_to="concat at beta=0", reference=True)
    beta = knob(1.0, "weight of the unimodal losses", source="ours: equal weights", low=0, high=100)

    def build(self) -> None:
        """Adapters, fusion, and one linear head a modality."""
        super().build()
        self.heads = PerModality({m: Linear(self.rng, f"heads/{m}", self.D, self.C, self.dtype) for m in self.mods})

    def own(self, h: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits of each modality's own head [S,B,C]."""
        return {m: self.heads[m](h[m]) for m in self.mods}

    def classify(self, h: dict[str, Tensor]) -> Out:
        """Fused logits of the fusion, per-modality logits of the heads."""
        return Out(h, self.fusion.logits(h), self.own)

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Joint plus unimodal cross-entropies, [S]."""
        return ce(out.fused, batch.y) + self.beta * self.unimodal_loss(out, batch)


class LateFusion(Heads):
    """Uniform late fusion: trained like `heads`, predicts the mean of the per-modality logits."""

    card = replace(Heads.card, name="late-fusion", changes="loss, inference", reduces_to="")

    def forward(self, batch: Batch) -> Out:
        """`fused` is the mean over the modalities that a sample has; the joint logits only train."""
        out = super().forward(batch)
        out.extra["joint"], out.fused = out.fused, self.mean_logits(out, batch)
        return out

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """That of `heads`."""
        return ce(out.extra["joint"], batch.y) + self.beta * self.unimodal_loss(out, batch)
