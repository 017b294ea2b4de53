"""DOMFN: Divergence-Oriented Multi-Modal Fusion Network (Yang, Zhang, Gao, Gao, Zhu, ACM MM 2022,
doi 10.1145/3503161.3548203; njustkmg/DOMFN and njustkmg/MM22_DOMFN, which differ).

Changes: loss, stages and inference. A sample is fused only if its modalities agree; otherwise they learn and answer by
themselves. Phase `pre` trains sum_m l_m alone; in `train` adapters learn `ft_lr` times as fast.

    p_m = sigmoid(h_m W_m + b_m), p_f = sigmoid(MLP(fuse(h)));   l = CE with p as logits, d_m = max_c (p_m - p_ref)_c^2
    r = all m: d_m / tau < gamma;   answer: p_f if r, else p_m of the modality with the largest max_c p_m
    L = mean_i  r [sum_m (l_m^2 / 2 - eta d_m + l_m) + l_f] + (1 - r) sum_m l_m    (the sign of eta is the released one)

Scores between 0 and 1 make gradients small: the released optimizer is Adam (train.optimizer=adamw, train.lr=1e-3).
Deviations: routing is by sample in batches (released: batch 1); one optimizer; validation picks the epoch (the released
code saves none). p_ref is p_f as for resumes (`avg`: the mean of p_m, as for MOSI; then d <= 1/4 for two modalities),
rejected samples as for MOSI. `amended` takes l_m^2 / 2 - eta d_m there, with p_ref held constant. Ties go to
the first modality. `out=linear` (ours): p = softmax of plain logits, ordinary CE. NLL and calibration of sigmoid scores
do not compare with other methods'. Any number of modalities. A missing one has no l and no d, enters no mean, never
answers; samples without any are fused. Pre-training keeps the best epoch of each modality.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out, Peek, Phase, knob
from mmbal_cli.nn.stacked import Linear, PerModality, sigmoid, total
from mmbal_cli.ops.losses import cross_entropies, masked_mean
from mmbal_cli.ops.mixing import mean_of_present
from mmbal_cli.ops.routing import agreement, divergence, most_certain, pooled

HIDDEN = 64  # of the fusion head


class DOMFN(Method):
    """Fusion for samples on which the modalities agree."""

    card = Card(
        "domfn", "loss, inference", "Yang et al., ACM MM 2022, doi 10.1145/3503161.3548203", "njustkmg/DOMFN",
        "loss, stages, inference",
        ("samples are routed in batches, by one optimizer", "reference and rejected loss come from different releases"),
        fusions=(), stages="unimodal training before, 15% of the epochs (knob pre)", exercise={"gamma": 0.1},
    )  # fmt: skip
    gamma = knob(0.8, "bound on the scaled divergence", source="official code", low=0, high=1000)
    tau = knob(0.2, "scale of the divergence", source="official code: 0.2 resumes, 0.5 MOSI", low=0.001, high=100)
    eta = knob(0.5, "weight of the divergence in the loss", source="official code", low=0, high=10)
    reference = knob("fused", "what modalities diverge from", source="official code", choices=("fused", "avg"))
    fuse = knob("concat", "input of the fusion head", source="official code", choices=("concat", "mean", "max"))
    reject_loss = knob("plain", "loss of rejected samples", source="official code", choices=("plain", "amended"))
    out = knob("sigmoid", "scores of the heads", source="official code; linear: ours", choices=("sigmoid", "linear"))
    pre = knob(0.15, "epochs of pre-training over those of training", source="official code", low=0, high=1)
    ft_lr = knob(0.1, "factor on the adapters' learning rate after pre-training", source="official code: 0.01 to 0.05",
                 low=0, high=1)  # fmt: skip

    def build(self) -> None:
        """Adapters, a linear head for each modality, and the fusion head."""
        super().build()
        self.heads = PerModality({m: Linear(self.rng, f"heads/{m}", self.D, self.C, self.dtype) for m in self.mods})
        inputs = self.D * (len(self.mods) if self.fuse == "concat" else 1)
        self.hidden = Linear(self.rng, "fusion/hidden", inputs, HIDDEN, self.dtype)
        self.top = Linear(self.rng, "fusion/top", HIDDEN, self.C, self.dtype)

    def phases(self) -> list[Phase]:
        """Pre-training of the modalities (not with pre=0), then routed training."""
        E = self.config.epochs
        return [Phase("pre", max(1, round(self.pre * E)))] * (self.pre > 0) + [Phase("train", E)]

    def selects(self, parameter: str) -> str:
        """In pre-training each modality keeps its own best epoch."""
        return self.owner(parameter) if self.phase == "pre" else "fused"

    def begin_epoch(self, peek: Peek) -> None:
        """Adapters learn more slowly once they are pre-trained."""
        if self.phase == "train" and self.pre > 0:
            rate = torch.full((self.S,), self.ft_lr, dtype=self.dtype, device=self.alive.device)
            self.opt.rates.update(dict.fromkeys(self.enc.parameters(), rate))

    def forward(self, batch: Batch) -> Out:
        """`fused` are the scores that answer, `extra` those of the fusion head and who is fused."""
        h, present = self.encode(batch), [batch.present(m) for m in self.mods]
        x = pooled([h[m] for m in self.mods], present, self.fuse)
        joint = self.score(self.top(torch.relu(self.hidden(x))))
        z = {m: self.score(self.heads[m](h[m])) for m in self.mods}
        accepted = agreement([d / self.tau for d in self.divergences(z, joint, present)], self.gamma, present)
        alone = most_certain(list(z.values()), [self.probability(u) for u in z.values()], present)
        fused = torch.where(accepted[..., None], joint, alone)
        return Out(h, fused, lambda _: z, {"joint": joint, "accepted": accepted})

    def score(self, u: Tensor) -> Tensor:
        """What cross-entropy takes for logits."""
        return sigmoid(u) if self.out == "sigmoid" else u

    def probability(self, z: Tensor) -> Tensor:
        """p of scores z."""
        return z if self.out == "sigmoid" else z.softmax(-1)

    def divergences(
        self, z: dict[str, Tensor], joint: Tensor, present: list[Tensor | None], fixed: bool = False
    ) -> list[Tensor]:
        """d_m [S,B] of each modality; `fixed` stops the gradient of the reference."""
        p = [self.probability(z[m]) for m in self.mods]
        against = self.probability(joint) if self.reference == "fused" else mean_of_present(p, present)
        return [divergence(each, against.detach() if fixed else against) for each in p]

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Unimodal losses in pre-training; then, sample by sample, the amended or the plain ones, [S]."""
        if self.phase == "pre":
            return self.unimodal_loss(out, batch)
        present, joint, accepted = [batch.present(m) for m in self.mods], out.extra["joint"], out.extra["accepted"]
        self.log("coef/accepted", accepted.to(self.dtype).mean(1))
        parts = [torch.where(accepted, cross_entropies(joint, batch.y), 0.0).mean(1)]
        amended = self.reject_loss == "amended"
        d, fixed = (self.divergences(out.z, joint, present, stop) for stop in (False, True))
        for m, mask, moving, still in zip(self.mods, present, d, fixed, strict=True):
            own = cross_entropies(out.z[m], batch.y)
            rejected = 0.5 * own.square() - self.eta * still if amended else own
            each = torch.where(accepted, 0.5 * own.square() - self.eta * moving + own, rejected)
            parts.append(masked_mean(each, mask))
        return total(parts)
