"""G2D: the numbers of its specification, who waits and when, what it must equal, and a slow loop."""

from __future__ import annotations

import math

import pytest
import torch

from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods.base import Batch, Method, Out
from mmbal_cli.ops.teaching import prediction_distance, weakest
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed
from tests.methods import reference
from tests.methods.student import begin_student, concat_logits, teacher_logits, teacher_of

D64 = torch.float64


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=D64)


def test_distance_of_known_predictions() -> None:
    z, taught = row(2.0, 0.0)[None], row(1.0, 0.0)[None]
    assert prediction_distance(z, taught, 1.0).item() == pytest.approx(0.082608, abs=1e-6)
    assert prediction_distance(z, z, 1.0).item() == pytest.approx(0, abs=1e-15)
    p, q = (torch.tensor([x / 3, 0.0], dtype=D64).softmax(0).tolist() for x in (1.0, 2.0))
    expected = 9 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert prediction_distance(z, taught, 3.0).item() == pytest.approx(expected)


def test_distance_of_predictions_leaves_out_what_is_absent() -> None:
    g = torch.Generator().manual_seed(0)
    z, t = torch.randn(2, 5, 3, generator=g, dtype=D64), torch.randn(2, 5, 3, generator=g, dtype=D64)
    here = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0]]).bool()
    found = prediction_distance(z, t, 2.0, here)
    assert found[0].item() == pytest.approx(prediction_distance(z[:1, [0, 2, 3]], t[:1, [0, 2, 3]], 2.0).item())
    assert found[1].item() == 0


def test_the_modality_of_the_surer_teacher_waits() -> None:
    assert weakest(row(30, 40), 1).tolist() == [[True, False]]
    assert weakest(row(40, 30), 1).tolist() == [[False, True]]
    assert weakest(row(30, 30), 1).tolist() == [[True, True]]
    assert weakest(row(3, 1, 2), 1).tolist() == [[False, True, False]]
    assert weakest(row(3, 1, 2), 2).tolist() == [[False, True, True]]
    assert weakest(row(3, 1, 3), 2).tolist() == [[True, True, True]]
    assert weakest(row(3), 1).tolist() == [[True]]


def test_scores_are_means_of_the_true_class_over_samples_that_have_the_modality() -> None:
    data = feed(feature_set(2))
    method = build("g2d", data, (1,))
    sure = torch.tensor([[[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]]], dtype=D64).log()
    y = torch.tensor([[0, 1, 1]])
    mask = {"audio": None, "video": torch.tensor([[True, False, True]])}
    found = method.scores(dict.fromkeys(method.mods, sure), Batch({}, y, y, mask))
    assert found[0].tolist() == pytest.approx([(0.9 + 0.7 + 0.5) / 3, (0.9 + 0.5) / 2])


def forced(method: Method, s: list[float]) -> None:
    """Teachers as sure as that, whatever comes."""
    method.scores = lambda taught, batch: row(*s).expand(method.S, -1)


def moved(method: Method, batch: Batch) -> dict[str, tuple[bool, bool]]:
    """Whether a step changes any weight matrix and any offset of each encoder."""
    before = {k: v.clone() for k, v in method.enc.state_dict().items()}
    method.step(batch)
    after = method.enc.state_dict()
    return {
        m: tuple(
            any(not torch.equal(v, after[k]) for k, v in before.items() if k.startswith(f"{m}_.") and k.endswith(kind))
            for kind in ("weight", "bias")
        )
        for m in method.mods
    }  # type: ignore[return-value]


@pytest.mark.parametrize("freeze", ["weights", "all"])
def test_who_waits_stands_still_under_momentum_and_decay(freeze: str) -> None:
    data = feed(feature_set(2))
    config = TrainConfig(**(CONFIG.model_dump() | {"weight_decay": 0.1}))
    method = build("g2d", data, config=config, freeze=freeze)
    method.epoch = 3  # after the window: gives everyone momentum
    batches = list(data.epoch(method.rng, 16))
    assert moved(method, batches[0]) == {"audio": (True, True), "video": (True, True)}
    method.epoch = 0
    forced(method, [30, 40])
    assert moved(method, batches[1]) == {"audio": (True, True), "video": (False, freeze == "weights")}
    forced(method, [40, 30])
    assert moved(method, batches[2]) == {"audio": (False, freeze == "weights"), "video": (True, True)}
    forced(method, [40, 40])
    assert moved(method, batches[3]) == {"audio": (True, True), "video": (True, True)}


@pytest.mark.parametrize(
    ("M", "start", "end", "waiting"),
    [
        (2, 0, 0.5, [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]),
        (3, 0, 0.5, [2, 2, 2, 1, 1, 1, 0, 0, 0, 0]),
        (4, 0, 0.5, [3, 3, 2, 2, 1, 1, 0, 0, 0, 0]),
        (3, 2, 0.4, [0, 0, 2, 2, 1, 0, 0, 0, 0, 0]),
        (2, 1, 0.0, [0] * 10),
        (1, 0, 0.5, [0] * 10),
    ],
)
def test_the_window_opens_in_steps_from_the_weakest(M: int, start: int, end: float, waiting: list[int]) -> None:
    data = feed(feature_set(M))
    config = TrainConfig(**(CONFIG.model_dump() | {"epochs": 10}))
    method = build("g2d", data, (1,), config, start=start, end=end)
    forced(method, list(range(M)))
    batch = next(data.epoch(method.rng, 16))
    for method.epoch in range(10):
        still = [not weights for weights, _ in moved(method, batch).values()]
        assert still == [False] * (M - waiting[method.epoch]) + [True] * waiting[method.epoch]


def test_nobody_waits_while_the_teachers_learn() -> None:
    data = feed(feature_set(2))
    method = build("g2d", data)
    method.phase = "teachers"
    assert moved(method, next(data.epoch(method.rng, 16))) == {"audio": (True, True), "video": (True, True)}


def test_a_run_records_who_moved() -> None:
    rows = [row for rows in Fit(build("g2d", feed(feature_set(2))), feed(feature_set(2))).run() for row in rows]
    for found in rows:
        inside = found["phase"] == "train" and found["epoch"] <= 4 + 3
        assert ("coef/moves/audio" in found) == inside
        if inside:
            assert found["coef/moves/audio"] + found["coef/moves/video"] == pytest.approx(1)


def test_the_lesson_is_the_sum_over_teachers() -> None:
    data = feed(feature_set(3, absent=0.3))
    method = build("g2d", data, (1, 2), kd=0.5, mse=2.0, T=1.5)
    begin_student(method, data)
    batch = next(data.epoch(method.rng, 16))
    out: Out = method(batch)
    found = method.lesson(out, batch)
    for i in range(2):
        p = reference.parameters_of(method, i)
        expected = 0.0
        for m in method.mods:
            here = [b for b in range(16) if batch.present(m) is None or batch.present(m)[i, b]]
            for b in here:
                q = (teacher_logits(p, m, batch.x[m][i, b]) / 1.5).softmax(0)
                kd = (q * (q.log() - (out.fused[i, b] / 1.5).log_softmax(0))).sum()
                mse = ((out.h[m][i, b] - reference.adapter(teacher_of(p), m, batch.x[m][i, b])) ** 2).mean()
                expected += (0.5 * 1.5**2 * kd + 2.0 * mse).item() / len(here)
        assert found[i].item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("M", "freeze"), [(2, "weights"), (3, "weights"), (3, "all")])
def test_steps_equal_a_loop_over_seeds_and_samples(M: int, freeze: str) -> None:
    data = feed(feature_set(M, n=76))
    method, fresh = (build("g2d", data, kd=0.7, mse=1.3, T=2.0, freeze=freeze) for _ in range(2))
    begin_student(method, data)
    fresh.load_state_dict(method.state_dict())
    batches: list[Batch] = list(data.epoch(method.rng, 16))
    for batch in batches:
        method.step(batch)
    waited = set()
    for i in range(3):
        p, velocity = reference.parameters_of(fresh, i), {}
        for batch in batches:
            samples = [{m: batch.x[m][i, b] for m in method.mods} for b in range(batch.y.shape[1])]
            loss, s = torch.zeros((), dtype=D64), dict.fromkeys(method.mods, 0.0)
            for x, y in zip(samples, batch.y[i].tolist(), strict=True):
                z = concat_logits(p, method.mods, x)
                loss = loss + reference.cross_entropy(z, y)
                for m in method.mods:
                    t = teacher_logits(p, m, x[m])
                    s[m] += t.softmax(0)[y].item()
                    q = (t / 2).softmax(0)
                    apart = reference.adapter(p, m, x[m]) - reference.adapter(teacher_of(p), m, x[m])
                    loss = loss + 0.7 * 4 * (q * (q.log() - (z / 2).log_softmax(0))).sum() + 1.3 * (apart**2).mean()
            (loss / len(samples)).backward()
            order = sorted(method.mods, key=lambda m: s[m])
            still = {}
            for m in order[1:]:  # epoch 0: only the weakest moves
                waited.add(m)
                for name, value in p.items():
                    if name.startswith(f"enc.{m}_.") and (freeze == "all" or name.endswith("weight")):
                        still[name] = value.detach().clone()
                        value.grad.zero_()
            reference.sgd(p, velocity, method.config.lr, method.config.momentum, method.config.weight_decay)
            with torch.no_grad():
                for name, value in still.items():
                    p[name].copy_(value)
        for name, value in method.state_dict().items():
            assert (value[i] - p[name]).abs().max() < 1e-10, name
    assert len(waited) >= 2
