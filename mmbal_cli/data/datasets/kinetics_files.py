"""Where the clips of Kinetics-Sounds are: MP4 files or extracted sound and frames, found by YouTube id and second.

An id is `YOUTUBEID_ssssss_eeeeee` in one list and `YOUTUBEID_s` in another. The YouTube id has 11 characters, among
them `-` and `_`, so it is cut off by length.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mmbal_cli.data.lists import unlisted
from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Folder, NoLayout

BASES = ("", "kinetics400", "kinetics-400", "k400", "Kinetics-Sounds", "kinetics_sounds", "kinetics-dataset/k400")
PARTS = {  # folder names of each split, the usual one first
    "train": ("train", "training", "train_256"),
    "val": ("val", "validation", "val_256"),
    "test": ("test", "testing"),
}
HOME = {
    "train": ("train",),
    "val": ("val", "train"),
    "test": ("test", "val"),
}  # where a split's clips are looked for first
VIDEO = (".mp4", ".mkv", ".webm", ".avi")
NAME = re.compile(r"([A-Za-z0-9_-]{11})(?:_(\d{1,6}))?(?:_(\d{1,6}))?")
FOREIGN = ("finger_snapping", "tying_tie")  # of the 33-class version
DEEP = 6  # folders below the root that are searched for the last layout


def start_of(stem: str) -> tuple[str, int | None] | None:
    """(YouTube id, start second) of a file name or list id; None for other names."""
    parts = NAME.fullmatch(stem)
    return None if parts is None else (parts[1], int(parts[2]) if parts[2] else None)


def plain(name: str) -> str:
    """Class names as in the lists: lower case, underscores."""
    return name.strip().lower().replace(" ", "_")


class Match(NamedTuple):
    """The file of a wanted clip ("" as stem: missing); `loose` by YouTube id alone, `label` of its class folder."""

    path: str
    stem: str = ""
    loose: bool = False
    label: str = ""

    @property
    def found(self) -> bool:
        return bool(self.stem)


class Clip(NamedTuple):
    """A file or folder of frames that was found."""

    path: str
    part: str
    label: str


@dataclass
class Files:
    """What was found for one modality; `places` (split, label) -> folder where a missing clip is expected."""

    suffix: str
    by_stem: dict[str, list[Clip]] = field(default_factory=lambda: defaultdict(list))
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    default: str = ""

    def add(self, stem: str, path: str, part: str, label: str = "") -> None:
        self.by_stem[stem].append(Clip(path, part, label))

    def match(self, wanted: Sequence[tuple[str, str, str]]) -> list[Match]:
        """One match for each (id, split, label); no file is given to two of them by a looser rule."""
        starts: dict[tuple[str, int | None], list[str]] = defaultdict(list)
        videos: dict[str, list[str]] = defaultdict(list)
        for stem in self.by_stem:
            if key := start_of(stem):
                starts[key].append(stem)
                videos[key[0]].append(stem)
        stems: list[str | None] = [name if name in self.by_stem else None for name, _, _ in wanted]
        taken = {stem for stem in stems if stem}
        loose: set[int] = set()
        for alone in (False, True):
            for position, (name, _, _) in enumerate(wanted):
                key = start_of(name)
                if stems[position] is not None or key is None:
                    continue
                if alone:
                    free = [stem for stem in videos[key[0]] if stem not in taken and len(videos[key[0]]) == 1]
                else:
                    free = [stem for stem in starts[key] if stem not in taken and key[1] is not None]
                if free:
                    stems[position] = free[0]
                    taken.add(free[0])
                    if alone and None not in (key[1], (start_of(free[0]) or key)[1]):
                        loose.add(position)
        return [self._give(stem, row, n in loose) for n, (stem, row) in enumerate(zip(stems, wanted, strict=True))]

    def expected(self, name: str, split: str, label: str) -> Match:
        """A clip that is missing, and where it would be."""
        folder = self.places.get((split, label)) or self.places.get((split, "")) or self.default
        return Match(f"{folder}/{name}{self.suffix}".lstrip("/"))

    def _give(self, stem: str | None, row: tuple[str, str, str], loose: bool) -> Match:
        if stem is None:
            return self.expected(*row)
        clips = self.by_stem[stem]
        best = next((clip for part in HOME.get(row[1], ()) for clip in clips if clip.part == part), clips[0])
        return Match(best.path, stem, loose, best.label)

    def unlisted(self, what: str, matches: Sequence[Match]) -> list[Problem]:
        """One warning for the clips in no list."""
        clips = {clip.path: clip.path for found in self.by_stem.values() for clip in found}
        used = {match.path for match in matches}
        twins = {c.path for found in self.by_stem.values() if used & {c.path for c in found} for c in found}
        return unlisted(what, clips, used | twins)


@dataclass
class Clips:
    """The layout that was found, with the files of both modalities."""

    layout: str
    files: dict[str, Files]
    notes: list[Problem] = field(default_factory=list)

    def match(self, wanted: Sequence[tuple[str, str, str]]) -> dict[str, list[Match]]:
        """Matches of each modality for each (id, split, label).

        Sound and frames in files of their own must be of one second: of two that differ the loose one is missing.
        """
        sounds, shown = self.files["audio"].match(wanted), self.files["video"].match(wanted)
        for position, row in enumerate(wanted):
            pair = sounds[position], shown[position]
            if all(one.found for one in pair) and start_of(pair[0].stem) != start_of(pair[1].stem):
                for modality, found in (("audio", sounds), ("video", shown)):
                    if found[position].loose:
                        found[position] = self.files[modality].expected(*row)
        return {"audio": sounds, "video": shown}


def find_clips(folder: Folder, classes: Sequence[str]) -> Clips:
    """The first layout that is there; NoLayout with what is there instead."""
    return _videos(folder, classes) or _arl(folder, classes) or _anywhere(folder)


def _videos(folder: Folder, classes: Sequence[str]) -> Clips | None:
    """`train/<class>/<id>.mp4` or `train/<id>.mp4`."""
    for base in BASES:
        files, notes, kinds = Files(".mp4"), list[Problem](), set[str]()
        parts = [(part, path) for part, names in PARTS.items() for path in [_first(folder, base, names)] if path]
        for part, path in parts:
            for stem, file in _clips_in(folder, path).items():
                files.add(stem, file, part)
                kinds.add("<id>.mp4")
            own, foreign = _class_folders(folder, path, classes)
            for label, place in own.items():
                for stem, file in _clips_in(folder, place).items():
                    files.add(stem, file, part, label)
                    kinds.add("<class>/<id>.mp4")
            _places(files, part, path, own)
            if foreign:
                notes.append(_foreign(path, foreign))
        if kinds:
            names_ = " and ".join(f"{path}/{kind}" for kind in sorted(kinds) for _, path in parts)
            return Clips(names_, {"audio": files, "video": files}, notes)
    return None


def _clips_in(folder: Folder, path: str) -> dict[str, str]:
    """Stem -> video of one folder, names of clips only."""
    return {stem: file for stem, file in folder.stems(path, *VIDEO).items() if NAME.fullmatch(stem)}


def _first(folder: Folder, base: str, names: Sequence[str]) -> str | None:
    return folder.first(*(f"{base}/{name}".lstrip("/") for name in names))


def _class_folders(folder: Folder, path: str, classes: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Class -> its folder, spelled with spaces or underscores; and those of the 33-class version."""
    folders = {plain(name): place for name, place in folder.folders(path).items()}
    own = {label: folders[label] for label in classes if label in folders}
    return own, [name for name in FOREIGN if name in folders]


def _foreign(path: str, names: Sequence[str]) -> Problem:
    text = f"{path}: {' and '.join(names)} of the 33-class version are left out"
    return Problem("warning", "quirk", text)


def _places(files: Files, part: str, path: str, own: dict[str, str]) -> None:
    """Note where a missing clip of this part is expected; the test clips may be in `val`."""
    for split in {"val": ("val", "test")}.get(part, (part,)):
        files.places[split, ""] = path
        files.places |= {(split, label): place for label, place in own.items()}
    files.default = files.default or path


def _arl(folder: Folder, classes: Sequence[str]) -> Clips | None:
    """`audio/train/<class>/<id>.wav` and `visual/train_img/Image-01-FPS/<class>/<id>/`."""
    sounds, frames, notes = Files(".wav"), Files(""), list[Problem]()
    for part in PARTS:
        path = f"audio/{part}"
        own, foreign = _class_folders(folder, path, classes)
        for label, place in own.items():
            for stem, file in folder.stems(place, ".wav").items():
                sounds.add(stem, file, part, label)
        rates = [p for name, p in folder.folders(f"visual/{part}_img").items() if re.fullmatch(r"Image-\d+-FPS", name)]
        pictures = rates[0] if rates else f"visual/{part}_img/Image-01-FPS"
        shown, more = _class_folders(folder, pictures, classes)
        for label, place in shown.items():
            for stem, file in folder.folders(place).items():
                frames.add(stem, file, part, label)
        if own:
            _places(sounds, part, path, own)
        if shown:
            _places(frames, part, pictures, shown)
        notes += [_foreign(at, names) for at, names in ((path, foreign), (pictures, more)) if names]
    if not sounds.by_stem or not frames.by_stem:
        return None
    layout = "audio/{train,test}/<class>/<id>.wav, visual/{train,val}_img/Image-01-FPS/<class>/<id>/*.jpg"
    return Clips(layout, {"audio": sounds, "video": frames}, notes)


def _anywhere(folder: Folder) -> Clips:
    """`**/<id>.wav` and `**/<id>/frame_00001.jpg`, wherever they are."""
    sounds, frames = Files(".wav"), Files("")
    for place, is_frames in _walk(folder):
        part = next((part for part, names in PARTS.items() if {*place.split("/")} & {*names}), "")
        stem = place.rpartition("/")[2]
        if is_frames:
            frames.add(stem, place, part)
        else:
            sounds.add(stem.rpartition(".")[0], place, part)
    if not sounds.by_stem or not frames.by_stem:
        there = ", ".join([*folder.folders("")][:8]) or "no folders"
        found = f"{len(sounds.by_stem)} sound files and {len(frames.by_stem)} folders of frames with ids as names"
        raise NoLayout(f"no train/ and test/ or val/ with <id>.mp4, and {found}; there is {there}.")
    for files in (sounds, frames):
        for clip in (clip for found in files.by_stem.values() for clip in found):
            home = clip.path.rpartition("/")[0]
            files.default = files.default or home
            files.places.setdefault((clip.part, ""), home)
    return Clips("**/<id>.wav, **/<id>/frame_00001.jpg", {"audio": sounds, "video": frames})


def _walk(folder: Folder) -> Iterator[tuple[str, bool]]:
    """(path, True) of folders that are named like clips, (path, False) of such sound files; no link is followed."""
    root = os.fspath(folder.root)
    for place, folders, files in os.walk(root):
        at = os.path.relpath(place, root).replace(os.sep, "/")
        prefix = "" if at == "." else f"{at}/"
        named = [name for name in sorted(folders) if NAME.fullmatch(name) and _has_frames(place, name)]
        yield from ((prefix + name, True) for name in named)
        folders[:] = sorted(set(folders) - set(named)) if prefix.count("/") < DEEP else []
        for name in sorted(files):
            if name.lower().endswith(".wav") and NAME.fullmatch(name.rpartition(".")[0]):
                yield prefix + name, False


def _has_frames(place: str, name: str) -> bool:
    return os.path.exists(os.path.join(place, name, "frame_00001.jpg"))  # noqa: PTH110, PTH118
