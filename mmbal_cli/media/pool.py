"""Supervised child processes: jobs in, arrays out, and no child can hang, crash or leak the run away.

Why not the standard pools: `ProcessPoolExecutor(max_tasks_per_child=...)` deadlocks (cpython #115634)
and `multiprocessing.Pool` loses the job of a killed worker for ever.

One supervisor thread owns the children, so they never wait while the caller encodes or writes.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import selectors
import signal
import threading
import time
from collections.abc import Generator, Iterable
from typing import Any

import numpy as np

from mmbal_cli.errors import MediaError
from mmbal_cli.media.child import Child, Job, failure

Result = tuple[int, dict[str, Any], list[np.ndarray]]

DEPTH = 4  # jobs a child holds: it never waits for the parent between two of them
TRIES = 2  # a death may have another cause (memory of a neighbour), so a job gets a second child
START_LIMIT = 120.0  # seconds for the imports of a child, on a busy machine
START_FAILURES = 3  # children in a row that die before they are ready


class Pool:
    """Runs jobs in `workers` children started by `command` (each ends up in `child.serve`).

    deadline: seconds a job may take before its child is killed. recycle: jobs after which a child is
    replaced, as is one above `max_rss` bytes. ahead, ahead_bytes: bound on results not yet taken.
    """

    def __init__(
        self,
        command: list[str],
        workers: int,
        deadline: float = 60.0,
        recycle: int = 1000,
        *,
        max_rss: int = 2 << 30,
        ahead: int = 1024,
        ahead_bytes: int = 256 << 20,
    ) -> None:
        self.command, self.workers, self.deadline, self.recycle = command, max(1, workers), deadline, recycle
        self.max_rss, self.ahead, self.ahead_bytes = max_rss, ahead, ahead_bytes

    def run(self, jobs: Iterable[dict[str, Any]], ordered: bool = True) -> Generator[Result, None, None]:
        """Yield (job index, header, arrays) for each job, in job order or as they finish.

        A job that fails as a whole has the header `{"error": {"type", "reason"}}` and no arrays. Raises
        MediaError when children cannot start, and whatever iterating `jobs` raises. `jobs` is iterated
        in another thread. Closing the iterator kills the children.
        """
        supervisor = _Supervisor(self, jobs, ordered)
        supervisor.start()
        try:
            while (result := supervisor.take()) is not None:
                yield result
        finally:
            supervisor.stop()


class _Supervisor(threading.Thread):
    """The thread that owns the children of one run; the caller's thread only takes results."""

    def __init__(self, pool: Pool, jobs: Iterable[dict[str, Any]], ordered: bool) -> None:
        super().__init__(name="mmbal-pool", daemon=True)
        self.pool, self.ordered = pool, ordered
        self.fresh = (Job(index, job) for index, job in enumerate(jobs))
        self.again: list[Job] = []  # heap: jobs whose child is gone
        self.children: list[Child] = []
        self.start_failures = 0
        self.done: list[tuple[int, Result]] = []  # heap: by job index when ordered, else by arrival
        self.issued = self.arrived = self.taken = self.waiting_bytes = 0
        self.exhausted = self.throttled = self.stopping = self.finished = False
        self.error: BaseException | None = None
        self.changed = threading.Condition()
        self.selector = selectors.DefaultSelector()
        self.bell, self.ring = os.pipe()
        os.set_blocking(self.ring, False)
        self.selector.register(self.bell, selectors.EVENT_READ)

    # ---- the caller's side

    def take(self) -> Result | None:
        """The next result, or None after the last one; raises what stopped the supervisor."""
        with self.changed:
            while not (self.done and (not self.ordered or self.done[0][0] == self.taken)):
                if self.error:
                    raise self.error
                if self.finished:
                    return None
                self.changed.wait()
            result = heapq.heappop(self.done)[1]
            self.taken += 1
            self.waiting_bytes -= _bytes(result)
        if self.throttled:
            self._wake()
        return result

    def stop(self) -> None:
        """End the thread and its children."""
        self.stopping = True
        self._wake()
        self.join()
        os.close(self.bell)
        os.close(self.ring)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full bell rings already
            os.write(self.ring, b"!")

    # ---- the supervisor's side

    def run(self) -> None:
        try:
            while not (self.stopping or self._complete()):
                for key, _ in self.selector.select(self._next_deadline()):
                    if key.fileobj == self.bell:
                        os.read(self.bell, 4096)
                    elif key.data in self.children:  # not removed by an earlier key of this round
                        self._attend(key.data, key.fd)
                self._expire()
        except BaseException as error:
            self.error = error
        finally:
            for child in list(self.children):
                self._remove(child)
            self.selector.close()
            with self.changed:
                self.finished = True
                self.changed.notify_all()

    def _complete(self) -> bool:
        """Give out jobs; True when there is none left and none in work."""
        self._issue()
        return self.exhausted and not self.again and not any(child.pending for child in self.children)

    def _issue(self) -> None:
        """Keep every child supplied ahead of time, starting children while there is work for them."""
        while True:
            active = [child for child in self.children if not child.retiring]
            child = min(active, key=lambda child: len(child.pending), default=None)
            start = len(active) < self.pool.workers and (child is None or bool(child.pending))
            if not start and (child is None or len(child.pending) >= DEPTH):
                return
            if (job := self._next_job()) is None:
                return
            if start or child is None:
                child = self._start()
            child.give(job)
            child.retiring = child.given >= self.pool.recycle
            self._write(child)

    def _next_job(self) -> Job | None:
        if self.again:
            return heapq.heappop(self.again)
        self.throttled = True  # before the test, so that `take` cannot miss it
        if self.issued - self.taken >= self.pool.ahead or self.waiting_bytes >= self.pool.ahead_bytes:
            return None
        self.throttled = False
        job = next(self.fresh, None)
        self.exhausted = job is None
        self.issued += job is not None
        return job

    def _start(self) -> Child:
        child = Child(self.pool.command)
        self.children.append(child)
        self.selector.register(child.stdout, selectors.EVENT_READ, child)
        self.selector.register(child.stderr, selectors.EVENT_READ, child)
        return child

    def _write(self, child: Child) -> None:
        """Write, and watch the pipe only while it is full."""
        child.write()
        watched = child.stdin in self.selector.get_map()
        if child.outgoing and not watched:
            self.selector.register(child.stdin, selectors.EVENT_WRITE, child)
        elif watched and not child.outgoing:
            self.selector.unregister(child.stdin)

    def _attend(self, child: Child, descriptor: int) -> None:
        """Serve one pipe of one child."""
        if descriptor == child.stdin:
            self._write(child)
        elif descriptor == child.stderr:
            if not child.listen():
                self.selector.unregister(child.stderr)
        else:
            alive = child.read()
            try:
                for header, arrays in child.frames():
                    self._receive(child, header, arrays)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                self._lost(child, f"wrote something that is no answer ({error})")
                return
            if not alive:
                self._lost(child)
            elif child.retiring and not child.pending:
                self._remove(child)

    def _receive(self, child: Child, header: dict[str, Any], arrays: list[np.ndarray]) -> None:
        child.clock = time.monotonic()
        if not child.ready:
            child.ready = bool(header["ready"])
            self.start_failures = 0
            return
        job = child.pending.popleft()
        child.tail.clear()
        child.retiring |= header.pop("rss", 0) > self.pool.max_rss
        self._deliver(job, header, arrays)

    def _deliver(self, job: Job, header: dict[str, Any], arrays: list[np.ndarray]) -> None:
        result = (job.index, header, arrays)
        with self.changed:
            heapq.heappush(self.done, (job.index if self.ordered else self.arrived, result))
            self.arrived += 1
            self.waiting_bytes += _bytes(result)
            self.changed.notify()

    def _next_deadline(self) -> float | None:
        """Seconds until the first deadline, None when nothing is in work."""
        ends = [child.clock + self._limit(child) for child in self.children if child.pending]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _limit(self, child: Child) -> float:
        return self.pool.deadline if child.ready else START_LIMIT

    def _expire(self) -> None:
        """Kill the children whose job passed the deadline and record that job as failed."""
        now = time.monotonic()
        for child in [c for c in self.children if c.pending and now >= c.clock + self._limit(c)]:
            if child.ready:
                child.pending[0].tries = TRIES  # a second minute would end in the same way
                self._lost(child, f"gave no answer within {self.pool.deadline:g} s and was killed", patience=0)
            else:
                self._lost(child, f"was not ready within {START_LIMIT:g} s", patience=0)

    def _lost(self, child: Child, what: str = "", patience: float = 0.5) -> None:
        """A child is gone or must go: blame its first job, pass on the others."""
        jobs = list(child.pending)
        status = self._remove(child, patience if not what else 0.0)
        reason = f"the decoding process {what or 'died: ' + _describe(status)}"
        if said := _printable(child.tail):
            reason += f"; it said: {said}"
        if not child.ready:
            self.start_failures += 1
            if self.start_failures >= START_FAILURES:
                raise MediaError(f"Nothing can be decoded: {reason}.")
        elif jobs:
            jobs[0].tries += 1
            if jobs[0].tries >= TRIES:
                self._deliver(jobs.pop(0), failure(reason), [])
        for job in jobs:
            heapq.heappush(self.again, job)

    def _remove(self, child: Child, patience: float = 0.0) -> int:
        self.children.remove(child)
        for descriptor in (child.stdin, child.stdout, child.stderr):
            if descriptor in self.selector.get_map():
                self.selector.unregister(descriptor)
        return child.end(patience)


def _bytes(result: Result) -> int:
    return sum(array.nbytes for array in result[2])


def _describe(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def _printable(tail: bytes | bytearray) -> str:
    """Text of a stderr tail on one line, without control characters."""
    text = " ".join(tail.decode("utf-8", "replace").split())
    return "".join(char if char.isprintable() else "?" for char in text)
