"""Pictures of runs for papers and for the HTML report.

`draw("bars", runs, Options())` gives `Picture`s, one for each group of comparable runs; `save` writes one,
`svg` gives it as an element of an HTML page. Several kinds of the same runs: `gather` once, then `draw_gathered`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from mmbal_cli.errors import UsageError, nearest
from mmbal_cli.report.plots.picture import FORMATS, Picture, render, save, svg
from mmbal_cli.report.plots.study import Gathered, Options, gather
from mmbal_cli.report.runs import Run

__all__ = [
    "FORMATS",
    "KINDS",
    "Gathered",
    "Options",
    "Picture",
    "draw",
    "draw_gathered",
    "gather",
    "render",
    "save",
    "svg",
]

KINDS = {
    "curves": ("curves", "validation accuracy (or another recorded column) over epochs, runs overlaid"),
    "dynamics": ("dynamics", "accuracy, loss, gradient, discrepancy of each modality and coefficients over epochs"),
    "bars": ("bars", "fused accuracy and in-model accuracy of each modality, with intervals and unimodal models"),
    "pareto": ("pareto", "accuracy against training cost and against imbalance, with the front"),
    "critical-difference": ("ranks", "mean ranks over data sets (or seeds), and which methods cannot be told apart"),
    "reliability": ("reliability", "confidence against accuracy, fused and each modality, with ECE"),
    "embedding": ("embedding", "adapter outputs of each modality in two dimensions, coloured by class"),
}


def draw(kind: str, runs: Sequence[Run], options: Options | None = None) -> list[Picture]:
    """Pictures of `kind` (a key of KINDS) of `runs`, one or more for each group of comparable ones.

    Raises UsageError when these runs cannot be shown so, CacheError when what the kind needs cannot be read.
    """
    options = options or Options()
    return draw_gathered(kind, gather(runs, options.split), options)


def draw_gathered(kind: str, gathered: Gathered, options: Options) -> list[Picture]:
    """`draw` for runs that have been read."""
    from mmbal_cli.report.plots.style import look, settle

    if kind not in KINDS:
        raise UsageError(f"Unknown kind of plot '{kind}'.", nearest(kind, KINDS))
    module = import_module(f"{__name__}.{KINDS[kind][0]}")
    with look():
        if hasattr(module, "pictures_of_all"):
            made = module.pictures_of_all(gathered.groups, options)
        else:
            made = [picture for group in gathered.groups for picture in module.pictures(group, options)]
        for picture in made:
            settle(picture.figure)
    return made
