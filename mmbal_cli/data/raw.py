"""A raw download -> the sample table that a user would otherwise write by hand.

A reader is a module `data/datasets/NAME.py` with `OPTIONS`, the choices it offers (the first of each is the default),
and `read(folder, options) -> Raw`. It looks at names and annotation files only; every check that does not depend on
the data set (ids, labels, splits, paths) is made on its rows as on a user's own table.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mmbal_cli.data.paths import LFS_HEAD
from mmbal_cli.data.problems import Problem
from mmbal_cli.data.tables import as_utf8
from mmbal_cli.errors import ManifestError, RecipeError, nearest
from mmbal_cli.store.atomic import digest_of


class Spot(NamedTuple):
    """Where a row was read: a file relative to the root, and a line from 1."""

    file: str
    line: int


Row = tuple["int | Spot", dict[str, Any]]
Options = Mapping[str, tuple[str, ...]]


class NoLayout(Exception):
    """None of the accepted layouts is there; the text says what was looked for and what is there instead."""


@dataclass
class Raw:
    """What a reader found. `modalities` maps names to kinds; rows hold id, split, label, group and modalities.

    `layout` says which known variant this is, `lists` where the splits come from; `classes` replaces those of the
    recipe where an option of the reader changes them.
    """

    layout: str
    lists: str
    modalities: dict[str, str]
    rows: list[Row]
    problems: list[Problem] = field(default_factory=list)
    classes: tuple[str, ...] | None = None


class Folder:
    """The user's data root; every path is POSIX and relative to it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def first(self, *candidates: str) -> str | None:
        """The first candidate, file or folder, that exists."""
        return next((path for path in candidates if (self.root / path).exists()), None)

    def stems(self, folder: str, *suffixes: str) -> dict[str, str]:
        """Stem -> path of the files of one folder with one of these suffixes (any case), sorted by name."""
        wanted = tuple(suffix.lower() for suffix in suffixes)
        names = [name for name, is_folder in self._entries(folder) if not is_folder and name.lower().endswith(wanted)]
        return {Path(name).stem: _joined(folder, name) for name in names}

    def folders(self, folder: str) -> dict[str, str]:
        """Name -> path of the folders in a folder, sorted."""
        return {name: _joined(folder, name) for name, is_folder in self._entries(folder) if is_folder}

    def _entries(self, folder: str) -> list[tuple[str, bool]]:
        try:
            with os.scandir(self.root / folder) as found:
                entries = [(entry.name, entry.is_dir()) for entry in found if not entry.name.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise ManifestError(f"Cannot read the folder {self.root / folder}: {error.strerror}.") from error
        return sorted(entries)

    def lines(self, path: str, problems: list[Problem]) -> Iterator[tuple[int, str]]:
        """(number from 1, text) of each line; blank last lines are dropped, lines that are not UTF-8 are reported."""
        raw = self._bytes(path).removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n")
        while raw and not raw[-1].strip():
            raw.pop()
        for number, line in enumerate(raw, start=1):
            try:
                yield number, line.decode("utf-8")
            except UnicodeDecodeError as error:
                found = f"byte 0x{line[error.start]:02x} is not UTF-8"
                problems.append(Problem("error", "bad-row", found, number, path))

    def text(self, path: str) -> str:
        """A whole UTF-8 file, without its byte order mark."""
        return as_utf8(self.root / path, self._bytes(path))

    def _bytes(self, path: str) -> bytes:
        try:
            if not (self.root / path).resolve().is_relative_to(self.root.resolve()):
                raise ManifestError(f"{self.root / path} leads outside {self.root} by a symbolic link.")
            found = (self.root / path).read_bytes()
        except OSError as error:
            raise ManifestError(f"Cannot read {self.root / path}: {error.strerror}.") from error
        if found.startswith(LFS_HEAD):
            raise ManifestError(
                f"{self.root / path} was never downloaded: it is a Git LFS pointer.", "", "git lfs pull"
            )
        return found


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder not in ("", ".") else name


def found_at(spot: int | Spot | None, severity: str, rule: str, message: str) -> Problem:
    """A finding on what was read there."""
    file, line = spot if isinstance(spot, Spot) else ("", spot)
    return Problem(severity, rule, message, line, file)


def listed_hash(rows: Iterable[Row], classes: Iterable[str]) -> str:
    """Digest of (id, split, class index) of all listed rows: which published split this is, before carving."""
    position = {name: index for index, name in enumerate(classes)}
    return digest_of(sorted([row["id"], row["split"], position.get(row["label"], -1)] for _, row in rows))


def chosen(offered: Options, given: Mapping[str, str], reader: str) -> dict[str, str]:
    """The reader's options with what the user chose; RecipeError for an unknown name or choice."""
    values = {name: choices[0] for name, choices in offered.items()}
    for name, value in given.items():
        if name not in offered:
            raise RecipeError(f"The reader of {reader} has no option '{name}'.", nearest(name, offered))
        if value not in offered[name]:
            raise RecipeError(f"source.{name}={value} of {reader}.", nearest(value, offered[name]))
        values[name] = value
    return values
