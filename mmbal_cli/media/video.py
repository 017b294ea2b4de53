"""Frames of a video by decord, resized in the decoder. Meant for a child process: decord can hang."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.media.image import height_width
from mmbal_cli.media.probe import Header, probe, problem

SAMPLING = ("uniform", "ends")
PLACE = re.compile(r"^\[[\d:]+\] \S+: ")  # time of day and source line: reasons must not differ from run to run
TAIL_FRAMES = 16  # at a damaged end: as many frames as a codec may hold back for reordering


def decode_video(
    path: str | Path, frames: int = 8, size: int | tuple[int, int] = 96, sampling: str = "uniform"
) -> tuple[np.ndarray, dict[str, Any]]:
    """`frames` pictures of a clip, squashed to `size` (H,W): (uint8 [T,H,W,3], facts).

    Frames are those on show at stated times: `uniform` the centres of T equal parts of the clip, `ends`
    T equal steps from its first to its last frame. A clip shorter than T repeats frames. Facts:
    frame_count (decodable), stated_frames (of the header), fps, seconds, times [T] in seconds. Raises
    MediaError: no video track, more than 4096 px a side, undecodable.
    """
    path = Path(path)
    if sampling not in SAMPLING:
        raise problem(path, f"unknown sampling '{sampling}', known: {', '.join(SAMPLING)}")
    header = probe(path)
    if not header.codec:
        raise problem(path, "has no video track")
    try:
        reader = _reader(path, *height_width(size))
        shown = np.asarray(reader.get_frame_timestamp(range(len(reader))), np.float64)  # [n,2] start, end
        pictures, wanted = _pictures(reader, frame_indices(shown, frames, sampling))
        fps = float(reader.get_avg_fps())
    except Exception as error:  # decord raises RuntimeError, DECORDError and IndexError alike
        raise problem(path, _undecodable(header, error)) from None
    facts = {
        "frame_count": len(shown),
        "stated_frames": header.frames or round(header.seconds * fps),
        "fps": round(fps, 4),
        "seconds": round(float(shown[-1, 1] - shown[0, 0]), 4),
        "times": [round(float(shown[index, 0] - shown[0, 0]), 4) for index in wanted],
    }
    return pictures, facts


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


def _pictures(reader: Any, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames at `wanted`, or where the end of the clip cannot be decoded, at indices clamped before it."""
    try:
        return reader.get_batch(wanted).asnumpy(), wanted
    except Exception:
        for last in range(len(reader) - 1, max(-1, len(reader) - 1 - TAIL_FRAMES), -1):
            try:
                reader[last]
            except Exception:
                continue
            wanted = np.minimum(wanted, last)
            return reader.get_batch(wanted).asnumpy(), wanted
        raise


def _undecodable(header: Header, error: Exception) -> str:
    text = PLACE.sub("", (str(error).strip().splitlines() or [""])[0]) or type(error).__name__
    hint = ""
    if header.codec == "av1":
        hint = "; the codec may be unsupported by this decord, the package decord2 in its place reads AV1"
    return f"the video ({header.codec}) cannot be decoded ({text}){hint}"
