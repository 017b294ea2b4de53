"""TMC and ETMC: (Enhanced) Trusted Multi-view Classification (Han, Zhang, Fu, Zhou, ICLR 2021, arXiv 2102.02051, and
IEEE T-PAMI 2022, arXiv 2204.11423; hanmenghan/TMC).

Changes: fusion and loss. Each modality states evidence for every class, its opinion; opinions are merged by Dempster's
reduced rule, in which an uncertain one stays silent. ETMC adds a pseudo view, a head on the concatenated features.

    e_v = softplus(h_v W_v + b_v)  for the modalities (and the pseudo view);   1 + e/C = prod_v (1 + e_v/C)
    l(e) = mean psi(S) - psi(alpha_y) + lambda KL(Dir(alpha~) || Dir(1)),   alpha = e + 1, S = sum alpha,
           alpha~ = alpha with 1 at the label;   lambda = min(1, epoch / T), T = max(1, anneal * epochs), epoch from 0
    L = sum_v l(e_v) + l(e);   probabilities alpha / S, logits log alpha

The product is the official pairwise rule with its conflict cancelled, equal in any order. Deviations: the released code
picks epochs on the test split, with lambda = 1 there; here validation picks. T is a share of the run (there 10 or 50
epochs); no gradient accumulation. Evidence beyond C e^60 is cut. With one view (TMC, one modality) the fused opinion is
that view, and its loss is not counted twice. A sample that lacks a modality has evidence 0 there, the neutral element,
and no loss of it; the pseudo view sees zeros. Any number of modalities. `coef/u/m` records the mean uncertainty C / S.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out, knob
from mmbal_cli.nn.fusion import make_fusion
from mmbal_cli.nn.stacked import Linear, PerModality, total
from mmbal_cli.ops import evidence as ev
from mmbal_cli.ops.losses import masked_mean

MERGED, PSEUDO = "merged.", "pseudo."  # a dot, which no modality's name has


class TMC(Method):
    """One opinion for each modality."""

    card = Card(
        "tmc", "fusion, loss", "Han et al., ICLR 2021, arXiv 2102.02051", "hanmenghan/TMC", "fusion, loss",
        ("annealing is a share of the run", "one view: its loss is not counted twice"), fusions=(),
    )  # fmt: skip
    anneal = knob(0.2, "share of the run until wrong evidence counts fully", source="ours; official 10 or 50 epochs",
                  low=0, high=1)  # fmt: skip

    def build(self) -> None:
        """Adapters, and one linear head for each view."""
        super().build()
        self.heads = PerModality({m: Linear(self.rng, f"heads/{m}", self.D, self.C, self.dtype) for m in self.mods})

    def views(self, h: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits of the evidence of each view."""
        return {m: self.heads[m](h[m]) for m in self.mods}

    def forward(self, batch: Batch) -> Out:
        """The combined opinion as logits; `extra` holds the evidence of each opinion."""
        h = self.encode(batch)
        own = {m: batch.present(m) for m in self.mods}
        e = {v: ev.evidence(z, own.get(v)) for v, z in self.views(h).items()}
        if len(e) > 1:
            e[MERGED] = ev.combine(e.values())
        z = {v: ev.logits(each).to(self.dtype) for v, each in e.items()}
        return Out(h, z.get(MERGED, z[self.mods[0]]), lambda _: z, e)

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Evidential losses of all opinions, [S]."""
        weight = min(1.0, self.epoch / max(1.0, self.anneal * self.phase_epochs))
        own = {m: batch.present(m) for m in self.mods}
        for m in self.mods:
            self.log(f"coef/u/{m}", masked_mean(ev.uncertainty(out.extra[m]), own[m]))
        return total(ev.evidential_loss(e, batch.y, weight, own.get(v)) for v, e in out.extra.items()).to(self.dtype)


class ETMC(TMC):
    """TMC with an opinion on all features together."""

    card = replace(TMC.card, name="etmc", paper="Han et al., T-PAMI 2022, arXiv 2204.11423")

    def build(self) -> None:
        """The head of the pseudo view as well."""
        super().build()
        self.pseudo = make_fusion("concat", self.rng, self.mods, self.D, self.C, self.dtype)

    def views(self, h: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those of TMC, then the pseudo view."""
        return super().views(h) | {PSEUDO: self.pseudo.logits(h)}
