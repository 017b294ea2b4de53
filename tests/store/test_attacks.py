"""Shards made by an enemy, with a digest that matches: refused before anything but the shard itself is read."""

from __future__ import annotations

import io
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mmbal_cli.errors import CacheError
from mmbal_cli.store.shard import FACTS, is_intact, read_shard, shard_image, shard_name
from tests.kit.faults import opens_of
from tests.store.small import chunk

PEAK = 50 << 20  # bytes of memory an attack may cost
SECRET = b"the content of another file of this machine, 64 bytes long......"
Attack = Callable[[h5py.File, Path], None]
ATTACKS: dict[str, Attack] = {}


def attack(make: Attack) -> Attack:
    """Register a maker: it gets a proper shard without features, and the path of the secret."""
    ATTACKS[make.__name__] = make
    return make


@attack
def external_storage(file: h5py.File, secret: Path) -> None:
    file.create_dataset("features", (4, 16), "u1", external=[(str(secret), 0, 64)])


@attack
def external_storage_with_the_right_type(file: h5py.File, secret: Path) -> None:
    file.create_dataset("features", (4, 8), "<f2", external=[(str(secret), 0, 64)])


@attack
def external_link(file: h5py.File, secret: Path) -> None:
    file["features"] = h5py.ExternalLink(str(secret), "/features")


@attack
def soft_link(file: h5py.File, secret: Path) -> None:
    file["features"] = h5py.SoftLink("/labels")


@attack
def soft_link_to_itself(file: h5py.File, secret: Path) -> None:
    file["features"] = h5py.SoftLink("/features")


@attack
def virtual_dataset(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((4, 8), "<f2")
    layout[:] = h5py.VirtualSource(str(secret), "features", shape=(4, 8))
    file.create_virtual_dataset("features", layout)


@attack
def unlimited_virtual_dataset(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((4, 8), "<f2", maxshape=(None, 8))
    source = h5py.VirtualSource(str(secret), "features", shape=(4, 8), maxshape=(None, 8))
    layout[: h5py.h5s.UNLIMITED, :] = source[: h5py.h5s.UNLIMITED, :]
    file.create_virtual_dataset("features", layout)


@attack
def object_type(file: h5py.File, secret: Path) -> None:
    del file["ids"]
    file.create_dataset("ids", data=["a", "b", "c", "d"], dtype=h5py.string_dtype())


@attack
def ragged_type(file: h5py.File, secret: Path) -> None:
    file.create_dataset("features", (4, 2), h5py.vlen_dtype("f4"))


@attack
def reference_type(file: h5py.File, secret: Path) -> None:
    file.create_dataset("features", (4, 2), h5py.ref_dtype)


@attack
def compound_type(file: h5py.File, secret: Path) -> None:
    file.create_dataset("features", (4, 2), np.dtype([("a", "f4"), ("b", "i4")]))


@attack
def opaque_type(file: h5py.File, secret: Path) -> None:
    file.create_dataset("features", (4, 2), np.dtype("V8"))


@attack
def big_endian(file: h5py.File, secret: Path) -> None:
    file.create_dataset("features", data=np.ones((4, 2), ">f4"))


@attack
def huge_shape(file: h5py.File, secret: Path) -> None:
    file.create_dataset("features", (4, 1 << 40), "<f2")


@attack
def shape_beyond_64_bits(file: h5py.File, secret: Path) -> None:
    file.create_dataset("features", (4, 1 << 31, 1 << 31), "<f2", chunks=(1, 1, 1))


@attack
def huge_text(file: h5py.File, secret: Path) -> None:
    del file["ids"]
    file.create_dataset("ids", (4,), f"S{1 << 30}")


@attack
def empty_with_a_fill_value(file: h5py.File, secret: Path) -> None:
    file.create_dataset("features", (4, 1 << 30), "<f2", fillvalue=7)


@attack
def filter_bomb(file: h5py.File, secret: Path) -> None:
    file.create_dataset("features", data=np.zeros((4, 1 << 20), "<f2"), compression="gzip", compression_opts=9)


@attack
def chunked(file: h5py.File, secret: Path) -> None:
    file.create_dataset("features", data=np.zeros((4, 8), "<f2"), chunks=(1, 8))


@attack
def scalar(file: h5py.File, secret: Path) -> None:
    file["features"] = np.float32(1)


@attack
def null_space(file: h5py.File, secret: Path) -> None:
    file["features"] = h5py.Empty("<f2")


@attack
def unknown_name(file: h5py.File, secret: Path) -> None:
    file["features2"] = np.zeros((4, 2), "<f2")


@attack
def name_with_escape_codes(file: h5py.File, secret: Path) -> None:
    file["\x1b[31m[red]" + "x" * 5000] = np.zeros((4, 2), "<f2")


@attack
def many_names(file: h5py.File, secret: Path) -> None:
    for number in range(500):
        file[f"features{number}"] = np.float32(1)


@attack
def group(file: h5py.File, secret: Path) -> None:
    file.create_group("features")


@attack
def ring(file: h5py.File, secret: Path) -> None:
    file["features"] = file["/"]


@attack
def named_type(file: h5py.File, secret: Path) -> None:
    file["features"] = np.dtype("<f2")


@attack
def rows_that_do_not_fit(file: h5py.File, secret: Path) -> None:
    file["features"] = np.zeros((5, 2), "<f2")


@attack
def mask_that_is_neither(file: h5py.File, secret: Path) -> None:
    file["mask"].id.write(h5py.h5s.ALL, h5py.h5s.ALL, np.full(4, 7, np.uint8).view(bool))


@attack
def text_that_is_no_text(file: h5py.File, secret: Path) -> None:
    file["ids"].id.write(h5py.h5s.ALL, h5py.h5s.ALL, np.full(4, b"\xff\xfe", file["ids"].dtype))


@attack
def facts_missing(file: h5py.File, secret: Path) -> None:
    del file.attrs[FACTS]


@attack
def facts_as_object(file: h5py.File, secret: Path) -> None:
    file.attrs[FACTS] = "{}"


@attack
def facts_as_number(file: h5py.File, secret: Path) -> None:
    file.attrs[FACTS] = 3


@attack
def facts_no_json(file: h5py.File, secret: Path) -> None:
    file.attrs[FACTS] = np.bytes_(b"{")


@attack
def facts_no_object(file: h5py.File, secret: Path) -> None:
    file.attrs[FACTS] = np.bytes_(b"[1]")


@attack
def facts_nested(file: h5py.File, secret: Path) -> None:
    file.attrs[FACTS] = np.bytes_(b"[" * 50_000)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_refused(tmp_path, name):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w", userblock_size=512) as other:  # a valid source for links, too
        other["features"] = np.ones((4, 8), "<f2")
    with secret.open("r+b") as raw:
        raw.write(SECRET)
    memory = io.BytesIO(shard_image({k: v for k, v in chunk("video", 0).items() if k != "features"}, {}))
    with h5py.File(memory, "r+") as file:
        ATTACKS[name](file, secret)
    image = memory.getvalue()
    path = tmp_path / shard_name(0, image)
    path.write_bytes(image)
    del memory, image
    assert is_intact(path)
    with opens_of(secret) as opened:
        tracemalloc.start()
        with pytest.raises(CacheError, match="refused") as caught:
            read_shard(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert opened == []
    assert peak < PEAK
    assert "\x1b" not in str(caught.value)


def test_the_watch_would_notice(tmp_path):
    (tmp_path / "x").write_bytes(b"secret")
    with opens_of(tmp_path / "x") as opened:
        h5py.is_hdf5(tmp_path / "x")
    assert opened


@pytest.mark.parametrize("data", [b"", b"text", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 8])
def test_no_hdf5_file(tmp_path, data):
    path = tmp_path / shard_name(0, data)
    path.write_bytes(data)
    with pytest.raises(CacheError, match="refused"):
        read_shard(path)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    path = tmp_path / "00000-0123456789abcdef.h5"
    for make in (os.mkfifo, lambda p: p.symlink_to("/dev/zero"), Path.mkdir, lambda p: p.symlink_to(p)):
        make(path)
        with pytest.raises(CacheError):
            read_shard(path)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_a_sparse_giant_is_not_read(tmp_path):
    path = tmp_path / "00000-0123456789abcdef.h5"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CacheError, match="4 GiB"):
        read_shard(path)


def test_random_damage_under_a_matching_digest(tmp_path):
    """HDF5 itself meets damaged bytes only under an attack; whatever it says becomes a CacheError."""
    image = shard_image(chunk("video", 0), {"chunk": 0})
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(image)
        for place in rng.integers(0, 2500, rng.integers(1, 6)):
            damaged[place % len(image)] = rng.integers(0, 256)
        path = tmp_path / shard_name(0, bytes(damaged))
        path.write_bytes(damaged)
        try:
            read_shard(path)
        except CacheError:
            refused += 1
    assert refused > 30
