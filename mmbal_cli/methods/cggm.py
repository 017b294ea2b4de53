"""CGGM: Classifier-Guided Gradient Modulation (Guo, Jin, Chen, Zhao, NeurIPS 2024, arXiv 2411.01409; zrguo/CGGM).

Changes: gradient and loss. A side classifier on each detached feature tells how fast its modality improves. Encoders
are scaled by the improvement of the others, and the output layer is pulled to the classifiers of those that lag.

    D_m = accuracy of classifier m on this batch - that on the last one (0 before the first)
    c_m = (sum of the others' D) / (sum of all D);  gradient of encoder m <- rho c_m gradient
    L   = CE(z, y) + lam / M * sum_m (|c_m| - c_m cos(U_m, W_m)),  c of the last step, none in the first
    U_m last layer of classifier m, W_m output layer (with `concat` and `sum` its share of modality m)

The paper speaks of directions of gradients, the official code compares weights (default); `direction=grad` compares
the gradients of both layers on the batch. The classifiers have a hidden layer (there transformers), step on their own
before the model and are clipped on their own; no gradient of L reaches them.
Deviations: `guard` (default): D_m < 0 counts as 0, and c = (M-1)/M where nothing improves: batches differ, so D often
cancels, and the official c (`guard=off`) is then huge or negative, which only its clip of 0.8 (see the recipe) bounds.
The cosine is that of the current weights (there the graph of the last step). The run's schedule stands for its
plateau rule. A sample that lacks a modality is not in its accuracy and loss; a batch without any leaves c as if D = 0.
Any M of at least two (with one c would be 0). Adam cancels part of c.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmbal_cli.methods.base import Batch, Card, Method, Out, knob
from mmbal_cli.nn.optim import StackedOptimizer
from mmbal_cli.nn.stacked import MLP, Linear, PerModality, total
from mmbal_cli.ops.gradients import gradients, scale_gradients
from mmbal_cli.ops.guidance import accuracy, cosine, misalignment, of_each, others_share, output_layers
from mmbal_cli.ops.losses import ce


class CGGM(Method):
    """Side classifiers steer the encoders' gradients and the output layer."""

    acc: Tensor
    c: Tensor
    card = Card(
        "cggm", "gradient, loss", "Guo, Jin, Chen, Zhao, NeurIPS 2024, arXiv 2411.01409", "zrguo/CGGM",
        "gradient, loss",
        ("guard: a loss of accuracy counts as no improvement (official: guard=off)",
         "side classifiers are MLPs; the direction term compares current weights"),
        ("concat", "sum", "affine", "gated", "weight", "mmtm", "attn", "tfn"), 2, scales_gradients=True, backwards=2,
        reduces_to="concat at lam=0, magnitude=off",
    )  # fmt: skip
    rho = knob(1.3, "factor on the encoders' gradients, beside c", source="official code; BraTS 1", low=0, high=10,
               when="magnitude=on")  # fmt: skip
    lam = knob(0.1, "weight of the direction term", source="official code: 0.05 to 0.2", low=0, high=10)
    side_lr = knob(0.5, "learning rate of the side classifiers over the run's", source="official code",
                   low=0.001, high=10)  # fmt: skip
    magnitude = knob("on", "whether encoders' gradients are scaled", source="paper", choices=("on", "off"))
    towards = knob("weight", "what the direction term compares", source="official code", name="direction",
                   choices=("weight", "grad"))  # fmt: skip
    guard = knob("on", "whether c is kept from being negative or huge", source="ours", choices=("on", "off"))

    def build(self) -> None:
        """The model; a classifier of two layers for each modality, the second as wide as the output layer."""
        super().build()
        width = of_each(output_layers(self.fusion), len(self.mods), self.D)[0].shape[1]
        self.side = PerModality({
            m: nn.Sequential(MLP(self.rng, f"side/{m}", self.D, width, 1, 0.0, self.dtype),
                             Linear(self.rng, f"side/{m}/head", width, self.C, self.dtype)) for m in self.mods
        })  # fmt: skip
        for name in ("acc", "c"):
            self.register_buffer(name, torch.zeros(self.S, len(self.mods), dtype=self.dtype))

    def optimizer(self) -> StackedOptimizer:
        """One optimizer; the side classifiers at a rate of their own."""
        opt = super().optimizer()
        opt.rates.update({p: p.new_full((self.S,), self.side_lr) for p in self.side.parameters()})
        return opt

    def side_loss(self, out: Out, batch: Batch) -> Tensor:
        """Sum of the side classifiers' cross-entropies, [S]."""
        return total(ce(out.extra[m], batch.y, batch.present(m)) for m in self.mods)

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Cross-entropy and direction term, [S]; keeps the side classifiers' logits."""
        out.extra |= {m: self.side[m](out.h[m].detach()) for m in self.mods}
        joint = ce(out.fused, batch.y)
        W = output_layers(self.fusion)
        U: list[Tensor] = [self.side[m].get_parameter("1.weight") for m in self.mods]
        if self.towards == "grad":
            W, U = gradients(joint, W, create_graph=True), gradients(self.side_loss(out, batch), U)
        held = [u.detach().clone() for u in U]  # they step before the backward pass
        each = of_each(W, len(self.mods), self.D)
        cosines = torch.stack([cosine(u, w) for u, w in zip(held, each, strict=True)], 1)
        return joint + self.lam * misalignment(self.c, cosines)

    def update(self, each: Tensor, out: Out, batch: Batch) -> None:
        """The side classifiers' step, then the model's."""
        self.opt.zero_grad()
        own = self.side_loss(out, batch)
        own.backward(torch.ones_like(own))
        self.opt.step(self.holding(batch))
        super().update(each, out, batch)

    def modulate(self, out: Out, batch: Batch) -> None:
        """Measure how much each modality improved; scale the encoders by what the others did."""
        found = [accuracy(out.extra[m], batch.y, batch.present(m), self.acc[:, i]) for i, m in enumerate(self.mods)]
        acc = torch.stack(found, 1)
        self.c.copy_(others_share(acc - self.acc, self.guard == "on"))
        self.acc.copy_(acc)
        for i, m in enumerate(self.mods):
            self.log(f"coef/c/{m}", self.c[:, i])
            if self.magnitude == "on":
                scale_gradients(self.enc[m].parameters(), self.rho * self.c[:, i])
