"""Audit, named splits and subsets from a user's table to results that cannot be mixed up."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from mmbal_cli.cli.auditing import parse_shares, run
from mmbal_cli.cli.options import Listing
from mmbal_cli.cli.target import Request
from mmbal_cli.data.named import list_splits, named_split, read_split, store_split
from mmbal_cli.errors import ManifestError, UsageError
from tests.kit.cli import Inside, mmbal

SUITE = "name: two\nrows: [concat, uniform]\n"
SMALL = ("--set", "train.epochs=2", "--set", "train.width=8")


def table(path: Path, per_group: int = 8, groups: int = 15, spoil: Callable[[int], str] = lambda row: "") -> Path:
    """A learnable table of two vector modalities; each group has samples in train and in test."""
    rng = np.random.default_rng(0)
    lines = ["id,split,label,group,vector:left,vector:right"]
    for row in range(per_group * groups):
        label, group = row // 4 % 2, row // per_group
        left, right = rng.normal(size=3) + label, rng.normal(size=2) + label
        cells = [" ".join(f"{x:.3f}" for x in values) for values in (left, right)]
        split = "test" if row % 4 == 3 else "train"
        lines.append(f"s{row},{split},{'yes' if label else 'no'},p{group:02d}," + (spoil(row) or ",".join(cells)))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared table with the split `person` stored, and a list of ids."""
    folder = tmp_path_factory.mktemp("splits")
    table(folder / "my.csv")
    mmbal("prepare", "my.csv", cwd=folder)
    (folder / "mine.txt").write_text("# 40 of 120\n" + "\n".join(f"s{row}" for row in range(0, 120, 3)) + "\n")
    (folder / "two.yaml").write_text(SUITE)
    run(Request(target="my"), folder / "cache", name="person", seed=1)
    return folder


@pytest.fixture(scope="module")
def trained(work: Path) -> Path:
    """Two rows on the prepared split, a suite of two on `person`, one row on the subset."""
    mmbal("train", "-d", "my", "-m", "concat,uniform", *SMALL, "--seeds", "2", "--jobs", "1", cwd=work)
    mmbal("train", "-d", "my", "-m", "concat", "--subset", "mine.txt", *SMALL, "--seeds", "2", "--jobs", "1", cwd=work)
    suite = ("suite", "run", "two.yaml", "-d", "my", "--split", "person", *SMALL, "-s", "2", "--jobs", "1")
    done = mmbal(*suite, cwd=work)
    assert "mmbal suite table two.yaml -d my --split person -s 2" in done.stderr
    assert "my, split person · test" in done.stdout
    return work


def report(capsys: pytest.CaptureFixture[str], target: str, cache: Path, code: int, **options: Any) -> dict[str, Any]:
    """The JSON document of an audit."""
    capsys.readouterr()
    root = options.pop("data_root", None)
    assert run(Request(target=target, data_root=root), cache, format=Listing.json, **options) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_prepared_set_is_audited_and_a_split_stored(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, "my", work / "cache", 1, store=False, name="person", seed=1)
    assert {f["rule"] for f in found["findings"]} >= {"group-overlap"}
    assert found["looked_at"] == ["groups", "labels", "modalities", "features"] or "source files" in found["looked_at"]
    made = found["proposal"]
    stored = read_split(work / "cache", "my", "person")
    assert (made["hash"], made["counts"]) == (stored.hash, stored.counts)
    homes: dict[str, set[str]] = {}
    for row in range(120):
        homes.setdefault(f"p{row // 8:02d}", set()).add(stored.parts[f"s{row}"])
    assert all(len(parts) == 1 for parts in homes.values())
    assert set(stored.parts.values()) == {"train", "val", "test"}


def test_a_prepared_set_is_audited_on_a_subset(work: Path, inside: Inside) -> None:
    words = ("data", "audit", "my", "--subset", "mine.txt", "--no-store", "--format", "json")
    found = json.loads(inside(*words, cwd=work, code=1).stdout)
    assert sum(found["counts"].values()) == 40
    assert "features" in found["looked_at"]
    (work / "who.txt").write_text("s0\nwho\n")
    refused = inside("data", "audit", "my", "--subset", "who.txt", cwd=work, code=3).stderr
    assert "1 of 2 ids of the subset 'who' are not in 'my': who" in refused


def test_a_stored_split_is_kept(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_split(work / "cache", "my", "person").hash
    again = report(capsys, "my", work / "cache", 1, name="person", seed=1)
    other = report(capsys, "my", work / "cache", 1, name="person", seed=2)
    assert (again["proposal"]["state"], other["proposal"]["state"]) == ("stored before", "name taken")
    assert other["proposal"]["hash"] != before == read_split(work / "cache", "my", "person").hash
    run(Request(target="my"), work / "cache", name="person", seed=2)
    shown = capsys.readouterr()
    assert "another split 'person' is stored and is kept" in shown.err
    assert "proposed split 'person'" in shown.out


def test_a_proposal_says_what_copies_it_leaves_in_two_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same bytes under two groups: whole groups do not keep them together."""
    (tmp_path / "x").mkdir()
    rng = np.random.default_rng(0)
    for number in range(120):
        np.save(tmp_path / "x" / f"{number}.npy", rng.normal(size=3))
    np.save(tmp_path / "x" / "copy.npy", np.arange(3.0))
    for number in range(15):  # one sample of every group
        (tmp_path / "x" / f"{8 * number}.npy").write_bytes((tmp_path / "x" / "copy.npy").read_bytes())
    table(tmp_path / "my.csv", spoil=lambda row: f"x/{row}.npy,1 2")
    found = report(capsys, str(tmp_path / "my.csv"), tmp_path / "cache", 1)["proposal"]
    assert found["counts"]["train"]
    assert any("left: the same bytes are in train and test" in one["message"] for one in found["findings"])
    assert all(one["rule"] == "duplicate-source" for one in found["findings"])
    run(Request(target=str(tmp_path / "my.csv")), tmp_path / "cache")
    assert "error: in 'group' too, left: the same bytes are in train and test" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_table_is_audited_without_media_and_even_without_modalities(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = report(capsys, str(table(tmp_path / "my.csv")), tmp_path / "cache", 1)
    assert full["proposal"]["name"] == "group"
    bare = tmp_path / "bare.csv"
    lines = [",".join(line.split(",")[:4]) for line in (tmp_path / "my.csv").read_text().splitlines()]
    bare.write_text("\n".join(lines) + "\n")
    found = report(capsys, str(bare), tmp_path / "cache", 1)
    assert found["proposal"]["hash"] == full["proposal"]["hash"]
    assert found["present"] == {}
    no_groups = tmp_path / "plain.csv"
    no_groups.write_text("\n".join(",".join(line.split(",")[:3]) for line in lines) + "\n")
    assert report(capsys, str(no_groups), tmp_path / "cache", 0)["proposal"] is None
    why = report(capsys, str(no_groups), tmp_path / "cache", 0, wanted=True)["no_proposal"]
    assert why == "no sample has a group"
    bare.write_text("\n".join([*lines, lines[-1]]) + "\n")
    with pytest.raises(ManifestError, match="duplicate-id x 1"):
        run(Request(target=str(bare)), tmp_path / "cache")


def test_a_published_list_is_audited_without_a_download(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], inside: Inside
) -> None:
    shown = inside("data", "audit", "cremad", "--no-store", cwd=tmp_path, code=1)
    assert "91 of 91 groups of test are also in train" in shown.stdout
    assert not (tmp_path / "cache").exists()
    found = report(capsys, "cremad", tmp_path / "cache", 1)
    overlap = next(f for f in found["findings"] if f["severity"] == "error")
    assert overlap["message"].startswith("91 of 91 groups of test are also in train: 744 of 744 test samples")
    assert (found["group"], found["proposal"]["name"], found["proposal"]["state"]) == ("speaker", "speaker", "stored")
    assert found["proposal"]["hash"] == "454532bcc73744cb150d5553a4623ce9afd93788b8a4e1a45c9b6b9a54a39791"
    assert list_splits(tmp_path / "cache", "cremad") == ["speaker"]
    assert "no findings" in inside("data", "audit", "kinetics-sounds", cwd=tmp_path).stdout
    forced = ("--propose", "--shares", "70/10/20", "--name", "by-video", "--seed", "4", "--format", "json")
    made = json.loads(inside("data", "audit", "kinetics-sounds", *forced, cwd=tmp_path).stdout)["proposal"]
    assert made["name"] == "by-video"
    assert made["counts"] == pytest.approx({"train": 0.7 * 17396, "val": 1739.6, "test": 3479.2}, rel=0.01)
    with pytest.raises(ManifestError, match="does not exist"):
        run(Request(target="sarcasm"), tmp_path / "cache")


@pytest.mark.parametrize("text", ["70,30", "a,b,c", "0,10,20", "70,0,20", "70,10,-1", "1,2,3,4"])
def test_wrong_shares_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--shares"):
        parse_shares(text)
    assert parse_shares("7,1,2") == parse_shares("7/1/2") == {"train": 7, "val": 1, "test": 2}


def test_runs_of_other_splits_and_subsets_are_never_mixed(trained: Path, inside: Inside) -> None:
    work = trained
    folders = sorted(re.sub(r"-\w{8}$", "", path.name) for path in (work / "runs").iterdir())
    assert folders == ["my-concat", "my-concat-mine", "my-concat-person", "my-uniform", "my-uniform-person"]
    shown = json.loads(inside("compare", "--format", "json", cwd=work).stdout)
    sizes = [(len(block["rows"]), bool(block["apart"])) for block in shown["blocks"]]
    assert sizes == [(2, False), (2, True), (1, True)]
    apart = {block["apart"].partition(" ")[0]: block for block in shown["blocks"] if block["apart"]}
    stored = read_split(work / "cache", "my", "person")
    assert f"split is person {stored.hash[:8]}, not " in apart["split"]["apart"]
    assert apart["split"]["data"]["split"] == {"name": "person", "by": "group", "seed": 1, "hash": stored.hash}
    assert apart["split"]["data"]["split_hash"] == stored.hash
    assert apart["subset"]["apart"].startswith("subset is mine ")
    assert apart["subset"]["coverage"] == {"listed": 30, "scored": 10, "kept": 10}
    text = inside("compare", cwd=work).stdout
    assert "my, split person · test" in text
    assert "test: kept 10 of 30 samples (20 are not in the subset mine " in text
    lines = inside("compare", "--format", "csv", cwd=work).stdout
    assert f"person,{stored.hash},,," in lines
    run_folder = next((work / "runs").glob("my-concat-person-*"))
    with safe_open(run_folder / "seed-1" / "predictions-test.safetensors", framework="np") as file:
        meta = file.metadata()
    assert {name for name, part in stored.parts.items() if part == "test"} == set(json.loads(meta["ids"]))
    assert (meta["split_hash"], meta["subset_hash"]) == (stored.hash, "")


def test_eval_predicts_afresh_on_the_split_and_subset_of_the_run(trained: Path, inside: Inside) -> None:
    work = trained
    for name in ("person", "mine"):
        run_name = next((work / "runs").glob(f"my-concat-{name}-*")).name
        saved, fresh = (
            json.loads(inside("eval", run_name, *more, "--format", "json", cwd=work).stdout)["runs"][0]
            for more in ((), ("--fresh",))
        )
        assert saved["coverage"] == fresh["coverage"]
        assert saved["split_facts"] == fresh["split_facts"]
        for one, other in zip(saved["parts"], fresh["parts"], strict=True):
            for seed, values in one["seeds"].items():
                assert values == pytest.approx(other["seeds"][seed], abs=1e-6)
    assert "Split person " in inside("eval", next((work / "runs").glob("my-concat-person-*")).name, cwd=work).stdout


def test_a_suite_has_its_own_runs_for_each_split(trained: Path, inside: Inside) -> None:
    same = ("two.yaml", "-d", "my", *SMALL, "-s", "2")
    assert inside("suite", "status", *same, "--split", "person", cwd=trained).stdout
    assert inside("suite", "status", *same, "--split", "person", "--subset", "mine", cwd=trained, code=1).stdout
    val = inside("suite", "table", *same, "--split", "person", "--split", "val", cwd=trained).stdout
    assert "my, split person · val" in val
    assert "my · test" in inside("suite", "table", *same, cwd=trained).stdout
    refused = inside("suite", "table", *same, "--split", "train", cwd=trained, code=2).stderr
    assert "Saved are test and val" in refused
    refused = inside("suite", "table", *same, "--split", "val", "--split", "test", cwd=trained, code=2).stderr
    assert "one stored split" in refused


def test_what_does_not_fit_is_refused(work: Path, inside: Inside) -> None:
    train = ("train", "-d", "my", "-m", "concat")
    refused = inside(*train, "--split", "persn", cwd=work, code=2).stderr
    assert "Did you mean 'person'?" in refused
    assert "mmbal data audit my --propose --name persn" in refused
    (work / "bad.txt").write_text("s0\ns1\nwho\nwhat\n")
    refused = inside(*train, "--subset", "bad.txt", cwd=work, code=3).stderr
    assert "2 of 4 ids of the subset 'bad' are not in 'my': what, who" in refused
    (work / "test.txt").write_text("s3\ns7\n")
    assert "No train sample of 'my' is left" in inside(*train, "--subset", "test.txt", cwd=work, code=3).stderr
    assert "there is no file nobody" in inside(*train, "--subset", "nobody", cwd=work, code=2).stderr


def test_samples_without_data_and_a_split_that_is_not_the_same_any_more(tmp_path: Path, inside: Inside) -> None:
    """A test sample without anything stays counted; a split made again under its name is not taken for the old one."""
    (tmp_path / "x").mkdir()
    for number in range(4):
        (tmp_path / "x" / f"{number}.npy").write_bytes(b"no array" + bytes([number]))
    rows = {6: "x/0.npy,x/1.npy", 0: "x/2.npy,x/3.npy"}  # one of test, one of train
    table(tmp_path / "my.csv", spoil=lambda row: rows.get(row, ""))
    inside("prepare", "my.csv", "--skip-bad", cwd=tmp_path)
    parts = {f"s{row}": ("train", "train", "val", "test")[row // 2 % 4] for row in range(120)}
    store_split(tmp_path / "cache", "my", named_split("other", parts, "by hand"))
    train = ("train", "-m", "concat", "--split", "other", *SMALL, "--seeds", "1,", "--jobs", "1")
    mmbal(*train, cwd=tmp_path)
    says = "test: kept 29 of 30 samples (1 without any readable modality stay in every figure"
    assert says in inside("compare", cwd=tmp_path).stdout
    run_name = next((tmp_path / "runs").iterdir()).name
    for more in ((), ("--fresh",)):
        assert says in inside("eval", run_name, *more, cwd=tmp_path).stdout
    found = json.loads(inside("eval", run_name, "--format", "json", cwd=tmp_path).stdout)["runs"][0]
    assert found["coverage"] == {"listed": 30, "scored": 30, "kept": 29}
    (tmp_path / "cache" / "my" / "splits" / "other.json").unlink()
    refused = inside("eval", run_name, "--fresh", cwd=tmp_path, code=2).stderr
    assert "'my' has no split 'other'" in refused
    moved = {name: "test" if part == "train" and name.endswith("1") else part for name, part in parts.items()}
    store_split(tmp_path / "cache", "my", named_split("other", moved, "by hand"))
    refused = inside("eval", run_name, "--fresh", cwd=tmp_path, code=3).stderr
    assert "is another one now" in refused


def test_a_set_prepared_again_with_another_split_is_not_predicted_afresh(tmp_path: Path, inside: Inside) -> None:
    """What was trained on may be its test now."""
    own = table(tmp_path / "my.csv")
    inside("prepare", "my.csv", cwd=tmp_path)
    mmbal("train", "-m", "concat", *SMALL, "--seeds", "1,", "--jobs", "1", cwd=tmp_path)
    run_name = next((tmp_path / "runs").iterdir()).name
    inside("eval", run_name, "--fresh", cwd=tmp_path)
    names = {"train": "test", "test": "train", "split": "split"}
    rows = [line.split(",") for line in own.read_text().splitlines()]
    own.write_text("".join(",".join([row[0], names[row[1]], *row[2:]]) + "\n" for row in rows))
    inside("prepare", "my.csv", cwd=tmp_path)
    for more in (("--fresh",), ("--dataset", "my")):
        refused = inside("eval", run_name, *more, cwd=tmp_path, code=3).stderr
        assert "The split of 'my' is another one now" in refused
    assert inside("eval", run_name, cwd=tmp_path).stdout  # saved predictions stay
