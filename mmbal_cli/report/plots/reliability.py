"""Reliability diagrams: accuracy against confidence in bins of equal mass, fused and each modality, with the ECE.

Bins: Nguyen and O'Connor 2015 (arXiv 1508.05154); diagram: Guo et al. 2017 (arXiv 1706.04599). Each seed is binned by
itself; points are means over seeds of the bins of equal rank, vertical lines smallest to largest seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.errors import UsageError
from mmbal_cli.report.calibration import reliability
from mmbal_cli.report.metrics import ECE_BINS
from mmbal_cli.report.plots import style
from mmbal_cli.report.plots.dynamics import look_of
from mmbal_cli.report.plots.picture import Picture
from mmbal_cli.report.plots.study import FUSED, Entrant, Group, Options, caption, seeds_note
from mmbal_cli.report.statistics import Summary, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS = 4  # runs in one picture
PANELS = {"page": 4, "column": 2}
EDGES = np.linspace(0, 1, 21)  # of the histogram


@dataclass(frozen=True)
class Diagram:
    """One part of one run: mean confidence and accuracy of each bin, accuracies of the seeds, all confidences.

    confidence, accuracy, low, high [bins]; share [20] of the histogram; `ece` over seeds.
    """

    confidence: NDArray
    accuracy: NDArray
    low: NDArray
    high: NDArray
    share: NDArray
    ece: Summary


def pictures(group: Group, options: Options) -> list[Picture]:
    """Diagrams of all runs with a good seed, four in a picture. Raises UsageError when there is none."""
    entrants = [each for each in group.entrants if each.good]
    if not entrants:
        raise UsageError(f"No run on {group.where} has a finished seed.", "Reliability is that of finished seeds.")
    parts = [FUSED, *(m for m in group.modalities if any(m in each.modalities for each in entrants))]
    wide = PANELS[options.width]
    pages = [(entrants[i : i + ROWS], parts[j : j + wide])
             for i in range(0, len(entrants), ROWS) for j in range(0, len(parts), wide)]  # fmt: skip
    made = []
    for number, (some, shown) in enumerate(pages, start=1):
        several = len(pages) > 1
        sentences = [
            f"Reliability on {group.where}, {group.split}" + (f" (part {number} of {len(pages)})." if several else "."),
            f"Accuracy against confidence in {options.bins} bins of equal mass"
            + (
                "; points: mean over seeds, vertical lines: smallest to largest seed"
                if any(len(each.good) > 1 for each in some)
                else ""
            )
            + "; under the dotted line: over-confident.",
            "A modality: softmax of its own logits, on the samples that have it.",
            f"ECE: mean ± sample standard deviation (divisor n − 1) over seeds, in percent, {ECE_BINS} bins. "
            "Below: share of samples.",
            seeds_note(some),
        ]
        name = f"reliability-{group.name}" + (f"-part-{number}" if several else "")
        picture = figure(some, shown, group.modalities, options)
        made.append(Picture(name, f"Reliability, {group.where}, {group.split}", caption(sentences, group), picture))
    return made


def diagram(each: Entrant, modality: str, bins: int) -> Diagram | None:
    """The bins of one part of one run; None when no seed has a sample of it."""
    pairs = [pair for seed in each.good if (pair := each.scored(seed, modality)) and len(pair[1])]
    if not pairs:
        return None
    found = [reliability(probs, labels, bins) for probs, labels in pairs]
    confidence = np.array([[b.confidence for b in seed] for seed in found])
    accuracy = np.array([[b.accuracy for b in seed] for seed in found])
    every = np.concatenate([np.asarray(probs, np.float64).max(axis=1) for probs, _ in pairs])
    share = np.histogram(np.clip(every, 0, 1), EDGES)[0] / len(every)
    ends = (accuracy.min(axis=0), accuracy.max(axis=0))
    return Diagram(confidence.mean(axis=0), accuracy.mean(axis=0), *ends, share, summary(each.values("ece", modality)))


def figure(entrants: Sequence[Entrant], parts: Sequence[str], modalities: Sequence[str], options: Options) -> Figure:
    """One row a run, one column a part; the histogram under each diagram."""
    width = style.WIDTHS[options.width]
    side = min(width / max(len(parts), 2 if options.width == "column" else 3), 1.75)
    rows = len(entrants)
    tall = (side - 0.38) * 1.16 + 0.42
    picture = style.canvas(min(width, side * len(parts) + 0.3), tall * rows + 0.3)
    grid = picture.subplots(2 * rows, len(parts), squeeze=False, sharex=True, height_ratios=[6, 1] * rows)
    for i, each in enumerate(entrants):
        for j, modality in enumerate(parts):
            upper, lower = grid[2 * i, j], grid[2 * i + 1, j]
            found = diagram(each, modality, options.bins)
            _draw(upper, lower, found, look_of(modality, modalities)[0])
            if j == 0:
                style.above(upper, each.label, 3, fontweight="bold")
                upper.set_ylabel("accuracy (%)", fontsize=style.SMALL)
            if i == 0:
                style.above(upper, style.shown(modality or "fused", 20), 13, color=style.GREY)
            if i == rows - 1 or found is None:
                lower.set_xlabel("confidence (%)" if found else "", fontsize=style.SMALL)
    return picture


def _draw(upper: Axes, lower: Axes, found: Diagram | None, colour: str) -> None:
    upper.set_box_aspect(1)
    lower.set_box_aspect(0.16)
    if found is None:
        style.empty(upper, "none")
        lower.set_axis_off()
        return
    upper.plot([0, 1], [0, 1], color=style.GREY, linestyle=":", linewidth=0.8, zorder=1)
    upper.vlines(found.confidence, found.low, found.high, color=colour, linewidth=0.8, alpha=0.6)
    upper.plot(found.confidence, found.accuracy, color=colour, marker="o", markersize=2.6, linewidth=0.9)
    ece = found.ece
    if ece.mean is not None:
        text = f"ECE {ece.mean * 100:.1f}" + (f" ± {ece.sd * 100:.1f}" if ece.sd is not None else "")
        above = float((found.accuracy - found.confidence).mean()) > 0  # the corner that the curve leaves free
        at, vertical, side = ((0.98, 0.03), "bottom", "right") if above else ((0.03, 0.97), "top", "left")
        upper.text(*at, text, transform=upper.transAxes, va=vertical, ha=side, fontsize=style.TINY)
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1.02)
    upper.set_xticks([0, 0.5, 1])
    upper.set_yticks([0, 0.5, 1])
    upper.tick_params(labelbottom=False, labelsize=style.TINY)
    style.percent_axis(upper.yaxis)
    lower.stairs(found.share, EDGES, fill=True, color=colour, alpha=0.45)
    lower.set_ylim(0, max(found.share.max(), 1e-9) * 1.05)
    lower.set_yticks([])
    lower.spines["left"].set_visible(False)
    lower.tick_params(labelsize=style.TINY, labelbottom=True)
    style.percent_axis(lower.xaxis)
