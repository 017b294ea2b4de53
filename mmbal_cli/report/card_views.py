"""A report card as sheets, as a document and as lines: a summary of all runs, and everything of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mmbal_cli.report.captions import failures
from mmbal_cli.report.card_details import details
from mmbal_cli.report.card_parts import FUSED, MAIN_WAY, Card, RunCard
from mmbal_cli.report.runs import coverage_note
from mmbal_cli.report.statistics import Estimate
from mmbal_cli.report.tables import Entry, Sheet, number, with_sign

SCHEMA = 1
DEFINITIONS = "Definitions and sources: docs/metrics.md."
LINE_HEAD = (
    *("dataset", "split", "run", "label", "part", "what", "of", "at"),
    *("mean", "sd", "n", "low", "high", "over", "samples", "fingerprint", "split_hash"),
)


def sheets(card: Card, precision: int = 2, full: bool = False) -> list[Sheet]:
    """Two tables with one row a run; and everything of each run for a single one, or if `full`."""
    if not card.rows:
        return [Sheet(card.title, ["run", "reason"], _left_out(card), [DEFINITIONS], _caution(card), left=2)]
    made = [_inside(card, precision)]
    if any(len(row.mods) > 1 for row in card.rows):
        made.append(_contributions(card, precision))
    for row in card.rows if full or len(card.rows) == 1 else ():
        made += details(row, precision)
    return made


def document(card: Card) -> dict[str, Any]:
    """The card as plain data: fractions instead of percent, None for unknown; every number with its interval and n."""
    data = card.facts.data
    return {
        "schema": SCHEMA,
        "report": "card",
        "dataset": card.facts.dataset,
        "split": card.split,
        "apart": card.apart,
        "samples": card.samples,
        "coverage": _coverage(card),
        "data": data.model_dump(mode="json"),
        "protocol": card.facts.protocol,
        "absent_classes": list(card.absent),
        "references": dict(card.references),
        "left_out": dict(card.left_out),
        "caption": _notes(card),
        "rows": [_row_document(row) for row in card.rows],
    }


def _row_document(row: RunCard) -> dict[str, Any]:
    facts = row.run.facts
    return {
        "label": row.label,
        "run": row.run.name,
        **{key: getattr(facts, key) for key in ("method", "kind", "reference", "note", "spec")},
        "modalities": dict(row.having),
        "classes": dict(row.sizes),
        "seeds": list(row.seeds),
        "failed": {str(seed): reason for seed, reason in row.failed.items()},
        "alone": dict(row.alone),
        "logits": row.source,
        "notes": list(row.notes),
        "missing": list(row.missing),
        "numbers": [{**key._asdict(), **asdict(estimate)} for key, estimate in row.numbers.items()],
    }


def lines(card: Card) -> list[list[Any]]:
    """Long format, one line a number, `LINE_HEAD` first; fractions instead of percent."""
    table: list[list[Any]] = [list(LINE_HEAD)]
    data = card.facts.data
    for row in card.rows:
        place = [card.facts.dataset, card.split, row.run.name, row.label]
        for key, estimate in row.numbers.items():
            values = ["" if value is None else value for value in asdict(estimate).values()]
            table.append([*place, *key, *values, card.samples, data.fingerprint, data.split_hash])
    return table


# ----------------------------------------------------------------------------------------------- summaries


def _inside(card: Card, precision: int) -> Sheet:
    """What each modality does in the model, beside what it does alone."""
    mods = _modalities(card)
    probed = any(row.get("inside", "probe", m) for row in card.rows for m in mods)
    kinds = [("in model", "declared"), *([("probe", "probe")] if probed else []), ("gap", "gap declared")]
    rows = _alone_rows(card, mods, len(kinds), precision)
    rule = len(rows)
    for row in card.rows:
        entries = [*_name(row), _value(row.get("accuracy", FUSED), precision)]
        for _, what in kinds:
            values = [row.get("inside", what, m) for m in mods]
            entries += [_value(each, precision, signed=what.startswith("gap")) for each in values]
        rows.append(entries)
    heads = ["method", "n", FUSED, *(m for _ in kinds for m in mods)]
    over = ["", "", "", *(head for head, _ in kinds for _ in mods)]
    last = len(heads)
    hide = [*range(3 + len(mods), last - len(mods)), *range(3, 3 + len(mods)), 1]
    title = f"{card.title} · accuracy of each modality inside the models and alone"
    notes = [
        "Percent, means over n seeds.",
        "in model: argmax of the logits that the method declares for the modality; "
        + ("probe: linear probe on the detached features h of its adapter; " if probed else "")
        + "gap: in model minus the model trained on it alone, paired by seed and sample; ↓ ↑: the 95% interval is "
        "without zero. On the samples that have the modality.",
        *_paired(card),
        *_sources(card),
        *_missing_alone(card),
        *_notes(card),
    ]
    return Sheet(
        title, heads, rows, notes, _caution(card), rules=frozenset([rule] if rule else []), hide=hide, over=over
    )


def _contributions(card: Card, precision: int) -> Sheet:
    """What the fused prediction owes to each modality, and what training gave it."""
    mods = _modalities(card)
    heads = ["method", "n", "imbalance", *mods, "spread", *mods, *mods]
    over = ["", "", "", *["φ share"] * len(mods), "", *["use"] * len(mods), *["gradient"] * len(mods)]
    rows = []
    for row in (each for each in card.rows if len(each.mods) > 1):
        spread = [found.mean or 0.0 for m in mods if (found := row.get("shapley", "spread", m))]
        rows.append([
            *_name(row),
            _value(row.get("shapley", "imbalance", at=MAIN_WAY), precision, percent=False),
            *(_value(row.get("shapley", "share", m, MAIN_WAY), precision) for m in mods),
            Entry(number(max(spread, default=None), percent=True, precision=precision)),
            *(_value(row.get("utilisation", "rate", m, MAIN_WAY), precision) for m in mods),
            *(_value(row.get("gradient share", "mean", m), precision) for m in mods),
        ])  # fmt: skip
    M = len(mods)
    hide = [*range(4 + 2 * M, 4 + 3 * M), 3 + M, *range(4 + M, 4 + 2 * M), 1]
    notes = [
        "imbalance: (max φ − min φ) / Σ|φ| of the Shapley values φ of accuracy over all subsets of the modalities, "
        "0 balanced, 1 one-sided; φ share: φ / Σ|φ|.",
        "Absent here: masked, as in training on samples without the modality. spread: largest change of a φ, in "
        "points, when absent means raw zeros, the training mean or a random training sample instead.",
        "use: conditional utilisation, (accuracy − accuracy without the modality) / accuracy. "
        "gradient: share of the adapters' gradient norms, mean over the epochs of the last phase.",
        *said_once(card, [(row.label, text) for row in card.rows for text in row.missing]),
        DEFINITIONS + (" Intervals and the rest: --full, --format json or csv." if len(card.rows) > 1 else ""),
    ]
    return Sheet(
        f"{card.title} · what each modality contributes", heads, rows, notes, _caution(card), hide=hide, over=over
    )


def _modalities(card: Card) -> list[str]:
    used = {m for row in card.rows for m in row.mods}
    return [m for m in card.facts.data.modalities if m in used]


def _name(row: RunCard) -> list[Entry]:
    count = str(len(row.seeds)) + (f"/{len(row.seeds) + len(row.failed)}" if row.failed else "")
    return [Entry(row.label), Entry(count, style="yellow" if row.failed else "")]


def _value(estimate: Estimate | None, precision: int, percent: bool = True, signed: bool = False) -> Entry:
    """A mean; of a difference with its sign, marked where its interval is without zero."""
    if estimate is None or estimate.mean is None:
        return Entry("–", style="dim")
    text = number(estimate.mean, percent=percent, precision=precision)
    if not signed:
        return Entry(text)
    low, high = estimate.low, estimate.high
    mark = "" if low is None or high is None else "below" if high < 0 else "above" if low > 0 else ""
    return Entry(with_sign(text), mark=mark)


def _alone_rows(card: Card, mods: Sequence[str], kinds: int, precision: int) -> list[list[Entry]]:
    """One row with the accuracies of the models of one modality each."""
    known: dict[str, Estimate] = {}
    for row in card.rows:
        known |= {m: found for m in row.alone if m not in known and (found := row.get("inside", "alone", m))}
    if not known:
        return []
    counts = sorted({each.n for each in known.values()})
    count = str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
    cells = [_value(known.get(m), precision) for m in mods]
    dashes = [Entry("–", style="dim")] * (len(mods) * (kinds - 1))
    return [[Entry("each alone", style="cyan"), Entry(count), Entry("–", style="dim"), *cells, *dashes]]


def said_once(card: Card, said: Sequence[tuple[str, str]]) -> list[str]:
    """Notes of rows [(label, text)], equal ones with the names of all their rows."""
    labels: dict[str, list[str]] = {}
    for label, text in said:
        labels.setdefault(text, []).append(label)
    everybody = len(card.rows) if len(card.rows) > 1 else 0
    return [f"{'All' if len(names) == everybody else ', '.join(names)}: {text}" for text, names in labels.items()]


def _paired(card: Card) -> list[str]:
    """Which gaps rest on fewer seeds than the accuracies beside them."""
    fewer = []
    for row in card.rows:
        counts = {m: found.n for m in row.alone if (found := row.get("inside", "gap declared", m))}
        counts |= {m: 0 for m in row.alone if m not in counts and row.get("inside", "declared", m)}
        fewer += [f"{row.label} {m} n = {n}" for m, n in counts.items() if n < len(row.seeds)]
    return [f"Gaps only on the seeds of both: {', '.join(fewer)}."] if fewer else []


def _sources(card: Card) -> list[str]:
    """Where declared logits come from, rows of one source together."""
    sources: dict[str, list[str]] = {}
    for row in card.rows:
        sources.setdefault(row.source, []).append(row.label)
    if len(sources) == 1:
        return [f"Declared logits: {next(iter(sources))}."]
    return [f"Declared logits of {', '.join(labels)}: {source}." for source, labels in sources.items()]


def _missing_alone(card: Card) -> list[str]:
    """Which modalities no run here has trained alone, and the command that does."""
    lacking = [m for m in _modalities(card) if all(m not in row.alone for row in card.rows)]
    if not lacking or all(len(row.mods) < 2 for row in card.rows):
        return []
    names = ", ".join(f"unimodal:{m}" for m in lacking)
    return [f"No gap for {', '.join(lacking)}: {names} on the same data and samples is not among these runs; "
            f"`{training_command(card)}` trains it."]  # fmt: skip


def training_command(card: Card) -> str:
    """The command that trains every modality alone on the data of a card."""
    facts, seeds = card.facts, max((len(row.seeds) for row in card.rows), default=5)
    words = [f"mmbal train --method unimodal --dataset {facts.dataset}"]
    words += [f"--encoder {m}={name}" for m, name in (facts.config.get("encoders") or {}).items()]
    words += [f"--split {facts.data.split.name}"] if facts.data.split else []
    words += [f"--subset {facts.data.subset.name}"] if facts.data.subset else []
    return " ".join([*words, f"--seeds {seeds}"])


def _coverage(card: Card) -> dict[str, int]:
    return card.facts.data.coverage(card.split, card.samples, card.kept)


def _notes(card: Card) -> list[str]:
    """What every reader of the card must know: seeds, what is left out, data and protocol."""
    data, protocol = card.facts.data, card.facts.protocol
    notes: list[str] = []
    for row in card.rows:
        notes += failures(row.failed, row.label)
    notes += said_once(card, [(row.label, text) for row in card.rows for text in row.notes])
    single = [row.label for row in card.rows if len(row.seeds) == 1]
    if single:
        notes.append(f"One seed, no spread over seeds, intervals over samples only: {', '.join(single)}.")
    notes += [f"Left out: {name}: {reason}." for name, reason in card.left_out.items()]
    if all(len(row.mods) < 2 for row in card.rows):
        notes.append("Models of one modality: there is nothing to balance. Give runs of methods that fuse, too.")
    notes.append(coverage_note(card.split, _coverage(card), data.subset_title))
    if card.absent:
        notes.append(f"No sample here of {', '.join(card.absent)}.")
    subset = f", subset {data.subset_title}" if data.subset else ""
    selected = f"; epoch selected by {protocol['selection']}" if "selection" in protocol else ""
    notes.append(f"Data {data.fingerprint[:8]}, split {data.split_title}{subset}{selected}.")
    return [note for note in notes if note]


def _caution(card: Card) -> str:
    return f"Not comparable with the tables above: {card.apart}." if card.apart else ""


def _left_out(card: Card) -> list[list[Entry]]:
    return [[Entry(name), Entry(reason)] for name, reason in card.left_out.items()]
