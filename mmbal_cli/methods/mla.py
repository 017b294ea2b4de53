"""MLA: Multimodal Learning with Alternating Unimodal Adaptation (Zhang et al., CVPR 2024, arXiv 2311.10707).

Changes: schedule, gradient of the head, inference. Official code:
Cecile-hi/Multimodal-Learning-with-Alternating-Unimodal-Adaptation. No joint loss: in each batch the modalities take
turns, each through its adapter and one shared linear head, with an update of its own. The head's gradient is kept
away from directions already used. At test time the surer modality of a sample weighs more.

    in the turn of m, batch i of n:  L = CE(z_m, y),  z_m = h_m W + b (the head as the turn before left it)
    r = mean of h_m over the batch;  a = 0.1^(1 + i/n);  k = P r;  P <- P - k k^T / (a + r k)      P = I at first
    P <- P / |P|_F (`owm_norm`; `owm` is the bare equation);  gradient of W <- P gradient; the bias stays
    the first update of the run is not projected, and P does not see it
    z = sum_m w_m z_m,  w = softmax over m of -H_m,  H_m = entropy of softmax(z_m)

Deviations from the official code: as released the projection never runs (it looks for a parameter name that does not
exist), so published tables most likely show proj=off: `mmbal` shows it beside the default. Entropies are those of a
sample over the classes; the released ones are of the whole batch over the wrong axis, so that a prediction would
depend on its neighbours: not offered. dynamic=off is the plain mean (there: constants set by hand for each data set).
|P|_F = 1 costs the head a factor of about 1/sqrt(D) of its learning rate, but without it P only shrinks and the head
freezes. Any number of modalities. A sample without a modality is left out of its loss, mean and weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmbal_cli.methods.alternating import Alternating
from mmbal_cli.methods.base import Batch, Card, Out, Peek, knob
from mmbal_cli.nn.fusion.shared import Shared
from mmbal_cli.nn.stacked import Linear
from mmbal_cli.ops.losses import ce, masked_mean
from mmbal_cli.ops.mixing import mixed
from mmbal_cli.ops.projection import damped, normed, ridge


class MLA(Alternating):
    """Turns at one head whose gradient is projected; logits mixed by their entropies."""

    card = Card(
        "mla", "schedule, gradient, inference", "Zhang et al., CVPR 2024, arXiv 2311.10707",
        "Cecile-hi/Multimodal-Learning-with-Alternating-Unimodal-Adaptation", "schedule, gradient, inference",
        ("the projection is applied (it never runs in the released code)",
         "entropy weights of each sample by itself (the released ones mix the batch)"),
        ("shared",), min_modalities=2, ordered="the modalities take turns at the head, in the order of their names",
    )  # fmt: skip
    proj = knob("owm_norm", "projection of the head's gradient", source="official code; owm: paper",
                choices=("owm_norm", "owm", "off"))  # fmt: skip
    dynamic = knob("sample", "weights at test time: entropies of each sample, or all equal", source="README",
                   choices=("sample", "off"))  # fmt: skip
    P: Tensor  # [S,D,D]

    def build(self) -> None:
        """Adapters, the shared head, and the projection."""
        super().build()
        self.register_buffer("P", torch.eye(self.D, dtype=self.dtype).repeat(self.S, 1, 1))
        self.batches, self.done = math.ceil(self.shape.samples / self.config.batch), 0

    @property
    def head(self) -> Linear:
        """The one head of all modalities."""
        assert isinstance(self.fusion, Shared)
        return self.fusion.head

    def begin_epoch(self, peek: Peek) -> None:
        """Count batches from 0."""
        self.done = 0

    def step(self, batch: Batch) -> Tensor:
        """All turns of one batch."""
        each = super().step(batch)
        self.done += 1
        return each

    def taken(self, h: dict[str, Tensor]) -> Out:
        """The logits of the modality whose turn it is, of the head as it is now."""
        return Out(h, self.head(h[self.turn]), self.fusion.unimodal)

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Cross-entropy over samples that have the modality, [S]."""
        return ce(out.fused, batch.y, batch.present(self.turn))

    def modulate(self, out: Out, batch: Batch) -> None:
        """Damp the modality's mean feature in P, then project the head's gradient."""
        first = self.epoch == 0 and self.done == 0 and self.turn == self.mods[0]
        if first or self.proj == "off":
            return
        present = batch.present(self.turn)
        r = masked_mean(out.h[self.turn], present if present is None else present[..., None])
        P = damped(self.P, r, ridge(self.done % self.batches, self.batches))
        self.P.copy_(normed(P) if self.proj == "owm_norm" else P)
        grad = self.head.weight.grad
        assert grad is not None
        grad.copy_(torch.bmm(self.P, grad))

    def forward(self, batch: Batch) -> Out:
        """`fused` is the weighted sum over the modalities that a sample has."""
        out = super().forward(batch)
        out.fused = mixed([out.z[m] for m in self.mods], [batch.present(m) for m in self.mods], self.dynamic)
        return out

    def end_epoch(self, peek: Peek) -> None:
        """Record validation accuracy under both rules: the plain mean is often the better one."""
        view = peek.outputs("val")
        z, present = list(view.z.values()), list(view.present.values())
        for rule in ("sample", "off"):
            hit = mixed(z, present, rule).argmax(-1) == view.y
            self.log(f"accuracy/{rule}", hit.to(self.dtype).mean(1))
