"""PMR: Prototypical Modal Rebalance (Fan et al., CVPR 2023, arXiv 2211.07089; fanyunfeng-bit/Modal-Imbalance-PMR).

Changes: loss. A nearest-prototype classifier on each modality's own features tells how good the modality is, whatever
the fusion. The slower ones are pulled to their class prototypes; in the first epochs the best one is held back by a
bonus for the entropy of its prototype classifier.

    c_m[k] = mean of h_m over the training samples of class k, at the start of every epoch, without gradient;
             c <- eps c + (1 - eps) c_new from the second time on
    P_m[i] = softmax_k(-|h_m[i] - c_m[k]| / temperature);  s_m = mean P_m[i][y_i];  PCE_m = mean -log P_m[i][y_i]
    beta_m = clip(max_j s_j / s_m - 1, 0, 1)                     `hard`: 1 for all but the best
    L = CE(z, y) + alpha sum_m beta_m PCE_m                      in epochs start <= e <= end
      - mu * mean of beta_j over j != best * H_best              in those among the first `entropy_epochs` (a share)

At M = 2 this is the paper's pair of coefficients; for more modalities it is ours.

Deviations from the official code: it gives the slower modality the whole PCE whatever the gap (`coef=hard`), has no
entropy term (mu=0) and makes prototypes at the end of an epoch, for AVE and CG-MNIST from validation or test samples;
here they are of the training split, at the start, as in the paper. A class without a sample keeps its prototype, and
is left out of the softmax as long as it has none. The gradient of a distance of zero is zero (there: NaN). A sample
that lacks a modality is in none of its prototypes, scores and losses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out, Peek, knob
from mmbal_cli.nn.stacked import total
from mmbal_cli.ops import prototypes as proto
from mmbal_cli.ops.losses import ce, having


class PMR(Method):
    """Prototype losses for those behind, an entropy bonus for the one ahead."""

    card = Card(
        "pmr", "loss", "Fan et al., CVPR 2023, arXiv 2211.07089", "fanyunfeng-bit/Modal-Imbalance-PMR", "loss",
        ("the paper's soft coefficient and entropy term", "prototypes of the whole training split", "M > 2 is ours"),
        min_modalities=2, reduces_to="concat at alpha=0, mu=0", exercise={"entropy_epochs": 0.4, "momentum": 0.2},
    )  # fmt: skip
    alpha = knob(1.0, "weight of the prototype losses", source="paper: 1 or 2", low=0, high=100)
    mu = knob(0.01, "weight of the entropy bonus", source="paper: 1e-2 or 1e-3", low=0, high=10)
    eps = knob(0.0, "momentum of the prototypes", source="commands of the official code", name="momentum",
               low=0, high=0.99)  # fmt: skip
    entropy_epochs = knob(0.1, "share of the epochs with the entropy bonus", source="ours; paper: the first few",
                          low=0, high=1)  # fmt: skip
    start = knob(0, "first epoch with the added terms (0-based)", source="paper: whole run", low=0)
    end = knob(1.0, "last such epoch as a share of all", source="paper: whole run; code: 70 of 130", low=0)
    fraction = knob(1.0, "share of the training samples that make prototypes", source="ours; paper 0.1", low=0.001)
    temperature = knob(1.0, "divisor of the distances", source="paper", low=0.01, high=100)
    coef = knob("soft", "coefficient of the prototype losses", source="paper", choices=("soft", "hard"))
    P: Tensor  # [S,M,C,D]
    known: Tensor  # [S,M,C] 1 = has a prototype

    def build(self) -> None:
        """Adapters, fusion and prototypes."""
        super().build()
        M = len(self.mods)
        self.register_buffer("P", torch.zeros(self.S, M, self.C, self.D, dtype=self.dtype))
        self.register_buffer("known", torch.zeros(self.S, M, self.C, dtype=self.dtype))

    def features(self, h: dict[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """h [S,M,B,D] and which samples have each modality [S,M,B]."""
        present = having([batch.present(m) for m in self.mods], batch.y, 1)
        return torch.stack([h[m] for m in self.mods], 1), present

    @torch.no_grad()
    def begin_epoch(self, peek: Peek) -> None:
        """Class means of the training samples."""
        some = round(self.fraction * self.shape.samples)
        batches = peek.batches("train") if self.fraction >= 1 else [peek.sample("train", max(some, 1))]
        sums, count = torch.zeros_like(self.P), torch.zeros_like(self.known)
        for batch in batches:
            h, present = self.features(self.encode(batch), batch)
            more = proto.class_sums(h, batch.y, present, self.C)
            sums, count = sums + more[0], count + more[1]
        P, known = proto.carried(self.P, self.known, sums, count, self.eps)
        self.P.copy_(P)
        self.known.copy_(known)

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Cross-entropy, prototype losses of those behind, entropy bonus of the best; [S]."""
        joint = ce(out.fused, batch.y)
        if not self.start <= self.epoch <= self.end * self.phase_epochs:
            return joint
        h, present = self.features(out.h, batch)
        found = proto.nearest(h, self.P, self.known > 0, batch.y, present, self.temperature)
        losses, score, H, some = found  # [S,M] each
        beta = proto.lag(score, some, self.coef == "hard")
        for i, m in enumerate(self.mods):
            self.log(f"coef/beta/{m}", beta[:, i])
            self.log(f"coef/prototype/{m}", score[:, i])
        each = joint + self.alpha * total((beta * losses).unbind(1))
        if self.epoch >= self.entropy_epochs * self.phase_epochs:
            return each
        best = torch.where(some, score, -1.0).argmax(1)
        behind = total(beta.unbind(1)) / (len(self.mods) - 1)  # that of the best is 0
        return each - self.mu * behind * proto.pick(H, best)[:, 0]
