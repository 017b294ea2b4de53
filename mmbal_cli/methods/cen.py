"""CEN: Channel Exchanging Networks (Wang et al., NeurIPS 2020, arXiv 2011.05005; T-PAMI 2023, arXiv 2112.02252).

Changes: fusion, loss. Official code: yikaiw/CEN. Modalities run through the same layers, each with its own batch norm;
a channel whose scale a modality has let go is filled with what the others have there.

    per layer (nn.exchange): u_m = BN_m(h_m A); channels with |gamma_m| < theta come from the others; relu
    o_m = h_m W + b, one head for all;  z = sum_m softmax(a)_m * stopgrad(o_m), a = 1 at first
    L = sum_m CE(o_m, y) + CE(z, y) + lambda * sum over layers and m of |gamma_m| on the m-th of M parts of the channels

Prediction: z. The per-modality logits o_m contain exchanged channels. Weight decay leaves gamma and a alone.

Deviations from the official code: gamma starts at 1 and the batch norm trains (there both come from ImageNet, and its
lambda 2e-4 would need 10^4 steps and more to reach theta from 1); the penalty counts once, not once for each output.
Watch `coef/exchanged/m`, the share of channels that m takes: at 0 the result is late fusion. M > 2 (ours): M parts,
in alphabetical order, and the mean of the others. A sample's absent modalities enter no statistic, exchange or loss,
and z weighs those it has. One modality: no exchange and no penalty.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmbal_cli.methods.base import Batch, Card, Method, Out, knob
from mmbal_cli.nn.exchange import ExchangeStack, Masks
from mmbal_cli.nn.optim import StackedOptimizer
from mmbal_cli.nn.stacked import Linear, total
from mmbal_cli.ops.losses import ce, having, softmax_among


class CEN(Method):
    """Exchange where batch-norm scales have become small."""

    card = Card(
        "cen", "fusion", "Wang et al., NeurIPS 2020, arXiv 2011.05005", "yikaiw/CEN", "fusion, loss",
        ("gamma starts at 1, batch norm trains", "the penalty counts once", "M > 2 and missing modalities are ours"),
        fusions=(), exercise={"theta": 0.9, "lambda": 0.2},
    )  # fmt: skip
    theta = knob(0.02, "channels with a smaller scale are exchanged", source="official code", low=0, high=10)
    penalty = knob(
        0.01, "weight of the scales' L1 norm", source="ours; official code 2e-4", name="lambda", low=0, high=10
    )
    layers = knob(2, "shared layers", source="ours", low=1, high=8)

    def build(self) -> None:
        """Adapters, the shared stack and head, and the weights of the ensemble."""
        super().build()
        self.stack = ExchangeStack(self.rng, self.mods, self.D, self.layers, self.dtype)
        self.head = Linear(self.rng, "cen/head", self.D, self.C, self.dtype)
        self.a = nn.Parameter(torch.ones(self.S, len(self.mods), dtype=self.dtype))

    def optimizer(self) -> StackedOptimizer:
        """Scales and ensemble weights do not decay."""
        free = [*(g for layer in self.stack.gammas() for g in layer.values()), self.a]
        return StackedOptimizer(self.parameters(), self.config, undecayed=free)  # type: ignore[arg-type]

    def forward(self, batch: Batch) -> Out:
        """Per-modality logits of the exchanged features, and their learned mixture."""
        present = {m: batch.present(m) for m in self.mods}
        h = self.encode(batch)
        return self.mixed(h, {m: self.head(x) for m, x in self.stack(h, self.theta, present).items()}, present)

    def mixed(self, h: dict[str, Tensor], o: dict[str, Tensor], present: Masks) -> Out:
        """z: the logits o, without gradient, mixed over the modalities that a sample has."""
        has = having(present.values(), o[self.mods[0]][..., 0])  # [S,B,M]
        w = softmax_among(self.a[:, None].expand_as(has), has)
        return Out(h, total(w[..., i : i + 1] * o[m].detach() for i, m in enumerate(self.mods)), lambda _: o)

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Every output learns, the mixture too, and scales shrink."""
        for m, share in self.stack.exchanged(self.theta).items():
            self.log(f"coef/exchanged/{m}", share)
        return self.unimodal_loss(out, batch) + ce(out.fused, batch.y) + self.penalty * self.stack.sparsity()
