"""The sections of the report page, each made from the report of that name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mmbal_cli.errors import MmbalError, UsageError
from mmbal_cli.report import page_facts, views
from mmbal_cli.report.blocks import UNIMODAL, Block, Row
from mmbal_cli.report.compare import Comparison, compare
from mmbal_cli.report.contrast import Against
from mmbal_cli.report.export_html import html_tables
from mmbal_cli.report.page_html import bullets, escape, marked, paragraph, picture
from mmbal_cli.report.page_words import conclusions
from mmbal_cli.report.runs import Run
from mmbal_cli.report.tables import Sheet

if TYPE_CHECKING:
    from mmbal_cli.report.explain import Finding

USUAL = "concat"
MOST = 6  # other runs than references in tables that grow with every run
FEW = 3  # other runs in pictures that need much room for each
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

    @property
    def any(self) -> bool:
        """Whether any run has a finished seed that can be read."""
        return any(row.seeds for block in self.comparison.blocks for row in block.rows)

    @cached_property
    def blocks(self) -> list[Block]:
        """Blocks with at least one finished seed."""
        found = [block for block in self.comparison.blocks if any(row.seeds for row in block.rows)]
        if not found:
            raise Absent("No run has a finished seed with readable predictions.")
        return found

    @cached_property
    def shown(self) -> list[Run]:
        """Runs for tables that grow with every run: all references and, of each block, the `MOST` best others."""
        return self._chosen(MOST, lambda row: not row.is_other)

    @cached_property
    def few(self) -> list[Run]:
        """Runs for pictures that need much room: of each block the baseline and the `FEW` best others."""
        return self._chosen(FEW, lambda row: row.run.facts.label == (self.asked.baseline or USUAL))

    def _chosen(self, best: int, always: Callable[[Row], bool]) -> list[Run]:
        found = []
        for block in self.blocks:
            rows = [row for row in block.rows if row.seeds]
            others = sorted((row for row in rows if row.is_other), key=lambda row: place(row, block))
            kept = {row.run.folder for row in others[:best]} | {row.run.folder for row in rows if always(row)}
            found += [row.run for row in rows if row.run.folder in kept or len(rows) <= best]
        return found

    def limited(self, runs: Sequence[Run], best: int, always: str) -> str:
        """Which runs are in a part, where not all are."""
        readable = sum(bool(row.seeds) for block in self.blocks for row in block.rows)
        if len(runs) == readable:
            return ""
        what = self.blocks[0].columns[0].title
        return f"Shown are {always} and the {best} best others by {what}: {len(runs)} of {readable} runs."

    @property
    def limits(self) -> str:
        """`limited` for `shown`."""
        return self.limited(self.shown, MOST, "the references")

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
    return paragraph(study.limits, without) + _tables(_flat(sheets(each, PRECISION) for each in cards))


def robustness(study: Study) -> str:
    """Accuracy with modalities absent, noisy or of another sample."""
    from mmbal_cli.report.metrics import METRICS
    from mmbal_cli.report.robustness import Asked as Stress
    from mmbal_cli.report.robustness import robustness as made
    from mmbal_cli.report.robustness import sheets

    asked = study.asked
    if not asked.fresh:
        raise Absent("Left out: robustness needs the models, and the page was made without them (--no-fresh).")
    metric = next((name for name in asked.metrics if METRICS[name].larger_is_better), "accuracy")
    stress = Stress(metric=metric, device=asked.device)
    found = made(study.shown, asked.cache, asked.split, stress, lambda n=1, detail="": study.progress(detail=detail))
    return paragraph(study.limits) + _tables(sheets(found, PRECISION))


def calibration(study: Study) -> str:
    """Calibration of the fused prediction and each modality, with reliability diagrams."""
    from mmbal_cli.report.calibration import calibration as made
    from mmbal_cli.report.calibration import sheets

    asked = study.asked
    pictured = study.limited(study.few, FEW, asked.baseline or USUAL)
    tables = _tables(sheets(made(study.shown, asked.split), PRECISION))
    return paragraph(pictured) + _drawn(study, study.few, ("reliability",)) + paragraph(study.limits) + tables


def dynamics(study: Study) -> str:
    """Curves over epochs of all shown runs, and everything that was recorded of fused ones."""
    fused = [run for run in study.shown if not run.facts.label.startswith(f"{UNIMODAL}:")] or study.shown
    curves = _drawn(study, study.shown, ("curves",))
    return paragraph(study.limits) + curves + _drawn(study, fused, ("dynamics",))


def findings(study: Study) -> str:
    """What the records and predictions say about each run; what holds for all of them is said once."""
    from mmbal_cli.report.explain import explain

    scored = {row.run.folder for block in study.comparison.blocks for row in block.rows if row.seeds}
    runs = [*(study.shown if study.any else []), *(run for run in study.runs if run.folder not in scored)]
    found: list[list[Finding]] = []
    for run in runs:
        study.progress(detail=run.facts.title)
        found.append(explain(run, study.runs))
    counts = Counter((each.severity, each.text) for many in found for each in many)
    shared = {key for key, count in counts.items() if count == len(found) > 1}
    parts = [_remarks("All runs", [each for each in found[0] if (each.severity, each.text) in shared])]
    for run, many in zip(runs, found, strict=True):
        parts.append(_remarks(run.facts.title, [each for each in many if (each.severity, each.text) not in shared]))
    silent = [run.facts.title for run, many in zip(runs, found, strict=True) if not many]
    parts.append(paragraph(f"Nothing remarkable: {', '.join(silent)}." if silent else ""))
    return paragraph(study.limits if study.any else "") + "".join(parts)


def _remarks(title: str, many: Sequence[Finding]) -> str:
    """Findings of one run, each with its severity as a word."""
    items = "".join(
        f'<li class="{each.severity}"><b>{escape(each.severity)}</b> {marked(each.text)}</li>' for each in many
    )
    return f'<h3>{escape(title)}</h3><ul class="findings">{items}</ul>' if many else ""


def protocol(study: Study) -> str:
    """What every number rests on."""
    return page_facts.protocol(study.comparison.blocks)


def _tables(sheets: Sequence[Sheet]) -> str:
    """Tables that hold any number; long ones are folded behind their title."""
    parts = []
    for sheet in sheets:
        numbers = [entry.text for row in sheet.rows for entry in row[sheet.left + 1 :]]
        if numbers and all(text in ("–", "") for text in numbers):
            said = paragraph(f"{sheet.title}: nothing could be measured.", kind="absent")
            parts.append(f'<div class="sheet">{said}{bullets(sheet.notes, kind="notes")}</div>')
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
