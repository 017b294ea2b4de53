"""Optical flow beside colour videos: supplied by the user, or to be computed from the colour file.

The modality's name says how its pictures come about: `flow` is drawn here, from colour or from two supplied
components; `flow_supplied` was drawn elsewhere and is decoded like any video; `flow_diff` is the difference of
neighbouring frames and no optical flow.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Folder, NoLayout
from mmbal_cli.media.folder import SUFFIXES

CHOICES = ("auto", "supplied", "computed", "difference")
NAMES = {"components": "flow", "computed": "flow", "pictures": "flow_supplied", "difference": "flow_diff"}


def decide(choice: str, supplied: str | None, looked_for: str) -> str:
    """One of NAMES. `supplied` is `components` or `pictures`, or None: NoLayout where that is what is asked for."""
    if choice in ("computed", "difference"):
        return choice
    if choice == "supplied" and supplied is None:
        raise NoLayout(f"source.flow=supplied, and there is no {looked_for}")
    return supplied or "computed"


def numbers(folder: Folder, path: str) -> list[int]:
    """Sorted numbers of the pictures in a folder, the last number of each name; empty where there is no folder."""
    try:
        names = os.listdir(folder.root / path)  # noqa: PTH208 - names only: this runs over a million pictures
    except OSError:
        return []
    pictures = (name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith("."))
    return sorted(int(found[-1]) for name in pictures if (found := re.findall(r"\d+", name.rpartition(".")[0])))


def gaps(path: str, found: list[int]) -> Iterator[Problem]:
    """A finding where numbers are missing between the first and the last picture of a folder."""
    lost = found[-1] - found[0] + 1 - len(found) if found else 0
    if lost > 0:
        said = f"'{path}': {lost} pictures are missing between number {found[0]} and number {found[-1]}"
        yield Problem("error", "too-short", said)
