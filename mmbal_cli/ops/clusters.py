"""How well k-means clusters of features match labels. Runs on the CPU, one seed after the other."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np

RESTARTS, ROUNDS = 10, 100


def to_unit_range(x: Tensor) -> Tensor:
    """Every dimension of x [n,D] scaled to [-1,1] by its own least and greatest value; a constant one to 0."""
    low, high = x.amin(0), x.amax(0)
    return torch.where(high > low, 2 * (x - low) / torch.where(high > low, high - low, 1.0) - 1, 0.0)


def purity(clusters: Tensor, y: Tensor) -> float:
    """Share of samples [n] that are of the most frequent class of their cluster."""
    table = torch.zeros(int(clusters.max()) + 1, int(y.max()) + 1, dtype=torch.long)
    table.index_put_((clusters, y), torch.ones_like(y), accumulate=True)
    return int(table.amax(1).sum()) / len(y)


def kmeans(x: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Cluster of each row of x [n,D]: Lloyd after k-means++, the best of ten starts."""
    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct points than clusters
        return KMeans(k, n_init=RESTARTS, max_iter=ROUNDS, random_state=seed).fit_predict(x)


def cluster_purity(x: Tensor, y: Tensor, k: int, seed: int) -> float:
    """Purity of min(k, n) clusters of features x [n,D], scaled dimension by dimension, against labels y [n].

    Not a number where there are no samples.
    """
    k = min(k, len(x))
    if k < 1:
        return math.nan
    scaled = to_unit_range(x.double()).nan_to_num(0.0, 0.0, 0.0)  # a seed that has failed must not stop the others
    return purity(torch.as_tensor(kmeans(scaled.numpy(), k, seed), dtype=torch.long), y)
