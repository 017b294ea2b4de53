"""The table of methods, table.csv, as plain strings: listing them imports no torch. A test holds it to the cards."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """One line of `mmbal methods list`: module:Class, kind, venue and year, number of modalities, cost, one line.

    `cost` is the time of a whole run in multiples of concat's (benchmarks/methods.py).
    """

    path: str
    kind: str
    paper: str
    M: str
    cost: float | None
    reconstructed: bool
    line: str


def year(paper: str) -> str:
    """The year of a paper: the end of its venue, or the beginning of its arXiv number."""
    venue, _, number = paper.rpartition(" ")
    return f"20{number[:2]}" if venue == "arXiv" else number


def _read() -> dict[str, Row]:
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        return {row["name"]: _row(row) for row in csv.DictReader(file)}


def _row(text: dict[str, str]) -> Row:
    cost = float(text["cost"]) if text["cost"] else None
    return Row(text["path"], text["kind"], text["paper"], text["M"], cost, bool(text["reconstructed"]), text["line"])


METHODS = _read()
