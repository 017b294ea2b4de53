"""What a method costs for what it gives: accuracy against training time, and against uneven modalities, with the front.

Cost is wall time of training a seed, relative to `concat` where that was run. Imbalance is the spread (largest minus
smallest, over modalities) of the unimodal gap, accuracy of the separately trained unimodal model minus in-model
accuracy; without unimodal models, the spread of the in-model accuracies themselves. A point is on the front when no
other is at least as good in both and better in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.errors import UsageError
from mmbal_cli.report.metrics import METRICS
from mmbal_cli.report.plots import style
from mmbal_cli.report.plots.picture import Picture
from mmbal_cli.report.plots.placing import around
from mmbal_cli.report.plots.study import FUSED, Entrant, Group, Options, capital, caption, seeds_note, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 18  # points with names beside them; more get numbers and a key
LOG_FROM = 10.0  # ratio of costs


@dataclass(frozen=True)
class Cloud:
    """One panel: {label: (x, y)}, names of the axes, and whether smaller y is better. Smaller x always is."""

    points: Mapping[str, tuple[float, float]]
    x: str
    y: str
    down: bool = False
    log: bool = False


def pictures(group: Group, options: Options) -> list[Picture]:
    """Both panels of the runs that have what they show. Raises UsageError when no run has."""
    entrants = [each for each in group.entrants if each.good]
    metric = METRICS[options.metric]
    heights = {each.label: mean for each in entrants if (mean := each.mean(options.metric)) is not None}
    best, others = _unimodal(entrants, heights, metric.larger_is_better)
    cost, unit = costs(entrants)
    uneven, meaning = imbalance(entrants, group.alone())
    clouds = []
    for found, name in ((cost, unit), (uneven, "imbalance (points)")):
        both = {label: (x, heights[label]) for label, x in found.items() if label in heights and label not in others}
        if both:
            log = found is cost and _ratio([x for x, _ in both.values()]) > LOG_FROM
            clouds.append(Cloud(both, name, title_of(options.metric), not metric.larger_is_better, log))
    if not clouds:
        raise UsageError(f"No run on {group.where} has a finished seed with its training time.")
    fronts = [", ".join(label for label, on in zip(c.points, front(c), strict=True) if on) for c in clouds]
    parts = [
        f"{capital(metric.title)} on {group.where}, {group.split}, against {' and '.join(c.x for c in clouds)}.",
        "Cost: wall time of training, mean over seeds." if cost else "",
        f"Imbalance: {meaning}." if uneven else "",
        *(f"Front by {c.x}: {names}." for c, names in zip(clouds, fronts, strict=True)),
        "Hollow: reference runs.",
        f"Of the unimodal models only the best, {best}." if others else "",
        seeds_note(entrants),
    ]
    hollow = {each.label for each in entrants if each.run.facts.reference}
    title = f"{capital(metric.title)} against cost and imbalance, {group.where}, {group.split}"
    return [Picture(f"pareto-{group.name}", title, caption(parts, group), figure(clouds, hollow, options))]


def _unimodal(entrants: Sequence[Entrant], heights: Mapping[str, float], larger: bool) -> tuple[str, set[str]]:
    """The best unimodal model and all others, which would only stretch the axes."""
    alone = [each.label for each in entrants if each.unimodal and each.label in heights]
    best = max(alone, key=lambda label: heights[label] * (1 if larger else -1), default="")
    return best, set(alone) - {best}


def costs(entrants: Sequence[Entrant]) -> tuple[dict[str, float], str]:
    """{label: mean training time of a seed}, in multiples of `concat` where it is there, and the name of the axis."""
    found = {}
    for each in entrants:
        times = [r.facts.seconds for r in each.run.seeds if r.facts.seed in each.good and r.facts.seconds is not None]
        if times and np.isfinite(times).all() and np.mean(times) > 0:
            found[each.label] = float(np.mean(times))
    base = next((found[e.label] for e in entrants if e.run.facts.label == "concat" and e.label in found), None)
    if base is None:
        return found, "training time (s)"
    return {label: value / base for label, value in found.items()}, "training time (× concat)"


def imbalance(entrants: Sequence[Entrant], alone: Mapping[str, Entrant]) -> tuple[dict[str, float], str]:
    """{label: imbalance in points of accuracy} of runs with two modalities or more, and what it is in words."""
    inside = {}
    for each in entrants:
        own = {m: mean for m in each.modalities if (mean := each.mean("accuracy", m)) is not None}
        if len(own) > 1:
            inside[each.label] = own
    needed = {m for own in inside.values() for m in own}
    bases = {m: mean for m, each in alone.items() if (mean := each.mean("accuracy", FUSED)) is not None}
    if needed and needed <= set(bases):
        gaps = {label: [bases[m] - value for m, value in own.items()] for label, own in inside.items()}
        meaning = "largest minus smallest unimodal gap (unimodal model minus in-model accuracy) over modalities"
    else:
        gaps = {label: list(own.values()) for label, own in inside.items()}
        meaning = "largest minus smallest in-model accuracy over modalities (no unimodal models to compare with)"
    return {label: 100 * (max(own) - min(own)) for label, own in gaps.items()}, meaning


def front(cloud: Cloud) -> NDArray:
    """Which points no other one dominates, in the order of the cloud. [n] bool"""
    points = np.array(list(cloud.points.values()), float).reshape(-1, 2) * [1.0, 1.0 if cloud.down else -1.0]
    no_worse = (points[:, None] <= points[None]).all(axis=-1)
    better = (points[:, None] < points[None]).any(axis=-1)
    return np.logical_not(np.any(no_worse & better, axis=0))


def figure(clouds: Sequence[Cloud], hollow: set[str], options: Options) -> Figure:
    """Panels beside each other, on narrow paper below each other."""
    width, page = style.WIDTHS[options.width], options.width == "page"
    rows, columns = (1, len(clouds)) if page else (len(clouds), 1)
    every = list(dict.fromkeys(label for cloud in clouds for label in cloud.points))
    numbered = len(every) > NAMED
    key = 0.14 * -(-len(every) // _key_columns(every, width)) if numbered else 0.0
    picture = style.canvas(width, (3.1 if page else 2.5 * rows) + key)
    grid = picture.subplots(rows, columns, sharey=page, squeeze=False)
    if numbered:
        _key(picture, every, width)
    for axes, cloud in zip(grid.flat, clouds, strict=True):
        _draw(axes, cloud, hollow)
        if not page or axes is grid.flat[0]:
            axes.set_ylabel(cloud.y)
    for axes, cloud in zip(grid.flat, clouds, strict=True):
        names = [str(every.index(label) + 1) if numbered else label for label in cloud.points]
        around(axes, list(cloud.points.values()), [style.shown(name, 26) for name in names], _stairs(cloud))
    return picture


def _draw(axes: Axes, cloud: Cloud, hollow: set[str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    points, on = np.array(list(cloud.points.values())), front(cloud)
    stairs = _stairs(cloud)
    axes.plot(stairs[:, 0], stairs[:, 1], color=style.COLOURS[0], linewidth=1.0, zorder=1)
    for label, point, best in zip(cloud.points, points, on, strict=True):
        own = style.COLOURS[0] if best else style.GREY
        axes.plot(*point, "o", markersize=4, markeredgecolor=own, markerfacecolor="white" if label in hollow else own,
                  zorder=3)  # fmt: skip
    if cloud.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(0.15, 0.18)
    if cloud.y.endswith("(%)"):
        style.percent_axis(axes.yaxis)
    axes.set_xlabel(cloud.x)
    axes.grid()


def _stairs(cloud: Cloud) -> NDArray:
    """Corners of the front [k,2]: right to the next better point, then up (or down) to it."""
    points = np.array(list(cloud.points.values()))[front(cloud)]
    edge = points[np.argsort(points[:, 0], kind="stable")]
    corners = np.column_stack([edge[1:, 0], edge[:-1, 1]])
    return np.concatenate([edge[:1], np.stack([corners, edge[1:]], axis=1).reshape(-1, 2)])


def _ratio(values: Sequence[float]) -> float:
    return max(values) / min(values) if min(values) > 0 else 0.0


def _key_columns(labels: Sequence[str], width: float) -> int:
    return max(1, int(width / (0.35 + 0.06 * max(len(style.shown(label, 30)) for label in labels))))


def _key(picture: Figure, labels: Sequence[str], width: float) -> None:
    from matplotlib.lines import Line2D

    names = [f"{i}  {style.shown(label, 30)}" for i, label in enumerate(labels, start=1)]
    style.legend(picture, [Line2D([], [], linestyle="")] * len(names), names, _key_columns(labels, width), swatch=False)
