"""PMR: the numeric checks of the specification, edge cases, and a loop over epochs, seeds and samples."""

from __future__ import annotations

import math

import pytest
import torch

from mmbal_cli.engine.feed import Feed, SplitPeek
from mmbal_cli.methods.base import Batch, Method, Out
from mmbal_cli.ops import prototypes as proto
from mmbal_cli.ops.losses import ce
from tests.kit.features import CONFIG, build, feature_set, feed, train
from tests.methods import reference

D64 = torch.float64
LN2 = math.log(2)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=D64)


def by_hand(distances: list[tuple[float, float]], **knobs: object) -> tuple[float, float]:
    """Added loss of one sample of class 0 at these distances to the two prototypes; and the cross-entropy."""
    data = feed(feature_set(len(distances), classes=2))
    method = build("pmr", data, (1,), **knobs)
    D = method.D
    method.P.zero_()
    method.known.fill_(1)
    for j, (near, far) in enumerate(distances):  # the feature is at 0, prototypes lie on two axes
        method.P[0, j, 0, 0], method.P[0, j, 1, 1] = near, far
    h = {m: torch.zeros(1, 1, D, dtype=D64) for m in method.mods}
    y = torch.zeros(1, 1, dtype=torch.long)
    batch = Batch({}, y, y, dict.fromkeys(method.mods))
    out = Out(h, torch.tensor([[[0.3, -0.2]]], dtype=D64), lambda h: {})
    joint = ce(out.fused, y).item()
    return method.loss(out, batch).item() - joint, joint


FAR = [(1.0, 1.0), (0.0, 3.0)]  # P_0 = 1/2, P_1 = .952574


def test_the_slower_modality_by_hand() -> None:
    assert proto.lag(row(0.5, 0.952574), row(1, 1) > 0).flatten().tolist() == pytest.approx([0.905148, 0], abs=1e-6)
    assert by_hand(FAR, mu=0)[0] == pytest.approx(0.627401, abs=1e-6)
    assert by_hand(FAR, mu=0)[0] == pytest.approx(0.905148 * LN2, abs=1e-6)
    assert by_hand(FAR, mu=0, coef="hard")[0] == pytest.approx(LN2)
    assert by_hand(FAR[::-1], mu=0)[0] == pytest.approx(0.627401, abs=1e-6)
    assert by_hand(FAR, mu=0, alpha=2)[0] == pytest.approx(2 * 0.627401, abs=2e-6)


def test_the_entropy_bonus_of_the_faster_one_by_hand() -> None:
    bonus = 0.01 * 0.905148 * 0.190865
    assert by_hand(FAR, mu=0.01, alpha=0)[0] == pytest.approx(-bonus, abs=1e-8)
    assert by_hand(FAR, mu=0.01)[0] == pytest.approx(0.627401 - bonus, abs=1e-6)
    assert by_hand(FAR, mu=0.01, entropy_epochs=0)[0] == pytest.approx(0.627401, abs=1e-6)


def test_equal_modalities_add_nothing_and_the_coefficient_is_clipped() -> None:
    for coef in ("soft", "hard"):
        assert by_hand([(1.0, 2.0), (1.0, 2.0)], mu=1, coef=coef)[0] == 0
    assert proto.lag(row(5, 1), row(1, 1) > 0).tolist() == [[0, 1]]
    assert proto.lag(row(1, 5), row(1, 1) > 0).tolist() == [[1, 0]]
    assert proto.lag(row(1, 5, 4), row(1, 1, 1) > 0).tolist() == [[1, 0, 0.25]]
    assert proto.lag(row(1, 5, 4), row(1, 1, 1) > 0, hard=True).tolist() == [[1, 0, 1]]
    assert proto.lag(row(0.4, 5, 0.5), row(1, 0, 1) > 0).flatten().tolist() == pytest.approx([0.25, 0, 0])


def test_the_entropy_of_the_best_of_three_by_hand() -> None:
    near = [(1.0, 1.0), (0.0, 3.0), (0.0, 1.0)]
    p = [0.5, 1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-1))]
    beta = [min(p[1] / v - 1, 1) for v in p]
    H = -sum(v * math.log(v) for v in (p[1], 1 - p[1]))
    expected = -sum(b * math.log(v) for b, v in zip(beta, p, strict=True)) - 0.5 * (beta[0] + beta[2]) / 2 * H
    assert by_hand(near, mu=0.5)[0] == pytest.approx(expected, abs=1e-10)


def test_temperature_divides_the_distances() -> None:
    p = [0.5, 1 / (1 + math.exp(-1.5))]
    assert by_hand(FAR, mu=0, temperature=2)[0] == pytest.approx((p[1] / p[0] - 1) * LN2, abs=1e-10)


def test_momentum_of_prototypes() -> None:
    P, known = torch.full((1, 1, 3, 1), 10.0, dtype=D64), torch.tensor([[[1.0, 0.0, 1.0]]], dtype=D64)
    sums, count = torch.zeros(1, 1, 3, 1, dtype=D64), torch.tensor([[[4.0, 2.0, 0.0]]], dtype=D64)
    new, known = proto.carried(P, known, sums, count, 0.2)
    assert new.flatten().tolist() == [2, 0, 10]  # moved; first time; no sample
    assert known.flatten().tolist() == [1, 1, 1]


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_prototypes_are_class_means_of_present_training_samples(fraction: float) -> None:
    data = feed(feature_set(3, absent=0.3))
    method = build("pmr", data, fraction=fraction, momentum=0.5).eval()
    twin = build("pmr", data, fraction=fraction)
    method.begin_epoch(SplitPeek(method, data))
    batch = data.sample("train", twin.rng, round(60 * fraction))
    for s in range(3):
        p = reference.parameters_of(twin, s)
        for j, m in enumerate(method.mods):
            for k in range(4):
                has = [b for b in range(len(batch.y[s])) if batch.y[s, b] == k and batch.present(m)[s, b]]
                mean = sum(reference.adapter(p, m, batch.x[m][s, b][_steps(batch, m, s, b)]) for b in has) / len(has)
                assert torch.allclose(method.P[s, j, k], mean, atol=1e-12)
    assert (method.known == 1).all()


def _steps(batch: Batch, m: str, s: int, b: int) -> torch.Tensor | slice:
    mask = batch.mask[m]
    return mask[s, b] if mask is not None and mask.dim() == 3 else slice(None)


def test_a_class_without_prototype_is_left_out() -> None:
    logits = -proto.distance(torch.randn(1, 2, 5, 3, dtype=D64), torch.randn(1, 2, 4, 3, dtype=D64))
    known = torch.tensor([1, 1, 0, 1], dtype=D64).expand(1, 2, 4) > 0
    y, present = torch.tensor([[0, 1, 2, 3, 0]]), torch.ones(1, 2, 5, dtype=torch.bool)
    losses, score = proto.prototype_loss(logits, y, known, present)
    for m in range(2):
        q = [logits[0, m, b][[0, 1, 3]].softmax(0)[{0: 0, 1: 1, 3: 2}[int(y[0, b])]].item() for b in (0, 1, 3, 4)]
        assert score[0, m].item() == pytest.approx(sum(q) / 4)
        assert losses[0, m].item() == pytest.approx(-sum(map(math.log, q)) / 4)


def test_a_feature_on_its_prototype_has_a_finite_gradient() -> None:
    h = torch.ones(1, 1, 2, 3, dtype=D64, requires_grad=True)
    P = torch.stack([torch.ones(3, dtype=D64), torch.zeros(3, dtype=D64)])[None, None]
    d = proto.distance(h, P)
    assert d.flatten().tolist() == pytest.approx([0, math.sqrt(3)] * 2)
    d.sum().backward()
    assert h.grad.flatten().tolist() == pytest.approx([1 / math.sqrt(3)] * 6)


def test_the_prototype_loss_reaches_the_adapters_of_slower_modalities_only() -> None:
    data = feed(feature_set(3))
    plain, method = build("concat", data), build("pmr", data, mu=0)
    method.eval().begin_epoch(SplitPeek(method, data))
    batch = next(data.epoch(plain.rng, 16))
    plain.step(batch)
    method.step(batch)
    beta = {m: method._log[f"coef/beta/{m}"][0] for m in method.mods}
    for (name, p), q in zip(plain.named_parameters(), method.parameters(), strict=True):
        same = torch.isclose(p.grad, q.grad, rtol=0, atol=1e-14).flatten(1).all(1)
        owner = method.owner(name)
        if owner == "fused":
            assert same.all(), name
        elif name.endswith("weight"):
            assert same.tolist() == (beta[owner] == 0).tolist(), name
    assert all(sum(int(beta[m][s] == 0) for m in method.mods) == 1 for s in range(3))


def test_without_weights_it_is_concat() -> None:
    data = feed(feature_set(3, absent=0.2))
    plain, method = build("concat", data), build("pmr", data, alpha=0, mu=0)
    method.eval().begin_epoch(SplitPeek(method, data))
    train(plain, data, 2)
    train(method, data, 2)
    mine = method.state_dict()
    assert all(torch.equal(value, mine[name]) for name, value in plain.state_dict().items())


def test_outside_its_window_the_loss_is_plain() -> None:
    data = feed(feature_set(2))
    method = build("pmr", data, start=1, end=0.5, entropy_epochs=1.0, mu=1.0)  # of four epochs: 1 and 2
    method.eval().begin_epoch(SplitPeek(method, data))
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    plain = ce(out.fused, batch.y)
    for method.epoch, active in enumerate((False, True, True, False)):
        assert torch.equal(method.loss(out, batch), plain) != active


def test_a_batch_without_some_modality_has_no_score_of_it() -> None:
    data = feed(feature_set(2))
    method = build("pmr", data, mu=1.0)
    method.eval().begin_epoch(SplitPeek(method, data))
    batch = next(data.epoch(method.rng, 16))
    batch.mask[method.mods[0]] = torch.zeros_like(batch.y, dtype=torch.bool)
    out = method(batch)
    assert torch.equal(method.loss(out, batch), ce(out.fused, batch.y))


def slow(method: Method, data: Feed, i: int, epochs: list[list[Batch]], knobs: dict) -> tuple[reference.Params, dict]:
    """Train seed i by loops over samples and classes; returns its weights and prototypes."""
    p, velocity, config, mods = reference.parameters_of(method, i), {}, method.config, method.mods
    p = {name: value for name, value in p.items() if name not in ("P", "known")}
    prototypes: dict[tuple[str, int], torch.Tensor] = {}
    rows = data.rows["train"].tolist()
    for epoch, batches in enumerate(epochs):
        for m in mods:
            for k in range(method.C):
                own = [reference.adapter(p, m, data.x[m][r]).detach() for r in rows if int(data.y[r]) == k]
                mean, old = sum(own) / len(own), prototypes.get((m, k))
                prototypes[m, k] = mean if old is None else knobs["momentum"] * old + (1 - knobs["momentum"]) * mean
        for batch in batches:
            labels, n = [int(y) for y in batch.y[i]], batch.y.shape[1]
            total = torch.zeros((), dtype=D64)
            s, pce, H = dict.fromkeys(mods, 0.0), dict.fromkeys(mods, 0.0), dict.fromkeys(mods, 0.0)
            for b, y in enumerate(labels):
                h = {m: reference.adapter(p, m, batch.x[m][i, b]) for m in mods}
                z = torch.cat([h[m] for m in mods]) @ p["fusion.head.weight"] + p["fusion.head.bias"][0]
                total = total + reference.cross_entropy(z, y) / n
                for m in mods:
                    d = torch.stack([((h[m] - prototypes[m, k]) ** 2).sum().sqrt() for k in range(method.C)])
                    logp = -d / knobs["temperature"] - torch.logsumexp(-d / knobs["temperature"], 0)
                    s[m] += logp[y].exp().item()
                    pce[m] = pce[m] - logp[y] / n
                    H[m] = H[m] - (logp.exp() * logp).sum() / n
            best = max(mods, key=lambda m: s[m])
            beta = {m: min(max(s[best] / s[m] - 1, 0.0), 1.0) for m in mods}
            if knobs["coef"] == "hard":
                beta = {m: float(m != best) for m in mods}
            total = total + knobs["alpha"] * sum(beta[m] * pce[m] for m in mods)
            if epoch < knobs["entropy_epochs"] * 4:
                total = total - knobs["mu"] * sum(beta[m] for m in mods if m != best) / (len(mods) - 1) * H[best]
            total.backward()
            reference.sgd(p, velocity, config.lr, config.momentum, config.weight_decay)
    return p, prototypes


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize("coef", ["soft", "hard"])
def test_epochs_equal_a_loop_over_seeds_and_samples(M: int, coef: str) -> None:
    data = feed(feature_set(M))
    knobs = {"alpha": 1.5, "mu": 0.3, "momentum": 0.3, "entropy_epochs": 0.4, "temperature": 0.8, "coef": coef}
    method, fresh = build("pmr", data, **knobs), build("pmr", data, **knobs)
    epochs = []
    for method.epoch in range(3):  # the bonus acts in the first two
        method.eval()
        method.begin_epoch(SplitPeek(method, data))
        method.train()
        epochs.append(list(data.epoch(method.rng, CONFIG.batch))[:3])
        for batch in epochs[-1]:
            method.step(batch)
    for i in range(3):
        expected, prototypes = slow(fresh, data, i, epochs, knobs)
        state = method.state_dict()
        assert all((state[name][i] - value).abs().max() < 1e-10 for name, value in expected.items())
        for (m, k), value in prototypes.items():
            assert (method.P[i, method.mods.index(m), k] - value).abs().max() < 1e-10
