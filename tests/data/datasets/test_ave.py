"""AVE: `&` between fields, the first row of a video, videos in two splits, events, Annotations.txt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from mmbal_cli.data.datasets.ave import OPTIONS, read
from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Folder, NoLayout, Raw, chosen
from mmbal_cli.recipe import dataset_recipe, find_recipe
from tests.kit.minis.ave import CLASSES, FIRST, HEADER, IDS, build, build_archive, build_data, lists, rows

OTHER = "-_abcdefgh9"


def plain(root: Path) -> Path:
    """The lists, and an empty file for each clip: the reader opens none of them."""
    lists(root)
    (root / "AVE").mkdir()
    for one in [one for ids in IDS.values() for one in ids]:
        (root / f"AVE/{one}.mp4").write_bytes(b"")
    return root


def read_(root: Path, **options: str) -> Raw:
    return read(Folder(root), chosen(OPTIONS, options, "ave"))


def add(root: Path, split: str, *lines: str) -> None:
    with (root / f"{split}Set.txt").open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def table(raw: Raw) -> dict[str, dict[str, str]]:
    return {row["id"]: row for _, row in raw.rows}


def test_a_clean_download(tmp_path: Path) -> None:
    raw = read_(plain(tmp_path))
    assert raw.problems == []
    assert raw.modalities == {"audio": "audio", "video": "video"}
    assert Counter(row["split"] for _, row in raw.rows) == {"train": 12, "val": 6, "test": 6}
    assert raw.lists == "trainSet.txt, valSet.txt, testSet.txt"
    assert {row["label"] for _, row in raw.rows} == set(CLASSES)  # with their commas
    row = table(raw)[FIRST]
    assert row["group"] == FIRST
    assert FIRST.startswith("-")
    assert row["audio"] == row["video"] == f"AVE/{FIRST}.mp4"


def test_the_recipe_has_28_names_in_alphabetical_order() -> None:
    path = find_recipe("datasets", "ave")
    assert path
    names = dataset_recipe(path).classes
    assert names is not None
    assert len(names) == len(set(names)) == 28
    assert names == sorted(names)
    assert "Baby cry, infant cry" in names
    assert "Frying (food)" in names


@pytest.mark.parametrize(
    ("start", "end", "fragment"),
    [
        ("2", "9", "#t=2,9"),
        ("0", "3", "#t=0,3"),
        ("7", "10", "#t=7,10"),
        ("1.5", "2.25", "#t=1.5,2.25"),
        ("0", "10", ""),
        ("00", "10.0", ""),
    ],
)
def test_the_event_is_a_part_of_the_clip_or_the_whole_clip_on_request(
    tmp_path: Path, start: str, end: str, fragment: str
) -> None:
    plain(tmp_path)
    add(tmp_path, "train", f"Bark&{OTHER}&good&{start}&{end}")
    row = table(read_(tmp_path))[OTHER]
    assert row["video"] == row["audio"] == f"AVE/{OTHER}.mp4{fragment}"
    assert table(read_(tmp_path, window="clip"))[OTHER]["video"] == f"AVE/{OTHER}.mp4"


@pytest.mark.parametrize(("start", "end"), [("0", "0"), ("5", "5"), ("9", "2"), ("0", "11"), ("-1", "4")])
def test_an_impossible_event_is_reported_and_the_whole_clip_is_used(tmp_path: Path, start: str, end: str) -> None:
    plain(tmp_path)
    add(tmp_path, "val", f"Bark&{OTHER}&good&{start}&{end}")
    raw = read_(tmp_path)
    (found,) = raw.problems
    message = f"event of '{OTHER}' from {start} to {end} s: the whole clip is used"
    assert found == Problem("warning", "quirk", message, 7, "valSet.txt")
    assert table(raw)[OTHER]["video"] == f"AVE/{OTHER}.mp4"


def test_the_first_row_of_a_video_counts(tmp_path: Path) -> None:
    plain(tmp_path)
    add(tmp_path, "train", f"{CLASSES[2]}&{FIRST}&good&3&4")
    raw = read_(tmp_path)
    (found,) = raw.problems
    assert (found.severity, found.file, found.line) == ("warning", "trainSet.txt", 13)
    assert "is also on line 1 (Bark)" in found.message
    assert (table(raw)[FIRST]["label"], table(raw)[FIRST]["video"]) == ("Bark", f"AVE/{FIRST}.mp4")
    assert len(raw.rows) == 24


def test_videos_in_two_splits_stay_and_are_reported_or_leave_train(tmp_path: Path) -> None:
    plain(tmp_path)
    in_val = IDS["train"][5]
    add(tmp_path, "test", f"{CLASSES[1]}&{FIRST}&good&0&10")
    add(tmp_path, "val", f"{CLASSES[2]}&{in_val}&good&0&10")
    raw = read_(tmp_path)
    found = table(raw)
    assert len(found) == len(raw.rows) == 26
    assert (found[f"{FIRST}.train"]["split"], found[f"{FIRST}.train"]["label"]) == ("train", "Bark")
    assert (found[FIRST]["split"], found[FIRST]["label"]) == ("test", CLASSES[1])
    assert found[f"{FIRST}.train"]["group"] == found[FIRST]["group"] == FIRST
    assert found[in_val]["split"] == "val"
    assert [problem.rule for problem in raw.problems] == ["duplicate-source"] * 2
    assert all(problem.severity == "warning" for problem in raw.problems)
    assert f"'{FIRST}' is in train (trainSet.txt line 1, Bark) and test (testSet.txt line 7, {CLASSES[1]})" in {
        problem.message for problem in raw.problems
    }
    without = read_(tmp_path, dedup="train")
    assert Counter(row["split"] for _, row in without.rows) == {"train": 10, "val": 7, "test": 7}
    assert {FIRST, in_val} <= table(without).keys()
    assert all(problem.message.endswith("taken out of train") for problem in without.problems)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"Bark,{OTHER},good,0,10", "1 fields, expected class&id&quality&start&end"),
        (f"Bark&{OTHER}&good&0", "4 fields"),
        (f"Bark&{OTHER}&good&0&10&1", "6 fields"),
        ("Bark&../../../etc&good&0&10", "is not a YouTube id"),
        ("Bark&abcdefghijkl&good&0&10", "is not a YouTube id"),
        (f"Bark&{OTHER}&good&zero&10", "'zero' is not a number of seconds"),
        (f"Bark&{OTHER}&good&0&1e999", "'1e999' is not a number of seconds"),
        (f"Bark&{OTHER}&good&nan&10", "'nan' is not a number of seconds"),
    ],
)
def test_rows_that_cannot_be_understood(tmp_path: Path, line: str, says: str) -> None:
    plain(tmp_path)
    add(tmp_path, "test", line)
    raw = read_(tmp_path)
    (found,) = raw.problems
    assert (found.severity, found.rule, found.file, found.line) == ("error", "bad-row", "testSet.txt", 7)
    assert says in found.message
    assert len(raw.rows) == 24


@pytest.mark.parametrize("header", ["", f"{HEADER}\n"])
def test_annotations_with_and_without_header_agree(tmp_path: Path, header: str) -> None:
    plain(tmp_path)
    body = "".join(f"{row}\n" for split in IDS for row in rows(split))
    (tmp_path / "Annotations.txt").write_text(header + body)
    assert read_(tmp_path).problems == []


def test_annotations_that_disagree(tmp_path: Path) -> None:
    plain(tmp_path)
    lines = [row for split in IDS for row in rows(split)]
    lines[0] = lines[0].replace("Bark", "Bus")  # another class
    lines[1] = lines[1].replace("1&2", "1&3")  # another event
    lines[2] = f"Bus&{OTHER}&good&0&10"  # a video of no split, and one that is not there
    (tmp_path / "Annotations.txt").write_text("\n".join([HEADER, *lines]))
    found = [(p.severity, p.rule, p.line, p.message) for p in read_(tmp_path).problems]
    assert found == [
        ("error", "label-mismatch", 1, f"'{FIRST}' is Bark, Annotations.txt line 2 says Bus"),
        ("warning", "quirk", 2, f"event of '{IDS['train'][1]}' differs from Annotations.txt line 3"),
        ("warning", "quirk", 3, f"'{IDS['train'][2]}' is not in Annotations.txt"),
        ("warning", "quirk", None, f"Annotations.txt: 1 videos are in no split, such as {OTHER}"),
    ]


def test_a_video_with_two_annotations_agrees_with_either(tmp_path: Path) -> None:
    plain(tmp_path)
    lines = [f"{CLASSES[1]}&{FIRST}&good&0&10", *(row for split in IDS for row in rows(split))]
    (tmp_path / "Annotations.txt").write_text("\n".join(lines))
    assert read_(tmp_path).problems == []


def test_an_unknown_class_is_left_to_the_table_check(tmp_path: Path) -> None:
    plain(tmp_path)
    add(tmp_path, "train", f"Barking&{OTHER}&good&0&10")
    raw = read_(tmp_path)
    assert table(raw)[OTHER]["label"] == "Barking"
    assert (raw.rows[12][0].file, raw.rows[12][0].line) == ("trainSet.txt", 13)  # type: ignore[union-attr]


def test_layouts(tmp_path: Path) -> None:
    makers = {"plain": build, "archive": build_archive, "data": build_data}
    for name, maker in makers.items():
        (tmp_path / name).mkdir()
        maker(tmp_path / name)
        raw = read_(tmp_path / name)
        assert raw.problems == []
        assert len(raw.rows) == 24
        for _, row in raw.rows:
            assert (tmp_path / name / row["video"].partition("#")[0]).is_file()
    assert raw.lists.startswith("data/trainSet.txt")


def test_no_layout(tmp_path: Path) -> None:
    with pytest.raises(NoLayout, match="no folder AVE"):
        read_(tmp_path)
    (tmp_path / "AVE").mkdir()
    (tmp_path / "Annotations.txt").write_text(HEADER)
    with pytest.raises(NoLayout, match=r"no trainSet.txt.*Annotations.txt alone does not say the split"):
        read_(tmp_path)
    lists(tmp_path)
    (tmp_path / "valSet.txt").unlink()
    with pytest.raises(NoLayout, match=r"trainSet.txt, testSet.txt is there, but no valSet.txt"):
        read_(tmp_path)
