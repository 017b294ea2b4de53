"""One random generator for each (seed, purpose): seed 3 gives the same numbers alone or in company.

A method that draws noise does not move the shuffle, all methods share initialisation and shuffling for the
same seed (which makes comparisons paired), and everything comes from CPU generators so that numbers do not
depend on the device. The generators' states are part of a checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class SeedStreams:
    """Named random streams for a stack of seeds; every draw has a leading dimension S."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = tuple(int(seed) for seed in seeds)
        self.awake: Sequence[bool] | None = None  # which seeds draw noise in this step; None = all
        self._streams: dict[tuple[int, str], torch.Generator] = {}

    def _generator(self, seed: int, purpose: str) -> torch.Generator:
        key = (seed, purpose)
        if key not in self._streams:
            digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
            self._streams[key] = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return self._streams[key]

    def _stack(self, purpose: str, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(self._generator(seed, purpose)) for seed in self.seeds])

    def permutation(self, purpose: str, n: int) -> Tensor:
        """[S,n] int64: one shuffle of range(n) for each seed."""
        return self._stack(purpose, lambda g: torch.randperm(n, generator=g))

    def uniform(self, purpose: str, shape: Sequence[int], low: float, high: float, dtype: torch.dtype) -> Tensor:
        """[S,*shape] in [low, high); drawn in float64 so that both precisions share an initialisation."""
        draw = self._stack(purpose, lambda g: torch.rand(tuple(shape), generator=g, dtype=torch.float64))
        return (low + (high - low) * draw).to(dtype)

    def normal(self, purpose: str, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape, type and device of `like` [S,...]; 0 for a seed that is not awake."""
        noise = torch.zeros(like.shape, dtype=like.dtype)
        for row, seed in self._drawing(noise):
            row.normal_(generator=self._generator(seed, purpose))
        return noise.to(like.device)

    def bernoulli(self, purpose: str, like: Tensor, p: float) -> Tensor:
        """0/1 numbers of the shape, type and device of `like` [S,...], 1 with probability p; 1 for who is not awake."""
        draw = torch.ones(like.shape, dtype=like.dtype)
        for row, seed in self._drawing(draw):
            row.bernoulli_(p, generator=self._generator(seed, purpose))
        return draw.to(like.device)

    def _drawing(self, rows: Tensor) -> list[tuple[Tensor, int]]:
        """Rows [S,...] and seeds of those that are awake."""
        pairs = list(zip(rows, self.seeds, strict=True))
        return pairs if self.awake is None else [pair for pair, up in zip(pairs, self.awake, strict=True) if up]

    def restart(self, prefix: str) -> None:
        """Begin the streams whose purpose starts with `prefix` again."""
        self._streams = {key: g for key, g in self._streams.items() if not key[1].startswith(prefix)}

    def state(self) -> dict[str, Tensor]:
        """Generator states by `seed/purpose`, uint8 tensors; initialisation is over when a state is taken."""
        live = {key: g for key, g in self._streams.items() if not key[1].startswith("init/")}
        return {f"{seed}/{purpose}": g.get_state() for (seed, purpose), g in live.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue every stream where `state` left it."""
        for key, value in state.items():
            seed, _, purpose = key.partition("/")
            self._generator(int(seed), purpose).set_state(value)
