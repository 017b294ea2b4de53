"""What the readers of image-text sets share: folders after unpacking, pictures by id, MMBT-style JSON lists."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmbal_cli.data.paths import Files
from mmbal_cli.data.problems import Problem, some
from mmbal_cli.data.raw import Folder, NoLayout, Row, Spot

KEYS: dict[str, tuple[type, ...]] = {
    "id": (str, int),
    "label": (str, int, list),
    "text": (str, type(None)),
    "img": (str, type(None)),
}
SPLITS = {"train": ("train",), "val": ("dev", "val", "valid"), "test": ("test",)}
UNUSABLE = re.compile(r"[\0\x1f\ud800-\udfff]")
MAX_TEXT = 1 << 20  # bytes


def at(base: str, name: str) -> str:
    """`name` below `base`, where "" is the root."""
    return f"{base}/{name}" if base else name


def places(folder: Folder) -> list[str]:
    """Where a set may lie: the root, or one of its folders, because archives often unpack into one of their own."""
    return ["", *folder.folders("").values()]


def base_with(folder: Folder, *names: str) -> str | None:
    """The first place that holds all of these files or folders."""
    found = (place for place in places(folder) if all(folder.first(at(place, name)) for name in names))
    return next(found, None)


def split_files(folder: Folder, bases: Sequence[str], suffix: str, *, val: bool = True) -> dict[str, str] | None:
    """split -> list file of the first base with a train list, or None where no base has one.

    A list that is missing beside others is refused with NoLayout: without it the data would be others, silently.
    `val` False: the validation list may be missing.
    """
    for base in bases:
        found = {split: folder.first(*(at(base, stem + suffix) for stem in stems)) for split, stems in SPLITS.items()}
        if found["train"] is None:
            continue
        absent = [split for split, path in found.items() if path is None and (val or split != "val")]
        if absent:
            wanted = ", ".join(SPLITS[split][0] + suffix for split in absent)
            raise NoLayout(f"{found['train']} is there, but not {wanted} beside it")
        return {split: path for split, path in found.items() if path is not None}
    return None


def listing(folder: Folder, base: str = "") -> str:
    """What is in a folder, for a message: at most five names."""
    try:
        names = sorted(path.name for path in (folder.root / base).iterdir() if not path.name.startswith("."))
    except OSError:
        names = []
    return some(names) if names else "nothing"


def literal(text: str) -> str:
    """A text that the table takes as it stands; only `file:` at its start would name a file, a space prevents it."""
    return f" {text}" if text.startswith("file:") else text


def text_fault(text: str) -> str:
    """Why a text cannot be used: half a surrogate pair, NUL, or the separator of text pairs; "" where it can."""
    found = UNUSABLE.search(text)
    return f"the text holds the character U+{ord(found[0]):04X}" if found else ""


class Texts:
    """Text files below the root, read where nothing speaks against it."""

    def __init__(self, folder: Folder) -> None:
        self.root, self.files = folder.root, Files(folder.root)

    def read(self, path: str) -> bytes | None:
        """The bytes of a file; None where the table's own check has something to report, or beyond 1 MiB."""
        fault = self.files.locate(path)[1]
        if fault and fault.rule != "empty-file":
            return None
        try:
            with (self.root / path).open("rb") as stream:
                data = stream.read(MAX_TEXT + 1)
        except OSError:
            return None
        return data if len(data) <= MAX_TEXT else None


class Pictures:
    """Pictures found by their id (file stem), whatever the case of the suffix and one folder further down too."""

    def __init__(self, folder: Folder, names: Sequence[str], suffixes: Sequence[str] = (".jpg", ".jpeg")) -> None:
        """Look in the folders `names` of every place; NoLayout where there is none."""
        self.paths: dict[str, str] = {}
        homes = [home for place in places(folder) for name in names if (home := folder.first(at(place, name)))]
        if not homes:
            looked = ", ".join(f"{name}/" for name in names)
            raise NoLayout(f"no folder of pictures: looked for {looked} and found {listing(folder)}")
        for home in homes:
            for inner in (home, *folder.folders(home).values()):
                self.paths = {**folder.stems(inner, *suffixes), **self.paths}
        self.home = homes[0]

    def path(self, stem: str) -> str:
        """Path of a picture, or where it was expected."""
        return self.paths.get(stem, f"{self.home}/{stem}.jpg")


def json_rows(folder: Folder, files: Mapping[str, str], base: str, problems: list[Problem]) -> list[Row]:
    """Rows of JSON-lines lists with the keys id, label, text, img (a path below `base`); other keys are ignored.

    `img` and `text` may be null: the sample has no such modality. An empty text is reported and counts as none.
    """
    rows: list[Row] = []
    for split, path in files.items():
        for line, text in folder.lines(path, problems):
            try:
                row = _entry(text)
            except (ValueError, RecursionError) as error:
                problems.append(Problem("error", "bad-row", f"{error}: {text[:80]!r}", line, path))
                continue
            if row["text"] is not None and not row["text"].strip():
                problems.append(Problem("warning", "quirk", f"the text of '{row['id']}' is empty", line, path))
            image = None if row["img"] is None else at(base, row["img"])
            value = None if row["text"] is None else literal(row["text"])
            cells = {"id": str(row["id"]), "split": split, "label": row["label"], "group": ""}
            rows.append((Spot(path, line), {**cells, "text": value, "image": image}))
    return rows


def _entry(text: str) -> dict[str, Any]:
    """One line as a table with the four keys; ValueError with the reason."""
    row = json.loads(text, object_pairs_hook=_once)
    if not isinstance(row, dict):
        raise ValueError("no object {...}")
    absent = [key for key in KEYS if key not in row]
    if absent:
        raise ValueError(f"no key '{absent[0]}'")
    for key, kinds in KEYS.items():
        if not isinstance(row[key], kinds) or isinstance(row[key], bool):
            raise ValueError(f"'{key}' is {str(row[key])[:40]!r}")
    if row["img"] == "":
        raise ValueError("'img' is empty (null says that there is no picture)")
    fault = text_fault(row["text"] or "")
    if fault:
        raise ValueError(fault)
    return {key: row[key] for key in KEYS}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)
