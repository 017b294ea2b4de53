"""Sustained boosting with adaptive classifier assignment, "AUG" (Jiang et al., NeurIPS 2025, arXiv 2502.20120).

Changes: schedule and loss; brings its own head. Official code: njustkmg/NeurIPS25-AUG. The modalities take turns in
each batch. Each starts with one small classifier; the weaker one is given more of them, which fit what the earlier
ones leave over. All classifiers of all modalities share their last layer.

    phi_{m,t} = ReLU(h_m U_{m,t} + c_{m,t}) W + b;  Phi_m = sum over t of phi_{m,t};  Prev_m without the newest
    loss of m with one classifier: CE(Phi_m, y); with more:
        CE(Phi_m, y) + CE(Prev_m, y) + (1 - lam q) CE(phi_{m,newest}, y),   q = softmax(Prev_m)_y, constant
    s_m = mean of softmax(Phi_m)_y over an epoch's samples, as they were trained on
    after the first epoch and then every floor(every * epochs): max s > (1 + zone) min s gives the modality of min s one
    z = mean of Phi_m over the modalities that a sample has

Places for all classifiers are there from the start (seeds add at different times); one that is not in use gives and
learns nothing, and starts without momentum (under AdamW its bias correction counts from where it could first be used).

Deviations: the released code never gives added classifiers to the optimizer, so they stay random: added=fixed; the
paper trains them. As there: q from summed logits (paper: sum of probabilities), and a ratio of scores (paper: a
difference); their factor lam_r has the one value 1 and is no knob. Classifiers are added when the next epoch begins,
so that no selected epoch has an untrained one. Modalities weigh the same (code: audio .4 on CREMA-D). The rule for
more than two modalities is ours. A sample without a modality is left out of its losses and its score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.alternating import Alternating
from mmbal_cli.methods.base import Batch, Card, Out, Peek, knob
from mmbal_cli.nn.boosted import Growing
from mmbal_cli.nn.stacked import total
from mmbal_cli.ops.boosting import lagging, sustained
from mmbal_cli.ops.losses import ce, masked_mean, true_class_probability


class SBoost(Alternating):
    """Turns at a shared last layer, and more classifiers for the weaker modality."""

    card = Card(
        "sboost", "schedule, loss", "Jiang, Huang, Yang, NeurIPS 2025, arXiv 2502.20120", "njustkmg/NeurIPS25-AUG",
        "schedule, loss, fusion",
        ("added classifiers are trained (they stay random in the released code)", "M > 2: the weakest gets one"),
        (), min_modalities=2, ordered="the modalities take turns at the last layer, in the order of their names",
    )  # fmt: skip
    lam = knob(0.5, "how much less the newest has to fit what is known", source="official code", low=0, high=1)
    every = knob(0.1, "time between checks as a share of the run", source="paper: 20 of 200", low=0.02, high=1)
    zone = knob(0.01, "lead in score that calls for a classifier", source="official code", low=0, high=1000)
    added = knob("trained", "added classifiers", source="paper; fixed: code", choices=("trained", "fixed"))
    score: Tensor  # [S,M] sum of true-class probabilities in this epoch
    heard: Tensor  # [S,M] of how many samples

    def build(self) -> None:
        """Adapters, classifiers, scores."""
        super().build()
        self.period = max(1, int(self.every * self.config.epochs + 1e-9))
        places = self.places(self.config.epochs - 1)
        self.grown = Growing(self.rng, self.mods, self.D, self.C, places, self.dtype)
        for name in ("score", "heard"):
            self.register_buffer(name, torch.zeros(self.S, len(self.mods), dtype=self.dtype))

    def places(self, epoch: int) -> int:
        """The most classifiers that a modality can have in an epoch."""
        return 2 + (epoch - 1) // self.period

    def begin_epoch(self, peek: Peek) -> None:
        """Add a classifier where the last epoch's scores call for it; only those in use may move."""
        if self.epoch > 0 and (self.epoch - 1) % self.period == 0:
            add = lagging(self.score, self.heard, self.zone)
            for j, m in enumerate(self.mods):
                for t, place in enumerate(self.grown.places(m)):
                    self.opt.forget(place.parameters(), add[:, j] & (self.grown.of(m) == t))
            self.grown.count += add
        self.score.zero_()
        self.heard.zero_()
        for m in self.mods:
            self.log(f"classifiers/{m}", self.grown.of(m).to(self.dtype))
            for t, place in enumerate(self.grown.places(m)[1:], 1):
                moves = (self.grown.of(m) > t) & (self.added == "trained")
                self.opt.rates |= dict.fromkeys(place.parameters(), moves.to(self.dtype))

    def taken(self, h: dict[str, Tensor]) -> Out:
        """The modality whose turn it is: all its classifiers, those before the newest, and the newest."""
        earlier, newest = self.grown(h[self.turn], self.turn, self.places(self.epoch))
        return Out(h, earlier + newest, self.own, {"earlier": earlier, "newest": newest})

    def own(self, h: dict[str, Tensor]) -> dict[str, Tensor]:
        """Phi_m of each modality."""
        return {m: total(self.grown(h[m], m)) for m in self.mods}

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """One cross-entropy, or three where there is more than one classifier; [S]."""
        present, n = batch.present(self.turn), self.grown.of(self.turn)
        before, residual = sustained(out.extra["earlier"], out.extra["newest"], batch.y, self.lam)
        more = masked_mean(before + residual, present)
        return ce(out.fused, batch.y, present) + torch.where(n > 1, more, 0.0)

    def modulate(self, out: Out, batch: Batch) -> None:
        """Keep the score of this turn."""
        p, present, j = true_class_probability(out.fused, batch.y), batch.present(self.turn), self.mods.index(self.turn)
        use = torch.ones_like(p) if present is None else present.to(p.dtype)
        self.score[:, j] += (p * use).sum(1)
        self.heard[:, j] += use.sum(1)

    def forward(self, batch: Batch) -> Out:
        """`fused` is the mean of the logits over the modalities that are present."""
        h = self.encode(batch)
        out = Out(h, h[self.mods[0]], self.own)
        out.fused = self.mean_logits(out, batch)
        return out
