"""Every method of the table against every check of the contract; and what only shipped files must promise."""

from __future__ import annotations

import ast
import csv
import inspect
import io
import statistics
import tokenize
from pathlib import Path

import pytest

from mmbal_cli.conform.checks import CHECKS, Check
from mmbal_cli.conform.subject import Skip, Subject
from mmbal_cli.methods import METHODS, base, method_class

MAX_LINES, MEDIAN_CODE, EQUAL = 120, 60, 6
ALLOWED = ("mmbal_cli.nn", "mmbal_cli.ops", "mmbal_cli.seeds", "mmbal_cli.errors", "mmbal_cli.methods", "torch",
           "abc", "math", "itertools", "dataclasses", "collections", "typing", "functools", "__future__")  # fmt: skip

FOLDER = Path(base.__file__).parent
INFRASTRUCTURE = {"__init__.py", "base.py", "knobs.py", "table.py"}
FILES = sorted(path for path in FOLDER.glob("*.py") if path.name not in INFRASTRUCTURE)

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_passes(name: str, check: Check) -> None:
    try:
        check.run(Subject(method_class(name)))
    except Skip as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", list(METHODS))
def test_the_table_says_what_the_card_says(name: str) -> None:
    row, cls = METHODS[name], method_class(name)
    card = cls.card
    assert (card.name, card.kind, card.reconstructed) == (name, row.kind, row.reconstructed)
    limits = (
        f"{card.min_modalities}+" if card.max_modalities is None else f"{card.min_modalities}-{card.max_modalities}"
    )
    assert limits == row.M
    assert row.paper in card.paper
    assert cls.__doc__
    assert inspect.getmodule(cls).__doc__  # type: ignore[union-attr]


def test_the_table_is_plain_text() -> None:
    with (FOLDER / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(METHODS)
    assert all(None not in row and None not in row.values() for row in rows)


@every_file
def test_a_file_is_short_and_sees_only_what_it_may(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    for node in ast.walk(ast.parse(text)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert all(found.startswith(ALLOWED) for found in names), names


def code_lines(text: str) -> list[str]:
    """Lines with code on them: no comments, no docstrings, nothing blank."""
    texts = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr)]
    strings = [node for node in texts if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    documented = {n for node in strings for n in range(node.lineno, (node.end_lineno or 0) + 1)}
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    spoken = {n for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in silent
              for n in range(t.start[0], t.end[0] + 1)}  # fmt: skip
    lines = text.splitlines()
    return [lines[n - 1].strip() for n in sorted(spoken - documented)]


def test_the_median_file_is_small() -> None:
    assert statistics.median(len(code_lines(path.read_text())) for path in FILES) <= MEDIAN_CODE


def test_no_two_files_share_six_lines() -> None:
    seen: dict[tuple[str, ...], str] = {}
    shared = []
    for path in FILES:
        lines = [line for line in code_lines(path.read_text()) if not line.startswith(("import ", "from "))]
        for block in {tuple(lines[i : i + EQUAL]) for i in range(len(lines) - EQUAL + 1)}:
            if seen.setdefault(block, path.name) != path.name:
                shared.append((path.name, seen[block], block))
    assert not shared
