"""A miniature NVGesture: four classes, eight subjects, 80-frame windows in recordings of 90 frames."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path

from tests.kit.minis.common import Pitfall, clip, picture, replace

TRAIN, TEST = "nvgesture_train_correct_cvpr2016_v2.lst", "nvgesture_test_correct_cvpr2016_v2.lst"
CLASSES = (1, 2, 7, 25)
SUBJECTS = {"train": (1, 2, 3, 4, 6, 7), "test": (5, 9)}
FRAMES, START, LATER = 90, 6, 7  # LATER: a depth window that starts one frame later than that of colour
FIRST = "Video_data/class_01/subject1_r0"


def build(root: Path, takes: int = 1) -> None:
    """The second version of the lists, one label of which is not its folder's number; flow from colour."""
    _build(root, "_v2", takes=takes)


def first_lists(root: Path) -> None:
    """The lists without `_v2`, in `annotations`, and everything below `nvGesture_v1`."""
    _build(root / "nvGesture_v1", "", "annotations/")


def supplied_pictures(root: Path) -> None:
    """Flow made elsewhere, one folder of pictures for each recording, one picture fewer than it has frames."""
    if not root.exists() or not any(root.iterdir()):
        build(root)
    for path in sorted(root.glob("Video_data/*/*")):
        _pictures(root / "flow" / path.relative_to(root / "Video_data"), FRAMES - 1)


def supplied_pairs(root: Path) -> None:
    """Flow made elsewhere as two grey pictures, of the window only."""
    build(root)
    for path in sorted(root.glob("Video_data/*/*")):
        for component in "uv":
            _pictures(root / "flow" / component / path.relative_to(root / "Video_data"), 79)


def _build(root: Path, version: str, place: str = "", takes: int = 1) -> None:
    seed = 0
    (root / place).mkdir(parents=True, exist_ok=True)
    for split, subjects in SUBJECTS.items():
        lines = []
        for number in CLASSES:
            for subject, take in product(subjects, range(takes)):
                folder = root / f"Video_data/class_{number:02d}/subject{subject}_r{take}"
                for stem in ("sk_color", "sk_depth"):
                    seed += 1
                    clip(folder / f"{stem}.avi", seed, frames=FRAMES, size=16, fps=30, sound=False)
                lines.append(line(number, subject, LATER if subject == 1 else START, take))
        if version and split == "train":  # recorded as class 2, shows class 7
            second = len(subjects) * takes
            lines[second] = lines[second].replace("label:2 ", "label:7 ")
        name = f"nvgesture_{split}_correct_cvpr2016{version}.lst"
        (root / place / name).write_text("\n".join(lines) + "\n")


def line(number: int, subject: int, depth: int = START, take: int = 0) -> str:
    """One line of a list as the release writes it, with its trailing space."""
    path = f"path:./Video_data/class_{number:02d}/subject{subject}_r{take}"
    windows = f"depth:sk_depth:{depth}:{depth + 80} color:sk_color:{START}:{START + 80} duo_left:duo_left:7:100"
    return f"{path} {windows} label:{number} "


def _pictures(folder: Path, count: int) -> None:
    """One picture, copied: numbers without leading zeros, so that order by name would be wrong."""
    first = picture(folder / "flow_1.jpg", zlib.crc32("/".join(folder.parts[-3:]).encode()), 24)
    for number in range(2, count + 1):
        os.link(first, folder / f"flow_{number}.jpg")


def _short(root: Path) -> None:
    clip(root / FIRST / "sk_color.avi", 901, frames=40, size=16, fps=30, sound=False)


def _extra_class(root: Path) -> None:
    with (root / TRAIN).open("a") as file:
        file.write(line(1, 3).replace("label:1 ", "label:26 ") + "\n")


def _both_splits(root: Path) -> None:
    shutil.copytree(root / FIRST, root / "Video_data/class_01/subject5_r7")
    clip(root / "Video_data/class_01/subject5_r7/sk_color.avi", 902, frames=FRAMES, size=16, fps=30, sound=False)
    clip(root / "Video_data/class_01/subject5_r7/sk_depth.avi", 903, frames=FRAMES, size=16, fps=30, sound=False)
    with (root / TRAIN).open("a") as file:
        file.write(line(1, 5).replace("_r0", "_r7") + "\n")


def _little_flow(root: Path) -> None:
    supplied_pictures(root)
    for number in range(60, FRAMES):
        (root / "flow/class_01/subject1_r0" / f"flow_{number}.jpg").unlink()


def _no_flow(root: Path) -> None:
    supplied_pictures(root)
    shutil.rmtree(root / "flow/class_01/subject1_r0")


def _pointer(root: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 123456\n"
    (root / FIRST / "sk_color.avi").write_text(text)


def swap(file: str, old: str, new: str) -> Callable[[Path], None]:
    """Plants another text in a file."""
    return lambda root: replace(root / file, old, new)


def twice(file: str) -> Callable[[Path], object]:
    """Plants every line of a file a second time."""
    return lambda root: (root / file).write_text((root / file).read_text() * 2)


PITFALLS = (
    Pitfall(
        "no depth recording", lambda root: (root / FIRST / "sk_depth.avi").unlink(), "missing-file", "sk_depth.avi"
    ),
    Pitfall("no colour recording", lambda root: (root / FIRST / "sk_color.avi").unlink(), "missing-file", "sk_color"),
    Pitfall("window past the last frame", _short, "too-short", "class_01/subject1_r0"),
    Pitfall("26 classes", _extra_class, "refused-list", f"{TRAIN}, line 25"),
    Pitfall("label 0", swap(TRAIN, "label:25", "label:0"), "bad-row", f"{TRAIN}, line 19"),
    Pitfall("no label", swap(TEST, "label:1 ", ""), "bad-row", "no field 'label'"),
    Pitfall("empty window", swap(TEST, ":6:86", ":86:86"), "bad-row", f"{TEST}, line 1"),
    Pitfall("a field without a value", swap(TEST, "color:sk_color:6:86", "color"), "bad-row", "'color' is not"),
    Pitfall("subject in both splits", _both_splits, "group-overlap", "subject5"),
    Pitfall("other label than the folder", lambda root: None, "quirk", "1 of 24 rows have another label"),
    Pitfall("listed twice", twice(TRAIN), "duplicate-id", "class_01/subject1_r0"),
    Pitfall("outside the folder", swap(TRAIN, "./Video_data", "../other"), "unsafe-path", "../other"),
    Pitfall("flow cut off", _little_flow, "too-short", "'flow/class_01/subject1_r0' holds 59 pictures"),
    Pitfall("no flow", _no_flow, "missing-file", "flow/class_01/subject1_r0"),
    Pitfall("pointer instead of a file", _pointer, "lfs-pointer", f"{FIRST}/sk_color.avi"),
    Pitfall("other window length", swap(TRAIN, ":6:86", ":6:80"), "quirk", "not 80 frames"),
)
VARIANTS = {"first lists": first_lists, "flow as pictures": supplied_pictures, "flow as u and v": supplied_pairs}
