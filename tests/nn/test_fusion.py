"""Fusions: hand-computed numbers, the rules every fusion obeys, and seeds that share nothing."""

from __future__ import annotations

import pytest
import torch

from mmbal_cli.errors import UsageError
from mmbal_cli.nn.fusion import FUSIONS, fusion_class
from mmbal_cli.nn.fusion.affine import Affine
from mmbal_cli.nn.fusion.base import Fusion
from mmbal_cli.nn.fusion.gated import Gated
from mmbal_cli.seeds import SeedStreams

D64 = torch.float64
every_fusion = pytest.mark.parametrize("name", list(FUSIONS))


def make(name: str, mods: tuple[str, ...], seeds: tuple[int, ...] = (1, 2, 3)) -> Fusion:
    return fusion_class(name)(SeedStreams(seeds), mods, 4, 5, D64)


def features(mods: tuple[str, ...], S: int = 3, B: int = 6) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {m: torch.randn(S, B, 4, generator=g, dtype=D64) for m in mods}


def set_linear(layer: torch.nn.Module, weight: list[list[float]], bias: list[float]) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weight], dtype=D64))
        layer.bias.copy_(torch.tensor([[bias]], dtype=D64))


ZERO, EYE = [[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]


def test_affine_scales_and_shifts_the_last_modality() -> None:
    fusion = Affine(SeedStreams((0,)), ("a", "v"), 2, 2, D64)
    set_linear(fusion.film["a"], [[0.0] * 4] * 2, [2.0, 3.0, 1.0, 0.0])  # gamma (2,3), beta (1,0)
    set_linear(fusion.head, EYE, [0.0, 0.0])
    h = {"a": torch.ones(1, 1, 2, dtype=D64), "v": torch.tensor([[[4.0, 5.0]]], dtype=D64)}
    assert fusion.logits(h).flatten().tolist() == [9, 15]


def test_gates_of_zero_are_one_half() -> None:
    fusion = Gated(SeedStreams((0,)), ("a", "v"), 2, 2, D64)
    set_linear(fusion.project["a"], ZERO, [0.0, 0.0])
    set_linear(fusion.project["v"], EYE, [0.0, 0.0])
    set_linear(fusion.head, EYE, [0.0, 0.0])
    h = {"a": torch.ones(1, 1, 2, dtype=D64), "v": torch.tensor([[[4.0, 6.0]]], dtype=D64)}
    assert fusion.logits(h).flatten().tolist() == [2, 3]


@every_fusion
@pytest.mark.parametrize("mods", [("a",), ("a", "v"), ("a", "v", "t"), ("a", "v", "t", "d")])
def test_shapes_additivity_and_zero_out(name: str, mods: tuple[str, ...]) -> None:
    fusion, h = make(name, mods), features(mods)
    z, shares, alone = fusion.logits(h), fusion.unimodal(h), fusion.alone(h)
    assert z.shape == (3, 6, 5)
    assert all(value.shape == z.shape for value in (*shares.values(), *alone.values()))
    if fusion.additive:
        assert torch.allclose(sum(shares.values()), z, atol=1e-14)
    if name != "sum":  # a branch of `sum` alone leaves the other branches' biases out
        for m in mods:
            zeroed = {q: h[q] if q == m else torch.zeros_like(h[q]) for q in mods}
            assert torch.allclose(alone[m], fusion.logits(zeroed), atol=1e-14)


@every_fusion
def test_seeds_share_nothing(name: str) -> None:
    mods = ("a", "v", "t")
    h = features(mods)
    together = make(name, mods).logits(h)
    for i, seed in enumerate((1, 2, 3)):
        alone = make(name, mods, (seed,)).logits({m: x[i : i + 1] for m, x in h.items()})
        assert torch.allclose(alone[0], together[i], atol=1e-14)
    turned = make(name, mods, (3, 1, 2)).logits({m: x[[2, 0, 1]] for m, x in h.items()})
    assert torch.allclose(turned, together[[2, 0, 1]], atol=1e-14)


def test_unknown_fusion_shows_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'concat'"):
        fusion_class("conact")
