"""One run under changed inputs: every subset of modalities, noise at set SNR, modalities of another sample.

What a condition is, is decided in `engine/changes.py`, the same for all methods and seeds; what is made of the numbers
is in `report/robustness.py`. Each number is a `Measured`: values of seeds with the influence of every sample, so that
differences are paired over samples and seeds. Conditions that draw (noise, mis-pairing, `resampled`) are averaged over
`draws` draws, each seed by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np

from mmbal_cli.errors import CacheError, MmbalError
from mmbal_cli.report.fresh import fresh
from mmbal_cli.report.measure import measure
from mmbal_cli.report.predictions import Predictions
from mmbal_cli.report.runs import Run
from mmbal_cli.report.statistics import Measured, combined

if TYPE_CHECKING:
    from mmbal_cli.engine.changes import Change, Way
    from mmbal_cli.engine.opened import Opened

SNR = (20.0, 10.0, 5.0, 0.0, -5.0)
DRAWS = 3
Kind = Literal["subset", "noise", "mispaired"]


@dataclass(frozen=True)
class Asked:
    """What to measure: metric, convention for absent modalities, noise levels in dB, draws, label of the baseline."""

    metric: str = "accuracy"
    way: Way = "masked"
    snr: tuple[float, ...] = SNR
    draws: int = DRAWS
    baseline: str = ""
    device: str = "auto"


@dataclass(frozen=True)
class Condition:
    """Changed inputs. `mods` are the modalities that are left ("subset"), noisy, or from another sample."""

    kind: Kind
    mods: tuple[str, ...]
    snr: float | None = None
    draws: int = 1


@dataclass
class Measurements:
    """One run: the modalities of its method, and its metric on clean and on changed inputs.

    `refused` are the conditions that the method cannot be put in, with the reason; `flaws` the seeds whose predictions
    were not finite, with the condition; `empty` how many samples a subset leaves without any modality (answered
    without input); `differs` how many clean predictions of all seeds are not the saved ones.
    """

    mods: tuple[str, ...]
    samples: int
    clean: Measured
    changed: dict[Condition, Measured] = field(default_factory=dict)
    refused: dict[Condition, str] = field(default_factory=dict)
    flaws: dict[int, str] = field(default_factory=dict)
    empty: dict[Condition, int] = field(default_factory=dict)
    differs: int = 0


def conditions(mods: Sequence[str], asked: Asked) -> Iterator[Condition]:
    """All conditions of a method of `mods`: no subset and no wrong pair of a single one."""
    mods = tuple(mods)
    several = len(mods) > 1
    for size in range(len(mods) - 1, 0, -1):
        for kept in combinations(mods, size):
            yield Condition("subset", kept, draws=asked.draws if asked.way == "resampled" else 1)
    for noisy in (*((m,) for m in mods if several), mods):
        for snr in asked.snr:
            yield Condition("noise", noisy, snr, asked.draws)
    for m in mods if several else ():
        yield Condition("mispaired", (m,), draws=asked.draws)


def change_of(condition: Condition, mods: Sequence[str], asked: Asked, draw: int) -> Change:
    """The change of inputs that a condition stands for."""
    from mmbal_cli.engine.changes import absent, mispaired, noisy

    if condition.kind == "subset":
        return absent([m for m in mods if m not in condition.mods], asked.way, draw)
    if condition.snr is not None:
        return noisy(condition.mods, condition.snr, draw)
    return mispaired(condition.mods, draw)


def stressed(run: Run, opened: Opened, split: str, asked: Asked, saved: Mapping[int, Predictions]) -> Measurements:
    """Predict `split` under all conditions. MmbalError where not even the clean inputs can be predicted."""
    clean = fresh(opened, split)
    first = next(iter(clean.values()))
    flaws: dict[int, str] = {}
    value = _measured(run, clean, asked.metric, "clean inputs", flaws)
    found = Measurements(opened.mods, len(first.labels), value, flaws=flaws, differs=_differing(clean, saved))
    for condition in conditions(opened.mods, asked):
        draws, where = [], f"{condition.kind} {'+'.join(condition.mods)}"
        if condition.kind == "mispaired" and min(first.present[m].sum() for m in condition.mods) < 2:
            found.refused[condition] = f"fewer than two samples have {condition.mods[0]}"
            continue
        try:
            for draw in range(condition.draws):
                made = fresh(opened, split, change_of(condition, opened.mods, asked, draw))
                draws.append(_measured(run, made, asked.metric, where, flaws))
        except MmbalError as error:
            found.refused[condition] = error.found
            continue
        found.changed[condition] = combined([(1 / len(draws), each) for each in draws])
        if condition.kind == "subset":
            left = np.any([first.present[m] for m in condition.mods if m in first.present], axis=0)
            found.empty[condition] = int(np.count_nonzero(~left))
    return found


def _measured(run: Run, made: Mapping[int, Predictions], metric: str, where: str, flaws: dict[int, str]) -> Measured:
    good, failed = run.judge(made)
    for seed in made:
        if seed in failed:
            flaws.setdefault(seed, f"{failed[seed]} on {where}")
    return measure(good, metric)


def _differing(clean: Mapping[int, Predictions], saved: Mapping[int, Predictions]) -> int:
    """In how many cases the predicted class is not the saved one. CacheError for other samples."""
    common = [(clean[seed], saved[seed]) for seed in clean if seed in saved]
    if any(one.samples() != other.samples() for one, other in common):
        raise CacheError("The prepared data set has other samples or labels than the saved predictions.")
    return sum(int(np.count_nonzero(a.probs.argmax(axis=1) != b.probs.argmax(axis=1))) for a, b in common)
