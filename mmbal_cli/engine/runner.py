"""Spread (run, seed group) jobs over single-thread worker processes; results do not depend on the spread.

On a CPU there is one worker for each core and the seeds of a run are split so that all cores are busy; on a
GPU one worker trains all seeds together. A job that runs out of memory is done again as two halves.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from mmbal_cli.engine.runs import RunFolder, RunSpec

MAX_STACK = 8  # more seeds leave the cache of a core when a method keeps several gradients
END = {"done", "error", "memory", "stopped"}
Event = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A stack of seeds of one run."""

    spec: RunSpec
    folder: RunFolder
    seeds: tuple[int, ...]


def seed_groups(seeds: Sequence[int], runs: int, workers: int, device: str) -> list[tuple[int, ...]]:
    """Stacks for the seeds of one of `runs` runs: few large ones when there are runs enough for all workers."""
    if not seeds:
        return []
    even = runs % workers == 0 or runs >= 4 * workers
    parts = 1 if device != "cpu" or even else workers
    if device == "cpu":
        parts = max(parts, -(-len(seeds) // MAX_STACK))
    parts = min(parts, len(seeds))
    bounds = [round(i * len(seeds) / parts) for i in range(parts + 1)]
    return [tuple(seeds[a:b]) for a, b in pairwise(bounds)]


class Runner:
    """Worker processes, and a thread for each that feeds it jobs and forwards its events."""

    def __init__(self, jobs: Sequence[Job], workers: int, cache: Path, device: str) -> None:
        self.jobs: deque[Job] = deque(jobs)
        self.cache, self.device = cache, device
        self.events: queue.Queue[tuple[Job | None, Event]] = queue.Queue()
        self.stopping = threading.Event()
        self.processes: list[subprocess.Popen[str]] = []
        count = max(1, min(workers, len(self.jobs)))
        self.threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]

    def run(self, on_event: Callable[[Job, Event], None]) -> None:
        """Run all jobs; KeyboardInterrupt and errors stop the workers after their epoch, then go on upwards."""
        for thread in self.threads:
            thread.start()
        try:
            self._pump(on_event)
        except BaseException:
            self.stop(signal.SIGTERM)
            try:
                self._pump(on_event)
            except BaseException:
                self.stop(signal.SIGKILL)
                raise
            raise

    def _pump(self, on_event: Callable[[Job, Event], None]) -> None:
        while any(thread.is_alive() for thread in self.threads) or not self.events.empty():
            try:
                job, event = self.events.get(timeout=0.2)
            except queue.Empty:
                continue
            if job is not None:
                on_event(job, event)

    def stop(self, number: signal.Signals) -> None:
        """Take no further job; let running ones publish a checkpoint (SIGTERM) or end at once (SIGKILL)."""
        self.stopping.set()
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def _serve(self) -> None:
        own: deque[Job] = deque()
        process: subprocess.Popen[str] | None = None
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as noise:
            while not self.stopping.is_set():
                try:
                    job = own.popleft() if own else self.jobs.popleft()
                except IndexError:
                    break
                if process is None or process.poll() is not None:
                    process = self._start(noise)
                event = self._one(process, job, noise)
                if event["event"] == "memory" and len(job.seeds) > 1:
                    half = (len(job.seeds) + 1) // 2
                    own.extend(Job(job.spec, job.folder, part) for part in (job.seeds[:half], job.seeds[half:]))
            if process is not None and process.stdin is not None:
                process.stdin.close()
                process.wait()

    def _start(self, noise: IO[str]) -> subprocess.Popen[str]:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        threads["MKL_CBWR"] = "AUTO,STRICT"  # products must not round by where a seed's rows lie in memory
        process = subprocess.Popen(
            [sys.executable, "-m", "mmbal_cli.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            text=True,
            env=os.environ | threads,
            start_new_session=True,  # Ctrl-C reaches the parent, which lets workers finish their epoch
        )
        self.processes.append(process)
        return process

    def _one(self, process: subprocess.Popen[str], job: Job, noise: IO[str]) -> Event:
        assert process.stdin is not None
        assert process.stdout is not None
        request = {
            "spec": job.spec.model_dump(),
            "folder": str(job.folder.path),
            "seeds": job.seeds,
            "cache": str(self.cache),
            "device": self.device,
        }
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                event: Event = json.loads(line)
                self.events.put((job, event))
                if event["event"] in END:
                    return event
        except BrokenPipeError:
            pass
        code = process.wait()
        noise.seek(0, os.SEEK_END)
        noise.seek(max(0, noise.tell() - 2000))
        tail = noise.read().strip().splitlines()[-1:] or [""]
        died = {"event": "error", "reason": f"worker ended with exit code {code}. {tail[0]}", "code": 4}
        self.events.put((job, died))
        return died
