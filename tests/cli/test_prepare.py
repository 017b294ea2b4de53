"""`mmbal prepare|data|cache|encoders` as a user meets them: text, JSON, exit codes, signals."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmbal_cli.errors import CacheError, DeviceError, EncoderError, ManifestError, MediaError, RecipeError, UsageError
from mmbal_cli.store.sets import latest_set, read_arrays, read_set
from tests.kit.cli import ROOT, mmbal, start
from tests.kit.cli import invoke as run
from tests.kit.faults import overwrite
from tests.kit.killer import contents, snapshot
from tests.kit.lab import CLIPS
from tests.kit.minis import handwritten


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path


def sentences(folder: Path, rows: int = 24, name: str = "my.csv") -> Path:
    path = folder / name
    lines = [
        f"s{i},{'test' if i % 4 == 3 else 'train'},{'no' if i // 4 % 2 else 'yes'},words of {i}" for i in range(rows)
    ]
    path.write_text("\n".join(["id,split,label,text", *lines]) + "\n")
    return path


# -------------------------------------------------------------------------------------------- prepare


def test_named_set_is_generated_prepared_and_then_up_to_date(tmp_path: Path) -> None:
    """A second call loads neither torch nor h5py: that is what makes it answer within a second."""
    words = ["prepare", "demo", "--set", f"source.clips={CLIPS}", "--workers", "1"]
    first = mmbal(*words, cwd=tmp_path)
    assert "audio" in first.stdout
    assert f"{CLIPS}×640" in first.stdout
    assert f"generate demo: {CLIPS}/{CLIPS}" in first.stderr
    assert "next: mmbal train --dataset demo --method concat" in first.stderr
    assert (tmp_path / "data" / "demo" / "manifest.csv").is_file()
    before = snapshot(tmp_path / "cache")
    code = (
        "import sys, mmbal_cli.cli.app as a\n"
        f"try: a.main({words!r})\n"
        "finally: print(sorted({n.split('.')[0] for n in sys.modules} & {'torch', 'h5py', 'transformers', 'decord'}))"
    )
    command = [sys.executable, "-c", code]
    second = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert second.stdout.startswith("demo: up to date (3 modalities, 40 samples; ")
    assert second.stdout.endswith("[]\n")
    after = snapshot(tmp_path / "cache")
    assert {name: facts for name, facts in after.items() if "sources" not in name} == {
        name: facts for name, facts in before.items() if "sources" not in name
    }


def test_own_table_with_options(lab: Path, here: Path) -> None:
    run(
        *("prepare", str(lab / "manifest.csv"), "--name", "mine", "--set", "video.frames=2", "--dtype", "float32"),
        *("--chunk", "16", "--cache", "store", "--classes", "sadness,neutral,joy,fear,disgust,anger"),
    )
    prepared = read_set(here / "store", "mine")
    assert prepared.classes[0] == "sadness"
    arrays = read_arrays(here / "store", prepared)
    assert arrays["features"]["video"].dtype == "float32"
    changed = run("prepare", str(lab / "manifest.csv"), "--name", "mine", "--cache", "store", "--chunk", "16")
    assert "video: decode.frames 2 -> 8 (the earlier features are kept)" in " ".join(changed.stderr.split())
    assert latest_set(here / "store") == "mine"


def test_recipe_file_and_repeat_by_name(here: Path) -> None:
    (here / "lists").mkdir()
    sentences(here / "lists")
    (here / "talk.yaml").write_text(
        "name: talk\nsource: {manifest: lists/my.csv}\nclasses: [yes, no]\n"
        "modalities:\n  text: {kind: text, encoder: ngram-hash, params: {segments: 2}}\ntrain: {epochs: 5}\n"
    )
    run("prepare", "talk.yaml")
    prepared = read_set(here / "cache", "talk")
    assert prepared.classes == ("yes", "no")
    assert prepared.settings == {"epochs": "5"} or prepared.settings == {"epochs": 5}
    assert read_arrays(here / "cache", prepared)["features"]["text"].shape == (24, 2, 2048)
    assert "up to date" in run("prepare", "talk").stdout  # by the name it was given, wherever the recipe lies
    run("prepare", "talk", "--set", "text.segments=1")
    assert read_arrays(here / "cache", read_set(here / "cache", "talk"))["features"]["text"].shape == (24, 2048)


def test_a_repeat_by_name_keeps_encoders_and_settings(here: Path) -> None:
    """Also of a known data set, and where only another option is given."""
    own = sentences(here)
    chosen = ("--encoder", "text=ngram-hash", "--set", "text.segments=2")
    run("prepare", str(own), *chosen)
    handwritten.build(here / "data" / "handwritten")
    run("prepare", "handwritten", "--encoder", "pix=raw-vector", "--set", "pix.divide=2")
    for name in ("my", "handwritten"):
        before = read_set(here / "cache", name)
        assert before.source["request"]["encoders"]
        assert "up to date" in run("prepare", name).stdout
        run("prepare", name, "--retry-bad")
        after = read_set(here / "cache", name)
        assert after.source["request"]["sets"] == before.source["request"]["sets"]
        assert after.fingerprint == before.fingerprint


def test_latest_follows_the_last_call(here: Path) -> None:
    one, two = sentences(here, name="one.csv"), sentences(here, 28, name="two.csv")
    run("prepare", str(one))
    run("prepare", str(two))
    assert latest_set(here / "cache") == "two"
    assert "up to date" in run("prepare", str(one)).stdout
    assert latest_set(here / "cache") == "one"


def test_dry_run_writes_nothing(lab: Path, here: Path) -> None:
    said = run("prepare", str(lab / "manifest.csv"), "--dry-run")
    assert "video: hog-motion, to do" in said.stdout
    assert not list(here.rglob("*.h5"))
    assert "would generate" in run("prepare", "demo", "-n").stderr


@pytest.mark.parametrize(
    ("words", "error", "part"),
    [
        (["demmo"], UsageError, "Did you mean 'demo'?"),
        (["none.csv"], ManifestError, "no file none.csv"),
        (["none.yaml"], RecipeError, "No recipe file"),
        (["my.csv", "--encoder", "text=ngram-hsah"], EncoderError, "Did you mean 'ngram-hash'?"),
        (["my.csv", "--encoder", "txt=ngram-hash"], UsageError, "Did you mean 'text'?"),
        (["my.csv", "--encoder", "text=logmel-stats"], EncoderError, "does not take text"),
        (["my.csv", "--set", "text.segmets=2"], RecipeError, "Did you mean 'segments'?"),
        (["my.csv", "--set", "txt.segments=2"], RecipeError, "Did you mean 'text'?"),
        (["my.csv", "--set", "text.segments=many"], RecipeError, "whole number"),
        (["my.csv", "--set", "text.segments"], RecipeError, "section.key=value"),
        (["my.csv", "--dtype", "int8"], UsageError, "float16 or float32"),
        (["my.csv", "--chunk", "0"], UsageError, "1 to 65536"),
        (["my.csv", "--max-bad", "lots"], UsageError, "--max-bad lots"),
        (["my.csv", "--max-bad", "120%"], UsageError, "--max-bad 120%"),
        (["my.csv", "--max-bad-test", "-1"], UsageError, "--max-bad-test -1"),
        (["my.csv", "--classes", "yes,maybe"], ManifestError, "unknown-label x 12"),
        (["my.csv", "--classes", "yes"], UsageError, "--classes yes"),
        (["my.csv", "--root", "nowhere"], ManifestError, "nowhere does not exist"),
        (["my.csv", "--name", "../up"], UsageError, "../up"),
        (["my.csv", "--device", "cuda:99"], DeviceError, "cuda:99"),
        (["my.csv", "--device", "tpux"], DeviceError, "tpux"),
    ],
)
def test_wrong_words(here: Path, words: list[str], error: type[Exception], part: str) -> None:
    sentences(here)
    with pytest.raises(error) as caught:
        run("prepare", *words)
    assert part in str(caught.value)
    assert not list(here.rglob("dataset.json"))


def test_errors_end_with_the_documented_codes(here: Path) -> None:
    """Through the real process: the panel names what was found and what repairs it."""
    sentences(here)
    wrong = mmbal("prepare", "demmo", cwd=here, code=2)
    assert "mmbal data list" in wrong.stderr
    bad = mmbal("prepare", "my.csv", "--classes", "yes,maybe", cwd=here, code=3)
    assert "unknown-label x 12" in bad.stderr
    assert bad.stdout == ""


def test_bad_samples_are_shown_with_their_reasons(lab: Path, here: Path) -> None:
    root = shutil.copytree(lab, here / "clips-here")
    overwrite(min((root / "clips").iterdir()), b"")
    with pytest.raises(MediaError, match="1 of 40"):
        run("prepare", str(root / "manifest.csv"))
    done = run("prepare", str(root / "manifest.csv"), "--max-bad", "2")
    assert "2 bad samples are carried as missing" in done.stderr
    shown = run("data", "show", "manifest").stdout
    assert "bad: clip00000 (train) video: clips/00000.mp4" in shown
    again = run("prepare", str(root / "manifest.csv")).stdout
    assert "2 bad samples carried as missing" in again


@pytest.mark.parametrize(("number", "error"), [("SIGTERM", "Interrupted"), ("SIGINT", "KeyboardInterrupt")])
def test_a_signal_in_a_weak_reference_s_callback_is_not_lost(number: str, error: str) -> None:
    """Python prints what is raised there, and goes on."""
    code = f"""
import signal, time, weakref
from types import SimpleNamespace
from mmbal_cli.cli import app
app._stop(signal.{number}, SimpleNamespace(f_code=SimpleNamespace(co_filename=weakref.__file__)))
try:
    time.sleep(20)
except BaseException as error:
    print(type(error).__name__)
"""
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)
    assert said.stdout == f"{error}\n", said.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_signals_are_resumable(lab: Path, tmp_path: Path, number: int, code: int) -> None:
    words = ["prepare", str(lab / "manifest.csv"), "--chunk", "2", "--workers", "1"]
    process = start(*words, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("cache/manifest/*--*/*.h5")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    kept = snapshot(tmp_path / "cache" / "manifest", "*--*/*.h5")
    assert kept
    mmbal(*words, cwd=tmp_path)
    assert kept.items() <= snapshot(tmp_path / "cache" / "manifest", "*--*/*.h5").items()
    assert not list(tmp_path.rglob("*.part"))


# ----------------------------------------------------------------------------------------------- data


def test_data_list_and_show(here: Path) -> None:
    assert "demo" in run("data", "list").stdout
    run("prepare", str(sentences(here)))
    rows = {row["name"]: row for row in json.loads(run("data", "list", "-f", "json").stdout)["data"]}
    assert rows["my"] == {
        "name": "my",
        "state": "prepared, latest",
        "samples": 24,
        "classes": 2,
        "modalities": {"text": "text"},
        "title": "",
    }
    assert rows["demo"]["state"] == "recipe"
    shown = json.loads(run("data", "show", "my", "-f", "json").stdout)
    assert shown["counts"] == {"train": 16, "val": 2, "test": 6}
    assert shown["class_counts"]["yes"]["test"] == 3
    assert shown["modalities"]["text"]["shape"] == [2048]
    assert shown["fingerprint"] == read_set(here / "cache", "my").fingerprint
    text = run("data", "show", "my").stdout
    assert "validation: 10% of train, stratified, seed 0" in text
    assert "24×2048" in text
    assert "generator demo" in run("data", "show", "demo").stdout
    assert json.loads(run("data", "show", "demo", "-f", "json").stdout)["prepared"] is False
    with pytest.raises(UsageError, match="no data set 'mz'"):
        run("data", "show", "mz")


def test_check_reports_everything_and_computes_nothing(lab: Path, here: Path) -> None:
    root = shutil.copytree(lab, here / "damaged")
    clips = sorted((root / "clips").iterdir())
    whole = clips[0].read_bytes()
    overwrite(clips[0], b"")
    overwrite(clips[1], b"version https://git-lfs.github.com/spec/v1\n")
    overwrite(clips[2], whole[: len(whole) // 3])
    overwrite(clips[-1], clips[4].read_bytes())
    clips[3].unlink()
    lines = (root / "manifest.csv").read_text().splitlines()
    lines[10] = lines[10].replace("clip00009", "clip00008").replace("train", "tarin")
    overwrite(root / "manifest.csv", "\n".join(lines).encode())
    path = str(root / "manifest.csv")
    report = json.loads(run("data", "check", path, "--format", "json", code=1).stdout)
    rules = {finding["rule"] for finding in report["findings"]}
    assert rules == {
        *("empty-file", "lfs-pointer", "missing-file", "duplicate-source", "duplicate-id", "unknown-split"),
        "undecodable",  # by its header alone
    }
    assert report["modalities"]["video"] == {"kind": "video", "named": 40, "found": 36, "missing": 2, "unusable": 2}
    assert report["ok"] is False
    text = run("data", "check", path, "--full", code=1).stdout
    assert "undecodable" in text
    assert "line 5: video: 'clips/00003.mp4': No such file" in text
    assert "line 11: split 'tarin'. Did you mean 'train'?" in text
    assert not list(here.rglob("cache"))
    assert "no findings in 40 samples" in run("data", "check", str(lab / "manifest.csv"), "--full").stdout
    with pytest.raises(ManifestError):
        run("data", "check", "none.csv")
    with pytest.raises(ManifestError, match="does not exist yet"):
        run("data", "check", "demo")


# ---------------------------------------------------------------------------------------------- cache


def test_verify_names_the_shard_and_repair_redoes_only_that(here: Path) -> None:
    run("prepare", str(sentences(here)), "--chunk", "6")
    assert "as it was written" in run("cache", "verify").stdout
    folder = next((here / "cache" / "my").glob("text--*"))
    whole = contents(folder)
    shards = sorted(folder.glob("*.h5"))
    overwrite(shards[1], whole[shards[1].name].replace(b"s7", b"s9"))
    before = snapshot(folder, "*.h5")
    found = run("cache", "verify", code=1)
    assert f"{shards[1].name}: content does not match its digest" in found.stdout
    listed = json.loads(run("cache", "verify", "my", "-f", "json", code=1).stdout)
    assert [finding["file"] for finding in listed["findings"]] == [shards[1].name]
    repaired = run("cache", "repair")
    assert f"removed {folder.relative_to(here) / shards[1].name}" in " ".join(repaired.stderr.split())
    assert "1 findings, 0 left" in repaired.stdout
    assert contents(folder) == whole
    after = snapshot(folder, "*.h5")
    assert [name for name in before if before[name] != after[name]] == [shards[1].name]
    assert "nothing to repair" in run("cache", "repair").stdout


def test_repair_without_the_sources_says_so(here: Path) -> None:
    path = sentences(here)
    run("prepare", str(path), "--chunk", "6")
    shard = min(here.glob("cache/my/text--*/*.h5"))
    overwrite(shard, b"x")
    path.unlink()
    said = run("cache", "repair", "my", code=1)
    assert "no file" in said.stderr
    assert not shard.exists()
    with pytest.raises(CacheError, match="no data set 'mz'"):
        run("cache", "verify", "mz")


def test_a_stranger_shard_is_found_and_removed(here: Path) -> None:
    """Two digests for one chunk: the one that the index does not list goes."""
    run("prepare", str(sentences(here)), "--chunk", "6")
    folder = next((here / "cache" / "my").glob("text--*"))
    whole = contents(folder)
    run("prepare", str(sentences(here, 30)), "--chunk", "6")
    other = next(path for path in (here / "cache" / "my").glob("text--*") if path != folder)
    stranger = min(other.glob("*.h5"))
    shutil.copy(stranger, folder)
    run("prepare", str(sentences(here)), "--chunk", "6")
    assert "2 digests" in run("cache", "verify", code=1).stdout
    run("cache", "repair")
    assert contents(folder) == whole


def test_ls_and_gc(here: Path) -> None:
    run("prepare", str(sentences(here)))
    run("prepare", str(sentences(here)), "--set", "text.segments=2")
    rows = json.loads(run("cache", "ls", "-f", "json").stdout)["folders"]
    assert sorted(row["state"] for row in rows) == ["unused", "used"]
    assert all(row["bytes"] > 24 * 2048 * 2 for row in rows)
    assert "unused" in run("cache", "ls").stdout
    shown = run("cache", "gc")
    assert "1 unused folders" in shown.stdout
    assert len(list(here.glob("cache/my/text--*"))) == 2
    assert "deleted 1 folders" in run("cache", "gc", "--yes").stdout
    assert [path.name for path in here.glob("cache/my/text--*")] == list(
        read_set(here / "cache", "my").modalities.values()
    )
    assert "up to date" in run("prepare", "my.csv", "--set", "text.segments=2").stdout
    with pytest.raises(CacheError, match="no cache at"):
        run("cache", "ls", "--cache", "nowhere")


def test_a_damaged_pointer_hides_nothing_from_gc(here: Path) -> None:
    run("prepare", str(sentences(here)))
    overwrite(here / "cache" / "my" / "dataset.json", b"{}")
    assert "0 unused" in run("cache", "gc").stdout
    assert "dataset.json" in run("cache", "verify", code=1).stdout
    assert "up to date" not in run("prepare", "my.csv").stdout
    run("cache", "verify")


# ------------------------------------------------------------------------------------------- encoders


def test_encoders_list(here: Path) -> None:
    text = run("encoders", "list").stdout
    for name in ("logmel-stats", "hog-motion", "ngram-hash", "raw-vector"):
        assert name in text
    listed = {entry["name"]: entry for entry in json.loads(run("encoders", "list", "-f", "json").stdout)["encoders"]}
    assert listed["ngram-hash"]["width"] == 2048
    assert not listed["hog-motion"]["download"]


def test_help_of_every_command(here: Path) -> None:
    for words in (["prepare"], ["data", "check"], ["cache", "gc"], ["encoders", "list"]):
        assert "Usage" in run(*words, "--help").stdout


@pytest.mark.parametrize(("file", "name"), [("My Data (2).csv", "my-data-2"), ("Ünï.csv", "n"), ("日.csv", "data")])
def test_a_table_name_becomes_a_set_name(here: Path, file: str, name: str) -> None:
    run("prepare", str(sentences(here, name=file)))
    assert read_set(here / "cache", name).name == name
