"""Linear probes: what each modality says by itself, and all together, before any method is trained.

A logistic regression on standardised features (those of time steps are averaged over the steps that are there), its
penalty chosen on an inner part of train, scored on validation. The test split stays sealed: which modality leads is
a thing that settings are chosen by, so it must not be learnt from test samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmbal_cli.data.features import FeatureSet
from mmbal_cli.data.splits import carve
from mmbal_cli.errors import CacheError

ALL = "all together"  # no modality can have a name with a space
SAMPLES = 20_000  # training samples that a probe is fitted on at most: seconds, not minutes
CHOICE = 5_000  # of them for each candidate of the penalty
INNER = 0.2
CANDIDATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C: larger is a weaker penalty
PLAIN = 1e-2  # C where there is nothing to choose it by
TOLERANCE, STEPS = 1e-4, 300  # largest gradient entry of the mean loss; L-BFGS steps at most
LEVEL, DRAWS = 0.95, 2000


class Share(NamedTuple):
    """A share or a difference of shares of `n` samples with its 95% interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Row:
    """One probe: accuracy on `val` samples, and how it was fitted; None where there was nothing to fit or score.

    `width` is the number of features, `train` of samples fitted on; `steps` to convergence from zero hint at speed.
    """

    name: str
    width: int
    train: int
    val: int
    accuracy: Share | None = None
    train_accuracy: float | None = None
    C: float | None = None
    steps: int | None = None
    converged: bool | None = None


@dataclass(frozen=True)
class Probe:
    """The probes of a data set; fractions, not percent.

    `majority` is the share on validation of the largest class of train; `dominant` the best modality if it can be told
    apart from the next one, `gap` what lies between them, `gain` the concatenation minus the best modality (on the
    samples that have them).
    """

    dataset: str
    fingerprint: str
    split_hash: str
    subset_hash: str
    classes: int
    largest: str
    majority: float
    rows: tuple[Row, ...]
    order: tuple[str, ...]
    dominant: str | None
    gap: Share | None
    gain: Share | None
    notes: tuple[str, ...]

    def row(self, name: str) -> Row:
        """The probe of a modality or of the concatenation."""
        return next(row for row in self.rows if row.name == name)

    def findings(self) -> list[str]:
        """What the figures say, one sentence each."""
        said = [_dominance(self), _joint(self)]
        for row in self.rows:
            if row.accuracy is None:
                where = "train" if row.train == 0 else "validation"
                said.append(f"{row.name}: no {where} sample has it.")
            elif row.accuracy.low <= self.majority:
                said.append(f"{row.name} cannot be told apart from always saying '{self.largest}'.")
        return [line for line in said if line]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        shares = {name: each._asdict() if each else None for name, each in (("gap", self.gap), ("gain", self.gain))}
        rows = [asdict(row) | {"accuracy": row.accuracy._asdict() if row.accuracy else None} for row in self.rows]
        facts = {"dataset": self.dataset, "fingerprint": self.fingerprint, "split_hash": self.split_hash}
        facts |= {"subset_hash": self.subset_hash} if self.subset_hash else {}
        scored = {"scored_on": "val", "classes": self.classes}
        majority = {"class": self.largest, "share": self.majority}
        lead = {"order": list(self.order), "dominant": self.dominant}
        said = {"findings": self.findings(), "notes": list(self.notes)}
        return {
            "schema": 1,
            "report": "probe",
            **facts,
            **scored,
            "majority": majority,
            "probes": rows,
            **lead,
            **shares,
            **said,
        }


class Task(NamedTuple):
    """Samples of one probe: x [N,F], y [N], and rows to choose the penalty by, to fit on and to score."""

    x: NDArray
    y: NDArray
    choose: tuple[NDArray, NDArray]
    fit: NDArray
    score: NDArray


def probe(features: FeatureSet, samples: int = SAMPLES) -> Probe:
    """Probe every modality and, of two or more, their concatenation; CacheError without a validation sample."""
    if not len(features.rows["val"]) or not len(features.rows["train"]):
        raise CacheError(f"'{features.name}' has no training or no validation sample.")
    pooled = _pooled(features)
    present = {m: mask.numpy() for m, mask in pooled.mask.items() if mask is not None}
    usable = {m: present[m][features.rows["train"].numpy()].any() for m in pooled.x}
    known = replace(pooled, x={m: x for m, x in pooled.x.items() if usable[m]})
    blocks = {m: x.numpy() for m, x in known.standardised(known.stats()).x.items()} if known.x else {}
    train = _capped(features, features.rows["train"], samples)
    inner = features.inner(INNER)
    choice = _capped(features, inner["train"], CHOICE), inner["inner"].numpy()

    rows, hits = [], {}
    for m in features.x:
        width = features.x[m].shape[-1]
        task = _task(features, blocks[m], choice, train, present[m]) if m in blocks else None
        row, hits[m] = _fitted(task, Row(m, width, 0, int(present[m][features.rows["val"].numpy()].sum())))
        rows.append(row)
    if len(blocks) > 1:
        everyone = np.ones(len(features.y), bool)
        task = _task(features, np.concatenate(list(blocks.values()), axis=1), choice, train, everyone)
        row, hits[ALL] = _fitted(task, Row(ALL, task.x.shape[1], 0, len(task.score)))
        rows.append(row)
    return _judged(features, tuple(rows), hits, _notes(features, train, rows))


def _pooled(features: FeatureSet) -> FeatureSet:
    """One vector [N,F] a sample, and a mask [N] for every modality; CacheError for numbers that are not finite."""
    x: dict[str, Tensor] = {}
    mask: dict[str, Tensor | None] = {}
    for m, values in features.x.items():
        if not torch.isfinite(values).all():
            raise CacheError(
                f"Features of '{m}' hold numbers that are not finite.", "", f"mmbal prepare {features.name}"
            )
        valid = features.mask[m]
        if valid is None:
            valid = torch.ones(values.shape[:-1], dtype=torch.bool)
        if values.dim() == 3:
            if valid.dim() == 1:
                valid = valid[:, None].expand(values.shape[:2])
            x[m] = (values * valid[..., None]).sum(1) / valid.sum(1, keepdim=True).clamp_min(1)
            mask[m] = valid.any(1)
        else:
            x[m], mask[m] = values, valid
    return replace(features, x=x, mask=mask)


def _capped(features: FeatureSet, rows: Tensor, most: int) -> NDArray:
    """At most about `most` of the rows, stratified by class and chosen by the hashes of the ids."""
    if len(rows) <= most:
        return rows.numpy()
    ids, labels = [features.ids[row] for row in rows.tolist()], features.y[rows].tolist()
    chosen, _ = carve(ids, labels, (), most / len(ids), 0)
    return rows[torch.tensor([name in chosen for name in ids])].numpy()


def _task(features: FeatureSet, x: NDArray, choice: tuple[NDArray, NDArray], train: NDArray, there: NDArray) -> Task:
    """The samples of a probe that have its modality."""
    val = features.rows["val"].numpy()
    choose = choice[0][there[choice[0]]], choice[1][there[choice[1]]]
    return Task(x, features.y.numpy(), choose, train[there[train]], val[there[val]])


def _fitted(task: Task | None, row: Row) -> tuple[Row, Mapping[int, bool]]:
    """The row filled in, and for every sample scored whether it was right."""
    if task is None:
        return row, {}
    row = replace(row, train=len(task.fit))
    if not len(task.fit) or not len(task.score):
        return row, {}
    C = penalty_of(task)
    model = regression(task.x[task.fit], task.y[task.fit], C)
    right = model(task.x[task.score]) == task.y[task.score]
    own = float(np.mean(model(task.x[task.fit]) == task.y[task.fit]))
    hits = dict(zip(task.score.tolist(), right.tolist(), strict=True))
    filled = replace(row, accuracy=_wilson(right), train_accuracy=own, C=C)
    return replace(filled, steps=model.steps, converged=model.steps < STEPS), hits


def penalty_of(task: Task) -> float:
    """The C that does best on the inner part of train; ties to the stronger penalty, two losses in a row end it."""
    rows, held = task.choose
    if not len(held) or len(np.unique(task.y[rows])) < 2:
        return PLAIN
    best, found, falling, start = -1.0, PLAIN, 0, None
    for C in CANDIDATES:
        model = regression(task.x[rows], task.y[rows], C, start)
        start = model.weights
        accuracy = float(np.mean(model(task.x[held]) == task.y[held]))
        falling = falling + 1 if accuracy < best else 0
        if accuracy > best:
            best, found = accuracy, C
        if falling == 2:
            break
    return found


class _Model(NamedTuple):
    """A fitted regression as class scores x @ w + b, and the classes they are of."""

    weights: tuple[NDArray, NDArray]
    classes: NDArray
    steps: int

    def __call__(self, x: NDArray) -> NDArray:
        """Predicted labels [N]."""
        w, b = self.weights
        return self.classes[(x @ w.T + b).argmax(axis=1)]


def regression(x: NDArray, y: NDArray, C: float, start: tuple[NDArray, NDArray] | None = None) -> _Model:
    """Multinomial logistic regression, from zero or from the weights of another penalty."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    classes = np.unique(y)
    if len(classes) == 1:
        return _Model((np.zeros((1, x.shape[1]), x.dtype), np.zeros(1, x.dtype)), classes, 0)
    model = LogisticRegression(C=C, tol=TOLERANCE, max_iter=STEPS, warm_start=start is not None)
    if start is not None:
        model.coef_, model.intercept_ = (part[-1:] * 2 if len(classes) == 2 else part for part in start)
        model.classes_ = classes
    with warnings.catch_warnings(), threadpool_limits(1):  # narrow products gain nothing by threads that wait in turns
        warnings.simplefilter("ignore")  # a probe that did not converge says so in its row
        model.fit(x, y)
    w, b = model.coef_, model.intercept_
    if len(classes) == 2:  # one row of scores: those of the second class against the first
        w, b = np.concatenate([-w, w]) / 2, np.concatenate([-b, b]) / 2
    return _Model((w, b), classes, int(model.n_iter_[0]))


def _wilson(right: NDArray) -> Share:
    from scipy.stats import binomtest

    n = len(right)
    between = binomtest(int(right.sum()), n).proportion_ci(LEVEL, method="wilson")
    return Share(float(np.mean(right)), float(between.low), float(between.high), n)


def _difference(one: Mapping[int, bool], other: Mapping[int, bool]) -> Share | None:
    """Accuracy of one probe minus that of another on the samples that both scored; paired bootstrap over samples."""
    common = sorted(one.keys() & other.keys())
    if not common:
        return None
    each = np.array([int(one[row]) - int(other[row]) for row in common])
    n, signs = len(each), np.array([-1, 0, 1])
    draws = np.random.default_rng(0).multinomial(n, [np.mean(each == sign) for sign in signs], size=DRAWS) @ signs / n
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Share(float(each.mean()), float(low), float(high), n)


def _judged(
    features: FeatureSet, rows: tuple[Row, ...], hits: Mapping[str, Mapping[int, bool]], notes: tuple[str, ...]
) -> Probe:
    """The probes with who leads by how much."""
    scores = {row.name: row.accuracy.value for row in rows if row.accuracy and row.name != ALL}
    order = tuple(sorted(scores, key=lambda m: -scores[m]))
    gap = _difference(hits[order[0]], hits[order[1]]) if len(order) > 1 else None
    gain = _difference(hits[ALL], hits[order[0]]) if ALL in hits and order else None
    counts = np.bincount(features.y[features.rows["train"]].numpy(), minlength=len(features.classes))
    largest = int(counts.argmax())
    majority = float(np.mean(features.y[features.rows["val"]].numpy() == largest))
    lead = order[0] if gap and gap.low > 0 else None
    data = features.name, features.fingerprint, features.split_hash, features.subset_hash
    return Probe(*data, len(features.classes), features.classes[largest], majority, rows, order, lead, gap, gain, notes)


def _notes(features: FeatureSet, train: NDArray, rows: list[Row]) -> tuple[str, ...]:
    """What a reader must know about how it was measured."""
    made = []
    total = len(features.rows["train"])
    if len(train) < total:
        made.append(f"fitted on {len(train)} of {total} training samples, stratified")
    slow = [row.name for row in rows if row.converged is False]
    if slow:
        made.append(f"not converged within {STEPS} steps: {', '.join(slow)}")
    known = set(features.y[features.rows["train"]].tolist())
    unseen = [features.classes[c] for c in sorted(set(features.y[features.rows["val"]].tolist()) - known)]
    if unseen:
        made.append(f"validation has classes that train lacks: {', '.join(unseen)}")
    pooled = [m for m, x in features.x.items() if x.dim() == 3]
    if pooled:
        made.append(f"mean over time steps: {', '.join(pooled)}")
    return tuple(made)


def percent(value: float) -> str:
    """A share as text, 0.1234 as 12.3%."""
    return f"{value:.1%}"


def _points(share: Share, sign: int = 1) -> str:
    low, high = sorted((sign * share.low, sign * share.high))
    return f"{100 * sign * share.value:.1f} points (95% interval {100 * low:.1f} to {100 * high:.1f}, n = {share.n})"


def _dominance(found: Probe) -> str:
    if found.gap is None:
        return ""
    first, second = found.order[:2]
    values = [percent(row.accuracy.value) for name in (first, second) if (row := found.row(name)).accuracy]
    said = f"{values[0]} against {values[1]} of {second}, a gap of {_points(found.gap)}."
    if found.dominant:
        return f"{first} is dominant: {said}"
    return f"No modality is distinguishably dominant; {first} is first: {said}"


def _joint(found: Probe) -> str:
    gain, best = found.gain, found.order[0] if found.order else ""
    if gain is None:
        return ""
    if gain.low > 0:
        return f"The concatenation is above {best} alone by {_points(gain)}."
    if gain.high < 0:
        return f"The concatenation is below {best} alone by {_points(gain, -1)}."
    return f"The concatenation cannot be told apart from {best} alone: it differs by {_points(gain)}."
