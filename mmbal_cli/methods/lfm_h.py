"""LFM-H: dynamically learning the modality gap, scheduled (Yang, Wan, Jiang, Xu, NeurIPS 2024, poster row Ours-H).

Changes: loss and schedule. Official code: njustkmg/NeurIPS24-LFM (CREMA-D only). Fitting one-hot labels is not
equally hard for all modalities and drives imbalance; so alignment without labels first, classification later:

    L = (1 - alpha) CE(z, y) + alpha * mean over pairs j < k of L_jk          z = mean of per-modality logits
    L_jk = 1/2 [CE(K, 1..n) + CE(K^T, 1..n)], K = cos(h_j, h_k) / tau          (align=nce: no projection head,
           negatives = the batch) or 0.5 [KL(m || p_j) + KL(m || p_k)], m = (p_j + p_k) / 2, p = softmax(z_j)   (js)
    alpha(t) = 1 - exp(-1/t), t = 1-based epoch;  schedule=exp: exp(-0.3 e) within [.05, .95], e = t - 1

What the official code really does: its README command has no such schedule (see lfm-lb, `lb=fitted`) and aligns by
`js` with the loss doubled. The first release (29 November 2024) fine-tuned a unimodally pre-trained checkpoint that
was picked on test data; `schedule=exp` with InfoNCE followed a day later, training from scratch in December.

Deviations: formulas of the poster, from scratch, loss not doubled (`loss_scale=2`); `init=unimodal` picks every
part on validation data. Other fusions than `sum` (the code's separate heads, averaged) use their own z. Pairs count
samples that have both modalities. One modality: alpha = 0. Always read it beside `unimodal-ensemble`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Method, Out, Phase, knob
from mmbal_cli.nn.fusion import GENERAL
from mmbal_cli.nn.stacked import total
from mmbal_cli.ops.losses import both, ce, contrastive, reversed_js


class LFM(Method):
    """Alignment and classification mixed by alpha [S]; how alpha moves is the variant."""

    card = Card(
        "lfm", "loss, schedule", "Yang, Wan, Jiang, Xu, NeurIPS 2024", "njustkmg/NeurIPS24-LFM", "loss, schedule",
        ("alignment as the paper states it, not as the released command", "from scratch", "M > 2: mean over pairs"),
        fusions=("sum", *(name for name in GENERAL if name != "sum")),
        stages="init=unimodal: as many epochs of unimodal training before (or `pretrain`), best of each modality kept",
    )  # fmt: skip
    align = knob("nce", "alignment: InfoNCE of the features, or JS of the per-modality logits",
                 source="paper: contrastive; README command: js", choices=("nce", "js"))  # fmt: skip
    tau = knob(0.07, "temperature of InfoNCE", source="official code history", low=1e-3, high=100, when="align=nce")
    loss_scale = knob(1.0, "factor on the whole loss", source="paper (official code: 2)", low=0.01, high=100)
    init = knob("scratch", "start: fresh, or from unimodal training", source="README command (first release: unimodal)",
                choices=("scratch", "unimodal"))  # fmt: skip
    pretrain = knob(0, "epochs of unimodal training, 0 = train.epochs", source="official code: 200, then 20 of LFM",
                    low=0, when="init=unimodal")  # fmt: skip

    def phases(self) -> list[Phase]:
        """Unimodal training if asked for, then the mix."""
        before = [Phase("unimodal", self.pretrain or self.config.epochs)] if self.init == "unimodal" else []
        return [*before, Phase("train", self.config.epochs)]

    def selects(self, parameter: str) -> str:
        """In the unimodal phase every modality keeps its own best epoch."""
        return self.owner(parameter) if self.phase == "unimodal" else "fused"

    def classify(self, h: dict[str, Tensor]) -> Out:
        """Averaged, not summed, logits for separate heads."""
        out = super().classify(h)
        return replace(out, fused=out.fused / len(self.mods)) if self.fusion_name == "sum" else out

    def mix(self) -> Tensor:
        """Weight alpha [S] of the alignment in this epoch."""
        raise TypeError(f"{type(self).__name__} must define mix()")

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """(1 - alpha) classification + alpha alignment, [S]."""
        if self.phase == "unimodal":
            return self.unimodal_loss(out, batch)
        (classification, alignment), alpha = self.terms(out, batch), self.mix()
        self.log("coef/alpha", alpha)
        self.log("train/classification", classification)
        self.log("train/alignment", alignment)
        return self.loss_scale * ((1 - alpha) * classification + alpha * alignment)

    def terms(self, out: Out, batch: Batch) -> tuple[Tensor, Tensor]:
        """Classification and alignment, [S] each."""
        return ce(out.fused, batch.y), self.alignment(out, batch)

    def alignment(self, out: Out, batch: Batch) -> Tensor:
        """Mean over the pairs of modalities, [S]."""
        pairs = []
        for j, k in combinations(self.mods, 2):
            present = both(batch.present(j), batch.present(k))
            if self.align == "js":
                pairs.append(reversed_js(out.z[j], out.z[k], present))
            else:
                pairs.append(contrastive(out.h[j], out.h[k], self.tau, present))
        return total(pairs) / len(pairs) if pairs else torch.zeros_like(out.fused[:, 0, 0])


class LFMH(LFM):
    """The heuristic schedule."""

    card = replace(LFM.card, name="lfm-h")
    schedule = knob("paper", "alpha(t) = 1 - exp(-1/t), or exp(-0.3 e) of the code's history", source="paper",
                    choices=("paper", "exp"))  # fmt: skip

    @property
    def alpha(self) -> float:
        """Weight of the alignment in this epoch."""
        if len(self.mods) == 1:
            return 0.0
        e = self.epoch
        return 1 - math.exp(-1 / (e + 1)) if self.schedule == "paper" else min(max(math.exp(-0.3 * e), 0.05), 0.95)

    def mix(self) -> Tensor:
        """The same alpha for every seed, [S]."""
        return torch.full((self.S,), self.alpha, dtype=self.dtype, device=self.alive.device)
