"""CGGM: the numbers of its specification, every switch, what must not mix, and a slow loop with its memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmbal_cli.methods import method_class
from mmbal_cli.ops.guidance import accuracy, cosine, misalignment, of_each, others_share, output_layers
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed, train
from tests.methods import reference

D64 = torch.float64


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=D64)


# ------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("guard", [True, False])
def test_factors_of_known_improvements(guard: bool) -> None:
    found = 1.3 * others_share(row(0.10, 0.05), guard)
    assert found[0].tolist() == pytest.approx([0.433333, 0.866667], abs=1e-6)
    found = 1.3 * others_share(row(0.1, 0.1, 0.2), guard)
    assert found[0].tolist() == pytest.approx([0.975, 0.975, 0.65], abs=1e-6)


def test_shares_sum_to_all_but_one() -> None:
    g = torch.Generator().manual_seed(0)
    D = torch.randn(50, 4, generator=g, dtype=D64)
    assert torch.allclose(others_share(D).sum(1), torch.full((50,), 3.0, dtype=D64))
    assert torch.allclose(others_share(D, False).sum(1), torch.full((50,), 3.0, dtype=D64), atol=1e-5)


def test_the_guard_keeps_the_sign() -> None:
    assert (1.3 * others_share(row(-0.02, 0.01), False))[0].tolist() == pytest.approx([-1.3, 2.6], abs=1e-5)
    assert others_share(row(-0.02, 0.01))[0].tolist() == pytest.approx([1, 0])
    assert others_share(row(-0.1, -0.2, 0.0))[0].tolist() == pytest.approx([2 / 3] * 3)
    assert others_share(row(0.2, 0.2))[0].tolist() == pytest.approx([0.5, 0.5])


def test_the_direction_term_is_nothing_where_all_agree_and_most_where_all_oppose() -> None:
    W = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=D64)
    same, opposed = cosine(W, 2 * W), cosine(-W, W)
    assert same.tolist() == pytest.approx([1, 1])
    assert opposed.tolist() == pytest.approx([-1, -1])
    c = torch.tensor([[0.3, 0.7], [1.2, 0.5]], dtype=D64)
    assert misalignment(c, torch.stack([same, same], 1)).tolist() == pytest.approx([0, 0])
    assert misalignment(c, torch.stack([opposed, opposed], 1)).tolist() == pytest.approx([1.0, 1.7])
    assert misalignment(-c, torch.stack([same, same], 1)).tolist() == pytest.approx([1.0, 1.7])
    assert cosine(0 * W, W).tolist() == [0, 0]


def test_accuracy_counts_present_samples_and_waits_when_there_are_none() -> None:
    z = torch.eye(3, dtype=D64)[None].repeat(2, 1, 1)
    y = torch.tensor([[0, 1, 0], [0, 1, 0]])
    before = torch.tensor([0.9, 0.8], dtype=D64)
    assert accuracy(z, y, None, before).tolist() == pytest.approx([2 / 3, 2 / 3])
    here = torch.tensor([[True, False, True], [False, False, False]])
    assert accuracy(z, y, here, before).tolist() == pytest.approx([0.5, 0.8])


# ----------------------------------------------------------------------------------- the switches


def grads(method: torch.nn.Module, part: str) -> list[Tensor]:
    return [p.grad.clone() for name, p in method.named_parameters() if name.startswith(part) and p.grad is not None]


@pytest.mark.parametrize("clip", [None, 0.3])
def test_without_both_parts_it_is_concat_bit_for_bit(clip: float | None) -> None:
    data = feed(feature_set(3, absent=0.2))
    config = TrainConfig(**(CONFIG.model_dump() | {"clip": clip}))
    plain = build("concat", data, config=config)
    cggm = build("cggm", data, config=config, lam=0.0, magnitude="off")
    train(plain, data, 3)
    train(cggm, data, 3)
    assert all(torch.equal(v, cggm.state_dict()[k]) for k, v in plain.state_dict().items())


def test_encoders_are_scaled_and_nothing_else() -> None:
    data = feed(feature_set(2))
    plain, cggm = build("concat", data), build("cggm", data, rho=1.7)
    batch = next(data.epoch(plain.rng, 16))
    plain.step(batch)
    cggm.step(batch)
    assert (cggm.c.sum(1) - 1).abs().max() < 1e-12
    assert cggm.c.std(1).min() > 0
    for i, m in enumerate(plain.mods):
        for a, b in zip(grads(plain, f"enc.{m}_."), grads(cggm, f"enc.{m}_."), strict=True):
            factor = 1.7 * cggm.c[:, i].view(-1, *[1] * (a.dim() - 1))
            assert torch.allclose(factor * a, b, rtol=0, atol=1e-14)
    assert all(torch.equal(a, b) for a, b in zip(grads(plain, "fusion"), grads(cggm, "fusion"), strict=True))


@pytest.mark.parametrize("towards", ["weight", "grad"])
def test_side_classifiers_learn_from_their_own_loss_alone_and_give_encoders_nothing(towards: str) -> None:
    data = feed(feature_set(2))
    batches = list(data.epoch(build("cggm", data).rng, 16))
    one, other = (build("cggm", data, lam=lam, magnitude="off", direction=towards) for lam in (0.0, 5.0))
    for method in (one, other):
        with torch.no_grad():
            method.c.fill_(0.5)
        out = method(batches[0])
        method.opt.zero_grad()
        method.loss(out, batches[0])
        method.side_loss(out, batches[0]).sum().backward()
        assert grads(method, "enc") == grads(method, "fusion") == []
        found = grads(method, "side")
        method.opt.zero_grad()
        method.loss(method(batches[0]), batches[0]).sum().backward()
        assert grads(method, "side") == []
        method.step(batches[0])
    assert len(found) == 8
    assert all(torch.equal(a, b) for a, b in zip(one.side.parameters(), other.side.parameters(), strict=True))
    assert not torch.equal(one.fusion.head.weight, other.fusion.head.weight)
    touched = torch.equal(one.enc["audio"].mlp.layers[0].weight, other.enc["audio"].mlp.layers[0].weight)
    assert touched == (towards == "weight")  # gradients of the output layer depend on the features


def test_the_direction_term_turns_the_output_layer_to_the_classifiers() -> None:
    data = feed(feature_set(2))
    method = build("cggm", data, (1, 2), lam=1.0)
    with torch.no_grad():
        method.c.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    U = [method.side[m][1].weight for m in method.mods]
    before = torch.stack([cosine(u, w) for u, w in zip(U, output_layers(method.fusion)[0].chunk(2, 1), strict=True)], 1)
    assert misalignment(method.c, before).tolist() == pytest.approx([(1 - before[i, i].item()) / 2 for i in range(2)])
    W = method.fusion.head.weight
    (g,) = torch.autograd.grad(misalignment(method.c, before).sum(), [W])
    a, v = (W - 0.1 * g).chunk(2, 1)
    after = torch.stack([cosine(U[0], a), cosine(U[1], v)], 1)
    assert (after - before).diagonal().min() > 0
    assert torch.equal(a[1], W.chunk(2, 1)[0][1])  # whoever does not lag is let be


def test_the_output_layer_of_every_allowed_fusion() -> None:
    data, D = feed(feature_set(3)), CONFIG.width
    shapes = {"concat": (D, 4), "concat:mlp": (D, 4), "sum": (D, 4), "sum:mean": (D, 4), "sum:feature": (D, 4)}
    for fusion in (*method_class("cggm").card.fusions, *shapes):
        method = build("cggm", data, (1, 2), fusion=fusion)
        W = of_each(output_layers(method.fusion), 3, D)
        assert len(W) == 3
        assert all(w.shape == method.side[m][1].weight.shape for m, w in zip(method.mods, W, strict=True))
        assert tuple(W[0].shape[1:]) == shapes.get(fusion, tuple(W[0].shape[1:]))
        assert all(torch.isfinite(loss).all() for loss in train(method, data))
    method = build("cggm", data)
    W, blocks = method.fusion.head.weight, of_each(output_layers(method.fusion), 3, D)
    assert all(torch.equal(blocks[j], W[:, j * D : (j + 1) * D]) for j in range(3))


# -------------------------------------------------------------------------------- the slow trainer


def side(p: reference.Params, m: str, h: Tensor) -> Tensor:
    """Logits of a side classifier for one detached feature."""
    hidden = torch.relu(h.detach() @ p[f"side.{m}_.0.layers.0.weight"] + p[f"side.{m}_.0.layers.0.bias"][0])
    return hidden @ p[f"side.{m}_.1.weight"] + p[f"side.{m}_.1.bias"][0]


def shares(D: list[float], guard: str) -> list[float]:
    if guard == "off":
        T = sum(D) + 1e-8
        return [(T - d) / T for d in D]
    D = [max(d, 0.0) for d in D]
    return [1 - d / sum(D) for d in D] if sum(D) >= 1e-6 else [1 - 1 / len(D)] * len(D)


def bounded(p: reference.Params, clip: float | None) -> None:
    found = [v.grad for v in p.values() if v.grad is not None]
    norm = torch.sqrt(sum((g**2).sum() for g in found))
    if clip is not None and norm > clip:
        for g in found:
            g *= clip / (norm + 1e-6)


@pytest.mark.parametrize(
    ("M", "direction", "guard", "clip"),
    [(2, "weight", "on", None), (3, "weight", "off", 0.5), (2, "grad", "off", 0.5), (3, "grad", "on", None)],
)
def test_steps_equal_a_loop_over_seeds_and_samples(M: int, direction: str, guard: str, clip: float | None) -> None:
    data = feed(feature_set(M, n=76, absent=0.2))
    config = TrainConfig(**(CONFIG.model_dump() | {"clip": clip}))
    knobs = {"lam": 0.6, "rho": 1.1, "side_lr": 0.4, "direction": direction, "guard": guard}
    method, fresh = (build("cggm", data, config=config, **knobs) for _ in range(2))
    batches = list(data.epoch(method.rng, 16))
    for batch in batches:
        method.step(batch)
    for i in range(3):
        p, velocity = reference.parameters_of(fresh, i), {}
        side_p = {k: v for k, v in p.items() if k.startswith("side.")}
        main_p = {k: v for k, v in p.items() if k.startswith(("enc.", "fusion."))}
        acc, c = [0.0] * M, [0.0] * M
        for batch in batches:
            n, D = batch.y.shape[1], method.D
            joint, own, right, count = 0.0, [0.0] * M, [0] * M, [0] * M
            for b, y in enumerate(batch.y[i].tolist()):
                z = p["fusion.head.bias"][0]
                for j, m in enumerate(method.mods):
                    if batch.mask[m] is not None and not batch.present(m)[i, b]:
                        continue
                    h = reference.adapter(p, m, batch.x[m][i, b])
                    z = z + h @ p["fusion.head.weight"][j * D : (j + 1) * D]
                    u = side(p, m, h)
                    own[j] = own[j] + reference.cross_entropy(u, y)
                    right[j], count[j] = right[j] + int(u.argmax() == y), count[j] + 1
                joint = joint + reference.cross_entropy(z, y) / n
            own_loss = sum(loss / k for loss, k in zip(own, count, strict=True))
            W, U = p["fusion.head.weight"], [p[f"side.{m}_.1.weight"] for m in method.mods]
            if direction == "grad":
                W = torch.autograd.grad(joint, W, create_graph=True)[0]
                U = torch.autograd.grad(own_loss, U, retain_graph=True)
            pull = 0.0
            for j in range(M):
                block = W[j * D : (j + 1) * D]
                dot = (block * U[j].detach()).sum()
                pull = pull + abs(c[j]) - c[j] * dot / (block.norm() * U[j].detach().norm())
            found = torch.autograd.grad(joint + 0.6 * pull / M, list(main_p.values()), retain_graph=True)
            own_loss.backward()
            for value in main_p.values():
                assert value.grad is None
            bounded(side_p, clip)
            before = {k: v.detach().clone() for k, v in side_p.items()}
            reference.sgd(side_p, velocity, config.lr, config.momentum, config.weight_decay)
            with torch.no_grad():
                for k, v in side_p.items():
                    v.copy_(before[k] + 0.4 * (v - before[k]))
            now = [r / k for r, k in zip(right, count, strict=True)]
            c, acc = shares([a - b for a, b in zip(now, acc, strict=True)], guard), now
            for (name, value), g in zip(main_p.items(), found, strict=True):
                factors = [1.1 * c[j] for j, m in enumerate(method.mods) if name.startswith(f"enc.{m}_.")]
                value.grad = g * (factors[0] if factors else 1.0)
            bounded(main_p, clip)
            reference.sgd(main_p, velocity, config.lr, config.momentum, config.weight_decay)
        for name, value in {**main_p, **side_p}.items():
            assert (method.state_dict()[name][i] - value).abs().max() < 1e-10, name
        assert method.c[i].tolist() == pytest.approx(c, abs=1e-9)
        assert method.acc[i].tolist() == pytest.approx(acc, abs=1e-12)
