"""What a number rests on: its mean over seeds, their spread, and an interval over seeds and samples.

Model (crossed random effects): seed s and test sample i contribute value[s, i] = mean + seed[s] + sample[i]
+ interaction[s, i], and the interval is for the mean over *new* seeds and *new* samples of the same kind.
Its variance has the unbiased estimate V = V_seed + V_sample - V_interaction (Searle, Casella & McCulloch,
Variance Components, 1992, ch. 4), where V_seed is the variance of the seed means / S, V_sample that of the
sample means / N, and V_interaction the mean squared residual / (S N), which both of them already contain.
(Resampling seeds and samples at once, the pigeonhole bootstrap of Owen, Ann. Appl. Stat. 1, 2007,
would count the interaction three times.) A component estimated below 0 is taken as 0: V is never below the
larger of V_seed and V_sample.

One set of draws serves everything: a draw reweights the seeds by independent normal numbers (S is too small to
resample: two seeds would give three values) and resamples the samples; its deviation is scaled to V, and its normal
quantile replaced by the t quantile with the degrees of freedom of V (Satterthwaite, Biometrics Bulletin 2, 1946).

A metric enters by its value and its first-order influence of every sample. That is exact for accuracy
and NLL, which are means, and the infinitesimal jackknife (Efron, The Jackknife, 1982, ch. 6) for macro-F1, mAP and ECE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.report.influence import influence as influence  # where it is looked for

DRAWS = 10_000
LEVEL = 0.95
RNG_SEED = 0
CHUNK = 100  # draws at a time: 15,000 samples need 12 MB
KEPT_COUNTS = 40_000_000  # cells [DRAWS, N] kept from call to call, one byte each
TINY = 1e-9
EQUAL = 1e-12  # metrics, and parts of them, below this are rounding
SMALL_Z = 1e-6
SEEDS_AND_SAMPLES, SAMPLES, SEEDS = "seeds and samples", "samples", "seeds"


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (divisor n - 1) of `n` values; None where undefined."""

    mean: float | None
    sd: float | None
    n: int


def summary(values: Mapping[int, float]) -> Summary:
    """Summary of the finite values of {seed: value}."""
    kept = np.array([value for value in values.values() if np.isfinite(value)])
    if not len(kept):
        return Summary(None, None, 0)
    return Summary(float(kept.mean()), float(kept.std(ddof=1)) if len(kept) > 1 else None, len(kept))


@dataclass(frozen=True)
class Measured:
    """One quantity of one run: {seed: value} and {seed: influence of every sample [N]}.

    Influences sum to 0 and are 0 for samples that do not count. Without `slopes` only the seeds vary. `counts` {seed:
    how many samples count}; where it is not known, those with an influence.
    """

    values: Mapping[int, float]
    slopes: Mapping[int, NDArray]
    counts: Mapping[int, int] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds with a finite value, in order."""
        return tuple(sorted(seed for seed, value in self.values.items() if np.isfinite(value)))


@dataclass(frozen=True)
class Estimate:
    """Mean and sample sd over `n` seeds, and the interval [low, high] of the mean; None where undefined.

    `over` says what the interval generalises over: "seeds and samples", "samples" (one seed), "seeds", or "".
    """

    mean: float | None
    sd: float | None
    n: int
    low: float | None = None
    high: float | None = None
    over: str = ""


@dataclass(frozen=True)
class Parts:
    """The variance of a mean over S seeds and N samples: its estimated parts, their sum, its degrees of freedom."""

    seed: float
    sample: float
    interaction: float
    total: float
    freedom: float


@dataclass(frozen=True)
class Drawn:
    """A mean, its variance, and its standardised draws [DRAWS] (mean 0, sd 1; all 0 if nothing varies)."""

    summary: Summary
    parts: Parts
    z: NDArray = field(repr=False)
    over: str

    def estimate(self, level: float = LEVEL) -> Estimate:
        """Percentile interval of the draws, with t in place of normal quantiles."""
        mean = self.summary.mean
        if mean is None:
            return Estimate(None, None, 0)
        low, high = mean + self.parts.total**0.5 * _as_t(
            np.quantile(self.z, [(1 - level) / 2, (1 + level) / 2]), self.parts.freedom
        )
        return Estimate(mean, self.summary.sd, self.summary.n, float(low), float(high), self.over)

    def p(self) -> float | None:
        """Two-sided p of "the mean is 0": 1 - the level at which the interval reaches 0; at least 2/(DRAWS+1)."""
        from scipy.special import ndtri, stdtr

        mean, scale = self.summary.mean, self.parts.total**0.5
        if mean is None:
            return None
        if abs(mean) < EQUAL:
            return 1.0
        if scale == 0:  # no sample and no seed disagrees: different without any doubt
            return 2 / (len(self.z) + 1)
        edge = ndtri(stdtr(self.parts.freedom, -abs(mean) / scale))  # where a draw crosses 0
        z = self.z if mean > 0 else -self.z
        return float(min(1.0, 2 * (np.count_nonzero(z <= edge + 1e-9) + 1) / (len(z) + 1)))


def measured_mean(each: Mapping[int, NDArray]) -> Measured:
    """The mean of per-sample numbers {seed: [N]}; NaN = does not count. Seeds without any number are left out."""
    values, slopes, many = {}, {}, {}
    for seed, given in each.items():
        numbers = _exact(np.asarray(given, np.float64))
        counts = ~np.isnan(numbers)
        if counts.any():
            values[seed] = float(numbers[counts].mean())
            many[seed] = int(np.count_nonzero(counts))
            slopes[seed] = np.where(counts, numbers - values[seed], 0.0) / many[seed]
    return Measured(values, slopes, many)


def combined(terms: Sequence[tuple[float, Measured]]) -> Measured:
    """The linear combination of quantities on the seeds that all have; a difference is [(1, a), (-1, b)]."""
    common = _common([measured for _, measured in terms])
    values = {seed: float(_exact(sum(factor * each.values[seed] for factor, each in terms))) for seed in common}
    sampled = [seed for seed in common if all(seed in each.slopes for _, each in terms)]
    if len(sampled) < len(common):
        return Measured(values, {})
    slopes = {s: _exact(np.sum([factor * each.slopes[s] for factor, each in terms], axis=0)) for s in common}
    counted = [s for s in common if all(s in each.counts for _, each in terms)]
    return Measured(values, slopes, {s: min(each.counts[s] for _, each in terms) for s in counted})


def _exact(numbers: Any) -> NDArray:
    """Without what rounding leaves of 0: it would be a difference that every seed and sample agrees on."""
    numbers = np.asarray(numbers, np.float64)
    return np.where(np.abs(numbers) < EQUAL, 0.0, numbers)


def estimate(measured: Measured, level: float = LEVEL) -> Estimate:
    """Mean, sd over seeds and interval over seeds and samples of one quantity; see the head of this module."""
    return estimates([measured], level)[0]


def estimates(many: Sequence[Measured], level: float = LEVEL) -> list[Estimate]:
    """`estimate` of many quantities at once: same draws, equal results."""
    return [
        one.estimate(level) if one else over_seeds(measured.values, level)
        for measured, one in zip(many, drawn(many), strict=True)
    ]


def over_seeds(values: Mapping[int, float], level: float = LEVEL) -> Estimate:
    """Student's t interval of the mean over seeds, for what has no samples; no interval from one seed."""
    from scipy.special import stdtrit

    found = summary(values)
    if found.mean is None or found.sd is None:
        return Estimate(found.mean, None, found.n)
    half = float(stdtrit(found.n - 1, (1 + level) / 2)) * found.sd / found.n**0.5
    return Estimate(found.mean, found.sd, found.n, found.mean - half, found.mean + half, SEEDS)


def estimate_of(function: Callable[[NDArray], NDArray], parts: Sequence[Measured], level: float = LEVEL) -> Estimate:
    """Estimate of function(means of `parts`), such as a ratio or a maximum, by the joint draws.

    `function` maps [K, ...] to [...]. `mean` is the function of the K means over the common seeds, `sd` the
    spread of the function over seeds. All draws are stretched to the variance of the function's best linear
    approximation, so that a linear function gets the interval of `combined`. Noise only adds to ranges and maxima, so
    that their draws may all lie above the estimate: the interval reaches it. No interval where a draw has no value.
    """
    common = _common(parts)
    if not common:
        return Estimate(None, None, 0)
    values = np.array([[each.values[seed] for seed in common] for each in parts])
    centre = values.mean(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        mean = float(np.asarray(function(centre))[0])
        found = summary(dict(enumerate(np.asarray(function(values), np.float64))))
    if not np.isfinite(mean):
        return Estimate(None, None, 0)
    averages = [_average(replace(each, values={s: each.values[s] for s in common})) for each in parts]
    known = [each for each in averages if each is not None]
    if len(known) < len(parts):
        spread = over_seeds(dict(enumerate(np.asarray(function(values), np.float64))), level)
        return Estimate(mean, found.sd, len(common), spread.low, spread.high, spread.over)
    moves = _moves(known)
    with np.errstate(all="ignore"):
        moves = moves * _stretch(np.asarray(function(centre + moves), np.float64), moves, parts)
        values = np.asarray(function(centre + moves), np.float64)
    if np.isnan(values).any():
        return Estimate(mean, found.sd, len(common))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    if not (np.isfinite(low) and np.isfinite(high)):
        return Estimate(mean, found.sd, len(common))
    return Estimate(mean, found.sd, len(common), min(float(low), mean), max(float(high), mean), _over(common))


def within(found: Estimate, least: float = 0.0, most: float = 1.0) -> Estimate:
    """The estimate of what cannot lie outside of [least, most], its interval cut there."""
    if found.low is None or found.high is None:
        return found
    return replace(found, low=max(found.low, least), high=min(found.high, most))


def drawn(many: Sequence[Measured]) -> list[Drawn | None]:
    """The draws of each quantity; None for those without influences of at least two samples."""
    averages = [_average(each) for each in many]
    moves = iter(_moves([each for each in averages if each is not None]))
    found: list[Drawn | None] = []
    for each in averages:
        if each is None:
            found.append(None)
            continue
        move = next(moves)
        spread = move.std()
        z = move / spread if spread > TINY * each.parts.total**0.5 else np.zeros(DRAWS)
        found.append(Drawn(summary(dict(zip(each.seeds, each.values, strict=True))), each.parts, z, _over(each.seeds)))
    return found


def variance(values: NDArray, slopes: NDArray, samples: int | None = None) -> Parts:
    """Variance of the mean of `values` [S] with the influences `slopes` [S,N], by the crossed model.

    `samples` of the N count; without it those with an influence.
    """
    slope, squares = slopes.mean(axis=0), np.einsum("sn,sn->n", slopes, slopes)
    seeds, samples = len(values), max(int(np.count_nonzero(squares)) if samples is None else samples, 2)
    own = float(slope @ slope)
    by_sample = own * samples / (samples - 1)
    if seeds == 1:
        return Parts(0.0, by_sample, 0.0, by_sample, samples - 1)
    by_seed = float(values.var(ddof=1)) / seeds
    rest = max(float(squares.sum()) - seeds * own, 0.0)
    both = rest * samples / ((samples - 1) * (seeds - 1) * seeds)
    total = max(by_seed + by_sample - both, by_seed, by_sample)
    return Parts(by_seed, by_sample, both, total, freedom(by_seed, by_sample, both, seeds, samples))


def freedom(by_seed: float, by_sample: float, both: float, seeds: int, samples: int) -> float:
    """Degrees of freedom of the total (Satterthwaite), at least those of its worst known part.

    The difference in the total makes his approximation fall below any of its parts where all are alike.
    """
    total = max(by_seed + by_sample - both, by_seed, by_sample)
    doubt = by_seed**2 / (seeds - 1) + by_sample**2 / (samples - 1) + both**2 / ((seeds - 1) * (samples - 1))
    return max(total**2 / doubt, min(seeds, samples) - 1) if doubt else samples - 1


@dataclass(frozen=True)
class _Average:
    """A quantity with its influences averaged over seeds."""

    seeds: tuple[int, ...]
    values: NDArray  # [S]
    slope: NDArray  # [N]
    parts: Parts


def _average(measured: Measured) -> _Average | None:
    seeds = measured.seeds
    if not seeds or any(seed not in measured.slopes for seed in seeds) or len(measured.slopes[seeds[0]]) < 2:
        return None
    slopes = np.stack([measured.slopes[seed] for seed in seeds])
    values = np.array([measured.values[seed] for seed in seeds])
    known = min((measured.counts[seed] for seed in seeds), default=None) if {*seeds} <= {*measured.counts} else None
    return _Average(seeds, values, slopes.mean(axis=0), variance(values, slopes, known))


def _moves(averages: Sequence[_Average]) -> NDArray:
    """Deviation of each quantity from its mean under each draw, [Q, DRAWS]; each sums to 0."""
    moves = np.zeros((len(averages), DRAWS))
    for samples in sorted({len(each.slope) for each in averages}):
        members = [i for i, each in enumerate(averages) if len(each.slope) == samples]
        slopes = np.stack([averages[i].slope for i in members], axis=1)
        start = 0
        for counts in _sample_counts(samples):
            moves[members, start : start + len(counts)] = (counts.astype(np.float64) @ slopes).T
            start += len(counts)
    for move, each in zip(moves, averages, strict=True):
        seeds = len(each.seeds)
        if seeds > 1:
            weights = np.stack([_seed_weights(seed) for seed in each.seeds])
            move += (each.values - each.values.mean()) @ weights / (seeds * (seeds - 1)) ** 0.5
    return moves - moves.mean(axis=1, keepdims=True)


def _stretch(values: NDArray, moves: NDArray, parts: Sequence[Measured]) -> NDArray | float:
    """Factor for each draw of `moves` [K, DRAWS] that gives `values` [DRAWS], linearised, their t distribution."""
    kept = np.isfinite(values)
    if not kept.any():
        return 1.0
    slope = np.linalg.lstsq(moves[:, kept].T, values[kept] - values[kept].mean(), rcond=None)[0]
    linear = _average(combined(list(zip(slope.tolist(), parts, strict=True))))
    move = slope @ moves
    if linear is None or move.std() <= TINY * linear.parts.total**0.5 or not move.any():
        return 1.0
    z = move / move.std()
    z = np.where(np.abs(z) < SMALL_Z, SMALL_Z, z)  # the ratio has a limit at 0
    return linear.parts.total**0.5 / move.std() * _as_t(z, linear.parts.freedom) / z


def _sample_counts(samples: int) -> Iterator[NDArray]:
    """Chunks [at most CHUNK, samples] of how often each draw takes each sample; the same in every call."""
    if samples * DRAWS <= KEPT_COUNTS:
        return iter(_kept_counts(samples))
    return _fresh_counts(samples)


@lru_cache(maxsize=4)
def _kept_counts(samples: int) -> tuple[NDArray, ...]:
    return tuple(_fresh_counts(samples))


def _fresh_counts(samples: int) -> Iterator[NDArray]:
    rng = np.random.default_rng([RNG_SEED, samples, 1])
    for start in range(0, DRAWS, CHUNK):
        rows = min(CHUNK, DRAWS - start)
        cells = rng.integers(samples, size=(rows, samples)) + samples * np.arange(rows)[:, None]
        yield np.bincount(cells.ravel(), minlength=cells.size).reshape(cells.shape).astype(np.uint8)


@lru_cache(maxsize=256)
def _seed_weights(seed: int) -> NDArray:
    """Standard normal weights [DRAWS] of one seed, the same for all quantities."""
    return np.random.default_rng([RNG_SEED, seed, 2]).standard_normal(DRAWS)


def _common(parts: Sequence[Measured]) -> tuple[int, ...]:
    shared = set.intersection(*(set(each.seeds) for each in parts)) if parts else set()
    return tuple(sorted(shared))


def _over(seeds: Sequence[int]) -> str:
    return SEEDS_AND_SAMPLES if len(seeds) > 1 else SAMPLES


def _as_t(z: NDArray, freedom: float) -> NDArray:
    """Normal quantiles as quantiles of Student's t."""
    from scipy.special import ndtr, stdtrit

    return np.sign(z) * stdtrit(freedom, ndtr(np.abs(z)))
