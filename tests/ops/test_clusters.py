"""Purity of k-means clusters: known numbers, known geometry, degenerate inputs."""

from __future__ import annotations

import math

import pytest
import torch

from mmbal_cli.ops.clusters import cluster_purity, kmeans, purity, to_unit_range

D64 = torch.float64


def blobs(n: int = 40, classes: int = 4, spread: float = 0.01) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % classes
    return 5 * torch.eye(classes, dtype=D64)[y] + spread * torch.randn(n, classes, generator=g, dtype=D64), y


def test_purity_of_known_clusters() -> None:
    y = torch.tensor([0, 0, 0, 1, 1, 1])
    assert purity(torch.tensor([0, 0, 1, 1, 1, 1]), y) == pytest.approx(5 / 6)
    assert purity(torch.tensor([1, 1, 1, 0, 0, 0]), y) == 1
    assert purity(torch.zeros(6, dtype=torch.long), y) == 0.5
    assert purity(torch.arange(6), torch.zeros(6, dtype=torch.long)) == 1


def test_scaling_is_by_dimension_to_minus_one_and_one() -> None:
    x = torch.tensor([[0.0, 5.0, -2.0], [1.0, 5.0, 2.0], [4.0, 5.0, 0.0]], dtype=D64)
    assert to_unit_range(x).tolist() == [[-1, 0, -1], [-0.5, 0, 1], [1, 0, 0]]


def test_separated_blobs_are_pure_and_random_features_are_near_the_majority_share() -> None:
    x, y = blobs()
    assert cluster_purity(x, y, 4, 0) == 1
    noise = torch.randn(400, 8, generator=torch.Generator().manual_seed(1), dtype=D64)
    assert 0.25 <= cluster_purity(noise, torch.arange(400) % 4, 4, 0) < 0.4


def test_scale_of_a_dimension_does_not_matter() -> None:
    x, y = blobs(spread=1.0)
    assert cluster_purity(x, y, 4, 3) == cluster_purity(x * torch.tensor([1e-6, 1.0, 1e6, 3.0], dtype=D64) + 7, y, 4, 3)


def test_the_same_seed_gives_the_same_clusters() -> None:
    x = torch.rand(50, 3, generator=torch.Generator().manual_seed(2), dtype=D64).numpy()
    assert (kmeans(x, 5, 7) == kmeans(x, 5, 7)).all()
    assert set(kmeans(x, 5, 7).tolist()) == set(range(5))


def test_degenerate_features_stay_defined() -> None:
    y = torch.tensor([0, 1, 1])
    assert cluster_purity(torch.zeros(3, 2, dtype=D64), y, 2, 0) == pytest.approx(2 / 3)
    assert cluster_purity(torch.full((3, 2), torch.nan), y, 2, 0) == pytest.approx(2 / 3)
    assert cluster_purity(torch.rand(3, 2), y, 101, 0) == 1  # no more clusters than samples
    assert math.isnan(cluster_purity(torch.zeros(0, 2), y[:0], 2, 0))
