"""Late fusion of per-modality logits, each sample by itself, over the modalities that it has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from mmbal_cli.nn.stacked import total
from mmbal_cli.ops.losses import entropy, having, softmax_among


def mean_of_present(values: Sequence[Tensor], present: Sequence[Tensor | None]) -> Tensor:
    """Mean over the modalities that a sample has, [S,B,...]; 0 where it has none."""
    ones = torch.ones_like(values[0][..., :1])
    weights = [ones if mask is None else mask[..., None].to(ones.dtype) for mask in present]
    return total(w * v for w, v in zip(weights, values, strict=True)) / total(weights).clamp_min(1)


def weights(z: Sequence[Tensor], present: Sequence[Tensor | None], rule: str) -> Tensor:
    """Weights [S,B,M] that add up to 1: `sample` is the softmax over modalities of minus the entropy, `off` equal.

    Equal as well for a sample that has no modality at all.
    """
    H = torch.stack([entropy(logits) for logits in z], -1)
    score = -H if rule == "sample" else torch.zeros_like(H)
    return softmax_among(score, having(present, H[..., 0]))


def mixed(z: Sequence[Tensor], present: Sequence[Tensor | None], rule: str) -> Tensor:
    """Weighted sum [S,B,C] of logits."""
    w = weights(z, present, rule)
    return total(w[..., j, None] * logits for j, logits in enumerate(z))


def kept(z: Tensor, present: Tensor | None) -> Tensor:
    """Logits [S,B,C], zero for samples that lack the modality."""
    return z if present is None else z * present[..., None]


def some(present: Sequence[Tensor | None]) -> Tensor | None:
    """Which samples [S,B] have one of the modalities; None when all have."""
    masks = [mask for mask in present if mask is not None]
    return reduce(torch.logical_or, masks) if len(masks) == len(present) else None
