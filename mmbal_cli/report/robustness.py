"""Robustness of finished runs to absent, noisy and wrongly paired modalities (docs/robustness.md has it in words).

With a(x) the metric (accuracy by default) at noise-to-signal amplitude ratio x = 10^(-SNR/20), clean at x = 0, b(x)
that of the baseline, and X the largest x:

- `drop` of a condition: metric on clean inputs - metric under the condition.
- `relative` = (1/X) * integral of a from 0 to X by the trapezoid rule: area under the performance-imperfection curve
  (MultiBench, Liang et al. 2021, arXiv 2107.07502, eval_scripts/robustness.py), as a mean over the range instead of
  scaled to [0, 1] among the methods at hand, which would depend on who else is compared.
- `retained` = relative / a(0): the share of the clean performance that is kept (ours).
- `effective` = (1/X) * integral of a - (b + a(0) - b(0)): what is kept beyond the baseline's curve shifted to the same
  clean performance. As MultiBench, with late fusion as the baseline; the idea, accuracy beyond what clean accuracy
  predicts, is of Taori et al. 2020 (arXiv 2007.00644), who predict by a fit over many models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.errors import MmbalError, UsageError, nearest
from mmbal_cli.report.contrast import named, unknown
from mmbal_cli.report.groups import Group, Member, groups
from mmbal_cli.report.metrics import METRICS
from mmbal_cli.report.robustness_views import document, lines, sheets
from mmbal_cli.report.runs import Run
from mmbal_cli.report.statistics import Estimate, Measured, combined, estimate, estimate_of, estimates, within
from mmbal_cli.report.stress import DRAWS, SNR, Asked, Condition, Measurements, stressed

__all__ = [
    "DRAWS",
    "SNR",
    "Asked",
    "Condition",
    "Curve",
    "Result",
    "Robustness",
    "check",
    "document",
    "lines",
    "robustness",
    "sheets",
    "weights",
]

BASELINES = ("late-fusion", "concat")
QUIETEST, LOUDEST = 100.0, -100.0  # dB
Progress = Callable[..., None]


@dataclass(frozen=True)
class Result:
    """The metric under one condition {seed: value}, its estimate, and that of the drop from clean inputs."""

    values: Mapping[int, float]
    value: Estimate
    drop: Estimate


@dataclass(frozen=True)
class Curve:
    """Robustness to noise on `mods`, over all levels; `effective` is None without a baseline to compare with."""

    mods: tuple[str, ...]
    relative: Estimate
    retained: Estimate
    effective: Estimate | None = None


@dataclass(frozen=True)
class Robustness:
    """One run: its modalities, the clean metric, {condition: result}, {noisy modalities: curve}.

    Runs with the same `group` are comparable; `baseline` is the label of the run that they are held against.
    `refused` {condition: reason}; `flaws` {seed: reason} of seeds that are left out of some conditions; `empty`
    {subset: samples without any modality}; `differs`: clean predictions that are not the saved ones; `problem`: why
    there are no numbers.
    """

    run: Run
    label: str
    split: str
    group: Group
    asked: Asked
    baseline: str = ""
    mods: tuple[str, ...] = ()
    samples: int = 0
    clean: Result | None = None
    results: Mapping[Condition, Result] = field(default_factory=dict)
    curves: Mapping[tuple[str, ...], Curve] = field(default_factory=dict)
    refused: Mapping[Condition, str] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)
    flaws: Mapping[int, str] = field(default_factory=dict)
    empty: Mapping[Condition, int] = field(default_factory=dict)
    differs: int = 0
    problem: str = ""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds with clean predictions."""
        return tuple(self.clean.values) if self.clean else ()


def check(asked: Asked) -> Asked:
    """`asked` with its noise levels in order. Raises UsageError for what cannot be measured."""
    from mmbal_cli.engine.changes import ABSENT

    metric = METRICS.get(asked.metric)
    if metric is None or not metric.larger_is_better:
        known = [key for key, each in METRICS.items() if each.larger_is_better]
        raise UsageError(f"'{asked.metric}' is no metric for robustness.", f"Expected one of {', '.join(known)}.")
    if asked.way not in ABSENT:
        raise UsageError(f"Unknown way to leave out a modality: '{asked.way}'.", nearest(asked.way, ABSENT))
    if not asked.snr or not all(LOUDEST <= snr <= QUIETEST for snr in asked.snr):
        raise UsageError(
            f"Noise levels {', '.join(f'{snr:g}' for snr in asked.snr) or 'none'}.",
            f"Expected ratios from {LOUDEST:g} to {QUIETEST:g} dB.",
            "--snr 20,10,5,0,-5",
        )
    if asked.draws < 1:
        raise UsageError(f"{asked.draws} draws.", "Expected at least 1.", f"--draws {DRAWS}")
    return replace(asked, snr=tuple(sorted({float(snr) for snr in asked.snr}, reverse=True)))


def weights(snr: Sequence[float]) -> NDArray:
    """Weights of the clean metric and of that at each level, falling `snr` in dB, in the mean over [0, X]; sum 1."""
    x = np.array([0.0, *(10 ** (-level / 20) for level in snr)])
    steps = np.diff(x) / x[-1]
    return (np.append(steps, 0.0) + np.append(0.0, steps)) / 2


def robustness(
    runs: Sequence[Run],
    cache: Path,
    split: str = "test",
    asked: Asked | None = None,
    progress: Progress | None = None,
) -> list[Robustness]:
    """Robustness of `runs` on `split`, with fresh predictions of their features in `cache`; `progress` a step a run.

    The baseline of each group of comparable runs is the run labelled `asked.baseline`, or late-fusion, or concat.
    UsageError when `asked` is impossible or names a baseline that is none of the runs.
    """
    asked = check(asked or Asked())
    sorted_out = groups(runs, split)
    bases = [_baseline(group, asked.baseline) for group in sorted_out]
    if asked.baseline and not any(bases):
        raise unknown(asked.baseline, [member.label for group in sorted_out for member in group.members])
    found: list[Robustness] = []
    for group, base in zip(sorted_out, bases, strict=True):
        areas: dict[tuple[str, ...], Measured] = {}
        done = {}
        for member in sorted(group.members, key=lambda member: member is not base):
            one = Robustness(member.run, member.label, split, group, asked, base.label if base else "")
            done[member.run.folder] = _measured(one, cache, member is base, areas)
            if progress:
                progress(detail=member.label)
        found += [done[member.run.folder] for member in group.members]
    return found


def _baseline(group: Group, wanted: str) -> Member | None:
    labels = [member.label for member in group.members]
    names = [{member.run.facts.label, member.run.name} for member in group.members]
    if wanted:
        index = named(wanted, labels, names)
        return None if index is None else group.members[index]
    for name in BASELINES:
        for member in group.members:
            if member.run.facts.label == name and not group.problem:
                return member
    return None


def _measured(one: Robustness, cache: Path, is_base: bool, areas: dict[tuple[str, ...], Measured]) -> Robustness:
    """`one` with its numbers; the baseline, which comes first, leaves its areas below noise in `areas`."""
    from safetensors import SafetensorError

    from mmbal_cli.engine.opened import open_run

    if one.group.problem:
        return replace(one, problem=one.group.problem)
    saved, failed = one.run.collect(one.split)
    if not saved:
        return replace(one, failed=failed, problem="no seed has finished")
    try:
        opened = open_run(one.run.folder, cache, device=one.asked.device)
        made = stressed(one.run, opened, one.split, one.asked, saved)
    except MmbalError as error:
        return replace(one, failed=failed, problem=str(error))
    except (OSError, SafetensorError) as error:
        return replace(one, failed=failed, problem=f"its weights cannot be read: {error}.")
    if not made.clean.seeds:
        why = "; ".join(dict.fromkeys(made.flaws.values())) or "the metric says nothing about so few classes"
        return replace(one, failed=failed, problem=f"{one.asked.metric} has no value on clean inputs: {why}.")
    own = _areas(made, one.asked)
    if is_base:
        areas.update(own)
    results = _results(made)
    return replace(
        one,
        mods=made.mods,
        samples=made.samples,
        clean=results.pop(None),
        results={key: result for key, result in results.items() if key is not None},
        curves={mods: _curve(mods, area, made.clean, areas.get(mods)) for mods, area in own.items()},
        refused=made.refused,
        failed=failed,
        flaws=made.flaws,
        empty=made.empty,
        differs=made.differs,
    )


def _areas(made: Measurements, asked: Asked) -> dict[tuple[str, ...], Measured]:
    """{noisy modalities: mean metric over the noise range minus the clean metric}."""
    noise: dict[tuple[str, ...], list[Measured]] = {}
    for condition, measured in made.changed.items():
        if condition.kind == "noise":
            noise.setdefault(condition.mods, []).append(measured)
    factors = weights(asked.snr).tolist()
    return {
        mods: combined([(factors[0] - 1, made.clean), *zip(factors[1:], levels, strict=True)])
        for mods, levels in noise.items()
        if len(levels) == len(asked.snr)
    }


def _curve(mods: tuple[str, ...], area: Measured, clean: Measured, base: Measured | None) -> Curve:
    relative = combined([(1.0, area), (1.0, clean)])
    retained = within(estimate_of(lambda part: part[0] / part[1], [relative, clean]), most=math.inf)
    if base is None:
        return Curve(mods, within(estimate(relative)), retained)
    kept, effective = estimates([relative, combined([(1.0, area), (-1.0, base)])])
    return Curve(mods, within(kept), retained, within(effective, -2.0, 2.0) if effective.mean is not None else None)


def _results(made: Measurements) -> dict[Condition | None, Result]:
    """Results of all conditions, and of clean inputs under None."""
    measured: list[tuple[Condition | None, Measured]] = [(None, made.clean), *made.changed.items()]
    values = estimates([each for _, each in measured])
    drops = estimates([combined([(1.0, made.clean), (-1.0, each)]) for _, each in measured])
    return {
        key: Result(dict(each.values), within(value), within(drop, -1.0))
        for (key, each), value, drop in zip(measured, values, drops, strict=True)
    }
