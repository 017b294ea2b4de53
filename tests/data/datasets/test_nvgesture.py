"""NVGesture: fields by key, two versions of the lists, windows of each sensor, four kinds of flow, subjects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmbal_cli.data.datasets import flows, nvgesture, read_folder
from mmbal_cli.data.manifest import inspect_raw
from mmbal_cli.data.raw import Folder, NoLayout, Raw
from mmbal_cli.errors import ManifestError
from mmbal_cli.recipe import dataset_recipe, find_recipe
from tests.kit.minis.nvgesture import TEST, TRAIN, build, line

FIRST = "class_01/subject1_r0"


def lists(root: Path, train: str, test: str = "", version: str = "_v2") -> Path:
    """A folder with the lists only."""
    root.mkdir(exist_ok=True)
    for split, text in {"train": train, "test": test or line(1, 5)}.items():
        (root / f"nvgesture_{split}_correct_cvpr2016{version}.lst").write_text(text)
    return root


def read(root: Path, **options: str) -> Raw:
    return nvgesture.read(Folder(root), {"flow": "auto", "lists": "auto"} | options)


def rows(raw: Raw) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for _, row in raw.rows}


def said(raw: Raw, severity: str = "error") -> list[str]:
    return [f"{p.rule}: {p}" for p in raw.problems if p.severity == severity]


def test_fields_are_read_by_key_and_other_sensors_are_ignored(tmp_path: Path) -> None:
    path = "path:./Video_data/class_03/subject7_r2"
    shuffled = f"label:3 duo_left:duo_left:1:90 color:sk_color:10:90 {path} depth:sk_depth:11:91"
    row = rows(read(lists(tmp_path, shuffled)))["class_03/subject7_r2"]
    assert row == {
        "id": "class_03/subject7_r2",
        "split": "train",
        "label": "class_03",
        "group": "subject7",
        "rgb": "Video_data/class_03/subject7_r2/sk_color.avi#frames=10,90",
        "flow": "Video_data/class_03/subject7_r2/sk_color.avi#frames=10,90",
        "depth": "Video_data/class_03/subject7_r2/sk_depth.avi#frames=11,91",
    }


def test_the_label_is_that_of_the_list_and_differences_are_counted(tmp_path: Path) -> None:
    raw = read(lists(tmp_path, line(1, 1) + "\n" + line(20, 1).replace("label:20", "label:21") + "\r\n"))
    assert rows(raw)["class_20/subject1_r0"]["label"] == "class_21"
    assert said(raw) == []
    assert said(raw, "warning") == [
        f"quirk: {TRAIN}, line 2: 1 of 2 rows have another label than their folder's number; the label counts"
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path:./Video_data/class_01/subject1_r0 color:sk_color:1:81 label:1", "no field 'depth'"),
        (line(1, 1) + " label:2", "the field 'label' occurs twice"),
        (line(1, 1).replace("label:1", "label:one"), "label 'one' is no number"),
        (line(1, 1).replace("label:1", "label:27"), "label 27 is not one of 1 to 25"),
        (line(1, 1).replace(":6:86 d", ":86:6 d"), "the window of 'color:sk_color:86:6' is empty"),
        (line(1, 1).replace("sk_depth:6", "sk_depth:-6"), "is not of the form depth:FILE:START:END"),
        (line(1, 1).replace("subject1_r0", "subject_r0"), "does not end in class_NN/subjectN_rN"),
        ("class_01/subject1_r0 1", "'class_01/subject1_r0' is not of the form key:value"),
    ],
)
def test_a_row_that_cannot_be_understood_is_reported_with_its_line(tmp_path: Path, text: str, reason: str) -> None:
    raw = read(lists(tmp_path, line(2, 1) + "\n" + text))
    assert [row["id"] for _, row in raw.rows] == ["class_02/subject1_r0", "class_01/subject5_r0"]
    (problem,) = (problem for problem in raw.problems if problem.severity == "error")
    assert (problem.rule, problem.line, problem.file) == ("bad-row", 2, TRAIN)
    assert reason in problem.message


def test_a_list_with_a_class_without_gesture_is_refused_once(tmp_path: Path) -> None:
    extra = [line(26, subject) for subject in (1, 2, 3)]
    raw = read(lists(tmp_path, "\n".join([line(1, 1), *extra])))
    assert len(raw.rows) == 2
    (only,) = said(raw)
    assert only.startswith(f"refused-list: {TRAIN}, line 2: 3 rows of a class 26")


def test_the_second_version_of_the_lists_is_taken_and_the_first_can_be_chosen(tmp_path: Path) -> None:
    lists(tmp_path, line(1, 1), version="")
    only_first = read(tmp_path)
    assert rows(only_first)[FIRST]["label"] == "class_01"
    assert any("the first version of the list" in text for text in said(only_first, "warning"))
    lists(tmp_path, line(1, 1).replace("label:1", "label:2"))
    assert rows(read(tmp_path))[FIRST]["label"] == "class_02"
    assert rows(read(tmp_path, lists="v1"))[FIRST]["label"] == "class_01"


def test_one_list_alone_is_no_layout(tmp_path: Path) -> None:
    lists(tmp_path, line(1, 1))
    (tmp_path / TEST).unlink()
    with pytest.raises(NoLayout, match=f"only {TRAIN} is there"):
        read(tmp_path)
    lists(tmp_path, line(1, 1), version="")  # both of the first version: nothing is mixed
    assert read(tmp_path).lists == "nvgesture_train_correct_cvpr2016.lst, nvgesture_test_correct_cvpr2016.lst"
    with pytest.raises(NoLayout):
        read(tmp_path, lists="v2")


def test_an_empty_folder_shows_the_accepted_layouts(tmp_path: Path) -> None:
    path = find_recipe("datasets", "nvgesture")
    assert path
    with pytest.raises(ManifestError, match=r"Video_data/class_01/subject3_r0/sk_color\.avi") as caught:
        read_folder(dataset_recipe(path), tmp_path, {})
    assert "no such file is there" in str(caught.value)


def test_class_folders_directly_in_the_base(tmp_path: Path) -> None:
    lists(tmp_path, line(1, 1))
    (tmp_path / FIRST).mkdir(parents=True)
    raw = read(tmp_path)
    assert raw.layout.startswith("class_NN/subjectN_rN/sk_*.avi")
    assert rows(raw)[FIRST]["rgb"] == f"{FIRST}/sk_color.avi#frames=6,86"


def test_flow_by_name_says_how_it_came_about(tmp_path: Path) -> None:
    lists(tmp_path, line(1, 1))
    assert list(read(tmp_path).modalities) == ["rgb", "flow", "depth"]
    difference = read(tmp_path, flow="difference")
    assert list(difference.modalities) == ["rgb", "flow_diff", "depth"]
    assert "flow" not in rows(difference)[FIRST]
    with pytest.raises(NoLayout, match="there is no folder flow"):
        read(tmp_path, flow="supplied")
    (tmp_path / "flow").mkdir()
    assert list(read(tmp_path).modalities) == ["rgb", "flow_supplied", "depth"]
    assert list(read(tmp_path, flow="computed").modalities) == ["rgb", "flow", "depth"]
    (tmp_path / "flow/u").mkdir()
    assert list(read(tmp_path).modalities) == ["rgb", "flow", "depth"]


@pytest.mark.parametrize(
    ("pictures", "value", "finding"),
    [
        (0, f"flow/{FIRST}", ""),  # the folder is not there: found with the paths
        (59, f"flow/{FIRST}#frames=6,85", "holds 59 pictures; the window of 80 frames ends at frame 86"),
        (79, f"flow/{FIRST}", ""),
        (80, f"flow/{FIRST}", ""),
        (82, f"flow/{FIRST}#frames=6,85", "holds 82 pictures"),
        (85, f"flow/{FIRST}#frames=6,85", ""),
        (300, f"flow/{FIRST}#frames=6,85", ""),
    ],
)
def test_supplied_pictures_are_the_window_or_the_recording(
    tmp_path: Path, pictures: int, value: str, finding: str
) -> None:
    lists(tmp_path, line(1, 1))
    (tmp_path / "flow" / FIRST).mkdir(parents=True)
    for number in range(pictures):
        (tmp_path / "flow" / FIRST / f"{number}.jpg").touch()
    raw = read(tmp_path)
    assert rows(raw)[FIRST]["flow_supplied"] == value
    assert [text for text in said(raw) if finding in text] == (said(raw) if finding else [])
    assert bool(said(raw)) == bool(finding)


@pytest.mark.parametrize("name", [f"{FIRST}.avi", f"{FIRST}/flow.avi"])
def test_a_supplied_video_is_as_long_as_the_recording(tmp_path: Path, name: str) -> None:
    lists(tmp_path, line(1, 1))
    (tmp_path / "flow" / name).parent.mkdir(parents=True)
    (tmp_path / "flow" / name).touch()
    assert rows(read(tmp_path))[FIRST]["flow_supplied"] == f"flow/{name}#frames=6,85"


def test_lost_pictures_are_counted_by_number_not_by_name(tmp_path: Path) -> None:
    for number in (1, 2, 9, 10, 11):
        (tmp_path / f"flow_{number}.jpg").touch()
    (tmp_path / "flow_5.txt").touch()
    (tmp_path / "._flow_5.jpg").touch()
    found = flows.numbers(Folder(tmp_path), "")
    assert found == [1, 2, 9, 10, 11]
    (problem,) = flows.gaps("x", found)
    assert problem.message == "'x': 6 pictures are missing between number 1 and number 11"


def test_validation_is_carved_by_whole_subjects(tmp_path: Path) -> None:
    build(tmp_path)
    raw = read(tmp_path)
    classes = [f"class_{number:02d}" for number in range(1, 26)]
    manifest, problems = inspect_raw(raw, tmp_path, classes, "nvgesture")
    assert not [problem for problem in problems if problem.severity == "error"]
    subjects: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for sample in manifest.samples:
        subjects[sample.split].add(sample.group)
    assert subjects["test"] == {"subject5", "subject9"}
    assert subjects["val"]
    assert not subjects["val"] & subjects["train"]
