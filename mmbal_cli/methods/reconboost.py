"""ReconBoost: boosting with one learner for each modality (Hua et al., ICML 2024, arXiv 2405.09321).

Changes: schedule and loss; brings its own head. Official code: huacong/ReconBoost. The modalities are trained in turn,
each on what the sum of the others still gets wrong; after each turn all of them are trained together for a while.

    phi_m = head(adapter_m(x_m)), one head for all;  Phi = beta * sum of phi_m over the modalities that had a turn
    stage s, modality k = s mod M, p = the one before it (cyclic):
    boosting       L = (w1 - w2 q) / C * CE(phi_k, y) + alpha * MSE(softmax(phi_k), softmax(phi_p))
                   adapter k and head learn, q = softmax(Phi without k)_y and phi_p are constant;
                   first stage: q = 1, no second term
    rectification  L = CE(Phi, y); every adapter that had a turn, the head and beta learn
    prediction     z = Phi, z_m = beta * phi_m

Each part of a stage lasts a share of the run (at least one epoch), begins with a new optimizer and no run ends in
the first part. A run of fewer than M stages predicts without the modalities that had no turn (`turns/m` is recorded).
`kl=full` takes w2 softmax(Phi without k) from the target of every class, not of the true one only. Many classes make
1/C a very small learning rate: norm=1 leaves it out.

Deviations from the official code: its second term has no gradient (both sides are detached; alpha=0 is the same
training), here it has one on phi_k. No pre-trained encoders, no best epoch chosen on test. Missing modalities: a
sample adds to the losses of those that it has, Phi sums over these, and where it has none of the others they say
nothing (q = 1/C). Any number of modalities.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmbal_cli.errors import RecipeError
from mmbal_cli.methods.base import Batch, Card, Method, Out, Peek, Shape, knob
from mmbal_cli.nn.boosted import SharedHead
from mmbal_cli.nn.stacked import per_seed, total
from mmbal_cli.ops.boosting import drift, residual_ce, turn
from mmbal_cli.ops.losses import both, ce, masked_mean, true_class_probability
from mmbal_cli.ops.mixing import kept, some


class ReconBoost(Method):
    """Turns of one modality against the rest, and joint training between them."""

    card = Card(
        "reconboost", "schedule, loss", "Hua et al., ICML 2024, arXiv 2405.09321", "huacong/ReconBoost",
        "schedule, loss, fusion",
        ("the memory term has a gradient (both of its sides are detached in the released code)", "no pre-training"),
        (), min_modalities=2, ordered="the modalities are boosted in turn, in the order of their names",
        stages="alternating within one: boosting of one modality, rectification of all",
    )  # fmt: skip
    w1 = knob(5.0, "weight of the label", source="official code: 5 CREMA-D, 4 AVE, 1 MOSI", low=0, high=100)
    w2 = knob(1.0, "weight of what the others already know; at most w1", source="official code; .25 MOSI", low=0)
    alpha = knob(0.5, "weight of the memory term", source="official code (there without effect)", low=0, high=100)
    boost = knob(0.02, "share of the run of one turn", source="ours: an epoch in 50", low=0, high=1)
    rectify = knob(0.02, "share of the run of one rectification", source="ours: an epoch in 50", low=0, high=1)
    norm = knob("C", "divisor of the boosting loss: classes, or 1", source="official code", choices=("C", "1"))
    kl = knob("masked", "classes that the others are heard on", source="official code; full: paper",
              choices=("masked", "full"))  # fmt: skip
    head = knob("mlp", "the shared head", source="official code; linear on sentiment", choices=("mlp", "linear"))
    seen: Tensor  # [S,M]

    @classmethod
    def check(cls, shape: Shape, fusion: str, knobs: dict[str, Any]) -> None:
        """Also refuse negative weights of the loss."""
        super().check(shape, fusion, knobs)
        if knobs["w2"] > knobs["w1"]:
            raise RecipeError("method.w2 of reconboost is above method.w1.", "It would give samples negative weights.")

    def build(self) -> None:
        """Adapters, the shared head, and which modalities had a turn."""
        super().build()
        self.shared = SharedHead(self.rng, self.D, self.C, self.dtype, self.head == "mlp")
        self.register_buffer("seen", torch.zeros(self.S, len(self.mods), dtype=self.dtype))

    def begin_epoch(self, peek: Peek) -> None:
        """Whose turn it is; a new optimizer where a part of a stage begins."""
        self.stage, self.boosting, begins = turn(self.epoch, self.phase_epochs, self.boost, self.rectify)
        if begins:
            self.opt = self.optimizer()
        for j, m in enumerate(self.mods):
            turns = (self.stage - j) // len(self.mods) + 1
            self.seen[:, j] = min(turns, 1)
            self.log(f"turns/{m}", torch.full_like(self.seen[:, j], turns))

    def step(self, batch: Batch) -> Tensor:
        """One step of the modality whose turn it is, or of all that had one."""
        k, seen = self.mods[self.stage % len(self.mods)], self.mods[: self.stage + 1]
        phi = {}
        for m in seen:
            learns = m == k or not self.boosting
            self.enc[m].train(learns)  # the others answer as in a prediction
            with torch.set_grad_enabled(learns):
                phi[m] = kept(self.shared(self.enc[m](batch.x[m], batch.mask[m])), batch.present(m))
        if self.boosting:
            each = self.boosted(k, phi, batch)
        else:
            each = ce(self.shared.beta * total(phi.values()), batch.y, some([batch.present(m) for m in seen]))
        self.update(each, Out({}, phi[k], lambda h: phi), batch)
        return each.detach()

    def boosted(self, k: str, phi: dict[str, Tensor], batch: Batch) -> Tensor:
        """What the others get wrong, and the memory of the modality before; [S]."""
        present, rest = batch.present(k), [z for m, z in phi.items() if m != k]
        others = self.shared.beta.detach() * total(rest) if rest else None
        each = residual_ce(phi[k], batch.y, others, self.w1, self.w2, self.kl == "full")
        each = masked_mean(each / (self.C if self.norm == "C" else 1), present)
        if others is None:
            return each
        self.log("coef/q", masked_mean(true_class_probability(others, batch.y), present))
        p = self.mods[(self.stage - 1) % len(self.mods)]
        return each + self.alpha * masked_mean(drift(phi[k], phi[p]), both(present, batch.present(p)))

    def forward(self, batch: Batch) -> Out:
        """Prediction by the sum over the modalities that had a turn and that a sample has."""
        h = self.encode(batch)
        z = {m: self.shared.beta * self.shared(h[m]) for m in self.mods}
        seen = {m: per_seed(self.seen[:, j], z[m]) for j, m in enumerate(self.mods)}
        return Out(h, total(seen[m] * kept(z[m], batch.present(m)) for m in self.mods), lambda h: z)
