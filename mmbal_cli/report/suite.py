"""A suite's table: the comparison of its rows under the suite's own labels and in its order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmbal_cli.report import views
from mmbal_cli.report.compare import Comparison, compare
from mmbal_cli.report.contrast import Against
from mmbal_cli.report.runs import Run
from mmbal_cli.report.tables import Sheet


@dataclass(frozen=True)
class Shown:
    """One row: its label, its run, and where it was tuned all candidates as plain data."""

    label: str
    run: Run
    candidates: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Table:
    """The rows of a suite that can be shown, why others are left out, and which failed in this command."""

    name: str
    note: str
    rows: Sequence[Shown]
    comparison: Comparison
    left_out: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Every row is there."""
        return self.comparison.complete and not self.left_out

    def sheets(self, precision: int) -> list[Sheet]:
        """As sheets: the suite in the title, what is not shown in the notes of the first."""
        found = [
            replace(sheet, title=f"{self.name} · {sheet.title}") for sheet in views.sheets(self.comparison, precision)
        ]
        notes = [f"Suite {self.name}: {self.note}" if self.note else ""]
        if tuned := [row for row in self.rows if row.candidates]:
            notes.append(
                f"Tuned rows show the best of {len(tuned[0].candidates)} candidates by mean validation accuracy over "
                "seeds (ties by NLL); their test predictions played no role."
            )
        notes += [f"{label} failed: {reason}." for label, reason in self.failed.items()]
        notes += [f"Left out: {label} ({reason})." for label, reason in self.left_out.items()]
        return [replace(sheet, notes=[*sheet.notes, *filter(None, notes)] if i == 0 else sheet.notes)
                for i, sheet in enumerate(found)]  # fmt: skip

    def document(self) -> dict[str, Any]:
        """As plain data: the document of a comparison, with the candidates of tuned rows."""
        found = views.document(self.comparison)
        tuned = {row.label: list(row.candidates) for row in self.rows if row.candidates}
        facts = {"name": self.name, "note": self.note, "left_out": dict(self.left_out), "failed": dict(self.failed)}
        return {**found, "suite": facts | {"tuned": tuned}}

    def lines(self) -> list[list[Any]]:
        """In long format."""
        return views.lines(self.comparison)


def seeds_only(run: Run, seeds: Sequence[int]) -> Run:
    """The run as if only `seeds` had been trained, so that all rows rest on the same ones."""
    return replace(run, seeds=tuple(result for result in run.seeds if result.facts.seed in seeds))


def compare_rows(rows: Sequence[Shown], names: Sequence[str], split: str, against: Against | None = None) -> Comparison:
    """Compare the runs of `rows`; rows that are the same run are one row with both labels."""
    labels: dict[str, str] = {}
    for row in rows:
        labels[row.run.name] = " = ".join(filter(None, [labels.get(row.run.name), row.label]))
    runs = {row.run.name: row.run for row in rows}
    return compare(list(runs.values()), names, split, labels=labels, against=against)
