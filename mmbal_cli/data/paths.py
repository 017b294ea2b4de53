"""Paths from a table -> files below the root. Names and sizes only: nothing outside the root is opened.

A value of video may be a folder of pictures, or a pair of folders `a/{u,v}/b`; its size is that of all its pictures,
its time that of the newest.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mmbal_cli.errors import MediaError
from mmbal_cli.media.folder import halves, is_pair, members

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # and lone surrogates, which no file name encodes
LFS_HEAD = b"version https://git-lfs"
LFS_LIMIT = 1024  # bytes; pointers are about 130


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a path cannot be used."""

    severity: str
    rule: str
    message: str


class Files:
    """Locates files below `root`; `sizes` remembers (bytes, mtime in ns) of each one found."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.real_root = os.path.realpath(root)
        self.sizes: dict[str, tuple[int, int]] = {}
        self._folders: dict[str, str | None] = {}

    def locate(self, value: str, *, folders: bool = False) -> tuple[str, Fault | None]:
        """`value` as a path relative to the root, and what is wrong with it; a folder only where it may be one."""
        if CONTROL.search(value):
            return value, Fault("error", "unsafe-path", f"{value!r} holds control characters")
        if re.match(r"[A-Za-z]:[\\/]|\\\\", value):
            return value, Fault("error", "unsafe-path", f"{value!r} is a Windows path")
        path = PurePosixPath(value)
        if path.is_absolute():
            if not path.is_relative_to(self.root):
                return value, Fault("error", "unsafe-path", f"{value!r} is outside {self.root}")
            path = path.relative_to(self.root)
        if ".." in path.parts or not path.parts:
            return value, Fault("error", "unsafe-path", f"{value!r} is not a path below the root")
        relative = str(path)
        if relative in self.sizes:
            return relative, None
        if folders and (is_pair(Path(relative)) or (self.root / relative).is_dir()):
            return relative, self._look_inside(relative)
        return relative, self._look(path, relative)

    def _look_inside(self, relative: str) -> Fault | None:
        """A folder of pictures, or two of them."""
        for folder in halves(Path(relative)) if is_pair(Path(relative)) else [Path(relative)]:
            if not self._inside(os.path.realpath(self.root / folder)):
                return Fault("error", "unsafe-path", f"'{folder}' leads outside the root by a symbolic link")
            if not (self.root / folder).is_dir():
                return Fault("error", "missing-file", f"'{folder}': no such folder")
        try:
            pictures = members(self.root / relative)
            facts = [path.stat() for path in pictures]
            small = (path for path, one in zip(pictures, facts, strict=True) if 0 < one.st_size < LFS_LIMIT)
            pointer = next((path.name for path in small if path.read_bytes().startswith(LFS_HEAD)), "")
        except (OSError, MediaError) as error:
            return Fault("error", "missing-file", f"'{relative}': {getattr(error, 'strerror', None) or error}")
        if not facts:
            return Fault("error", "missing-file", f"'{relative}' holds no pictures")
        self.sizes[relative] = (sum(one.st_size for one in facts), max(one.st_mtime_ns for one in facts))
        return Fault("error", "lfs-pointer", f"'{relative}': {pointer}") if pointer else None

    def _look(self, path: PurePosixPath, relative: str) -> Fault | None:
        outside = Fault("error", "unsafe-path", f"'{relative}' leads outside the root by a symbolic link")
        folder = self._folder(str(path.parent))
        if folder is None:
            return outside
        target = os.path.join(folder, path.name)  # noqa: PTH118 - one string join for each of 1e5 rows
        try:
            facts = os.lstat(target)
            if stat.S_ISLNK(facts.st_mode):
                target = os.path.realpath(target)
                if not self._inside(target):
                    return outside
                facts = os.stat(target)  # noqa: PTH116
        except OSError as error:
            return Fault("error", "missing-file", f"'{relative}': {error.strerror}")
        if not stat.S_ISREG(facts.st_mode):
            return Fault("error", "missing-file", f"'{relative}' is not a file")
        self.sizes[relative] = (facts.st_size, facts.st_mtime_ns)
        if facts.st_size == 0:
            return Fault("warning", "empty-file", f"'{relative}' is empty")
        if facts.st_size < LFS_LIMIT and Path(target).read_bytes().startswith(LFS_HEAD):
            return Fault("error", "lfs-pointer", f"'{relative}'")
        return None

    def _folder(self, parent: str) -> str | None:
        """Real path of a folder below the root, or None when a link leads out of it."""
        if parent not in self._folders:
            real = os.path.realpath(self.root / parent)
            self._folders[parent] = real if self._inside(real) else None
        return self._folders[parent]

    def _inside(self, real: str) -> bool:
        return real == self.real_root or real.startswith(self.real_root.rstrip(os.sep) + os.sep)
