"""Shapley values against hand-made games, the average over orders of joining, and the axioms."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from mmbal_cli.ops.shapley import coalition_weight, coalitions, shapley, subsets

D64 = torch.float64


def random_game(M: int, *lead: int) -> torch.Tensor:
    return torch.randn(*lead, 2**M - 1, generator=torch.Generator().manual_seed(M), dtype=D64)


def by_orders(values: list[float], M: int, empty: float) -> list[float]:
    """Mean gain of every player over all orders in which they may join."""
    table = {frozenset(s): v for s, v in zip(subsets(M), values, strict=True)} | {frozenset(): empty}
    gains, orders = [0.0] * M, list(permutations(range(M)))
    for order in orders:
        for place, m in enumerate(order):
            gains[m] += table[frozenset(order[: place + 1])] - table[frozenset(order[:place])]
    return [g / len(orders) for g in gains]


def test_subsets_are_in_binary_order() -> None:
    assert subsets(1) == [(0,)]
    assert subsets(3) == [(0,), (1,), (0, 1), (2,), (0, 2), (1, 2), (0, 1, 2)]


def test_coalition_weights() -> None:
    assert [coalition_weight(k, 2) for k in range(2)] == [0.5, 0.5]
    assert [coalition_weight(k, 3) for k in range(3)] == pytest.approx([1 / 3, 1 / 6, 1 / 3])


def test_two_players_by_hand() -> None:
    assert shapley(torch.tensor([3.0, 1.0, 5.0]), 2).tolist() == [3.5, 1.5]
    assert shapley(torch.tensor([3.0, 1.0, 5.0]), 2, empty=1).tolist() == [3.0, 1.0]


def test_coalitions_lie_behind_each_other() -> None:
    h = {name: torch.full((1, 2, 1), value) for name, value in (("a", 1.0), ("v", 2.0), ("t", 3.0))}
    found = {name: x.flatten().tolist() for name, x in coalitions(h).items()}
    assert found["a"] == [1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0]
    assert found["v"] == [0, 0, 2, 2, 2, 2, 0, 0, 0, 0, 2, 2]
    assert found["t"] == [0, 0, 0, 0, 0, 0, 3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("M", [1, 2, 3, 4])
@pytest.mark.parametrize("empty", [0.0, -0.7])
def test_values_are_the_mean_gain_over_all_orders(M: int, empty: float) -> None:
    values = random_game(M, 2, 3)
    found = shapley(values, M, empty)
    assert found.shape == (2, 3, M)
    for s in range(2):
        for b in range(3):
            assert found[s, b].tolist() == pytest.approx(by_orders(values[s, b].tolist(), M, empty), abs=1e-12)


@pytest.mark.parametrize("M", [2, 3, 4])
def test_axioms(M: int) -> None:
    values, empty = random_game(M, 5), random_game(1, 5)[:, 0]
    assert torch.allclose(shapley(values, M, empty).sum(-1), values[:, -1] - empty, atol=1e-12)  # efficiency
    extra = random_game(M + 1, 5)[:, : 2**M - 1]
    both = shapley(values, M) + shapley(extra, M)
    assert torch.allclose(shapley(values + extra, M), both, atol=1e-12)  # additivity
    worth = torch.arange(1.0, M + 1, dtype=D64)
    alone = torch.stack([worth[list(s)].sum() for s in subsets(M)])
    assert torch.allclose(shapley(alone, M), worth, atol=1e-12)  # players that do not interact get their own worth
    dummy = torch.stack([values[0, 0] * (0 in s) for s in subsets(M)])
    assert shapley(dummy, M)[1:].abs().max() < 1e-15  # who adds nothing gets nothing
