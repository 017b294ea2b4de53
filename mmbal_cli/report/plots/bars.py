"""One bar a method with its interval: the fused prediction, and beside it each modality inside the model.

Vertical lines are the separately trained unimodal models, so that a modality that was left behind is seen at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmbal_cli.errors import UsageError
from mmbal_cli.report.measure import bounded, measure
from mmbal_cli.report.metrics import METRICS
from mmbal_cli.report.plots import style
from mmbal_cli.report.plots.dynamics import look_of
from mmbal_cli.report.plots.picture import Picture
from mmbal_cli.report.plots.study import FUSED, Entrant, Group, Options, capital, caption, listed, seeds_note, title_of
from mmbal_cli.report.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "----")


@dataclass(frozen=True)
class Bars:
    """One panel: estimates of every method (None where it has none), and the unimodal means drawn as lines."""

    title: str
    modality: str
    values: Sequence[Estimate | None]
    lines: Mapping[str, float]


def pictures(group: Group, options: Options) -> list[Picture]:
    """Bars of all runs with a good seed. Raises UsageError when there is none."""
    entrants = [each for each in group.entrants if each.good]
    if not entrants:
        raise UsageError(f"No run on {group.where} has a finished seed.", "Bars show finished seeds.")
    panels = measured(entrants, group, options.metric)
    without = [each.label for each in group.entrants if not each.good]
    over = {value.over for panel in panels for value in panel.values if value and value.over}
    inside = [panel.modality for panel in panels if panel.modality]
    parts = [
        f"{capital(METRICS[options.metric].title)} on {group.where}, {group.split}.",
        "Left: the fused prediction; right: logits of one modality inside the model, on the samples that have it."
        if inside
        else "",
        "Lines: the separately trained unimodal models." if any(panel.lines for panel in panels) else "",
        f"Whiskers: 95% bootstrap intervals over {' or over '.join(sorted(over))}." if over else "No interval.",
        "One seed: the interval says nothing about other seeds." if "samples" in over else "",
        seeds_note(entrants),
        f"No finished seed: {listed(without)}." if without else "",
    ]
    figure_ = figure([each.label for each in entrants], panels, group.modalities, options)
    title = f"{capital(METRICS[options.metric].title)} of every method, {group.where}, {group.split}"
    return [Picture(f"bars-{group.name}", title, caption(parts, group), figure_)]


def measured(entrants: Sequence[Entrant], group: Group, metric: str) -> list[Bars]:
    """The panels: fused first, then each modality that any model has logits of."""
    alone = group.alone()
    panels = []
    for modality in (FUSED, *(m for m in group.modalities if any(m in each.modalities for each in entrants))):
        values = [measure(each.good, metric, modality or None) for each in entrants]
        known = bounded([(metric, value) for value in values])
        found = [each if value.values else None for value, each in zip(values, known, strict=True)]
        lines = {m: each.mean(metric, FUSED) for m, each in alone.items() if modality in (FUSED, m)}
        title = title_of(metric) if modality == FUSED else f"{style.shown(modality, 24)} inside"
        kept = {m: mean for m, mean in lines.items() if mean is not None}
        panels.append(Bars(title, modality, found, kept))
    return panels


def figure(labels: Sequence[str], panels: Sequence[Bars], modalities: Sequence[str], options: Options) -> Figure:
    """Panels beside each other, on narrow paper in several rows; one line of text a method."""
    width = style.WIDTHS[options.width]
    columns = len(panels) if options.width == "page" and len(panels) <= 5 else min(2, len(panels))
    rows = -(-len(panels) // columns)
    tall = 0.55 + max(0.155 * len(labels), 0.4)
    picture = style.canvas(width, 0.3 + tall * rows)
    wider = [1.5 if rows == 1 and j == 0 and len(panels) > 1 else 1.0 for j in range(columns)]
    grid = picture.subplots(rows, columns, sharey=True, squeeze=False, width_ratios=wider)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw(axes, panel, labels, modalities, options.metric)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    grid[0, 0].set_ylim(len(labels) - 0.4, -0.6)
    _legend(picture, panels, modalities)
    return picture


def _draw(axes: Axes, panel: Bars, labels: Sequence[str], modalities: Sequence[str], metric: str) -> None:
    percent = METRICS[metric].percent
    own = "#8c8c8c" if panel.modality == FUSED else look_of(panel.modality, modalities)[0]
    means = [value.mean if value and value.mean is not None else np.nan for value in panel.values]
    edges = [value.high for value in panel.values if value and value.high is not None]
    top = max([*(mean for mean in means if np.isfinite(mean)), *edges, *panel.lines.values(), 1e-9])
    places = np.arange(len(labels))
    axes.barh(places, means, height=0.66, color=own, alpha=0.45, linewidth=0)
    for at, (mean, value) in enumerate(zip(means, panel.values, strict=True)):
        if value is None or not np.isfinite(mean):
            axes.text(0.02 * top, at, "–", va="center", fontsize=style.TINY, color=style.GREY)
            continue
        if value.low is not None and value.high is not None:
            axes.plot([value.low, value.high], [at, at], color=style.INK, linewidth=0.9, solid_capstyle="butt")
        text = f"{mean * 100:.1f}" if percent else f"{mean:.3f}"
        axes.text(1.0, at, text, transform=axes.get_yaxis_transform(), va="center", ha="right", fontsize=style.TINY)
    for modality, mean in panel.lines.items():
        line, dash = look_of(modality, modalities)
        axes.axvline(mean, color=line, linestyle=dash, linewidth=1.0, zorder=3)
    axes.set_xlim(0, top * (1.32 if panel.modality else 1.2))
    axes.set_yticks(places, labels)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_title(panel.title, fontsize=style.SMALL)
    axes.grid(axis="x")
    ticks = [tick for tick in axes.get_xticks() if tick <= top]
    axes.set_xticks(ticks)
    if percent:
        style.percent_axis(axes.xaxis)


def _legend(picture: Figure, panels: Sequence[Bars], modalities: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(m for panel in panels for m in panel.lines))
    names.sort(key=list(modalities).index)
    looks = [look_of(name, modalities) for name in names]
    handles = [Line2D([], [], color=colour, linestyle=dash) for colour, dash in looks]
    style.legend(picture, handles, style.all_shown([f"unimodal {name}" for name in names]))
