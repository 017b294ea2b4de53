"""Texts and vectors from files (or, vectors, as numbers)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmbal_cli.media.arrays import MAX_VALUES, read_value
from mmbal_cli.media.probe import check_file, problem

PAIR = "\x1f"  # between the two texts of a pair (a tweet and its target): the unit separator, never typed
MAX_TEXT = 1 << 20  # bytes


def read_text_file(path: Path) -> str:
    """A UTF-8 text file of at most 1 MiB, without a byte order mark; raises MediaError."""
    check_file(path)
    if path.stat().st_size > MAX_TEXT:
        raise problem(path, f"more than {MAX_TEXT >> 20} MiB of text")
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise problem(path, f"is no UTF-8 text ({error})") from None


def read_vector(value: list[float] | str | Path) -> np.ndarray:
    """float32 [F] from numbers, or [F] or [T,F] from an array in a file (see `arrays.parse`); MediaError if unusable.

    Steps of [T,F] that hold no data are NaN throughout; all other values are finite.
    """
    if not isinstance(value, list):
        return read_value(str(value))
    if not 0 < len(value) <= MAX_VALUES:
        raise problem(Path("vector"), f"has {len(value)} numbers, expected 1 to {MAX_VALUES}")
    with np.errstate(over="ignore"):
        numbers = np.array(value, np.float64).astype(np.float32)
    if wrong := np.flatnonzero(~np.isfinite(numbers)).tolist():
        raise problem(
            Path("vector"), f"{len(wrong)} of {len(value)} numbers are not finite (float32), e.g. number {wrong[0] + 1}"
        )
    return numbers
