"""Runs to blocks of comparable rows: who is best, who cannot be told apart, who must stand apart.

Runs are comparable when data fingerprint, split, subset, protocol and scored samples agree. Of each data set the
largest such group that was not selected on test comes first; every other group is its own block, with what differs as
its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmbal_cli.errors import CacheError, UsageError
from mmbal_cli.report.blocks import Block, Scored, block
from mmbal_cli.report.contrast import Against, unknown
from mmbal_cli.report.runs import Run
from mmbal_cli.report.settings import Look


@dataclass(frozen=True)
class Comparison:
    """All blocks, the runs that could not be read with the reason, and what is shown.

    `unseen` are data sets of which `look` hides every row of a block.
    """

    split: str
    blocks: tuple[Block, ...]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    look: Look = field(default=Look())
    unseen: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Every run could be read and there is something to compare."""
        return not self.unreadable and any(row.seeds for block in self.blocks for row in block.rows)


def compare(
    runs: Sequence[Run],
    names: Sequence[str] = ("accuracy",),
    split: str = "test",
    sort_by: str | None = None,
    labels: Mapping[str, str] | None = None,
    *,
    against: Against | None = None,
    look: Look | None = None,
    unreadable: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare `runs` on `split` by the metrics `names`: reference rows first, others sorted by `sort_by`.

    `sort_by` is the first metric by default. With `labels` {run folder name: label}, rows carry these labels and
    stay in the order of `runs`. `against` names the baseline of the differences, `look` what is shown, `unreadable`
    runs that could not be read before, with the reason. Raises UsageError when no run is the baseline, or none shown.
    """
    scored, unreadable = [], dict(unreadable or {})
    for run in runs:
        try:
            scored.append(Scored(run, *run.collect(split)))
        except CacheError as error:
            unreadable[run.name if run.name not in unreadable else str(run.folder)] = str(error)
    names = list(dict.fromkeys([*names, *([sort_by] if sort_by else [])]))
    place = {run.folder: i for i, run in enumerate(runs)}
    blocks = []
    for dataset in sorted({each.run.facts.dataset for each in scored}):
        groups = _groups([each for each in scored if each.run.facts.dataset == dataset])
        main = groups[0][0]
        for group in groups:
            apart = "" if group is groups[0] else _difference(main, group[0])
            shown = group if labels is None else sorted(group, key=lambda each: place[each.run.folder])
            blocks.append(block(shown, names, split, sort_by or names[0], apart, labels, against))
    if against and blocks and not any(each.baseline and each.baseline.label for each in blocks):
        raise unknown(against.baseline, (row.label for each in blocks for row in each.rows))
    return _seen(Comparison(split, tuple(blocks), unreadable, look or Look()))


def _seen(comparison: Comparison) -> Comparison:
    """The comparison with the rows that its look shows, and the data sets of which it shows none."""
    look, blocks, unseen = comparison.look, [], []
    for each in comparison.blocks:
        rows = tuple(row for row in each.rows if look.shows(row.label))
        hidden = tuple(row.label for row in each.rows if not look.shows(row.label))
        if rows:
            blocks.append(replace(each, rows=rows, hidden=hidden))
        else:
            unseen.append(each.facts.dataset)
    if unseen and not blocks:
        labels = {row.label for each in comparison.blocks for row in each.rows}
        raise UsageError("--keep and --drop leave no row to show.", f"The rows are {', '.join(sorted(labels))}.")
    return replace(comparison, blocks=tuple(blocks), unseen=tuple(dict.fromkeys(unseen)))


def _identity(scored: Scored) -> dict[str, Any]:
    """What comparable runs share; the samples are unknown (None) before the first seed has finished."""
    samples = next((each.samples() for each in scored.good.values()), None)
    return {**scored.run.facts.identity, "scored samples": samples}


def _groups(scored: list[Scored]) -> list[list[Scored]]:
    """Comparable runs together, in the order of their blocks; unfinished runs join where they will belong."""
    groups: list[tuple[dict[str, Any], list[Scored]]] = []
    for each in sorted(scored, key=lambda each: (not each.good, each.run.name)):
        identity = _identity(each)
        home = next((group for known, group in groups if not _differing(known, identity)), None)
        if home is None:
            groups.append((identity, [each]))
        else:
            home.append(each)
    return sorted((group for _, group in groups), key=_order)


def _order(group: list[Scored]) -> tuple[Any, ...]:
    """Sort key of groups: finished ones, those that were selected on validation, large ones."""
    first = group[0]
    return not first.good, bool(first.run.facts.stamp), -len(group), first.run.name


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [key for key in one if one[key] != other[key] and None not in (one[key], other[key])]


def _difference(main: Scored, stranger: Scored) -> str:
    """What makes `stranger` not comparable with `main`, in words."""
    one, other = _identity(main), _identity(stranger)
    titles = {"split": "split_title", "subset": "subset_title"}
    reasons = []
    for key in _differing(one, other):
        if key == "protocol":
            keys = sorted(k for k in {*one[key], *other[key]} if one[key].get(k) != other[key].get(k))
            if main.run.facts.stamp != stranger.run.facts.stamp:
                rules = ("TEST", "validation") if stranger.run.facts.stamp else ("validation", "TEST")
                reasons.append(f"epochs selected on {rules[0]}, not on {rules[1]}")
                keys = [k for k in keys if k not in ("name", "selection", "test")]
            reasons += [f"protocol: {k} is {other[key].get(k)!r}, not {one[key].get(k)!r}" for k in keys]
        elif key in titles:
            found = [getattr(each.run.facts.data, titles[key]) for each in (stranger, main)]
            reasons.append(f"{key} is {found[0]}, not {found[1]}")
        else:
            verb = "are" if key.endswith("s") else "is"
            reasons.append(f"{key} {verb} {other[key][:8]}, not {one[key][:8]}")
    return "; ".join(reasons)
