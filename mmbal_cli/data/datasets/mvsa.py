"""MVSA-Single: tweets with a picture, text and picture labelled separately.

Two variants are in use. `agree` keeps the 2,592 posts whose two labels are equal; the published lists hold exactly
these. `resolved` also takes the other label where one of the two is neutral, 4,511 posts, and has no published split.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmbal_cli.data.datasets.imagetext import (
    Texts,
    at,
    base_with,
    json_rows,
    listing,
    literal,
    places,
    split_files,
    text_fault,
)
from mmbal_cli.data.problems import Problem, some
from mmbal_cli.data.raw import Folder, NoLayout, Raw, Row, Spot
from mmbal_cli.data.splits import carve

OPTIONS: dict[str, tuple[str, ...]] = {"labels": ("agree", "resolved")}

CLASSES = ("negative", "neutral", "positive")
LABELS = "labelResultAll.txt"
MODALITIES = {"text": "text", "image": "image"}
TEST, VAL = (0.2, 2), (0.25, 3)  # share of what is left, seed: 60 / 20 / 20 in all

Labelled = dict[str, tuple[int, str, str]]  # id -> line, label of the text, label of the picture


def read(folder: Folder, options: Mapping[str, str]) -> Raw:
    """The table of the raw folder: by the published JSON-lines lists, else by labelResultAll.txt."""
    problems: list[Problem] = []
    files = split_files(folder, places(folder), ".jsonl") if options["labels"] == "agree" else None
    if files is not None:
        return _listed(folder, files, problems)
    base = base_with(folder, LABELS)
    if base is None:
        lists = "train.jsonl or " if options["labels"] == "agree" else ""
        raise NoLayout(f"looked for {lists}{LABELS} and found {listing(folder)}")
    labels = _labels(folder, at(base, LABELS), problems)
    rows = _rows(folder, base, labels, options["labels"], problems)
    unlisted = sorted(folder.stems(at(base, "data"), ".jpg").keys() - labels.keys())
    if unlisted:
        found = f"{len(unlisted)} pictures of {at(base, 'data')}/ are not in {LABELS}: {some(unlisted)}"
        problems.append(Problem("warning", "unlisted-file", found))
    split = f"no published list: 60/20/20, stratified, by mmbal (seeds {TEST[1]} and {VAL[1]})"
    variant = f"variant {options['labels']}, {len(rows)} of {len(labels)} posts"
    layout = f"{at(base, LABELS)}, {at(base, 'data')}/<n>.jpg and <n>.txt"
    return Raw(layout, f"{variant}; {split}", MODALITIES, rows, problems)


def _listed(folder: Folder, files: Mapping[str, str], problems: list[Problem]) -> Raw:
    """The published lists, compared with labelResultAll.txt where it lies beside them."""
    base = files["train"].rpartition("/")[0]
    rows = json_rows(folder, files, base, problems)
    path = at(base, LABELS)
    labels = _labels(folder, path, problems) if folder.first(path) else {}
    for spot, row in rows:
        assert isinstance(spot, Spot)
        line, *both = labels.get(row["id"], (0, row["label"], row["label"]))
        if both != [row["label"], row["label"]]:
            found = f"'{row['id']}' is {row['label']}, but {', '.join(both)} in {path}, line {line}"
            problems.append(Problem("error", "label-mismatch", found, spot.line, spot.file))
    layout = f"{files['train']}, img paths below {base or 'the root'}"
    return Raw(layout, ", ".join(files.values()), MODALITIES, rows, problems)


def _labels(folder: Folder, path: str, problems: list[Problem]) -> Labelled:
    """Rows of labelResultAll.txt; MVSA-Multiple, which has three annotators, is refused."""
    found: Labelled = {}
    for line, text in folder.lines(path, problems):
        cells = [cell.strip() for cell in text.split("\t")]
        if line == 1 and cells[0].upper() == "ID":
            continue
        pair = [part.strip() for part in cells[1].split(",")] if len(cells) == 2 else []
        wrong = next((label for label in pair if label not in CLASSES), None)
        if len(cells) == 4:
            several = "three annotators a post: this is MVSA-Multiple, another data set"
            problems.append(Problem("error", "refused-list", several, line, path))
            return {}
        if len(pair) != 2 or not cells[0].isascii() or not cells[0].isdigit():
            expected = f"expected ID<TAB>text label,image label: {text[:80]!r}"
            problems.append(Problem("error", "bad-row", expected, line, path))
        elif wrong is not None:
            known = f"label {wrong!r} of post {cells[0]}; known: {', '.join(CLASSES)}"
            problems.append(Problem("error", "unknown-label", known, line, path))
        elif cells[0] in found:
            earlier = f"post {cells[0]} is already on line {found[cells[0]][0]}"
            problems.append(Problem("error", "duplicate-id", earlier, line, path))
        else:
            found[cells[0]] = (line, pair[0], pair[1])
    return found


def label_of(text: str, image: str, variant: str) -> str | None:
    """One label for two, or None where the variant leaves the post out."""
    if text == image:
        return text
    if variant == "agree" or "neutral" not in (text, image):
        return None
    return image if text == "neutral" else text


def _rows(folder: Folder, base: str, labels: Labelled, variant: str, problems: list[Problem]) -> list[Row]:
    """The rows of a variant with mmbal's own split; texts are read here, because their encoding varies."""
    found = {name: label_of(text, image, variant) for name, (_, text, image) in labels.items()}
    kept = {name: label for name, label in found.items() if label is not None}
    splits = _splits(kept)
    texts, pictures = (folder.stems(at(base, "data"), suffix) for suffix in (".txt", ".jpg"))
    reader = Texts(folder)
    rows: list[Row] = []
    fallback: list[str] = []
    for name, label in kept.items():
        spot = Spot(at(base, LABELS), labels[name][0])
        path = texts.get(name, at(base, f"data/{name}.txt"))
        data = reader.read(path)
        value = f"file:{path}"  # a file that cannot be read is left to the check that reports it
        if data is not None:
            text, encoding = decoded(data)
            fallback += [name] * (encoding != "utf-8")
            if fault := text_fault(text):
                problems.append(Problem("error", "bad-row", fault, None, path))
                continue
            if not text.strip():
                problems.append(Problem("warning", "quirk", "the text is empty", None, path))
            value = literal(text.strip())
        picture = pictures.get(name, at(base, f"data/{name}.jpg"))
        cells = {"id": name, "split": splits[name], "label": label, "group": ""}
        rows.append((spot, {**cells, "text": value, "image": picture}))
    if fallback:
        message = f"{len(fallback)} texts are not UTF-8 and were read as cp1252: {some(fallback)}"
        problems.append(Problem("warning", "quirk", message))
    return rows


def decoded(data: bytes) -> tuple[str, str]:
    """A text and the encoding it was read with: UTF-8, else cp1252 with a mark for bytes that mean nothing there."""
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding), encoding.removesuffix("-sig")
        except UnicodeDecodeError:
            continue
    return data.decode("cp1252", errors="replace"), "cp1252"


def _splits(kept: Mapping[str, str]) -> dict[str, str]:
    """id -> split, stratified and seeded by a hash of the id: independent of the order and of other posts."""
    splits = dict.fromkeys(kept, "train")
    for name, (share, seed) in {"test": TEST, "val": VAL}.items():
        left = [post for post, split in splits.items() if split == "train"]
        taken, _ = carve(left, [CLASSES.index(kept[post]) for post in left], [], share, seed)
        splits.update(dict.fromkeys(taken, name))
    return splits
