"""MMCosine: the checks of the specification, and steps against loops over seeds, samples and classes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmbal_cli.ops.cosine import EPS, cosines
from mmbal_cli.ops.losses import ce, contrastive, unit
from tests.kit.features import build, feature_set, feed, steps
from tests.methods import reference

D64 = torch.float64
S = 10.0


def feature(*values: float) -> Tensor:
    return torch.tensor(values, dtype=D64).view(1, 1, -1)


def weight(*rows: tuple[float, ...]) -> Tensor:
    """[1,D,C] of one row for each class."""
    return torch.tensor(rows, dtype=D64).T[None]


H_A, W_A = feature(3, 4), weight((0, 5), (1, 0))
H_V, W_V = feature(1, 0), weight((1, 1), (0, 1))


def test_known_cosines() -> None:
    a, v = cosines(H_A, W_A), cosines(H_V, W_V)
    assert a.flatten().tolist() == pytest.approx([0.8, 0.6])
    assert v.flatten().tolist() == pytest.approx([0.707107, 0], abs=1e-6)
    assert (S * (a + v)).flatten().tolist() == pytest.approx([15.071068, 6], abs=1e-6)


def test_scales_do_not_matter() -> None:
    scaled = W_A * torch.tensor([1.0, 3.0], dtype=D64)
    assert torch.allclose(cosines(7 * H_A, scaled), cosines(H_A, W_A), rtol=0, atol=1e-15)


def test_gradients_are_tangential_and_shares_are_bounded() -> None:
    data = feed(feature_set(3))
    method = build("mmcosine", data)
    batch = next(data.epoch(method.rng, 16))
    h = {m: value.detach().requires_grad_() for m, value in method.encode(batch).items()}
    out = method.classify(h)
    assert all((z.abs() <= S * (1 + 1e-12)).all() for z in out.z.values())
    assert torch.allclose(sum(out.z.values()), out.fused)
    method.loss(out, batch).sum().backward()
    for m in method.mods:
        assert h[m].grad.abs().max() > 1e-4
        assert (h[m].grad * h[m]).sum(-1).abs().max() < 1e-14
    W, g = (value.view(3, 3, method.D, method.C) for value in (method.head.weight.detach(), method.head.weight.grad))
    assert (W * g).sum(2).abs().max() < 1e-13


def test_the_least_loss_of_opposed_weights() -> None:
    """With simplex-shaped weights every modality reaches s for the label and -s/(C-1) for the others."""
    C, M = 4, 2
    simplex = torch.eye(C, dtype=D64) - 1 / C
    z = M * S * cosines(simplex[None], simplex[None])
    assert ce(z, torch.arange(C)[None]).item() == pytest.approx(math.log1p((C - 1) * math.exp(-M * S * C / (C - 1))))


def test_zero_and_tiny_features_stay_finite() -> None:
    h = torch.tensor([[[0.0, 0.0], [1e-9, 0.0], [3.0, 4.0]]], dtype=D64, requires_grad=True)
    z = cosines(h, W_A)
    assert z[0, 0].tolist() == [0, 0]
    assert z[0, 1].tolist() == pytest.approx([0, 1e-3])
    z.sum().backward()
    assert torch.isfinite(h.grad).all()
    assert h.grad.abs().max() <= 2 / EPS
    assert unit(h, 2, EPS)[0, 2].tolist() == pytest.approx([0.6, 0.8])


def test_a_missing_modality_adds_nothing() -> None:
    data = feed(feature_set(2, absent=0.4))
    method = build("mmcosine", data)
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    for m in method.mods:
        assert out.z[m][~batch.present(m)].abs().max() == 0


def test_it_starts_from_the_weight_of_concat_and_has_no_offset() -> None:
    data = feed(feature_set(3))
    one, plain = build("mmcosine", data), build("concat", data)
    assert torch.equal(one.head.weight, plain.fusion.head.weight)
    assert "head.bias" not in one.state_dict()


def test_the_contrastive_term_is_the_mean_over_pairs() -> None:
    data = feed(feature_set(3))
    method = build("mmcosine", data, lam=0.7)
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    a, b, c = (out.h[m] for m in method.mods)
    pairs = sum(contrastive(x, y, 0.1) for x, y in ((a, b), (a, c), (b, c))) / 3
    expected = ce(out.fused, batch.y) + 0.7 * pairs
    assert torch.allclose(method.loss(out, batch), expected, rtol=0, atol=1e-14)
    alone = build("mmcosine", feed(feature_set(1)), lam=0.7)
    batch = next(feed(feature_set(1)).epoch(alone.rng, 16))
    assert torch.equal(alone.loss(alone(batch), batch), ce(alone(batch).fused, batch.y))


@pytest.mark.parametrize("M", [1, 2, 3])
@pytest.mark.parametrize("s", [10.0, 15.0])
def test_steps_equal_a_loop_over_seeds_and_samples(M: int, s: float) -> None:
    data = feed(feature_set(M))
    method, fresh = build("mmcosine", data, s=s), build("mmcosine", data, s=s)

    def loss(p: reference.Params, samples: list, labels: list[int]) -> Tensor:
        total = torch.zeros((), dtype=D64)
        for x, y in zip(samples, labels, strict=True):
            z = []
            for c in range(method.C):
                parts = []
                for j, m in enumerate(method.mods):
                    h, w = reference.adapter(p, m, x[m]), p["head.weight"][j * method.D : (j + 1) * method.D, c]
                    parts.append(s * (h @ w) / (torch.sqrt(h @ h) * torch.sqrt(w @ w)))
                z.append(sum(parts))
            total = total + reference.cross_entropy(torch.stack(z), y)
        return total / len(labels)

    batches = steps(method, data, 3)
    reference.agrees(method, fresh, batches, loss)
