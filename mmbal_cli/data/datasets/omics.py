"""Tables of omics: one row a patient and one table a view, with ids (any names of views) or as MOGONET has them.

The numbers become the values themselves. A patient without a row in a view has a missing modality; empty cells are
reported, and what becomes of them is the user's choice.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping

from mmbal_cli.data.arrays import NAME, PARTS
from mmbal_cli.data.problems import Problem, some
from mmbal_cli.data.raw import Folder, NoLayout, Raw, Row, Spot
from mmbal_cli.errors import ManifestError

MOGONET = {"1": "mrna", "2": "meth", "3": "mirna"}
STUDIES: dict[tuple[int, ...], tuple[str, ...]] = {  # widths of the three views, as published -> class names
    (1000, 1000, 503): ("normal-like", "basal-like", "her2-enriched", "luminal-a", "luminal-b"),
    (200, 200, 200): ("control", "alzheimer"),
}
GAPS = {"", "na", "nan", "n/a", "null", "none"}
SHOWN = 3
Table = dict[str, tuple[int, list[float]]]  # patient -> (line, numbers)
Labels = dict[str, tuple[int, dict[str, str]]]  # patient -> (line, label, split and group)


def read_omics(folder: Folder, gaps: str) -> Raw:
    """Rows of either layout; `gaps` says what becomes of empty cells: report, missing or mean."""
    if folder.first("labels_tr.csv"):
        return _mogonet(folder, gaps)
    listed = folder.first("labels.csv")
    if listed is None:
        raise NoLayout("no labels_tr.csv (MOGONET) and no labels.csv")
    problems: list[Problem] = []
    labels = _labels(folder, listed, problems)
    views: dict[str, Table] = {}
    for stem, path in folder.stems("", ".csv", ".tsv").items():
        if path != listed and NAME.fullmatch(stem.lower()):
            views[stem.lower()] = _view(folder, path, problems)
    if not views:
        raise NoLayout("labels.csv, but no table of a view beside it")
    for view, table in views.items():
        extra = [patient for patient in table if patient not in labels]
        lacking = [patient for patient in labels if patient not in table]
        if extra:
            problems.append(_noted("unlisted-file", f"{view}: {len(extra)} rows are not in {listed}", extra))
        if lacking:
            text = f"{view}: {len(lacking)} of {len(labels)} patients have no row and count as missing"
            problems.append(_noted("quirk", text, lacking))
    tables = {view: _filled(view, table, labels, gaps, problems) for view, table in views.items()}
    rows: list[Row] = []
    for patient, (line, row) in labels.items():
        cells = {view: table[patient][1] if patient in table else None for view, table in tables.items()}
        rows.append((Spot(listed, line), {"id": patient, **row} | cells))
    names = sorted({row["label"] for _, row in labels.values()}, key=lambda name: (not name.isdecimal(), name.zfill(9)))
    layout = f"{', '.join(f'{view}.csv' for view in views)}, {listed}"
    return Raw(layout, listed, dict.fromkeys(views, "vector"), rows, problems, tuple(names))


def _noted(rule: str, text: str, patients: list[str], severity: str = "warning") -> Problem:
    return Problem(severity, rule, f"{text}: {some(patients, SHOWN)}")


def _labels(folder: Folder, path: str, problems: list[Problem]) -> Labels:
    """Patient -> (line, label, split and group) of labels.csv, whose first column may have any name."""
    records = _records(folder, path, problems)
    header = [cell.strip().lower() for cell in records[0][1]] if records else []
    missing = [name for name in ("label", "split") if name not in header]
    if missing:
        raise ManifestError(
            f"{folder.root / path} has no column '{missing[0]}'.", "Expected id, label, split[, group]."
        )
    found: Labels = {}
    for line, cells in records[1:]:
        if len(cells) != len(header):
            text = f"{len(cells)} cells under {len(header)} columns"
            problems.append(Problem("error", "bad-row", text, line, path))
            continue
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        patient = cells[0].strip()
        if patient in found:
            text = f"patient '{patient}' is already on line {found[patient][0]}"
            problems.append(Problem("error", "duplicate-id", text, line, path))
        fixed = {name: row.get(name, "") for name in ("label", "split", "group")}
        fixed["split"] = PARTS.get(fixed["split"].lower(), fixed["split"])
        found.setdefault(patient, (line, fixed))
    return found


def _records(folder: Folder, path: str, problems: list[Problem]) -> list[tuple[int, list[str]]]:
    lines = list(folder.lines(path, problems))
    comma = "\t" if path.lower().endswith(".tsv") else ","
    try:
        return [(line, next(csv.reader([text], delimiter=comma))) for line, text in lines if text.strip()]
    except csv.Error as error:
        raise ManifestError(f"{folder.root / path}: {error}.", "Expected well-formed cells.") from None


def _view(folder: Folder, path: str, problems: list[Problem]) -> Table:
    """A table with a header and the patient in the first column; NaN where a cell is empty or NA."""
    records = _records(folder, path, problems)
    found: Table = {}
    width = len(records[0][1]) - 1 if records else 0
    for line, cells in records[1:]:
        row = floats(cells[1:])
        if row is None or len(row) != width:
            what = next((cell for cell in cells[1:] if floats([cell]) is None), None)
            text = (
                f"cell {what!r} is no number"
                if what is not None
                else f"{len(cells) - 1} numbers, the header has {width}"
            )
            problems.append(Problem("error", "bad-row", f"patient '{cells[0]}': {text}", line, path))
        elif cells[0].strip() in found:
            first = found[cells[0].strip()][0]
            text = f"patient '{cells[0].strip()}' is already on line {first}"
            problems.append(Problem("error", "duplicate-id", text, line, path))
        else:
            found[cells[0].strip()] = line, row
    return found


def floats(cells: list[str]) -> list[float] | None:
    """Numbers, NaN for an empty cell or NA; None when a cell is something else."""
    try:
        return [math.nan if cell.strip().lower() in GAPS else float(cell) for cell in cells]
    except ValueError:
        return None


def _filled(view: str, table: Table, labels: Labels, gaps: str, problems: list[Problem]) -> Table:
    """What becomes of empty cells: reported, the patient's view missing, or the mean over the training patients."""
    import numpy as np

    holes = [patient for patient, (_, row) in table.items() if patient in labels and not all(map(math.isfinite, row))]
    if not holes:
        return table
    cells = sum(not math.isfinite(value) for patient in holes for value in table[patient][1])
    text = f"{view}: {cells} cells of {len(holes)} patients are empty, NA or not finite"
    if gaps == "report":
        text += " (--set source.gaps=missing, or mean of the training patients)"
        problems.append(_noted("bad-value", text, holes, "error"))
        return table
    problems.append(
        _noted("quirk", f"{text}; {'means of the training patients' if gaps == 'mean' else 'missing'}", holes)
    )
    if gaps == "missing":
        return {patient: entry for patient, entry in table.items() if patient not in holes}
    trained = [
        row for patient, (_, row) in table.items() if patient in labels and labels[patient][1]["split"] == "train"
    ]
    known = np.array(trained, np.float64).reshape(len(trained), -1)
    known[~np.isfinite(known)] = np.nan
    counted = np.isfinite(known).sum(0)
    means = np.divide(np.nansum(known, 0), counted, out=np.zeros(known.shape[1]), where=counted > 0)
    filled = dict(table)
    for patient in holes:
        line, row = table[patient]
        filled[patient] = line, [value if math.isfinite(value) else float(means[n]) for n, value in enumerate(row)]
    return filled


def _mogonet(folder: Folder, gaps: str) -> Raw:
    """N_tr.csv and N_te.csv without header or ids, rows in the order of labels_tr.csv and labels_te.csv."""
    problems: list[Problem] = []
    numbers = sorted({stem[:-3] for stem in folder.stems("", ".csv") if re.fullmatch(r"\d+_(tr|te)", stem)})
    labels: Labels = {}
    tables: dict[str, Table] = {MOGONET.get(number, f"view{number}"): {} for number in numbers}
    for part in ("tr", "te"):
        own = _marks(folder, part, problems)
        labels |= own
        for number, table in zip(numbers, tables.values(), strict=True):
            view = f"{number}_{part}.csv"
            rows = _numbers_of(folder, view, problems)
            if len(rows) != len(own):
                text = f"{len(rows)} rows, but labels_{part}.csv has {len(own)}; which belongs to whom is not known"
                problems.append(Problem("error", "bad-row", text, None, view))
            table.update({f"{part}-{n:04d}": entry for n, entry in enumerate(rows)})
    classes, names = _classes(tables, labels)
    tables = {view: _filled(view, table, labels, gaps, problems) for view, table in tables.items()}
    found: list[Row] = []
    for patient, (line, row) in labels.items():
        if row["label"]:
            cells = {view: table[patient][1] if patient in table else None for view, table in tables.items()}
            named = row | {"label": names[row["label"]]}
            found.append((Spot(f"labels_{patient[:2]}.csv", line), {"id": patient, **named} | cells))
    layout = f"MOGONET: {', '.join(f'{n}_tr.csv' for n in numbers)}, labels_tr.csv and the same with _te"
    return Raw(layout, "labels_tr.csv, labels_te.csv", dict.fromkeys(tables, "vector"), found, problems, classes)


def _marks(folder: Folder, part: str, problems: list[Problem]) -> Labels:
    """Class numbers of one part (written as 2.0e+00); patients are numbered."""
    path = f"labels_{part}.csv"
    found: Labels = {}
    for n, (line, row) in enumerate(_numbers_of(folder, path, problems)):
        whole = len(row) == 1 and row[0].is_integer()
        if not whole:
            problems.append(Problem("error", "bad-row", "expected one whole number", line, path))
        label = str(int(row[0])) if whole else ""
        found[f"{part}-{n:04d}"] = line, {"label": label, "split": {"tr": "train", "te": "test"}[part], "group": ""}
    return found


def _classes(tables: Mapping[str, Table], labels: Labels) -> tuple[tuple[str, ...], dict[str, str]]:
    """Class names, and the name of each number; a study is known by the widths of its views."""
    widths = tuple(len(next(iter(table.values()), (0, []))[1]) for table in tables.values())
    found = sorted({row["label"] for _, row in labels.values()} - {""}, key=int)
    known = STUDIES.get(widths, ())
    names = known if found == [str(n) for n in range(len(known))] else tuple(found)
    return names, dict(zip(found, names, strict=True))


def _numbers_of(folder: Folder, path: str, problems: list[Problem]) -> list[tuple[int, list[float]]]:
    if not folder.first(path):
        raise ManifestError(f"There is no {folder.root / path}.", "Expected N_tr.csv, N_te.csv and both labels files.")
    found: list[tuple[int, list[float]]] = []
    for line, cells in _records(folder, path, problems):
        row = floats(cells)
        width = len(found[0][1]) if found else len(cells)
        if row is None or len(row) != width:
            what = next((repr(cell) for cell in cells if floats([cell]) is None), f"{len(cells)} cells, above {width}")
            problems.append(Problem("error", "bad-row", f"found {what}", line, path))
        found.append((line, row if row is not None and len(row) == width else [math.nan] * width))
    return found
