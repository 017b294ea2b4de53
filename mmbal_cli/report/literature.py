"""Published figures of the same data sets, in sheets of their own: never mixed with ours, the protocol named.

The ledger is `ledger/figures.csv` (one figure a line: source, data set, the row's name there, our method, metric,
percent, what makes it doubtful) and `ledger/sources.yaml` (what each source did differently).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mmbal_cli.report.metrics import METRICS
from mmbal_cli.report.tables import Entry, Sheet
from mmbal_cli.report.views import LINE_HEAD

LEDGER = Path(__file__).parent / "ledger"
ALIASES = {"ks": "kineticssounds", "cmumosei": "mosei", "twitter15": "twitter2015", "mmsd": "sarcasm"}


@dataclass(frozen=True)
class Figure:
    """One published number: percent, its spread where one is given, and why it may be a slip."""

    row: str
    method: str
    metric: str
    percent: float
    plus_minus: float | None
    doubt: str

    @property
    def fractions(self) -> tuple[float, float | None]:
        """Value and spread as fractions, in the digits that were printed."""
        return round(self.percent / 100, 6), None if self.plus_minus is None else round(self.plus_minus / 100, 6)


@dataclass(frozen=True)
class Published:
    """All figures of one source on one data set, and how they were made."""

    source: str
    title: str
    dataset: str
    protocol: tuple[str, ...]
    figures: tuple[Figure, ...]

    @property
    def caution(self) -> str:
        """Why these figures are not comparable with ours."""
        return f"Published figures, not comparable with ours: {'; '.join(self.protocol)}."

    def sheet(self) -> Sheet:
        """Rows in the source's order, under its names."""
        metrics = [key for key in METRICS if any(figure.metric == key for figure in self.figures)]
        cells = {(figure.row, figure.metric): figure for figure in self.figures}
        rows = [
            [Entry(row), Entry(method or "–"), *(_entry(cells.get((row, metric))) for metric in metrics)]
            for row, method in dict.fromkeys((figure.row, figure.method) for figure in self.figures)
        ]
        doubts = [f"{f.row}, {METRICS[f.metric].title}: {f.doubt}." for f in self.figures if f.doubt]
        heads = ["row there", "method here", *(METRICS[metric].title for metric in metrics)]
        notes = ["In percent, as printed; ± as the source gives it.", *(f"? {doubt}" for doubt in doubts)]
        return Sheet(f"{self.dataset} · {self.title}", heads, rows, notes, self.caution, left=2)

    def document(self) -> dict[str, Any]:
        """As plain data; fractions instead of percent."""
        facts = {"source": self.source, "title": self.title, "dataset": self.dataset, "protocol": list(self.protocol)}
        return {**facts, "figures": [
            {"row": f.row, "method": f.method or None, "metric": f.metric, "value": f.fractions[0],
             "plus_minus": f.fractions[1], "doubt": f.doubt or None}
            for f in self.figures
        ]}  # fmt: skip

    def lines(self) -> list[list[Any]]:
        """In the long format of a comparison: split `published`, the protocol as the reason to stand apart."""
        place = {"dataset": self.dataset, "split": "published", "block": self.source, "apart": self.caution}
        found = []
        for f in self.figures:
            value, spread = f.fractions
            row = place | {"label": f.row, "method": f.method, "metric": f.metric, "mean": value, "sd": spread}
            found.append([row.get(key, "") for key in LINE_HEAD])
        return found


def _entry(figure: Figure | None) -> Entry:
    if figure is None:
        return Entry("–", style="dim")
    spread = "" if figure.plus_minus is None else f"{figure.plus_minus:.2f}"
    return Entry(f"{figure.percent:.2f}" + ("?" if figure.doubt else ""), spread)


def literature(datasets: Iterable[str]) -> list[Published]:
    """What is published on `datasets` (names as a user may write them), data set by data set."""
    wanted = dict.fromkeys(_plain(name) for name in datasets)
    return [each for name in wanted for each in ledger() if _plain(each.dataset) == name]


def known_datasets() -> list[str]:
    """Data sets with published figures."""
    return sorted({each.dataset for each in ledger()})


@cache
def ledger() -> Sequence[Published]:
    """Every source on every data set."""
    sources = yaml.safe_load((LEDGER / "sources.yaml").read_text(encoding="utf-8"))
    found: dict[tuple[str, str], list[Figure]] = {}
    with (LEDGER / "figures.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            spread = float(line["plus_minus"]) if line["plus_minus"] else None
            number = Figure(line["row"], line["method"], line["metric"], float(line["percent"]), spread, line["doubt"])
            found.setdefault((line["source"], line["dataset"]), []).append(number)
    return [
        Published(source, facts["title"], dataset, (*facts["datasets"][dataset], *facts["protocol"]), tuple(figures))
        for (source, dataset), figures in found.items()
        for facts in [sources[source]]
    ]


def _plain(name: str) -> str:
    """Letters and digits of a data set's name, its usual other names resolved."""
    text = "".join(c for c in name.lower() if c.isalnum())
    return ALIASES.get(text, text)
