"""Where a report goes: every format into a file, complete or not at all, and a bad place is refused at once."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from mmbal_cli.cli import output as module
from mmbal_cli.cli.output import check_output, write_bytes, write_text
from mmbal_cli.errors import EXIT_USAGE, UsageError
from tests.kit.cli import Inside
from tests.kit.runs import write_study

HEADS = {
    "r.html": "<!DOCTYPE html>",
    "r.htm": "<!DOCTYPE html>",
    "r.md": "### demo",
    "r.tex": "% needs",
    "r.csv": "dataset,",
    "r.txt": "demo ·",
    "r.json": "{",
}


def test_the_suffix_chooses_the_format(tmp_path: Path, inside: Inside) -> None:
    write_study(tmp_path / "runs")
    for name, head in HEADS.items():
        done = inside("compare", "-o", name, cwd=tmp_path)
        assert done.stdout == ""
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(head), name
    assert inside("compare", "-f", "html", cwd=tmp_path).stdout == (tmp_path / "r.html").read_text(encoding="utf-8")
    inside("compare", "-f", "json", "-o", "r.md", cwd=tmp_path)
    assert json.loads((tmp_path / "r.md").read_text())["report"] == "compare"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*HEADS, "runs"])


def test_a_bad_place_is_refused_before_any_work(tmp_path: Path, inside: Inside) -> None:
    """There are no runs, and the complaint is about the output."""
    done = inside("compare", "-o", "missing/r.html", cwd=tmp_path, code=EXIT_USAGE)
    assert "there is no folder" in " ".join(done.stderr.split())
    assert "mkdir -p" in done.stderr


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("folder", "is a folder"),
        ("none/r.html", r"there is no folder.*none\. mkdir -p"),
        ("file/r.html", "there is no folder"),
        ("x" * 300, "cannot be written: File name too long"),
        ("loop", "cannot be written"),
    ],
)
def test_places_that_cannot_be_written(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for refuse in (check_output, lambda path: write_text(path, "x")):
        with pytest.raises(UsageError, match=message):
            refuse(tmp_path / place)
    assert (tmp_path / "file").read_text() == "kept"


def test_read_only_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.md").write_text("kept")
    locked = {tmp_path, tmp_path / "old.md"}
    monkeypatch.setattr(module.os, "access", lambda path, mode: Path(path) not in locked)
    for name in ("old.md", "new.md"):
        with pytest.raises(UsageError, match="is read-only"):
            write_text(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["old.md"]
    assert (tmp_path / "old.md").read_text() == "kept"


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    target = tmp_path / "r.png"
    target.write_bytes(b"old")

    def full(self: Path, *args: object) -> None:
        if step == "write_bytes":
            os.close(os.open(self, os.O_CREAT | os.O_WRONLY))  # an empty file is already there
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, step, full)
    with pytest.raises(UsageError, match=r"r\.png cannot be written: No space left on device\. It needs 3 bytes"):
        write_bytes(target, b"new")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["r.png"]
    assert target.read_bytes() == b"old"


def test_links_are_followed_and_pipes_are_written_to(tmp_path: Path) -> None:
    (tmp_path / "real.md").write_text("old")
    (tmp_path / "link.md").symlink_to("real.md")
    write_text(tmp_path / "link.md", "new é")
    assert (tmp_path / "link.md").is_symlink()
    assert (tmp_path / "real.md").read_text(encoding="utf-8") == "new é"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.md", "pipe", "real.md"]


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "made", "")
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "plain").stat().st_mode
