"""The sample table: id, split, label, group and one value for each modality; every check on it.

A user's own data need one CSV, TSV or JSON-lines file. Columns: `id`, `split`, `label`, optional `group`,
and one column for each modality, headed `kind:name` (`video:face`) or just `kind`. An empty cell is a
missing modality. Other columns are ignored and named in a note. A known data set needs none: its reader (`raw.py`)
makes the rows from the folder as it is downloaded, and the same checks follow.

The checks look at names and sizes and open nothing outside the root; all findings are collected, so that
`mmbal data check` shows the complete list and `read_manifest` raises one error that counts them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmbal_cli.data.paths import CONTROL, Files
from mmbal_cli.data.problems import Problem, shortened, some, summary_error
from mmbal_cli.data.raw import Raw, Row, Spot, found_at
from mmbal_cli.data.splits import carve_validation
from mmbal_cli.data.tables import read_rows
from mmbal_cli.data.values import Value, file_of
from mmbal_cli.errors import ManifestError, MediaError, nearest
from mmbal_cli.media import fragment
from mmbal_cli.media.arrays import VALUE as ARRAY

KINDS = ("video", "audio", "image", "text", "vector")
SPLITS = ("train", "val", "test")
ALIASES = {"training": "train", "dev": "val", "valid": "val", "validation": "val", "testing": "test"}
FIXED = ("id", "split", "label", "group")
TITLE = re.compile(r"[a-z0-9]+(?:[_.-][a-z0-9]+)*")  # of a data set: safe as a folder name
NAME = re.compile(r"[a-z0-9]+(?:[_-][a-z0-9]+)*")  # of a modality: without a dot, it names parameters too
AS_GIVEN = "validation: as in the table"


@dataclass(frozen=True, slots=True)
class Sample:
    """One row: `values[m]` is a path below the root, a literal text, a vector, or None where missing."""

    id: str
    split: str
    label: int
    group: str
    values: dict[str, Value]


@dataclass(frozen=True)
class Manifest:
    """All samples of a data set, in file order; `sizes` maps each source file to (bytes, mtime in ns)."""

    name: str
    kinds: dict[str, str]
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    root: Path
    split_note: str
    carved: bool = False
    notes: tuple[str, ...] = ()
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    listed: dict[str, int] = field(default_factory=dict)  # of a subset: test samples before it

    def counts(self) -> dict[str, int]:
        """Number of samples of each split, in the order train, val, test."""
        found = Counter(sample.split for sample in self.samples)
        return {split: found[split] for split in SPLITS}


def plain_name(path: Path) -> str:
    """The name of a data set that has none of its own: its table's, made safe."""
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "data"


def read_manifest(
    path: Path,
    root: Path | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    *,
    missing_ok: bool = False,
) -> Manifest:
    """The checked sample table of a file; raises ManifestError with lines and counts when anything is wrong."""
    return accepted(path, *inspect_manifest(path, root, classes, name, missing_ok=missing_ok))


def accepted(what: Path | str, manifest: Manifest, problems: Iterable[Problem], check: str = "") -> Manifest:
    """The manifest; ManifestError that sums up the problems when one of them is an error."""
    if any(problem.severity == "error" for problem in problems):
        raise summary_error(what, problems, check)
    return manifest


def inspect_manifest(
    path: Path,
    root: Path | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    *,
    missing_ok: bool = False,
    only: Collection[str] | None = None,
) -> tuple[Manifest, list[Problem]]:
    """The table as far as it can be read, and all findings on it; where one is an error, it must not be used.

    `root` is the folder that paths are relative to (by default that of the table), `classes` the label order (by
    default sorted), `only` the ids to keep. With `missing_ok` a missing file is a warning, and later a bad sample.
    """
    columns, rows = read_rows(path)
    fixed, modalities, ignored = _columns(path, columns)
    notes = [
        Problem("warning", "ignored-column", f"column '{column}' names no modality and is ignored")
        for column in ignored
    ]
    check = _Check(_root(root or path.parent), fixed, modalities, missing_ok, notes)
    return check.manifest(_title(name or plain_name(path)), rows, classes, only)


def inspect_raw(
    raw: Raw,
    root: Path,
    classes: Sequence[str] | None,
    name: str,
    *,
    missing_ok: bool = False,
    only: Collection[str] | None = None,
) -> tuple[Manifest, list[Problem]]:
    """The same for the rows of a reader."""
    modalities = [(modality, kind, modality) for modality, kind in raw.modalities.items()]
    check = _Check(_root(root), {name: name for name in FIXED}, modalities, missing_ok, raw.problems)
    manifest, problems = check.manifest(_title(name), raw.rows, raw.classes or classes, only)
    return replace(manifest, split_note=f"{raw.lists}; {manifest.split_note}"), problems


def _root(root: Path) -> Path:
    if not root.is_dir():
        raise ManifestError(
            f"The folder {root.absolute()} does not exist.", "Media paths are relative to it.", "--root DIR"
        )
    return root.absolute()


def _title(title: str) -> str:
    if not TITLE.fullmatch(title):
        raise ManifestError(f"'{title}' cannot name a data set.", "Expected lower case a-z 0-9 . _ -", "--name NAME")
    return title


def _columns(path: Path, columns: list[str]) -> tuple[dict[str, str], list[tuple[str, str, str]], list[str]]:
    """Which column is which: fixed names, (modality, kind, column) triples, and those to ignore."""
    fixed: dict[str, str] = {}
    modalities: list[tuple[str, str, str]] = []
    ignored = []
    for column in columns:
        folded = column.strip().lower()
        kind, colon, name = folded.partition(":")
        if folded in FIXED:
            fixed[folded] = column
        elif kind in KINDS:
            modalities.append((name or kind, kind, column))
        elif colon and nearest(kind, KINDS).startswith("Did"):
            raise ManifestError(f"{path}: column '{column}' has an unknown kind.", nearest(kind, KINDS))
        else:
            ignored.append(column)
    missing = [name for name in FIXED[:3] if name not in fixed]
    if missing:
        raise ManifestError(
            f"{path} has no column '{missing[0]}'; found {', '.join(columns)}.",
            "Required: id, split, label, and a column such as video, audio:voice or text for each modality.",
        )
    names = [name for name, _, _ in modalities]
    if not names:
        raise ManifestError(
            f"{path} has no modality column; found {', '.join(columns)}.",
            f"Head it with its kind, or kind:name. {nearest('', KINDS)}",
        )
    for name in names:
        if names.count(name) > 1 or not NAME.fullmatch(name):
            found = "is used twice" if names.count(name) > 1 else "cannot name a modality"
            raise ManifestError(f"{path}: '{name}' {found}.", "Modalities have different names of a-z 0-9 _ -")
    return fixed, modalities, ignored


class _Check:
    """One pass over the rows; collects problems instead of stopping at the first."""

    def __init__(
        self,
        root: Path,
        fixed: Mapping[str, str],
        modalities: Sequence[tuple[str, str, str]],
        missing_ok: bool,
        problems: Iterable[Problem],
    ) -> None:
        self.root, self.fixed, self.modalities = root, fixed, modalities
        self.problems = list(problems)
        self.files = Files(root)
        self.missing = "warning" if missing_ok else "error"
        self.lines: dict[str, int | Spot] = {}
        self.widths: dict[str, int] = {}

    def manifest(
        self, title: str, rows: Sequence[Row], classes: Sequence[str] | None, only: Collection[str] | None
    ) -> tuple[Manifest, list[Problem]]:
        """All checks over `rows`, or those whose id is in `only`."""
        listed = {}
        if only is not None:
            listed["test"] = sum(self.text(row, "split").lower() in ("test", "testing") for _, row in rows)
            rows = self.subset(rows, only)
        names = self.classes(rows, classes)
        samples = [self.sample(line, row, names) for line, row in rows]
        samples, carved = self.whole(samples, names)
        kinds = {modality: kind for modality, kind, _ in self.modalities}
        notes = tuple(shortened(self.problems))
        note, sizes = carved or AS_GIVEN, self.files.sizes
        found = Manifest(title, kinds, names, tuple(samples), self.root, note, bool(carved), notes, sizes, listed)
        return found, self.problems

    def subset(self, rows: Sequence[Row], only: Collection[str]) -> list[Row]:
        kept = [(line, row) for line, row in rows if self.text(row, "id") in only]
        unknown = sorted(set(only) - {self.text(row, "id") for _, row in kept})
        if unknown:
            listed = some(unknown)
            self.error("unknown-id", f"{len(unknown)} of {len(only)} ids of the subset are not in the data: {listed}")
        return kept

    def error(self, rule: str, message: str, line: int | Spot | None = None) -> None:
        self.note("error", rule, message, line)

    def warn(self, rule: str, message: str) -> None:
        self.note("warning", rule, message, None)

    def note(self, severity: str, rule: str, message: str, line: int | Spot | None) -> None:
        self.problems.append(found_at(line, severity, rule, message))

    def text(self, row: Mapping[str, Any], column: str) -> str:
        value = row.get(self.fixed.get(column, ""), "")
        plain = isinstance(value, str | int) and not isinstance(value, bool)
        return str(value).strip() if plain else ""

    def classes(self, rows: Iterable[Row], given: Sequence[str] | None) -> tuple[str, ...]:
        """Ordered class names: as given, else sorted (numbers by value); never by first appearance."""
        if given is not None:
            names = tuple(given)
            if len(set(names)) < len(names):
                raise ManifestError("The list of classes names one twice.", f"Found {', '.join(names)}.")
            return names
        labels = {self.text(row, "label") for _, row in rows} - {""}
        self.label_kind(labels)
        if all(re.fullmatch(r"-?\d{1,9}", label) for label in labels):
            return tuple(sorted(labels, key=lambda label: (int(label), label)))
        return tuple(sorted(labels))

    def label_kind(self, labels: set[str]) -> None:
        """Refuse what is no set of class names: real numbers, and lists of names."""
        numbers = [label for label in labels if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", label, re.I)]
        real = [label for label in numbers if not float(label).is_integer()]
        if real and len(numbers) == len(labels):
            self.error("label-kind", f"labels are real numbers, such as {min(real)}")
        several = [label for label in labels if re.search(r"[|;]", label)]
        parts = {part.strip() for label in labels for part in re.split(r"[|;]", label)}
        if several and len(parts) < len(labels):
            self.error("label-kind", f"{len(several)} labels name several classes, such as {min(several)!r}")

    def sample(self, line: int | Spot, row: Mapping[str, Any], classes: tuple[str, ...]) -> Sample:
        name = self.text(row, "id")
        if not name or CONTROL.search(name):
            self.error("bad-id", f"id {name!r}", line)
        elif name in self.lines:
            first = self.lines[name]
            where = f"line {first.line} of {first.file}" if isinstance(first, Spot) else f"line {first}"
            self.error("duplicate-id", f"id '{name}' is already on {where}", line)
        self.lines.setdefault(name, line)
        raw = self.text(row, "split")
        split = ALIASES.get(raw.lower(), raw.lower())
        if split not in SPLITS:
            self.error("unknown-split", f"split {raw!r}. {nearest(split, SPLITS)}", line)
        if isinstance(row.get(self.fixed.get("label", "")), list | dict):
            self.error("label-kind", "the label is a list", line)
        group = self.text(row, "group")
        if CONTROL.search(group):
            self.error("bad-group", f"group {group!r}", line)
        values = {m: self.value(line, m, kind, row.get(column)) for m, kind, column in self.modalities}
        if all(row.get(column) in (None, "") for _, _, column in self.modalities):
            self.error("no-modality", f"sample '{name}' has none", line)
        return Sample(name, split, self.label(line, self.text(row, "label"), classes), group, values)

    def label(self, line: int | Spot, text: str, classes: tuple[str, ...]) -> int:
        if text in classes:
            return classes.index(text)
        if re.fullmatch(r"-?\d{1,9}", text):
            if 0 <= int(text) < len(classes):
                return int(text)
            self.error("unknown-label", f"label {text} is outside 0 to {len(classes) - 1}", line)
        else:
            self.error("unknown-label", f"label {text!r}. {nearest(text, classes)}", line)
        return -1

    def value(self, line: int | Spot, modality: str, kind: str, value: Any) -> Value:
        """A cell as the rest of the program sees it; None where missing or wrong."""
        if kind == "vector" and not (isinstance(value, str) and ARRAY.fullmatch(value.strip())):
            return self.vector(line, modality, value)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            self.error("bad-value", f"{modality} holds {value!r}, not text", line)
            return None
        if kind == "text" and not value.startswith("file:"):
            if "\0" in value:
                self.error("bad-value", f"{modality} holds a NUL character", line)
            return value if value.strip() else None
        value = value.strip() if kind == "vector" else value
        if kind in ("video", "audio"):
            try:
                fragment.split(value)
            except MediaError as error:
                self.error("bad-value", error.found, line)
                return None
        path = file_of(kind, value) or ""
        found, fault = self.files.locate(path, folders=kind == "video")
        if fault:
            severity = self.missing if fault.rule == "missing-file" else fault.severity
            self.note(severity, fault.rule, f"{modality}: {fault.message}", line)
        before = value[: value.index(":") + 1] if kind == "text" else ""
        return before + found + value[len(before) + len(path) :]

    def vector(self, line: int | Spot, modality: str, value: Any) -> Value:
        cells = re.split(r"[\s;,]+", value.strip()) if isinstance(value, str) else value
        if cells in (None, [], [""]):
            return None
        try:
            numbers = tuple(float(cell) for cell in cells)
        except (TypeError, ValueError):
            self.error("bad-value", f"{modality} holds {str(value)[:60]!r}", line)
            return None
        width = self.widths.setdefault(modality, len(numbers))
        if len(numbers) != width:
            self.error("bad-value", f"{modality} has {len(numbers)} numbers, the rows above have {width}", line)
        return numbers

    def whole(self, samples: list[Sample], classes: tuple[str, ...]) -> tuple[list[Sample], str]:
        """Checks over all rows; returns the samples with a validation split, and a note on it."""
        train = [sample for sample in samples if sample.split == "train"]
        if not train:
            self.error("no-train", "no row is in the train split")
        for modality, _, _ in self.modalities:
            if train and all(sample.values[modality] is None for sample in train):
                self.error("empty-modality", f"no train sample has {modality}")
        if len({sample.label for sample in samples}) < 2:
            self.error("single-class", f"all samples have the label '{(*classes, '')[0]}'")
        self.groups(samples)
        note = ""
        if not any(sample.split == "val" for sample in samples):
            chosen, note = carve_validation(
                [sample.id for sample in train],
                [sample.label for sample in train],
                [sample.group for sample in train],
                test_groups={sample.group for sample in samples if sample.split == "test"},
            )
            samples = [replace(s, split="val") if s.split == "train" and s.id in chosen else s for s in samples]
        for split in SPLITS:
            seen = {sample.label for sample in samples if sample.split == split}
            absent = [name for position, name in enumerate(classes) if position not in seen]
            if not seen:
                self.warn("empty-split", f"no sample is in the {split} split")
            elif absent:
                listed = some(absent)
                self.warn("class-missing", f"{len(absent)} of {len(classes)} classes are not in {split}: {listed}")
        return samples, note

    def groups(self, samples: Iterable[Sample]) -> None:
        splits: dict[str, set[str]] = defaultdict(set)
        for sample in samples:
            if sample.group:
                splits[sample.group].add(sample.split)
        both = [group for group, found in splits.items() if len(found) > 1]
        if both:
            listed = some(both)
            self.warn("group-overlap", f"{len(both)} of {len(splits)} groups are in two splits: {listed}")
