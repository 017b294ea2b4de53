"""Budgets: what a method does that measures its modalities first: a phase in which each is trained alone, on `heads`.

    budget  every encoder and its linear head by themselves; after each epoch the NLL_m of held-out samples at its
            best temperature (`bits`) or the accuracy (`acc`); the best epoch of each modality counts
    train   from fresh networks, or from those of the lowest NLL_m (`reuse`)
    beta_m = max(beta_min, 1 - NLL_m / H(Y)) or max(beta_min, (acc_m - 1/C) / (1 - 1/C));  pi: their shares

NLL_m and H(Y) are of the held-out samples that have m. A single modality has nothing to compare: no such phase.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from mmbal_cli.methods.base import Batch, Out, Peek, Phase, knob
from mmbal_cli.methods.judging import Judging
from mmbal_cli.nn.frozen import Frozen
from mmbal_cli.nn.optim import StackedOptimizer, clip_per_seed
from mmbal_cli.nn.stacked import per_seed
from mmbal_cli.ops.calibration import Budgets

ours = partial(knob, source="ours")


class Budgeted(Judging):
    """`heads` with a budget for each modality, in `self.budgets`, when training begins."""

    budget_epochs = ours(25, "epochs of the budget phase (at most the run's)", low=1)
    iib_estimator = ours("bits", "budget: share of H(Y), or accuracy above chance", choices=("bits", "acc"))
    beta_min = ours(0.01, "least budget", low=1e-6, high=1)
    prior = ours("ratio", "shares, or softmax of the budgets", choices=("ratio", "softmax"))
    T_pi = ours(0.5, "temperature of the prior", low=1e-3, high=100, when="prior=softmax")
    reuse = ours(False, "start training from the networks of the budget phase")

    def build(self) -> None:
        """The heads, budgets, and a place for the networks to reuse."""
        super().build()
        self.budgets = Budgets(self.S, len(self.mods), self.dtype)
        if self.reuse:
            self.kept = Frozen(nn.ModuleDict({"enc": self.enc, "heads": self.heads}))

    def phases(self) -> list[Phase]:
        """Budgets (if there is anything to compare), then training."""
        epochs = self.config.epochs
        budget = Phase("budget", min(self.budget_epochs, epochs), keep_best=False)
        return [budget, Phase("train", epochs)] if len(self.mods) > 1 else [Phase("train", epochs)]

    def held_out(self) -> float:
        """`holdout`, where it is used."""
        return super().held_out() if len(self.mods) > 1 else 0.0

    def optimizer(self) -> StackedOptimizer:
        """In the budget phase without the common bound on the gradient: each modality has its own."""
        if self.phase != "budget":
            return super().optimizer()
        params = (p for p in self.parameters() if p.requires_grad)
        return StackedOptimizer(params, self.config.model_copy(update={"clip": None}))

    def modulate(self, out: Out, batch: Batch) -> None:
        """The bound on each modality's gradient."""
        if self.phase == "budget" and self.config.clip is not None:
            for m in self.mods:
                clip_per_seed([*self.enc[m].parameters(), *self.heads[m].parameters()], self.config.clip)

    def begin_phase(self, peek: Peek) -> None:
        """Training begins: networks are put back, budgets are settled."""
        if self.phase == "train" and len(self.mods) > 1:
            own = {name: value for name, value in self.state_dict().items() if name.startswith(("budgets.", "kept."))}
            networks = {k: v.clone() for k, v in self.kept.module.state_dict().items()} if self.reuse else {}
            self.load_state_dict(self.initial() | own | networks)
            self.budgets.settle(self.beta_min, self.prior, self.T_pi)

    def end_epoch(self, peek: Peek) -> None:
        """Measure, and keep the networks that were never better."""
        if self.phase != "budget":
            self.note(beta=self.budgets.beta, pi=self.budgets.pi)
            return
        view = peek.outputs(self.aside)
        z, present = (torch.stack([part[m] for m in self.mods], 1) for part in (view.z, view.present))
        T, nll, better = self.budgets.measure(z, view.y, present, self.iib_estimator)
        self.note(nll=nll, temperature=T)
        if self.reuse:
            now = self.state_dict()
            for name, old in self.kept.module.state_dict().items():
                take = per_seed(better[:, self.mods.index(self.owner(name))], old)
                old.copy_(torch.where(take, now[name], old))

    def note(self, **values: Tensor) -> None:
        """Record numbers [S,M] as `coef/name/modality`."""
        for name, value in values.items():
            for i, m in enumerate(self.mods):
                self.log(f"coef/{name}/{m}", value[:, i])

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Every modality by itself in the budget phase, then that of `heads`; [S]."""
        return self.unimodal_loss(out, batch) if self.phase == "budget" else super().loss(out, batch)
