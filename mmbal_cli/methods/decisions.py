"""Decisions: what a method does that weighs its modalities' decisions by budgets and by each sample's uncertainty.

    w = softmax_m(ln pi_m - gamma H(z_m) / ln C + g_m): `prior` without the last two, `bayes` without g
    `learned`: after training, a phase in which g = MLP(H(z_1..M) / ln C, max softmax(z_1..M)) alone learns, from 0, on
    held-out samples, by CE(sum_m w_m z_m, y)
    prediction: softmax(sum_m w_m z_m) (`logits`), or z_f of the features M w_m h_m, also in training (`features`; no
    gradient through w there, and g still learns on the logits); `none`: z_f as it is

A modality that a sample lacks has weight 0; the MLP sees it as undecided (1 and 1/C). One modality: w = 1, no phase.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmbal_cli.methods.base import Batch, Out, Phase
from mmbal_cli.methods.budgets import Budgeted, ours
from mmbal_cli.nn.optim import StackedOptimizer
from mmbal_cli.nn.stacked import total
from mmbal_cli.ops.calibration import doubt, evidence_weights, silent_gate
from mmbal_cli.ops.losses import ce, having, masked_mean


class Deciding(Budgeted):
    """Budgeted heads whose weighted logits decide."""

    gate = ours("learned", "weights of the decisions", choices=("learned", "bayes", "prior", "none"))
    gate_target = ours("logits", "what the weights multiply", choices=("logits", "features"))
    gamma = ours(1.0, "how much a sample's uncertainty counts", low=0, high=100)
    gate_epochs = ours(20, "epochs of the gate phase", low=1, when="gate=learned")
    judge: nn.Sequential | None

    def build(self) -> None:
        """Heads, budgets, and the gate, which says nothing until it learns."""
        super().build()
        M = len(self.mods)
        self.judge = silent_gate(self.rng, M, self.dtype) if self.gate == "learned" and M > 1 else None

    def phases(self) -> list[Phase]:
        """Budgets, training, and the gate if there is one."""
        gate = [] if self.judge is None else [Phase("gate", self.gate_epochs, self.aside)]
        return super().phases() + gate

    def optimizer(self) -> StackedOptimizer:
        """Adam for the gate alone in its phase."""
        if self.phase != "gate" or self.judge is None:
            return super().optimizer()
        adam = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.0, "schedule": "constant"}
        return StackedOptimizer(self.judge.parameters(), self.config.model_copy(update=adam))

    def train(self, mode: bool = True) -> Deciding:
        """No dropout in what is frozen."""
        return super().train(mode and self.phase != "gate")

    def forward(self, batch: Batch) -> Out:
        """As `heads`, with masks `present` [S,M,B] and weights `w` [S,B,M] in `extra`."""
        learns = torch.is_grad_enabled()
        with torch.set_grad_enabled(learns and self.phase != "gate"):
            out = super().forward(batch)
            z = torch.stack([out.z[m] for m in self.mods], 2)  # [S,B,M,C]
        out.extra["present"] = having([batch.present(m) for m in self.mods], batch.y, 1)
        if self.gate != "none":
            with torch.set_grad_enabled(learns and self.phase == "gate"):
                out.extra["w"] = self.weights(z, out.extra["present"].transpose(1, 2))
            if self.gate_target == "features":
                w = len(self.mods) * out.extra["w"].detach()
                out.fused = self.fusion.logits({m: w[..., i, None] * out.h[m] for i, m in enumerate(self.mods)})
        return out

    def weights(self, z: Tensor, present: Tensor) -> Tensor:
        """w [S,B,M] from logits z [S,B,M,C] and masks [S,B,M]."""
        unsure = doubt(z, present)  # [S,B,M,2]
        evidence = (0.0 if self.gate == "prior" else -self.gamma) * unsure[..., 0]
        if self.judge is not None:
            evidence = evidence + self.judge(unsure.transpose(2, 3).flatten(2))
        return evidence_weights(self.budgets.pi, evidence, present)

    def decide(self, out: Out) -> Tensor:
        """Weighted logits [S,B,C]."""
        return total(out.extra["w"][..., i, None] * out.z[m] for i, m in enumerate(self.mods))

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """That of the gate in its phase, else that of `heads` and of the budget phase; [S]."""
        if "w" in out.extra and self.phase != "budget":
            for i, m in enumerate(self.mods):
                self.log(f"coef/gate/{m}", masked_mean(out.extra["w"][..., i], out.extra["present"][:, i]))
        return ce(self.decide(out), batch.y) if self.phase == "gate" else super().loss(out, batch)

    def predict(self, out: Out) -> Tensor:
        """Probabilities [S,B,C]."""
        weighted = self.gate != "none" and self.gate_target == "logits"
        return self.decide(out).softmax(-1) if weighted else super().predict(out)
