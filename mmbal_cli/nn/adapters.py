"""Trainable encoders of one modality over frozen features: an MLP for [N,F], pooling over time for [N,T,F].

Both return [S,B,D] and give exactly zero for a sample whose modality is missing, so that nothing stored in
its place can reach a loss or a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmbal_cli.nn.stacked import MLP, Linear
from mmbal_cli.recipe import TrainConfig
from mmbal_cli.seeds import SeedStreams


class Adapter(nn.Module):
    """MLP over [S,B,F] features."""

    def __init__(self, rng: SeedStreams, name: str, features: int, config: TrainConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.mlp = MLP(rng, name, features, config.width, config.depth, config.dropout, dtype)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x [S,B,F], mask [S,B] or None (all present) -> [S,B,D]."""
        h = self.mlp(x)
        return h if mask is None else h * mask[..., None].to(h.dtype)


class TemporalAdapter(nn.Module):
    """Frame-wise MLP, then a pooled step over T: learned attention (default) or the mean of valid steps."""

    def __init__(self, rng: SeedStreams, name: str, features: int, config: TrainConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.mlp = MLP(rng, name, features, config.width, config.depth, config.dropout, dtype)
        attentive = config.temporal == "attention"
        self.score = Linear(rng, f"{name}/score", config.width, 1, dtype) if attentive else None

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x [S,B,T,F], mask [S,B,T] or None (all valid) -> [S,B,D]."""
        S, B, T, _ = x.shape
        h = self.mlp(x.flatten(1, 2))  # [S,B*T,D]
        score = h.new_zeros(S, B, T)
        if self.score is not None:  # not a product with one column: its rounding depends on how many seeds are stacked
            assert self.score.bias is not None
            score = ((h * self.score.weight.transpose(1, 2)).sum(-1) + self.score.bias[..., 0]).view(S, B, T)
        if mask is not None:
            score = score.masked_fill(~mask, torch.finfo(score.dtype).min)
        weight = score.softmax(-1)  # [S,B,T]
        if mask is not None:
            weight = weight * mask.to(weight.dtype)  # no valid step: softmax is uniform, the product is zero
        return (weight[..., None] * h.view(S, B, T, -1)).sum(2)  # [S,B,D]


def adapter(
    rng: SeedStreams, modality: str, shape: tuple[int, ...], config: TrainConfig, dtype: torch.dtype
) -> nn.Module:
    """The adapter that fits features of `shape`, (F,) or (T,F)."""
    kind = TemporalAdapter if len(shape) == 2 else Adapter
    return kind(rng, f"enc/{modality}", shape[-1], config, dtype)
