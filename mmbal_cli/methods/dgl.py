"""DGL: Disentangled Gradient Learning (Wei, Luo, Luo, ICCV 2025, arXiv 2507.10213; shicaiwei123/ICCV2025-GDL).

Changes: gradient. The fusion weakens the gradient that reaches each encoder, so it is cut: the joint loss trains the
head alone, and each encoder learns from its own unimodal loss alone, through the same head, which that loss must not
move. Two backward passes that share no parameter, one update:

    encoders: gradient of alpha * sum_m CE(head(h with the other features zero), y)
    head:     gradient of CE(head(h), y)

Both in the fusion's own sense: `alone` is the whole head with its whole bias, a sum answers with the branch itself.
Under SGD alpha is a factor on the encoders' learning rate; Adam cancels it. alpha=0 leaves the encoders as drawn.
The official code's global clip of 40 is part of the recipe, for each seed here; its best alpha moves with the version
of its software, its README says. Deviations from it: gated fusion uses zero-out logits and its projections are trained
by the joint loss (there they get no gradient at all: the cut comes after them), so do FiLM's conditioners (there
"FiLM" is a bilinear form); selection on validation. The paper speaks of a weight for each modality and of dropout of
modalities; as in the code, one alpha and every modality in each step.
Any number of modalities (one: alpha CE for the encoder, CE for the head). A sample that lacks a modality is left out
of that modality's loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, knob
from mmbal_cli.nn.stacked import total
from mmbal_cli.ops.losses import ce


class DGL(Method):
    """Encoders learn from unimodal losses only, the head from the joint one only."""

    card = Card(
        "dgl", "gradient", "Wei, Luo, Luo, ICCV 2025, arXiv 2507.10213", "shicaiwei123/ICCV2025-GDL", "gradient",
        ("the head's projections learn from the joint loss (in the official gated fusion they never learn)",),
        scales_gradients=True, backwards=2,
    )  # fmt: skip
    alpha = knob(4.0, "weight of the unimodal losses: how fast encoders learn", source="official code; scripts 2 to 5",
                 low=0, high=100)  # fmt: skip

    def step(self, batch: Batch) -> Tensor:
        """One update from two losses; returns their sum [S]."""
        out = self(batch)
        u = self.fusion.alone(out.h)
        own = self.alpha * total(ce(u[m], batch.y, batch.present(m)) for m in self.mods)
        joint = ce(out.fused, batch.y)
        self.opt.zero_grad()
        if self.alpha > 0:  # a zero gradient is not a freeze
            own.backward(torch.ones_like(own), inputs=list(self.enc.parameters()))
        joint.backward(torch.ones_like(joint), inputs=list(self.fusion.parameters()))
        self.opt.step(self.holding(batch))
        return (joint + own).detach()
