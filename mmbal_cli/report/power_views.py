"""A plan as a sheet, as plain data, and as lines."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mmbal_cli.report.inference import RANK_SUM, TESTS, Test
from mmbal_cli.report.metrics import METRICS
from mmbal_cli.report.power import Plan
from mmbal_cli.report.tables import Entry, Sheet, number

SCHEMA = 1
BOUNDED = (Test.sign_flip, RANK_SUM, Test.bootstrap)  # McNemar and Welch can give any p
LINE_HEAD = (
    *("dataset", "metric", "samples", "seeds", "half_width", "difference", "comparisons", "difference_corrected"),
    *(f"smallest_p/{test}" for test in (*TESTS, RANK_SUM)),
)


def sheet(found: Plan, precision: int = 2) -> Sheet:
    """One row for each number of seeds; the assumptions, and what cannot be reached, in the notes."""
    metric = METRICS[found.metric]
    rows = []
    for row in found.rows:
        style = "bold" if row.seeds == found.seeds else ""
        figures = [row.half, row.difference, *([row.corrected] if found.comparisons > 1 else [])]
        texts = [number(each, percent=metric.percent, precision=precision) for each in figures]
        cells = [str(row.seeds), *texts, *(f"{row.smallest[test]:.2g}" for test in BOUNDED)]
        rows.append([Entry(text, style=style) for text in cells])
    heads = ["seeds", f"± {metric.title}", "smallest difference"]
    heads += [f"same, {found.comparisons} comparisons"] if found.comparisons > 1 else []
    return Sheet(
        f"{found.dataset} · {found.samples:,} test samples · plan for {found.seeds} seed{'s' * (found.seeds != 1)}",
        [*heads, *(f"least p {test}" for test in BOUNDED)],
        rows,
        [*_meaning(found), *_assumptions(found, precision)],
        caution=" ".join(found.warnings),
        hide=tuple(range(len(heads) + 2, len(heads) - 1, -1)),
    )


def _meaning(found: Plan) -> list[str]:
    metric = METRICS[found.metric]
    unit = "points" if metric.percent else "its own unit"
    first = f"{100 * (1 - found.alpha):g}% interval of one run"
    notes = [
        f"± {metric.title}: expected half-width of the {first}, in {unit}.",
        "smallest difference: of two runs, paired by seed and sample, that the paired bootstrap finds at "
        f"{found.alpha:g} with {100 * found.power:g}% power.",
        "One seed speaks of new samples only, more seeds of new seeds and new samples.",
    ]
    if found.comparisons > 1:
        level = found.alpha / found.comparisons
        notes.append(f"{found.comparisons} comparisons: at Holm's first step, {found.alpha:g} / {found.comparisons} = "
                     f"{level:.2g}.")  # fmt: skip
    else:
        notes.append("1 comparison, without correction; --comparisons K shows Holm's first step for K.")
    notes.append("least p: no difference gets a smaller one (rank-sum: unpaired seeds, n against n); the tests of "
                 "McNemar and Welch have no such bound.")  # fmt: skip
    if any(row.difference is None or row.corrected is None for row in found.rows):
        notes.append(
            "–: no difference: larger than the discordance, below the least p of the paired bootstrap, or "
            "nothing varies."
        )
    return notes


def _assumptions(found: Plan, precision: int) -> list[str]:
    base, percent = found.assumed, METRICS[found.metric].percent

    def shown(value: float) -> str:
        return number(value, percent=percent, precision=precision) + ("%" if percent else "")

    notes = [f"Test samples: {found.counted}."]
    notes.append(f"{METRICS[found.metric].title} {shown(base.mean)}: {base.sources['accuracy']}.")
    notes.append(f"Seed sd {shown(base.one.seed**0.5)} on endless samples: {base.sources['seed sd']}.")
    if base.difference is not None:
        apart = f"Discordance {shown(base.discordance)}: " if base.discordance is not None else "Difference: "
        whole = base.difference.sample + base.difference.interaction
        share = f", {100 * base.difference.sample / whole:.0f}% of it the same for all seeds" if whole else ""
        notes.append(f"{apart}{base.sources['discordance']}{share}; seed sd {shown(base.difference.seed**0.5)}.")
    else:
        notes.append(f"No other run of this data with two seeds of {found.baseline}: no smallest difference.")
    return notes


def document(found: Plan) -> dict[str, Any]:
    """As plain data; fractions, not percent."""
    base = found.assumed
    return {
        "schema": SCHEMA,
        "report": "plan",
        "dataset": found.dataset,
        "metric": found.metric,
        "baseline": found.baseline,
        "samples": found.samples,
        "samples_from": found.counted,
        "seeds": found.seeds,
        "alpha": found.alpha,
        "power": found.power,
        "comparisons": found.comparisons,
        "assumed": {
            "mean": base.mean,
            "discordance": base.discordance,
            "variance_of_one": asdict(base.one),
            "variance_of_difference": asdict(base.difference) if base.difference else None,
            "from": dict(base.sources),
        },
        "warnings": found.warnings,
        "rows": [
            {
                "seeds": row.seeds,
                "half_width": row.half,
                "smallest_difference": row.difference,
                "smallest_difference_corrected": row.corrected,
                "smallest_p": row.smallest,
            }
            for row in found.rows
        ],
    }


def lines(found: Plan) -> list[list[Any]]:
    """A head and one line for each number of seeds."""
    return [
        list(LINE_HEAD),
        *(
            [found.dataset, found.metric, found.samples, row.seeds, row.half, row.difference, found.comparisons,
             row.corrected, *row.smallest.values()]
            for row in found.rows
        ),
    ]  # fmt: skip
