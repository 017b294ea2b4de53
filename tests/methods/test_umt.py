"""UMT, UME and the stage of the teachers: the numbers of the specification, what they must equal, and a slow loop."""

from __future__ import annotations

import pytest
import torch

from mmbal_cli.engine.feed import predictions, scores
from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods.base import Batch
from mmbal_cli.ops.teaching import feature_distance
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed, fit, train
from tests.methods import reference
from tests.methods.student import begin_student, concat_logits, teacher_of

D64 = torch.float64
DROPOUT = TrainConfig(**(CONFIG.model_dump() | {"dropout": 0.3}))


# -------------------------------------------------------------------------------------------- UME


def with_logits(method: torch.nn.Module, logits: dict[str, list[float]]) -> None:
    """Heads that answer these, whatever comes."""
    with torch.no_grad():
        for m, values in logits.items():
            method.fusion.heads[m].weight.zero_()
            method.fusion.heads[m].bias.copy_(torch.tensor(values, dtype=D64))


def test_probabilities_are_averaged() -> None:
    data = feed(feature_set(2, classes=2))
    batch = next(data.split("val", 1))
    for average, expected in (("probabilities", [0.7, 0.3]), ("logits", [0.75, 0.25])):
        method = build("ume", data, (1,), average=average)
        with_logits(method, {"audio": torch.tensor([0.9, 0.1]).log().tolist(), "video": [0.0, 0.0]})
        assert method.predict(method(batch))[0, 0].tolist() == pytest.approx(expected, abs=1e-7)


def test_only_present_modalities_are_averaged() -> None:
    data = feed(feature_set(3, absent=0.5))
    method = build("ume", data, (1, 2))
    fit(method, data)
    batch = next(data.split("val", 2))
    out = method.eval()(batch)
    p = method.predict(out)
    counts = set()
    for i in range(2):
        for b in range(batch.y.shape[1]):
            here = [m for m in method.mods if batch.present(m) is None or batch.present(m)[i, b]]
            counts.add(len(here))
            expected = sum(out.z[m][i, b].softmax(-1) for m in here) / len(here) if here else torch.full((4,), 0.25)
            assert (p[i, b] - expected).abs().max() < 1e-12
    assert counts == {0, 1, 2, 3}


def test_models_that_agree_are_each_of_them_and_extremes_stay_finite() -> None:
    data = feed(feature_set(3))
    method = build("ume", data, (1,))
    with_logits(method, {m: [0.1, 0.7, -0.2, 0.0] for m in method.mods})
    found = scores(method, data.split("val", 1))
    assert all(torch.equal(found["accuracy"], found[f"accuracy/{m}"]) for m in method.mods)
    with_logits(method, {m: [1e4, 0.0, -1e4, 0.0] for m in method.mods})
    out = method(next(data.split("val", 1)))
    assert torch.isfinite(out.fused).all()
    assert method.predict(out)[0, 0].tolist() == pytest.approx([1, 0, 0, 0])


def test_training_is_that_of_the_unimodal_ensemble() -> None:
    data = feed(feature_set(3, absent=0.2))
    one, other = fit(build("ume", data), data), fit(build("unimodal-ensemble", data), data)
    assert all(torch.equal(v, other.chosen.state[k]) for k, v in one.chosen.state.items())


# ------------------------------------------------------------------------------------ the teachers


@pytest.mark.parametrize("name", ["umt", "g2d"])
@pytest.mark.parametrize("fusion", ["concat", "sum", "gated"])
def test_the_teachers_are_the_unimodal_ensemble_and_the_student_starts_afresh(name: str, fusion: str) -> None:
    data = feed(feature_set(3, absent=0.2))
    method = build(name, data, config=DROPOUT, fusion=fusion)
    begin_student(method, data)
    ensemble = fit(build("unimodal-ensemble", data, config=DROPOUT), data)
    state = method.state_dict()
    for k, v in ensemble.chosen.state.items():
        assert torch.equal(v, state["teachers.module." + k.removeprefix("fusion.")]), k
    for k, v in build("concat", data, config=DROPOUT, fusion=fusion).state_dict().items():
        assert torch.equal(v, state[k]), k


def test_validation_of_the_first_stage_is_that_of_the_ensemble() -> None:
    data = feed(feature_set(2, absent=0.2))
    one, other = Fit(build("umt", data), data).run(), Fit(build("unimodal-ensemble", data), data).run()
    for _ in range(CONFIG.epochs):
        for left, right in zip(next(one), next(other), strict=True):
            assert {k: v for k, v in left.items() if k not in ("seconds", "phase")} == {
                k: v for k, v in right.items() if k not in ("seconds", "phase")
            }


def test_teachers_never_move_and_ignore_dropout() -> None:
    data = feed(feature_set(2))
    config = TrainConfig(**(DROPOUT.model_dump() | {"weight_decay": 0.1}))
    method = build("umt", data, config=config)
    begin_student(method, data)
    before = {k: v.clone() for k, v in method.teachers.state_dict().items()}
    batch = next(data.epoch(method.rng, 16))
    for (a, za), (b, zb) in [(method.taught(batch), method.taught(batch))]:
        assert all(torch.equal(a[m], b[m]) and torch.equal(za[m], zb[m]) for m in method.mods)
        assert not any(a[m].requires_grad or za[m].requires_grad for m in method.mods)
    train(method, data, 2)
    assert all(torch.equal(v, before[k]) for k, v in method.teachers.state_dict().items())
    assert not any(p is q for p in method.teachers.parameters() for q in method.opt.params)


# -------------------------------------------------------------------------------------------- UMT


def test_distance_of_known_features() -> None:
    h = torch.tensor([[[1.0, 3.0]]], dtype=D64, requires_grad=True)
    far = feature_distance(h, torch.tensor([[[0.0, 1.0]]], dtype=D64))
    assert far.item() == 2.5
    (10 * far).sum().backward()
    assert h.grad.flatten().tolist() == [10, 20]


def test_distance_leaves_out_what_is_absent() -> None:
    g = torch.Generator().manual_seed(0)
    h, t = torch.randn(2, 5, 3, generator=g, dtype=D64), torch.randn(2, 5, 3, generator=g, dtype=D64)
    here = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0]]).bool()
    far = feature_distance(h, t, here)
    assert far[0].item() == pytest.approx(((h[0] - t[0])[[0, 2, 3]] ** 2).mean().item())
    assert far[1].item() == 0


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_without_weight_it_is_plain_training_bit_for_bit(fusion: str) -> None:
    data = feed(feature_set(3, absent=0.2))
    plain = fit(build("concat", data, config=DROPOUT, fusion=fusion), data)
    student = fit(build("umt", data, config=DROPOUT, fusion=fusion, lam=0.0), data)
    assert all(torch.equal(v, student.chosen.state[k]) for k, v in plain.chosen.state.items())
    assert all(torch.equal(v, student.method.state_dict()[k]) for k, v in plain.method.state_dict().items())
    one, other = (predictions(run.method, data, "val")["probs"] for run in (plain, student))
    assert torch.equal(one, other)


def test_a_student_that_starts_as_its_teachers_is_at_no_distance() -> None:
    data = feed(feature_set(2))
    method = build("umt", data, start="teacher")
    begin_student(method, data)
    batch = next(data.epoch(method.rng, 16))
    assert method.lesson(method(batch), batch).tolist() == [0, 0, 0]
    assert all(torch.equal(v, method.teacher.enc.state_dict()[k]) for k, v in method.enc.state_dict().items())


@pytest.mark.parametrize("M", [2, 3])
def test_steps_equal_a_loop_over_seeds_and_samples(M: int) -> None:
    data, lam = feed(feature_set(M, n=76)), 3.0
    method, fresh = (build("umt", data, lam=lam) for _ in range(2))
    begin_student(method, data)
    fresh.load_state_dict(method.state_dict())

    def loss(p: reference.Params, samples: list, labels: list[int]) -> torch.Tensor:
        whole = torch.zeros((), dtype=D64)
        for x, y in zip(samples, labels, strict=True):
            whole = whole + reference.cross_entropy(concat_logits(p, method.mods, x), y)
            for m in method.mods:
                apart = reference.adapter(p, m, x[m]) - reference.adapter(teacher_of(p), m, x[m])
                whole = whole + lam * (apart**2).sum() / method.D
        return whole / len(labels)

    batches: list[Batch] = list(data.epoch(method.rng, 16))
    for batch in batches:
        method.step(batch)
    reference.agrees(method, fresh, batches, loss)
