"""What the adapters make of each modality, in two dimensions: are the classes apart, and in which modality?

Adapter outputs h of one seed (the first good one) on the split, of each modality and of all of them beside each other
(concatenated). `pca`: principal components of the centred, not scaled features, explained variance on the axes.
`tsne`: van der Maaten and Hinton 2008 (scikit-learn, started from the components, random_state 0); its distances
between groups say little, and its axes have no unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.errors import CacheError, MmbalError, UsageError
from mmbal_cli.report.plots import style
from mmbal_cli.report.plots.picture import Picture
from mmbal_cli.report.plots.study import Entrant, Group, Options, caption

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROJECTIONS = ("pca", "tsne")
CONCATENATED = "concatenated"
ROWS = 4  # runs in one picture
PANELS = {"page": 4, "column": 2}
NAMED = 10  # classes with a colour each
MOST = 2000  # points of a panel
PERPLEXITY = 30.0


@dataclass(frozen=True)
class Cloud:
    """Points [n,2] of one modality, their classes [n], and the shares of variance of both axes (NaN for t-SNE)."""

    points: NDArray
    labels: NDArray
    shares: tuple[float, float]


@dataclass(frozen=True)
class Embedded:
    """One run: its label, the seed, and {modality or "concatenated": cloud}."""

    label: str
    seed: int
    clouds: Mapping[str, Cloud]


def pictures(group: Group, options: Options) -> list[Picture]:
    """Embeddings of all runs with a good seed, four in a picture; runs that cannot be opened are named.

    Raises UsageError for an unknown projection or no finished seed, CacheError when no run can be opened.
    """
    if options.projection not in PROJECTIONS:
        raise UsageError(f"Unknown projection '{options.projection}'.", f"Known: {', '.join(PROJECTIONS)}.")
    entrants = [each for each in group.entrants if each.good]
    if not entrants:
        raise UsageError(f"No run on {group.where} has a finished seed.", "An embedding is that of a trained model.")
    found, refused = [], {}
    for each in entrants:
        try:
            found.append(embedded(each, options))
        except MmbalError as error:
            refused[each.label] = error
    if not found:
        first = next(iter(refused.values()))
        repair = first.repair or "--cache FOLDER"
        raise CacheError(f"An embedding needs the prepared features: {first.found}", first.expected, repair)
    parts = [part for part in (*group.modalities, CONCATENATED) if any(part in each.clouds for each in found)]
    wide, classes = PANELS[options.width], group.facts.data.classes
    pages = [(found[i : i + ROWS], parts[j : j + wide])
             for i in range(0, len(found), ROWS) for j in range(0, len(parts), wide)]  # fmt: skip
    made = []
    for number, (some, shown) in enumerate(pages, start=1):
        several = len(pages) > 1
        first_part = f" (part {number} of {len(pages)})" if several else ""
        sentences = [
            f"Adapter outputs on {group.where}, {group.split}{first_part}, one seed each "
            f"({', '.join(f'{each.label} {each.seed}' for each in some)}); colour: class.",
            _method(options.projection),
            f"At most {MOST:,} points, drawn at random." if any(_cut(each, group) for each in some) else "",
            *(f"{label} left out: {error.found}" for label, error in refused.items()),
        ]
        name = f"embedding-{group.name}" + (f"-part-{number}" if several else "")
        title = f"Adapter outputs, {group.where}, {group.split}"
        made.append(Picture(name, title, caption(sentences, group), figure(some, shown, classes, options)))
    return made


def embedded(each: Entrant, options: Options) -> Embedded:
    """Open a run and project its adapter outputs. Raises CacheError or UsageError when it cannot be opened."""
    from mmbal_cli.engine.opened import open_run

    opened = open_run(each.run.folder, options.cache, device=options.device)
    seed = next(seed for seed in each.good if seed in opened.seeds)
    order = np.argsort(np.array(opened.ids(options.split), dtype=object), kind="stable")  # as saved predictions
    found, at = opened.features(options.split), opened.seeds.index(seed)
    features = {m: h[at].double().numpy()[order] for m, h in found.items()}
    saved = each.good[seed]
    rows = np.sort(np.random.default_rng(0).permutation(len(saved.labels))[:MOST])
    clouds = {}
    for m, h in features.items():
        there = saved.present[m][rows] if m in saved.present else np.ones(len(rows), bool)
        clouds[m] = _cloud(h, rows[there], saved.labels, options.projection)
    if len(features) > 1:
        clouds[CONCATENATED] = _cloud(np.hstack(list(features.values())), rows, saved.labels, options.projection)
    return Embedded(each.label, seed, clouds)


def project(h: NDArray, projection: str) -> tuple[NDArray, tuple[float, float]]:
    """Features [n,D] in two dimensions [n,2], and the share of variance of each axis (NaN for t-SNE)."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1):  # threads that wait for each other on busy cores take a hundred times as long
        return _projected(h, projection)


def _projected(h: NDArray, projection: str) -> tuple[NDArray, tuple[float, float]]:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    points, shares = np.zeros((len(h), 2)), np.zeros(2)
    spread = h - h.mean(axis=0) if len(h) else h
    if len(h) > 1 and np.abs(spread).max() > 0:
        wanted = min(2, *h.shape)
        pca = PCA(wanted, svd_solver="full").fit(spread)
        points[:, :wanted], shares[:wanted] = pca.transform(spread), pca.explained_variance_ratio_
    if projection == "tsne" and len(h) > 3 and shares[0] > 0:
        start = points / points[:, 0].std() * 1e-4
        model = TSNE(2, perplexity=min(PERPLEXITY, (len(h) - 1) / 3), init=start, random_state=0)
        return model.fit_transform(h), (np.nan, np.nan)
    return points, (float(shares[0]), float(shares[1]))


def figure(found: Sequence[Embedded], parts: Sequence[str], classes: Sequence[str], options: Options) -> Figure:
    """One row a run, one column a modality."""
    width, rows = style.WIDTHS[options.width], len(found)
    side = min(width / len(parts), 2.3)
    picture = style.canvas(max(side * len(parts), 2.6), (side + 0.12) * rows + 0.5)
    grid = picture.subplots(rows, len(parts), squeeze=False)
    for i, each in enumerate(found):
        for j, part in enumerate(parts):
            axes = grid[i, j]
            _draw(axes, each.clouds.get(part), classes)
            if j == 0:
                style.above(axes, each.label, 3, fontweight="bold")
            if i == 0:
                style.above(axes, style.shown(part, 20), 13, color=style.GREY)
    _legend(picture, grid, classes)
    return picture


def _cloud(h: NDArray, rows: NDArray, labels: NDArray, projection: str) -> Cloud:
    points, shares = project(h[rows], projection)
    return Cloud(points, labels[rows], shares)


def _cut(each: Embedded, group: Group) -> bool:
    shown = max(len(cloud.labels) for cloud in each.clouds.values())
    return any(len(next(iter(e.good.values())).labels) > shown >= MOST for e in group.entrants if e.label == each.label)


def _method(projection: str) -> str:
    if projection == "tsne":
        return "t-SNE (random_state 0): near points are alike, distances between groups say little."
    return "Principal components of the centred features; share of variance on the axes."


def _draw(axes: Axes, cloud: Cloud | None, classes: Sequence[str]) -> None:
    axes.set_box_aspect(1)
    if cloud is None or not len(cloud.points):
        style.empty(axes, "none")
        return
    size = float(np.clip(2500 / len(cloud.points), 1.5, 9))
    if len(classes) <= NAMED:
        for c in range(len(classes)):
            own = cloud.points[cloud.labels == c]
            axes.scatter(own[:, 0], own[:, 1], s=size, marker=style.marker(c), color=style.colour(c), linewidths=0,
                         alpha=0.75)  # fmt: skip
    else:
        axes.scatter(cloud.points[:, 0], cloud.points[:, 1], s=size, c=cloud.labels, cmap="viridis", vmin=0,
                     vmax=len(classes) - 1, linewidths=0, alpha=0.75)  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    if np.isfinite(cloud.shares[0]):
        axes.set_xlabel(f"PC 1 ({cloud.shares[0] * 100:.0f}%)", fontsize=style.TINY)
        axes.set_ylabel(f"PC 2 ({cloud.shares[1] * 100:.0f}%)", fontsize=style.TINY)


def _legend(picture: Figure, grid: NDArray, classes: Sequence[str]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D

    if len(classes) <= NAMED:
        handles = [Line2D([], [], linestyle="", marker=style.marker(c), color=style.colour(c), markeredgewidth=0)
                   for c in range(len(classes))]  # fmt: skip
        style.legend(picture, handles, style.all_shown(classes, 20))
        return
    scale = ScalarMappable(Normalize(0, len(classes) - 1), "viridis")
    bar = picture.colorbar(scale, ax=list(grid.flat), orientation="horizontal", fraction=0.03, aspect=60, pad=0.02)
    bar.set_ticks([0, len(classes) - 1], labels=style.all_shown([classes[0], classes[-1]], 24))
    bar.outline.set_visible(False)
    bar.set_label(f"{len(classes)} classes in their order", fontsize=style.SMALL)
