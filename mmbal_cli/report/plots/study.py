"""What a picture shows: comparable runs of one data set, their labels, predictions and reasons to leave some out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.errors import CacheError
from mmbal_cli.report.compare import compare
from mmbal_cli.report.metrics import METRICS, metrics
from mmbal_cli.report.plots.style import all_shown
from mmbal_cli.report.runs import Predictions, Run, RunFacts

FUSED = ""


@dataclass(frozen=True)
class Options:
    """Choices that hold for all pictures of one call.

    `metric`: of bars, pareto and critical-difference. `column`: of curves. `width`: "column" or "page".
    `cache`, `device`, `projection` ("pca" or "tsne"): of embedding. `bins`: of reliability.
    """

    split: str = "test"
    metric: str = "accuracy"
    column: str = "val/accuracy"
    width: str = "page"
    cache: Path = Path("cache")
    device: str = "auto"
    projection: str = "pca"
    bins: int = 15


@dataclass(frozen=True)
class Entrant:
    """One run in a group: its label (unique there), {seed: predictions} and {seed: why it failed}."""

    run: Run
    label: str
    good: Mapping[int, Predictions] = field(repr=False)
    failed: Mapping[int, str]

    @property
    def unimodal(self) -> str:
        """The modality of a separately trained unimodal model; "" for all other runs."""
        kind, _, modality = self.run.facts.label.partition(":")
        return modality if kind == "unimodal" and modality in self.run.facts.data.modalities else ""

    @property
    def modalities(self) -> list[str]:
        """Modalities with logits of their own, in the order of the data set."""
        heads = {m for each in self.good.values() for m in each.logits}
        return [*(m for m in self.run.facts.data.modalities if m in heads),
                *sorted(heads - set(self.run.facts.data.modalities))]  # fmt: skip

    def scored(self, seed: int, modality: str = FUSED) -> tuple[NDArray, NDArray] | None:
        """Probabilities [n,C] and labels [n] of the fused prediction or one modality, where it is present."""
        each = self.good[seed]
        if modality == FUSED:
            return each.probs, each.labels
        if modality not in each.logits:
            return None
        probs, labels, _ = each.modality(modality)
        return probs, labels

    def values(self, metric: str, modality: str = FUSED) -> dict[int, float]:
        """{seed: metric} of the fused prediction or of one modality."""
        classes = self.run.facts.data.classes
        pairs = {seed: self.scored(seed, modality) for seed in self.good}
        return {seed: metrics(*pair, classes, [metric])[metric] for seed, pair in pairs.items() if pair}

    def mean(self, metric: str, modality: str = FUSED) -> float | None:
        """Mean over seeds of `values`, None without any."""
        values = [value for value in self.values(metric, modality).values() if np.isfinite(value)]
        return float(np.mean(values)) if values else None


@dataclass(frozen=True)
class Group:
    """Comparable runs, in the order of `mmbal compare`; `apart` says why they are no part of the group before."""

    entrants: tuple[Entrant, ...]
    split: str
    number: int = 0
    apart: str = ""

    @property
    def facts(self) -> RunFacts:
        """Facts of the first run: data and protocol are those of all."""
        return self.entrants[0].run.facts

    @property
    def name(self) -> str:
        """Name of the data set, numbered from the second group of it on."""
        return self.facts.dataset + (f"-{self.number + 1}" if self.number else "")

    @property
    def where(self) -> str:
        """Data set with named split and subset, and what is scored."""
        return self.facts.data.where(self.facts.dataset)

    @property
    def modalities(self) -> list[str]:
        """Every modality that any run has, in the order of the data set."""
        first = dict.fromkeys(m for each in self.entrants for m in each.run.facts.data.modalities)
        return list(first | dict.fromkeys(m for each in self.entrants for m in each.modalities))

    def alone(self) -> dict[str, Entrant]:
        """The separately trained unimodal model of each modality that has one."""
        return {each.unimodal: each for each in reversed(self.entrants) if each.unimodal and each.good}


@dataclass(frozen=True)
class Gathered:
    """All groups, and the runs that could not be read with the reason."""

    groups: tuple[Group, ...]
    unreadable: Mapping[str, str]


def gather(runs: Sequence[Run], split: str, labels: Mapping[str, str] | None = None) -> Gathered:
    """Put comparable runs together as `mmbal compare` does, and read their predictions."""
    compared = compare(runs, ["accuracy"], split, labels=labels)
    groups: list[Group] = []
    for block in compared.blocks:
        names = all_shown([row.label for row in block.rows])
        rows = zip(block.rows, names, strict=True)
        entrants = tuple(Entrant(row.run, name, *row.run.collect(split)) for row, name in rows)
        same = sum(group.facts.dataset == block.facts.dataset for group in groups)
        groups.append(Group(entrants, split, same, block.apart))
    return Gathered(tuple(groups), compared.unreadable)


def need(split: str) -> None:
    """Saved predictions are those of test and val."""
    if split not in ("test", "val"):
        raise CacheError(f"Predictions on {split} are not saved.", "Saved are test and val.")


def title_of(metric: str) -> str:
    """A metric with its unit, as axes name it."""
    known = METRICS[metric]
    return f"{known.title} (%)" if known.percent else f"{known.title} (nats)"


def capital(text: str) -> str:
    """The first letter large, the others as they are."""
    return text[:1].upper() + text[1:]


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names with commas; of very many the first ones and how many more."""
    more = len(names) - most
    return ", ".join(names if more <= 1 else names[:most]) + (f" and {more} more" if more > 1 else "")


def seeds_note(entrants: Sequence[Entrant]) -> str:
    """How many seeds are behind each mean, and which ones failed."""
    counts = {each.label: len(each.good) for each in entrants}
    numbers = sorted(set(counts.values()))
    if len(numbers) == 1:
        text = f"n = {numbers[0]} seed{'s' if numbers[0] != 1 else ''} each."
    else:
        usual = max(reversed(numbers), key=list(counts.values()).count)
        odd = [f"{label} {n}" for label, n in counts.items() if n != usual]
        text = f"n = {usual} seeds, but {listed(odd)}."
    failed = [f"{each.label} seed {seed}" for each in entrants for seed in each.failed]
    return text + (f" Failed and left out: {listed(failed)}." if failed else "")


def caption(parts: Sequence[str], group: Group) -> str:
    """Sentences as one caption; what stands apart says so first."""
    first = f"Not comparable with the first group of {group.facts.dataset}: {group.apart}." if group.apart else ""
    return " ".join(part.strip() for part in (first, *parts, stamp_note([group])) if part.strip())


def stamp_note(groups: Sequence[Group]) -> str:
    """What the stamp of legacy runs means, where there are any."""
    stamped = sorted({each.run.facts.stamp for group in groups for each in group.entrants} - {""})
    return "".join(f"{capital(stamp)}: the epoch was chosen by the scores on test themselves." for stamp in stamped)
