"""Multimodal sarcasm: lines are read and never run, the cue-word filter, the last item is the label."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest

from mmbal_cli.data.datasets.sarcasm import CUES, parse, read
from mmbal_cli.data.raw import Folder, NoLayout, Raw
from mmbal_cli.errors import RecipeError
from tests.kit.cli import invoke
from tests.kit.minis import sarcasm as mini
from tests.kit.minis.common import errors


def raw(root: Path, attributes: str = "no") -> Raw:
    return read(Folder(root), {"attributes": attributes})


@pytest.fixture
def built(tmp_path: Path) -> Path:
    mini.build(tmp_path)
    return tmp_path


def test_the_items_of_a_line() -> None:
    assert parse("['900000000000000001', 'it \\'s # fine', 1]") == ["900000000000000001", "it 's # fine", 1]
    assert parse('["900000000000000001", "don\'t [ wait ] \\n", -1, 0]')[1:] == ["don't [ wait ] \n", -1, 0]
    assert parse("['1', 'a \\d path', 1]")[1] == "a \\d path"


HOSTILE = (
    "__import__('os').system('touch HACKED')",
    "['900000000000000077', open('HACKED', 'w'), 1]",
    "['900000000000000077', 'a', 1] + [open('HACKED', 'w')]",
    "[print('HACKED')]",
    "['900000000000000077', f'{1}', 1]",
    "[" * 50_000,
    "[" * 9_000 + "]" * 9_000,
    "['1', " + "-" * 9_000 + "1]",
    "(" * 5_000 + "1",
    "['" + "x" * 30_000 + "', 'a', 1]",
    "['900000000000000077', 'a', 9" + "9" * 6_000 + "]",
    "['900000000000000077', 'never closed, 1]",
    "['900000000000000077', 'a', 007]",
    "['900000000000000077', '\\ud83d', 1]",
    "['900000000000000077', '\\x00', 1]",
    "['900000000000000077', 'a\\x1fb', 1]",
    "['900000000000000077', '\\N{nothing}', 1]",
    "[900000000000000077, 'a', 1]",
    "['900000000000000077', 5, 1]",
    "{'id': '900000000000000077'}",
    "[]",
    "None",
    "\x00",
)


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: line[:20].encode("unicode_escape").decode())
def test_a_hostile_line_is_a_bad_row_and_does_not_run(built: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(built)
    for name in ("eval", "exec", "print"):
        monkeypatch.setattr(builtins, name, lambda *_: pytest.fail("a line was run"))
    mini.append(built, line)
    found = raw(built)
    assert [(p.rule, p.file, p.line) for p in errors(found)] == [("bad-row", "text/train.txt", 15)]
    assert len(str(errors(found)[0])) < 300
    assert not (built / "HACKED").exists()
    assert len(found.rows) == 24


def test_a_bad_line_in_the_middle_keeps_the_numbers_of_the_others(built: Path) -> None:
    path = built / "text/train.txt"
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([*lines[:3], "", "not a list", *lines[3:]]), "utf-8")
    found = raw(built)
    assert [(p.rule, p.line) for p in errors(found)] == [("bad-row", 4), ("bad-row", 5)]
    assert found.rows[3][0] == ("text/train.txt", 6)


def test_ids_and_texts_stay_as_they_are(built: Path) -> None:
    rows = [row for _, row in raw(built).rows]
    assert [row["id"] for row in rows] == [row[0] for row in (*mini.TRAIN, *mini.VAL, *mini.TEST)]
    assert [row["text"] for row in rows] == [row[1] for row in (*mini.TRAIN, *mini.VAL, *mini.TEST)]
    assert str(int(float(str(rows[0]["id"])))) != rows[0]["id"], "an id that a float would not change shows nothing"


def test_the_last_item_is_the_label(built: Path) -> None:
    labels = {row["id"]: row["label"] for _, row in raw(built).rows}
    post = mini.VAL[1]
    assert post[2] != post[3]
    assert labels[str(post[0])] == ("not_sarcastic", "sarcastic")[int(post[3])]


@pytest.mark.parametrize("word", sorted(CUES))
def test_every_cue_word_drops_a_post_and_parts_of_words_do_not(built: Path, word: str) -> None:
    mini.append(built, f"['900000000000000077', 'so {word} today', 1]")
    mini.append(built, f"['900000000000000078', 'so x{word} today', 1]")
    found = raw(built)
    assert {"900000000000000077", "900000000000000078"} & {row["id"] for _, row in found.rows} == {"900000000000000078"}
    assert "28 rows, 3 dropped by the cue-word filter, 25 kept" in str(found.problems[0])


def test_attributes_are_a_third_modality_on_request(tmp_path: Path) -> None:
    mini.build_flat(tmp_path)
    assert raw(tmp_path).modalities == {"text": "text", "image": "image"}
    path = tmp_path / "extract/extract_all"
    path.write_text("\n".join([*path.read_text().splitlines()[1:], "['1', 'four', 'words', 'only', 'x']"]))
    found = raw(tmp_path, "yes")
    assert found.modalities["attributes"] == "text"
    assert found.rows[0][1]["attributes"] is None
    assert found.rows[1][1]["attributes"] == "cloud street cup sign queue"
    assert [(p.rule, p.line) for p in errors(found)] == [("bad-row", 24)]
    assert "1 posts have no attributes: 900000000000000001" in str(found.problems[-1])
    path.unlink()
    with pytest.raises(NoLayout, match="extract_all"):
        raw(tmp_path, "yes")


def test_pictures_are_found_by_id_whatever_their_suffix_and_missing_ones_where_expected(tmp_path: Path) -> None:
    mini.build_flat(tmp_path)
    images = [row["image"] for _, row in raw(tmp_path).rows]
    assert images[1] == "dataset_image/part1/900000000000000002.JPG"
    assert all((tmp_path / image).is_file() for image in images)
    (tmp_path / images[1]).unlink()
    assert raw(tmp_path).rows[1][1]["image"] == "dataset_image/900000000000000002.jpg"


def test_a_text_that_looks_like_a_path_stays_a_text(built: Path) -> None:
    mini.append(built, "['900000000000000077', 'file:/etc/passwd', 1]")
    assert next(row["text"] for _, row in raw(built).rows if row["id"].endswith("77")) == " file:/etc/passwd"


@pytest.mark.parametrize("name", ["valid2.txt", "test2.txt"])
def test_a_missing_list_is_refused_not_carved(built: Path, name: str) -> None:
    (built / "text" / name).unlink()
    with pytest.raises(NoLayout, match=f"text/train.txt is there, but not {name}"):
        raw(built)


def test_without_pictures_or_lists_the_layouts_are_shown(tmp_path: Path) -> None:
    (tmp_path / "raw/notes").mkdir(parents=True)
    with pytest.raises(Exception, match=r"(?s)looked for text/train.txt.*found notes.*DIR/image/<tweet id>.jpg"):
        invoke("data", "check", "sarcasm", "--data-root", str(tmp_path / "raw"))
    mini.write_lists(tmp_path / "raw/text")
    with pytest.raises(Exception, match="no folder of pictures: looked for image/"):
        invoke("data", "check", "sarcasm", "--data-root", str(tmp_path / "raw"))


def test_the_option_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mini.build_flat(tmp_path / "raw")
    checked = ("data", "check", "sarcasm", "--data-root", "raw", "--set")
    assert "attributes" in invoke(*checked, "source.attributes=yes").output
    with pytest.raises(RecipeError, match="yes"):
        invoke(*checked, "source.attributes=maybe")
