"""SMV: Sample-level Modality Valuation (Wei, Feng, Wang, Hu, CVPR 2024, arXiv 2309.06255), and its form by modality.

Changes: data. Official code: GeWu-Lab/Valuate-and-Enhance-Multimodal-Cooperation. Before every epoch from `warmup` on,
each training sample tells what its modalities contribute to a right prediction; those that contribute little are
trained again, alone:

    v(A) = |A| if the head is right on the features of A with the others 0, else 0;  phi_m: Shapley value of v
    smv:     the N samples, and for each of them and each m max(0, 2 (1 - phi_m)) copies that keep m only
    smv-mod: gap_m = 1 - mean phi_m of part_ratio N drawn samples; x = alpha 2/3 (largest gap - smallest);
             the N samples, and int(p N) drawn ones that keep only the m of the largest gap; p = x, tanh(x), x^1.5
    L = CE(z, y), what is not kept is 0 after its adapter

Both draws of smv-mod are with replacement. The list is built from the N samples every time. The official code gives
1, 2, 3 copies by open intervals of phi, which is 2 (1 - phi) for two modalities; for more, halves round upwards, and
the rule by largest and smallest gap is ours (equal gaps: the first listed). The longer epochs cost up to 5 times the
steps for M = 2: `budget=steps` trains on N of the list. A modality that a sample lacks is no player: it adds nothing to
|A|, gets no copies and does not count in the means; a sample with one modality is copied when it is wrong. One modality
alone is refused: nothing could be masked.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Part, Peek, knob
from mmbal_cli.ops import sampling
from mmbal_cli.ops.losses import having
from mmbal_cli.ops.shapley import shapley, subsets


class SMV(Method):
    """Copies for every sample and modality."""

    card = Card("smv", "data", "Wei, Feng, Wang, Hu, CVPR 2024, arXiv 2309.06255",
                "GeWu-Lab/Valuate-and-Enhance-Multimodal-Cooperation", "data",
                ("the rule for more than two modalities is ours",), min_modalities=2,
                reduces_to="concat at warmup=100000", exercise={"warmup": 1})  # fmt: skip
    warmup = knob(5, "first epochs, of plain training", source="official code; BalanceBenchmark 1", low=0, high=100_000)
    budget = knob("list", "train on the whole list, or on N of it", source="official code", choices=("list", "steps"))

    @torch.no_grad()
    def draw(self, peek: Peek) -> list[Part] | None:
        """The samples and their copies, shuffled."""
        if self.epoch < self.warmup:
            return None
        phi, has = self.contributions(peek)
        sample, kept, chosen, key = self.candidates(phi, has)
        most = phi.shape[1] if self.budget == "steps" else None
        slot, valid = sampling.packed(chosen, key, self.config.batch, most)
        only = kept.gather(1, slot)
        self.log("data/steps", sampling.batches(valid, self.config.batch).to(self.dtype))
        keep = {m: (only < 0) | (only == i) for i, m in enumerate(self.mods)}
        return [Part(sample.gather(1, slot), valid, keep)]

    def random(self, name: str, n: int) -> Tensor:
        """Uniform numbers [S,n] in [0,1)."""
        return self.rng.uniform(f"smv/{name}", (n,), 0, 1, torch.float64).to(self.alive.device)

    def contributions(self, peek: Peek) -> tuple[Tensor, Tensor]:
        """phi [S,N,M] of every training sample, and which modalities it has."""
        phi, has = [], []
        for batch in peek.batches("train"):
            h, values = self.encode(batch), []
            here = having([batch.present(m) for m in self.mods], batch.y)
            for A in subsets(len(self.mods)):
                part = {m: h[m] if i in A else torch.zeros_like(h[m]) for i, m in enumerate(self.mods)}
                right = self.classify(part).fused.argmax(-1) == batch.y
                values.append(sampling.subset_value(right, here[..., list(A)]))
            phi.append(shapley(torch.stack(values, -1).double(), len(self.mods)))
            has.append(here)
        return torch.cat(phi, 1), torch.cat(has, 1)

    def candidates(self, phi: Tensor, has: Tensor) -> tuple[Tensor, ...]:
        """(sample, kept modality or -1, chosen, random key) [S,K] of every item that may be in the list."""
        count = sampling.copies(phi, has)
        for i, m in enumerate(self.mods):
            self.log(f"data/copies/{m}", count[..., i].to(self.dtype).mean(1))
        N, M = count.shape[1:]
        keys = [self.random(f"order/{m}", N * (M + 1)) for m in self.mods]  # whatever their order
        return *sampling.copied(count), torch.cat([self.random("order", N), *keys], 1)

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Features, 0 where a copy does not keep the modality."""
        h = super().encode(batch)
        return {m: x * batch.keep[m][..., None].to(x.dtype) if m in batch.keep else x for m, x in h.items()}


class SMVMod(SMV):
    """Copies for the modality that contributes least in the mean."""

    card = replace(SMV.card, name="smv-mod")
    part_ratio = knob(0.2, "share of the samples that the means are of", source="official code", low=0.001, high=1)
    alpha = knob(1.0, "how many samples are added", source="official code; BalanceBenchmark 0.5", low=0, high=10)
    shape_of = knob("linear", "p of x: x, tanh(x) or x^1.5", source="official code",
                    choices=("linear", "tanh", "power"), name="rule")  # fmt: skip

    def candidates(self, phi: Tensor, has: Tensor) -> tuple[Tensor, ...]:
        """Every sample, and the added ones."""
        N, M = phi.shape[1:]
        rows = (self.random("part", max(1, round(self.part_ratio * N))) * N).long().clamp_max(N - 1)
        weak, spread = sampling.gaps(phi, has, rows)
        p = self.share(spread)
        self.log("data/added", p)
        room = int(self.share(torch.tensor(float(M))) * N) + 1  # no spread is larger than M
        added = (p * N + 1e-4).long()  # no rounding error may cost a sample
        items = sampling.extended(weak, has, added, self.random("added", room))
        return *items, self.random("order", N + room)

    def share(self, spread: Tensor) -> Tensor:
        """p of a difference of gaps."""
        x = self.alpha * 2 / 3 * spread
        return {"linear": x, "tanh": x.tanh(), "power": x**1.5}[self.shape_of]
