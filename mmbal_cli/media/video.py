"""Frames of a video by decord, resized in the decoder. Meant for a child process: decord can hang."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.media.image import height_width
from mmbal_cli.media.probe import ENOUGH, Header, probe, problem

SAMPLING = ("uniform", "ends")
PLACE = re.compile(r"\[[\d:]+\] \S+: ")  # time of day and source line: reasons must not differ from run to run


def decode_video(
    path: str | Path, frames: int = 8, size: int | tuple[int, int] = 96, sampling: str = "uniform"
) -> tuple[np.ndarray, dict[str, Any]]:
    """`frames` pictures of a clip, squashed to `size` (H,W): (uint8 [T,H,W,3], facts).

    Frames are those on show at stated times: `uniform` the centres of T equal parts of the clip, `ends`
    T equal steps from its first to its last frame. A clip shorter than T repeats frames. Facts:
    frame_count (decodable), stated_frames (of the header), fps, seconds, times [T] in seconds, and `short`,
    a text, when a tenth of the stated frames is missing without an error. Raises MediaError: no video
    track, more than 4096 px a side, undecodable.
    """
    path = Path(path)
    if sampling not in SAMPLING:
        raise problem(path, f"unknown sampling '{sampling}', known: {', '.join(SAMPLING)}")
    header = probe(path)
    if not header.codec:
        raise problem(path, "has no video track")
    height, width = height_width(size)
    try:
        reader = _reader(path, height, width)
        fps = float(reader.get_avg_fps())
        shown, trusted = _times(reader, fps)
        wanted = frame_indices(shown, frames, sampling)
        pictures = None
        if trusted:
            with contextlib.suppress(Exception):  # a damaged end: what comes before it is still good
                pictures = _batch(reader, width, wanted)
        if pictures is None:
            pictures, wanted = _in_sequence(_reader(path, height, width), width, wanted)
    except Exception as error:  # decord raises RuntimeError, DECORDError and IndexError alike
        raise problem(path, _undecodable(header, error)) from None
    stated = header.frames or round(header.seconds * fps)
    short = {"short": f"{len(shown)} of {stated} frames"} if len(shown) < ENOUGH * stated else {}
    facts = {
        "frame_count": len(shown),
        "stated_frames": stated,
        "fps": round(fps, 4),
        "seconds": round(float(shown[-1, 1] - shown[0, 0]), 4),
        "times": [round(float(shown[index, 0] - shown[0, 0]), 4) for index in wanted],
    }
    return pictures, facts | short


def _times(reader: Any, fps: float) -> tuple[np.ndarray, bool]:
    """Start and end of each frame in seconds [n,2], and whether the container states them.

    MPEG program streams do not, and seeking in them gives wrong frames without an error.
    """
    shown = np.asarray(reader.get_frame_timestamp(range(len(reader))), np.float64)
    start = shown[:, 0]
    if not (np.isfinite(shown).all() and np.abs(start).max() < 1e6 and (np.diff(start) >= 0).all()):
        start = np.arange(len(shown)) / fps
        return np.stack([start, start + 1 / fps], 1), False
    if shown[-1, 1] <= start[-1]:  # flv states no length of a frame
        shown[-1, 1] = start[-1] + ((start[-1] - start[0]) / (len(start) - 1) if len(start) > 1 else 1 / fps)
    return shown, True


def frame_indices(shown: np.ndarray, frames: int, sampling: str) -> np.ndarray:
    """Indices [T] of the frames on show at the stated times, from start and end times [n,2] in seconds."""
    start, end = shown[:, 0], float(shown[-1, 1])
    if sampling == "ends":
        times = np.linspace(start[0], start[-1], frames)
    else:
        times = start[0] + (np.arange(frames) + 0.5) * (end - start[0]) / frames
    # a hundredth of a frame: times are float32 in decord and may fall just short of a frame's start
    slack = 0.01 * (end - start[0]) / len(start)
    return np.clip(np.searchsorted(start, times + slack, side="right") - 1, 0, len(start) - 1)


def _reader(path: Path, height: int, width: int) -> Any:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    # one thread: parallel children use the cores better than threads of one decoder
    return decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0), num_threads=1, width=width, height=height)


def _batch(reader: Any, width: int, wanted: np.ndarray) -> np.ndarray:
    """Frames uint8 [T,H,W,3] by seeking to each."""
    if _row_bytes(width) % width == 0 and _row_bytes(width) != 3 * width:
        return np.stack([_picture(reader[int(index)], width) for index in wanted])
    return reader.get_batch(wanted).asnumpy()


def _in_sequence(reader: Any, width: int, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [T,H,W,3] and their indices, clamped where the last tenth (or 3) cannot be decoded."""
    kept, needed, last = {}, set(wanted.tolist()), -1
    for index in range(int(wanted[-1]) + 1):
        try:
            frame = reader.next()
        except Exception:
            if last < 0 or len(reader) - index > max(3, len(reader) // 10):
                raise
            break
        last = index
        if index in needed:
            kept[index] = _picture(frame, width)
    kept[last] = _picture(frame, width)
    wanted = np.minimum(wanted, last)
    return np.stack([kept[index] for index in wanted.tolist()]), wanted


def _picture(frame: Any, width: int) -> np.ndarray:
    """One frame uint8 [H,W,3].

    Rows are padded to 32 px; where `width` divides their bytes (8, 12, 16, 24, 48, 72) decord takes the
    padding for more channels, and its `get_batch` fails.
    """
    array = frame.asnumpy()
    return array.reshape(len(array), -1)[:, : 3 * width].reshape(len(array), width, 3)


def _row_bytes(width: int) -> int:
    return 3 * -(-width // 32) * 32


def _undecodable(header: Header, error: Exception) -> str:
    text = PLACE.sub("", (str(error).strip().splitlines() or [""])[0]) or type(error).__name__
    hint = ""
    if header.codec == "av1":
        hint = "; the codec may be unsupported by this decord, the package decord2 in its place reads AV1"
    return f"the video ({header.codec}) cannot be decoded ({text}){hint}"
