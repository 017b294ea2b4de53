"""Runs in groups that may share a table, in the order and with the labels that `compare` gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mmbal_cli.report.compare import compare
from mmbal_cli.report.runs import DataFacts, Run


@dataclass(frozen=True)
class Member:
    """A run and its label, which no other run of the group has."""

    run: Run
    label: str


@dataclass(frozen=True)
class Group:
    """Comparable runs (same data, split, protocol and samples), or one that cannot be read (`problem`).

    `apart` says why they are not comparable with the group before. `samples` are those of the scored split.
    """

    number: int
    dataset: str
    data: DataFacts
    members: tuple[Member, ...] = field(repr=False)
    apart: str = ""
    samples: int = 0
    problem: str = ""

    @property
    def title(self) -> str:
        """Data set, with the names of its split and subset."""
        return self.data.where(self.dataset)


def groups(runs: Sequence[Run], split: str) -> list[Group]:
    """Groups of `runs` by their saved predictions of `split`; unreadable runs come last, each by itself."""
    comparison = compare(list(runs), ("accuracy",), split)
    found: list[Group] = []
    for block in comparison.blocks:
        members = tuple(Member(row.run, row.label) for row in block.rows)
        facts = block.facts
        found.append(Group(len(found), facts.dataset, facts.data, members, block.apart, block.samples))
    for run in runs:
        if run.name in comparison.unreadable:
            facts, reason = run.facts, comparison.unreadable[run.name]
            member = Member(run, facts.title)
            found.append(Group(len(found), facts.dataset, facts.data, (member,), problem=reason))
    return found
