"""Omics tables in small: invented patients, three views."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.kit.minis.common import Pitfall, replace
from tests.kit.minis.handwritten import instead

WIDTHS = {"mrna": 8, "meth": 6, "mirna": 5}
TYPES = ("basal-like", "luminal-a", "luminal-b")
TRAIN, TEST = 18, 6


def numbers() -> tuple[dict[str, np.ndarray], list[str]]:
    """View tables with one row a patient, and the type of each."""
    random = np.random.default_rng(0)
    labels = [TYPES[n % 3] for n in range(TRAIN + TEST)]
    centres = {view: random.normal(size=(3, width)) for view, width in WIDTHS.items()}
    which = np.array([TYPES.index(label) for label in labels])
    return {v: np.round(c[which] + random.normal(size=(len(labels), WIDTHS[v])), 4) for v, c in centres.items()}, labels


def build(root: Path) -> None:
    """Tables with ids: mrna.csv, meth.csv, mirna.csv, labels.csv."""
    root.mkdir(parents=True, exist_ok=True)
    tables, labels = numbers()
    for view, table in tables.items():
        lines = [",".join(["patient", *(f"{view}_{n}" for n in range(WIDTHS[view]))])]
        for n, row in enumerate(table):
            lines.append(",".join([f"P{n:03d}", *map(str, row)]))
        (root / f"{view}.csv").write_text("\n".join(lines) + "\n")
    splits = ["train"] * TRAIN + ["test"] * TEST
    lines = [f"P{n:03d},{label},{split}" for n, (label, split) in enumerate(zip(labels, splits, strict=True))]
    (root / "labels.csv").write_text("id,label,split\n" + "\n".join(lines) + "\n")


def mogonet(root: Path) -> None:
    """MOGONET's files: no header, no ids, rows in the order of the labels, names of features apart."""
    root.mkdir(parents=True, exist_ok=True)
    tables, labels = numbers()
    marks = np.array([TYPES.index(label) for label in labels], float)
    for part, rows in (("tr", slice(0, TRAIN)), ("te", slice(TRAIN, None))):
        np.savetxt(root / f"labels_{part}.csv", marks[rows], delimiter=",")
        for number, (view, table) in enumerate(tables.items(), start=1):
            np.savetxt(root / f"{number}_{part}.csv", table[rows], delimiter=",")
            (root / f"{number}_featname.csv").write_text("\n".join(f"{view}_{n}" for n in range(WIDTHS[view])))


def _cell(path: str, line: int, column: int, value: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        lines = (root / path).read_text().splitlines()
        cells = lines[line - 1].split(",")
        cells[column] = value
        lines[line - 1] = ",".join(cells)
        (root / path).write_text("\n".join(lines) + "\n")

    return plant


def _no_row(root: Path) -> None:
    lines = (root / "mirna.csv").read_text().splitlines()
    (root / "mirna.csv").write_text("\n".join(line for line in lines if not line.startswith("P005")) + "\n")


def _shorter(root: Path) -> None:
    path = root / "2_te.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")


PITFALLS = (
    Pitfall("no-row", _no_row, "quirk", "mirna: 1 of 24 patients have no row and count as missing: P005"),
    Pitfall("gaps", _cell("meth.csv", 4, 2, "NA"), "bad-value", "meth: 1 cells of 1 patients are empty"),
    Pitfall("infinite", _cell("meth.csv", 4, 2, "inf"), "bad-value", "not finite"),
    Pitfall("word", _cell("mrna.csv", 6, 3, "high"), "bad-row", "mrna.csv, line 6: patient 'P004': cell 'high'"),
    Pitfall("twice", _cell("mrna.csv", 6, 0, "P001"), "duplicate-id", "mrna.csv, line 6"),
    Pitfall("stranger", _cell("mrna.csv", 6, 0, "P999"), "unlisted-file", "P999"),
    Pitfall("split", _cell("labels.csv", 3, 2, "trian"), "unknown-split", "Did you mean 'train'"),
    Pitfall("not-utf8", lambda r: (r / "mrna.csv").open("ab").write(b"\xe9,1\n"), "bad-row", "line 26: byte 0xe9"),
    Pitfall("rows-differ", instead(mogonet, _shorter), "bad-row", "2_te.csv: 5 rows, but labels_te.csv has 6"),
    Pitfall(
        "half-a-class", instead(mogonet, lambda r: replace(r / "labels_tr.csv", "1.0000", "1.5000")), "bad-row", "whole"
    ),
)
VARIANTS = {"mogonet": mogonet}
