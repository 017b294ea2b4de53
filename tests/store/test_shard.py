"""A shard gives back what was put in, always as the same bytes, and proves itself by its name."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmbal_cli.errors import CacheError
from mmbal_cli.store.atomic import publish, sha256_hex
from mmbal_cli.store.shard import MAX_FACTS, TEXT, is_intact, read_shard, shard_image, shard_name
from tests.kit.faults import flipped, overwrite
from tests.store.small import chunk

FLOATS = st.sampled_from([np.float16, np.float32, np.float64])
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@st.composite
def chunks(draw):
    """Arrays of one shard: any shape, any text, absent samples."""
    n, f = draw(st.integers(0, 5)), draw(st.integers(1, 4))
    shape = draw(st.sampled_from([(n, f), (n, 3, f)]))
    return {
        "features": draw(hnp.arrays(draw(FLOATS), shape)),
        "mask": draw(hnp.arrays(bool, draw(st.sampled_from([(n,), shape[:-1]])))),
        "labels": draw(hnp.arrays(np.int64, (n,))),
        **{name: draw(st.lists(WORDS, min_size=n, max_size=n)) for name in TEXT},
    }


def stored(tmp_path, arrays, attrs=None):
    """Publish arrays as chunk 0."""
    image = shard_image(arrays, attrs or {})
    return publish(tmp_path, shard_name(0, image), image)


@settings(max_examples=80, derandomize=True, deadline=None, database=None)
@given(chunks(), st.dictionaries(WORDS, st.integers() | WORDS | st.lists(WORDS), max_size=3))
def test_what_goes_in_comes_out(tmp_path_factory, arrays, attrs):
    path = stored(tmp_path_factory.mktemp("s"), arrays, attrs)
    back, facts = read_shard(path)
    assert facts == attrs
    assert set(back) == set(arrays)
    for name, values in arrays.items():
        if name in TEXT:
            assert back[name] == values
        else:
            same = np.asarray(back[name])
            assert (same.dtype, same.shape) == (values.dtype, values.shape)
            assert same.tobytes() == values.tobytes()  # NaN and -0.0 included
    assert shard_image(dict(reversed(arrays.items())), attrs) == path.read_bytes()


PRINT = """
import hashlib
from mmbal_cli.store.shard import shard_image
from tests.store.small import chunk
print(hashlib.sha256(shard_image(chunk("video", 1), {"b": 1, "a": [2]})).hexdigest())
"""


def test_same_bytes_in_every_process():
    here = hashlib.sha256(shard_image(chunk("video", 1), {"a": [2], "b": 1})).hexdigest()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", PRINT],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2]), "TZ": f"UTC+{seed}"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == here


def test_byte_order_and_memory_layout_do_not_matter():
    arrays = chunk("video", 0)
    image = shard_image(arrays, {})
    arrays["features"] = np.asfortranarray(arrays["features"]).astype(">f2")
    arrays["labels"] = arrays["labels"].astype(">i8")
    assert shard_image(arrays, {}) == image


def test_other_tools_can_read_it():
    with h5py.File(io.BytesIO(shard_image(chunk("audio", 2), {})), "r") as file:
        assert file["ids"].asstr()[1] == "clip 2/1 é\n[red]"
        assert file["features"].dtype == np.float16
        assert file["mask"].dtype == bool


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": np.zeros((4, 2), np.int32)}, "no 'features' of type int32"),
        ({"features": np.zeros(4)}, "do not fit"),
        ({"features": np.zeros((3, 2))}, "do not fit"),
        ({"labels": np.zeros(4)}, "no 'labels' of type float64"),
        ({"mask": np.zeros((4, 2), bool)}, "mask"),
        ({"mask": np.zeros(4, int)}, "no 'mask' of type"),
        ({"ids": ["a\0", "b", "c", "d"]}, "NUL"),
        ({"ids": ["\ud800", "b", "c", "d"]}, "Unicode"),
        ({"ids": ["a"]}, "do not fit"),
        ({"extra": np.zeros(4)}, "no 'extra'"),
    ],
)
def test_what_could_not_be_read_is_not_written(change, words):
    with pytest.raises(CacheError, match=words):
        shard_image(chunk("video", 0) | change, {})


def test_attributes_have_a_limit(tmp_path):
    text = "x" * (MAX_FACTS - 20)
    assert read_shard(stored(tmp_path, chunk("audio", 0), {"t": text}))[1] == {"t": text}
    with pytest.raises(CacheError, match="facts"):
        shard_image(chunk("audio", 0), {"t": text * 2})


def test_the_name_must_match_the_content(tmp_path):
    path = stored(tmp_path, chunk("audio", 0))
    image = path.read_bytes()
    assert is_intact(path)
    read_shard(path, sha256_hex(image))
    with pytest.raises(CacheError, match="does not match its digest"):
        read_shard(path, "0" * 64)
    renumbered = path.rename(path.with_name("00007" + path.name[5:]))  # the number is not part of the content
    assert is_intact(renumbered)
    for name in ("00000-0123456789abcdef.h5", "features.h5", path.name + ".bak", "0-" + path.name[6:]):
        other = renumbered.with_name(name)
        other.write_bytes(image)
        assert not is_intact(other)
        with pytest.raises(CacheError, match="does not match its digest"):
            read_shard(other)


@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: d[:-1], lambda d: d + b"\0", lambda d: flipped(d, 77)])
def test_damage_is_named_before_hdf5_sees_it(tmp_path, monkeypatch, damage):
    path = stored(tmp_path, chunk("audio", 0))
    overwrite(path, damage(path.read_bytes()))
    monkeypatch.setattr(h5py, "File", None)
    with pytest.raises(CacheError, match="damaged"):
        read_shard(path)
    assert not is_intact(path)


def test_missing_is_an_error_with_a_command(tmp_path):
    with pytest.raises(CacheError, match="No such file") as caught:
        read_shard(tmp_path / "00000-0123456789abcdef.h5")
    assert caught.value.repair == "mmbal cache repair"
