"""IIBalance: intrinsic information budgets (Z. Xiong et al., ICME 2026, arXiv 2603.17347) - RECONSTRUCTED.

Changes: loss, schedule and inference. Neither text nor code could be read. Known from the abstract and a public digest:
each modality has a budget, measured once and turned into a global prior; prototypes are moving means with a contrastive
loss; a weaker modality is pulled to the richest (the anchor) only where it is below its budget, on a linear schedule; a
light gate joins budgets and each sample's uncertainty at inference. Every formula, value and switch is ours:

    budget:  beta_m and pi_m, see "Budgets" below; anchor a = argmax beta (the first of equals)
    train:   L = CE(z_f, y) + beta sum_m CE(z_m, y) + lam_p sum_m mean_i -ln q_m[y] + lam_a r(e) sum_{m != a} L_m
             q_m = softmax(cos(h_m, P_m) / tau);  P_m[c] <- unit(mu P_m[c] + (1 - mu) mean of unit(h_m) over class c)
             L_m = sum_i t_m KL(q_a || q_m) / B;  t_m = 1[q_a[y] - q_m[y] > beta_a - beta_m]
             r(e) = (e - warmup) / ramp, from 0 to 1 (e = 0-based epoch)
    gate, prediction: see "Decisions" below

Choices: `align=hinge` is the mean of max(0, q_a[y] - q_m[y] - beta_a + beta_m); the anchor gets no gradient. With
`trigger_level=dataset` t_m holds for an epoch and all samples: whether moving means (mu) of q_m[y] and q_a[y] have a
lower ratio than the budgets. Softmaxes of L_m are over the classes that both modalities know, B counts samples that
have both; classes that no batch has shown yet are skipped. One modality: CE, its own CE and the prototype loss. Read it
beside `heads`, `late-fusion`, gate=none and align=off: the gate is the part most likely to differ from the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Out, Peek
from mmbal_cli.methods.budgets import ours
from mmbal_cli.methods.decisions import Deciding
from mmbal_cli.ops.prototypes import Prototypes, align, prototype_loss, similarity


class IIBalance(Deciding):
    """Budgets before training, alignment to the richest modality in it, budget-weighted decisions after it."""

    card = Card("iibalance", "loss, schedule, inference", "Xiong et al., ICME 2026, arXiv 2603.17347",
                "", "loss, schedule, inference",
                ("every formula, value and switch is ours: neither paper nor code could be read",),
                exercise={"warmup": 0, "ramp": 2},
                stages="`budget_epochs` of each modality by itself before, `gate_epochs` of the gate after training",
                holds_out="`holdout` of the training split measures budgets and trains the gate",
                reconstructed=True)  # fmt: skip
    lam_p = ours(0.5, "weight of the prototype loss", low=0, high=100)
    lam_a = ours(0.5, "weight of the alignment", low=0, high=100)
    tau = ours(0.2, "temperature of the prototypes", low=1e-3, high=100)
    mu = ours(0.9, "momentum of prototypes and of mean q[y], for each batch", low=0, high=1)
    warmup = ours(5, "last epoch without alignment (0-based; -1: none)", low=-1)
    ramp = ours(10, "epochs from there to its full weight", low=1)
    pull = ours("kl", "pull to the anchor", choices=("kl", "hinge", "off"), name="align")
    trigger_level = ours("sample", "who is pulled: samples, or modalities", choices=("sample", "dataset"))

    def build(self) -> None:
        """Heads, budgets and gate; prototypes."""
        super().build()
        self.prototypes = Prototypes(self.S, len(self.mods), self.C, self.D, self.dtype)

    @property
    def strength(self) -> float:
        """Weight of the alignment in this epoch."""
        off = self.pull == "off" or len(self.mods) == 1
        return 0.0 if off else self.lam_a * min(max((self.epoch - self.warmup) / self.ramp, 0.0), 1.0)

    def begin_epoch(self, peek: Peek) -> None:
        """Which modalities lag as a whole."""
        self.prototypes.compare(self.budgets.beta, self.budgets.anchor)

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """That of the other phases, or in training with prototype loss and alignment; [S]."""
        loss = super().loss(out, batch)
        if self.phase != "train":
            return loss
        P, known, present = self.prototypes.P, self.prototypes.known, out.extra["present"]
        h = torch.stack([out.h[m] for m in self.mods], 1)
        logits = similarity(h, P, self.tau)
        own, q = prototype_loss(logits, batch.y, known, present)
        out.extra |= {"q": q, "stacked": h.detach()}
        loss = loss + self.lam_p * own.sum(1)
        if self.strength > 0:
            flag = self.prototypes.flag if self.trigger_level == "dataset" else None
            anchor, delta = self.budgets.anchor, self.budgets.delta
            pulled, rate = align(logits, batch.y, known, present, anchor, delta, self.pull, flag)
            self.note(trigger=rate)
            loss = loss + self.strength * pulled.sum(1)
        return loss

    def update(self, each: Tensor, out: Out, batch: Batch) -> None:
        """The step; then the prototypes follow the features that it was made with."""
        super().update(each, out, batch)
        if self.phase == "train":
            self.prototypes.follow(out.extra["stacked"], batch.y, out.extra["present"], out.extra["q"], self.mu)
