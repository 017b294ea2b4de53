"""CREMA-D: acted clips, `<actor>_<sentence>_<emotion>_<level>` in AudioWAV and VideoFlash."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mmbal_cli.data.lists import SHIPPED, shipped, unlisted
from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Folder, NoLayout, Raw, Row, Spot
from mmbal_cli.errors import nearest

OPTIONS: dict[str, tuple[str, ...]] = {"lists": ("auto", "ogm-ge"), "video": ("auto", "files", "frames")}

CODES = {"NEU": "neutral", "HAP": "happy", "SAD": "sad", "FEA": "fear", "DIS": "disgust", "ANG": "anger"}
WORDS = {name: code for code, name in CODES.items()}
ID = re.compile(r"\d{4}_[A-Z]{3}_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX?)")
BASES = ("", "CREMA-D", "CREMAD", "crema-d", "crema-d-mirror", "CREMA-D-master", "crema-d-mirror-master")
LISTS = ("", "data/CREMAD", "CREMAD", "OGM-GE_CVPR2022/data/CREMAD", "OGM-GE/data/CREMAD")
MERGED, PUBLISHED = "cremad_ogmge.csv", "cremad-ogmge"
MEDIA = (".wav", ".flv", ".mp4", ".mp3")


class Entry(NamedTuple):
    """One row of a list, still as written."""

    spot: Spot
    id: str
    label: str
    split: str


class Media(NamedTuple):
    """The files of one modality: stem -> path; a missing one is expected in `folder` with `suffix`."""

    files: dict[str, str]
    folder: str
    suffix: str
    layout: str

    def name(self, stem: str) -> str:
        """The file name of a clip: older clones hold `1040_ITH_SAD_X` instead of `..._XX`."""
        short = stem.removesuffix("X")
        return short if stem.endswith("XX") and stem not in self.files and short in self.files else stem

    def path(self, stem: str) -> str:
        """Path of a clip, also where it is missing."""
        return self.files.get(self.name(stem), f"{self.folder}/{stem}{self.suffix}")


def published() -> list[Row]:
    """The literature's split (OGM-GE, PMR, ARL): id, split, label and actor of all 7442 clips, without files."""
    return [(e.spot, {"id": e.id, "split": e.split, "label": CODES[e.label], "group": e.id[:4]}) for e in _shipped()]


def read(folder: Folder, options: Mapping[str, str]) -> Raw:
    """Audio from AudioWAV, video from VideoFlash or extracted frames; the user's own list wins over the shipped one."""
    audio, video = _media(folder, options["video"])
    problems: list[Problem] = []
    entries, lists = _entries(folder, options["lists"], problems)
    rows: list[Row] = []
    for entry in entries:
        if checked := _checked(entry, problems):
            stem, label = checked
            fixed = {"id": stem, "split": entry.split, "label": label, "group": stem[:4]}
            rows.append((entry.spot, fixed | {"audio": audio.path(stem), "video": video.path(stem)}))
    for modality, media in (("audio", audio), ("video", video)):
        names = {media.name(row["id"]): row["id"] for _, row in rows}
        for name in sorted(name for name, stem in names.items() if name != stem):
            problems.append(Problem("warning", "quirk", f"{media.files[name]}, of an older clone, is {names[name]}"))
        problems += unlisted(modality, media.files, names)
    layout = f"{audio.layout}, {video.layout}"
    return Raw(layout, lists, {"audio": "audio", "video": "video"}, rows, problems)


def _media(folder: Folder, wanted: str) -> tuple[Media, Media]:
    """Sound and pictures, from the first base folder that has AudioWAV."""
    base = next((f"{base}/".lstrip("/") for base in BASES if folder.first(f"{base}/AudioWAV".lstrip("/"))), None)
    if base is None:
        there = ", ".join([*folder.folders("")][:8]) or "no folders"
        more = " AudioMP3 is no substitute: its files have blanks." if folder.first("AudioMP3") else ""
        raise NoLayout(f"no folder AudioWAV; there is {there}.{more}")
    audio = Media(folder.stems(f"{base}AudioWAV", ".wav"), f"{base}AudioWAV", ".wav", f"{base}AudioWAV/*.wav")
    flash = f"{base}VideoFlash"
    flv, mp4 = folder.stems(flash, ".flv"), folder.stems(flash, ".mp4")
    frames = next((path for name, path in folder.folders(base).items() if _is_frames(name)), None)
    if wanted != "frames" and (flv or mp4 or (folder.first(flash) and not frames)):
        kinds = [kind for kind, files in ((".flv", flv), (".mp4", mp4)) if files] or [".flv"]
        suffix = ".mp4" if len(mp4) > len(flv) else ".flv"
        return audio, Media(flv | mp4, flash, suffix, f"{flash}/*{' and *'.join(kinds)}")
    if wanted != "files" and frames:
        return audio, Media(folder.folders(frames), frames, "", f"{frames}/<id>/*.jpg")
    looked = {"files": "VideoFlash", "frames": "Image-01-FPS"}.get(wanted, "VideoFlash or Image-01-FPS")
    raise NoLayout(f"{base}AudioWAV is there, but no {base}{looked} with the pictures.")


def _is_frames(name: str) -> bool:
    return re.fullmatch(r"Image-\d+-FPS", name) is not None


def _entries(folder: Folder, wanted: str, problems: list[Problem]) -> tuple[list[Entry], str]:
    """All rows of the lists in force, and where they come from."""
    merged = folder.first(*(f"{at}/{MERGED}".lstrip("/") for at in LISTS)) if wanted == "auto" else None
    if merged:
        return list(_merged(folder, merged, problems)), merged
    found: dict[str, str] = {}
    for at in LISTS if wanted == "auto" else ():
        parts = {split: folder.first(*_names(at, split)) for split in ("train", "val", "test")}
        if found := {split: path for split, path in parts.items() if path}:
            break
    for split in {"train", "test"} - found.keys() if found else ():
        there = ", ".join(found.values())
        problems.append(Problem("error", "missing-file", f"{there} is there, but no {split}.csv beside it"))
    if not found:
        return _shipped(), SHIPPED
    entries = [entry for split, path in found.items() for entry in _plain(folder, path, split, problems)]
    return entries, ", ".join(found.values())


def _shipped() -> list[Entry]:
    rows = enumerate(shipped(PUBLISHED), start=2)
    at = f"{PUBLISHED}.csv ({SHIPPED})"
    return [Entry(Spot(at, line), row["id"], row["label"], row["split"]) for line, row in rows]


def _names(at: str, split: str) -> list[str]:
    return [f"{at}/{split}{suffix}".lstrip("/") for suffix in (".csv", ".txt")]


def _plain(folder: Folder, path: str, split: str, problems: list[Problem]) -> Iterator[Entry]:
    """`id,CODE` without header (OGM-GE), `name,label` with one, or `name.flv Word` (MLA)."""
    for number, text in folder.lines(path, problems):
        cells = [cell.strip().strip('"') for cell in (text.split(",") if "," in text else text.split())]
        if number == 1 and cells and cells[0].lower() in ("id", "name", "filename"):
            continue
        if len(cells) != 2:
            problems.append(Problem("error", "bad-row", f"{text[:60]!r} is not `id,emotion`", number, path))
            continue
        yield Entry(Spot(path, number), cells[0], cells[1], split)


def _merged(folder: Folder, path: str, problems: list[Problem]) -> Iterator[Entry]:
    """`id,label,split` with a header."""
    for number, text in folder.lines(path, problems):
        cells = [cell.strip() for cell in text.split(",")]
        if number == 1 and cells == ["id", "label", "split"]:
            continue
        if len(cells) != 3:
            problems.append(Problem("error", "bad-row", f"{text[:60]!r} is not `id,label,split`", number, path))
            continue
        yield Entry(Spot(path, number), *cells)


def _checked(entry: Entry, problems: list[Problem]) -> tuple[str, str] | None:
    """(id, class name) of a row, or None where it cannot be used."""
    file, line = entry.spot

    def report(severity: str, rule: str, message: str) -> None:
        problems.append(Problem(severity, rule, message, line, file))

    stem = entry.id
    for suffix in MEDIA:
        stem = stem[: -len(suffix)] if stem.lower().endswith(suffix) else stem
    parts = ID.fullmatch(stem)
    if not parts:
        report("error", "bad-row", f"id {stem[:60]!r} is not ACTOR_SENTENCE_EMOTION_LEVEL, such as 1001_DFA_ANG_XX")
        return None
    if parts[2] == "X":
        report("warning", "quirk", f"'{stem}' is an old name of '{stem}X'")
        stem += "X"
    code = WORDS.get(entry.label.lower(), entry.label.upper())
    if code not in CODES:
        report("error", "unknown-label", f"label {entry.label!r}. {nearest(code, CODES)}")
        return None
    if code != parts[1]:
        report("error", "label-mismatch", f"'{stem}' is listed as {code}, its name says {parts[1]}")
    return stem, CODES[code]
