"""The second video decoder: PyAV, for what decord cannot read or reads wrongly.

That is clips with a damaged end, where decord's read-ahead makes it a matter of timing which frames it
still gives, and MPEG program and transport streams, where it seeks to wrong frames without an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.media.probe import ENOUGH, Header, opened, picture_streams, problem


def frame_times(path: Path, header: Header) -> np.ndarray:
    """Start and end in seconds [n,2] of the frames that decode before the first damage.

    Raises MediaError when a tenth of the stated frames is missing, or all are.
    """
    times, rate = [], 0.0
    for frame, rate in _frames(path):  # noqa: B007
        times.append(frame.time)
    if not times or len(times) < ENOUGH * header.frames:
        found = f"{len(times)} of {header.frames} frames decode" if header.frames else "no frame decodes"
        raise problem(path, f"the video ({header.codec}) is damaged: {found}")
    start = np.array([0.0 if time is None else float(time) for time in times])
    if None in times or (np.diff(start) < 0).any():
        start = np.arange(len(times)) / rate
    length = (start[-1] - start[0]) / (len(start) - 1) if len(start) > 1 else 1 / rate
    return np.stack([start, np.append(start[1:], start[-1] + length)], 1)


def pictures(path: Path, wanted: np.ndarray, height: int, width: int) -> np.ndarray:
    """Frames uint8 [T,H,W,3] at sorted indices, turned upright."""
    needed = set(wanted.tolist())
    kept = {}
    for index, (frame, _) in enumerate(itertools.islice(_frames(path), int(wanted[-1]) + 1)):
        if index in needed:
            kept[index] = _upright(frame, height, width)
    return np.stack([kept[index] for index in wanted.tolist()])


def upright_size(path: Path) -> tuple[int, int]:
    """(height, width) of the first frame, turned upright; headers do not say that a picture lies on its side."""
    for frame, _ in _frames(path):
        return (frame.width, frame.height) if frame.rotation // 90 % 2 else (frame.height, frame.width)
    raise problem(path, "the video is damaged: no frame decodes")


def _upright(frame: Any, height: int, width: int) -> np.ndarray:
    turns = frame.rotation // 90 % 4  # PyAV reports the tag of the file and does not apply it
    if turns % 2:
        height, width = width, height
    return np.rot90(frame.to_ndarray(format="rgb24", width=width, height=height), turns)


def _frames(path: Path) -> Iterator[tuple[Any, float]]:
    """Decoded frames until the first damage, with the stated frames per second."""
    import av

    with opened(path) as (container, _):
        stream = picture_streams(container)[0]
        stream.thread_type = "NONE"  # threaded decoding of damaged files can hang
        rate = float(stream.average_rate or stream.base_rate or 25)
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                return
            for frame in frames:
                yield frame, rate
