"""The part of a report card that needs no model: saved predictions and the records of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.errors import CacheError
from mmbal_cli.report.card_parts import DIFFERENCE, FUSED, SHARE, Key, Pool, Subject, counted, joined
from mmbal_cli.report.imbalance import course, gradient_share, last_phase, members, oracle, patterns
from mmbal_cli.report.predictions import Predictions
from mmbal_cli.report.statistics import Measured, combined, measured_mean, over_seeds, within

EPOCHS = ("first", "middle", "last", "mean")


def fused_right(subject: Subject) -> dict[int, NDArray]:
    """Whether the fused prediction is right, {seed: bool [N]}."""
    return {seed: each.probs.argmax(1) == each.labels for seed, each in subject.good.items()}


def declared_right(subject: Subject) -> dict[int, NDArray]:
    """Whether the declared logits of each modality are right, {seed: bool [M,N]}; never for samples without it."""
    return {seed: np.stack([_right(each, m) for m in subject.mods]) for seed, each in subject.good.items()}


def _right(predictions: Predictions, m: str) -> NDArray:
    return (predictions.logits[m].argmax(1) == predictions.labels) & predictions.present[m]


def accuracy_of(subject: Subject, m: str) -> Measured:
    """Accuracy of the declared logits of `m` on the samples that have it."""
    good = subject.good.items()
    return measured_mean({seed: counted(_right(each, m), each.present[m]) for seed, each in good})


def add_saved(pool: Pool, subject: Subject, alone: Mapping[str, Subject]) -> None:
    """Fused and declared accuracies, gaps to `alone` {modality: run of it}, who was right, oracles, classes."""
    fused, right = fused_right(subject), declared_right(subject)
    accuracy = pool.add(
        Key("accuracy", FUSED), measured_mean({s: x.astype(float) for s, x in fused.items()}), limits=SHARE
    )
    for m in subject.mods:
        inside = pool.add(Key("inside", "declared", m), accuracy_of(subject, m), limits=SHARE)
        if m in alone:
            pool.add(Key("inside", "alone", m), accuracy_of(alone[m], m), limits=SHARE)
            add_gap(pool, "declared", m, inside)
    _add_patterns(pool, subject.mods, fused, right)
    _add_oracles(pool, accuracy, fused, right)
    _add_classes(pool, subject, fused, right)


def add_gap(pool: Pool, way: str, m: str, inside: Measured) -> None:
    """In the model minus alone, on the seeds that both have."""
    other = pool.plain[Key("inside", "alone", m)]
    if set(inside.values) & set(other.values):
        pool.add(Key("inside", f"gap {way}", m), combined([(1, inside), (-1, other)]))


def _add_patterns(pool: Pool, mods: Sequence[str], fused: Mapping[int, NDArray], right: Mapping[int, NDArray]) -> None:
    """Share of samples on which exactly these modalities were right, whole and by what the fused prediction was."""
    codes = {seed: patterns(each) for seed, each in right.items()}
    seen = np.concatenate(list(codes.values())) if codes else np.empty(0, int)
    values, counts = np.unique(seen, return_counts=True)
    for code in values[np.argsort(-counts, kind="stable")].tolist():
        name = joined(members(code, mods))
        for what, keep in (("share", None), ("fused right", True), ("fused wrong", False)):
            each = {s: (c == code) & (keep is None or fused[s] == keep) for s, c in codes.items()}
            measured = measured_mean({s: x.astype(float) for s, x in each.items()})
            pool.add(Key("who was right", what, name), measured, limits=SHARE)


def _add_oracles(pool: Pool, accuracy: Measured, fused: Mapping[int, NDArray], right: Mapping[int, NDArray]) -> None:
    somebody = {seed: oracle(each) for seed, each in right.items()}
    choices = {
        "oracle": somebody,
        "oracle with fused": {seed: each | fused[seed] for seed, each in somebody.items()},
    }
    for (what, each), gap in zip(choices.items(), ("gap to oracle", "headroom"), strict=True):
        best = pool.add(Key("oracle", what), measured_mean({s: x.astype(float) for s, x in each.items()}), limits=SHARE)
        pool.add(
            Key("oracle", gap), combined([(1, best), (-1, accuracy)]), limits=SHARE if gap == "headroom" else DIFFERENCE
        )


def _add_classes(pool: Pool, subject: Subject, fused: Mapping[int, NDArray], right: Mapping[int, NDArray]) -> None:
    """Recall of every class that has a sample: fused and of each modality; and how far the modalities lie apart."""
    labels, present = subject.any.labels, subject.any.present
    for c in np.unique(labels).tolist():
        name, inside = subject.run.facts.data.classes[c], np.flatnonzero(labels == c)  # only the class is resampled
        recall = measured_mean({seed: each[inside].astype(float) for seed, each in fused.items()})
        pool.add(Key("class", "recall", FUSED, name), recall, limits=SHARE)
        parts = []
        for i, m in enumerate(subject.mods):
            has = present[m][inside]
            if not has.any():
                continue
            parts.append(measured_mean({seed: counted(each[i, inside], has) for seed, each in right.items()}))
            pool.add(Key("class", "recall", m, name), parts[-1], limits=SHARE)
        if len(parts) > 1:
            pool.add_joint(Key("class", "range", at=name), lambda x: x.max(0) - x.min(0), parts, limits=SHARE)


def add_records(pool: Pool, subject: Subject) -> list[str]:
    """Discrepancy and gradient share of each adapter over the epochs of the last phase; what is missing."""
    discrepancy: dict[tuple[str, str], dict[int, float]] = {}
    share: dict[tuple[str, str], dict[int, float]] = {}
    unread = []
    for result in subject.run.seeds:
        seed = result.facts.seed
        if seed not in subject.good:
            continue
        try:
            records = last_phase(result.records()[0])
        except (OSError, CacheError) as error:
            unread.append(f"the records of seed {seed} cannot be read: {error}")
            continue
        for i, m in enumerate(subject.mods):
            _trace(discrepancy, m, seed, [record.get(f"discrepancy/{m}") for record in records])
            _trace(share, m, seed, [each[i] for each in _gradient_shares(records, subject.mods)])
    for (m, when), values in discrepancy.items():
        pool.add_known(Key("discrepancy", when, m), within(over_seeds(values), most=math.inf))
    for (m, when), values in share.items():
        pool.add_known(Key("gradient share", when, m), within(over_seeds(values)))
    if len(subject.mods) > 1 and not unread:
        if not discrepancy:
            unread.append("no discrepancy in its records, which an older version wrote; training again adds it.")
        if not share:
            unread.append("no gradient norms of all adapters in its last phase.")
    return unread


def _trace(into: dict[tuple[str, str], dict[int, float]], m: str, seed: int, values: Sequence[float | None]) -> None:
    found = course(values)
    for when in EPOCHS if found else ():
        into.setdefault((m, when), {})[seed] = getattr(found, when)


def _gradient_shares(records: Sequence[Mapping[str, Any]], mods: Sequence[str]) -> list[NDArray]:
    """Shares [M] of the epochs in which the norm of every adapter was recorded."""
    rows = [[record.get(f"grad/{m}") for m in mods] for record in records]
    return [gradient_share(np.array(row, np.float64)) for row in rows if None not in row]
