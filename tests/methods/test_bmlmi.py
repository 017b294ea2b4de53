"""BMLMI: the numeric checks of its specification, every switch, and a slow trainer of all three stages."""

from __future__ import annotations

import math

import pytest
import torch

from mmbal_cli.engine.feed import SplitPeek
from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods.base import Batch, Method
from mmbal_cli.nn.branches import Branches
from mmbal_cli.ops.information import nmi
from mmbal_cli.ops.losses import ce
from mmbal_cli.ops.multitask import at_mean_norm, distillation, needs, reweighted
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed, fit
from tests.methods.bmlmi_reference import Slow

D64 = torch.float64
SHORT = TrainConfig(**(CONFIG.model_dump() | {"epochs": 2}))


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=D64)


def table(M: int, pairs: dict[tuple[int, int], float]) -> torch.Tensor:
    """Symmetric NMI [1,M+1,M+1]; 0 is the fused task."""
    found = torch.zeros(1, M + 1, M + 1, dtype=D64)
    for (j, k), value in pairs.items():
        found[0, j, k] = found[0, k, j] = value
    return found


def target(a: torch.Tensor, low: float = 0.0, high: float = 100.0) -> list[float]:
    return reweighted(torch.ones_like(a), a, low, high, 0.0).flatten().tolist()


# ------------------------------------------------------------------------------------ the weights


@pytest.mark.parametrize(
    ("nu", "a", "w"),
    [(0.5, [0.125, 0.1, 0.3], [0.71429, 0.57143, 1.71429]), (0.8, [0.05, 0.16, 0.48], [0.21739, 0.69565, 2.08696])],
)
def test_weights_of_two_modalities(nu: float, a: list[float], w: list[float]) -> None:
    found = needs(row(0.75, 0.8, 0.4), table(2, {(1, 2): nu}), 0.0, "dependence")
    assert found.flatten().tolist() == pytest.approx(a)
    assert target(found) == pytest.approx(w, abs=1e-5)
    assert sum(target(found)) == pytest.approx(3)


def test_weights_of_three_modalities() -> None:
    pairs = {(1, 2): 0.1, (1, 3): 0.7, (2, 3): 0.1}
    found = needs(row(0.85, 0.8, 0.5, 0.6), table(3, pairs), 0.05, "dependence")
    assert found.flatten().tolist() == pytest.approx([0.1125, 0.09, 0.075, 0.18])
    assert target(found) == pytest.approx([0.98361, 0.78689, 0.65574, 1.57377], abs=1e-5)
    assert sum(target(found)) == pytest.approx(4)


def test_roles_of_mutual_information() -> None:
    F = row(0.85, 0.8, 0.5, 0.6)
    pairs = {(1, 2): 0.1, (1, 3): 0.7, (2, 3): 0.1, (0, 1): 0.9, (0, 2): 0.2, (0, 3): 0.4}
    found = {role: needs(F, table(3, pairs), 0.05, role).flatten().tolist() for role in
             ("dependence", "complement", "dominance", "none")}  # fmt: skip
    assert found["complement"] == pytest.approx([0.1125, 0.2 * 0.65, 0.5 * 0.95, 0.4 * 0.65])
    assert found["dominance"] == pytest.approx([0.1125, 0.2 * 0.15, 0.5 * 0.85, 0.4 * 0.65])
    assert found["none"] == pytest.approx([0.15, 0.2, 0.5, 0.4])


def test_with_two_modalities_only_dominance_tells_them_apart() -> None:
    F, pairs = row(0.75, 0.6, 0.6), {(1, 2): 0.3, (0, 1): 0.9, (0, 2): 0.1}
    for role in ("dependence", "complement", "none"):
        _, first, second = needs(F, table(2, pairs), 0.05, role).flatten().tolist()
        assert first == second
    _, first, second = needs(F, table(2, pairs), 0.05, "dominance").flatten().tolist()
    assert second / first == pytest.approx(0.95 / 0.15)


def test_weights_are_smoothed_clipped_after_normalising_and_kept_when_nothing_is_lacking() -> None:
    a = row(0.125, 0.1, 0.3)
    assert reweighted(row(1, 1, 1), a, 0.1, 3, 0.5)[0, 2].item() == pytest.approx(1.35714, abs=1e-5)
    assert target(row(0.0, 0.0, 1.0), 0.1, 2.5) == pytest.approx([0.1, 0.1, 2.5])  # not 3 in sum, not normalised again
    assert torch.equal(reweighted(row(0.3, 0.4, 2.0), row(0, 0, 0), 0.1, 3, 0.5), row(0.3, 0.4, 2.0))


def test_a_head_that_says_one_class_is_left_to_the_floor() -> None:
    found = needs(row(0.5, 0.5, 0.5), table(2, {}), 0.05, "dependence")
    assert found.flatten().tolist() == pytest.approx([0.5 * 1.05, 0.5 * 0.05, 0.5 * 0.05])


# ----------------------------------------------------------------------------------- distillation


def test_distillation_of_known_logits() -> None:
    taught, z, y = row(2, 0)[None], row(0, 0)[None], torch.zeros(1, 1, dtype=torch.long)
    assert distillation(z, y, taught, 1.0, 2.0, None, None).item() == pytest.approx(0.44378, abs=1e-5)
    assert distillation(z, y, taught, 0.5, 2.0, None, None).item() == pytest.approx(0.56846, abs=1e-5)
    assert (taught / 2).softmax(-1).flatten().tolist() == pytest.approx([0.73106, 0.26894], abs=1e-5)


def test_without_share_distillation_is_cross_entropy() -> None:
    g = torch.Generator().manual_seed(0)
    z, taught = torch.randn(2, 5, 3, generator=g, dtype=D64), torch.randn(2, 5, 3, generator=g, dtype=D64)
    y = torch.randint(3, (2, 5), generator=g)
    assert torch.equal(distillation(z, y, taught, 0.0, 2.0, None, None), ce(z, y))


def test_only_samples_with_both_modalities_are_taught() -> None:
    g = torch.Generator().manual_seed(1)
    z, taught = torch.randn(1, 6, 3, generator=g, dtype=D64), torch.randn(1, 6, 3, generator=g, dtype=D64)
    y = torch.randint(3, (1, 6), generator=g)
    p, q = torch.tensor([[1, 1, 0, 1, 0, 1]]).bool(), torch.tensor([[1, 0, 1, 1, 0, 0]]).bool()
    got = distillation(z, y, taught, 0.3, 1.5, p, p & q)
    alone = distillation(z[:, [0, 3]], y[:, [0, 3]], taught[:, [0, 3]], 1.0, 1.5, None, None)
    assert got.item() == pytest.approx((0.7 * ce(z[:, [0, 1, 3, 5]], y[:, [0, 1, 3, 5]]) + 0.3 * alone).item())
    none = distillation(z, y, taught, 1.0, 1.5, p, torch.zeros_like(p))
    assert none.item() == 0


# -------------------------------------------------------------------------------- equal gradients


def test_gradients_meet_at_the_mean_of_their_norms() -> None:
    p = torch.nn.Parameter(torch.zeros(2, 2, dtype=D64))
    first, second = 3 * p[:, 0], 1 * p[:, 1] - 0 * p[:, 0]
    (g,) = at_mean_norm([p], (first, second), (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.5])))
    assert g.tolist() == [[2.0, 2.0], [4.0, 1.0]]
    (g,) = at_mean_norm([p], (first, 0 * p[:, 0]), (torch.ones(2), torch.ones(2)))
    assert g.tolist() == [[3.0, 0.0], [3.0, 0.0]]  # no direction: the other one stays as it is


# ------------------------------------------------------------------------------------- the method


def batch_of(method: Method, run: Fit, n: int = 16) -> Batch:
    return run.feed.sample("train", method.rng, n)


@pytest.mark.parametrize(
    ("M", "knobs", "names"),
    [
        (3, {"E_A": 3, "E_B": 1}, [("unimodal", 3), ("distil", 1), ("train", 4)]),
        (3, {}, [("unimodal", 4), ("distil", 4), ("train", 4)]),
        (3, {"kd_gate": "never"}, [("unimodal", 4), ("train", 4)]),
        (1, {}, [("unimodal", 4), ("train", 4)]),
    ],
)
def test_phases(M: int, knobs: dict, names: list[tuple[str, int]]) -> None:
    method = build("bmlmi", feed(feature_set(M)), **knobs)
    assert [(phase.name, phase.epochs) for phase in method.phases()] == names


def test_measurements_are_made_on_a_part_of_train_or_on_validation() -> None:
    data = feed(feature_set(2))
    run = Fit(build("bmlmi", data), data)
    assert run.method.aside == "inner"
    assert len(run.feed.rows["train"]) + len(run.feed.rows["inner"]) == 60
    other = Fit(build("bmlmi", data, holdout=0), data)
    assert other.method.aside == "val"
    assert len(other.feed.rows["train"]) == 60


@pytest.mark.parametrize(
    ("M", "seeds", "knobs"),
    [
        (2, (1, 2, 3), {}),
        (3, (1, 2, 3), {"holdout": 0.2, "kd_accept": "val", "beta": 0.7}),
        (3, (2, 3), {"kd_gate": "always", "kd_init": "stageA", "apply": "gradnorm", "mi_role": "dominance"}),
        (3, (1, 2), {"holdout": 0, "mi_role": "complement", "theta": 0.2, "T": 3.0, "lam": 0.8}),
        (2, (1, 2), {"kd_gate": "never", "weights": "uncertainty", "apply": "gradnorm", "beta": 0.5}),
        (3, (1,), {"kd_gate": "never", "weights": "uncertainty"}),
        (2, (3,), {"weights": "equal", "lam": 0.0}),
        (2, (1,), {"mi_role": "none", "w_min": 0.8, "w_max": 1.2, "rho": 0.2, "E_A": 1}),
    ],
)
def test_all_stages_equal_loops_over_seeds_and_samples(M: int, seeds: tuple[int, ...], knobs: dict) -> None:
    data = feed(feature_set(M, n=52, absent=0.15))
    fresh, run = build("bmlmi", data, seeds, SHORT, **knobs), Fit(build("bmlmi", data, seeds, SHORT, **knobs), data)
    method, states = run.method, []
    for rows in run.run():
        if rows[0]["phase"] == "train":
            states.append({k: v.clone() for k, v in method.state_dict().items()})
    assert len(states) == 2
    teachers = set()
    for i, seed in enumerate(seeds):
        slow = Slow(fresh, i, seed, data)
        assert -(-len(slow.train) // 16) >= 3
        for state, (p, w) in zip(states, slow.run(), strict=True):
            for name, value in p.items():
                assert (state[name][i] - value).abs().max() < 1e-10, name
            assert state["w"][i].tolist() == pytest.approx(w, abs=1e-10)
        if "teacher" in states[0]:
            teachers.add(slow.teacher)
            assert int(states[0]["teacher"][i]) == slow.teacher
            assert states[0]["students"][i].tolist() == slow.students
            assert states[0]["f1"][i].tolist() == pytest.approx(slow.f1, abs=1e-12)
        if "log_variance" in states[0]:
            assert (states[1]["log_variance"][i] - slow.s).abs().max() < 1e-10
            assert slow.s.abs().max() > 1e-3
    if knobs == {"holdout": 0.2, "kd_accept": "val", "beta": 0.7}:
        assert len(teachers) > 1


def through(method: Method, data: object, phase: str) -> Fit:
    """Train up to the first epoch of `phase`, which is done."""
    run = Fit(method, data)
    next(rows for rows in run.run() if rows[0]["phase"] == phase)
    return run


def branch(method: Method, m: str) -> list[torch.Tensor]:
    return [v.clone() for k, v in method.state_dict().items() if f".{m}_." in k and k.startswith(("enc", "heads"))]


def test_who_is_no_student_keeps_the_unimodal_weights_and_the_fusion_starts_fresh() -> None:
    data = feed(feature_set(3, absent=0.1))
    config = TrainConfig(**(SHORT.model_dump() | {"weight_decay": 0.1}))
    method = build("bmlmi", data, (1, 2, 3), config, holdout=0.2)
    run = Fit(method, data)
    stream, seen = run.run(), []
    for rows in stream:
        seen.append(rows[0]["phase"])
        if len(seen) == 4:
            break
    assert seen == ["unimodal"] * 2 + ["distil"] * 2
    old = {k: v.clone() for k, v in method.teachers.module.state_dict().items()}
    drifted = method.state_dict()
    students = method.students.clone()
    assert 0 < students.sum() < 6
    method.load_state_dict(run.chosen.state)
    run.method.phase = "train"
    method.begin_phase(run.peek)
    for j, m in enumerate(method.mods):
        for i in range(3):
            for name in [
                k for k in old if f".{m}_." in k and "score.bias" not in k
            ]:  # a shift of all scores does nothing
                same = torch.equal(method.state_dict()[name][i], old[name][i])
                assert same == (students[i, j] == 0), (name, i)
    fusion = {k: v for k, v in method.initial().items() if k.startswith("fusion")}
    assert fusion
    assert all(torch.equal(drifted[k], v) for k, v in fusion.items())
    assert torch.equal(method.w, torch.ones_like(method.w))


@pytest.mark.parametrize("start", ["scratch", "stageA"])
def test_students_start_where_they_are_told_to(start: str) -> None:
    data = feed(feature_set(3))
    method = build("bmlmi", data, config=SHORT, kd_init=start, kd_gate="always")
    run = through(method, data, "unimodal")
    first, before = method.initial(), {k: v.clone() for k, v in method.state_dict().items()}
    method.phase = "distil"
    method.begin_phase(run.peek)
    for j, m in enumerate(method.mods):
        for k, v in method.state_dict().items():
            if f".{m}_." in k and k.startswith(("enc", "heads")):
                for i in range(3):
                    fresh = start == "scratch" and int(method.students[i, j]) == 1
                    assert torch.equal(v[i], first[k][i] if fresh else before[k][i])


def test_a_gate_excludes_by_dependence_and_never_the_teacher() -> None:
    data = feed(feature_set(3))
    for gate, theta, students in (("always", 1.0, 2), ("nmi", 0.0, 2), ("nmi", 1.0, 0)):
        method = build("bmlmi", data, config=SHORT, kd_gate=gate, theta=theta)
        through(method, data, "distil")
        assert method.students.sum(1).tolist() == [students] * 3
        assert method.students.gather(1, method.teacher[:, None]).sum() == 0
        assert torch.equal(method.teacher, method.f1.argmax(1))


def test_no_gradient_reaches_a_teacher_and_it_ignores_dropout() -> None:
    data = feed(feature_set(2))
    config = TrainConfig(**(SHORT.model_dump() | {"dropout": 0.5}))
    method = build("bmlmi", data, config=config, kd_gate="always")
    run = through(method, data, "distil")
    before = [p.clone() for p in method.teachers.parameters()]
    method.train()
    batch = batch_of(method, run)
    z = [method.teachers(method.inputs(batch)) for _ in range(2)]
    assert all(torch.equal(z[0][m], z[1][m]) and not z[0][m].requires_grad for m in method.mods)
    method.step(batch)
    assert all(p.grad is None and torch.equal(p, q) for p, q in zip(method.teachers.parameters(), before, strict=True))
    assert not any(p is q for p in method.teachers.parameters() for q in method.opt.params)


def test_a_worse_student_is_taken_back_only_when_asked() -> None:
    data = feed(feature_set(3, absent=0.1))
    for accept in ("off", "val"):
        method = build("bmlmi", data, holdout=0.2, kd_accept=accept)
        rows = next(rows for rows in Fit(method, data).run() if rows[0]["phase"] == "train")
        students = method.students
        worse = 0
        for j, m in enumerate(method.mods):
            for i in range(3):
                before, after, kept = (rows[i][f"distil/{name}/{m}"] for name in ("before", "after", "kept"))
                worse += after < before
                assert kept == float(students[i, j] == 1 and (accept == "off" or after >= before))
                if not students[i, j]:
                    assert before == after
        assert worse > 0


def test_equal_weights_without_distillation_are_heads_from_the_unimodal_stage() -> None:
    data = feed(feature_set(3, absent=0.2))
    method = build("bmlmi", data, config=SHORT, kd_gate="never", weights="equal", holdout=0)
    run = through(method, data, "unimodal")
    method.load_state_dict(run.chosen.state)
    method.phase = "train"
    method.begin_phase(run.peek)
    method.opt = method.optimizer()
    heads = build("heads", data, config=SHORT)
    heads.load_state_dict({k: v for k, v in method.state_dict().items() if k != "w"})
    for batch in data.epoch(heads.rng, 16):
        assert torch.equal(heads.step(batch), method.step(batch))
    method.end_epoch(run.peek)
    assert all(torch.equal(v, method.state_dict()[k]) for k, v in heads.state_dict().items())


def test_the_unimodal_stage_is_the_unimodal_ensemble_with_its_own_heads() -> None:
    data = feed(feature_set(2))
    method = build("bmlmi", data)
    run = through(method, data, "unimodal")
    batch = batch_of(method, run)
    out = method(batch)
    assert torch.equal(method.loss(out, batch), ce(out.z["audio"], batch.y) + ce(out.z["video"], batch.y))
    assert method.selects("heads.video_.weight") == "video"
    assert method.selects("enc.audio_.mlp.layers.0.weight") == "audio"
    method.phase = "train"
    assert method.selects("heads.video_.weight") == "fused"


def test_heads_get_the_plain_sum_with_equal_gradients() -> None:
    data = feed(feature_set(2))
    plain, other = (build("bmlmi", data, apply=rule) for rule in ("loss", "gradnorm"))
    run = Fit(plain, data)
    with torch.no_grad():
        for method in (plain, other):
            method.w.copy_(torch.tensor([[0.5, 2.0, 1.5], [1, 1, 1], [0.1, 3, 1]], dtype=D64))
    batch = batch_of(plain, run)
    assert torch.equal(plain.step(batch), other.step(batch))
    for (name, p), q in zip(plain.named_parameters(), other.parameters(), strict=True):
        if p.grad is not None and not name.startswith("enc"):
            assert torch.allclose(p.grad, q.grad, rtol=0, atol=1e-14), name
    assert not torch.allclose(
        plain.enc["audio"].mlp.layers[0].weight.grad, other.enc["audio"].mlp.layers[0].weight.grad
    )


def test_uncertainty_starts_as_equal_weights() -> None:
    data = feed(feature_set(2))
    learned, equal = (build("bmlmi", data, weights=kind) for kind in ("uncertainty", "equal"))
    run = Fit(learned, data)
    batch = batch_of(learned, run)
    assert torch.equal(learned.loss(learned(batch), batch), equal.loss(equal(batch), batch))
    with torch.no_grad():
        learned.log_variance.copy_(torch.tensor([[0.0, 1.0, -1.0]] * 3, dtype=D64))
    out = learned(batch)
    expected = ce(out.fused, batch.y) + math.exp(-1) * ce(out.z["audio"], batch.y)
    expected = expected + math.e * ce(out.z["video"], batch.y)
    assert torch.allclose(learned.loss(out, batch), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mi", ["plugin", "plugin_mm", "soft"])
def test_dependence_is_measured_between_all_heads(mi: str) -> None:
    data = feed(feature_set(3, absent=0.2))
    method = build("bmlmi", data, mi=mi)
    run = through(method, data, "unimodal")
    view = run.peek.outputs("inner")
    _, found = method.measure(run.peek)
    assert torch.equal(found, found.transpose(1, 2))
    assert found.diagonal(dim1=1, dim2=2).abs().max() == 0
    a, t = view.present["audio"], view.present["text"]
    assert torch.allclose(found[:, 1, 2], nmi(view.z["audio"], view.z["video"], mi, a & view.present["video"]))
    assert torch.allclose(found[:, 0, 3], nmi(view.fused, view.z["text"], mi, t))


def test_infonce_is_measured_on_features_of_at_most_256_samples() -> None:
    data = feed(feature_set(2, n=3000, absent=0.1))
    method = build("bmlmi", data, config=SHORT, mi="infonce", holdout=0.2)
    run = Fit(method, data)
    asked: list[int] = []

    class Spy(SplitPeek):
        def sample(self, split: str, n: int) -> Batch:
            asked.append(n)
            self.last = super().sample(split, n)
            return self.last

    peek = Spy(method, run.feed)
    _, found = method.measure(peek)
    assert asked == [256]
    batch = peek.last
    h = {m: v.detach() for m, v in method.encode(batch).items()}
    for i in range(3):
        rows = [b for b in range(256) if batch.present("audio")[i, b] and batch.present("video")[i, b]]
        a, v = (torch.nn.functional.normalize(h[m][i, rows], dim=-1) for m in method.mods)
        logits = a @ v.T / 0.1
        own = range(len(rows))
        loss = sum(float(logits[j].logsumexp(0) + logits[:, j].logsumexp(0) - 2 * logits[j, j]) for j in own)
        bound = math.log(len(rows))
        share = max(0.0, (bound - loss / (2 * len(rows))) / bound)
        assert found[i, 1, 2].item() == pytest.approx(share, abs=1e-9)


def test_one_modality_has_unit_weights() -> None:
    data = feed(feature_set(1))
    method = build("bmlmi", data)
    assert fit(method, data).died.tolist() == [-1, -1, -1]
    assert torch.equal(method.w, torch.ones_like(method.w))
    assert not hasattr(method, "teachers")


def test_a_batch_without_a_modality_is_finite_in_every_stage() -> None:
    data = feed(feature_set(2, absent=0.3))
    for rule in ("loss", "gradnorm"):
        method = build("bmlmi", data, kd_gate="always", apply=rule)
        run = through(method, data, "distil")
        batch = batch_of(method, run)
        nobody = {"audio": torch.zeros_like(batch.mask["audio"]), "video": batch.mask["video"]}
        empty = Batch(batch.x, batch.y, batch.idx, nobody, batch.rows)
        for method.phase in ("unimodal", "distil", "train"):
            method.opt = method.optimizer()
            assert torch.isfinite(method.step(empty)).all()
            assert all(torch.isfinite(p).all() for p in method.parameters())


def test_a_handful_of_samples_does_no_harm() -> None:
    data = feed(feature_set(2, n=9, classes=4))
    for mi in ("plugin", "plugin_mm", "soft", "infonce"):
        run = fit(build("bmlmi", data, mi=mi, holdout=0.5, config=SHORT), data)
        assert run.died.tolist() == [-1, -1, -1]


def test_branches_take_weights_where_they_are_told_to() -> None:
    data = feed(feature_set(2))
    method, other = build("bmlmi", data), build("bmlmi", data, seeds=(7, 8, 9))
    before = {k: v.clone() for k, v in method.state_dict().items()}
    chosen = torch.tensor([[True, False], [False, False], [True, True]])
    Branches(method.enc, method.heads).put(chosen, other.state_dict())
    for k, v in method.state_dict().items():
        for i in range(3):
            taken = k.startswith(("enc", "heads")) and bool(chosen[i, 0 if ".audio_." in k else 1])
            assert torch.equal(v[i], (other.state_dict() if taken else before)[k][i])
