"""MMPareto: the numeric checks of the specification, edge cases, and a loop over seeds and samples."""

from __future__ import annotations

import math

import pytest
import torch

from mmbal_cli.methods.base import Method
from mmbal_cli.ops.gradients import inner, innocent
from tests.kit.features import build, feature_set, feed, steps
from tests.methods import reference

D64 = torch.float64


def vector(*values: float) -> list[torch.Tensor]:
    """One gradient of one seed in one tensor."""
    return [torch.tensor([values], dtype=D64)]


def random_gradients(S: int = 6, seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    a, b = ([torch.randn(S, *shape, generator=g, dtype=D64) for shape in ((3, 4), (1, 4))] for _ in range(2))
    return a, b


def test_a_conflict_by_hand() -> None:
    G, U = vector(1, 0), vector(-1, 1)
    found, a = innocent(G, U)
    assert a.item() == pytest.approx(3 / 5)
    v = 2 * 0.6 * G[0] + 2 * 0.4 * U[0]
    assert v.flatten().tolist() == pytest.approx([0.4, 0.8])
    assert v.norm().item() == pytest.approx(0.894427, abs=1e-6)
    assert (v * G[0]).sum().item() / 2 == pytest.approx(0.2)  # a descent direction, and the same for both
    assert (v * U[0]).sum().item() / 2 == pytest.approx(0.2)
    assert (1.5 * found[0]).flatten().tolist() == pytest.approx([0.670820, 1.341641], abs=1e-6)
    assert (1.5 * found[0]).norm().item() == pytest.approx(1.5)


def test_agreement_is_the_scaled_sum() -> None:
    found, a = innocent(vector(1, 0), vector(1, 1))
    assert a.item() == 0.5
    assert (1.5 * found[0]).flatten().tolist() == [3, 1.5]


@pytest.mark.parametrize("whole", [False, True])
def test_the_result_serves_both_and_is_as_long_as_the_sum(whole: bool) -> None:
    G, U = random_gradients()
    U = [u - 0.6 * g for g, u in zip(G, U, strict=True)]
    found, a = innocent(G, U, whole)
    conflict = inner(G, U) < 0
    assert conflict.any()
    assert ((a >= 0.001) & (a <= 0.999)).all()
    plain = [g + u for g, u in zip(G, U, strict=True)]
    for s in torch.nonzero(~conflict).flatten().tolist():
        assert all(torch.equal(f[s], q[s]) for f, q in zip(found, plain, strict=True))
    mixed = [2 * a.view(-1, 1, 1) * g + 2 * (1 - a.view(-1, 1, 1)) * u for g, u in zip(G, U, strict=True)]
    assert torch.allclose(inner(mixed, G)[conflict], inner(mixed, U)[conflict], atol=1e-12)
    if whole:
        assert torch.allclose(inner(found, found), inner(plain, plain), atol=1e-12)
        assert (inner(found, G)[conflict] > 0).all()
    for f, q, v in zip(found, plain, mixed, strict=True):
        size, before = f.flatten(1).norm(dim=1), v.flatten(1).norm(dim=1)
        if not whole:
            assert torch.allclose(size, torch.maximum(q.flatten(1).norm(dim=1), before), atol=1e-12)
        assert torch.allclose(f * before.view(-1, 1, 1), v * size.view(-1, 1, 1), atol=1e-12)  # the direction stays


def test_exact_opposition_and_missing_gradients_stay_defined() -> None:
    assert innocent(vector(1, -2), vector(-1, 2))[0][0].flatten().tolist() == [0, 0]
    found, a = innocent(vector(1, -2), vector(0, 0))
    assert (found[0].flatten().tolist(), a.item()) == ([1, -2], 0.5)
    assert innocent(vector(0, 0), vector(0, 0))[0][0].flatten().tolist() == [0, 0]


def test_the_stretch_is_bounded_and_so_is_the_weight() -> None:
    # tensor 1 opposes exactly at a = 1/2 + tiny: its mixture nearly vanishes while its sum does not
    G, U = [*vector(1.0, 0.0), *vector(0.0, 0.0)], [*vector(-1.001, 0.0), *vector(0.0, 1.0)]
    a = innocent(G, U)[1].item()
    mixed = 2 * a * G[0] + 2 * (1 - a) * U[0]
    long = (G[0] + U[0]).norm() / mixed.norm()
    assert torch.allclose(innocent(G, U, most=1e9)[0][0], mixed * max(1.0, float(long)))
    assert innocent(vector(1.0, 0), vector(-1e-9, 1e-6))[1].item() == 0.001
    assert innocent(vector(-1e-9, 1e-6), vector(1.0, 0))[1].item() == 0.999
    G, U = vector(1.0, 0.0), vector(-1e-9, 1e-6)  # the sum has length 1, the mixture 0.002: 500 times, cut to 10
    found, a = innocent(G, U)
    assert torch.allclose(found[0], 10 * (2 * a * G[0] + 2 * (1 - a) * U[0]))


def test_every_seed_is_combined_as_it_would_be_alone() -> None:
    G, U = random_gradients()
    U = [u - 0.4 * g for g, u in zip(G, U, strict=True)]
    found, a = innocent(G, U)
    for s in range(6):
        alone, weight = innocent([g[s : s + 1] for g in G], [u[s : s + 1] for u in U])
        assert torch.equal(weight[0], a[s])
        assert all(torch.equal(x[0], y[s]) for x, y in zip(alone, found, strict=True))


def test_without_conflict_it_is_heads_with_scaled_adapter_gradients() -> None:
    data = feed(feature_set(2))
    plain, method = build("heads", data), build("mmpareto", data)
    agreeing = 0
    for batch in data.epoch(plain.rng, 16):
        method.load_state_dict(plain.state_dict())
        plain.step(batch)
        method._log = {}
        method.step(batch)
        own = dict(method.named_parameters())
        for m in method.mods:
            a = method._log[f"coef/a/{m}"][0]
            agreeing += int((a == 0.5).sum())
            for name, p in plain.named_parameters():
                if name.startswith(f"enc.{m}_."):
                    same = torch.isclose(own[name].grad, 1.5 * p.grad, rtol=0, atol=1e-13).flatten(1).all(1)
                    assert same[a == 0.5].all(), name
        for name, p in plain.named_parameters():
            if not name.startswith("enc."):
                assert torch.allclose(own[name].grad, p.grad, rtol=0, atol=1e-14), name
    assert agreeing > 5


def test_without_unimodal_losses_it_is_concat() -> None:
    data = feed(feature_set(3, absent=0.2))
    plain, method = build("concat", data), build("mmpareto", data, gamma=1.0, beta=0.0)
    steps(plain, data, 6)
    steps(method, data, 6)
    mine = method.state_dict()
    assert all(torch.allclose(value, mine[name], rtol=0, atol=1e-13) for name, value in plain.state_dict().items())


def test_the_reported_loss_is_the_plain_sum() -> None:
    data = feed(feature_set(3, absent=0.2))
    plain, method = build("heads", data, beta=0.7), build("mmpareto", data, beta=0.7)
    batch = next(data.epoch(plain.rng, 16))
    assert torch.allclose(plain.step(batch), method.step(batch), atol=1e-14)


def slow(method: Method, i: int, batches: list, gamma: float, beta: float, whole: bool) -> tuple[reference.Params, int]:
    """Train seed i by loops over samples and tensors; also how many conflicts it met."""
    p, velocity, config, conflicts = reference.parameters_of(method, i), {}, method.config, 0
    for batch in batches:
        labels = [int(y) for y in batch.y[i]]
        joint, own = torch.zeros((), dtype=D64), torch.zeros((), dtype=D64)
        for b, y in enumerate(labels):
            h = {m: reference.adapter(p, m, batch.x[m][i, b]) for m in method.mods}
            z = torch.cat([h[m] for m in method.mods]) @ p["fusion.head.weight"] + p["fusion.head.bias"][0]
            joint = joint + reference.cross_entropy(z, y) / len(labels)
            for m in method.mods:
                u = h[m] @ p[f"heads.{m}_.weight"] + p[f"heads.{m}_.bias"][0]
                own = own + beta * reference.cross_entropy(u, y) / len(labels)
        names = list(p)
        G = dict(
            zip(names, torch.autograd.grad(joint, list(p.values()), retain_graph=True, allow_unused=True), strict=True)
        )
        U = dict(zip(names, torch.autograd.grad(own, list(p.values()), allow_unused=True), strict=True))
        for name in names:
            if name.startswith("fusion."):
                p[name].grad = G[name]
            elif name.startswith("heads."):
                p[name].grad = U[name]
        for m in method.mods:
            mine = [name for name in names if name.startswith(f"enc.{m}_.")]
            mm, uu = sum(float((G[n] ** 2).sum()) for n in mine), sum(float((U[n] ** 2).sum()) for n in mine)
            mu = sum(float((G[n] * U[n]).sum()) for n in mine)
            conflicts += mu < 0
            a = 0.5 if mu >= 0 else min(max((uu - mu) / (mm + uu - 2 * mu), 0.001), 0.999)
            v = {n: 2 * a * G[n] + 2 * (1 - a) * U[n] for n in mine}
            for part in [mine] if whole else [[n] for n in mine]:
                long = math.sqrt(sum(float(((G[n] + U[n]) ** 2).sum()) for n in part))
                short = math.sqrt(sum(float((v[n] ** 2).sum()) for n in part))
                factor = min(long / short, 10) if long > short > 0 else 1.0
                for n in part:
                    p[n].grad = gamma * factor * v[n]
        reference.sgd(p, velocity, config.lr, config.momentum, config.weight_decay)
    return p, conflicts


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize("rescale", ["tensor", "global"])
def test_steps_equal_a_loop_over_seeds_and_samples(M: int, rescale: str) -> None:
    data = feed(feature_set(M))
    knobs = {"gamma": 1.3, "beta": 0.8, "rescale": rescale}
    method, fresh = build("mmpareto", data, **knobs), build("mmpareto", data, **knobs)
    batches = steps(method, data, 8)
    met = 0
    for i in range(3):
        expected, conflicts = slow(fresh, i, batches, 1.3, 0.8, rescale == "global")
        met += conflicts
        for name, value in method.state_dict().items():
            assert (value[i] - expected[name]).abs().max() < 1e-10, name
    assert met > 3  # both branches were taken
