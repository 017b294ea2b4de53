"""Plain vector sets: the six views of UCI's handwritten digits, and tables of omics with one row a patient.

Numbers of text tables and of MATLAB files are read whole and become the values themselves; those of .npz stay where
they are and are read row by row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from mmbal_cli.data.datasets.omics import floats, read_omics
from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Folder, NoLayout, Raw, Row, Spot
from mmbal_cli.errors import ManifestError

if TYPE_CHECKING:
    import numpy as np

OPTIONS = {"set": ("handwritten", "multi-omics"), "gaps": ("report", "missing", "mean")}
VIEWS = {"pix": 240, "fou": 76, "fac": 216, "zer": 47, "kar": 64, "mor": 6}
DIGITS, EACH, HELD_OUT = 10, 200, 40
PLAIN = {"double", "single", "logical"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
MAT_LIMIT = 256 << 20  # bytes of one matrix
SHOWN = 3


def read(folder: Folder, options: Mapping[str, str]) -> Raw:
    """One row a digit or patient, one modality a view."""
    return _handwritten(folder) if options["set"] == "handwritten" else read_omics(folder, options["gaps"])


# -------------------------------------------------------------------------------------- handwritten


def _handwritten(folder: Folder) -> Raw:
    for name in ("handwritten6.npz", "handwritten6/handwritten6.npz", "handwritten.npz"):
        if folder.first(name):
            return _digits_npz(folder, name)
    for name in ("handwritten_6views.mat", "datasets/handwritten_6views.mat"):
        if folder.first(name):
            return _digits_mat(folder, name)
    for place in ("", "mfeat/"):
        if folder.first(f"{place}mfeat-pix"):
            return _digits_text(folder, place)
    raise NoLayout("no handwritten6.npz, handwritten_6views.mat or mfeat-pix")


def _digits_npz(folder: Folder, name: str) -> Raw:

    from mmbal_cli.media.arrays import check_stored, members

    found = members(folder.root / name)
    check_stored(folder.root / name)
    missing = sorted({*VIEWS, "label", "is_test"} - found.keys())
    if missing:
        raise ManifestError(f"{folder.root / name} holds no '{missing[0]}'.", f"It holds {', '.join(sorted(found))}.")
    views = {view: found[view].read() for view in VIEWS}
    labels, held = (found[key].read().reshape(-1).astype(int).tolist() for key in ("label", "is_test"))
    places = {view: [f"{name}#{view}/{n}" for n in range(len(labels))] for view in VIEWS}
    splits = ["test" if test else "train" for test in held]
    return _digits(name, "is_test of the file, the split of TMC", views, labels, splits, places, "tmc")


def _digits_mat(folder: Folder, name: str) -> Raw:
    """TMC's file: x1_train ... x6_test, gt_train and gt_test from 1 to 10; views are known by their widths."""
    import numpy as np

    found = _matrices(folder, name)
    views: dict[str, np.ndarray] = {}
    for number in range(1, len(VIEWS) + 1):
        parts = [found.get(f"x{number}_{part}") for part in ("train", "test")]
        if any(part is None or part.ndim != 2 for part in parts):
            raise ManifestError(
                f"{folder.root / name} holds no x{number}_train and x{number}_test.", "Expected TMC's file."
            )
        whole = np.concatenate([np.asarray(part, np.float64) for part in parts if part is not None])
        view = next((view for view, width in VIEWS.items() if width == whole.shape[1]), f"x{number}")
        views[view] = whole
    marks = [np.asarray(found.get(f"gt_{part}", np.zeros(0))).reshape(-1) for part in ("train", "test")]
    labels = [int(mark) - 1 for part in marks for mark in part.tolist()]
    splits = ["train"] * len(marks[0]) + ["test"] * len(marks[1])
    values = {view: array.tolist() for view, array in views.items()}
    return _digits(name, "x*_train, x*_test of the file, the split of TMC", views, labels, splits, values, "tmc")


def _matrices(folder: Folder, name: str) -> dict[str, np.ndarray]:
    """Plain numeric matrices of a MATLAB file up to version 7; objects, cells and structs are not touched."""
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    path = folder.root / name
    with path.open("rb") as stream:
        head = stream.read(128)
    if head.startswith((b"\x89HDF\r\n\x1a\n", b"MATLAB 7.3")):
        raise ManifestError(f"{path} is a MATLAB 7.3 file.", "Expected version 7 or older.", "save -v7 in MATLAB.")
    try:
        plain = {
            "double",
            "single",
            "int8",
            "uint8",
            "int16",
            "uint16",
            "int32",
            "uint32",
            "int64",
            "uint64",
            "logical",
        }
        names = [key for key, shape, kind in whosmat(path) if kind in plain and 8 * math.prod(shape) <= MAT_LIMIT]
        found = loadmat(path, variable_names=names)
    except (MatReadError, ValueError, TypeError, OSError, KeyError, NotImplementedError) as error:
        raise ManifestError(f"{path} cannot be read as MATLAB ({' '.join(str(error).split())[:200]}).") from None
    return {key: found[key] for key in names if key in found}


def _digits_text(folder: Folder, place: str) -> Raw:
    """UCI's files: 2000 lines a view, 200 a digit in order; the last 40 of each digit are held out."""
    import numpy as np

    problems: list[Problem] = []
    values: dict[str, list[list[float]]] = {}
    for view, width in VIEWS.items():
        path = f"{place}mfeat-{view}"
        if not folder.first(path):
            raise ManifestError(
                f"There is no {folder.root / path}.", "Expected mfeat-pix, -fou, -fac, -zer, -kar, -mor."
            )
        values[view] = []
        for line, text in folder.lines(path, problems):
            row = floats(text.split())
            if row is None or len(row) != width:
                found = f"expected {width} numbers, found {text[:40]!r}"
                problems.append(Problem("error", "bad-row", found, line, path))
            values[view].append(row if row is not None and len(row) == width else [math.nan] * width)
    count = len(values["pix"])
    each = max(1, count // DIGITS)  # the labels are in no file: they follow from the place of a line
    if count != DIGITS * EACH:
        said = f"{count} lines, UCI's have {DIGITS * EACH}; as many of each digit are assumed"
        severity, rule = ("warning", "quirk") if count % DIGITS == 0 else ("error", "bad-row")
        problems.append(Problem(severity, rule, said, None, f"{place}mfeat-pix"))
    labels = [min(n // each, DIGITS - 1) for n in range(count)]
    held = max(1, each * HELD_OUT // EACH)
    splits = ["test" if n % each >= each - held else "train" for n in range(count)]
    views = {view: np.array(rows) for view, rows in values.items()}
    lists = f"the last {held} of each digit are held out (UCI publishes no split; this is not TMC's)"
    raw = _digits(f"{place}mfeat-*", lists, views, labels, splits, values, "uci")
    raw.problems[:0] = problems
    return raw


def _digits(
    layout: str,
    lists: str,
    views: Mapping[str, np.ndarray],
    labels: list[int],
    splits: list[str],
    values: Mapping[str, list[Any]],
    prefix: str,
) -> Raw:
    """Rows of all six views; checks shapes, label range, values, and rows that are the same in two splits."""
    problems = []
    for view, width in VIEWS.items():
        if view not in views or views[view].ndim != 2 or views[view].shape != (len(labels), width):
            shape = list(views[view].shape) if view in views else "missing"
            found = f"view '{view}' is {shape}, expected [{len(labels)}, {width}]"
            raise ManifestError(f"{layout}: {found}.", "Expected the six views of UCI Multiple Features.")
    rows: list[Row] = []
    first: dict[str, int] = {}
    twins = []
    for n, label in enumerate(labels):
        if not 0 <= label < DIGITS:
            problems.append(Problem("error", "bad-row", f"label {label}, expected 0 to 9", n + 1, layout))
            continue
        same = first.setdefault(sha256(b"".join(views[view][n].tobytes() for view in VIEWS)).hexdigest(), n)
        if splits[same] != splits[n]:
            twins.append(f"{prefix}-{same:04d} ({splits[same]}) and {prefix}-{n:04d} ({splits[n]})")
        fixed = {"id": f"{prefix}-{n:04d}", "split": splits[n], "label": str(label), "group": ""}
        rows.append((Spot(layout, n + 1), fixed | {view: values[view][n] for view in VIEWS}))
    if twins:
        text = f"the same numbers in all views, as published: {'; '.join(twins[:SHOWN])}"
        problems.append(Problem("warning", "duplicate-source", text))
    return Raw(layout, lists, dict.fromkeys(VIEWS, "vector"), rows, problems)
