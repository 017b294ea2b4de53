"""Two LSTM layers over the modalities as a sequence (after Nie et al., MTAP 2021, doi 10.1007/s11042-020-08796-8).

    x_m = h_m U_m + c_m;  s = two LSTM layers of width D over x_1 .. x_M from a zero state;  z = s_M W + b

Reconstructed: the paper's layers run over the utterances of a video, which one vector a sample does not have, so the
steps are the modalities in the order of the data set. `mean`: z from the mean of the top states instead of the last.
`bidir`: each layer in both directions, z from the last state of each. Per-modality logits set the others to 0.
A single modality is no sequence: z = h W + b.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from mmbal_cli.nn.fusion.base import Features, Fusion
from mmbal_cli.nn.lstm import LSTM
from mmbal_cli.nn.stacked import Linear, PerModality, total
from mmbal_cli.seeds import SeedStreams

LAYERS = 2


class MLLSTM(Fusion):
    """The order of the modalities is the order of time."""

    def __init__(
        self, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, dtype: torch.dtype, variant: str = ""
    ) -> None:
        super().__init__(rng, mods, width, classes, dtype, variant)
        ways = ("forward", "backward") if variant == "bidir" else ("forward",)
        wide = width * len(ways)
        if len(mods) == 1:
            self.head = Linear(rng, "fusion/ml-lstm/head", width, classes, dtype)
            return
        self.token = PerModality({m: Linear(rng, f"fusion/ml-lstm/{m}", width, width, dtype) for m in mods})
        self.layers = nn.ModuleList()
        for i in range(LAYERS):
            name, d_in = f"fusion/ml-lstm/layer{i}", wide if i else width
            self.layers.append(nn.ModuleList(LSTM(rng, f"{name}/{way}", d_in, width, dtype) for way in ways))
        self.head = Linear(rng, "fusion/ml-lstm/head", wide, classes, dtype)

    def logits(self, h: Features) -> Tensor:
        """Fused logits [S,B,C]."""
        if len(self.mods) == 1:
            return self.head(h[self.mods[0]])
        steps = [self.token[m](h[m]) for m in self.mods]
        for layer in self.layers:
            cells = list(cast(nn.ModuleList, layer))
            ways = [cells[0](steps), *(cell(steps[::-1])[::-1] for cell in cells[1:])]
            steps = [torch.cat(states, -1) for states in zip(*ways, strict=True)]
        if self.variant == "mean":
            return self.head(total(steps) / len(steps))
        return self.head(torch.cat([ways[0][-1], *(states[0] for states in ways[1:])], -1))
