"""ARL: the numeric checks of the specification, and an independent loop over seeds and samples."""

from __future__ import annotations

import math

import pytest
import torch

from mmbal_cli.methods.arl import coefficients, shares
from mmbal_cli.nn.fusion.concat import Concat
from mmbal_cli.ops.losses import ce, entropy
from mmbal_cli.seeds import SeedStreams
from tests.kit.features import build, feature_set, feed, train
from tests.methods import reference

D64 = torch.float64


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=D64)


def test_known_logits_give_known_coefficients() -> None:
    u = torch.tensor([[math.log(3), 0.0], [0.0, math.log(7)]], dtype=D64)
    H, A = entropy(u)[None], u.abs().sum(-1)[None]
    q, d = shares(H, A, 0.3)
    assert H.flatten().tolist() == pytest.approx([0.562335, 0.376770], abs=1e-6)
    assert d.flatten().tolist() == pytest.approx([0.360849, 0.639151], abs=1e-6)
    assert q.flatten().tolist() == pytest.approx([0.401201, 0.598799], abs=1e-6)
    assert coefficients(H, A, 8, 0.3, "pairs").flatten().tolist() == pytest.approx([0.580011, 0.419989], abs=1e-6)
    assert coefficients(H, A, 4, 0.3, "pairs").flatten().tolist() == pytest.approx([0.540265, 0.459735], abs=1e-6)


def test_floor_bounds_the_target() -> None:
    w = coefficients(tensor(0.1, 0.9), tensor(1, 1), 4, 0.3, "pairs")
    assert w.flatten().tolist() == pytest.approx([0.731059, 0.268941], abs=1e-6)


@pytest.mark.parametrize("T", [1.0, 4.0, 100.0])
def test_target_and_identical_modalities_give_equal_weights(T: float) -> None:
    assert coefficients(tensor(0.4, 0.6), tensor(6, 4), T, 0.3, "pairs").tolist() == [pytest.approx([0.5, 0.5])]
    assert coefficients(tensor(0.7, 0.7), tensor(2, 2), T, 0.3, "pairs").tolist() == [pytest.approx([0.5, 0.5])]


def test_three_modalities_by_pairs() -> None:
    w = coefficients(tensor(0.4, 0.6, 1.0), tensor(5, 3, 2), 4, 0.3, "pairs")
    assert w.flatten().tolist() == pytest.approx([0.482481, 0.524979, 0.492540], abs=1e-6)
    assert w.sum().item() == pytest.approx(1.5)


def test_any_number_of_modalities_by_pairs_and_by_ratio() -> None:
    g = torch.Generator().manual_seed(0)
    H, A = torch.rand(3, 4, generator=g, dtype=D64), torch.rand(3, 4, generator=g, dtype=D64)
    pairs, ratio = coefficients(H, A, 4, 0.3, "pairs"), coefficients(H, A, 4, 0.3, "ratio")
    assert pairs.sum(1).tolist() == pytest.approx([2.0] * 3)
    for s in range(3):
        floored = [max(h / H[s].sum().item(), 0.3) for h in H[s].tolist()]
        q = [(1 / h) / sum(1 / other for other in floored) for h in floored]
        scores = [math.exp(4 * qm / (a / A[s].sum().item())) for qm, a in zip(q, A[s].tolist(), strict=True)]
        assert ratio[s].tolist() == pytest.approx([score / sum(scores) for score in scores])
        for m in range(4):
            parts = [
                coefficients(H[s][[m, o]][None], A[s][[m, o]][None], 4, 0.3, "pairs")[0, 0] for o in range(4) if o != m
            ]
            assert pairs[s, m].item() == pytest.approx(sum(parts).item() / 3)


def test_degenerate_logits_stay_defined() -> None:
    assert coefficients(tensor(0, 0), tensor(0, 0), 4, 0.3, "pairs").tolist() == [pytest.approx([0.5, 0.5])]
    assert torch.isfinite(coefficients(tensor(0, 0.7), tensor(1e4, 0), 1000, 0.3, "ratio")).all()


def test_swapping_modalities_swaps_weights_and_scale_leaves_shares() -> None:
    H, A = tensor(0.2, 0.9), tensor(3, 1)
    w = coefficients(H, A, 4, 0.3, "pairs")
    assert torch.equal(coefficients(H.flip(1), A.flip(1), 4, 0.3, "pairs"), w.flip(1))
    assert torch.allclose(shares(H, 5 * A, 0.3)[1], shares(H, A, 0.3)[1])


def test_unimodal_logits_of_concat_keep_the_whole_bias() -> None:
    fusion = Concat(SeedStreams((0,)), ("a", "v"), 1, 1, D64)
    with torch.no_grad():
        fusion.head.weight.copy_(torch.tensor([[[1.0], [2.0]]]))
        fusion.head.bias.fill_(3.0)
    h = dict.fromkeys(("a", "v"), torch.ones(1, 1, 1, dtype=D64))
    assert [fusion.alone(h)[m].item() for m in ("a", "v")] == [4, 5]
    assert fusion.logits(h).item() == 6


def test_constant_scales_adapter_gradients_by_one_and_a_half() -> None:
    data = feed(feature_set(2))
    plain = build("concat", data)
    arl = build("arl", data, gamma=0.0, modulate="constant", start=-1)
    batch = next(data.epoch(plain.rng, 16))
    plain.step(batch)
    arl.step(batch)
    for (name, p), q in zip(plain.named_parameters(), arl.parameters(), strict=True):
        factor = 1.5 if name.startswith("enc") else 1.0
        assert torch.allclose(factor * p.grad, q.grad, rtol=0, atol=1e-14), name


def test_off_without_unimodal_losses_is_concat() -> None:
    data = feed(feature_set(3))
    plain, arl = build("concat", data), build("arl", data, gamma=0.0, modulate="off", start=-1)
    train(plain, data, 3)
    train(arl, data, 3)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), arl.parameters(), strict=True))


def test_warm_up_is_plain_training_with_unit_unimodal_losses() -> None:
    data = feed(feature_set(2))
    method = build("arl", data, gamma=9.0)
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    expected = ce(out.fused, batch.y) + sum(ce(u, batch.y) for u in method.fusion.alone(out.h).values())
    grads = torch.autograd.grad(expected.sum(), list(method.parameters()))
    method.step(batch)
    assert all(torch.allclose(p.grad, g, atol=1e-14) for p, g in zip(method.parameters(), grads, strict=True))


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize("modulate", ["dynamic", "constant", "off"])
def test_steps_equal_a_loop_over_seeds_and_samples(M: int, modulate: str) -> None:
    data = feed(feature_set(M))
    knobs = {"gamma": 2.5, "T": 8.0, "start": -1, "modulate": modulate}
    method, fresh = build("arl", data, **knobs), build("arl", data, **knobs)
    batches = list(data.epoch(method.rng, 16))

    def alone(p: reference.Params, sample: dict, m: str) -> torch.Tensor:
        h = torch.cat([reference.adapter(p, q, sample[q]) * (1.0 if q == m else 0.0) for q in method.mods])
        return h @ p["fusion.head.weight"] + p["fusion.head.bias"][0]

    def loss(p: reference.Params, samples: list, labels: list[int]) -> torch.Tensor:
        total = torch.zeros((), dtype=D64)
        for x, y in zip(samples, labels, strict=True):
            h = torch.cat([reference.adapter(p, m, x[m]) for m in method.mods])
            z = h @ p["fusion.head.weight"] + p["fusion.head.bias"][0]
            total = total + reference.cross_entropy(z, y)
            total = total + 2.5 * sum(reference.cross_entropy(alone(p, x, m), y) for m in method.mods)
        return total / len(labels)

    def change(p: reference.Params, samples: list, labels: list[int]) -> None:
        H, A, n = {}, {}, len(labels)
        for m in method.mods:
            u = [alone(p, x, m).detach() for x in samples]
            H[m] = sum(float(-(z.softmax(0) * z.log_softmax(0)).sum()) for z in u) / n
            A[m] = sum(float(z.abs().sum()) for z in u) / n
        w = dict.fromkeys(method.mods, 0.0)
        for m in method.mods:
            for o in method.mods:
                if o != m:
                    Hm, Ho = max(H[m] / (H[m] + H[o]), 0.3), max(H[o] / (H[m] + H[o]), 0.3)
                    qm, qo = (1 / Hm) / (1 / Hm + 1 / Ho), (1 / Ho) / (1 / Hm + 1 / Ho)
                    dm, do = A[m] / (A[m] + A[o]), A[o] / (A[m] + A[o])
                    w[m] += 1 / (1 + math.exp(-8.0 * (do * qm - dm * qo))) / (M - 1)
        for m in method.mods:
            factor = {"dynamic": 1 + w[m], "constant": 1.5, "off": 1.0}[modulate]
            for name, value in p.items():
                if name.startswith(f"enc.{m}_."):
                    value.grad *= factor

    for batch in batches:
        method.step(batch)
    reference.agrees(method, fresh, batches, loss, change)
