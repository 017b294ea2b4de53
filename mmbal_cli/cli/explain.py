"""`mmbal explain`: what is remarkable about a run, in plain words."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbal_cli.cli.console import emit_json, note, out
from mmbal_cli.cli.options import RUNS, Runs
from mmbal_cli.cli.output import Output, write_text
from mmbal_cli.errors import CacheError

if TYPE_CHECKING:
    from rich.table import Table

    from mmbal_cli.report.explain import Explained, Finding
    from mmbal_cli.report.runs import Run

PIPE_WIDTH = 110  # text reads well at this width where nobody says how wide the page is
STYLES = {"warning": "bold red", "notice": "yellow", "info": "dim"}


class Form(StrEnum):
    """Output formats of findings."""

    table = "table"
    md = "md"
    json = "json"


def explain(
    name: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or its name below --runs.")],
    others: Annotated[
        list[Path] | None,
        typer.Argument(metavar="OTHERS", help="Runs to compare with; by default all in the folder of RUN."),
    ] = None,
    runs: Runs = RUNS,
    format: Annotated[Form | None, typer.Option("--format", "-f", help="table, md or json.")] = None,
    output: Output = None,
) -> None:
    """Say in plain words what the records and predictions of a run show, with numbers and what to do.

    Findings are observations, not failures: the exit code is 0 with any number of them, 3 when the run cannot be read.
    """
    import json

    from mmbal_cli.report.explain import document, explained, markdown
    from mmbal_cli.report.runs import find_runs, read_run

    run = read_run(find_runs([name], runs)[0])
    found = explained(run, _others(run, others, runs))
    chosen = format or {".md": Form.md, ".json": Form.json}.get(output.suffix.lower() if output else "", Form.table)
    if output is not None:
        text = markdown(found) if chosen is Form.md else _plain(found)
        if chosen is Form.json:
            text = json.dumps(document(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_text(output, text)
        note(f"wrote {output} ({chosen})")
    elif chosen is Form.json:
        emit_json(document(found))
    elif chosen is Form.md:
        typer.echo(markdown(found), nl=False)
    else:
        _show(found)


def _others(run: Run, names: list[Path] | None, runs: Path) -> list[Run]:
    """The runs that were named, or all beside the run; of those, what cannot be read is passed over with a note."""
    from mmbal_cli.report.runs import find_runs, read_run

    if names:
        return [read_run(folder) for folder in find_runs(names, runs)]
    found = []
    for path in sorted(run.folder.resolve().parent.glob("*/run.json")):
        try:
            found.append(read_run(path.parent))
        except CacheError as error:
            note(f"left out: {path.parent.name}: {error.found}")
    return found


def _show(found: Explained) -> None:
    """Heading, findings and what they rest on, on stdout."""
    import os

    from rich.text import Text

    from mmbal_cli.report.explain import basis, heading
    from mmbal_cli.report.tables import literal

    console = out()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    console.print(Text(literal(heading(found)), style="bold"))
    if found.findings:
        console.print(_table(found.findings))
    else:
        console.print(Text("Nothing remarkable was found."))
    console.print(Text(basis(found), style="dim"))


def _table(findings: tuple[Finding, ...]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from mmbal_cli.report.tables import literal

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for each in findings:
        text = Text(literal(each.sentence))
        if each.advice:
            text.append("\n→ " + literal(each.advice), style="cyan")
        table.add_row(Text(each.severity, style=STYLES[each.severity]), Text(literal(each.topic)), text)
    return table


def _plain(found: Explained) -> str:
    """The same as lines of text for a file."""
    from mmbal_cli.report.explain import basis, heading
    from mmbal_cli.report.tables import literal

    lines = [f"{each.severity:8} {each.topic}: {each.text}" for each in found.findings] or ["nothing remarkable"]
    return "\n".join([*map(literal, (heading(found), *lines, basis(found))), ""])
