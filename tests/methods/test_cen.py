"""CEN: the numbers of the specification, its switches, and an independent loop over seeds, layers and modalities."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmbal_cli.engine.fit import Fit
from mmbal_cli.nn.exchange import exchange, share_norm
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed, fit, steps
from tests.methods import reference

D64 = torch.float64
ALL = {"a": None, "v": None, "t": None}
FULL = {"theta": 0.9, "lambda": 0.2}  # exchanges after a few steps


def vector(*values: float) -> torch.Tensor:
    return torch.tensor([[values]], dtype=D64)


def numbers(found: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    return {m: x.flatten().tolist() for m, x in found.items()}


def test_channels_of_small_scale_come_from_the_other_modality() -> None:
    gamma = {"a": vector(0.5, 0.01), "v": vector(-0.01, -0.5)}  # the sign does not matter
    u = {"a": vector(1, 2), "v": vector(3, 4)}
    assert numbers(exchange(u, gamma, 0.02, ALL)) == {"a": [1, 4], "v": [1, 4]}
    assert numbers(exchange(u, gamma, 0.0, ALL)) == numbers(u)


def test_the_penalty_counts_each_channel_once() -> None:
    assert share_norm({"a": vector(0.5, 0.01), "v": vector(0.01, 0.5)}).item() == 1.0
    assert share_norm({"v": vector(0.01, 0.5), "a": vector(-0.5, 0.01)}).item() == 1.0  # by alphabet
    assert share_norm({"a": vector(0.5, 0.01)}).item() == 0
    three = {m: vector(*(10.0**k for k in range(7))) for m in "atv"}
    assert share_norm(three).item() == 1111111  # every channel is somebody's


def test_three_modalities_take_the_mean_of_those_a_sample_has() -> None:
    gamma = {"a": vector(0.0), "v": vector(1.0), "t": vector(0.0)}
    u = {m: torch.full((1, 3, 1), value, dtype=D64) for m, value in {"a": 1.0, "v": 3.0, "t": 7.0}.items()}
    assert numbers(exchange(u, gamma, 0.5, ALL)) == {"a": [5] * 3, "v": [3] * 3, "t": [2] * 3}
    yes = torch.ones(1, 3, dtype=torch.bool)
    present = {"a": yes, "v": torch.tensor([[True, False, False]]), "t": torch.tensor([[True, True, False]])}
    assert numbers(exchange(u, gamma, 0.5, present)) == {"a": [5, 7, 1], "v": [3] * 3, "t": [2, 1, 1]}


def test_a_replaced_channel_teaches_its_source() -> None:
    gamma = {m: vector(*g).requires_grad_() for m, g in {"a": (0.5, 0.01), "v": (0.5, 0.5)}.items()}
    x = {"a": vector(1, 2), "v": vector(3, 4)}
    found = exchange({m: gamma[m] * x[m] for m in gamma}, gamma, 0.02, ALL)
    (found["a"].sum() + share_norm({"a": gamma["v"], "v": gamma["a"]}).sum()).backward()
    assert gamma["a"].grad.flatten().tolist() == [1, 1]  # own channel 1; channel 2 only the pull of the penalty
    assert gamma["v"].grad.flatten().tolist() == [1, 4]  # the pull; what it lent


def test_the_mixture_learns_its_weights_only() -> None:
    data = feed(feature_set(2))
    method = build("cen", data)
    o = {m: torch.randn(3, 4, 4, dtype=D64, requires_grad=True) for m in method.mods}
    out = method.mixed({}, o, dict.fromkeys(method.mods))
    assert torch.allclose(out.fused, 0.5 * sum(o.values()), atol=1e-14)
    out.fused.square().sum().backward()
    assert all(x.grad is None for x in o.values())
    assert method.a.grad.abs().sum() > 0


def test_the_mixture_weighs_the_modalities_that_a_sample_has() -> None:
    data = feed(feature_set(2))
    method = build("cen", data)
    o = {m: torch.randn(3, 2, 4, dtype=D64) for m in method.mods}
    first, second = method.mods
    present = {first: torch.tensor([[True, False]] * 3), second: torch.tensor([[False, False]] * 3)}
    z = method.mixed({}, o, present).fused
    assert torch.allclose(z[:, 0], o[first][:, 0], atol=1e-14)
    assert torch.allclose(z[:, 1], 0.5 * (o[first] + o[second])[:, 1], atol=1e-14)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("width", [8, 64])
def test_scales_and_mixture_do_not_decay(optimizer: str, width: int) -> None:
    config = TrainConfig(**(CONFIG.model_dump() | {"optimizer": optimizer, "width": width, "weight_decay": 0.5}))
    method = build("cen", feed(feature_set(2)), config=config)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    for p in method.parameters():
        p.grad = torch.zeros_like(p)
    method.opt.set_epoch(0, 1)
    method.opt.step()
    for name, p in method.named_parameters():
        scale = name == "a" or ("norm" in name and name.endswith("weight"))
        assert torch.equal(p, before[name]) == (scale or not before[name].any()), name
    assert sum(len(group["params"]) for group in method.opt.inner.param_groups) == len(before)


def test_the_penalty_alone_reaches_theta_in_about_a_thousand_steps() -> None:
    config = TrainConfig(**(CONFIG.model_dump() | {"lr": 0.01}))
    method = build("cen", feed(feature_set(2)), config=config)
    method.opt.set_epoch(0, 1)
    for step in range(2000):  # noqa: B007
        method.opt.zero_grad()
        (method.penalty * method.stack.sparsity()).sum().backward()
        method.opt.step()
        if all((share == 0.5).all() for share in method.stack.exchanged(method.theta).values()):
            break
    assert 950 <= step <= 1050


def test_a_single_modality_exchanges_nothing_and_pays_nothing() -> None:
    data = feed(feature_set(1))
    one, other = (fit(build("cen", data, **knobs), data) for knobs in (FULL, {"theta": 0.0, "lambda": 0.0}))
    assert all(torch.equal(v, other.chosen.state[k]) for k, v in one.chosen.state.items())


def test_the_exchanged_share_is_recorded() -> None:
    data = feed(feature_set(2))
    method = build("cen", data, **FULL)
    rows = [epoch[0] for epoch in Fit(method, data).run()]
    assert all(rows[0][f"coef/exchanged/{m}"] == 0 for m in method.mods)
    assert all(rows[-1][f"coef/exchanged/{m}"] > 0.2 for m in method.mods)


# ------------------------------------------------------------------------------------ the slow reference


def slow_logits(
    p: reference.Params, x: dict[str, torch.Tensor], here: dict[str, list[bool]], training: bool, theta: float
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Per-modality and mixed logits of one seed's batch; moves the running statistics in training."""
    mods, B = list(x), len(next(iter(here.values())))
    zero = torch.zeros(8, dtype=D64)
    h = {m: torch.stack([reference.adapter(p, m, x[m][b]) if here[m][b] else zero for b in range(B)]) for m in mods}
    for k in range(2):
        u = {}
        for m in mods:
            at = f"stack.layers.{k}.norm.{m}_."
            y = h[m] @ p[f"stack.layers.{k}.linear.weight"]
            rows = torch.tensor(here[m]) if training else torch.ones(B, dtype=torch.bool)
            mean, var = p[f"{at}mean"].data[0], p[f"{at}var"].data[0]
            weight, bias = p[f"{at}weight"][0], p[f"{at}bias"][0]
            u[m] = torch.zeros_like(y)
            u[m][rows] = F.batch_norm(y[rows], mean, var, weight, bias, training, 0.1, 1e-5)
        h = {}
        for m in mods:
            lines = []
            for b in range(B):
                others = [u[j][b] for j in mods if j != m and here[j][b]]
                mean_other = sum(others) / len(others) if others else u[m][b]
                gone = p[f"stack.layers.{k}.norm.{m}_.weight"][0].abs() < theta
                lines.append(torch.stack([mean_other[d] if gone[d] else u[m][b][d] for d in range(8)]))
            h[m] = torch.relu(torch.stack(lines))
    o = {m: h[m] @ p["head.weight"] + p["head.bias"][0] for m in mods}
    z = []
    for b in range(B):
        has = [j for j, m in enumerate(mods) if here[m][b]]
        w = torch.exp(p["a"][has]) / torch.exp(p["a"][has]).sum() if has else torch.full_like(p["a"], 1 / len(mods))
        has = has or list(range(len(mods)))
        z.append(sum(w[n] * o[mods[j]][b].detach() for n, j in enumerate(has)))
    return o, torch.stack(z)


def slow_loss(p: reference.Params, o: dict, z: torch.Tensor, y: list[int], here: dict, strength: float) -> torch.Tensor:
    loss = sum(reference.cross_entropy(z[b], y[b]) for b in range(len(y))) / len(y)
    for m, logits in o.items():
        has = [b for b in range(len(y)) if here[m][b]]
        loss = loss + sum(reference.cross_entropy(logits[b], y[b]) for b in has) / len(has)
    for k in range(2):
        for d in range(8):
            m = owner(sorted(o), d)
            loss = loss + strength * p[f"stack.layers.{k}.norm.{m}_.weight"][0, d].abs()
    return loss


def owner(names: list[str], d: int) -> str:
    """Whose share channel d of 8 is in: 4+4, or 3+3+2."""
    return names[d // 4] if len(names) == 2 else names[d // 3]


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize("absent", [0.0, 0.3])
def test_steps_equal_a_loop(M: int, absent: float) -> None:
    data = feed(feature_set(M, absent=absent))
    method, fresh = (build("cen", data, theta=0.95, **{"lambda": 0.2}).train() for _ in range(2))
    batches = steps(method, data, 6)
    share = {m: float(x.max()) for m, x in method.stack.exchanged(0.95).items()}
    assert max(share.values()) > 0  # the exchange acts
    probe = next(data.split("val", 3))
    found = method.eval()(probe)
    for i in range(3):
        p, velocity = reference.parameters_of(fresh, i), {}
        for batch in batches:
            here = presence(batch, method.mods, i)
            o, z = slow_logits(p, {m: batch.x[m][i] for m in method.mods}, here, True, 0.95)
            slow_loss(p, o, z, batch.y[i].tolist(), here, 0.2).backward()
            free = {k: v for k, v in p.items() if k == "a" or (".norm." in k and k.endswith("weight"))}
            c = method.config
            reference.sgd(free, velocity, c.lr, c.momentum, 0.0)
            reference.sgd({k: v for k, v in p.items() if k not in free}, velocity, c.lr, c.momentum, c.weight_decay)
        for key, value in method.state_dict().items():
            assert torch.allclose(value[i], p[key], rtol=0, atol=1e-10), key
        here = presence(probe, method.mods, i)
        o, z = slow_logits(p, {m: probe.x[m][i] for m in method.mods}, here, False, 0.95)
        assert torch.allclose(found.fused[i], z, rtol=0, atol=1e-10)
        for m in method.mods:
            rows = torch.tensor(here[m])
            assert torch.allclose(found.z[m][i][rows], o[m][rows], rtol=0, atol=1e-10)


def presence(batch, mods: tuple[str, ...], i: int) -> dict[str, list[bool]]:  # type: ignore[no-untyped-def]
    """Which samples of seed i have each modality."""
    masks = {m: batch.present(m) for m in mods}
    return {m: [True] * batch.y.shape[1] if mask is None else mask[i].tolist() for m, mask in masks.items()}
