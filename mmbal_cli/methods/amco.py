"""AMCo: Adaptive Mask Co-optimization (Zhou, Liang, Zheng, Xuan, Kumada, ICASSP 2023, ieeexplore 10096641).

RECONSTRUCTED: neither the paper nor an official code could be read. Known from one line about the paper (it masks
features of the dominant modality) and from GeWu-Lab/BalanceBenchmark. Changes: fusion and loss. While the model depends
on one modality, a growing random part of it is hidden, so that the others must explain the label; each also learns it
by itself.

    share_m = mass of modality m in softmax([z_1 | .. | z_M]), mean over the batch;  dependent: share_m > 1/M + margin
    L = CE(A sum_m z_m + a, y) + sum_m CE(z_m, y)     A [C,C] learned; dependent modalities masked; prediction unmasked

    form = feature (default, ours)  z_m = head_m(mask * h_m): int(p D) random zeros for the whole batch,
           p = pmax sin(pi/2 min(1, epoch / (ramp * epochs))); dependence by this batch's logits without a mask
    form = bb (BalanceBenchmark)    z_m <- mask * z_m: int(p C) zeros, p = sin(pi/2 min(eps, l) / eps); l grows by
           epoch / 10 a step from 0 in each epoch; dependence by the masked logits of the step before; until `end`

Deviations from BalanceBenchmark: one entry is never masked (there all logits are, soon after the second epoch begins);
its bound of 1/2 is 1/M + margin, the same for two modalities; losses add up in one backward pass; `end` is a share of
the epochs (there: 80). Heads are additive. Samples that lack a modality have no loss of it and no part in the shares.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out, Peek, knob
from mmbal_cli.nn.stacked import Linear, total
from mmbal_cli.ops.dependence import hide, shares, sine_ramp, without


class AMCo(Method):
    """Masks what the model depends on."""

    dependent: Tensor
    card = Card(
        "amco", "fusion, loss", "Zhou et al., ICASSP 2023, ieeexplore 10096641", "", "fusion, loss",
        ("masks features, as the paper is said to do (form=bb: logits, as BalanceBenchmark does)",
         "M > 2 by 1/M + margin is ours"),
        fusions=("concat", "sum"), variants=False, min_modalities=2, reconstructed=True, exercise={"end": 0.3},
    )  # fmt: skip
    form = knob("feature", "what is masked, and when", source="feature: ours", choices=("feature", "bb"))
    margin = knob(0.0, "share above 1/M from which the model depends on a modality", source="BalanceBenchmark: 1/2",
                  low=0, high=0.5)  # fmt: skip
    pmax = knob(0.5, "largest masked part", source="ours", low=0, high=1, when="form=feature")
    ramp = knob(0.3, "share of the epochs until then", source="ours", low=0.01, high=1, when="form=feature")
    eps = knob(0.3, "where the masked part is largest", source="BalanceBenchmark", low=0.01, high=10, when="form=bb")
    end = knob(0.8, "last masked epoch as a share of all", source="BalanceBenchmark: 80 epochs", low=0, high=1,
               when="form=bb")  # fmt: skip

    def build(self) -> None:
        """The head on the sum of the logits; what an epoch carries from step to step."""
        super().build()
        self.star = Linear(self.rng, "star", self.C, self.C, self.dtype)
        self.register_buffer("dependent", self.alive.new_zeros(self.S, len(self.mods)), persistent=False)
        self.level = 0.0

    def begin_epoch(self, peek: Peek) -> None:
        """Nothing is masked at first."""
        self.level, self.dependent = 0.0, torch.zeros_like(self.dependent)

    def classify(self, h: dict[str, Tensor]) -> Out:
        """Shares of an additive head, and the new head on their sum."""
        return self.joined(h, self.fusion.unimodal(h))

    def joined(self, h: dict[str, Tensor], z: dict[str, Tensor]) -> Out:
        """The new head on the sum of z."""
        return Out(h, self.star(total(z[m] for m in self.mods)), lambda _: z)

    def mask(self, n: int, share: float) -> Tensor:
        """Which of n entries stay, [S,n] bool: new ones at every step."""
        return without(self.rng.permutation("mask", n).to(self.alive.device), share)

    def found(self, out: Out, batch: Batch) -> Tensor:
        """On which modalities the model depends, [S,M] bool."""
        mass = shares([out.z[m].detach() for m in self.mods], [batch.present(m) for m in self.mods])
        for j, m in enumerate(self.mods):
            self.log(f"coef/share/{m}", mass[:, j])
        return mass > 1 / len(self.mods) + self.margin

    def hidden(self, out: Out, batch: Batch) -> Out:
        """The same batch with its dependent modalities masked."""
        if self.form == "feature":
            progress = self.epoch / (self.ramp * self.phase_epochs)
            mask, where = self.mask(self.D, self.pmax * sine_ramp(progress)), self.found(out, batch)
            return self.classify({m: hide(out.h[m], mask, where[:, j]) for j, m in enumerate(self.mods)})
        if self.epoch > self.end * self.phase_epochs:
            return out
        mask = self.mask(self.C, sine_ramp(self.level / self.eps))
        z = {m: hide(out.z[m], mask, self.dependent[:, j]) for j, m in enumerate(self.mods)}
        self.level += self.epoch / 10
        masked = self.joined(out.h, z)
        self.dependent = self.found(masked, batch)
        return masked

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Joint plus unimodal cross-entropies with the mask, [S]."""
        masked = self.hidden(out, batch)
        return super().loss(masked, batch) + self.unimodal_loss(masked, batch)
