"""ARL: Asymmetric Representation Learning (Wei, Luo, Luo, ICCV 2025, arXiv 2507.10203).

Changes: loss and gradient. Official code: shicaiwei123/ICCV2025-ARL. The variance of a weighted sum is least when
weights go as 1/variance, so equal learning is not the goal: the entropy of each modality's own logits u_m stands
for its variance, and the encoder whose share of the logits is below that target is boosted.

    L   = CE(z, y) + gamma * sum_m CE(u_m, y)            u_m: shared head, the other features zero
    H_m = mean entropy of softmax(u_m);  Hn_m = max(H_m / sum_k H_k, floor);  q_m = (1/Hn_m) / sum_k (1/Hn_k)
    d_m = A_m / sum_k A_k,  A_m = sum_c mean_i |u_m[i,c]|
    M = 2: w = softmax(T * [d_2 q_1, d_1 q_2]);  M > 2: the same on every pair, w_m = mean over its pairs (`pairs`),
           or w = softmax(T * q / d) (`ratio`)
    gradient of adapter m <- (1 + w_m) gradient; epochs <= start: gamma = 1 and no scale

Deviations from the official code: w is used (there it is printed and a constant 0.5 is applied: `modulate=constant`);
no lag of one step; the other modality's features alone decide (no truncated test batch, no selection on test).
Entropy comes from log-softmax. `mmbal` always shows `modulate=off` beside it: gamma alone may be most of the gain.
Single sources for M > 2 are not known: `pairs` is ours. Samples that lack a modality are left out of its statistics.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out, knob
from mmbal_cli.nn.stacked import total
from mmbal_cli.ops.gradients import scale_gradients
from mmbal_cli.ops.losses import ce, entropy, masked_mean


class ARL(Method):
    """Unimodal losses through the shared head, and gradients scaled towards inverse-variance shares."""

    card = Card(
        "arl", "loss, gradient", "Wei, Luo, Luo, ICCV 2025, arXiv 2507.10203", "shicaiwei123/ICCV2025-ARL",
        "loss, gradient",
        ("the dynamic coefficient is applied (the released code applies a constant 1.5)", "M > 2 by pairs is ours"),
        min_modalities=2, scales_gradients=True, reduces_to="concat at gamma=0, modulate=off, start=-1",
        exercise={"start": 0},
    )  # fmt: skip
    gamma = knob(4.0, "weight of the unimodal losses", source="paper: 4 on all sets", low=0, high=100)
    T = knob(4.0, "temperature of the coefficient", source="paper: 4, CREMA-D 8", low=0, high=1000,
                      when="modulate=dynamic")  # fmt: skip
    start = knob(5, "last warm-up epoch (0-based; -1 = none)", source="official code", low=-1)
    floor = knob(0.3, "lower bound of the entropy share", source="official code", low=0.001, high=1,
                      when="modulate=dynamic")  # fmt: skip
    scale = knob("dynamic", "gradient scale: 1 + w, constant 1.5, or 1", source="paper", name="modulate",
                       choices=("dynamic", "constant", "off"))  # fmt: skip
    many = knob("pairs", "rule for more than two modalities", source="ours", choices=("pairs", "ratio"),
                      when="modulate=dynamic")  # fmt: skip

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Fused plus unimodal cross-entropies, [S]; keeps the unimodal logits for `modulate`."""
        out.extra |= self.fusion.alone(out.h)
        own = total(ce(out.extra[m], batch.y, batch.present(m)) for m in self.mods)
        return ce(out.fused, batch.y) + (1.0 if self.warm else self.gamma) * own

    @property
    def warm(self) -> bool:
        """Whether this epoch belongs to the warm-up."""
        return self.epoch <= self.start

    def modulate(self, out: Out, batch: Batch) -> None:
        """Scale each adapter's gradient by 1 + w_m."""
        if self.warm or self.scale == "off":
            return
        w = self.weights(out, batch) if self.scale == "dynamic" else out.fused.new_full((self.S, len(self.mods)), 0.5)
        for i, m in enumerate(self.mods):
            self.log(f"coef/w/{m}", w[:, i])
            scale_gradients(self.enc[m].parameters(), 1 + w[:, i])

    def weights(self, out: Out, batch: Batch) -> Tensor:
        """w [S,M] of this batch."""
        u = [out.extra[m] for m in self.mods]
        present = [batch.present(m) for m in self.mods]
        H = torch.stack([masked_mean(entropy(z), p) for z, p in zip(u, present, strict=True)], 1)  # [S,M]
        A = torch.stack([masked_mean(z.abs().sum(-1), p) for z, p in zip(u, present, strict=True)], 1)
        for i, m in enumerate(self.mods):
            self.log(f"coef/entropy/{m}", H[:, i])
            self.log(f"coef/dependence/{m}", A[:, i] / A.sum(1).clamp_min(1e-12))
        return coefficients(H, A, self.T, self.floor, self.many)


def shares(H: Tensor, A: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Target share q and actual share d, [...,M] each, of entropies H and magnitudes A."""
    M = H.shape[-1]
    total = H.sum(-1, keepdim=True)
    Hn = torch.where(total < M * 1e-8, torch.full_like(H, 1 / M), H / total.clamp_min(1e-12)).clamp_min(floor)
    q = (1 / Hn) / (1 / Hn).sum(-1, keepdim=True)
    size = A.sum(-1, keepdim=True)
    d = torch.where(size == 0, torch.full_like(A, 1 / M), A / size.clamp_min(1e-12))
    return q, d


def coefficients(H: Tensor, A: Tensor, T: float, floor: float, many: str) -> Tensor:
    """w [S,M] from entropies H [S,M] and magnitudes A [S,M]; sums to M/2 by pairs."""
    M = H.shape[1]
    if many == "ratio" and M > 2:
        q, d = shares(H, A, floor)
        return (T * q / d.clamp_min(1e-8)).softmax(1)
    pair = torch.combinations(torch.arange(M, device=H.device))  # [P,2]
    q, d = shares(H[:, pair], A[:, pair], floor)  # [S,P,2]
    w = (T * d.flip(-1) * q).softmax(-1)
    total = torch.zeros_like(H).index_add_(1, pair.flatten(), w.flatten(1))
    return total / (M - 1)
