"""OGM: On-the-fly Gradient Modulation (Peng et al., CVPR 2022, arXiv 2203.15332; GeWu-Lab/OGM-GE_CVPR2022).

Changes: gradient. Each step compares how much true-class probability each modality's share of the logits earns,
and damps the encoder gradient of the modality that is ahead; the head is never touched.

    s_m = sum_i softmax(z_m[i])[y_i];  rho_m = mean over j != m of s_m / s_j
    k_m = 1 - tanh(alpha * rho_m) where rho_m > 1, else 1          form = cvpr (default)
    k_m = clamp(1 - alpha * tanh(rho_m - 1), 0, 1), else 1         form = tpami (journal, arXiv 2410.11582)
    g <- k_m g   on the weight matrices of adapter m, in epochs start <= e <= end

Deviations from the official code: it touches 4-D convolution gradients only, which an adapter has none of: all
weight matrices here, no offsets. At rho = 1 exactly k is 1, as in the paper (the code's else-branch shrinks the
second modality). `end` is a share of the epochs (official: 50 of 100). A sample that lacks a modality is left out
of all scores. FiLM and gated heads use zero-out logits (the official slicing assumes a concatenated head).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out, knob
from mmbal_cli.nn.stacked import per_seed
from mmbal_cli.ops.discrepancy import discrepancy
from mmbal_cli.ops.losses import true_class_probability


class OGM(Method):
    """Damping alone."""

    card = Card(
        "ogm", "gradient", "Peng et al., CVPR 2022, arXiv 2203.15332", "GeWu-Lab/OGM-GE_CVPR2022", "gradient",
        ("all weight matrices of an adapter instead of 4-D convolutions", "rho = 1 leaves the gradient alone"),
        min_modalities=2, scales_gradients=True, reduces_to="concat at alpha=0",
    )  # fmt: skip
    alpha = knob(
        0.3,
        "strength of the damping",
        source="BalanceBenchmark; README 0.8 CREMA-D, 0.1 VGGSound",
        low=0,
        high=10,
    )
    form = knob("cvpr", "formula of the coefficient", source="official code", choices=("cvpr", "tpami"))
    start = knob(0, "first modulated epoch (0-based)", source="official code", low=0)
    end = knob(0.5, "last modulated epoch as a share of all", source="official code: 50 of 100", low=0, high=1)

    def modulate(self, out: Out, batch: Batch) -> None:
        """Scale the weight gradients of each adapter by its coefficient."""
        if not self.start <= self.epoch <= self.end * self.phase_epochs:
            return
        for m, k in self.coefficients(out, batch).items():
            self.log(f"coef/k/{m}", k)
            for p in (p for name, p in self.enc[m].named_parameters() if name.endswith("weight")):
                self.change(p, per_seed(k, p), m)

    def change(self, p: Tensor, k: Tensor, m: str) -> None:
        """g <- k g."""
        assert p.grad is not None
        p.grad.mul_(k)

    def coefficients(self, out: Out, batch: Batch) -> dict[str, Tensor]:
        """k_m [S] of this batch."""
        scores = torch.stack([true_class_probability(out.z[m], batch.y) for m in self.mods], 1)  # [S,M,B]
        for m in self.mods:
            mask = batch.present(m)
            if mask is not None:
                scores = scores * mask[:, None]  # only samples with every modality are compared
        rho = discrepancy(scores.sum(-1))  # [S,M]
        if self.form == "cvpr":
            k = 1 - torch.tanh(self.alpha * rho)
        else:
            k = (1 - self.alpha * torch.tanh(rho - 1)).clamp(0, 1)
        k = torch.where(rho > 1, k, torch.ones_like(k))
        return {m: k[:, i] for i, m in enumerate(self.mods)}
