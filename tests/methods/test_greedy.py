"""Greedy: the numeric checks of the specification, and an independent loop over seeds and samples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mmbal_cli.engine.feed import Feed, predictions
from mmbal_cli.errors import UsageError
from mmbal_cli.methods.base import Batch, Method
from mmbal_cli.ops.losses import ce
from mmbal_cli.ops.speed import Curation, conditional_speed, curate, learning_speed, running_mean
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed
from tests.methods import reference

D64 = torch.float64
NOBODY = {"eps": 1000.0}


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=D64)


def batches(method: Method, data: Feed, epochs: int) -> list[tuple[int, Batch]]:
    size = method.config.batch
    return [(epoch, batch) for epoch in range(epochs) for batch in data.epoch(method.rng, size)]


def train(method: Method, steps: list[tuple[int, Batch]]) -> list[torch.Tensor]:
    """Who is curated [S,M] in each of the steps."""
    found = []
    for method.epoch, batch in steps:
        found.append(method.curation.curated.clone())
        method.step(batch)
    return found


# ---------------------------------------------------------------------------------------------- numbers


def test_known_speeds_curate_the_branch_that_leans_on_the_other() -> None:
    s = conditional_speed(tensor([0.02, 0.08]), tensor([0.10, 0.10]))
    assert s[0].tolist() == pytest.approx([-0.698970, -0.096910], abs=1e-6)
    assert float(s[0, 0] - s[0, 1]) == pytest.approx(-0.602060, abs=1e-6)
    idle = torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    curated, left = curate(s, *idle, 0.01, 5)
    assert (curated.tolist(), left.tolist()) == ([[0, 1]], [5])
    curated, left = curate(s, *idle, 0.61, 5)
    assert (curated.tolist(), left.tolist()) == ([[0, 0]], [0])


def test_three_modalities_go_by_the_largest_and_the_smallest_speed() -> None:
    idle = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, dtype=torch.long)
    curated, left = curate(tensor([0.1, 0.3, 0.2], [0.1, 0.2, 0.15]), *idle, 0.15, 4)
    assert (curated.tolist(), left.tolist()) == ([[0, 1, 0], [0, 0, 0]], [4, 0])


@pytest.mark.parametrize("Q", [1, 5])
def test_a_trigger_curates_exactly_the_next_steps_and_then_a_regular_one_follows(Q: int) -> None:
    curated, left = torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    held = []
    for step in range(1, 2 * Q + 12):
        held.append(bool(curated.any()))
        apart = tensor([0.5, 0.0]) if step >= 7 else tensor([0.0, 0.0])
        curated, left = curate(apart, curated, left, 0.01, Q)
    expected = [False] * 7 + ([True] * Q + [False]) * 9
    assert held == expected[: len(held)]


def test_equal_speeds_trigger_nothing_even_at_no_tolerance() -> None:
    curated, _ = curate(tensor([0.2, 0.2]), torch.zeros(1, 2, dtype=torch.long), torch.zeros(1).long(), 0.0, 5)
    assert not curated.any()


def test_learning_speed_pools_all_tensors_of_each_seed() -> None:
    p, q = (torch.nn.Parameter(tensor(*rows)) for rows in ([[1.0, 2.0], [0.0, 0.0]], [[2.0], [0.0]]))
    p.grad, q.grad = tensor([3.0, 0.0], [1.0, 1.0]), tensor([1.0], [1.0])
    assert learning_speed([p, q]).tolist() == [pytest.approx((9 + 1) / (1 + 4 + 4)), 0.0]  # values of zero are skipped
    q.grad = None
    assert learning_speed([p, q])[0].item() == pytest.approx(9 / 9)
    assert learning_speed([q]).tolist() == [0.0, 0.0]


def test_nothing_learned_gives_a_finite_speed() -> None:
    s = conditional_speed(tensor([0.0, 0.0, 0.1]), tensor([0.0, 0.1, 0.0]))
    assert s[0].tolist() == pytest.approx([0.0, -11.0, 11.0], abs=1e-6)


def test_running_mean_counts_steps_that_have_samples() -> None:
    mean, count = torch.zeros(1, 2, dtype=D64), torch.zeros(1, dtype=D64)
    mean, count = running_mean(mean, count, tensor([1.0, 2.0], [3.0, 4.0])[None])
    assert (mean.tolist(), count.tolist()) == ([[2.0, 3.0]], [1.0])
    second = tensor([8.0, 0.0], [99.0, 99.0])[None]
    mean, count = running_mean(mean, count, second, torch.tensor([[True, False]]))
    assert (mean.tolist(), count.tolist()) == ([[5.0, 1.5]], [2.0])
    mean, count = running_mean(mean, count, second, torch.tensor([[False, False]]))
    assert (mean.tolist(), count.tolist()) == ([[5.0, 1.5]], [2.0])


def test_chance_is_shared_out_equally_between_nobody_and_each_branch() -> None:
    curation = Curation(4, 3, 2, D64)
    curation.choose(torch.tensor([0.0, 0.25, 0.5, 0.999999], dtype=D64))
    assert curation.curated.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]


# ----------------------------------------------------------------------------------------------- method


def test_a_curated_gate_is_one_vector_and_its_weights_get_no_gradient() -> None:
    data = feed(feature_set(2))
    method = build("greedy", data, **NOBODY)
    steps = batches(method, data, 1)
    train(method, steps[:2])
    method.curation.curated[:2, 0] = 1
    method.curation.left[:2] = 1
    seen, branches = {}, method.fusion.branches
    method.fusion.branches = lambda h, gates: seen.update(gates) or branches(h, gates)
    method.step(steps[2][1])
    mean = method.curation.mean
    assert all(torch.equal(seen["audio"][s], mean[s, 0].expand(16, -1)) for s in (0, 1))
    assert not torch.allclose(seen["audio"][2, 0], seen["audio"][2, 1])
    assert not torch.allclose(seen["video"][0, 0], seen["video"][0, 1])
    for p in method.fusion.excite["audio"].parameters():
        assert (p.grad[:2] == 0).all()
        assert (p.grad[2] != 0).any()
    assert all((p.grad != 0).flatten(1).any(1).all() for p in method.fusion.excite["video"].parameters())


def test_without_tolerance_for_speed_nobody_is_curated_and_it_is_plain_gated_training() -> None:
    data = feed(feature_set(3))
    method, plain = build("greedy", data, start=1, **NOBODY), build("greedy", data, **NOBODY)
    steps = batches(method, data, 3)
    assert not any(curated.any() for curated in train(method, steps))
    for _, batch in steps:
        h = plain.encode(batch)
        z = plain.fusion.branches(h, plain.fusion.gates(h))
        plain.opt.zero_grad()
        sum(ce(z[m], batch.y).sum() for m in plain.mods).backward()
        plain.opt.step()
    assert all(torch.equal(p, q) for p, q in zip(method.parameters(), plain.parameters(), strict=True))


def test_ten_times_the_loss_leaves_the_differences_of_speed() -> None:
    data = feed(feature_set(2))
    one, ten = build("greedy", data, **NOBODY), build("greedy", data, **NOBODY)
    ten.loss = lambda out, batch: 10 * ten.unimodal_loss(out, batch)
    batch = next(data.epoch(one.rng, 16))
    one.step(batch)
    ten.step(batch)
    s, t = (conditional_speed(m.curation.bypass, m.curation.main) for m in (one, ten))
    assert torch.allclose(ten.curation.bypass, 100 * one.curation.bypass, rtol=1e-12)
    assert torch.allclose(s, t, atol=1e-9)


def test_clipping_does_not_reach_the_speeds() -> None:
    data = feed(feature_set(2))
    short = TrainConfig(**(CONFIG.model_dump() | {"clip": 1e-3}))
    one, two = build("greedy", data), build("greedy", data, config=short)
    batch = next(data.epoch(one.rng, 16))
    one.step(batch)
    two.step(batch)
    assert torch.equal(one.curation.bypass, two.curation.bypass)
    assert torch.equal(one.curation.main, two.curation.main)


@pytest.mark.parametrize(("start", "first"), [(1, 1), (2, 5), (3, 9)])
def test_curation_waits_for_its_epoch(start: int, first: int) -> None:
    data = feed(feature_set(2))
    method = build("greedy", data, eps=0.0, start=start)
    held = [bool(curated.any()) for curated in train(method, batches(method, data, 3))]
    assert held.index(True) == first  # four steps an epoch; its first step is the first that may trigger


def test_one_seed_is_curated_while_the_other_equals_its_solo_run() -> None:
    data = feed(feature_set(2))
    both = build("greedy", data, (1, 2), **NOBODY)
    most = torch.zeros(2, dtype=D64)
    for _, batch in batches(both, data, 2):
        both.step(batch)
        s = conditional_speed(both.curation.bypass, both.curation.main)
        most = torch.maximum(most, s.amax(1) - s.amin(1))
    knobs = {"eps": float(most.mean()), "start": 1}
    still = int(most.argmin())
    both = build("greedy", data, (1, 2), **knobs)
    held = torch.stack(train(both, batches(both, data, 2))).any(-1)
    solo = build("greedy", data, (1 + still,), **knobs)
    alone = torch.stack(train(solo, batches(solo, data, 2))).any(-1)
    assert held.any(0).tolist() == [still != 0, still != 1]
    assert torch.equal(held[:, still], alone[:, 0])
    for name, value in solo.state_dict().items():
        assert torch.allclose(both.state_dict()[name][still], value[0], rtol=0, atol=1e-13), name


def test_evaluation_uses_live_gates_and_changes_nothing() -> None:
    data = feed(feature_set(2))
    method = build("greedy", data, eps=0.0, start=1)
    train(method, batches(method, data, 1))
    assert method.curation.curated.any()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    found = predictions(method.eval(), data, "val", cpu=False)
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    batch = next(data.split("val", 3))
    assert torch.allclose(found["logits"], method.fusion.logits(method.encode(batch)), atol=1e-14)


def test_random_curation_holds_each_branch_or_none_equally_often() -> None:
    data = feed(feature_set(2))
    method = build("greedy", data, tuple(range(20)), curate="random", start=1)
    held = torch.stack(train(method, batches(method, data, 15)))[1:].double()  # [steps,S,M]
    share = held.flatten(0, 1).mean(0)
    assert share.tolist() == pytest.approx([1 / 3, 1 / 3], abs=0.05)
    assert held.sum(-1).max() == 1
    assert not torch.equal(held[:, 0], held[:, 1])


def test_other_fusions_and_a_single_modality_are_refused() -> None:
    with pytest.raises(UsageError, match="does not support fusion 'concat'"):
        build("greedy", feed(feature_set(2)), fusion="concat")
    with pytest.raises(UsageError, match="cannot train on 1 modalities"):
        build("greedy", feed(feature_set(1)))


# -------------------------------------------------------------------------------------------- reference


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-x))


def slow(method: Method, i: int, steps: list[tuple[int, Batch]], eps: float, Q: int, start: int, gain: float) -> dict:
    """Seed i by loops over samples; its weights, mean gates, sums of speeds, and who was curated in each step."""
    p = {name: value[i].detach().clone().requires_grad_() for name, value in method.named_parameters()}
    mods, velocity, c, held = method.mods, {}, None, []
    mean = {m: torch.zeros(method.D, dtype=D64) for m in mods}
    count, bypass, main = dict.fromkeys(mods, 0), dict.fromkeys(mods, 0.0), dict.fromkeys(mods, 0.0)
    done = 0

    def layer(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"][0]

    def speed(*prefixes: str) -> float:
        chosen = [value for name, value in p.items() if name.startswith(prefixes)]
        return sum(float((v.grad**2).sum()) for v in chosen) / sum(float((v.detach() ** 2).sum()) for v in chosen)

    for epoch, batch in steps:
        held.append(c)
        losses, gates = {m: [] for m in mods}, {m: [] for m in mods}
        has = {m: batch.present(m) for m in mods}
        rows = [[m for m in mods if has[m] is None or bool(has[m][i, b])] for b in range(batch.y.shape[1])]
        hidden, live = [], []
        for b, here in enumerate(rows):
            nothing = torch.zeros(method.D, dtype=D64)
            h = {m: reference.adapter(p, m, batch.x[m][i, b]) if m in here else nothing for m in mods}
            q = torch.relu(layer("fusion.squeeze", torch.cat([h[m] for m in mods])))
            hidden.append(h)
            live.append({m: gain * sigmoid(layer(f"fusion.excite.{m}_", q)) for m in mods})
            for m in here:
                gates[m].append(live[b][m].detach())
        for m in mods:
            if gates[m]:
                mean[m] = (sum(gates[m]) / len(gates[m]) + mean[m] * count[m]) / (count[m] + 1)
                count[m] += 1
        for b, here in enumerate(rows):
            for m in here:
                g = mean[m] if m == c else live[b][m]
                z = layer(f"fusion.heads.{m}_", g * hidden[b][m])
                losses[m].append(reference.cross_entropy(z, int(batch.y[i, b])))
        sum(sum(each) / len(each) for each in losses.values() if each).backward()
        if c is None:
            for m in mods:
                bypass[m] += speed(f"fusion.excite.{m}_.", "fusion.squeeze.")
                main[m] += speed(f"enc.{m}_.", f"fusion.heads.{m}_.")
            s = {m: math.log10(bypass[m] + 1e-12) - math.log10(main[m] + 1e-12) for m in mods}
            if epoch + 1 >= start and max(s.values()) - min(s.values()) > eps:
                c, done = max(mods, key=lambda m: s[m]), 0
        else:
            done += 1
            c = None if done == Q else c
        for v in p.values():  # of a curated gate: decay and momentum move it all the same
            v.grad = torch.zeros_like(v) if v.grad is None else v.grad
        norm = torch.sqrt(sum((v.grad**2).sum() for v in p.values()))
        for v in p.values():
            v.grad *= min(1.0, float(method.config.clip / (norm + 1e-6)))
        reference.sgd(p, velocity, method.config.lr, method.config.momentum, method.config.weight_decay)
    return {"weights": p, "mean": mean, "bypass": bypass, "main": main, "held": held}


@pytest.mark.parametrize(("M", "absent", "fusion", "Q", "eps"), [
    (2, 0.0, "mmtm", 2, 0.01), (3, 0.0, "mmtm:double", 3, 0.01), (3, 0.3, "mmtm", 1, 0.1), (2, 0.3, "mmtm", 2, 0.05),
])  # fmt: skip
def test_steps_equal_a_loop_over_seeds_and_samples(M: int, absent: float, fusion: str, Q: int, eps: float) -> None:
    data = feed(feature_set(M, n=36, absent=absent))
    config = TrainConfig(**(CONFIG.model_dump() | {"clip": 0.7, "lr": 0.1}))
    knobs = {"eps": eps, "Q": Q, "start": 2, "fusion": fusion}
    method, fresh = (build("greedy", data, (1, 2), config, **knobs) for _ in range(2))
    steps = batches(method, data, 3)
    held = train(method, steps)
    assert 0 < sum(int(curated.sum()) for curated in held) < 2 * len(steps)
    for i in range(2):
        expected = slow(fresh, i, steps, eps, Q, 2, 2.0 if fusion.endswith("double") else 1.0)
        names = [next((m for j, m in enumerate(method.mods) if curated[i, j]), None) for curated in held]
        assert names == expected["held"]
        for name, value in method.named_parameters():
            assert (value[i] - expected["weights"][name]).abs().max() < 1e-10, name
        for j, m in enumerate(method.mods):
            assert (method.curation.mean[i, j] - expected["mean"][m]).abs().max() < 1e-12
            assert float(method.curation.bypass[i, j]) == pytest.approx(expected["bypass"][m], rel=1e-10)
            assert float(method.curation.main[i, j]) == pytest.approx(expected["main"][m], rel=1e-10)


def test_what_a_modality_says_by_itself_does_not_see_the_others() -> None:
    data = feed(feature_set(2))
    method = build("greedy", data).eval()
    train(method, batches(method, data, 3))
    batch = next(data.split("val", 3))
    changed = replace(batch, x=batch.x | {"video": batch.x["video"] + 1})
    one, other = method(batch), method(changed)
    assert torch.equal(one.z["audio"], other.z["audio"])
    assert not torch.equal(one.fused, other.fused)
    gate = method.curation.mean[:, 0, None]
    assert torch.equal(one.z["audio"], method.fusion.heads["audio"](gate * one.h["audio"]))
