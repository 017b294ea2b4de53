"""Child process that trains jobs: one JSON job a line on stdin, one JSON event a line on stdout.

One thread for each process (threads of one process wait for each other on shared cores); a signal lets the
epoch in work finish, publishes a checkpoint and ends with the event `stopped`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any


def end_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, so that nobody writes into a run nobody holds."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def main() -> None:
    """Serve jobs until stdin closes."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a method prints must not reach the channel
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True

    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(name, ask)

    def send(event: dict[str, Any]) -> None:
        channel.write(json.dumps(event) + "\n")
        channel.flush()

    end_with_parent()
    import torch

    from mmbal_cli.engine.job import run_job
    from mmbal_cli.engine.runs import RunFolder, RunSpec
    from mmbal_cli.errors import MmbalError

    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            spec = RunSpec.model_validate(job["spec"])
            folder = RunFolder(Path(job["folder"]))
            events = run_job(spec, tuple(job["seeds"]), folder, Path(job["cache"]), job["device"], lambda: asked)
            for event in events:
                send(event)
        except torch.OutOfMemoryError as problem:
            torch.cuda.empty_cache()
            send({"event": "memory", "reason": str(problem).splitlines()[0]})
        except MmbalError as problem:
            send({"event": "error", "reason": str(problem), "code": problem.exit_code})
        except Exception as problem:
            reason = f"{type(problem).__name__}: {problem}"
            send({"event": "error", "reason": reason, "trace": traceback.format_exc(), "code": 4})
        if asked:
            return


if __name__ == "__main__":
    main()
