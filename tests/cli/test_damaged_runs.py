"""A study with a run that cannot be read: every report shows the others, names that one, and exits with 1."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmbal_cli.cli.app import app
from mmbal_cli.engine.runs import RunFolder
from mmbal_cli.errors import EXIT_DATA, EXIT_FINDINGS, EXIT_OK, EXIT_USAGE, CacheError, UsageError
from tests.kit.cli import ROOT, Inside, invoke
from tests.kit.runs import write_run, write_study

STRENGTHS = {"audio": 1.5, "video": 0.5}
REPORTS = {
    "compare": ["compare"],
    "eval": ["eval", "runs/damaged", "runs/whole"],
    "audit": ["audit"],
    "card": ["report", "card", "--no-fresh"],
    "calibration": ["report", "calibration"],
    "dynamics": ["report", "dynamics"],
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("study") / "runs"
    for name in ("whole", "damaged"):
        write_run(runs, "concat", STRENGTHS, samples=60).rename(runs / name)
    (runs / "damaged" / "run.json").write_text('{"schema": 1')
    return runs.parent


@pytest.mark.parametrize("report", REPORTS)
def test_every_report_leaves_it_out_and_says_so(study: Path, inside: Inside, report: str) -> None:
    done = inside(*REPORTS[report], "-f", "json", cwd=study, code=EXIT_FINDINGS)
    assert list(json.loads(done.stdout)["unreadable"]) == ["damaged"]
    assert done.stderr.count("left out: damaged: runs/damaged/run.json is damaged: Invalid JSON") == 1
    assert "concat" in inside(*REPORTS[report], cwd=study, code=EXIT_FINDINGS).stdout


def test_training_does_not_go_on_in_a_run_whose_seeds_it_cannot_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "concat", STRENGTHS, samples=20, seeds=(1, 2))
    assert RunFolder(folder).finished() == {1: "done", 2: "done"}
    for text in ("{", "[]", "{}"):
        (folder / "seed-2" / "done.json").write_text(text)
        with pytest.raises(CacheError, match=r"seed-2/done\.json is damaged.*--overwrite"):
            RunFolder(folder).finished()


def test_so_do_pictures_and_the_page(study: Path, inside: Inside, tmp_path: Path) -> None:
    done = inside("plot", "-k", "curves", "-f", "svg", "-o", str(tmp_path / "p"), cwd=study, code=EXIT_FINDINGS)
    assert "left out: damaged:" in done.stderr
    assert (tmp_path / "p" / "curves-demo.svg").is_file()
    done = inside("report", "--no-fresh", "-o", str(tmp_path / "r.html"), cwd=study, code=EXIT_FINDINGS)
    assert "left out: damaged:" in done.stderr
    assert "damaged could not be read and is left out" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_name_of_a_run_never_reaches_the_terminal_as_a_control_character(tmp_path: Path, inside: Inside) -> None:
    evil = "\x1b[31mred\x1b]0;title\x07"
    runs = tmp_path / "runs"
    write_run(runs, evil, STRENGTHS, samples=30, seeds=(1,), failed={2: evil}, dataset="demo").rename(runs / evil)
    (runs / f"damaged{evil}").mkdir()
    (runs / f"damaged{evil}" / "run.json").write_text("{")
    calls = [(*words, code) for words in (["compare"], ["audit"], ["report", "dynamics"]) for code in (EXIT_FINDINGS,)]
    calls += [("compare", "nobody", EXIT_DATA), ("explain", evil, EXIT_OK), ("explain", evil, "-f", "md", EXIT_OK)]
    for *words, code in calls:
        done = inside(*words, cwd=tmp_path, code=code)
        assert "\\x1b[31mred" in done.stdout + done.stderr, words
        assert not set("\x1b\x07") & set(done.stdout + done.stderr), words


def test_a_mistyped_part_of_the_report_is_no_run(study: Path, inside: Inside) -> None:
    with pytest.raises(UsageError, match=r"no command crad\. Did you mean 'card'\?"):
        invoke("report", "crad", "--runs", str(study / "runs"))


def test_a_reader_who_has_seen_enough_is_no_finding(tmp_path: Path) -> None:
    write_study(tmp_path / "runs")
    for args in (["compare"], ["report", "dynamics", "-f", "csv"], ["--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = _run(args, tmp_path, writing)
        os.close(writing)
        assert (done.returncode, done.stderr) == (EXIT_OK, ""), args


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk to write to")
@pytest.mark.parametrize("args", [["compare"], ["eval", "runs/one", "-f", "csv"], ["--help"]])
def test_a_full_disk_behind_a_redirection_is_said(tmp_path: Path, args: list[str]) -> None:
    runs = tmp_path / "runs"
    write_run(runs, "concat", STRENGTHS, samples=20).rename(runs / "one")
    with Path("/dev/full").open("w") as full:
        done = _run(args, tmp_path, full.fileno())
    assert done.returncode == EXIT_USAGE
    assert "The output cannot be written: No space left on device." in done.stderr
    assert "fault" not in done.stderr


def _run(args: list[str], cwd: Path, stdout: int) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "mmbal_cli", *args]
    return subprocess.run(command, cwd=cwd, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def test_no_line_of_a_help_text_breaks_where_the_source_does() -> None:
    def texts(group: Any) -> list[str]:
        own = [command.help for command in group.registered_commands]
        return own + [text for each in group.registered_groups for text in texts(each.typer_instance)]

    found = texts(app)
    assert len(found) > 30
    for text in found:
        assert text
        assert all("\n" not in paragraph for paragraph in text.split("\n\n")), text
