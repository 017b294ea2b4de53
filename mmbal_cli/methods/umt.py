"""UMT: uni-modal teacher (Du et al., ICML 2023, arXiv 2305.01233; earlier arXiv 2106.11059).

Changes: stages and loss. Joint training learns less of each modality than the modality has to give. So every encoder's
feature is pulled to that of a frozen model that was trained on the modality alone.

    stage 1: for each m by itself CE(U_m(T_m(x_m)), y), best validation epoch kept
    stage 2: L = CE(z, y) + lam * sum_m mean over batch and width of (h_m - T_m(x_m))^2

No official repository is known; the trainer of BalanceBenchmark was read, whose lam is the default (the paper tunes it,
10 to 50). Deviations from that trainer: teachers are in evaluation mode, and lam acts throughout, not in a window of
epochs. How much lam weighs depends on the scale of the features, so the distances are recorded (`distance/...`).
`start=teacher` begins with the teachers' encoders, which then are an anchor. Any fusion, any number of modalities; a
sample is pulled only to teachers whose modality it has. The student alone predicts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Batch, Card, Out, Peek, knob
from mmbal_cli.methods.taught import Taught
from mmbal_cli.nn.stacked import total
from mmbal_cli.ops.teaching import feature_distance


class UMT(Taught):
    """Features pulled towards those of unimodal teachers."""

    card = Card(
        "umt", "stages, loss", "Du et al., ICML 2023, arXiv 2305.01233", "", "stages, loss",
        ("no official code: lam and the mean over the width are BalanceBenchmark's",),
        reduces_to="concat at lam=0",
        stages="unimodal teachers for as many epochs as the run, then the student's",
    )  # fmt: skip
    lam = knob(10.0, "weight of the distance to the teachers", source="BalanceBenchmark; paper: tuned, 10 to 50",
               low=0, high=1000)  # fmt: skip
    start = knob("scratch", "where the student's encoders start", source="BalanceBenchmark",
                 choices=("scratch", "teacher"))  # fmt: skip

    @torch.no_grad()
    def begin_phase(self, peek: Peek) -> None:
        """Freeze the teachers; begin anew or from their encoders."""
        super().begin_phase(peek)
        if self.phase == "train" and self.start == "teacher":
            self.enc.load_state_dict(self.teacher.enc.state_dict())

    def lesson(self, out: Out, batch: Batch) -> Tensor:
        """lam times the sum of the distances, [S]."""
        t, _ = self.taught(batch)
        far = {m: feature_distance(out.h[m], t[m], batch.present(m)) for m in self.mods}
        for m in self.mods:
            self.log(f"distance/{m}", far[m])
        return self.lam * total(far.values())
