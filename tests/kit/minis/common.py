"""What the miniatures of data sets share: tiny real media, each seed with other bytes, and planted pitfalls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Raw
from tests.kit.media import write_wav


class Pitfall(NamedTuple):
    """`plant(root)` breaks one thing in a built miniature; then `rule` and `says` are among the problems of a check."""

    name: str
    plant: Callable[[Path], object]
    rule: str
    says: str


def clip(
    path: Path, seed: int, frames: int = 6, size: int = 32, fps: int = 10, *, sound: bool = True, codec: str = ""
) -> Path:
    """A video file; the codec follows from the suffix: mp4 (h264, aac), avi (mpeg4), flv (flv1, mp3)."""
    import av

    usual, voice_codec = {".mp4": ("libx264", "aac"), ".flv": ("flv", "libmp3lame")}.get(path.suffix, ("mpeg4", "mp2"))
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    rate = 22050 if path.suffix == ".flv" else 16000
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec or usual, rate=fps)
        video.width = video.height = size
        video.pix_fmt = "yuv420p"
        voice = out.add_stream(voice_codec, rate=rate, layout="mono") if sound else None
        colour = random.integers(40, 200, 3)
        for index in range(frames):
            pixels = np.full((size, size, 3), colour, np.uint8)
            pixels[index % size :: 4] = random.integers(0, 255, (1, 1, 3))
            out.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(video.encode())
        if voice:
            resampler = av.AudioResampler(voice.format.name, "mono", rate, frame_size=voice.frame_size or None)
            frame = av.AudioFrame.from_ndarray(_noise(random, frames / fps, rate)[None], format="fltp", layout="mono")
            frame.sample_rate = rate
            for block in [*resampler.resample(frame), *resampler.resample(None)]:
                out.mux(voice.encode(block))
            out.mux(voice.encode())
    return path


def sound(path: Path, seed: int, seconds: float = 0.5, rate: int = 16000) -> Path:
    """A 16-bit mono WAV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_wav(path, _noise(np.random.default_rng(seed), seconds, rate), rate)


def picture(path: Path, seed: int, size: int = 40) -> Path:
    """A picture in the format of the suffix."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), np.uint8)
    Image.fromarray(small).resize((size, size)).save(path)
    return path


def errors(raw: Raw) -> list[Problem]:
    """The findings of a reader that stop."""
    return [problem for problem in raw.problems if problem.severity == "error"]


def replace(path: Path, old: str, new: str) -> None:
    """Replace a text that occurs in a UTF-8 file (once)."""
    text = path.read_bytes().decode("utf-8-sig")
    assert old in text, f"{old!r} is not in {path}"
    path.write_bytes(text.replace(old, new, 1).encode())


def _noise(random: np.random.Generator, seconds: float, rate: int) -> np.ndarray:
    count = round(seconds * rate)
    tone = np.sin(2 * np.pi * random.uniform(200, 2000) * np.arange(count) / rate)
    return (0.3 * tone + 0.05 * random.standard_normal(count)).astype(np.float32)
