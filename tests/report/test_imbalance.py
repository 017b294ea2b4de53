"""Definitions of the report card: numbers worked by hand, axioms, and brute force over orders of joining."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mmbal_cli.ops import shapley as of_methods
from mmbal_cli.report.imbalance import (
    course,
    gradient_share,
    imbalance_degree,
    interaction,
    last_phase,
    members,
    oracle,
    patterns,
    shapley,
    shares,
    utilisation,
)

WORKED = np.array([0.17, 0.55, 0.30, 0.66])  # v of nobody, audio, video, both


def by_orders(v: NDArray) -> NDArray:
    """Mean marginal contribution over all orders of joining."""
    M = len(v).bit_length() - 1
    gains = np.zeros(M)
    orders = list(permutations(range(M)))
    for order in orders:
        code = 0
        for m in order:
            gains[m] += v[code | 1 << m] - v[code]
            code |= 1 << m
    return gains / len(orders)


def pairs_by_orders(v: NDArray) -> NDArray:
    """Mean second difference over all orders in which a pair joins at once, as one player."""
    M = len(v).bit_length() - 1
    found = []
    for i, j in combinations(range(M), 2):
        each = []
        for order in permutations([(1 << i | 1 << j), *(1 << k for k in range(M) if k not in (i, j))]):
            before = sum(order[: order.index(1 << i | 1 << j)])
            each.append(v[before | 1 << i | 1 << j] - v[before | 1 << i] - v[before | 1 << j] + v[before])
        found.append(np.mean(each))
    return np.array(found)


def test_the_worked_check_of_two_modalities() -> None:
    phi = shapley(WORKED)
    assert phi == pytest.approx([0.37, 0.12])
    assert phi.sum() == pytest.approx(0.66 - 0.17)
    assert imbalance_degree(phi) == pytest.approx(0.25 / 0.49)
    assert imbalance_degree(phi) == pytest.approx(0.510, abs=5e-4)
    assert shares(phi) == pytest.approx([0.37 / 0.49, 0.12 / 0.49])
    assert interaction(WORKED) == pytest.approx([0.66 - 0.55 - 0.30 + 0.17])
    assert utilisation(WORKED[3], WORKED[2]) == pytest.approx(0.36 / 0.66)  # without audio, video is left


@pytest.mark.parametrize("M", [1, 2, 3, 4, 5])
def test_values_are_means_over_orders(M: int) -> None:
    for v in np.random.default_rng(M).normal(size=(3, 2**M)):
        assert shapley(v) == pytest.approx(by_orders(v))
        assert interaction(v) == pytest.approx(pairs_by_orders(v))


@pytest.mark.parametrize("M", [2, 3, 4, 6])
def test_the_axioms_of_shapley(M: int) -> None:
    rng = np.random.default_rng(M)
    v, w = rng.normal(size=(2, 5, 2**M))
    assert shapley(v).sum(-1) == pytest.approx(v[:, -1] - v[:, 0])  # efficiency, with v(none) as it is
    assert shapley(2 * v - w) == pytest.approx(2 * shapley(v) - shapley(w))  # linearity
    codes = np.arange(2**M)
    swapped = codes & ~3 | (codes & 1) << 1 | (codes & 2) >> 1
    alike = v + v[:, swapped]
    assert shapley(alike)[:, 0] == pytest.approx(shapley(alike)[:, 1])  # symmetry
    null = v[:, codes & ~1]
    assert shapley(null)[:, 0] == pytest.approx(np.zeros(5))  # a modality that changes nothing
    assert interaction(null)[:, : M - 1] == pytest.approx(np.zeros((5, M - 1)))


def test_values_equal_those_that_methods_train_with() -> None:
    v = np.random.default_rng(0).normal(size=(4, 8))
    theirs = of_methods.shapley(torch.tensor(v[:, 1:]), 3, torch.tensor(v[:, 0]))
    assert shapley(v) == pytest.approx(theirs.numpy())


def test_interaction_tells_copies_from_complements() -> None:
    copies, both_needed, independent = [0, 1, 1, 1], [0, 0, 0, 1], [0, 1, 2, 3]
    found = [float(interaction(np.array(v, float))[0]) for v in (copies, both_needed, independent)]
    assert found == [-1, 1, 0]
    three = np.array([0, 1, 1, 1, 0, 1, 1, 1], float)  # the third adds nothing to two copies
    assert interaction(three) == pytest.approx([-1, 0, 0])


def test_an_odd_number_of_coalitions_is_refused() -> None:
    with pytest.raises(ValueError, match="power of two"):
        shapley(np.zeros(6))


def test_degree_and_shares_at_their_limits() -> None:
    phi = np.array([[0.2, 0.2], [0.4, 0.0], [0.3, -0.1], [0.0, 0.0]])
    assert imbalance_degree(phi)[:3] == pytest.approx([0, 1, 1])
    assert np.isnan(imbalance_degree(phi)[3])
    known = shares(phi)[:3]
    assert known.max(-1) - known.min(-1) == pytest.approx(imbalance_degree(phi)[:3])


def test_utilisation_of_an_accuracy_of_zero_is_unknown() -> None:
    found = utilisation(np.array([0.8, 0.0, 0.5]), np.array([0.6, 0.0, 0.7]))
    assert found[[0, 2]] == pytest.approx([0.25, -0.4])
    assert np.isnan(found[1])


def test_gradient_shares_add_up() -> None:
    assert gradient_share(np.array([3.0, 1.0])) == pytest.approx([0.75, 0.25])
    assert np.isnan(gradient_share(np.zeros(3))).all()


def test_patterns_and_oracle_by_hand() -> None:
    right = np.array([[1, 0, 1, 0], [0, 0, 1, 1]], bool)  # only the first, nobody, both, only the second
    assert patterns(right).tolist() == [1, 0, 3, 2]
    assert oracle(right).tolist() == [True, False, True, True]
    assert [members(code, ("a", "v")) for code in range(4)] == [(), ("a",), ("v",), ("a", "v")]


def test_a_course_passes_over_what_was_not_recorded() -> None:
    found = course([None, 4.0, float("nan"), 2.0, None, 1.0, 5.0])
    assert found is not None
    assert (found.first, found.middle, found.last, found.mean) == (4, 2, 5, 3)
    assert course([None, float("inf")]) is None
    assert course([]) is None


def test_the_last_phase_is_the_one_that_counts() -> None:
    records = [{"epoch": 1, "phase": "unimodal"}, {"epoch": 2, "phase": "train"}, {"epoch": 3, "phase": "train"}]
    assert [record["epoch"] for record in last_phase(records)] == [2, 3]
    assert len(last_phase([{"epoch": 0}, {"epoch": 1}])) == 2
    assert last_phase([]) == []
