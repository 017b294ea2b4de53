"""What happens to each modality during training: one row a method, one column a quantity, the same axes down a column.

grad/M is the gradient norm of the adapter of M as it was used; discrepancy/M the ratio of Peng et al. 2022 (OGM-GE,
arXiv 2203.15332, equation 8) for any number of modalities: true-class probability of M over the mean of the others'.
Coefficients are what the method itself logs: a picture of their own, each with axes of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmbal_cli.errors import UsageError
from mmbal_cli.report.plots import style
from mmbal_cli.report.plots.curves import draw_series, is_share
from mmbal_cli.report.plots.picture import Picture
from mmbal_cli.report.plots.series import Recorded, Series, band_note, band_of, phases_note, recorded
from mmbal_cli.report.plots.study import FUSED, Group, Options, caption, listed, seeds_note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COEFFICIENTS = "coef"
ROWS = 10  # in one picture
PANELS = {"page": 5, "column": 2}
SPAN = 30.0  # largest over smallest value from which an axis is logarithmic
DEEPEST = 1e-4  # lower end of a logarithmic axis, as a share of its upper one

Limits = tuple[float, float, bool]


@dataclass(frozen=True)
class Panel:
    """The lines of one pair of axes: its title, {modality or "": series}, and whether they may be logarithmic."""

    title: str
    lines: Mapping[str, Series]
    log: bool = False
    share: bool = False
    limits: Limits | None = None
    owner: str = ""  # the method, where a row has several


@dataclass(frozen=True)
class Row:
    """Panels beside each other under one label; without it each panel names its owner."""

    label: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Quantity:
    """A quantity of all methods: the prefix of its record columns and its title."""

    prefix: str
    title: str
    log: bool = False


QUANTITIES = (
    Quantity("val/accuracy", "val. accuracy (%)"),
    Quantity("train/nll", "train NLL (nats)", log=True),
    Quantity("grad", "gradient norm", log=True),
    Quantity("discrepancy", "discrepancy", log=True),
)


def pictures(group: Group, options: Options) -> list[Picture]:
    """The common quantities of all runs, then the coefficients of those that have any; ten rows in one picture.

    Raises UsageError when no run has recorded anything of it.
    """
    read = {each.label: recorded(each) for each in group.entrants}
    common, coefficients = _common(read), _coefficients(read, PANELS[options.width])
    if not common and not coefficients:
        raise UsageError(f"No run on {group.where} has records of its training.", "Expected records.jsonl of a seed.")
    drawn = [panel for row in (*common, *coefficients) for panel in row.panels]
    every = [series for panel in drawn for series in panel.lines.values()]
    kind = band_of(every)
    having = {row.label for row in common} | {panel.owner for row in coefficients for panel in row.panels}
    without = [label for label in read if label not in having]
    tail = [
        seeds_note(group.entrants),
        band_note(kind, any(len(series.values) == 1 for series in every)),
        "On logarithmic axes (values that span a factor of 30) the band is smallest to largest seed."
        if kind == "t" and any((panel.limits or _limits([panel]))[2] for panel in drawn if panel.lines)
        else "",
        phases_note({label: own.phases for label, own in read.items()}),
        f"Not recorded: {listed(without)}." if without else "",
        *(note for own in read.values() for note in own.notes),
    ]
    shown = [
        *_numbered(f"dynamics-{group.name}", _pages(common, PANELS[options.width]), _COMMON, group.where),
        *_numbered(f"dynamics-{group.name}-coefficients", _pages(coefficients, 0), _COEFFICIENTS, group.where),
    ]
    return [
        Picture(name, head, caption([head, axes, *tail], group), figure(page, group.modalities, kind, options))
        for name, head, axes, page in shown
    ]


_COMMON = ("Training of each modality, one row a method, one column a quantity", "Axes are the same down a column.")
_COEFFICIENTS = ("Coefficients that the methods set", "Each panel has its own axes.")


def _numbered(
    name: str, pages: Sequence[Sequence[Row]], texts: tuple[str, str], where: str
) -> Iterator[tuple[str, str, str, Sequence[Row]]]:
    """Name, first sentence, sentence on the axes, and rows of each picture."""
    for number, page in enumerate(pages, start=1):
        several = len(pages) > 1
        of = f" (part {number} of {len(pages)})" if several else ""
        yield name + (f"-part-{number}" if several else ""), f"{texts[0]}, on {where}{of}.", texts[1], page


def figure(rows: Sequence[Row], modalities: Sequence[str], kind: str, options: Options) -> Figure:
    """All panels of `rows`; a row without a label has labels over each panel."""
    width, columns, titled = style.WIDTHS[options.width], max(len(row.panels) for row in rows), not rows[0].label
    picture = style.canvas(width, 0.72 + (1.1 if titled else 0.86) * len(rows))
    grid = picture.subplots(len(rows), columns, squeeze=False)
    drawn = [panel for row in rows for panel in row.panels]
    last = max(int(series.epochs[-1]) for panel in drawn for series in panel.lines.values())
    for i, row in enumerate(rows):
        for j, axes in enumerate(grid[i]):
            if j >= len(row.panels):
                axes.set_axis_off()
                continue
            panel = row.panels[j]
            draw_panel(axes, panel, modalities, kind, last)
            axes.tick_params(labelbottom=i + 1 == len(rows) or titled)
            if i + 1 == len(rows):
                axes.set_xlabel("epoch", fontsize=style.SMALL)
            if titled:
                style.above(axes, style.shown(panel.owner, 22), 9, fontsize=style.TINY, fontweight="bold")
                style.above(axes, panel.title, 2, fontsize=style.TINY, color=style.GREY)
            elif i == 0:
                style.above(axes, panel.title, 13, color=style.GREY)
        style.above(grid[i, 0], row.label, 3, fontweight="bold")
    _legend(picture, modalities, [m for panel in drawn for m in panel.lines], coefficients=titled)
    return picture


def look_of(modality: str, modalities: Sequence[str]) -> tuple[str, object]:
    """Colour and line style of a modality; what belongs to none is black and solid."""
    if modality not in modalities:
        return style.INK, "-"
    index = list(modalities).index(modality)
    return style.colour(index), style.dash(index)


def draw_panel(axes: Axes, panel: Panel, modalities: Sequence[str], kind: str, last: int) -> None:
    """Every line of a panel; epochs run to `last`."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if not panel.lines:
        style.empty(axes, "not recorded")
        return
    low, high, log = panel.limits or _limits([panel])
    for modality, series in panel.lines.items():
        own, dash = look_of(modality, modalities)
        draw_series(axes, series, own, "range" if kind and log else kind, dash=dash, width=1.0)
    axes.set_xlim(0, last + 1)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 200 else (1.0, 3.0), numticks=4))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_ylim(low, high)
    axes.tick_params(labelsize=style.TINY)
    axes.grid(axis="y")
    if panel.share:
        style.percent_axis(axes.yaxis)
    for phase in next(iter(panel.lines.values())).phases[1:]:
        axes.axvline(phase.first - 0.5, color=style.GREY, linestyle=":", linewidth=0.7, zorder=1)


def _common(read: Mapping[str, Recorded]) -> list[Row]:
    """One row a run with any of the quantities; columns that no run has are left out."""
    found = {label: [_panel(own, quantity) for quantity in QUANTITIES] for label, own in read.items()}
    kept = [i for i in range(len(QUANTITIES)) if any(panels[i].lines for panels in found.values())]
    limits = {i: _limits([panels[i] for panels in found.values()]) for i in kept}
    return [
        Row(label, [_with(panels[i], limits[i]) for i in kept])
        for label, panels in found.items()
        if any(panel.lines for panel in panels)
    ]


def _with(panel: Panel, limits: Limits) -> Panel:
    return Panel(panel.title, panel.lines, panel.log, panel.share, limits)


def _panel(read: Recorded, quantity: Quantity) -> Panel:
    lines = dict(_lines(read, quantity.prefix))
    if len(lines) == 2:  # one modality: the fused prediction is the same again
        lines.pop(FUSED, None)
    return Panel(quantity.title, lines, quantity.log, is_share(quantity.prefix))


def _coefficients(read: Mapping[str, Recorded], width: int) -> list[Row]:
    """One panel for each name that a run has logged under coef/, `width` in a row."""
    panels = []
    for label, own in read.items():
        names: dict[str, dict[str, Series]] = {}
        for rest, series in _lines(own, COEFFICIENTS):
            name, _, modality = rest.partition("/")
            names.setdefault(name, {})[modality] = series
        panels += [Panel(style.shown(name, 22), lines, log=True, owner=label) for name, lines in names.items()]
    return [Row("", panels[at : at + width]) for at in range(0, len(panels), width)]


def _lines(read: Recorded, prefix: str) -> Iterator[tuple[str, Series]]:
    """(rest of the column name, series) of the columns `prefix` and prefix/..."""
    for column in read.columns:
        if (column == prefix or column.startswith(f"{prefix}/")) and (series := read.series(column)) is not None:
            yield column.removeprefix(prefix).removeprefix("/"), series


def _pages(rows: Sequence[Row], width: int) -> list[list[Row]]:
    """Rows cut into pictures of at most ten rows and `width` panels (0 for all)."""
    columns = max((len(row.panels) for row in rows), default=0)
    width = width or columns
    return [
        [Row(row.label, row.panels[j : j + width]) for row in rows[i : i + ROWS]]
        for j in range(0, columns, max(width, 1))
        for i in range(0, len(rows), ROWS)
    ]


def _limits(panels: Sequence[Panel]) -> Limits:
    """Lowest and highest value of an axis that holds the means of all panels, and whether it is logarithmic."""
    means = np.concatenate([series.mean for panel in panels for series in panel.lines.values()])
    means = means[np.isfinite(means)]
    low, high = float(means.min()), float(means.max())
    positive = means[means > 0]
    if panels[0].log and low >= 0 and len(positive) and high / float(np.quantile(positive, 0.01)) > SPAN:
        return max(float(positive.min()), high * DEEPEST) / 1.4, high * 1.4, True
    margin = 0.08 * (high - low) or 0.1 * max(abs(high), 1e-3)
    return low - margin, high + margin, False


def _legend(picture: Figure, modalities: Sequence[str], drawn: Sequence[str], *, coefficients: bool) -> None:
    from matplotlib.lines import Line2D

    others = [] if all(m in modalities for m in drawn) else ["whole model" if coefficients else "fused"]
    names = [*others, *(m for m in modalities if m in drawn)]
    looks = [look_of("" if others and i == 0 else name, modalities) for i, name in enumerate(names)]
    handles = [Line2D([], [], color=colour, linestyle=dash) for colour, dash in looks]
    style.legend(picture, handles, style.all_shown(names))
