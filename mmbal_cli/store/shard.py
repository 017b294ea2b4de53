"""A shard: one chunk of features as an HDF5 image made in memory, named by its own digest.

HDF5 never touches the disk itself: a full disk kills the interpreter inside libhdf5 (h5py/h5py#914), and no flag
of it notices a flipped bit in attributes or metadata. The image is deterministic: the same arrays give the same
bytes. Reading trusts nothing: the digest must match first, then only plain contiguous data sets are opened,
because external storage, external links and virtual data sets make HDF5 read other files of the machine.
"""

from __future__ import annotations

import io
import json
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.errors import CacheError
from mmbal_cli.store.atomic import canonical_json, sha256_hex

Arrays = dict[str, np.ndarray | list[str]]

TEXT = ("ids", "splits", "groups")
KINDS = {"features": ("<f2", "<f4", "<f8"), "mask": ("|b1",), "labels": ("<i8",), "times": ("<f4",)}
FACTS = "facts"  # the attribute that holds `attrs` as JSON
MAX_FACTS = 60_000  # bytes; HDF5 keeps attributes in a 64 KiB header
MAX_SHARD = 4 << 30  # bytes
NAME = re.compile(r"(?P<number>[0-9]{5,9})-(?P<digest>[0-9a-f]{16})\.h5")


def shard_image(arrays: Mapping[str, np.ndarray | Sequence[str]], attrs: Mapping[str, Any]) -> bytes:
    """The HDF5 file of `arrays` as bytes: contiguous, uncompressed, equal for equal input.

    features [n,F] or [n,T,F] float16/32/64, mask [n] or [n,T] bool, labels [n] int64, times (start and end in
    seconds, NaN where absent) [n,2] or [n,T,2] float32; ids, splits and groups are n strings. `attrs` is stored as
    JSON. CacheError for anything that `read_shard` would refuse.
    """
    import h5py

    plain = {name: _pack(name, arrays[name]) for name in sorted(arrays)}
    _check_rows({name: array.shape for name, array in plain.items()})
    facts = canonical_json(dict(attrs))
    if len(facts) > MAX_FACTS:
        raise CacheError(f"The facts of a shard take {len(facts):,} bytes.", f"Expected at most {MAX_FACTS:,}.")
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.attrs[FACTS] = np.array(facts, dtype=h5py.string_dtype("utf-8", len(facts)))
        for name, array in plain.items():
            if name in TEXT:
                array = array.astype(h5py.string_dtype("utf-8", array.itemsize))
            file.create_dataset(name, data=array, track_times=False)
    return memory.getvalue()


def shard_name(number: int, image: bytes) -> str:
    """`00017-<first 16 hex digits of SHA-256>.h5`: a shard proves itself."""
    return f"{number:05d}-{sha256_hex(image)[:16]}.h5"


def read_shard(path: Path, sha256: str | None = None) -> tuple[Arrays, dict[str, Any]]:
    """Arrays and attributes of a shard, as given to `shard_image`; CacheError for anything else.

    The content must match the digest in the file name and, when given, all 64 digits of `sha256`.
    """
    image = read_image(path)
    digest, match = sha256_hex(image), NAME.fullmatch(path.name)
    if match is None or not digest.startswith(match["digest"]) or sha256 not in (None, digest):
        raise CacheError(f"{path} is damaged: its content does not match its digest.", repair="mmbal cache repair")
    try:
        return _unpack(image)
    except CacheError as error:
        raise CacheError(f"{path} is refused: {error.found}", "Expected a shard written by mmbal.") from error


def is_intact(path: Path) -> bool:
    """Whether the file is there and its content matches the digest in its name; does not load HDF5."""
    match = NAME.fullmatch(path.name)
    try:
        return match is not None and sha256_hex(read_image(path)).startswith(match["digest"])
    except CacheError:
        return False


def read_image(path: Path) -> bytes:
    """The bytes of a regular file of at most 4 GiB, else CacheError (a pipe or device is never opened)."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_SHARD:
            raise CacheError(f"{path} is no regular file of at most {MAX_SHARD >> 30} GiB.")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, CacheError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise CacheError(f"{path} cannot be read: {reason}.", repair="mmbal cache repair") from error


def _pack(name: str, values: np.ndarray | Sequence[str]) -> np.ndarray:
    if name in TEXT:
        return _pack_text(name, values)
    array = np.asarray(values)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    if array.dtype.str not in KINDS.get(name, ()):
        raise CacheError(f"A shard holds no '{name}' of type {array.dtype}.", f"Expected {KINDS} or text {TEXT}.")
    return array


def _pack_text(name: str, values: Any) -> np.ndarray:
    """[n] fixed-width UTF-8: readable by every HDF5 tool, and free of the heap that variable width needs."""
    try:
        encoded = [str(value).encode() for value in values]
    except UnicodeEncodeError as error:
        raise CacheError(f"'{name}' holds text that is not valid Unicode: {error}.") from error
    if any(b"\0" in value for value in encoded):
        raise CacheError(f"'{name}' holds a text with a NUL character.", "Expected text without NUL.")
    return np.array(encoded, dtype=f"S{max([len(value) for value in encoded], default=1) or 1}")


def _check_rows(shapes: Mapping[str, tuple[int, ...]]) -> None:
    ranks = {"features": (2, 3), "mask": (1, 2), "times": (2, 3)}
    wrong = [f"{name} {list(shape)}" for name, shape in shapes.items() if len(shape) not in ranks.get(name, (1,))]
    if wrong or len({shape[0] for shape in shapes.values()}) > 1:
        raise CacheError(f"its arrays do not fit together: {', '.join(wrong) or dict(shapes)}.")
    mask, features = shapes.get("mask"), shapes.get("features")
    if mask and features and mask != features[: len(mask)]:
        raise CacheError(f"its mask {list(mask)} does not fit its features {list(features)}.")
    times = shapes.get("times")
    if times and features and times != (*features[:-1], 2):
        raise CacheError(f"its times {list(times)} do not fit its features {list(features)}.")


def _unpack(image: bytes) -> tuple[Arrays, dict[str, Any]]:
    import h5py

    try:
        with h5py.File(io.BytesIO(image), "r") as file:
            facts = _read_facts(file.id)
            sets = {name: _open_plain(file.id, name, len(image)) for name in _plain_names(file.id)}
            _check_rows({name: one.shape for name, one in sets.items()})
            return {name: _read(name, one) for name, one in sets.items()}, facts
    except CacheError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError, NotImplementedError) as error:
        raise CacheError(f"it is no readable HDF5 file ({type(error).__name__}: {str(error)[:200]}).") from error


def _plain_names(root: Any) -> list[str]:
    """Names in the file, after checking that each is a hard link to a data set we know: nothing is followed."""
    import h5py

    if len(root) > len(KINDS) + len(TEXT):
        raise CacheError("it holds more data sets than a shard has.")
    names = []
    for raw in root:
        name = raw.decode("utf-8", "replace")
        if name not in KINDS and name not in TEXT:
            raise CacheError(f"it holds an unknown object {name[:80]!r}.")
        if root.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
            raise CacheError(f"'{name}' is a link to somewhere else.")
        if h5py.h5o.get_info(root, raw).type != h5py.h5o.TYPE_DATASET:
            raise CacheError(f"'{name}' is no data set.")
        names.append(name)
    return names


def _open_plain(root: Any, name: str, limit: int) -> Any:
    """The data set, after checking that its numbers lie inside this file, uncompressed and of a known type."""
    import h5py

    found = h5py.h5d.open(root, name.encode())
    layout = found.get_create_plist()
    if layout.get_external_count() or layout.get_layout() != h5py.h5d.CONTIGUOUS or layout.get_nfilters():
        raise CacheError(f"'{name}' is not stored as plain contiguous numbers.")
    dtype = found.dtype
    if not (dtype.kind == "S" if name in TEXT else dtype.str in KINDS[name]):
        raise CacheError(f"'{name}' has the type {dtype}.")
    size = dtype.itemsize
    for length in found.shape:  # Python integers: no overflow
        size *= int(length)
    if size and (found.get_storage_size() != size or found.get_offset() is None or found.get_offset() + size > limit):
        raise CacheError(f"'{name}' claims {size:,} bytes that are not in the file.")
    return found


def _read(name: str, one: Any) -> np.ndarray | list[str]:
    import h5py

    values = np.zeros(one.shape, dtype=one.dtype)
    if values.size:
        one.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    if name in TEXT:
        return [value.decode() for value in values.tolist()]
    if name == "mask" and values.size and values.view(np.uint8).max() > 1:
        raise CacheError("its mask holds something else than 0 and 1.")
    return values


def _read_facts(root: Any) -> dict[str, Any]:
    import h5py

    attribute = h5py.h5a.open(root, FACTS.encode())
    if attribute.shape != () or attribute.dtype.kind != "S" or attribute.dtype.itemsize > MAX_FACTS:
        raise CacheError("its attributes are not those of a shard.")
    value = np.zeros((), dtype=attribute.dtype)
    attribute.read(value)
    try:
        facts = json.loads(value.item())
    except (ValueError, RecursionError) as error:
        raise CacheError("its attributes are not JSON.") from error
    if not isinstance(facts, dict):
        raise CacheError("its attributes are not a JSON object.")
    return facts
