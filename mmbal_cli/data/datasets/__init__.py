"""Data sets the program can make itself: name -> (module with `generate`, one line). Nothing is imported."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from mmbal_cli.errors import UsageError, nearest

GENERATORS: dict[str, tuple[str, str]] = {
    "demo": (
        "mmbal_cli.data.datasets.demo",
        "an imbalance laboratory: generated clips with sound and captions, stated best accuracies",
    ),
}


def get_generator(name: str) -> Callable[..., Path]:
    """`generate(root, ...) -> manifest path` of a data set; UsageError with the nearest name."""
    if name not in GENERATORS:
        raise UsageError(f"No generator is called '{name}'.", nearest(name, GENERATORS))
    generate: Callable[..., Path] = import_module(GENERATORS[name][0]).generate
    return generate
