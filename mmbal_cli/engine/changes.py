"""Inputs other than the recorded ones: modalities taken away, noise, samples paired wrongly.

A change maps (modality, `Inputs`) to new features and mask. Changes are deterministic and do not know of methods or
seeds: what one model is shown, all are, so that differences between models stay paired. A modality that a sample
does not have stays absent under every change.

- `absent`, four conventions: `masked` (declared missing, as samples are that lack it), `zeros` (raw features of zero),
  `mean` (mean of the training samples), `resampled` (features of a random training sample, drawn for each modality by
  itself: the product of marginals in Covert et al. 2021, arXiv 2011.14878).
- `noisy`: Gaussian noise on each feature, `snr_db` = 10 log10(its variance in training / variance of the noise).
- `mispaired`: the features of another sample of the split, no sample keeps its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from mmbal_cli.errors import UsageError, nearest

Way = Literal["masked", "zeros", "mean", "resampled"]
ABSENT: tuple[Way, ...] = get_args(Way)


@dataclass(frozen=True)
class Inputs:
    """One modality of a split: x [n,...], mask [n] or [n,T] bool, and what is known of its training samples.

    `train` are the features and masks of training samples that have it; `zero`, `mean`, `deviation` [F] are a raw zero
    and the statistics of training, in the scale that the model sees.
    """

    x: Tensor
    mask: Tensor
    train: tuple[Tensor, Tensor]
    zero: Tensor
    mean: Tensor
    deviation: Tensor

    @property
    def present(self) -> Tensor:
        """Which samples have the modality, bool [n]."""
        return self.mask if self.mask.ndim == 1 else self.mask.any(1)


Change = Callable[[str, Inputs], tuple[Tensor, Tensor]]


def absent(mods: Iterable[str], way: Way = "masked", draw: int = 0) -> Change:
    """Take `mods` away; `draw` numbers the random samples of `resampled`."""
    if way not in ABSENT:
        raise UsageError(f"Unknown way to leave out a modality: '{way}'.", nearest(way, ABSENT))

    def change(m: str, given: Inputs) -> tuple[Tensor, Tensor]:
        if way == "masked":
            return torch.zeros_like(given.x), torch.zeros_like(given.mask)
        if way == "resampled":
            features, masks = given.train
            donor = torch.randint(len(features), (len(given.x),), generator=_stream("resampled", m, draw))
            return _where_present(given, features[donor.to(features.device)], masks[donor.to(features.device)])
        value = given.zero if way == "zeros" else given.mean
        return _where_present(given, value.expand_as(given.x), given.mask)

    return _only(mods, change)


def noisy(mods: Iterable[str], snr_db: float, draw: int = 0) -> Change:
    """Add noise at a signal-to-noise ratio in dB to `mods`."""

    def change(m: str, given: Inputs) -> tuple[Tensor, Tensor]:
        noise = _noise(m, draw, tuple(given.x.shape))
        scaled = noise.to(given.x.device, given.x.dtype) * given.deviation * 10 ** (-snr_db / 20)
        return _where_present(given, given.x + scaled, given.mask)

    return _only(mods, change)


def mispaired(mods: Iterable[str], draw: int = 0) -> Change:
    """Give every sample the `mods` of another one, each modality of a different one."""

    def change(m: str, given: Inputs) -> tuple[Tensor, Tensor]:
        have = given.present.nonzero().squeeze(1)
        order = have[torch.randperm(len(have), generator=_stream("mispaired", m, draw)).to(have.device)]
        x, mask = given.x.clone(), given.mask.clone()
        x[order], mask[order] = given.x[order.roll(1)], given.mask[order.roll(1)]
        return x, mask

    return _only(mods, change)


def _only(mods: Iterable[str], change: Change) -> Change:
    chosen = frozenset(mods)
    return lambda m, given: change(m, given) if m in chosen else (given.x, given.mask)


def _stream(kind: str, m: str, draw: int) -> torch.Generator:
    digest = hashlib.sha256(f"{kind}/{m}/{draw}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@lru_cache(maxsize=4)  # asked for once a level and run, and slow to draw
def _noise(m: str, draw: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=_stream("noise", m, draw), dtype=torch.float64)


def _where_present(given: Inputs, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """`x` and `mask` for samples that have the modality, nothing for the others."""
    mask = mask & given.present.view(-1, *[1] * (mask.ndim - 1))
    return torch.where(mask[..., None], x, 0.0), mask
