"""A comparison as sheets with the notes that make each number readable, as a document and as lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from mmbal_cli.encode import SHIPPED
from mmbal_cli.report.blocks import Block, Cell, Column, Row
from mmbal_cli.report.compare import Comparison
from mmbal_cli.report.runs import coverage_note
from mmbal_cli.report.statistics import DRAWS
from mmbal_cli.report.tables import Entry, Sheet, number

HAND_MADE = tuple(entry.name for entry in SHIPPED.values() if "hand-made" in entry.about)
RECONSTRUCTED = "reconstructed"  # the note of such a run
DAGGER = " †"
SCHEMA = 1
LINE_HEAD = (
    *("dataset", "split", "block", "apart", "label", "run", "method", "kind", "reference"),
    *("metric", "mean", "sd", "n", "failed", "mark", "low", "high"),
    *("split_name", "split_hash", "subset", "subset_hash", "listed", "scored", "kept"),
)


def sheets(comparison: Comparison, precision: int = 2) -> list[Sheet]:
    """One sheet a block, comparable groups of one data set below each other."""
    return [_sheet(block, precision) for block in comparison.blocks]


def document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain data: fractions instead of percent, values of each seed, None for unknown."""
    return {
        "schema": SCHEMA,
        "report": "compare",
        "split": comparison.split,
        "blocks": [_block_document(block) for block in comparison.blocks],
        "unreadable": dict(comparison.unreadable),
    }


def lines(comparison: Comparison) -> list[list[Any]]:
    """Long format, one line for each run and metric, `LINE_HEAD` first; fractions instead of percent."""
    table: list[list[Any]] = [list(LINE_HEAD)]
    for index, block in enumerate(comparison.blocks):
        for row in _block_document(block)["rows"]:
            place = [block.facts.dataset, block.split, index, block.apart]
            place += [row[key] for key in ("label", "run", "method", "kind", "reference")]
            effort = {key: row[key] for key in ("best_epoch", "seconds")}
            for key, cell in (row["metrics"] | effort).items():
                numbers = [cell["mean"], cell["sd"], cell["n"], len(row["failed"])]
                marks = [cell.get("mark", ""), *(cell.get("interval") or ["", ""])]
                table.append([*place, key, *numbers, *marks, *_provenance(block)])
    return table


def _coverage(block: Block) -> dict[str, int]:
    return block.facts.data.coverage(block.split, block.samples, block.kept)


def _provenance(block: Block) -> list[Any]:
    """Split, subset and samples, as the last columns of `LINE_HEAD`."""
    data = block.facts.data
    subset = [data.subset.name, data.subset.hash] if data.subset else ["", ""]
    return [data.split.name if data.split else "", data.split_hash, *subset, *_coverage(block).values()]


def _block_document(block: Block) -> dict[str, Any]:
    facts = block.facts
    return {
        "dataset": facts.dataset,
        "apart": block.apart,
        "samples": block.samples,
        "coverage": _coverage(block),
        "data": facts.data.model_dump(mode="json"),
        "protocol": facts.protocol,
        "absent_classes": list(block.absent),
        "versus": [asdict(each) for each in block.versus],
        "caption": [note for note in _notes(block) if note],
        "rows": [_row_document(row) for row in block.rows],
    }


def _row_document(row: Row) -> dict[str, Any]:
    facts = row.run.facts
    return {
        "label": row.label,
        "run": row.run.name,
        **{key: getattr(facts, key) for key in ("method", "kind", "reference", "note", "spec")},
        "deviates": list(facts.deviates),
        "seeds": list(row.seeds),
        "failed": {str(seed): reason for seed, reason in row.failed.items()},
        "in_progress": row.run.running,
        "best_unimodal": row.best_unimodal,
        "best_epoch": asdict(row.effort("selected")),
        "seconds": asdict(row.effort("seconds")),
        "metrics": {
            key: asdict(cell.summary)
            | {"values": {str(seed): value for seed, value in cell.values.items()}, "mark": cell.mark}
            | {"interval": cell.interval and list(cell.interval)}
            for key, cell in row.cells.items()
        },
    }


def seed_range(seeds: Iterable[int]) -> str:
    """Seeds in short form: 1, 2, 3, 7 is "1-3, 7"."""
    groups: list[list[int]] = []
    for seed in sorted(seeds):
        if groups and seed == groups[-1][-1] + 1:
            groups[-1].append(seed)
        else:
            groups.append([seed])
    return ", ".join(str(g[0]) if len(g) == 1 else f"{g[0]}-{g[-1]}" for g in groups)


def _sheet(block: Block, precision: int) -> Sheet:
    title = f"{block.facts.data.where(block.facts.dataset)} · {block.split}"
    if block.samples:
        title += f", {block.samples} samples, {len(block.facts.data.classes)} classes"
    metrics = [i for i, column in enumerate(block.columns, start=2) if column.modality is None]
    inside = [i for i, column in enumerate(block.columns, start=2) if column.modality is not None]
    return Sheet(
        title,
        ["method", "n", *(column.title for column in block.columns)],
        [_entries(row, block.columns, precision) for row in block.rows],
        [note for note in _notes(block) if note],
        f"Not comparable with the table above: {block.apart}." if block.apart else "",
        rules=frozenset(i for i, row in enumerate(block.rows) if i and row.is_other != block.rows[i - 1].is_other),
        hide=[*reversed(metrics[1:]), *reversed(inside)],
    )


def _entries(row: Row, columns: Iterable[Column], precision: int) -> list[Entry]:
    count = str(len(row.seeds)) + (f"/{len(row.seeds) + len(row.failed)}" if row.failed else "")
    label = Entry(row.label + (DAGGER if row.best_unimodal else ""), style="" if row.is_other else "cyan")
    return [
        label,
        Entry(count, style="yellow" if row.failed or not row.seeds else ""),
        *(_entry(row.cells[column.key], column, precision) for column in columns),
    ]


def _entry(cell: Cell, column: Column, precision: int) -> Entry:
    if not cell.values:
        return Entry("–", style="dim")
    mean, sd, percent = cell.summary.mean, cell.summary.sd, column.metric.percent
    spread = "" if sd is None else number(sd, percent=percent, precision=precision)
    return Entry(number(mean, percent=percent, precision=precision), spread, cell.mark)


def _notes(block: Block) -> Iterable[str]:
    seeds = {row.seeds for row in block.rows if row.seeds}
    shared = f" ({seed_range(next(iter(seeds)))})" if len(seeds) == 1 else ""
    unit = "percent (NLL in nats)" if any(not c.metric.percent for c in block.columns) else "percent"
    yield f"Mean ± sample standard deviation (divisor n − 1) over n seeds{shared}, in {unit}."
    if any(column.modality for column in block.columns):
        yield "acc M: accuracy of the logits of modality M inside the model, on the samples that have M."
    yield _legend(block)
    for each in block.versus:
        yield (
            f"By {block.columns[0].title}, {each.better} of {each.methods} balancing methods are better than "
            f"{each.label}, {each.distinguishable} distinguishably."
        )
    if any(row.run.facts.note == RECONSTRUCTED for row in block.rows):
        yield f"({RECONSTRUCTED}): the full paper or code could not be had; what is missing was designed by us."
    yield from _warnings(block)
    yield _stages(block)
    yield _source(block)
    yield _encoders(block)


def _legend(block: Block) -> str:
    marks = {cell.mark for row in block.rows for cell in row.cells.values()}
    tests = sum(cell.interval is not None for row in block.rows for cell in row.cells.values())
    parts = [
        "† best unimodal model" if any(row.best_unimodal for row in block.rows) else "",
        "* best" if "best" in marks else "",
        "≈ not distinguishable from the best" if "tied" in marks else "",
        "↓ below, ↑ above the modality's own unimodal model" if marks & {"below", "above"} else "",
    ]
    legend = "; ".join(part for part in parts if part)
    if tests:
        legend += (
            f" (95% intervals: paired bootstrap over seeds and samples, {DRAWS} draws; "
            f"{tests} intervals, not corrected)"
        )
    return legend and f"{legend}."


def _warnings(block: Block) -> Iterable[str]:
    counts = Counter(row.seeds for row in block.rows if row.seeds)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        odd = [f"{row.label} {seed_range(row.seeds)}" for row in block.rows if row.seeds not in ((), usual)]
        yield f"Seeds are {seed_range(usual)}, but {', '.join(odd)}; differences use the seeds that both rows have."
    for row in block.rows:
        for seed, reason in row.failed.items():
            yield f"{row.label}: seed {seed} failed and is left out ({reason})."
    empty = [row.label for row in block.rows if not row.seeds and not row.failed]
    if empty:
        yield f"No finished seed yet: {', '.join(empty)}."
    running = [row.label for row in block.rows if row.run.running]
    if running:
        yield f"More seeds in progress or interrupted: {', '.join(running)}."
    yield coverage_note(block.split, _coverage(block), block.facts.data.subset_title)
    if block.absent:
        yield f"No sample here of {', '.join(block.absent)}: left out of macro-F1 and mAP."


def _stages(block: Block) -> str:
    """Which rows were trained for more epochs than the others, over all their stages."""
    lengths = [(row, max((s.facts.epochs or 0 for s in row.run.seeds if s.facts.seed in row.seeds), default=0))
               for row in block.rows]  # fmt: skip
    lengths = [(row, epochs) for row, epochs in lengths if epochs]
    if len({epochs for _, epochs in lengths}) < 2:
        return ""
    usual = Counter(epochs for _, epochs in lengths).most_common(1)[0][0]
    odd = [f"{row.label} {epochs}" for row, epochs in lengths if epochs != usual]
    return f"Epochs over all stages: {usual}, but {', '.join(odd)}."


def _source(block: Block) -> str:
    data, protocol = block.facts.data, block.facts.protocol
    subset = f", subset {data.subset_title} ({data.subset.ids:,} ids)" if data.subset else ""
    parts = [f"Data {data.fingerprint[:8]}, split {data.split_title}{subset}"]
    if data.split_note:
        parts.append(data.split_note)
    if "selection" in protocol:
        parts.append(f"epoch selected by {protocol['selection']}")
    return "; ".join(parts) + "."


def _encoders(block: Block) -> str:
    made = [f"{m}: {e}" for m, e in block.facts.data.modalities.items() if e.startswith(HAND_MADE)]
    if not made:
        return ""
    return (
        f"Hand-made descriptors ({', '.join(made)}), far below pretrained encoders; "
        "published figures cannot be reproduced with them."
    )
