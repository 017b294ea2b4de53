"""The six-view digits in small: arrays of the real widths, in the three layouts; one pair of rows is the same twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.kit.minis.common import Pitfall, replace

WIDTHS = {"pix": 240, "fou": 76, "fac": 216, "zer": 47, "kar": 64, "mor": 6}
DIGITS, EACH = 10, 5


def views() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Six views, labels, and which rows test (the last of each digit, at the end as TMC has them)."""
    random = np.random.default_rng(0)
    labels = np.concatenate([np.repeat(np.arange(DIGITS), EACH - 1), np.arange(DIGITS)])
    held = np.arange(len(labels)) >= DIGITS * (EACH - 1)
    centres = {view: random.normal(size=(DIGITS, width)) for view, width in WIDTHS.items()}
    found = {view: random.normal(size=(len(labels), len(c[0]))) / 2 + c[labels] for view, c in centres.items()}
    return {view: np.abs(np.round(array, 3)).astype(np.float32) for view, array in found.items()}, labels, held


def build(root: Path) -> None:
    """handwritten6.npz."""
    root.mkdir(parents=True, exist_ok=True)
    arrays, labels, held = views()
    np.savez_compressed(root / "handwritten6.npz", **arrays, label=labels, is_test=held)


def tmc(root: Path) -> None:
    """The MATLAB file of TMC: doubles, digits from 1 to 10."""
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    arrays, labels, held = views()
    found = {"gt_train": labels[~held][:, None] + 1.0, "gt_test": labels[held][:, None] + 1.0}
    for number, array in enumerate(arrays.values(), start=1):
        found |= {f"x{number}_train": array[~held].astype(float), f"x{number}_test": array[held].astype(float)}
    savemat(root / "handwritten_6views.mat", found)


def uci(root: Path) -> None:
    """UCI's text files: columns of numbers, digits in order."""
    folder = root / "mfeat"
    folder.mkdir(parents=True, exist_ok=True)
    arrays, labels, _ = views()
    order = np.argsort(labels, kind="stable")
    for view, array in arrays.items():
        np.savetxt(folder / f"mfeat-{view}", array[order], fmt="%8.3f")


def instead(make: Callable[[Path], None], change: Callable[[Path], object]) -> Callable[[Path], None]:
    """A `plant` that builds another layout in place of the first one and breaks something in that."""

    def plant(root: Path) -> None:
        shutil.rmtree(root)
        make(root)
        change(root)

    return plant


def _change(name: str, at: int, value: object) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        with np.load(root / "handwritten6.npz") as file:
            arrays = dict(file)
        for key in WIDTHS if name == "views" else (name,):
            arrays[key][at] = arrays[key][value] if name == "views" else value
        np.savez(root / "handwritten6.npz", **arrays)

    return plant


def _word(root: Path) -> None:
    path = root / "mfeat" / "mfeat-zer"
    lines = path.read_text().splitlines()
    lines[6] = lines[6].replace("0.", "O.", 1)
    path.write_text("\n".join(lines) + "\n")


def _short(root: Path) -> None:
    path = root / "mfeat" / "mfeat-mor"
    last = path.read_text().split()[-1]
    replace(path, f" {last}\n", "\n")


def _lose(lines: slice) -> Callable[[Path], None]:
    """Lines lost in all six files."""

    def plant(root: Path) -> None:
        for path in (root / "mfeat").iterdir():
            kept = path.read_text().splitlines(keepends=True)
            del kept[lines]
            path.write_text("".join(kept))

    return plant


PITFALLS = (
    Pitfall("twin-rows", _change("views", 45, 3), "duplicate-source", "tmc-0003 (train) and tmc-0045 (test)"),
    Pitfall("label", _change("label", 4, 11), "bad-row", "label 11, expected 0 to 9"),
    Pitfall("word", instead(uci, _word), "bad-row", "mfeat/mfeat-zer, line 7: expected 47 numbers"),
    Pitfall("line-lost", instead(uci, _lose(slice(7, 8))), "bad-row", "mfeat-pix: 49 lines, UCI's have 2000"),
    Pitfall("ten-lines-lost", instead(uci, _lose(slice(7, 17))), "quirk", "40 lines, UCI's have 2000"),
    Pitfall("short-line", instead(uci, _short), "bad-row", "mfeat/mfeat-mor"),
)
VARIANTS = {"tmc-matlab": tmc, "uci-text": uci}
