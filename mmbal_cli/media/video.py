"""Frames of a video, resized in the decoder. For a child process only: decord can hang.

By decord; where it fails or cannot be trusted, PyAV decides (`second.py`): whether a damaged clip can be
used must not depend on timing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.media import second
from mmbal_cli.media.image import height_width
from mmbal_cli.media.probe import ENOUGH, Header, probe, problem

SAMPLING = ("uniform", "ends")
PLACE = re.compile(r"\[[\d:]+\] \S+: ")  # time of day and source line: reasons must not differ from run to run
AV1 = "; the codec may be unsupported by this decord, the package decord2 in its place reads AV1"


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
    found = _by_decord(path, header, frames, height, width, sampling)
    if found is None:
        shown = second.frame_times(path, header)
        wanted = frame_indices(shown, frames, sampling)
        found = shown, wanted, second.pictures(path, wanted, height, width)
    shown, wanted, pictures = found
    seconds = float(shown[-1, 1] - shown[0, 0])
    fps = len(shown) / seconds if seconds > 0 else 0.0
    stated = header.frames or round(header.seconds * fps)
    short = {"short": f"{len(shown)} of {stated} frames"} if len(shown) < ENOUGH * stated else {}
    facts = {
        "frame_count": len(shown),
        "stated_frames": stated,
        "fps": round(fps, 4),
        "seconds": round(seconds, 4),
        "times": [round(float(shown[index, 0] - shown[0, 0]), 4) for index in wanted],
    }
    return pictures, facts | short


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


def _by_decord(
    path: Path, header: Header, frames: int, height: int, width: int, sampling: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(times [n,2], indices [T], pictures uint8 [T,H,W,3]), or None where the second decoder has to try."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        # one thread: parallel children use the cores better than threads of one decoder
        reader = decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0), num_threads=1, width=width, height=height)
        shown = np.asarray(reader.get_frame_timestamp(range(len(reader))), np.float64)
        if not _plausible(shown):
            return None
        if shown[-1, 1] <= shown[-1, 0]:  # flv states no length of a frame
            shown[-1, 1] += (shown[-1, 0] - shown[0, 0]) / max(1, len(shown) - 1) or 1 / reader.get_avg_fps()
        wanted = frame_indices(shown, frames, sampling)
        return shown, wanted, _batch(reader, width, wanted)
    except Exception as error:  # decord raises RuntimeError, DECORDError and IndexError alike
        if header.codec == "av1":
            text = PLACE.sub("", str(error).strip().partition("\n")[0])
            raise problem(path, f"the video (av1) cannot be decoded ({text}){AV1}") from None
        return None


def _plausible(shown: np.ndarray) -> bool:
    """Whether these are times of frames: program streams have none, and seeking in them goes astray."""
    return bool(np.isfinite(shown).all() and np.abs(shown).max() < 1e6 and (np.diff(shown[:, 0]) >= 0).all())


def _batch(reader: Any, width: int, wanted: np.ndarray) -> np.ndarray:
    """Frames uint8 [T,H,W,3].

    Rows are padded to 32 px; where `width` divides their bytes (8, 12, 16, 24, 48, 72) decord takes the
    padding for more channels, and its `get_batch` fails.
    """
    row = 3 * -(-width // 32) * 32
    if row % width or row == 3 * width:
        return reader.get_batch(wanted).asnumpy()
    frames = (reader[int(index)].asnumpy() for index in wanted)
    return np.stack([frame.reshape(len(frame), row)[:, : 3 * width].reshape(-1, width, 3) for frame in frames])
