"""A validation set carved out of train, for data that come without one.

Stratified by class and seeded by a hash of the id, so the choice depends neither on row order nor on
which other samples exist. Whole groups move when the table names groups: a speaker that validates
must not train.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

SHARE = 0.1
MOST = 0.2  # one large group must not take more than this share of train


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def carve_validation(
    ids: Sequence[str], labels: Sequence[int], groups: Sequence[str], *, seed: int = 0
) -> tuple[set[str], str]:
    """Ids of train samples to validate on, and one sentence that says how they were chosen."""
    percent = f"{SHARE:.0%}"
    if any(groups):
        chosen = _whole_groups(ids, labels, groups, seed)
        if chosen:
            return chosen, f"validation: {percent} of train, whole groups, seed {seed}"
    chosen = _stratified(ids, labels, seed)
    return chosen, f"validation: {percent} of train, stratified, seed {seed}"


def _stratified(ids: Sequence[str], labels: Sequence[int], seed: int) -> set[str]:
    by_class: dict[int, list[str]] = defaultdict(list)
    for name, label in zip(ids, labels, strict=True):
        by_class[label].append(name)
    chosen: set[str] = set()
    for members in by_class.values():
        wanted = max(1, round(SHARE * len(members))) if len(members) > 1 else 0
        chosen.update(sorted(members, key=lambda name: _rank(seed, name))[:wanted])
    return chosen


def _whole_groups(ids: Sequence[str], labels: Sequence[int], groups: Sequence[str], seed: int) -> set[str]:
    """Groups in hash order until the share is reached; none that would take a class out of train."""
    members: dict[str, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[group or f"\0{ids[position]}"].append(position)
    left = Counter(labels)
    chosen: set[str] = set()
    for group in sorted(members, key=lambda name: _rank(seed, name)):
        if len(chosen) >= SHARE * len(ids):
            break
        taken = Counter(labels[position] for position in members[group])
        fits = len(chosen) + taken.total() <= MOST * len(ids)
        if fits and all(left[label] > count for label, count in taken.items()):
            left -= taken
            chosen.update(ids[position] for position in members[group])
    return chosen
