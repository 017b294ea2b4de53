"""Existing features -> the sample table: arrays by name in .npz, HDF5 or a folder of .npy files.

Arrays are named by their modality, [N,F] or [N,T,F]; beside them `label` [N], a split (`split`, `is_test`, or groups
`train/`, `val/`, `test/` that hold the arrays), and if wanted `id`, `group`, `classes`, `NAME_lengths`, `mask_NAME`.
Nothing is guessed: what fits no rule is an error that says what was found and what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Folder, Raw, Row, Spot
from mmbal_cli.errors import ManifestError, nearest

if TYPE_CHECKING:
    import numpy as np

    from mmbal_cli.media.arrays import Member

FILES = (".npz", ".h5", ".hdf5")
PICKLES = (".pkl", ".pickle", ".p", ".pt", ".pth", ".joblib", ".dill")
ROLES = {
    "label": ("label", "labels", "y"),
    "split": ("split", "splits"),
    "is_test": ("is_test",),
    "id": ("id", "ids"),
    "group": ("group", "groups"),
    "classes": ("classes", "class_names"),
}
PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"} | {
    "test": "test",
    "testing": "test",
}
NAME = re.compile(r"[a-z0-9]+(?:[_-][a-z0-9]+)*")
KNOWN = "label, split or is_test, id, group, classes, NAME_lengths, mask_NAME, and [N,F] or [N,T,F] named by modality"

REASON = "A pickle can run any code on this machine when it is read, so mmbal never opens one."
CONVERT = """Convert it yourself, where you trust the file
(a fresh environment without your keys is best):

    import pickle
    import numpy as np
    with open("{name}", "rb") as file:
        data = pickle.load(file)  # runs what the file says
    keep = "text audio vision text_bert id labels".split()
    keep += ["audio_lengths", "vision_lengths"]
    keep += ["regression_labels", "classification_labels"]
    found = {{}}
    for part, arrays in data.items():
        for key in set(keep) & set(arrays):
            kind = "U" if key == "id" else None
            found[part + "/" + key] = np.asarray(arrays[key], kind)
    np.savez("{stem}.npz", **found)"""


def refuse_pickle(path: Path) -> ManifestError:
    """The error for a pickle: why it is not read, and the lines that convert one."""
    return ManifestError(f"{path} is a pickle.", REASON, CONVERT.format(name=path.name, stem=path.stem))


def read_arrays_as_table(path: Path) -> Raw:
    """The table of a .npz or HDF5 file, of a folder of .npy arrays, or of FOLDER/MODALITY/ID.npy with labels.csv.

    Values are relative to the folder that holds the file, or to the folder itself. ManifestError or MediaError say
    what cannot be used; what is wrong with single rows is in `problems`.
    """
    if path.suffix.lower() in PICKLES:
        raise refuse_pickle(path)
    if path.is_dir():
        if (path / "labels.csv").is_file():
            return _one_file_a_sample(path)
        return _Table(path, dict(_folder_of_arrays(path))).raw(f"{path.name}/*.npy")
    if path.suffix.lower() not in FILES:
        raise ManifestError(f"{path} holds no arrays that can be read.", f"Expected {', '.join(FILES)} or a folder.")
    if not path.is_file():
        raise ManifestError(f"There is no file {path}.", "Expected a file of arrays.")
    from mmbal_cli.media.arrays import check_packed, check_stored, members

    check_packed(path, members(path).values())
    check_stored(path)
    found = {name: (f"{path.name}#{name}/", one) for name, one in members(path).items()}
    return _Table(path, found).raw(path.name)


def _folder_of_arrays(path: Path) -> Iterator[tuple[str, tuple[str, Member]]]:
    from mmbal_cli.media.arrays import members

    for file in sorted(path.rglob("*.npy")):
        relative = file.relative_to(path)
        if not relative.name.startswith("."):
            yield relative.with_suffix("").as_posix(), (f"{relative.as_posix()}#", members(file)[""])


def split_parts(names: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """{"train": {"audio": "train/audio"}} for groups named as splits, else {"": {name: name}}."""
    parts: dict[str, dict[str, str]] = {}
    for name in names:
        head, slash, rest = name.partition("/")
        part = PARTS.get(head.lower(), "") if slash else ""
        parts.setdefault(part, {})[(rest if part else name)] = name
    return parts


@dataclass
class Columns:
    """The arrays of one table by role: columns, features by modality, lengths and masks of modalities."""

    columns: dict[str, str] = field(default_factory=dict)
    features: dict[str, str] = field(default_factory=dict)
    lengths: dict[str, str] = field(default_factory=dict)
    masks: dict[str, str] = field(default_factory=dict)


class _Table:
    """Arrays by name, each with the beginning of its values, and what is found wrong with their rows."""

    def __init__(self, path: Path, arrays: Mapping[str, tuple[str, Member]]) -> None:
        self.path, self.problems = path, list[Problem]()
        self.begin = {name: begin for name, (begin, _) in arrays.items()}
        self.arrays = {name: one for name, (_, one) in arrays.items()}

    def wrong(self, found: str, expected: str = f"Expected {KNOWN}.") -> ManifestError:
        return ManifestError(f"{self.path}: {found}.", expected, "docs/features.md shows a whole example.")

    def raw(self, layout: str) -> Raw:
        if not self.arrays:
            raise self.wrong("there are no arrays in it")
        parts = split_parts(self.arrays)
        shared = parts.pop("", {})
        if not parts:
            tables, lists = [self.rows("", self.sorted(shared))], "the arrays themselves"
        else:
            extra = sorted(set(shared) - set(ROLES["classes"]))
            if extra:
                expected = "Expected all arrays in groups, or none; only `classes` may stand beside groups."
                raise self.wrong(f"'{extra[0]}' lies outside the groups {', '.join(sorted(parts))}", expected)
            tables = [
                self.rows(part, self.sorted(parts[part] | shared)) for part in ("train", "val", "test") if part in parts
            ]
            lists = f"the groups {', '.join(parts)}"
        modalities = dict.fromkeys([name for names, _ in tables for name in names], "vector")
        for names, _ in tables:
            if set(names) != set(modalities):
                expected = "Expected the same modalities in every group; missing ones are rows of NaN."
                raise self.wrong(f"one group holds {', '.join(names)}, another {', '.join(modalities)}", expected)
        rows = [row for _, found in tables for row in found]
        return Raw(layout, lists, modalities, rows, self.problems, self.classes(rows))

    def sorted(self, names: Mapping[str, str]) -> Columns:
        """Which array is what, by its name and rank."""
        found = Columns()
        low = {name.lower(): full for name, full in names.items()}
        role_of = {alias: role for role, aliases in ROLES.items() for alias in aliases}
        for name, full in low.items():
            role, shape = role_of.get(name), self.arrays[full].shape
            base = re.sub(r"^mask_|_mask$|_lengths?$", "", name)
            if role in found.columns:
                raise self.wrong(
                    f"'{full}' and '{found.columns[str(role)]}' are both the {role}", "Expected one of them."
                )
            if role:
                found.columns[role] = full
            elif base != name and base in low:
                (found.lengths if "_length" in name else found.masks)[base] = full
            elif len(shape) in (2, 3) and self.arrays[full].dtype.kind in "fiub" and NAME.fullmatch(name):
                found.features[name] = full
            else:
                kind = f"of shape {list(shape)} and type {self.arrays[full].dtype}"
                hint = nearest(name, [*role_of, *(f"{m}_lengths" for m in low)])
                raise self.wrong(f"'{full}' {kind} fits no rule", f"Expected {KNOWN}. {hint}")
        if not found.features:
            raise self.wrong("no array is a modality", "Expected [N,F] or [N,T,F] of numbers, named by modality.")
        if "label" not in found.columns:
            raise self.wrong("there is no `label`", "Expected label, labels or y [N].")
        return found

    def column(self, full: str, count: int | None = None) -> list[str]:
        one = self.arrays[full]
        if len(one.shape) != 1 or one.dtype.kind not in "iubfSUO":
            raise self.wrong(
                f"'{full}' has the shape {list(one.shape)} and type {one.dtype}", "Expected [N] texts or numbers."
            )
        self.check_rows(full, count)
        values = one.text()
        if one.dtype.kind == "f":  # whole numbers stored as real ones are names of classes, others are targets
            values = [text.removesuffix(".0") for text in values]
        return values

    def check_rows(self, full: str, count: int | None) -> None:
        shape = self.arrays[full].shape
        if count is not None and shape[0] != count:
            raise self.wrong(f"'{full}' has {shape[0]} rows (shape {list(shape)}), the labels have {count}",
                             "Expected one row a sample in every array.")  # fmt: skip

    def rows(self, part: str, found: Columns) -> tuple[list[str], list[Row]]:
        labels = self.column(found.columns["label"])
        count = len(labels)
        names = self.named(found, labels)
        splits = [part] * count if part else self.splits(found, count)
        if part and ("split" in found.columns or "is_test" in found.columns):
            raise self.wrong(f"the group {part} holds a split as well", "Expected one statement about the split.")
        ids = self.column(found.columns["id"], count) if "id" in found.columns else None
        groups = self.column(found.columns["group"], count) if "group" in found.columns else [""] * count
        values = {m: self.values(m, full, found, count) for m, full in found.features.items()}
        start = f"{part}-" if part else ""
        rows: list[Row] = []
        for n in range(count):
            cells = {"id": ids[n] if ids else f"{start}{n}", "split": splits[n], "label": names[n], "group": groups[n]}
            spot = Spot(self.begin[found.columns["label"]].rstrip("#/"), n + 1)
            rows.append((spot, cells | {m: column[n] for m, column in values.items()}))
        return list(found.features), rows

    def splits(self, found: Columns, count: int) -> list[str]:
        given = [role for role in ("split", "is_test") if role in found.columns]
        if len(given) != 1:
            expected = "Expected `split` [N] of train, val, test; or `is_test` [N] of bool; or groups train, val, test."
            raise self.wrong("there are both `split` and `is_test`" if given else "there is no split", expected)
        full = found.columns[given[0]]
        values = self.column(full, count)
        if given[0] == "split":
            return values
        if self.arrays[full].dtype.kind not in "bu" and set(values) - {"0", "1"}:
            raise self.wrong(f"'{full}' holds {min(set(values) - {'0', '1'})}", "Expected True or False.")
        return ["test" if value in ("True", "1") else "train" for value in values]

    def named(self, found: Columns, labels: list[str]) -> list[str]:
        """Class names of the labels, where `classes` gives names to numbers."""
        if "classes" not in found.columns:
            return labels
        classes = self.column(found.columns["classes"])
        known = set(classes)
        return [
            classes[int(label)] if label not in known and label.isdecimal() and int(label) < len(classes) else label
            for label in labels
        ]

    def classes(self, rows: list[Row]) -> tuple[str, ...] | None:
        for name in self.arrays:
            if name.rpartition("/")[2].lower() in ROLES["classes"]:
                return tuple(self.column(name))
        return None

    def values(self, modality: str, full: str, found: Columns, count: int) -> list[str | None]:
        self.check_rows(full, count)
        extra = [names[modality] for names in (found.lengths, found.masks) if modality in names]
        if len(extra) > 1:
            raise self.wrong(f"'{modality}' has both lengths and a mask", "Expected one of them.")
        for name in extra:
            self.check_rows(name, count)
            one, wanted = self.arrays[name], self.arrays[full].shape
            whole = len(wanted) == 3 and one.shape == wanted[:2] and name in found.masks.values()
            if not (whole or one.shape == wanted[:1]) or one.dtype.kind not in "iub":
                expected = f"Expected for {modality} {list(wanted)}: lengths [N], or a mask [N] or {list(wanted[:-1])}."
                raise self.wrong(f"'{name}' has the shape {list(one.shape)} and type {one.dtype}", expected)
        column: list[str | None] = []
        for start, block in self.arrays[full].blocks():
            valid = self.valid(block, start, found.lengths.get(modality), found.masks.get(modality))
            column += [self.value(full, start + n, one) for n, one in enumerate(valid)]
        return column

    def valid(self, block: np.ndarray, start: int, lengths: str | None, mask: str | None) -> np.ndarray:
        """[n] or [n,T] bool: where a block holds data, by its mask, its lengths and its NaN."""
        import numpy as np

        there = ~np.isnan(block).all(-1) if block.dtype.kind == "f" else np.ones(block.shape[:-1], bool)
        stop = start + len(block)
        if mask is not None:
            given = np.asarray(self.arrays[mask].read(start, stop)) != 0
            there &= given if given.ndim == there.ndim else given[:, None]
        if lengths is not None:
            given = np.asarray(self.arrays[lengths].read(start, stop))
            steps = block.shape[1] if block.ndim == 3 else 1
            for n in np.flatnonzero((given < 0) | (given > steps)).tolist():
                found = f"row {start + n} has the length {given[n]}, the array has {steps} steps"
                self.problems.append(Problem("error", "bad-row", found, None, self.begin[lengths].rstrip("#/")))
            there &= np.arange(steps)[None] < given[:, None] if block.ndim == 3 else given > 0
        return there

    def value(self, full: str, row: int, valid: np.ndarray) -> str | None:
        if not valid.any():
            return None
        run = run_of(valid) if valid.ndim else ""
        if run is None:
            found = f"row {row} of '{full}' has holes in its mask"
            self.problems.append(Problem("error", "bad-row", found, None, self.begin[full].rstrip("#/")))
        return f"{self.begin[full]}{row}{run or ''}"


def run_of(valid: np.ndarray) -> str | None:
    """The valid steps [T] as the end of a vector value (`:3` first three, `:-3` last three); None with holes."""
    import numpy as np

    at = np.flatnonzero(valid)
    first, last = int(at[0]), int(at[-1]) + 1
    if last - first != len(at):
        return None
    if len(at) == len(valid):
        return ""
    return f":{last}" if first == 0 else f":-{len(at)}" if last == len(valid) else f":{first},{last}"


def _one_file_a_sample(path: Path) -> Raw:
    """FOLDER/MODALITY/ID.npy and labels.csv with id, split, label and, if wanted, group."""
    from mmbal_cli.data.tables import read_rows
    from mmbal_cli.media.arrays import members

    folder = Folder(path)
    columns, listed = read_rows(path / "labels.csv")
    missing = [name for name in ("id", "split", "label") if name not in columns]
    if missing:
        raise ManifestError(f"{path / 'labels.csv'} has no column '{missing[0]}'.", "Required: id, split, label.")
    files = {name: folder.stems(place, ".npy") for name, place in folder.folders("").items()}
    files = {name: found for name, found in files.items() if found}
    if not files:
        raise ManifestError(f"{path} holds no MODALITY/ID.npy.", "Expected one folder of .npy files a modality.")
    for name in files:
        if not NAME.fullmatch(name):
            raise ManifestError(f"{path}: the folder '{name}' cannot name a modality.", "Expected a-z 0-9 _ -")
    ids = {str(row["id"]).strip() for _, row in listed}
    problems, ends = [], {}
    for name, found in files.items():
        extra = [place for stem, place in found.items() if stem not in ids]
        if extra:
            text = f"{len(extra)} files of {name} are not in labels.csv, such as {extra[0]}"
            problems.append(Problem("warning", "unlisted-file", text))
        shapes = {stem: members(path / place)[""].shape for stem, place in found.items() if stem in ids}
        lengths = {shape[0] for shape in shapes.values() if len(shape) == 2}
        ends[name] = f"#steps={max(lengths)}" if len(lengths) > 1 else ""  # padded to the longest
    rows: list[Row] = []
    for line, row in listed:
        sample = str(row["id"]).strip()
        cells = {name: f"{found[sample]}{ends[name]}" if sample in found else None for name, found in files.items()}
        fixed = {name: row.get(name) or "" for name in ("split", "label", "group")}
        rows.append((Spot("labels.csv", line), {"id": sample} | fixed | cells))
    return Raw("MODALITY/ID.npy, labels.csv", "labels.csv", dict.fromkeys(files, "vector"), rows, problems)
