"""Data Remixing (Ma, Chen, Deng, ICML 2025, arXiv 2506.11550): a sample trains the modality that it is hard for.

Changes: data and loss. Official code: MatthewMaxy/Remix_ICML2025. A fused head and one head a modality (as `heads`).

    warm-up:  L = CE(z, y) + beta sum_m CE(z_m, y), all modalities, in the first `warmup` share of the epochs
    after it: d_m = KL(softmax(z_m) || uniform) = log C - entropy;  a sample belongs to argmin_m d_m (no labels)
              for m, the last listed first: shuffled batches of the samples of m, with h_j = 0 for j != m:
              L = CE(z, y) + gamma CE(z_m, y)

Owners are found anew before every epoch, in evaluation mode; equal d goes to the last listed. No two modalities ever
share a step, so their gradients do not mix; at the end of an epoch each sample was seen once. `uni=zero` is the paper's
variant without heads: z_m of the decision is the fused head's answer to h_m alone (losses as above).

Deviations from the official code: d is not for six classes only. The adapters of absent modalities are not moved at
all; there they get a zero gradient, so that momentum and decay still move them (`decay_absent`). One beta and one gamma
for all modalities (there one each, all equal). For M > 2 the order reversed is ours. A modality that a sample lacks
does not own it; a sample without any is left out after the warm-up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Out, Part, Peek, knob
from mmbal_cli.methods.heads import Heads
from mmbal_cli.ops.losses import ce, entropy, having
from mmbal_cli.ops.sampling import most_uncertain, packed


class Remix(Heads):
    """Batches of one modality, of the samples whose prediction by it is least certain."""

    card = Card("remix", "data", "Ma, Chen, Deng, ICML 2025, arXiv 2506.11550", "MatthewMaxy/Remix_ICML2025",
                "data, loss", ("adapters of absent modalities are not moved by momentum and decay",),
                min_modalities=2, reduces_to="heads at beta=1, warmup=1",
                ordered="an epoch trains one modality after the other, the last listed first")  # fmt: skip
    beta = knob(0.5, "weight of the unimodal losses in the warm-up", source="official code", low=0, high=100)
    gamma = knob(1.0, "weight of the unimodal loss after it", source="official code", low=0, high=100)
    warmup = knob(0.1667, "warm-up, as a share of the epochs", source="official code: 10 of 60", low=0, high=1)
    uni = knob("aux", "who says what is hard: own heads, or the fused one", source="paper", choices=("aux", "zero"))
    decay_absent = knob(False, "momentum and decay move adapters of absent modalities", source="official code: true")

    @torch.no_grad()
    def draw(self, peek: Peek) -> list[Part] | None:
        """One part for each modality: the samples that it owns."""
        if self.epoch < round(self.warmup * self.phase_epochs):
            return None
        owner = self.owners(peek)
        key = self.rng.permutation("remix/order", owner.shape[1]).to(owner.device)
        parts = []
        for i, m in reversed(list(enumerate(self.mods))):
            self.log(f"data/owned/{m}", (owner == i).to(self.dtype).mean(1))
            parts.append(Part(*packed(owner == i, key, self.config.batch), name=m))
        return parts

    def owners(self, peek: Peek) -> Tensor:
        """Index of the modality that owns each training sample [S,N], -1 of none."""
        found = []
        for batch in peek.batches("train"):
            h = self.encode(batch)
            z = self.own(h) if self.uni == "aux" else self.fusion.alone(h)
            has = having([batch.present(m) for m in self.mods], batch.y)
            found.append(most_uncertain(torch.stack([entropy(z[m]) for m in self.mods], -1), has))
        return torch.cat(found, 1)

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """All features; in a part those of its modality, the others 0."""
        m = batch.part
        if not m:
            return super().encode(batch)
        if self.decay_absent:
            return {q: h if q == m else h * 0 for q, h in super().encode(batch).items()}
        own = self.enc[m](batch.x[m], batch.mask[m])
        return {q: own if q == m else torch.zeros_like(own) for q in self.mods}

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """That of `heads` in the warm-up, else of the fused and the part's own head; [S]."""
        m = batch.part
        if not m:
            return super().loss(out, batch)
        return ce(out.fused, batch.y, batch.valid) + self.gamma * ce(self.heads[m](out.h[m]), batch.y, batch.valid)
