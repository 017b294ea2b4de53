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

CACHE = Path("cache")
RUNS = Path("runs")
