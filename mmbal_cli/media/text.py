"""Texts and vectors from files (or, vectors, as numbers)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmbal_cli.media.probe import check_file, problem

MAX_TEXT = 1 << 20  # bytes
MAX_VALUES = 1 << 20


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
    """float32 [F] from numbers or from a .npy file (also [T,F]); MediaError for anything else."""
    if isinstance(value, list):
        return _numbers(np.asarray(value, np.float64), Path("vector"))
    path = Path(value)
    check_file(path)
    try:
        # mapped: a header that claims more than the file holds fails instead of allocating
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise problem(path, f"cannot be read as .npy ({error})") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise problem(path, "is not an array of numbers")
    return _numbers(array, path)


def _numbers(array: np.ndarray, path: Path) -> np.ndarray:
    if array.ndim not in (1, 2) or not 0 < array.size <= MAX_VALUES:
        raise problem(path, f"has the shape {list(array.shape)}, expected [F] or [T,F] of 1 to {MAX_VALUES} values")
    return np.array(array, np.float32)
