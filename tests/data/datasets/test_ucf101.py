"""UCF-101: the spelling of one class, numbers against classInd.txt, three splits, frames and flow by their counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmbal_cli.data.datasets import ucf101
from mmbal_cli.data.raw import Folder, NoLayout, Raw
from tests.kit.minis.ucf101 import LISTS, names

CLIP = "HandstandPushups/v_HandStandPushups_g08_c01.avi"


def lists(root: Path, train: str = f"{CLIP} 37", test: str = "YoYo/v_YoYo_g01_c01.avi", number: int = 1) -> Path:
    """The lists of one split, and an empty folder of videos."""
    (root / LISTS).mkdir(exist_ok=True)
    (root / "UCF-101").mkdir(exist_ok=True)
    text = "".join(f"{index} {name}\r\n" for index, name in enumerate(names(), start=1))
    (root / LISTS / "classInd.txt").write_text(text)
    (root / LISTS / f"trainlist0{number}.txt").write_text(train)
    (root / LISTS / f"testlist0{number}.txt").write_text(test)
    return root


def read(root: Path, **options: str) -> Raw:
    return ucf101.read(Folder(root), {"split": "1", "rgb": "auto", "flow": "auto"} | options)


def first(raw: Raw) -> dict[str, Any]:
    return raw.rows[0][1]


def said(raw: Raw, severity: str = "error") -> list[str]:
    return [f"{p.rule}: {p}" for p in raw.problems if p.severity == severity]


def pictures(folder: Path, count: int, *, without: int = 0) -> None:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        if number != without:
            (folder / f"frame{number:06d}.jpg").touch()


def test_the_classes_are_alphabetical_without_regard_to_case() -> None:
    assert len(names()) == 101
    assert names() == sorted(names(), key=str.lower)
    assert names() != sorted(names())
    assert names()[36] == "HandstandPushups"


@pytest.mark.parametrize("written", ["HandstandPushups", "HandStandPushups"])
@pytest.mark.parametrize("folder", ["HandstandPushups", "HandStandPushups"])
@pytest.mark.parametrize("stem", ["v_HandstandPushups_g08_c01", "v_HandStandPushups_g08_c01"])
def test_one_class_is_found_however_it_is_spelt(tmp_path: Path, written: str, folder: str, stem: str) -> None:
    lists(tmp_path, CLIP.replace("HandstandPushups/", f"{written}/") + " 37")
    (tmp_path / "UCF-101" / folder).mkdir()
    (tmp_path / "UCF-101" / folder / f"{stem}.avi").touch()
    raw = read(tmp_path)
    assert said(raw) == said(raw, "warning") == []
    assert first(raw) == {
        "id": "v_HandStandPushups_g08_c01",
        "split": "train",
        "label": "HandstandPushups",
        "group": "HandstandPushups_g08",
        "rgb": f"UCF-101/{folder}/{stem}.avi",
        "flow": f"UCF-101/{folder}/{stem}.avi",
    }


def test_a_copy_of_the_class_list_may_spell_it_differently(tmp_path: Path) -> None:
    lists(tmp_path)
    path = tmp_path / LISTS / "classInd.txt"
    path.write_text(path.read_text().replace("HandstandPushups", "HandStandPushups"))
    assert first(read(tmp_path))["label"] == "HandstandPushups"


def test_a_missing_clip_has_the_path_where_it_was_expected(tmp_path: Path) -> None:
    assert first(read(lists(tmp_path)))["rgb"] == f"UCF-101/{CLIP}"


@pytest.mark.parametrize(
    ("train", "finding"),
    [
        (
            f"{CLIP} 38",
            "label-mismatch: ucfTrainTestlist/trainlist01.txt, line 1: 'v_HandStandPushups_g08_c01' has the",
        ),
        (CLIP, "bad-row: ucfTrainTestlist/trainlist01.txt, line 1: no class number"),
        ("Yoyos/v_YoYo_g09_c01.avi 101", "unknown-label: ucfTrainTestlist/trainlist01.txt, line 1: class 'Yoyos'"),
        ("YoYo/v_Archery_g09_c01.avi 101", "label-mismatch: ucfTrainTestlist/trainlist01.txt, line 1: 'v_Archery_g09"),
        ("YoYo/v_YoYo_g09_c01.mp4 101", "bad-row: ucfTrainTestlist/trainlist01.txt, line 1: 'YoYo/v_YoYo_g09_c01.mp4"),
        ("v_YoYo_g09_c01.avi 101", "bad-row: ucfTrainTestlist/trainlist01.txt, line 1"),
    ],
)
def test_a_bad_line_is_reported_and_left_out(tmp_path: Path, train: str, finding: str) -> None:
    raw = read(lists(tmp_path, train))
    assert [row["split"] for _, row in raw.rows] == ["test"]
    (only,) = said(raw)
    assert only.startswith(finding)


def test_a_class_number_in_a_test_list_is_checked_too(tmp_path: Path) -> None:
    assert said(read(lists(tmp_path, test="YoYo/v_YoYo_g01_c01.avi 101"))) == []
    (only,) = said(read(lists(tmp_path, test="YoYo/v_YoYo_g01_c01.avi 100")))
    assert "has the class number 100, in classInd.txt YoYo is 101" in only


def test_a_split_is_chosen_and_never_mixed(tmp_path: Path) -> None:
    lists(tmp_path)
    lists(tmp_path, "YoYo/v_YoYo_g01_c01.avi 101", CLIP, number=2)
    assert [(row["id"], row["split"]) for _, row in read(tmp_path, split="2").rows] == [
        ("v_YoYo_g01_c01", "train"),
        ("v_HandStandPushups_g08_c01", "test"),
    ]
    with pytest.raises(NoLayout, match=r"the lists of split 3: ucfTrainTestlist/trainlist03\.txt and"):
        read(tmp_path, split="3")


def test_groups_are_named_with_their_class(tmp_path: Path) -> None:
    train = "YoYo/v_YoYo_g08_c01.avi 101\nYoYo/v_YoYo_g08_c02.avi 101\nArchery/v_Archery_g08_c01.avi 3\n"
    raw = read(lists(tmp_path, train))
    assert [row["group"] for _, row in raw.rows][:3] == ["YoYo_g08", "YoYo_g08", "Archery_g08"]


def test_frames_and_flow_are_found_beside_videos(tmp_path: Path) -> None:
    lists(tmp_path)
    clip = "v_HandStandPushups_g08_c01"
    pictures(tmp_path / "jpegs_256" / clip, 30)
    for component in "uv":
        pictures(tmp_path / "tvl1_flow" / component / clip.replace("HandS", "Hands"), 29)
    videos = read(tmp_path)
    assert first(videos)["rgb"] == f"UCF-101/{CLIP}"
    frames = read(tmp_path, rgb="frames")
    assert first(frames)["rgb"] == f"jpegs_256/{clip}"
    assert first(frames)["flow"] == "tvl1_flow/{u,v}/v_HandstandPushups_g08_c01"
    assert said(frames) == []
    assert first(read(tmp_path, rgb="frames", flow="computed"))["flow"] == f"jpegs_256/{clip}"
    assert list(read(tmp_path, flow="difference").modalities) == ["rgb", "flow_diff"]


@pytest.mark.parametrize(
    ("frames", "flow", "without", "finding"),
    [
        (30, 29, 0, ""),
        (30, 30, 0, ""),
        (29, 28, 0, ""),
        (27, 27, 0, "jpegs_256/v_HandStandPushups_g08_c01' holds 27 pictures, clips have 28 or more"),
        (60, 50, 0, "'tvl1_flow/u/v_HandStandPushups_g08_c01' holds 50 pictures for 60 frames, expected 59"),
        (40, 39, 7, "'tvl1_flow/u/v_HandStandPushups_g08_c01': 1 pictures are missing between number 1 and number 39"),
    ],
)
def test_pictures_are_counted(tmp_path: Path, frames: int, flow: int, without: int, finding: str) -> None:
    lists(tmp_path)
    clip = "v_HandStandPushups_g08_c01"
    pictures(tmp_path / "jpegs_256" / clip, frames)
    for component in "uv":
        pictures(tmp_path / "tvl1_flow" / component / clip, flow, without=without)
    found = said(read(tmp_path, rgb="frames"))
    assert any(text.startswith("too-short") and finding in text for text in found) if finding else found == []


def test_what_is_looked_for_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoLayout, match=r"classInd\.txt in ucfTrainTestlist"):
        read(tmp_path)
    lists(tmp_path)
    with pytest.raises(NoLayout, match="a folder jpegs_256"):
        read(tmp_path, rgb="frames")
    with pytest.raises(NoLayout, match="tvl1_flow/u and tvl1_flow/v"):
        read(tmp_path, flow="supplied")
    (tmp_path / "UCF-101").rmdir()
    with pytest.raises(NoLayout, match="UCF-101, UCF101, videos or jpegs_256"):
        read(tmp_path)


def test_sound_is_no_modality(tmp_path: Path) -> None:
    assert set(read(lists(tmp_path)).modalities.values()) == {"video"}


def test_clips_in_neither_list_are_named(tmp_path: Path) -> None:
    lists(tmp_path)
    (tmp_path / "UCF-101/YoYo").mkdir()
    for number in (1, 2):
        (tmp_path / f"UCF-101/YoYo/v_YoYo_g01_c0{number}.avi").touch()
    assert said(read(tmp_path), "warning") == [
        "unlisted-file: 1 clips are in neither list: UCF-101/YoYo/v_YoYo_g01_c02.avi"
    ]


def test_a_class_list_is_checked_line_by_line(tmp_path: Path) -> None:
    lists(tmp_path)
    path = tmp_path / LISTS / "classInd.txt"
    path.write_text(path.read_text().replace("3 Archery\n", "3 Archery\n3 Archery\nArchery\n", 1))
    raw = read(tmp_path)
    assert [(p.rule, p.line) for p in raw.problems] == [("bad-row", 4), ("bad-row", 5)]
