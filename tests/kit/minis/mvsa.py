"""MVSA-Single in small: invented posts n.txt and n.jpg, two labels each, and lists as QMF ships them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.kit.minis.common import Pitfall, picture, replace

CLASSES = ("negative", "neutral", "positive")
AGREED = {n: CLASSES[n % 3] for n in range(1, 31)}
MIXED = {
    31: ("neutral", "positive"),
    32: ("negative", "neutral"),
    33: ("positive", "negative"),
    34: ("neutral", "negative"),
}
SPLITS = {"train": range(1, 19), "dev": range(19, 25), "test": range(25, 31)}


def text_of(n: int) -> str:
    """The tweet of a post; every fifth has letters beyond ASCII."""
    mood = {"negative": "worst", "neutral": "another", "positive": "lovely"}[AGREED.get(n, "neutral")]
    return f"{mood} view no{n} #invented" + ("" if n % 5 else " caf\u00e9 \u2026")


def write_data(root: Path) -> None:
    """data/n.jpg, data/n.txt (every fifth in cp1252) and labelResultAll.txt."""
    for n in (*AGREED, *MIXED):
        picture(root / f"data/{n}.jpg", n)
        (root / f"data/{n}.txt").write_bytes((text_of(n) + " \n").encode("utf-8" if n % 5 else "cp1252"))
    rows = [f"{n}\t{label},{label}" for n, label in AGREED.items()] + [f"{n}\t{a},{b}" for n, (a, b) in MIXED.items()]
    (root / "labelResultAll.txt").write_text("\n".join(["ID\ttext,image", *rows, ""]))


def build(root: Path) -> None:
    """Everything, with the published lists."""
    write_data(root)
    for name, numbers in SPLITS.items():
        rows = [{"id": str(n), "label": AGREED[n], "text": text_of(n), "img": f"data/{n}.jpg"} for n in numbers]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def build_labels(root: Path) -> None:
    """The original download in a folder of its own, without lists."""
    write_data(root / "MVSA_Single")


VARIANTS = {"labels": build_labels}


def without_lists(root: Path) -> Path:
    """Take the published lists away; the file of labels is then what counts."""
    for name in SPLITS:
        (root / f"{name}.jsonl").unlink()
    return root / "labelResultAll.txt"


def _line(root: Path, old: str, new: str) -> None:
    replace(without_lists(root), old, new)


def _multiple(root: Path) -> None:
    path = without_lists(root)
    path.write_text(
        "ID\ttext,image\ttext,image\ttext,image\n" + "1\tneutral,positive\tneutral,neutral\tpositive,positive\n"
    )


def _wrong_bytes(root: Path) -> None:
    path = root / "dev.jsonl"
    path.write_bytes(path.read_bytes().replace(b"worst view no21", b"worst \xe9 view no21"))


PITFALLS = (
    Pitfall("encoding", without_lists, "quirk", "6 texts are not UTF-8 and were read as cp1252: 5, 10, 15, 20, 25"),
    Pitfall("label-typo", lambda r: _line(r, "7\tneutral,", "7\tnuetral,"), "unknown-label", "'nuetral' of post 7"),
    Pitfall(
        "one-label", lambda r: _line(r, "8\tpositive,positive", "8\tpositive"), "bad-row", "labelResultAll.txt, line 9"
    ),
    Pitfall("no-number", lambda r: _line(r, "9\tneg", "nine\tneg"), "bad-row", "nine"),
    Pitfall("twice", lambda r: _line(r, "9\tnegative", "8\tnegative"), "duplicate-id", "post 8 is already on line 9"),
    Pitfall("multiple", _multiple, "refused-list", "MVSA-Multiple"),
    Pitfall("missing-text", lambda r: (without_lists(r), (r / "data/3.txt").unlink()), "missing-file", "data/3.txt"),
    Pitfall(
        "empty-text",
        lambda r: (without_lists(r), (r / "data/3.txt").write_text(" \n")),
        "quirk",
        "data/3.txt: the text is empty",
    ),
    Pitfall("nul", lambda r: (without_lists(r), (r / "data/3.txt").write_bytes(b"a\0b")), "bad-row", "data/3.txt"),
    Pitfall("unlabelled", lambda r: picture(without_lists(r).parent / "data/99.jpg", 99), "unlisted-file", "99"),
    Pitfall("missing-picture", lambda r: (r / "data/4.jpg").unlink(), "missing-file", "train.jsonl, line 4"),
    Pitfall(
        "list-against-labels",
        lambda r: replace(r / "test.jsonl", '"positive"', '"neutral"'),
        "label-mismatch",
        "is neutral, but positive, positive",
    ),
    Pitfall("list-not-utf8", _wrong_bytes, "bad-row", "dev.jsonl, line 3: byte 0xe9 is not UTF-8"),
    Pitfall("no-json", lambda r: replace(r / "dev.jsonl", '{"id": "21"', '{"id": "21'), "bad-row", "dev.jsonl, line 3"),
    Pitfall("no-img", lambda r: replace(r / "dev.jsonl", '"img"', '"image"'), "bad-row", "no key 'img'"),
    Pitfall("leaves-root", lambda r: replace(r / "dev.jsonl", "data/20", "../20"), "unsafe-path", "../20.jpg"),
    Pitfall("elsewhere", lambda r: replace(r / "dev.jsonl", "data/20", "/etc/20"), "unsafe-path", "/etc/20.jpg"),
    Pitfall(
        "same-picture",
        lambda r: (r / "data/30.jpg").write_bytes((r / "data/1.jpg").read_bytes()),
        "duplicate-source",
        "data/30.jpg",
    ),
)
