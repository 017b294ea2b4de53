"""Findings on a data set: what they are, and for each rule what was expected and what repairs it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbal_cli.errors import ManifestError

EXAMPLES = 5

RULES = {  # rule -> what was expected, what repairs it
    "bad-id": ("An id is non-empty text without control characters.", ""),
    "duplicate-id": ("Every sample has its own id.", ""),
    "unknown-label": ("Labels are class names, or positions in the list of classes.", "--classes a,b,c"),
    "label-kind": (
        "Every sample has one class. No method here takes regression targets or several labels a sample.",
        "--classes a,b,c if these are names of classes",
    ),
    "label-mismatch": ("Two statements about the label of one sample agree.", "Correct the annotation file."),
    "unknown-split": ("Splits are train, val (or dev, valid, validation) and test.", ""),
    "bad-group": ("A group is text without control characters.", ""),
    "bad-row": ("Every row of the annotation files can be understood.", "Fetch the file again, or correct the line."),
    "refused-list": ("Another version of the data has other labels or clips; the two are never mixed.", ""),
    "unsafe-path": ("Media paths are relative to --root and stay inside it.", "--root DIR"),
    "missing-file": (
        "Every path names a file below the root.",
        "the right --root or --data-root; --skip-bad, which carries them as missing; or mmbal data check ... "
        "--complete-ids FILE, then --subset FILE",
    ),
    "lfs-pointer": ("The files were never downloaded: these are Git LFS pointers.", "git lfs pull"),
    "bad-value": ("Vectors are numbers (space, ; or , between) or one .npy path, all of one length.", ""),
    "no-modality": ("A sample has at least one modality.", ""),
    "empty-modality": ("Each modality occurs in at least one train sample.", "Remove the column."),
    "single-class": ("Training needs at least two classes.", ""),
    "no-train": ("At least one row is in the train split.", ""),
    "undecodable": ("Every file decodes.", "Replace the file, empty the cell, or prepare with --skip-bad."),
    "no-audio": ("The file has a sound track.", "Replace the file, or prepare with --skip-bad."),
    "no-video": ("The file has pictures.", "Replace the file, or prepare with --skip-bad."),
    "too-short": ("Clips have the length that is usual in this set.", "Fetch the file again."),
    "too-long": (
        "Clips have the length that is usual in this set, and at most ten minutes of sound.",
        "Fetch the file again; for long sound --set NAME.seconds=30, or a part of it: clip.wav#t=0,30",
    ),
    "too-small": ("Pictures have the size that is usual in this set.", "Fetch the file again."),
    "too-large": ("Pictures have at most 50 megapixels.", "Make the picture smaller, or prepare with --skip-bad."),
    "duplicate-source": ("The same file bytes must not be in two splits.", "--allow-duplicates"),
    "class-lost": ("At least half of each test class is there.", "Fetch what is missing, or name a --subset."),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: `error` stops, `warning` is recorded and shown; `line` counts from 1 (of `file`, else the table)."""

    severity: str
    rule: str
    message: str
    line: int | None = None
    file: str = ""

    @property
    def place(self) -> str:
        """`train.csv, line 17`, `line 17`, or nothing."""
        line = "" if self.line is None else f"line {self.line}"
        return ", ".join(part for part in (self.file, line) if part)

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


def some(names: Sequence[str], most: int = EXAMPLES) -> str:
    """The first few of a list, in one line."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def shortened(problems: Iterable[Problem]) -> list[str]:
    """The problems in words, in their order, at most five of each rule; the rest is counted."""
    seen: Counter[str] = Counter()
    lines = []
    for problem in problems:
        seen[problem.rule] += 1
        if seen[problem.rule] <= EXAMPLES:
            lines.append(str(problem))
    more = [f"... and {count - EXAMPLES} more: {rule}" for rule, count in seen.items() if count > EXAMPLES]
    return lines + [f"{line} (mmbal data check lists them)" for line in more]


def summary_error(path: Path | str, problems: Iterable[Problem], check: str = "") -> ManifestError:
    """One error for all findings: how many of which rule, at most five examples of each.

    `check` are the words behind `mmbal data check` that list all of them, by default `path`.
    """
    found: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        if problem.severity == "error":
            found[problem.rule].append(problem)
    lines = []
    for rule, cases in found.items():
        lines.append(f"{path}: {rule} x {len(cases)}")
        lines += [f"  {problem}" for problem in cases[:EXAMPLES]]
        if len(cases) > EXAMPLES:
            lines.append(f"  ... and {len(cases) - EXAMPLES} more")
    expected, repair = RULES.get(next(iter(found)), ("", ""))
    more = f"mmbal data check {check or path} lists all of them"
    return ManifestError("\n".join(lines), expected, f"{repair}   ({more})" if repair else more)
