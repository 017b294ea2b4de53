"""A part of a clip, written behind its path: `clip.mp4#t=1.5,4&xywh=percent:0,0,50,100`.

The notation of W3C media fragments, with `frames=START,END` (from 0, END not included) in addition:
  t=START,END              seconds from the start of the clip
  frames=START,END         pictures of the clip; for sound, converted with the frame rate of its pictures
  xywh=percent:X,Y,W,H     a rectangle of the picture, from the upper left corner; sound ignores it
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from mmbal_cli.media.probe import problem

NUMBER = r"\d{1,7}(?:\.\d{1,9})?"
START = re.compile(r"#(?=(?:t|frames|xywh)=[^#]+\Z)", re.DOTALL)
PARTS = {
    "t": re.compile(rf"({NUMBER}),({NUMBER})", re.ASCII),
    "frames": re.compile(r"(\d{1,9}),(\d{1,9})", re.ASCII),
    "xywh": re.compile(rf"percent:({NUMBER}),({NUMBER}),({NUMBER}),({NUMBER})", re.ASCII),
}
FORMS = "t=START,END frames=START,END xywh=percent:X,Y,W,H, joined by &"


class Fragment(NamedTuple):
    """Which part of a clip: seconds or frames (start, end), and a rectangle (x, y, width, height) in percent."""

    seconds: tuple[float, float] | None = None
    frames: tuple[int, int] | None = None
    crop: tuple[float, float, float, float] | None = None


WHOLE = Fragment()


def split(value: str | Path) -> tuple[str, Fragment]:
    """(path, part) of a value; a '#' that starts none of the forms belongs to the name. MediaError if misspelt."""
    text = str(value)
    found = START.search(text)
    if not found or not found.start():
        return text, WHOLE
    path, rest = text[: found.start()], text[found.end() :]
    parts: dict[str, tuple[float, ...]] = {}
    for part in rest.split("&"):
        key, _, numbers = part.partition("=")
        match = PARTS[key].fullmatch(numbers) if key in PARTS and key not in parts else None
        if match is None:
            raise problem(Path(path), f"'{part}' in '#{rest}' is no part of a clip; expected {FORMS}")
        parts[key] = tuple(map(float, match.groups()))
    if "t" in parts and "frames" in parts:
        raise problem(Path(path), f"'#{rest}' has both seconds and frames")
    for key in parts.keys() - {"xywh"}:
        if parts[key][0] >= parts[key][1]:
            raise problem(Path(path), f"'#{rest}' ends before it starts")
    if "xywh" in parts:
        x, y, width, height = parts["xywh"]
        if not (width > 0 and height > 0 and x + width <= 100.01 and y + height <= 100.01):
            raise problem(Path(path), f"'#{rest}' is no rectangle inside the picture")
    frames = tuple(map(int, parts["frames"])) if "frames" in parts else None
    return path, Fragment(parts.get("t"), frames, parts.get("xywh"))  # type: ignore[arg-type]
