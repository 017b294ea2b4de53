"""Everything of one run's report card, one table a question; every number with its 95% interval."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from mmbal_cli.report.card_parts import FUSED, MAIN_WAY, NOBODY, RunCard, joined
from mmbal_cli.report.statistics import Estimate
from mmbal_cli.report.tables import Entry, Sheet, number, with_sign

WAYS = ("masked", "zeros", "mean", "resampled")
MOST_CLASSES = 20  # rows of the table of classes; documents have all
SHOWN = {"first": "first epoch", "middle": "middle", "last": "last", "mean": "mean"}


def details(row: RunCard, precision: int) -> list[Sheet]:
    """The tables of one run, those that there is something for."""
    made = [_inside(row, precision), _coalitions(row, precision), _training(row, precision), _right(row, precision)]
    made += [_oracles(row, precision), _classes(row, precision)]
    return [sheet for sheet in made if sheet is not None]


def spanned(estimate: Estimate | None, precision: int, percent: bool = True, signed: bool = False) -> Entry:
    """Mean [low, high]; a difference with its sign and a mark where the interval is without zero."""
    if estimate is None or estimate.mean is None:
        return Entry("–", style="dim")

    def text(value: float) -> str:
        shown = number(value, percent=percent, precision=precision)
        return with_sign(shown) if signed else shown

    low, high = estimate.low, estimate.high
    if low is None or high is None:
        return Entry(text(estimate.mean))
    mark = ("below" if high < 0 else "above" if low > 0 else "") if signed else ""
    return Entry(f"{text(estimate.mean)} [{text(low)}, {text(high)}]", mark=mark)


def _measured(row: RunCard) -> str:
    """What the numbers of a table are."""
    n = len(row.seeds)
    if n == 1:
        return f"One seed ({row.seeds[0]}) and 95% interval over samples"
    return f"Mean over {n} seeds and 95% interval over seeds and samples"


def _title(row: RunCard, question: str) -> str:
    return f"{row.label} · {question}"


def _inside(row: RunCard, precision: int) -> Sheet | None:
    columns = {"declared": "declared logits", "probe": "probe on h", "alone": "alone",
               "gap declared": "gap declared", "gap probe": "gap probe"}  # fmt: skip
    columns = {what: head for what, head in columns.items() if row.among("inside", what)}
    rows = [
        [Entry(m), Entry(str(row.having[m]))]
        + [spanned(row.get("inside", what, m), precision, signed=what.startswith("gap")) for what in columns]
        for m in row.mods
    ]
    notes = [
        f"{_measured(row)}, percent; gap: inside minus alone, paired by seed and sample.",
        f"Declared logits: {row.source}.",
        *(f"Alone: {', '.join(dict.fromkeys(row.alone.values()))}." for _ in [0] if row.alone),
    ]
    heads = ["modality", "samples", *columns.values()]
    names = list(columns)
    hide = [names.index(what) + 2 for what in ("gap probe", "alone", "probe") if what in names]
    return Sheet(_title(row, "each modality inside the model and alone"), heads, rows, notes, hide=[*hide, 1])


def _coalitions(row: RunCard, precision: int) -> Sheet | None:
    """All that depends on how a modality is taken away: a column for each way."""
    ways = [way for way in WAYS if row.get("coalition", "accuracy", joined(row.mods), way)]
    if not ways or len(row.mods) < 2:
        return None
    rows: list[list[Entry]] = []
    rules = set()

    def section(name: str, part: str, what: str, members: Sequence[str], percent: bool = True) -> None:
        rules.add(len(rows))
        for of in members:
            cells = [
                spanned(row.get(part, what, of, way), precision, percent, signed=part == "interaction") for way in ways
            ]
            means = [found.mean for way in ways if (found := row.get(part, what, of, way)) and found.mean is not None]
            spread = number(max(means) - min(means), percent=percent, precision=precision) if len(means) > 1 else "–"
            rows.append([Entry(f"{name} {of}".strip()), *cells, Entry(spread)])

    pairs = [joined(pair) for pair in combinations(row.mods, 2)]
    section("accuracy with", "coalition", "accuracy", _subsets(row))
    section("φ", "shapley", "value", row.mods)
    section("imbalance degree", "shapley", "imbalance", [""], percent=False)
    section("interaction", "interaction", "index", pairs)
    section("utilisation", "utilisation", "rate", row.mods)
    if len(row.mods) == 2:
        section("utilisation", "utilisation", "difference", pairs)
        rules.remove(len(rows) - 1)
        rows[-1][0] = Entry(f"utilisation {row.mods[0]} − {row.mods[1]}")
    notes = [
        "Columns: what absent means. masked: declared missing, as in training; zeros: raw features of zero; mean: mean "
        "of the training samples; resampled: a random training sample's, 5 draws. spread: largest minus smallest.",
        "φ: Shapley value of accuracy, in points; their sum is accuracy with all minus accuracy with none.",
        "interaction: Shapley interaction index, in points; ↓ redundant, ↑ synergistic: its 95% "
        "interval is without zero.",
        "utilisation M: (accuracy − accuracy without M) / accuracy, percent.",
    ]
    title = _title(row, "what the fused prediction owes to each modality")
    heads = ["quantity", *ways, "spread"]
    hide = [i for way in ("resampled", "mean", "zeros") if way in ways for i in [1 + ways.index(way)]]
    return Sheet(title, heads, rows, notes, rules=frozenset(rules - {0}), hide=hide)


def _subsets(row: RunCard) -> list[str]:
    """Coalitions, the largest first; of many modalities only those of all, all but one, one, and none."""
    sets = dict.fromkeys(key.of for key in row.among("coalition", "accuracy"))
    sizes = {of: 0 if of == NOBODY else of.count("+") + 1 for of in sets}
    M = len(row.mods)
    kept = [of for of in sets if M <= 3 or sizes[of] in (0, 1, M - 1, M)]
    return sorted(kept, key=lambda of: -sizes[of])


def _training(row: RunCard, precision: int) -> Sheet | None:
    if len(row.mods) < 2 or not (row.among("discrepancy", "mean") or row.among("gradient share", "mean")):
        return None
    heads, columns = ["modality"], []
    for part, name, times in (("gradient share", "gradient", ("mean", "last")), ("discrepancy", "discrepancy", SHOWN)):
        if row.among(part, "mean"):
            columns += [(part, when) for when in times]
            heads += [f"{name}, {SHOWN[when]}" for when in times]
    rows = [
        [Entry(m), *(spanned(row.get(part, when, m), precision, part != "discrepancy") for part, when in columns)]
        for m in row.mods
    ]
    notes = [
        "gradient: M's share of the gradient norms of all adapters, percent. "
        + (
            "discrepancy: OGM's ratio of M's true-class probability to that of the others, above 1 where M is ahead."
            if row.among("discrepancy", "mean")
            else ""
        ),
        f"Over the epochs of the last phase in which they were recorded; {_recorded(row, columns)}.",
    ]
    hide = [i for i, (_, when) in enumerate(columns, 1) if when == "middle"]
    hide += [i for i, column in enumerate(columns, 1) if column == ("discrepancy", "mean")]
    return Sheet(_title(row, "what training gave each modality"), heads, rows, notes, hide=hide)


def _recorded(row: RunCard, columns: Sequence[tuple[str, str]]) -> str:
    """Over how many seeds the numbers of the records are means: those whose records have them."""
    found = [row.get(part, when, m) for part, when in columns for m in row.mods]
    counts = sorted({each.n for each in found if each is not None})
    if counts == [1]:
        return "one seed, no interval"
    return (
        f"mean over {counts[0]} seeds and 95% t interval"
        if len(counts) == 1
        else (f"means over {counts[0]} to {counts[-1]} seeds and 95% t intervals")
    )


def _right(row: RunCard, precision: int) -> Sheet | None:
    """Which modalities were right, and what became of it."""
    if len(row.mods) < 2:
        return None
    whats = ("share", "fused right", "fused wrong")
    keys = row.among("who was right", "share")
    if len(row.mods) == 2:
        order = [joined([row.mods[0]]), joined([row.mods[1]]), joined(row.mods), NOBODY]
        keys = sorted(keys, key=lambda key: order.index(key.of))
    rows = [
        [Entry(_who(row, key.of)), *(spanned(row.get("who was right", what, key.of), precision) for what in whats)]
        for key in keys
    ]
    notes = [
        f"{_measured(row)}, percent of all samples, by the declared logits.",
        "A modality that a sample lacks counts as not right.",
    ]
    never = 2 ** len(row.mods) - len(keys)
    if never:
        notes.append(f"{never} of {2 ** len(row.mods)} patterns never occurred and are not listed.")
    return Sheet(_title(row, "who was right"), ["right are", *whats], rows, notes, hide=[1])


def _who(row: RunCard, of: str) -> str:
    if of == joined(row.mods):
        return "both" if len(row.mods) == 2 else "all"
    if of == NOBODY:
        return "neither" if len(row.mods) == 2 else "none"
    return f"only {of}"


def _oracles(row: RunCard, precision: int) -> Sheet | None:
    if len(row.mods) < 2:
        return None
    rows = [
        [Entry("fused prediction"), spanned(row.get("accuracy", FUSED), precision), Entry("")],
        [Entry("oracle: any modality is right"), spanned(row.get("oracle", "oracle"), precision),
         spanned(row.get("oracle", "gap to oracle"), precision, signed=True)],
        [Entry("oracle: fused or any modality is right"), spanned(row.get("oracle", "oracle with fused"), precision),
         spanned(row.get("oracle", "headroom"), precision, signed=True)],
    ]  # fmt: skip
    notes = [
        f"{_measured(row)}, percent.",
        "The last difference is the headroom: the samples that the fused prediction gets wrong although a modality is "
        "right. The more modalities and the fewer classes, the more an oracle is right by chance.",
    ]
    return Sheet(_title(row, "headroom of an oracle"), ["choice", "accuracy", "minus fused"], rows, notes)


def _classes(row: RunCard, precision: int) -> Sheet | None:
    """Classes, the most one-sided first."""
    if len(row.mods) < 2:
        return None
    degree = any(row.get("class", "imbalance", at=name) for name in row.sizes)

    def worst(name: str) -> tuple:
        found = row.get("class", "imbalance" if degree else "range", at=name)
        return (found is None, -((found and found.mean) or 0.0), name)

    names = sorted(row.sizes, key=worst)
    heads = ["class", "samples", *(["imbalance"] if degree else []), "range", FUSED, *row.mods]
    rows = []
    for name in names[:MOST_CLASSES]:
        entries = [Entry(name), Entry(str(row.sizes[name]))]
        if degree:
            entries.append(spanned(row.get("class", "imbalance", at=name), precision, percent=False))
        entries.append(spanned(row.get("class", "range", at=name), precision))
        entries += [spanned(row.get("class", "recall", of, name), precision) for of in (FUSED, *row.mods)]
        rows.append(entries)
    notes = [
        f"{_measured(row)}. Recall in percent, fused and by the declared logits of each modality; range: largest minus "
        "smallest of them. "
        + (f"imbalance: imbalance degree of the class's Shapley values (absent: {MAIN_WAY}). " if degree else "")
        + "Intervals over the samples of the class.",
        "A degree or range of few samples is too large on average: read it with its interval.",
    ]
    if len(names) > MOST_CLASSES:
        notes.append(f"The {MOST_CLASSES} most one-sided of {len(names)} classes; --format json or csv has all.")
    hide = [3 if degree else 1, *range(len(heads) - len(row.mods), len(heads)), 1]
    return Sheet(_title(row, "imbalance of each class"), heads, rows, notes, hide=hide)
