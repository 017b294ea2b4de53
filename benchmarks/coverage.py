"""Do the intervals and tests keep their promise? `python benchmarks/coverage.py [--experiments 1000] [--jobs 2]`.

Simulated experiments with known truth: two methods, S seeds, N test samples. A sample is answered rightly where
level + seed effect + difficulty of the sample (shared by the methods, and each method's own) + noise of seed and sample
is above 0, all effects normal; seeds of both methods share half of the variance of the seed effect. `spread` is the
sd over seeds of the accuracy that a seed would have on endless samples (what N samples show is more: noise of seed and
sample alone gives about 1 point at N = 744). Macro-F1 has 6 classes of unequal size and partly systematic confusions;
NLL is the logistic loss of the same latent number. Truths are integrals, not simulated.

Columns: coverage of the 95% interval of a mean, of a paired difference of 2 points, and how often each test rejects at
0.05 when both methods are equal. Target: 93 to 97%, at most 6%. Standard error of a share of 5% in 1000: 0.7 points.
McNemar and the tests of seeds ask narrower questions (these seeds, or these samples), so that they may reject more.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import product

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, roots_hermitenorm

from mmbal_cli.report.inference import TESTS, paired_all
from mmbal_cli.report.influence import value_and_influence
from mmbal_cli.report.statistics import Estimate, Measured, combined, estimates, measured_mean

SHARED, OWN, NOISE = 1.2, 0.5, 0.6  # sd of difficulty shared by methods, of the method's own, of seed and sample
REST = SHARED**2 + OWN**2 + NOISE**2
PRIORS = np.array([0.3, 0.22, 0.18, 0.13, 0.1, 0.07])
SYSTEMATIC = 0.7  # share of samples with one wrong answer for all seeds
SLOPE = 1.5  # of the logistic loss
GAP = 0.02
BATCH = 25


@dataclass(frozen=True)
class Setting:
    """One row of the table: `level` is the accuracy, `spread` its sd over seeds."""

    metric: str
    seeds: int
    samples: int
    level: float
    spread: float

    def latent(self, level: float) -> tuple[float, float]:
        """Mean of the latent number at an accuracy, and sd of its seed effect."""
        density = np.exp(-0.5 * ndtri(level) ** 2) / (2 * np.pi) ** 0.5
        share = self.spread / density  # of the sd of the latent number
        sd = (REST / (1 - share**2)) ** 0.5
        return float(ndtri(level) * sd), float(share * sd)


@dataclass
class Counts:
    """How many experiments had the truth inside, and rejected a true null with each test."""

    experiments: int = 0
    mean: int = 0
    difference: int = 0
    half: float = 0.0
    rejected: Counter[str] = field(default_factory=Counter)
    tested: Counter[str] = field(default_factory=Counter)


def truth(setting: Setting, level: float) -> float:
    """Expected metric over new seeds and samples, by Gauss-Hermite quadrature."""
    centre, sd = setting.latent(level)
    nodes, weights = roots_hermitenorm(61)
    weights = weights / weights.sum()
    if setting.metric == "nll":
        return float(weights @ np.logaddexp(0, -SLOPE * (centre + nodes * (REST + sd**2) ** 0.5)))
    right = ndtr((centre + nodes * sd) / REST**0.5)[:, None]  # accuracy of a seed, equal for all classes
    if setting.metric == "accuracy":
        return float(weights @ right[:, 0])
    others = SYSTEMATIC * np.roll(PRIORS, 1) + (1 - SYSTEMATIC) * (1 - PRIORS) / (len(PRIORS) - 1)
    f1 = 2 * PRIORS * right / (PRIORS * (1 + right) + (1 - right) * others)
    return float(weights @ f1.mean(axis=1))


def experiment(setting: Setting, rng: np.random.Generator) -> tuple[list[Measured], list[dict[int, NDArray]]]:
    """Three methods (the first, one better by GAP, one equal to the first), and where each is right."""
    labels = rng.choice(len(PRIORS), size=setting.samples, p=PRIORS)
    other = rng.integers(1, len(PRIORS), size=(setting.seeds, setting.samples))
    systematic = rng.random(setting.samples) < SYSTEMATIC
    hard = rng.normal(size=setting.samples) * SHARED
    by_seed = rng.normal(size=setting.seeds)
    methods, right = [], []
    for level in (setting.level, setting.level + GAP, setting.level):
        centre, sd = setting.latent(level)
        seed = sd * (by_seed + rng.normal(size=setting.seeds)) / 2**0.5
        own = hard + rng.normal(size=setting.samples) * OWN
        noise = rng.normal(size=(setting.seeds, setting.samples)) * NOISE
        latent = centre + seed[:, None] + own + noise
        right.append(dict(enumerate(latent > 0)))
        if setting.metric == "macro_f1":
            answers = np.where(latent > 0, labels, (labels + np.where(systematic, 1, other)) % len(PRIORS))
            both = [value_and_influence("macro_f1", np.eye(len(PRIORS))[row], labels) for row in answers]
            methods.append(Measured(dict(enumerate(v for v, _ in both)), dict(enumerate(s for _, s in both))))
            continue
        each = latent > 0 if setting.metric == "accuracy" else np.logaddexp(0, -SLOPE * latent)
        methods.append(measured_mean(dict(enumerate(each.astype(np.float64)))))
    return methods, right


def inside(estimate: Estimate, true: float) -> bool:
    """Whether the interval has the true value in it."""
    return estimate.low is not None and estimate.high is not None and estimate.low <= true <= estimate.high


def coverage(setting: Setting, experiments: int) -> Counts:
    """Simulate one setting; the same experiments in every call."""
    rng = np.random.default_rng([setting.seeds, setting.samples, round(100 * setting.level), 1])
    counts = Counts(experiments)
    mean = truth(setting, setting.level)
    gap = truth(setting, setting.level + GAP) - mean
    for start in range(0, experiments, BATCH):
        made = [experiment(setting, rng) for _ in range(min(BATCH, experiments - start))]
        own = estimates([first for (first, _, _), _ in made])
        apart = estimates([combined([(1, better), (-1, first)]) for (first, better, _), _ in made])
        counts.mean += sum(inside(each, mean) for each in own)
        counts.difference += sum(inside(each, gap) for each in apart)
        counts.half += sum((each.high or 0) - (each.low or 0) for each in own) / 2
        is_accuracy = setting.metric == "accuracy"
        for each in paired_all([(m[0], m[2], (r[0], r[2]) if is_accuracy else None) for m, r in made]):
            known = {test: p for test, p in each.p.items() if p is not None}
            counts.tested.update(known.keys())
            counts.rejected.update(test for test, p in known.items() if p <= 0.05)
    return counts


def settings() -> Iterator[Setting]:
    """The rows of the table."""
    for samples, level in product((100, 744, 2000), (0.5, 0.65, 0.8, 0.95)):
        yield Setting("accuracy", 5, samples, level, 0.0075)
    for seeds, spread in product((1, 2, 3, 5, 10, 20), (0.0, 0.0075, 0.02)):
        if (seeds, spread) != (5, 0.0075):
            yield Setting("accuracy", seeds, 744, 0.65, spread)
    for metric, seeds, samples in product(("macro_f1", "nll"), (3, 5), (744, 2000)):
        yield Setting(metric, seeds, samples, 0.65, 0.0075)


def line(setting: Setting, counts: Counts) -> str:
    """One row of the table; `*` marks what is outside of the target."""
    n = counts.experiments

    def share(count: int, low: float, high: float) -> str:
        return f"{100 * count / n:6.1f}{' ' if low <= count / n <= high else '*'}"

    cells = [share(counts.mean, 0.93, 0.97), share(counts.difference, 0.93, 0.97)]
    cells += [share(counts.rejected[t], 0, 0.06) if counts.tested[t] else "     – " for t in TESTS]
    unit = 1 if setting.metric == "nll" else 100
    head = f"{setting.metric:9} {setting.seeds:5} {setting.samples:7} {100 * setting.level:6.0f} "
    return f"{head}{100 * setting.spread:6.2f} {unit * counts.half / n:7.3f} " + " ".join(f"{c:>9}" for c in cells)


def main() -> None:
    """Simulate all settings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    start, rows = time.perf_counter(), list(settings())
    heads = ["mean", "diff.", "bootstrap", *(str(test) for test in TESTS[1:])]
    print(
        f"{given.experiments} experiments a row. Percent: intervals with the truth inside, | true nulls rejected at 5%"
    )
    print(f"{'metric':9} seeds samples  level spread    half " + " ".join(f"{head:>9}" for head in heads))
    with ProcessPoolExecutor(given.jobs) as pool:
        for setting, counts in zip(rows, pool.map(partial(coverage, experiments=given.experiments), rows), strict=True):
            print(line(setting, counts), flush=True)
    print(f"`half` is the mean half-width of the interval of a mean. {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()
