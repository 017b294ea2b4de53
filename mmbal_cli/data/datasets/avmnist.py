"""AV-MNIST: a written digit beside a spoken one of the same class.

Version A: the arrays of MultiBench and AGM, mapped and never read whole. Version B: pairs made here, of MNIST (IDX) and
the recordings of the Free Spoken Digit Dataset, without replacement inside a class and never across splits.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Folder, NoLayout, Raw, Row, Spot
from mmbal_cli.errors import ManifestError

if TYPE_CHECKING:
    from mmbal_cli.media.arrays import Member

OPTIONS = {"split": ("official", "speaker"), "version": ("any", "arrays", "pairs")}
DIGITS = tuple(str(digit) for digit in range(10))
HELD = 12  # one of so many train rows, the last ones, validates: 5,000 of 60,000
PLACES = ("", "avmnist/", "av_mnist/", "AVMNIST/")
SHAPES = {"image": (784,), "audio": (112, 112)}
RECORDING = re.compile(r"(\d)_([a-z]+)_(\d{1,4})")
SOUNDS = ("recordings", "free-spoken-digit-dataset/recordings", "fsdd/recordings", "fsdd", "audio")
PICTURES = ("", "mnist/", "MNIST/raw/", "MNIST/", "image/")
TEST_TAKES = 5  # the official split of the recordings: takes 0 to 4 test
TEST_SPEAKERS = ("lucas", "theo")
SEED = 0


def read(folder: Folder, options: Mapping[str, str]) -> Raw:
    """The arrays when they are there, else pairs of pictures and recordings."""
    wanted = options["version"]
    place = next((place for place in PLACES if folder.first(f"{place}image/train_data.npy")), None)
    sounds = folder.first(*SOUNDS)
    if place is not None and wanted != "pairs":
        return _arrays(folder, place)
    if sounds is not None and wanted != "arrays" and folder.stems(sounds, ".wav"):
        return _pairs(folder, sounds, options["split"])
    raise NoLayout("no image/train_data.npy, and no recordings/*.wav beside train-images-idx3-ubyte")


# ----------------------------------------------------------------------------------------- version A


def _arrays(folder: Folder, place: str) -> Raw:
    problems: list[Problem] = []
    rows: list[Row] = []
    for part in ("train", "test"):
        path = f"{place}{part}_labels.npy"
        labels = _labels_of(folder, path, problems)
        files = {m: f"{place}{m}/{part}_data.npy" for m in SHAPES}
        for modality, file in files.items():
            _check(folder, file, modality, len(labels), path, problems)
        first_held = len(labels) - round(len(labels) / HELD)
        for n, label in enumerate(labels):
            split = "test" if part == "test" else "val" if n >= first_held else "train"
            fixed = {"id": f"{part}-{n:05d}", "split": split, "label": label, "group": ""}
            rows.append((Spot(path, n + 1), fixed | {m: f"{file}#{n}" for m, file in files.items()}))
    layout = f"{place}image/*_data.npy, {place}audio/*_data.npy, {place}*_labels.npy (MultiBench, AGM)"
    lists = "train_ and test_ files; the last twelfth of train (5,000 of 60,000) validates"
    return Raw(layout, lists, dict.fromkeys(SHAPES, "vector"), rows, problems)


def _member(folder: Folder, path: str) -> Member:
    from mmbal_cli.media.arrays import members

    if folder.first(path) is None:
        raise ManifestError(f"There is no {folder.root / path}.", "Expected all six arrays of AV-MNIST.")
    return members(folder.root / path)[""]


def _labels_of(folder: Folder, path: str, problems: list[Problem]) -> list[str]:
    one = _member(folder, path)
    if len(one.shape) != 1 or one.dtype.kind not in "iuf":
        found = f"{folder.root / path} has the shape {list(one.shape)} and type {one.dtype}."
        raise ManifestError(found, "Expected one digit a sample: [N].")
    labels = [f"{value:g}" for value in one.read().tolist()]
    for n in [n for n, label in enumerate(labels) if label not in DIGITS]:
        problems.append(Problem("error", "bad-row", f"label {labels[n]}, expected 0 to 9", n + 1, path))
    return labels


def _check(folder: Folder, file: str, modality: str, count: int, path: str, problems: list[Problem]) -> None:

    one, shape = _member(folder, file), SHAPES[modality]
    if one.shape[1:] != shape or one.dtype.kind not in "iuf":
        found = f"{folder.root / file} has the shape {list(one.shape)} and type {one.dtype}."
        raise ManifestError(found, f"Expected [{count}, {', '.join(map(str, shape))}].")
    if one.shape[0] != count:
        text = f"{one.shape[0]} rows, but {path} has {count}; which belongs to which is not known"
        problems.append(Problem("error", "bad-row", text, None, file))
    some = one.read(0, 64)  # the file may have gigabytes
    if some.size and one.dtype.kind == "f" and float(some.max()) <= 1:
        problems.append(Problem("warning", "quirk", "values are at most 1, usually they are 0 to 255", None, file))


# ----------------------------------------------------------------------------------------- version B


def _pairs(folder: Folder, sounds: str, way: str) -> Raw:
    problems: list[Problem] = []
    takes = _takes(folder, sounds, problems)
    files = {part: _idx(folder, part) for part in ("train", "t10k")}
    pictures = {part: _digits_of(folder, part, *found) for part, found in files.items()}
    place = {(part, digit): iter(_shuffled(part, rows)) for part, by in pictures.items() for digit, rows in by.items()}
    rows: list[Row] = []
    for digit, speaker, take in takes:
        test = speaker in TEST_SPEAKERS if way == "speaker" else take < TEST_TAKES
        part = "t10k" if test else "train"
        image = next(place.get((part, digit), iter(())), None)
        stem = f"{digit}_{speaker}_{take}"
        if image is None:
            text = f"{part} has fewer pictures of {digit} than there are recordings; '{stem}' stays without one"
            problems.append(Problem("warning", "quirk", text))
        rows.append(
            (
                len(rows) + 1,
                {
                    "id": f"{stem}+mnist-{part}-{image}" if image is not None else stem,
                    "split": "test" if test else "train",
                    "label": digit,
                    "group": speaker,
                    "image": None if image is None else f"{files[part][0]}#{image}",
                    "audio": f"{sounds}/{stem}.wav",
                },
            )
        )
    layout = f"{sounds}/*.wav (Free Spoken Digit Dataset), {files['train'][0]} (MNIST)"
    lists = {
        "official": f"takes 0 to {TEST_TAKES - 1} of each speaker and digit are the test part",
        "speaker": f"the speakers {' and '.join(TEST_SPEAKERS)} are the test part",
    }[way]
    return Raw(
        layout, f"{lists}; pairs made by mmbal, seed {SEED}", {"image": "vector", "audio": "audio"}, rows, problems
    )


def _takes(folder: Folder, sounds: str, problems: list[Problem]) -> list[tuple[str, str, int]]:
    """Digit, speaker and number of every recording there should be: of each speaker and digit as many as of any."""
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    for stem, path in folder.stems(sounds, ".wav").items():
        match = RECORDING.fullmatch(stem)
        if match:
            found[match[1], match[2]].add(int(match[3]))
        else:
            problems.append(Problem("warning", "unlisted-file", f"{path} is not named DIGIT_SPEAKER_NUMBER.wav"))
    digits, speakers = sorted({digit for digit, _ in found}), sorted({speaker for _, speaker in found})
    last = max((max(takes) for takes in found.values()), default=-1)
    lacking = Counter(
        {(d, s): n for d in digits for s in speakers if (n := last + 1 - len(found[d, s])) > 0}  # missing files follow
    )
    if lacking:
        (digit, speaker), count = lacking.most_common(1)[0]
        text = f"{lacking.total()} recordings are missing, such as {count} of {digit} by {speaker}"
        problems.append(Problem("warning", "quirk", text, None, sounds))
    return [(digit, speaker, take) for digit in digits for speaker in speakers for take in range(last + 1)]


def _idx(folder: Folder, part: str) -> tuple[str, str]:
    """Paths of the pictures and labels of one part of MNIST, packed or not, with a dash or a dot in their names."""
    found = []
    for what in ("images{}idx3-ubyte", "labels{}idx1-ubyte"):
        names = [f"{place}{part}-{what.format(dot)}{end}" for place in PICTURES for dot in "-." for end in ("", ".gz")]
        path = folder.first(*names)
        if path is None:
            raise ManifestError(
                f"{folder.root} holds no {part}-{what.format('-')} of MNIST, with or without .gz.",
                f"Looked in {', '.join(place or '.' for place in PICTURES)}.",
            )
        found.append(path)
    return found[0], found[1]


def _digits_of(folder: Folder, part: str, images: str, labels: str) -> dict[str, list[int]]:
    """Rows of each digit in one part of MNIST."""
    from mmbal_cli.media.arrays import members

    pictures, marks = (members(folder.root / path)[""] for path in (images, labels))
    if pictures.shape[1:] != (28, 28) or marks.shape != pictures.shape[:1]:
        found = f"{images} has the shape {list(pictures.shape)}, {labels} {list(marks.shape)}."
        raise ManifestError(found, f"Expected [N,28,28] and [N] of {part}.")
    rows: dict[str, list[int]] = defaultdict(list)
    for row, mark in enumerate(marks.read().tolist()):
        rows[str(mark)].append(row)
    return rows


def _shuffled(part: str, rows: list[int]) -> list[int]:
    """In an order that depends on the seed and each row alone, so that it is the same everywhere and for ever."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{SEED}:{part}:{row}".encode()).digest())
