"""What a replayed run and the bundled one have in common: equal bits, a difference that means nothing, or another run.

Equal versions on an equal processor give equal bits: a seed's numbers depend on nothing else. Another version of
torch, another processor or a GPU rounds differently; training carries that on, so that single probabilities may
differ a lot while the result is as good. How far accuracy may move is taken from the bundled run itself:

    accuracy of each seed    moves at most max(1 / N, 2 d)
    mean over seeds          moves at most max(1 / N, 2 d / sqrt(n))
    answers of each seed     are the same for at least a - 2 sqrt(2 a (1 - a) / N) of the samples
    d = max(sqrt(2) s, sqrt((1 - a) / N))

with N scored samples, n replayed seeds, s the sample standard deviation of the bundled accuracies over seeds and a the
smallest share of equal answers of any two bundled seeds. d is what two trainings that share all settings and not the
seed differ by, in the root mean square: as measured, and at least what chance makes of so many changed answers (that
of McNemar's test), because two or three seeds may agree by luck. What rounds differently may differ by twice that. A
run with one seed has no s, and a is its accuracy. Verdicts are of the test split, of validation where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mmbal_cli.errors import CacheError
from mmbal_cli.report.bundle import PREDICTED
from mmbal_cli.report.metrics import METRICS, metrics
from mmbal_cli.report.runs import Predictions, Run, SeedResult
from mmbal_cli.report.tables import Entry, Sheet, number

SCHEMA = 1
SCORES = ("accuracy", "macro_f1", "map", "nll")
TWICE = 2.0
BITWISE, WITHIN, DIFFERENT = "bitwise equal", "equal within tolerance", "different"
LINE_HEAD = ("run", "split", "seed", "quantity", "bundled", "replayed", "difference")


@dataclass(frozen=True)
class SeedDifference:
    """One seed: `then` and `now` {metric: value} of the verdict's split; both are empty for a seed that failed.

    `probability` is the largest difference of any predicted probability (None where one is not finite), `agreement`
    the share of equal predictions (of the split), `bitwise` whether all saved predictions and the selected epoch are
    equal.
    """

    seed: int
    status: tuple[str, str]
    bitwise: bool
    probability: float | None
    agreement: float | None
    then: Mapping[str, float]
    now: Mapping[str, float]
    epoch: tuple[Any, Any]

    def change(self, metric: str) -> float | None:
        """Replayed minus bundled."""
        return self.now[metric] - self.then[metric] if metric in self.now and metric in self.then else None


@dataclass(frozen=True)
class Tolerance:
    """How far the accuracy of a seed and the mean over seeds may move, and how many answers must stay the same."""

    seed: float
    mean: float
    agreement: float


@dataclass(frozen=True)
class Replayed:
    """The comparison of all asked seeds, with what it allows and what differs between the two machines."""

    run: str
    title: str
    split: str
    samples: int
    seeds: tuple[SeedDifference, ...]
    tolerance: Tolerance
    environment: tuple[tuple[str, str, str], ...]  # fact, bundled, replayed
    exact: bool = False

    @property
    def mean_change(self) -> float | None:
        """Mean over seeds of the change of accuracy."""
        changes = [c for each in self.seeds if (c := each.change("accuracy")) is not None]
        return float(np.mean(changes)) if changes else None

    @property
    def within(self) -> bool:
        """Every seed ended as in the bundle, and accuracies and answers are inside the tolerance."""
        tiny = 1e-12  # rounding of the tolerance itself
        for each in self.seeds:
            change = each.change("accuracy")
            if each.status[0] != each.status[1] or each.then.keys() != each.now.keys():
                return False
            if change is not None and abs(change) > self.tolerance.seed + tiny:
                return False
            if each.agreement is not None and each.agreement < self.tolerance.agreement - tiny:
                return False
        return abs(self.mean_change or 0.0) <= self.tolerance.mean + tiny

    @property
    def verdict(self) -> str:
        """One of BITWISE, WITHIN, DIFFERENT."""
        if all(each.bitwise for each in self.seeds):
            return BITWISE
        return WITHIN if self.within and not self.exact else DIFFERENT


def judge(bundled: Run, replayed: Run, environments: tuple[Mapping[str, Any], Mapping[str, Any]],
          seeds: Sequence[int], *, exact: bool = False) -> Replayed:  # fmt: skip
    """Compare `seeds` of two runs of one spec; `environments` are the contents of their env.json.

    Raises CacheError when they were scored on different samples or predictions cannot be read.
    """
    then, now = ({result.facts.seed: result for result in run.seeds} for run in (bundled, replayed))
    good = [result for result in bundled.seeds if result.facts.status == "done"]
    split = "test" if any((result.folder / "predictions-test.safetensors").exists() for result in good) else "val"
    found = [_seed(then[seed], now[seed], split) for seed in seeds]
    scored = [result.predictions(split) for result in good]
    return Replayed(
        bundled.facts.label,
        bundled.facts.title,
        split,
        len(scored[0].labels) if scored else 0,
        tuple(found),
        tolerance_of(scored, sum(bool(each.now and each.then) for each in found)),
        different_facts(*environments),
        exact,
    )


def tolerance_of(bundled: Sequence[Predictions], n: int) -> Tolerance:
    """What is allowed of the replay of `n` seeds, from the predictions of the bundled ones: see the head."""
    if not bundled or not len(bundled[0].labels):
        return Tolerance(0.0, 0.0, 1.0)
    N, answers = len(bundled[0].labels), [each.probs.argmax(axis=1) for each in bundled]
    accuracies = [float(np.mean(answer == bundled[0].labels)) for answer in answers]
    s = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    a = min((float(np.mean(one == other)) for one, other in combinations(answers, 2)), default=accuracies[0])
    d = max(math.sqrt(2) * s, math.sqrt((1 - a) / N))
    least = max(0.0, a - TWICE * math.sqrt(2 * a * (1 - a) / N))
    return Tolerance(max(1 / N, TWICE * d), max(1 / N, TWICE * d / math.sqrt(max(n, 1))), least)


def _seed(then: SeedResult, now: SeedResult, split: str) -> SeedDifference:
    status = (then.facts.status, now.facts.status)
    epoch = (then.facts.best_epoch, now.facts.best_epoch)
    if status != ("done", "done"):
        alike = status[0] == status[1] and then.facts.reason == now.facts.reason
        return SeedDifference(then.facts.seed, status, alike, None, None, {}, {}, epoch)
    pairs = {}
    for name in PREDICTED:
        files = [result.folder / f"predictions-{name}.safetensors" for result in (then, now)]
        if any(file.exists() for file in files):
            pairs[name] = then.predictions(name), now.predictions(name)
    for one, other in pairs.values():
        if one.samples() != other.samples():
            raise CacheError(f"Seed {then.facts.seed} was scored on other samples than in the bundle.")
    before, after = pairs[split]
    return SeedDifference(
        then.facts.seed,
        status,
        epoch[0] == epoch[1] and all(_equal(one, other) for one, other in pairs.values()),
        _largest(before, after),
        float(np.mean(before.probs.argmax(axis=1) == after.probs.argmax(axis=1))),
        _scores(before, then.classes),
        _scores(after, then.classes),
        epoch,
    )


def _equal(one: Predictions, other: Predictions) -> bool:
    """All probabilities and logits, bit for bit."""
    if one.logits.keys() != other.logits.keys():
        return False
    pairs = [(one.probs, other.probs), *((one.logits[m], other.logits[m]) for m in one.logits)]
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


def _largest(one: Predictions, other: Predictions) -> float | None:
    difference = np.abs(one.probs.astype(np.float64) - other.probs.astype(np.float64))
    return float(difference.max(initial=0.0)) if np.isfinite(difference).all() else None


def _scores(predictions: Predictions, classes: Sequence[str]) -> dict[str, float]:
    if predictions.flaw():
        return {}
    return metrics(predictions.probs, predictions.labels, classes, SCORES)


def different_facts(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """What of two env.json differs: versions, device, cores; the command is nobody's business here."""
    flat = [
        {key: value for key, value in facts.items() if key not in ("packages", "command")}
        | dict(facts.get("packages") or {})
        for facts in (then, now)
    ]
    keys = list(dict.fromkeys([*flat[1], *flat[0]]))
    pairs = [(key, *(str(each.get(key, "unknown")) for each in flat)) for key in keys]
    return tuple((key, one, other) for key, one, other in pairs if one != other)


# ------------------------------------------------------------------------------------------- display


def sheet(found: Replayed, precision: int = 2) -> Sheet:
    """One row a seed, the verdict above."""
    heads = ("seed", "ended", "max |Δp|", "same answer", *(f"Δ {METRICS[key].title}" for key in SCORES), "epoch")
    rows = [_row(each, precision) for each in found.seeds]
    return Sheet(f"{found.title}: bundle and replay on {found.split} (n = {found.samples:,}): {found.verdict}",
                 heads, rows, notes(found, precision), left=2, hide=(7, 6, 5, 1))  # fmt: skip


def _row(each: SeedDifference, precision: int) -> list[Entry]:
    ended = each.status[0] if each.status[0] == each.status[1] else f"{each.status[0]}, now {each.status[1]}"
    epoch = _epoch(each.epoch[0]) if each.epoch[0] == each.epoch[1] else " → ".join(map(_epoch, each.epoch))
    small = "–" if each.probability is None else "0" if each.probability == 0 else f"{each.probability:.1e}"
    scores = [_signed(each.change(key), METRICS[key].percent, precision) for key in SCORES]
    same = number(each.agreement, percent=True, precision=precision)
    return list(map(Entry, (str(each.seed), ended, small, same, *scores, epoch)))


def _epoch(value: Any) -> str:
    if isinstance(value, dict):
        values = list(value.values())
        return str(values[0]) if len(set(values)) == 1 else ",".join(map(str, values))
    return "–" if value is None else str(value)


def _signed(value: float | None, percent: bool, precision: int) -> str:
    if value is None:
        return "–"
    text = "0" if value == 0 else f"{value * 100:+.{precision}f}" if percent else f"{value:+.{precision + 1}f}"
    return text if text.strip("+-0.") else text.lstrip("+-")


def notes(found: Replayed, precision: int = 2) -> list[str]:
    """Tolerance, why it is what it is, and what differs between the two machines."""
    lines = ["Replayed minus bundled; accuracy, macro-F1 and mAP in percentage points, NLL in nats."]
    if found.exact:
        lines.append("--exact: only equal bits count as equal.")
    else:
        seed, mean, least = (f"{100 * each:.{precision}f}" for each in astuple(found.tolerance))
        lines.append(
            f"Tolerance: accuracy moves by at most {seed} points a seed and {mean} in the mean over seeds (it moved by "
            f"{_signed(found.mean_change, True, precision)}), and at least {least}% of the answers of a seed stay the "
            "same: twice what two trainings that differ only in the seed differ by, at least one sample."
        )
    if found.environment:
        lines.append("Other here: " + "; ".join(f"{k} {now}, not {then}" for k, then, now in found.environment) + ".")
    if found.verdict != BITWISE:
        rounding = [k for k, _, _ in found.environment if k in ("torch", "numpy", "device", "gpu", "system", "mmbal")]
        lines.append(
            f"Equal bits were not to be expected: {', '.join(rounding)} differ."
            if rounding
            else "Versions and device are those of the bundle, so equal bits were expected on an equal processor: "
            "either the processor is of another model, which env.json does not say, or something else changed."
        )
    return lines


def document(found: Replayed) -> dict[str, Any]:
    """The comparison as plain data; fractions."""
    return {
        "schema": SCHEMA,
        "report": "replay",
        "run": found.run,
        "label": found.title,
        "split": found.split,
        "samples": found.samples,
        "verdict": found.verdict,
        "exact": found.exact,
        "tolerance": asdict(found.tolerance),
        "mean_change": found.mean_change,
        "environment": [{"fact": k, "bundled": then, "replayed": now} for k, then, now in found.environment],
        "seeds": [
            {**asdict(each), "change": {key: each.change(key) for key in SCORES if each.then}} for each in found.seeds
        ],
    }


def lines(found: Replayed) -> list[list[Any]]:
    """Long format: one line for each seed and quantity, `LINE_HEAD` first; fractions."""
    table: list[list[Any]] = [list(LINE_HEAD)]
    for each in found.seeds:
        place = [found.run, found.split, each.seed]
        table.append([*place, "status", *each.status, ""])
        table += [[*place, key, each.then[key], each.now[key], each.change(key)] for key in SCORES if key in each.now
                  and key in each.then]  # fmt: skip
        if each.probability is not None:
            table += [[*place, "probability", "", "", each.probability], [*place, "agreement", "", "", each.agreement]]
    return table
