"""LFM-H and what both variants share: numeric checks of the specification, edge cases, slow trainings."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
import torch

from mmbal_cli.methods.base import Batch, Out
from mmbal_cli.ops.losses import both, ce, contrastive, reversed_js
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed, fit, train
from tests.methods import reference, slow_lfm

D64 = torch.float64
EYE = torch.eye(2, dtype=torch.float64)[None]
SWAPPED = EYE.flip(1)


def test_alpha_decays_as_published() -> None:
    method = build("lfm-h", feed(feature_set(2)))
    alphas = []
    for method.epoch in range(100):
        alphas.append(method.alpha)
    assert [alphas[t - 1] for t in (1, 2, 5)] == pytest.approx([0.632121, 0.393469, 0.181269], abs=1e-6)
    assert all(a > b for a, b in pairwise(alphas))
    assert (1 - alphas[0]) * 1 + alphas[0] * 0.5 == pytest.approx(0.683940, abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "tau", "expected"),
    [(EYE, EYE, 1.0, 0.313262), (EYE, SWAPPED, 1.0, 1.313262), (EYE, EYE, 0.07, 6.2487e-7)],
)
def test_contrastive_of_known_features(a: torch.Tensor, b: torch.Tensor, tau: float, expected: float) -> None:
    assert contrastive(a, b, tau).item() == pytest.approx(expected, abs=1e-6, rel=1e-4)
    assert torch.allclose(contrastive(b, a, tau), contrastive(a, b, tau))
    assert torch.allclose(contrastive(3 * a, 0.1 * b, tau), contrastive(a, b, tau))


@pytest.mark.parametrize("tau", [0.07, 1.0, 5.0])
def test_contrastive_of_equal_rows_is_log_two_and_of_one_row_is_zero(tau: float) -> None:
    rows = torch.ones(1, 2, 3, dtype=torch.float64)
    assert contrastive(rows, rows, tau).item() == pytest.approx(math.log(2))
    assert contrastive(rows[:, :1], rows[:, :1], tau).item() == 0


def test_three_modalities_average_over_pairs() -> None:
    method = build("lfm-h", feed(feature_set(3)), (1,), tau=1.0)
    h = dict(zip(method.mods, (EYE, EYE, SWAPPED), strict=True))
    y = torch.zeros(1, 2, dtype=torch.long)
    batch = Batch({}, y, y, dict.fromkeys(method.mods))
    assert method.alignment(Out(h, EYE, dict), batch).item() == pytest.approx(0.979928, abs=1e-6)


def test_absent_samples_are_neither_anchors_nor_negatives() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 3, generator=g), torch.randn(2, 5, 3, generator=g)
    present = torch.tensor([[True, True, False, True, True], [False, True, True, True, False]])
    got = contrastive(a, b, 0.5, present)
    for s in range(2):
        keep = present[s]
        assert torch.allclose(got[s], contrastive(a[s : s + 1, keep], b[s : s + 1, keep], 0.5)[0])


@pytest.mark.parametrize(("M", "fusion"), [(2, "sum"), (3, "sum"), (2, "concat")])
def test_steps_equal_a_loop_over_seeds_and_samples(M: int, fusion: str) -> None:
    data = feed(feature_set(M))
    method, fresh = build("lfm-h", data, fusion=fusion), build("lfm-h", data, fusion=fusion)
    batches = list(data.epoch(method.rng, 16))
    alpha = 1 - math.exp(-1)

    def logits(p: reference.Params, h: dict[str, torch.Tensor]) -> torch.Tensor:
        if fusion == "concat":
            return torch.cat(list(h.values())) @ p["fusion.head.weight"] + p["fusion.head.bias"][0]
        return sum(h[m] @ p[f"fusion.heads.{m}_.weight"] + p[f"fusion.heads.{m}_.bias"][0] for m in h) / M

    def loss(p: reference.Params, samples: list, labels: list[int]) -> torch.Tensor:
        n = len(labels)
        h = [{m: reference.adapter(p, m, x[m]) for m in method.mods} for x in samples]
        fit = sum(reference.cross_entropy(logits(p, row), y) for row, y in zip(h, labels, strict=True)) / n
        pairs = []
        for j, k in combinations(method.mods, 2):
            unit = lambda v: v / v.norm()  # noqa: E731
            s = [[unit(h[r][j]) @ unit(h[c][k]) / 0.07 for c in range(n)] for r in range(n)]
            rows = sum(reference.cross_entropy(torch.stack(s[i]), i) for i in range(n))
            columns = sum(reference.cross_entropy(torch.stack([s[r][i] for r in range(n)]), i) for i in range(n))
            pairs.append((rows + columns) / (2 * n))
        return (1 - alpha) * fit + alpha * sum(pairs) / len(pairs)

    for batch in batches:
        method.step(batch)
    reference.agrees(method, fresh, batches, loss)


# ------------------------------------------------------------------------------------------ schedules


def test_the_schedule_of_the_codes_history() -> None:
    method = build("lfm-h", feed(feature_set(2)), schedule="exp")
    alphas = []
    for method.epoch in range(12):
        alphas.append(method.alpha)
    expected = [0.95, 0.741, 0.549, 0.407, 0.301, 0.223, 0.165, 0.122, 0.091, 0.067, 0.05, 0.05]
    assert alphas == pytest.approx(expected, abs=5e-4)


def test_the_mix_is_the_weighted_sum() -> None:
    method = build("lfm-h", feed(feature_set(2)), loss_scale=3.0)
    method.terms = lambda out, batch: (torch.ones(3, dtype=D64), torch.full((3,), 0.5, dtype=D64))
    assert (method.loss(None, None) / 3).tolist() == pytest.approx([0.683940] * 3, abs=1e-6)


# ----------------------------------------------------------------------------------- js of the logits


def js_of(p: list[float], q: list[float]) -> float:
    return reversed_js(torch.tensor([[p]], dtype=D64).log(), torch.tensor([[q]], dtype=D64).log()).item()


def test_js_of_known_probabilities() -> None:
    assert js_of([0.5, 0.5], [0.25, 0.75]) == pytest.approx(0.0348412, abs=1e-7)
    assert js_of([0.75, 0.25], [0.25, 0.75]) == pytest.approx(0.143841, abs=1e-6)
    assert js_of([0.3, 0.7], [0.3, 0.7]) == pytest.approx(0, abs=1e-15)
    assert js_of([0.5, 0.5], [0.25, 0.75]) == js_of([0.25, 0.75], [0.5, 0.5])


def test_js_is_the_mean_over_samples_that_have_both() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 6, 4, generator=g, dtype=D64), torch.randn(2, 6, 4, generator=g, dtype=D64)
    present = torch.tensor([[True, True, False, True, True, False], [False] * 6])
    p, q = a.softmax(-1), b.softmax(-1)
    m = (p + q) / 2
    each = 0.5 * ((m * (m / p).log()).sum(-1) + (m * (m / q).log()).sum(-1))
    assert torch.allclose(reversed_js(a, b), each.mean(1), rtol=0, atol=1e-14)
    assert torch.allclose(reversed_js(a, b, present)[0], each[0, present[0]].mean(), rtol=0, atol=1e-14)
    assert reversed_js(a, b, present)[1] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("other", [[3000.0, 0.0, 0.0], [0.0, 3000.0, 0.0]])
def test_js_and_its_gradient_are_finite_where_probabilities_are_exactly_zero(dtype: torch.dtype, other: list) -> None:
    a = torch.tensor([[[3000.0, 0.0, 0.0]]], dtype=dtype, requires_grad=True)
    b = torch.tensor([[other]], dtype=dtype, requires_grad=True)
    assert a.softmax(-1)[0, 0, 1] == 0
    loss = reversed_js(a, b)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(a.grad).all()
    assert torch.isfinite(b.grad).all()
    expected = 0.0 if other[0] else 0.5 * 3000 - math.log(2)
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_two_masks_meet() -> None:
    a, b = torch.tensor([[True, False]]), torch.tensor([[True, True]])
    assert both(None, None) is None
    assert both(a, None) is a
    assert both(None, b) is b
    assert torch.equal(both(a, b), a)


def test_js_uses_the_fusions_own_shares() -> None:
    data = feed(feature_set(3))
    for fusion in ("sum", "concat", "gated"):
        method = build("lfm-h", data, fusion=fusion, align="js")
        batch = next(data.epoch(method.rng, 16))
        out = method(batch)
        z = list(method.fusion.unimodal(out.h).values())
        expected = sum(reversed_js(a, b) for a, b in combinations(z, 2)) / 3
        assert torch.allclose(method.alignment(out, batch), expected, rtol=0, atol=1e-15)


# ------------------------------------------------------------------------------------------ edge cases


def test_a_batch_of_one_has_no_alignment() -> None:
    data = feed(feature_set(2))
    method = build("lfm-h", data)
    batch = next(data.epoch(method.rng, 1))
    out = method(batch)
    assert method.alignment(out, batch).tolist() == [0, 0, 0]
    expected = math.exp(-1) * ce(out.fused, batch.y)
    assert torch.allclose(method.loss(out, batch), expected, rtol=0, atol=1e-15)
    before = [p.detach().clone() for p in method.parameters()]
    method.step(batch)
    assert all(torch.isfinite(p).all() for p in method.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))


def test_a_zero_feature_is_harmless() -> None:
    data = feed(feature_set(2))
    method = build("lfm-h", data)
    with torch.no_grad():
        for layer in method.enc["audio"].mlp.layers:
            layer.bias.fill_(-100.0)  # dead rectifiers: h = 0 for every sample
    batch = next(data.epoch(method.rng, 16))
    assert (method(batch).h["audio"] == 0).all()
    assert torch.isfinite(method.step(batch)).all()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters())
    assert method.alignment(method(batch), batch).tolist() == pytest.approx([math.log(16)] * 3)


def test_one_modality_is_plain_training() -> None:
    data = feed(feature_set(1))
    for name in ("lfm-h", "lfm-lb"):
        for align in ("nce", "js"):
            plain, method = build("sum", data), build(name, data, align=align)
            fit(plain, data)
            fit(method, data)
            assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), method.parameters(), strict=True)), name


def test_the_loss_scale_is_a_learning_rate() -> None:
    data = feed(feature_set(2))
    one, two = (TrainConfig(**(CONFIG.model_dump() | {"weight_decay": 0, "lr": lr})) for lr in (0.02, 0.01))
    faster, scaled = build("lfm-h", data, config=one), build("lfm-h", data, config=two, loss_scale=2.0)
    train(faster, data, 3)
    train(scaled, data, 3)
    assert all(
        torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(faster.parameters(), scaled.parameters(), strict=True)
    )


# ------------------------------------------------------------------------------- from unimodal training


@pytest.mark.parametrize("name", ["lfm-h", "lfm-lb"])
def test_phases(name: str) -> None:
    data = feed(feature_set(2))
    assert [(p.name, p.epochs) for p in build(name, data).phases()] == [("train", 4)]
    phases = build(name, data, init="unimodal").phases()
    assert [(p.name, p.epochs) for p in phases] == [("unimodal", 4), ("train", 4)]
    phases = build(name, data, init="unimodal", pretrain=7).phases()
    assert [(p.name, p.epochs, p.keep_best) for p in phases] == [("unimodal", 7, True), ("train", 4, True)]


@pytest.mark.parametrize("absent", [0.0, 0.3])
def test_the_unimodal_phase_is_the_unimodal_ensemble(absent: float) -> None:
    data = feed(feature_set(3, absent=absent))
    ensemble = fit(build("unimodal-ensemble", data), data)
    method = build("lfm-h", data, init="unimodal")
    begun: list[dict[str, torch.Tensor]] = []
    method.begin_phase = lambda peek: begun.append({k: v.clone() for k, v in method.state_dict().items()})
    fit(method, data)
    assert len(begun) == 2
    assert all(torch.equal(begun[1][key], value) for key, value in ensemble.chosen.state.items())
    assert any(not torch.equal(begun[1][key], value) for key, value in method.state_dict().items())


@pytest.mark.parametrize("name", ["lfm-h", "lfm-lb"])
def test_the_mix_is_selected_as_a_whole_and_the_unimodal_phase_by_parts(name: str) -> None:
    data = feed(feature_set(2))
    method = build(name, data, init="unimodal")
    assert {method.selects(entry) for entry in method.state_dict()} == {"fused"}
    assert set(fit(method, data).chosen.epoch) == {"fused"}
    method.phase = "unimodal"
    assert {method.selects(entry) for entry, _ in method.named_parameters()} == {"audio", "video"}


# ----------------------------------------------------------------------------------- slow trainings


def scheduled(kind: str) -> slow_lfm.Rule:
    def rule(slow: slow_lfm.Slow, e: int, p: object, alpha: float, epoch: slow_lfm.Epoch) -> float:
        return 1 - math.exp(-1 / (e + 1)) if kind == "paper" else max(0.05, min(0.95, math.exp(-0.3 * e)))

    return rule


@pytest.mark.parametrize(
    ("M", "absent", "knobs"),
    [
        (2, 0.0, {"schedule": "paper", "align": "js", "loss_scale": 2.0}),
        (3, 0.0, {"schedule": "exp", "align": "nce", "tau": 0.5}),
        (3, 0.3, {"schedule": "paper", "align": "nce"}),
        (3, 0.3, {"schedule": "exp", "align": "js", "fusion": "concat"}),
    ],
)
def test_whole_trainings_equal_a_loop_over_seeds_and_samples(M: int, absent: float, knobs: dict) -> None:
    data = feed(feature_set(M, n=36, absent=absent))
    method, fresh = build("lfm-h", data, (1, 2), **knobs), build("lfm-h", data, (1, 2), **knobs)
    _, history = slow_lfm.record(method, data)
    for i in range(2):
        slow = slow_lfm.Slow(fresh, i)
        start = reference.parameters_of(fresh, i)
        p, path = slow_lfm.train(slow, history, start, 0.0, scheduled(knobs["schedule"]))
        assert path == pytest.approx([epoch.alpha[i] for epoch in history], abs=1e-12)
        assert max(slow_lfm.differences(method, i, p).values()) < 1e-10


def test_both_phases_equal_a_loop_over_seeds_and_samples() -> None:
    data = feed(feature_set(3, n=36, absent=0.2))
    method, fresh = build("lfm-h", data, (1, 2), init="unimodal"), build("lfm-h", data, (1, 2), init="unimodal")
    begun: list[dict[str, torch.Tensor]] = []
    method.begin_phase = lambda peek: begun.append({k: v.clone() for k, v in method.state_dict().items()})
    last: list[dict[str, torch.Tensor]] = []
    method.end_epoch = lambda peek: last.append({k: v.clone() for k, v in method.state_dict().items()})
    _, history = slow_lfm.record(method, data)
    for i in range(2):
        slow = slow_lfm.Slow(fresh, i)
        for phase, epochs, end in ((0, history[:4], last[3]), (1, history[4:], last[7])):
            start = {name: value[i] for name, value in begun[phase].items()}
            p, _ = slow_lfm.train(slow, epochs, start, 0.0, scheduled("paper"))
            assert max((end[name][i] - value).abs().max() for name, value in p.items()) < 1e-10
