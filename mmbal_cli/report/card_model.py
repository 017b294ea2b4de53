"""The part of a report card that asks the models again: without some modalities, and probes on what the adapters say.

The accuracies of all 2^M coalitions, with the others taken away in each of four ways, give Shapley values,
interactions, imbalance degree and conditional utilisation; a linear probe on the features h of each adapter gives the
second kind of in-model accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.errors import MmbalError
from mmbal_cli.report.card_parts import MAIN_WAY, SHARE, TWICE, Key, Pool, Subject, joined
from mmbal_cli.report.card_saved import add_gap
from mmbal_cli.report.fresh import fresh
from mmbal_cli.report.imbalance import (
    MOST_MODALITIES,
    imbalance_degree,
    interaction,
    members,
    shapley,
    shares,
    utilisation,
)
from mmbal_cli.report.predictions import Predictions
from mmbal_cli.report.statistics import Measured, combined, measured_mean

if TYPE_CHECKING:
    from mmbal_cli.engine.changes import Way
    from mmbal_cli.engine.opened import Opened

DRAWS = 5  # random samples for each absent modality: their correctness is averaged
SAME = 0.01  # share of samples that may be answered otherwise than when they were saved: rounding of another machine

Hits = dict[int, NDArray]  # {seed: share of draws in which each coalition is right [2^M,N]}


def coalition_hits(opened: Opened, split: str, way: Way, everybody: Mapping[int, NDArray]) -> Hits:
    """Correctness of every coalition with the others absent in one way; `everybody` is that of all, {seed: [N]}."""
    from mmbal_cli.engine.changes import absent

    M, draws = len(opened.mods), DRAWS if way == "resampled" else 1
    hits = {seed: np.zeros((2**M, len(each))) for seed, each in everybody.items()}
    for code in range(2**M - 1):
        gone = [m for i, m in enumerate(opened.mods) if not code >> i & 1]
        for draw in range(draws):
            found = fresh(opened, split, absent(gone, way, draw))
            for seed, each in hits.items():
                each[code] += _right(found[seed]) / draws
    for seed, each in hits.items():
        each[-1] = everybody[seed]
    return hits


def _right(predictions: Predictions) -> NDArray:
    return (predictions.probs.argmax(1) == predictions.labels).astype(float)


def add_model(pool: Pool, subject: Subject, opened: Opened, split: str) -> list[str]:
    """Everything that needs the models; returns what could not be measured, one sentence each."""
    from mmbal_cli.engine.changes import ABSENT

    found = fresh(opened, split)
    everybody = {seed: _right(found[seed]) for seed in subject.good}
    problems = _changed(subject, found)
    _add_probes(pool, subject, opened, split)
    mods = opened.mods
    if len(mods) < 2:
        return problems
    if len(mods) > MOST_MODALITIES:
        return [*problems, f"{len(mods)} modalities have {2 ** len(mods):,} coalitions, too many: Shapley values, "
                f"interactions and utilisation are for up to {MOST_MODALITIES}."]  # fmt: skip
    values: dict[str, Sequence[Measured]] = {}
    for way in ABSENT:
        try:
            hits = coalition_hits(opened, split, way, everybody)
        except MmbalError as error:
            problems.append(f"modalities cannot be taken away as '{way}': {error.found}")
            continue
        values[way] = _add_coalitions(pool, mods, way, hits)
        if way == MAIN_WAY:
            _add_class_values(pool, subject, hits)
    for i, m in enumerate(mods if len(values) > 1 else ()):
        parts = [phi[i] for phi in values.values()]
        pool.add_joint(Key("shapley", "spread", m), lambda x: x.max(0) - x.min(0), parts)
    return problems


def _changed(subject: Subject, found: Mapping[int, Predictions]) -> list[str]:
    """Whether the models still answer as they did when their predictions were saved."""
    other = [float(np.mean(found[s].probs.argmax(1) != each.probs.argmax(1))) for s, each in subject.good.items()]
    if max(other, default=0) <= SAME:
        return []
    return [f"the models now answer otherwise than in their saved predictions on {max(other):.1%} of the samples."]


def _add_coalitions(pool: Pool, mods: Sequence[str], way: str, hits: Hits) -> Sequence[Measured]:
    """Accuracy of every coalition and all that follows from it; returns the Shapley values."""
    M = len(mods)
    accuracy = [
        pool.add(Key("coalition", "accuracy", joined(members(code, mods)), way),
                 measured_mean({seed: each[code] for seed, each in hits.items()}), limits=SHARE)
        for code in range(2**M)
    ]  # fmt: skip
    each_phi = {seed: shapley(each.T) for seed, each in hits.items()}  # linear, so samples have values of their own
    phi = [measured_mean({seed: each[:, i] for seed, each in each_phi.items()}) for i in range(M)]
    for i, m in enumerate(mods):
        pool.add(Key("shapley", "value", m, way), phi[i])
        pool.add_joint(Key("shapley", "share", m, way), partial(_share, i), phi)
    pool.add_joint(Key("shapley", "imbalance", at=way), lambda x: imbalance_degree(x.T), phi)
    each_pair = {seed: interaction(each.T) for seed, each in hits.items()}
    for j, pair in enumerate(combinations(mods, 2)):
        measured = measured_mean({seed: each[:, j] for seed, each in each_pair.items()})
        pool.add(Key("interaction", "index", joined(pair), way), measured, TWICE)
    everybody = accuracy[-1]
    without = [accuracy[2**M - 1 - (1 << i)] for i in range(M)]
    for m, rest in zip(mods, without, strict=True):
        pool.add_joint(Key("utilisation", "rate", m, way), lambda x: utilisation(x[0], x[1]), [everybody, rest])
    if M == 2:
        lead = combined([(1, without[1]), (-1, without[0])])  # u(0) - u(1) = (A(0) - A(1)) / A(all)
        pool.add_joint(Key("utilisation", "difference", joined(mods), way), lambda x: x[0] / x[1], [lead, everybody])
    return phi


def _share(i: int, phi: NDArray) -> NDArray:
    """Share of modality i, [M,...] -> [...]."""
    return np.moveaxis(shares(np.moveaxis(phi, 0, -1)), -1, 0)[i]


def _add_class_values(pool: Pool, subject: Subject, hits: Hits) -> None:
    """Shapley values and imbalance degree on the samples of each class."""
    labels = subject.any.labels
    for c in np.unique(labels).tolist():
        inside, name = np.flatnonzero(labels == c), subject.run.facts.data.classes[c]
        each_phi = {seed: shapley(each[:, inside].T) for seed, each in hits.items()}
        phi = [measured_mean({s: each[:, i] for s, each in each_phi.items()}) for i in range(len(subject.mods))]
        for m, measured in zip(subject.mods, phi, strict=True):
            pool.add(Key("class", "shapley", m, name), measured)
        pool.add_joint(Key("class", "imbalance", at=name), lambda x: imbalance_degree(x.T), phi)


def _add_probes(pool: Pool, subject: Subject, opened: Opened, split: str) -> None:
    from mmbal_cli.report.card_probe import probe_hits

    for m, hits in probe_hits(opened, split).items():
        kept = {seed: each for seed, each in hits.items() if seed in subject.good}
        inside = pool.add(Key("inside", "probe", m), measured_mean(kept), limits=SHARE)
        if Key("inside", "alone", m) in pool.plain:
            add_gap(pool, "probe", m, inside)


def origin(opened: Opened) -> str:
    """Where the declared logits of each modality come from, as far as the model tells."""
    from mmbal_cli.nn.fusion.base import Fusion

    method: Any = opened.method
    fusion: Any = getattr(method, "fusion", None)
    if len(opened.mods) == 1:
        return "the model's own logits"
    rule = method(next(iter(opened.feed.split("val" if len(opened.feed.rows["val"]) else "train", method.S)))).unimodal
    owner = getattr(rule, "__self__", None)
    if owner is method:
        return "heads that the method has for each modality"
    if fusion is None or owner is not fusion:
        return "declared by the method"
    assert isinstance(fusion, Fusion)
    if fusion.additive:
        return f"each modality's term of fusion {method.fusion_name}"
    if type(fusion).unimodal is Fusion.unimodal and type(fusion).alone is Fusion.alone:
        return f"the fused head with the features of the other modalities at zero (fusion {method.fusion_name})"
    return f"the rule of fusion {method.fusion_name}"
