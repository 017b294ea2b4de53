"""Stacked normalisation against torch's own, masks, and batches too small to have a variance."""

from __future__ import annotations

import pytest
import torch

from mmbal_cli.nn.norm import BatchNorm, LayerNorm

D64 = torch.float64


def batch(S: int = 3, B: int = 7, D: int = 5) -> torch.Tensor:
    return 3 + 2 * torch.randn(S, B, D, generator=torch.Generator().manual_seed(0), dtype=D64)


def scaled(norm: torch.nn.Module) -> None:
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(norm.weight.shape, generator=g, dtype=D64))
        norm.bias.copy_(torch.randn(norm.bias.shape, generator=g, dtype=D64))


@pytest.mark.parametrize("absent", [False, True])
def test_batch_norm_is_torchs_on_the_present_samples_of_each_seed(absent: bool) -> None:
    norm = BatchNorm(3, 5, D64)
    scaled(norm)
    theirs = [torch.nn.BatchNorm1d(5, dtype=D64) for _ in range(3)]
    for i, other in enumerate(theirs):
        with torch.no_grad():
            other.weight.copy_(norm.weight[i, 0])
            other.bias.copy_(norm.bias[i, 0])
    for step in range(3):
        x = batch() * (step + 1)
        present = torch.rand(3, 7, generator=torch.Generator().manual_seed(step)) < 0.6 if absent else None
        got = norm(x, present)
        for i, other in enumerate(theirs):
            rows = present[i] if present is not None else torch.ones(7, dtype=torch.bool)
            assert torch.allclose(got[i][rows], other(x[i][rows]), atol=1e-12)
            assert torch.allclose(norm.mean[i, 0], other.running_mean, atol=1e-12)
            assert torch.allclose(norm.var[i, 0], other.running_var, atol=1e-12)
    norm.eval()
    for i, other in enumerate(theirs):
        assert torch.allclose(norm(x)[i], other.eval()(x[i]), atol=1e-12)


def test_gradients_are_torchs() -> None:
    norm, x = BatchNorm(2, 5, D64), batch(2).requires_grad_()
    scaled(norm)
    norm(x).square().sum().backward()
    for i in range(2):
        own = x[i].detach().clone().requires_grad_()
        weight, bias = (p[i, 0].detach().clone().requires_grad_() for p in (norm.weight, norm.bias))
        torch.nn.functional.batch_norm(own, None, None, weight, bias, True).square().sum().backward()
        assert torch.allclose(x.grad[i], own.grad, atol=1e-10)
        assert torch.allclose(norm.weight.grad[i, 0], weight.grad, atol=1e-10)
        assert torch.allclose(norm.bias.grad[i, 0], bias.grad, atol=1e-10)


@pytest.mark.parametrize("count", [0, 1])
def test_a_batch_without_variance_uses_the_running_statistics_and_leaves_them(count: int) -> None:
    norm, x = BatchNorm(2, 5, D64), batch(2)
    norm(x)
    present = torch.ones(2, 7, dtype=torch.bool)
    present[0, count:] = False  # seed 0 has too few, seed 1 has all
    before = norm.mean.clone(), norm.var.clone()
    got = norm(x, present)
    assert torch.allclose(got[0], (x[0] - before[0][0]) / (before[1][0] + 1e-5).sqrt(), atol=1e-12)
    assert torch.equal(norm.mean[0], before[0][0])
    assert torch.equal(norm.var[0], before[1][0])
    assert not torch.equal(norm.mean[1], before[0][1])


def test_evaluation_changes_nothing() -> None:
    norm = BatchNorm(2, 5, D64).eval()
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    norm(batch(2))
    assert all(torch.equal(v, norm.state_dict()[k]) for k, v in before.items())


def test_layer_norm_is_torchs_for_each_seed() -> None:
    norm, x = LayerNorm(3, 5, D64), batch()
    scaled(norm)
    for i in range(3):
        expected = torch.nn.functional.layer_norm(x[i], (5,), norm.weight[i, 0], norm.bias[i, 0])
        assert torch.allclose(norm(x)[i], expected, atol=1e-12)


@pytest.mark.parametrize(("D", "B"), [(64, 37), (7, 16), (6, 1)])
@pytest.mark.parametrize("absent", [False, True])
def test_bits_do_not_depend_on_the_stack(D: int, B: int, absent: bool) -> None:
    x = batch(5, B, D).float()
    present = torch.rand(5, B, generator=torch.Generator().manual_seed(2)) < 0.7

    def run(rows: list[int]) -> list[torch.Tensor]:
        norm, own = BatchNorm(len(rows), D, torch.float32), x[rows].clone().requires_grad_()
        y = norm(own, present[rows] if absent else None)
        torch.logsumexp(y, -1).mean(1).backward(torch.ones(len(rows)))
        return [y, own.grad, norm.weight.grad, norm.bias.grad, norm.mean, norm.var]

    whole = run([0, 1, 2, 3, 4])
    for rows in ([1], [3, 4]):
        assert all(torch.equal(a, b[rows]) for a, b in zip(run(rows), whole, strict=True))
