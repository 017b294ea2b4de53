"""Findings that predictions show: modalities inside the model, seeds, other runs, calibration, classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.report.explain import INDEPENDENT, Case, Check, Finding, Reference
from mmbal_cli.report.measure import measure
from mmbal_cli.report.runs import Predictions
from mmbal_cli.report.statistics import Estimate, Measured, combined, estimate, measured_mean, within

STARVED = 0.05  # accuracy a modality lacks inside the model before it is worth a remark: half of a usual gain is less
SPREAD = 2.0  # sd over seeds in units of the standard error of one accuracy on this test set
COLLAPSED = 0.10  # accuracy below the other seeds ...
COLLAPSED_ERRORS = 5.0  # ... and in standard errors: no draw of an initialisation that works does this
CONFIDENCE_GAP = 0.05  # mean confidence minus accuracy: what a reader of the probabilities notices
GAP_LEAST = 0.02  # a smaller gap of validation and test changes no conclusion


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"


def _interval(found: Estimate, signed: bool = True) -> str:
    if found.low is None or found.high is None:
        return "no interval"
    low, high = (_points(end) if signed else f"{100 * end:.1f}" for end in (found.low, found.high))
    return f"95% interval {low} to {high}"


def _difference(case: Case, other: Reference, modality: str | None = None) -> Estimate:
    """Accuracy of the run, or of a modality inside it, minus that of another run, on the seeds of both."""
    mine, theirs = measure(case.scored, "accuracy", modality), measure(other.good, "accuracy")
    if modality is not None:  # on the samples that have it, for both
        theirs = measured_mean({
            seed: np.where(each.present.get(modality, np.ones(len(each.labels), bool)),
                           (each.probs.argmax(axis=1) == each.labels).astype(float), np.nan)
            for seed, each in other.good.items()
        })  # fmt: skip
    return within(_finite(estimate(combined([(1.0, mine), (-1.0, theirs)]))), -1.0)


def _finite(found: Estimate) -> Estimate:
    """Without an interval where that has no finite ends: nothing is claimed from it."""
    if found.low is None or found.high is None or not math.isfinite(found.low) or not math.isfinite(found.high):
        return replace(found, low=None, high=None)
    return found


def _largest_share(labels: NDArray) -> float:
    return float(np.bincount(labels).max() / len(labels)) if len(labels) else math.nan


def modalities(case: Case) -> Iterator[Finding]:
    """A modality that learns nothing inside the model, or much less than by itself."""
    first = next(iter(case.scored.values()), None)
    if first is None or not len(first.labels) or case.name in INDEPENDENT or len(first.logits) < 2:
        return
    alone = case.unimodals()
    for m in first.logits:
        if not first.present[m].any():
            continue
        inside = within(estimate(measure(case.scored, "accuracy", m)))
        chance = _largest_share(first.labels[first.present[m]])
        other = alone.get(m)
        difference = _difference(case, other, m) if other else None
        lacking = difference is not None and difference.high is not None and difference.high < -STARVED
        known = (
            f"; alone it has {_percent(_mean(other))} (difference {_interval(difference)})"
            if other and difference
            else ""
        )
        evidence = {"modality": m, "inside": inside.mean, "alone": _mean(other) if other else None, "chance": chance}
        if inside.low is not None and inside.low <= chance:
            grave = lacking or other is None
            yield Finding(
                "warning" if lacking else "notice" if grave else "info",
                "modality at chance",
                f"{m} by itself inside the model is right in {_percent(inside.mean)} of the samples, "
                f"{_against_chance(inside, chance)}{known}.",
                evidence,
                f"`mmbal report card {case.run.name}` shows what the fused prediction makes of it." if grave else "",
            )
        elif lacking and difference is not None:
            yield Finding(
                "notice",
                "modality starved",
                f"{m} lacks {_points(-(difference.mean or 0.0)).lstrip('+')} points inside the model: "
                f"{_percent(inside.mean)}{known}.",
                evidence,
                f"`mmbal report card {case.run.name}` measures how much of it the fused prediction uses.",
            )


def _against_chance(inside: Estimate, chance: float) -> str:
    """How an accuracy whose interval reaches the share of the largest class stands to it."""
    if (inside.mean or 0.0) <= chance:
        return f"no more than the largest class is of them ({_percent(chance)})"
    return f"which may be luck: the largest class is {_percent(chance)} of them, {_interval(inside, signed=False)}"


def _mean(other: Reference) -> float | None:
    return estimate(measure(other.good, "accuracy")).mean


def spread(case: Case) -> Iterator[Finding]:
    """Seeds that disagree more than the test set explains, and one that collapsed."""
    values = measure(case.scored, "accuracy").values
    if len(values) < 3:
        return
    accuracies, N = np.array(list(values.values())), len(next(iter(case.scored.values())).labels)
    middle = float(np.median(accuracies))
    error = math.sqrt(max(middle * (1 - middle), 1 / N) / N)
    for seed, value in values.items():
        rest = np.array([other for name, other in values.items() if name != seed])
        if rest.mean() - value > max(COLLAPSED, COLLAPSED_ERRORS * error) and value < rest.min():
            yield Finding(
                "warning",
                "collapsed seed",
                f"Seed {seed} has {_percent(value)}, the others {_percent(float(rest.mean()))} on average: its "
                "training went wrong, and the mean over seeds says little.",
                {"accuracy": {str(k): v for k, v in values.items()}},
                f"`mmbal report dynamics {case.run.name}` shows when.",
            )
            return
    sd = float(accuracies.std(ddof=1))
    if sd > SPREAD * error:
        yield Finding(
            "notice",
            "seeds disagree",
            f"Accuracy differs between seeds by sd {100 * sd:.1f} points ({_percent(accuracies.min())} to "
            f"{_percent(accuracies.max())}), {sd / error:.1f} times what {N:,} test samples explain: differences to "
            "other runs need many seeds.",
            {"accuracy": {str(k): v for k, v in values.items()}, "sd": sd, "standard_error": error},
            "`mmbal plan` says how many.",
        )


def against(case: Case) -> Iterator[Finding]:
    """Inside the noise of concat, not above the best unimodal, not above averaging unimodal models."""
    if not case.scored or case.name == "unimodal":
        return
    alone = case.unimodals()
    best = max(alone.values(), key=lambda each: _mean(each) or 0.0, default=None)
    everyone = len(alone) == len(case.run.facts.data.modalities)
    if best is not None:
        name = f"the best unimodal run ({best.title}{'' if everyone else ', not all are there'})"
        yield from _not_above(case, best, name, "best unimodal", "More modalities gain nothing here.")
    if case.name != "unimodal-ensemble" and (ensemble := case.reference("unimodal-ensemble")):
        name = "uniform late fusion, the mean of separately trained unimodal models"
        yield from _not_above(case, ensemble, name, "late fusion", "Joint training gains nothing here.")
    if not case.run.facts.reference and (concat := case.reference("concat")):
        yield from _not_above(case, concat, "concat", "concat", "What the method adds cannot be told from luck.")


def _not_above(case: Case, other: Reference, name: str, topic: str, meaning: str) -> Iterator[Finding]:
    found = _difference(case, other)
    if found.mean is None or found.low is None or found.high is None or found.low > 0:
        return
    evidence = {
        "other": other.run.name,
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "seeds": found.n,
    }
    numbers = f"{_points(found.mean)} points, {_interval(found)}, n = {found.n} seeds"
    if found.high < 0:
        yield Finding("warning", topic, f"Accuracy is below that of {name}: {numbers}.", evidence)
    else:
        yield Finding("notice", topic, f"Accuracy is inside the noise of {name}: {numbers}. {meaning}", evidence)


def confidence(case: Case) -> Iterator[Finding]:
    """Probabilities that are surer, or less sure, than they are right."""
    if not case.scored:
        return
    gap = estimate(measured_mean({seed: _excess(each) for seed, each in case.scored.items()}))
    if gap.mean is None or gap.low is None or gap.high is None:
        return
    over = gap.low > CONFIDENCE_GAP
    if not over and gap.high >= -CONFIDENCE_GAP:
        return
    accuracy = estimate(measure(case.scored, "accuracy")).mean or 0.0
    ece = estimate(measure(case.scored, "ece")).mean
    yield Finding(
        "notice",
        "calibration",
        f"{'Over' if over else 'Under'}-confident by {100 * abs(gap.mean):.1f} points: mean confidence "
        f"{_percent(accuracy + gap.mean)}, accuracy {_percent(accuracy)} ({_interval(gap)}; ECE {_percent(ece)}).",
        {"gap": gap.mean, "accuracy": accuracy, "ece": ece},
        f"`mmbal report calibration {case.run.name}` fits a temperature on validation.",
    )


def _excess(each: Predictions) -> NDArray:
    """Confidence minus correctness of each sample."""
    probs = each.probs.astype(np.float64)
    return probs.max(axis=1) - (probs.argmax(axis=1) == each.labels)


def answers(case: Case) -> Iterator[Finding]:
    """One answer for every sample, and classes that are never answered."""
    names, S = case.run.facts.data.classes, len(case.scored)
    never: dict[int, int] = {}
    constant: dict[int, str] = {}
    for seed, each in case.scored.items():
        found = np.bincount(each.probs.argmax(axis=1), minlength=len(names)) > 0
        occurring = np.bincount(each.labels, minlength=len(names)) > 0
        if found.sum() == 1 < occurring.sum():
            constant[seed] = names[int(found.argmax())]
            continue
        for c in np.flatnonzero(occurring & ~found):
            never[int(c)] = never.get(int(c), 0) + 1
    if constant:
        yield Finding(
            "warning",
            "constant answer",
            f"{len(constant)} of {S} seeds give one answer for every test sample ({_by_answer(constant)}): nothing was "
            "learned.",
            {"answers": {str(seed): answer for seed, answer in constant.items()}},
            "Check the learning rate and `mmbal data probe`.",
        )
    lost = {names[c]: n for c, n in never.items() if 2 * n >= S}
    if lost:
        listed = ", ".join(list(lost)[:6]) + (", ..." if len(lost) > 6 else "")
        yield Finding(
            "notice",
            "class never answered",
            f"{len(lost)} of {len(names)} classes are never the answer in at least half of the {S} seeds: {listed}.",
            {"classes": lost},
            "Macro-F1 counts them as 0; look for few samples or wrong labels with `mmbal data check`.",
        )


def _by_answer(constant: Mapping[int, str]) -> str:
    """ "Seeds by what they answer: `joy: seed 1, 2; fear: seed 3`."""
    return "; ".join(
        f"{answer}: seed {', '.join(str(seed) for seed, each in constant.items() if each == answer)}"
        for answer in dict.fromkeys(constant.values())
    )


def validation_gap(case: Case) -> Iterator[Finding]:
    """Test accuracy further from that of validation than both samples explain."""
    common = sorted(set(case.val) & set(case.scored))
    if not common:
        return
    val, test = (estimate(_samples_only({s: found[s] for s in common})) for found in (case.val, case.scored))
    if None in (val.mean, test.mean, val.low, val.high, test.low, test.high):
        return
    gap = val.mean - test.mean  # type: ignore[operator]
    noise = math.hypot(val.high - val.low, test.high - test.low) / 2  # type: ignore[operator]
    if abs(gap) <= max(noise, GAP_LEAST):
        return
    counts = [len(next(iter(found.values())).labels) for found in (case.val, case.scored)]
    why = (
        "the best of many epochs on few samples, or splits that differ"
        if gap > 0
        else "the splits differ in difficulty, or test samples resemble training samples more"
    )
    yield Finding(
        "notice",
        "validation and test",
        f"Accuracy is {_percent(val.mean)} on validation ({counts[0]:,} samples) and {_percent(test.mean)} on test "
        f"({counts[1]:,}): {_points(-gap)} points, more than the {100 * noise:.1f} that both samples explain: {why}.",
        {"validation": val.mean, "test": test.mean, "noise": noise},
        f"`mmbal data audit {case.run.facts.dataset}` compares the splits.",
    )


def _samples_only(found: Mapping[int, Predictions]) -> Measured:
    """Accuracy of the mean model: seeds share their samples, so that only the samples vary."""
    right = np.mean([(each.probs.argmax(axis=1) == each.labels).astype(float) for each in found.values()], axis=0)
    return measured_mean({0: right})


SCORES: tuple[Check, ...] = (modalities, spread, against, confidence, answers, validation_gap)
