"""CREMA-D in small: invented actors 9001 to 9006, three emotions, real WAV and FLV, lists as of OGM-GE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.kit.minis.common import Pitfall, clip, picture, replace, sound
from tests.kit.minis.handwritten import instead

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 80000\n"
TRAIN = [f"{9001 + n}_ABC_{code}_{'MD' if n == 5 else 'XX'}" for n in range(6) for code in ("NEU", "HAP", "ANG")]
TEST = [f"{9001 + n}_XYZ_{code}_XX" for n in range(2) for code in ("ANG", "NEU", "HAP")]


def build(root: Path) -> None:
    """AudioWAV, VideoFlash, train.csv and test.csv: `id,CODE`, CRLF, no header."""
    _sounds(root)
    for seed, name in enumerate([*TRAIN, *TEST]):
        clip(root / f"VideoFlash/{name}.flv", seed, frames=13)
    lists(root)


def lists(root: Path) -> None:
    """The two lists; the second with a byte order mark and blank last lines."""
    for name, ids in (("train", TRAIN), ("test", TEST)):
        text = "".join(f"{one},{one.split('_')[2]}\r\n" for one in ids)
        (root / f"{name}.csv").write_bytes((f"\ufeff{text}\r\n\r\n" if name == "test" else text).encode())


def _sounds(root: Path) -> None:
    for seed, name in enumerate([*TRAIN, *TEST]):
        sound(root / f"AudioWAV/{name}.wav", seed, seconds=1.3)


def build_mp4(root: Path) -> None:
    """Videos that were remuxed, in a clone below the root; the lists in the folders of OGM-GE, one merged file."""
    _sounds(root / "CREMA-D")
    for seed, name in enumerate([*TRAIN, *TEST]):
        clip(root / f"CREMA-D/VideoFlash/{name}.mp4", seed, frames=13)
    (root / "data/CREMAD").mkdir(parents=True)
    rows = [f"{name},{name.split('_')[2]},{split}" for split, ids in (("train", TRAIN), ("test", TEST)) for name in ids]
    (root / "data/CREMAD/cremad_ogmge.csv").write_text("\n".join(["id,label,split", *rows, ""]))


def build_frames(root: Path) -> None:
    """Extracted frames instead of videos, two or three for each clip; a validation list; lists with a header."""
    _sounds(root)
    for seed, name in enumerate([*TRAIN, *TEST]):
        for number in range(2 + seed % 2):
            picture(root / f"Image-01-FPS/{name}/{number:05d}.jpg", 10 * seed + number)
    for name, ids in (("train", TRAIN[:12]), ("val", TRAIN[12:]), ("test", TEST)):
        (root / f"{name}.csv").write_text("".join(["name,label\n", *(f"{n},{n.split('_')[2]}\n" for n in ids)]))


VARIANTS = {"mp4": build_mp4, "frames": build_frames}

_FIRST = TRAIN[0]


def _append(root: Path, line: str, name: str = "train.csv") -> None:
    with (root / name).open("ab") as file:
        file.write(f"{line}\r\n".encode())


def _copy(root: Path, source: str, target: str) -> None:
    (root / target).write_bytes((root / source).read_bytes())


def _frame(text: str) -> Callable[[Path], object]:
    return lambda root: (root / f"Image-01-FPS/{_FIRST}/00001.jpg").write_text(text)


def _old_name(root: Path) -> None:
    path = root / f"AudioWAV/{_FIRST}.wav"
    path.rename(path.with_stem(_FIRST[:-1]))


PITFALLS = (
    Pitfall("audio-pointer", lambda root: (root / f"AudioWAV/{_FIRST}.wav").write_text(POINTER), "lfs-pointer", _FIRST),
    Pitfall(
        "video-pointer", lambda root: (root / f"VideoFlash/{_FIRST}.flv").write_text(POINTER), "lfs-pointer", _FIRST
    ),
    Pitfall("empty", lambda root: (root / f"VideoFlash/{TEST[0]}.flv").write_bytes(b""), "empty-file", TEST[0]),
    Pitfall("missing", lambda root: (root / f"AudioWAV/{TEST[1]}.wav").unlink(), "missing-file", TEST[1]),
    Pitfall("one-list", lambda root: (root / "test.csv").unlink(), "missing-file", "no test.csv"),
    Pitfall(
        "twins-across-splits",
        lambda root: _copy(root, f"AudioWAV/{_FIRST}.wav", f"AudioWAV/{TEST[0]}.wav"),
        "duplicate-source",
        TEST[0],
    ),
    Pitfall("old-name", _old_name, "quirk", f"{_FIRST[:-1]}.wav"),
    Pitfall(
        "label-against-name",
        lambda root: replace(root / "test.csv", f"{TEST[0]},ANG", f"{TEST[0]},SAD"),
        "label-mismatch",
        f"'{TEST[0]}' is listed as SAD, its name says ANG",
    ),
    Pitfall(
        "label-typo",
        lambda root: replace(root / "train.csv", f"{TRAIN[1]},HAP", f"{TRAIN[1]},HPA"),
        "unknown-label",
        "Did you mean 'HAP'",
    ),
    Pitfall("bad-id", lambda root: _append(root, "901_ABC_HAP_XX,HAP"), "bad-row", "901_ABC_HAP_XX"),
    Pitfall("not-a-row", lambda root: _append(root, "9001_ABC_HAP_XX;HAP"), "bad-row", "9001_ABC_HAP_XX;HAP"),
    Pitfall(
        "not-utf8",
        lambda root: (root / "train.csv").write_bytes((root / "train.csv").read_bytes() + b"9001_\xe9BC_HAP_XX,HAP"),
        "bad-row",
        "is not UTF-8",
    ),
    Pitfall("twice", lambda root: _append(root, f"{_FIRST},NEU"), "duplicate-id", _FIRST),
    Pitfall("in-both-lists", lambda root: _append(root, f"{TEST[0]},ANG"), "duplicate-id", TEST[0]),
    Pitfall(
        "not-listed", lambda root: sound(root / "AudioWAV/9009_ABC_SAD_LO.wav", 99), "unlisted-file", "9009_ABC_SAD_LO"
    ),
    Pitfall("too-short", lambda root: sound(root / f"AudioWAV/{_FIRST}.wav", 9, seconds=0.3), "too-short", _FIRST),
    Pitfall("too-long", lambda root: sound(root / f"AudioWAV/{_FIRST}.wav", 9, seconds=6), "too-long", _FIRST),
    Pitfall(
        "cut-off",
        lambda root: (root / f"VideoFlash/{_FIRST}.flv").write_bytes(b"FLV\x01\x05" + bytes(200)),
        "undecodable",
        _FIRST,
    ),
    Pitfall("few-frames", lambda root: clip(root / f"VideoFlash/{_FIRST}.flv", 99, frames=2), "too-short", _FIRST),
    Pitfall("many-takes", lambda root: clip(root / f"VideoFlash/{_FIRST}.flv", 9, frames=120), "too-long", _FIRST),
    Pitfall("frame-pointer", instead(build_frames, _frame(POINTER)), "lfs-pointer", f"{_FIRST}': 00001.jpg"),
    Pitfall("frame-empty", instead(build_frames, _frame("")), "undecodable", f"{_FIRST}/00001.jpg: is empty"),
    Pitfall("same-actors", lambda root: None, "group-overlap", "9001"),
)
