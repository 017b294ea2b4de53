"""LFM-LB: the hyper-gradient proved against automatic differentiation, every rule of alpha, slow trainings."""

from __future__ import annotations

import math
from itertools import chain

import pytest
import torch
from torch.func import functional_call

from mmbal_cli.engine.feed import Feed
from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods.base import Batch
from mmbal_cli.methods.lfm_lb import LFMLB, fitted
from mmbal_cli.ops.gradients import gradients, inner, min_norm_pair, unrolled_slope
from mmbal_cli.ops.losses import ce
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed, fit
from tests.methods import reference, slow_lfm
from tests.methods.reference import Params

D64 = torch.float64
COEFFICIENTS = "5.39717505e-11 -2.23835486e-8 2.92947416e-6 -1.22989557e-4 -3.35472727e-3 .795376296"  # of alpha
FOUR = ("onestep", "fitted", "hvp", "minnorm")


def pair(data: Feed, **knobs: object) -> tuple[LFMLB, Batch, Batch]:
    """A method in evaluation mode after a little training, a training batch and a held-out batch."""
    method = build("lfm-lb", data, **knobs)
    run = fit(method, data)
    method.eval()
    peek = Fit(build("lfm-lb", data), data).peek
    assert run.method is method
    return method, peek.sample("train", 16), next(iter(peek.batches("inner")))  # type: ignore[return-value]


# --------------------------------------------------------------------------------- the hyper-gradient


def scalar(theta: float, alpha: float, other: float = 1.0, rule: str = "relative") -> tuple[torch.Tensor, torch.Tensor]:
    """(t - 1)^2 / 2 is classified, (t + other)^2 / 2 aligned; eta = 0.1."""
    t, a = torch.tensor([[theta]], dtype=D64, requires_grad=True), torch.tensor([alpha], dtype=D64)
    losses = (t[:, 0] - 1) ** 2 / 2, (t[:, 0] + other) ** 2 / 2
    return unrolled_slope({"t": t}, losses, lambda p: (p["t"][:, 0] - 1) ** 2 / 2, a, 0.1, rule)


@pytest.mark.parametrize("rule", ["relative", "cosine"])
def test_slope_of_a_scalar_problem(rule: str) -> None:
    slope, r = scalar(0.0, 0.5, rule=rule)
    assert slope.item() == pytest.approx(0.2, abs=1e-12)
    assert r.item() == pytest.approx(1, abs=1e-10)
    for theta, alpha in ((0.0, 0.5), (0.3, 0.2), (-2.0, 0.95), (4.0, 0.05)):
        a = torch.tensor(alpha, dtype=D64, requires_grad=True)
        moved = theta - 0.1 * ((1 - a) * (theta - 1) + a * (theta + 1))
        (exact,) = torch.autograd.grad((moved - 1) ** 2 / 2, a)
        slope, r = scalar(theta, alpha, rule=rule)
        assert slope.item() == pytest.approx(exact.item(), abs=1e-12)
        g, c, a_ = moved.item() - 1, theta - 1, theta + 1
        expected = math.copysign(1, exact.item()) if rule == "cosine" else (g * c - g * a_) / (abs(g * c) + abs(g * a_))
        assert r.item() == pytest.approx(expected, abs=1e-9)


def test_a_long_alignment_gradient_without_effect_on_classification_does_not_slow_alpha_down() -> None:
    """Two directions: one classifies, the other only aligns, with a thousand times the gradient."""
    t = torch.zeros(1, 2, dtype=D64, requires_grad=True)
    losses = (t[:, 0] - 1) ** 2 / 2, 1000 * t[:, 1]
    a = torch.tensor([0.5], dtype=D64)
    r = {rule: unrolled_slope({"t": t}, losses, lambda p: (p["t"][:, 0] - 1) ** 2 / 2, a, 0.1, rule)[1].item()
         for rule in ("relative", "cosine")}  # fmt: skip
    assert r["relative"] == pytest.approx(1)
    assert r["cosine"] == pytest.approx(1e-3, rel=1e-3)


def test_no_direction_where_a_gradient_vanishes() -> None:
    assert [v.item() for v in scalar(0.3, 0.5, other=-1.0)] == [0, 0]  # both losses agree: g_c - g_a = 0
    slope, r = scalar(1.0, 0.0)  # theta' = theta = 1 is the minimum: g_v = 0
    assert slope.item() == 0
    assert r.item() == 0


def unrolled(method: LFMLB, b: Batch, v: Batch, alpha: torch.Tensor, graph: bool = True) -> torch.Tensor:
    """L_CLS on v after one differentiable step on b, [S], as a function of alpha."""
    theta = dict(method.named_parameters())
    c, a = method.terms(method(b), b)
    g = torch.autograd.grad(((1 - alpha) * c + alpha * a).sum(), list(theta.values()), create_graph=graph)
    eta = method.opt.lr * method.loss_scale
    moved = {name: p - eta * step for (name, p), step in zip(theta.items(), g, strict=True)}
    return ce(functional_call(method, moved, (v,)).fused, v.y)


@pytest.mark.parametrize(
    ("M", "knobs"),
    [
        (2, {}),
        (3, {"align": "js"}),
        (3, {"loss_scale": 2.0, "fusion": "concat"}),
        (2, {"fusion": "affine", "align": "js"}),
    ],
)
def test_slope_is_the_derivative_through_the_unrolled_step(M: int, knobs: dict) -> None:
    method, b, v = pair(feed(feature_set(M, absent=0.2)), **knobs)
    method.alpha = torch.tensor([0.3, 0.7, 0.95], dtype=D64)
    slope, r = method.slope(b, v)
    alpha = method.alpha.clone().requires_grad_()
    (exact,) = torch.autograd.grad(unrolled(method, b, v, alpha).sum(), alpha)
    assert (slope - exact).abs().max() < 1e-8
    assert torch.allclose(slope, exact, rtol=1e-8, atol=0)
    step = 1e-4
    up, down = (unrolled(method, b, v, method.alpha + s, graph=False).detach() for s in (step, -step))
    assert torch.allclose((up - down) / (2 * step), slope, rtol=1e-4, atol=1e-9)
    assert (r.abs() <= 1).all()
    assert torch.equal(torch.sign(r), torch.sign(slope))


def test_slope_is_apart_for_every_seed() -> None:
    data = feed(feature_set(2))
    method, b, v = pair(data)
    _, r = method.slope(b, v)
    with torch.no_grad():
        for p in method.parameters():
            p[0] = torch.nan
    _, hurt = method.slope(b, v)
    assert torch.isnan(hurt[0])
    assert torch.equal(hurt[1:], r[1:])


@pytest.mark.parametrize("lb", FOUR)
def test_moving_alpha_leaves_weights_gradients_and_optimizer_alone(lb: str) -> None:
    data = feed(feature_set(3))
    method = build("lfm-lb", data, lb=lb, config=TrainConfig(**(CONFIG.model_dump() | {"dropout": 0.5})))
    run = fit(method, data)
    method.eval()
    method.opt.zero_grad()
    before = {k: v.clone() for k, v in method.state_dict().items() if k != "alpha"}
    moments = {k: v.clone() for k, v in method.opt.state().items()}
    method.begin_epoch(run.peek)
    assert all(torch.equal(value, method.state_dict()[key]) for key, value in before.items())
    assert all(torch.equal(value, method.opt.state()[key]) for key, value in moments.items())
    assert all(p.grad is None and p.requires_grad for p in method.parameters())
    assert not method.alpha.requires_grad


# ------------------------------------------------------------------------------------- rules of alpha


def test_alpha_falls_with_halved_steps_within_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    data = feed(feature_set(2))
    method = build("lfm-lb", data)
    peek = Fit(method, data).peek
    ones = torch.ones(3, dtype=D64)
    monkeypatch.setattr(LFMLB, "slope", lambda self, b, v: (ones, torch.tensor([1.0, -1.0, 0.0], dtype=D64)))
    path = []
    for method.epoch in range(60):
        method.begin_epoch(peek)
        path.append(method.alpha.tolist())
    assert path[0] == pytest.approx([0.93, 0.95, 0.95])
    assert path[19][0] == pytest.approx(0.95 - 20 * 0.02)
    assert path[20][0] == pytest.approx(0.95 - 20 * 0.02 - 0.01)
    assert path[59][0] == pytest.approx(0.95 - 20 * 0.035)
    method.alpha = 0.06 * ones
    method.epoch = 0
    for _ in range(3):
        method.begin_epoch(peek)
    assert method.alpha.tolist() == pytest.approx([0.05, 0.12, 0.06])
    assert method.collect()["coef/r"].tolist() == [1, -1, 0]


def test_fitted_polynomial() -> None:
    assert [1 - fitted(e, 200) for e in (0, 50, 150)] == pytest.approx([0.204624, 0.436681, 0.821314], abs=1e-4)
    assert [1 - fitted(e, 200) for e in (10, 100, 175, 199)] == pytest.approx([0.248, 0.539, 0.993, 0.916], abs=5e-4)
    assert fitted(183, 200) == 0  # the polynomial itself is below zero here
    assert [fitted(e, 5) for e in range(5)] == [fitted(e * 199, 797) for e in range(5)]
    assert fitted(4, 5) == fitted(199, 200)
    assert fitted(0, 1) == fitted(0, 200)
    assert all(0 <= fitted(e, 37) <= 1 for e in range(37))


def vectors(*rows: list[float]) -> list[torch.Tensor]:
    """One seed for each row, split over two parameters."""
    both = torch.tensor(rows, dtype=D64)
    return [both[:, :1], both[:, 1:, None]]


def test_min_norm_of_known_pairs() -> None:
    a = vectors([1, 0], [1, 0], [2, 0], [1, 1], [0, 0], [0, 0], [1, 0])
    b = vectors([0, 2], [3, 0], [1, 0], [1, 1], [0, 0], [3, 1], [-1, 1])
    w = min_norm_pair(a, b)
    assert w.tolist() == pytest.approx([4 / 5, 1, 0, 0.5, 0.5, 1, 3 / 5])
    assert min_norm_pair(b, a).tolist() == pytest.approx((1 - w).tolist())


def test_min_norm_is_the_minimum() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = ([torch.randn(50, 2, 2, generator=g, dtype=D64), torch.randn(50, 1, generator=g, dtype=D64)] for _ in "ab")
    b = [x + 0.8 * y for x, y in zip(b, a, strict=True)]

    def length(w: torch.Tensor) -> torch.Tensor:
        mixed = [w.view(-1, *[1] * (x.dim() - 1)) * x + (1 - w.view(-1, *[1] * (x.dim() - 1))) * y
                 for x, y in zip(a, b, strict=True)]  # fmt: skip
        return inner(mixed, mixed)

    found = length(min_norm_pair(a, b))
    grid = torch.stack([length(torch.full((50,), k / 500, dtype=D64)) for k in range(501)])
    assert (found <= grid.min(0).values + 1e-12).all()
    assert (found >= grid.min(0).values - 1e-4).all()


@pytest.mark.parametrize(("theta", "expected"), [(3.0, 0.999), (0.0, 0.5), (-3.0, 0.001)])
def test_minnorm_weighs_the_shorter_gradient_and_halves_opposed_ones(theta: float, expected: float) -> None:
    data = feed(feature_set(2))
    method = build("lfm-lb", data, lb="minnorm")
    t = torch.nn.Parameter(torch.full((3, 1), theta, dtype=D64))
    method.theta = lambda: {"t": t}  # gradients t + 1 of the first and t - 1 of the second loss
    method.terms = lambda out, batch: ((t[:, 0] + 1) ** 2 / 2, (t[:, 0] - 1) ** 2 / 2)
    batch = next(data.epoch(method.rng, 16))
    assert method.shortest(batch).tolist() == pytest.approx([expected] * 3)


def test_curvature_is_the_hessian_vector_product_of_the_first_tensor() -> None:
    method, _, v = pair(feed(feature_set(3)), lb="hvp")
    method.alpha = torch.tensor([0.3, 0.7, 0.95], dtype=D64)
    params = list(method.parameters())
    assert next(iter(dict(method.named_parameters()))) == "enc.audio_.mlp.layers.0.weight"

    def gradient(which: float | None) -> list[torch.Tensor]:
        c, a = method.terms(method(v), v)
        alpha = method.alpha if which is None else which
        return gradients((1 - alpha) * c + alpha * a, params)

    direction, step, found = gradient(0.0), 1e-5, []
    for sign in (1, -2, 1):  # up, down, and back
        with torch.no_grad():
            for p, d in zip(params, direction, strict=True):
                p += sign * step * d
        found.append(gradient(None)[0])
    numeric = ((found[0] - found[1]) / (2 * step)).flatten(1).mean(1)
    assert (numeric.abs() > 1e-6).all()
    assert torch.allclose(method.curvature(v), numeric, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("align", ["nce", "js"])
def test_curvature_is_finite_where_features_are_zero(align: str) -> None:
    data = feed(feature_set(3, absent=0.3))
    method = build("lfm-lb", data, lb="hvp", align=align)
    with torch.no_grad():
        method.enc["text"].mlp.layers[0].bias.fill_(-0.5)
        method.enc["text"].mlp.layers[1].bias.fill_(-0.5)
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    assert ((out.h["text"] == 0).all(-1) & batch.present("text")).any()
    assert torch.isfinite(method.curvature(batch)).all()


# --------------------------------------------------------------------------------- the held-out batch


@pytest.mark.parametrize("lb", FOUR)
def test_a_batch_is_held_out_where_it_is_needed(lb: str) -> None:
    data = feed(feature_set(2, n=120))
    method = build("lfm-lb", data, lb=lb)
    run, history = slow_lfm.record(method, data)
    whole = set(data.rows["train"].tolist())
    fed = {
        row for epoch in history for batch in chain(epoch.batches, epoch.drawn) for row in batch.rows.flatten().tolist()
    }
    if lb in ("fitted", "minnorm"):
        assert method.held_out() == 0
        assert fed == whole
    else:
        assert method.held_out() == pytest.approx(16 / 120)
        aside = set(run.feed.rows["inner"].tolist())
        assert len(aside) == 16
        assert fed == whole - aside
    drawn = {"onestep": 1, "minnorm": 1}.get(lb, 0)
    assert all(len(epoch.drawn) == drawn for epoch in history)
    assert all(batch.y.shape == (3, 16) for epoch in history for batch in epoch.drawn)


def test_at_most_a_quarter_is_held_out_and_nothing_for_one_modality() -> None:
    assert build("lfm-lb", feed(feature_set(2, n=32))).held_out() == 0.25
    one = build("lfm-lb", feed(feature_set(1)))
    assert one.held_out() == 0
    assert one.alpha.tolist() == [0, 0, 0]


@pytest.mark.parametrize("lb", FOUR)
def test_alpha_rests_during_unimodal_training(lb: str) -> None:
    data = feed(feature_set(2))
    method = build("lfm-lb", data, lb=lb, init="unimodal", pretrain=2, start=0.6)
    begun: list[torch.Tensor] = []
    method.begin_phase = lambda peek: begun.append(method.alpha.clone())
    _, history = slow_lfm.record(method, data)
    assert [epoch.phase for epoch in history] == ["unimodal"] * 2 + ["train"] * 4
    assert all(len(epoch.drawn) == 0 for epoch in history[:2])
    assert [alpha.tolist() for alpha in begun] == [[0.6] * 3] * 2
    assert all(alpha == alpha for epoch in history[2:] for alpha in epoch.alpha)


# ------------------------------------------------------------------------------------ slow trainings


def rule(held: Batch, phase_epochs: int) -> slow_lfm.Rule:
    """alpha of one seed before each epoch, by the published formulas."""

    def change(slow: slow_lfm.Slow, e: int, p: Params, alpha: float, epoch: slow_lfm.Epoch) -> float:
        method, lb = slow.method, slow.method.knobs["lb"]
        if lb == "fitted":
            x, value = 199 * e / (phase_epochs - 1), 0.0
            for c in COEFFICIENTS.split():
                value = value * x + float(c)
            return min(1.0, max(0.0, value))
        if lb == "hvp":
            c, a = slow.terms(p, held)
            g = slow_lfm.flat((1 - alpha) * c + alpha * a, p, graph=True)
            dot = g @ slow_lfm.flat(c, p)
            (product,) = torch.autograd.grad(dot, [next(iter(p.values()))])
            return max(0.05, min(0.95, alpha - method.knobs["lr_hvp"] * product.mean().item()))
        c, a = slow.terms(p, epoch.drawn[0])
        g_c, g_a = slow_lfm.flat(c, p), slow_lfm.flat(a, p)
        if lb == "minnorm":
            cc, ca, aa = (g_c @ g_c).item(), (g_c @ g_a).item(), (g_a @ g_a).item()
            if ca < 0:
                return 0.5
            weight = 1.0 if ca >= aa else 0.0 if ca >= cc else (cc - ca) / (cc + aa - 2 * ca)
            return min(0.999, max(0.001, weight))
        lr = method.config.lr * (0.1 if e >= 3 else 1) * method.knobs["loss_scale"]
        moved, at = {}, 0
        for name, value in p.items():
            part = ((1 - alpha) * g_c + alpha * g_a)[at : at + value.numel()].view(value.shape)
            moved[name] = (value.detach() - lr * part).requires_grad_()
            at += value.numel()
        g_v = slow_lfm.flat(slow.terms(moved, held)[0], moved)
        r = (g_v @ (g_c - g_a)) / (abs(g_v @ g_c) + abs(g_v @ g_a))
        if method.knobs["normalise"] == "cosine":
            r = (g_v @ (g_c - g_a)) / (g_v.norm() * (g_c - g_a).norm() + 1e-12)
        return max(0.05, min(0.95, alpha - method.knobs["lr_alpha"] * r.item()))

    return change


@pytest.mark.parametrize("lb", FOUR)
@pytest.mark.parametrize(
    ("M", "absent", "knobs"),
    [
        (2, 0.0, {"align": "nce", "tau": 0.5, "start": 0.7, "lr_alpha": 0.2}),
        (2, 0.0, {"align": "nce", "tau": 0.5, "start": 0.7, "lr_alpha": 0.2, "normalise": "cosine"}),
        (3, 0.2, {"align": "nce", "start": 0.5, "lr_alpha": 0.1}),
        (3, 0.0, {"align": "js", "loss_scale": 2.0, "start": 0.7, "lr_alpha": 0.2}),
        (2, 0.2, {"align": "js", "fusion": "concat", "start": 0.4, "lr_alpha": 0.3}),
    ],
)
def test_whole_trainings_equal_a_loop_over_seeds_and_samples(lb: str, M: int, absent: float, knobs: dict) -> None:
    data = feed(feature_set(M, n=40, absent=absent))
    knobs = knobs | {"lb": lb, "lr_hvp": 2.0}
    method, fresh = build("lfm-lb", data, (1, 2), **knobs), build("lfm-lb", data, (1, 2), **knobs)
    run, history = slow_lfm.record(method, data)
    held = next(run.feed.split("inner", 2)) if "inner" in run.feed.rows else history[0].batches[0]
    assert len(history) == 4
    for i in range(2):
        start = reference.parameters_of(fresh, i)
        p, path = slow_lfm.train(slow_lfm.Slow(fresh, i), history, start, knobs["start"], rule(held, 4))
        assert path == pytest.approx([epoch.alpha[i] for epoch in history], abs=1e-10)
        assert max(slow_lfm.differences(method, i, p).values()) < 1e-10
        assert method.alpha[i].item() == pytest.approx(path[-1], abs=1e-10)
        if lb != "minnorm":
            assert len({round(alpha, 6) for alpha in path}) > 2  # it moved


# ------------------------------------------------------------------------------------------ contract


@pytest.mark.parametrize("lb", FOUR)
@pytest.mark.parametrize("align", ["nce", "js"])
def test_on_a_cpu_a_seed_is_bitwise_the_same_alone_and_in_company(lb: str, align: str) -> None:
    data = feed(feature_set(3, classes=6, absent=0.2), "float32")
    config = TrainConfig(**(CONFIG.model_dump() | {"dtype": "float32", "width": 24}))
    knobs = {"lb": lb, "align": align, "start": 0.6, "lr_hvp": 1.0, "init": "unimodal", "pretrain": 2}
    stacked = build("lfm-lb", data, (1, 2, 3, 4, 5), config, **knobs)
    fit(stacked, data)
    for group in ((2,), (4, 5)):
        part = build("lfm-lb", data, group, config, **knobs)
        fit(part, data)
        for i, seed in enumerate(group):
            for name, value in part.state_dict().items():
                assert torch.equal(value[i], stacked.state_dict()[name][seed - 1]), name


@pytest.mark.parametrize("lb", ["onestep", "hvp", "minnorm"])
def test_resume_after_each_epoch_is_bitwise(lb: str) -> None:
    data = feed(feature_set(2, absent=0.1))
    knobs = {"lb": lb, "init": "unimodal", "pretrain": 2, "start": 0.6, "lr_hvp": 1.0}
    whole = fit(build("lfm-lb", data, **knobs), data)
    part = Fit(build("lfm-lb", data, **knobs), data)
    while part.finished < 6:
        next(iter(part.run()))
        tensors, meta = part.state()
        part = Fit(build("lfm-lb", data, **knobs), data)
        part.load({k: v.clone() for k, v in tensors.items()}, meta)
    assert all(torch.equal(v, part.method.state_dict()[k]) for k, v in whole.method.state_dict().items())
    assert all(torch.equal(v, part.chosen.state[k]) for k, v in whole.chosen.state.items())
    assert "alpha" in whole.chosen.state
