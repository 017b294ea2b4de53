"""MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance (Wei, Hu, ICML 2024, arXiv 2405.17730).

Changes: loss and gradient. Official code: GeWu-Lab/MMPareto_ICML2024. Every modality has a linear head and a loss of
its own (as in `heads`). On the encoder of modality m the gradients of the joint and of the unimodal loss may oppose
each other; then their shortest convex combination serves both, and its lost length is given back, for the noise of a
long step generalises.

    G = gradient of CE(z, y), U = gradient of beta * CE(u_m, y), both on all of adapter m;  q = G + U
    <G, U> >= 0:  v = q
    <G, U> <  0:  v = 2a G + 2(1-a) U,  a = (|U|^2 - <G,U>) / |G - U|^2  in [.001, .999]
    gradient of adapter m <- gamma * v * max(1, |q| / |v|)     lengths tensor by tensor, or of the adapter (`global`)
    the fusion keeps the gradient of CE(z, y), the head of modality m that of beta * CE(u_m, y)

Every modality is handled by itself, so any number of them will do. The unimodal losses explain much of the gain:
`heads` (equal to it with gamma = 1 as long as nothing conflicts) belongs beside it.

Deviations from the official code: orthogonal gradients are summed (there: the solver); a ratio of lengths counts up to
10, for in a tensor where G and U cancel it would blow up what rounding left. The bounds on `a` hold for every conflict
(there they stand only for cases that a conflict excludes). A sample that lacks a modality is not in its loss.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, knob
from mmbal_cli.methods.heads import Heads
from mmbal_cli.ops.gradients import innocent
from mmbal_cli.ops.losses import ce


class MMPareto(Heads):
    """Unimodal losses that never pull an encoder against the joint one."""

    card = replace(
        Heads.card, name="mmpareto", kind="gradient", paper="Wei, Hu, ICML 2024, arXiv 2405.17730",
        code="GeWu-Lab/MMPareto_ICML2024", changes="loss, gradient", reference=False,
        deviates=("orthogonal gradients are summed", "a tensor's lost length is given back up to a factor of 10"),
        scales_gradients=True, backwards=2, reduces_to="concat at gamma=1, beta=0",
    )  # fmt: skip
    gamma = knob(1.5, "factor on the gradients of the adapters", source="official code", low=0, high=10)
    rescale = knob("tensor", "what gets its length back: each tensor, or each adapter as a whole",
                   source="official code", choices=("tensor", "global"))  # fmt: skip

    def step(self, batch: Batch) -> Tensor:
        """Both gradients one after the other, then their combination on each adapter."""
        out = self(batch)
        joint, own = ce(out.fused, batch.y), self.beta * self.unimodal_loss(out, batch)
        self.opt.zero_grad()
        own.backward(torch.ones_like(own), retain_graph=True)
        unimodal = {m: [p.grad for p in self.enc[m].parameters()] for m in self.mods}
        self.enc.zero_grad()
        joint.backward(torch.ones_like(joint))
        with torch.no_grad():
            for m, U in unimodal.items():
                self.combine(m, U)
            self.modulate(out, batch)
        self.opt.step(self.holding(batch))
        return (joint + own).detach()

    def combine(self, m: str, U: list[Tensor | None]) -> None:
        """Put the combined gradient on adapter m, which holds that of the joint loss."""
        params = list(self.enc[m].parameters())
        pairs = [(p, p.grad, u) for p, u in zip(params, U, strict=True) if p.grad is not None and u is not None]
        found, a = innocent([g for _, g, _ in pairs], [u for _, _, u in pairs], self.rescale == "global")
        self.log(f"coef/a/{m}", a)
        for (p, _, _), g in zip(pairs, found, strict=True):
            p.grad = self.gamma * g
