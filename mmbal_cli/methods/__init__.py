"""The table of methods as plain strings, so that listing them imports no torch; and how a name is resolved.

A name is one of the table, an entry point of the group `mmbal.methods`, or `path/to/file.py:Class`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmbal_cli.errors import UsageError, nearest

if TYPE_CHECKING:
    from mmbal_cli.methods.base import Method

ENTRY_POINTS = "mmbal.methods"


class Row(NamedTuple):
    """One line of `mmbal methods list`."""

    path: str
    kind: str
    paper: str
    line: str
    reconstructed: bool = False


METHODS: dict[str, Row] = {
    "unimodal": Row("unimodal:Unimodal", "reference", "", "one model for each modality, trained by itself"),
    "unimodal-ensemble": Row(
        "unimodal_ensemble:UnimodalEnsemble",
        "reference",
        "",
        "mean logits of independently trained unimodals",
    ),
    "concat": Row("concat:Concat", "reference", "", "joint training, one linear head on all features"),
    "sum": Row("sum:Sum", "fusion", "", "joint training, sum of per-modality logits"),
    "uniform": Row("uniform:Uniform", "loss", "", "joint loss plus equal unimodal losses"),
    "heads": Row("heads:Heads", "loss", "", "joint loss plus a head and a loss of its own for each modality"),
    "late-fusion": Row("heads:LateFusion", "loss", "", "trained like heads, predicts the mean of their logits"),
    "ogm": Row("ogm:OGM", "gradient", "CVPR 2022", "damps the encoder gradient of the leading modality"),
    "ogm-ge": Row("ogm_ge:OGMGE", "gradient", "CVPR 2022", "OGM plus noise of the gradient's own spread"),
    "arl": Row("arl:ARL", "loss, gradient", "ICCV 2025", "asymmetric learning: targets from the logits' entropy"),
    "lfm-h": Row("lfm_h:LFMH", "loss, schedule", "NeurIPS 2024", "alignment first, classification later"),
    "lfm-lb": Row("lfm_lb:LFMLB", "loss, schedule", "NeurIPS 2024", "as lfm-h, with a learned mix"),
    "iibalance": Row(
        "iibalance:IIBalance", "loss, schedule, inference", "ICME 2026", "budgets of information decide", True
    ),
    "bmlr": Row("bmlr:BMLR", "loss", "arXiv 2605.28869", "labels reshaped until modalities are equally hard", True),
    "bmlmi": Row("bmlmi:BMLMI", "stages, loss", "arXiv 2511.00987", "distils, then weighs the losses", True),
}


def method_class(name: str) -> type[Method]:
    """The class of a method by name, entry point or `file.py:Class`; UsageError when there is none."""
    if name in METHODS:
        module, _, attribute = METHODS[name].path.partition(":")
        return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    if ".py:" in name:
        return _from_file(name)
    plugins = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name in plugins:
        return _checked(plugins[name].load(), name)
    raise UsageError(f"Unknown method '{name}'.", nearest(name, [*METHODS, *plugins]), "mmbal methods list")


def _from_file(name: str) -> type[Method]:
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"No method file at {path}.", "Expected path/to/file.py:Class.")
    spec = importlib.util.spec_from_file_location(f"mmbal_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not hasattr(module, attribute):
        names = [n for n, value in vars(module).items() if isinstance(value, type)]
        raise UsageError(f"{path} defines no class '{attribute}'.", nearest(attribute, names))
    return _checked(getattr(module, attribute), name)


def _checked(found: object, name: str) -> type[Method]:
    from mmbal_cli.methods.base import Method

    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UsageError(f"'{name}' is not a method class.", "Expected a subclass of mmbal_cli.methods.base.Method.")
    return found
