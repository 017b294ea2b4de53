"""MMTM: hand-computed numbers, and the gates and branches that methods ask for."""

from __future__ import annotations

import math

import pytest
import torch

from mmbal_cli.nn.fusion.mmtm import MMTM
from mmbal_cli.seeds import SeedStreams

D64 = torch.float64
MODS = ("a", "v", "t")


def make(variant: str = "", mods: tuple[str, ...] = ("a", "v"), width: int = 2, seeds: tuple[int, ...] = (0,)) -> MMTM:
    return MMTM(SeedStreams(seeds), mods, width, 2, D64, variant)


def features(mods: tuple[str, ...], S: int, width: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {m: torch.randn(S, 6, width, generator=g, dtype=D64) for m in mods}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def known(variant: str) -> tuple[MMTM, dict[str, torch.Tensor]]:
    """q = ReLU(1 - 2 + .5, 2 + 3 - 1) = (0, 4), of features (1, 2) and (2, 3)."""
    fusion = make(variant)
    with torch.no_grad():
        fusion.squeeze.weight.copy_(torch.tensor([[[1.0, 0], [0, 1], [-1, 0], [0, 1]]]))
        fusion.squeeze.bias.copy_(torch.tensor([[[0.5, -1.0]]]))
        for m, row in (("a", [0.5, 0.0]), ("v", [0.0, -0.25])):
            fusion.excite[m].weight.copy_(torch.tensor([[[9.0, 9.0], row]]))
            fusion.excite[m].bias.copy_(torch.tensor([[[0.0, 1.0]]]))
        fusion.heads["a"].weight.copy_(torch.eye(2)[None])
        fusion.heads["v"].weight.copy_(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]))
        fusion.heads["a"].bias.copy_(torch.tensor([[[1.0, 0.0]]]))
        fusion.heads["v"].bias.zero_()
    return fusion, {"a": torch.tensor([[[1.0, 2.0]]], dtype=D64), "v": torch.tensor([[[2.0, 3.0]]], dtype=D64)}


@pytest.mark.parametrize(("variant", "gain"), [("", 1.0), ("double", 2.0)])
def test_known_weights_give_known_gates_and_logits(variant: str, gain: float) -> None:
    fusion, h = known(variant)
    gates = fusion.gates(h)
    g_a, g_v = [gain * sigmoid(2), gain * sigmoid(1)], [gain * 0.5, gain * 0.5]
    assert gates["a"].flatten().tolist() == pytest.approx(g_a)
    assert gates["v"].flatten().tolist() == pytest.approx(g_v)
    z_a, z_v = [g_a[0] * 1 + 1, g_a[1] * 2], [g_v[1] * 3, g_v[0] * 2]
    assert fusion.branches(h, fusion.gates(h))["a"].flatten().tolist() == pytest.approx(z_a)
    assert fusion.branches(h, fusion.gates(h))["v"].flatten().tolist() == pytest.approx(z_v)
    mean = [(x + y) / 2 for x, y in zip(z_a, z_v, strict=True)]
    assert fusion.logits(h).flatten().tolist() == pytest.approx(mean)


def test_alone_gates_by_its_own_squeeze_only() -> None:
    fusion, h = known("")
    alone = fusion.alone(h)["a"].flatten()  # q = (1.5, 1)
    z_a = [sigmoid(9 * 1.5 + 0.5) * 1 + 1, sigmoid(9 * 1.5 + 1) * 2]
    assert alone.tolist() == pytest.approx([z / 2 for z in z_a])
    changed = fusion.alone(h | {"v": 7 * h["v"]})["a"].flatten()
    assert torch.equal(changed, alone)
    assert torch.equal(fusion.unimodal(h)["a"].flatten(), alone)
    other = h | {"v": 7 * h["v"]}
    assert not torch.equal(fusion.branches(other, fusion.gates(other))["a"], fusion.branches(h, fusion.gates(h))["a"])


@pytest.mark.parametrize("M", [2, 3])
def test_the_squeeze_has_a_quarter_of_twice_all_channels(M: int) -> None:
    assert make("", MODS[:M], 8).squeeze.weight.shape == (1, M * 8, 4 * M)


@pytest.mark.parametrize("variant", ["", "double"])
def test_a_single_modality_is_one_linear_head(variant: str) -> None:
    fusion, h = make(variant, ("a",)), features(("a",), 1, 2)
    head = fusion.heads["a"]
    assert set(fusion.state_dict()) == {"heads.a_.weight", "heads.a_.bias"}
    for z in (fusion.logits(h), fusion.unimodal(h)["a"], fusion.alone(h)["a"]):
        assert torch.equal(z, head(h["a"]))


@pytest.mark.parametrize("M", [2, 3])
def test_a_loop_over_seeds_and_samples(M: int) -> None:
    mods = MODS[:M]
    fusion, h = make("", mods, 4, (1, 2, 3)), features(mods, 3, 4)
    p, z = fusion.state_dict(), fusion.logits(h)
    for s in range(3):
        for b in range(6):
            x = torch.cat([h[m][s, b] for m in mods])
            q = torch.relu(x @ p["squeeze.weight"][s] + p["squeeze.bias"][s, 0])
            mean = torch.zeros(2, dtype=D64)
            for m in mods:
                g = torch.sigmoid(q @ p[f"excite.{m}_.weight"][s] + p[f"excite.{m}_.bias"][s, 0])
                mean += ((g * h[m][s, b]) @ p[f"heads.{m}_.weight"][s] + p[f"heads.{m}_.bias"][s, 0]) / M
            assert torch.allclose(z[s, b], mean, atol=1e-13)


def test_branches_take_any_gates() -> None:
    fusion, h = make("", MODS, 4, (1, 2)), features(MODS, 2, 4)
    live = fusion.gates(h)
    z = fusion.branches(h, live)
    assert torch.allclose(sum(z.values()) / len(MODS), fusion.logits(h), atol=1e-15)
    constant = fusion.branches(h, live | {"v": torch.full((2, 1, 4), 0.5, dtype=D64)})
    assert torch.allclose(constant["v"], fusion.heads["v"](0.5 * h["v"]), atol=1e-15)
    assert torch.equal(constant["a"], z["a"])


def test_seeds_share_nothing() -> None:
    h = features(MODS, 3, 4)
    whole = make("", MODS, 4, (1, 2, 3)).logits(h)
    for i, seed in enumerate((1, 2, 3)):
        part = make("", MODS, 4, (seed,)).logits({m: x[i : i + 1] for m, x in h.items()})
        assert torch.allclose(part[0], whole[i], atol=1e-15)
    turned = make("", MODS, 4, (3, 1, 2)).logits({m: x[[2, 0, 1]] for m, x in h.items()})
    assert torch.allclose(turned, whole[[2, 0, 1]], atol=1e-15)
