"""BMLR: Balanced Multimodal Label Reshaping (Ma, Zhang, Gao, Miao, Deng, Chen, arXiv 2605.28869) - RECONSTRUCTED.

Changes: loss (the targets). Neither text nor code could be read. Known from the abstract: modalities learn at different
pace because mapping them to one label space is not equally hard, so an adaptive matrix and strength reshape each one's
labels. From digests: cross-modal distillation with a temperature, "target parameter optimisation" (TPO), two
hyper-parameters alpha and beta. Every equation, value and switch below is ours. For every training batch:

    y~_m = (1 - s_m) onehot(y) + s_m R_m[y];  d_m <- 0.9 d_m + 0.1 mean |softmax(z_m) - y~_m|_1 / 2
    k(m) = easiest other modality;  tau_m = d_m / d_k(m), from 1 to tau_max
    R_m[c] <- mu R_m[c] + (1 - mu) mean over y = c of softmax(z_k(m) / tau_m)
    s_m = s_base + (d_m - min d) / (d_m + kappa), from 0 to alpha (0 in the first `warmup` epochs)
    L = CE(z_f, y) + beta sum_m CE(z_m, y~_m) with the new R and s;  z_m: heads of their own

Choices: s, tau, d never carry a gradient; targets do with tpo=none only: the loss of m then reaches this batch's part
of R_m (or the sample's own profile) and through it the teacher's head and encoder. tpo=branch: targets are constants;
tpo=strict: also the fused loss sees the features as constants and trains the fusion alone. tau compares with the
easiest other modality whoever teaches; matrix=sample measures its residual with the stored d and s; `fixed` never
exceeds alpha. Only samples that have m count in d_m, only those that have the teacher in R_m; with matrix=sample one
without teacher keeps its one-hot label. One modality: `heads`. Compare with matrix=uniform, matrix=sample and alpha=0.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Out, knob
from mmbal_cli.methods.heads import Heads
from mmbal_cli.nn.stacked import total
from mmbal_cli.ops import labels
from mmbal_cli.ops.losses import ce, masked_mean, soft_ce


class BMLR(Heads):
    """Unimodal heads that learn labels softened by the confusions of an easier modality."""

    card = Card("bmlr", "loss", "Ma, Zhang, Gao, Miao, Deng, Chen, arXiv 2605.28869", "", "loss",
                ("equations, values and switches are ours: neither paper nor code could be read",),
                reduces_to="heads at alpha=0", reconstructed=True)  # fmt: skip
    alpha = knob(0.3, "cap of the strength; above 0.5 a target's top class may not be its label (not advised)",
                 source="ours", low=0, high=1)  # fmt: skip
    s_base = knob(0.05, "strength that every modality gets", source="ours", low=0, high=1)
    kappa = knob(0.05, "guard: no reshaping where all are easy", source="ours", low=0, high=1, when="strength=matched")
    mu = knob(0.9, "momentum of the matrix, a batch", source="ours", low=0, high=1)
    tau_max = knob(4.0, "highest temperature", source="ours", low=1, when="tau_mode=gap")
    tau_fix = knob(2.0, "temperature", source="ours", low=0.01, high=100, when="tau_mode=fixed")
    warmup = knob(5, "first epochs, with one-hot targets", source="ours", low=0)
    difficulty = knob("residual", "distance to the target, 1 - p_true, error rate, or CE / ln C", source="ours",
                      choices=("residual", "conf", "error", "loss"))  # fmt: skip
    strength = knob("matched", "equal residuals, or alpha (easiest: s_base)", source="ours",
                    choices=("matched", "fixed"))  # fmt: skip
    matrix = knob("class", "class profiles, each sample's own, smoothing, or class profiles without the diagonal",
                  source="ours", choices=("class", "sample", "uniform", "offdiag"))  # fmt: skip
    teacher = knob("best_other", "who reshapes", source="ours", choices=("best_other", "mean_other", "fused"))
    tau_mode = knob("gap", "ratio of difficulties, or tau_fix", source="ours", choices=("gap", "fixed"))
    target = knob("all", "reshape all, or all but the easiest", source="ours", choices=("all", "weak"))
    fused_target = knob(
        "onehot", "fused label: one-hot, or mean of all y~_m", source="ours", choices=("onehot", "mean")
    )
    tpo = knob("branch", "what losses may update (see above)", source="ours", choices=("branch", "strict", "none"))

    def build(self) -> None:
        """The heads; then matrices R [S,M,C,C], difficulties d (`seen`: measured), strengths s, [S,M] each."""
        super().build()
        flat = torch.zeros(self.S, len(self.mods), dtype=self.dtype)
        state = {"d": flat, "s": flat.clone(), "seen": flat.bool()}
        state["R"] = torch.eye(self.C, dtype=self.dtype).repeat(*flat.shape, 1, 1)
        for name, value in state.items():
            self.register_buffer(name, value)

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
        tau = self.temperature()
        rows = {m: self.rows(i, out, batch, hot, tau, learn=True) for i, m in enumerate(self.mods)}
        rule = (self.strength, self.target, self.alpha, self.s_base, self.kappa)
        self.s.copy_(labels.strengths(self.d, self.seen, *rule) * (self.epoch >= self.warmup))
        for i, m in enumerate(self.mods):
            for name, value in (("s", self.s), ("d", self.d), ("tau", tau)):
                self.log(f"coef/{name}/{m}", value[:, i])
        targets = {m: labels.reshaped(hot, rows[m], self.s[:, i]) for i, m in enumerate(self.mods)}
        own = total(soft_ce(out.z[m], targets[m], batch.present(m)) for m in self.mods)
        soft = self.fused_target == "mean"
        fused = soft_ce(out.fused, total(targets.values()) / len(self.mods)) if soft else ce(out.fused, batch.y)
        return fused + self.beta * own

    @torch.no_grad()
    def measure(self, out: Out, batch: Batch, hot: Tensor) -> None:
        """Carry d on: the distance to targets from the stored d, R and s."""
        tau, each = self.temperature(), []
        for i, m in enumerate(self.mods):
            target = labels.reshaped(hot, self.rows(i, out, batch, hot, tau), self.s[:, i])
            each.append(masked_mean(labels.hardness(out.z[m], batch.y, target, self.difficulty), batch.present(m)))
        measured = torch.stack([masked_mean(hot.sum(-1), batch.present(m)) > 0 for m in self.mods], 1)
        self.d.copy_(labels.running(self.d, torch.stack(each, 1), self.seen, measured))
        self.seen |= measured

    def temperature(self) -> Tensor:
        """tau [S,M]."""
        fixed = self.tau_mode == "fixed"
        return torch.full_like(self.d, self.tau_fix) if fixed else labels.gap(self.d, self.seen, self.tau_max)

    def rows(self, i: int, out: Out, batch: Batch, hot: Tensor, tau: Tensor, learn: bool = False) -> Tensor:
        """R_m[y] of every sample [S,B,C] for the i-th modality m; `learn`: with this batch in R."""
        if self.matrix == "uniform":
            return torch.full_like(hot, 1 / self.C)
        R = self.R[:, i]
        if self.matrix == "sample" or learn:
            profile, valid = self.profile(i, out, batch, tau[:, i])
            if self.matrix == "sample":
                return torch.where(valid[..., None], profile, hot)
            R = labels.update_rows(R, profile, hot, valid, self.mu)
            self.R[:, i] = R.detach()
        return torch.bmm(hot, labels.off_diagonal(R) if self.matrix == "offdiag" else R)

    def profile(self, i: int, out: Out, batch: Batch, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Softened answers of the i-th modality's teacher [S,B,C], and which samples have that teacher [S,B]."""
        others = [m for m in self.mods if m != self.mods[i]]
        z, present = [out.z[m] for m in others], [batch.present(m) for m in others]
        weight = labels.weights(self.d, self.seen, i, self.teacher)
        if self.teacher == "fused":
            z, present, weight = [out.fused], [None], torch.ones_like(tau)[:, None]
        return labels.mixture(z if self.tpo == "none" else [x.detach() for x in z], weight, tau, present)
