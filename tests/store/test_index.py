"""The index says what is complete; whatever happens to it, the shards beside it are kept and still count."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmbal_cli.errors import CacheError
from mmbal_cli.store.atomic import canonical_json, digest_of, publish
from mmbal_cli.store.index import (
    INDEX,
    STORE_VERSION,
    discard_damaged,
    is_complete,
    read_index,
    shards_present,
    verify,
    write_index,
)
from mmbal_cli.store.shard import is_intact, read_shard, shard_image, shard_name
from tests.kit.faults import flipped, overwrite
from tests.store.small import CHUNKS, chunk, make_cache, make_folder, shards, tree

FLIPS, ROUNDS = 2000, 50


@pytest.fixture
def folder(tmp_path):
    """One complete modality folder."""
    make_folder(tmp_path / "video", "video")
    return tmp_path / "video"


def resealed(folder: Path, **changes: object) -> bytes:
    """The index with other values and a digest that fits them, as an enemy or another version would write it."""
    content = json.loads((folder / INDEX).read_bytes())
    del content["digest"]
    content |= changes
    return canonical_json({**content, "digest": digest_of(content)})


def test_round_trip(folder):
    index = read_index(folder)
    assert index is not None
    before = (folder / INDEX).read_bytes()
    write_index(folder, index)
    assert read_index(folder) == index
    assert (folder / INDEX).read_bytes() == before
    assert verify(folder) == []
    assert is_complete(folder) == index
    assert [shards_present(folder)[entry.number].name for entry in index.shards] == [e.name for e in index.shards]


def test_a_spec_may_hold_what_json_spells_differently(folder):
    index = read_index(folder)
    assert index is not None
    write_index(folder, index.model_copy(update={"spec": {"bands": {10: (1, 2), 9: 0.1}}}))
    again = read_index(folder)
    assert again is not None
    assert again.spec == {"bands": {"10": [1, 2], "9": 0.1}}
    assert verify(folder) == []


def test_no_folder_is_no_index(tmp_path):
    assert read_index(tmp_path / "none") is None
    assert is_complete(tmp_path / "none") is None
    assert shards_present(tmp_path / "none") == {}
    assert [f.shard for f in verify(tmp_path / "none")] == [INDEX]


def mutations(folder: Path) -> list[bytes]:
    """Torn, edited, foreign and hostile indexes."""
    good = (folder / INDEX).read_bytes()
    shard = json.loads(good)["shards"][0]
    torn = [good[: len(good) * n // 12] for n in range(12)] + [good + b"}", good[1:], good * 2]
    edits = [good.replace(*pair) for pair in ((b"video", b"audio"), (b"16000", b"8000"), (b'"a"', b'"z"'))]
    foreign = [b"null", b"[]", b"1", b'"x"', b"{}", b"\xff\xfe", b"\0" * 100, b"[" * 100_000, b'{"digest":NaN}']
    hostile = [
        resealed(folder, version=STORE_VERSION + 1),
        resealed(folder, version="one"),
        resealed(folder, rows=-1),
        resealed(folder, rows=13),
        resealed(folder, shape=[1 << 60, 1 << 60]),
        resealed(folder, shape=[]),
        resealed(folder, shape=[-3, -4]),
        resealed(folder, dtype="object"),
        resealed(folder, shards=None),
        resealed(folder, shards=[shard, shard]),
        resealed(folder, shards=[{**shard, "name": "../../../etc/passwd"}]),
        resealed(folder, shards=[{**shard, "name": "00000-0123456789abcdef.h5"}]),
        resealed(folder, shards=[{**shard, "sha256": "x" * 64}]),
        resealed(folder, surprise=1),
    ]
    return torn + edits + foreign + hostile


def test_a_changed_index_counts_as_absent(folder):
    index, good = read_index(folder), tree(folder)
    assert index is not None
    for data in mutations(folder):
        overwrite(folder / INDEX, data)
        assert read_index(folder) is None, data[:200]
        assert is_complete(folder) is None
        assert [f.shard for f in verify(folder)] == [INDEX]
        present = shards_present(folder)
        assert list(present) == list(range(CHUNKS))
        assert all(is_intact(path) for path in present.values())  # nothing to compute again
    publish(folder, INDEX, good[INDEX][0])
    assert read_index(folder) == index
    assert verify(folder) == []
    assert {n: v for n, v in tree(folder).items() if n != INDEX} == {n: v for n, v in good.items() if n != INDEX}


def test_spelling_of_the_same_content_does_not_matter(folder):
    index = read_index(folder)
    overwrite(folder / INDEX, json.dumps(json.loads((folder / INDEX).read_bytes()), indent=4).encode())
    assert read_index(folder) == index is not None


def test_every_flipped_bit_is_found(tmp_path):
    make_cache(tmp_path)
    paths, rng, missed = shards(tmp_path), np.random.default_rng(5), 0
    images = [path.read_bytes() for path in paths]
    for path in paths:
        path.chmod(0o644)
    for _ in range(FLIPS):
        which = int(rng.integers(len(paths)))
        head = rng.random() < 0.5
        bit = int(rng.integers(8 * (512 if head else len(images[which]))))
        with paths[which].open("r+b") as file:  # in place: truncating would wait for the disk each time
            file.write(flipped(images[which], bit))
        missed += is_intact(paths[which])
        with pytest.raises(CacheError, match="damaged"):
            read_shard(paths[which])
        with paths[which].open("r+b") as file:
            file.write(images[which])
    assert missed == 0
    assert all(is_intact(path) for path in paths)


def damage(paths: list[Path], how: str, rng: np.random.Generator) -> set[str]:
    """Harm one or two of the shards; the names that must be found."""
    first, second = (paths[i] for i in rng.permutation(len(paths))[:2])
    data = first.read_bytes()
    if how == "flipped":
        overwrite(first, flipped(data, int(rng.integers(8 * len(data)))))
    elif how == "truncated":
        overwrite(first, data[: int(rng.integers(1, len(data)))])
    elif how == "empty":
        overwrite(first, b"")
    elif how == "missing":
        first.unlink()
    elif how == "replaced by a folder":
        first.unlink()
        first.mkdir()
    else:
        overwrite(first, second.read_bytes())
        overwrite(second, data)
        return {first.name, second.name}
    return {first.name}


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty", "missing", "swapped", "replaced by a folder"])
def test_damage_is_named_and_only_that_is_discarded(folder, how):
    good, rng = tree(folder), np.random.default_rng(1)
    for _ in range(ROUNDS):
        harmed = damage(shards(folder), how, rng)
        kept = {name: facts for name, facts in tree(folder).items() if name not in harmed}
        assert {finding.shard for finding in verify(folder)} == harmed
        if how == "replaced by a folder":
            next(iter(folder / name for name in harmed)).rmdir()
        assert {path.name for path in discard_damaged(folder)} == (
            harmed if how not in ("missing", "replaced by a folder") else set()
        )
        assert is_complete(folder) is None
        assert {name: facts for name, facts in tree(folder).items() if name not in harmed} == kept  # inode and mtime
        for name in harmed:
            publish(folder, name, good[name][0])
        assert verify(folder) == []
        assert is_complete(folder) is not None


def test_two_digests_for_one_chunk_are_shown_and_the_intact_one_is_used(folder):
    right = shards_present(folder)[1]
    other = shard_image(chunk("video", 7), {})
    twin = publish(folder, shard_name(1, other), other)
    findings = verify(folder)
    assert len(findings) == 1
    assert "chunk 1 has 2 digests" in findings[0].problem
    assert shards_present(folder)[1] == min(right, twin)
    for path, rest in ((right, twin), (twin, right)):
        image = path.read_bytes()
        overwrite(path, image[:-1])
        assert shards_present(folder)[1] == rest
        overwrite(path, image)


def test_other_files_are_left_alone(folder):
    for name in ("notes.txt", "features.h5", "00000-xyz.h5", ".00001-0123456789abcdef.h5.1.ab.part"):
        (folder / name).write_bytes(b"mine")
    (folder / "bad").mkdir()
    assert verify(folder) == []
    assert discard_damaged(folder) == []
    assert list(shards_present(folder)) == [0, 1, 2]


def test_touching_copying_and_moving_change_nothing(folder, tmp_path):
    for path in folder.iterdir():
        os.utime(path, (0, 1 << 33))
    copy = shutil.copytree(folder, tmp_path / "copy with spaces")
    moved = copy.rename(tmp_path / "moved")
    for place in (folder, moved):
        assert verify(place) == []
        assert is_complete(place) == read_index(folder)


QUICK = """
import sys
from pathlib import Path
from mmbal_cli.store.index import is_complete
from mmbal_cli.store.sets import latest_set, read_set
cache = Path(sys.argv[1])
prepared = read_set(cache, latest_set(cache))
assert all(is_complete(cache / prepared.name / folder) for folder in prepared.modalities.values())
heavy = {"h5py", "torch", "scipy", "transformers", "decord", "av"} & set(sys.modules)
assert not heavy, heavy
"""


def test_up_to_date_is_known_without_heavy_libraries(tmp_path):
    make_cache(tmp_path)
    subprocess.run([sys.executable, "-c", QUICK, str(tmp_path)], check=True, timeout=60)
