"""CML: Calibrating Multimodal Learning (Ma et al., ICML 2023, arXiv 2306.01265; QingyangZhang/CML).

Changes: loss. Confidence must not grow when a modality is removed. In each step a chain of sets A_0 > ... > A_{M-1} is
drawn, from all modalities down to one, and each set answers with the other features at zero:

    L = 1/M sum_k CE(z(A_k), y) + lam sum_k mean_i s_i max(0, conf_i(A_{k+1}) - conf_i(A_k) - margin)
    conf = largest softmax probability;  s_i = 0 where only the smaller set is right (`spare`), else 1

Deviations from the official code (CPM-Nets and MIWAE on partial views, no encoders): removed features are zeros after
the adapter instead of imputed inputs; the hinge is a mean over the batch, not a sum, so lam does not depend on its
size. BalanceBenchmark takes the hinge of the batch's sum, by which one sample pays for another, and draws the order
once an epoch: not followed. Sets in which a sample has no modality left do not count for it. Any M.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out, knob
from mmbal_cli.nn.stacked import total
from mmbal_cli.ops.losses import both, ce, masked_mean


class CML(Method):
    """Cross-entropies of a chain of shrinking sets, and a penalty where confidence grows along it."""

    card = Card(
        "cml", "loss", "Ma et al., ICML 2023, arXiv 2306.01265", "QingyangZhang/CML", "loss",
        ("removed modalities are zero features", "the hinge is a mean over the batch"), min_modalities=2,
    )  # fmt: skip
    lam = knob(0.1, "weight of the penalty", source="BalanceBenchmark; official 0.1 with beta=10", low=0, high=1000)
    margin = knob(0.0, "growth that costs nothing", source="official code", low=0, high=1)
    spare = knob(True, "no penalty where only the smaller set is right", source="official code")

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """That of the chain of this step, [S]."""
        links = [self.answer(out, batch, kept) for kept in self.chain(out.fused)]
        fit = total(ce(z, batch.y, here) for z, here in links)
        growth = [self.growth(large, small, batch.y) for large, small in pairwise(links)]
        penalty = total(growth)
        self.log("coef/growth", penalty)
        return fit / len(links) + self.lam * penalty

    def chain(self, like: Tensor) -> list[Tensor]:
        """Which modalities [S,M] each of the M sets has, in a random order of their own for each seed."""
        drawn = [self.rng.normal(f"cml/{m}", like[:, :1, 0]) for m in self.mods]  # [S,1] each
        rank = torch.cat(drawn, 1).argsort(1).argsort(1)
        return [rank >= k for k in range(len(self.mods))]

    def answer(self, out: Out, batch: Batch, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [S,B,C] of a set, and which samples have a modality of it [S,B]."""
        h = {m: out.h[m] * kept[:, i, None, None].to(self.dtype) for i, m in enumerate(self.mods)}
        here = torch.zeros_like(batch.y, dtype=torch.bool)
        for i, m in enumerate(self.mods):
            present = batch.present(m)
            here = here | (kept[:, i, None] if present is None else kept[:, i, None] & present)
        return self.fusion.logits(h), here

    def growth(self, large: tuple[Tensor, Tensor], small: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
        """By how much confidence grows from the larger to the smaller set, beyond the margin, [S]."""
        top = [z.softmax(-1).max(-1) for z, _ in (large, small)]
        each = (top[1].values - top[0].values - self.margin).relu()  # [S,B]
        if self.spare:
            each = torch.where((top[1].indices == y) & (top[0].indices != y), 0.0, each)
        return masked_mean(each, both(large[1], small[1]))
