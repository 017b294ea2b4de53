"""A recorded column over epochs, several runs in one picture: overlaid while they can be told apart, else apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.errors import UsageError, nearest
from mmbal_cli.report.plots import style
from mmbal_cli.report.plots.picture import Picture
from mmbal_cli.report.plots.placing import spread
from mmbal_cli.report.plots.series import Recorded, Series, band_note, band_of, phases_note, recorded, selected
from mmbal_cli.report.plots.study import Entrant, Group, Options, capital, caption, listed, seeds_note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OVERLAID = 8  # curves in one panel
PHASED = 2  # of them with several phases


@dataclass(frozen=True)
class Curve:
    """One run: its series and the epochs that selection kept, one a seed."""

    label: str
    series: Series
    kept: tuple[int, ...]


def pictures(group: Group, options: Options) -> list[Picture]:
    """The column of `options` of every run. Raises UsageError when no run has recorded it."""
    read = [recorded(each) for each in group.entrants]
    curves = _curves(group.entrants, read, options.column)
    if not curves:
        known = {name for each in read for name in each.columns}
        raise UsageError(f"No run has recorded '{options.column}'.", nearest(options.column, known))
    kind = band_of([curve.series for curve in curves])
    drawn = {curve.label for curve in curves}
    without = [each.label for each in group.entrants if each.label not in drawn]
    parts = [
        f"{capital(_axis_title(options.column))} over epochs on {group.where}.",
        seeds_note([each for each in group.entrants if each.label in drawn]),
        band_note(kind, any(len(curve.series.values) == 1 for curve in curves)),
        "Open circles: the epochs that selection kept, one a seed." if any(curve.kept for curve in curves) else "",
        phases_note({curve.label: curve.series.phases for curve in curves}),
        f"Not recorded: {listed(without)}." if without else "",
        *(note for each in read for note in each.notes),
    ]
    name = f"curves-{group.name}"
    title = f"{capital(_axis_title(options.column))} over epochs, {group.where}"
    return [Picture(name, title, caption(parts, group), figure(curves, options, kind))]


def figure(curves: Sequence[Curve], options: Options, kind: str) -> Figure:
    """Overlaid with labels at the line ends, or one panel a run with the others in grey."""
    phased = sum(len(curve.series.phases) > 1 for curve in curves)
    if len(curves) <= OVERLAID and phased <= PHASED:
        return _overlaid(curves, options, kind)
    return _beside(curves, options, kind)


def _curves(entrants: Sequence[Entrant], read: Sequence[Recorded], column: str) -> list[Curve]:
    modality = column.split("/")[2] if column.count("/") == 2 else ""
    found = [(each, records.series(column)) for each, records in zip(entrants, read, strict=True)]
    return [
        Curve(each.label, series, tuple(sorted(selected(each, modality or each.unimodal).values())))
        for each, series in found
        if series is not None
    ]


def _overlaid(curves: Sequence[Curve], options: Options, kind: str) -> Figure:
    width = style.WIDTHS[options.width]
    picture = style.canvas(width, 0.45 * width + 0.9)
    axes = picture.add_subplot()
    phased = [curve for curve in curves if len(curve.series.phases) > 1]
    for i, curve in enumerate(curves):
        draw_series(axes, curve.series, style.colour(i), kind, dash=style.dash(i), width=1.3)
        _mark_kept(axes, curve, style.colour(i), 4.0)
        _mark_phases(axes, curve.series, style.colour(i), phased.index(curve) if curve in phased else None)
    _finish(axes, curves, options.column)
    axes.set_xlabel("epoch")
    axes.set_ylabel(_axis_title(options.column))
    axes.grid(axis="y")
    ends = [_end(curve.series) for curve in curves]
    spread(axes, ends, [curve.label for curve in curves], [style.colour(i) for i in range(len(curves))])
    return picture


def _beside(curves: Sequence[Curve], options: Options, kind: str) -> Figure:
    width = style.WIDTHS[options.width]
    columns = min(len(curves), 5 if options.width == "page" else 2)
    rows = -(-len(curves) // columns)
    picture = style.canvas(width, 0.45 + 1.12 * rows)
    grid = picture.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    others = _joined([curve.series for curve in curves])
    for i, curve in enumerate(curves):
        axes = grid.flat[i]
        axes.plot(*others, color=style.FAINT, linewidth=0.5, zorder=1)
        draw_series(axes, curve.series, style.COLOURS[0], kind, width=1.3)
        _mark_kept(axes, curve, style.COLOURS[0], 3.2)
        _mark_phases(axes, curve.series, style.GREY)
        axes.set_title(style.shown(curve.label, 27), fontsize=style.TINY)
        axes.grid(axis="y")
        if i >= len(curves) - columns:
            axes.tick_params(labelbottom=True)
    for axes in list(grid.flat)[len(curves) :]:
        axes.set_axis_off()
    _finish(grid.flat[0], curves, options.column)
    picture.supxlabel("epoch", fontsize=style.SIZE)
    picture.supylabel(_axis_title(options.column), fontsize=style.SIZE)
    return picture


def _joined(many: Sequence[Series]) -> tuple[NDArray, NDArray]:
    """All means as one line with gaps."""
    x, y = [], []
    for each in many:
        for piece in each.pieces():
            x += [*each.epochs[piece], np.nan]
            y += [*each.mean[piece], np.nan]
    return np.array(x), np.array(y)


def draw_series(axes: Axes, series: Series, colour: str, kind: str, *, dash: object = "-", width: float = 1.2) -> None:
    """Mean and band of one series, phase by phase. A value that stands alone is a dot."""
    mean = series.mean
    for piece in series.pieces():
        x, y = series.epochs[piece], mean[piece]
        known = np.pad(np.isfinite(y), 1)
        lonely = list(np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:]))  # a line through one point is nothing
        axes.plot(x, y, color=colour, linestyle=dash, linewidth=width, marker=".", markevery=lonely)
        if kind and len(series.values) > 1:
            low, high = series.band(kind)
            axes.fill_between(x, low[piece], high[piece], color=colour, alpha=0.16, linewidth=0)


def _mark_kept(axes: Axes, curve: Curve, colour: str, size: float) -> None:
    epochs, mean = curve.series.epochs, curve.series.mean
    kept = [epoch for epoch in curve.kept if epoch in epochs]
    y = [mean[np.searchsorted(epochs, epoch)] for epoch in kept]
    axes.plot(kept, y, "o", markersize=size, markerfacecolor="white", markeredgecolor=colour, markeredgewidth=0.8,
              zorder=4)  # fmt: skip


def _mark_phases(axes: Axes, series: Series, colour: str, line: int | None = None) -> None:
    """Where each phase begins; with their names in the text line `line` above the x axis."""
    for phase in series.phases[1:]:
        axes.axvline(phase.first - 0.5, color=colour, linestyle=":", linewidth=0.8, zorder=1)
    if line is not None:
        for phase in series.phases:
            axes.annotate(
                style.shown(phase.name, 14),
                (phase.first - 0.5, 0),
                (1.5, 2 + 8 * line),
                xycoords=axes.get_xaxis_transform(),
                textcoords="offset points",
                color=colour,
                fontsize=style.TINY,
            )


def _finish(axes: Axes, curves: Sequence[Curve], column: str) -> None:
    """Axes that hold every mean; a wide band at the start must not press the curves together."""
    from matplotlib.ticker import MaxNLocator

    means = np.concatenate([curve.series.mean for curve in curves])
    means = means[np.isfinite(means)]
    margin = 0.06 * max(float(np.ptp(means)), 1e-3)
    axes.set_ylim(means.min() - margin, means.max() + margin)
    last = max(int(curve.series.epochs[-1]) for curve in curves)
    first = min(int(curve.series.epochs[0]) for curve in curves)
    axes.set_xlim(first - 0.02 * (last - first) - 0.3, last + 0.02 * (last - first) + 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if is_share(column):
        style.percent_axis(axes.yaxis)


def is_share(column: str) -> bool:
    """Columns that are fractions of samples, shown in percent."""
    return "accuracy" in column.split("/")


def _axis_title(column: str) -> str:
    split, _, rest = column.partition("/")
    names = {"val": "validation", "train": "training"}
    known = {"accuracy": "accuracy (%)", "nll": "NLL (nats)"}
    what, _, modality = rest.partition("/")
    if split not in names or what not in known:
        return style.shown(column)
    return f"{names[split]} {known[what]}" + (f", {style.shown(modality)}" if modality else "")


def _end(series: Series) -> tuple[float, float]:
    mean = series.mean
    last = int(np.flatnonzero(np.isfinite(mean))[-1])
    return float(series.epochs[last]), float(mean[last])
