"""Base of the methods that train one modality at a time in every batch, through layers which all share."""

from __future__ import annotations

from torch import Tensor, nn

from mmbal_cli.methods.base import Batch, Method, Out
from mmbal_cli.nn.stacked import total


class Alternating(Method):
    """For each batch and each modality in order: its own loss, backward, update.

    In its turn a modality moves its own parameters and the shared ones; all others have no gradient (None, not zero:
    neither momentum nor decay moves them). An adapter changes in its own turn only, so one forward pass serves all.
    """

    turn: str  # the modality whose turn it is

    def step(self, batch: Batch) -> Tensor:
        """M updates; returns the sum of the losses [S], detached."""
        h = self.encode(batch)
        losses: list[Tensor] = []
        used: dict[nn.Parameter, Tensor | None] = {}
        for m in self.mods:
            self.turn = m
            out = self.taken(h)
            each = self.loss(out, batch)
            self.update(each, out, batch)
            losses.append(each.detach())
            used |= {p: p.grad for p in self.enc[m].parameters()}
        for p, grad in used.items():
            p.grad = grad  # for the record of gradient norms only: the next update begins with zero_grad
        return total(losses)

    def taken(self, h: dict[str, Tensor]) -> Out:
        """Outputs in this turn: `fused` are the logits of the modality whose turn it is."""
        raise TypeError(f"{type(self).__name__} must define taken(h)")

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Loss of the modality whose turn it is, [S]."""
        raise TypeError(f"{type(self).__name__} must define loss(out, batch)")
