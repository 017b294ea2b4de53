"""Table of fusions as plain strings, so that listing them imports no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mmbal_cli.errors import UsageError, nearest

if TYPE_CHECKING:
    from mmbal_cli.nn.fusion.base import Fusion

FUSIONS: dict[str, tuple[str, str]] = {
    "concat": ("Concat", "one linear layer on the concatenated features"),
    "sum": ("Sum", "sum of the logits of one linear layer for each modality"),
    "affine": ("Affine", "FiLM: earlier modalities scale and shift the last one"),
    "gated": ("Gated", "earlier modalities gate the last one"),
}


def fusion_class(name: str) -> type[Fusion]:
    """The class of a fusion; UsageError with the nearest name when there is none."""
    if name not in FUSIONS:
        raise UsageError(f"Unknown fusion '{name}'.", nearest(name, FUSIONS))
    return getattr(import_module(f"{__name__}.{name.replace('-', '_')}"), FUSIONS[name][0])
