"""Evidence: the checks of the specification; Dempster's rule with its conflict; large numbers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from mmbal_cli.ops import evidence as ev
from tests.methods.slow_evidence import dempster, edl

D64 = torch.float64


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=D64).view(1, 1, -1)


def test_a_known_pair_of_opinions() -> None:
    e1, e2 = tensor(3, 1), tensor(1, 0)
    e = ev.combine([e1, e2])
    assert e.flatten().tolist() == pytest.approx([5.5, 1], abs=1e-14)
    assert dempster(e1.flatten(), e2.flatten()).tolist() == pytest.approx([5.5, 1], abs=1e-14)
    S1, S2, S = 6, 3, 2 + 6.5
    assert (e1 / S1).flatten().tolist() == pytest.approx([1 / 2, 1 / 6])
    assert ev.uncertainty(e1).item() == pytest.approx(1 / 3)
    assert (e2 / S2).flatten().tolist() == pytest.approx([1 / 3, 0])
    assert ev.uncertainty(e2).item() == pytest.approx(2 / 3)
    assert (e / S).flatten().tolist() == pytest.approx([11 / 17, 2 / 17])
    assert ev.uncertainty(e).item() == pytest.approx(4 / 17)
    assert (e + 1).flatten().tolist() == pytest.approx([6.5, 2])
    assert ev.logits(e).softmax(-1).flatten().tolist() == pytest.approx([6.5 / 8.5, 2 / 8.5])


@pytest.mark.parametrize("C", [2, 5, 31])
def test_the_product_is_dempsters_rule_in_any_order(C: int) -> None:
    g = torch.Generator().manual_seed(C)
    e = [torch.rand(C, generator=g, dtype=D64) * scale for scale in (1.0, 8.0, 40.0)]
    for order in itertools.permutations(range(3)):
        slow = dempster(dempster(e[order[0]], e[order[1]]), e[order[2]])
        fast = ev.combine([e[i].view(1, 1, C) for i in order]).flatten()
        assert ((fast - slow).abs() <= 1e-12 * slow.abs().clamp_min(1)).all()


def test_silence_is_neutral_and_evidence_never_falls() -> None:
    g = torch.Generator().manual_seed(1)
    e = torch.rand(2, 3, 4, generator=g, dtype=D64) * 9
    other = torch.rand(2, 3, 4, generator=g, dtype=D64)
    assert torch.allclose(ev.combine([e, torch.zeros_like(e)]), e, rtol=0, atol=1e-13)
    assert (ev.combine([e, other]) >= torch.maximum(e, other) - 1e-13).all()
    none = ev.combine([torch.zeros_like(e)] * 2)
    assert none.abs().max() == 0
    assert (ev.uncertainty(none) == 1).all()


@pytest.mark.parametrize(
    ("e", "y", "fit", "wrong"),
    [
        ((3, 1), 0, 0.45, 0.193147),
        ((3, 1), 1, 1.283333, 0.636294),
        ((0, 0, 0), 2, 1.5, 0.0),
        ((5.5, 1), 0, 0.287179, 0.193147),
    ],
)
def test_known_losses(e: tuple[float, ...], y: int, fit: float, wrong: float) -> None:
    label = torch.tensor([[y]])
    found = ev.evidential(tensor(*e), label)
    assert [part.item() for part in found] == [pytest.approx(fit, abs=1e-6), pytest.approx(wrong, abs=1e-6)]
    assert ev.evidential_loss(tensor(*e), label, 1.0).item() == pytest.approx(fit + wrong, abs=2e-6)
    assert edl(tensor(*e).flatten(), y, 1.0).item() == pytest.approx(fit + wrong, abs=2e-6)


def test_without_evidence_for_wrong_classes_nothing_diverges() -> None:
    assert ev.divergence_from_uniform(torch.ones(1, 1, 7, dtype=D64)).abs().item() < 1e-14
    assert ev.divergence_from_uniform(tensor(1, 2)).item() == pytest.approx(math.log(2) - 0.5)


def test_the_series_meets_the_formula_and_outlives_it() -> None:
    x = torch.logspace(3, 7, 41, dtype=D64)
    direct = x + torch.lgamma(x) - (x - 1) * torch.digamma(x)
    assert (ev.spread(x) - direct).abs().max() < 1e-7
    for bound in (ev.LARGE * (1 - 1e-9), ev.LARGE):
        assert ev.spread(tensor(bound)).item() == pytest.approx(ev.spread(tensor(ev.LARGE + 1)).item(), abs=1e-5)
    # Dir(n, 1): KL = log n - 1 + 1/n, whatever n
    for n in (10.0, 1e4, 1e8, 1e20, 1e27):
        alpha = tensor(n, 1).requires_grad_()
        kl = ev.divergence_from_uniform(alpha)
        assert kl.item() == pytest.approx(math.log(n) - 1 + 1 / n, abs=1e-7)
        kl.sum().backward()
        assert alpha.grad.flatten()[0].item() * n == pytest.approx(1 - 1 / n, abs=1e-5)


def test_evidence_is_softplus_and_nothing_overflows() -> None:
    z = torch.tensor([-800.0, -30.0, -1.0, 0.0, 0.5, 19.0, 800.0]).view(1, 1, -1).requires_grad_()
    e = ev.evidence(z)
    expected = torch.nn.functional.softplus(z.detach().double(), threshold=100)
    assert torch.allclose(e, expected, rtol=1e-14, atol=0)
    e.sum().backward()
    assert torch.allclose(z.grad.double(), torch.sigmoid(z.detach().double()), atol=1e-7)
    merged = ev.combine([1e30 * torch.ones(1, 1, 3, dtype=D64)] * 4)
    assert merged.max() <= 3 * math.e**60 * (1 + 1e-9)
    assert torch.isfinite(ev.evidential_loss(merged, torch.zeros(1, 1, dtype=torch.long), 1.0).float()).all()


def test_a_missing_view_says_nothing_and_learns_nothing() -> None:
    z = torch.ones(1, 2, 3, dtype=D64, requires_grad=True)
    present = torch.tensor([[True, False]])
    e = ev.evidence(z, present)
    assert e[0, 1].tolist() == [0, 0, 0]
    ev.evidential_loss(ev.combine([e, e]), torch.zeros(1, 2, dtype=torch.long), 1.0).sum().backward()
    assert z.grad[0, 1].abs().max() == 0
    assert z.grad[0, 0].abs().max() > 0
