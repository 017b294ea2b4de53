"""Lists of ids, stored splits and subsets, and what they leave of a prepared set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmbal_cli.data.features import laid_over, load_features
from mmbal_cli.data.named import (
    Overlay,
    find_subset,
    list_splits,
    load_overlay,
    load_subset,
    named_split,
    read_ids,
    read_split,
    store_split,
    store_subset,
    subset_of,
)
from mmbal_cli.data.splits import carve_validation
from mmbal_cli.engine.runs import RunSpec
from mmbal_cli.errors import CacheError, ManifestError, UsageError
from mmbal_cli.recipe import TrainConfig
from mmbal_cli.store.atomic import digest_of
from mmbal_cli.store.sets import read_set
from tests.kit.features import feature_set
from tests.kit.prepared import write_prepared


def listed(tmp_path: Path, data: bytes, name: str = "My clips.TXT") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_a_list_of_ids_is_read_as_editors_write_it(tmp_path: Path) -> None:
    found = read_ids(listed(tmp_path, b"\xef\xbb\xbf# mine\r\nb\r\n\r\n a \r\n#c\r\n"))
    assert (found.name, found.ids) == ("my-clips", {"a", "b"})
    other = read_ids(listed(tmp_path, b"a\nb\n", "other.txt"))
    assert other.hash == found.hash == subset_of("x", ["b", "a"]).hash
    assert other.hash != subset_of("x", ["a"]).hash


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a\nb\na\nc\nb\n", r"2 ids come twice: 'a' \(lines 1 and 3\), 'b' \(lines 2 and 5\)"),
        (b"# nothing\n\n", "holds no id"),
        (b"a\n\xff\n", "line 2, is not UTF-8"),
        (b"a\nb\x07\n", "line 2: id 'b.x07'"),
    ],
)
def test_a_bad_list_is_refused_with_its_lines(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        read_ids(listed(tmp_path, data))


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="Cannot read"):
        read_ids(tmp_path / "no.txt")


def test_a_stored_subset_is_found_by_file_name_and_key(tmp_path: Path) -> None:
    path = listed(tmp_path, b"a\nb\n", "mine.txt")
    subset = read_ids(path)
    store_subset(tmp_path, "tiny", subset)
    assert find_subset(tmp_path, "tiny", str(path)) == subset
    assert find_subset(tmp_path, "tiny", "mine") == find_subset(tmp_path, "tiny", subset.key) == subset
    store_subset(tmp_path, "tiny", subset_of("mine", ["c"]))
    with pytest.raises(UsageError, match="there are mine-"):
        find_subset(tmp_path, "tiny", "mine")
    with pytest.raises(UsageError, match=r"no file mein.*Did you mean 'mine'"):
        find_subset(tmp_path, "tiny", "mein")


def test_a_changed_subset_or_split_is_not_used(tmp_path: Path) -> None:
    subset = subset_of("mine", ["a", "b"])
    stored = store_subset(tmp_path, "tiny", subset)
    stored.chmod(0o644)
    stored.write_text(stored.read_text().replace('"b"', '"c"'))
    with pytest.raises(CacheError, match="changed after it was written"):
        load_subset(tmp_path, "tiny", subset.key)
    with pytest.raises(CacheError, match="does not exist"):
        load_subset(tmp_path, "tiny", "other-12345678")
    store_split(tmp_path, "tiny", named_split("speaker", {"a": "train", "b": "test"}, "by hand"))
    path = tmp_path / "tiny" / "splits" / "speaker.json"
    document = json.loads(path.read_text())
    path.chmod(0o644)
    path.write_text(json.dumps(document | {"parts": {"a": "test", "b": "train"}}))
    with pytest.raises(CacheError, match="changed after it was written"):
        read_split(tmp_path, "tiny", "speaker")


def test_a_split_is_never_replaced_and_its_hash_is_of_the_parts(tmp_path: Path) -> None:
    one = named_split("speaker", {"b": "test", "a": "train"}, "by hand", "speaker", 3)
    assert one.hash == named_split("other", {"a": "train", "b": "test"}, "otherwise").hash
    assert one.counts == {"train": 1, "val": 0, "test": 1}
    assert store_split(tmp_path, "tiny", one)
    assert not store_split(tmp_path, "tiny", named_split("speaker", {"a": "test"}, "by hand"))
    assert read_split(tmp_path, "tiny", "speaker") == one
    assert list_splits(tmp_path, "tiny") == ["speaker"]
    with pytest.raises(UsageError, match=r"no split 'speker'. Did you mean 'speaker'.*data audit tiny"):
        read_split(tmp_path, "tiny", "speker")
    for name in ("test", "../up", "A b", ""):
        with pytest.raises(UsageError, match="cannot name a split"):
            named_split(name, {"a": "train"}, "by hand")


def test_an_overlay_changes_parts_and_nothing_else(tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path, feature_set(2, n=30, absent=0.1))
    parts = {f"s{i}": "test" if i < 10 else "val" if i < 15 else "train" for i in range(40)}
    store_split(tmp_path, "tiny", named_split("other", parts, "the first ten"))
    subset = subset_of("mine", [f"s{i}" for i in range(5, 50)])
    store_subset(tmp_path, "tiny", subset)
    _, plain = load_features(tmp_path, "tiny")
    _, found = load_features(tmp_path, "tiny", "other", subset.key)
    assert plain.ids == found.ids
    assert all(torch.equal(plain.x[m], found.x[m]) for m in plain.x)
    assert found.rows["test"].tolist() == [5, 6, 7, 8, 9]
    assert found.rows["val"].tolist() == [10, 11, 12, 13, 14]
    assert set(found.rows["train"].tolist()) <= set(range(15, 40))
    assert (plain.split_hash, found.split_hash) == (prepared.split_hash, named_split("x", parts, "").hash)
    assert (plain.subset_hash, found.subset_hash) == ("", subset.hash)
    overlay = load_overlay(tmp_path, "tiny", "other", subset.key)
    seen = laid_over(tmp_path, read_set(tmp_path, "tiny"), overlay)
    assert seen.counts == {"train": 25, "val": 5, "test": 5}
    assert (seen.split_hash, seen.split_note) == (found.split_hash, "the first ten")
    assert overlay.listed(prepared.counts) == {"train": 25, "val": 5, "test": 10}


def test_an_overlay_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    ids, splits = ["a", "b", "c"], ["train", "val", "test"]
    with pytest.raises(ManifestError, match="1 of 3 ids of the subset 'mine' are not in 'tiny': x"):
        Overlay(subset=subset_of("mine", ["a", "b", "x"])).check("tiny", ids, splits)
    with pytest.raises(ManifestError, match="No val sample of 'tiny' is left with subset 'mine'"):
        Overlay(subset=subset_of("mine", ["a", "c"])).check("tiny", ids, splits)
    with pytest.raises(ManifestError, match="No train sample of 'tiny' is left with split 's'"):
        Overlay(named_split("s", {"b": "val", "z": "train"}, "")).check("tiny", ids, splits)
    with pytest.raises(ManifestError, match="No test sample"):
        Overlay(subset=subset_of("mine", ["a", "b"])).check("tiny", ids, splits)
    Overlay().check("tiny", ids, splits)


def test_a_sample_without_any_modality_is_not_trained_on_and_stays_in_test(tmp_path: Path) -> None:
    features = feature_set(2, n=30)
    gone = torch.zeros(len(features.ids), dtype=torch.bool)
    gone[[0, 3, 45]] = True
    for m, x in features.x.items():
        features.mask[m] = ~gone if x.ndim == 2 else (~gone)[:, None].expand(x.shape[:2])
    features.mask["audio"] = features.mask["audio"].clone()
    features.mask["audio"][7] = False  # the other modality is there
    write_prepared(tmp_path, features)
    _, found = load_features(tmp_path, "tiny")
    assert found.rows["train"].tolist() == [i for i in range(30) if i not in (0, 3)]
    assert 45 in found.rows["test"].tolist()
    some = found.somewhere()
    assert some is not None
    assert some.tolist() == (~gone).tolist()
    assert feature_set(2).somewhere() is None


def spec(**more: str) -> RunSpec:
    return RunSpec(dataset="d", label="concat", method="concat", fusion="concat", knobs={}, train=TrainConfig(),
                   fingerprint="f", split_hash="s", **more)  # fmt: skip


def test_a_spec_without_split_and_subset_keeps_its_digest() -> None:
    """The fields that specs had before there were named splits, and no other."""
    before = {"dataset": "d", "label": "concat", "method": "concat", "fusion": "concat", "knobs": {}}
    before |= {"train": TrainConfig().model_dump(), "fingerprint": "f", "split_hash": "s", "method_source": ""}
    assert spec().digest == digest_of(before)
    assert spec(split="speaker").digest == digest_of(before | {"split": "speaker"})
    folders = {spec().folder, spec(split="speaker").folder, spec(subset="mine-12345678").folder}
    assert len(folders) == 3
    assert spec(split="speaker", subset="mine-12345678").folder.startswith("d-concat-speaker-mine-")
    assert RunSpec.model_validate(spec(split="speaker").model_dump()) == spec(split="speaker")


def test_validation_resembles_test() -> None:
    """Whole groups where those of test are new, stratified where test shares them, as without knowing test before."""
    ids = [f"i{n}" for n in range(200)]
    labels, groups = [n % 4 for n in range(200)], [f"g{n % 20}" for n in range(200)]
    plain = carve_validation(ids, labels, groups)
    assert carve_validation(ids, labels, groups, test_groups=["t1", "t2"]) == plain
    assert "whole groups" in plain[1]
    alike, note = carve_validation(ids, labels, groups, test_groups=[f"g{n}" for n in range(20)])
    assert len(alike) == 20
    assert "stratified (groups are shared with train, as those of test are)" in note
    assert len({groups[ids.index(name)] for name in alike}) > 2
    assert {groups[ids.index(name)] for name in alike} & {g for i, g in zip(ids, groups, strict=True) if i not in alike}
    one_shared = [*(f"t{n}" for n in range(9)), "g0"]
    assert carve_validation(ids, labels, groups, test_groups=one_shared) == plain
