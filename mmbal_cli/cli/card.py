"""`mmbal report card`: what each modality does inside trained models, against what it could do alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbal_cli.cli.compare import Saved
from mmbal_cli.cli.console import note, stage
from mmbal_cli.cli.options import CACHE, RUNS, Cache, Device, RunNames, Runs, Split
from mmbal_cli.cli.output import Formats, Output, Precision, Report, deliver, say_left_out
from mmbal_cli.errors import EXIT_FINDINGS

if TYPE_CHECKING:
    from mmbal_cli.report.card import Card

Full = Annotated[bool, typer.Option("--full", help="All tables of every run, as for a single one.")]
Fresh = Annotated[
    bool, typer.Option("--fresh/--no-fresh", help="Ask the models again (Shapley values, probes), or leave that out.")
]


def card(
    names: RunNames = None,
    cache: Cache = CACHE,
    runs: Runs = RUNS,
    split: Saved = Split.test,
    device: Device = "auto",
    full: Full = False,
    fresh: Fresh = True,
    format: Formats = None,
    precision: Precision = 2,
    output: Output = None,
) -> None:
    """Imbalance report card: unimodal gaps, Shapley values, utilisation, who was right, classes; with intervals.

    One run gets all tables, several a summary. Give the unimodal:M runs too: they are what each modality could do.

    Exit code 1 when a part is missing (a run without a finished seed, features that are gone) or no run is left.
    """
    from mmbal_cli.report.card import card as make_cards
    from mmbal_cli.report.card import lines, sheets
    from mmbal_cli.report.runs import find_runs, read_runs

    found, unreadable = read_runs(find_runs(names or [], runs))
    with stage("report card", len(found)) as advance:
        cards = make_cards(found, cache, split.value, device, advance, fresh)
    report = Report(
        lambda digits: [sheet for each in cards for sheet in sheets(each, digits, full)],
        lambda: _document(cards, unreadable),
        lambda: [line for i, each in enumerate(cards) for line in lines(each)[min(i, 1) :]],
    )
    deliver(report, format, output, precision)
    say_left_out(unreadable)
    for each in cards:
        for name, reason in each.left_out.items():
            note(f"left out: {name}: {reason}")
        for row in each.rows:
            for text in row.missing:
                note(f"{row.label}: {text}")
    if unreadable or not any(each.rows for each in cards) or not all(each.complete for each in cards):
        raise typer.Exit(EXIT_FINDINGS)


def _document(cards: list[Card], unreadable: dict[str, str]) -> dict[str, Any]:
    from mmbal_cli.report.card import document

    made = [document(each) for each in cards]
    return {"schema": 1, "report": "card", "cards": made, "unreadable": unreadable}
