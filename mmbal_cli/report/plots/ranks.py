"""Critical-difference diagram of mean ranks: Demšar 2006, JMLR 7, 1-30 (sections 3.2.2 and 3.2.3).

Friedman's test asks whether the methods differ at all; if so, two of them differ by Nemenyi's test when their mean
ranks are CD = q sqrt(k (k + 1) / (6 N)) apart or more, q the studentised range quantile for k methods and infinite
degrees of freedom, divided by sqrt 2; N blocks. Blocks are data sets; of one data set its seeds, and then the diagram
is about repeated training on these samples and about nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmbal_cli.errors import UsageError
from mmbal_cli.report.metrics import METRICS
from mmbal_cli.report.plots import style
from mmbal_cli.report.plots.picture import Picture
from mmbal_cli.report.plots.study import Group, Options, caption, listed, seeds_note, stamp_note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVEL = 0.05
FEWEST_METHODS, FEWEST_BLOCKS = 3, 2
Scores = Mapping[str, Mapping[str, float]]  # block, method


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of methods, best first; `critical` is Nemenyi's difference, `p` that of Friedman's test."""

    labels: tuple[str, ...]
    ranks: tuple[float, ...]
    blocks: tuple[str, ...]
    critical: float
    statistic: float
    p: float

    @property
    def differ(self) -> bool:
        """Friedman's test rejects that all methods are alike."""
        return self.p < LEVEL

    def cliques(self) -> list[tuple[int, int]]:
        """First and last index of each largest set of methods that cannot be told apart, of two or more."""
        k = len(self.ranks)
        if not self.differ:
            return [(0, k - 1)]
        found: list[tuple[int, int]] = []
        for first in range(k):
            last = max(i for i in range(first, k) if i == first or self.ranks[i] - self.ranks[first] < self.critical)
            if last > first and (not found or last > found[-1][1]):
                found.append((first, last))
        return found


def pictures_of_all(groups: Sequence[Group], options: Options) -> list[Picture]:
    """One diagram over data sets where there are several with three methods in common, else one a data set.

    Raises UsageError when no data set has three methods and two seeds in common.
    """
    main = [group for group in groups if not group.number]
    over = {group.facts.dataset: _means(group, options.metric) for group in main}
    shared = set.intersection(*(set(scores) for scores in over.values())) if over else set()
    if len(over) >= FEWEST_BLOCKS and len(shared) >= FEWEST_METHODS:
        return [_over_sets(main, over, options, [group for group in groups if group.number])]
    made, refused = [], []
    for group in main:
        scores = _seeds(group, options.metric)
        methods = set.intersection(*(set(own) for own in scores.values())) if scores else set()
        if len(methods) < FEWEST_METHODS or len(scores) < FEWEST_BLOCKS:
            refused.append(f"{group.facts.dataset}: {len(methods)} methods, {len(scores)} common seeds")
        else:
            made.append(_over_seeds(group, scores, options))
    if made:
        return made
    raise UsageError(
        f"Too little for ranks ({'; '.join(refused) or 'no run'}).",
        f"Expected {FEWEST_METHODS} methods on {FEWEST_BLOCKS} data sets, or with {FEWEST_BLOCKS} seeds in common.",
        "mmbal train --method NAME --seeds 5",
    )


def ranking(scores: Scores, *, larger_is_better: bool = True) -> Ranking:
    """Mean ranks of the methods that every block has; 1 is best, ties share the mean of their ranks."""
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    blocks = tuple(scores)
    methods = [m for m in scores[blocks[0]] if all(m in scores[block] for block in blocks)]
    table = np.array([[scores[block][m] for m in methods] for block in blocks])
    table = np.round(-table if larger_is_better else table, 12)  # equal means differ by their order of summation
    mean = rankdata(table, axis=1).mean(axis=0)
    k, N = len(methods), len(blocks)
    statistic, p = friedmanchisquare(*table.T) if np.ptp(table, axis=1).any() else (0.0, 1.0)
    critical = studentized_range.ppf(1 - LEVEL, k, np.inf) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * N))
    order = np.argsort(mean, kind="stable")
    names = tuple(methods[i] for i in order)
    return Ranking(names, tuple(map(float, mean[order])), blocks, float(critical), float(statistic), float(p))


def _means(group: Group, metric: str) -> dict[str, float]:
    return {each.label: mean for each in group.entrants if (mean := each.mean(metric)) is not None}


def _seeds(group: Group, metric: str) -> dict[str, dict[str, float]]:
    """{seed: {method: value}} of the seeds that every method with a finished one has."""
    values = {each.label: each.values(metric) for each in group.entrants if each.good}
    finite = {label: {s: v for s, v in own.items() if np.isfinite(v)} for label, own in values.items()}
    common = sorted(set.intersection(*(set(own) for own in finite.values()))) if finite else []
    return {f"seed {seed}": {label: own[seed] for label, own in finite.items()} for seed in common}


def _over_sets(groups: Sequence[Group], over: Scores, options: Options, other: Sequence[Group]) -> Picture:
    result = ranking(over, larger_is_better=METRICS[options.metric].larger_is_better)
    left = sorted({label for own in over.values() for label in own} - set(result.labels))
    parts = [
        f"Mean ranks by {METRICS[options.metric].title} ({groups[0].split}, mean over seeds) "
        f"over {len(over)} data sets ({', '.join(over)}).",
        _tests(result),
        f"Not on every data set, left out: {listed(left)}." if left else "",
        *(f"On {group.where}: {seeds_note([e for e in group.entrants if e.good])}" for group in groups),
        *(f"Not comparable, left out: {len(g.entrants)} runs on {g.where} ({g.apart})." for g in other),
        stamp_note(groups),
    ]
    title = f"Mean ranks over {len(over)} data sets"
    return Picture("critical-difference", title, " ".join(filter(None, parts)), figure(result, options))


def _over_seeds(group: Group, scores: Scores, options: Options) -> Picture:
    result = ranking(scores, larger_is_better=METRICS[options.metric].larger_is_better)
    seeds = ", ".join(block.removeprefix("seed ") for block in result.blocks)
    failed = [f"{each.label} seed {seed}" for each in group.entrants for seed in each.failed]
    idle = [each.label for each in group.entrants if not each.good]
    parts = [
        f"Mean ranks by {METRICS[options.metric].title} on {group.where}, {group.split}, over its {len(result.blocks)} "
        f"common seeds ({seeds}).",
        "One data set: the ranks speak of training again on it, not of other data sets or other samples.",
        _tests(result),
        f"Failed: {listed(failed)}." if failed else "",
        f"No finished seed: {listed(idle)}." if idle else "",
    ]
    title = f"Mean ranks over seeds, {group.where}"
    return Picture(f"critical-difference-{group.name}", title, caption(parts, group), figure(result, options))


def _tests(result: Ranking) -> str:
    k, N = len(result.labels), len(result.blocks)
    p = f"p = {result.p:.3f}" if result.p >= 0.001 else "p < 0.001"
    text = f"1 is best. Friedman's test of {k} methods on {N} blocks: χ² = {result.statistic:.1f}, {p}."
    if not result.differ:
        return text + f" It does not reject at {LEVEL} that all are alike: one bar joins them all."
    joined = "Bars join methods that cannot be told apart" if result.cliques() else "All methods can be told apart"
    return f"{text} {joined} (Nemenyi's test at {LEVEL}, critical difference {result.critical:.2f})."


def figure(result: Ranking, options: Options) -> Figure:
    """The diagram: best on the right, bars between those that cannot be told apart; narrow: all names on the right."""
    k, width = len(result.labels), style.WIDTHS[options.width]
    levels = _levels(result)
    depth = 0.8 + 0.45 * (max(levels, default=-1) + 1)
    half = k // 2 if options.width == "page" else k  # of them the best on the right
    lowest = depth + max(half, k - half) + 0.2
    picture = style.canvas(width, 0.165 * (lowest + 3.2))
    axes = picture.add_subplot()
    axes.set_axis_off()
    axes.set_ylim(lowest, -3.0)
    axes.set_xlim(k + 0.02 * k, 1 - 0.02 * k)
    _scale(axes, k, 16 if options.width == "page" else 8)
    _critical(axes, result, k)
    for (first, last), level in zip(result.cliques(), levels, strict=True):
        ends = [result.ranks[first] - 0.008 * k, result.ranks[last] + 0.008 * k]
        axes.plot(ends, [0.75 + 0.45 * level] * 2, color=style.INK, linewidth=2.6, solid_capstyle="butt", zorder=3)
    for i, (label, rank) in enumerate(zip(result.labels, result.ranks, strict=True)):
        right = i < half
        row = depth + (i if right else k - 1 - i) + 0.5
        end = 1 - 0.03 * k if right else k + 0.03 * k
        axes.plot([rank, rank, end], [0, row, row], color=style.GREY, linewidth=0.7, clip_on=False)
        text = f"{rank:.2f}  {label}" if right else f"{label}  {rank:.2f}"
        axes.annotate(text, (end, row), (3 if right else -3, 0), textcoords="offset points", va="center",
                      ha="left" if right else "right", fontsize=style.SMALL, annotation_clip=False)  # fmt: skip
    return picture


def _levels(result: Ranking) -> list[int]:
    """A line for each clique, so that bars that overlap lie below each other."""
    ends: list[float] = []
    levels = []
    for first, last in result.cliques():
        free = next(
            (i for i, end in enumerate(ends) if end < result.ranks[first] - 0.02 * len(result.ranks)), len(ends)
        )
        ends[free : free + 1] = [result.ranks[last]]
        levels.append(free)
    return levels


def _scale(axes: Axes, k: int, most: int) -> None:
    """The line of ranks with at most about `most` numbers, 1 and k among them."""
    axes.plot([1, k], [0, 0], color=style.INK, linewidth=0.9)
    step = -(-k // most)
    for rank in [*(rank for rank in range(1, k, step) if k - rank >= step), k]:
        axes.plot([rank, rank], [-0.35, 0], color=style.INK, linewidth=0.9)
        axes.text(rank, -0.5, f"{rank}", ha="center", va="bottom", fontsize=style.SMALL)


def _critical(axes: Axes, result: Ranking, k: int) -> None:
    """The critical difference as a length over the scale, where it fits."""
    if not result.differ or result.critical > k - 1:
        return
    y = -2.1
    axes.plot([k, k - result.critical], [y, y], color=style.INK, linewidth=1.2)
    for end in (k, k - result.critical):
        axes.plot([end, end], [y - 0.25, y + 0.25], color=style.INK, linewidth=1.2)
    axes.text(k - result.critical / 2, y - 0.3, f"CD {result.critical:.2f}", ha="center", va="bottom",
              fontsize=style.SMALL)  # fmt: skip
