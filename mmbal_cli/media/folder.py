"""A clip that is a folder of pictures, or two folders with the components of optical flow (`a/{u,v}/b`)."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mmbal_cli.media.probe import problem

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
MAX_PICTURES = 100_000
PAIR = "{u,v}"


def is_pair(path: Path) -> bool:
    """Whether `path` stands for two folders, of horizontal and of vertical motion."""
    return PAIR in path.parts


def halves(path: Path) -> tuple[Path, Path]:
    """The two folders of a pair."""
    first, second = (Path(*(half if part == PAIR else part for part in path.parts)) for half in "uv")
    return first, second


def members(path: Path) -> list[Path]:
    """The files behind a path: itself, the pictures of a folder in order, or those of both folders of a pair.

    Order: by the last number in the name, then by name. Hidden files and those of other types are left out. Raises
    MediaError: more than 100,000 pictures, a link that leads out of the folder, folders of a pair of unequal length,
    a folder that cannot be read.
    """
    if is_pair(path):
        first, second = (_pictures(half) for half in halves(path))
        if len(first) != len(second):
            raise problem(path, f"has {len(first)} pictures in u and {len(second)} in v")
        return first + second
    return _pictures(path) if path.is_dir() else [path]


def _pictures(folder: Path) -> list[Path]:
    found: list[tuple[tuple[float, str], Path]] = []
    inside = os.path.join(os.path.realpath(folder), "")  # noqa: PTH118 - for a comparison of texts
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.name.lower().endswith(SUFFIXES):
                    continue
                if entry.is_symlink() and not os.path.realpath(entry.path).startswith(inside):
                    raise problem(folder, f"the link '{entry.name}' leads out of it")
                if not entry.is_file():
                    continue
                found.append((_place(entry.name), folder / entry.name))
                if len(found) > MAX_PICTURES:
                    raise problem(folder, f"holds more than {MAX_PICTURES} pictures")
    except OSError as error:
        raise problem(folder, error.strerror or "cannot be read") from None
    return [path for _, path in sorted(found)]


def _place(name: str) -> tuple[float, str]:
    numbers = re.findall(r"\d+", name.rpartition(".")[0], re.ASCII)
    return (int(numbers[-1][-18:]) if numbers else float("inf")), name
