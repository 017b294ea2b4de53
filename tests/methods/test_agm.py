"""AGM: the numeric checks of the specification, every switch, and a loop over seeds and samples."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from mmbal_cli.methods.agm import advantage, factors
from mmbal_cli.methods.base import Batch, Method, Out
from mmbal_cli.ops.gradients import clip_where_steep
from tests.kit.features import build, feature_set, feed, steps, train
from tests.methods import reference

D64 = torch.float64


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=D64)


def test_first_step_by_hand() -> None:
    losses = row(0.5, 1.0)
    assert advantage(losses).flatten().tolist() == pytest.approx([1.648721, 0.606531], abs=1e-6)
    assert advantage(row(0, 0)).flatten().tolist() == [1, 1]
    assert factors(losses, row(0, 0), 1, 10).flatten().tolist() == pytest.approx([0.522714, 1.482114], abs=1e-6)


def test_second_step_by_hand() -> None:
    assert advantage(row(0.5, 1.0))[0, 0].item() == pytest.approx(1.648721, abs=1e-6)
    kappa = factors(row(0.5, 0.5), row(0.5, 1.0), 1, 10)
    assert kappa.flatten().tolist() == pytest.approx([1.913093, 0.674712], abs=1e-6)


def test_three_modalities_by_hand() -> None:
    losses = row(0.2, 0.8, 1.4)
    assert advantage(losses).flatten().tolist() == pytest.approx([2.459603, 1, 0.406570], abs=1e-6)
    kappa = factors(losses, row(0, 0, 0), 0.5, 10)
    assert kappa.flatten().tolist() == pytest.approx([0.482005, 1, 1.345432], abs=1e-6)


def test_the_cap_bounds_from_above_only_and_nothing_overflows() -> None:
    ahead = factors(row(0, 18), row(18, 0), 2.0, 3.0)
    assert ahead.flatten().tolist() == pytest.approx([0.0, math.exp(6)])
    worst = factors(row(0, 18.42), row(18.42, 0), 10.0, 50.0).float()
    assert torch.isfinite(worst.square()).all()


def test_running_means_are_plain_averages_and_samples_without_a_modality_count_for_nothing() -> None:
    data = feed(feature_set(3, absent=0.3))
    method = build("agm", data)
    seen: list[list[list[float]]] = [[[] for _ in method.mods] for _ in range(3)]
    for batch in list(data.epoch(method.rng, 16))[:3]:
        out = method(batch)
        for s in range(3):
            for j, m in enumerate(method.mods):
                has = [b for b in range(batch.y.shape[1]) if batch.present(m)[s, b]]
                p = [max(float(out.z[m][s, b].detach().softmax(-1)[batch.y[s, b]]), 1e-8) for b in has]
                seen[s][j].append(sum(-math.log(v) for v in p) / len(p))
        method.step(batch)
    for s in range(3):
        assert method.mean[s].tolist() == pytest.approx([sum(v) / 3 for v in seen[s]], abs=1e-12)
        assert method.count[s].tolist() == [3, 3, 3]


def test_a_batch_without_some_modality_is_not_modulated_and_its_mean_stays() -> None:
    data = feed(feature_set(2))
    method = build("agm", data)
    phi = [torch.randn(3, 5, 4, dtype=D64, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    none, y = torch.zeros(3, 5, dtype=torch.bool), torch.zeros(3, 5, dtype=torch.long)
    gone = none.clone()
    gone[1:] = True  # seed 0 has no audio at all in this batch
    first, second = method.mods
    batch = Batch({}, y, y, {first: gone, second: ~none})
    kappa = method.coefficients(phi, batch)
    assert kappa[0].tolist() == [1, 1]
    assert (kappa[1:] != 1).all()
    assert method.count.tolist() == [[0, 1], [1, 1], [1, 1]]
    assert method.mean[0, 0] == 0
    assert method.mean[0, 1] > 0


def test_the_clamp_of_the_probability() -> None:
    data = feed(feature_set(2))
    method = build("agm", data)
    y = torch.zeros(3, 1, dtype=torch.long)
    phi = [torch.tensor([[[-100.0, 0, 0, 0]]], dtype=D64).expand(3, 1, 4)] * 2
    method.coefficients(phi, Batch({}, y, y, dict.fromkeys(method.mods)))
    assert method.mean.flatten().tolist() == pytest.approx([18.420681] * 6, abs=1e-6)


def coalition(method: Method, h: dict[str, torch.Tensor], part: tuple[str, ...]) -> torch.Tensor:
    """V(A) by the fusion itself."""
    if not part:
        return torch.zeros((), dtype=D64)
    return method.fusion.logits({m: v if m in part else torch.zeros_like(v) for m, v in h.items()})


def by_definition(method: Method, h: dict[str, torch.Tensor], m: str) -> torch.Tensor:
    """phi_m as the sum over coalitions."""
    M, others = len(method.mods), [q for q in method.mods if q != m]
    phi = torch.zeros((), dtype=D64)
    for size in range(M):
        weight = math.factorial(size) * math.factorial(M - size - 1) / math.factorial(M)
        for part in combinations(others, size):
            phi = phi + weight * (coalition(method, h, (*part, m)) - coalition(method, h, part))
    return phi


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize("fusion", ["concat", "gated", "affine", "concat:mlp"])
def test_responses_are_shapley_values_that_add_up_to_the_logits(M: int, fusion: str) -> None:
    data = feed(feature_set(M))
    method = build("agm", data, fusion=fusion)
    assert method.fusion.additive == (fusion == "concat")
    out = method(next(data.epoch(method.rng, 16)))
    phi = method.responses(out)
    for m, found in zip(method.mods, phi, strict=True):
        assert torch.allclose(found, by_definition(method, out.h, m), atol=1e-12)
    assert torch.allclose(sum(phi), out.fused, atol=1e-12)


def test_two_modalities_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    data = feed(feature_set(2))
    method = build("agm", data, fusion="gated")
    first = method.mods[0]

    def logits(h: dict[str, torch.Tensor]) -> torch.Tensor:  # V(a) = 3, V(v) = 1
        return torch.where(h[first][..., :1] > 0, 3.0, 1.0).double()

    monkeypatch.setattr(method.fusion, "logits", logits)
    ones = torch.ones(1, 1, 2, dtype=D64)
    out = Out(dict.fromkeys(method.mods, ones), torch.full((1, 1, 1), 5.0, dtype=D64), lambda h: {})
    assert [p.item() for p in method.responses(out)] == [3.5, 1.5]


def test_an_additive_head_gets_the_plain_gradients_times_kappa() -> None:
    data = feed(feature_set(3))
    plain, method = build("concat", data), build("agm", data, clip=0)
    batches = list(data.epoch(plain.rng, 16))
    for batch in batches:
        plain.load_state_dict(method.state_dict(), strict=False)
        plain.step(batch)
        expected = {name: p.grad.clone() for name, p in plain.named_parameters()}
        method._log = {}
        method.step(batch)
        kappa = {m: method._log[f"coef/kappa/{m}"][0] for m in method.mods}
        whole = torch.stack(list(kappa.values()), 1)
        assert (whole - 1).abs().max() > 1e-3
        for name, p in method.named_parameters():
            owner = method.owner(name)
            if owner != "fused":
                factor = kappa[owner].view(-1, *[1] * (p.dim() - 1))
            elif name.endswith("bias"):
                factor = whole.mean(1)[:, None, None]
            else:
                factor = whole.repeat_interleave(method.D, 1)[:, :, None]
            assert torch.allclose(p.grad, factor * expected[name], rtol=0, atol=1e-13), name


@pytest.mark.parametrize("fusion", ["concat", "sum", "gated"])
def test_without_strength_and_clip_it_is_plain_training(fusion: str) -> None:
    data = feed(feature_set(3, absent=0.2))
    plain = build("concat", data, fusion=fusion)
    method = build("agm", data, fusion=fusion, alpha=0, clip=0)
    train(plain, data, 2)
    train(method, data, 2)
    mine = method.state_dict()
    assert all(torch.allclose(v, mine[k], rtol=0, atol=1e-11) for k, v in plain.state_dict().items())


def test_outside_its_window_nothing_is_scaled_but_the_means_go_on() -> None:
    data = feed(feature_set(2))
    method = build("agm", data, start=1, end=0.5)  # of four epochs: 1 and 2
    for method.epoch, active in enumerate((False, True, True, False)):
        method.collect()
        steps(method, data, 2)
        kappa = method.collect()[f"coef/kappa/{method.mods[0]}"]
        assert (kappa != 1).all() if active else (kappa == 1).all(), method.epoch
    assert (method.count == 8).all()


def test_the_clip_needs_a_steep_output_layer_and_cuts_the_whole_gradient_of_that_seed() -> None:
    watched, other = (torch.nn.Parameter(torch.zeros(3, 2, dtype=D64)) for _ in range(2))
    watched.grad = torch.tensor([[3.0, 0.0], [0.5, 0.0], [-4.0, 0.0]], dtype=D64)
    other.grad = torch.tensor([[4.0, 0.0], [100.0, 0.0], [0.0, 3.0]], dtype=D64)
    clip_where_steep([watched, other], [watched], 1.0)
    assert watched.grad[:, 0].tolist() == pytest.approx([0.6, 0.5, -0.8], abs=1e-6)
    assert other.grad.flatten().tolist() == pytest.approx([0.8, 0, 100, 0, 0, 0.6], abs=1e-6)


def test_only_the_output_layer_sets_off_the_clip() -> None:
    data = feed(feature_set(2))
    for fusion, watched in (("gated", "fusion.head."), ("sum", "fusion.heads.")):
        method = build("agm", data, fusion=fusion)
        out = method(next(data.epoch(method.rng, 16)))
        for steep in (False, True):
            for name, p in method.named_parameters():
                p.grad = torch.full_like(p, 2.0 if steep or not name.startswith(watched) else 0.9)
            before = [p.grad.clone() for p in method.parameters()]
            method.modulate(out, None)  # type: ignore[arg-type]
            same = [torch.equal(p.grad, g) for p, g in zip(method.parameters(), before, strict=True)]
            assert not any(same) if steep else all(same), fusion


def slow(
    method: Method, i: int, batches: list[Batch], alpha: float, cap: float, bound: float
) -> tuple[reference.Params, list[float]]:
    """Train seed i by loops: the gradient into each response is formed by its own vector-Jacobian product."""
    p, velocity, config, mods = reference.parameters_of(method, i), {}, method.config, method.mods
    M, means = len(mods), [0.0] * len(mods)
    p = {name: value for name, value in p.items() if name not in ("mean", "count")}

    def logits(h: dict[str, torch.Tensor], part: tuple[str, ...]) -> torch.Tensor:
        if not part:
            return torch.zeros(method.C, dtype=D64)
        h = {m: h[m] if m in part else torch.zeros(method.D, dtype=D64) for m in mods}
        return torch.cat([h[m] for m in mods]) @ p["fusion.head.weight"] + p["fusion.head.bias"][0]

    def response(h: dict[str, torch.Tensor], m: str) -> torch.Tensor:
        others, phi = [q for q in mods if q != m], torch.zeros(method.C, dtype=D64)
        for size in range(M):
            weight = math.factorial(size) * math.factorial(M - size - 1) / math.factorial(M)
            for part in combinations(others, size):
                phi = phi + weight * (logits(h, (*part, m)) - logits(h, part))
        return phi

    def leads(losses: list[float]) -> list[float]:
        return [math.exp(M / (M - 1) * (sum(losses) / M - v)) for v in losses]

    for t, batch in enumerate(batches, 1):
        labels, n = [int(y) for y in batch.y[i]], batch.y.shape[1]
        phi, slope = {m: [] for m in mods}, []
        for b, y in enumerate(labels):
            h = {m: reference.adapter(p, m, batch.x[m][i, b]) for m in mods}
            for m in mods:
                phi[m].append(response(h, m))
            z = sum(phi[m][b] for m in mods).detach().requires_grad_()
            slope.append(torch.autograd.grad(reference.cross_entropy(z, y) / n, z)[0])
        losses = [
            sum(-math.log(max(v.softmax(0)[y].item(), 1e-8)) for v, y in zip(phi[m], labels, strict=True)) / n
            for m in mods
        ]
        kappa = [math.exp(alpha * min(u - r, cap)) for u, r in zip(leads(means), leads(losses), strict=True)]
        means = [mean * (t - 1) / t + loss / t for mean, loss in zip(means, losses, strict=True)]
        sum(
            (k * v @ g for k, m in zip(kappa, mods, strict=True) for v, g in zip(phi[m], slope, strict=True))
        ).backward()
        head = [v.grad for name, v in p.items() if name.startswith("fusion.head.")]
        norm = math.sqrt(sum(float((v.grad**2).sum()) for v in p.values()))
        if bound and max(float(g.abs().max()) for g in head) > bound:
            for v in p.values():
                v.grad *= bound / (norm + 1e-6)
        reference.sgd(p, velocity, config.lr, config.momentum, config.weight_decay)
    return p, means


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize("bound", [0, 0.1])
def test_steps_equal_a_loop_over_seeds_and_samples(M: int, bound: float) -> None:
    data = feed(feature_set(M))
    knobs = {"alpha": 1.7, "cap": 0.2, "clip": bound}
    method, fresh = build("agm", data, **knobs), build("agm", data, **knobs)
    batches = steps(method, data, 6)
    for i in range(3):
        expected, means = slow(fresh, i, batches, 1.7, 0.2, bound)
        state = method.state_dict()
        assert all((state[name][i] - value).abs().max() < 1e-10 for name, value in expected.items())
        assert method.mean[i].tolist() == pytest.approx(means, abs=1e-10)
        assert set(state) == {*expected, "mean", "count"}


@pytest.mark.parametrize("M", [2, 3])
def test_steps_with_a_gated_head_equal_explicit_coalitions(M: int) -> None:
    data = feed(feature_set(M))
    method = build("agm", data, fusion="gated", clip=0)
    twin = build("agm", data, fusion="gated", clip=0)
    means, names = torch.zeros(3, M, dtype=D64), [name for name, _ in twin.named_parameters()]
    for t, batch in enumerate(data.epoch(method.rng, 16), 1):
        out = twin(batch)
        phi = [by_definition(twin, out.h, m) for m in twin.mods]
        z = sum(phi).detach().requires_grad_()
        each = torch.nn.functional.cross_entropy(z.flatten(0, 1), batch.y.flatten(), reduction="sum")
        slope = torch.autograd.grad(each / batch.y.shape[1], z)[0]
        true = [v.detach().softmax(-1).gather(-1, batch.y[..., None])[..., 0] for v in phi]
        losses = torch.stack([-v.log().mean(1) for v in true], 1)
        r, tau = ((M / (M - 1) * (v.mean(1, keepdim=True) - v)).exp() for v in (losses, means))
        kappa = (tau - r).exp()
        means = means + (losses - means) / t
        twin.zero_grad()
        sum((kappa[:, j, None, None] * slope * v).sum() for j, v in enumerate(phi)).backward()
        method.step(batch)
        for name, p, q in zip(names, method.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(p.grad, q.grad, rtol=0, atol=1e-12), name
        with torch.no_grad():
            for p, q in zip(method.parameters(), twin.parameters(), strict=True):
                q.copy_(p)
