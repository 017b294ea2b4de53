"""What moves between neighbouring pictures of a clip: optical flow, and the plain difference.

Flow is seen as a picture: red = to the right, green = downwards, both around 128 and up to 20 px from one picture to
the next, blue = speed (0 = none). A difference is (later - earlier) / 2 + 128 for each colour, and is no flow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.media.probe import problem

SHOW = ("pictures", "flow", "difference")
REACH = 20.0  # px
SMALLEST = 16  # px: the method halves the pictures and compares patches of 8


def partners(wanted: np.ndarray, count: int) -> np.ndarray:
    """Index of the neighbour that each frame is compared with: the next one, for the last frame the one before."""
    return np.where(wanted + 1 < count, wanted + 1, np.maximum(wanted - 1, 0))


def between(path: Path, show: str, one: np.ndarray, other: np.ndarray, swapped: np.ndarray) -> np.ndarray:
    """uint8 [T,H,W,3] of pairs of pictures [T,H,W,3]; `swapped` [T] where `other` is the earlier one."""
    turn = swapped[:, None, None, None]
    earlier, later = np.where(turn, other, one), np.where(turn, one, other)
    if show == "difference":
        return ((later.astype(np.int16) - earlier) // 2 + 128).astype(np.uint8)
    return np.stack([seen(*flow(path, *pair) / REACH) for pair in zip(earlier, later, strict=True)])


def flow(path: Path, earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Motion float32 [2,H,W] in px (right, down) between two pictures uint8 [H,W,3]: DIS (Kroeger et al. 2016)."""
    try:
        import cv2
    except ImportError:
        raise problem(path, "optical flow needs opencv: pip install opencv-python-headless") from None
    cv2.setNumThreads(1)  # parallel children use the cores better
    method: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(np.ascontiguousarray(one), cv2.COLOR_RGB2GRAY) for one in (earlier, later)]
    if min(grey[0].shape) < SMALLEST:
        raise problem(path, f"optical flow needs pictures of {SMALLEST} px a side")
    return np.moveaxis(method.calc(*grey, None), -1, 0)


def seen(right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Motion [H,W] and [H,W] in units of the reach -> uint8 [H,W,3]."""
    speed = np.hypot(right, down) * 255
    channels = (right.clip(-1, 1) * 127 + 128, down.clip(-1, 1) * 127 + 128, speed)
    return np.stack(channels, -1).round().clip(0, 255).astype(np.uint8)


def from_components(right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Two grey pictures uint8 [T,H,W] around 128, as published flow is stored -> uint8 [T,H,W,3] as `seen`."""
    unit = ((one.astype(np.float32) - 128) / 127 for one in (right, down))
    return seen(*unit)
