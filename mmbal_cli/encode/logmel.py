"""logmel-stats: 640 statistics of a log-mel spectrogram. A hand-made descriptor, no weights, no fit.

64 mel bands (HTK scale, 20 to 7600 Hz), 32 ms Hann windows, 10 ms hop, natural logarithm of the power.
Per band: mean, deviation, deviation of the differences, quantiles 0.1, 0.5, 0.9; the modulation
spectrum pooled to 8 x 16; the centred spectrogram pooled to 16 x 8. Far below pretrained encoders: for
tests, teaching and controlled comparisons; published numbers cannot be reproduced with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from mmbal_cli.encode.base import Encoder, Params, Steps, extent
from mmbal_cli.errors import RecipeError
from mmbal_cli.media.audio import most_windows

BANDS = 64
LOW, HIGH, FLOOR = 20.0, 7600.0, 1e-10
MODULATION = 256  # frames of the second transform (2.56 s)
BLOCK = 4096  # frames at a time: bounds the memory of a long sound


class LogmelStats(Encoder):
    """Sound float32 [n] -> [640], or [segments,640] of equal parts of its length; windows [W,n] -> [W,640].

    Clips of fewer windows than others have rows of zeros behind, which the mask leaves out.
    """

    name = "logmel-stats"
    params_allowed: ClassVar[Params] = {
        "rate": (16000, 4000, 96000),
        "seconds": (0.0, 0.0, 600.0),  # 0: all of it
        "segments": (1, 1, 1000),
    }
    decode_params = ("rate", "seconds")

    def __init__(self, kind: str, **params: Any) -> None:
        super().__init__(kind, **params)
        if self.settings.get("window") and self.params["segments"] > 1:
            raise RecipeError(f"{self.name} has both segments and a window.", "Expected one of them.")

    @property
    def timed(self) -> bool:
        """Whether the features are [T,640]."""
        return super().timed or self.params["segments"] > 1

    def steps(self, facts: Mapping[str, Any]) -> Steps | None:
        """The whole sound, each window, or each segment."""
        times, segments = facts.get("times"), int(self.params["segments"])
        if not times or segments == 1:
            return super().steps(facts)
        start, end = extent(times)
        edges = np.linspace(start, end, segments + 1).round(4).tolist()
        return [list(pair) for pair in itertools.pairwise(edges)]

    def batch(self, rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Rows [640] or [T,640] -> (float32 [n,640] or [n,T,640], mask); T of windows is the most a clip can have."""
        if not self.settings.get("window"):
            return super().batch(rows)
        most = most_windows(self.params["rate"], seconds=self.params["seconds"], **self.settings)
        from mmbal_cli.encode.families import padded

        return padded(rows, most)

    def sample(self, raw: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
        """Statistics of each segment or window; a sound of less than two frames is padded with zeros."""
        segments = int(self.params["segments"])
        if raw.ndim == 2:
            return np.stack([statistics(log_mel(window, int(self.params["rate"]))) for window in raw])
        bands = log_mel(np.asarray(raw, np.float32), int(self.params["rate"]), at_least=2 * segments)
        parts = [statistics(part) for part in np.array_split(bands, segments, axis=1)]
        return parts[0] if segments == 1 else np.stack(parts)


def log_mel(sound: np.ndarray, rate: int, at_least: int = 2) -> np.ndarray:
    """Log-mel power float32 [64,frames] of a sound [n] at `rate` Hz, frames centred on each 10 ms."""
    window, filters = _window_and_filters(rate)
    hop, half = rate // 100, len(window) // 2
    short = max(len(window), (at_least - 1) * hop) - len(sound)
    if short > 0:
        sound = np.pad(sound, (0, short))
    framed = np.lib.stride_tricks.sliding_window_view(np.pad(sound, half, mode="reflect"), 2 * half)[::hop]
    blocks = []
    for start in range(0, len(framed), BLOCK):
        spectrum = np.fft.rfft(framed[start : start + BLOCK] * window)  # [f,bins]
        power = spectrum.real**2 + spectrum.imag**2
        blocks.append(np.log(np.maximum(power.astype(np.float32, copy=False) @ filters, np.float32(FLOOR))))
    return np.ascontiguousarray(np.concatenate(blocks).T)  # [64,f]


def statistics(bands: np.ndarray) -> np.ndarray:
    """The 640 numbers of one log-mel spectrogram [64,frames], frames at least 2."""
    frames = bands.shape[1]
    mean = bands.mean(1, keepdims=True)
    centred = bands - mean
    ranked = np.sort(bands, axis=1)
    place = np.array([0.1, 0.5, 0.9], np.float32) * (frames - 1)
    below = place.astype(int)
    quantiles = ranked[:, below] + (ranked[:, np.minimum(below + 1, frames - 1)] - ranked[:, below]) * (
        place - below
    ).astype(np.float32)
    parts = [mean[:, 0], centred.std(1), np.diff(bands, axis=1).std(1), quantiles.T]
    parts += [_modulation(centred), _coarse(bands - bands.mean())]
    return np.concatenate([part.ravel() for part in parts]).astype(np.float32)


def _modulation(centred: np.ndarray) -> np.ndarray:
    """How strongly each band rises and falls at 0.4 to 12.5 Hz: [8,16], mean over blocks of 2.56 s."""
    blocks = -(-centred.shape[1] // MODULATION)
    padded = np.pad(centred, ((0, 0), (0, blocks * MODULATION - centred.shape[1])))
    strength = np.abs(np.fft.rfft(padded.reshape(BANDS, blocks, MODULATION)))[:, :, 1:33].sum(1)  # [64,32]
    strength /= max(1.0, centred.shape[1] / MODULATION)
    return np.log1p(strength.reshape(8, 8, 16, 2).mean((1, 3)))


def _coarse(bands: np.ndarray) -> np.ndarray:
    """The spectrogram as [16,8]: 4 bands by an eighth of the time (at least one frame)."""
    frames = bands.shape[1]
    sums = np.concatenate([np.zeros((16, 1)), bands.reshape(16, 4, frames).mean(1).cumsum(1, np.float64)], 1)
    start = np.arange(8) * frames // 8
    end = -(-np.arange(1, 9) * frames // 8)
    return (sums[:, end] - sums[:, start]) / (end - start)


@lru_cache(maxsize=4)
def _window_and_filters(rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Periodic Hann window [n] of 32 ms and triangular mel filters [n/2+1,64], both float32."""
    size = 2 * round(0.016 * rate)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    hertz = np.linspace(0, rate / 2, size // 2 + 1)[:, None]
    low_mel, high_mel = (2595 * np.log10(1 + edge / 700) for edge in (LOW, min(HIGH, 0.475 * rate)))
    points = 700 * (10 ** (np.linspace(low_mel, high_mel, BANDS + 2) / 2595) - 1)
    low, centre, high = points[:-2], points[1:-1], points[2:]
    filters = np.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre)).clip(0)
    return window.astype(np.float32), filters.astype(np.float32)


ENCODER = LogmelStats
