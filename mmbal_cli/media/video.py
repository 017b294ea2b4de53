"""Frames of a video, resized in the decoder. For a child process only: decord can hang.

By decord; where it fails or cannot be trusted, PyAV decides (`second.py`): whether a damaged clip can be
used must not depend on timing. A folder of pictures, or a pair of folders of optical flow, is a video too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmbal_cli.errors import MediaError
from mmbal_cli.media import second
from mmbal_cli.media.folder import is_pair, members
from mmbal_cli.media.fragment import split
from mmbal_cli.media.image import decode_image, image_size
from mmbal_cli.media.motion import SHOW, between, from_components, partners
from mmbal_cli.media.probe import ENOUGH, Header, probe, problem
from mmbal_cli.media.sampling import SAMPLING, Picture, Window, frame_indices, picture, window

PLACE = re.compile(r"\[[\d:]+\] \S+: ")  # time of day and source line: reasons must not differ from run to run
AV1 = "; the codec may be unsupported by this decord, the package decord2 in its place reads AV1"


class Chosen(NamedTuple):
    """Which frames are taken: `wanted` [T], `other` [T] to compare them with, `needed` [k] = all of them, sorted."""

    window: Window
    wanted: np.ndarray
    other: np.ndarray
    needed: np.ndarray


Choose = Callable[[np.ndarray], Chosen]
Found = tuple[np.ndarray, Chosen, np.ndarray]  # times [n,2] of all frames, the choice, pictures of `needed`


def decode_video(
    path: str | Path,
    frames: int = 8,
    size: int | list[int] | tuple[int, int] = 96,
    sampling: str = "uniform",
    fps: float = 1.0,
    folder_fps: float = 1.0,
    show: str = "pictures",
    fit: str = "squash",
) -> tuple[np.ndarray, dict[str, Any]]:
    """Pictures of a clip, or of a part of it (`fragment.py`): (uint8 [T,H,W,3], facts).

    `path`: a video, a folder of pictures (`folder_fps` a second) or a pair of such folders `a/{u,v}/b`, the
    components of optical flow. T is `frames`; a shorter clip repeats them. `sampling`, by the times at which frames
    are on show: uniform (centres of T equal parts), ends (T equal steps from the first to the last frame), fps (one
    every 1/`fps` seconds from the start, T at most `frames`); by number: segment-centre (middle frames of T equal
    parts). `show`: pictures, or what changes to the next frame: flow, difference (`motion.py`). `fit`: squash to
    `size` (H,W), or shortest: proportions kept, shrunk where the shorter side is above `size`.

    Facts: frame_count (decodable), stated_frames (of the header), fps, seconds (all of the file), times (start and
    end of each picture [T,2] in seconds from the start of the file), and `short`, a text, when a tenth of the stated
    frames or of the part is missing without an error. Raises MediaError: no video track, more than 4096 px a
    side, undecodable, a part beyond the end.
    """
    name, part = split(path)
    path = Path(name)
    for what, value, known in (("sampling", sampling, SAMPLING), ("show", show, SHOW)):
        if value not in known:
            raise problem(path, f"unknown {what} '{value}', known: {', '.join(known)}")

    def choose(shown: np.ndarray) -> Chosen:
        found = window(path, shown, part)
        wanted = found.first + frame_indices(found.shown, frames, sampling, fps)
        other = wanted if show == "pictures" or is_pair(path) else partners(wanted, len(shown))
        return Chosen(found, wanted, other, np.unique(np.concatenate([wanted, other])))

    picture_of = partial(picture, path, frames, size, fit, part.crop)
    header: Header | None
    if is_pair(path) or path.is_dir():
        if show == "difference" and is_pair(path):
            raise problem(path, "is optical flow already, which has no difference")
        header, (shown, chosen, pictures) = None, _from_folder(path, choose, picture_of, folder_fps)
    else:
        header, (shown, chosen, pictures) = _from_file(path, choose, picture_of)
    taken = pictures[np.searchsorted(chosen.needed, chosen.wanted)]
    if chosen.other is not chosen.wanted:
        others = pictures[np.searchsorted(chosen.needed, chosen.other)]
        taken = between(path, show, taken, others, chosen.other < chosen.wanted)
    return taken, _facts(shown, chosen, header)


def _facts(shown: np.ndarray, chosen: Chosen, header: Header | None) -> dict[str, Any]:
    seconds = float(shown[-1, 1] - shown[0, 0])
    fps = len(shown) / seconds if seconds > 0 else 0.0
    stated = (header.frames or round(header.seconds * fps)) if header else len(shown)
    short = chosen.window.missing
    if chosen.window.whole and len(shown) < ENOUGH * stated:
        short = f"{len(shown)} of {stated} frames"
    facts = {
        "frame_count": len(shown),
        "stated_frames": stated,
        "fps": round(fps, 4),
        "seconds": round(seconds, 4),
        "times": (shown[chosen.wanted] - shown[0, 0]).round(4).tolist(),
    }
    return facts | ({"short": short} if short else {})


def _from_folder(path: Path, choose: Choose, picture_of: Callable[..., Picture], fps: float) -> Found:
    """Pictures of a folder, or of both folders of a pair."""
    files = members(path)
    if not files:
        raise problem(path, "holds no pictures")
    sides = 2 if is_pair(path) else 1
    start = np.arange(len(files) // sides) / fps
    shown = np.stack([start, start + 1 / fps], 1)
    chosen = choose(shown)
    form = picture_of(lambda: image_size(files[chosen.needed[0]]))
    kept = np.arange(sides)[:, None] * len(start) + chosen.needed  # [sides,k]
    found = np.stack([decode_image(files[index], (form.height, form.width)) for index in kept.ravel()])
    found = form.cut(found)
    return shown, chosen, found if sides == 1 else from_components(*found[..., 0].reshape(2, -1, *found.shape[1:3]))


def _from_file(path: Path, choose: Choose, picture_of: Callable[..., Picture]) -> tuple[Header, Found]:
    """The header of a video file, and what was found of it."""
    header = probe(path)
    if not header.codec:
        raise problem(path, "has no video track")
    form = picture_of(lambda: second.upright_size(path))
    found = _by_decord(path, header, choose, form)
    if found is None:
        shown = second.frame_times(path, header)
        chosen = choose(shown)
        found = shown, chosen, second.pictures(path, chosen.needed, form.height, form.width)
    shown, chosen, pictures = found
    return header, (shown, chosen, form.cut(pictures))


def _by_decord(path: Path, header: Header, choose: Choose, form: Picture) -> Found | None:
    """What was found, or None where the second decoder has to try."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    size = {"width": form.width, "height": form.height}
    try:
        # one thread: parallel children use the cores better than threads of one decoder
        reader = decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0), num_threads=1, **size)
        shown = np.asarray(reader.get_frame_timestamp(range(len(reader))), np.float64)
        if not _plausible(shown):
            return None
        if shown[-1, 1] <= shown[-1, 0]:  # flv states no length of a frame
            shown[-1, 1] += (shown[-1, 0] - shown[0, 0]) / max(1, len(shown) - 1) or 1 / reader.get_avg_fps()
        shown[:-1, 1] = shown[1:, 0]  # stated lengths are missing (flv) or wrong (a rate that varies)
        chosen = choose(shown)
        return shown, chosen, _batch(reader, form.width, chosen.needed)
    except MediaError:
        raise
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
