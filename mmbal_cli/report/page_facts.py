"""What the numbers of a page rest on, in words: data, protocol, settings, versions, papers, and the runs themselves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmbal_cli.report.blocks import Block
from mmbal_cli.report.captions import HAND_MADE, seed_range
from mmbal_cli.report.contrast import OVER
from mmbal_cli.report.page_html import Section, escape, facts, grid, paragraph
from mmbal_cli.report.runs import Run
from mmbal_cli.report.statistics import DRAWS, LEVEL

NAMES = 8  # at most so many labels in a heading
DIGITS = 16  # of a digest: enough to tell runs apart
PACKAGES = ("torch", "numpy", "scikit-learn")
HAND_MADE_NOTE = "{}: descriptors, far below pretrained encoders; published figures cannot be reproduced with them"
ALARM = (
    "Runs with this stamp chose their epoch by test accuracy. Their test numbers are too high and must not be compared "
    "with the others"
)


def stamped(runs: Sequence[Run]) -> str:
    """The red note about runs that saw the test set in selection; empty without any."""
    names = [run.facts.title for run in runs if run.facts.stamp]
    if not names:
        return ""
    stamp = next(run.facts.stamp for run in runs if run.facts.stamp)
    return f"{stamp.upper()}: {', '.join(dict.fromkeys(names))}. {ALARM}."


def data_sets(runs: Sequence[Run], split: str) -> list[str]:
    """One line for each kind of data: name, split, samples, classes, modalities."""
    lines = []
    for run in runs:
        data = run.facts.data
        samples = f", {data.counts[split]:,} {split} samples" if data.counts.get(split) else ""
        lines.append(
            f"{data.where(run.facts.dataset)}{samples}, {len(data.classes)} classes, "
            f"{len(data.modalities)} modalities ({', '.join(data.modalities)})"
        )
    return list(dict.fromkeys(lines))


def protocol(blocks: Sequence[Block]) -> str:
    """One list of facts for each block of comparable runs."""
    parts = []
    for block in blocks:
        group = [row.run for row in block.rows]
        data = group[0].facts.data
        made = [f"{m}: {e}" for m, e in data.modalities.items() if e.startswith(HAND_MADE)]
        title = data.where(group[0].facts.dataset)
        if len(blocks) > 1:
            names = [run.facts.title for run in group]
            more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
            parts.append("<h3>" + escape(f"{title}: {', '.join(names[:NAMES])}{more}") + "</h3>")
        parts.append(facts({
            "data": f"{group[0].facts.dataset}, fingerprint {data.fingerprint[:DIGITS]}",
            "samples": ", ".join(f"{part} {count:,}" for part, count in sorted(data.counts.items(), key=_part)),
            "split": [f"{data.split.name if data.split else 'the own split'}, hash {data.split_hash[:DIGITS]}",
                      data.split_note],
            "subset": _subset(group[0]),
            "features": ", ".join(f"{m}: {encoder}" for m, encoder in data.modalities.items()),
            "hand-made": HAND_MADE_NOTE.format(", ".join(made)) if made else "",
            "rules": _protocols(group),
            "seeds": _seeds(group),
            "statistics": _statistics(block),
            "settings": _settings(group),
            "versions": _versions(group),
        }))  # fmt: skip
    return "".join(parts)


def _statistics(block: Block) -> list[str]:
    """What spreads, intervals and p-values of the table are, and how many of them there are."""
    column = block.columns[0]
    cells = [cell for row in block.rows for cell in row.cells.values()]
    over = sorted({cell.estimate.over for cell in cells if cell.estimate.over})
    found = ["mean ± sample standard deviation (divisor n − 1) over n seeds"]
    if over:
        found.append(f"{LEVEL:.0%} intervals: hierarchical bootstrap over {' or '.join(over)}, {DRAWS:,} draws")
    if marks := sum(cell.interval is not None for cell in cells):
        found.append(f"marks in the table: {marks} intervals of differences, not corrected")
    baseline = block.baseline
    count = baseline.comparisons.get(column.key, 0) if baseline is not None else 0
    if baseline is not None and count:
        against = baseline.against
        correction = "corrected by Holm's procedure" if against.correction == "holm" else "not corrected"
        found.append(
            f"differences to {baseline.label}: {against.chosen} ({OVER[against.chosen]}), {correction}, {count} "
            f"comparisons by {column.title}, level {against.alpha:g}"
        )
        found.append(baseline.warning(column.key))
    return found


def _part(item: tuple[str, int]) -> tuple[int, str]:
    """Sort key: train, val, test, then others."""
    order = ("train", "val", "test")
    return (order.index(item[0]) if item[0] in order else len(order), item[0])


def _subset(run: Run) -> str:
    subset = run.facts.data.subset
    return f"{subset.name}, {subset.ids:,} ids, hash {subset.hash[:DIGITS]}" if subset else "none: all samples"


def _protocols(group: Sequence[Run]) -> list[str]:
    """Each protocol of the group in words; with more than one, the runs it is of."""
    found: dict[str, list[str]] = {}
    for run in group:
        words = "; ".join(f"{key}: {value}" for key, value in run.facts.protocol.items()) or "not recorded"
        found.setdefault(words, []).append(run.facts.title)
    return [words + (f" ({', '.join(names)})" if len(found) > 1 else "") for words, names in found.items()]


def _seeds(group: Sequence[Run]) -> list[str]:
    done = [tuple(finished(run)) for run in group]
    usual = Counter(done).most_common(1)[0][0]
    lines = [f"{len(usual)} for each run ({seed_range(usual) or 'none'})"]
    odd = [f"{run.facts.title} {seed_range(seeds) or 'none'}" for run, seeds in zip(group, done, strict=True)
           if seeds != usual]  # fmt: skip
    lines += [f"but {', '.join(odd)}"] if odd else []
    lines += [
        f"{run.facts.title}: seed {r.facts.seed} failed ({r.facts.reason or r.facts.status})"
        for run in group for r in run.seeds if r.facts.status != "done"
    ]  # fmt: skip
    return lines


def _settings(group: Sequence[Run]) -> list[str]:
    """Settings of training that all runs share in one line, then each that differs with its values."""
    settings = [_mapping(run.facts.config.get("train")) for run in group]
    keys = list(dict.fromkeys(key for each in settings for key in each))
    shared, lines = [], []
    for key in keys:
        values = [str(each.get(key, "not set")) for each in settings]
        usual, count = Counter(values).most_common(1)[0]
        if count == len(group):
            shared.append(f"{key} {usual}")
            continue
        odd = [f"{run.facts.title} {value}" for run, value in zip(group, values, strict=True) if value != usual]
        lines.append(f"{key} {usual}, but {', '.join(odd)}")
    return [f"all runs: {', '.join(shared)}" if shared else "", *lines]


def _versions(group: Sequence[Run]) -> list[str]:
    """Versions that the runs were trained with; each combination once, with its runs where there are several."""
    found: dict[str, list[str]] = {}
    for run in group:
        environment = document(run, "env.json")
        packages = _mapping(environment.get("packages"))
        words = [f"mmbal {environment['mmbal']}"] if environment.get("mmbal") else []
        words += [f"{name} {packages[name]}" for name in PACKAGES if packages.get(name)]
        words += [f"Python {environment['python']}"] if environment.get("python") else []
        words += [str(environment.get("gpu") or environment.get("device") or "")]
        found.setdefault(", ".join(filter(None, words)) or "not recorded", []).append(run.facts.title)
    return [words + (f" ({', '.join(names)})" if len(found) > 1 else "") for words, names in found.items()]


def papers(runs: Iterable[Run]) -> Section:
    """Where each method comes from and in what it deviates from its paper or code."""
    rows: dict[str, tuple[str, str, str]] = {}
    plain: dict[str, None] = {}
    for run in runs:
        paper, deviates = str(document(run, "run.json").get("paper") or ""), "; ".join(run.facts.deviates)
        name = run.facts.method + (f" ({run.facts.note})" if run.facts.note else "")
        if paper or deviates:
            rows.setdefault(name, (name, paper or "–", deviates or "–"))
        else:
            plain[name] = None
    lead = "Where each method comes from, and where it deviates from its paper or released code."
    others = f"Without a paper of their own: {', '.join(plain)}." if plain else ""
    table = grid("methods and their papers", ("method", "paper", "deviations, and choices of ours"), rows.values())
    return Section("papers", "Methods and deviations", paragraph(lead, others) + (table if rows else ""))


def provenance(runs: Sequence[Run]) -> Section:
    """The run folders behind the page."""
    heads = ("run", "label", "dataset", "spec", "seeds", "failed", "state")
    rows = []
    for run in runs:
        done = finished(run)
        failed = [r.facts.seed for r in run.seeds if r.facts.status != "done"]
        state = "more seeds in progress or interrupted" if run.running else "complete" if done else "no finished seed"
        dataset = run.facts.data.where(run.facts.dataset)
        rows.append((run.name, run.facts.title, dataset, run.facts.spec[:DIGITS] or "–", seed_range(done) or "–",
                     seed_range(failed) or "–", state))  # fmt: skip
    lead = f"Folder and specification digest (first {DIGITS} digits) of every run on this page."
    return Section("provenance", "Runs", paragraph(lead) + grid("runs", heads, rows, code=(0, 3)))


def finished(run: Run) -> list[int]:
    """Seeds that ended well."""
    return [result.facts.seed for result in run.seeds if result.facts.status == "done"]


def document(run: Run, name: str) -> dict[str, Any]:
    """A JSON file of the run folder, empty when it is not there or damaged: it only adds words."""
    try:
        return _mapping(json.loads((run.folder / name).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
