"""Real media through the whole pipeline: spoken letters (video + sound) and emoji (picture + text).

The sets lie in a folder `shared/data` beside the project and are not part of it; without them the tests are skipped.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

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


@pytest.mark.parametrize(
    ("make", "floor", "weak"), [(letters, 0.7, ("unimodal:mouth", 0.2)), (emoji, 0.75, ("unimodal:image", 0.45))]
)
def test_a_table_is_enough(tmp_path: Path, make: object, floor: float, weak: tuple[str, float]) -> None:
    root = make(tmp_path / "my.csv")  # type: ignore[operator]
    mmbal("prepare", "my.csv", "--root", str(root), cwd=tmp_path)
    settings = ("--set", "train.epochs=60", "--set", "train.width=128")
    mmbal("train", "-m", "unimodal,concat,arl", "--seeds", "2", *settings, cwd=tmp_path)
    shown = json.loads(mmbal("compare", "--format", "json", cwd=tmp_path).stdout)
    rows = {row["label"]: row for block in shown["blocks"] for row in block["rows"]}
    found = {name: row["metrics"]["accuracy"]["mean"] for name, row in rows.items()}
    assert found["concat"] > floor, found
    assert found["arl"] > floor, found
    assert found[weak[0]] > weak[1], found
