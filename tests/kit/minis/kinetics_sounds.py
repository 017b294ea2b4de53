"""Kinetics-Sounds in small: three classes, ids that begin with '-' or hold '_', lists with their two spellings."""

from __future__ import annotations

import json
from pathlib import Path

from tests.kit.minis.common import Pitfall, clip, picture, replace, sound

CLASSES = {3: "chopping_wood", 11: "playing_drums", 25: "singing"}  # label index -> name
COUNTS = {"train": 4, "test": 3}  # clips of each class


def youtube(split: str, label: int, number: int) -> str:
    """An invented YouTube id of 11 characters."""
    return f"{'-_aB'[number]}{split[:2]}{label:02d}_{'-_Cd'[number]}00{number}x"[:11]


def clips(split: str) -> list[tuple[str, int, int]]:
    """(YouTube id, start second, label index) of a split."""
    return [(youtube(split, label, n), 7 * n, label) for label in CLASSES for n in range(COUNTS[split])]


def long_name(video: str, start: int) -> str:
    """As in the train list and in the file names of Kinetics."""
    return f"{video}_{start:06d}_{start + 10:06d}"


def listed(split: str) -> list[tuple[str, int]]:
    """(id as listed, label index)"""
    return [(long_name(v, s) if split == "train" else f"{v}_{s}", label) for v, s, label in clips(split)]


FIRST, FIRST_TEST = clips("train")[0], clips("test")[0]
FILE, FILE_TEST = (f"{long_name(*one[:2])}.mp4" for one in (FIRST, FIRST_TEST))


def lists(root: Path) -> None:
    """my_train.txt and my_test.txt: `id,seconds,label index`, CRLF."""
    root.mkdir(parents=True, exist_ok=True)
    for split in COUNTS:
        text = "".join(f"{name},10,{label}\r\n" for name, label in listed(split))
        (root / f"my_{split}.txt").write_bytes(text.encode())


def build(root: Path) -> None:
    """Kinetics-400: train/<class>/<id>.mp4 and val/..., class folders with spaces; the lists of OGM-GE."""
    lists(root)
    for part, split in (("train", "train"), ("val", "test")):
        for video, start, label in clips(split):
            place = root / part / CLASSES[label].replace("_", " ")
            clip(place / f"{long_name(video, start)}.mp4", _seed(video), frames=12)


def _seed(video: str) -> int:
    return sum(ord(letter) * 31**n for n, letter in enumerate(video)) % 2**31


def build_flat(root: Path) -> None:
    """train/<id>.mp4 and test/<id>.mp4 with the names of the lists; one merged list with names."""
    rows = []
    for split in COUNTS:
        for (name, label), (video, _, _) in zip(listed(split), clips(split), strict=True):
            clip(root / split / f"{name}.mp4", _seed(video), frames=12)
            rows.append(f"{name},10,{label},{CLASSES[label]},{split}")
    text = "\n".join(["id,seconds,label_index,label,split", *rows, ""])
    (root / "kinetics_sounds_ogmge.csv").write_text(text)


def build_arl(root: Path) -> None:
    """Extracted sound and frames in class folders."""
    lists(root)
    for split, part in (("train", "train"), ("test", "val")):
        for video, start, label in clips(split):
            name = long_name(video, start)
            sound(root / f"audio/{split}/{CLASSES[label]}/{name}.wav", _seed(video), seconds=1.2)
            for number in range(3):
                folder = root / f"visual/{part}_img/Image-01-FPS/{CLASSES[label]}/{name}"
                picture(folder / f"{number:05d}.jpg", _seed(video) + number)


def build_gewu(root: Path) -> None:
    """Sound and frames anywhere; the list as JSON with the names of the classes."""
    database = {}
    for split in COUNTS:
        for (name, label), (video, _, _) in zip(listed(split), clips(split), strict=True):
            sound(root / f"{split}/audio/{name}.wav", _seed(video), seconds=1.2)
            for number in range(1, 4):
                picture(root / f"{split}/visual/{name}/frame_{number:05d}.jpg", _seed(video) + number)
            database[name] = {"subset": f"{split}ing", "label": CLASSES[label].replace("_", " ")}
    document = {"labels": [name.replace("_", " ") for name in CLASSES.values()], "database": database}
    (root / "KS_train_val.json").write_text(json.dumps(document, indent=1))


VARIANTS = {"flat": build_flat, "arl": build_arl, "gewu": build_gewu}


def _append(root: Path, line: str) -> None:
    with (root / "my_train.txt").open("ab") as file:
        file.write(f"{line}\r\n".encode())


def _file(root: Path, name: str = FILE) -> Path:
    return next(root.rglob(name))


def _lose(root: Path) -> None:
    for video, start, _ in clips("test")[:2]:
        _file(root, f"{long_name(video, start)}.mp4").unlink()


def _cut(root: Path) -> None:
    _file(root).write_bytes(_file(root).read_bytes()[:800])


def _move(root: Path, folder: str) -> None:
    target = root / "train" / folder
    target.mkdir(exist_ok=True)
    _file(root).rename(target / FILE)


LATER = "AbCdEfGhIjK_000012_000022"
PITFALLS = (
    Pitfall("removed", lambda root: _file(root).unlink(), "missing-file", FILE.removesuffix(".mp4")),
    Pitfall("rate", lambda root: _file(root).unlink(), "missing-rate", "train: 1 of 12 clips are missing (8.3%)"),
    Pitfall(
        "rate-of-a-class",
        lambda root: _file(root).unlink(),
        "missing-rate",
        "train: 1 of 4 clips of chopping_wood are missing",
    ),
    Pitfall("class-lost", _lose, "class-lost", "test: 2 of 3 clips of chopping_wood are missing"),
    Pitfall(
        "no-sound", lambda root: clip(_file(root, FILE_TEST), 9, frames=12, sound=False), "no-audio", FIRST_TEST[0]
    ),
    Pitfall("no-moov", _cut, "undecodable", FIRST[0]),
    Pitfall("empty", lambda root: _file(root).write_bytes(b""), "empty-file", FILE),
    Pitfall("no-pictures", lambda root: _only_sound(_file(root)), "no-video", FIRST[0]),
    Pitfall("too-short", lambda root: clip(_file(root), 9, frames=5), "too-short", FIRST[0]),
    Pitfall("index-31", lambda root: _append(root, "AbCdEfGhIjK_000012_000022,10,31"), "refused-list", "33-class"),
    Pitfall("index-77", lambda root: _append(root, "AbCdEfGhIjK_000012_000022,10,77"), "unknown-label", "index '77'"),
    Pitfall("index-9999...", lambda root: _append(root, f"{LATER},10,{5000 * '9'}"), "unknown-label", "index '9999"),
    Pitfall(
        "33-classes",
        lambda root: (root / "class.txt").write_text("blowing nose, bowling, tying_tie, finger snapping"),
        "refused-list",
        "finger_snapping and tying_tie",
    ),
    Pitfall("other-class", lambda root: _move(root, "singing"), "label-mismatch", "is listed as chopping_wood"),
    Pitfall("foreign-class", lambda root: (root / "train/tying tie").mkdir(), "quirk", "tying_tie"),
    Pitfall(
        "seconds",
        lambda root: replace(root / "my_train.txt", ",10,", ",9,"),
        "quirk",
        "the seconds column is not 10 in 1 rows",
    ),
    Pitfall(
        "other-second",
        lambda root: replace(root / "my_test.txt", f"{FIRST_TEST[0]}_0", f"{FIRST_TEST[0]}_88"),
        "quirk",
        "matched by the YouTube id alone",
    ),
    Pitfall("id-of-another-kind", lambda root: _append(root, "short_12,10,3"), "bad-row", "'short_12'"),
    Pitfall("not-a-row", lambda root: _append(root, "AbCdEfGhIjK_000012_000022,3"), "bad-row", "id,seconds"),
    Pitfall(
        "not-utf8",
        lambda root: (root / "my_test.txt").write_bytes((root / "my_test.txt").read_bytes() + b"\xff,10,3"),
        "bad-row",
        "is not UTF-8",
    ),
    Pitfall("twice", lambda root: _append(root, f"{FILE.removesuffix('.mp4')},10,3"), "duplicate-id", FIRST[0]),
    Pitfall(
        "one-video-in-two-splits", lambda root: _append(root, f"{FIRST_TEST[0]}_5,10,3"), "group-overlap", FIRST_TEST[0]
    ),
    Pitfall("one-list", lambda root: (root / "my_test.txt").unlink(), "missing-file", "no my_test.txt"),
    Pitfall(
        "not-listed", lambda root: clip(root / "val/singing/zzzzzzzzzzz_000001_000011.mp4", 9), "unlisted-file", "zzzz"
    ),
)


def _only_sound(path: Path) -> None:
    wav = sound(path.with_suffix(".wav"), 9, seconds=1.2)
    wav.rename(path)
