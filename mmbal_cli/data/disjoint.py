"""A split that keeps groups whole: sizes and class shares as near to the wanted ones as the groups allow.

Greedy in whole numbers, so that the same data and seed give the same split on every machine and with every library:
a published hash can be made again. (scikit-learn's StratifiedGroupKFold makes equal folds, and which ones has changed
between its versions.) Neither row order nor class names matter.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

SHARES = {"train": 70, "val": 10, "test": 20}
SCALE = 1_000_000
PASSES = 4  # over all groups, moving single ones


def propose(
    ids: Sequence[str], labels: Sequence[int], groups: Sequence[str], shares: Mapping[str, int], seed: int = 0
) -> dict[str, str]:
    """{id: part} with every group in one part; a sample without a group is a group of its own.

    `shares` are whole numbers with any sum; parts of share 0 stay empty. A part that should have samples gets at least
    one group where there are groups enough.
    """
    wanted = {part: shares[part] for part in SHARES if shares.get(part, 0) > 0}
    members: dict[tuple[bool, str], list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[(True, group) if group else (False, ids[row])].append(row)
    counts = {group: Counter(labels[row] for row in rows) for group, rows in members.items()}
    order = sorted(members, key=lambda group: (-len(members[group]).bit_length(), _rank(seed, group)))
    plan = _Plan(wanted, Counter(labels))
    place = {group: plan.put(counts[group]) for group in order}
    for _ in range(PASSES):
        moved = sum(plan.improve(place, group, counts[group]) for group in order)
        if not moved:
            break
    _fill(place, order, wanted)
    return {ids[row]: place[group] for group, rows in members.items() for row in rows}


def _rank(seed: int, group: tuple[bool, str]) -> bytes:
    return hashlib.sha256(f"{seed}:{int(group[0])}:{group[1]}".encode()).digest()


class _Plan:
    """How many samples of each class every part has and should have, all in whole numbers times the sum of shares."""

    def __init__(self, shares: Mapping[str, int], totals: Counter[int]) -> None:
        self.whole = sum(shares.values())
        self.goal = {part: {label: n * share for label, n in totals.items()} for part, share in shares.items()}
        self.weight = {
            part: {label: max(1, SCALE // max(1, goal // self.whole)) for label, goal in goals.items()}
            for part, goals in self.goal.items()
        }
        self.have: dict[str, Counter[int]] = {part: Counter() for part in shares}

    def cost(self, part: str, group: Mapping[int, int]) -> int:
        """How much further from its goal `part` is with `group` than without it (negative: nearer)."""
        have, goal, weight = self.have[part], self.goal[part], self.weight[part]
        return sum(
            weight[label] * n * (2 * (have[label] * self.whole - goal[label]) + n * self.whole)
            for label, n in group.items()
        )

    def put(self, group: Counter[int]) -> str:
        best = min(self.have, key=lambda part: self.cost(part, group))
        self.have[best].update(group)
        return best

    def improve(self, place: dict[tuple[bool, str], str], name: tuple[bool, str], group: Counter[int]) -> bool:
        """Move one group to the part where it fits best; whether that was another one."""
        before = place[name]
        self.have[before].subtract(group)
        here = self.cost(before, group)
        best = min(self.have, key=lambda part: (self.cost(part, group), part != before))
        best = best if self.cost(best, group) < here else before
        self.have[best].update(group)
        place[name] = best
        return best != before


def _fill(place: dict[tuple[bool, str], str], order: list[tuple[bool, str]], wanted: Mapping[str, int]) -> None:
    """Give an empty part the smallest group of the part that has most."""
    for part in wanted:
        sizes = Counter(place.values())
        most = max(sizes, key=lambda name: sizes[name])
        if not sizes[part] and sizes[most] > 1:
            place[next(group for group in reversed(order) if place[group] == most)] = part
