"""Real data through the whole pipeline: spoken letters (video + sound), emoji (picture + text), six views of digits.

The sets lie in a folder `shared/data` beside the project and are not part of it; without them the tests are skipped.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.kit.cli import ROOT, mmbal

DATA = ROOT.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not beside the project")


def letters(table: Path) -> Path:
    """Eight letters of the GRID clips."""
    with (DATA / "grid_letters" / "manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["letter"] in "abfhimos"]
    lines = [f"{r['id']},{r['split']},{r['letter']},video/{r['id']}.mp4,audio/{r['id']}.wav" for r in rows]
    table.write_text("id,split,label,video:mouth,audio:voice\n" + "\n".join(lines) + "\n")
    return DATA / "grid_letters"


def emoji(table: Path) -> Path:
    """All emoji with name and tags."""
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "label", "group", "image", "text"])
        for split in ("train", "dev", "test"):
            for line in (DATA / "twemoji_groups" / f"{split}.jsonl").open():
                r = json.loads(line)
                writer.writerow([r["id"], split, r["label"], r["family"], r["img"], r["text"]])
    return DATA / "twemoji_groups"


def views(table: Path, *names: str) -> None:
    """Some of the six views of the digits, each number where it lies in the file."""
    file = np.load(DATA / "handwritten6" / "handwritten6.npz")
    with table.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["id", "split", "label", *(f"vector:{name}" for name in names)])
        for n, (label, test) in enumerate(zip(file["label"], file["is_test"], strict=True)):
            places = [f"handwritten6.npz#{name}/{n}" for name in names]
            writer.writerow([f"d{n:04d}", "test" if test else "train", label, *places])


def accuracies(place: Path) -> dict[str, float]:
    """Mean test accuracy by method of all runs."""
    shown = json.loads(mmbal("compare", "--format", "json", cwd=place).stdout)
    rows = [row for block in shown["blocks"] for row in block["rows"]]
    return {row["label"]: row["metrics"]["accuracy"]["mean"] for row in rows}


@pytest.mark.parametrize(
    ("make", "floor", "weak", "lead"),
    [(letters, 0.7, ("unimodal:mouth", 0.2), "voice"), (emoji, 0.75, ("unimodal:image", 0.45), "text")],
)
def test_a_table_is_enough(
    tmp_path: Path, make: Callable[[Path], Path], floor: float, weak: tuple[str, float], lead: str
) -> None:
    root = make(tmp_path / "my.csv")
    mmbal("prepare", "my.csv", "--root", str(root), cwd=tmp_path)
    assert json.loads(mmbal("data", "probe", "--format", "json", cwd=tmp_path).stdout)["dominant"] == lead
    settings = ("--set", "train.epochs=60", "--set", "train.width=128")
    mmbal("train", "-m", "unimodal,concat,arl", "--seeds", "2", *settings, cwd=tmp_path)
    found = accuracies(tmp_path)
    assert found["concat"] > floor, found
    assert found["arl"] > floor, found
    assert found[weak[0]] > weak[1], found


def test_six_views_by_name(tmp_path: Path) -> None:
    root = DATA / "handwritten6"
    done = mmbal("prepare", "handwritten", "--data-root", str(root), cwd=tmp_path)
    assert "the published split 'tmc'" in done.stderr
    probes = json.loads(mmbal("data", "probe", "--format", "json", cwd=tmp_path).stdout)
    assert probes["order"][-1] == "mor"
    assert {"pix", "fac", "kar"} == set(probes["order"][:3])
    mmbal("train", "-m", "concat,etmc", "--seeds", "2", "--set", "train.epochs=15", cwd=tmp_path)
    found = accuracies(tmp_path)
    assert min(found.values()) > 0.97, found


def test_some_of_the_views_leave_room(tmp_path: Path) -> None:
    views(tmp_path / "three.csv", "fou", "zer", "mor")
    mmbal("prepare", "three.csv", "--root", str(DATA / "handwritten6"), cwd=tmp_path)
    settings = ("--set", "train.epochs=30", "--set", "train.width=64")
    mmbal("train", "-m", "unimodal,concat", "--seeds", "2", *settings, cwd=tmp_path)
    found = accuracies(tmp_path)
    assert 0.84 < found["concat"] < 0.93, found
    assert found["concat"] > max(value for name, value in found.items() if name != "concat") + 0.02, found
