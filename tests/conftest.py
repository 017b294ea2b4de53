"""Environment before anything is imported (no network, one thread a process), and the command line in-process."""

import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., CompletedProcess[str]]:
    """The command line in this process: quick, for calls that start no work of their own."""
    from mmbal_cli.cli.app import main

    def call(*args: str, cwd: Path, code: int = 0) -> CompletedProcess[str]:
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("COLUMNS", "120")
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(list(args))
        shown = capsys.readouterr()
        found = end.value.code or 0
        assert found == code, f"exit {found}, expected {code}\n{shown.out}\n{shown.err}"
        assert "Traceback" not in shown.err
        return CompletedProcess(args, code, shown.out, shown.err)

    return call
