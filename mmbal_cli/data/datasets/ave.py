"""AVE: ten-second YouTube clips with one audible and visible event; `class&id&quality&start&end` lists."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mmbal_cli.data.lists import unlisted
from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Folder, NoLayout, Raw, Row, Spot

OPTIONS: dict[str, tuple[str, ...]] = {"window": ("event", "clip"), "dedup": ("no", "train")}

BASES = ("", "AVE_Dataset", "AVE-ECCV18")
LISTS = ("", "data", "data/AVE")  # below a base
SPLITS = ("train", "val", "test")
SECONDS = 10  # length of a clip
ID = re.compile(r"[A-Za-z0-9_-]{11}")


@dataclass(frozen=True)
class Event:
    """One row of a list: seconds `start` to `end`, or no usable event where they are equal."""

    spot: Spot
    label: str
    id: str
    start: float
    end: float

    @property
    def valid(self) -> bool:
        return 0 <= self.start < self.end <= SECONDS

    @property
    def fragment(self) -> str:
        """The part of the clip with the event; "" for all of it."""
        whole = not self.valid or (self.start, self.end) == (0, SECONDS)
        return "" if whole else f"#t={self.start:g},{self.end:g}"


def read(folder: Folder, options: Mapping[str, str]) -> Raw:
    """Both modalities of each clip from its MP4, cut to the event (or not: window=clip)."""
    base = next((base for base in BASES if folder.first(_at(base, "AVE"))), None)
    if base is None:
        there = ", ".join([*folder.folders("")][:8]) or "no folders"
        raise NoLayout(f"no folder AVE with the clips; there is {there}.")
    media = _at(base, "AVE")
    lists = _lists(folder, base)
    problems: list[Problem] = []
    events = {split: _first_rows(_events(folder, path, problems), problems) for split, path in lists.items()}
    _compare(folder, lists, events, problems)
    shared = _shared(events, options["dedup"] == "train", problems)
    files = folder.stems(media, ".mp4")
    rows: list[Row] = []
    for split, found in events.items():
        for event in found.values():
            path = files.get(event.id, f"{media}/{event.id}.mp4")
            value = path + (event.fragment if options["window"] == "event" else "")
            later = SPLITS[SPLITS.index(split) + 1 :]
            name = f"{event.id}.{split}" if any(event.id in events[other] for other in later) else event.id
            row = {"id": name, "split": split, "label": event.label, "group": event.id}
            rows.append((event.spot, row | {"audio": value, "video": value}))
    listed = {event.id for found in events.values() for event in found.values()} | shared
    problems += unlisted("video", files, listed)
    layout = f"{media}/<id>.mp4, {'the event of each clip' if options['window'] == 'event' else 'whole clips'}"
    return Raw(layout, ", ".join(lists.values()), {"audio": "audio", "video": "video"}, rows, problems)


def _at(base: str, name: str) -> str:
    return f"{base}/{name}" if base else name


def _lists(folder: Folder, base: str) -> dict[str, str]:
    """Split -> path of its list; they carry no licence, so none is shipped."""
    for at in dict.fromkeys((base, *(_at(base, below) for below in LISTS[1:]), *LISTS)):
        found = {split: folder.first(_at(at, f"{split}Set.txt")) for split in SPLITS}
        if any(found.values()):
            absent = [f"{split}Set.txt" for split, path in found.items() if not path]
            if absent:
                raise NoLayout(f"{', '.join(filter(None, found.values()))} is there, but no {' and no '.join(absent)}.")
            return {split: path for split, path in found.items() if path}
    more = " Annotations.txt alone does not say the split." if folder.first(_at(base, "Annotations.txt")) else ""
    raise NoLayout(f"{_at(base, 'AVE')} is there, but no trainSet.txt, valSet.txt and testSet.txt.{more}")


def _events(folder: Folder, path: str, problems: list[Problem]) -> Iterator[Event]:
    """The rows of one list; class names hold commas, so `&` is the only separator."""
    for number, text in folder.lines(path, problems):
        cells = [cell.strip() for cell in text.split("&")]
        if number == 1 and len(cells) == 5 and cells[0].lower() in ("category", "class", "label"):
            continue
        fault = _fault(cells)
        if fault:
            problems.append(Problem("error", "bad-row", f"{text[:80]!r}: {fault}", number, path))
            continue
        event = Event(Spot(path, number), cells[0], cells[1], float(cells[3]), float(cells[4]))
        if cells[2].lower() != "good":
            problems.append(Problem("warning", "quirk", f"quality of '{event.id}' is {cells[2]!r}", number, path))
        yield event


def _fault(cells: list[str]) -> str:
    if len(cells) != 5:
        return f"{len(cells)} fields, expected class&id&quality&start&end"
    if not ID.fullmatch(cells[1]):
        return f"{cells[1]!r} is not a YouTube id of 11 characters"
    wrong = [cell for cell in cells[3:] if not re.fullmatch(r"-?\d{1,4}(\.\d{1,6})?", cell)]
    return f"{wrong[0]!r} is not a number of seconds" if wrong else ""


def _first_rows(events: Iterator[Event], problems: list[Problem]) -> dict[str, Event]:
    """Id -> its first row in a list, as the published loaders take it; what is odd is reported."""
    first: dict[str, Event] = {}
    for event in events:
        file, line = event.spot
        if kept := first.get(event.id):
            message = f"'{event.id}' is also on line {kept.spot.line} ({kept.label}), which is the row that counts"
            problems.append(Problem("warning", "quirk", message, line, file))
            continue
        first[event.id] = event
        if not event.valid:
            message = f"event of '{event.id}' from {event.start:g} to {event.end:g} s: the whole clip is used"
            problems.append(Problem("warning", "quirk", message, line, file))
    return first


def _shared(events: dict[str, dict[str, Event]], remove: bool, problems: list[Problem]) -> set[str]:
    """Ids of the videos in two splits, each one reported; with `remove` they leave train."""
    places: dict[str, list[str]] = defaultdict(list)
    for split, found in events.items():
        for event in found.values():
            places[event.id].append(f"{split} ({event.spot.file} line {event.spot.line}, {event.label})")
    shared = {name for name, found in places.items() if len(found) > 1}
    for name in sorted(shared):
        taken = remove and name in events["train"]
        message = f"'{name}' is in {' and '.join(places[name])}{': taken out of train' if taken else ''}"
        problems.append(Problem("warning", "duplicate-source", message))
    if remove:
        events["train"] = {name: event for name, event in events["train"].items() if name not in shared}
    return shared


def _compare(
    folder: Folder, lists: Mapping[str, str], events: Mapping[str, Mapping[str, Event]], problems: list[Problem]
) -> None:
    """Annotations.txt, where it is there, says the same as the lists; the archive's copy may have a header."""
    at = lists["train"].removesuffix("trainSet.txt")
    path = folder.first(f"{at}Annotations.txt")
    if not path:
        return
    known: dict[str, list[Event]] = defaultdict(list)
    for event in _events(folder, path, problems):
        known[event.id].append(event)
    for found in events.values():
        for event in found.values():
            file, line = event.spot
            same = [other for other in known[event.id] if other.label == event.label]
            if not known[event.id]:
                problems.append(Problem("warning", "quirk", f"'{event.id}' is not in {path}", line, file))
            elif not same:
                other = known[event.id][0]
                message = f"'{event.id}' is {event.label}, {path} line {other.spot.line} says {other.label}"
                problems.append(Problem("error", "label-mismatch", message, line, file))
            elif all((other.start, other.end) != (event.start, event.end) for other in same):
                message = f"event of '{event.id}' differs from {path} line {same[0].spot.line}"
                problems.append(Problem("warning", "quirk", message, line, file))
    listed = {name for found in events.values() for name in found}
    rest = [name for name in known if name not in listed]
    if rest:
        problems.append(Problem("warning", "quirk", f"{path}: {len(rest)} videos are in no split, such as {rest[0]}"))
