"""Faults for the store: a failing or dying system call, a disk that loses what was not synced, damaged bytes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from mmbal_cli.store.atomic import SYSTEM, System

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EINTR)
Action = Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]


class Injected:
    """A `System` that performs `action` instead of call number `at` (from 1); `log` names the calls made."""

    def __init__(self, at: int, action: Action, *, forever: bool = False) -> None:
        self.at, self.action, self.forever = at, action, forever
        self.log: list[str] = []
        self.system = System(**{f.name: self._wrap(f.name) for f in fields(System)})

    def _wrap(self, name: str) -> Callable[..., Any]:
        real = getattr(SYSTEM, name)

        def call(*args: Any) -> Any:
            self.log.append(name)
            hit = len(self.log) >= self.at if self.forever else len(self.log) == self.at
            return self.action(name, real, args) if hit else real(*args)

        return call

    @property
    def reached(self) -> bool:
        """Whether the publish came as far as the chosen call."""
        return len(self.log) >= self.at


def fail(number: int) -> Action:
    """Raise this errno."""

    def action(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if name == "close":
            real(*args)  # the kernel frees the descriptor even when close reports an error
        raise OSError(number, os.strerror(number))

    return action


def short(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Write one byte only; other calls are not changed."""
    return real(args[0], args[1][:1]) if name == "write" else real(*args)


def die(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Leave the process at once, before the call."""
    os._exit(9)


def die_after(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Leave the process at once, after the call (after half of it for a write)."""
    real(args[0], args[1][: len(args[1]) // 2]) if name == "write" else real(*args)
    os._exit(9)


class LossyDisk:
    """A simulated disk whose caches survive no power loss: contents count after fsync, names after fsync_dir."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.names: dict[str, int] = {name: i for i, name in enumerate(files)}
        self.safe_names = dict(self.names)
        self.content: dict[int, bytes] = dict(enumerate(files.values()))
        self.safe: dict[int, bytes] = dict(self.content)
        self.log: list[str] = []
        self.worst: list[list[dict[str, bytes]]] = []
        self.system = System(**{f.name: self._step(f.name) for f in fields(System)})

    def _step(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.log.append(name)
            result = getattr(self, "_" + name)(*args)
            self.worst.append(self.after_power_loss())
            return result

        return call

    def after_power_loss(self) -> list[dict[str, bytes]]:
        """Both extremes: the rename was lost, or the rename went to the disk before the data."""
        return [{name: self.safe.get(i, b"") for name, i in names.items()} for names in (self.safe_names, self.names)]

    def _open(self, path: Path) -> int:
        self.names[path.name] = fd = len(self.content)
        self.content[fd] = b""
        return fd

    def _write(self, fd: int, data: memoryview) -> int:
        self.content[fd] += bytes(data[:7])
        return min(7, len(data))

    def _fsync(self, fd: int) -> None:
        self.safe[fd] = self.content[fd]

    def _replace(self, source: Path, target: Path) -> None:
        self.names[target.name] = self.names.pop(source.name)

    def _fsync_dir(self, path: Path) -> None:
        self.safe_names = dict(self.names)

    def _unlink(self, path: Path) -> None:
        self.names.pop(path.name, None)

    def _chmod(self, fd: int, mode: int) -> None: ...

    def _close(self, fd: int) -> None: ...


def overwrite(path: Path, data: bytes) -> None:
    """Put other bytes into a read-only file, in place, as a failing disk would."""
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def flipped(data: bytes, bit: int) -> bytes:
    """`data` with one bit changed."""
    out = bytearray(data)
    out[bit // 8] ^= 1 << (bit % 8)
    return bytes(out)


def forked(work: Callable[[], object]) -> int:
    """Process id of a child that runs `work`: exit code 0, 3 after an exception, or what it chose itself."""
    pid = os.fork()
    if pid == 0:
        code = 3
        with contextlib.suppress(BaseException):
            work()
            code = 0
        os._exit(code)
    return pid


def ended(pid: int) -> int:
    """Exit code of such a child, when it has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(work: Callable[[], object]) -> int:
    """Exit code of `work` in a forked process."""
    return ended(forked(work))


@contextlib.contextmanager
def opens_of(path: Path) -> Iterator[list[int]]:
    """Collect one entry for each open of or read from `path` by this machine, native code included (inotify)."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK)
    libc.inotify_add_watch(fd, os.fsencode(path), 0x1 | 0x20)  # IN_ACCESS | IN_OPEN
    seen: list[int] = []
    try:
        yield seen
        with contextlib.suppress(BlockingIOError):
            data = os.read(fd, 65536)
            while data:
                _, mask, _, length = struct.unpack_from("iIII", data)
                seen.append(mask)
                data = data[16 + length :]
    finally:
        os.close(fd)
