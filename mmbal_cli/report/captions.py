"""The notes below a table of a comparison: what each number, mark and interval rests on, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from mmbal_cli.encode import SHIPPED
from mmbal_cli.report.blocks import Block, Row
from mmbal_cli.report.contrast import OVER, Baseline
from mmbal_cli.report.metrics import defined
from mmbal_cli.report.runs import STAMP, coverage_note
from mmbal_cli.report.statistics import DRAWS, SAMPLES

HAND_MADE = tuple(entry.name for entry in SHIPPED.values() if "hand-made" in entry.about)
RECONSTRUCTED = "reconstructed"  # the note of such a run
UNITS = {"nll": "NLL in nats", "brier": "Brier from 0 to 2"}
NEED_CLASSES = {"macro_f1": "macro-F1", "map": "mAP", "balanced_accuracy": "balanced accuracy"}


def captions(block: Block) -> list[str]:
    """All notes of a block, in the order in which they are read."""
    return [note for note in _captions(block) if note]


def caution(block: Block, *, first: bool) -> str:
    """What must be read before the table: why it stands apart, and that epochs were chosen on the test set."""
    above = "the table above" if not first else f"the other runs on {block.facts.dataset}"
    parts = [f"Not comparable with {above}: {block.apart}." if block.apart else ""]
    if any(row.run.facts.stamp for row in block.rows):
        parts.append(f"Rows marked '{STAMP}' chose their epoch by test accuracy: their figures are optimistic.")
    return " ".join(filter(None, parts))


def seed_range(seeds: Iterable[int]) -> str:
    """Seeds in short form: 1, 2, 3, 7 is "1-3, 7"."""
    groups: list[list[int]] = []
    for seed in sorted(seeds):
        if groups and seed == groups[-1][-1] + 1:
            groups[-1].append(seed)
        else:
            groups.append([seed])
    return ", ".join(str(g[0]) if len(g) == 1 else f"{g[0]}-{g[-1]}" for g in groups)


def failures(failed: Mapping[int, str], label: str = "") -> Iterator[str]:
    """One sentence for each reason: "ogm-ge: seeds 2-4 failed and are left out (the loss is not finite)."."""
    reasons: dict[str, list[int]] = {}
    for seed, reason in failed.items():
        reasons.setdefault(reason, []).append(seed)
    for reason, seeds in reasons.items():
        what = f"seed {seeds[0]} failed and is" if len(seeds) == 1 else f"seeds {seed_range(seeds)} failed and are"
        yield f"{f'{label}: {what}' if label else what.capitalize()} left out ({reason})."


def coverage(block: Block) -> dict[str, int]:
    """Samples of the split that are listed, scored and kept."""
    return block.facts.data.coverage(block.split, block.samples, block.kept)


def _captions(block: Block) -> Iterator[str]:
    yield _means(block)
    yield _mean_interval(block)
    yield from _single_seeds(block)
    if any(column.modality for column in block.columns):
        yield "acc M: accuracy of the logits of modality M inside the model, on the samples that have M."
    yield _legend(block)
    if block.baseline is not None:
        yield from _baseline(block, block.baseline)
    for each in block.versus:
        yield (
            f"By {block.columns[0].title}, {each.better} of {each.methods} balancing methods are better than "
            f"{each.label}, {each.distinguishable} distinguishably."
        )
    if block.hidden:
        yield f"{len(block.hidden)} rows are hidden; they take part in every mark, rank, count and correction."
    if any(row.run.facts.note == RECONSTRUCTED for row in block.rows):
        yield f"({RECONSTRUCTED}): the full paper or code could not be had; what is missing was designed by us."
    yield from _warnings(block)
    yield _stages(block)
    yield _source(block)
    yield _encoders(block)


def _means(block: Block) -> str:
    seeds = {row.seeds for row in block.rows if row.seeds}
    shared = f" ({seed_range(next(iter(seeds)))})" if len(seeds) == 1 else ""
    units = ", ".join(UNITS[column.key] for column in block.columns if column.key in UNITS)
    unit = f"percent ({units})" if units else "percent"
    return f"Mean ± sample standard deviation (divisor n − 1) over n seeds{shared}, in {unit}."


def _mean_interval(block: Block) -> str:
    """What the interval column is."""
    column = block.columns[0]
    known = any(row.cells[column.key].estimate.low is not None for row in block.rows)
    return f"95% interval: of the mean {column.title}, for new seeds and new samples of this kind." if known else ""


def _single_seeds(block: Block) -> Iterator[str]:
    finished = [row for row in block.rows if row.seeds]
    single = [row.label for row in finished if len(row.seeds) == 1]
    if single:
        who = "every row" if len(single) == len(finished) else ", ".join(single)
        yield f"One seed only: {who}. It has no standard deviation, and its interval is over {SAMPLES} alone."


def _legend(block: Block) -> str:
    cells = [cell for row in block.rows for cell in row.cells.values()]
    marks = {cell.mark for cell in cells}
    parts = [
        "† best unimodal model" if any(row.best_unimodal for row in block.rows) else "",
        "* best" if "best" in marks else "",
        "≈ not distinguishable from the best" if "tied" in marks else "",
        "↓ below, ↑ above the modality's own unimodal model" if marks & {"below", "above"} else "",
    ]
    legend = "; ".join(part for part in parts if part)
    if block.intervals:
        legend += (
            f" (95% intervals: paired bootstrap over seeds and samples, {DRAWS:,} draws; "
            f"{block.intervals} intervals, not corrected)"
        )
    return legend and f"{legend}."


def _baseline(block: Block, baseline: Baseline) -> Iterator[str]:
    """What the differences to the baseline are, and why some are not there."""
    against, column = baseline.against, block.columns[0]
    if baseline.missing:
        yield f"No differences to '{against.baseline}' here: {baseline.missing}."
        return
    count = baseline.comparisons.get(column.key, 0)
    times = f"{count} comparison" + "s" * (count != 1)
    corrected = f"Holm-corrected for {times}" if against.correction == "holm" else f"not corrected, {times}"
    yield (
        f"Δ: {column.title} minus that of {baseline.label}, on the seeds of both, with its 95% interval. p: "
        f"{against.chosen} ({OVER[against.chosen]}), {corrected}; ↑ better, ↓ worse where p < {against.alpha:g}."
    )
    yield baseline.warning(column.key)
    if not count:
        yield {
            "mcnemar": "McNemar's test asks which samples are right: it has a p for accuracy only.",
            "welch": "Welch's test needs two seeds of each run.",
        }.get(against.chosen, "")
    apart = [row.label for row in block.rows
             if row.seeds and row.label != baseline.label and row.cells[column.key].values
             and row.cells[column.key].contrast is None]  # fmt: skip
    if apart:
        yield f"No seed in common with {baseline.label}, so no difference: {', '.join(apart)}."


def _warnings(block: Block) -> Iterator[str]:
    counts = Counter(row.seeds for row in block.rows if row.seeds)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        odd = [f"{row.label} {seed_range(row.seeds)}" for row in block.rows if row.seeds not in ((), usual)]
        yield f"Seeds are {seed_range(usual)}, but {', '.join(odd)}; differences use the seeds that both rows have."
    for row in block.rows:
        yield from failures(row.failed, row.label)
    empty = [row.label for row in block.rows if not row.seeds and not row.failed]
    if empty:
        yield f"No finished seed yet: {', '.join(empty)}."
    running = [row.label for row in block.rows if row.run.running]
    if running:
        yield f"More seeds in progress or interrupted: {', '.join(running)}."
    yield coverage_note(block.split, coverage(block), block.facts.data.subset_title)
    keys = {column.key for column in block.columns}
    if block.absent:
        metrics = [title for key, title in NEED_CLASSES.items() if key != "balanced_accuracy" or key in keys]
        left_out = f"{', '.join(metrics[:-1])} and {metrics[-1]}"
        yield f"No sample here of {', '.join(block.absent)}: left out of {left_out}."
    classes = len(block.facts.data.classes)
    if "top5" in keys and not defined("top5", classes):
        yield f"top-5 says nothing about {classes} classes."


def _stages(block: Block) -> str:
    """Which rows were trained for more epochs than the others, over all their stages."""
    lengths = [(row, _epochs(row)) for row in block.rows]
    lengths = [(row, epochs) for row, epochs in lengths if epochs]
    if len({epochs for _, epochs in lengths}) < 2:
        return ""
    usual = Counter(epochs for _, epochs in lengths).most_common(1)[0][0]
    odd = [f"{row.label} {epochs}" for row, epochs in lengths if epochs != usual]
    return f"Epochs over all stages: {usual}, but {', '.join(odd)}."


def _epochs(row: Row) -> int:
    return max((each.facts.epochs or 0 for each in row.run.seeds if each.facts.seed in row.seeds), default=0)


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
