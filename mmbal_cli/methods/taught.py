"""A student of unimodal teachers: the stage that `umt` and `g2d` share.

Phase `teachers` trains every encoder with a linear head of its own, exactly as `unimodal-ensemble` does, and each keeps
its own best validation epoch. Then they are frozen, and phase `train` begins with the first weights of the seed, the
order of samples and the dropout of plain training: without its lesson the student is `concat`, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Method, Out, Peek, Phase
from mmbal_cli.nn.branches import Branches
from mmbal_cli.nn.frozen import Frozen
from mmbal_cli.nn.fusion.sum import Sum
from mmbal_cli.ops.losses import ce
from mmbal_cli.seeds import SeedStreams


class Taught(Method):
    """Joint training with a lesson from frozen unimodal models."""

    def build(self) -> None:
        """The student, the heads of the first stage, and the teachers, which hold the first weights until then."""
        super().build()
        apart = SeedStreams(self.rng.seeds)  # a student with fusion `sum` has drawn from these streams already
        self.heads = Sum(apart, self.mods, self.D, self.C, self.dtype).heads
        self.teachers = Frozen(Branches(self.enc, self.heads))

    def phases(self) -> list[Phase]:
        """Teachers, then the student, both as long as the run."""
        return [Phase("teachers", self.config.epochs), *super().phases()]

    def selects(self, parameter: str) -> str:
        """Every teacher keeps its own best epoch, the student that of the fused prediction."""
        return self.owner(parameter) if self.phase == "teachers" else "fused"

    @torch.no_grad()
    def begin_phase(self, peek: Peek) -> None:
        """Freeze what the first stage learned, and begin anew."""
        if self.phase == "teachers":
            return
        learned = Branches(self.enc, self.heads)
        first = {name: value.clone() for name, value in self.teacher.state_dict().items()}
        self.teachers.take(learned)
        learned.load_state_dict(first)

    def forward(self, batch: Batch) -> Out:
        """The student; in the first stage the teachers, with the mean of their logits."""
        if self.phase != "teachers":
            return super().forward(batch)
        h = self.encode(batch)
        z = {m: self.heads[m](h[m]) for m in self.mods}
        out = Out(h, z[self.mods[0]], lambda _: z)
        out.fused = self.mean_logits(out, batch)
        return out

    @property
    def teacher(self) -> Branches:
        """Encoders and heads of the teachers."""
        assert isinstance(self.teachers.module, Branches)
        return self.teachers.module

    @torch.no_grad()
    def taught(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Features [S,B,D] and logits [S,B,C] of every teacher."""
        h = {m: self.teacher.enc[m](batch.x[m], batch.mask[m]) for m in self.mods}
        return h, {m: self.teacher.heads[m](h[m]) for m in self.mods}

    def lesson(self, out: Out, batch: Batch) -> Tensor:
        """What is added to the student's cross-entropy, [S]."""
        raise TypeError(f"{type(self).__name__} must define lesson(out, batch)")

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """That of the stage, [S]."""
        if self.phase == "teachers":
            return self.unimodal_loss(out, batch)
        return ce(out.fused, batch.y) + self.lesson(out, batch)
