"""Real SIGKILLs at seeded random moments: start the work, kill it, check what is left, start it again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.kit.faults import ended, forked, in_child

Snapshot = dict[str, tuple[int, int]]


def kill_until_done(
    work: Callable[[], object], *, kills: int, longest: float, seed: int, check: Callable[[], None]
) -> list[float]:
    """Run `work` in forked processes, kill each within `longest` seconds, `kills` times; then let one finish.

    `check` is called after each kill. Returns the delays, for the message of a failing test; a run that ends
    before its kill counts as killed.
    """
    rng = random.Random(seed)
    delays = []
    for _ in range(kills):
        delays.append(rng.uniform(0.0, longest))
        pid = forked(work)
        time.sleep(delays[-1])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        ended(pid)
        check()
    assert in_child(work) == 0, f"the undisturbed run failed after kills at {delays}"
    return delays


def snapshot(folder: Path, pattern: str = "**/*") -> Snapshot:
    """Inode and modification time of each visible file: equal when it was not written again."""
    found = {}
    for path in _visible(folder, pattern):
        facts = path.stat()
        found[str(path.relative_to(folder))] = (facts.st_ino, facts.st_mtime_ns)
    return found


def contents(folder: Path, pattern: str = "**/*") -> dict[str, bytes]:
    """Bytes of each visible file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in _visible(folder, pattern)}


def _visible(folder: Path, pattern: str) -> Iterator[Path]:
    return (path for path in sorted(folder.glob(pattern)) if path.is_file() and not path.name.startswith("."))
