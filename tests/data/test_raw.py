"""What a reader sees of a download: lines, names, and nothing outside the root."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Folder, chosen, listed_hash
from mmbal_cli.errors import ManifestError, RecipeError


def test_lines_keep_their_numbers_and_their_last_empty_cell(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\ncaf\xe9\nfour\t\n \n\n")
    problems: list[Problem] = []
    assert list(Folder(tmp_path).lines("a.txt", problems)) == [(1, "one"), (2, ""), (4, "four\t")]
    assert [str(problem) for problem in problems] == ["a.txt, line 3: byte 0xe9 is not UTF-8"]


def test_names_are_sorted_and_hidden_ones_left_out(tmp_path: Path) -> None:
    for name in ("b.WAV", "a.wav", ".a.wav", "c.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "d.wav").mkdir()
    folder = Folder(tmp_path)
    assert list(folder.stems("", ".wav").items()) == [("a", "a.wav"), ("b", "b.WAV")]
    assert folder.folders("") == {"d.wav": "d.wav"}
    assert folder.stems("nowhere", ".wav") == {}
    assert folder.first("nothing", "c.mp4") == "c.mp4"


@pytest.mark.parametrize("read", ["lines", "text"])
def test_annotations_that_are_not_there_are_said(tmp_path: Path, read: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "root" / "link.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "root" / "pointer.txt").write_text("version https://git-lfs.github.com/spec/v1\n")
    folder = Folder(tmp_path / "root")

    def open_(name: str) -> None:
        list(folder.lines(name, [])) if read == "lines" else folder.text(name)

    with pytest.raises(ManifestError, match="leads outside"):
        open_("link.txt")
    with pytest.raises(ManifestError, match="git lfs pull"):
        open_("pointer.txt")
    with pytest.raises(ManifestError, match="No such file"):
        open_("gone.txt")


def test_the_hash_of_a_list_is_that_of_ids_parts_and_class_numbers() -> None:
    rows = [(n, {"id": f"s{n}", "split": "train", "label": "no"}) for n in range(3)]
    found = listed_hash(rows, ("yes", "no"))
    assert found == listed_hash(rows[::-1], ("yes", "no"))
    others = [listed_hash(rows, ("no", "yes")), listed_hash(rows[:2], ("yes", "no"))]
    moved = [(0, rows[0][1] | {"split": "test"}), *rows[1:]]
    assert len({found, *others, listed_hash(moved, ("yes", "no"))}) == 4


def test_options_are_checked_against_what_is_offered() -> None:
    offered = {"split": ("1", "2")}
    assert chosen(offered, {}, "x") == {"split": "1"}
    assert chosen(offered, {"split": "2"}, "x") == {"split": "2"}
    with pytest.raises(RecipeError, match=r"source.split=3 of x"):
        chosen(offered, {"split": "3"}, "x")
    with pytest.raises(RecipeError, match="no option 'splits'"):
        chosen(offered, {"splits": "1"}, "x")
