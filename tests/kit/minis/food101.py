"""UPMC Food-101 in small: three dishes, invented titles, numbers that look negative, pictures of other kinds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from tests.kit.minis.common import Pitfall, picture, replace

DISHES = ("apple_pie", "pho", "waffles")
NUMBERS = {"train": (0, 1, 2, 3, -12), "dev": (4, 5), "test": (6, 7)}
Entry = tuple[str, str, str, str]  # split, dish, file name, title


def entries() -> list[Entry]:
    """Every sample; titles hold commas, quotation marks and letters beyond ASCII."""
    return [
        (
            split,
            dish,
            f"{dish}_{n}.jpg",
            f'{("easy", "my", "best")[n % 3]} "{dish.replace("_", " ")}", cr\u00e8me no {n}',
        )
        for split, numbers in NUMBERS.items()
        for dish in DISHES
        for n in numbers
    ]


def write_pictures(root: Path, base: str = "images") -> None:
    """images/{train,test}/<class>/; dev lies in train. One is CMYK, one a GIF and one has a palette."""
    from PIL import Image

    for seed, (split, dish, name, _) in enumerate(entries()):
        path = root / base / ("test" if split == "test" else "train") / dish / name
        picture(path, seed)
        with Image.open(path) as image:
            image.load()
            if name == "pho_0.jpg":
                image.convert("CMYK").save(path)
            if name == "pho_1.jpg":
                image.convert("P").save(path, "GIF")
            if name == "pho_2.jpg":
                image.convert("P").save(path, "PNG")


def build(root: Path) -> None:
    """Titles without a header."""
    write_pictures(root)
    write_titles(root / "texts")


def write_titles(folder: Path, header: tuple[str, ...] = (), order: tuple[int, ...] = (0, 1, 2)) -> None:
    """train_titles.csv and test_titles.csv."""
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        with (folder / f"{part}_titles.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if header:
                writer.writerow(header)
            for split, dish, name, title in entries():
                if (split == "test") == (part == "test"):
                    cells = (name, title, dish)
                    writer.writerow([cells[place] for place in order])


def build_header(root: Path) -> None:
    """Titles with a header and another order, everything in a folder of its own."""
    write_pictures(root / "upmcfood101")
    write_titles(root / "upmcfood101/texts", ("label", "Image_path", "text"), (2, 0, 1))


def build_lists(root: Path) -> None:
    """Lists as QMF ships them, with a validation part."""
    write_pictures(root)
    write_lists(root)


def write_lists(root: Path) -> None:
    """train.jsonl, dev.jsonl and test.jsonl."""
    for part in NUMBERS:
        rows = [
            {
                "id": f"{dish}_{name}",
                "label": dish,
                "text": title,
                "img": f"images/{'test' if split == 'test' else 'train'}/{dish}/{name}",
            }
            for split, dish, name, title in entries()
            if split == part
        ]
        (root / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def build_full(root: Path) -> None:
    """Whole texts, one file for each page."""
    write_pictures(root)
    for _, dish, name, title in entries():
        path = root / f"texts_txt/{dish}/{Path(name).stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{title}\n\nStir, bake, serve.\n", "utf-8")


VARIANTS = {"header": build_header, "lists": build_lists, "full": build_full}


def _as_lists(root: Path, old: str, new: str) -> None:
    write_lists(root)
    replace(root / "test.jsonl", old, new)


def _as_full(root: Path, change: str, text: bytes | None) -> None:
    for name in ("train", "test"):
        (root / f"texts/{name}_titles.csv").unlink()
    build_texts = [(dish, Path(name).stem, title) for _, dish, name, title in entries()]
    for dish, stem, title in build_texts:
        path = root / f"texts_txt/{dish}/{stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(title, "utf-8")
    if text is None:
        (root / change).unlink()
    else:
        (root / change).write_bytes(text)


def _open_quote(root: Path) -> None:
    """The picture in the second column, and a title that swallows the rows up to the next quotation mark."""
    for path in (root / "texts").iterdir():
        path.unlink()
    (root / "texts").rmdir()
    write_titles(root / "texts", ("label", "image", "text"), (2, 0, 1))
    path = root / "texts/train_titles.csv"
    header, _, *lines = path.read_text("utf-8").replace('"', "").replace(", cr", " cr").splitlines()
    lines[3] += '"'
    path.write_text("\n".join([header, 'apple_pie,apple_pie_0.jpg,"easy pie', *lines, ""]), "utf-8")


def _append(root: Path, line: str) -> None:
    path = root / "texts/test_titles.csv"
    path.write_bytes(path.read_bytes() + line.encode())


PHO = "images/train/pho/pho_-12.jpg"
PITFALLS = (
    Pitfall("version", lambda r: None, "count", "recognised: no published version"),
    Pitfall(
        "empty-title", lambda r: _append(r, "pho_8.jpg,,pho\n"), "quirk", "line 7: the title of 'pho_8.jpg' is empty"
    ),
    Pitfall("missing", lambda r: (r / PHO).unlink(), "missing-file", PHO),
    Pitfall("no-picture", lambda r: (r / PHO).write_bytes(b"<html>"), "undecodable", PHO),
    Pitfall("empty-picture", lambda r: (r / PHO).write_bytes(b""), "empty-file", PHO),
    Pitfall("too-small", lambda r: picture(r / PHO, 99, size=16), "too-small", PHO),
    Pitfall("label-typo", lambda r: _append(r, "pho_8.jpg,soup,phoo\n"), "unknown-label", "Did you mean 'pho'"),
    Pitfall(
        "label", lambda r: _append(r, "pho_8.jpg,soup,waffles\n"), "label-mismatch", "pho_8.jpg' is labelled waffles"
    ),
    Pitfall(
        "cells", lambda r: _append(r, "pho_8.jpg,soup, the best,pho\n"), "bad-row", "test_titles.csv, line 7: 4 cells"
    ),
    Pitfall("no-name", lambda r: _append(r, "pho_8,soup,pho\n"), "bad-row", "'pho_8' is not the name of a picture"),
    Pitfall(
        "quote", lambda r: _append(r, 'pho_8.jpg,"soup,pho\npho_9.jpg,soup,pho\n'), "bad-row", "swallows lines 8 to 8"
    ),
    Pitfall("quote-last", _open_quote, "bad-row", "train_titles.csv, line 2: a quotation mark is not closed"),
    Pitfall("twice", lambda r: _append(r, "pho_6.jpg,soup,pho\n"), "duplicate-id", "pho_pho_6.jpg"),
    Pitfall(
        "same-picture",
        lambda r: (r / "images/test/pho/pho_6.jpg").write_bytes((r / PHO).read_bytes()),
        "duplicate-source",
        "pho_pho_6.jpg",
    ),
    Pitfall(
        "empty-in-list",
        lambda r: _as_lists(r, '"my \\"pho\\", cr\\u00e8me no 7"', '""'),
        "quirk",
        "test.jsonl, line 4: the text of",
    ),
    Pitfall(
        "list-label",
        lambda r: _as_lists(r, '"label": "pho"', '"label": "waffles"'),
        "label-mismatch",
        "test.jsonl, line 3",
    ),
    Pitfall(
        "no-text", lambda r: _as_full(r, "texts_txt/pho/pho_-12.txt", None), "unlisted-file", "1 pictures have no text"
    ),
    Pitfall(
        "no-picture-of-text",
        lambda r: _as_full(r, "texts_txt/pho/pho_99.txt", b"x"),
        "unlisted-file",
        "texts_txt/pho/pho_99.txt",
    ),
    Pitfall(
        "text-not-utf8",
        lambda r: _as_full(r, "texts_txt/pho/pho_0.txt", b"cr\xe8me"),
        "undecodable",
        "texts_txt/pho/pho_0.txt",
    ),
)
