"""One child process of the pool: the frames on its pipes, its own main loop, and its handle.

Frames: a job is one JSON line; a result is one JSON line (`arrays` lists dtype and shape) followed by
the raw bytes of the arrays. A child's first frame is `{"ready": pid}`. No pickle anywhere.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

TAIL = 4096  # bytes of a child's stderr kept for a failure
READ = 1 << 20
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")

# glibc returns each array of more than 128 KiB to the system at once, and page faults cost as much as the
# arithmetic on it (measured: hog-motion 1.3 instead of 4 ms)
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(64 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}
Answer = tuple[dict[str, Any], list[np.ndarray]]


def failure(reason: str, kind: str = "MediaError") -> dict[str, Any]:
    """The record of something that failed: `{"error": {"type", "reason"}}`."""
    return {"error": {"type": kind, "reason": reason}}


def serve(handle: Callable[[dict[str, Any]], Answer]) -> None:
    """Main loop of a child: answer each job on stdin with `handle(job)` until stdin closes."""
    _die_with_parent()
    with os.fdopen(os.dup(0), "rb") as inbox, os.fdopen(os.dup(1), "wb") as outbox:
        os.dup2(2, 1)  # a library that prints must not write into the frames
        _send(outbox, {"ready": os.getpid()}, [])
        for line in inbox:
            try:
                header, arrays = handle(json.loads(line))
            except Exception as error:
                header, arrays = failure(f"{type(error).__name__}: {error}"), []
            _send(outbox, header | {"rss": _resident()}, arrays)


def _send(outbox: Any, header: dict[str, Any], arrays: list[np.ndarray]) -> None:
    described = [[array.dtype.str, list(array.shape)] for array in arrays]
    outbox.write(json.dumps(header | {"arrays": described}).encode() + b"\n")
    for array in arrays:
        outbox.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    outbox.flush()


def _resident() -> int:
    """Resident bytes of this process; 0 where /proc is missing."""
    # not ru_maxrss: after exec it starts at the parent's own size
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _die_with_parent() -> None:
    """Ask Linux to kill this child when the parent dies, even in a decoder that never returns."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Job:
    """One job as a line; `tries` counts the children that died on it."""

    def __init__(self, index: int, job: dict[str, Any]) -> None:
        self.index, self.tries = index, 0
        self.line = json.dumps(job).encode() + b"\n"

    def __lt__(self, other: Job) -> bool:
        return self.index < other.index


class Child:
    """A running child with non-blocking pipes; `pending[0]` is the job it works on."""

    def __init__(self, command: list[str]) -> None:
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        env = os.environ | MEMORY | dict.fromkeys(ONE_THREAD, "1") | {"PYTHONPATH": os.pathsep.join(paths)}
        pipe = subprocess.PIPE
        # an own session: Ctrl-C reaches the parent only, and the whole group can be killed
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=env, start_new_session=True, bufsize=0
        )
        streams = (self.process.stdin, self.process.stdout, self.process.stderr)
        self.stdin, self.stdout, self.stderr = (stream.fileno() for stream in streams if stream)
        for descriptor in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(descriptor, False)
        self.pending: deque[Job] = deque()
        self.outgoing, self.incoming, self.tail = bytearray(), bytearray(), bytearray()
        self.header: dict[str, Any] | None = None
        self.given = 0
        self.ready = self.retiring = False
        self.clock = time.monotonic()

    def give(self, job: Job) -> None:
        """Queue one job; the clock of a child that had nothing to do starts now."""
        if not self.pending:
            self.clock = time.monotonic()
        self.pending.append(job)
        self.outgoing += job.line
        self.given += 1

    def write(self) -> None:
        """Write what the pipe takes now; a child that is gone is noticed when reading."""
        try:
            while self.outgoing:
                del self.outgoing[: os.write(self.stdin, self.outgoing)]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.outgoing.clear()

    def read(self) -> bool:
        """Read what is there now; False at the end of the stream."""
        try:
            data = os.read(self.stdout, READ)
        except BlockingIOError:
            return True
        self.incoming += data
        return bool(data)

    def listen(self) -> bool:
        """Read from stderr and keep the tail; False at the end of the stream."""
        try:
            data = os.read(self.stderr, READ)
        except BlockingIOError:
            return True
        self.tail = (self.tail + data)[-TAIL:]
        return bool(data)

    def frames(self) -> Iterator[Answer]:
        """Complete frames received so far; raises ValueError, KeyError or TypeError for anything else."""
        while True:
            if self.header is None:
                end = self.incoming.find(b"\n")
                if end < 0:
                    return
                self.header = dict(json.loads(self.incoming[:end]))
                del self.incoming[: end + 1]
            kinds = [(np.dtype(dtype), shape) for dtype, shape in self.header["arrays"]]
            sizes = [dtype.itemsize * int(np.prod(shape, dtype=np.int64)) for dtype, shape in kinds]
            ends = list(itertools.accumulate(sizes, initial=0))
            if len(self.incoming) < ends[-1]:
                return
            arrays = [
                np.frombuffer(self.incoming[start:end], dtype).reshape(shape)
                for (dtype, shape), start, end in zip(kinds, ends, ends[1:], strict=False)
            ]
            del self.incoming[: ends[-1]]
            header, self.header = self.header, None
            yield {key: value for key, value in header.items() if key != "arrays"}, arrays

    def end(self, patience: float = 0.0) -> int:
        """Wait `patience` seconds, then kill the whole group; exit status, negative for a signal."""
        until = time.monotonic() + patience
        # looked at, not reaped: a reaped number may belong to somebody else when the group is killed
        while os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() >= until:
                break
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        status = self.process.wait()
        for _ in range(64):  # what is left in the pipe, not what a stray grandchild goes on writing
            if not select.select([self.stderr], [], [], 0)[0] or not self.listen():
                break
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
        return status
