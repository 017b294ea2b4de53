"""OPM: On-the-fly Prediction Modulation (Wei, Hu, Du, Wen, IEEE T-PAMI 2024, arXiv 2410.11582).

Changes: features, schedule. Official code: GeWu-Lab/BML_TPAMI2024. The forward sibling of OGM: features of a modality
that is ahead are dropped at random, the more often the larger its lead, so that the others must explain these samples.

    s_m = sum_i softmax(z_m[i])[y_i] of whole features;  rho_m = mean over j != m of s_m / s_j
    q_m = q_base (1 + lam tanh(rho_m - 1)) where rho_m > 1, else 0
    with probability p_exe a step, after the first `warmup` of the epochs:
    h_m[i] <- keep_m[i] h_m[i] / (1 - mean_m q_m),  keep_m[i] = 1 with probability 1 - q_m
    L = mean CE of the fused logits over the samples that still have a modality; nothing is dropped in evaluation

One divisor for all modalities is the official code's (`rescale=joint`): it keeps the mean size of all features
together, so a modality that nobody drops grows by it. `per_modality` divides by 1 - q_m, `none` by nothing.

Deviations from the official code: none in the formulas (a stray bracket in its drop function is read as meant); warm-up
is a share of the epochs. Any M: a sample that lost all its modalities, which takes a missing one or M > 2, leaves the
loss. Only samples with every modality are compared. q_base (1 + lam) > 1 is refused. Features are zeroed where they
enter the fusion; a linear head keeps its whole bias.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from mmbal_cli.errors import UsageError
from mmbal_cli.methods.base import Batch, Card, Method, Out, Shape, knob
from mmbal_cli.ops.discrepancy import discrepancy
from mmbal_cli.ops.dropping import divisor, drop_probability, survivors
from mmbal_cli.ops.losses import both, ce, having, masked_mean, true_class_probability


class OPM(Method):
    """The fused loss on features of which the leading modality's are dropped at random."""

    card = Card(
        "opm", "fusion, schedule", "Wei et al., T-PAMI 2024, arXiv 2410.11582", "GeWu-Lab/BML_TPAMI2024",
        "features, schedule",
        ("warm-up is a share of the epochs", "only samples with every modality are compared"),
        min_modalities=2, reduces_to="concat at p_exe=0", exercise={"warmup": 0},
    )  # fmt: skip
    q_base = knob(0.5, "drop probability of a modality just ahead", source="official script", low=0)
    lam = knob(0.5, "how much it grows with the lead", source="official script", low=0)
    p_exe = knob(0.7, "share of the steps that drop", source="official script", low=0, high=1)
    warmup = knob(0.06, "share of the epochs before any drop", source="official code: 6 of 100", low=0, high=1)
    rescale = knob("joint", "what makes up for dropped features", source="official code",
                   choices=("joint", "per_modality", "none"))  # fmt: skip

    @classmethod
    def check(cls, shape: Shape, fusion: str, knobs: dict[str, Any]) -> None:
        """Refuse probabilities above one, too."""
        super().check(shape, fusion, knobs)
        most = knobs["q_base"] * (1 + knobs["lam"])
        if most > 1:
            raise UsageError(f"{cls.card.name} drops features with a probability of up to {most:g}.",
                             "Expected q_base * (1 + lam) of at most 1.")  # fmt: skip

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Cross-entropy of what is left, [S]."""
        if self.epoch < self.warmup * self.phase_epochs:
            return super().loss(out, batch)
        h, alive = self.dropped(out, batch)
        return ce(self.fusion.logits(h), batch.y, alive)

    @torch.no_grad()
    def probabilities(self, out: Out, batch: Batch) -> Tensor:
        """q [S,M] of this batch."""
        complete = reduce(both, (batch.present(m) for m in self.mods))
        scores = [masked_mean(true_class_probability(out.z[m], batch.y), complete) for m in self.mods]
        return drop_probability(discrepancy(torch.stack(scores, 1)), self.q_base, self.lam)

    def dropped(self, out: Out, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Features to train on, and which samples [S,B] count."""
        q = self.probabilities(out, batch)
        q = q * self.rng.bernoulli("opm/step", q[:, :1], self.p_exe)
        draws = [self.rng.uniform(f"opm/{m}", batch.y.shape[1:], 0, 1, torch.float64) for m in self.mods]
        keep = torch.stack(draws, 1).to(q.device) >= q[..., None]  # [S,M,B]
        present = having([batch.present(m) for m in self.mods], batch.y, 1)
        factor = keep.to(q.dtype) / divisor(q, self.rescale)[..., None]
        for i, m in enumerate(self.mods):
            self.log(f"coef/q/{m}", q[:, i])
        return {m: out.h[m] * factor[:, i, :, None] for i, m in enumerate(self.mods)}, survivors(keep, present)
