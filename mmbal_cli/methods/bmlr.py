"""BMLR: Balanced Multimodal Label Reshaping (Ma, Zhang, Gao, Miao, Deng, Chen, arXiv 2605.28869) - RECONSTRUCTED.

Changes: loss (the targets). Neither text nor code could be read. Known from the abstract: modalities learn at different
pace because mapping them to one label space is not equally hard, so an adaptive matrix and strength reshape each one's
labels. From digests: cross-modal distillation with a temperature, "target parameter optimisation" (TPO), two
hyper-parameters alpha and beta. Every equation, value and switch below is ours. For every training batch, in order:

    y~_m = (1 - s_m) onehot(y) + s_m R_m[y];  d_m <- 0.9 d_m + 0.1 mean |softmax(z_m) - y~_m|_1 / 2
    k(m) = easiest other modality;  tau_m = d_m / d_k(m), from 1 to tau_max
    R_m[c] <- mu R_m[c] + (1 - mu) mean over y = c of softmax(z_k(m) / tau_m)
    s_m = s_base + (d_m - min d) / (d_m + kappa), from 0 to alpha (0 in the first `warmup` epochs)
    L = CE(z_f, y) + beta sum_m CE(z_m, y~_m) with the new R and s;  z_m: heads of their own

Choices: s, tau, d never carry a gradient. tpo=branch: nor do targets; strict: moreover the fused loss trains the fusion
only (its features are constants); none: targets carry the gradient of this batch's part of R_m (or of the sample's own
profile) to the teacher's head and encoder. tau compares with the easiest other modality whoever teaches. `fixed` never
exceeds alpha. Only samples that have m count in d_m, only those that have the teacher in R_m; with matrix=sample the
residual uses the stored d and s, and a sample without teacher stays one-hot. One modality: `heads`. Compare: alpha=0.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Out, knob
from mmbal_cli.methods.heads import Heads
from mmbal_cli.nn.stacked import total
from mmbal_cli.ops import labels
from mmbal_cli.ops.losses import ce, masked_mean, soft_ce

ours = partial(knob, source="ours")


class BMLR(Heads):
    """Unimodal heads that learn labels softened by the confusions of an easier modality."""

    card = Card("bmlr", "loss", "Ma, Zhang, Gao, Miao, Deng, Chen, arXiv 2605.28869", "", "loss",
                ("equations, values and switches are ours: neither paper nor code could be read",),
                reduces_to="heads at alpha=0", reconstructed=True,
                exercise={"warmup": 0, "s_base": 0.29})  # fmt: skip
    alpha = ours(0.3, "cap of the strength; above 0.5 the label may lose the top rank", low=0, high=1, warn_above=0.5)
    s_base = ours(0.05, "strength that every modality gets", low=0, high=1)
    kappa = ours(0.05, "guard: no reshaping where all are easy", low=0, high=1, when="strength=matched")
    mu = ours(0.9, "momentum of the matrix for each batch", low=0, high=1)
    tau_max = ours(4.0, "highest temperature", low=1, when="tau_mode=gap")
    tau_fix = ours(2.0, "the temperature", low=0.01, high=100, when="tau_mode=fixed")
    warmup = ours(5, "first epochs, with one-hot targets", low=0, high=100_000)
    difficulty = ours("residual", "to the target, 1 - p_true, error rate, CE / ln C", choices=labels.DIFFICULTIES)
    strength = ours("matched", "equal residuals, or alpha (easiest: s_base)", choices=("matched", "fixed"))
    matrix = ours("class", "profile by class, by sample, smoothing, no diagonal", choices=labels.MATRICES)
    teacher = ours("best_other", "whose predictions reshape", choices=("best_other", "mean_other", "fused"))
    tau_mode = ours("gap", "ratio of difficulties, or tau_fix", choices=("gap", "fixed"))
    target = ours("all", "reshape all, or all but the easiest", choices=("all", "weak"))
    fused_target = ours("onehot", "fused label: one-hot, or the mean target", choices=("onehot", "mean"))
    tpo = ours("branch", "losses reach: own branch; fused only the fusion; teachers too", choices=labels.ROUTES)
    R: Tensor
    d: Tensor
    s: Tensor
    seen: Tensor

    def build(self) -> None:
        """The heads; then matrices R [S,M,C,C], difficulties d (`seen`: 1 if measured), strengths s [S,M]."""
        super().build()
        shape = (self.S, len(self.mods))
        self.register_buffer("R", torch.eye(self.C, dtype=self.dtype).repeat(*shape, 1, 1))
        for name in ("d", "s", "seen"):
            self.register_buffer(name, torch.zeros(shape, dtype=self.dtype))

    def classify(self, h: dict[str, Tensor]) -> Out:
        """As `heads`; with tpo=strict the fusion gets constant features."""
        cut = {m: x.detach() if self.tpo == "strict" else x for m, x in h.items()}
        return replace(super().classify(cut), h=h)

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Fused cross-entropy and those of the reshaped targets, [S]; carries d, R and s on to this batch."""
        if len(self.mods) == 1:
            return super().loss(out, batch)
        hot = labels.one_hot(batch.y, self.C, self.dtype)
        self.measure(out, batch, hot)
        rows = self.rows(out, batch, hot, learn=True)
        rule = (self.strength, self.target, self.alpha, self.s_base, self.kappa)
        self.s.copy_(labels.strengths(self.d, self.seen, *rule) * (self.epoch >= self.warmup))
        targets = {m: labels.reshaped(hot, rows[m], self.s[:, i]) for i, m in enumerate(self.mods)}
        for i, m in enumerate(self.mods):
            self.log(f"coef/s/{m}", self.s[:, i])
            self.log(f"coef/d/{m}", self.d[:, i])
        own = total(soft_ce(out.z[m], targets[m], batch.present(m)) for m in self.mods)
        if self.fused_target == "mean":
            return soft_ce(out.fused, total(targets.values()) / len(self.mods)) + self.beta * own
        return ce(out.fused, batch.y) + self.beta * own

    def measure(self, out: Out, batch: Batch, hot: Tensor) -> None:
        """Carry d on: the distance to targets from the stored d, R and s."""
        each, rows = [], self.rows(out, batch, hot, learn=False)
        for i, m in enumerate(self.mods):
            hard = labels.hardness(out.z[m], batch.y, labels.reshaped(hot, rows[m], self.s[:, i]), self.difficulty)
            each.append(masked_mean(hard, batch.present(m)))
        measured = torch.stack([masked_mean(hot.sum(-1), batch.present(m)) for m in self.mods], 1)  # 1 or 0
        self.d.copy_(labels.running(self.d, torch.stack(each, 1).detach(), self.seen, measured))
        self.seen.copy_(torch.maximum(self.seen, measured))

    def rows(self, out: Out, batch: Batch, hot: Tensor, learn: bool) -> dict[str, Tensor]:
        """R_m[y] of every sample, [S,B,C] each; `learn`: after this batch has gone into R."""
        parts, present = [out.fused, *(out.z[m] for m in self.mods)], [None, *map(batch.present, self.mods)]
        z = parts if self.tpo == "none" else [x.detach() for x in parts]
        tau = labels.temperatures(self.d, self.seen, self.tau_mode, self.tau_max, self.tau_fix)
        found = {}
        for i, m in enumerate(self.mods):
            weight = labels.weights(self.d, self.seen, i, self.teacher)
            profile, valid = labels.mixture(z, weight, tau[:, i], present)
            R = labels.update_rows(self.R[:, i], profile, hot, valid, self.mu) if learn else self.R[:, i]
            found[m] = labels.rows(self.matrix, hot, R, profile, valid)
            if learn:
                self.R[:, i] = R.detach()
                self.log(f"coef/tau/{m}", tau[:, i])
        return found
