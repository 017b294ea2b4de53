"""Names beside what they name, without overlap: at the ends of lines, and around points."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.report.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

ANGLES = tuple(np.deg2rad([0, 180, 40, -40, 140, -140, 90, -90, 20, -20, 160, -160, 65, -65, 115, -115]))
RADII = (5.0, 9.0, 14.0, 20.0, 28.0, 38.0, 50.0, 64.0, 80.0, 100.0)  # points
NEAR = 7.0  # points from which on a thin line leads from a name to its point


def apart(wanted: Sequence[float] | NDArray, height: float) -> NDArray:
    """Positions near `wanted`, in the same order, at least `height` from each other (pool adjacent violators)."""
    order = np.argsort(np.asarray(wanted, float), kind="stable")
    pools: list[list[float]] = []  # sum of offsets, count: members of a pool stand `height` apart
    for place, index in enumerate(order):
        pools.append([float(wanted[index]) - place * height, 1.0])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, count = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += count
    levels = np.concatenate([np.full(int(count), total / count) for total, count in pools])
    placed = np.empty(len(order))
    placed[order] = levels + height * np.arange(len(order))
    return placed


def spread(axes: Axes, ends: Sequence[tuple[float, float]], labels: Sequence[str], colours: Sequence[str]) -> None:
    """Name lines at their ends (x, y in data): right of the axes, apart from each other, thin lines lead there."""
    figure, size = style.figure_of(axes), style.SMALL
    texts = [
        axes.text(
            1.045, y, label, transform=axes.get_yaxis_transform(), color=style.deep(colour), fontsize=size, va="center"
        )
        for (_, y), label, colour in zip(ends, labels, colours, strict=True)
    ]
    figure.draw_without_rendering()
    pixels = axes.transData.transform(ends)
    placed = apart(pixels[:, 1], figure.dpi * size * 1.25 / 72)
    starts = axes.transAxes.inverted().transform(pixels)
    heights = axes.transAxes.inverted().transform(np.column_stack([np.zeros(len(placed)), placed]))[:, 1]
    for text, start, height, colour in zip(texts, starts, heights, colours, strict=True):
        text.set_transform(axes.transAxes)
        text.set_position((1.045, height))
        axes.plot([start[0], 1.005, 1.035], [start[1], start[1], height], color=colour, linewidth=0.5,
                  transform=axes.transAxes, clip_on=False, zorder=1)  # fmt: skip


def around(
    axes: Axes, points: Sequence[tuple[float, float]], labels: Sequence[str], keep_off: NDArray | None = None
) -> None:
    """Name each point (data) at the first place around it that is free.

    Greedy, crowded points last: nearest ring first, sides before corners. Names and the lines that lead to them keep
    off points, each other and the line through `keep_off` (data). Where there is no such place lines may be crossed,
    then covered, and only then names.
    """
    figure = style.figure_of(axes)
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    pixels = axes.transData.transform(points)
    texts = [axes.annotate(label, point, (0, 0), textcoords="offset points", fontsize=style.TINY, color=style.INK)
             for label, point in zip(labels, points, strict=True)]  # fmt: skip
    renderer = style.renderer_of(figure)
    frame = axes.get_window_extent(renderer)
    solid = [_square(p, 2.5 * scale) for p in pixels]
    thin = [] if keep_off is None else [
        square for start, end in pairwise(axes.transData.transform(keep_off)) for square in _along(start, end, scale)
    ]  # fmt: skip
    distance = np.linalg.norm(pixels[:, None] - pixels[None], axis=-1)
    for i in np.argsort((distance < 40 * scale).sum(axis=1), kind="stable"):
        others = solid[:i] + solid[i + 1 :]
        extent = texts[i].get_window_extent(renderer)
        size = np.array([extent.width, extent.height])
        tries: tuple[tuple[list[NDArray], list[NDArray]], ...]
        tries = ((others + thin, others + thin), (others + thin, []), (others, []), ([], []))
        found = (_first_free(pixels[i], size, name, line, frame, scale) for name, line in tries)
        box, leader = next((place for place in found if place is not None), (_beside(pixels[i], size, scale), []))
        solid.append(box + np.array([-4, 0, 4, 0]) * scale)  # names beside each other keep a space
        thin += leader
        _put(axes, texts[i], pixels[i], box, scale, line=bool(leader))


def _beside(point: NDArray, size: NDArray, scale: float) -> NDArray:
    """The box right of a point, whatever is there: for a name that no place in the axes can hold."""
    low = point + np.array([5 * scale, -size[1] / 2])
    return np.array([*low, *(low + size)])


def _square(centre: NDArray, half: float) -> NDArray:
    return np.array([*(centre - half), *(centre + half)])


def _along(start: NDArray, end: NDArray, scale: float) -> list[NDArray]:
    """Small squares along a line."""
    steps = max(2, int(np.linalg.norm(end - start) / (2 * scale)))
    return [_square(start + (end - start) * share, 0.8 * scale) for share in np.linspace(0, 1, steps)]


def _first_free(
    point: NDArray, size: NDArray, name: Sequence[NDArray], line: Sequence[NDArray], frame: Bbox, scale: float
) -> tuple[NDArray, list[NDArray]] | None:
    """The first box [x0,y0,x1,y1] around `point` free of `name`, and squares of the line there, free of `line`."""
    solid, thin = np.array(name).reshape(-1, 4), np.array(line).reshape(-1, 4)
    for radius in RADII:
        for angle in ANGLES:
            way = np.round([np.cos(angle), np.sin(angle)], 9)
            centre = point + way * (radius * scale + np.abs(way) * size / 2)
            box = np.array([*(centre - size / 2), *(centre + size / 2)])
            inside = box[0] >= frame.x0 and box[2] <= frame.x1 and box[1] >= frame.y0 and box[3] <= frame.y1
            near = np.clip(point, box[:2], box[2:])
            far = np.linalg.norm(near - point) > NEAR * scale
            leader = _along(point, near, scale)[2:] if far else []
            if inside and not _hits(box, solid) and not any(_hits(each, thin) for each in leader):
                return box, leader
    return None


def _hits(box: NDArray, others: NDArray) -> bool:
    x, y = (box[0] < others[:, 2]) & (others[:, 0] < box[2]), (box[1] < others[:, 3]) & (others[:, 1] < box[3])
    return bool((x & y).any())


def _put(axes: Axes, text: Annotation, point: NDArray, box: NDArray, scale: float, *, line: bool) -> None:
    anchor, side = (box[0] + box[2]) / 2, "center"
    if box[2] <= point[0] or box[0] >= point[0]:
        anchor, side = (box[2], "right") if box[2] <= point[0] else (box[0], "left")
    text.set_position(((anchor - point[0]) / scale, (box[1] - point[1]) / scale))
    text.set(horizontalalignment=side)
    text.set_verticalalignment("bottom")
    text.set_in_layout(False)
    if line:
        ends = axes.transData.inverted().transform([point, np.clip(point, box[:2], box[2:])])
        axes.plot(ends[:, 0], ends[:, 1], color=style.GREY, linewidth=0.4, zorder=1, scalex=False, scaley=False)
