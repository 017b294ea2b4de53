"""Agreement of modalities on each sample, and who answers when they disagree.

Scores and probabilities are [S,B,C]; `present` [S,B] bool says which samples have the modality, None = all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmbal_cli.ops.mixing import mean_of_present

Masks = Sequence[Tensor | None]


def pooled(h: Sequence[Tensor], present: Masks, how: str) -> Tensor:
    """Features side by side (`concat`, [S,B,M*D]), their mean over the modalities a sample has, or their maximum.

    A missing modality is 0, which is never above the features of an adapter: they are not negative.
    """
    if how == "concat":
        return torch.cat(list(h), -1)
    return mean_of_present(h, present) if how == "mean" else torch.stack(list(h), -1).amax(-1)


def divergence(p: Tensor, reference: Tensor) -> Tensor:
    """Largest squared gap of a class, [S,B]."""
    return (p - reference).square().amax(-1)


def agreement(d: Sequence[Tensor], bound: float, present: Masks) -> Tensor:
    """Whether every modality that a sample has stays below the bound (strictly), [S,B] bool."""
    below = [x < bound if mask is None else (x < bound) | ~mask for x, mask in zip(d, present, strict=True)]
    return torch.stack(below, -1).all(-1)


def most_certain(z: Sequence[Tensor], p: Sequence[Tensor], present: Masks) -> Tensor:
    """Scores z of the modality with the highest probability of a class, the first one on ties, [S,B,C]."""
    peak = [
        x.amax(-1) if mask is None else x.amax(-1).masked_fill(~mask, -1) for x, mask in zip(p, present, strict=True)
    ]
    who = torch.stack(peak, -1).argmax(-1)[..., None, None]  # [S,B,1,1]
    return torch.stack(list(z), 2).take_along_dim(who, 2).squeeze(2)
