"""Report cards in tests: made of run folders, and what they show."""

from __future__ import annotations

from pathlib import Path

import typer
from typer.testing import CliRunner

from mmbal_cli.cli.card import card as command
from mmbal_cli.report.card import Card, RunCard, card, sheets
from mmbal_cli.report.runs import read_run

NOWHERE = Path("no-cache")
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(command)


def call(*arguments: object, code: int = 0):
    """The command alone, in this process; an error of mmbal is raised as itself."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def cards(*folders: Path, cache: Path = NOWHERE, fresh: bool = False, split: str = "test") -> list[Card]:
    """The cards of run folders, by default of what is saved only."""
    return card([read_run(folder) for folder in folders], cache, split, "cpu", fresh=fresh)


def only(made: list[Card]) -> RunCard:
    """The one run of the one card."""
    (one,) = made
    (row,) = one.rows
    return row


def mean(row: RunCard, *key: str) -> float:
    """The mean of a number that must be there."""
    found = row.get(*key)
    assert found is not None, key
    assert found.mean is not None
    return found.mean


def text(made: list[Card], full: bool = False) -> str:
    """Everything that tables say."""
    parts = []
    for sheet in (sheet for each in made for sheet in sheets(each, 2, full)):
        parts += [sheet.title, sheet.caution, *sheet.heads, *sheet.notes]
        parts += [entry.text for row in sheet.rows for entry in row]
    return "\n".join(parts)
