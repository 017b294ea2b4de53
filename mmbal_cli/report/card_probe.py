"""Linear probes on the features h that an adapter makes: what a modality's encoder still says, whatever the head does.

Of each seed apart: a logistic regression on standardised h [N,D] of the training samples that have the modality, scored
on the samples of the split that have it (linear classifier probes: Alain and Bengio 2016, arXiv 1610.01644). The
features are detached: nothing of the model learns. The penalty is chosen on an inner part of train, for the first seed,
and then used for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.report.card_parts import counted

if TYPE_CHECKING:
    from mmbal_cli.engine.opened import Opened


def probe_hits(opened: Opened, split: str) -> dict[str, dict[int, NDArray]]:
    """{modality: {seed: right or wrong [N], NaN for samples without it}}, samples sorted by id."""
    from mmbal_cli.report.probe import INNER

    rows = {name: opened.feed.rows[name].cpu().numpy() for name in ("train", split)}
    h = {name: opened.features(name) for name in ("train", split)}
    y = opened.feed.y.cpu().numpy()
    inner = np.isin(rows["train"], opened.feed.features.inner(INNER)["inner"].numpy())
    order = np.argsort(np.array(opened.ids(split), dtype=object), kind="stable")
    found: dict[str, dict[int, NDArray]] = {}
    for m in opened.mods:
        has = {name: _present(opened, m, rows[name]) for name in rows}
        if not has["train"].any() or not has[split].any():
            continue
        penalty = None
        for s, seed in enumerate(opened.seeds):
            train, score = (h[name][m][s].cpu().numpy().astype(np.float64) for name in ("train", split))
            right, penalty = _scored(train, y[rows["train"]], has["train"], inner, score, y[rows[split]], penalty)
            found.setdefault(m, {})[seed] = counted(right, has[split])[order]
    return found


def _present(opened: Opened, m: str, rows: NDArray) -> NDArray:
    mask = opened.feed.mask[m]
    if mask is None:
        return np.ones(len(rows), bool)
    whole = (mask if mask.ndim == 1 else mask.any(1)).cpu().numpy()
    return whole[rows]


def _scored(
    train: NDArray, y: NDArray, has: NDArray, inner: NDArray, score: NDArray, labels: NDArray, penalty: float | None
) -> tuple[NDArray, float]:
    """Whether the probe is right on each row of `score` [N], and its penalty."""
    from mmbal_cli.report.probe import CHOICE, SAMPLES, Task, penalty_of, regression

    mean, deviation = train[has].mean(0), train[has].std(0).clip(1e-8)
    x, score = (train - mean) / deviation, (score - mean) / deviation
    if penalty is None:
        choose = _few(np.flatnonzero(has & ~inner), CHOICE), np.flatnonzero(has & inner)
        task = Task(x, y, choose, *choose)
        penalty = penalty_of(task)
    fit = _few(np.flatnonzero(has), SAMPLES)
    return regression(x[fit], y[fit], penalty)(score) == labels, penalty


def _few(rows: NDArray, most: int) -> NDArray:
    """At most `most` of the rows, the same in every call."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(0).permutation(rows)[:most])
