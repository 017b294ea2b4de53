"""LFM-H: the numeric checks of the specification, and an independent loop over seeds and samples."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
import torch

from mmbal_cli.methods.base import Batch, Out
from mmbal_cli.ops.losses import contrastive
from tests.kit.features import build, feature_set, feed
from tests.methods import reference

EYE = torch.eye(2, dtype=torch.float64)[None]
SWAPPED = EYE.flip(1)


def test_alpha_decays_as_published() -> None:
    method = build("lfm-h", feed(feature_set(2)))
    alphas = []
    for method.epoch in range(100):
        alphas.append(method.alpha)
    assert [alphas[t - 1] for t in (1, 2, 5)] == pytest.approx([0.632121, 0.393469, 0.181269], abs=1e-6)
    assert all(a > b for a, b in pairwise(alphas))
    assert (1 - alphas[0]) * 1 + alphas[0] * 0.5 == pytest.approx(0.683940, abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "tau", "expected"),
    [(EYE, EYE, 1.0, 0.313262), (EYE, SWAPPED, 1.0, 1.313262), (EYE, EYE, 0.07, 6.2487e-7)],
)
def test_contrastive_of_known_features(a: torch.Tensor, b: torch.Tensor, tau: float, expected: float) -> None:
    assert contrastive(a, b, tau).item() == pytest.approx(expected, abs=1e-6, rel=1e-4)
    assert torch.allclose(contrastive(b, a, tau), contrastive(a, b, tau))
    assert torch.allclose(contrastive(3 * a, 0.1 * b, tau), contrastive(a, b, tau))


@pytest.mark.parametrize("tau", [0.07, 1.0, 5.0])
def test_contrastive_of_equal_rows_is_log_two_and_of_one_row_is_zero(tau: float) -> None:
    rows = torch.ones(1, 2, 3, dtype=torch.float64)
    assert contrastive(rows, rows, tau).item() == pytest.approx(math.log(2))
    assert contrastive(rows[:, :1], rows[:, :1], tau).item() == 0


def test_three_modalities_average_over_pairs() -> None:
    method = build("lfm-h", feed(feature_set(3)), (1,), tau=1.0)
    h = dict(zip(method.mods, (EYE, EYE, SWAPPED), strict=True))
    y = torch.zeros(1, 2, dtype=torch.long)
    batch = Batch({}, y, y, dict.fromkeys(method.mods))
    assert method.alignment(Out(h, EYE, dict), batch).item() == pytest.approx(0.979928, abs=1e-6)


def test_absent_samples_are_neither_anchors_nor_negatives() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 3, generator=g), torch.randn(2, 5, 3, generator=g)
    present = torch.tensor([[True, True, False, True, True], [False, True, True, True, False]])
    got = contrastive(a, b, 0.5, present)
    for s in range(2):
        keep = present[s]
        assert torch.allclose(got[s], contrastive(a[s : s + 1, keep], b[s : s + 1, keep], 0.5)[0])


@pytest.mark.parametrize(("M", "fusion"), [(2, "sum"), (3, "sum"), (2, "concat")])
def test_steps_equal_a_loop_over_seeds_and_samples(M: int, fusion: str) -> None:
    data = feed(feature_set(M))
    method, fresh = build("lfm-h", data, fusion=fusion), build("lfm-h", data, fusion=fusion)
    batches = list(data.epoch(method.rng, 16))
    alpha = 1 - math.exp(-1)

    def logits(p: reference.Params, h: dict[str, torch.Tensor]) -> torch.Tensor:
        if fusion == "concat":
            return torch.cat(list(h.values())) @ p["fusion.head.weight"] + p["fusion.head.bias"][0]
        return sum(h[m] @ p[f"fusion.heads.{m}_.weight"] + p[f"fusion.heads.{m}_.bias"][0] for m in h) / M

    def loss(p: reference.Params, samples: list, labels: list[int]) -> torch.Tensor:
        n = len(labels)
        h = [{m: reference.adapter(p, m, x[m]) for m in method.mods} for x in samples]
        fit = sum(reference.cross_entropy(logits(p, row), y) for row, y in zip(h, labels, strict=True)) / n
        pairs = []
        for j, k in combinations(method.mods, 2):
            unit = lambda v: v / v.norm()  # noqa: E731
            s = [[unit(h[r][j]) @ unit(h[c][k]) / 0.07 for c in range(n)] for r in range(n)]
            rows = sum(reference.cross_entropy(torch.stack(s[i]), i) for i in range(n))
            columns = sum(reference.cross_entropy(torch.stack([s[r][i] for r in range(n)]), i) for i in range(n))
            pairs.append((rows + columns) / (2 * n))
        return (1 - alpha) * fit + alpha * sum(pairs) / len(pairs)

    for batch in batches:
        method.step(batch)
    for i in range(3):
        slow = reference.run(fresh, i, batches, loss)
        for name, value in method.state_dict().items():
            assert (value[i] - slow[name]).abs().max() < 1e-10, name
