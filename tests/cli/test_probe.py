"""`mmbal data probe`: what it prints, one JSON document, exit codes, and the test split that it does not offer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit.cli import mmbal
from tests.kit.features import feature_set
from tests.kit.prepared import write_prepared


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_prepared(tmp_path / "cache", feature_set(M=3, n=120, easy=1.0, absent=0.1))
    return tmp_path


def test_a_listing_of_every_modality_and_their_concatenation(place: Path) -> None:
    done = mmbal("data", "probe", "tiny", cwd=place)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("tiny: validation, 4 classes; always 'c0': 25.0%")
    assert [line[:12].rstrip() for line in lines[3:7]] == ["audio", "text", "video", "all together"]
    assert [line[12:].split()[0] for line in lines[3:7]] == ["7", "6", "5", "18"]
    assert " against " in done.stdout
    assert "The concatenation " in done.stdout
    assert "mean over time steps: video" in done.stderr
    assert "next: mmbal train --dataset tiny" in done.stderr


def test_json_is_one_document_and_without_a_name_the_latest_set_is_probed(place: Path) -> None:
    done = mmbal("data", "probe", "--format", "json", cwd=place)
    document = json.loads(done.stdout)
    assert (document["dataset"], document["scored_on"]) == ("tiny", "val")
    assert [row["name"] for row in document["probes"]] == ["audio", "text", "video", "all together"]
    for row in document["probes"]:
        assert 0 <= row["accuracy"]["low"] <= row["accuracy"]["value"] <= row["accuracy"]["high"] <= 1
    assert document["findings"]
    assert len(document["fingerprint"]) == len(document["split_hash"]) == 64


def test_what_it_refuses(place: Path) -> None:
    assert "Prepared: tiny" in mmbal("data", "probe", "tinny", cwd=place, code=3).stderr
    assert "mmbal prepare" in mmbal("data", "probe", cwd=place, code=3, env={"MMBAL_CACHE": "empty"}).stderr
    mmbal("data", "probe", "tiny", "--split", "test", cwd=place, code=2)  # a stored split's name, never a part's


def test_a_subset_is_kept_only_where_it_fits(place: Path) -> None:
    (place / "mine.txt").write_text("nobody\n")
    assert (
        "are not in 'tiny': nobody" in mmbal("data", "probe", "tiny", "--subset", "mine.txt", cwd=place, code=3).stderr
    )
    mmbal("data", "probe", "tinny", "--subset", "mine.txt", cwd=place, code=3)
    mmbal("data", "probe", "../beside", "--subset", "mine.txt", cwd=place, code=3)
    assert not list(place.rglob("subsets"))


def test_a_damaged_shard_is_not_probed(place: Path) -> None:
    shard = next((place / "cache" / "tiny").glob("text--*/*.h5"))
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:-7] + b"damaged")
    done = mmbal("data", "probe", "tiny", cwd=place, code=3)
    assert "mmbal cache repair tiny" in " ".join(done.stderr.split())
