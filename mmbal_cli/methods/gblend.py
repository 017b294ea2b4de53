"""G-Blend: Gradient Blending (Wang, Tran, Feiszli, CVPR 2020, arXiv 1905.12681; no official training code).

Changes: loss and schedule. Streams k: each modality (adapter m and its own head) and the whole fused path. For every
super-epoch of n epochs each stream is trained alone for these n epochs, from the current weights, and thrown away:

    G_k = fall of its held-out loss;  O_k = growth of its gap, held-out minus training loss (evaluation mode)
    w_k = (G_k / O_k^2) / sum_j (G_j / O_j^2)
    L   = sum_m w_m CE(g_m(h_m), y) + w_f CE(z, y)

Side trainings have a fresh optimizer of the run's class and the run's learning rate of these epochs, sample order and
dropout streams of their own; weights, optimizer and streams of the run are as before. mode=offline: one super-epoch,
the whole run. estimate=joint: no side trainings, G and O between checkpoints of the joint run, equal weights before
the first: cheap, but not the paper's algorithm.

Deviations from code that is around (MultiBench, BalanceBenchmark): differences instead of final losses, losses per
sample, measured before the first side step, on samples held out of training instead of test; auxiliary heads, no head
that is cut. A stream whose held-out loss rose gets no weight (sign=clamp; their absolute value rewards it: sign=abs);
|O| has the floor o_min and w a cap of 0.98 (both ours), whose excess the other streams share: rescaling, as one could
do instead, undoes a cap. No stream generalises: equal weights. Super-epochs (10 epochs, then 5) are as remembered of
the paper. Any number of modalities; a stream's losses are over samples that have it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Knob, Out, Peek, knob
from mmbal_cli.methods.judging import Judging
from mmbal_cli.nn.optim import StackedOptimizer
from mmbal_cli.nn.stacked import total
from mmbal_cli.ops.blending import blend, super_epoch
from mmbal_cli.ops.losses import ce
from mmbal_cli.ops.probing import undone


class GBlend(Judging):
    """Losses of all heads, weighed by how well and how honestly each learns by itself."""

    w: Tensor
    seen: Tensor
    card = Card(
        "gblend", "loss, schedule", "Wang, Tran, Feiszli, CVPR 2020, arXiv 1905.12681", "", "loss, schedule",
        ("negative generalisation counts as 0", "floor o_min of the gap's growth and cap 0.98 of a weight are ours"),
        stages="side trainings: M+1 streams, each as many epochs as the run, in two extra passes for every epoch "
               "(all unimodal streams share one); none with estimate=joint",
        holds_out="10 % of train (knob holdout) for the held-out losses", exercise={"first": 2, "n": 2},
    )  # fmt: skip
    estimate = knob("probe", "losses from side trainings, or from the joint run", source="paper",
                    choices=("probe", "joint"))  # fmt: skip
    mode = knob("online", "weights for each super-epoch, or once", source="paper", choices=("online", "offline"),
                when="estimate=probe")  # fmt: skip
    first = knob(10, "epochs of the first super-epoch", source="paper (as remembered)", low=1, when="mode=online")
    n = knob(5, "epochs of the later ones", source="paper (as remembered)", low=1, when="mode=online")
    o_min = knob(1e-3, "least growth of the gap that counts", source="ours", low=1e-9, high=10)
    sign = knob("clamp", "generalisation below 0: no weight, or by its size", source="ours", choices=("clamp", "abs"))

    @classmethod
    def declared(cls) -> dict[str, Knob]:
        """Without the fixed weight `beta` of `heads`."""
        return {name: value for name, value in super().declared().items() if name != "beta"}

    def build(self) -> None:
        """Heads; equal weights, the fused stream last; losses at the last checkpoint."""
        super().build()
        self.streams = (*self.mods, "fused")
        K = len(self.streams)
        self.register_buffer("w", torch.full((self.S, K), 1 / K, dtype=self.dtype))
        self.register_buffer("seen", torch.zeros(self.S, K, 2, dtype=self.dtype))

    def side_epochs(self) -> int:
        """Two passes for every epoch: the unimodal streams, and the fused one."""
        return 2 * self.config.epochs if self.estimate == "probe" else 0

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Weighted sum of the unimodal and the fused cross-entropies, [S]."""
        own = (self.w[:, j] * ce(out.z[m], batch.y, batch.present(m)) for j, m in enumerate(self.mods))
        return self.w[:, -1] * ce(out.fused, batch.y) + total(own)

    def begin_epoch(self, peek: Peek) -> None:
        """New weights where a super-epoch begins."""
        probing, E = self.estimate == "probe", self.phase_epochs
        length = super_epoch(self.epoch, E, E if probing and self.mode == "offline" else self.first, self.n)
        if length:
            now = self.measure(peek)
            if probing:
                unimodal, fused = self.probe(peek, length, False), self.probe(peek, length, True)
                after = torch.cat([unimodal[:, :-1], fused[:, -1:]], 1)
                self.w.copy_(blend(now, after, self.o_min, self.sign))
            elif self.epoch:
                self.w.copy_(blend(self.seen, now, self.o_min, self.sign))
            self.seen.copy_(now)
        for j, k in enumerate(self.streams):
            self.log(f"coef/w/{k}", self.w[:, j])

    def measure(self, peek: Peek) -> Tensor:
        """Losses [S,M+1,2] of each stream on the training and on the held-out samples."""
        found = [peek.losses("train"), peek.losses(self.aside)]
        return torch.stack([torch.stack([losses[k] for losses in found], 1) for k in self.streams], 1)

    def probe(self, peek: Peek, epochs: int, fused: bool) -> Tensor:
        """Losses after the fused stream, or every unimodal one, was trained alone; the method is left as it was."""
        parts = [[self.enc, self.fusion]] if fused else [[self.enc[m], self.heads[m]] for m in self.mods]
        opts = [StackedOptimizer((p for part in own for p in part.parameters()), self.config) for own in parts]
        with undone(self):
            for late in range(epochs):
                for opt in opts:
                    opt.set_epoch(self.epoch + late, self.phase_epochs)
                for batch in peek.epoch("train"):
                    self.zero_grad()
                    out = self(batch)
                    each = ce(out.fused, batch.y) if fused else self.unimodal_loss(out, batch)
                    each.backward(torch.ones_like(each))
                    for opt in opts:
                        opt.step(self.hold)
            self.eval()
            return self.measure(peek)
