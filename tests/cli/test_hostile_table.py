"""A table with everything that may be wrong with media: listed by `check`, refused or carried by `prepare`."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from mmbal_cli.errors import ManifestError
from mmbal_cli.store.sets import read_arrays, read_set
from tests.kit.cli import invoke as run
from tests.kit.media import png_claiming, wav_claiming
from tests.kit.minis.common import clip, picture, sound

HEADER = "id,split,label,video,audio,image,text"


def hostile(root: Path) -> dict[str, tuple[str, str]]:
    """Cells of the bad samples: id -> (column, value)."""
    outside = root.parent / "outside"
    sound(outside / "secret.wav", 99)
    (root / "link.wav").symlink_to(outside / "secret.wav")
    (root / "linked").symlink_to(outside)
    wav_claiming(root / "tenhours.wav", 36_000)
    png_claiming(root / "huge.png", 10_000, 6_000)
    (root / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (root / "page.mp4").write_text("<html>not found</html>")
    lies = bytearray(clip(root / "lies.avi", 7, frames=12, sound=False).read_bytes())
    for mark, offset in ((b"strh", 40), (b"avih", 24)):
        lies[lies.index(mark) + offset : lies.index(mark) + offset + 4] = (9000).to_bytes(4, "little")
    (root / "lies.avi").write_bytes(lies)
    return {
        "climbs": ("audio", "../outside/secret.wav"),
        "absolute": ("audio", str(outside / "secret.wav")),
        "link": ("audio", "link.wav"),
        "linked": ("audio", "linked/secret.wav"),
        "gone": ("video", "gone.mp4"),
        "long": ("audio", "tenhours.wav"),
        "huge": ("image", "huge.png"),
        "latin": ("text", "file:latin.txt"),
        "page": ("video", "page.mp4"),
        "beyond": ("video", "lies.avi#t=60,62"),
        "mute": ("audio", "mute.mp4"),
    }


UNSAFE = {"climbs", "absolute", "link", "linked"}
RULES = dict.fromkeys(UNSAFE, "unsafe-path") | {
    "gone": "missing-file",
    "long": "too-long",
    "huge": "too-large",
    "latin": "undecodable",
    "page": "undecodable",
    "beyond": "undecodable",  # the header says that it is there: only decoding tells
    "mute": "no-audio",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "media").mkdir()
    return tmp_path / "media"


def table(root: Path, bad: dict[str, tuple[str, str]]) -> Path:
    """Eight sound samples, and the bad ones in train: each lacks nothing but the one cell."""
    clip(root / "mute.mp4", 50, sound=False)
    lines = [HEADER]
    for n in range(8 + len(bad)):
        name = list(bad)[n - 8] if n >= 8 else f"good{n}"
        split = ("train", "train", "val", "test")[n // 2] if n < 8 else "train"
        cells = {
            "video": clip(root / f"{n}.avi", n, sound=False).name,
            "audio": sound(root / f"{n}.wav", n).name,
            "image": picture(root / f"{n}.png", n).name,
            "text": f"words of {n}",
        }
        cells |= dict([bad[name]]) if name in bad else {}
        lines.append(",".join([name, split, "no" if n % 2 else "yes", *(f'"{cell}"' for cell in cells.values())]))
    path = root / "samples.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_check_lists_each_with_its_reason_and_prepare_refuses(root: Path) -> None:
    path = table(root, hostile(root))
    report = json.loads(run("data", "check", str(path), "--full", "--format", "json", code=1).stdout)
    lines = {n: line.partition(",")[0] for n, line in enumerate(path.read_text().splitlines(), 1)}
    found = defaultdict(set)
    for finding in report["findings"]:
        name = lines.get(finding["line"]) or finding["message"].partition("'")[2].partition("'")[0]
        found[name].add(finding["rule"])
    assert {name: set(rules) for name, rules in found.items()} == {name: {rule} for name, rule in RULES.items()}
    with pytest.raises(ManifestError, match=r"unsafe-path x 4"):
        run("prepare", str(path), "--skip-bad")


def test_what_can_be_carried_is_carried_as_missing(root: Path) -> None:
    bad = {name: cell for name, cell in hostile(root).items() if name not in UNSAFE}
    path = table(root, bad)
    said = run("prepare", str(path), "--skip-bad")
    prepared = read_set(root.parent / "cache", "samples")
    arrays = read_arrays(root.parent / "cache", prepared)
    for name, (modality, _) in bad.items():
        row = arrays["ids"].index(name)
        for each in ("video", "audio", "image", "text"):
            assert arrays["mask"][each][row].all() == (each != modality), (name, each)
    shown = json.loads(run("data", "show", "samples", "--format", "json").stdout)
    reasons = {entry["id"]: entry["reason"] for m in shown["modalities"].values() for entry in m["bad"]}
    assert reasons.keys() == bad.keys()
    assert "36000 s" in reasons["long"]
    assert "60 megapixels" in reasons["huge"]
    assert "no UTF-8" in reasons["latin"]
    assert "7 bad samples are carried as missing" in " ".join(said.stderr.split())
