"""The imbalance report card: what each modality does inside a trained model, against what it could do alone.

`card` describes runs in groups that may share a table; `sheets`, `document` and `lines` show one such group.
Definitions with their sources: docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mmbal_cli.errors import CacheError, MmbalError
from mmbal_cli.report.card_model import add_model, origin
from mmbal_cli.report.card_parts import Card, Pool, RunCard, Subject
from mmbal_cli.report.card_saved import add_records, add_saved
from mmbal_cli.report.card_views import document, lines, sheets
from mmbal_cli.report.groups import Group, groups
from mmbal_cli.report.metrics import absent
from mmbal_cli.report.runs import Run, RunFacts

__all__ = ["Card", "RunCard", "card", "document", "lines", "sheets"]

UNIMODAL = "unimodal:"
Progress = Callable[..., None]


def card(
    runs: Sequence[Run],
    cache: Path,
    split: str = "test",
    device: str = "auto",
    progress: Progress = lambda n=1, detail="": None,
    fresh: bool = True,
) -> list[Card]:
    """One card for each group of comparable runs, in the order of `compare`.

    With `fresh` the models are opened for what saved predictions cannot tell; where the features are gone, the row
    says so in `missing`. `progress(n, detail)` is called once a run.
    """
    found: list[Card] = []
    for group in groups(runs, split):
        if group.problem:
            member = group.members[0]
            found.append(Card(split, member.run.facts, (), left_out={member.run.name: group.problem}))
            progress(1, member.label)
            continue
        found.append(_card(group, cache, split, device, progress, fresh))
    return found


def _card(group: Group, cache: Path, split: str, device: str, progress: Progress, fresh: bool) -> Card:
    subjects = [Subject(member.run, member.label, *member.run.collect(split)) for member in group.members]
    finished = [each for each in subjects if each.good]
    references = [each for each in finished if each.run.facts.label.startswith(UNIMODAL)]
    described = [each for each in finished if each not in references] or references
    left_out = {each.run.name: _why_empty(each) for each in subjects if not each.good}
    rows = []
    for each in subjects:
        if each in described:
            rows.append(_row(each, _alone(each, references), cache, split, device, fresh))
        progress(1, each.label)
    first = finished[0].any if finished else None
    return Card(
        split,
        group.members[0].run.facts,
        tuple(rows),
        len(first.ids) if first else 0,
        first.kept if first else 0,
        tuple(absent(first.labels, group.data.classes)) if first else (),
        {each.label: each.run.name for each in references},
        left_out,
        group.apart,
    )


def _why_empty(subject: Subject) -> str:
    failed = ", ".join(f"seed {seed} failed: {reason}" for seed, reason in subject.failed.items())
    return f"no good seed ({failed})" if failed else "no seed has finished"


def _alone(subject: Subject, references: Sequence[Subject]) -> dict[str, Subject]:
    """For each modality the run that trained it alone, one with the same training settings first."""
    settings = subject.run.facts.config.get("train")
    found = {}
    for m in subject.mods:
        known = [each for each in references if each.run.facts.label == f"{UNIMODAL}{m}" and m in each.mods]
        known.sort(key=lambda each: each.run.facts.config.get("train") != settings)
        if known and subject not in references:
            found[m] = known[0]
    return found


def _row(subject: Subject, alone: Mapping[str, Subject], cache: Path, split: str, device: str, fresh: bool) -> RunCard:
    pool, source, missing = Pool(), "declared by the method", []
    add_saved(pool, subject, alone)
    notes = add_records(pool, subject)
    if fresh:
        try:
            source, problems = _opened(pool, subject, cache, split, device)
            notes += problems
        except MmbalError as error:
            missing.append(_gone(subject.run.facts, error))
    facts = subject.run.facts
    first = subject.any
    classes = facts.data.classes
    if other := _other_settings(facts, alone):
        notes.append(f"the models of one modality were trained with other settings ({', '.join(other)}).")
    return RunCard(
        subject.run,
        subject.label,
        subject.mods,
        tuple(subject.good),
        subject.failed,
        pool.solved(),
        {m: int(first.present[m].sum()) for m in subject.mods},
        {classes[c]: int(n) for c, n in zip(*np.unique(first.labels, return_counts=True), strict=True)},
        {m: each.run.name for m, each in alone.items()},
        source,
        tuple(notes),
        tuple(missing),
    )


def _other_settings(facts: RunFacts, alone: Mapping[str, Subject]) -> list[str]:
    """Names of the training settings in which a run differs from its models of one modality."""
    own = facts.config.get("train") or {}
    others = [each.run.facts.config.get("train") or {} for each in alone.values()]
    names = {name for other in others for name in own.keys() | other.keys()}
    return sorted(name for name in names if any(other.get(name) != own.get(name) for other in others))


def _opened(pool: Pool, subject: Subject, cache: Path, split: str, device: str) -> tuple[str, list[str]]:
    from safetensors import SafetensorError

    from mmbal_cli.engine.opened import open_run

    try:
        opened = open_run(subject.run.folder, cache, device=device)
    except (OSError, SafetensorError) as error:
        again = f"mmbal train --method {subject.run.facts.method} --dataset {subject.run.facts.dataset} --overwrite"
        raise CacheError(f"The weights of {subject.run.name} cannot be read: {error}.", repair=again) from error
    return origin(opened), add_model(pool, subject, opened, split)


def _gone(facts: RunFacts, error: MmbalError) -> str:
    """What is missing without the models or features, and which command brings it back."""
    repair = error.repair or f"mmbal prepare {facts.dataset}"
    return f"its models cannot be asked again: {error.found} Probes, Shapley values, interactions and utilisation " \
           f"are missing; `{repair}` brings them back."  # fmt: skip
