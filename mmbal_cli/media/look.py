"""A look at the header of a media file: is it what it should be, and as long and as large? Nothing is decoded.

As a child (`python -m mmbal_cli.media.look`) a job is `{"items": [{"modality", "kind", "value", "expect"}]}` and the
answer `{"found": [[index of the item, rule, reason], ...]}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmbal_cli.errors import MediaError
from mmbal_cli.media.child import serve
from mmbal_cli.media.folder import is_pair, members
from mmbal_cli.media.fragment import Fragment, split
from mmbal_cli.media.image import image_size
from mmbal_cli.media.probe import MAX_SIDE, UNKNOWN, Header, opened, picture_streams, problem

Finding = tuple[str, str]  # rule, reason
SUSPECT = 1024  # bytes: of the pictures in a folder only the first, and those below this, are opened
SLACK = 0.1  # seconds that a stated length may be short of a part: codecs and containers round


def look(kind: str, value: Any, need: Mapping[str, Any] | None = None) -> list[Finding]:
    """What is wrong with one value (a path with or without a fragment), as (rule, reason).

    `need`: `seconds` [least, most] of the clip or of the part that is meant, `size` the least px a side. Rules:
    undecodable, lfs-pointer, no-audio, no-video, too-short, too-long, too-small, too-large.
    """
    need = need or {}
    try:
        if kind == "vector":
            from mmbal_cli.media.text import read_vector

            read_vector(value)
            return []
        name, part = split(value) if kind in ("video", "audio") else (str(value), Fragment())
        path = Path(name)
        if kind == "image":
            return list(_small(path, image_size(path), need))
        if kind == "video" and (is_pair(path) or path.is_dir()):
            return list(_folder(path, part, need))
        return list(_clip(kind, path, part, need)) if kind in ("video", "audio") else []
    except MediaError as error:
        return [(_rule(error.found), error.found)]


def _rule(reason: str) -> str:
    rules = (("megapixels", "too-large"), ("Git LFS pointer", "lfs-pointer"))
    return next((rule for text, rule in rules if text in reason), "undecodable")


def _small(path: Path, size: tuple[int, int], need: Mapping[str, Any]) -> Iterator[Finding]:
    if min(size) < need.get("size", 0):
        yield "too-small", f"{path}: the picture is {size[1]}x{size[0]}, expected at least {need['size']} px a side"


def _folder(path: Path, part: Fragment, need: Mapping[str, Any]) -> Iterator[Finding]:
    files = members(path)
    if not files:
        raise problem(path, "holds no pictures")
    yield from _small(files[0], image_size(files[0]), need)
    for one in files[1:]:
        if one.stat().st_size < SUSPECT:
            image_size(one)  # raises where the file is empty or a pointer
    count = len(files) // (2 if is_pair(path) else 1)
    yield from _inside(path, part, count, None)


def _clip(kind: str, path: Path, part: Fragment, need: Mapping[str, Any]) -> Iterator[Finding]:
    with opened(path) as (container, header):
        codec = header.codec if kind == "video" else header.audio_codec
        if not codec:
            yield f"no-{kind}", f"{path}: has no {kind} track"
            return
        if codec == UNKNOWN:
            raise problem(path, f"has {'a video' if kind == 'video' else 'an audio'} track of an unknown codec")
        frames, seconds = _length(container, kind, header, part)
    if kind == "video":
        if max(header.width, header.height) > MAX_SIDE:
            yield "too-large", f"{path}: the picture is {header.width}x{header.height}, at most {MAX_SIDE} a side"
        yield from _small(path, (header.height, header.width), need)
    elif part.frames and not (header.codec and header.fps):
        yield "no-video", f"{path}: has no pictures, so frames say nothing about its sound"
        return
    yield from _inside(path, part, frames, seconds)
    least, most = need.get("seconds", (0.0, float("inf")))
    if part.seconds:
        seconds = part.seconds[1] - part.seconds[0]
    elif part.frames:
        seconds = (part.frames[1] - part.frames[0]) / header.fps if header.fps else least
    if seconds < least:
        yield "too-short", f"{path}: {seconds:.2f} s, expected at least {least:g} s"
    elif seconds > most:
        yield "too-long", f"{path}: {seconds:.2f} s, expected at most {most:g} s"


def _inside(path: Path, part: Fragment, frames: int, seconds: float | None) -> Iterator[Finding]:
    """Whether the part that is meant ends before the clip does."""
    if part.frames and part.frames[1] > frames:
        yield "too-short", f"{path}: frames {part.frames[0]} to {part.frames[1]} are meant, it has {frames}"
    if part.seconds and seconds is not None and part.seconds[1] > seconds + SLACK:
        start, end = part.seconds
        yield "too-short", f"{path}: the part from {start:g} to {end:g} s is meant, it has {seconds:.2f} s"


def _length(container: Any, kind: str, header: Header, part: Fragment) -> tuple[int, float]:
    """Frames and seconds as stated, or counted where nothing is stated or the part would not fit; not zero."""
    frames, seconds = header.frames or round(header.seconds * header.fps), header.seconds
    if kind == "audio":
        seconds = header.audio_seconds
        frames = round(seconds * header.fps)
    counted = kind == "video" and not header.frames  # containers that state no count may hold none
    # a stated count may be wrong (some AVI files), so a part is refused only after counting
    wholly = not seconds or (counted and part.frames) or any(_inside(Path(), part, frames, seconds))
    if counted or wholly:
        found, length = _counted(container, kind, None if wholly else 1)
        if not found:
            raise problem(Path(container.name), "holds no frame" if kind == "video" else "holds no sound")
        if wholly:
            frames, seconds = found if kind == "video" else frames, max(seconds, length)
    return frames, seconds


def _counted(container: Any, kind: str, most: int | None) -> tuple[int, float]:
    """Packets of the track (stopping at `most`), and seconds from the first to the end of the last; not decoded."""
    stream = picture_streams(container)[0] if kind == "video" else container.streams.audio[0]
    count, first, last = 0, None, 0
    for packet in container.demux(stream):
        if packet.size and packet.dts is not None:
            first = packet.dts if first is None else first
            last = max(last, packet.dts + (packet.duration or 0))
        count += bool(packet.size)
        if count == most:
            break
    return count, float((last - (first or 0)) * stream.time_base)


def handle(job: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Answer one job: findings on each item."""
    found = []
    for index, item in enumerate(job["items"]):
        found += [[index, *finding] for finding in look(item["kind"], item["value"], item.get("expect"))]
    return {"found": found}, []


if __name__ == "__main__":
    serve(handle)
