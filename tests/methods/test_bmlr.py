"""BMLR (reconstructed): the numbers of the specification, every switch, exact special cases, and a slow reference."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods.base import Batch, Method
from mmbal_cli.ops import labels
from mmbal_cli.ops.losses import entropy, kl, soft_ce
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed, fit, steps, train
from tests.methods import reference

D64 = torch.float64
EXACT = 1e-12
SEEN = torch.ones(1, 2, dtype=torch.bool)
F32 = TrainConfig(**(CONFIG.model_dump() | {"dtype": "float32"}))


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=D64)


def strengths(*d: float, **knobs: Any) -> list[float]:
    chosen = {"rule": "matched", "target": "all", "alpha": 0.3, "s_base": 0.05, "kappa": 0.05} | knobs
    return labels.strengths(tensor(*d), torch.ones(1, len(d), dtype=torch.bool), **chosen)[0].tolist()


def temperatures(*d: float, mode: str = "gap") -> list[float]:
    return labels.temperatures(tensor(*d), torch.ones(1, len(d), dtype=torch.bool), mode, 4.0, 2.0)[0].tolist()


def small(M: int = 2, absent: float = 0.0, dtype: str = "float64") -> Any:
    return feed(feature_set(M, absent=absent), dtype)


def preset(method: Method) -> None:
    """A state as if training had gone on: unequal difficulties, strengths and mixed matrices for each seed."""
    g = torch.Generator().manual_seed(5)
    S, M, C = method.S, len(method.mods), method.C
    method.d.copy_(0.1 + 0.8 * torch.rand(S, M, generator=g, dtype=D64))
    method.s.copy_(0.5 * torch.rand(S, M, generator=g, dtype=D64))
    method.R.copy_((2 * torch.rand(S, M, C, C, generator=g, dtype=D64)).softmax(-1))
    method.seen.fill_(1)


def parts(method: Method, batch: Batch) -> tuple[Any, dict[str, torch.Tensor]]:
    """One forward pass and the reshaped targets of this batch, the state having been carried on to it."""
    out = method(batch)
    method.loss(out, batch)
    hot = labels.one_hot(batch.y, method.C, method.dtype)
    rows = method.rows(out, batch, hot, learn=False)
    return out, {m: labels.reshaped(hot, rows[m], method.s[:, i]) for i, m in enumerate(method.mods)}


# ------------------------------------------------------------------------------ numbers of the specification


def test_strength_numbers() -> None:
    assert strengths(0.2, 0.5, kappa=0.0, alpha=0.9) == pytest.approx([0.05, 0.65])
    assert strengths(0.2, 0.5, kappa=0.0, alpha=0.5) == pytest.approx([0.05, 0.5])
    assert strengths(0.2, 0.5, alpha=0.9) == pytest.approx([0.05, 0.59545], abs=1e-5)
    assert strengths(0.2, 0.5) == pytest.approx([0.05, 0.3])
    assert strengths(0.5, 0.2, 0.35, kappa=0.0, alpha=0.9) == pytest.approx([0.65, 0.05, 0.05 + 0.15 / 0.35])


def test_other_rules_of_strength() -> None:
    assert strengths(0.5, 0.2, 0.3, rule="fixed") == pytest.approx([0.3, 0.05, 0.3])
    assert strengths(0.5, 0.2, 0.3, rule="fixed", alpha=0.0) == [0, 0, 0]
    assert strengths(0.5, 0.2, 0.3, rule="fixed", target="weak") == pytest.approx([0.3, 0, 0.3])
    assert strengths(0.5, 0.2, target="weak") == pytest.approx([0.3, 0])


def test_temperature_numbers() -> None:
    assert temperatures(0.2, 0.5) == pytest.approx([1, 2.5])
    assert temperatures(0.1, 0.9) == pytest.approx([1, 4])
    assert temperatures(0.002, 0.001) == pytest.approx([2, 1])
    assert temperatures(1e-8, 2e-6) == pytest.approx([1, 2])  # the floor
    assert temperatures(0.6, 0.2, 0.3) == pytest.approx([3, 1, 1.5])
    assert temperatures(0.2, 0.5, mode="fixed") == [2, 2]


def test_reshaped_target_numbers() -> None:
    hot = tensor(1, 0, 0)[None]
    target = labels.reshaped(hot, tensor(0.6, 0.3, 0.1)[None], torch.tensor([0.5], dtype=D64))
    assert target.flatten().tolist() == pytest.approx([0.8, 0.15, 0.05])
    z = tensor(0.5, 0.3, 0.2)[None].log().requires_grad_()
    loss = soft_ce(z, target)
    assert loss.item() == pytest.approx(0.81559, abs=1e-5)
    assert torch.autograd.grad(loss.sum(), z)[0].flatten().tolist() == pytest.approx([-0.3, 0.15, 0.15])
    assert soft_ce(torch.zeros_like(z), target).item() == pytest.approx(math.log(3))


def test_equal_residuals() -> None:
    p, hot, y = tensor(0.5, 0.3, 0.2)[None], tensor(1, 0, 0)[None], torch.tensor([[0]])
    assert labels.hardness(p.log(), y, hot, "residual").item() == pytest.approx(0.5)
    target = labels.reshaped(hot, p, torch.tensor([0.6], dtype=D64))
    assert labels.hardness(p.log(), y, target, "residual").item() == pytest.approx(0.2)


def test_other_difficulties() -> None:
    z = torch.tensor([[[2.0, 1.0, 0.0], [0.0, 1.0, 0.0]]], dtype=D64)
    y = torch.tensor([[0, 2]])
    p = z.softmax(-1)
    found = {kind: labels.hardness(z, y, p, kind)[0].tolist() for kind in labels.DIFFICULTIES}
    true = [p[0, 0, 0].item(), p[0, 1, 2].item()]
    assert found["residual"] == [0, 0]
    assert found["conf"] == pytest.approx([1 - t for t in true])
    assert found["error"] == [0, 1]
    assert found["loss"] == pytest.approx([-math.log(t) / math.log(3) for t in true])


@pytest.mark.parametrize(
    ("tau", "expected"),
    [(1, [0.66524, 0.24473, 0.09003]), (2, [0.50648, 0.30720, 0.18632]), (4, [0.41923, 0.32650, 0.25428])],
)
def test_softening_numbers(tau: float, expected: list[float]) -> None:
    z, other = tensor(2, 1, 0)[None], tensor(5, 0, 0)[None]
    weight = [None, torch.ones(1, dtype=D64), torch.zeros(1, dtype=D64)]
    profile, valid = labels.mixture([other, z, other], weight, torch.tensor([tau], dtype=D64), [None, None, None])
    assert profile.flatten().tolist() == pytest.approx(expected, abs=1e-5)
    assert valid.all()


def test_matrix_numbers_and_missing_classes() -> None:
    R = torch.eye(3, dtype=D64)[None]
    hot = labels.one_hot(torch.tensor([[0, 0, 2]]), 3, D64)
    profile = torch.tensor([[[0.8, 0.2, 0.0], [0.4, 0.4, 0.2], [0.1, 0.1, 0.8]]], dtype=D64)
    valid = torch.tensor([[True, True, False]])
    new = labels.update_rows(R, profile, hot, valid, 0.9)
    assert new[0, 0].tolist() == pytest.approx([0.96, 0.03, 0.01])
    assert torch.equal(new[0, 1:], R[0, 1:])  # class 1 does not occur; the only sample of class 2 lacks the teacher
    both = labels.update_rows(R, profile, hot, torch.ones_like(valid), 0.9)
    assert both[0, 2].tolist() == pytest.approx([0.01, 0.01, 0.98])
    assert both.sum(-1).flatten().tolist() == pytest.approx([1, 1, 1])


def test_matrix_without_diagonal() -> None:
    R = torch.tensor([[[0.6, 0.3, 0.1], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]], dtype=D64)
    assert labels.off_diagonal(R)[0].flatten().tolist() == pytest.approx([0, 0.75, 0.25, 0, 1, 0, 1, 0, 0])


@pytest.mark.parametrize("matrix", labels.MATRICES)
def test_targets_are_distributions_with_their_top_at_the_label(matrix: str) -> None:
    data = small(3, absent=0.3)
    method = build("bmlr", data, warmup=0, alpha=0.5, s_base=0.5, matrix=matrix)
    for epoch in range(3):
        for batch in data.epoch(method.rng, 16):
            method.step(batch)
            _, targets = parts(method, batch)
            for t in targets.values():
                assert (t.sum(-1) - 1).abs().max() < EXACT
                assert (t >= 0).all()
                assert (t.gather(-1, batch.y[..., None])[..., 0] >= t.amax(-1) - EXACT).all(), epoch
        assert (method.R.sum(-1) - 1).abs().max() < EXACT


def test_more_than_half_strength_may_move_the_top() -> None:
    hot, row = tensor(1, 0, 0)[None], tensor(0.1, 0.8, 0.1)[None]
    assert labels.reshaped(hot, row, torch.tensor([0.9], dtype=D64)).argmax(-1).item() == 1
    assert "0.5" in type(build("bmlr", small())).declared()["alpha"].help


# ------------------------------------------------------------------------------------------------ edge cases


@pytest.mark.parametrize("kappa", [0.0, 0.05])
def test_no_difficulty_at_all(kappa: float) -> None:
    assert strengths(0, 0, 0, kappa=kappa) == pytest.approx([0.05, 0.05, 0.05])
    assert temperatures(0, 0, 0) == [1, 1, 1]
    assert temperatures(0, 1e-7) == [1, 1]


def test_ties_go_to_the_first() -> None:
    d, seen = tensor(0.3, 0.3, 0.3), torch.ones(1, 3, dtype=torch.bool)
    assert labels.teachers(d, seen).tolist() == [[1, 0, 0]]
    assert labels.teachers(tensor(0.3, 0.2, 0.2), seen).tolist() == [[1, 2, 1]]
    assert strengths(0.3, 0.3, target="weak") == pytest.approx([0, 0.05])


def test_teachers_differ_between_seeds() -> None:
    d = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]], dtype=D64)
    seen = torch.ones(2, 3, dtype=torch.bool)
    assert labels.teachers(d, seen).tolist() == [[1, 0, 0], [2, 2, 1]]
    assert [w if w is None else w.tolist() for w in labels.weights(d, seen, 0, "best_other")] == [
        None, None, [1, 0], [0, 1]]  # fmt: skip
    assert [w if w is None else w.tolist() for w in labels.weights(d, seen, 1, "mean_other")] == [
        None, [1, 1], None, [1, 1]]  # fmt: skip
    assert [w if w is None else w.tolist() for w in labels.weights(d, seen, 1, "fused")] == [
        [1, 1], None, None, None]  # fmt: skip


def test_a_modality_that_was_never_measured_is_nobodys_easiest() -> None:
    d = tensor(0.0, 0.4, 0.6)
    seen = torch.tensor([[False, True, True]])
    assert labels.teachers(d, seen).tolist() == [[1, 2, 1]]
    s = labels.strengths(d, seen, "matched", "all", 0.9, 0.05, 0.0)
    assert s[0].tolist() == pytest.approx([0.05, 0.05, 0.05 + 1 / 3])
    assert labels.temperatures(d, seen, "gap", 4.0, 2.0)[0].tolist() == pytest.approx([1, 1, 1.5])
    alone = torch.tensor([[True, False]])
    assert labels.teachers(tensor(0.4, 0.0), alone).tolist() == [[1, 0]]  # never itself
    assert labels.temperatures(tensor(0.4, 0.0), alone, "gap", 4.0, 2.0)[0].tolist() == [1, 1]
    nothing = labels.strengths(tensor(0, 0), ~SEEN, "matched", "all", 0.3, 0.05, 0.0)
    assert nothing[0].tolist() == pytest.approx([0.05, 0.05])


def test_the_first_measure_replaces_the_start_and_absence_keeps_it() -> None:
    old, new = tensor(0.5, 0.5, 0.5), tensor(0.1, 0.1, 0.1)
    seen, measured = torch.tensor([[True, False, True]]), torch.tensor([[True, True, False]])
    assert labels.running(old, new, seen, measured)[0].tolist() == pytest.approx([0.46, 0.1, 0.5])


def test_a_sample_counts_only_the_teachers_it_has() -> None:
    a, b = tensor(1, 0)[None].expand(1, 3, 2), tensor(0, 2)[None].expand(1, 3, 2)
    has_a, has_b = torch.tensor([[True, True, False]]), torch.tensor([[True, False, False]])
    one = torch.ones(1, dtype=D64)
    mean, valid = labels.mixture([a, b], [one, one], one, [has_a, has_b])
    assert torch.allclose(mean[0, 0], (a.softmax(-1) + b.softmax(-1))[0, 0] / 2)
    assert torch.equal(mean[0, 1], a.softmax(-1)[0, 1])
    assert mean[0, 2].tolist() == [0, 0]
    assert valid.tolist() == [[True, True, False]]


@pytest.mark.parametrize("matrix", ["class", "sample"])
def test_a_modality_absent_from_a_whole_batch_leaves_its_state(matrix: str) -> None:
    data = small(2)
    method = build("bmlr", data, warmup=0, matrix=matrix)
    batch = next(data.epoch(method.rng, 16))
    gone, there = method.mods
    shape = batch.x[gone].shape[: batch.x[gone].dim() - 1]
    hidden = Batch(batch.x, batch.y, batch.idx, {**batch.mask, gone: torch.zeros(shape, dtype=torch.bool)})
    eye = torch.eye(4, dtype=D64).expand(3, 4, 4)
    assert torch.isfinite(method.step(hidden)).all()
    assert method.seen.tolist() == [[0, 1]] * 3
    assert torch.equal(method.d[:, 0], torch.zeros(3, dtype=D64))
    assert torch.equal(method.R[:, 1], eye)  # its teacher is the absent one
    assert not torch.equal(method.R[:, 0], eye)
    assert all(p.grad is None or not p.grad.any() for p in method.heads[gone].parameters())
    _, targets = parts(method, hidden)
    hot = labels.one_hot(batch.y, 4, D64)
    assert torch.equal(targets[there], hot)  # no teacher: one-hot, whatever the strength
    assert (method.s[:, 1] > 0).all()
    method.step(batch)
    assert method.seen.all()


def test_absent_samples_do_not_enter_difficulty_or_matrix() -> None:
    data = small(2)
    method = build("bmlr", data, warmup=0)
    batch = next(data.epoch(method.rng, 16))
    a = method.mods[0]
    has = torch.ones(3, 16, dtype=torch.bool)
    has[:, ::2] = False
    mask = has if batch.x[a].dim() == 3 else has[..., None].expand(batch.x[a].shape[:-1])
    out, _ = parts(method, Batch(batch.x, batch.y, batch.idx, {**batch.mask, a: mask}))
    for i in range(3):
        p = out.z[a][i].softmax(-1)
        rest = [n for n in range(16) if has[i, n]]
        assert method.d[i, 0].item() == pytest.approx(sum(1 - p[n, batch.y[i, n]].item() for n in rest) / len(rest))
        for c in range(4):
            own = [p[n] for n in rest if batch.y[i, n] == c]
            tau = max(1.0, min(4.0, (method.d[i, 1] / method.d[i, 0]).item()))
            soft = [(out.z[a][i, n] / tau).softmax(-1) for n in rest if batch.y[i, n] == c]
            row = torch.eye(4, dtype=D64)[c]
            expected = 0.9 * row + 0.1 * sum(soft) / len(soft) if own else row
            assert (method.R[i, 1, c] - expected).abs().max() < EXACT


def test_one_modality_is_heads() -> None:
    data = small(1)
    one, heads = build("bmlr", data, warmup=0, beta=0.7), build("heads", data, beta=0.7)
    assert all(torch.equal(a, b) for a, b in zip(train(one, data, 3), train(heads, data, 3), strict=True))
    assert not one.s.any()


def test_a_class_never_seen_keeps_its_identity_row() -> None:
    features = feature_set(2)
    features.y[features.rows["train"]] %= 3
    data = feed(features)
    method = build("bmlr", data, warmup=0)
    train(method, data, 2)
    assert torch.equal(method.R[:, :, 3], torch.eye(4, dtype=D64)[3].expand(3, 2, 4))
    assert not torch.equal(method.R[:, :, 0], torch.eye(4, dtype=D64)[0].expand(3, 2, 4))


# ------------------------------------------------------------------------------------- nested special cases


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"strength": "fixed", "matrix": "sample", "teacher": "mean_other"},
        {"matrix": "offdiag", "tpo": "none", "fused_target": "mean"},
        {"matrix": "uniform", "teacher": "fused", "difficulty": "loss"},
    ],
)
def test_without_strength_it_is_heads_bit_for_bit(dtype: str, M: int, knobs: dict[str, Any]) -> None:
    data = small(M, 0.2, dtype)
    config = TrainConfig(**(CONFIG.model_dump() | {"dtype": dtype}))
    method = build("bmlr", data, config=config, alpha=0.0, warmup=0, beta=0.7, **knobs)
    heads = build("heads", data, config=config, beta=0.7)
    assert all(torch.equal(a, b) for a, b in zip(train(method, data, 3), train(heads, data, 3), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(method.parameters(), heads.parameters(), strict=True))


def test_the_warm_up_is_heads_and_then_is_not() -> None:
    data = small(3)
    method, heads = build("bmlr", data, warmup=2), build("heads", data)
    train(method, data, 2)
    train(heads, data, 2)
    assert all(torch.equal(a, b) for a, b in zip(method.parameters(), heads.parameters(), strict=True))
    assert not method.s.any()
    assert (method.R.diagonal(dim1=2, dim2=3) < 1).all()  # the matrix is ready when the reshaping begins
    method.epoch = 2
    steps(method, data, 2)
    steps(heads, data, 2)
    assert (method.s > 0).all()
    assert not any(torch.equal(a, b) for a, b in zip(method.heads.parameters(), heads.heads.parameters(), strict=True))


@pytest.mark.parametrize("M", [2, 3])
def test_uniform_matrix_is_label_smoothing(M: int) -> None:
    data = small(M)
    method = build("bmlr", data, warmup=0, alpha=0.9, matrix="uniform", beta=0.7)
    preset(method)
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    found = method.loss(out, batch)
    for i in range(3):
        expected = F.cross_entropy(out.fused[i], batch.y[i])
        for k, m in enumerate(method.mods):
            smooth = F.cross_entropy(out.z[m][i], batch.y[i], label_smoothing=method.s[i, k].item())
            expected = expected + 0.7 * smooth
        assert abs((found[i] - expected).item()) < EXACT


@pytest.mark.parametrize("mode", ["gap", "fixed"])
def test_sample_matrix_is_distillation(mode: str) -> None:
    data = small(3)
    method = build("bmlr", data, warmup=0, alpha=0.9, matrix="sample", tau_mode=mode, beta=0.7)
    preset(method)
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    found = method.loss(out, batch)
    teachers = labels.teachers(method.d, method.seen)
    for i in range(3):
        expected = F.cross_entropy(out.fused[i], batch.y[i])
        for k, m in enumerate(method.mods):
            t = int(teachers[i, k])
            tau = 2.0 if mode == "fixed" else max(1.0, min(4.0, (method.d[i, k] / method.d[i, t]).item()))
            soft = out.z[method.mods[t]][i] / tau
            distil = (kl(soft.softmax(-1), out.z[m][i]) + entropy(soft)).mean()
            s = method.s[i, k]
            expected = expected + 0.7 * ((1 - s) * F.cross_entropy(out.z[m][i], batch.y[i]) + s * distil)
        assert abs((found[i] - expected).item()) < EXACT


@pytest.mark.parametrize("kind", ["class", "offdiag"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identity_rows_are_one_hot_bit_for_bit(kind: str, dtype: torch.dtype) -> None:
    hot = labels.one_hot(torch.tensor([[0, 1, 2, 1]]), 3, dtype)
    row = labels.rows(kind, hot, torch.eye(3, dtype=dtype)[None], torch.zeros_like(hot), hot.bool().any(-1))
    for s in (0.0, 0.1, 0.3, 0.7, 1.0):
        assert torch.equal(labels.reshaped(hot, row, torch.tensor([s], dtype=dtype)), hot)


# ------------------------------------------------------------------------------------------- where losses lead


def reached(method: Method, value: torch.Tensor) -> set[str]:
    """Parts of the model that `value` has a gradient in: enc.audio, heads.video, fusion, ..."""
    names = dict(method.named_parameters())
    grads = torch.autograd.grad(value.sum(), list(names.values()), allow_unused=True, retain_graph=True)
    hit = [name for name, g in zip(names, grads, strict=True) if g is not None and g.abs().max() > 0]
    return {"fusion" if name.startswith("fusion") else ".".join(name.split(".")[:2]).rstrip("_") for name in hit}


def routed(batch_of: Any, **knobs: Any) -> tuple[Method, dict[str, set[str]], Any]:
    method = build("bmlr", batch_of, warmup=0, alpha=0.9, s_base=0.3, **knobs)
    preset(method)
    batch = next(batch_of.epoch(method.rng, 16))
    out = method(batch)
    hot = labels.one_hot(batch.y, method.C, method.dtype)
    method.measure(out, batch, hot)
    rows = method.rows(out, batch, hot, learn=True)
    losses = {m: soft_ce(out.z[m], labels.reshaped(hot, rows[m], method.s[:, i])) for i, m in enumerate(method.mods)}
    own = {m: reached(method, loss) for m, loss in losses.items()}
    method.loss(out, batch)
    return method, own, (out, batch)


@pytest.mark.parametrize("matrix", labels.MATRICES)
@pytest.mark.parametrize("tpo", ["branch", "strict"])
@pytest.mark.parametrize("teacher", ["best_other", "mean_other", "fused"])
def test_a_reshaped_loss_stays_in_its_branch(matrix: str, tpo: str, teacher: str) -> None:
    method, own, _ = routed(small(3), matrix=matrix, tpo=tpo, teacher=teacher)
    assert own == {m: {f"enc.{m}", f"heads.{m}"} for m in method.mods}


def test_strict_keeps_the_fused_loss_in_the_fusion() -> None:
    _, _, (out, batch) = (found := routed(small(3), tpo="strict"))
    method = found[0]
    hot = labels.one_hot(batch.y, 4, D64)
    assert reached(method, soft_ce(out.fused, hot)) == {"fusion"}
    branch, _, (other, _) = routed(small(3), tpo="branch")
    assert torch.equal(other.fused, out.fused)
    assert reached(branch, soft_ce(other.fused, hot)) == {"fusion", *(f"enc.{m}" for m in method.mods)}
    assert all(other.h[m].requires_grad and out.h[m].requires_grad for m in method.mods)


def test_strict_without_unimodal_losses_leaves_the_encoders() -> None:
    data = small(2)
    method = build("bmlr", data, tpo="strict", beta=0.0, warmup=0, config=TrainConfig(
        **(CONFIG.model_dump() | {"weight_decay": 0.0})))  # fmt: skip
    before = [p.clone() for p in method.enc.parameters()]
    train(method, data)
    assert all(torch.equal(a, b) for a, b in zip(before, method.enc.parameters(), strict=True))


@pytest.mark.parametrize("teacher", ["best_other", "mean_other", "fused"])
@pytest.mark.parametrize("matrix", labels.MATRICES)
def test_without_routing_targets_lead_to_the_teacher(matrix: str, teacher: str) -> None:
    method, own, _ = routed(small(3), matrix=matrix, tpo="none", teacher=teacher)
    for m in method.mods:
        expected = {f"enc.{m}", f"heads.{m}"}
        if matrix != "uniform":
            others = [k for k in method.mods if k != m]
            chosen = labels.teachers(method.d, method.seen)[:, method.mods.index(m)]
            taught = others if teacher == "mean_other" else sorted({method.mods[int(k)] for k in chosen})
            if teacher == "fused":
                expected |= {"fusion", *(f"enc.{k}" for k in method.mods)}
            else:
                expected |= {part for k in taught for part in (f"enc.{k}", f"heads.{k}")}
        assert own[m] == expected, m
    assert not any(value.requires_grad for value in (method.R, method.d, method.s))


# --------------------------------------------------------------------------------------------- slow reference


class Slow:
    """The seven steps for one seed by loops over samples and classes; numbers are floats, gradients autograd's."""

    def __init__(self, method: Method, i: int) -> None:
        self.k, self.mods, self.C, self.width = dict(method.knobs), method.mods, method.C, method.D
        self.p = {n: v[i].detach().clone().requires_grad_() for n, v in method.named_parameters()}
        self.velocity: reference.Params = {}
        self.config = method.config
        row = {m: method.R[i, j].tolist() for j, m in enumerate(self.mods)}
        self.R: dict[str, list[list[float]]] = row
        self.d = {m: method.d[i, j].item() if method.seen[i, j] else None for j, m in enumerate(self.mods)}
        self.s = {m: method.s[i, j].item() for j, m in enumerate(self.mods)}

    def logits(self, x: dict[str, torch.Tensor], has: dict[str, bool]) -> dict[str, torch.Tensor]:
        h = {m: reference.adapter(self.p, m, x[m]) if has[m] else x[m].new_zeros(self.width) for m in self.mods}
        z = {m: h[m] @ self.p[f"heads.{m}_.weight"] + self.p[f"heads.{m}_.bias"][0] for m in self.mods}
        joint = torch.cat([h[m].detach() if self.k["tpo"] == "strict" else h[m] for m in self.mods])
        return z | {"fused": joint @ self.p["fusion.head.weight"] + self.p["fusion.head.bias"][0]}

    def order(self, m: str) -> list[str]:
        """The other modalities, easiest first."""
        others = [k for k in self.mods if k != m]
        return sorted(others, key=lambda k: math.inf if self.d[k] is None else self.d[k])

    def tau(self, m: str) -> float:
        if self.k["tau_mode"] == "fixed":
            return self.k["tau_fix"]
        best = self.d[self.order(m)[0]]
        if self.d[m] is None or best is None:
            return 1.0
        return min(max(self.d[m] / max(best, 1e-6), 1.0), self.k["tau_max"])

    def profile(self, m: str, z: dict[str, torch.Tensor], has: dict[str, bool]) -> torch.Tensor | None:
        """The teacher's softened answer to one sample; None when the sample has no teacher."""
        names = {"best_other": self.order(m)[:1], "mean_other": self.order(m), "fused": ["fused"]}[self.k["teacher"]]
        names = [k for k in names if k == "fused" or has[k]]
        if not names:
            return None
        answers = []
        for k in names:
            e = torch.exp((z[k] if self.k["tpo"] == "none" else z[k].detach()) / self.tau(m))
            answers.append(e / e.sum())
        return sum(answers) / len(answers)

    def target(self, m: str, y: int, rows: list[Any], profile: torch.Tensor | None) -> torch.Tensor:
        hot = torch.zeros(self.C, dtype=D64)
        hot[y] = 1
        kind, row = self.k["matrix"], torch.as_tensor(rows[y], dtype=D64)
        if kind == "uniform":
            row = torch.full((self.C,), 1 / self.C, dtype=D64)
        elif kind == "sample":
            row = hot if profile is None else profile
        elif kind == "offdiag":
            rest = sum(row[c] for c in range(self.C) if c != y)
            row = hot if float(rest.detach()) == 0 else row * (1 - hot) / rest
        return (1 - self.s[m]) * hot + self.s[m] * row

    def hard(self, m: str, z: torch.Tensor, y: int, target: torch.Tensor) -> float:
        p = torch.exp(z) / torch.exp(z).sum()
        kind = self.k["difficulty"]
        if kind == "residual":
            return 0.5 * sum(abs(float(p[c]) - float(target[c])) for c in range(self.C))
        if kind == "error":
            return float(int(p.argmax()) != y)
        return 1 - float(p[y]) if kind == "conf" else -math.log(float(p[y])) / math.log(self.C)

    def measure(self, seen: list[tuple[dict, dict, int]]) -> None:
        found = {}
        for m in self.mods:
            own = [(z, has, y) for z, has, y in seen if has[m]]
            each = [
                self.hard(m, z[m].detach(), y, self.target(m, y, self.R[m], self.profile(m, z, has)).detach())
                for z, has, y in own
            ]
            if each:
                found[m] = sum(each) / len(each)
        for m, value in found.items():
            self.d[m] = value if self.d[m] is None else 0.9 * self.d[m] + 0.1 * value

    def learn(self, m: str, seen: list[tuple[dict, dict, int]]) -> list[Any]:
        rows: list[Any] = []
        for c in range(self.C):
            answers = [self.profile(m, z, has) for z, has, y in seen if y == c]
            answers = [a for a in answers if a is not None]
            old = torch.tensor(self.R[m][c], dtype=D64)
            mu = self.k["mu"]
            rows.append(mu * old + (1 - mu) * sum(answers) / len(answers) if answers else old)
        self.R[m] = [row.tolist() for row in rows]
        return rows

    def strength(self) -> None:
        known = [v for v in self.d.values() if v is not None]
        least = min(known)
        first = next(m for m in self.mods if self.d[m] == least)
        for m in self.mods:
            d = least if self.d[m] is None else self.d[m]
            gap = 0.0 if d == least else (d - least) / (d + self.k["kappa"])
            s = self.k["s_base"] + gap
            if self.k["strength"] == "fixed":
                s = self.k["s_base"] if m == first else self.k["alpha"]
            self.s[m] = 0.0 if self.k["target"] == "weak" and m == first else min(max(s, 0.0), self.k["alpha"])

    def step(self, batch: Batch, i: int) -> float:
        seen = []
        for b in range(batch.y.shape[1]):
            has = {m: batch.present(m) is None or bool(batch.present(m)[i, b]) for m in self.mods}
            seen.append((self.logits({m: batch.x[m][i, b] for m in self.mods}, has), has, int(batch.y[i, b])))
        self.measure(seen)
        rows = {m: self.learn(m, seen) for m in self.mods}
        self.strength()
        loss, counts = torch.zeros((), dtype=D64), {m: sum(has[m] for _, has, _ in seen) for m in self.mods}
        for z, has, y in seen:
            targets = {m: self.target(m, y, rows[m], self.profile(m, z, has)) for m in self.mods}
            fused = sum(targets.values()) / len(self.mods)
            if self.k["fused_target"] == "onehot":
                fused = torch.zeros(self.C, dtype=D64)
                fused[y] = 1
            loss = loss + sum(t * reference.cross_entropy(z["fused"], c) for c, t in enumerate(fused)) / len(seen)
            for m in self.mods:
                if has[m]:
                    each = sum(t * reference.cross_entropy(z[m], c) for c, t in enumerate(targets[m]))
                    loss = loss + self.k["beta"] * each / counts[m]
        loss.backward()
        reference.sgd(self.p, self.velocity, self.config.lr, self.config.momentum, self.config.weight_decay)
        return loss.item()


ONE_SWITCH: list[dict[str, Any]] = [
    {},
    *({"difficulty": v} for v in ("conf", "error", "loss")),
    {"strength": "fixed"},
    {"tau_mode": "fixed"},
    {"target": "weak"},
    {"fused_target": "mean"},
]
CROSSED: list[dict[str, Any]] = [
    {"matrix": matrix, "teacher": teacher, "tpo": tpo}
    for matrix in labels.MATRICES
    for teacher in ("best_other", "mean_other", "fused")
    for tpo in ("branch", "strict", "none")
]


def agree(M: int, absent: float, begin: bool, seeds: tuple[int, ...], **knobs: Any) -> None:
    """Three whole optimizer steps of the method and of the loops, from a fresh state or from one in mid-training."""
    data = feed(feature_set(M, n=24, absent=absent))
    config = TrainConfig(**(CONFIG.model_dump() | {"batch": 8}))
    method = build("bmlr", data, config=config, warmup=0, beta=0.7, **knobs)
    if not begin:
        preset(method)
    slow = {i: Slow(method, i) for i in seeds}
    for batch in list(data.epoch(method.rng, 8)):
        found = method.step(batch)
        for i in seeds:
            assert abs(slow[i].step(batch, i) - found[i].item()) < 1e-10
    for i, other in slow.items():
        for name, value in method.named_parameters():
            assert (value[i] - other.p[name]).abs().max() < 1e-10, name
        for j, m in enumerate(method.mods):
            assert method.d[i, j].item() == pytest.approx(other.d[m], abs=1e-10)
            assert method.s[i, j].item() == pytest.approx(other.s[m], abs=1e-10)
            assert (method.R[i, j] - torch.tensor(other.R[m], dtype=D64)).abs().max() < 1e-10
    assert method.s.any()


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize("absent", [0.0, 0.3])
def test_default_steps_equal_loops_over_seeds_and_samples(M: int, absent: float) -> None:
    agree(M, absent, True, (0, 1, 2))


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize("knobs", ONE_SWITCH, ids=str)
def test_each_switch_equals_loops_over_samples(M: int, knobs: dict[str, Any]) -> None:
    agree(M, 0.3, False, (1,), alpha=0.9, kappa=0.02, mu=0.7, **knobs)


@pytest.mark.parametrize("knobs", CROSSED, ids=lambda k: "-".join(k.values()))
def test_matrices_teachers_and_routes_equal_loops_over_samples(knobs: dict[str, Any]) -> None:
    M = 2 if knobs["matrix"] in ("uniform", "offdiag") and knobs["teacher"] == "best_other" else 3
    agree(M, 0.3, False, (1,), alpha=0.9, fused_target="mean", **knobs)


# ------------------------------------------------------------------------------------------- stack and engine


@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"tpo": "none"},
        {"tpo": "none", "matrix": "sample", "teacher": "mean_other", "fused_target": "mean"},
        {"tpo": "strict", "matrix": "offdiag", "teacher": "fused"},
        {"matrix": "uniform", "difficulty": "loss", "strength": "fixed"},
    ],
)
def test_a_seed_is_bitwise_the_same_alone_and_in_company(classes: int, knobs: dict[str, Any]) -> None:
    data = feed(feature_set(3, classes=classes, absent=0.1), "float32")
    config = TrainConfig(**(F32.model_dump() | {"width": 64, "clip": 0.5}))
    stacked = build("bmlr", data, (1, 2, 3, 4, 5), config, warmup=0, **knobs)
    train(stacked, data, 2)
    for group in ((2,), (4, 5)):
        part = build("bmlr", data, group, config, warmup=0, **knobs)
        train(part, data, 2)
        for name, value in part.state_dict().items():
            assert all(torch.equal(v, stacked.state_dict()[name][s - 1]) for s, v in zip(group, value, strict=True))


def test_each_step_records_strength_difficulty_and_temperature() -> None:
    data = small(2)
    method = build("bmlr", data, warmup=0)
    steps(method, data, 5)
    method.collect()
    method.step(next(data.epoch(method.rng, 16)))
    record = method.collect()
    tau = labels.temperatures(method.d, method.seen, "gap", 4.0, 2.0)
    for i, m in enumerate(method.mods):
        assert torch.equal(record[f"coef/s/{m}"], method.s[:, i])
        assert torch.equal(record[f"coef/d/{m}"], method.d[:, i])
        assert torch.equal(record[f"coef/tau/{m}"], tau[:, i])


@pytest.mark.parametrize("knobs", [{}, {"matrix": "sample", "tpo": "none", "teacher": "fused"}], ids=str)
def test_a_resumed_run_carries_the_state_bit_for_bit(knobs: dict[str, Any]) -> None:
    data = small(2, 0.1)
    whole = fit(build("bmlr", data, warmup=0, **knobs), data)
    assert {"R", "d", "s", "seen"} <= set(whole.chosen.state)
    part = Fit(build("bmlr", data, warmup=0, **knobs), data)
    while part.finished < CONFIG.epochs:
        next(iter(part.run()))
        tensors, meta = part.state()
        part = Fit(build("bmlr", data, warmup=0, **knobs), data)
        part.load({k: v.clone() for k, v in tensors.items()}, meta)
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, part.method.state_dict()[name]), name
        assert torch.equal(whole.chosen.state[name], part.chosen.state[name]), name


def test_it_says_that_it_is_a_reconstruction() -> None:
    cls = type(build("bmlr", small()))
    assert cls.card.reconstructed
    assert "RECONSTRUCTED" in (__import__(cls.__module__, fromlist=["x"]).__doc__ or "")


KNOBS: list[dict[str, Any]] = [
    {key: choice}
    for key, k in type(build("bmlr", small())).declared().items()
    for choice in k.choices
    if choice != k.default
] + [{"alpha": 0.06}, {"s_base": 0.2}, {"kappa": 1.0}, {"mu": 0.5}, {"tau_max": 1.0}, {"warmup": 1}, {"beta": 0.5}]


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_every_knob_changes_the_weights(knobs: dict[str, Any]) -> None:
    data = small(3)
    one, other = build("bmlr", data, warmup=0), build("bmlr", data, **({"warmup": 0} | knobs))
    for method in (one, other):
        preset(method)
        train(method, data, 2)
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_fixed_temperature_is_a_knob() -> None:
    data = small(2)
    one, other = (build("bmlr", data, warmup=0, tau_mode="fixed", tau_fix=t) for t in (1.0, 5.0))
    train(one, data)
    train(other, data)
    assert not torch.equal(one.R, other.R)
