"""Encoders that see all samples: graph convolution of one modality over a similarity network fused from all.

Transductive: a sample's features depend on every other sample of the data set, validation and test included
(features only, never labels). The network is derived from the features when they are first seen, and not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmbal_cli.errors import UsageError
from mmbal_cli.nn.stacked import MLP
from mmbal_cli.recipe import TrainConfig
from mmbal_cli.seeds import SeedStreams

EXPECTED = "graph=snf needs one feature vector of every modality for every sample; graph=none takes any data."
MOST_NODES = 20_000  # the network is a dense matrix: 1.6 GB in float32


class SimilarityGraph(nn.Module):
    """The network [N,N] and the features that it has averaged once [N,F]; shared by all encoders and their copies."""

    adjacency: Tensor

    def __init__(self, mods: Sequence[str]) -> None:
        super().__init__()
        self.mods = tuple(mods)
        for name in ("adjacency", *(f"{m}_" for m in self.mods)):
            self.register_buffer(name, torch.empty(0), persistent=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> SimilarityGraph:
        return self

    def check(self, x: dict[str, Tensor], mask: dict[str, Tensor | None]) -> None:
        """UsageError for data that no network can be built from."""
        for m in self.mods:
            present = mask[m]
            if present is not None and not bool(present.all()):
                raise UsageError(f"graph=snf cannot use '{m}': some samples lack it.", EXPECTED)
        nodes = len(x[self.mods[0]])
        if nodes > MOST_NODES:
            raise UsageError(f"graph=snf would need a matrix of {nodes} x {nodes} samples.",
                             f"It supports up to {MOST_NODES} samples; graph=none has no limit.")  # fmt: skip

    def connect(self, x: dict[str, Tensor], adjacency: Tensor) -> None:
        """Take the network [N,N] of the samples x[m] [N,F]."""
        self.adjacency = adjacency
        for m in self.mods:
            setattr(self, f"{m}_", adjacency @ x[m])


class GraphAdapter(nn.Module):
    """`depth` layers H' = relu(A H W + b) over all N samples, read at the rows of a batch; A is the network."""

    def __init__(
        self, rng: SeedStreams, m: str, graph: SimilarityGraph, features: int, config: TrainConfig, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.m, self.graph = m, graph
        self.mlp = MLP(rng, f"graph/{m}", features, config.width, config.depth, config.dropout, dtype)

    def forward(self, rows: Tensor, mask: None = None) -> Tensor:
        """rows [S,B] of the data set -> [S,B,D]; only the last layer is confined to them."""
        S, depth = len(rows), len(self.mlp.layers)
        A, averaged = self.graph.adjacency, self.graph.get_buffer(f"{self.m}_")
        h = averaged[rows] if depth == 1 else averaged.expand(S, -1, -1)
        for i, (layer, drop) in enumerate(zip(self.mlp.layers, self.mlp.drops, strict=True)):
            if i:
                h = torch.bmm(A[rows] if i == depth - 1 else A.expand(S, -1, -1), h)
            h = drop(torch.relu(layer(h)))
        return h
