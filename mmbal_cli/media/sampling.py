"""Which frames of a clip are taken: the part that is meant, times, and the rectangle of the picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmbal_cli.media.fragment import Fragment
from mmbal_cli.media.image import height_width, shrunk
from mmbal_cli.media.probe import ENOUGH, MAX_SIDE, problem

SAMPLING = ("uniform", "ends", "segment-centre", "fps")
FIT = ("squash", "shortest")
MAX_CLIP = 1 << 28  # pixels of all pictures of a clip: 0.8 GB


class Window(NamedTuple):
    """Frames `first` to `first + len(shown)` of a clip, with their times [n,2], cut to the part that is meant.

    `whole`: no part is meant. `missing`: a text where a tenth of the part lies beyond the end.
    """

    first: int
    shown: np.ndarray
    missing: str = ""
    whole: bool = False


def window(path: Path, shown: np.ndarray, part: Fragment) -> Window:
    """The frames of a part of a clip, from start and end times [n,2] of all; MediaError when it has none."""
    count, origin, end = len(shown), shown[0, 0], shown[-1, 1]
    if part.frames:
        first, last = part.frames
        if first >= count:
            raise problem(path, f"frames {first} to {last} lie beyond its end ({count} frames)")
        found = min(last, count) - first
        missing = f"{found} of {last - first} frames" if found < ENOUGH * (last - first) else ""
        return Window(first, shown[first:last], missing)
    if part.seconds:
        start, stop = origin + part.seconds[0], origin + part.seconds[1]
        slack = _slack(shown)
        if start > end - slack:
            raise problem(path, f"{_seconds(part)} lies beyond its end ({end - origin:.2f} s)")
        first = max(0, int(np.searchsorted(shown[:, 0], start + slack, side="right")) - 1)
        last = max(first + 1, int(np.searchsorted(shown[:, 0], stop - slack)))
        inside = shown[first:last].copy()
        inside[0, 0], inside[-1, 1] = max(inside[0, 0], start), min(inside[-1, 1], stop)
        found, asked = min(stop, end) - start, stop - start
        return Window(first, inside, f"{found:.2f} of {asked:.2f} s" if found < ENOUGH * asked else "")
    return Window(0, shown, whole=True)


def _seconds(part: Fragment) -> str:
    start, stop = part.seconds or (0.0, 0.0)
    return f"the part from {start:g} to {stop:g} s"


def _slack(shown: np.ndarray) -> float:
    """A hundredth of a frame: times are float32 in decord and may fall just short of a frame's start."""
    return 0.01 * float(shown[-1, 1] - shown[0, 0]) / len(shown)


def frame_indices(shown: np.ndarray, frames: int, sampling: str, fps: float = 1.0) -> np.ndarray:
    """Indices [T] of the frames to take, from start and end times [n,2] in seconds; T is `frames`, for fps at most."""
    start, length = shown[:, 0], float(shown[-1, 1] - shown[0, 0])
    if sampling == "segment-centre":
        return ((np.arange(frames) + 0.5) * len(start) / frames).astype(np.int64)
    if sampling == "ends":
        times = np.linspace(start[0], start[-1], frames)
    elif sampling == "fps":
        count = int(np.ceil((length - _slack(shown)) * fps))
        times = start[0] + np.arange(np.clip(count, 1, frames)) / fps
    else:
        times = start[0] + (np.arange(frames) + 0.5) * length / frames
    return np.clip(np.searchsorted(start, times + _slack(shown), side="right") - 1, 0, len(start) - 1)


class Picture(NamedTuple):
    """How a picture is delivered: decoded at `height` x `width`, cut to `box` (top, left, height, width), resized."""

    height: int
    width: int
    box: tuple[int, int, int, int] | None = None
    final: tuple[int, int] | None = None

    def cut(self, pictures: np.ndarray) -> np.ndarray:
        """uint8 [T,height,width,3] -> the rectangle of each that is meant."""
        if self.box is None:
            return pictures
        top, left, height, width = self.box
        inside = pictures[:, top : top + height, left : left + width]
        if self.final is None or self.final == (height, width):
            return inside
        from PIL import Image

        pair = self.final[::-1]
        return np.stack([np.asarray(Image.fromarray(one).resize(pair, Image.Resampling.BILINEAR)) for one in inside])


def picture(
    path: Path,
    frames: int,
    size: int | list[int] | tuple[int, int],
    fit: str,
    crop: tuple[float, float, float, float] | None,
    native: Callable[[], tuple[int, int]],
) -> Picture:
    """The geometry of a clip's pictures; `native` gives their own upright (height, width) where it is needed.

    squash: the whole picture (or the rectangle `crop`, in percent) becomes `size`. shortest: it keeps its proportions
    and is shrunk where its shorter side has more than `size` px.
    """
    height, width = height_width(size)
    if fit not in FIT:
        raise problem(path, f"unknown fit '{fit}', known: {', '.join(FIT)}")
    if fit == "squash" and crop is None:
        return Picture(height, width)
    tall, wide = native()
    x, y, across, down = (value / 100 for value in crop or (0, 0, 100, 100))
    if fit == "shortest":
        inner = max(1.0, down * tall), max(1.0, across * wide)
        share = shrunk(round(inner[0]), round(inner[1]), min(height, width))[0] / round(inner[0])
        found, final = (max(1, round(tall * share)), max(1, round(wide * share))), None
    else:  # as large as the rectangle needs, without enlarging twice
        side = min(MAX_SIDE, max(tall, wide, height, width))
        found, final = (min(round(height / down), side), min(round(width / across), side)), (height, width)
    if frames * found[0] * found[1] > MAX_CLIP:
        raise problem(path, f"{frames} pictures of {found[1]}x{found[0]} px are too many; take fewer or smaller")
    if crop is None:
        return Picture(*found)
    top, left = (min(round(share * side), side - 1) for share, side in zip((y, x), found, strict=True))
    box = (
        top,
        left,
        max(1, min(round(down * found[0]), found[0] - top)),
        max(1, min(round(across * found[1]), found[1] - left)),
    )
    return Picture(*found, box, final)
