"""What side classifiers say: shares of improvement, and how far output layers point where the classifiers point."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmbal_cli.nn.stacked import PerModality
from mmbal_cli.ops.losses import masked_mean, unit

LEAST = 1e-6  # improvement of all modalities together that can be divided by


def output_layers(fusion: nn.Module) -> list[Tensor]:
    """Weights of a fusion's last layer: one for each modality (`heads`), or one for all (`head`)."""
    heads = getattr(fusion, "heads", None)
    layers = heads.children() if isinstance(heads, PerModality) else [fusion.get_submodule("head")]
    return [layer.get_parameter("weight") for layer in layers]


def of_each(W: Sequence[Tensor], M: int, D: int) -> list[Tensor]:
    """W_m [S,D,C] of every modality: its own, its block of one layer on M D features, else the whole layer."""
    if len(W) == M:
        return list(W)
    return list(W[0].chunk(M, 1)) if W[0].shape[1] == M * D else [W[0]] * M


def accuracy(z: Tensor, y: Tensor, present: Tensor | None, otherwise: Tensor) -> Tensor:
    """Share of right answers [S] of logits z [S,B,C] among present samples; `otherwise` [S] where there are none."""
    found = masked_mean((z.argmax(-1) == y).to(z.dtype), present)
    return found if present is None else torch.where(present.any(1), found, otherwise)


def others_share(D: Tensor, guard: bool = True) -> Tensor:
    """c [S,M] of improvements D [S,M]: the share of the whole improvement that the other modalities made.

    Its sum is M - 1. Guarded, a loss of accuracy counts as no improvement, and without any all shares are equal;
    else c is negative or huge where improvements cancel.
    """
    M = D.shape[1]
    if not guard:
        whole = D.sum(1, keepdim=True) + 1e-8
        return (whole - D) / whole
    D = D.clamp_min(0)
    whole = D.sum(1, keepdim=True)
    return torch.where(whole < LEAST, (M - 1) / M, (whole - D) / whole.clamp_min(LEAST))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine [S] of a and b [S,...], each one long vector; 0 where one is zero."""
    return (unit(a.flatten(1)) * unit(b.flatten(1))).sum(1)


def misalignment(c: Tensor, cosines: Tensor) -> Tensor:
    """Mean over modalities of |c| - c cos, [S]."""
    return (c.abs() - c * cosines).sum(1) / c.shape[1]
