"""`mmbal suite` in real processes: what is trained, what is shared, what is chosen, kills, failures, formats."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from mmbal_cli.engine.runs import RunFolder
from tests.kit.broken import BROKEN
from tests.kit.cli import ROOT, Inside, mmbal, start
from tests.kit.features import feature_set
from tests.kit.killer import snapshot
from tests.kit.prepared import write_prepared

SUITE = """\
name: small
note: what tuning buys
rows:
  - {label: plain, method: concat}
  - unimodal
  - {method: uniform, tune: {gamma: [0.25, 4]}}
  - {label: arl without scale, method: arl, knobs: {modulate: off, start: -1}}
  - {label: the same again, method: arl, knobs: {modulate: off, start: -1}}
"""
LABELS = ["plain", "unimodal:audio", "unimodal:video", "uniform", "arl without scale", "the same again"]


def prepare(folder: Path, **settings: object) -> Path:
    defaults = {"epochs": 3, "width": 8, "batch": 16}
    write_prepared(folder / "cache", feature_set(2, n=90, easy=1.0, absent=0.1), **(defaults | settings))
    (folder / "small.yaml").write_text(SUITE)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A finished suite, and what the command printed on stdout and stderr."""
    folder = prepare(tmp_path_factory.mktemp("suite"))
    mmbal("train", "-m", "concat", "-s", "2", cwd=folder)
    done = mmbal("suite", "run", "small.yaml", "-s", "2", "--jobs", "1", cwd=folder)
    return folder, done.stdout, done.stderr


def scores(run: Path) -> tuple[float, float]:
    """Mean validation accuracy and NLL of a run."""
    done = [json.loads(path.read_text())["val"] for path in sorted(run.glob("seed-*/done.json"))]
    return sum(each["accuracy"] for each in done) / len(done), -sum(each["nll"] for each in done) / len(done)


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """Inodes and times of the files of all finished seeds."""
    found = snapshot(folder / "runs", "**/seed-*/*")
    return {name: facts for name, facts in found.items() if not Path(name).parts[-3].startswith(".job-")}


def names(folder: Path) -> list[str]:
    return sorted(path.name[:-9] for path in folder.iterdir() if not path.name.startswith("."))


def test_runs_are_those_of_train_and_candidates_are_hidden(trained: tuple[Path, str, str], inside: Inside) -> None:
    folder, _, told = trained
    assert names(folder / "runs") == ["tiny-arl", "tiny-concat", "tiny-unimodal-audio", "tiny-unimodal-video"]
    assert names(folder / "runs" / ".tuning") == ["tiny-uniform", "tiny-uniform"]
    listed = [line.rstrip() for line in told.splitlines()]
    jobs = {line[:20].strip(): line.split()[-1] for line in listed if line.endswith(("finished", "missing"))}
    assert jobs.pop("plain") == "finished"  # by `mmbal train`, before
    assert set(jobs.values()) == {"missing"}
    assert {"uniform [gamma=0.25]", "uniform [gamma=4]", "the same again"} <= set(jobs)
    assert told.count("done in") == 5  # equal rows are trained once
    compared = inside("compare", cwd=folder).stdout
    assert "uniform" not in compared
    assert "up to date" in mmbal("train", "-m", "unimodal", "-s", "2", cwd=folder).stderr


def test_the_table_has_the_rows_of_the_suite_in_its_order(trained: tuple[Path, str, str], inside: Inside) -> None:
    folder, shown, _ = trained
    found = json.loads(inside("suite", "table", "small.yaml", "-s", "2", "-f", "json", cwd=folder).stdout)
    (block,) = found["blocks"]
    labels = [row["label"] for row in block["rows"]]
    tuned = labels[3]
    assert labels == [*LABELS[:3], tuned, "arl without scale = the same again"]
    lines = [line for line in shown.splitlines() if line.startswith(tuple(LABELS))]
    assert [line[: len(label)] for line, label in zip(lines, labels, strict=True)] == labels
    assert "small · tiny · test" in shown
    assert "Suite small: what tuning buys" in shown
    assert found["suite"]["left_out"] == found["suite"]["failed"] == {}
    listed = found["suite"]["tuned"][tuned]
    assert [each["values"] for each in listed] == [{"gamma": "0.25"}, {"gamma": "4"}]
    means = [scores(folder / "runs" / each["run"]) for each in listed]
    best = max(range(2), key=lambda i: means[i])
    assert [each["chosen"] for each in listed] == [i == best for i in range(2)]
    assert tuned == f"uniform (tuned: gamma={listed[best]['values']['gamma']}; best of 2 on validation)"
    for each, (accuracy, nll) in zip(listed, means, strict=True):
        assert each["validation"]["accuracy"] == pytest.approx(accuracy)
        assert each["validation"]["nll"] == pytest.approx(-nll)
        assert set(each["validation"]["seeds"]) == {"1", "2"}
    assert block["rows"][3]["run"] == listed[best]["run"]
    assert "uniform" in inside("eval", block["rows"][3]["run"], cwd=folder).stdout


def test_formats_files_and_metrics(trained: tuple[Path, str, str], inside: Inside) -> None:
    folder, shown, _ = trained
    call = ("suite", "table", "small", "-s", "2")
    options = ("suite", "table", "small.yaml", "-s", "2")
    assert inside(*options, cwd=folder).stdout.split() == shown.split()
    assert inside(*options, "-f", "md", "--precision", "0", cwd=folder).stdout.startswith("### small · tiny")
    assert "\\toprule" in inside(*options, "-f", "latex", cwd=folder).stdout
    rows = list(csv.DictReader(io.StringIO(inside(*options, "-f", "csv", "-m", "nll", cwd=folder).stdout)))
    assert {row["metric"] for row in rows} >= {"nll", "best_epoch"}
    assert {row["label"] for row in rows} > {"plain", "unimodal:audio"}
    assert "wrote t.tex (latex)" in inside(*options, "-o", "t.tex", "--split", "val", cwd=folder).stderr
    assert "\\toprule" in (folder / "t.tex").read_text()
    assert "Did you mean 'accuracy'?" in inside(*options, "-m", "acuracy", cwd=folder, code=2).stderr
    assert "no suite 'small'" in inside(*call, cwd=folder, code=2).stderr


def test_status_counts_seeds_and_the_table_leaves_out_what_is_missing(
    trained: tuple[Path, str, str], inside: Inside
) -> None:
    folder, _, _ = trained
    inside("suite", "status", "small.yaml", "-s", "2", cwd=folder)
    found = json.loads(inside("suite", "status", "small.yaml", "-s", "1,2,4", "-f", "json", cwd=folder, code=1).stdout)
    assert (found["complete"], found["seeds"]) == (False, [1, 2, 4])
    assert [job["row"] for job in found["jobs"]] == [*LABELS[:4], "uniform", *LABELS[4:]]
    assert found["jobs"][3]["values"] == {"gamma": "0.25"}
    assert {job["state"] for job in found["jobs"]} == {"1 of 3 seeds missing"}
    assert all((job["finished"], job["missing"]) == ([1, 2], [4]) for job in found["jobs"])
    table = inside("suite", "table", "small.yaml", "-s", "1,2,4", cwd=folder, code=1).stdout
    assert "Left out: uniform (candidate gamma=0.25: 1 of 3 seeds missing)." in " ".join(table.split())
    shown = inside("suite", "table", "small.yaml", "-s", "1,", "-f", "json", cwd=folder).stdout
    assert {tuple(row["seeds"]) for row in json.loads(shown)["blocks"][0]["rows"]} == {(1,)}  # the suite's seeds only
    none = inside("suite", "table", "small.yaml", "--set", "train.epochs=9", cwd=folder, code=3)
    assert "mmbal suite run small.yaml --set train.epochs=9" in none.stderr.replace("\n", " ").replace("│", " ")


def test_a_finished_suite_is_not_trained_again(trained: tuple[Path, str, str], inside: Inside) -> None:
    folder, shown, _ = trained
    before = finished(folder)
    again = inside("suite", "run", "small.yaml", "-s", "2", cwd=folder)
    assert again.stdout.split() == shown.split()
    assert "done in" not in again.stderr
    assert finished(folder) == before
    assert len(before) == 2 * 5 * 6  # two seeds of six runs


def test_dry_run_lists_and_trains_nothing(tmp_path: Path, inside: Inside) -> None:
    folder = prepare(tmp_path)
    shown = inside("suite", "run", "small.yaml", "--dry-run", "--set", "train.epochs=4", cwd=folder)
    assert "uniform [gamma=0.25]" in shown.stderr
    assert "5 of 5 seeds missing" in shown.stderr
    assert "row: arl without scale\n  folder: tiny-arl-" in shown.stdout
    assert "folder: .tuning/tiny-uniform-" in shown.stdout
    assert "epochs: 4" in shown.stdout
    assert not (folder / "runs").exists()


def test_the_choice_never_reads_test(trained: tuple[Path, str, str], inside: Inside, tmp_path: Path) -> None:
    folder, _, _ = trained
    features = feature_set(2, n=90, easy=1.0, absent=0.1)
    rows = features.rows["test"]
    features.y[rows] = features.y[rows][torch.arange(len(rows)).roll(1)]
    write_prepared(tmp_path / "cache", features, epochs=3, width=8, batch=16)
    (tmp_path / "small.yaml").write_text(SUITE)
    inside("suite", "run", "small.yaml", "-s", "2", cwd=tmp_path)
    call = ("suite", "table", "small.yaml", "-s", "2", "-f", "json")
    one, other = (json.loads(inside(*call, cwd=place).stdout) for place in (folder, tmp_path))
    assert one["suite"]["tuned"].keys() == other["suite"]["tuned"].keys()
    scored = [[each["validation"] for each in next(iter(found["suite"]["tuned"].values()))] for found in (one, other)]
    assert scored[0] == scored[1]
    assert one["blocks"][0]["rows"][0]["metrics"] != other["blocks"][0]["rows"][0]["metrics"]


def test_killed_in_the_middle_it_goes_on_with_what_is_missing(tmp_path: Path, inside: Inside) -> None:
    folder = prepare(tmp_path, epochs=200, batch=64)
    rows = "  - concat\n  - {method: uniform, tune: {gamma: [0.25, 4]}}\n"
    (folder / "small.yaml").write_text(f"name: small\nrows:\n{rows}")
    call = ("suite", "run", "small.yaml", "-s", "2", "--jobs", "1")
    kept: dict[str, tuple[int, int]] = {}
    for number, wanted in ((signal.SIGKILL, 1), (signal.SIGTERM, 2)):
        process = start(*call, cwd=folder)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            begun = [path.read_text().count("\n") < 100 for path in folder.glob("runs/**/.job-*/records.jsonl")]
            if len(list(folder.glob("runs/**/seed-2/done.json"))) >= wanted and any(begun):
                break
            time.sleep(0.03)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
        assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 75}[number], told
        assert kept.items() <= finished(folder).items()
        kept = finished(folder)
        assert "interrupted, 2 of 2" in inside("suite", "status", "small.yaml", "-s", "2", cwd=folder, code=1).stdout
    done = mmbal(*call, cwd=folder)
    assert kept.items() <= finished(folder).items()
    assert not list(folder.glob("runs/**/.job-*"))
    assert inside(*call, "--runs", "whole", cwd=folder).stdout == done.stdout


HURT = f'''{BROKEN}
class Hungry(Method):
    """Needs more memory than there is."""
    card = Card("hungry", "loss")
    def loss(self, out, batch):
        raise torch.OutOfMemoryError("out of memory")

class Shaky(Method):
    """A bad value ends in a loss that is not a number, for the second seed."""
    card = Card("shaky", "loss")
    size = knob(1.0, "size", source="test")
    def loss(self, out, batch):
        bad = torch.tensor([seed == 2 and self.size > 1 for seed in self.rng.seeds])
        return torch.where(bad, torch.nan, super().loss(out, batch))
'''


def test_runs_that_fail_are_named_and_do_not_stop_the_others(tmp_path: Path, inside: Inside) -> None:
    folder = prepare(tmp_path)
    (folder / "own.py").write_text(HURT)
    rows = ["own.py:Broken", "{label: large, method: 'own.py:Hungry'}"]
    rows += ["{method: 'own.py:Shaky', tune: {size: [2, 0.5]}}", "{method: 'own.py:Broken', tune: {train.lr: [1, 2]}}"]
    (folder / "bad.yaml").write_text("name: bad\nrows:\n" + "".join(f"  - {row}\n" for row in [*rows, "concat"]))
    done = inside("suite", "run", "bad.yaml", "-s", "2", "--jobs", "1", cwd=folder, code=4)
    shown, told = (" ".join(text.replace("│", " ").split()) for text in (done.stdout, done.stderr))
    assert "broken failed: ValueError: no such thing." in shown
    assert "large failed: out of memory." in shown
    assert "shaky [size=2] failed: seed 2 failed." in shown
    assert "shaky (tuned: size=0.5; best of 2 on validation)" in shown  # the one without a failed seed
    assert "Left out: broken (candidate lr=1: interrupted, 2 of 2 seeds missing)." in shown
    assert "\nconcat " in done.stdout
    for title in ("broken: ValueError", "large: out of memory", "shaky [size=2]: seed 2", "broken [lr=1]: ValueError"):
        assert title in told
    found = json.loads(inside("suite", "status", "bad.yaml", "-s", "2", "-f", "json", cwd=folder, code=1).stdout)
    states = {job["title"]: job["state"] for job in found["jobs"]}
    assert states["shaky [size=2]"] == "finished, seed 2 failed"
    assert states["concat"] == "finished"
    assert {path.name for path in folder.glob("runs/tiny-hungry-*/.job-*")} == {".job-1", ".job-2"}  # halves of 1, 2
    again = inside("suite", "run", "bad.yaml", "-s", "2", cwd=folder, code=4)  # tried again, not refused
    assert "no such thing" in again.stderr


def test_an_impossible_row_stops_everything_before_training(tmp_path: Path, inside: Inside) -> None:
    folder = prepare(tmp_path)
    (folder / "bad.yaml").write_text("name: bad\nrows:\n  - concat\n  - {label: odd, method: sum, fusion: gated}\n")
    failed = inside("suite", "run", "bad.yaml", cwd=folder, code=2)
    assert "Row 'odd' of suite 'bad'" in failed.stderr
    assert not (folder / "runs").exists()
    unknown = inside("suite", "run", "foundin", cwd=folder, code=2).stderr
    assert "Did you mean 'founding'?" in " ".join(unknown.replace("│", " ").split())
    assert "unknown section" in inside("suite", "run", "founding", "--set", "method.x=1", cwd=folder, code=2).stderr


def test_overwrite_deletes_nothing_while_one_of_its_runs_is_in_work(tmp_path: Path, inside: Inside) -> None:
    folder = prepare(tmp_path)
    call = ("train", "-m", "concat,sum", "-s", "1", "--overwrite")
    planned = yaml.safe_load(inside(*call, "--dry-run", cwd=folder).stdout)
    kept = folder / "runs" / planned[0]["folder"] / "seed-1" / "done.json"
    kept.parent.mkdir(parents=True)
    kept.write_text('{"seed": 1, "status": "done"}')
    with RunFolder(folder / "runs" / planned[1]["folder"]).locked():
        refused = inside(*call, cwd=folder, code=2)
    assert "is being trained by process" in refused.stderr
    assert kept.exists()


def test_list_and_show(tmp_path: Path, inside: Inside) -> None:
    assert "founding" in inside("suite", "list", cwd=tmp_path).stdout
    listed = json.loads(inside("suite", "list", "-f", "json", cwd=tmp_path).stdout)["suites"]
    assert {"name", "rows", "note"} == set(listed[0])
    shown = inside("suite", "show", "ablation_arl", cwd=tmp_path).stdout
    assert "modulate=constant" in shown
    assert "gamma={0.25, 1, 4, 16}" in shown
    document = json.loads(inside("suite", "show", "founding", "-f", "json", cwd=tmp_path).stdout)
    assert (document["candidates"], document["rows"][0]["method"]) == (4, "unimodal")


@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["list"], ["show", "founding"]])
def test_help_and_lists_load_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys; from mmbal_cli.cli.app import main\n"
        f"try: main({['suite', *args]!r})\n"
        "except SystemExit: pass\n"
        "sys.stderr.write(repr(sorted({'torch', 'numpy', 'h5py', 'sklearn'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr.endswith("[]")
    assert done.stdout
