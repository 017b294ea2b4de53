"""What a media file says about itself, checked before anything is decoded.

Every file is opened here first, with a list of container formats and the file protocol only: a text
file that looks like a playlist would otherwise make the decoder open other files or the network.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbal_cli.errors import MediaError

MAX_SIDE = 4096  # px, video
MAX_SECONDS = 600.0  # of sound decoded into memory
MAX_PIXELS = 50_000_000  # of an image
ENOUGH = 0.9  # of the stated length: a clip that gives less is damaged or not what its header says

LFS_POINTER = b"version https://git-lfs"
UNKNOWN = "unknown"  # codec of a stream that is there and has no decoder
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,asf,mpeg,mpegts,mpegvideo,h264,hevc,ivf,mxf,rm,"
    "wav,w64,flac,mp3,ogg,aac,aiff,au,caf,amr,ac3,eac3,wv"
)


@dataclass(frozen=True)
class Header:
    """Facts of a container; the codec of a missing stream is "", what is not stated is 0."""

    codec: str = ""
    width: int = 0
    height: int = 0
    frames: int = 0
    fps: float = 0.0
    seconds: float = 0.0
    audio_codec: str = ""
    audio_seconds: float = 0.0
    audio_rate: int = 0
    channels: int = 0


def problem(path: Path, reason: str) -> MediaError:
    """The error of a file that cannot be used."""
    return MediaError(f"{path}: {reason}")


def check_file(path: Path) -> None:
    """MediaError unless `path` is a regular, readable, non-empty file."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise problem(path, getattr(error, "strerror", None) or "not a usable name") from None
    if not stat.S_ISREG(found.st_mode):
        raise problem(path, "is not a regular file")
    if not found.st_size:
        raise problem(path, "is empty")


def what_it_is(path: Path) -> str:
    """What a file that no decoder reads is instead, for the usual mistakes; "" when it may be damaged media."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return ""
    if head.startswith(LFS_POINTER):
        return "a Git LFS pointer: the file itself was not downloaded"
    if re.match(rb"\s*<(!doctype html|html|\?xml)", head, re.IGNORECASE):
        return "a web page, perhaps of a download that failed"
    return "a text" if head and not re.search(rb"[^\t\n\f\r -~\x80-\xff]", head) else ""


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Header]]:
    """The container of `path`, open, with its header; MediaError for everything that is wrong in it."""
    import av

    check_file(path)
    av.logging.set_level(None)
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        # absolute: a relative name with a colon would be taken for a protocol
        with av.open(str(path.absolute()), options=options, metadata_errors="replace") as container:
            header = _header(container)
            _last.clear()
            _last[_identity(path)] = header
            yield container, header
    except (av.error.FFmpegError, ValueError, OSError) as error:
        text = what_it_is(path) or getattr(error, "strerror", None) or str(error)
        raise problem(path, f"cannot be read as media ({text})") from None


def probe(path: Path) -> Header:
    """Header of a video or sound file; MediaError when it cannot be read or its picture is too large."""
    check_file(path)
    header = _last.get(_identity(path))
    if header is None:
        with opened(path) as (_, header):
            pass
    if max(header.width, header.height) > MAX_SIDE:
        raise problem(path, f"the picture is {header.width}x{header.height}, at most {MAX_SIDE} a side is read")
    return header


# of the file opened last: the sound and the pictures of a clip are read one after the other
_last: dict[tuple[str, int, int, int], Header] = {}


def _identity(path: Path) -> tuple[str, int, int, int]:
    found = path.stat()
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns


def _header(container: Any) -> Header:
    facts: dict[str, Any] = {}
    if videos := picture_streams(container):
        stream, seconds = videos[0], _seconds(videos[0], container)
        fps = float(stream.average_rate or stream.base_rate or 0)
        facts |= {"codec": _codec(stream), "frames": max(0, stream.frames), "fps": fps, "seconds": seconds}
        if context := stream.codec_context:
            facts |= {"width": context.width, "height": context.height}
    if container.streams.audio:
        stream = container.streams.audio[0]
        facts |= {"audio_codec": _codec(stream), "audio_seconds": _seconds(stream, container)}
        if context := stream.codec_context:
            facts |= {"audio_rate": context.sample_rate, "channels": context.channels}
    return Header(**facts)


def picture_streams(container: Any) -> list[Any]:
    """Video streams of an open container, without the cover picture of a song."""
    return [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]


def _codec(stream: Any) -> str:
    return stream.codec_context.codec.canonical_name if stream.codec_context else UNKNOWN


def _seconds(stream: Any, container: Any) -> float:
    """Length the header states: of the stream, else of the container, else 0."""
    if stream.duration and (base := stream.time_base):
        return float(stream.duration) * base.numerator / base.denominator
    return max(0.0, (container.duration or 0) / 1e6)
