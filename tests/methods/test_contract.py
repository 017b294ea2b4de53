"""Every method of the table against every rule of the contract (the numbers are promises)."""

from __future__ import annotations

import ast
import inspect
import math
from pathlib import Path

import pytest
import torch

from mmbal_cli.engine.feed import Feed, SplitPeek, predictions, scores
from mmbal_cli.engine.fit import Fit
from mmbal_cli.errors import RecipeError, UsageError
from mmbal_cli.methods import METHODS, method_class
from mmbal_cli.methods.base import Method
from mmbal_cli.nn.fusion import FUSIONS
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed, fit

SOLO_TOLERANCE = 1e-12  # stacked against solo, float64
NEIGHBOUR_TOLERANCE = 1e-6  # a prediction and its batch neighbours
EASY_ACCURACY = 0.95
MAX_LINES = 120
ALLOWED = ("mmbal_cli.nn", "mmbal_cli.ops", "mmbal_cli.seeds", "mmbal_cli.errors", "mmbal_cli.methods", "torch",
           "math", "itertools", "dataclasses", "collections", "typing", "functools", "__future__")  # fmt: skip

# settings under which a method does everything it can do within CONFIG's four epochs
ACTIVE: dict[str, dict[str, object]] = {
    "arl": {"start": 0},
    "bmlr": {"warmup": 0, "s_base": 0.29},  # near the cap, so that the cap acts
    "bmlmi": {"holdout": 0.2},  # enough to tell that a distillation did harm
    "iibalance": {"warmup": 0, "ramp": 2},
}

every_method = pytest.mark.parametrize("name", list(METHODS))
every_size = pytest.mark.parametrize("M", [2, 3, 4])


def active(name: str, data: Feed, *args: object, **knobs: object) -> Method:
    return build(name, data, *args, **(ACTIVE.get(name, {}) | knobs))  # type: ignore[arg-type]


def weights(method: Method, i: int) -> dict[str, torch.Tensor]:
    return {name: value[i].clone() for name, value in method.state_dict().items()}


@every_method
@every_size
def test_training_is_finite_and_shaped(name: str, M: int) -> None:
    data = feed(feature_set(M))
    method = active(name, data)
    rows = list(Fit(method, data).run())
    assert all(math.isfinite(row["train/loss"]) for epoch in rows for row in epoch)
    assert [row["seed"] for row in rows[0]] == [1, 2, 3]
    batch = next(data.split("val", method.S))
    out = method(batch)
    n = len(data.rows["val"])
    assert out.fused.shape == (3, n, 4)
    assert all(out.z[m].shape == (3, n, 4) and out.h[m].shape == (3, n, CONFIG.width) for m in method.mods)


@every_method
@every_size
@pytest.mark.parametrize("absent", [0.0, 0.3])
def test_stacked_equals_solo(name: str, M: int, absent: float) -> None:
    data = feed(feature_set(M, absent=absent))
    stacked = active(name, data, (1, 2, 3))
    fit(stacked, data)
    for i, seed in enumerate((1, 2, 3)):
        solo = active(name, data, (seed,))
        fit(solo, data)
        for key, value in weights(solo, 0).items():
            assert (value.double() - weights(stacked, i)[key].double()).abs().max() <= SOLO_TOLERANCE, key


@every_method
@pytest.mark.parametrize(("classes", "batch"), [(6, 16), (5, 37)])  # the second one: nothing is a multiple of four
def test_on_a_cpu_a_seed_is_bitwise_the_same_alone_and_in_company(name: str, classes: int, batch: int) -> None:
    data = feed(feature_set(3, classes=classes, absent=0.1), "float32")
    config = TrainConfig(**(CONFIG.model_dump() | {"dtype": "float32", "width": 64, "clip": 0.5, "batch": batch}))
    stacked = active(name, data, (1, 2, 3, 4, 5), config)
    fit(stacked, data)
    for group in ((2,), (4, 5)):
        part = active(name, data, group, config)
        fit(part, data)
        for i, seed in enumerate(group):
            assert all(torch.equal(v, weights(stacked, seed - 1)[k]) for k, v in weights(part, i).items())


@every_method
def test_not_a_number_in_one_seed_leaves_the_others_bitwise(name: str) -> None:
    data = feed(feature_set(3))
    clean, hurt = active(name, data), active(name, data)
    with torch.no_grad():
        next(hurt.parameters())[0] = torch.nan
    clean_fit, hurt_fit = Fit(clean, data), Fit(hurt, data)
    list(clean_fit.run())
    list(hurt_fit.run())
    assert hurt_fit.died.tolist()[0] == 0
    assert hurt_fit.died.tolist()[1:] == [-1, -1]
    for i in (1, 2):
        assert all(torch.equal(weights(clean, i)[key], value) for key, value in weights(hurt, i).items())
        assert all(torch.equal(clean_fit.best[key][i], hurt_fit.best[key][i]) for key in clean_fit.best)


@every_method
def test_resume_after_each_epoch_is_bitwise(name: str) -> None:
    data = feed(feature_set(2, absent=0.1))
    config = TrainConfig(**(CONFIG.model_dump() | {"dropout": 0.2}))
    whole = Fit(active(name, data, (1, 2, 3), config), data)
    expected = [row for rows in whole.run() for row in rows]
    part, rows = Fit(active(name, data, (1, 2, 3), config), data), []
    while part.finished < sum(phase.epochs for phase in part.phases):
        rows += next(iter(part.run()))
        tensors, meta = part.state()
        part = Fit(active(name, data, (1, 2, 3), config), data)
        part.load({k: v.clone() for k, v in tensors.items()}, meta)
    for i in range(3):
        assert all(torch.equal(weights(whole.method, i)[k], v) for k, v in weights(part.method, i).items())
    assert all(torch.equal(whole.best[k], part.best[k]) for k in whole.best)
    timeless = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    assert timeless == [{k: v for k, v in row.items() if k != "seconds"} for row in expected]


@every_method
def test_same_seeds_twice_are_bitwise(name: str) -> None:
    data = feed(feature_set(3), "float32")
    config = TrainConfig(**(CONFIG.model_dump() | {"dtype": "float32"}))
    first, second = active(name, data, (1, 2, 3), config), active(name, data, (1, 2, 3), config)
    fit(first, data)
    fit(second, data)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@every_method
def test_a_prediction_depends_on_its_own_sample_only(name: str) -> None:
    data = feed(feature_set(3, absent=0.2))
    method = active(name, data)
    fit(method, data).use_best()
    whole = predictions(method, data, "test")["probs"]
    assert torch.allclose(whole.sum(-1), torch.ones_like(whole[..., 0]), atol=1e-6)
    order = torch.randperm(len(data.rows["test"]), generator=torch.Generator().manual_seed(0))
    data.rows["test"] = data.rows["test"][order]
    assert (predictions(method, data, "test")["probs"] - whole[:, order]).abs().max() <= NEIGHBOUR_TOLERANCE
    data.rows["test"] = data.rows["test"][:1]
    alone = predictions(method, data, "test")["probs"]
    assert (alone[:, 0] - whole[:, order[0]]).abs().max() <= NEIGHBOUR_TOLERANCE


@every_method
@every_size
def test_learns_an_easy_set(name: str, M: int) -> None:
    data = feed(feature_set(M, n=120, easy=3.0))
    config = TrainConfig(**(CONFIG.model_dump() | {"epochs": 25, "width": 16}))
    run = fit(build(name, data, config=config), data)
    run.use_best()
    found = scores(run.method, data.split("val", 3))
    assert (found["accuracy"] >= EASY_ACCURACY).all(), found["accuracy"]


@every_method
def test_a_peek_never_shows_the_test_split(name: str) -> None:
    features = feature_set(2)
    data = feed(features)
    method = active(name, data)
    peek = SplitPeek(method, data)
    with pytest.raises(UsageError, match="sealed"):
        next(iter(peek.batches("test")))  # type: ignore[arg-type]
    shuffled = feed(features)
    shuffled.y[shuffled.rows["test"]] = 0
    other = Fit(active(name, shuffled), shuffled)
    own = Fit(method, data)
    list(own.run())
    list(other.run())
    assert all(torch.equal(own.best[key], other.best[key]) for key in own.best)


def variants(name: str) -> list[tuple[str, object]]:
    """One other valid value for every knob."""
    found: list[tuple[str, object]] = []
    for key, k in method_class(name).declared().items():
        if k.choices:
            found += [(key, choice) for choice in k.choices if choice != k.default]
        elif isinstance(k.default, bool):
            found.append((key, not k.default))
        elif isinstance(k.default, (int, float)):
            bound = k.high if k.high is not None else k.low
            found.append((key, k.default + 1 if bound in (None, k.default) else type(k.default)(bound)))
        else:
            found.append((key, "video"))
    return found


@pytest.mark.parametrize(("name", "key", "value"), [(name, *v) for name in METHODS for v in variants(name)])
def test_every_knob_changes_the_result(name: str, key: str, value: object) -> None:
    data = feed(feature_set(3, flat=True) if key == "graph" else feature_set(3, absent=0.1))
    condition = method_class(name).declared()[key].when.partition("=")
    base = ACTIVE.get(name, {}) | ({condition[0]: condition[2]} if condition[1] else {})
    one, other = build(name, data, **base), build(name, data, **(base | {key: value}))
    fit(one, data)
    fit(other, data)
    if one.mods != other.mods:
        return
    found = [predictions(method.eval(), data, "val")["probs"] for method in (one, other)]
    states = [method.state_dict() for method in (one, other)]
    same = states[0].keys() == states[1].keys() and all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    assert not (same and torch.equal(*found))


@every_method
def test_unknown_knobs_and_foreign_fusions_are_refused(name: str) -> None:
    data = feed(feature_set(2))
    with pytest.raises(RecipeError, match="no knob"):
        build(name, data, nonsense=1)
    cls = method_class(name)
    for fusion in FUSIONS:
        if fusion not in cls.card.fusions:
            with pytest.raises(UsageError, match="does not support"):
                build(name, data, fusion=fusion)


@every_method
def test_every_allowed_fusion_trains_stacked_as_solo(name: str) -> None:
    data = feed(feature_set(3))
    for fusion in method_class(name).card.fusions:
        stacked, solo = active(name, data, fusion=fusion), active(name, data, (2,), fusion=fusion)
        fit(stacked, data)
        fit(solo, data)
        for key, value in weights(solo, 0).items():
            assert (value.double() - weights(stacked, 1)[key].double()).abs().max() <= SOLO_TOLERANCE


@every_method
def test_one_modality_is_refused_or_trains(name: str) -> None:
    data = feed(feature_set(1))
    if method_class(name).card.min_modalities > 1:
        with pytest.raises(UsageError, match="cannot train on 1 modalities"):
            build(name, data)
    else:
        assert fit(active(name, data), data).died.tolist() == [-1, -1, -1]


@every_method
def test_file_is_short_and_sees_only_what_it_may(name: str) -> None:
    path = Path(inspect.getfile(method_class(name)))
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    for node in ast.walk(ast.parse(text)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert all(found.startswith(ALLOWED) for found in names), names


@every_method
def test_evaluation_leaves_no_trace(name: str) -> None:
    data = feed(feature_set(3))
    method = active(name, data)
    fit(method, data)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    streams = {k: v.clone() for k, v in method.rng.state().items()}
    method.eval()
    predictions(method, data, "val")
    assert all(torch.equal(before[k], v) for k, v in method.state_dict().items())
    assert all(torch.equal(streams[k], v) for k, v in method.rng.state().items())


@every_method
def test_a_class_that_never_occurs_in_training_is_harmless(name: str) -> None:
    features = feature_set(2, classes=4)
    features.y[features.rows["train"]] %= 3
    data = feed(features)
    assert fit(active(name, data), data).died.tolist() == [-1, -1, -1]
