"""What a cell of the sample table may hold: a text, numbers, or a path with the part of the file that is meant."""

from __future__ import annotations

from mmbal_cli.media import fragment
from mmbal_cli.media.arrays import VALUE as ARRAY

Value = str | tuple[float, ...] | None


def file_of(kind: str, value: Value) -> str | None:
    """Path (below the root) that a value names, or None for literal texts, numbers and missing values."""
    if not isinstance(value, str):
        return None
    if kind == "text":
        return value[5:] if value.startswith("file:") else None
    if kind == "vector":
        found = ARRAY.fullmatch(value)
        return found["path"] if found else value
    part = fragment.START.search(value) if kind in ("video", "audio") else None
    return value[: part.start()] if part and part.start() else value


def part_of(kind: str, value: Value) -> str:
    """Which part of its file a value means: the fragment after the path, "" for all of it."""
    path = file_of(kind, value)
    return str(value)[len(path) :] if path and kind != "text" else ""
