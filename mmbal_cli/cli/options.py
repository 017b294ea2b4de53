"""Options that several commands share, declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Listing(StrEnum):
    """Output formats of listings."""

    table = "table"
    json = "json"


class Split(StrEnum):
    """Splits of a prepared data set."""

    test = "test"
    val = "val"
    train = "train"


Cache = Annotated[Path, typer.Option("--cache", envvar="MMBAL_CACHE", help="Folder of prepared features.")]
Runs = Annotated[Path, typer.Option("--runs", envvar="MMBAL_RUNS", help="Folder of trained runs.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Listings = Annotated[Listing, typer.Option("--format", "-f", help="table or json.")]
Dataset = Annotated[
    str | None, typer.Option("--dataset", "-d", help="Prepared data set; the one prepared last by default.")
]
Seeds = Annotated[str, typer.Option("--seeds", "-s", help="How many seeds, or a list such as 1,2,5.")]
Workers = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Worker processes; one for each core.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Show the resolved runs and train nothing.")]

CACHE = Path("cache")
RUNS = Path("runs")
SEEDS = "5"
