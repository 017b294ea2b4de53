"""Imports only go down, methods see only what they may, and nothing heavy is loaded by `--help`."""

from __future__ import annotations

import ast
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mmbal_cli"
LAYERS = {
    "errors": 0, "seeds": 0, "recipe": 1, "store": 1, "nn": 1, "ops": 1, "media": 2, "data": 2,
    "encode": 3, "methods": 3, "engine": 4, "conform": 5, "report": 5, "cli": 6, "__main__": 7, "__init__": -1,
}  # fmt: skip
SIDEWAYS = {("data", "media"), ("recipe", "errors"), ("ops", "nn"), ("nn", "recipe")}
FORBIDDEN = (
    " pickle ",
    " torch . load (",
    "allow_pickle = True",
    " yaml . load (",
    " = eval (",
    " exec (",
    "_code = True",
)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name.split(".")[0] == "mmbal_cli"]


def test_imports_only_go_down() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imports(path):
            other = room(name)
            if other != own and (own, other) not in SIDEWAYS and LAYERS[other] >= LAYERS[own]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_no_file_is_long_and_nothing_unpickles_or_evaluates() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        with path.open("rb") as file:
            words = [t.string for t in tokenize.tokenize(file.readline) if t.type in (tokenize.NAME, tokenize.OP)]
        code = " ".join(words)
        assert not [wrong for wrong in FORBIDDEN if wrong in f" {code} "], path


def test_no_function_is_long() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["train", "--help"], ["methods", "list"], ["encoders", "list"]]
)
def test_help_and_lists_load_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys; from mmbal_cli.cli.app import main\n"
        f"try: main({args!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'h5py', 'transformers', 'decord', 'scipy', 'sklearn', 'av', 'torchaudio'}\n"
        "sys.stderr.write(repr(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr.endswith("[]")
    assert done.stdout
