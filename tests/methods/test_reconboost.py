"""ReconBoost: the numeric checks of the specification, and an independent loop over seeds, stages and samples."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from mmbal_cli.errors import RecipeError
from mmbal_cli.methods.base import Batch
from mmbal_cli.ops.boosting import drift, residual_ce, turn
from mmbal_cli.ops.losses import ce
from tests.kit.features import CONFIG, build, feature_set, feed, fit
from tests.methods import reference
from tests.methods.alternating_reference import epochs, mean, samples

D64 = torch.float64


def row(*values: float) -> torch.Tensor:
    return torch.tensor([[values]], dtype=D64)


def first() -> torch.Tensor:
    return torch.zeros(1, 1, dtype=torch.long)


def others(q: float) -> torch.Tensor:
    """Logits of three classes that give class 0 the probability q."""
    return row(q, (1 - q) / 2, (1 - q) / 2).log()


def test_known_probabilities_give_the_known_loss() -> None:
    z = row(0.5, 0.3, 0.2).log()
    assert residual_ce(z, first(), others(0.6), 5, 1).item() / 3 == pytest.approx(1.016616, abs=1e-6)


def test_known_logits_give_the_known_gradient() -> None:
    z = row(0.3, -0.2, 0.1).requires_grad_()
    y = first() + 1
    (residual_ce(z, y, others(0.6).roll(1, -1), 5, 1).sum() / 3).backward()
    assert z.grad.flatten().tolist() == pytest.approx([0.6047, -1.0999, 0.4951], abs=1e-4)


def test_loss_is_the_weighted_cross_entropy_and_its_special_cases() -> None:
    g = torch.Generator().manual_seed(0)
    z, rest = torch.randn(2, 7, 5, generator=g, dtype=D64), torch.randn(2, 7, 5, generator=g, dtype=D64)
    y = torch.randint(5, (2, 7), generator=g)
    each = torch.stack([torch.nn.functional.cross_entropy(z[s], y[s], reduction="none") for s in range(2)])
    q = torch.stack([rest[s].softmax(-1)[torch.arange(7), y[s]] for s in range(2)])
    assert torch.allclose(residual_ce(z, y, rest, 5, 1), (5 - q) * each)
    assert torch.allclose(residual_ce(z, y, rest, 1, 0), each)
    assert torch.allclose(residual_ce(z, y, None, 5, 1), 4 * each)
    assert torch.allclose(residual_ce(z, y, None, 5, 1, full=True), 4 * each)
    logp = z.log_softmax(-1)
    full = 5 * each + (rest.softmax(-1) * logp).sum(-1)
    assert torch.allclose(residual_ce(z, y, rest, 5, 1, full=True), full)


def test_gradient_of_the_full_form_is_the_residual() -> None:
    z, rest = row(0.3, -0.2, 0.1).requires_grad_(), others(0.6)
    residual_ce(z, first(), rest, 1, 0.25, full=True).sum().backward()
    target = torch.tensor([1.0, 0, 0], dtype=D64) - 0.25 * rest.softmax(-1)
    assert torch.allclose(z.grad, target.sum() * z.softmax(-1) - target)


def test_memory_pulls_the_new_one_only() -> None:
    z, before = row(1, 0, 0).requires_grad_(), row(0, 1, 0).requires_grad_()
    value = drift(z, before)
    value.sum().backward()
    p, r = z.softmax(-1), before.softmax(-1)
    assert value.item() == pytest.approx(((p - r) ** 2).mean().item())
    assert before.grad is None
    assert z.grad.abs().sum() > 0


@pytest.mark.parametrize(("E", "boost", "rectify"), [(100, 0.02, 0.02), (7, 0.02, 0.02), (20, 0.1, 0.2), (4, 1.0, 0.02),
                                                     (4, 0.02, 1.0), (1, 0.02, 0.02), (2, 1.0, 1.0)])  # fmt: skip
def test_stages_fill_the_run_and_never_end_while_boosting(E: int, boost: float, rectify: float) -> None:
    found = [turn(e, E, boost, rectify) for e in range(E)]
    assert not found[-1][1]
    assert found[0][::2] == (0, True)
    one = min(max(1, round(boost * E)), E - 1)
    two = min(max(1, round(rectify * E)), E - one)
    assert found[-1][0] == E // (one + two) - 1
    for (a, boosting, _), (b, now, begins) in pairwise(found):
        assert b - a in (0, 1)
        assert begins == (b != a or now != boosting)
    for stage in range(found[-1][0] + 1):
        own = [boosting for s, boosting, _ in found if s == stage]
        assert sum(own) == one
        assert own == sorted(own, reverse=True)
        assert len(own) - one == two or stage == found[-1][0]


def test_defaults_are_two_epochs_of_each_in_a_hundred() -> None:
    assert [turn(e, 100, 0.02, 0.02) for e in range(5)] == [
        (0, True, True), (0, True, False), (0, False, True), (0, False, False), (1, True, True),
    ]  # fmt: skip


def test_sum_with_its_factor() -> None:
    data = feed(feature_set(2))
    method = build("reconboost", data, (1,), head="linear")
    a, v = method.mods
    with torch.no_grad():
        method.shared.beta.fill_(2)
    method.seen.fill_(1)
    phi = {a: row(1, 0), v: row(0, 3)}
    method.encode = lambda batch: phi
    method.shared.out.forward = lambda h: h
    batch = Batch({}, first(), first(), dict.fromkeys(method.mods))
    out = method(batch)
    assert out.fused.flatten().tolist() == [2, 6]
    assert out.z[v].flatten().tolist() == [0, 6]
    absent = Batch({}, first(), first(), {a: torch.zeros(1, 1, dtype=torch.bool), v: None})
    assert method(absent).fused.flatten().tolist() == [0, 6]
    method.seen[:, 1] = 0
    assert method(batch).fused.flatten().tolist() == [2, 0]
    assert method(absent).fused.flatten().tolist() == [0, 0]


def test_boosting_leaves_the_others_and_beta_bit_for_bit_and_rectification_moves_all() -> None:
    data = feed(feature_set(2))
    method = build("reconboost", data)
    for method.epoch in range(4):
        before = {name: p.detach().clone() for name, p in method.named_parameters()}
        method.begin_epoch(None)
        method.train()
        for batch in data.epoch(method.rng, 16):
            method.step(batch)
        moved = {name for name, p in method.named_parameters() if not torch.equal(p, before[name])}
        a, v = (f"enc.{m}_." for m in method.mods)
        expected = {0: (a, "shared.hidden", "shared.out"), 1: (a, "shared."), 2: (v, "shared.hidden", "shared.out"),
                    3: (a, v, "shared.")}[method.epoch]  # fmt: skip
        assert moved == {name for name in before if name.startswith(expected)}


def test_every_part_begins_with_a_new_optimizer() -> None:
    data = feed(feature_set(2))
    method = build("reconboost", data, boost=0.5, rectify=0.25)
    kept = []
    for method.epoch in range(4):
        method.begin_epoch(None)
        kept.append(method.opt)
    assert len({id(opt) for opt in kept}) == 2
    assert kept[0] is kept[1]
    assert kept[2] is kept[3]


def test_the_others_answer_without_dropout() -> None:
    data = feed(feature_set(2))
    config = CONFIG.model_copy(update={"dropout": 0.5})
    method = build("reconboost", data, config=config)
    method.epoch = 2
    method.begin_epoch(None)
    method.train()
    method.step(next(data.epoch(method.rng, 16)))
    assert [method.enc[m].training for m in method.mods] == [False, True]


def test_turns_and_what_the_others_know_are_recorded() -> None:
    data = feed(feature_set(3))
    method = build("reconboost", data)
    run = fit(method, data)
    assert method.seen.tolist() == [[1, 1, 0]] * 3
    assert run.chosen.state["seen"].shape == (3, 3)
    method.epoch = 2
    method.begin_epoch(None)
    found = method.collect()
    assert [found[f"turns/{m}"].tolist() for m in method.mods] == [[1] * 3, [1] * 3, [0] * 3]
    long = CONFIG.model_copy(update={"epochs": 20})
    method = build("reconboost", data, config=long, boost=0.05, rectify=0.05)
    method.epoch = 19
    method.begin_epoch(None)
    assert [method.collect()[f"turns/{m}"].tolist() for m in method.mods[:1]] == [[4] * 3]


def test_negative_weights_are_refused() -> None:
    data = feed(feature_set(2))
    build("reconboost", data, w1=1.0, w2=1.0)
    with pytest.raises(RecipeError, match=r"w2 of reconboost is above method\.w1"):
        build("reconboost", data, w1=1.0, w2=1.5)


def test_without_the_others_a_first_turn_is_scaled_unimodal_training() -> None:
    data = feed(feature_set(2))
    method = build("reconboost", data, w1=4.0, w2=0.0)  # (w1 - w2) / C = 1
    method.begin_epoch(None)
    batch = next(data.epoch(method.rng, 16))
    m = method.mods[0]
    each = ce(method.shared(method.enc[m](batch.x[m], batch.mask[m])), batch.y)
    assert torch.allclose(method.step(batch), each)


FORMS = [
    {},
    {"alpha": 3.0, "head": "linear"},
    {"kl": "full", "norm": "1", "w1": 2.0, "w2": 0.5},
    {"alpha": 0.0, "boost": 0.5, "rectify": 0.25},
]


@pytest.mark.parametrize(("M", "absent"), [(2, 0.0), (3, 0.0), (3, 0.4)])
@pytest.mark.parametrize("knobs", FORMS)
def test_epochs_equal_a_loop_over_seeds_stages_and_samples(M: int, absent: float, knobs: dict) -> None:
    data = feed(feature_set(M, n=32, absent=absent))
    config = CONFIG.model_copy(update={"epochs": 7})
    method, fresh = build("reconboost", data, config=config, **knobs), build("reconboost", data, config=config, **knobs)
    fed = epochs(method, data)
    w1, w2, alpha = (method.knobs[name] for name in ("w1", "w2", "alpha"))
    lengths = {True: 4, False: 2} if "boost" in knobs else {True: 1, False: 1}  # epochs of 7
    mods, C = method.mods, 4
    plan = [(s, boosting) for s in range(9) for boosting in (True, False) for _ in range(lengths[boosting])][:6]
    plan.append((plan[-1][0], False))  # the seventh epoch cannot be a stage of its own

    for i in range(3):
        p, velocity, before = reference.parameters_of(fresh, i), {}, None
        p.pop("seen")

        def phi(m: str, x: torch.Tensor, p: reference.Params = p) -> torch.Tensor:
            h = reference.adapter(p, m, x)
            if "shared.hidden.weight" in p:
                h = torch.relu(h @ p["shared.hidden.weight"] + p["shared.hidden.bias"][0])
            return h @ p["shared.out.weight"] + p["shared.out.bias"][0]

        for epoch, ((s, boosting), batches) in enumerate(zip(plan, fed, strict=True)):
            if (s, boosting) != before:
                velocity, before = {}, (s, boosting)
            seen, k, last = mods[: s + 1], mods[s % M], mods[(s - 1) % M]
            for batch in batches:
                losses, memory = [], []
                for x, y in samples(method, i, batch):
                    z = {m: phi(m, x[m]) for m in seen if m in x}
                    beta = p["shared.beta"][0, 0]
                    if not boosting:
                        if z:
                            losses.append(reference.cross_entropy(beta * sum(z.values()), y))
                        continue
                    if k not in z:
                        continue
                    logp = z[k] - torch.logsumexp(z[k], 0)
                    Q = torch.zeros(C, dtype=D64)
                    Q[y] = 1.0
                    if s > 0:
                        rest = [z[m].detach() for m in seen if m != k and m in z]
                        Phi = beta.detach() * sum(rest) if rest else torch.zeros(C, dtype=D64)
                        Q = torch.exp(Phi) / torch.exp(Phi).sum()
                        if last in z:
                            u, v = torch.exp(logp), z[last].detach().softmax(0)
                            memory.append(sum((u[c] - v[c]) ** 2 for c in range(C)) / C)
                    if method.kl == "full":
                        loss = -w1 * logp[y] + w2 * sum(Q[c] * logp[c] for c in range(C))
                    else:
                        loss = -(w1 - w2 * Q[y]) * logp[y]
                    losses.append(loss / (C if method.norm == "C" else 1))
                loss = mean(losses, torch.zeros((), dtype=D64))
                if memory:
                    loss = loss + alpha * mean(memory, loss)
                loss.backward()
                if boosting:
                    assert p["shared.beta"].grad is None
                lr = config.lr * (config.step_factor if epoch >= round(config.step_at * 7) else 1)
                reference.sgd(p, velocity, lr, config.momentum, config.weight_decay)
        for name, value in method.state_dict().items():
            if name != "seen":
                assert (value[i] - p[name]).abs().max() < 1e-10, name
