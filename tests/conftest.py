"""Environment before anything is imported (no network, products as in training), and the command line in-process."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_CBWR"] = "AUTO,STRICT"  # as training workers have it

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background: children would be deaf to Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def fixed_numbers() -> None:
    """Random tensors that a test makes are the same in every run."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated data set, clips with sound and captions; not to be changed by a test."""
    from mmbal_cli.data.datasets import get_generator
    from tests.kit.lab import CLIPS

    root = tmp_path_factory.mktemp("lab")
    get_generator("demo")(root, clips=CLIPS, workers=1)
    return root


@pytest.fixture
def inside(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., CompletedProcess[str]]]:
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

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    yield call
    for number, handler in handlers.items():  # a forked pool that inherits those of the command line never ends
        signal.signal(number, handler)
