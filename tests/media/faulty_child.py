"""A child of the pool that misbehaves as its job says; run by tests/media/test_pool.py."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from mmbal_cli.media.child import serve

hoard: list[np.ndarray] = []


def handle(job: dict) -> tuple[dict, list[np.ndarray]]:
    what = job.get("do", "echo")
    if "pid_to" in job:
        Path(job["pid_to"]).write_text(str(os.getpid()))
    if job.get("once"):
        try:
            Path(job["once"]).touch(exist_ok=False)
        except FileExistsError:
            what = "echo"
    if what == "hang":
        ctypes.PyDLL(None).sleep(1000)  # PyDLL keeps the lock of the interpreter: nothing in Python can interrupt
    elif what == "sleep":
        time.sleep(job["seconds"])
    elif what == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "abort":
        os.abort()
    elif what == "exit":
        os._exit(3)
    elif what == "raise":
        raise ValueError("no such thing")
    elif what == "leak":
        hoard.append(np.ones(job["bytes"], np.uint8))
    elif what == "flood":
        for _ in range(160):
            os.write(2, b"\x1b[31mnoise " * 6554)
        print("and this goes to stdout", flush=True)
        if job.get("then") == "abort":
            os.write(2, b"the last words")
            os.abort()
    arrays = [np.full(job.get("size", 4), job.get("value", 0), np.float32)]
    if what == "many":
        arrays += [np.arange(6, dtype=np.int64).reshape(2, 3), np.zeros((0, 5), np.uint8), np.array(7.5)]
    answer = {"pid": os.getpid(), "value": job.get("value"), "threads": os.environ["OMP_NUM_THREADS"]}
    return answer, arrays


if __name__ == "__main__":
    if sys.argv[1:] == ["garbage"]:
        sys.stdin.readline()
        sys.stdout.write('{"ready": 1, "arrays": []}\nnot a frame\n')
        sys.stdout.flush()
        time.sleep(60)
    serve(handle)
