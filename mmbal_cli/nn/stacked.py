"""Layers whose parameters have a leading dimension S: one batched product trains S independent seeds.

Shapes: x [S,B,in] -> [S,B,out]. Parameters are called `weight` or `bias`, by which methods that scale
gradients tell matrices from offsets (a leading S hides the rank). Initialisation follows torch's own
defaults and is drawn from the stream `init/<name>` of each seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor, nn

from mmbal_cli.seeds import SeedStreams


class Linear(nn.Module):
    """S affine maps; weight [S,in,out], bias [S,1,out], both uniform in +-1/sqrt(in)."""

    def __init__(
        self,
        rng: SeedStreams,
        name: str,
        d_in: int,
        d_out: int,
        dtype: torch.dtype = torch.float32,
        bias: bool = True,
    ) -> None:
        super().__init__()
        bound = d_in**-0.5
        self.weight = nn.Parameter(rng.uniform(f"init/{name}/weight", (d_in, d_out), -bound, bound, dtype))
        self.bias = nn.Parameter(rng.uniform(f"init/{name}/bias", (1, d_out), -bound, bound, dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[S,B,in] -> [S,B,out]."""
        return torch.bmm(x, self.weight) if self.bias is None else torch.baddbmm(self.bias, x, self.weight)


class Dropout(nn.Module):
    """Dropout that draws from each seed's own stream; nothing at p = 0 or in evaluation."""

    def __init__(self, rng: SeedStreams, name: str, p: float) -> None:
        super().__init__()
        self.rng, self.name, self.p = rng, name, p

    def forward(self, x: Tensor) -> Tensor:
        """[S,...] -> [S,...]."""
        if not self.training or self.p == 0:
            return x
        return x * self.rng.bernoulli(f"dropout/{self.name}", x, 1 - self.p) / (1 - self.p)


class MLP(nn.Module):
    """`depth` times Linear-ReLU(-Dropout): [S,B,in] -> [S,B,width]."""

    def __init__(
        self,
        rng: SeedStreams,
        name: str,
        d_in: int,
        width: int,
        depth: int,
        dropout: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        sizes = [d_in] + [width] * depth
        self.layers = nn.ModuleList(Linear(rng, f"{name}/{i}", a, b, dtype) for i, (a, b) in enumerate(pairwise(sizes)))
        self.drops = nn.ModuleList(Dropout(rng, f"{name}/{i}", dropout) for i in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """[S,B,in] -> [S,B,width]."""
        for layer, drop in zip(self.layers, self.drops, strict=True):
            x = torch.relu_(layer(x))
            x = drop(x) if drop.p else x
        return x


class PerModality(nn.ModuleDict):
    """One module for each modality under any name: a plain ModuleDict refuses `type`, `keys`, `float`, ..."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__({f"{m}_": module for m, module in modules.items()})

    def __getitem__(self, m: str) -> nn.Module:
        return super().__getitem__(f"{m}_")


def per_seed(value: Tensor, like: Tensor) -> Tensor:
    """View [S] so that it broadcasts over `like` [S,...]."""
    return value.view(-1, *[1] * (like.dim() - 1))


def sigmoid(x: Tensor) -> Tensor:
    """A sigmoid whose rounding ignores where in the stack an element lies."""
    return 0.5 + 0.5 * torch.tanh(0.5 * x)


def total(terms: Iterable[Tensor]) -> Tensor:
    """Sum of equal-shaped tensors, one after the other: a reduction over a stacked dimension rounds by its layout."""
    return reduce(torch.add, terms)
