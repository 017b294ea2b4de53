"""What a report card consists of: every number of a run under a key, and the runs of one group side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.report.runs import Predictions, Run, RunFacts
from mmbal_cli.report.statistics import Estimate, Measured, estimate_of, estimates, within

FUSED = "fused"
NOBODY = "none"
MAIN_WAY = "masked"  # how a modality is taken away where one number is shown: as in training on samples without it


class Key(NamedTuple):
    """One number of a run: `part` of the card, `what` it is, `of` which modalities, `at` which way, class or epoch."""

    part: str
    what: str
    of: str = ""
    at: str = ""


def joined(mods: Iterable[str]) -> str:
    """A set of modalities as one word: "audio+video", "none" for the empty one."""
    return "+".join(mods) or NOBODY


@dataclass(frozen=True)
class Subject:
    """One run to be described: the predictions of its good seeds, and the modalities that its model uses."""

    run: Run
    label: str
    good: Mapping[int, Predictions]
    failed: Mapping[int, str]

    @property
    def mods(self) -> tuple[str, ...]:
        """Modalities with logits of their own, in the order of the data set."""
        first = next(iter(self.good.values()), None)
        known = self.run.facts.data.modalities
        return tuple(m for m in known if first is not None and m in first.logits)

    @property
    def any(self) -> Predictions:
        """The predictions of the first good seed: ids, labels and masks are those of all."""
        return next(iter(self.good.values()))


@dataclass(frozen=True)
class RunCard:
    """The numbers of one run. `source` says where its declared logits come from, `missing` what could not be had."""

    run: Run
    label: str
    mods: tuple[str, ...]
    seeds: tuple[int, ...]
    failed: Mapping[int, str]
    numbers: Mapping[Key, Estimate]
    having: Mapping[str, int]  # samples that have a modality
    sizes: Mapping[str, int]  # samples of each class that has any
    alone: Mapping[str, str] = field(default_factory=dict)  # modality -> run that trained it alone
    source: str = "declared by the method"
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def get(self, part: str, what: str, of: str = "", at: str = "") -> Estimate | None:
        """A number, None where it is not known."""
        found = self.numbers.get(Key(part, what, of, at))
        return found if found is not None and found.mean is not None else None

    def among(self, part: str, what: str) -> list[Key]:
        """The keys of a part, in the order of the card."""
        return [key for key in self.numbers if key[:2] == (part, what)]


@dataclass(frozen=True)
class Card:
    """Runs on the same samples under the same protocol. `apart` says how they differ from the card before.

    `references` are runs of one modality {label: run name}; `left_out` runs without a number {run name: reason}.
    """

    split: str
    facts: RunFacts
    rows: tuple[RunCard, ...]
    samples: int = 0
    kept: int = 0
    absent: tuple[str, ...] = ()  # classes without a sample
    references: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    apart: str = ""

    @property
    def complete(self) -> bool:
        """Everything that was asked for is there."""
        return bool(self.rows) and not self.left_out and not any(row.missing for row in self.rows)

    @property
    def title(self) -> str:
        """Data set, split and how many samples."""
        facts = self.facts
        counts = f", {self.samples} samples, {len(facts.data.classes)} classes" if self.samples else ""
        return f"{facts.data.where(facts.dataset)} · {self.split}{counts}"


Joint = Callable[[NDArray], NDArray]
Limits = tuple[float, float]
SHARE, DIFFERENCE, TWICE, UNLIMITED = (0.0, 1.0), (-1.0, 1.0), (-2.0, 2.0), (-math.inf, math.inf)


class Pool:
    """Collects what is measured of one run and turns it into estimates at once: same draws for all."""

    def __init__(self) -> None:
        self.plain: dict[Key, Measured] = {}
        self.joint: dict[Key, tuple[Joint, Sequence[Measured]]] = {}
        self.known: dict[Key, Estimate] = {}
        self.limits: dict[Key, Limits] = {}
        self.order: list[Key] = []

    def add(self, key: Key, measured: Measured, limits: Limits = DIFFERENCE) -> Measured:
        """A mean over samples, or a linear combination of such; its interval stays within `limits`."""
        self.plain[key], self.limits[key] = measured, limits
        self.order.append(key)
        return measured

    def add_joint(self, key: Key, function: Joint, parts: Sequence[Measured], limits: Limits = UNLIMITED) -> None:
        """A function [K,...] -> [...] of several means."""
        self.joint[key], self.limits[key] = (function, parts), limits
        self.order.append(key)

    def add_known(self, key: Key, estimate: Estimate) -> None:
        """What has been estimated elsewhere."""
        self.known[key] = estimate
        self.order.append(key)

    def solved(self) -> dict[Key, Estimate]:
        """All estimates in the order in which they came."""
        found = dict(zip(self.plain, estimates(list(self.plain.values())), strict=True)) | self.known
        for key, (function, parts) in self.joint.items():
            found[key] = estimate_of(function, parts)
        return {key: within(found[key], *self.limits.get(key, UNLIMITED)) for key in self.order}


def counted(each: NDArray, where: NDArray) -> NDArray:
    """Per-sample numbers [N] with NaN where a sample does not count."""
    return np.where(where, np.asarray(each, np.float64), np.nan)
