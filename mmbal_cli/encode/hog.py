"""hog-motion: 760 numbers on what is seen and how it moves. A hand-made descriptor, no weights, no fit.

Per frame a grid of 8 x 8 histograms of gradient directions (9 bins, normalised by the neighbourhood;
Dalal and Triggs 2005) and 4 x 4 mean colours; per pair of frames the mean absolute difference on 8 x 8
and the products of difference and gradient on 6 x 6, whose signs tell the direction of motion. Both are
averaged over time. Not invariant to position, and far below pretrained encoders: for tests, teaching and
controlled comparisons; published numbers cannot be reproduced with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from mmbal_cli.encode.base import Encoder, Params, Steps, extent
from mmbal_cli.errors import EncoderError, RecipeError

BINS, CELLS = 9, 8
TURN = 2 * BINS + 2  # bins of a full turn, with one more at the end for a share that is carried
MOTION_GAIN = 10.0  # brings the motion maps to the scale of the histograms
MAX_PIXELS = 1 << 24  # of a clip: bounds the memory of a child to about 0.5 GiB
STEP = 24  # px: the grids of 8, 6 and 4 cells all divide it


class HogMotion(Encoder):
    """Frames uint8 [T,H,W,3] or a picture [H,W,3] -> [760], or [segments,760] of equal parts in time.

    A picture, and a clip of one frame, has zeros for the motion. A clip that gives fewer frames than there are
    segments (sampling fps) has one segment a frame, and rows of zeros behind that the mask leaves out.
    """

    name = "hog-motion"
    params_allowed: ClassVar[Params] = {
        "frames": (8, 1, 1000),
        "size": (96, 24, 960),
        "segments": (1, 1, 1000),
    }

    def __init__(self, kind: str, **params: Any) -> None:
        super().__init__(kind, **params)
        size, segments = self.params["size"], self.params["segments"]
        frames = self.params["frames"] if kind == "video" else 1
        if size % STEP:
            raise RecipeError(f"{self.name}.size is {size}.", f"Expected a multiple of {STEP}.")
        if frames * size * size > MAX_PIXELS:
            raise RecipeError(
                f"{self.name}: {frames} frames of {size} px a side are too many.", "Take fewer or smaller."
            )
        if segments > frames:
            raise RecipeError(f"{self.name}.segments is {segments}.", f"Expected at most {frames}, one for each frame.")

    def decode(self) -> dict[str, Any]:
        """Arguments of the video or image decoder."""
        names = ("size",) if self.kind == "image" else ("frames", "size")
        return {name: self.params[name] for name in names} | self.settings

    @property
    def timed(self) -> bool:
        """Whether the features are [segments,760]."""
        return self.params["segments"] > 1

    def steps(self, facts: Mapping[str, Any]) -> Steps | None:
        """The whole clip, or each segment: from its first frame to the end of its last one."""
        times = facts.get("times")
        if not times or not self.timed:
            return super().steps(facts)
        parts = np.array_split(np.asarray(times, float), min(len(times), self.params["segments"]))
        return [extent(part.tolist()) for part in parts]

    def sample(self, raw: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
        """Descriptor of each segment of the clip."""
        frames = raw[None] if raw.ndim == 3 else raw
        segments = min(int(self.params["segments"]), len(frames))
        if frames.shape[1] != frames.shape[2] or frames.shape[1] % STEP:
            raise EncoderError(
                f"{self.name} got frames of {frames.shape[1:3]}, expected squares of a multiple of {STEP} px."
            )
        seen, (change, across, down) = appearance_and_change(frames)
        parts = []
        for part in np.array_split(np.arange(len(frames)), segments):
            # the pair that enters a segment belongs to it, so that a segment of one frame has motion
            first = max(int(part[0]) - 1, 0)
            pairs = slice(first, max(int(part[-1]), first + 1))
            parts.append(np.concatenate([seen[part].mean(0), _motion(change[pairs], across[pairs], down[pairs])]))
        rows = np.stack(parts).astype(np.float32)
        return rows if self.timed else rows[0]

    def batch(self, rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Rows [760] or [T,760] -> (float32 [n,760] or [n,segments,760], mask)."""
        if not (self.timed and self.settings.get("sampling") == "fps"):
            return super().batch(rows)
        from mmbal_cli.encode.families import padded

        return padded(rows, int(self.params["segments"]))


def appearance_and_change(frames: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Appearance float32 [T,624] and, for T-1 pairs, |difference| and difference x gradient maps [T-1,H,W]."""
    colour = frames.astype(np.float32) * np.float32(1 / 255)
    grey = colour @ np.full(3, 1 / 3, np.float32)  # [T,H,W]
    gx, gy = np.zeros_like(grey), np.zeros_like(grey)
    np.subtract(grey[:, :, 2:], grey[:, :, :-2], out=gx[:, :, 1:-1])
    np.subtract(grey[:, 2:], grey[:, :-2], out=gy[:, 1:-1])
    seen = np.concatenate([_histograms(gx, gy), _colours(colour)], 1)
    step = np.diff(grey, axis=0)
    return seen, (np.abs(step), -gx[1:] * step, -gy[1:] * step)


def _histograms(gx: np.ndarray, gy: np.ndarray) -> np.ndarray:
    """Normalised direction histograms float32 [T,576] of gradients [T,H,W]."""
    count, size = len(gx), gx.shape[1]
    strength = np.sqrt(gx * gx + gy * gy)
    place = np.arctan2(gy, gx) * np.float32(BINS / np.pi) + np.float32(BINS)  # 0 to 18: a full turn
    lower = place.astype(np.int64)
    carried = (place - lower) * strength  # the share of the next bin
    lower += _first_bins(count, size)
    length = count * CELLS * CELLS * TURN
    turns, carry = (np.bincount(lower.ravel(), weights.ravel(), length) for weights in (strength, carried))
    turns -= carry
    turns[1:] += carry[:-1]  # never into another cell: the last bin of a turn carries nothing
    turns = turns.reshape(count, CELLS, CELLS, TURN)
    table = turns[..., :BINS] + turns[..., BINS : 2 * BINS]  # opposite directions fall together
    table[..., : TURN - 2 * BINS] += turns[..., 2 * BINS :]
    table *= (CELLS / size) ** 2
    energy = np.zeros((count, CELLS + 2, CELLS + 2))
    energy[:, 1:-1, 1:-1] = (table**2).sum(-1)
    around = sum(energy[:, i : i + CELLS, j : j + CELLS] for i in range(3) for j in range(3)) / 9
    norm = np.sqrt(energy[:, 1:-1, 1:-1] + around + 1e-4)[..., None]
    return (table / norm).reshape(count, -1).astype(np.float32)


def _colours(colour: np.ndarray) -> np.ndarray:
    """Mean colours float32 [T,48] on a 4 x 4 grid."""
    count, size = colour.shape[:2]
    rows = _pooling(4, size) @ colour.reshape(count, size, size * 3)  # [T,4,W*3]
    return rows.reshape(count, 4, 4, size // 4, 3).mean(3).reshape(count, -1)


def _motion(change: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Motion maps float32 [136], mean over the pairs; zeros without a pair."""
    if not len(change):
        return np.zeros(CELLS * CELLS + 2 * 36, np.float32)
    maps = []
    for values, cells in ((change, CELLS), (across, 6), (down, 6)):
        pool = _pooling(cells, values.shape[1])
        maps.append((pool @ values.mean(0) @ pool.T).ravel() * np.float32(MOTION_GAIN))
    return np.concatenate(maps)


@lru_cache(maxsize=16)
def _pooling(cells: int, size: int) -> np.ndarray:
    """Matrix float32 [cells,size] that averages equal parts."""
    return np.repeat(np.eye(cells, dtype=np.float32), size // cells, axis=1) * np.float32(cells / size)


@lru_cache(maxsize=4)
def _first_bins(count: int, size: int) -> np.ndarray:
    """Number of the first bin of each pixel's cell, int64 [T,H,W]."""
    cell = np.arange(size) // (size // CELLS)
    grid = (cell[:, None] * CELLS + cell) * TURN
    return grid + np.arange(count)[:, None, None] * (CELLS * CELLS * TURN)


ENCODER = HogMotion
