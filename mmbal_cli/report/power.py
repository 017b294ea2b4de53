"""How much a test set and a number of seeds can show, before training: half-widths and smallest differences.

The model is that of statistics.py: the mean of S seeds on N samples has variance seed / S + sample / N + interaction
/ (S N), one seed on its own (sample + interaction) / N, because it speaks of new samples only. Half-widths and tests
take Student's t with the expected degrees of freedom (Satterthwaite 1946); the smallest difference that is
significant with the wanted power is noncentral t (Cohen, Statistical Power Analysis, 1988, ch. 2) times the standard
error.
"""

from __future__ import annotations

import contextlib
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

import numpy as np

from mmbal_cli.errors import CacheError
from mmbal_cli.report.inference import RANK_SUM, TESTS, Test, cannot_reach, smallest_p
from mmbal_cli.report.measure import correct, measure
from mmbal_cli.report.runs import Predictions, Run, read_run
from mmbal_cli.report.statistics import Measured, combined, drawn, freedom

SEED_COUNTS = (1, 3, 5, 10, 20)
ACCURACY, SEED_SD, STABLE = 0.65, 0.008, 0.5
DEFAULT_SOURCE = "assumed (audio-visual baselines on CREMA-D: about 65%, sd 0.7 to 0.8 points over 5 seeds)"
GIVEN = "given"
PARTS = ("seed", "sample", "interaction")
STILL = "The metric is the same for all validation samples and seeds: nothing varies there, so nothing can be planned."


@dataclass(frozen=True)
class Components:
    """Variance between seeds, between samples (as all seeds see them), and of a seed on a sample."""

    seed: float
    sample: float
    interaction: float

    def of_mean(self, seeds: int, samples: int) -> tuple[float, float]:
        """Variance of the mean of S seeds on N samples, and its expected degrees of freedom."""
        if seeds == 1:
            return (self.sample + self.interaction) / samples, samples - 1
        both = self.interaction / (seeds * samples)
        by_seed, by_sample = self.seed / seeds + both, self.sample / samples + both
        return by_seed + by_sample - both, freedom(by_seed, by_sample, both, seeds, samples)


def components(measured: Measured) -> Components | None:
    """Estimated components of one quantity, none below 0; None with fewer than two seeds."""
    found = drawn([measured])[0]
    if found is None or found.summary.n < 2:
        return None
    seeds, samples = found.summary.n, len(measured.slopes[measured.seeds[0]])
    parts = found.parts
    return Components(
        max(parts.seed - parts.interaction, 0) * seeds,
        max(parts.sample - parts.interaction, 0) * samples,
        parts.interaction * seeds * samples,
    )


def half_width(of: Components, seeds: int, samples: int, alpha: float = 0.05) -> float:
    """Expected half-width of the 1 - alpha interval of a mean."""
    from scipy.special import stdtrit

    variance, freedom = of.of_mean(seeds, samples)
    return float(stdtrit(freedom, 1 - alpha / 2)) * variance**0.5


def smallest_difference(of: Components, seeds: int, samples: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The difference that a two-sided test at alpha finds with this power, if `of` are its components."""
    from scipy.special import nctdtrinc, stdtrit

    variance, freedom = of.of_mean(seeds, samples)
    critical = float(stdtrit(freedom, 1 - alpha / 2))
    return float(nctdtrinc(freedom, 1 - power, critical)) * variance**0.5


@dataclass(frozen=True)
class Assumed:
    """What a plan rests on, and where each part comes from.

    `mean` is the metric of one run, `one` its components, `discordance` the share of samples that only one of two
    runs gets right, `difference` the components of a paired difference; None where nothing is known.
    """

    mean: float
    one: Components
    difference: Components | None
    discordance: float | None
    sources: dict[str, str] = field(default_factory=dict)


def assumed(
    base: Assumed | None = None,
    accuracy: float | None = None,
    discordance: float | None = None,
    seed_sd: float | None = None,
    stable: float | None = None,
) -> Assumed:
    """Assumptions for accuracy: what is given, else what `base` (from runs) says, else conservative defaults.

    Defaults: all seeds miss the same samples; the discordance is half of what independent errors give, accuracy x
    (1 - accuracy), and `stable`, half of it, the same for all seeds; the seeds of two runs are independent.
    """
    base = base or Assumed(ACCURACY, Components(SEED_SD**2, ACCURACY * (1 - ACCURACY), 0.0), None, None)
    mean = base.mean if accuracy is None else accuracy
    one, between = base.one, base.difference
    if accuracy is not None:
        one = replace(one, sample=max(mean * (1 - mean) - one.interaction, 0.0))
    if seed_sd is not None:
        one = replace(one, seed=seed_sd**2)
    apart, source = base.discordance, base.sources.get("discordance", "")
    if discordance is not None or apart is None:
        apart = mean * (1 - mean) if discordance is None else discordance
        source = "assumed: half of what independent errors give" if discordance is None else GIVEN
    seed = between.seed if between and seed_sd is None else 2 * one.seed
    if between is None or source != base.sources.get("discordance") or stable is not None:
        share = STABLE if stable is None else stable
        between = Components(seed, share * apart, (1 - share) * apart)
    sources = {
        "accuracy": GIVEN if accuracy is not None else base.sources.get("accuracy", DEFAULT_SOURCE),
        "seed sd": GIVEN if seed_sd is not None else base.sources.get("seed sd", DEFAULT_SOURCE),
        "discordance": source,
    }
    return Assumed(mean, one, replace(between, seed=seed), apart, sources)


def from_runs(folder: Path, dataset: str, baseline: str, metric: str) -> Assumed | None:
    """What runs of the data set show on their *validation* split; None where the baseline was not run.

    Components of one run are those of the baseline; of a difference the means over the runs of the same data and
    protocol that are no reference, each against the baseline. The test set is not looked at.
    """
    known: list[tuple[Run, dict[int, Predictions]]] = []
    for path in sorted(folder.glob("*/run.json")):
        with contextlib.suppress(CacheError):
            run = read_run(path.parent)
            if run.facts.dataset == dataset:
                known.append((run, run.collect("val")[0]))
    own = [(run, good) for run, good in known if run.facts.label == baseline and good]
    if not own:
        return None
    run, good = max(own, key=lambda each: (not each[0].facts.stamp, len(each[1])))
    first = measure(good, metric)
    if not first.seeds:
        return None
    mean = float(np.mean([first.values[seed] for seed in first.seeds]))
    where = f"from {run.name} ({run.facts.title}, validation, n = {len(first.seeds)} seeds)"
    one = components(first)
    sources = {"accuracy": where, "seed sd": where if one else DEFAULT_SOURCE}
    if one is None:
        one = Components(SEED_SD**2, _per_sample(first), 0.0)
    apart, between = [], []
    for other, predictions in known:
        if other is run or other.facts.reference or _identity(other) != _identity(run):
            continue
        found = components(combined([(1.0, measure(predictions, metric)), (-1.0, first)]))
        if found is not None:
            between.append(found)
            mine, theirs = correct(good), correct(predictions)
            apart.append(float(np.mean([np.mean(mine[s] != theirs[s]) for s in sorted({*mine} & {*theirs})])))
    if not between:
        return Assumed(mean, one, None, None, sources)
    difference = Components(*(float(np.mean([getattr(each, name) for each in between])) for name in PARTS))
    sources["discordance"] = f"mean over {len(between)} runs against {run.name} (validation)"
    return Assumed(mean, one, difference, float(np.mean(apart)), sources)


def _identity(run: Run) -> tuple[object, ...]:
    """What runs share that a plan may hold against each other."""
    data = run.facts.data
    return data.fingerprint, data.split_hash, data.subset_title, run.facts.protocol


def _per_sample(measured: Measured) -> float:
    """Mean over seeds of the variance of a sample's part in the metric."""
    slopes = np.stack([measured.slopes[seed] for seed in measured.seeds])
    return float(np.mean((slopes * slopes.shape[1]) ** 2))


@dataclass(frozen=True)
class Reach:
    """What `seeds` seeds can show; differences are None where none is large enough. `smallest` is p by test."""

    seeds: int
    half: float
    difference: float | None
    corrected: float | None
    smallest: dict[str, float]


@dataclass(frozen=True)
class Plan:
    """Reachable precision of a data set; `counted` says where the number of samples comes from."""

    dataset: str
    metric: str
    baseline: str
    samples: int
    counted: str
    seeds: int
    alpha: float
    power: float
    comparisons: int
    assumed: Assumed
    rows: tuple[Reach, ...]

    @property
    def warnings(self) -> list[str]:
        """Tests that cannot reach the level with the seeds that were asked for, and assumptions that say nothing."""
        found = [
            cannot_reach(test, self.seeds, self.alpha) or cannot_reach(test, self.seeds, self.alpha, self.comparisons)
            for test in TESTS
        ]
        return list(filter(None, [*found, "" if any(astuple(self.assumed.one)) else STILL]))


def plan(
    dataset: str,
    samples: int,
    assumptions: Assumed,
    *,
    counted: str,
    metric: str = "accuracy",
    baseline: str = "concat",
    seeds: int = 5,
    alpha: float = 0.05,
    power: float = 0.8,
    comparisons: int = 1,
) -> Plan:
    """Rows for 1, 3, 5, 10, 20 and `seeds` seeds on `samples` test samples."""
    rows = []
    for count in sorted({*SEED_COUNTS, seeds}):
        smallest = {str(test): smallest_p(test, count) for test in (*TESTS, RANK_SUM)}
        plain, corrected = (
            _reachable(assumptions, count, samples, level, power, metric, smallest)
            for level in (alpha, alpha / comparisons)
        )
        half = half_width(assumptions.one, count, samples, alpha)
        rows.append(Reach(count, half, plain, corrected, smallest))
    return Plan(dataset, metric, baseline, samples, counted, seeds, alpha, power, comparisons, assumptions, tuple(rows))


def _reachable(
    of: Assumed, seeds: int, samples: int, alpha: float, power: float, metric: str, smallest: dict[str, float]
) -> float | None:
    """The smallest difference, unless nothing varies, it is larger than can be or the test cannot give such a p."""
    if of.difference is None or smallest[Test.bootstrap] > alpha or not any(astuple(of.difference)):
        return None
    found = smallest_difference(of.difference, seeds, samples, alpha, power)
    if metric == "accuracy" and of.discordance is not None and found > of.discordance:
        return None
    return found
