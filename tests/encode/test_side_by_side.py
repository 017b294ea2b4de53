"""Several encoders of one modality in one cache: prepared together, chosen by name when training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmbal_cli.data.features import load_features
from mmbal_cli.data.named import named_split, store_split
from mmbal_cli.errors import UsageError
from mmbal_cli.store.sets import read_arrays, read_set, with_encoders
from tests.kit.cli import invoke as run
from tests.kit.faults import overwrite
from tests.kit.models import make_model


@pytest.fixture(scope="module")
def both(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache in which `clips` has two encoders for its sound."""
    here = tmp_path_factory.mktemp("both")
    make_model("wav2vec2", here / "ears")
    encoders = f"audio=logmel-stats,audio={here / 'ears'}"
    for name, chosen in (("clips", encoders), ("plain", "audio=logmel-stats")):
        run("prepare", str(lab / "manifest.csv"), "--name", name, "--encoder", chosen, "--cache", str(here / "cache"))
    return here


def test_the_first_is_taken_and_the_others_lie_beside_it(both: Path) -> None:
    prepared, plain = read_set(both / "cache", "clips"), read_set(both / "cache", "plain")
    assert list(prepared.encoders) == ["audio"]
    assert sorted(prepared.encoders["audio"]) == ["ears", "logmel-stats"]
    assert prepared.fingerprint == plain.fingerprint
    ears = with_encoders(both / "cache", prepared, {"audio": "ears"})
    assert ears.fingerprint != prepared.fingerprint
    first, second = (read_arrays(both / "cache", one)["features"] for one in (prepared, ears))
    assert first["audio"].shape[1] == 640
    assert second["audio"].shape[1] == 16
    assert np.array_equal(first["video"], second["video"])
    assert load_features(both / "cache", "clips", encoders={"audio": "ears"})[1].shapes["audio"] == (16,)
    shown = json.loads(run("data", "show", "clips", "--cache", str(both / "cache"), "--format", "json").stdout)
    assert shown["modalities"]["audio"]["encoder"] == "logmel-stats"
    assert list(shown["modalities"]["audio"]["others"]) == ["ears"]
    listed = run("data", "show", "clips", "--cache", str(both / "cache")).stdout
    assert "ears" in listed
    assert "2.00 s" in listed  # the time base


def test_training_takes_the_one_that_is_named(both: Path) -> None:
    few = ("--set", "train.epochs=2", "--set", "train.width=8", "--seeds", "1", "--device", "cpu", "--jobs", "1")
    where = ("--cache", str(both / "cache"), "--runs", str(both / "runs"))
    for chosen in ((), ("--encoder", "audio=ears"), ("--encoder", "audio=logmel-stats")):
        run("train", "-d", "clips", "-m", "concat", *chosen, *few, *where)
    folders = sorted((both / "runs").iterdir())
    assert len(folders) == 2  # naming the first one is naming none
    facts = {folder.name[:18]: json.loads((folder / "run.json").read_text()) for folder in folders}
    assert facts["clips-concat-ears-"]["data"]["shapes"]["audio"] == [16]
    assert facts["clips-concat-ears-"]["config"]["encoders"] == {"audio": "ears"}
    usual = next(value for key, value in facts.items() if "ears" not in key)
    assert usual["data"]["shapes"]["audio"] == [640]
    assert "encoders" not in usual["config"]
    fresh = run("eval", str(folders[0]), "--fresh", "--cache", str(both / "cache"), "--format", "json").stdout
    stored = run("eval", str(folders[0]), "--cache", str(both / "cache"), "--format", "json").stdout
    assert json.loads(fresh)["runs"][0]["parts"] == json.loads(stored)["runs"][0]["parts"]


@pytest.mark.parametrize(
    ("chosen", "part"),
    [
        ("audio=eras", "Did you mean 'ears'?"),
        ("video=ears", "prepared with one encoder"),
        ("sound=ears", "no modality 'sound'"),
        ("ears", "MODALITY=NAME"),
    ],
)
def test_a_wrong_choice_says_what_there_is(both: Path, chosen: str, part: str) -> None:
    with pytest.raises(UsageError) as error:
        run("train", "-d", "clips", "-m", "concat", "--encoder", chosen, "--cache", str(both / "cache"))
    assert part in str(error.value)


def test_one_encoder_named_twice_is_refused(both: Path, lab: Path) -> None:
    with pytest.raises(UsageError, match="twice"):
        run("prepare", str(lab / "manifest.csv"), "--encoder", "audio=logmel-stats,audio=logmel-stats")


def test_no_encoder_of_a_set_is_unused(both: Path) -> None:
    listed = json.loads(run("cache", "ls", "--cache", str(both / "cache"), "--format", "json").stdout)
    states = {row["encoder"]: row["state"] for row in listed["folders"] if row["data"] == "clips"}
    assert len(states) == 4
    assert set(states.values()) == {"used"}
    run("cache", "gc", "--cache", str(both / "cache"), "--yes")
    assert load_features(both / "cache", "clips", encoders={"audio": "ears"})[1].shapes["audio"] == (16,)


def test_a_stored_split_is_verified_with_the_features(both: Path) -> None:
    cache = both / "cache"
    parts = dict.fromkeys(read_arrays(cache, read_set(cache, "clips"))["ids"], "train")
    store_split(cache, "clips", named_split("mine", parts, "by hand"))
    assert "every byte is as it was written" in run("cache", "verify", "--cache", str(cache)).stdout
    path = cache / "clips" / "splits" / "mine.json"
    whole = path.read_bytes()
    overwrite(path, whole.replace(b"train", b"tests", 1))
    assert f"{path}: " in run("cache", "verify", "--cache", str(cache), code=1).stdout
    overwrite(path, whole)
