"""An LSTM with a leading S, written as one product a step: short sequences, any number of seeds, any device.

    (i, f, g, o) = split([x, h] W + b);  c <- sigmoid(f) * c + sigmoid(i) * tanh(g);  h <- sigmoid(o) * tanh(c)

The state starts at zero. torch's two offsets only ever occur as their sum; here there is one. Initialised like Keras's:
Glorot's bounds for every gate, offsets zero but one for the forget gate. Gates halve a signal in every layer, and from
torch's smaller weights two layers hardly learn in some hundred steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmbal_cli.nn.stacked import sigmoid
from mmbal_cli.seeds import SeedStreams


class LSTM(nn.Module):
    """One layer in one direction; weight [S, in+D, 4D] (inputs first) and bias [S,1,4D]."""

    def __init__(self, rng: SeedStreams, name: str, d_in: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.width = width
        bounds = torch.cat([torch.full((n, 1), (6 / (n + width)) ** 0.5, dtype=torch.float64) for n in (d_in, width)])
        draw = rng.uniform(f"init/{name}/weight", (d_in + width, 4 * width), -1, 1, torch.float64)
        self.weight = nn.Parameter((bounds * draw).to(dtype))
        self.bias = nn.Parameter(torch.zeros(len(rng.seeds), 1, 4 * width, dtype=dtype))
        nn.init.ones_(self.bias[..., width : 2 * width])

    def forward(self, steps: list[Tensor]) -> list[Tensor]:
        """Inputs [S,B,in] of each step -> states [S,B,D] after each."""
        h = c = steps[0].new_zeros(*steps[0].shape[:2], self.width)
        states = []
        for x in steps:
            i, f, g, o = torch.baddbmm(self.bias, torch.cat([x, h], -1), self.weight).chunk(4, -1)
            c = sigmoid(f) * c + sigmoid(i) * torch.tanh(g)
            h = sigmoid(o) * torch.tanh(c)
            states.append(h)
        return states
