"""A miniature UCF-101: all 101 classes in classInd.txt, clips of four of them; groups 1 and 2 are test in split 1."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from mmbal_cli.recipe import dataset_recipe, find_recipe
from tests.kit.minis.common import Pitfall, clip, picture, replace

CLASSES = ("ApplyEyeMakeup", "Archery", "HandstandPushups", "YoYo")
LISTS = "ucfTrainTestlist"
TRAIN, TEST = f"{LISTS}/trainlist01.txt", f"{LISTS}/testlist01.txt"
GROUPS = {"train": (8, 9, 10), "test": (1, 2)}
FRAMES = 30


def names() -> list[str]:
    """The public names of the classes, in the order of classInd.txt."""
    path = find_recipe("datasets", "ucf101")
    assert path
    return list(dataset_recipe(path).classes or ())


def stem(name: str, group: int, number: int = 1) -> str:
    """Name of a clip; the files of one class spell it in another way than its folder."""
    return f"v_{name.replace('HandstandP', 'HandStandP')}_g{group:02d}_c{number:02d}"


def build(root: Path) -> None:
    """Videos, every second with sound, and the lists of split 1 with CRLF as in the release."""
    lists(root)
    for seed, (name, group) in enumerate(_clips()):
        path = root / "UCF-101" / name / f"{stem(name, group)}.avi"
        clip(path, seed, frames=FRAMES, size=16, fps=25, sound=bool(seed % 2))


def frames(root: Path) -> None:
    """Extracted frames and flow as two grey pictures, one fewer than frames."""
    lists(root)
    for seed, (name, group) in enumerate(_clips()):
        _pictures(root / "jpegs_256" / stem(name, group), seed, FRAMES)
        for component in "uv":
            _pictures(root / "tvl1_flow" / component / stem(name, group), seed + 100 + (component == "v"), FRAMES - 1)


def flow_beside_videos(root: Path) -> None:
    """Videos, and flow as two grey pictures, with another spelling of the folders."""
    build(root)
    _flow(root)


def _flow(root: Path) -> None:
    for seed, (name, group) in enumerate(_clips()):
        for component in "uv":
            folder = root / "tvl1_flow" / component / stem(name, group).replace("HandStandP", "HandstandP")
            _pictures(folder, seed + 300 + (component == "v"), FRAMES - 1)


def archive_folder(root: Path) -> None:
    """The lists in the folder of the archive; test lines carry the class number, as some copies have it."""
    build(root)
    place = root / "UCF101TrainTestSplits-RecognitionTask"
    place.mkdir()
    (root / LISTS).rename(place / LISTS)
    path = place / TEST
    number = {name: index for index, name in enumerate(names(), start=1)}
    lines = path.read_text().split()
    path.write_text("".join(f"{line} {number[line.partition('/')[0]]}\n" for line in lines))


def lists(root: Path) -> None:
    """classInd.txt with all classes and the lists of split 1; split 2 exchanges two groups."""
    (root / LISTS).mkdir(parents=True)
    number = {name: index for index, name in enumerate(names(), start=1)}
    (root / LISTS / "classInd.txt").write_text("".join(f"{n} {name}\r\n" for name, n in number.items()), newline="")
    for split, tested in (("01", GROUPS["test"]), ("02", (8, 9))):
        train, test = [], []
        for name, group in _clips():
            line = f"{name}/{stem(name, group)}.avi"
            test.append(f"{line}\r\n") if group in tested else train.append(f"{line} {number[name]}\r\n")
        (root / LISTS / f"trainlist{split}.txt").write_text("".join(train), newline="")
        (root / LISTS / f"testlist{split}.txt").write_text("".join(test), newline="")


def _clips() -> list[tuple[str, int]]:
    return [(name, group) for name in CLASSES for groups in GROUPS.values() for group in groups]


def _pictures(folder: Path, seed: int, count: int) -> None:
    first = picture(folder / "frame000001.jpg", seed, 24)
    for number in range(2, count + 1):
        os.link(first, folder / f"frame{number:06d}.jpg")


VIDEO = f"UCF-101/Archery/{stem('Archery', 8)}.avi"
FLOW = f"tvl1_flow/{{u,v}}/{stem('Archery', 8)}"
LINE = f"Archery/{stem('Archery', 8)}.avi 3"


def _few_frames(root: Path) -> None:
    clip(root / VIDEO, 901, frames=10, size=16, fps=25, sound=False)


def _no_pictures(root: Path) -> None:
    (root / VIDEO).write_bytes(b"RIFF" + bytes(400))


def _not_utf8(root: Path) -> None:
    path = root / TRAIN
    path.write_bytes(path.read_bytes().replace(b"v_Archery_g08", b"v_Arch\xe9ry_g08", 1))


def _both_lists(root: Path) -> None:
    path = root / TEST
    path.write_text(path.read_text() + LINE.rpartition(" ")[0] + "\n")


def _same_group(root: Path) -> None:
    clip(root / "UCF-101/Archery" / f"{stem('Archery', 8, 2)}.avi", 902, frames=FRAMES, size=16, fps=25)
    with (root / TEST).open("a") as file:
        file.write(f"Archery/{stem('Archery', 8, 2)}.avi\n")


def _unlisted(root: Path) -> None:
    clip(root / "UCF-101/YoYo/v_YoYo_g25_c01.avi", 903, frames=FRAMES, size=16, fps=25)


def _uneven(root: Path) -> None:
    _flow(root)
    (root / FLOW.replace("{u,v}", "v") / f"frame{FRAMES - 1:06d}.jpg").unlink()


def _no_v(root: Path) -> None:
    _flow(root)
    shutil.rmtree(root / FLOW.replace("{u,v}", "v"))


def _gap(root: Path) -> None:
    _flow(root)
    for component in "uv":
        (root / FLOW.replace("{u,v}", component) / "frame000007.jpg").unlink()


def _little_flow(root: Path) -> None:
    _flow(root)
    for path in root.glob(f"tvl1_flow/*/{stem('Archery', 8)}/frame00002?.jpg"):
        path.unlink()


def swap(file: str, old: str, new: str) -> Callable[[Path], None]:
    """Plants another text in a file."""
    return lambda root: replace(root / file, old, new)


PITFALLS = (
    Pitfall("no video", lambda root: (root / VIDEO).unlink(), "missing-file", VIDEO),
    Pitfall("too few frames", _few_frames, "too-short", stem("Archery", 8)),
    Pitfall("no media", _no_pictures, "undecodable", stem("Archery", 8)),
    Pitfall("other class number", swap(TRAIN, LINE, LINE[:-1] + "4"), "label-mismatch", "line 4"),
    Pitfall("endless class number", swap(TRAIN, LINE, LINE + 5000 * "9"), "bad-row", f"{TRAIN}, line 4"),
    Pitfall("endless class index", swap(f"{LISTS}/classInd.txt", "50 K", 5000 * "9" + " K"), "bad-row", "line 50"),
    Pitfall("no class number", swap(TRAIN, LINE, LINE[:-2]), "bad-row", "no class number"),
    Pitfall("misspelt class", swap(TRAIN, LINE, "Archrey" + LINE[7:]), "unknown-label", "Archery"),
    Pitfall("clip of another class", swap(TRAIN, LINE, "YoYo" + LINE[7:]), "label-mismatch", "YoYo"),
    Pitfall("line cut off", swap(TRAIN, LINE, LINE[:14]), "bad-row", f"{TRAIN}, line 4"),
    Pitfall("not UTF-8", _not_utf8, "bad-row", "byte 0xe9 is not UTF-8"),
    Pitfall("in both lists", _both_lists, "duplicate-id", stem("Archery", 8)),
    Pitfall("one video in both splits", _same_group, "group-overlap", "Archery_g08"),
    Pitfall("clip in no list", _unlisted, "unlisted-file", "v_YoYo_g25_c01.avi"),
    Pitfall("u and v differ", _uneven, "missing-file", "28 in v"),
    Pitfall("no v", _no_v, "missing-file", f"tvl1_flow/v/{stem('Archery', 8)}"),
    Pitfall("flow picture lost", _gap, "too-short", "1 pictures are missing between number 1 and number 29"),
    Pitfall("flow cut off", _little_flow, "too-short", f"tvl1_flow/u/{stem('Archery', 8)}' holds 19 pictures"),
    Pitfall("class list cut", swap(f"{LISTS}/classInd.txt", "50 Knitting", "50"), "bad-row", "line 50"),
)
VARIANTS = {
    "frames and u, v": frames,
    "videos and u, v": flow_beside_videos,
    "lists in the archive's folder": archive_folder,
}
