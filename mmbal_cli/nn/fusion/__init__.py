"""Table of fusions as plain strings, so that listing them imports no torch.

A fusion is named `name` or `name:variant`. Those that are not `general` belong to methods that name them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from mmbal_cli.errors import UsageError, nearest

if TYPE_CHECKING:
    import torch

    from mmbal_cli.nn.fusion.base import Fusion
    from mmbal_cli.seeds import SeedStreams


class FusionRow(NamedTuple):
    """One fusion of `mmbal methods list`."""

    cls: str
    line: str
    variants: tuple[str, ...] = ()
    paper: str = ""
    general: bool = True


FUSIONS: dict[str, FusionRow] = {
    "concat": FusionRow("Concat", "one linear layer on the concatenated features", ("mlp",)),
    "sum": FusionRow("Sum", "sum of the logits of a linear layer for each modality", ("feature", "mean"), "IJCAI 2019"),
    "affine": FusionRow("Affine", "FiLM: earlier modalities scale and shift the last one", ("sym",), "AAAI 2018"),
    "gated": FusionRow("Gated", "earlier modalities gate the last one", ("sym",), "arXiv 1802.02892"),
    "weight": FusionRow(
        "Weight", "attention over the modalities of a sample", ("feat", "elem", "static"), "IJCAI 2019"
    ),
    "mmtm": FusionRow("MMTM", "joint squeeze, gates on every channel", ("double",), "CVPR 2020"),
    "ml-lstm": FusionRow("MLLSTM", "two LSTM layers over the modalities", ("mean", "bidir"), "MTAP 2021"),
    "attn": FusionRow("Attn", "one transformer block over the modalities"),
    "lmf": FusionRow("LMF", "low-rank product of all modalities", (), "ACL 2018"),
    "tfn": FusionRow("TFN", "outer product of all modalities", (), "EMNLP 2017"),
    "shared": FusionRow("Shared", "one linear layer for all modalities, logits summed (for mla)", general=False),
}
ALIASES = {"channel": "mmtm"}  # the name of the row in the LFM poster
GENERAL = tuple(name for name, row in FUSIONS.items() if row.general)


def fusion_class(name: str) -> type[Fusion]:
    """The class of a fusion; UsageError with the nearest name when there is none."""
    base, colon, variant = name.partition(":")
    if base not in FUSIONS:
        raise UsageError(f"Unknown fusion '{name}'.", nearest(base, FUSIONS))
    row = FUSIONS[base]
    if colon and variant not in row.variants:
        known = ", ".join(f"{base}:{v}" for v in row.variants) or "none"
        raise UsageError(f"Unknown variant of fusion '{base}': '{variant}'.", f"Its variants: {known}.")
    return getattr(import_module(f"{__name__}.{base.replace('-', '_')}"), row.cls)


def make_fusion(
    name: str, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, dtype: torch.dtype
) -> Fusion:
    """The module of fusion `name` or `name:variant`."""
    return fusion_class(name)(rng, mods, width, classes, dtype, name.partition(":")[2])
