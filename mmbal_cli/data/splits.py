"""A part carved out of train: a validation set for data that come without one, and a method's inner split.

Stratified by class and seeded by a hash of the id, so the choice depends neither on row order nor on
which other samples exist. Whole groups move when the table names groups: a speaker that validates
must not train. Only where test itself shares its groups with train they do not move: validation is to resemble test.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

SHARE = 0.1
MOST = 2  # times the share: one large group must not take more
MOSTLY = 0.5  # of the groups of test are in train: then it was not split by group


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def carve_validation(
    ids: Sequence[str],
    labels: Sequence[int],
    groups: Sequence[str],
    *,
    test_groups: Collection[str] = (),
    seed: int = 0,
) -> tuple[set[str], str]:
    """Ids of train samples to validate on, and one sentence that says how they were chosen.

    `test_groups` are the groups of the test samples. Where train has most of them (a split by clip, as that of
    CREMA-D), validation is stratified by class and shares its groups with train as test does.
    """
    seen = {group for group in test_groups if group}
    alike = bool(seen) and len(seen & set(groups)) > MOSTLY * len(seen)
    chosen, way = carve(ids, labels, [] if alike else groups, SHARE, seed)
    if alike:
        way += " (groups are shared with train, as those of test are)"
    return chosen, f"validation: {SHARE:.0%} of train, {way}, seed {seed}"


def carve(
    ids: Sequence[str], labels: Sequence[int], groups: Sequence[str], share: float, seed: int
) -> tuple[set[str], str]:
    """Ids of about `share` of the samples, and `whole groups` or `stratified`.

    Of every class with two or more samples at least one is taken and one is left; a class of one sample stays.
    """
    if any(groups):
        chosen = _whole_groups(ids, labels, groups, share, seed)
        if chosen:
            return chosen, "whole groups"
    return _stratified(ids, labels, share, seed), "stratified"


def _stratified(ids: Sequence[str], labels: Sequence[int], share: float, seed: int) -> set[str]:
    by_class: dict[int, list[str]] = defaultdict(list)
    for name, label in zip(ids, labels, strict=True):
        by_class[label].append(name)
    chosen: set[str] = set()
    for members in by_class.values():
        wanted = min(max(1, round(share * len(members))), len(members) - 1)
        chosen.update(sorted(members, key=lambda name: _rank(seed, name))[:wanted])
    return chosen


def _whole_groups(
    ids: Sequence[str], labels: Sequence[int], groups: Sequence[str], share: float, seed: int
) -> set[str]:
    """Groups in hash order until the share is reached; none that would take a class out of train.

    First those that bring a class in that is not there yet: groups may hold one class only (UCF-101).
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[group or f"\0{ids[position]}"].append(position)
    left, classes = Counter(labels), set(labels)
    seen: set[int] = set()
    chosen: set[str] = set()
    order = sorted(members, key=lambda name: _rank(seed, name))
    for wanted in (classes, set[int]()):
        for group in order:
            if len(chosen) >= share * len(ids) and wanted <= seen:
                break
            taken = Counter(labels[position] for position in members[group])
            fits = len(chosen) + taken.total() <= MOST * share * len(ids) and ids[members[group][0]] not in chosen
            useful = not wanted or taken.keys() - seen
            if fits and useful and all(left[label] > count for label, count in taken.items()):
                left -= taken
                seen |= taken.keys()
                chosen.update(ids[position] for position in members[group])
    return chosen
