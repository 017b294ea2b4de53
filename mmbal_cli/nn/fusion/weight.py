"""Attention over modalities (CMML: Yang et al., IJCAI 2019): a weight for each sample and modality, shared scorer.

    a_m = MLP(h_m), D -> 64 -> 32 -> 1 with ReLU, one MLP for all modalities;  w = softmax over m of a
    default   z = sum_m w_m z_m,  z_m = h_m W_m + b_m                      prediction weighting, read from the row name
    feat      z = (sum_m w_m h_m) W + b                                    CMML's code
    elem      A_m = softmax over the features of h_m;  z = (sum_m A_m / (sum_j A_j) * h_m) W + b     AMSS's `cmml`
    static    as the default with the same learned weights for every sample, w = softmax over m of M scalars

Deviations from the official code: plain cross-entropy (there: unimodal losses, a cosine and a Huber term on unlabelled
data), and the fused head learns (there it is missing from the optimizer's parameters). Per-modality logits are z_m
where there are such heads, else those with the other features set to zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmbal_cli.nn.fusion.base import Features, Fusion
from mmbal_cli.nn.stacked import MLP, Linear, PerModality, total
from mmbal_cli.seeds import SeedStreams


class Scorer(nn.Module):
    """D -> 64 -> 32 -> 1 with ReLU between."""

    def __init__(self, rng: SeedStreams, name: str, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = MLP(rng, f"{name}/0", width, 64, 1, 0.0, dtype)
        self.second = MLP(rng, f"{name}/1", 64, 32, 1, 0.0, dtype)
        self.last = Linear(rng, f"{name}/2", 32, 1, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[S,B,D] -> [S,B]."""
        hidden = self.second(self.first(x))
        assert self.last.bias is not None  # not a product with one column: its rounding depends on the stack
        return (hidden * self.last.weight.transpose(1, 2)).sum(-1) + self.last.bias[..., 0]


class Scalar(nn.Module):
    """One learned number for each seed, from zero."""

    def __init__(self, S: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(S, 1, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """[S,B,D] -> [S,B]."""
        return self.weight.expand(x.shape[:2])


class Weight(Fusion):
    """A convex combination of predictions or features."""

    def __init__(
        self, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, dtype: torch.dtype, variant: str = ""
    ) -> None:
        super().__init__(rng, mods, width, classes, dtype, variant)
        if variant in ("", "feat"):
            self.score = Scorer(rng, "fusion/weight/score", width, dtype)
        if variant == "static":
            self.scalars = PerModality({m: Scalar(len(rng.seeds), dtype) for m in mods})
        if variant in ("", "static"):
            self.heads = PerModality({m: Linear(rng, f"fusion/weight/{m}", width, classes, dtype) for m in mods})
        else:
            self.head = Linear(rng, "fusion/weight/head", width, classes, dtype)

    def weights(self, h: Features) -> Features:
        """w_m of each modality, [S,B,1], or [S,B,D] for `elem`; they add up to one."""
        if self.variant == "elem":  # A_m / sum_j A_j in logarithms: where every A_m underflows there is still a weight
            w = torch.stack([h[m].log_softmax(-1) for m in self.mods], -1).softmax(-1)  # [S,B,D,M]
            return {m: w[..., i] for i, m in enumerate(self.mods)}
        score = self.scalars if self.variant == "static" else dict.fromkeys(self.mods, self.score)
        w = torch.stack([score[m](h[m]) for m in self.mods], -1).softmax(-1)  # [S,B,M]
        return {m: w[..., i : i + 1] for i, m in enumerate(self.mods)}

    def logits(self, h: Features) -> Tensor:
        """Weighted predictions, or the prediction of the weighted features."""
        w, predict = self.weights(h), self.variant in ("", "static")
        parts = self.unimodal(h) if predict else h
        mixed = total(w[m] * parts[m] for m in self.mods)
        return mixed if predict else self.head(mixed)

    def alone(self, h: Features) -> Features:
        """A head's own logits; where there is one head, its answer when the other features are zero."""
        if self.variant in ("", "static"):
            return {m: self.heads[m](h[m]) for m in self.mods}
        return super().alone(h)
