"""NVGesture: lists of `key:value` fields -> one 80-frame window of a colour and of a depth recording a sample.

The window [start, end) is taken as 0-based frames, as the common scripts slice it; were it meant 1-based, every
window would be one frame early, which is below what 80 frames at 30 a second show.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmbal_cli.data.datasets import flows
from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Folder, NoLayout, Raw, Row, Spot

OPTIONS: dict[str, tuple[str, ...]] = {"flow": flows.CHOICES, "lists": ("auto", "v2", "v1")}

BASES = ("", "nvGesture_v1/", "nvgesture/", "NVGesture/")
VERSIONS = {"v2": "_v2", "v1": ""}
CLASSES, WINDOW = 25, 80
CLIP = re.compile(r"(?P<folder>.*?)(?P<id>class_(?P<class>\d+)/subject(?P<subject>\d+)_r\d+)/?")
SENSOR = re.compile(r"(?P<stem>[\w.-]+):(?P<start>\d+):(?P<end>\d+)")
NEEDED = ("path", "color", "depth", "label")


@dataclass
class _Clip:
    """One line of a list: where the recording lies, its windows, its label from 1."""

    id: str
    folder: str
    said: int  # class number in the folder's name
    subject: int
    label: int
    color: tuple[str, int, int]
    depth: tuple[str, int, int]


def read(folder: Folder, options: Mapping[str, str]) -> Raw:
    """Samples of both lists; the label is that of the list, not of the folder.

    With `lists=auto` the second version of the lists (`_v2`) is taken where it is there: the first one repeats the
    number of the folder as the label.
    """
    base, lists, version = _find(folder, options["lists"])
    supplied = "components" if folder.first(f"{base}flow/u", f"{base}flow/v") else "pictures"
    flow = flows.decide(options["flow"], supplied if folder.first(f"{base}flow") else None, f"folder {base}flow")
    problems: list[Problem] = []
    rows: list[Row] = []
    for split, path in lists.items():
        clips = list(_clips(folder, path, problems))
        _notes(clips, path, version, problems)
        for line, clip in clips:
            rows.append((Spot(path, line), _row(folder, base, split, clip, flow, problems)))
    kinds = {"rgb": "video", flows.NAMES[flow]: "video", "depth": "video"}
    shown = {"components": f"{base}flow/u, v", "pictures": f"{base}flow", "computed": "flow from colour"}
    motion = shown.get(flow, "differences of colour")
    layout = f"{base}{_media(folder, base, 'Video_data/')}class_NN/subjectN_rN/sk_*.avi, {motion}"
    return Raw(layout, ", ".join(lists.values()), kinds, rows, problems)


def _find(folder: Folder, wanted: str) -> tuple[str, dict[str, str], str]:
    """Base folder, list of each split, and version of the lists."""
    seen = set()
    for version in VERSIONS if wanted == "auto" else (wanted,):
        for base in BASES:
            for place in (base, f"{base}annotations/"):
                name = f"{place}nvgesture_{{}}_correct_cvpr2016{VERSIONS[version]}.lst"
                lists = {split: name.format(split) for split in ("train", "test")}
                found = {path for path in lists.values() if folder.first(path)}
                if len(found) == 2:
                    return base, lists, version
                seen |= found
    there = f"only {', '.join(sorted(seen))} is there" if seen else "no such file is there"
    suffix = {"auto": "[_v2]", "v2": "_v2", "v1": ""}[wanted]
    raise NoLayout(f"nvgesture_train_correct_cvpr2016{suffix}.lst and nvgesture_test_...: {there}")


def _clips(folder: Folder, path: str, problems: list[Problem]) -> Iterator[tuple[int, _Clip]]:
    extra: list[int] = []
    for line, text in folder.lines(path, problems):
        try:
            clip = _parse(text)
        except ValueError as error:
            problems.append(Problem("error", "bad-row", str(error), line, path))
            continue
        if CLASSES + 1 in (clip.label, clip.said):
            extra.append(line)
        elif not 1 <= clip.label <= CLASSES:
            said = f"label {clip.label} is not one of 1 to {CLASSES}"
            problems.append(Problem("error", "bad-row", said, line, path))
        else:
            yield line, clip
    if extra:
        said = f"{len(extra)} rows of a class {CLASSES + 1}: a list with an added 'no gesture' class is another task"
        problems.append(Problem("error", "refused-list", said, extra[0], path))


def _parse(text: str) -> _Clip:
    """One line by its keys, in any order; keys of the other sensors are ignored. ValueError says what is wrong."""
    fields: dict[str, str] = {}
    for cell in text.split():
        key, _, value = cell.partition(":")
        if not value:
            raise ValueError(f"'{cell}' is not of the form key:value")
        if key in fields:
            raise ValueError(f"the field '{key}' occurs twice")
        fields[key] = value
    missing = [key for key in NEEDED if key not in fields]
    if missing:
        raise ValueError(f"no field '{missing[0]}' in '{text.strip()}'")
    clip = CLIP.fullmatch(fields["path"].removeprefix("./"))
    if clip is None:
        raise ValueError(f"path '{fields['path']}' does not end in class_NN/subjectN_rN")
    if not fields["label"].isdecimal():
        raise ValueError(f"label '{fields['label']}' is no number")
    windows = [_window(key, fields[key]) for key in ("color", "depth")]
    folder = clip["folder"] + clip["id"]
    return _Clip(clip["id"], folder, int(clip["class"]), int(clip["subject"]), int(fields["label"]), *windows)


def _window(key: str, value: str) -> tuple[str, int, int]:
    found = SENSOR.fullmatch(value)
    if found is None:
        raise ValueError(f"'{key}:{value}' is not of the form {key}:FILE:START:END")
    start, end = int(found["start"]), int(found["end"])
    if start >= end:
        raise ValueError(f"the window of '{key}:{value}' is empty")
    return found["stem"], start, end


def _notes(clips: list[tuple[int, _Clip]], path: str, version: str, problems: list[Problem]) -> None:
    """What is odd in a list as a whole and stops nothing."""
    other = [line for line, clip in clips if clip.label != clip.said]
    if other:
        said = f"{len(other)} of {len(clips)} rows have another label than their folder's number; the label counts"
        problems.append(Problem("warning", "quirk", said, other[0], path))
    if version == "v1":
        said = "the first version of the list, where every label is the folder's number; _v2 corrects some"
        problems.append(Problem("warning", "quirk", said, None, path))
    odd = [line for line, c in clips if {c.color[2] - c.color[1], c.depth[2] - c.depth[1]} != {WINDOW}]
    if odd:
        said = f"{len(odd)} of {len(clips)} rows have a window that is not {WINDOW} frames long"
        problems.append(Problem("warning", "quirk", said, odd[0], path))


def _media(folder: Folder, base: str, written: str) -> str:
    """`Video_data/` as the lists write it, or nothing where the class folders lie directly in the base."""
    return "" if folder.first(f"{base}class_01") and not folder.first(base + written) else written


def _row(folder: Folder, base: str, split: str, clip: _Clip, flow: str, problems: list[Problem]) -> dict[str, Any]:
    written = clip.folder.removesuffix(clip.id)
    place = f"{base}{_media(folder, base, written) if written else ''}{clip.id}"
    rgb, depth = (f"{place}/{stem}.avi#frames={start},{end}" for stem, start, end in (clip.color, clip.depth))
    return {
        "id": clip.id,
        "split": split,
        "label": f"class_{clip.label:02d}",
        "group": f"subject{clip.subject}",
        "rgb": rgb,
        flows.NAMES[flow]: _supplied(folder, base, clip, flow, problems) if flow in ("components", "pictures") else rgb,
        "depth": depth,
    }


def _supplied(folder: Folder, base: str, clip: _Clip, flow: str, problems: list[Problem]) -> str:
    """The user's flow of one sample: two folders of grey pictures, one folder of pictures, or a video.

    Flow i leads from frame i to i + 1, so that n frames have n - 1. As many pictures as the window has frames, or one
    less, are the window; otherwise the flow covers the recording, as a video always does, and the window is cut out.
    """
    _, start, end = clip.color
    window = f"#frames={start},{end - 1}"
    if flow == "components":
        found = flows.numbers(folder, f"{base}flow/u/{clip.id}")  # where v has another number, the paths say so
        path = f"{base}flow/{{u,v}}/{clip.id}"
    else:
        path = f"{base}flow/{clip.id}"
        video = folder.first(f"{path}.avi", f"{path}/flow.avi", f"{path}/sk_color.avi")
        if video:
            return video + window
        found = flows.numbers(folder, path)
    problems += flows.gaps(path, found)
    if not found or end - start - 1 <= len(found) <= end - start:
        return path
    if len(found) < end - 1:
        said = f"'{path}' holds {len(found)} pictures; the window of {end - start} frames ends at frame {end}"
        problems.append(Problem("error", "too-short", said))
    return path + window
