"""The stack of CEN: layers with shared weights, batch norm for each modality, and exchange of channels between them.

u_m = BN_m(h_m A);  u'_m,d = mean over j != m of u_j,d  where |gamma_m,d| < theta, else u_m,d;  h_m <- relu(u'_m)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mmbal_cli.nn.norm import BatchNorm
from mmbal_cli.nn.stacked import Linear, PerModality, total
from mmbal_cli.seeds import SeedStreams

Features = dict[str, Tensor]
Masks = Mapping[str, Tensor | None]


class ExchangeLayer(nn.Module):
    """One linear map without offset for all modalities, one batch norm for each."""

    def __init__(self, rng: SeedStreams, name: str, mods: tuple[str, ...], width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.mods = mods
        self.linear = Linear(rng, name, width, width, dtype, bias=False)
        self.norm = PerModality({m: BatchNorm(len(rng.seeds), width, dtype) for m in mods})

    def forward(self, h: Features, theta: float, present: Masks) -> Features:
        """h [S,B,D] -> [S,B,D]."""
        u = {m: self.norm[m](self.linear(h[m]), present[m]) for m in self.mods}
        return {m: torch.relu(x) for m, x in exchange(u, self.gamma(), theta, present).items()}

    def gamma(self) -> Features:
        """Scales [S,1,D] of the batch norms."""
        return {m: cast(BatchNorm, self.norm[m]).weight for m in self.mods}


class ExchangeStack(nn.Module):
    """h_m [S,B,D] -> [S,B,D]."""

    def __init__(self, rng: SeedStreams, mods: tuple[str, ...], width: int, layers: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ExchangeLayer(rng, f"exchange/{i}", mods, width, dtype) for i in range(layers))

    def forward(self, h: Features, theta: float, present: Masks) -> Features:
        """Features of each modality, partly those of the others."""
        for layer in self.layers:
            h = layer(h, theta, present)
        return h

    def gammas(self) -> list[Features]:
        """Scales of each layer."""
        return [cast(ExchangeLayer, layer).gamma() for layer in self.layers]

    def sparsity(self) -> Tensor:
        """Sum over the layers of `share_norm`, [S]."""
        return total(share_norm(gamma) for gamma in self.gammas())

    def exchanged(self, theta: float) -> Features:
        """Share of its channels that each modality takes from the others, [S]."""
        layers = self.gammas()
        below = {m: [(g[m][:, 0].abs() < theta).to(g[m].dtype).mean(-1) for g in layers] for m in layers[0]}
        return {m: total(each) * float(len(below) > 1) / len(each) for m, each in below.items()}


def exchange(u: Features, gamma: Features, theta: float, present: Masks) -> Features:
    """u [S,B,D] with the channels of small |gamma| [S,1,D] replaced by the mean of the others that a sample has.

    A sample without any other modality keeps its own.
    """
    if len(u) == 1:
        return u
    here: Features = {}
    for m, x in u.items():
        mask = present[m]
        here[m] = torch.ones_like(x[..., :1]) if mask is None else mask[..., None].to(x.dtype)  # [S,B,1]
    found: Features = {}
    for m, own in u.items():
        count = total(here[j] for j in u if j != m)
        other = total(here[j] * u[j] for j in u if j != m) / count.clamp_min(1)
        found[m] = torch.where((gamma[m].abs() < theta) & (count > 0), other, own)
    return found


def share_norm(gamma: Features) -> Tensor:
    """Sum of |gamma_m| over the m-th of M equal parts of the channels, [S]; 0 for a single modality.

    Only one modality is asked to give up a channel. Parts go by alphabet, so that the order of the data set is nothing.
    """
    parts = [gamma[m][:, 0].tensor_split(len(gamma), -1)[i] for i, m in enumerate(sorted(gamma))]
    return total(part.abs().sum(-1) * float(len(gamma) > 1) for part in parts)
