"""MSLR: modality-specific learning rates (Yao, Mihalcea, Findings of ACL 2022, 2022.findings-acl.143; no code).

Changes: schedule. Modalities trained alone want different learning rates, so each branch of an additive model has its
own: adapter m and its part of the head (its layer in `sum`, its rows in `concat`; with other fusions the adapter only).

    p <- p + f_m (p' - p)        p' = after a step at the run's rate: exact for SGD with momentum and for AdamW
    keep:     f_m = c_m                         c_m = best rate of unimodal training over the run's, from the user
    smooth:   f_m = c_m^(1 - e/E)               from the unimodal rate to the common one over the run
    dynamic:  f_m = c_m clip(acc_m / mean of its `history` values before, 1/bound, bound),  1 for the clip until then

acc_m: validation accuracy of the modality's own logits after the last epoch, over samples that have it. A modality that
still improves speeds up, one that stalls or overfits slows down.

Only the abstract could be read: it has three strategies. `keep` and `dynamic` (and its history of 5) are those of two
independent implementations (the MSLR baseline of lihong2303/AGM_ICCV2023); the formula of `smooth` and the bound of 2
are ours. Deviations from that code: validation instead of test accuracy (its CREMA-D loop also counts visual hits as
audio hits); updates are scaled instead of gradients, which does nothing under Adam; all epochs instead of the first 20;
`warm` epochs of unimodal training before, as in the paper, are optional (0). Any number of modalities.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out, Peek, Phase, Shape, knob
from mmbal_cli.nn.fusion import GENERAL
from mmbal_cli.ops.branchwise import branchwise, by_name


class MSLR(Method):
    """Late fusion with a learning rate for each branch."""

    r: Tensor
    seen: Tensor
    card = Card(
        "mslr", "schedule", "Yao, Mihalcea, Findings of ACL 2022", "", "learning rate of each branch",
        ("strategies as in two independent implementations; smooth and the bound are ours",
         "updates are scaled, not gradients", "validation accuracy decides, in all epochs"),
        fusions=("sum", *(name for name in GENERAL if name != "sum")), reduces_to="sum at strategy=keep",
        stages="`warm` epochs of unimodal training before (0)", exercise={"history": 2},
        reconstructed=True,
    )  # fmt: skip
    strategy = knob("dynamic", "how factors change", source="paper", choices=("dynamic", "keep", "smooth"))
    c = knob("", "first factors by name, as in audio=0.9,video=1.1; 1 where none is given", source="paper")
    history = knob(5, "epochs in the mean", source="AGM's code", low=1, when="strategy=dynamic")
    bound = knob(2.0, "most change of a factor", source="ours", low=1, when="strategy=dynamic")
    warm = knob(0, "epochs of unimodal training before", source="ours; the paper starts there", low=0)

    @classmethod
    def check(cls, shape: Shape, fusion: str, knobs: dict[str, Any]) -> None:
        """Refuse factors of modalities that are not there, too."""
        super().check(shape, fusion, knobs)
        by_name(knobs["c"], tuple(shape.modalities))

    def build(self) -> None:
        """The model, r [S,M], and the last accuracies [S,M,history] as a ring."""
        super().build()
        r = torch.ones(self.S, len(self.mods), dtype=self.dtype)
        self.register_buffer("r", r)
        self.register_buffer("seen", torch.zeros_like(r)[..., None].repeat(1, 1, self.history))

    def phases(self) -> list[Phase]:
        """The branches apart, then together."""
        return [Phase("unimodal", self.warm)] * (self.warm > 0) + super().phases()

    def selects(self, parameter: str) -> str:
        """A branch that is trained apart is chosen by its own validation score."""
        return self.owner(parameter) if self.phase == "unimodal" else "fused"

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Cross-entropy, before joint training that of each branch; [S]."""
        return self.unimodal_loss(out, batch) if self.phase == "unimodal" else super().loss(out, batch)

    def begin_epoch(self, peek: Peek) -> None:
        """The factors of this epoch."""
        if self.phase == "unimodal":
            return
        share = 1 - self.epoch / self.phase_epochs if self.strategy == "smooth" else 1.0
        f = self.r * self.r.new_tensor([c**share for c in by_name(self.c, self.mods)])
        self.opt.rates = branchwise(f, self.mods, self.enc, head=self.fusion)
        for j, m in enumerate(self.mods):
            self.log(f"coef/rate/{m}", f[:, j])

    @torch.no_grad()
    def end_epoch(self, peek: Peek) -> None:
        """r of the next epoch, from accuracies before this one."""
        if self.phase == "unimodal" or self.strategy != "dynamic":
            return
        found = peek.accuracy("val")
        accuracy = torch.stack([found[m] for m in self.mods], 1)
        if self.epoch >= self.history:
            self.r.copy_(progress(accuracy, self.seen, self.bound))
        self.seen[..., self.epoch % self.history] = accuracy


def progress(accuracy: Tensor, history: Tensor, bound: float) -> Tensor:
    """accuracy [S,M] over the mean of history [S,M,H], in [1/bound, bound]; 1 where that mean is 0."""
    mean = history.mean(-1)
    return torch.where(mean > 0, accuracy / torch.where(mean > 0, mean, 1.0), 1.0).clamp(1 / bound, bound)
