"""`mmbal report`: the whole study as one HTML page, or one part of it by a subcommand."""

from __future__ import annotations

import copy
import difflib
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mmbal_cli.cli import calibration, card, dynamics, robustness
from mmbal_cli.cli.compare import METRICS, Metrics, Saved, metric_names
from mmbal_cli.cli.console import note, stage
from mmbal_cli.cli.options import CACHE, RUNS, Cache, Device, RunNames, Runs, Split
from mmbal_cli.cli.output import check_output, say_left_out, write_text
from mmbal_cli.errors import EXIT_FINDINGS, UsageError

PAGE = "page"
COMMANDS = ("card", "robustness", "calibration", "dynamics")


class PageGroup(TyperGroup):
    """A group whose own arguments are those of its command `page`, unless the first word is another command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `page` before anything that is no subcommand and no --help."""
        first = args[0] if args else ""
        if first not in self.commands and first not in ctx.help_option_names:
            args = [PAGE, *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Help with the arguments and options of the page, then the subcommands."""
        shown = copy.copy(self)
        shown.params = self.commands[PAGE].params
        TyperGroup.format_help(shown, ctx, formatter)


app = typer.Typer(
    cls=PageGroup,
    help=(
        "Write one self-contained HTML page of RUNs: comparison, pictures, report card, robustness, calibration, "
        "dynamics, and what every number rests on.\n\nWith a COMMAND first, show that part alone. A run that has the "
        "name of a command is reached as ./NAME. Exit code 1 when a run cannot be read."
    ),
    subcommand_metavar="| COMMAND [ARGS]...",
)
app.command("card")(card.card)
app.command("robustness")(robustness.robustness)
app.command("calibration")(calibration.calibration)
app.command("dynamics")(dynamics.dynamics)


@app.command(PAGE, hidden=True)
def page(
    names: RunNames = None,
    output: Annotated[Path, typer.Option("--out", "-o", callback=check_output, help="The file to write.")] = Path(
        "report.html"
    ),
    title: Annotated[str, typer.Option(help="Title of the page; the data sets by default.")] = "",
    metric: Metrics = METRICS,
    split: Saved = Split.test,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL|RUN", help="Run that others are compared with; concat by default, where it is there."
        ),
    ] = None,
    no_fresh: Annotated[bool, typer.Option("--no-fresh", help="Only what is saved: no models, no features.")] = False,
    runs: Runs = RUNS,
    cache: Cache = CACHE,
    device: Device = "auto",
) -> None:
    """Write one self-contained HTML page of RUNs."""
    metrics = metric_names(metric)

    from mmbal_cli.report import page as pages
    from mmbal_cli.report.runs import find_runs, read_runs

    found, unreadable = read_runs(find_runs(_no_command(names or [], runs), runs))
    asked = pages.Asked(title, split.value, tuple(metrics), baseline, not no_fresh, cache, device)
    with stage("report", pages.steps(found, asked)) as advance:
        made = pages.page(found, asked, advance, unreadable)
    write_text(output, made.html)
    note(f"wrote {output} ({len(made.html.encode()) / 1e6:.1f} MB, {len(found)} runs)")
    for section, reason in made.missing.items():
        note(f"{section}: {reason}")
    say_left_out(made.unreadable)
    if made.unreadable:
        raise typer.Exit(EXIT_FINDINGS)


def _no_command(names: list[Path], runs: Path) -> list[Path]:
    """`names`, unless the first looks like a mistyped command. Raises UsageError then."""
    first = str(names[0]) if names else ""
    near = difflib.get_close_matches(first, COMMANDS, n=1, cutoff=0.7)
    if near and not any(place.exists() for place in (names[0], runs / names[0])):
        raise UsageError(
            f"There is no run and no command {first}.", f"Did you mean '{near[0]}'?", f"mmbal report {near[0]}"
        )
    return names
