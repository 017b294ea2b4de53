"""MSES: modality-specific early stopping (Fujimori, Endo, Kawai, Mochizuki, ACPR 2019; no arXiv, no official code).

Changes: schedule and loss. Modalities overfit at different times: the branch of a modality (adapter m, its own head,
its part of an additive fused head) stops when its own validation loss stops improving, while the rest trains on.

    L = CE(z, y) + beta sum_m CE(g_m(h_m), y)
    after epoch e: v_m = validation loss of modality m;  s_m = smoothing v_m(e-1) + (1 - smoothing) v_m(e), first v_m
    s_m < best_m: best_m = s_m, e*_m = e, the branch is kept
    e - e*_m > patience: the kept branch is put back (restore=branch) and held from then on, bit for bit

When all modalities of a seed have stopped, its head stops as well, and the seed is what it is for the rest of the run;
with keep_head=true the fused head is part of no branch and never stops. Epochs are selected as always, independently.

Only the abstract could be read: it has the auxiliary heads and the stop of each modality. Smoothing (with the last raw
value, no running mean), patience and the restored epoch are those of the MSES baseline in lihong2303/AGM_ICCV2023;
beta = 1 is ours. Deviations from that code: validation instead of test loss; updates stop, not gradients, which
momentum and decay would still move; a stop puts back its own branch, not the whole model (restore=all: of several that
stop at once, the latest kept epoch counts); auxiliary heads (aux=none: the shares of the fused logits are watched, and
not trained); any epoch, not the first 20. A stopped branch does not count in the norm of a clipped gradient. A loss
that is not a number is no improvement. Any number of modalities; v_m is over samples that have it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mmbal_cli.methods.base import Batch, Card, Out, Peek, knob
from mmbal_cli.methods.heads import Heads
from mmbal_cli.nn.frozen import Frozen
from mmbal_cli.nn.stacked import per_seed
from mmbal_cli.ops.branchwise import Spread, branchwise
from mmbal_cli.ops.losses import ce
from mmbal_cli.ops.stopping import Stopping


class MSES(Heads):
    """A multitask model whose branches stop one by one."""

    card = Card(
        "mses", "schedule", "Fujimori et al., ACPR 2019", "", "schedule, loss",
        ("smoothing, patience and the restored epoch as in AGM's code, the only one there is; beta = 1 is ours",
         "validation loss stops each modality of each seed", "only the branch that stops is put back"),
        reduces_to="concat at beta=0, patience=100000", exercise={"patience": 0}, reconstructed=True,
        stages="a modality of a seed stops by its validation loss; a seed whose modalities have all stopped is held",
    )  # fmt: skip
    patience = knob(5, "epochs without a lower loss that a modality goes on", source="ours; AGM's code: 10 to 80",
                    low=0, high=100_000)  # fmt: skip
    smoothing = knob(0.6, "weight of the loss before", source="AGM's code", low=0, high=1)
    restore = knob("branch", "what goes back to its best epoch", source="ours; AGM's code: all",
                   choices=("branch", "all", "none"))  # fmt: skip
    keep_head = knob(False, "the fused head never stops", source="ours")
    aux = knob("heads", "what is watched: auxiliary heads, or shares of the fused logits", source="paper",
               choices=("heads", "none"))  # fmt: skip

    def build(self) -> None:
        """Heads; progress of each modality; copies of the best epochs: of one model, or of one for each modality."""
        super().build()
        self.stopping = Stopping(self.S, len(self.mods), self.dtype)
        copies = {"branch": 1, "all": len(self.mods), "none": 0}[self.restore]
        self.kept = nn.ModuleList(Frozen(self.whole()) for _ in range(copies))

    def whole(self) -> nn.ModuleDict:
        """Everything that learns."""
        return nn.ModuleDict({"enc": self.enc, "heads": self.heads, "fusion": self.fusion})

    def branch(self, values: Tensor) -> Spread:
        """values [S,M] over the parameters of their branches."""
        return branchwise(values, self.mods, self.enc, self.heads, head=None if self.keep_head else self.fusion)

    def own(self, h: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits [S,B,C] of the auxiliary heads, without them the shares of the fused ones."""
        return super().own(h) if self.aux == "heads" else self.fusion.unimodal(h)

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """That of `heads`, without them the joint one; [S]."""
        return super().loss(out, batch) if self.aux == "heads" else ce(out.fused, batch.y)

    def begin_epoch(self, peek: Peek) -> None:
        """Who moves in this epoch."""
        active = self.stopping.active
        rest = {} if self.keep_head else {p: per_seed(active.amax(1), p) for p in self.fusion.parameters()}
        self.opt.rates = rest | self.branch(active)

    def modulate(self, out: Out, batch: Batch) -> None:
        """Nothing of a stopped branch counts in a gradient's norm."""
        for p, f in self.opt.rates.items():
            if p.grad is not None:
                p.grad.mul_(f)

    @torch.no_grad()
    def end_epoch(self, peek: Peek) -> None:
        """Keep branches that improved; stop those that have not for too long."""
        found, everything = peek.losses("val"), self.restore == "all"
        v = torch.stack([found[m] for m in self.mods], 1)
        better, stop = self.stopping.watch(v, self.epoch, self.smoothing, self.patience)
        for p, copy, mask in self.copies(better):
            copy.copy_(torch.where(mask, p, copy))
        for p, copy, mask in self.copies(self.stopping.latest(stop) if everything else stop):
            p.copy_(torch.where(mask, copy, p))
        if everything:
            self.opt.forget(self.opt.params, stop.any(1))
        for j, m in enumerate(self.mods):
            self.log(f"coef/active/{m}", self.stopping.active[:, j])

    def copies(self, chosen: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Parameters, their copies, and where chosen [S,M] holds for them."""
        everything, spread = self.restore == "all", self.branch(chosen)
        for j, kept in enumerate(self.kept):
            for p, copy in zip(self.whole().parameters(), kept.parameters(), strict=True):
                if everything or p in spread:
                    yield p, copy, per_seed(chosen[:, j], p) if everything else spread[p]
