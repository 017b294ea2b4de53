"""Every row of a block against one of them, the baseline: difference, interval, and p of each test with correction.

A family of comparisons is one test of one metric in one block: all rows that share a seed with the baseline, shown or
hidden. Holm's procedure corrects within it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from numpy.typing import NDArray

from mmbal_cli.errors import UsageError, nearest
from mmbal_cli.report.inference import TESTS, cannot_reach, holm, paired_all
from mmbal_cli.report.metrics import Metric
from mmbal_cli.report.statistics import Estimate, Measured

AUTO = "paired-bootstrap"
CHOICES = ("auto", *(str(test) for test in TESTS))
CORRECTIONS = ("holm", "none")
OVER = {
    "paired-bootstrap": "over samples and seeds",
    "mcnemar": "over samples, one p a seed, combined by twice their median",
    "sign-flip": "over seeds, paired",
    "welch": "over seeds, unpaired",
}


@dataclass(frozen=True)
class Against:
    """What to compare with: a label, the name or the folder of a run; by which test, corrected how, at which level."""

    baseline: str
    test: str = "auto"
    correction: str = "holm"
    alpha: float = 0.05

    @property
    def chosen(self) -> str:
        """The test behind the p of the table."""
        return AUTO if self.test == "auto" else self.test


@dataclass(frozen=True)
class Contrast:
    """One cell minus the baseline's on the seeds of both; {test: p}, raw and by Holm; the p that counts.

    `significant` is whether that p is below alpha, `better` whether the difference is in favour of the row.
    """

    difference: Estimate
    p: Mapping[str, float | None]
    holm: Mapping[str, float | None]
    counts: float | None
    significant: bool
    better: bool


@dataclass(frozen=True)
class Baseline:
    """The baseline of one block: the label of its row, "" for none; `missing` says why there are no contrasts.

    `comparisons` {metric: how many p-values the chosen test gave}; `seeds` is the smallest number of seeds that a row
    has in common with the baseline, or for unpaired tests the smallest number of seeds.
    """

    against: Against
    label: str = ""
    missing: str = ""
    comparisons: Mapping[str, int] = field(default_factory=dict)
    seeds: int = 0

    def warning(self, key: str) -> str:
        """Why no difference of the metric `key` can be significant with these seeds, or ""."""
        comparisons = self.comparisons.get(key, 0) if self.against.correction == "holm" else 1
        if not self.comparisons.get(key):
            return ""
        return cannot_reach(self.against.chosen, self.seeds, self.against.alpha, comparisons)


@dataclass(frozen=True)
class Side:
    """One run of a metric: its measured values, and {seed: which samples are right [N]} for accuracy."""

    measured: Measured
    correct: Mapping[int, NDArray] | None = None


def named(wanted: str, labels: Sequence[str], names: Sequence[Iterable[str]]) -> int | None:
    """Index of the row that `wanted` names: by its label, else by another of its names.

    None when no row has it. Raises UsageError when several rows have it.
    """
    if wanted in labels:
        return list(labels).index(wanted)
    called = {wanted, str(Path(wanted).resolve())}
    found = [i for i, each in enumerate(names) if not called.isdisjoint(each)]
    if len(found) > 1:
        rows = ", ".join(f"'{labels[i]}'" for i in found)
        raise UsageError(f"Baseline '{wanted}' names {len(found)} rows.", f"Expected one of {rows}.")
    return found[0] if found else None


def unknown(wanted: str, known: Iterable[str]) -> UsageError:
    """The error for a baseline that no row of any block is."""
    return UsageError(f"No compared run is '{wanted}' (--baseline).", nearest(wanted, known))


def contrasts(sides: Sequence[Side], base: int, metric: Metric, against: Against) -> list[Contrast | None]:
    """Each side against `sides[base]`; None for that one and for those without a common seed."""
    reference = sides[base]
    others = [i for i, side in enumerate(sides) if i != base and _common(side, reference)]
    pairs = [(sides[i].measured, reference.measured, _correct(sides[i], reference)) for i in others]
    tested = paired_all(pairs)
    adjusted = {str(test): holm([each.p[str(test)] for each in tested]) for test in TESTS}
    found: list[Contrast | None] = [None] * len(sides)
    for place, (i, each) in enumerate(zip(others, tested, strict=True)):
        corrected = {test: ps[place] for test, ps in adjusted.items()}
        counts = (corrected if against.correction == "holm" else each.p)[against.chosen]
        mean = each.difference.mean or 0.0
        better = mean > 0 if metric.larger_is_better else mean < 0
        significant = counts is not None and counts < against.alpha
        found[i] = Contrast(each.difference, dict(each.p), corrected, counts, significant, better)
    return found


def _common(one: Side, other: Side) -> bool:
    return not set(one.measured.seeds).isdisjoint(other.measured.seeds)


def _correct(one: Side, other: Side) -> tuple[Mapping[int, NDArray], Mapping[int, NDArray]] | None:
    return None if one.correct is None or other.correct is None else (one.correct, other.correct)
