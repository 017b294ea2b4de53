"""Auxiliary heads on encoders that may see all samples: the model of BMLMI.

graph=none: the usual adapters. graph=snf: graph convolution of each modality over a similarity network fused from all
(`mmbal_cli.nn.graph`). That is transductive: a prediction depends on the features, never the labels, of all samples
of the data set, those of the test split too. Therefore it is off by default, and no other method is comparable to it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmbal_cli.errors import UsageError
from mmbal_cli.methods.base import Batch, Shape, knob
from mmbal_cli.methods.judging import Judging
from mmbal_cli.nn.graph import EXPECTED, GraphAdapter, SimilarityGraph
from mmbal_cli.nn.stacked import PerModality
from mmbal_cli.ops.graph import fused_affinity, normalised_adjacency


class Transductive(Judging):
    """`heads`, with a choice of encoders."""

    graph = knob("none", "snf: graph convolution, transductive: predictions depend on the features of all samples; "
                 "needs complete [N,F] features, N <= 20,000", source="ours, to approach the paper",
                 choices=("none", "snf"))  # fmt: skip

    @classmethod
    def check(cls, shape: Shape, fusion: str, knobs: dict[str, Any]) -> None:
        """Refuse features with time steps too, for graph=snf."""
        super().check(shape, fusion, knobs)
        steps = [m for m, size in shape.modalities.items() if len(size) > 1]
        if knobs["graph"] == "snf" and steps:
            size = list(shape.modalities[steps[0]])
            raise UsageError(f"graph=snf cannot use '{steps[0]}': its features have steps, {size}.", EXPECTED)

    def build(self) -> None:
        """Heads; with graph=snf encoders over one network."""
        super().build()
        if self.graph == "snf":
            self.network = SimilarityGraph(self.mods)
            sizes = {m: self.shape.modalities[m][-1] for m in self.mods}
            self.enc = PerModality(
                {m: GraphAdapter(self.rng, m, self.network, sizes[m], self.config, self.dtype) for m in self.mods}
            )

    def see(self, x: dict[str, Tensor], mask: dict[str, Tensor | None]) -> None:
        """Build the network of all samples, or refuse them."""
        if self.graph == "snf":
            self.network.check(x, mask)
            self.network.connect(x, normalised_adjacency(fused_affinity([x[m] for m in self.mods])))

    def inputs(self, batch: Batch) -> dict[str, tuple[Tensor | None, ...]]:
        """What each encoder takes: features and mask, or rows of the network."""
        return {m: (batch.rows,) if self.graph == "snf" else (batch.x[m], batch.mask[m]) for m in self.mods}

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """h[m] [S,B,D]."""
        return {m: self.enc[m](*values) for m, values in self.inputs(batch).items()}
