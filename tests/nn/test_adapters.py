"""Adapters: pooling over time against a loop, masks, dropout, and initialisation like torch's own."""

from __future__ import annotations

import pytest
import torch

from mmbal_cli.nn.adapters import adapter
from mmbal_cli.nn.stacked import Dropout, Linear
from mmbal_cli.recipe import TrainConfig
from mmbal_cli.seeds import SeedStreams

D64 = torch.float64


@pytest.mark.parametrize("temporal", ["attention", "mean"])
def test_pooling_over_time_equals_a_loop_over_valid_steps(temporal: str) -> None:
    config = TrainConfig(width=6, temporal=temporal)
    layer = adapter(SeedStreams((1, 2)), "video", (5, 7), config, D64)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 5, 7, generator=g, dtype=D64)
    mask = torch.rand(2, 4, 5, generator=g) < 0.6
    mask[0, 0] = False
    got = layer(x, mask)
    for s in range(2):
        for b in range(4):
            steps = [t for t in range(5) if mask[s, b, t]]
            if not steps:
                assert torch.equal(got[s, b], torch.zeros(6, dtype=D64))
                continue
            h = x[s, b, steps]
            for linear in layer.mlp.layers:
                h = torch.relu(h @ linear.weight[s] + linear.bias[s, 0])
            weight = torch.full((len(steps),), 1 / len(steps), dtype=D64)
            if layer.score is not None:
                weight = (h @ layer.score.weight[s] + layer.score.bias[s, 0])[:, 0].softmax(0)
            assert torch.allclose(got[s, b], weight @ h, atol=1e-12)
    assert torch.allclose(layer(x, None), layer(x, torch.ones_like(mask)), atol=1e-14)


def test_absent_samples_give_zero_and_no_gradient() -> None:
    layer = adapter(SeedStreams((1,)), "audio", (3,), TrainConfig(width=4), D64)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 3, dtype=D64, generator=g).requires_grad_()
    out = layer(x, torch.tensor([[True, False]]))
    out.sum().backward()
    assert out[0, 1].abs().max() == 0
    assert x.grad[0, 1].abs().max() == 0
    assert out[0, 0].abs().max() > 0


def test_initialisation_has_torchs_bounds_and_both_precisions_share_it() -> None:
    single = Linear(SeedStreams((1, 2)), "x", 100, 50)
    double = Linear(SeedStreams((1, 2)), "x", 100, 50, D64)
    assert single.weight.abs().max() <= 0.1
    assert single.weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert torch.equal(single.weight, double.weight.float())
    assert not torch.equal(single.weight[0], single.weight[1])


def test_dropout_draws_for_each_seed_and_only_in_training() -> None:
    layer = Dropout(SeedStreams((1, 2)), "x", 0.25)
    x = torch.ones(2, 400, 10)
    out = layer(x)
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    assert not torch.equal(out[0], out[1])
    assert torch.equal(Dropout(SeedStreams((2,)), "x", 0.25)(x[1:])[0], out[1])
    assert layer.eval()(x) is x
