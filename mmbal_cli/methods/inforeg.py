"""InfoReg: adaptive unimodal regulation (Huang, Wei, Yang, Hu, CVPR 2025, arXiv 2503.18595).

Changes: loss, gradient, schedule. Official code: GeWu-Lab/InfoReg_CVPR2025. While an encoder still gains information
fast, by the trace of its Fisher matrix, the modality that is ahead is tied to its weights of the start of the epoch.

    L = CE(z, y) + gamma sum_m CE(z_m, y)                                    that of `uniform`
    s_m = mean of softmax(z_m)[y];  in a batch the highest s_a leads, by d = s_a - the second
    gradient of adapter a += beta_a (theta_a - theta_a at the start of this epoch), where k_a > K
        form = code    beta_a = base exp(tanh(tau d)),  k = (A - B) / A, A and B the mean traces of the last `history`
                       epochs and of as many ending one earlier, zeros before the first
        form = paper   beta_a = base (mean CE(z_m, y) of the others - CE(z_a, y)), a of the lowest loss;  history = 1
    trace_m of an epoch = sum over steps and weight matrices of adapter m of the mean squared gradient
    k = 1 in the first epoch

Any M in both forms. The pull is towards the same epoch: its first step is free, and a small rate makes it weak.

Deviations from the official code: one base for all modalities (there audio 0.95, video 0.1, by hand: it assumes who
leads); each modality has a window of its own (there audio's for all); scores are means times tau (there sums over 64
samples: tau = 64 is the same); traces leave out the pull's own gradient. `paper` is read from a third party's
restatement. Only samples with every modality are compared. The papers train with SGD: Adam rescales the pull away.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Out, Peek, knob
from mmbal_cli.methods.uniform import Uniform
from mmbal_cli.nn.stacked import per_seed
from mmbal_cli.ops.acquisition import advantage, growth, lead
from mmbal_cli.ops.losses import both, ce, masked_mean, true_class_probability


class InfoReg(Uniform):
    """`uniform`, with the leading encoder tied to where its epoch began as long as it still learns fast."""

    card = replace(
        Uniform.card, name="inforeg", kind="gradient, schedule", paper="Huang et al., CVPR 2025, arXiv 2503.18595",
        code="GeWu-Lab/InfoReg_CVPR2025", changes="loss, gradient, schedule", reference=False,
        deviates=("one base for all modalities", "a window for each modality", "traces without the pull's gradient"),
        reduces_to="uniform at K=1",
    )  # fmt: skip
    base = knob(0.95, "strength of the pull", source="official code: 0.95 audio, 0.1 video", low=0, high=1000)
    K = knob(0.05, "growth of the trace above which the pull acts", source="official code", high=1)
    form = knob("code", "strength: by scores, or by losses", source="official code", choices=("code", "paper"))
    tau = knob(64.0, "factor on the lead in scores", source="official code: batch size", low=0, when="form=code")
    history = knob(10, "epochs in the mean trace", source="official code", low=1, when="form=code")
    traces: Tensor
    trace: Tensor
    k: Tensor

    def build(self) -> None:
        """Traces of the last epochs and of this one, and the weights that it began with."""
        super().build()
        shape = (self.S, len(self.mods))
        n = self.history if self.form == "code" else 1
        self.register_buffer("traces", torch.zeros(*shape, n + 1, dtype=self.dtype))
        self.register_buffer("trace", torch.zeros(shape, dtype=self.dtype), persistent=False)
        self.register_buffer("k", torch.ones(shape, dtype=self.dtype), persistent=False)
        self.began = {m: [p.detach().clone() for p in self.enc[m].parameters()] for m in self.mods}

    def begin_epoch(self, peek: Peek) -> None:
        """Remember the weights; how fast the traces grow."""
        self.trace.zero_()
        self.k.copy_(growth(self.traces) if self.epoch else torch.ones_like(self.k))
        self.began = {m: [p.detach().clone() for p in self.enc[m].parameters()] for m in self.mods}

    def end_epoch(self, peek: Peek) -> None:
        """The trace of this epoch joins the last ones."""
        self.traces.copy_(torch.cat([self.traces[..., 1:], self.trace[..., None]], -1))
        for i, m in enumerate(self.mods):
            self.log(f"coef/trace/{m}", self.trace[:, i])
            self.log(f"coef/growth/{m}", self.k[:, i])

    def modulate(self, out: Out, batch: Batch) -> None:
        """Measure the gradient, then add the pull."""
        beta = self.base * torch.where(self.k > self.K, self.strength(out, batch), 0.0)
        for i, m in enumerate(self.mods):
            self.log(f"coef/beta/{m}", beta[:, i])
            for (name, p), start in zip(self.enc[m].named_parameters(), self.began[m], strict=True):
                if p.grad is not None:
                    if name.endswith("weight"):
                        self.trace[:, i] += p.grad.square().flatten(1).mean(1)
                    p.grad += per_seed(beta[:, i], p) * (p - start)

    def strength(self, out: Out, batch: Batch) -> Tensor:
        """How far each modality is ahead [S,M]; 0 for those that do not lead."""
        complete = reduce(both, (batch.present(m) for m in self.mods))
        if self.form == "paper":
            return advantage(torch.stack([ce(out.z[m], batch.y, complete) for m in self.mods], 1))
        scores = [masked_mean(true_class_probability(out.z[m], batch.y), complete) for m in self.mods]
        return lead(torch.stack(scores, 1), self.tau)
