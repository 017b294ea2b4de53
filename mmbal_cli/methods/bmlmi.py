"""BMLMI: Balanced Multimodal Learning via Mutual Information (Xie, Sanguinetti, arXiv 2511.00987) - RECONSTRUCTED.

Changes: stages and loss. Known from abstract, introduction and a digest: a strong modality teaches the weak ones by
distillation; then all tasks train together, their gradients calibrated by macro-F1 and by mutual information between
modalities; encoders are graph convolutions over a network fused from all modalities. Method section and code could
not be read: every equation, value and switch below is ours. Measured on `holdout` of the training split, for each seed:

    unimodal:  sum_m CE(z_m, y);  F_m = macro-F1 of m, teacher t = argmax F
    distil:    students m != t with NMI(t,m) >= theta: (1 - lam) CE + lam T^2 KL(softmax(z_t/T) || softmax(z_m/T))
    train:     w_0 CE(z_f, y) + beta sum_m w_m CE(z_m, y), new fusion, w = 1 in the first epoch; after each epoch
               a_m = (1 - F_m) (eps0 + nu_m), nu_m = mean NMI with the others; a_0 = (1 - F_0) (eps0 + 1 - mean NMI)
               w <- rho w + (1 - rho) clip((M+1) a / sum a, w_min, w_max)

Choices: stages keep the epoch of the best validation score of each modality (the run's `select`, not macro-F1). Only a
sample with both modalities is taught or counts in NMI. Miller-Madow corrects the information, not the entropies;
InfoNCE is divided by its bound ln n, n <= 256. uncertainty: sum e^-s L + s, s learned (Kendall et al. 2018 have s/2).
gradnorm: encoder m gets the gradients of its two tasks at the mean of their norms, times w; heads the plain sum.
One modality: no distillation, w = 1. With M = 2, NMI moves weight only between the joint and the unimodal losses,
except with mi_role=dominance. Labels alone make heads dependent: theta is a weak gate, so macro-F1 before and after
distillation is recorded (`distil/...`, first epoch of `train`). graph=snf is transductive: read its knob.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmbal_cli.methods.base import Batch, Card, Out, Peek, knob
from mmbal_cli.methods.distilled import Distilled
from mmbal_cli.nn.stacked import total
from mmbal_cli.ops.losses import ce
from mmbal_cli.ops.multitask import at_mean_norm, needs, reweighted


class BMLMI(Distilled):
    """Joint training after distillation, with weights from macro-F1 and mutual information."""

    w: Tensor
    card = Card(
        "bmlmi", "stages, loss", "Xie, Sanguinetti, arXiv 2511.00987", "", "stages, loss",
        ("equations, values and switches are ours: only abstract, introduction and a digest could be read",
         "apply=gradnorm: each encoder gets its two tasks' gradients at their mean norm, in three backward passes",
         "graph=snf is transductive: predictions depend on the features of all samples, the test split's too"),
        exercise={"holdout": 0.2}, reconstructed=True,
        stages="E_A unimodal and E_B distillation epochs before the run's own; "
               "control: kd_gate=never, weights=equal (unimodal stage only)",
        holds_out="10 % of train (knob holdout) chooses teacher, students and weights",
    )  # fmt: skip
    weights = knob("relative", "of the losses: from macro-F1 and NMI, all 1, or from learned log-variances",
                   source="ours", choices=("relative", "equal", "uncertainty"))  # fmt: skip
    mi_role = knob("dependence", "a_m uses nu_m, 1 - nu_m, 1 - NMI(fused, m); none: a = 1 - F", source="ours",
                   choices=("dependence", "complement", "dominance", "none"), when="weights=relative")  # fmt: skip
    rule = knob("loss", "whether the norms of an encoder's two gradients are made equal before they are weighted",
                source="ours", name="apply", choices=("loss", "gradnorm"))  # fmt: skip
    eps0 = knob(0.05, "floor of the factor of NMI", source="ours", low=0, high=1, when="weights=relative")
    w_min = knob(0.1, "least weight", source="ours", low=0, high=1, when="weights=relative")
    w_max = knob(3.0, "most weight", source="ours", low=1, when="weights=relative")
    rho = knob(0.5, "share of the weights before", source="ours", low=0, high=1, when="weights=relative")

    def build(self) -> None:
        """The model and its stages; a weight for each task, the fused one first."""
        super().build()
        self.register_buffer("w", torch.ones(self.S, len(self.mods) + 1, dtype=self.dtype))
        if self.weights == "uncertainty":
            self.log_variance = nn.Parameter(torch.zeros_like(self.w))

    def task_weights(self) -> Tensor:
        """Factors [S,M+1] on the losses."""
        w = (-self.log_variance).exp() if self.weights == "uncertainty" else self.w
        return torch.cat([w[:, :1], self.beta * w[:, 1:]], 1)

    def tasks(self, out: Out, batch: Batch) -> list[Tensor]:
        """Cross-entropy [S] of the fused logits and of each modality's."""
        return [ce(out.fused, batch.y), *(ce(out.z[m], batch.y, batch.present(m)) for m in self.mods)]

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """In joint training the weighted sum of the tasks, [S]."""
        if self.phase != "train":
            return super().loss(out, batch)
        w = self.task_weights()
        joint, *own = (w[:, j] * each for j, each in enumerate(self.tasks(out, batch)))
        whole = joint + total(own)
        return whole + self.log_variance.sum(1) if self.weights == "uncertainty" else whole

    def update(self, each: Tensor, out: Out, batch: Batch) -> None:
        """apply=gradnorm: encoders get gradients of equal norm, everything else that of the loss."""
        if self.phase != "train" or self.rule == "loss":
            super().update(each, out, batch)
            return
        w, (joint, *own) = self.task_weights().detach(), self.tasks(out, batch)
        self.opt.zero_grad()
        for j, m in enumerate(self.mods):
            params = list(self.enc[m].parameters())
            found = at_mean_norm(params, (joint, own[j]), (w[:, 0], w[:, j + 1]))
            for p, g in zip(params, found, strict=True):
                p.grad = g
        encoders = set(self.enc.parameters())
        each.backward(torch.ones_like(each), inputs=[p for p in self.opt.params if p not in encoders])
        self.opt.step(self.hold)

    @torch.no_grad()
    def end_epoch(self, peek: Peek) -> None:
        """In joint training, the weights of the next epoch."""
        if self.phase != "train":
            return
        if self.weights == "relative" and len(self.mods) > 1:
            f1, nmi = self.measure(peek)
            self.w.copy_(reweighted(self.w, needs(f1, nmi, self.eps0, self.mi_role), self.w_min, self.w_max, self.rho))
        for j, m in enumerate(("fused", *self.mods)):
            self.log(f"coef/w/{m}", self.task_weights()[:, j])
