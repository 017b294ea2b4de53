"""The only code that creates files in a cache or a run folder: a file is there complete or not at all.

`publish` writes under a private name, syncs, renames and syncs the folder, so that neither a crash, a full disk
nor a second writer can leave a half-written file under a visible name. Locks only ever save double work:
on some cluster file systems they hold nobody back (huggingface/huggingface_hub#4306).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbal_cli.errors import CacheError

LOG = logging.getLogger(__name__)
LOCK = ".lock"
LOCK_WAIT = 600.0  # seconds a writer waits for another one before it works beside it
STALE = 24 * 3600.0  # seconds after which a leftover of an unknown process is removed
SPACE_MARGIN = 1.1
_PART = re.compile(r"\..+\.(?P<pid>[0-9]+)\.(?P<host>[0-9a-f]{8})[0-9a-f]{8}\.part")
_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.EBADF, errno.ENOSYS}


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _chmod(fd: int, mode: int) -> None:
    """Give the file `mode` without the bits that the umask withheld when it was created."""
    withheld = ~os.fstat(fd).st_mode & 0o066
    with _where_supported():
        os.fchmod(fd, mode & ~withheld)


def _fsync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        with _where_supported():
            os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _where_supported() -> Iterator[None]:
    """Some network and foreign file systems know neither permission bits nor folder syncs."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


@dataclass(frozen=True)
class System:
    """The system calls of `publish`, so that a test can make each of them fail."""

    open: Callable[[Path], int] = _open
    write: Callable[[int, memoryview], int] = os.write
    chmod: Callable[[int, int], None] = _chmod
    fsync: Callable[[int], None] = os.fsync
    close: Callable[[int], None] = os.close
    replace: Callable[[Path, Path], None] = os.replace
    fsync_dir: Callable[[Path], None] = _fsync_dir
    unlink: Callable[[Path], None] = os.unlink


SYSTEM = System()


def publish(folder: Path, name: str, data: bytes, *, mode: int = 0o444, system: System = SYSTEM) -> Path:
    """Create or replace `folder/name` with `data`, durably and all at once; the folder is made when missing.

    On failure the visible name holds what it held before (or, when only the last folder sync failed, already
    the new content), the private file is removed and a CacheError names the path and the bytes needed.
    """
    target = folder / plain_name(name)
    part = folder / f".{name}.{os.getpid()}.{_host()}{secrets.token_hex(4)}.part"
    try:
        _make_folder(folder, system)
        _write_part(part, data, mode, system)
        system.replace(part, target)
        system.fsync_dir(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            system.unlink(part)
        if isinstance(error, OSError):
            raise _write_error(target, len(data), error) from error
        raise
    return target


def _make_folder(folder: Path, system: System = SYSTEM) -> None:
    """Make `folder` and what is missing above it, so that it survives a power loss as its files do."""
    if not folder.is_dir():
        _make_folder(folder.parent, system)
        folder.mkdir(exist_ok=True)
        system.fsync_dir(folder.parent)


def _write_part(part: Path, data: bytes, mode: int, system: System) -> None:
    fd = system.open(part)
    try:
        rest = memoryview(data)
        while rest:
            written = system.write(fd, rest)
            if written <= 0:
                raise OSError(errno.EIO, "the disk accepted no more bytes")
            rest = rest[written:]
        system.chmod(fd, mode)
        system.fsync(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    system.close(fd)  # a network disk may report a full quota only here


def _write_error(target: Path, size: int, error: OSError) -> CacheError:
    expected = {
        errno.ENOSPC: "Free some space on this disk; everything finished so far is kept.",
        errno.EDQUOT: "Free some of your quota; everything finished so far is kept.",
        errno.EFBIG: "Files of this size are not allowed here (ulimit -f); everything finished so far is kept.",
        errno.EROFS: "The folder must be writable to prepare or train; a read-only cache can be read.",
        errno.EACCES: "The folder must be writable to prepare or train; a read-only cache can be read.",
    }.get(error.errno or 0, "No half-written file is left; the same command can be run again.")
    reason = error.strerror or type(error).__name__
    return CacheError(f"Could not write {target} ({size:,} bytes): {reason}.", expected)


def plain_name(name: str) -> str:
    """`name` when it is one visible path component, else CacheError: names never lead out of their folder."""
    if not name or name.startswith(".") or any(sign in name for sign in "/\\\0"):
        raise CacheError(f"{name!r} is no file name.", "Expected one name without slashes or a leading dot.")
    return name


def sha256_hex(data: bytes) -> str:
    """SHA-256 of `data`, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(obj: Any) -> bytes:
    """The one UTF-8 spelling of `obj`: sorted keys, no spaces, final newline; NaN or broken text: CacheError."""
    try:
        text = json.dumps(obj, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode() + b"\n"
    except ValueError as error:
        raise CacheError(f"Not representable as JSON: {error}.", "Expected finite numbers and valid text.") from error


def digest_of(obj: Any) -> str:
    """SHA-256 of `canonical_json(obj)`, 64 hex digits."""
    return sha256_hex(canonical_json(obj))


@contextlib.contextmanager
def best_effort_lock(
    folder: Path, *, wait: float = LOCK_WAIT, notify: Callable[[str], None] = LOG.warning
) -> Iterator[bool]:
    """Hold the folder's lock if that is possible; yields whether it is held.

    `notify` gets one sentence when another process holds it (who), when waiting ended after `wait` seconds, and
    when the file system has no locks. In every case the caller goes on: results never depend on the lock.
    """
    fd = -1
    try:
        _make_folder(folder)
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        LOG.debug("no lock file in %s: %s", folder, error)  # publish says what cannot be written
    held = fd >= 0 and _acquire(fd, folder, wait, notify)
    try:
        if held:
            _sign(fd)
        yield held
    finally:
        if fd >= 0:
            os.close(fd)  # the kernel releases the lock, as it does when a process dies


def _acquire(fd: int, folder: Path, wait: float, notify: Callable[[str], None]) -> bool:
    deadline, told = time.monotonic() + wait, False
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EINTR):
                notify(f"{folder}: this disk has no file locks ({error.strerror}); going on without.")
                return False
        if time.monotonic() >= deadline:
            notify(f"{folder}: still locked by {_holder(fd)} after {wait:g} s; working beside it.")
            return False
        if not told:
            notify(f"{folder}: waiting for {_holder(fd)}, at most {wait:g} s.")
            told = True
        time.sleep(min(0.2, max(0.01, deadline - time.monotonic())))


def _sign(fd: int) -> None:
    note = f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, note.encode("utf-8", "replace"), 0)


def _holder(fd: int) -> str:
    try:
        note = os.pread(fd, 200, 0).decode("utf-8", "replace")
    except OSError:
        note = ""
    return note if note.isprintable() and note else "another process"


def _host() -> str:
    """Eight hex digits for the set of processes whose numbers mean the same here (machine and container)."""
    space = 0
    with contextlib.suppress(OSError):
        space = Path("/proc/self/ns/pid").stat().st_ino
    return sha256_hex(f"{platform.node()}/{space}".encode())[:8]


def sweep_parts(folder: Path) -> int:
    """Remove private files below `folder` whose writer is dead or that are older than 24 h; how many."""
    removed, parts = 0, []
    with contextlib.suppress(OSError):  # another process may remove a folder under our feet
        parts = list(folder.rglob(".*.part"))
    for part in parts:
        with contextlib.suppress(OSError):
            if _is_stale(part):
                part.unlink()
                removed += 1
    return removed


def _is_stale(part: Path) -> bool:
    match = _PART.fullmatch(part.name)
    if match and match["host"] == _host() and not _alive(int(match["pid"])):
        return True
    return time.time() - part.lstat().st_mtime > STALE


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def check_space(folder: Path, bytes_needed: int) -> None:
    """CacheError when the disk of `folder` (which need not exist yet) lacks `bytes_needed` plus 10%."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return  # the disk does not say; writing will
    if free < bytes_needed * SPACE_MARGIN:
        raise CacheError(
            f"{folder} needs about {bytes_needed * SPACE_MARGIN / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free.",
            "Free some space or choose another disk with --cache DIR.",
        )
