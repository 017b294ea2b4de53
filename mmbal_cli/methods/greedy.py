"""Greedy: balancing by conditional learning speed (Wu, Jastrzebski, Cho, Geras, ICML 2022, arXiv 2202.05306).

Changes: fusion, loss, schedule. Official code: nyukat/greedy_multimodal_learning. With the gates of `mmtm` each branch
uses the other modalities. A branch whose gate (bypass) learns fast relative to the branch itself (main), faster than in
the other branches, leans on them. For Q steps its gate is a constant, so that it has to learn by itself.

    L = sum_m CE(z_m, y);  z_m = (g_m * h_m) W_m + b_m with the gates g_m of `mmtm`;  prediction: mean of z_m
    mu(set) = |gradients|^2 / |values|^2, pooled;  main_m = adapter and head of m;  bypass_m = gate of m and the squeeze
    s_m = log10(sum of mu(bypass_m) / sum of mu(main_m)), sums over all regular steps, of unclipped gradients
    max s - min s > eps after a regular step, from epoch `start` on: in the next Q steps g_c is one vector, the mean
    gate of all steps so far, c = argmax s; at least one regular step follows

More than two modalities: the same rule (ours). `curate=random` is the official control: in each step one of the M
branches or none, with equal chances.

Deviations from the official code: each gate has its own mean (there the second one gets the first gate's), saved, and
followed in training only; one gate an adapter (there three stages of a ResNet). With momentum or decay the weights of a
constant gate still move (official: neither). A sample that lacks a modality is not in that branch's loss and mean gate,
nor that branch in its prediction. Reported per-modality logits are those behind the mean gate: live ones know the other
modalities. The fair reference is not concat, but eps=1000: the same network, never curated.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out, knob
from mmbal_cli.nn.fusion.mmtm import MMTM
from mmbal_cli.ops.speed import Curation, learning_speed


class Greedy(Method):
    """Gated branches; the one that leans most on the others is left to itself for a few steps."""

    card = Card(
        "greedy", "fusion, schedule", "Wu et al., ICML 2022, arXiv 2202.05306", "nyukat/greedy_multimodal_learning",
        "fusion, loss, schedule",
        ("each gate has its own running mean", "one gate an adapter", "M > 2: argmax of the speeds is ours"),
        fusions=("mmtm",), min_modalities=2,
    )  # fmt: skip
    eps = knob(0.01, "tolerated difference of log10 speeds", source="official code", low=0, high=1000,
               when="curate=speed")  # fmt: skip
    Q = knob(5, "steps with a constant gate", source="official code", low=1, when="curate=speed")
    start = knob(2, "first epoch with constant gates (1-based)", source="official code", low=1)
    rule = knob("speed", "whose gate is constant: by speed, or by chance", source="official code",
                name="curate", choices=("speed", "random"))  # fmt: skip
    fusion: MMTM

    def build(self) -> None:
        """Gated branches, and the state of their curation."""
        super().build()
        self.curation = Curation(self.S, len(self.mods), self.D, self.dtype)

    def forward(self, batch: Batch) -> Out:
        """With live gates; what a modality says by itself is its branch behind the constant gate."""
        h = self.encode(batch)
        fixed = self.fusion.branches(h, {m: self.curation.mean[:, i, None] for i, m in enumerate(self.mods)})
        return replace(self.answer(h, self.fusion.gates(h), batch), unimodal=lambda _: fixed)

    def answer(self, h: dict[str, Tensor], gates: dict[str, Tensor], batch: Batch) -> Out:
        """The branches behind `gates`, and their mean over the modalities that a sample has."""
        z = self.fusion.branches(h, gates)
        out = Out(h, z[self.mods[0]], lambda _: z)
        out.fused = self.mean_logits(out, batch)
        return out

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Every branch by itself, [S]."""
        return self.unimodal_loss(out, batch)

    def step(self, batch: Batch) -> Tensor:
        """A step in which the mean stands for the gate of the curated branch."""
        h = self.encode(batch)
        live = self.fusion.gates(h)
        gates = {m: self.curation.gate(i, live[m], batch.present(m)) for i, m in enumerate(self.mods)}
        out = self.answer(h, gates, batch)
        each = self.loss(out, batch)
        self.update(each, out, batch)
        return each.detach()

    def modulate(self, out: Out, batch: Batch) -> None:
        """Gradients stay as they are; their lengths say who is curated next."""
        shared = list(self.fusion.squeeze.parameters())
        bypass = [learning_speed([*self.fusion.excite[m].parameters(), *shared]) for m in self.mods]
        main = [learning_speed([*self.enc[m].parameters(), *self.fusion.heads[m].parameters()]) for m in self.mods]
        s = self.curation.speeds(torch.stack(bypass, 1), torch.stack(main, 1))
        for i, m in enumerate(self.mods):
            self.log(f"coef/speed/{m}", s[:, i])
            self.log(f"coef/curated/{m}", self.curation.curated[:, i].to(self.dtype))
        early = self.epoch + 1 < self.start
        if self.rule == "random" and not early:
            chance = self.rng.uniform("greedy", (1,), 0, 1, torch.float64)[:, 0]
            self.curation.choose(chance.to(s.device))
        else:
            self.curation.follow(s, math.inf if early else self.eps, self.Q)
