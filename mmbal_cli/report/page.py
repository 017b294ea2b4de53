"""The report page: every part of a study in one HTML file that needs nothing else.

Equal runs give equal bytes: no dates, no paths, no random ids. A part that cannot be made says why in one sentence.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mmbal_cli.errors import MmbalError
from mmbal_cli.report import page_facts, page_parts
from mmbal_cli.report.captions import seed_range
from mmbal_cli.report.page_html import Section, bullets, escape, frame, paragraph
from mmbal_cli.report.page_parts import Absent, Asked, Study
from mmbal_cli.report.runs import Run

__all__ = ["Asked", "Page", "page", "steps"]

Progress = Callable[..., None]
PARTS: tuple[tuple[str, str, Callable[[Study], str]], ...] = (
    ("summary", "Summary", page_parts.summary),
    ("comparison", "Comparison", page_parts.comparison),
    ("pictures", "Comparison in pictures", page_parts.pictures),
    ("card", "Imbalance report card", page_parts.card),
    ("robustness", "Robustness", page_parts.robustness),
    ("calibration", "Calibration", page_parts.calibration),
    ("dynamics", "Training", page_parts.dynamics),
    ("findings", "What the records explain", page_parts.findings),
    ("protocol", "Protocol", page_parts.protocol),
)
FOOT = (
    "Made by mmbal from saved predictions and records. The page is one file: it loads nothing and runs no script. "
    "Every number can be had as data by mmbal compare, report and explain with --format json."
)


@dataclass(frozen=True)
class Page:
    """The document, {section title: why it could not be made}, and {run: why it could not be read}."""

    html: str = field(repr=False)
    missing: Mapping[str, str]
    unreadable: Mapping[str, str]


def steps(runs: Sequence[Run], asked: Asked) -> int:
    """How many times `page` reports progress by one."""
    return len(PARTS)


def page(
    runs: Sequence[Run],
    asked: Asked,
    progress: Progress = lambda n=1, detail="": None,
    unreadable: Mapping[str, str] = types.MappingProxyType({}),
) -> Page:
    """The page of `runs` as one HTML document; `progress(n, detail)` is called once a section.

    `unreadable` {name: reason} are runs that could not be read before; the page names them too.
    """
    study = Study(tuple(runs), asked, lambda n=1, detail="": progress(0, detail))
    comparison = study.comparison  # a wrong --baseline is refused here, before the long parts
    sections = []
    for key, title, make in PARTS:
        sections.append(_section(study, key, title, make))
        progress(1, title)
    sections += [page_facts.papers(runs), page_facts.provenance(runs)]
    unreadable = {**unreadable, **comparison.unreadable}
    for name, reason in unreadable.items():
        study.warnings.append(f"{name} could not be read and is left out: {reason}")
    title = asked.title or " and ".join(dict.fromkeys(run.facts.dataset for run in runs)) or "no runs"
    html = frame(title if asked.title else f"Multimodal balancing on {title}", _lead(study), sections, FOOT)
    html = _without_paths(html, study)
    missing = {section.title: section.missing for section in sections if section.missing}
    return Page(html, missing, unreadable)


def _section(study: Study, key: str, title: str, make: Callable[[Study], str]) -> Section:
    try:
        return Section(key, title, make(study))
    except Absent as reason:
        return Section(key, title, "", str(reason))
    except MmbalError as error:
        return Section(key, title, "", f"This part could not be made: {error}")


def _without_paths(html: str, study: Study) -> str:
    """Reasons may name files: folders of this machine are cut from them, so that a page can be handed on."""
    names = {str(place): run.name for run in study.runs for place in (run.folder, run.folder.resolve())}
    names |= {
        str(place): "the cache" for place in (study.asked.cache.resolve(), study.asked.cache) if place.is_absolute()
    }
    for place, name in sorted(names.items(), key=lambda pair: -len(pair[0])):
        html = html.replace(escape(place), escape(name))
    return html


def _lead(study: Study) -> str:
    """What stands below the title: the data, how many runs and seeds, and what a reader must see first."""
    seeds = sorted({seed for run in study.runs for seed in page_facts.finished(run)})
    failed = sum(r.facts.status != "done" for run in study.runs for r in run.seeds)
    counts = f"{len(study.runs)} runs, seeds {seed_range(seeds) or 'none'}, scored on {study.asked.split}"
    counts += f"; {failed} failed seed{'s' if failed != 1 else ''} (named below)" if failed else ""
    parts = [paragraph(line) for line in [*page_facts.data_sets(study.runs, study.asked.split), counts]]
    if alarm := page_facts.stamped(study.runs):
        parts.append(f'<p class="alarm" role="alert">{escape(alarm)}</p>')
    parts.append(bullets(study.warnings, kind="caution"))
    return "".join(parts)
