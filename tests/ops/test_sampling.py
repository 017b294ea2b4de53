"""Lists of samples: padding, copies, gaps, owners; against loops over seeds and samples."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from mmbal_cli.ops import sampling
from mmbal_cli.ops.losses import having

D64 = torch.float64


def random(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=D64)


@pytest.mark.parametrize("most", [None, 3])
def test_a_packed_list_is_the_chosen_by_rising_key_padded_to_whole_batches(most: int | None) -> None:
    chosen, key = random(0, 4, 11) < torch.tensor([[0.0], [0.3], [0.7], [1.1]]), random(1, 4, 11)
    slot, valid = sampling.packed(chosen, key, 4, most)
    assert slot.shape == valid.shape == (4, 12 if most is None else 4)
    for s in range(4):
        expected = sorted((i for i in range(11) if chosen[s, i]), key=lambda i: float(key[s, i]))[:most]
        assert slot[s][valid[s]].tolist() == expected
        assert valid[s].tolist() == [True] * len(expected) + [False] * (slot.shape[1] - len(expected))
        alone = sampling.packed(chosen[s : s + 1], key[s : s + 1], 4, most)
        assert alone[0].shape[1] == -(-len(expected) // 4) * 4
        assert torch.equal(alone[0][0], slot[s, : alone[0].shape[1]])
    counts = [min(int(n), most or 11) for n in chosen.sum(1)]
    assert sampling.batches(valid, 4).tolist() == [-(-n // 4) for n in counts]


def test_an_empty_list_and_integer_keys() -> None:
    slot, valid = sampling.packed(torch.zeros(2, 5, dtype=torch.bool), torch.arange(5).expand(2, -1), 4)
    assert slot.shape == valid.shape == (2, 0)
    slot, valid = sampling.packed(torch.ones(1, 5, dtype=torch.bool), torch.tensor([[4, 3, 2, 1, 0]]), 4)
    assert slot.tolist() == [[4, 3, 2, 1, 0, 0, 0, 0]]
    assert valid.sum() == 5


@pytest.mark.parametrize(("phi", "expected"), [
    ((1.5, 0.5), (0, 1)), ((0.0, 0.0), (2, 2)), ((0.5, -0.5), (1, 3)), ((1.0, 1.0), (0, 0)),
    ((0.75, 0.7500001), (1, 1)), ((0.74999999, 0.76), (1, 0)),
])  # fmt: skip
def test_copies_of_known_values(phi: tuple[float, float], expected: tuple[int, int]) -> None:
    value = torch.tensor([[phi]], dtype=D64)
    assert sampling.copies(value, torch.ones(1, 1, 2, dtype=torch.bool)).flatten().tolist() == list(expected)
    assert sampling.copies(value, torch.tensor([[[False, True]]])).flatten().tolist() == [0, expected[1]]


def test_candidates_hold_every_sample_once_and_its_copies() -> None:
    count = (random(2, 3, 5, 2) * 4).long()  # 0 to 3 = M + 1
    sample, kept, chosen = sampling.copied(count)
    assert sample.shape == kept.shape == chosen.shape == (3, 5 + 2 * 5 * 3)
    for s in range(3):
        found = Counter(zip(sample[s][chosen[s]].tolist(), kept[s][chosen[s]].tolist(), strict=True))
        expected = {(i, -1): 1 for i in range(5)}
        expected |= {(i, m): int(count[s, i, m]) for i in range(5) for m in range(2) if count[s, i, m]}
        assert found == expected


def test_gaps_of_known_means_and_of_modalities_that_no_row_has() -> None:
    phi = torch.tensor([1.1, 0.6], dtype=D64).expand(1, 30, 2)
    has, rows = torch.ones(1, 30, 2, dtype=torch.bool), torch.arange(6)[None]
    weak, spread = sampling.gaps(phi, has, rows)
    assert weak.tolist() == [1]
    assert spread.item() == pytest.approx(0.5)
    for m in range(2):
        only = has.clone()
        only[..., 1 - m] = False
        weak, spread = sampling.gaps(phi, only, rows)
        assert (weak.tolist(), spread.tolist()) == ([m], [0])
    assert sampling.gaps(phi, torch.zeros_like(has), rows)[1].tolist() == [0]


def test_gaps_are_those_of_a_loop() -> None:
    phi, has, rows = random(3, 2, 9, 3), random(4, 2, 9, 3) < 0.7, (random(5, 2, 6) * 9).long()
    weak, spread = sampling.gaps(phi, has, rows)
    for s in range(2):
        gap = []
        for m in range(3):
            own = [float(phi[s, i, m]) for i in rows[s].tolist() if has[s, i, m]]
            gap.append(1 - sum(own) / len(own))
        assert int(weak[s]) == gap.index(max(gap))
        assert float(spread[s]) == pytest.approx(max(gap) - min(gap))


def test_added_samples_have_the_modality_that_they_keep() -> None:
    has = random(6, 3, 8, 2) < 0.5
    has[2, :, 1] = False
    weak, added, draw = torch.tensor([0, 1, 1]), torch.tensor([3, 20, 5]), random(7, 3, 20)
    sample, kept, chosen = sampling.extended(weak, has, added, draw)
    assert sample.shape == kept.shape == chosen.shape == (3, 28)
    for s in range(3):
        owned = [i for i in range(8) if has[s, i, weak[s]]]
        expected = [owned[int(u * len(owned))] for u in draw[s][: int(added[s])].tolist()] if owned else []
        assert sample[s][chosen[s]].tolist() == [*range(8), *expected]
        assert kept[s][chosen[s]].tolist() == [-1] * 8 + [int(weak[s])] * len(expected)


def test_a_sample_belongs_to_its_most_uncertain_modality() -> None:
    entropy = torch.tensor([[0.2, 0.5, 0.1], [0.3, 0.3, 0.1], [0.1, 0.2, 0.9], [1.0, 1.0, 1.0]])[None]
    has = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)[None]
    assert sampling.most_uncertain(entropy, has).tolist() == [[1, 1, 1, -1]]
    assert sampling.most_uncertain(torch.zeros(1, 1, 3), torch.ones(1, 1, 3, dtype=torch.bool)).tolist() == [[2]]


def test_subset_value_and_presence() -> None:
    has = having([None, torch.tensor([[True, False]])], torch.zeros(1, 2))
    assert has.tolist() == [[[True, True], [True, False]]]
    assert sampling.subset_value(torch.tensor([[True, True]]), has).tolist() == [[2, 1]]
    assert sampling.subset_value(torch.tensor([[False, True]]), has).tolist() == [[0, 1]]
