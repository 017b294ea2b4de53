"""Twitter-2015 and 2017: tab-separated and raw lists say the same, targets, picture groups, label orders."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbal_cli.data.datasets.twitter import read
from mmbal_cli.data.raw import Folder, NoLayout, Raw
from mmbal_cli.media.text import PAIR
from tests.kit.minis import twitter2015 as mini
from tests.kit.minis import twitter2017
from tests.kit.minis.common import errors


def raw(root: Path, **options: str) -> Raw:
    return read(Folder(root), {"year": "2015", "text": "pair", **options})


@pytest.fixture
def built(tmp_path: Path) -> Path:
    mini.build(tmp_path)
    return tmp_path


def test_rows_of_the_list(built: Path) -> None:
    found = raw(built)
    rows = [row for _, row in found.rows]
    given = mini.samples()
    assert [row["id"] for row in rows][17:20] == ["train-18", "val-1", "val-2"]
    assert [row["label"] for row in rows[:4]] == ["negative", "neutral", "neutral", "positive"]
    assert [row["group"] for row in rows[:3]] == ["7000000.jpg", "7000000.jpg", "7000001.jpg"]
    assert [row["text"] for row in rows[:18]] == [f"{tweet}{PAIR}{target}" for _, _, tweet, target in given["train"]]
    assert any('"' in row["text"] for row in rows), "the miniature holds lone quotation marks"
    assert len(rows) == sum(map(len, given.values()))
    assert errors(found) == []


def test_the_header_of_test_with_four_fields_is_no_row(built: Path) -> None:
    path = built / "twitter2015/test.tsv"
    assert len(path.read_text("utf-8").splitlines()[0].split("\t")) == 4
    assert sum(row["split"] == "test" for _, row in raw(built).rows) == 12
    path.write_text("\n".join(path.read_text("utf-8").splitlines()[1:]), "utf-8")
    assert sum(row["split"] == "test" for _, row in raw(built).rows) == 12, "a list without a header loses no row"


def test_the_target_in_place_of_its_mark(built: Path) -> None:
    pairs, substituted = raw(built).rows, raw(built, text="substituted").rows
    for (_, pair), (_, one) in zip(pairs, substituted, strict=True):
        tweet, target = pair["text"].split(PAIR)
        assert one["text"] == tweet.replace("$T$", target)
        assert "$T$" not in one["text"]
        assert target in one["text"]


def test_the_raw_lists_hold_the_same_rows(tmp_path: Path) -> None:
    mini.write_tsv(tmp_path / "a/twitter2015")
    mini.write_txt(tmp_path / "b/twitter2015")
    for place in ("a", "b"):
        mini.write_pictures(tmp_path / place / "images")
    tabbed, fours = raw(tmp_path / "a"), raw(tmp_path / "b")
    assert [row for _, row in tabbed.rows] == [row for _, row in fours.rows]
    assert fours.rows[2][0] == ("twitter2015/train.txt", 9)


def test_where_both_are_there_the_tabbed_lists_count(built: Path) -> None:
    (built / "twitter2015/train.txt").write_text("something else\n")
    assert raw(built).layout.startswith("twitter2015/train.tsv")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:-1], "3 lines, expected tweet, target, label, image id"),
        (lambda lines: [*lines[:2], "2", *lines[3:]], "label '2'; lists of this kind hold -1, 0, 1"),
        (lambda lines: ["no mark", *lines[1:]], "no $T$ in 'no mark'"),
        (lambda lines: [*lines[:1], " ", *lines[2:]], "no target for"),
    ],
)
def test_a_broken_sample_of_a_raw_list(tmp_path: Path, change, said: str) -> None:
    mini.build_raw(tmp_path)
    path = tmp_path / "TomBERT/absa_data/twitter2015/dev.txt"
    path.write_text("\n".join(change(path.read_text("utf-8").splitlines())), "utf-8")
    found = errors(raw(tmp_path))
    assert len(found) == 1
    assert said in str(found[0])
    assert "dev.txt, line" in str(found[0])


def test_a_line_that_is_not_utf8_does_not_shift_the_raw_list(tmp_path: Path) -> None:
    mini.build_raw(tmp_path)
    path = tmp_path / "TomBERT/absa_data/twitter2015/dev.txt"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:5], b"caf\xe9", *lines[6:]]))
    found = raw(tmp_path)
    assert [(p.rule, p.line) for p in errors(found)] == [("bad-row", 6)]
    assert sum(row["split"] == "val" for _, row in found.rows) == 11


def test_a_missing_list_is_refused_not_carved(built: Path) -> None:
    (built / "twitter2015/dev.tsv").unlink()
    with pytest.raises(NoLayout, match=r"twitter2015/train.tsv is there, but not dev.tsv"):
        raw(built)


def test_the_years_are_not_confused(tmp_path: Path) -> None:
    twitter2017.build(tmp_path)
    for year, lists, first in (("2015", "absa_data/twitter2015", "7000000"), ("2017", "absa_data/twitter", "8000000")):
        found = raw(tmp_path, year=year)
        assert found.lists.startswith(f"{lists}/train.tsv")
        assert found.rows[0][1]["image"] == f"twitter{year}_images/{first}.jpg"


def test_the_other_year_alone_is_not_taken(tmp_path: Path) -> None:
    twitter2017.build_named(tmp_path)
    with pytest.raises(
        NoLayout, match=r"looked for twitter2015/train.tsv, absa_data/twitter2015/train.tsv or train.tsv"
    ):
        raw(tmp_path)


def test_the_other_year_directly_in_the_root_is_known_by_its_counts(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for split, size in {"train": 3562, "dev": 1176, "test": 1234}.items():
        (tmp_path / f"{split}.tsv").write_text("".join(f"1\t1\t{n}.jpg\tsee $T$ {split}\tQuux\n" for n in range(size)))
    assert ["refused-list", "train.tsv: these 5972 rows are Twitter-2017, not Twitter-2015"] in [
        [problem.rule, str(problem)] for problem in errors(raw(tmp_path))
    ]
    assert errors(raw(tmp_path, year="2017")) == []


def test_a_missing_picture_is_never_another_one(built: Path) -> None:
    (built / "twitter2015_images/7000003.jpg").rename(built / "twitter2015_images/17_06_4705.jpg")
    images = {row["image"] for _, row in raw(built).rows if row["group"] == "7000003.jpg"}
    assert images == {"twitter2015_images/7000003.jpg"}


def test_a_picture_of_another_kind_does_not_stand_in(built: Path) -> None:
    (built / "twitter2015_images/7000003.jpg").rename(built / "twitter2015_images/7000003.png")
    assert raw(built).rows[6][1]["image"] == "twitter2015_images/7000003.jpg"
    (built / "twitter2015_images/7000003.png").rename(built / "twitter2015_images/7000003.JPG")
    assert raw(built).rows[6][1]["image"] == "twitter2015_images/7000003.JPG"
