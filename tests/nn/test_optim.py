"""The stacked optimizer: rates of single parameters, moments that end or begin late, seeds that sit out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmbal_cli.nn.optim import StackedOptimizer
from mmbal_cli.recipe import TrainConfig

SGD = {"optimizer": "sgd", "momentum": 0.9, "lr": 0.1, "weight_decay": 0.05}
ADAMW = {"optimizer": "adamw", "lr": 0.1, "weight_decay": 0.05}
both = pytest.mark.parametrize("settings", [SGD, ADAMW], ids=["sgd", "adamw"])


def parameter(width: int = 3, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    values = torch.arange(3 * 2 * width, dtype=dtype).view(3, 2, width) / 7 - 1
    return nn.Parameter(values)


def gradient(p: Tensor, t: int) -> Tensor:
    g = torch.Generator().manual_seed(t)
    return torch.randn(p.shape, generator=g, dtype=p.dtype)


def train(p: nn.Parameter, opt: StackedOptimizer, steps: int, masks: list[Tensor] | None = None) -> None:
    for t in range(steps):
        p.grad = gradient(p, t)
        opt.step(None if masks is None else masks[t])


@both
@pytest.mark.parametrize("uneven", [False, True])
def test_a_rate_is_a_learning_rate_and_zero_and_one_are_exact(settings: dict[str, object], uneven: bool) -> None:
    config = TrainConfig(**settings)  # type: ignore[arg-type]
    p, plain = parameter(), parameter()
    opt, base = (StackedOptimizer([each], config, uneven) for each in (p, plain))
    opt.rates = {p: torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)}
    first = p.detach().clone()
    train(p, opt, 5)
    train(plain, base, 5)
    assert torch.equal(p[0], first[0])
    assert torch.equal(p[1], plain[1])
    half = parameter()
    slow = StackedOptimizer([half], config.model_copy(update={"lr": config.lr / 2}), uneven)
    train(half, slow, 5)
    assert (p[2] - half[2]).abs().max() < 1e-12


def test_a_rate_may_differ_inside_a_parameter() -> None:
    p, plain = parameter(), parameter()
    opt, base = (StackedOptimizer([each], TrainConfig(**SGD)) for each in (p, plain))  # type: ignore[arg-type]
    opt.rates = {p: torch.tensor([1.0, 0.0], dtype=torch.float64)[None, :, None].expand(3, 2, 1)}
    first = p.detach().clone()
    train(p, opt, 3)
    train(plain, base, 3)
    assert torch.equal(p[:, 0], plain[:, 0])
    assert torch.equal(p[:, 1], first[:, 1])


@both
@pytest.mark.parametrize("uneven", [False, True])
def test_forgotten_moments_begin_anew(settings: dict[str, object], uneven: bool) -> None:
    p = parameter()
    opt = StackedOptimizer([p], TrainConfig(**settings), uneven)  # type: ignore[arg-type]
    train(p, opt, 3)
    opt.forget([p], torch.tensor([True, False, False]))
    moments = [value for value in opt.state().values() if value.dim() > 1]
    assert moments
    assert all(bool((value[0] == 0).all() and (value[1:] != 0).any()) for value in moments)
    opt.forget([p])
    assert all(bool((value == 0).all()) for value in moments)


@pytest.mark.parametrize("width", [3, 32])  # 32: a seed's share is a multiple of the vector length, so fused
def test_parameters_that_move_for_the_first_time_later(width: int) -> None:
    early, late = parameter(width, torch.float32), parameter(width, torch.float32)
    opt = StackedOptimizer([early, late], TrainConfig(**SGD))  # type: ignore[arg-type]
    early.grad = gradient(early, 0)
    opt.step()
    for p in (early, late):
        p.grad = gradient(p, 1)
    opt.step()
    alone = parameter(width, torch.float32)
    lone = StackedOptimizer([alone], TrainConfig(**SGD))  # type: ignore[arg-type]
    alone.grad = gradient(alone, 1)
    lone.step()
    assert torch.equal(late, alone)


def test_an_uneven_adamw_is_torchs_where_all_take_every_step() -> None:
    p, q = parameter(), parameter()
    own, torchs = (StackedOptimizer([each], TrainConfig(**ADAMW), uneven)  # type: ignore[arg-type]
                   for each, uneven in ((p, True), (q, False)))  # fmt: skip
    train(p, own, 20)
    train(q, torchs, 20)
    assert (p - q).abs().max() < 1e-12


@pytest.mark.parametrize("settings", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_seed_that_sits_out_is_as_if_nothing_had_happened(settings: dict[str, object], dtype: torch.dtype) -> None:
    config = TrainConfig(**settings)  # type: ignore[arg-type]
    masks = [
        torch.tensor(m) for m in ([True, True, True], [True, False, True], [False, False, True], [True, True, True])
    ]
    p = parameter(dtype=dtype)
    train(p, StackedOptimizer([p], config, uneven=True), 4, masks)
    for i in range(3):
        alone = nn.Parameter(parameter(dtype=dtype)[i : i + 1].detach().clone())
        opt = StackedOptimizer([alone], config, uneven=True)
        for t, mask in enumerate(masks):
            if mask[i]:
                alone.grad = gradient(p, t)[i : i + 1]
                opt.step()
        assert torch.equal(alone[0], p[i])
