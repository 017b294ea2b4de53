"""The sections of the report page, each made from the report of that name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mmbal_cli.errors import MmbalError, UsageError
from mmbal_cli.report import page_facts, views
from mmbal_cli.report.blocks import Block, Row
from mmbal_cli.report.compare import Comparison, compare
from mmbal_cli.report.contrast import Against
from mmbal_cli.report.export_html import html_tables
from mmbal_cli.report.page_html import escape, paragraph, picture
from mmbal_cli.report.page_words import conclusions
from mmbal_cli.report.runs import Run
from mmbal_cli.report.tables import Sheet

USUAL = "concat"
MOST = 6  # other runs than references in pictures and tables that grow with every run
PRECISION = 2
LONG = 30  # rows of a table that is folded


class Absent(Exception):
    """A section cannot be made, for the reason in its text."""


@dataclass(frozen=True)
class Asked:
    """What the page is to show; `fresh` allows models to be opened, with the features in `cache`.

    `baseline` is a label or a run; None means `USUAL` where it is among the runs.
    """

    title: str = ""
    split: str = "test"
    metrics: tuple[str, ...] = ("accuracy", "macro_f1", "map")
    baseline: str | None = None
    fresh: bool = True
    cache: Path = Path("cache")
    device: str = "auto"


@dataclass
class Study:
    """The runs, what was asked, and what several sections share."""

    runs: tuple[Run, ...]
    asked: Asked
    progress: Callable[..., None]
    warnings: list[str] = field(default_factory=list)
    figures: int = 0

    @cached_property
    def comparison(self) -> Comparison:
        """All runs compared by the metrics asked for, with the baseline where it is among them."""
        asked = self.asked
        try:
            return compare(self.runs, asked.metrics, asked.split, against=Against(asked.baseline or USUAL))
        except UsageError as error:
            if asked.baseline is not None:
                raise
            self.warnings.append(f"No differences to a baseline: {error.found}")
            return compare(self.runs, asked.metrics, asked.split)

    @cached_property
    def blocks(self) -> list[Block]:
        """Blocks with at least one finished seed."""
        found = [block for block in self.comparison.blocks if any(row.seeds for row in block.rows)]
        if not found:
            raise Absent("No run has a finished seed with readable predictions.")
        return found

    @cached_property
    def shown(self) -> list[Run]:
        """Runs for parts that grow with every run: all references and, of each block, the `MOST` best others."""
        found = []
        for block in self.blocks:
            rows = [row for row in block.rows if row.seeds]
            others = sorted((row for row in rows if row.is_other), key=lambda row: place(row, block))
            kept = {row.run.name for row in others[:MOST]} | {row.run.name for row in rows if not row.is_other}
            found += [row.run for row in rows if row.run.name in kept]
        return found

    @property
    def limited(self) -> str:
        """Which runs are in such parts, where not all are."""
        readable = sum(bool(row.seeds) for block in self.blocks for row in block.rows)
        if len(self.shown) == readable:
            return ""
        what = self.blocks[0].columns[0].title
        return f"Shown are the references and the {MOST} best others by {what}: {len(self.shown)} of {readable} runs."

    def figure(self, svg: str, alt: str, caption: str) -> str:
        """An inline figure with the next number."""
        self.figures += 1
        return picture(svg, self.figures, alt, caption)


def place(row: Row, block: Block) -> float:
    """Sort key, best first, by the first metric."""
    column = block.columns[0]
    mean = row.mean(column.key) or 0.0
    return -mean if column.metric.larger_is_better else mean


def summary(study: Study) -> str:
    """The result in words."""
    return "".join(conclusions(block, len(study.blocks) > 1) for block in study.blocks)


def comparison(study: Study) -> str:
    """The tables of `mmbal compare`."""
    study.blocks  # noqa: B018 (raises without any)
    return html_tables(views.sheets(study.comparison, PRECISION))


def pictures(study: Study) -> str:
    """Bars, trade-offs and ranks."""
    return _drawn(study, study.runs, ("bars", "pareto", "critical-difference"))


def card(study: Study) -> str:
    """The imbalance report card; what needs models only when that is allowed."""
    from mmbal_cli.report.card import card as made
    from mmbal_cli.report.card import sheets

    asked = study.asked
    cards = made(study.shown, asked.cache, asked.split, asked.device, study.progress, asked.fresh)
    without = "" if asked.fresh else "Made without models: what needs predictions under changed inputs is left out."
    return paragraph(study.limited, without) + _tables(_flat(sheets(each, PRECISION) for each in cards))


def robustness(study: Study) -> str:
    """Accuracy with modalities absent, noisy or of another sample."""
    from mmbal_cli.report.robustness import robustness as made
    from mmbal_cli.report.robustness import sheets

    asked = study.asked
    if not asked.fresh:
        raise Absent("Left out: robustness needs the models, and the page was made without them (--no-fresh).")
    found = made(study.shown, asked.cache, asked.split, progress=study.progress)
    return paragraph(study.limited) + _tables(sheets(found, PRECISION))


def calibration(study: Study) -> str:
    """Calibration of the fused prediction and each modality, with reliability diagrams."""
    from mmbal_cli.report.calibration import calibration as made
    from mmbal_cli.report.calibration import sheets

    drawn = _drawn(study, study.shown, ("reliability",))
    return paragraph(study.limited) + drawn + _tables(sheets(made(study.shown, study.asked.split), PRECISION))


def dynamics(study: Study) -> str:
    """Curves over epochs."""
    return paragraph(study.limited) + _drawn(study, study.shown, ("curves", "dynamics"))


def findings(study: Study) -> str:
    """What the records say about each run."""
    from mmbal_cli.report.explain import explain

    parts = []
    for run in study.shown:
        study.progress(detail=run.facts.title)
        found = explain(run, study.runs)
        if found:
            items = "".join(f"<li>{escape(each.text)}</li>" for each in found)
            parts.append(f'<h3>{escape(run.facts.title)}</h3><ul class="findings">{items}</ul>')
    if not parts:
        return paragraph("The records show nothing unusual.")
    return paragraph(study.limited) + "".join(parts)


def protocol(study: Study) -> str:
    """What every number rests on."""
    return page_facts.protocol(study.comparison.blocks)


def _tables(sheets: Sequence[Sheet]) -> str:
    """Tables that hold any number; long ones are folded behind their title."""
    parts = []
    for sheet in sheets:
        numbers = [entry.text for row in sheet.rows for entry in row[sheet.left + 1 :]]
        if numbers and all(text in ("–", "") for text in numbers):
            parts.append(paragraph(f"{sheet.title}: nothing could be measured.", kind="absent"))
        elif len(sheet.rows) > LONG:
            title = f"{sheet.title} ({len(sheet.rows)} rows)"
            parts.append(f"<details><summary>{escape(title)}</summary>{html_tables([sheet])}</details>")
        else:
            parts.append(html_tables([sheet]))
    return "".join(parts)


def _flat(many: Iterable[Sequence[Sheet]]) -> list[Sheet]:
    return [sheet for sheets in many for sheet in sheets]


def _drawn(study: Study, runs: Sequence[Run], kinds: Sequence[str]) -> str:
    """Pictures of these kinds; a kind that cannot be drawn says why in its place."""
    from mmbal_cli.report.plots import Options, draw_gathered, gather, svg

    gathered = gather(runs, study.asked.split)
    options = Options(study.asked.split, study.asked.metrics[0], cache=study.asked.cache, device=study.asked.device)
    parts = []
    for kind in kinds:
        study.progress(detail=kind)
        try:
            parts += [
                study.figure(svg(each), each.title, each.caption) for each in draw_gathered(kind, gathered, options)
            ]
        except MmbalError as error:
            parts.append(paragraph(f"No {kind} plot: {error.found}", kind="absent"))
    return "".join(parts)
