"""Multimodal sarcasm in small: invented posts in the lists of 2019, one Python list a line, pictures for kept posts."""

from __future__ import annotations

import json
from pathlib import Path

from tests.kit.minis.common import Pitfall, picture, replace

FIRST = 900000000000000001  # more than a float holds
WORDS = ("rain", "queue", "coffee", "monday", "printer", "bus")
SIZES = {"train": 12, "valid2": 6, "test2": 6}


def posts() -> dict[str, list[list[str | int]]]:
    """Rows of each list; in the last two, hashtag and annotator disagree on the second post."""
    found: dict[str, list[list[str | int]]] = {name: [] for name in SIZES}
    number = FIRST
    for name, size in SIZES.items():
        for index in range(size):
            label = index % 2
            mood = "oh great , another" if label else "a quiet morning with"
            text = f"{mood} {WORDS[index % 6]} # day{number % 100} <user> it 's {'so' * (index + 1)} emoji_12 !"
            hashtag = [label if index != 1 else 1 - label] * (name != "train")
            found[name].append([str(number), text, *hashtag, label])
            number += 1
    return found


DROPPED: list[list[str | int]] = [
    ["900000000000000091", "made up # sarcasm about nothing", 1],
    ["900000000000000092", "read it here <url>", 0],
]
TRAIN, VAL, TEST = posts().values()


def build(root: Path) -> None:
    """text/, image/; two rows of train.txt have a cue word and no picture, test2.txt a byte order mark and CRLF."""
    write_lists(root / "text")
    for seed, row in enumerate([*TRAIN, *VAL, *TEST]):
        picture(root / f"image/{row[0]}.jpg", seed)


def write_lists(folder: Path) -> None:
    """The three lists."""
    folder.mkdir(parents=True)
    rows = posts()
    for name, own in {"train": [*rows["train"], *DROPPED], "valid2": rows["valid2"]}.items():
        (folder / f"{name}.txt").write_text("".join(f"{row}\n" for row in own), "utf-8")
    text = "\ufeff" + "".join(f"{row}\r\n" for row in rows["test2"]) + "\r\n\r\n"
    (folder / "test2.txt").write_bytes(text.encode())


def build_flat(root: Path) -> None:
    """Lists in the root; pictures one folder too deep in two parts, with suffixes of any case and attributes."""
    root.mkdir(parents=True, exist_ok=True)
    write_lists(root / "x")
    for path in (root / "x").iterdir():
        path.rename(root / path.name)
    (root / "x").rmdir()
    for seed, row in enumerate([*TRAIN, *VAL, *TEST]):
        suffix = (".jpg", ".JPG", ".jpeg", ".png")[seed % 4]
        picture(root / f"dataset_image/part{seed % 2}/{row[0]}{suffix}", seed)
    write_attributes(root)


def write_attributes(root: Path) -> None:
    """extract/extract_all: the id and five words."""
    (root / "extract").mkdir(exist_ok=True)
    rows = [[row[0], "cloud", "street", "cup", "sign", WORDS[n % 6]] for n, row in enumerate([*TRAIN, *VAL, *TEST])]
    (root / "extract/extract_all").write_text("".join(f"{row}\n" for row in rows))


def build_clone(root: Path) -> None:
    """A clone below the root, pictures beside it."""
    write_lists(root / "data-of-multimodal-sarcasm-detection/text")
    for seed, row in enumerate([*TRAIN, *VAL, *TEST]):
        picture(root / f"images/{row[0]}.jpg", seed)


VARIANTS = {"flat": build_flat, "clone": build_clone}


def append(root: Path, line: str, name: str = "train") -> None:
    """One more line at the end of a list."""
    path = root / f"text/{name}.txt"
    path.write_bytes(path.read_bytes().rstrip() + f"\n{line}\n".encode())


def cleaned(root: Path, *, instead: bool) -> None:
    """MMSD2.0 beside the lists, or in their place."""
    rows = [{"image_id": int(row[0]), "text": row[1], "label": 1 - int(row[-1])} for row in TRAIN]
    (root / "text_json_final").mkdir()
    for name in ("train", "valid", "test"):
        (root / f"text_json_final/{name}.json").write_text(json.dumps(rows))
    if instead:
        for path in (root / "text").iterdir():
            path.unlink()


def _disguised(root: Path) -> None:
    cleaned(root, instead=False)
    (root / "text/train.txt").write_bytes((root / "text_json_final/train.json").read_bytes())


PICTURE = f"image/{TRAIN[0][0]}.jpg"
PITFALLS = (
    Pitfall("filter", lambda root: None, "quirk", "26 rows, 2 dropped by the cue-word filter, 24 kept"),
    Pitfall("two-labels", lambda root: None, "quirk", "disagree on 2 posts; the annotator's label is used"),
    Pitfall("code", lambda root: append(root, "__import__('os').remove('x')"), "bad-row", "text/train.txt, line 15"),
    Pitfall(
        "item-too-few",
        lambda root: append(root, "['900000000000000077', 'only the hashtag', 1]", "valid2"),
        "bad-row",
        "text/valid2.txt, line 7: 3 items, expected id, text, hashtag label, annotator's label",
    ),
    Pitfall("number-id", lambda root: append(root, "[9.00000000000000077e17, 'a', 1]"), "bad-row", "no flat list"),
    Pitfall("short-id", lambda root: append(root, "['77', 'a', 1]"), "bad-row", "'77' is not 15 to 19 digits"),
    Pitfall(
        "label",
        lambda root: append(root, "['900000000000000077', 'a', 2]"),
        "unknown-label",
        "text/train.txt, line 15: label 2",
    ),
    Pitfall("twice", lambda root: append(root, str([*TEST[0][:2], 1])), "duplicate-id", str(TEST[0][0])),
    Pitfall(
        "not-utf8",
        lambda root: (root / "text/train.txt").write_bytes(
            (root / "text/train.txt").read_bytes() + b"['9', '\xe9', 1]"
        ),
        "bad-row",
        "text/train.txt, line 15: byte 0xe9 is not UTF-8",
    ),
    Pitfall("mmsd2", lambda root: cleaned(root, instead=True), "refused-list", "text_json_final/train.json"),
    Pitfall("mmsd2-as-txt", _disguised, "refused-list", "MMSD2.0"),
    Pitfall("mmsd2-beside", lambda root: cleaned(root, instead=False), "quirk", "MMSD2.0 lies beside"),
    Pitfall("missing", lambda root: (root / PICTURE).unlink(), "missing-file", PICTURE),
    Pitfall("empty", lambda root: (root / PICTURE).write_bytes(b""), "empty-file", PICTURE),
    Pitfall("no-picture", lambda root: (root / PICTURE).write_bytes(b"<html>gone</html>"), "undecodable", PICTURE),
    Pitfall("too-small", lambda root: picture(root / PICTURE, 99, size=20), "too-small", PICTURE),
    Pitfall(
        "no-filter-needed",
        lambda root: replace(root / "text/train.txt", "# sarcasm", "# nothing"),
        "missing-file",
        str(DROPPED[0][0]),
    ),
)
