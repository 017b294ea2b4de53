"""UME: uni-modal ensemble (Du et al., ICML 2023, arXiv 2305.01233): where joint training gains little, do without.

Changes: inference. Every modality is trained by itself, exactly as in `unimodal-ensemble`, and keeps its own best
epoch. No official repository is known.

    p = mean over the modalities that a sample has of softmax(z_m)      average = probabilities (default)
    p = softmax(mean of z_m), which is `unimodal-ensemble`              average = logits

The paper's rule chooses between UME and `umt` by whether a joint linear classifier on the frozen unimodal features is
clearly better than UME; nothing is chosen here. Any number of modalities; one alone is that unimodal model. A sample
without any modality gets equal probabilities. `fused` holds the logarithm of the mean, so its softmax is the mean.
"""

from __future__ import annotations

import torch

from mmbal_cli.methods.base import Batch, Card, Out, knob
from mmbal_cli.methods.unimodal_ensemble import UnimodalEnsemble
from mmbal_cli.ops.mixing import mean_of_present


class UME(UnimodalEnsemble):
    """The mean of what the unimodal models predict."""

    card = Card("ume", "inference", "Du et al., ICML 2023, arXiv 2305.01233", changes="inference", fusions=("sum",),
                reduces_to="unimodal-ensemble at average=logits")  # fmt: skip
    average = knob("probabilities", "what is averaged", source="paper", choices=("probabilities", "logits"))

    def forward(self, batch: Batch) -> Out:
        """Per-modality logits, and the mean of their probabilities (or of themselves) over those that are present."""
        out = super().forward(batch)
        if self.average == "probabilities":
            masks = [batch.present(m) for m in self.mods]
            mean = mean_of_present([out.z[m].softmax(-1) for m in self.mods], masks)
            out.fused = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
        return out
