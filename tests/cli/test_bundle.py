"""`mmbal bundle` and `mmbal replay` in real processes: a trained run, packed, trained again, compared."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from mmbal_cli.data.named import named_split, store_split
from tests.kit.cli import Inside, mmbal
from tests.kit.features import feature_set
from tests.kit.prepared import write_prepared

FOCAL = """
from mmbal_cli.methods.base import Card, Method

class Focal(Method):
    card = Card(name="focal", kind="loss")

    def loss(self, out, batch):
        return 0.5 * super().loss(out, batch)
"""


def prepared(cache: Path, **changes: object) -> None:
    options = {"n": 90, "easy": 1.0, "absent": 0.1, **changes}
    write_prepared(cache, feature_set(2, **options), epochs=20, batch=16, width=8, lr=0.05)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared set, a run of two seeds and its bundle; not to be changed by a test."""
    work = tmp_path_factory.mktemp("packed")
    prepared(work / "cache")
    mmbal("train", "-m", "ogm-ge", "--seeds", "2", "-j", "1", cwd=work)
    done = mmbal("bundle", only(work / "runs").name, "-o", "run.zip", cwd=work)
    assert done.stdout == ""
    assert "seeds 1, 2" in done.stderr
    return work


@pytest.fixture
def elsewhere(packed: Path, tmp_path: Path) -> Path:
    """Another machine: the bundle and the features, and no runs."""
    shutil.copytree(packed / "cache", tmp_path / "cache")
    shutil.copy(packed / "run.zip", tmp_path)
    return tmp_path


def only(folder: Path) -> Path:
    found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    assert len(found) == 1, found
    return found[0]


def words(text: str) -> str:
    """The text of an error without its frame."""
    return " ".join(text.replace("│", " ").split())


def replayed(work: Path, source: Path) -> Path:
    """The folder of a replay that found the same again, without training."""
    target = work / "replays" / source.name
    shutil.copytree(source, target)
    facts = json.loads((target / "run.json").read_text())
    (target / "run.json").write_text(json.dumps(facts | {"replay_of": facts["spec"]}))
    return target


def test_a_replay_is_bitwise_equal_and_goes_on_where_it_was(packed: Path, elsewhere: Path, inside: Inside) -> None:
    begun = elsewhere / "replays" / only(packed / "runs").name / ".job-1"  # a replay that was stopped at its start
    begun.mkdir(parents=True)
    first = mmbal("replay", "run.zip", "--seeds", "1", "-j", "1", "-f", "json", cwd=elsewhere)
    document = json.loads(first.stdout)
    assert (document["verdict"], document["environment"]) == ("bitwise equal", [])
    assert not begun.exists()
    again = inside("replay", "run.zip", "-j", "1", cwd=elsewhere)
    assert "1 seeds are there, training 1 more" in again.stderr
    assert "bitwise equal" in again.stdout
    run = json.loads((only(elsewhere / "replays") / "run.json").read_text())
    assert run["replay_of"] == run["spec"]


def test_the_same_run_gives_the_same_file(packed: Path, tmp_path: Path, inside: Inside) -> None:
    inside("bundle", str(only(packed / "runs")), "-o", str(tmp_path / "again.zip"), cwd=packed)
    assert (tmp_path / "again.zip").read_bytes() == (packed / "run.zip").read_bytes()
    with zipfile.ZipFile(packed / "run.zip") as archive:
        assert not any(str(packed).encode() in archive.read(name) for name in archive.namelist())


def test_other_features_are_refused_with_what_was_expected(elsewhere: Path, inside: Inside) -> None:
    shutil.rmtree(elsewhere / "cache")
    missing = words(inside("replay", "run.zip", cwd=elsewhere, code=3).stderr)
    assert "'tiny' is not prepared" in missing
    assert "mmbal prepare tiny" in missing
    prepared(elsewhere / "cache", n=91)
    other = words(inside("replay", "run.zip", cwd=elsewhere, code=3).stderr)
    assert re.search(r"split \w{8}, expected \w{8}", other)
    assert re.search(r"features \w{8}, expected \w{8}", other)
    assert not (elsewhere / "replays").exists()


def test_a_result_that_moved_is_exit_1(packed: Path, elsewhere: Path, inside: Inside) -> None:
    run = replayed(elsewhere, only(packed / "runs"))
    assert "bitwise equal" in inside("replay", "run.zip", cwd=elsewhere).stdout
    for split in ("val", "test"):  # as if this machine had trained another model
        _turned(run / "seed-2" / f"predictions-{split}.safetensors")
    moved = inside("replay", "run.zip", cwd=elsewhere, code=1)
    assert "different" in moved.stdout
    assert "up to date" in moved.stderr
    assert "bitwise equal" in inside("replay", "run.zip", "--seeds", "1", cwd=elsewhere).stdout


def _turned(path: Path) -> None:
    """Every prediction of a file becomes another class."""
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(path, framework="np") as file:
        arrays, meta = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    arrays["probs"] = np.ascontiguousarray(np.roll(arrays["probs"], 1, axis=1))
    path.chmod(0o644)
    save_file(arrays, path, meta)


def test_a_run_is_never_compared_with_itself(packed: Path, inside: Inside) -> None:
    refused = inside("replay", "run.zip", "--runs", "runs", cwd=packed, code=2)
    assert "was made by mmbal train, not by a replay" in words(refused.stderr)


def test_bad_calls_end_in_one_sentence(elsewhere: Path, inside: Inside) -> None:
    assert "no seed 7" in inside("replay", "run.zip", "--seeds", "1,7", cwd=elsewhere, code=2).stderr
    assert "There is no bundle" in inside("replay", "none.zip", cwd=elsewhere, code=3).stderr
    (elsewhere / "torn.zip").write_bytes((elsewhere / "run.zip").read_bytes()[:500])
    assert "cut or damaged" in words(inside("replay", "torn.zip", cwd=elsewhere, code=3).stderr)
    assert "cuda" in inside("replay", "run.zip", "--device", "cuda:99", cwd=elsewhere, code=2).stderr
    assert "There is no run" in inside("bundle", "none", "--runs", "nowhere", cwd=elsewhere, code=3).stderr


def test_code_of_a_bundle_runs_only_when_trusted(tmp_path: Path, inside: Inside) -> None:
    source = tmp_path / "own" / "focal.py"
    source.parent.mkdir()
    source.write_text(FOCAL)
    prepared(tmp_path / "cache")
    inside("train", "-m", f"{source}:Focal", "--seeds", "1", cwd=tmp_path)
    inside("bundle", only(tmp_path / "runs").name, "-o", "own.zip", cwd=tmp_path)
    source.write_text("raise SystemExit('the file of this machine must not be run')\n")
    refused = words(inside("replay", "own.zip", cwd=tmp_path, code=2).stderr)
    assert "focal.py" in refused
    assert "--trust" in refused
    assert not (tmp_path / "replays").exists()
    assert "bitwise equal" in inside("replay", "own.zip", "--trust", cwd=tmp_path).stdout


def test_a_stored_split_travels_with_the_run(packed: Path, tmp_path: Path, inside: Inside) -> None:
    shutil.copytree(packed / "cache", tmp_path / "cache")
    splits, ids = tmp_path / "cache" / "tiny" / "splits", sorted(feature_set(2, n=90, easy=1.0, absent=0.1).ids)
    parts = {name: ("test", "val", "train", "train")[i % 4] for i, name in enumerate(ids)}
    assert store_split(tmp_path / "cache", "tiny", named_split("mine", parts, "every fourth"))
    inside("train", "-m", "concat", "--split", "mine", "--seeds", "1", cwd=tmp_path)
    inside("bundle", only(tmp_path / "runs").name, "-o", "split.zip", cwd=tmp_path)
    replayed(tmp_path, only(tmp_path / "runs"))
    shutil.rmtree(splits)
    done = inside("replay", "split.zip", cwd=tmp_path)
    assert "stored the split 'mine'" in done.stderr
    assert "bitwise equal" in done.stdout
    shutil.rmtree(splits)
    store_split(tmp_path / "cache", "tiny", named_split("mine", parts | {ids[2]: "val"}, "another"))
    assert re.search(r"split \w{8}, expected", words(inside("replay", "split.zip", cwd=tmp_path, code=3).stderr))
