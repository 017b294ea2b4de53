"""Stages before joint training, the first part of BMLMI: unimodal training, then distillation into weak modalities.

Phase `unimodal` trains every encoder and its head by themselves. At its end a held-out part of train gives, for each
seed, macro-F1 f1_m, the teacher t = argmax f1, and the students: all others, or those whose NMI with t is >= theta.
Phase `distil` trains the students against the frozen teacher; whoever is no student gets its weights of the first
stage back (a zero gradient is not a freeze: decay moves weights). Phase `train` starts from both and a new fusion.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Out, Peek, Phase, knob
from mmbal_cli.methods.transductive import Transductive
from mmbal_cli.nn.branches import Branches
from mmbal_cli.nn.frozen import Frozen
from mmbal_cli.nn.stacked import total
from mmbal_cli.ops import information
from mmbal_cli.ops.losses import having
from mmbal_cli.ops.multitask import distillation, of_each


class Distilled(Transductive):
    """`heads` after a unimodal and a distillation stage."""

    f1: Tensor
    teacher: Tensor
    students: Tensor
    E_A = knob(25, "epochs of the unimodal stage, at most the run's", source="ours", low=1)
    E_B = knob(25, "epochs of the distillation, at most the run's", source="ours", low=1)
    lam = knob(0.5, "share of the distillation in a student's loss", source="ours", low=0, high=1)
    T = knob(2.0, "temperature of the distillation", source="ours", low=0.01, high=100)
    theta = knob(0.05, "least NMI with the teacher", source="ours", low=0, high=1, when="kd_gate=nmi")
    mi = knob("plugin", "dependence of predicted classes, the same by Miller-Madow, of probabilities, of features",
              source="ours", choices=("plugin", "plugin_mm", "soft", "infonce"))  # fmt: skip
    kd_gate = knob("nmi", "who is a student", source="ours", choices=("nmi", "always", "never"))
    kd_accept = knob("off", "val: undo a distillation that lowers macro-F1", source="ours", choices=("off", "val"))
    kd_init = knob("scratch", "where students start", source="ours", choices=("scratch", "stageA"))

    def build(self) -> None:
        """The model; copies of the branches to teach from, and what is decided for each seed."""
        super().build()
        S, M = self.S, len(self.mods)
        self.distils = self.kd_gate != "never" and M > 1
        if self.distils:
            self.teachers = Frozen(Branches(self.enc, self.heads))
            self.register_buffer("f1", torch.zeros(S, M, dtype=self.dtype))
            self.register_buffer("teacher", torch.zeros(S, dtype=torch.long))
            self.register_buffer("students", torch.zeros(S, M, dtype=torch.long))  # 0 or 1

    def phases(self) -> list[Phase]:
        """Unimodal, distillation (not with kd_gate=never or one modality), joint training."""
        E = self.config.epochs
        distil = [Phase("distil", min(self.E_B, E))] * self.distils
        return [Phase("unimodal", min(self.E_A, E)), *distil, Phase("train", E)]

    def selects(self, parameter: str) -> str:
        """Before joint training every branch keeps its own best epoch."""
        return "fused" if self.phase == "train" else self.owner(parameter)

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """That of the stage, [S]; of a distillation, the sum over the seed's students."""
        if self.phase != "distil":
            return self.unimodal_loss(out, batch) if self.phase == "unimodal" else super().loss(out, batch)
        taught = self.teachers(self.inputs(batch))
        here = having(map(batch.present, self.mods), batch.y, 0).unbind()
        z_t, has_t = of_each([taught[m] for m in self.mods], self.teacher), of_each(here, self.teacher)
        return total(
            self.students[:, j] * distillation(out.z[m], batch.y, z_t, self.lam, self.T, p, p & has_t)
            for j, (m, p) in enumerate(zip(self.mods, here, strict=True))
        )

    @torch.no_grad()
    def begin_phase(self, peek: Peek) -> None:
        """Freeze the unimodal stage and choose; after the distillation, undo what it must not change."""
        if self.phase == "distil":
            self.choose(peek)
        elif self.phase == "train" and self.distils:
            self.settle(peek)

    def choose(self, peek: Peek) -> None:
        """Teacher and students; these restart from their first weights with kd_init=scratch."""
        branches = Branches(self.enc, self.heads)
        self.teachers.take(branches)
        f1, nmi = self.measure(peek)
        self.f1.copy_(f1[:, 1:])
        self.teacher.copy_(self.f1.argmax(1))
        near = of_each(list(nmi[:, 1:, 1:].unbind(1)), self.teacher)  # [S,M]
        itself = torch.arange(len(self.mods), device=near.device) == self.teacher[:, None]
        self.students.copy_(~itself & ((near >= self.theta) | (self.kd_gate == "always")))
        if self.kd_init == "scratch":
            branches.put(self.students > 0, self.initial())

    def settle(self, peek: Peek) -> None:
        """Put back who was no student, or became worse (kd_accept=val); records macro-F1 before and after."""
        after = torch.where(self.students > 0, self.measure(peek)[0][:, 1:], self.f1)
        kept = (self.students > 0) & ((after >= self.f1) | (self.kd_accept == "off"))
        Branches(self.enc, self.heads).put(~kept, self.teachers.module.state_dict())
        for name, value in (("before", self.f1), ("after", after), ("kept", kept.to(after.dtype))):
            for j, m in enumerate(self.mods):
                self.log(f"distil/{name}/{m}", value[:, j])

    def measure(self, peek: Peek) -> tuple[Tensor, Tensor]:
        """Macro-F1 [S,M+1] and dependence [S,M+1,M+1] on the held-out part; index 0 is the fused task."""
        view = peek.outputs(self.aside)
        z, present = [view.fused, *view.z.values()], [None, *view.present.values()]
        f1 = torch.stack([information.macro_f1(v, view.y, p) for v, p in zip(z, present, strict=True)], 1)
        if self.mi != "infonce":
            return f1, information.dependence(z, present, self.mi)
        batch = peek.sample(self.aside, information.INFONCE_SAMPLES)
        out = self(batch)
        z, present = [out.fused, *out.z.values()], [None, *map(batch.present, self.mods)]
        return f1, information.feature_dependence(z, list(out.h.values()), present)
