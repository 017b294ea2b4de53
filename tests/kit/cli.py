"""The command line as a user meets it: a real process, its exit code and both streams."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from mmbal_cli.cli.app import app

ROOT = Path(__file__).parents[2]
Result = subprocess.CompletedProcess[str]
Inside = Callable[..., Result]


def start(*args: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Begin `mmbal ARGS` in `cwd`."""
    own = {"PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "mmbal_cli", *args],
        cwd=cwd,
        env=os.environ | own | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def invoke(*args: str, code: int = 0) -> Any:
    """`mmbal ARGS` in this process: its result with stdout and stderr; an error of mmbal is raised as itself."""
    result = CliRunner().invoke(app, list(args))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def mmbal(*args: str, cwd: Path, code: int | None = 0, env: dict[str, str] | None = None) -> Result:
    """Run `mmbal ARGS` and check the exit code (None = any)."""
    process = start(*args, cwd=cwd, env=env)
    out, err = process.communicate(timeout=300)
    assert code is None or process.returncode == code, f"exit {process.returncode}, expected {code}\n{out}\n{err}"
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(args, process.returncode, out, err)
