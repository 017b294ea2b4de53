"""The stacked LSTM layer against torch's, and against numbers by hand."""

from __future__ import annotations

import math

import torch

from mmbal_cli.nn.lstm import LSTM
from mmbal_cli.nn.stacked import sigmoid
from mmbal_cli.seeds import SeedStreams

D64 = torch.float64


def test_one_step_by_hand() -> None:
    cell = LSTM(SeedStreams((0,)), "x", 1, 1, D64)
    with torch.no_grad():
        cell.weight.zero_()
        cell.bias.copy_(
            torch.tensor([0.0, 0.0, math.atanh(0.5), math.log(3)])
        )  # gates .5, .5; input .5; output gate .75
    first, second = cell([torch.zeros(1, 1, 1, dtype=D64)] * 2)
    assert math.isclose(first.item(), 0.75 * math.tanh(0.25), abs_tol=1e-7)  # c = .5 * .5
    assert math.isclose(second.item(), 0.75 * math.tanh(0.375), abs_tol=1e-7)  # c = .5 * .25 + .25


def test_layer_is_torchs_with_gradients() -> None:
    cell = LSTM(SeedStreams((1, 2)), "x", 3, 4, D64)
    g = torch.Generator().manual_seed(0)
    steps = [torch.randn(2, 5, 3, generator=g, dtype=D64) for _ in range(4)]
    states = cell(steps)
    sum(state.square().sum() for state in states).backward()
    for i in range(2):
        theirs = torch.nn.LSTM(3, 4, batch_first=True, dtype=D64)
        with torch.no_grad():
            theirs.weight_ih_l0.copy_(cell.weight[i].T[:, :3])
            theirs.weight_hh_l0.copy_(cell.weight[i].T[:, 3:])
            theirs.bias_ih_l0.copy_(cell.bias[i, 0])
            theirs.bias_hh_l0.zero_()
        expected = theirs(torch.stack([x[i] for x in steps], 1))[0]
        assert torch.allclose(torch.stack([s[i] for s in states], 1), expected, atol=1e-12)
        expected.square().sum().backward()
        grad = torch.cat([theirs.weight_ih_l0.grad, theirs.weight_hh_l0.grad], 1).T
        assert torch.allclose(cell.weight.grad[i], grad, atol=1e-10)
        assert torch.allclose(cell.bias.grad[i, 0], theirs.bias_ih_l0.grad, atol=1e-10)


def test_initialisation_is_glorots_and_belongs_to_the_seed() -> None:
    both, alone = LSTM(SeedStreams((1, 2)), "x", 8, 4, D64), LSTM(SeedStreams((2,)), "x", 8, 4, D64)
    assert 0.95 * 0.5**0.5 < both.weight[:, :8].abs().max() <= 0.5**0.5  # sqrt(6 / (8 + 4))
    assert 0.95 * 0.75**0.5 < both.weight[:, 8:].abs().max() <= 0.75**0.5  # sqrt(6 / (4 + 4))
    assert both.bias[1, 0].tolist() == [0] * 4 + [1] * 4 + [0] * 8
    assert torch.equal(both.weight[1], alone.weight[0])


def test_sigmoid() -> None:
    x = torch.linspace(-40, 40, 101, dtype=D64)
    assert torch.allclose(sigmoid(x), torch.sigmoid(x), atol=1e-15)
