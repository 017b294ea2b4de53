"""The README does what it says: its commands run, its table and file names are real."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from mmbal_cli.cli.app import EPILOG, app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.S)


def commands() -> list[str]:
    """Every `mmbal` line of the README, without its comment."""
    lines = [line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
    return [line for line in lines if line.startswith("mmbal ")]


def test_the_five_commands_run_in_their_order(tmp_path: Path) -> None:
    assert [line.split()[1] for line in commands()] == ["prepare", "train", "compare", "report", "methods"]
    folder = Path(sys.executable).parent
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "COLUMNS": "120", "NO_COLOR": "1"}
    outputs = {}
    for line in commands():
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        outputs[line.split()[1]] = done.stdout
    assert "arl" in outputs["compare"]
    assert "method.gamma" in outputs["methods"]


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(BLOCKS), re.M):
        assert re.search(rf"^{target}:", makefile, re.M)


def test_linked_pages_and_named_folders_exist() -> None:
    for page in re.findall(r"\]\(([\w/.-]+)\)", README):
        assert (ROOT / page).exists(), page
    for folder in re.findall(r"^  ?(\w+)/ ", README, re.M):
        assert (ROOT / "mmbal_cli" / folder).is_dir() or (ROOT / folder).is_dir(), folder


def test_exit_codes_are_those_of_the_program() -> None:
    sentence = " ".join(README[README.index("Exit codes:") :].split()).partition(".")[0]
    found, shown = re.findall(r"\b(\d+) [a-zC]", sentence), re.findall(r"\b(\d+) [a-zC]", EPILOG)
    assert found == shown == ["0", "1", "2", "3", "4", "75", "130"]


def test_every_command_has_help() -> None:
    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    for group in groups:
        assert group is app or (group.info.help or "").strip(" x"), group
        for command in group.registered_commands:
            assert command.callback is not None
            assert (command.callback.__doc__ or "").strip(), command.name


def test_no_help_text_loses_words_in_brackets() -> None:
    def texts(command: Any) -> Iterator[str]:
        yield command.help or ""
        for parameter in command.params:
            yield getattr(parameter, "help", None) or ""
        for child in getattr(command, "commands", {}).values():
            yield from texts(child)

    eaten = [text for text in texts(typer.main.get_command(app)) if re.search(r"(?<!\\)\[[a-z]", text)]
    assert not eaten  # the terminal takes them for markup


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.name)
def test_pages_name_no_machine_paths(page: Path) -> None:
    assert not re.search(r"/(root|home|work|tmp)/", page.read_text())
