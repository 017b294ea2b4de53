"""OPM: the numeric checks of the specification, and an independent loop over seeds and samples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mmbal_cli.engine.feed import Feed, predictions
from mmbal_cli.errors import UsageError
from mmbal_cli.methods.base import Batch, Method, Out
from mmbal_cli.nn.fusion.concat import Concat
from mmbal_cli.ops.dropping import divisor, drop_probability, survivors
from mmbal_cli.seeds import SeedStreams
from tests.kit.features import build, feature_set, feed, train
from tests.methods import reference

D64 = torch.float64


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=D64)


def outputs(z: dict[str, list[list[float]]]) -> Out:
    """Logits of one seed with features of ones."""
    logits = {m: tensor(*rows)[None] for m, rows in z.items()}
    h = {m: torch.ones(1, len(rows), 8, dtype=D64) for m, rows in z.items()}
    return Out(h, sum(logits.values()), lambda _: logits)


def batch_of(y: list[int], **present: list[bool]) -> Batch:
    mods = ("audio", "video", "text")
    mask = {m: torch.tensor([present[m]]) if m in present else None for m in mods}
    return Batch({}, torch.tensor([y]), torch.zeros(1, len(y), dtype=torch.long), mask)


# ---------------------------------------------------------------------------------------------- numbers


def test_known_discrepancies_give_known_probabilities_and_divisors() -> None:
    q = drop_probability(tensor([2.0, 0.5], [3.0, 1 / 3]), 0.5, 0.5)
    assert math.tanh(1) == pytest.approx(0.761594, abs=1e-6)
    assert q[0].tolist() == pytest.approx([0.690399, 0], abs=1e-6)
    assert q[1].tolist() == pytest.approx([0.741007, 0], abs=1e-6)
    assert (1 - divisor(q, "joint"))[0].tolist() == pytest.approx([0.345199] * 2, abs=1e-6)
    assert (1 / divisor(q, "joint"))[0].tolist() == pytest.approx([1.527182] * 2, abs=1e-6)
    assert divisor(q, "per_modality")[0].tolist() == pytest.approx([1 - 0.690399, 1], abs=1e-6)
    assert torch.equal(divisor(q, "none"), torch.ones_like(q))


def test_probabilities_jump_at_the_lead_and_stay_below_one() -> None:
    q = drop_probability(tensor([1.0, 1.0], [1 + 1e-9, 1 - 1e-9], [1e6, 0.0]), 0.5, 0.5)
    assert q[0].tolist() == [0, 0]
    assert q[1].tolist() == pytest.approx([0.5, 0])
    assert q[2].tolist() == [0.75, 0]
    assert drop_probability(tensor([50.0, 0.0]), 1.0, 1.0).tolist() == [[1, 0]]


def test_a_divisor_is_bounded() -> None:
    assert divisor(tensor([1.0, 0.0]), "per_modality").tolist() == [[1e-3, 1]]
    assert divisor(tensor([1.0, 1.0]), "joint").tolist() == [[1e-3, 1e-3]]


def test_survivors_kept_a_modality_or_never_had_one() -> None:
    keep = torch.tensor([[[True, False, False, True, False], [False, False, True, True, False]]])
    present = torch.tensor([[[True, True, True, False, False], [True, True, False, True, False]]])
    assert survivors(keep, present).tolist() == [[True, False, False, True, True]]


def test_certain_drop_leaves_the_other_modality_scaled() -> None:
    q, fusion = tensor([1.0, 0.0]), Concat(SeedStreams((0,)), ("a", "v"), 4, 3, D64)
    h = {m: torch.rand(1, 5, 4, dtype=D64) for m in ("a", "v")}
    keep = torch.ones(1, 2, 5, dtype=D64) * (torch.rand(1, 2, 5) >= q[..., None])
    factor = keep / divisor(q, "joint")[..., None]
    z = fusion.logits({m: h[m] * factor[:, i, :, None] for i, m in enumerate(("a", "v"))})
    assert torch.allclose(z, fusion.head.bias + h["v"] / (1 - 0.5) @ fusion.head.weight[:, 4:], atol=1e-14)


# ----------------------------------------------------------------------------------------------- method


def test_equal_modalities_are_left_alone_bit_for_bit() -> None:
    method = build("opm", feed(feature_set(2)), (1,), p_exe=1.0, warmup=0)
    same = [[0.3, -1.0, 0.2, 0.0], [2.0, 1.0, 0.0, 0.0]]
    out = outputs({"audio": same, "video": same})
    out.h["audio"] = torch.rand(1, 2, 8, dtype=D64)
    h, alive = method.dropped(out, batch_of([0, 1]))
    assert all(torch.equal(h[m], out.h[m]) for m in method.mods)
    assert alive.all()


@pytest.mark.parametrize("M", [2, 3])
def test_the_modality_ahead_is_dropped_as_often_as_its_lead_says(M: int) -> None:
    method = build("opm", feed(feature_set(M)), (1,), p_exe=1.0, warmup=0, lam=0.0, q_base=0.25)
    n = 10_000
    z = {m: [[2.0 if m == "audio" else 0.0, 0.0, 0.0, 0.0]] * n for m in method.mods}
    h, alive = method.dropped(outputs(z), batch_of([0] * n))
    assert alive.all()
    kept = h["audio"][0, :, 0]
    assert float((kept > 0).double().mean()) == pytest.approx(0.75, abs=0.02)
    assert kept.max().item() == pytest.approx(1 / (1 - 0.25 / M))
    assert all(torch.allclose(h[m], torch.full_like(h[m], 1 / (1 - 0.25 / M))) for m in method.mods[1:])


def test_three_modalities_compare_each_with_the_mean_ratio_to_the_others() -> None:
    method = build("opm", feed(feature_set(3)), (1,), warmup=0)
    rows = {"audio": 2.0, "video": 1.0, "text": 0.0}
    out = outputs({m: [[rows[m], 0.0, 0.0, 0.0]] for m in method.mods})
    s = {m: math.exp(rows[m]) / (math.exp(rows[m]) + 3) for m in method.mods}
    for i, m in enumerate(method.mods):
        rho = sum(s[m] / s[o] for o in method.mods if o != m) / 2
        expected = 0.5 * (1 + 0.5 * math.tanh(rho - 1)) if rho > 1 else 0.0
        assert method.probabilities(out, batch_of([0]))[0, i].item() == pytest.approx(expected)


def test_only_samples_with_every_modality_are_compared() -> None:
    method = build("opm", feed(feature_set(2)), (1,), warmup=0)
    z = {"audio": [[2.0, 0, 0, 0], [-5.0, 0, 0, 0]], "video": [[1.0, 0, 0, 0], [9.0, 0, 0, 0]]}
    one = {m: rows[:1] for m, rows in z.items()}
    part = batch_of([0, 0], video=[True, False])
    assert torch.allclose(method.probabilities(outputs(z), part), method.probabilities(outputs(one), batch_of([0])))
    nobody = batch_of([0, 0], video=[False, False])
    assert method.probabilities(outputs(z), nobody).tolist() == [[0, 0]]


def test_a_sample_that_lost_its_only_modality_leaves_the_loss() -> None:
    method = build("opm", feed(feature_set(2)), (1,), p_exe=1.0, warmup=0, q_base=1.0, lam=0.0)
    z = {"audio": [[2.0, 0, 0, 0]] * 3, "video": [[1.0, 0, 0, 0]] * 3}
    batch = batch_of([0, 1, 2], audio=[True, True, False], video=[True, False, False])
    out = outputs(z)
    h, alive = method.dropped(out, batch)
    assert alive.tolist() == [[True, False, True]]  # the last one never had any
    fused = method.fusion.logits(h)[0]
    expected = sum(reference.cross_entropy(fused[b], b) for b in (0, 2)) / 2
    assert method.loss(out, batch)[0].item() == pytest.approx(expected.item())


def test_nobody_left_costs_nothing_and_stays_finite() -> None:
    method = build("opm", feed(feature_set(2)), (1,), p_exe=1.0, warmup=0, q_base=1.0, lam=0.0)
    method.probabilities = lambda out, batch: torch.ones(1, 2, dtype=D64)
    out = outputs({m: [[1.0, 0, 0, 0]] * 2 for m in method.mods})
    assert method.loss(out, batch_of([0, 1])).tolist() == [0]


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize("knobs", [{"p_exe": 0.0, "warmup": 0}, {"q_base": 0.0, "warmup": 0}, {"warmup": 1}])
def test_never_dropping_is_concat(M: int, knobs: dict[str, float]) -> None:
    data = feed(feature_set(M, absent=0.2))
    plain, opm = build("concat", data), build("opm", data, **knobs)
    train(plain, data, 3)
    train(opm, data, 3)
    assert all(
        torch.allclose(a, b, rtol=0, atol=1e-13) for a, b in zip(plain.parameters(), opm.parameters(), strict=True)
    )


def test_evaluation_depends_on_no_setting() -> None:
    data = feed(feature_set(2))
    found = [
        predictions(build("opm", data, warmup=0, p_exe=p, rescale=rule).eval(), data, "val")["probs"]
        for p, rule in ((1.0, "joint"), (0.0, "none"))
    ]
    assert torch.equal(*found)
    assert torch.equal(found[0], predictions(build("concat", data).eval(), data, "val")["probs"])


@pytest.mark.parametrize(("share", "epochs", "first"), [(0.06, 100, 6), (0.06, 30, 2), (0.0, 4, 0), (0.5, 4, 2)])
def test_warm_up_is_a_share_of_the_epochs(share: float, epochs: int, first: int) -> None:
    data = feed(feature_set(2))
    method = build("opm", data, warmup=share)
    method.phase_epochs, drops = epochs, []
    dropped = method.dropped
    method.dropped = lambda out, batch: drops.append(method.epoch) or dropped(out, batch)
    batch = next(data.epoch(method.rng, 16))
    for method.epoch in range(epochs):
        method.loss(method(batch), batch)
    assert drops == list(range(first, epochs))


def test_settings_that_could_always_drop_are_refused() -> None:
    with pytest.raises(UsageError, match=r"probability of up to 1\.2"):
        build("opm", feed(feature_set(2)), q_base=0.8, lam=0.5)
    build("opm", feed(feature_set(2)), q_base=0.5, lam=1.0)


# -------------------------------------------------------------------------------------------- reference


def slow(method: Method, i: int, batches: list[Batch], rescale: str, coins: list[bool], draws: list[dict]) -> dict:
    """Seed i by loops over samples; who drops in a step and the numbers of its samples are given."""
    p, velocity, mods = reference.parameters_of(method, i), {}, method.mods
    M, D, W, b = len(mods), method.D, p["fusion.head.weight"], p["fusion.head.bias"][0]

    for batch, coin, draw in zip(batches, coins, draws, strict=True):
        n = batch.y.shape[1]
        has = {m: [batch.present(m) is None or bool(batch.present(m)[i, k]) for k in range(n)] for m in mods}
        hidden = [{m: reference.adapter(p, m, batch.x[m][i, k]) if has[m][k] else torch.zeros(D, dtype=D64)
                   for m in mods} for k in range(n)]  # fmt: skip
        s = dict.fromkeys(mods, 0.0)
        for k in range(n):
            if all(has[m][k] for m in mods):
                for j, m in enumerate(mods):
                    z = (hidden[k][m] @ W[j * D : (j + 1) * D] + b / M).detach()
                    s[m] += float(torch.softmax(z, 0)[batch.y[i, k]])
        q = {}
        for m in mods:
            rho = sum(s[m] / s[o] for o in mods if o != m) / (M - 1)
            q[m] = 0.6 * (1 + 0.4 * math.tanh(rho - 1)) if rho > 1 and coin else 0.0
        mean, losses = sum(q.values()) / M, []
        for k in range(n):
            kept = [m for m in mods if has[m][k] and draw[m][k] >= q[m]]
            if not kept and any(has[m][k] for m in mods):
                continue
            z = b
            for j, m in enumerate(mods):
                if m in kept:
                    by = {"joint": 1 - mean, "per_modality": 1 - q[m], "none": 1.0}[rescale]
                    z = z + hidden[k][m] / by @ W[j * D : (j + 1) * D]
            losses.append(reference.cross_entropy(z, int(batch.y[i, k])))
        (sum(losses) / len(losses)).backward()
        reference.sgd(p, velocity, method.config.lr, method.config.momentum, method.config.weight_decay)
    return p


def given(data: Feed, method: Method, n: int) -> tuple[list[Batch], list[dict], list[torch.Tensor]]:
    """n batches; numbers in [0,1) by seed, modality and sample, and coins by seed, which the method will draw."""
    g = torch.Generator().manual_seed(7)
    batches = [batch for _ in range(2) for batch in data.epoch(method.rng, 16)][:n]
    draws = [{m: torch.rand(batch.y.shape, generator=g, dtype=D64) for m in method.mods} for batch in batches]
    coins = [torch.rand(method.S, 1, generator=g) < 0.7 for _ in batches]
    left = [iter([draw[m] for draw in draws]) for m in method.mods]
    streams = dict(zip((f"opm/{m}" for m in method.mods), left, strict=True))
    heads = iter(coins)
    method.rng.uniform = lambda purpose, *_: next(streams[purpose])  # type: ignore[method-assign]
    method.rng.bernoulli = lambda _, like, p: next(heads).to(like.dtype)  # type: ignore[method-assign]
    return batches, draws, coins


@pytest.mark.parametrize("absent", [0.0, 0.3])
@pytest.mark.parametrize(("M", "rescale"), [(2, "joint"), (3, "joint"), (2, "per_modality"), (3, "none")])
def test_steps_equal_a_loop_over_seeds_and_samples(M: int, rescale: str, absent: float) -> None:
    data = feed(feature_set(M, absent=absent))
    knobs = {"q_base": 0.6, "lam": 0.4, "warmup": 0, "rescale": rescale}
    method, fresh = (build("opm", data, **knobs) for _ in range(2))
    batches, draws, coins = given(data, method, 5)
    for batch in batches:
        method.step(batch)
    assert len({tuple(coin.flatten().tolist()) for coin in coins}) > 1
    for i in range(3):
        numbers = [{m: value[i].tolist() for m, value in draw.items()} for draw in draws]
        expected = slow(fresh, i, batches, rescale, [bool(coin[i]) for coin in coins], numbers)
        for name, value in method.state_dict().items():
            assert (value[i] - expected[name]).abs().max() < 1e-10, name


@pytest.mark.parametrize("fusion", ["sum", "gated", "affine"])
def test_other_fusions_see_zeros_in_the_place_of_dropped_features(fusion: str) -> None:
    data = feed(feature_set(2))
    method = build("opm", data, fusion=fusion, p_exe=1.0, warmup=0, rescale="none", q_base=1.0, lam=0.0)
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    q = method.probabilities(out, batch)
    assert sorted(q[0].tolist()) == [0, 1]
    loss = method.loss(out, replace(batch))
    zeroed = {m: out.h[m] * (1 - q[:, j, None, None]) for j, m in enumerate(method.mods)}
    z = method.fusion.logits(zeroed)
    for i in range(3):
        each = [reference.cross_entropy(z[i, k], int(batch.y[i, k])) for k in range(16)]
        assert loss[i].item() == pytest.approx((sum(each) / 16).item())
