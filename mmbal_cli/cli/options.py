"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Cache = Annotated[Path, typer.Option("--cache", envvar="MMBAL_CACHE", help="Folder of prepared features.")]
Runs = Annotated[Path, typer.Option("--runs", envvar="MMBAL_RUNS", help="Folder of trained runs.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]

CACHE = Path("cache")
RUNS = Path("runs")
