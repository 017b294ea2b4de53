"""Findings that the records show, epoch by epoch: coefficients, gradients, selection, over-fitting.

All looks at the seeds that did not fail, and says of how many of them it holds: at least half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.report.explain import Case, Check, Finding, Severity

LEAST_EPOCHS = 10  # a shorter course has no trend to speak of
NEAR_BOUND = 1e-3  # a weight this near to 0 or 1 does what 0 or 1 does
STILL = 1e-6  # relative change below which float32 means stay where they are
STILL_SHARE = 0.3  # of the recorded epochs, and at least STILL_EPOCHS: shorter rests are part of any course
STILL_EPOCHS = 5
GRADIENT_RATIO = 10.0  # OGM-GE and its followers report factors of 2 to 5 as imbalance; this is one order of magnitude
DEAD_SHARE = 0.5  # share of the epochs in which an adapter gets no gradient at all
LEARNED_SHARE = 0.05  # of the NLL of chance: samples are fitted
LATE_SHARE = 0.05  # of the epochs: a best one among these last ones says that training was cut off
EARLY_SHARE = 0.04
NLL_RISE, NLL_RISE_SHARE = 0.1, 0.25  # nats and share above the minimum: far more than its epoch-to-epoch jitter
JITTER = 3  # epochs that ends of curves are averaged over


class _Rest(NamedTuple):
    """Where a column of one seed comes to rest: how ("0", "1", "fixed", "still"), at which value, from which epoch."""

    kind: str
    value: float
    since: int


def coefficients(case: Case) -> Iterator[Finding]:
    """Coefficients that no longer move: at a bound, at another value, or from the beginning."""
    records, mods = case.records, case.run.facts.data.modalities
    grouped: dict[tuple[str, str, float | None], list[tuple[str, list[_Rest]]]] = {}
    for column in records.columns:
        if not column.startswith("coef/"):
            continue
        rests = [_rest(row, records.epochs) for row in records.values(column)[records.kept]]
        found = [rest for rest in rests if rest is not None]
        kinds = [rest.kind for rest in found]
        if not found or 2 * len(found) < len(rests):
            continue
        kind = max(sorted(set(kinds)), key=kinds.count)
        of_kind = [rest for rest in found if rest.kind == kind]
        if 2 * len(of_kind) < len(rests):
            continue
        stem, _, last = column.rpartition("/")
        stem, m = (stem, last) if last in mods else (column, "")
        values = {round(rest.value, 3) for rest in of_kind}
        grouped.setdefault((stem, kind, values.pop() if len(values) == 1 else None), []).append((m, of_kind))
    seeds = int(records.kept.sum())
    for (stem, kind, value), members in grouped.items():
        yield _resting(stem, kind, value, members, seeds)


def _resting(
    stem: str, kind: str, value: float | None, members: Sequence[tuple[str, list[_Rest]]], seeds: int
) -> Finding:
    """One finding for the modalities of a coefficient that rest in the same way; `value` is None if seeds differ."""
    at = "a value, in each seed another" if value is None else f"{value:.3g}"
    since = {m: int(np.median([rest.since for rest in rests])) for m, rests in members}
    seen = {m: len(rests) for m, rests in members}
    evidence = {"columns": [f"{stem}/{m}" if m else stem for m in since], "value": value, "since": list(since.values()),
                "seeds": list(seen.values()), "of": seeds}  # fmt: skip
    if kind == "fixed":
        of = f" of {', '.join(since)}" if all(since) else ""
        what = f"is {at} in every epoch" if value is not None else "keeps the value it began with, in each seed another"
        sentence = f"{stem}{of} {what} ({min(seen.values())} of {seeds} seeds)."
        return Finding("info", "coefficient", sentence, evidence)
    where = ", ".join(f"{f'{m} ' if m else ''}from epoch {e} on ({seen[m]} of {seeds} seeds)" for m, e in since.items())
    verb = f"is saturated at {kind}" if kind in ("0", "1") else f"stays at {at}"
    severity: Severity = "notice" if kind in ("0", "1") else "info"
    return Finding(severity, "coefficient", f"{stem} {verb}: {where}. From there it is a constant.", evidence)


def _rest(row: NDArray, epochs: NDArray) -> _Rest | None:
    """The rest at the end of one column of one seed [E], long enough to mean something; else None."""
    known = np.flatnonzero(np.isfinite(row))
    if len(known) < LEAST_EPOCHS:
        return None
    values, final = row[known], row[known[-1]]
    bound = next((edge for edge in (0.0, 1.0) if abs(final - edge) <= NEAR_BOUND), None)
    near = NEAR_BOUND if bound is not None else STILL * max(1.0, abs(final))
    away = np.flatnonzero(np.abs(values - (final if bound is None else bound)) > near)
    first = int(away[-1]) + 1 if len(away) else 0
    if len(values) - first < max(STILL_EPOCHS, STILL_SHARE * len(values)):
        return None
    kind = "fixed" if first == 0 else "still" if bound is None else f"{bound:.0f}"
    return _Rest(kind, float(final), int(epochs[known[first]]))


def gradients(case: Case) -> Iterator[Finding]:
    """One adapter's gradient many times another's, or none at all, in the phase that gives the result."""
    mods = [m for m in case.run.facts.data.modalities if f"grad/{m}" in case.records.table]
    if len(mods) < 2 or case.phase is None:
        return
    norms = np.array([_inside(case, f"grad/{m}") for m in mods])  # [M,S,E]
    dead, levels = _dead(norms), _levels(norms)  # [M,S]
    seeds = norms.shape[1]
    span = f"epochs {case.phase.first} to {case.phase.last}"
    if still := {m: i for i, m in enumerate(mods) if seeds and 2 * np.count_nonzero(dead[i] > DEAD_SHARE) >= seeds}:
        yield _without_gradient(case, {m: norms[i] for m, i in still.items()}, span)
    if not seeds or not np.isfinite(levels).all():
        return
    ratios = levels.max(axis=0) / levels.min(axis=0)
    above, typical = int(np.count_nonzero(ratios >= GRADIENT_RATIO)), levels.mean(axis=1)
    if 2 * above < seeds:
        return
    top, low = mods[int(typical.argmax())], mods[int(typical.argmin())]
    begin, end = (one / other for one, other in zip(_ends(case, top), _ends(case, low), strict=True))
    yield Finding(
        "notice",
        "gradient",
        f"The gradient of the {top} adapter is {np.median(ratios):.0f} times that of {low} (geometric mean over "
        f"{span}, at least {GRADIENT_RATIO:.0f} times in {above} of {seeds} seeds): {begin:.1f} times in the first "
        f"epochs, {end:.0f} in the last.{_why(case, low)}",
        {"columns": [f"grad/{top}", f"grad/{low}"], "ratio": ratios},
    )


def _without_gradient(case: Case, norms: dict[str, NDArray], span: str) -> Finding:
    """One finding for all adapters without gradient: from an epoch on, as where a method stops them, or in between."""
    since = {m: [_rest(row, _epochs(case)) for row in rows] for m, rows in norms.items()}
    stopped = {
        m: int(np.median([rest.since for rest in rests if rest]))
        for m, rests in since.items()
        if all(rest is not None and rest.kind == "0" for rest in rests)
    }
    evidence = {"columns": [f"grad/{m}" for m in norms]}
    if len(stopped) == len(norms):
        listed = ", ".join(f"{m} from epoch {epoch} on" for m, epoch in stopped.items())
        return Finding("info", "gradient", f"The adapters get no gradient any more: {listed}.", evidence)
    shares = ", ".join(f"{m} in {100 * np.median(_dead(rows[None])):.0f}%" for m, rows in norms.items())
    return Finding("notice", "gradient", f"Adapters get no gradient in much of {span}: {shares}.", evidence)


def _why(case: Case, low: str) -> str:
    """Whether the modality with the small gradient has learned its samples, from its training loss."""
    losses = _inside(case, f"train/nll/{low}")
    last = [row[np.isfinite(row)][-1] for row in losses if np.isfinite(row).any()]
    if not last:
        return ""
    end, chance = float(np.median(last)), float(np.log(len(case.run.facts.data.classes)))
    if end < LEARNED_SHARE * chance:
        return f" Its own training NLL ends at {end:.3f}: {low} has learned its samples and rests."
    return f" Its own training NLL is still {end:.2f} at the end (chance {chance:.2f}): {low} is held back."


def _dead(norms: NDArray) -> NDArray:
    """Share of the recorded epochs without any gradient. [M,S,E] -> [M,S]"""
    known = np.isfinite(norms)
    return (known & (norms == 0)).sum(axis=2) / np.maximum(known.sum(axis=2), 1)


def _levels(norms: NDArray) -> NDArray:
    """Geometric mean of what is above 0, NaN where nothing is. [M,S,E] -> [M,S]"""
    known = np.isfinite(norms) & (norms > 0)
    logs = np.log(np.where(known, norms, 1.0)).sum(axis=2)
    return np.where(known.any(axis=2), np.exp(logs / np.maximum(known.sum(axis=2), 1)), np.nan)


def _ends(case: Case, m: str) -> tuple[float, float]:
    """Gradient norm of a modality, median over seeds, at the begin and at the end of the last phase."""
    norms = _inside(case, f"grad/{m}")
    known = norms[:, (np.isfinite(norms) & (norms > 0)).all(axis=0)]
    if not known.size:
        return 1.0, 1.0
    return float(np.median(known[:, :JITTER])), float(np.median(known[:, -JITTER:]))


def _inside(case: Case, column: str) -> NDArray:
    """One column [S,E] of the kept seeds in the last phase."""
    return case.records.values(column)[case.records.kept][:, _last_phase(case)]


def _epochs(case: Case) -> NDArray:
    """The recorded epochs of the last phase. [E]"""
    return case.records.epochs[_last_phase(case)]


def _last_phase(case: Case) -> NDArray:
    epochs, phase = case.records.epochs, case.phase
    return (epochs >= phase.first) & (epochs <= phase.last) if phase else np.zeros(len(epochs), bool)


def selected(case: Case) -> Iterator[Finding]:
    """Selected epochs at the very end or the very beginning of the last phase."""
    if case.phase is None:
        return
    first, last = case.phase.first, case.phase.last
    E = last - first + 1
    chosen = [each.facts.selected for each in case.run.seeds if each.facts.status == "done"]
    epochs = np.array([epoch for epoch in chosen if epoch is not None])
    if E < LEAST_EPOCHS or not len(epochs):
        return
    late = int(np.count_nonzero(epochs > last - max(1, LATE_SHARE * E)))
    early = int(np.count_nonzero(epochs < first + max(1, EARLY_SHARE * E)))
    evidence = {"best_epoch": epochs.tolist(), "first": first, "last": last}
    text = ", ".join(f"{epoch:g}" for epoch in epochs)
    if 2 * late >= len(epochs):
        more = 2 * int(case.run.facts.config.get("train", {}).get("epochs", E))
        yield Finding(
            "notice",
            "selected epoch",
            f"The selected epochs ({text}) are at the end of training (epoch {last}) in {late} of {len(epochs)} seeds: "
            "it was cut off before validation stopped improving.",
            evidence,
            f"Train longer: --set train.epochs={more}.",
        )
    elif 2 * early >= len(epochs):
        yield Finding(
            "warning",
            "selected epoch",
            f"The selected epochs ({text}) are the first of {E} in {early} of {len(epochs)} seeds: everything after "
            "them made validation worse.",
            evidence,
            "Try a lower learning rate: --set train.lr=...",
        )


def overfit(case: Case) -> Iterator[Finding]:
    """Validation NLL that rises while that of training falls."""
    if case.phase is None:
        return
    val = _inside(case, "val/nll")
    losses = {column: _inside(case, column) for column in ("train/nll", "train/loss")}
    column, train = next(((name, each) for name, each in losses.items() if np.isfinite(each).any()), ("", None))
    epochs = _epochs(case)
    if train is None or val.shape[1] < LEAST_EPOCHS:
        return
    hits = []
    for v, t in zip(val, train, strict=True):
        known = np.flatnonzero(np.isfinite(v))
        if len(known) < LEAST_EPOCHS:
            continue
        low = known[int(np.argmin(v[known]))]
        end = float(v[known[-JITTER:]].mean())
        before = t[: low + 1][np.isfinite(t[: low + 1])][-JITTER:]
        after = t[np.isfinite(t)][-JITTER:]
        falls = len(before) and len(after) and after.mean() < before.mean()
        if falls and end - v[low] > max(NLL_RISE, NLL_RISE_SHARE * v[low]):
            hits.append((int(epochs[low]), float(v[low]), end))
    if hits and 2 * len(hits) >= len(val):
        low, best, end = (float(np.median(column)) for column in zip(*hits, strict=True))
        yield Finding(
            "notice",
            "over-fitting",
            f"Validation NLL is lowest in epoch {low:.0f} ({best:.2f} nats) and {end:.2f} at the end, while "
            f"{column} falls ({len(hits)} of {len(val)} seeds): later epochs only make it surer of its mistakes.",
            {"columns": ["val/nll", column], "epoch": low, "lowest": best, "last": end},
            "Accuracy is selected on validation and may still gain; for probabilities use --set train.select=nll, "
            "train.weight_decay or train.dropout.",
        )


def learning_rate(case: Case) -> Iterator[Finding]:
    """A step of the learning rate that the selected epochs never saw."""
    if case.phase is None:
        return
    lr = _inside(case, "lr")
    if not lr.size:
        return
    row = lr[0][np.isfinite(lr[0])]
    steps = np.flatnonzero(np.abs(np.diff(row)) > STILL * row[:-1])
    if not len(steps) or len(steps) > 3:  # a smooth schedule has no step
        return
    epoch = case.phase.first + int(steps[0]) + 1
    chosen = [each.facts.selected for each in case.run.seeds if each.facts.status == "done"]
    before = [each for each in chosen if each is not None and each < epoch]
    if before and 2 * len(before) >= len(chosen):
        old, new = row[steps[0]], row[steps[0] + 1]
        yield Finding(
            "info",
            "learning rate",
            f"The learning rate {'falls' if new < old else 'rises'} to {new:.2g} in epoch {epoch}, after the "
            f"selected epoch of {len(before)} of {len(chosen)} seeds: the step did not enter their results.",
            {"columns": ["lr"], "epoch": epoch, "best_epoch": chosen},
        )


RECORDS: tuple[Check, ...] = (coefficients, gradients, selected, overfit, learning_rate)
