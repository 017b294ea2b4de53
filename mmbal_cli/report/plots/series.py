"""Records of a run as arrays over epochs: one row a seed, phases, selected epochs, mean and band."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.errors import CacheError
from mmbal_cli.report.plots.study import Entrant, listed
from mmbal_cli.report.plots.style import shown

LEVEL = 0.95
FEWEST = 3  # seeds for a t interval; with two its factor is 12.7


@dataclass(frozen=True)
class Phase:
    """One phase of training: its name and its epochs `first` to `last`, both counted."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Series:
    """One column of one run. epochs [E] int, values [S,E] with NaN for what is not finite or not there."""

    epochs: NDArray
    values: NDArray
    phases: tuple[Phase, ...]

    def pieces(self) -> Iterator[NDArray]:
        """Indices of the epochs of each phase: lines are drawn within them, not across."""
        for phase in self.phases:
            inside = np.flatnonzero((self.epochs >= phase.first) & (self.epochs <= phase.last))
            if len(inside):
                yield inside

    @property
    def mean(self) -> NDArray:
        """Mean over seeds [E] of the finite values, NaN where there is none."""
        count = np.isfinite(self.values).sum(axis=0)
        total = np.where(np.isfinite(self.values), self.values, 0.0).sum(axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def band(self, kind: str) -> tuple[NDArray, NDArray]:
        """Lower and upper edge [E]: "t" the 95% t interval of the mean over seeds, "range" smallest and largest."""
        finite = np.isfinite(self.values)
        count = finite.sum(axis=0)
        if kind == "range":
            low = np.where(finite, self.values, np.inf).min(axis=0)
            high = np.where(finite, self.values, -np.inf).max(axis=0)
            return np.where(count > 1, low, np.nan), np.where(count > 1, high, np.nan)
        from scipy.stats import t

        mean = self.mean
        squares = np.where(finite, (self.values - mean) ** 2, 0.0).sum(axis=0)
        freedom = np.maximum(count - 1, 1)
        error = (squares / (freedom * np.maximum(count, 1))) ** 0.5
        half = np.where(count > 1, t.ppf((1 + LEVEL) / 2, freedom) * error, np.nan)
        return mean - half, mean + half


@dataclass(frozen=True)
class Recorded:
    """The records of the good seeds of one run: {seed: {epoch: record}}, and what was wrong with some."""

    seeds: Mapping[int, Mapping[int, Mapping[str, Any]]]
    phases: tuple[Phase, ...]
    notes: tuple[str, ...]

    @cached_property
    def columns(self) -> list[str]:
        """Names of all columns with a number in them, in the order of the records."""
        names: dict[str, None] = {}
        for records in self.seeds.values():
            for record in records.values():
                names |= dict.fromkeys(key for key, value in record.items() if _is_number(value))
        return [name for name in names if name not in ("seed", "epoch")]

    def series(self, column: str) -> Series | None:
        """The column over the epochs in which any seed has it (it may be null there); None without any."""
        own = {s: records for s, records in self.seeds.items() if any(column in record for record in records.values())}
        epochs = sorted({epoch for records in own.values() for epoch, record in records.items() if column in record})
        if not epochs:
            return None
        values = np.full((len(own), len(epochs)), np.nan)
        for row, records in enumerate(own.values()):
            for at, epoch in enumerate(epochs):
                value = records.get(epoch, {}).get(column)
                if _is_number(value) and np.isfinite(value):
                    values[row, at] = value
        return Series(np.array(epochs), values, self.phases) if np.isfinite(values).any() else None


def recorded(entrant: Entrant) -> Recorded:
    """Read the records of the good seeds; a file that is missing or damaged becomes a note."""
    seeds: dict[int, dict[int, Mapping[str, Any]]] = {}
    notes = []
    for result in entrant.run.seeds:
        seed = result.facts.seed
        if seed not in entrant.good:
            continue
        try:
            records, torn = result.records()
        except (CacheError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            notes.append(f"{entrant.label} seed {seed} has no readable records ({reason}).")
            continue
        seeds[seed] = {record["epoch"]: record for record in records if isinstance(record.get("epoch"), int)}
        if torn:
            notes.append(f"{entrant.label} seed {seed}: {torn}.")
    longest = max(seeds.values(), key=len, default={})
    return Recorded(seeds, _phases(longest), tuple(notes))


def selected(entrant: Entrant, modality: str = "") -> dict[int, int]:
    """{seed: epoch that was kept} of the fused prediction or of a part that is selected by itself.

    Empty for the fused prediction of parts that have an epoch each.
    """
    found = {}
    for result in entrant.run.seeds:
        best = result.facts.best_epoch
        if result.facts.seed not in entrant.good or best is None:
            continue
        if isinstance(best, dict):
            own = best.get(modality) or best.get("fused") or (next(iter(best.values())) if len(best) == 1 else None)
        else:
            own = best
        if own:
            found[result.facts.seed] = own
    return found


def phases_note(phases: Mapping[str, Sequence[Phase]]) -> str:
    """A sentence with the phases of the runs {label: phases} that have several."""
    plans: dict[str, list[str]] = {}
    for label, own in phases.items():
        if len(own) > 1:
            names = ", ".join(f"{shown(phase.name)} {phase.first}-{phase.last}" for phase in own)
            plans.setdefault(names, []).append(label)
    texts = [f"{listed(labels, 3)}: {names}" for names, labels in plans.items()]
    return f"Dotted lines: a new phase ({'; '.join(texts[:12])})." if texts else ""


def band_of(series: Sequence[Series | None]) -> str:
    """The kind of band for curves that stand beside each other: "t", "range", or "" for one seed each."""
    seeds = [len(each.values) for each in series if each is not None]
    if not seeds or max(seeds) < 2:
        return ""
    return "t" if min(n for n in seeds if n > 1) >= FEWEST else "range"


def band_note(kind: str, some_alone: bool = False) -> str:
    """What a band shows, as a sentence."""
    text = {
        "t": "Line: mean over seeds; band: 95% t interval of that mean, for each epoch apart.",
        "range": "Line: mean over seeds; band: smallest to largest seed (too few seeds for an interval).",
        "": "One seed: no band.",
    }[kind]
    return text + (" Runs with one seed have no band." if kind and some_alone else "")


def _phases(records: Mapping[int, Mapping[str, Any]]) -> tuple[Phase, ...]:
    phases: list[Phase] = []
    for epoch in sorted(records):
        name = str(records[epoch].get("phase") or "")
        if phases and phases[-1].name == name:
            phases[-1] = Phase(name, phases[-1].first, epoch)
        else:
            phases.append(Phase(name, epoch, epoch))
    return tuple(phases)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
