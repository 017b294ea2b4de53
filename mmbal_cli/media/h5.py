"""Arrays of an HDF5 file that lie in that file: plain groups, hard links, the filters that h5py itself brings."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from mmbal_cli.media.arrays import MAX_MEMBERS, Member
from mmbal_cli.media.probe import problem

FILTERS = {1, 2, 3, 4, 5, 6, 32000}  # deflate, shuffle, fletcher32, szip, nbit, scaleoffset, lzf
CACHE = 64 << 20  # bytes of unpacked chunks; h5py's 1 MiB would unpack a large chunk again for every row
PATIENCE = 60.0  # seconds for a column of texts


def h5_members(path: Path) -> dict[str, Member]:
    """The data sets of a file by name; MediaError for what leads out of it."""
    import h5py

    file = h5py.File(path, "r", rdcc_nbytes=CACHE, locking=False)
    found: dict[str, Member] = {}
    open_groups = [("", file.id)]
    while open_groups:
        prefix, group = open_groups.pop()
        for raw in group:
            name = f"{prefix}{raw.decode('utf-8', 'replace')}"
            if len(found) + len(open_groups) > MAX_MEMBERS or name.count("/") > 8:
                raise problem(path, f"holds more than {MAX_MEMBERS} objects, or groups within groups within groups")
            if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                raise problem(path, f"'{name}' is a link; links are not followed")
            one = h5py.h5o.open(group, raw)
            if isinstance(one, h5py.h5g.GroupID):
                open_groups.append((f"{name}/", one))
            elif isinstance(one, h5py.h5d.DatasetID):
                found[name] = _member(path, name, one, file)
    return dict(sorted(found.items()))


def _member(path: Path, name: str, one: Any, file: Any) -> Member:
    import h5py

    stored = one.get_create_plist()
    filters = {stored.get_filter(number)[0] for number in range(stored.get_nfilters())}
    if stored.get_external_count() or stored.get_layout() == h5py.h5d.VIRTUAL or filters - FILTERS:
        raise problem(path, f"'{name}' lies in another file or needs a plugin; expected a plain data set")
    dataset = h5py.Dataset(one)
    dtype = dataset.dtype
    if dtype.hasobject and h5py.check_string_dtype(dtype) is None:
        raise problem(path, f"'{name}' has the type {dtype}, expected numbers or strings")
    size = dtype.itemsize * math.prod(one.shape)
    if stored.get_layout() != h5py.h5d.CHUNKED and size and not dtype.hasobject and one.get_storage_size() != size:
        raise problem(path, f"'{name}' claims {size:,} bytes and has {one.get_storage_size():,}")

    def opened(keep: Any = file) -> Any:  # the file stays open as long as one of its members
        return dataset

    strings = partial(strings_apart, path, name) if dtype.hasobject else None
    return Member(path, tuple(one.shape), dtype, opened, 0, strings)


def strings_apart(path: Path, name: str) -> list[str]:
    """Texts of no fixed width, read by another process: HDF5 may never return from a damaged heap."""
    root = str(Path(__file__).resolve().parents[2])
    env = os.environ | {"PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}
    call = [sys.executable, "-P", "-m", "mmbal_cli.media.h5", str(path), name]
    try:
        done = subprocess.run(call, capture_output=True, env=env, timeout=PATIENCE, check=False)
        found = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        raise problem(path, f"the texts of '{name}' cannot be read; is the file damaged?") from None
    return [str(text) for text in found]


def _print_strings(path: str, name: str) -> None:
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        values = file[name].asstr(errors="replace")[...]
    sys.stdout.write(json.dumps(values.reshape(-1).tolist()))


if __name__ == "__main__":
    _print_strings(*sys.argv[1:3])
