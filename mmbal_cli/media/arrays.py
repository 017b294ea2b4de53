"""Arrays in files and single rows of them: npy, npz, HDF5 and IDX, without anything that could run code.

npy and uncompressed npz are memory mapped, HDF5 is read by row, a compressed npz member is unpacked once a process
and kept. Object arrays are pickles and refused. HDF5 may make the library read other files of the machine (external
links, external storage, virtual data sets) or load code (filter plugins): only plain groups, hard links and the
filters that h5py itself brings are followed.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import tokenize
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmbal_cli.errors import MediaError
from mmbal_cli.media.probe import check_file, problem

MAX_VALUES = 1 << 20  # of one sample
MAX_PACKED = 1 << 30  # bytes of one unpacked member; a decoding process is replaced above 2 GiB
MAX_KEPT = 5 << 28  # bytes of unpacked members that a process keeps
MAX_MEMBERS = 10_000
IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
LIBRARY = (zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, EOFError, SyntaxError)
DAMAGE = (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, MemoryError, *LIBRARY)
VALUE = re.compile(r"(?P<path>.+(?:\.(?:npy|npz|h5|hdf5)|-ubyte(?:\.gz)?))(?:#(?P<part>.+))?", re.IGNORECASE)
SPOT = re.compile(r"(?:(?P<member>.*)/)?(?P<row>\d{1,12})(?::(?P<run>-?\d{1,9}|\d{1,9},\d{1,9}))?")

SMALLER = """Write it as HDF5, which is read row by row:
    import h5py, numpy
    with numpy.load("in.npz") as arrays, h5py.File("out.h5", "w") as out:
        for name in arrays.files:
            out[name] = arrays[name]"""


LARGE = "compressed members have {size:,} bytes together; unpacking them again and again would take hours"


class Place(NamedTuple):
    """A value of a vector modality: a file, an array in it, a row, which steps of the row hold data."""

    path: Path
    member: str = ""
    row: int | None = None
    run: tuple[int | None, int | None] = (None, None)
    fill: bool = False  # values that are not finite become 0
    steps: int = 0  # pad or cut [T,F] to so many steps


@contextmanager
def _readable(path: Path, what: str = "") -> Iterator[None]:
    """Whatever a library says of a damaged file, as a MediaError."""
    try:
        yield
    except MediaError:
        raise
    except DAMAGE as error:
        raise problem(path, f"cannot be read{what} ({' '.join(str(error).split())[:200]})") from None


class Member(NamedTuple):
    """One array of a file; `open` gives something that is indexed by row. `packed`: bytes it takes once opened.

    `strings` reads texts of no fixed width, where the file has such.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    open: Callable[[], Any]
    packed: int = 0
    strings: Callable[[], list[str]] | None = None

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows `start` to `stop`, all by default; MediaError when the file is damaged there."""
        with _readable(self.path):
            return np.asarray(self.open()[start:stop])

    def text(self) -> list[str]:
        """All values as strings, row after row; bytes are UTF-8."""
        if self.strings:
            return self.strings()
        values = self.read()
        return [
            one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one)
            for one in values.reshape(-1).tolist()
        ]

    def blocks(self, size: int = 64 << 20) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, values) of parts of at most about `size` bytes, so that nothing large is in memory."""
        rows = max(1, size // max(1, self.dtype.itemsize * math.prod(self.shape[1:])))
        for start in range(0, self.shape[0], rows):
            yield start, self.read(start, start + rows)


def parse(value: str) -> Place:
    """`PATH.npy`, `PATH.npy#ROW`, `PATH.npz#MEMBER/ROW`, with `:K`, `:-K` or `:A,B` for the first K, the last K or a
    run of steps, and `&fill=0`, `&steps=T`; MediaError for anything else.
    """
    found = VALUE.fullmatch(value)
    if not found:
        raise problem(Path(value), "is no .npy, .npz, .h5, .hdf5 or IDX file")
    path, place = Path(found["path"]), Place(Path(found["path"]))
    for position, part in enumerate((found["part"] or "").split("&") if found["part"] else []):
        name, _, given = part.partition("=")
        if name == "steps" and given.isdecimal() and 0 < int(given) <= MAX_VALUES:
            place = place._replace(steps=int(given))
        elif part == "fill=0":
            place = place._replace(fill=True)
        elif position == 0 and (spot := SPOT.fullmatch(part)):
            place = place._replace(member=spot["member"] or "", row=int(spot["row"]), run=_run(spot["run"]))
        elif position == 0:
            place = place._replace(member=part)
        else:
            raise problem(path, f"has the unknown addition {part!r}; expected fill=0 or steps=T")
    return place


def _run(text: str | None) -> tuple[int | None, int | None]:
    if not text:
        return None, None
    if "," in text:
        start, end = text.split(",")
        return int(start), int(end)
    return (int(text), None) if text.startswith("-") else (0, int(text))


def read_value(value: str) -> np.ndarray:
    """float32 [F] or [T,F] of one sample; steps without data are NaN throughout. MediaError says why not."""
    place = parse(value)
    what = f"'{place.member}'" if place.member else "it"
    array = array_of(place.path, place.member)
    if place.row is not None:
        if not array.shape or not 0 <= place.row < array.shape[0]:
            raise problem(place.path, f"has no row {place.row}: {what} has the shape {list(array.shape)}")
        if math.prod(array.shape[1:]) > MAX_VALUES:
            raise _shape(place.path, array.shape[1:])
        with _readable(place.path):
            array = np.asarray(array[place.row])
    elif math.prod(array.shape) > MAX_VALUES:
        raise _shape(place.path, array.shape)
    with _readable(place.path):
        array = np.asarray(array)
    return _placed(array, place)


def _shape(path: Path, shape: tuple[int, ...]) -> MediaError:
    return problem(path, f"has the shape {list(shape)}, expected [F] or [T,F] of 1 to {MAX_VALUES} values")


def _placed(array: np.ndarray, place: Place) -> np.ndarray:
    start, end = place.run
    limited = place.run != (None, None)
    if array.ndim not in (1, 2) or not 0 < array.size <= MAX_VALUES:
        raise _shape(place.path, array.shape)
    if array.ndim == 1 and (limited or place.steps):
        raise problem(place.path, f"has the shape {list(array.shape)}, but steps of a time axis are asked for")
    valid = np.zeros(len(array), bool)
    valid[slice(start, end)] = True
    if limited and (not valid.any() or max(abs(start or 0), end or 0) > len(array)):
        raise problem(
            place.path, f"has {len(array)} steps, asked for {start or 0} to {'the end' if end is None else end}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.array(array, np.float32)
    used = values[valid] if array.ndim == 2 else values
    if not np.isfinite(used).all():
        if not place.fill:
            first = [int(i) for i in np.argwhere(~np.isfinite(used))[0]]
            wrong = f"{int((~np.isfinite(used)).sum())} of {used.size} values"
            raise problem(place.path, f"{wrong} of row {place.row or 0} are not finite (float32), the first at {first}")
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    if array.ndim == 2:
        values[~valid] = np.nan
    if place.steps:
        values = values[: place.steps]
        pad = np.full((place.steps - len(values), values.shape[1]), np.nan, np.float32)
        values = np.concatenate([values, pad])
    return values


# --------------------------------------------------------------------------------------------- files


def array_of(path: Path, member: str = "") -> Any:
    """One numeric array of a file, to be indexed by row."""
    found = members(path)
    if member not in found:
        known = ", ".join(sorted(found)[:8])
        raise problem(path, f"holds no array '{member}'; it holds {known or 'none'}")
    one = found[member]
    if one.dtype.kind not in "fiub":
        raise problem(
            path, f"'{member}' is not an array of numbers ({one.dtype})" if member else "is not an array of numbers"
        )
    return one.open()


def check_packed(path: Path, used: Iterable[Member]) -> None:
    """MediaError when the compressed arrays that are to be read row by row do not fit in memory at once."""
    size = sum(one.packed for one in used)
    if size > MAX_KEPT:
        raise problem(path, f"{LARGE.format(size=size)}. {SMALLER}")


def check_stored(path: Path) -> None:
    """MediaError when a member of an .npz file that is not compressed does not match the checksum of the archive.

    Rows of such members are mapped, so that nothing else compares them; compressed ones are compared as they are read.
    """
    if path.suffix.lower() != ".npz":
        return
    check_file(path)
    with _readable(path, " as .npz"), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
                with archive.open(info) as stream:
                    while stream.read(1 << 22):
                        pass


def members(path: Path) -> dict[str, Member]:
    """The arrays of a file by name ("" for the only one of .npy and IDX); MediaError when it cannot be used."""
    check_file(path)
    facts = path.stat()
    return _members(str(path), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=16)
def _members(name: str, size: int, time: int) -> dict[str, Member]:
    from mmbal_cli.media.h5 import h5_members

    path, low = Path(name), name.lower()
    kind = _npy if low.endswith(".npy") else _npz if low.endswith(".npz") else _idx if "-ubyte" in low else h5_members
    suffix = ".npy" if kind is _npy else ".npz" if kind is _npz else "IDX" if kind is _idx else "HDF5"
    with _readable(path, f" as {suffix}"):
        return kind(path)


def _npy(path: Path) -> dict[str, Member]:
    with path.open("rb") as stream:
        if stream.read(1) == b"\x80":
            raise problem(path, "is a pickle, which can run any code when it is read")
        stream.seek(0)
        shape, order, dtype = _npy_header(path, stream)
        offset = stream.tell()
    return {"": Member(path, shape, dtype, _mapped(path, dtype, offset, shape, order))}


def _npy_header(path: Path, stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise problem(path, f"is an .npy file of version {version}, expected 1.0 or 2.0")
    shape, order, dtype = read(stream)
    if dtype.hasobject:
        raise problem(path, "holds Python objects, stored as a pickle, which can run any code when it is read")
    return shape, order, dtype


def _mapped(path: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...], order: bool) -> Callable[[], Any]:
    # a header that claims more than the file holds fails in mmap instead of allocating
    if not math.prod(shape):
        return lambda: np.zeros(shape, dtype)
    array = np.memmap(path, dtype, "r", offset, shape, "F" if order else "C")
    return lambda: array


def _npz(path: Path) -> dict[str, Member]:
    found: dict[str, Member] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        if len(archive.infolist()) > MAX_MEMBERS:
            raise problem(path, f"holds more than {MAX_MEMBERS} members")
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name == info.filename or name in found or info.flag_bits & 1:
                raise problem(path, f"holds the member '{info.filename}', expected plain NAME.npy, each once")
            with archive.open(info) as stream:
                try:
                    shape, order, dtype = _npy_header(path, stream)
                except MediaError as error:
                    raise problem(path, str(error).partition(": ")[2] + f" (member '{name}')") from None
                start = stream.tell()
            nbytes = dtype.itemsize * math.prod(shape)
            if nbytes != info.file_size - start:
                raise problem(path, f"'{name}' claims {nbytes:,} bytes and has {info.file_size - start:,}")
            if info.compress_type == zipfile.ZIP_STORED:
                raw.seek(info.header_offset + 26)
                offset = info.header_offset + 30 + sum(struct.unpack("<HH", raw.read(4))) + start
                found[name] = Member(path, shape, dtype, _mapped(path, dtype, offset, shape, order))
            else:
                found[name] = Member(path, shape, dtype, _unpacked(path, info.filename, nbytes), nbytes)
    return found


def _unpacked(path: Path, name: str, nbytes: int) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        if nbytes > MAX_PACKED:
            raise problem(path, f"'{name}' is compressed and has {nbytes:,} bytes, at most {MAX_PACKED:,}. {SMALLER}")
        with _readable(path), zipfile.ZipFile(path) as archive, archive.open(name) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    return lambda: _keep((str(path), name), load)


_kept: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()


def _keep(key: tuple[str, str], load: Callable[[], np.ndarray]) -> np.ndarray:
    """The array, from memory when it was there; what was used longest ago goes first."""
    if key not in _kept:
        array = load()
        while _kept and sum(one.nbytes for one in _kept.values()) + array.nbytes > MAX_KEPT:
            _kept.popitem(last=False)
        _kept[key] = array
    _kept.move_to_end(key)
    return _kept[key]


def _idx(path: Path) -> dict[str, Member]:
    """Big-endian: two zero bytes, type, rank, the lengths of the axes, then the values (the format of MNIST)."""
    packed = path.name.lower().endswith(".gz")
    with gzip.open(path, "rb") if packed else path.open("rb") as stream:
        head = stream.read(4)
        kind, rank = (head[2], head[3]) if len(head) == 4 and head[:2] == b"\0\0" else (0, 0)
        if kind not in IDX_TYPES or not 1 <= rank <= 4:
            raise problem(path, f"does not begin as an IDX file: {head.hex(' ')}")
        axes = stream.read(4 * rank)
        if len(axes) < 4 * rank:
            raise problem(path, "ends inside its header")
        shape, dtype = tuple(struct.unpack(f">{rank}I", axes)), np.dtype(IDX_TYPES[kind])
    nbytes, offset = dtype.itemsize * math.prod(shape), 4 + 4 * rank
    if packed and nbytes > MAX_PACKED:
        raise problem(path, f"claims {nbytes:,} bytes, at most {MAX_PACKED:,}: unpack it with gunzip")
    if not packed:
        if path.stat().st_size != nbytes + offset:
            raise problem(path, f"claims {nbytes:,} bytes after its header and has {path.stat().st_size - offset:,}")
        return {"": Member(path, shape, dtype, _mapped(path, dtype, offset, shape, order=False))}

    def load() -> np.ndarray:
        with _readable(path), gzip.open(path, "rb") as stream:
            data = stream.read(offset + nbytes + 1)
        if len(data) != offset + nbytes:
            raise problem(path, f"claims {nbytes:,} bytes after its header and has {len(data) - offset:,} or more")
        return np.frombuffer(data, dtype, offset=offset).reshape(shape)

    return {"": Member(path, shape, dtype, lambda: _keep((str(path), ""), load), nbytes)}
