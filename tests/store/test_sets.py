"""A prepared data set reads back aligned over modalities, from read-only folders, by many processes, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from mmbal_cli.errors import CacheError
from mmbal_cli.store.atomic import best_effort_lock, canonical_json, digest_of, publish, sha256_hex
from mmbal_cli.store.index import INDEX, ShardEntry, read_index, verify, write_index
from mmbal_cli.store.sets import LATEST, SET, PreparedSet, latest_set, list_sets, read_arrays, read_set, write_set
from mmbal_cli.store.shard import shard_image, shard_name
from tests.kit.faults import flipped, in_child, overwrite
from tests.store.small import CHUNKS, ROWS, SHAPES, chunk, make_cache, shards, tree


def test_features_come_back_as_they_went_in(tmp_path):
    prepared = make_cache(tmp_path)
    arrays = read_arrays(tmp_path, read_set(tmp_path, "tiny"))
    for m in SHAPES:
        chunks = [chunk(m, number) for number in range(CHUNKS)]
        for column in ("features", "mask"):
            assert np.array_equal(arrays[column][m], np.concatenate([c[column] for c in chunks]))
        assert arrays["features"][m].dtype == np.float16
        assert arrays["ids"] == [i for c in chunks for i in c["ids"]]
    assert arrays["labels"].dtype == np.int64
    assert set(arrays) == {"ids", "splits", "groups", "labels", "features", "mask"}
    assert len(arrays["splits"]) == CHUNKS * ROWS == len(arrays["groups"])
    assert read_set(tmp_path, "tiny") == prepared
    assert json.loads((tmp_path / "tiny" / SET).read_bytes())["schema"] == 1


def test_names_and_the_latest(tmp_path):
    assert list_sets(tmp_path / "none") == []
    assert latest_set(tmp_path / "none") is None
    for name in ("tiny", "my clips é", "third"):
        make_cache(tmp_path, name)
        assert latest_set(tmp_path) == name
    assert list_sets(tmp_path) == ["my clips é", "third", "tiny"]
    assert (tmp_path / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
    shutil.rmtree(tmp_path / "third")
    assert latest_set(tmp_path) is None


def test_an_unknown_name_lists_what_is_there(tmp_path):
    make_cache(tmp_path)
    with pytest.raises(CacheError) as caught:
        read_set(tmp_path, "tyni")
    assert "Did you mean 'tiny'?" in caught.value.expected
    assert caught.value.repair == "mmbal prepare tyni"
    assert caught.value.exit_code == 3
    for name in ("../tiny", "/etc", "", "a/b", ".."):
        with pytest.raises(CacheError, match="no file name"):
            read_set(tmp_path, name)


@pytest.mark.parametrize("data", [b"", b"{", b"null", b"[1]", b'{"digest":""}', b"\xff"])
def test_a_torn_pointer_says_how_to_write_it_again(tmp_path, data):
    make_cache(tmp_path)
    overwrite(tmp_path / "tiny" / SET, data)
    with pytest.raises(CacheError) as caught:
        read_set(tmp_path, "tiny")
    assert caught.value.repair == "mmbal prepare tiny"
    assert list_sets(tmp_path) == []
    assert latest_set(tmp_path) is None
    overwrite(tmp_path / LATEST, data)
    assert latest_set(tmp_path) is None


def test_a_pointer_cannot_lead_outside(tmp_path):
    make_cache(tmp_path / "cache")
    content = json.loads((tmp_path / "cache" / "tiny" / SET).read_bytes())
    del content["digest"]
    for bad in ("../../elsewhere", "/etc", ".", ""):
        content["modalities"] = {"audio": bad}
        sealed = canonical_json({**content, "digest": digest_of(content)})
        overwrite(tmp_path / "cache" / "tiny" / SET, sealed)
        with pytest.raises(CacheError):
            read_set(tmp_path / "cache", "tiny")
        overwrite(tmp_path / "cache" / LATEST, canonical_json({"name": bad, "digest": digest_of({"name": bad})}))
        assert latest_set(tmp_path / "cache") is None


def test_a_renamed_data_set_keeps_its_features(tmp_path):
    make_cache(tmp_path)
    before = read_arrays(tmp_path, read_set(tmp_path, "tiny"))
    (tmp_path / "tiny").rename(tmp_path / "other")
    after = read_arrays(tmp_path, read_set(tmp_path, "other"))
    assert after["ids"] == before["ids"]
    assert np.array_equal(after["features"]["video"], before["features"]["video"])


@pytest.mark.parametrize("harm", ["flip", "missing", "index"])
def test_damage_never_reaches_a_result(tmp_path, harm):
    prepared = make_cache(tmp_path)
    path = shards(tmp_path)[4]
    if harm == "flip":
        overwrite(path, flipped(path.read_bytes(), 12345))
    else:
        (path if harm == "missing" else path.parent / INDEX).unlink()
    with pytest.raises(CacheError) as caught:
        read_arrays(tmp_path, prepared)
    assert caught.value.repair == ("mmbal prepare tiny" if harm == "index" else "mmbal cache repair tiny")
    assert str(path.parent if harm == "index" else path) in caught.value.found


def replace_chunk(tmp_path: Path, prepared: PreparedSet, arrays: dict) -> None:
    """Put other content into chunk 2 of audio, index included, as a faulty writer would."""
    folder = tmp_path / "tiny" / prepared.modalities["audio"]
    image = shard_image(arrays, {})
    name = shard_name(2, image)
    publish(folder, name, image)
    index = read_index(folder)
    assert index is not None
    entry = ShardEntry(name=name, rows=ROWS, bytes=len(image), sha256=sha256_hex(image))
    write_index(folder, index.model_copy(update={"shards": (*index.shards[:2], entry)}))


@pytest.mark.parametrize("column", ["ids", "splits", "groups", "labels"])
def test_modalities_must_hold_the_same_samples(tmp_path, column):
    prepared = make_cache(tmp_path)
    arrays = chunk("audio", 2)
    arrays[column] = [*arrays[column][1:], "x"] if isinstance(arrays[column], list) else arrays[column] + 1
    replace_chunk(tmp_path, prepared, arrays)
    with pytest.raises(CacheError, match=f"other {column}"):
        read_arrays(tmp_path, prepared)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": np.zeros((ROWS, 6), "f2")}, "index says otherwise"),
        ({"features": np.zeros((ROWS, 5), "f4")}, "index says otherwise"),
        ({"mask": None}, "lacks mask"),
        ({"groups": None, "ids": None}, "lacks groups, ids"),
    ],
)
def test_shards_must_fit_their_index(tmp_path, change, words):
    prepared = make_cache(tmp_path)
    arrays = {k: v for k, v in (chunk("audio", 2) | change).items() if v is not None}
    replace_chunk(tmp_path, prepared, arrays)
    with pytest.raises(CacheError, match=words):
        read_arrays(tmp_path, prepared)


def test_another_user_reads_a_read_only_cache(monkeypatch):
    """Nothing is created, nothing has to be made readable; writing says what cannot be written."""
    root = Path(tempfile.mkdtemp(prefix="mmbal-"))
    try:
        root.chmod(0o755)
        prepared = make_cache(root)
        expected = digest(read_arrays(root, prepared))
        folders = [root, root / "tiny", *(root / "tiny" / f for f in prepared.modalities.values())]
        for folder in folders:
            folder.chmod(0o555)
        before = tree(root)

        def work():
            if os.geteuid() == 0:
                os.setresuid(65534, 65534, 65534)
            assert digest(read_arrays(root, read_set(root, "tiny"))) == expected
            assert latest_set(root) == "tiny"
            assert all(verify(folder) == [] for folder in folders[2:])
            with best_effort_lock(folders[2]) as held:
                assert not held
            with pytest.raises(CacheError, match=r"Could not write .*Permission denied"):
                write_set(root, prepared)

        assert in_child(work) == 0
        assert tree(root) == before
    finally:
        for folder in (root, *root.rglob("*/")):
            folder.chmod(0o755)
        shutil.rmtree(root)


def digest(arrays: dict) -> str:
    """One digest over everything that was read."""
    parts = [arrays[c][m].tobytes() for c in ("features", "mask") for m in sorted(arrays[c])]
    return sha256_hex(b"".join(parts) + arrays["labels"].tobytes() + canonical_json(arrays["ids"]))


def read_often(cache: Path) -> str:
    """What a worker process sees, twenty times."""
    seen = {digest(read_arrays(cache, read_set(cache, "tiny"))) for _ in range(20)}
    return " ".join(sorted(seen))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_see_the_same(tmp_path, method):
    expected = digest(read_arrays(tmp_path, make_cache(tmp_path)))
    with get_context(method).Pool(2) as pool:
        assert pool.map(read_often, [tmp_path] * 4) == [expected] * 4


def test_a_reader_beside_a_repair_sees_complete_states(tmp_path):
    prepared = make_cache(tmp_path)
    expected = digest(read_arrays(tmp_path, prepared))
    images = {path: path.read_bytes() for path in shards(tmp_path)}

    def repair():
        for _ in range(15):
            for path, image in images.items():
                publish(path.parent, path.name, image)
            write_set(tmp_path, prepared)

    pid = os.fork()
    if pid == 0:
        os._exit(in_child(repair))
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        assert read_often(tmp_path) == expected
