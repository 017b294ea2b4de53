"""What unimodal teachers say to a student: distances to their features and predictions, and who learns first."""

from __future__ import annotations

from torch import Tensor

from mmbal_cli.ops.losses import kl, masked_mean


def feature_distance(h: Tensor, t: Tensor, present: Tensor | None = None) -> Tensor:
    """Mean square [S] of h - t over the width and the present samples, both [S,B,D]."""
    return masked_mean((h - t).square().mean(-1), present)


def prediction_distance(z: Tensor, taught: Tensor, T: float, present: Tensor | None = None) -> Tensor:
    """T^2 KL(softmax(taught / T) || softmax(z / T)) [S], mean over the present samples of logits [S,B,C]."""
    return T**2 * masked_mean(kl((taught / T).softmax(-1), z / T), present)


def weakest(s: Tensor, count: int) -> Tensor:
    """Which modalities [S,M] have fewer than `count` strictly below their score s [S,M]: equals stay together."""
    return (s[:, :, None] > s[:, None, :]).sum(2) < count
