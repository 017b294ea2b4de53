"""Robustness as tables with notes, as a document and as lines: subsets, one table a noisy modality, wrong pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from mmbal_cli.report.captions import failures
from mmbal_cli.report.metrics import METRICS
from mmbal_cli.report.statistics import Estimate
from mmbal_cli.report.stress import Condition
from mmbal_cli.report.tables import Entry, Sheet, number

if TYPE_CHECKING:
    from mmbal_cli.report.robustness import Curve, Result, Robustness

SCHEMA = 1
LINE_HEAD = (
    *("run", "label", "dataset", "split", "group", "metric", "samples", "kind", "modalities", "snr_db", "absent"),
    *("draws", "quantity", "mean", "sd", "n", "low", "high", "over"),
)
ABSENCE = {
    "masked": "declared missing, as in training on samples that lack them",
    "zeros": "raw features of zero",
    "mean": "the mean of the training samples",
    "resampled": "features of random training samples",
}
NONE = Entry("–", style="dim")


def sheets(found: Sequence[Robustness], precision: int = 2) -> list[Sheet]:
    """For each group of comparable runs: subsets of modalities, noise on each and on all of them, wrong pairs."""
    made: list[Sheet] = []
    for number_ in dict.fromkeys(each.group.number for each in found):
        members = [each for each in found if each.group.number == number_]
        mods = tuple(sorted({m for each in members for m in each.mods}))
        several = [each for each in members if len(each.mods) > 1]
        own = [_subsets(members, mods, precision)] if several or not mods else []
        for noisy in [*((m,) for m in mods), *([()] if len(mods) > 1 else [])]:
            having = [each for each in members if each.mods and set(noisy) <= set(each.mods)]
            own.append(_noise(having, noisy, precision))
        if several:
            own.append(_mispaired(several, mods, precision))
        made += [replace(own[0], notes=[*own[0].notes, *_warnings(members)]), *own[1:]]
    return made


def _subsets(members: Sequence[Robustness], mods: tuple[str, ...], precision: int) -> Sheet:
    kept = {c.mods: c for each in members for c in each.results if c.kind == "subset"}
    kept |= {c.mods: c for each in members for c in each.refused if c.kind == "subset"}
    order = sorted(kept, key=lambda names: (-len(names), names))
    rows = []
    for each in members:
        cells = [_clean(each, precision)]
        for names in order:
            whole = each.clean is not None and each.mods == names
            cells.append(cells[0] if whole else _entry(each, each.results.get(kept[names]), precision))
        rows.append([*_head(each), *cells])
    middle = [i for i, names in enumerate(order) if 1 < len(names) < len(mods) - 1]
    pairs = [i for i, names in enumerate(order) if len(names) == len(mods) - 1 > 1]
    way = members[0].asked.way
    notes = [
        _unit(members),
        f"Columns name the modalities that are left; the others are {ABSENCE[way]}"
        + (f"; {_draws(members[0].asked.draws)}." if way == "resampled" else "."),
        _MARKS,
        *_empty(members),
    ]
    return _made(members, f"modalities absent ({way})", ["+".join(n) for n in order], rows, notes, [*middle, *pairs])


def _noise(members: Sequence[Robustness], noisy: tuple[str, ...], precision: int) -> Sheet:
    """Noise on the one modality `noisy`, on all of the run's for ()."""
    asked, rows = members[0].asked, []
    for each in members:
        target = noisy or each.mods
        cells = [_clean(each, precision)]
        for snr in asked.snr:
            found = [result for c, result in each.results.items() if (c.mods, c.snr) == (target, snr)]
            cells.append(_entry(each, found[0] if found else None, precision))
        is_base = each.baseline == each.label
        rows.append([*_head(each), *cells, *_curve(each.curves.get(target), is_base, precision)])
    known = [each for each in members if (curve := each.curves.get(noisy or each.mods)) and curve.effective]
    base = known[0].baseline if known else ""
    levels = [f"{snr:g} dB" for snr in asked.snr]
    notes = [
        _unit(members),
        f"Gaussian noise on every feature of {noisy[0] if noisy else 'every modality'}, its power relative to the "
        f"feature's variance in training; {_draws(asked.draws)}.",
        f"relative: mean over noise amplitudes from none to {levels[-1]}; retained: its share of the clean value.",
        f"effective: relative beyond that of {base} shifted to the same clean value; above 0 = more robust."
        + _paired(members, noisy)
        if base
        else "effective: – because it needs a measured baseline: late-fusion or concat, or --baseline LABEL.",
        _MARKS,
    ]
    title = f"noise on {noisy[0] if noisy else 'all modalities'}"
    heads = [*levels, "relative", "retained", "effective", "effective 95%"]
    return _made(members, title, heads, rows, notes, [*range(1, len(levels) - 1), 0, len(levels) + 1])


def _paired(members: Sequence[Robustness], noisy: tuple[str, ...]) -> str:
    """On how many seeds `effective` rests where these are not all of the run's."""
    fewer = []
    for each in members:
        curve = each.curves.get(noisy or each.mods)
        if curve is None or each.label == each.baseline:
            continue
        n = curve.effective.n if curve.effective else 0
        fewer += [f"{each.label} n = {n}"] if n < len(each.seeds) else []
    return f" Only on the seeds of both: {', '.join(fewer)}." if fewer else ""


def _mispaired(members: Sequence[Robustness], mods: tuple[str, ...], precision: int) -> Sheet:
    rows = []
    for each in members:
        cells = [_clean(each, precision)]
        for m in mods:
            found = [result for c, result in each.results.items() if c.kind == "mispaired" and c.mods == (m,)]
            result = found[0] if found else None
            cells += [_entry(each, result, precision), _interval(result.drop if result else None, precision)]
        rows.append([*_head(each), *cells])
    notes = [
        _unit(members),
        f"wrong M: the M of another sample of the split, for no sample its own; {_draws(members[0].asked.draws)}.",
        "drop M: 95% interval of the clean value minus this one.",
        _MARKS,
    ]
    heads = [head for m in mods for head in (f"wrong {m}", f"drop {m}")]
    return _made(members, "modalities mis-paired", heads, rows, notes, [2 * i + 1 for i in reversed(range(len(mods)))])


def _draws(count: int) -> str:
    return f"mean of {count} draws" if count > 1 else "one draw"


_MARKS = (
    "↓ below, ↑ above the clean value: the 95% interval of the drop, over seeds and samples, excludes 0 "
    "(not corrected for the number of intervals)."
)


def _made(
    members: Sequence[Robustness],
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[Entry]],
    notes: Sequence[str],
    hide: Sequence[int],
) -> Sheet:
    """A sheet whose first columns are method, n and the clean metric; `hide` counts from the column after them."""
    group, first = members[0].group, members[0]
    samples = next((each.samples for each in members if each.samples), 0)
    metric = METRICS[first.asked.metric].title
    return Sheet(
        f"{group.title} · {first.split}, {samples} samples · {metric} with {title}",
        ("method", "n", "clean", *heads),
        rows,
        [note for note in notes if note],
        f"Not comparable with the tables above: {group.apart}." if group.apart else "",
        hide=tuple(3 + i for i in hide),
    )


def _head(each: Robustness) -> list[Entry]:
    count = f"{len(each.seeds)}" + (f"/{len(each.seeds) + len(each.failed)}" if each.failed else "")
    return [Entry(each.label), Entry(count, style="yellow" if each.failed or not each.seeds else "")]


def _clean(each: Robustness, precision: int) -> Entry:
    return _entry(each, each.clean, precision)


def _entry(each: Robustness, result: Result | None, precision: int) -> Entry:
    """Mean ± sd, marked where the drop is distinguishable from 0."""
    if result is None or result.value.mean is None:
        return NONE
    low, high = result.drop.low, result.drop.high
    mark = "below" if low is not None and low > 0 else "above" if high is not None and high < 0 else ""
    return _number(result.value, precision, mark)


def _number(found: Estimate | None, precision: int, mark: str = "") -> Entry:
    if found is None or found.mean is None:
        return NONE
    spread = "" if found.sd is None else number(found.sd, percent=True, precision=precision)
    return Entry(number(found.mean, percent=True, precision=precision), spread, mark)


def _interval(found: Estimate | None, precision: int) -> Entry:
    if found is None or found.low is None:
        return NONE
    ends = (number(end, percent=True, precision=precision) for end in (found.low, found.high))
    return Entry(f"[{', '.join(ends)}]")


def _curve(curve: Curve | None, is_base: bool, precision: int) -> list[Entry]:
    if curve is None:
        return [NONE] * 4
    found = [_number(each, precision) for each in (curve.relative, curve.retained)]
    if is_base:
        return [*found, NONE, NONE]
    return [*found, _number(curve.effective, precision), _interval(curve.effective, precision)]


def _unit(members: Sequence[Robustness]) -> str:
    single = any(len(each.seeds) == 1 for each in members)
    return "Percent; mean ± sample sd over n seeds." + (
        " Rows with one seed have no sd; their intervals are over samples alone." if single else ""
    )


def _empty(members: Sequence[Robustness]) -> Iterator[str]:
    worst: dict[tuple[str, ...], int] = {}
    for each in members:
        for condition, count in each.empty.items():
            worst[condition.mods] = max(count, worst.get(condition.mods, 0))
    some = [f"{'+'.join(mods)} {count}" for mods, count in worst.items() if count]
    if some:
        yield f"Samples that have none of the modalities left, answered without input: {', '.join(some)}."


def _warnings(members: Sequence[Robustness]) -> Iterator[str]:
    alone = [each.label for each in members if len(each.mods) == 1]
    if alone:
        yield f"One modality, nothing to remove or to mis-pair: {', '.join(alone)}."
    for each in members:
        if each.problem:
            yield f"{each.label}: not measured, {each.problem}"
        yield from failures(each.failed, each.label)
        for seed, reason in each.flaws.items():
            if seed not in each.failed:
                yield f"{each.label}: seed {seed} is left out where {reason}."
        for reason in dict.fromkeys(each.refused.values()):
            kinds = sorted({c.kind for c, why in each.refused.items() if why == reason})
            yield f"{each.label}: – for {', '.join(kinds)}: {reason}"
        if each.differs:
            yield f"{each.label}: {each.differs} predictions of clean inputs are not the saved ones."


def document(found: Sequence[Robustness]) -> dict[str, Any]:
    """Everything as plain data: fractions instead of percent, values of each seed, None for unknown."""
    asked = asdict(found[0].asked) if found else {}
    asked = {"absent" if key == "way" else key: value for key, value in asked.items() if key != "device"}
    return {"schema": SCHEMA, "report": "robustness", **asked, "runs": [_run_document(each) for each in found]}


def _run_document(each: Robustness) -> dict[str, Any]:
    return {
        "run": each.run.name,
        "label": each.label,
        "stamp": each.run.facts.stamp,
        "dataset": each.group.dataset,
        "split": each.split,
        "group": each.group.number,
        "apart": each.group.apart,
        "data": each.run.facts.data.model_dump(mode="json"),
        "modalities": list(each.mods),
        "samples": each.samples,
        "seeds": list(each.seeds),
        "failed": {str(seed): reason for seed, reason in each.failed.items()},
        "flaws": {str(seed): reason for seed, reason in each.flaws.items()},
        "problem": each.problem,
        "baseline": each.baseline,
        "differs": each.differs,
        "clean": _result(each.clean) if each.clean else None,
        "conditions": [
            _condition(c) | {"without_input": each.empty.get(c, 0)} | _result(result)
            for c, result in each.results.items()
        ],
        "refused": [_condition(c) | {"reason": reason} for c, reason in each.refused.items()],
        "noise": [
            {
                "modalities": list(mods),
                "relative": asdict(curve.relative),
                "retained": asdict(curve.retained),
                "effective": asdict(curve.effective) if curve.effective else None,
            }
            for mods, curve in each.curves.items()
        ],
    }


def _condition(condition: Condition) -> dict[str, Any]:
    return {
        "kind": condition.kind,
        "modalities": list(condition.mods),
        "snr_db": condition.snr,
        "draws": condition.draws,
    }


def _result(result: Result) -> dict[str, Any]:
    values = {str(seed): value for seed, value in result.values.items()}
    return {"values": values, "value": asdict(result.value), "drop": asdict(result.drop)}


def lines(found: Sequence[Robustness]) -> list[list[Any]]:
    """Long format, one line for each run, condition and quantity, `LINE_HEAD` first; fractions."""
    table: list[list[Any]] = [list(LINE_HEAD)]
    for each in found:
        place = [each.run.name, each.label, each.group.dataset, each.split, each.group.number]
        place += [each.asked.metric, each.samples]
        if each.clean:
            whole = ["clean", "+".join(each.mods), "", "", ""]
            table.append([*place, *whole, "value", *asdict(each.clean.value).values()])
        for c, result in each.results.items():
            snr, way = "" if c.snr is None else c.snr, each.asked.way if c.kind == "subset" else ""
            own = [c.kind, "+".join(c.mods), snr, way, c.draws]
            table.append([*place, *own, "value", *asdict(result.value).values()])
            table.append([*place, *own, "drop", *asdict(result.drop).values()])
        for mods, curve in each.curves.items():
            own = ["noise", "+".join(mods), "", "", each.asked.draws]
            for name in ("relative", "retained", "effective"):
                if (span := getattr(curve, name)) is not None:
                    table.append([*place, *own, name, *asdict(span).values()])
    return table
