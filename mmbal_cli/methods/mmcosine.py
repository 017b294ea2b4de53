"""MMCosine: Multi-Modal Cosine Loss (Xu, Feng, Zhang, Hu, ICASSP 2023, arXiv 2303.05338; GeWu-Lab/MMCosine_ICASSP23).

Changes: fusion. A strong modality inflates its share of the joint logits by the norms of its features and of its
weights. Here each share is a scaled cosine: every modality adds at most `s` to any class, and there is no offset.

    z_m = s * cos(h_m, W_m)  for each class, W_m the block of one weight on the concatenated features;  z = sum_m z_m
    L = CE(z, y) + lam * mean over pairs of modalities of InfoNCE(h_m, h_k), temperature 0.1        (lam = 0: not used)

Deviations from the official code: it predicts with the inner products and an offset that was never trained; here, as in
BalanceBenchmark, the trained cosines predict. InfoNCE is the symmetric one, averaged over pairs where there are more
than two modalities. Norms below 1e-6 count as 1e-6. Any number of modalities; one gives a cosine classifier. A missing
modality adds 0 to every class and has no pair.
"""

from __future__ import annotations

from itertools import combinations

from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out, knob
from mmbal_cli.nn.stacked import Linear, total
from mmbal_cli.ops.cosine import cosines
from mmbal_cli.ops.losses import both, contrastive

TEMPERATURE = 0.1


class MMCosine(Method):
    """A joint head of cosines."""

    card = Card(
        "mmcosine", "fusion", "Xu, Feng, Zhang, Hu, ICASSP 2023, arXiv 2303.05338", "GeWu-Lab/MMCosine_ICASSP23",
        "fusion", ("predicts with the logits that are trained, as BalanceBenchmark does",), fusions=(),
    )  # fmt: skip
    s = knob(10.0, "scale of the cosines", source="official code; BalanceBenchmark 15", low=0.01, high=1000)
    lam = knob(0.0, "weight of the contrastive loss", source="official code", low=0, high=100)

    def build(self) -> None:
        """Adapters, and the weight of `concat` without its offset."""
        super().build()
        self.head = Linear(self.rng, "fusion/concat", len(self.mods) * self.D, self.C, self.dtype, bias=False)

    def classify(self, h: dict[str, Tensor]) -> Out:
        """Scaled cosines of each modality, and their sum."""
        blocks = zip(self.mods, self.head.weight.chunk(len(self.mods), dim=1), strict=True)
        z = {m: self.s * cosines(h[m], block) for m, block in blocks}
        return Out(h, total(z.values()), lambda _: z)

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Cross-entropy of the sum, and the contrastive loss if it has a weight."""
        pairs = list(combinations(self.mods, 2))
        if self.lam == 0 or not pairs:
            return super().loss(out, batch)
        near = total(contrastive(out.h[a], out.h[b], TEMPERATURE, both(batch.present(a), batch.present(b)))
                     for a, b in pairs)  # fmt: skip
        return super().loss(out, batch) + self.lam / len(pairs) * near
