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
RunNames = Annotated[
    list[Path] | None, typer.Argument(metavar="RUN", help="Run folders or names; all of --runs by default.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Listings = Annotated[Listing, typer.Option("--format", "-f", help="table or json.")]
Target = Annotated[
    str,
    typer.Argument(help="Data set name, RECIPE.yaml, a table (.csv, .tsv, .jsonl) or features (.npz, .h5, a folder)."),
]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder of the download, or where a data set is generated (default: data/NAME).")
]
Root = Annotated[Path | None, typer.Option(help="Folder that media paths are relative to (default: the table's).")]
Classes = Annotated[str | None, typer.Option(help="Order of the classes: a file with one a line, or a,b,c.")]
Decoders = Annotated[int | None, typer.Option("--workers", "-j", min=1, help="Decoding processes (default: cores).")]
SourceSets = Annotated[
    list[str] | None,
    typer.Option("--set", help="source.key=value: an option of the data set; NAME.key=value as for prepare."),
]
SubsetFile = Annotated[Path | None, typer.Option("--subset", help="File of ids, one a line: only these samples.")]
Dataset = Annotated[
    str | None, typer.Option("--dataset", "-d", help="Prepared data set; the one prepared last by default.")
]
Features = Annotated[
    list[str] | None,
    typer.Option("--encoder", help="MODALITY=NAME: which features to take where several were prepared."),
]
NamedSplit = Annotated[
    str | None, typer.Option("--split", help="A stored split (`mmbal data audit` makes them) instead of the own one.")
]
Subset = Annotated[
    str | None, typer.Option("--subset", help="Only these samples: a file with one id a line, or a stored subset.")
]
Seeds = Annotated[str, typer.Option("--seeds", "-s", help="How many seeds, or a list such as 1,2,5.")]
Workers = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Worker processes; one for each core.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Show the resolved runs and train nothing.")]

CACHE = Path("cache")
RUNS = Path("runs")
SEEDS = "5"
