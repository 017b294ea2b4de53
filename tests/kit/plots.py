"""Studies with records of all columns, and what pictures of them contain."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mmbal_cli.report.plots import KINDS, Picture, render
from mmbal_cli.report.runs import Run, find_runs, read_run
from tests.kit.runs import write_study

SAVED = [kind for kind in KINDS if kind != "embedding"]
FEW = ("concat", "ogm-ge", "arl")
SVG = "{http://www.w3.org/2000/svg}"


def write_records(folder: Path, mods: Sequence[str] = ("audio", "video"), epochs: int = 12, **extra: Any) -> None:
    """Records with all common columns; some are probed every third epoch only, one is null once."""
    for place in sorted(folder.glob("seed-*")):
        rng = np.random.default_rng([int(place.name[5:]), len(folder.name)])
        rows = []
        for epoch in range(1, epochs + 1):
            row: dict[str, Any] = {"epoch": epoch, "phase": "warm" if epoch <= 4 else "train"}
            row["val/accuracy"] = 0.4 + 0.03 * epoch + 0.02 * rng.normal()
            for m in mods:
                row[f"val/accuracy/{m}"] = None if epoch == 7 else 0.3 + 0.02 * epoch + 0.01 * rng.normal()
                if epoch % 3 == 1:
                    row |= {f"train/nll/{m}": 1 / epoch, f"grad/{m}": float(rng.random()), f"discrepancy/{m}": 1.5}
            rows.append(row | extra)
        (place / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_recorded_study(root: Path) -> Path:
    """The small study of the kit, with records of all columns."""
    for label, folder in write_study(root).items():
        mods = (label.partition(":")[2],) if ":" in label else ("audio", "video")
        write_records(folder, mods, **({"coef/k/audio": 0.5, "coef/tau": 2.0} if label == "ogm-ge" else {}))
    return root


def read(root: Path) -> list[Run]:
    return [read_run(folder) for folder in find_runs([], root)]


def some(root: Path, labels: Collection[str] = FEW) -> list[Run]:
    return [run for run in read(root) if run.facts.label in labels]


def only(pictures: list[Picture]) -> Picture:
    assert len(pictures) == 1
    return pictures[0]


def texts(picture: Picture) -> list[str]:
    root = ElementTree.fromstring(render(picture, "svg"))
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


def lines(figure: Figure) -> list[np.ndarray]:
    """Points of every solid or dashed data line of all axes, [n,2]."""
    return [np.asarray(line.get_xydata()) for axes in figure.axes for line in axes.get_lines()]
