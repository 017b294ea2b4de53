"""Kinetics-Sounds, the 31-class subset of Kinetics-400: published lists, clips in four layouts, joined by id."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

from mmbal_cli.data.datasets.kinetics_files import FOREIGN, Clips, find_clips, plain
from mmbal_cli.data.lists import SHIPPED, shipped
from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Folder, Raw, Row, Spot, found_at
from mmbal_cli.errors import ManifestError, nearest

OPTIONS: dict[str, tuple[str, ...]] = {"lists": ("auto", "ogm-ge")}

LISTS = ("", "data/KineticSound", "KineticSound", "OGM-GE_CVPR2022/data/KineticSound", "OGM-GE/data/KineticSound")
NAMES = {"train": ("my_train.txt", "train.txt"), "val": ("my_val.txt", "val.txt"), "test": ("my_test.txt", "test.txt")}
PUBLISHED = "kinetics-sounds-ogmge"
MERGED, JSON, INDEX = "kinetics_sounds_ogmge.csv", "KS_train_val.json", "class.txt"
SUBSETS = {"training": "train", "validation": "val", "testing": "test"}
ID = re.compile(r"[A-Za-z0-9_-]{11}(_\d{1,6}){0,2}")
INDEX_OF = re.compile(r"\d{1,4}")  # of a class
SECONDS = "10"
NOTABLE = 0.15  # of a class missing: 3 to 15 % is usual
LEAST = 0.5  # of a test class that must be there


class Entry(NamedTuple):
    """One row of a list; `number` (from 0) and `name` of the class where the list has them."""

    spot: Spot
    id: str
    split: str
    number: str = ""
    name: str = ""
    seconds: str = SECONDS


@cache
def classes() -> tuple[str, ...]:
    """The 31 classes by label index."""
    names = {int(row["label_index"]): row["label"] for row in shipped(PUBLISHED)}
    return tuple(names[index] for index in range(len(names)))


def published() -> list[Row]:
    """The literature's split: id, split, label and YouTube id of all 17396 clips, without files."""
    return [
        (e.spot, {"id": e.id, "split": e.split, "label": classes()[int(e.number)], "group": e.id[:11]})
        for e in _shipped()
    ]


def read(folder: Folder, options: Mapping[str, str]) -> Raw:
    """Clips joined to the list by exact name, then YouTube id and start second, then YouTube id alone."""
    problems: list[Problem] = []
    clips = find_clips(folder, classes())
    entries, lists = _entries(folder, options["lists"], problems)
    rows: list[Row] = []
    for entry in entries:
        if label := _label(entry, problems):
            group = entry.id[:11]
            rows.append((entry.spot, {"id": entry.id, "split": entry.split, "label": label, "group": group}))
    _odd_lengths(entries, problems)
    join(clips, rows, problems)
    return Raw(clips.layout, lists, {"audio": "audio", "video": "video"}, rows, problems)


def join(clips: Clips, rows: list[Row], problems: list[Problem]) -> None:
    """Give each row its files, and report what is missing, in the wrong class folder, or in no list."""
    wanted = [(row["id"], row["split"], row["label"]) for _, row in rows]
    missing: set[int] = set()
    for modality, matches in clips.match(wanted).items():
        loose = []
        for position, ((spot, row), match) in enumerate(zip(rows, matches, strict=True)):
            row[modality] = match.path
            if not match.found:
                missing.add(position)
            elif match.loose:
                loose.append(f"'{row['id']}' is {match.path}")
            if match.label and match.label != row["label"] and modality == "video":
                message = f"'{row['id']}' is listed as {row['label']}, its file is in {match.path}"
                problems.append(found_at(spot, "error", "label-mismatch", message))
        if loose and modality == "video":
            many = f"{len(loose)} clips begin at another second than the list says, such as {loose[0]}"
            problems.append(Problem("warning", "quirk", f"{many}; matched by the YouTube id alone"))
        if modality == "video" or clips.files["audio"] is not clips.files["video"]:
            problems += clips.files[modality].unlisted(modality, matches)
    problems += _rates([split for _, split, _ in wanted], [label for _, _, label in wanted], missing)
    problems += clips.notes


def _rates(splits: list[str], labels: list[str], missing: set[int]) -> Iterator[Problem]:
    """What is missing of each split and class; too much of a test class is an error."""
    total, lost = Counter(splits), Counter(splits[position] for position in missing)
    for split, count in lost.items():
        share = f"{count} of {total[split]} clips are missing ({count / total[split]:.1%})"
        yield Problem("warning", "missing-rate", f"{split}: {share}")
    pairs = Counter(zip(splits, labels, strict=True))
    gone = Counter((splits[position], labels[position]) for position in missing)
    for (split, label), count in sorted(gone.items()):
        share = f"{split}: {count} of {pairs[split, label]} clips of {label} are missing"
        if split == "test" and pairs[split, label] - count < LEAST * pairs[split, label]:
            yield Problem("error", "class-lost", f"{share}; at least half of each test class is needed")
        elif count > NOTABLE * pairs[split, label]:
            yield Problem("warning", "missing-rate", share)


def _shipped() -> list[Entry]:
    rows = enumerate(shipped(PUBLISHED), start=2)
    at = f"{PUBLISHED}.csv ({SHIPPED})"
    return [Entry(Spot(at, n), r["id"], r["split"], r["label_index"], r["label"], r["seconds"]) for n, r in rows]


def _entries(folder: Folder, wanted: str, problems: list[Problem]) -> tuple[list[Entry], str]:
    """All rows of the list in force, and where it comes from: the user's own wins."""
    for at in LISTS if wanted == "auto" else ():
        found = {split: folder.first(*(_below(at, name) for name in names)) for split, names in NAMES.items()}
        lists = {split: path for split, path in found.items() if path}
        merged, record = folder.first(_below(at, MERGED)), folder.first(_below(at, JSON))
        if not (lists or merged or record):
            continue
        _check_index(folder, _below(at, INDEX), problems)
        if merged or record:
            read = _merged(folder, merged, problems) if merged else _json(folder, record or "", problems)
            return list(read), merged or record or ""
        for split in {"train", "test"} - lists.keys():
            found_there = ", ".join(lists.values())
            message = f"{found_there} is there, but no {NAMES[split][0]} beside it"
            problems.append(Problem("error", "missing-file", message))
        entries = [entry for split, path in lists.items() for entry in _plain(folder, path, split, problems)]
        return entries, ", ".join(lists.values())
    return _shipped(), SHIPPED


def _below(at: str, name: str) -> str:
    return f"{at}/{name}" if at else name


def _check_index(folder: Folder, path: str, problems: list[Problem]) -> None:
    """A file that names the classes by position must name the 31 in their order."""
    if not folder.first(path):
        return
    known = classes()
    names = [plain(name) for _, line in folder.lines(path, problems) for name in line.split(",") if name.strip()]
    foreign = [name for name in FOREIGN if name in names]
    if foreign or len(names) > len(known):
        message = f"{len(names)} classes with {' and '.join(foreign) or 'others'}: the 33-class version"
        problems.append(Problem("error", "refused-list", message, 1, path))
    elif tuple(names) != known:
        wrong = next((n for n, pair in enumerate(zip(names, known, strict=False)) if pair[0] != pair[1]), len(names))
        found, expected = [*names, "nothing"][wrong], [*known, "nothing"][wrong]
        message = f"class {wrong} is {found}, expected {expected}: the labels are positions in another order"
        problems.append(Problem("error", "refused-list", message, 1, path))


def _plain(folder: Folder, path: str, split: str, problems: list[Problem]) -> Iterator[Entry]:
    """`id,seconds,index` without header."""
    for number, text in folder.lines(path, problems):
        cells = [cell.strip() for cell in text.split(",")]
        if len(cells) != 3 or not cells[1].isdecimal():
            found = f"{text[:60]!r} is not `id,seconds,label index`"
            problems.append(Problem("error", "bad-row", found, number, path))
            continue
        yield Entry(Spot(path, number), cells[0], split, cells[2], "", cells[1])


def _merged(folder: Folder, path: str, problems: list[Problem]) -> Iterator[Entry]:
    """`id,seconds,label_index,label,split` with a header."""
    for number, text in folder.lines(path, problems):
        cells = [cell.strip() for cell in text.split(",")]
        if number == 1 and cells[0] == "id":
            continue
        if len(cells) != 5:
            found = f"{text[:60]!r} is not `id,seconds,label_index,label,split`"
            problems.append(Problem("error", "bad-row", found, number, path))
            continue
        yield Entry(Spot(path, number), cells[0], cells[4], cells[2], cells[3], cells[1])


def _json(folder: Folder, path: str, problems: list[Problem]) -> Iterator[Entry]:
    """`{"labels": [names], "database": {id: {"subset": ..., "label": name}}}`, with a validation part."""
    text = folder.text(path)
    try:
        document = json.loads(text)
        table, names = document["database"], document.get("labels", [])
        items = [(str(key), str(row["subset"]), str(row["label"])) for key, row in table.items()]
        names = [plain(str(name)) for name in names]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(
            f"{folder.root / path} is not an annotation file of Kinetics-Sounds: {error!r:.100}"
        ) from error
    foreign = sorted({*FOREIGN} & {*names})
    if foreign:
        problems.append(
            Problem("error", "refused-list", f"it names {' and '.join(foreign)}: the 33-class version", 1, path)
        )
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        for key in re.findall(r'"([^"]+)"\s*:\s*\{', line):
            lines.setdefault(key, number)
    for key, subset, label in items:
        name = names[int(label)] if INDEX_OF.fullmatch(label) and int(label) < len(names) else label
        yield Entry(Spot(path, lines.get(key, 1)), key, SUBSETS.get(subset.lower(), subset), "", name)


def _label(entry: Entry, problems: list[Problem]) -> str:
    """Class name of a row; "" where the row cannot be used."""

    def refuse(rule: str, message: str) -> str:
        problems.append(found_at(entry.spot, "error", rule, message))
        return ""

    if not ID.fullmatch(entry.id):
        return refuse("bad-row", f"id {entry.id[:60]!r} is not YOUTUBEID_start or YOUTUBEID_start_end")
    known, name = classes(), plain(entry.name)
    if name in FOREIGN or entry.number in ("31", "32"):
        return refuse("refused-list", f"label {entry.name or entry.number} exists only in the 33-class version")
    if entry.number and not (INDEX_OF.fullmatch(entry.number) and int(entry.number) < len(known)):
        return refuse("unknown-label", f"label index {entry.number[:20]!r} is outside 0 to {len(known) - 1}")
    if name and name not in known:
        return refuse("unknown-label", f"label {entry.name!r}. {nearest(name, known)}")
    if not name and not entry.number:
        return refuse("bad-row", f"'{entry.id}' has no label")
    label = known[int(entry.number)] if entry.number else name
    if name and name != label:
        return refuse("label-mismatch", f"'{entry.id}' has index {entry.number} ({label}) and name {name}")
    return label


def _odd_lengths(entries: list[Entry], problems: list[Problem]) -> None:
    odd = [entry for entry in entries if entry.seconds != SECONDS]
    if odd:
        first = f"'{odd[0].id}' with {odd[0].seconds}"
        message = f"the seconds column is not {SECONDS} in {len(odd)} rows, such as {first}"
        problems.append(found_at(odd[0].spot, "warning", "quirk", message))
