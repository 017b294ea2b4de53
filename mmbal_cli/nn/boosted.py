"""Heads of the boosting methods: one shared by all learners, and one that grows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmbal_cli.nn.stacked import Linear, PerModality, per_seed, total
from mmbal_cli.seeds import SeedStreams


class SharedHead(nn.Module):
    """One head for all modalities, with or without a hidden layer, and the factor `beta` [S,1,1] of their sum."""

    def __init__(self, rng: SeedStreams, width: int, classes: int, dtype: torch.dtype, hidden: bool) -> None:
        super().__init__()
        self.hidden = Linear(rng, "shared/hidden", width, width, dtype) if hidden else None
        self.out = Linear(rng, "shared/out", width, classes, dtype)
        self.beta = nn.Parameter(torch.ones(len(rng.seeds), 1, 1, dtype=dtype))

    def forward(self, h: Tensor) -> Tensor:
        """Logits [S,B,C] of one modality, without the factor."""
        return self.out(h if self.hidden is None else torch.relu(self.hidden(h)))


class Growing(nn.Module):
    """Small classifiers of each modality, first[m][t] then one `last` layer that all share; K places for each modality.

    How many of the places are in use, `count` [S,M], differs between seeds and grows during training. A place that is
    not in use adds exactly nothing and gets a gradient of exactly zero.
    """

    count: Tensor

    def __init__(self, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, K: int,
                 dtype: torch.dtype) -> None:  # fmt: skip
        super().__init__()
        self.mods, self.K = mods, K
        self.first = PerModality(
            {m: nn.ModuleList(_place(rng, f"growing/{m}/{t}", width, dtype, t > 0) for t in range(K)) for m in mods}
        )
        self.last = Linear(rng, "growing/last", width, classes, dtype)
        self.register_buffer("count", torch.ones(len(rng.seeds), len(mods), dtype=torch.long))

    def forward(self, h: Tensor, m: str, places: int | None = None) -> tuple[Tensor, Tensor]:
        """Logits [S,B,C] of the earlier classifiers together (zero when there is one only), and of the newest.

        Only the first `places` are looked at: no seed may use more than these.
        """
        n = self.of(m)
        hidden = [torch.relu(first(h)) for first in self.places(m)[:places]]
        early = total(_only(n - 1 > t, r) for t, r in enumerate(hidden))
        new = total(_only(n - 1 == t, r) for t, r in enumerate(hidden))
        assert self.last.bias is not None
        earlier = torch.bmm(early, self.last.weight) + per_seed(n - 1, early) * self.last.bias
        return earlier, self.last(new)

    def of(self, m: str) -> Tensor:
        """How many classifiers a modality has, [S]."""
        return self.count[:, self.mods.index(m)]

    def places(self, m: str) -> list[nn.Module]:
        """First layers of a modality, in use or not."""
        found = self.first[m]
        assert isinstance(found, nn.ModuleList)
        return list(found)


def _only(use: Tensor, r: Tensor) -> Tensor:
    return per_seed(use, r).to(r.dtype) * r


def _place(rng: SeedStreams, name: str, width: int, dtype: torch.dtype, added: bool) -> Linear:
    """A first layer; the added ones start as Glorot's normal numbers without offset."""
    layer = Linear(rng, name, width, width, dtype)
    if added:
        assert layer.bias is not None
        like = torch.empty(layer.weight.shape, dtype=torch.float64)  # both precisions share an initialisation
        with torch.no_grad():
            layer.weight.copy_(rng.normal(f"init/{name}/added", like) / width**0.5)
            layer.bias.zero_()
    return layer
