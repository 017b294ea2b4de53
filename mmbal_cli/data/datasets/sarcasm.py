"""Multimodal sarcasm detection (Cai, Cai and Wan, ACL 2019): one Python list literal a line, and a cue-word filter.

The lists hold more posts than the literature uses: those with a word that gives the answer away are dropped, and
pictures exist only for the rest. The last item of a row is the label; in the validation and test lists that is the
annotator's, and the item before it the hashtag's.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Mapping

from mmbal_cli.data.datasets.imagetext import Pictures, at, base_with, listing, literal, text_fault
from mmbal_cli.data.problems import Problem, some
from mmbal_cli.data.raw import Folder, NoLayout, Raw, Row, Spot

OPTIONS: dict[str, tuple[str, ...]] = {"attributes": ("no", "yes")}

NAMES = {"0": "not_sarcastic", "1": "sarcastic"}
FILES = {"train": "train.txt", "val": "valid2.txt", "test": "test2.txt"}
CUES = frozenset(
    ("sarcasm", "sarcastic", "reposting", "<url>", "joke", "humour", "humor", "jokes", "irony", "ironic", "exgag")
)
IMAGES = ("image", "dataset_image", "images")
SUFFIXES = (".jpg", ".jpeg", ".png")
CLEANED = (
    *(f"{base}text_json_{kind}/train.json" for base in ("", "data/") for kind in ("final", "clean")),
    "train.json",
    "text/train.json",
)
ATTRIBUTES = ("extract/extract_all", "extract_all")
STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
FLAT = re.compile(
    rf"\s*\[\s*(?:{STRING}|-?[0-9]{{1,19}})(?:\s*,\s*(?:{STRING}|-?[0-9]{{1,19}}))*\s*,?\s*\]\s*", re.DOTALL
)
LONGEST = 20_000  # characters of a line; tweets need less than 700


def read(folder: Folder, options: Mapping[str, str]) -> Raw:
    """The table of the raw folder; rows with a cue word are left out, as in the literature, and counted."""
    lists = _lists(folder)
    problems: list[Problem] = []
    with_attributes = options["attributes"] == "yes"
    modalities = {"text": "text", "image": "image"} | ({"attributes": "text"} if with_attributes else {})
    if lists is None or _is_cleaned(folder, at(lists, FILES["train"])):
        found = "this is MMSD2.0: the same ids, other labels and texts; the lists are train.txt, valid2.txt, test2.txt"
        problems.append(Problem("error", "refused-list", found, file=_cleaned(folder) or FILES["train"]))
        return Raw("MMSD2.0 (JSON)", "none", modalities, [], problems)
    if cleaned := _cleaned(folder):
        problems.append(Problem("warning", "quirk", "MMSD2.0 lies beside the 2019 lists and is not used", file=cleaned))
    pictures = Pictures(folder, IMAGES, SUFFIXES)
    rows: list[Row] = []
    dropped = disagreeing = 0
    for split, name in FILES.items():
        for spot, post, text, labels in _rows(folder, at(lists, name), 3 if split == "train" else 4, problems):
            if CUES & set(text.split()):
                dropped += 1
                continue
            disagreeing += len(set(labels)) > 1
            cells = {"id": post, "split": split, "label": NAMES.get(labels[-1], labels[-1]), "group": ""}
            rows.append((spot, {**cells, "text": literal(text), "image": pictures.path(post)}))
    if dropped:
        found = f"{dropped + len(rows)} rows, {dropped} dropped by the cue-word filter, {len(rows)} kept"
        problems.append(Problem("warning", "quirk", found))
    if disagreeing:
        found = f"the hashtag and the annotator disagree on {disagreeing} posts; the annotator's label is used"
        problems.append(Problem("warning", "quirk", found))
    if with_attributes:
        _add_attributes(folder, lists, rows, problems)
    layout = f"{at(lists, 'train.txt')}, {pictures.home}/<tweet id>.jpg"
    return Raw(layout, ", ".join(at(lists, name) for name in FILES.values()), modalities, rows, problems)


def _lists(folder: Folder) -> str | None:
    """Folder of the three lists; None where only the MMSD2.0 lists are there."""
    for inner in ("text", ""):
        base = base_with(folder, at(inner, FILES["train"]))
        if base is None:
            continue
        lists = "/".join(part for part in (base, inner) if part)
        absent = [name for name in FILES.values() if folder.first(at(lists, name)) is None]
        if absent:
            raise NoLayout(f"{at(lists, FILES['train'])} is there, but not {', '.join(absent)} beside it")
        return lists
    if _cleaned(folder):
        return None
    raise NoLayout(f"looked for text/train.txt, valid2.txt and test2.txt and found {listing(folder)}")


def _cleaned(folder: Folder) -> str | None:
    """Path of an MMSD2.0 list, wherever it lies."""
    for name in CLEANED:
        base = base_with(folder, name)
        if base is not None and _is_cleaned(folder, at(base, name)):
            return at(base, name)
    return None


def _is_cleaned(folder: Folder, path: str) -> bool:
    """Whether a list is MMSD2.0's, whatever its name."""
    try:
        with (folder.root / path).open("rb") as stream:
            return b'"image_id"' in stream.read(4096)
    except OSError:
        return False  # reading the list says why


def _rows(
    folder: Folder, path: str, length: int, problems: list[Problem]
) -> Iterator[tuple[Spot, str, str, list[str]]]:
    """(place, id, text, labels) of one list; what is no such row is reported."""
    for line, text in folder.lines(path, problems):
        try:
            post, words, *labels = _checked(parse(text), length)
        except ValueError as error:
            problems.append(Problem("error", "bad-row", f"{error}: {text[:80]!r}", line, path))
        else:
            yield Spot(path, line), post, words, labels


def parse(line: str) -> list[str | int]:
    """The items of a flat Python list of strings and integers; ValueError for anything else.

    The line is never evaluated. Its shape is checked first, because even `literal_eval` can exhaust the
    interpreter's stack on brackets nested deeply enough.
    """
    if len(line) > LONGEST:
        raise ValueError(f"a line of {len(line)} characters")
    if not FLAT.fullmatch(line):
        raise ValueError("no flat list of strings and integers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unknown escape such as \d stays as it is
        try:
            items: list[str | int] = ast.literal_eval(line.strip())
        except SyntaxError as error:
            raise ValueError(str(error.msg)) from None
    return items


def _checked(items: list[str | int], length: int) -> list[str]:
    """The items as text: the id, the words, and one or two labels; ValueError with what is wrong."""
    if len(items) != length:
        wanted = "id, text, label" if length == 3 else "id, text, hashtag label, annotator's label"
        raise ValueError(f"{len(items)} items, expected {wanted}")
    post, words = items[:2]
    if not isinstance(post, str) or not re.fullmatch(r"[0-9]{15,19}", post):
        raise ValueError(f"the id {post!r} is not 15 to 19 digits in quotation marks")
    if not isinstance(words, str):
        raise ValueError("the text is a number")
    if fault := text_fault(words):
        raise ValueError(fault)
    return [str(item) for item in items]


def _add_attributes(folder: Folder, lists: str, rows: list[Row], problems: list[Problem]) -> None:
    """The five words predicted for each picture, as one more text."""
    base = lists.removesuffix("text").rstrip("/")
    path = folder.first(*(at(base, name) for name in ATTRIBUTES))
    if path is None:
        raise NoLayout(f"attributes=yes needs {ATTRIBUTES[0]}, and there is {listing(folder, base)}")
    words: dict[str, str] = {}
    for line, text in folder.lines(path, problems):
        try:
            items = [str(item) for item in parse(text)]
            if len(items) != 6:
                raise ValueError(f"{len(items)} items, expected the id and five words")
        except ValueError as error:
            problems.append(Problem("error", "bad-row", f"{error}: {text[:80]!r}", line, path))
        else:
            words[items[0]] = " ".join(items[1:])
    without = [row["id"] for _, row in rows if row["id"] not in words]
    for _, row in rows:
        row["attributes"] = words.get(row["id"])
    if without:
        found = f"{len(without)} posts have no attributes: {some(without)}"
        problems.append(Problem("warning", "quirk", found, file=path))
