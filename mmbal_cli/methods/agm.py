"""AGM: Adaptive Gradient Modulation (Li et al., ICCV 2023, arXiv 2308.07686; lihong2303/AGM_ICCV2023).

Changes: gradient. The fused logits are split into one response per modality, their Shapley value: it needs outputs with
modalities set to zero and nothing else, so any fusion will do. The gradient that enters the response of a modality
whose lead over the others is larger than it has been so far is damped; that of one that lags its own history is raised.

    V(A) = logits with modalities outside A zero, V(nobody) = 0
    phi_m = sum over A without m of |A|! (M-|A|-1)! / M! (V(A + m) - V(A));  sum_m phi_m = the fused logits
    l_m = mean of -log max(softmax(phi_m)[y], 1e-8);  r_m = exp(M/(M-1) (mean_j l_j - l_m));  tau_m: r_m of lhat
    kappa_m = exp(alpha min(tau_m - r_m, cap)) in epochs start <= e <= end, else 1;  gradient into phi_m: kappa_m times
    then lhat_m <- mean of l_m over all steps so far (0 before the first)
    where an entry of the output layer's gradient exceeds `clip`, the whole gradient is cut to norm `clip`

With an additive fusion phi_m are its per-modality logits, so no further pass is needed: kappa_m then scales the
gradient of adapter m and of its part of the head (with `sum`, a branch that is left out takes its bias along).

Deviations from the official code: features are zeroed at the head, not inputs, for a missing modality is zero features
here and V(A) is what the model answers then; the passes share one dropout mask (there: evaluation mode). Outside the
window kappa is 1 (there: its last value). The exponent is capped for all data sets. The whole fusion counts as output
layer where it has none called head. A sample that lacks a modality is not in its l_m; a batch in which no sample has
some modality is not modulated. Any M by the same formulas.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out, knob
from mmbal_cli.nn.stacked import per_seed, total
from mmbal_cli.ops.gradients import clip_where_steep
from mmbal_cli.ops.losses import ce, having, masked_mean, true_class_probability
from mmbal_cli.ops.shapley import coalitions, shapley


class AGM(Method):
    """Responses of modalities, each with its own factor on the gradient."""

    card = Card(
        "agm", "gradient", "Li et al., ICCV 2023, arXiv 2308.07686", "lihong2303/AGM_ICCV2023", "gradient",
        ("features are zeroed at the head, not inputs", "kappa is 1 outside the window", "a cap on every data set"),
        min_modalities=2, scales_gradients=True, reduces_to="concat at alpha=0, clip=0",
        exercise={"cap": 0.05, "clip": 0.05},
    )  # fmt: skip
    alpha = knob(1.0, "strength of the modulation", source="official code; AV-MNIST 2.5", low=0, high=10)
    cap = knob(10.0, "bound on how far a modality counts as lagging", source="official code, CREMA-D", low=0, high=50)
    start = knob(0, "first modulated epoch (0-based)", source="official code", low=0)
    end = knob(1.0, "last modulated epoch as a share of all", source="ours; official code: 20 of 100", low=0)
    clip = knob(1.0, "bound on the output layer's gradient; 0 = off", source="official code, CREMA-D", low=0, high=1000)
    mean: Tensor  # [S,M] lhat
    count: Tensor  # [S,M] steps in it

    def build(self) -> None:
        """Adapters, fusion, and the running means of the losses."""
        super().build()
        for name in ("mean", "count"):
            self.register_buffer(name, torch.zeros(self.S, len(self.mods), dtype=self.dtype))

    def responses(self, out: Out) -> list[Tensor]:
        """phi_m [S,B,C] of each modality; they add up to the fused logits."""
        if self.fusion.additive:
            return [out.z[m] for m in self.mods]
        M = len(self.mods)
        some = self.fusion.logits(coalitions(out.h)).chunk(2**M - 2, 1)  # all coalitions in one pass
        return list(shapley(torch.stack([*some, out.fused], -1), M).unbind(-1))

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Cross-entropy of the fused logits, whose gradient reaches each modality's response scaled."""
        phi = self.responses(out)
        kappa = self.coefficients([p.detach() for p in phi], batch)
        scaled = total(per_seed(k, p) * (p - p.detach()) for k, p in zip(kappa.unbind(1), phi, strict=True))
        return ce(out.fused.detach() + scaled, batch.y)  # the value is that of the fused logits

    @torch.no_grad()
    def coefficients(self, phi: list[Tensor], batch: Batch) -> Tensor:
        """kappa [S,M] of this batch, which then enters the running means."""
        present = [batch.present(m) for m in self.mods]
        each = [-true_class_probability(p, batch.y).clamp_min(1e-8).log() for p in phi]
        losses = torch.stack([masked_mean(e, p) for e, p in zip(each, present, strict=True)], 1)  # [S,M]
        some = having(present, batch.y).any(1)  # [S,M]
        now = self.start <= self.epoch <= self.end * self.phase_epochs
        kappa = factors(losses, self.mean, self.alpha if now else 0.0, self.cap)
        kappa = torch.where(some.all(1, keepdim=True), kappa, 1.0)
        self.count.add_(some)
        self.mean.add_(torch.where(some, (losses - self.mean) / self.count.clamp_min(1), 0.0))
        for i, m in enumerate(self.mods):
            self.log(f"coef/kappa/{m}", kappa[:, i])
        return kappa

    def modulate(self, out: Out, batch: Batch) -> None:
        """The method's own clip."""
        if self.clip:
            head = getattr(self.fusion, "head", self.fusion)
            clip_where_steep(list(self.parameters()), head.parameters(), self.clip)


def advantage(losses: Tensor) -> Tensor:
    """r [S,M] of losses [S,M]: above 1 for a modality that is ahead of the mean."""
    M = losses.shape[1]
    return torch.exp(M / (M - 1) * (total(losses.unbind(1))[:, None] / M - losses))


def factors(losses: Tensor, mean: Tensor, alpha: float, cap: float) -> Tensor:
    """kappa [S,M] from the losses of a batch and the running means of those before it."""
    lag = (advantage(mean) - advantage(losses)).clamp(max=cap)
    return torch.exp((alpha * lag).clamp(max=40))  # squares of the gradient must stay finite in float32
