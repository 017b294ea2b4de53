"""G2D: Gradient-Guided Distillation (Rakib, Bagavathi, ICCV 2025, arXiv 2506.21514; rAIson-Lab/G2D).

Changes: stages, loss and gradient. Unimodal teachers pull the student's features and its fused prediction; in the first
half of training the encoder whose teacher is surer of the label waits, so that the weaker one learns first.

    L = CE(z, y) + sum_m [ kd T^2 KL(softmax(z^T_m / T) || softmax(z / T)) + mse mean (h_m - h^T_m)^2 ]
    s_m = mean of softmax(z^T_m)_y over the batch; in epochs start .. end the weights of encoder argmax s stand still

More than two modalities (ours): the window has M - 1 equal parts, and in the k-th only the k weakest encoders move;
with two this is the official code. The default fusion there is `late`, here `--fusion sum:mean`; its gradients of 4-D
convolutions are those of all weight matrices here (`freeze=all`: the offsets', too).
Deviations from the official code: an encoder that waits is not moved by momentum or decay either; of equal scores
nobody waits (there an error). Scores are means over the samples that have the modality (there sums). Selection on
validation. A sample that lacks a modality is not taught by its teacher. One modality: its own teacher, nobody waits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Out, knob
from mmbal_cli.methods.taught import Taught
from mmbal_cli.nn.stacked import total
from mmbal_cli.ops.gradients import scale_gradients
from mmbal_cli.ops.losses import masked_mean, true_class_probability
from mmbal_cli.ops.teaching import feature_distance, prediction_distance, weakest


class G2D(Taught):
    """Unimodal teachers; the stronger encoder waits."""

    card = Card(
        "g2d", "stages, loss, gradient", "Rakib, Bagavathi, ICCV 2025, arXiv 2506.21514", "rAIson-Lab/G2D",
        "stages, loss, gradient",
        ("an encoder that waits stands still: neither momentum nor decay move it", "M > 2 in M - 1 steps is ours",
         "concatenation by default (official: the mean of the logits, fusion sum:mean)"),
        reduces_to="concat at kd=0, mse=0, start=1, end=0",
        stages="unimodal teachers for as many epochs as the run, then the student's",
    )  # fmt: skip
    kd = knob(1.0, "weight of the teachers' predictions", source="official code", low=0, high=100)
    mse = knob(1.0, "weight of the teachers' features", source="official code", low=0, high=1000)
    T = knob(1.0, "temperature of the predictions", source="official code", low=0.01, high=100)
    start = knob(0, "first epoch in which encoders wait (0-based)", source="official code", low=0)
    end = knob(0.5, "last such epoch as a share of all", source="official code: 150 of 300", low=0, high=1)
    freeze = knob("weights", "what of an encoder waits", source="official code", choices=("weights", "all"))

    def lesson(self, out: Out, batch: Batch) -> Tensor:
        """Distances of features and of the fused prediction to every teacher, [S]; keeps the teachers' logits."""
        t, out.extra = self.taught(batch)
        return total(
            self.kd * prediction_distance(out.fused, out.extra[m], self.T, batch.present(m))
            + self.mse * feature_distance(out.h[m], t[m], batch.present(m))
            for m in self.mods
        )

    def modulate(self, out: Out, batch: Batch) -> None:
        """Let all but the weakest encoders wait."""
        last = int(self.end * self.phase_epochs)
        if self.phase == "teachers" or not self.start <= self.epoch <= last:
            self.opt.rates.clear()
            return
        count = 1 + (self.epoch - self.start) * (len(self.mods) - 1) // (last - self.start + 1)
        moves = weakest(self.scores(out.extra, batch), count).to(self.dtype)  # [S,M]
        for i, m in enumerate(self.mods):
            self.log(f"coef/moves/{m}", moves[:, i])
            named = self.enc[m].named_parameters()
            params = [p for name, p in named if self.freeze == "all" or name.endswith("weight")]
            scale_gradients(params, moves[:, i])
            self.opt.rates.update(dict.fromkeys(params, moves[:, i]))

    def scores(self, taught: dict[str, Tensor], batch: Batch) -> Tensor:
        """How sure each teacher is of the label, [S,M]."""
        p = {m: true_class_probability(z, batch.y) for m, z in taught.items()}
        return torch.stack([masked_mean(p[m], batch.present(m)) for m in self.mods], 1)
