"""UPMC Food-101 (not ETHZ Food-101, which has no texts): a recipe page's title or whole text, and a picture.

Three forms are in use: titles in two csv files, whole texts in a folder for each class, and JSON-lines lists. The
folder of a picture says whether it is test; a validation part exists only in the JSON-lines lists.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from mmbal_cli.data.datasets.imagetext import (
    Texts,
    at,
    json_rows,
    listing,
    literal,
    places,
    split_files,
    text_fault,
)
from mmbal_cli.data.problems import Problem, some
from mmbal_cli.data.raw import Folder, NoLayout, Raw, Row, Spot, found_at

OPTIONS: dict[str, tuple[str, ...]] = {"version": ("auto", "lists", "titles", "full"), "mask": ("no", "label-words")}

MODALITIES = {"text": "text", "image": "image"}
PICTURE = re.compile(r"\S+\.(?:jpe?g|png)", re.IGNORECASE)
NUMBERED = re.compile(r"(.+)_-?[0-9]+")  # class and number; some numbers look negative: pho_-12
HEADINGS = (  # of the three columns
    ("image_path", "image", "img", "img_path", "filename", "file"),
    ("text", "title", "caption"),
    ("label", "class", "class_name", "food"),
)
TOLERANCE = 0.005
VERSIONS = {  # train with validation, test
    "titles, raw folders": (67_972, 22_716),
    "titles, lists of QMF": (67_971, 22_715),
    "titles, lists of MLA": (62_970, 22_714),
    "full texts, lists of MMBT": (65_101, 21_695),
}


class Columns(NamedTuple):
    """Positions of the three columns of a titles file, and whether its first row is a header."""

    image: int
    text: int
    label: int
    header: bool


def read(folder: Folder, options: Mapping[str, str]) -> Raw:
    """The table of the raw folder, in the form that is there; `mask=label-words` hides the names of the dishes."""
    problems: list[Problem] = []
    raw = None
    for version, form in {"lists": _lists, "titles": _titles, "full": _full}.items():
        if raw is None and options["version"] in ("auto", version):
            raw = form(folder, problems)
    if raw is None:
        looked = "train.jsonl, texts/train_titles.csv or texts_txt/"
        asked = "" if options["version"] == "auto" else f" for version={options['version']}"
        raise NoLayout(f"looked{asked} for {looked} beside images/train and images/test and found {listing(folder)}")
    if options["mask"] == "label-words":
        texts = Texts(folder)
        for _, row in raw.rows:
            row["text"] = _masked_value(texts, row["text"], str(row["label"]))
        raw.lists += "; words of the label are masked"
    raw.lists += f"; recognised: {recognised(Counter(row['split'] for _, row in raw.rows))}"
    return raw


def recognised(counts: Mapping[str, int]) -> str:
    """The published version whose counts are nearest, where all are within half a percent."""
    found = (counts.get("train", 0) + counts.get("val", 0), counts.get("test", 0))
    errors = {
        name: max(abs(have - want) / want for have, want in zip(found, wanted, strict=True))
        for name, wanted in VERSIONS.items()
    }
    name = min(errors, key=lambda key: errors[key])
    return name if errors[name] <= TOLERANCE else "no published version"


# ------------------------------------------------------------------------------------------ lists


def _lists(folder: Folder, problems: list[Problem]) -> Raw | None:
    files = split_files(folder, places(folder), ".jsonl", val=False)
    if files is None:
        return None
    base = files["train"].rpartition("/")[0]
    rows = json_rows(folder, files, base, problems)
    _check_names(rows, problems)
    layout = f"{files['train']}, img paths below {base or 'the root'}"
    return Raw(layout, ", ".join(files.values()), MODALITIES, rows, problems)


def _check_names(rows: Sequence[Row], problems: list[Problem]) -> None:
    """Report rows whose picture is named after another class than their label."""
    known = {row["label"] for _, row in rows if isinstance(row["label"], str)}
    for spot, row in rows:
        named = _class_in(row["image"] or "")
        if named in known and row["label"] in known and named != row["label"]:
            found = f"'{row['image']}' is labelled {row['label']}"
            problems.append(found_at(spot, "error", "label-mismatch", found))


# ----------------------------------------------------------------------------------------- titles


def _titles(folder: Folder, problems: list[Problem]) -> Raw | None:
    for place in places(folder):
        for inner in ("texts", ""):
            base = "/".join(part for part in (place, inner) if part)
            files = {split: at(base, f"{split}_titles.csv") for split in ("train", "test")}
            there = [folder.first(path) is not None for path in files.values()]
            if any(there):
                if not all(there):
                    raise NoLayout(f"only one of {', '.join(files.values())} is there")
                return _titled(folder, files, _pictures(folder), problems)
    return None


def _pictures(folder: Folder) -> str:
    """The folder that holds train/ and test/ with a folder for each class."""
    homes = [at(place, inner).rstrip("/") for place in places(folder) for inner in ("images", "images/images", "")]
    found = [home for home in homes if folder.folders(at(home, "train")) and folder.folders(at(home, "test"))]
    if not found:
        raise NoLayout(f"no images/train/<class>/ and images/test/<class>/; found {listing(folder)}")
    return found[0]


def _titled(folder: Folder, files: Mapping[str, str], images: str, problems: list[Problem]) -> Raw:
    rows: list[Row] = []
    for split, path in files.items():
        records = list(_records(folder, path, problems))
        columns = _columns(records, path)
        for line, cells in records[columns.header :]:
            name, label, text = cells[columns.image].strip(), cells[columns.label].strip(), cells[columns.text]
            fault = text_fault(text) if PICTURE.fullmatch(name) else f"{name[:80]!r} is not the name of a picture"
            if fault:
                problems.append(Problem("error", "bad-row", fault, line, path))
                continue
            if not text.strip():
                problems.append(Problem("warning", "quirk", f"the title of '{name}' is empty", line, path))
            file = PurePosixPath(name).name
            row = {"id": f"{label}_{file}", "split": split, "label": label, "group": ""}
            image = at(images, f"{split}/{label}/{file}")
            rows.append((Spot(path, line), {**row, "text": literal(text), "image": image}))
    _check_names(rows, problems)
    layout = f"{files['train']}, {at(images, 'train')}/<class>/<class>_<n>.jpg"
    return Raw(layout, f"titles: {', '.join(files.values())}", MODALITIES, rows, problems)


def _records(folder: Folder, path: str, problems: list[Problem]) -> Iterator[tuple[int, list[str]]]:
    """(first line, three cells) of each record; other records, and records that swallow others, are reported."""
    taken: list[tuple[int, str]] = []

    def feed() -> Iterator[str]:
        for line, text in folder.lines(path, problems):
            taken.append((line, text))
            yield text + "\n"

    reader = csv.reader(feed())
    while True:
        taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.append(Problem("error", "bad-row", str(error), taken[0][0], path))
            continue
        line = taken[0][0]
        swallowed = [number for number, text in taken[1:] if any(PICTURE.fullmatch(c.strip()) for c in text.split(","))]
        if swallowed:
            found = f"a quotation mark is not closed and swallows lines {swallowed[0]} to {swallowed[-1]}"
            problems.append(Problem("error", "bad-row", found, line, path))
        elif len(cells) != 3:
            found = f"{len(cells)} cells, expected image, title, label: {taken[0][1][:80]!r}"
            problems.append(Problem("error", "bad-row", found, line, path))
        else:
            yield line, cells


def _columns(records: Sequence[tuple[int, list[str]]], path: str) -> Columns:
    """Which column is which: by the header, else by what most of the first rows look like."""
    if not records:
        return Columns(0, 1, 2, header=False)
    first = [cell.strip().lower() for cell in records[0][1]]
    image, text, label = (next((first.index(name) for name in names if name in first), -1) for names in HEADINGS)
    if sorted((image, text, label)) == [0, 1, 2]:
        return Columns(image, text, label, header=True)
    sample = [[cell.strip() for cell in cells] for _, cells in records[:200]]
    image = max(range(3), key=lambda place: sum(bool(PICTURE.fullmatch(row[place])) for row in sample))
    hits = [sum(row[place] == _class_in(row[image]) for row in sample) for place in range(3)]
    label = max((2, 1, 0), key=lambda place: hits[place])
    if not hits[label]:
        raise NoLayout(f"{path} has no column of class names beside the names of pictures")
    return Columns(image, 3 - image - label, label, header=False)


def _class_in(name: str) -> str | None:
    """The class that the name of a picture begins with: `pho` of pho_-12.jpg."""
    found = NUMBERED.fullmatch(PurePosixPath(name).stem)
    return found[1] if found else None


# -------------------------------------------------------------------------------------- full texts


def _full(folder: Folder, problems: list[Problem]) -> Raw | None:
    base = next((at(place, "texts_txt") for place in places(folder) if folder.folders(at(place, "texts_txt"))), None)
    if base is None:
        return None
    images = _pictures(folder)
    rows: list[Row] = []
    texts = {label: folder.stems(path, ".txt") for label, path in folder.folders(base).items()}
    untold = 0
    for split in ("train", "test"):
        for label, path in folder.folders(at(images, split)).items():
            for stem, picture in folder.stems(path, ".jpg", ".jpeg", ".png").items():
                text = texts.get(label, {}).pop(stem, None)
                if text is None:
                    untold += 1
                    continue
                cells = {"id": f"{label}_{PurePosixPath(picture).name}", "split": split, "label": label, "group": ""}
                rows.append((Spot(picture, 1), {**cells, "text": f"file:{text}", "image": picture}))
    alone = [path for left in texts.values() for path in left.values()]
    for found in (
        f"{untold} pictures have no text in {base}/ and are left out" * bool(untold),
        f"{len(alone)} texts have no picture in {images}/ and are left out: {some(alone)}" * bool(alone),
    ):
        if found:
            problems.append(Problem("warning", "unlisted-file", found))
    layout = f"{base}/<class>/<class>_<n>.txt, {at(images, 'train')}/<class>/<class>_<n>.jpg"
    return Raw(
        layout, f"full texts; the folders {at(images, 'train')} and {at(images, 'test')}", MODALITIES, rows, problems
    )


# -------------------------------------------------------------------------------------------- mask


def masked(text: str, label: str) -> str:
    """The text with `_` for every word of the class name, in any case, with or without accents and a plural s."""
    words = {part for word in label.split("_") for part in _numbers_of(word)}
    composed = unicodedata.normalize("NFC", text)
    return re.sub(r"[^\W_]+", lambda word: "_" if _plain(word[0]) in words else word[0], composed)


def _numbers_of(word: str) -> tuple[str, ...]:
    """A word with its plurals and its singular."""
    plain = _plain(word)
    single = plain.removesuffix("s") if len(plain) > 3 else plain
    return plain, f"{plain}s", f"{plain}es", single


def _plain(word: str) -> str:
    letters = unicodedata.normalize("NFKD", word)
    return "".join(letter for letter in letters if not unicodedata.combining(letter)).casefold()


def _masked_value(texts: Texts, value: str | None, label: str) -> str | None:
    """A cell with its words masked; a text file that cannot be read is left to the check that reports it."""
    if value is None or not value.startswith("file:"):
        return value if value is None else literal(masked(value, label))
    data = texts.read(value.removeprefix("file:"))
    try:
        text = (data or b"").decode("utf-8-sig")
    except UnicodeDecodeError:
        return value
    return value if data is None or text_fault(text) else literal(masked(text, label))
