"""The loop: selection for each seed apart, records, learning rate, frozen seeds, masked steps."""

from __future__ import annotations

import pytest
import torch

from mmbal_cli.engine.feed import predictions, scores
from mmbal_cli.engine.fit import Fit
from mmbal_cli.nn.optim import StackedOptimizer, schedule
from mmbal_cli.recipe import TrainConfig
from mmbal_cli.seeds import SeedStreams
from tests.kit.features import CONFIG, build, feature_set, feed

CONFIGS = CONFIG.model_dump()


def test_selected_epoch_is_each_seeds_own_best() -> None:
    data = feed(feature_set(2, n=90, easy=1.0))
    fit = Fit(build("concat", data, config=TrainConfig(**(CONFIGS | {"epochs": 12}))), data)
    rows = [row for found in fit.run() for row in found]
    fit.use_best()
    best = scores(fit.method, data.split("val", 3))
    for i, seed in enumerate((1, 2, 3)):
        own = [row for row in rows if row["seed"] == seed]
        top = max(own, key=lambda row: (row["val/accuracy"], -row["val/nll"], -row["epoch"]))
        assert fit.chosen.epoch["fused"][i] == top["epoch"]
        assert best["accuracy"][i].item() == pytest.approx(top["val/accuracy"])
        assert best["nll"][i].item() == pytest.approx(top["val/nll"], abs=1e-12)


def test_scores_equal_a_loop_over_samples() -> None:
    data = feed(feature_set(3, absent=0.3))
    method = build("concat", data, (1, 2))
    found = scores(method, data.split("val", 2))
    whole = predictions(method, data, "val")
    y = whole["labels"]
    for s in range(2):
        p = whole["probs"][s]
        assert found["accuracy"][s] == (p.argmax(-1) == y).double().mean()
        assert torch.isclose(found["nll"][s], -p[torch.arange(len(y)), y].log().mean())
        for m in method.mods:
            keep = whole[f"present/{m}"][s]
            z = whole[f"logits/{m}"][s][keep]
            assert torch.isclose(found[f"accuracy/{m}"][s], (z.argmax(-1) == y[keep]).double().mean())
            assert torch.isclose(found[f"nll/{m}"][s], torch.nn.functional.cross_entropy(z, y[keep]))


def test_a_seed_that_dies_is_held_still_and_keeps_its_selected_state() -> None:
    data = feed(feature_set(2))
    method = build("concat", data, config=TrainConfig(**(CONFIGS | {"epochs": 3})))
    fit = Fit(method, data)
    run = fit.run()
    next(run)
    with torch.no_grad():
        next(method.parameters())[1] = torch.inf
    next(run)
    held = [p[1].clone() for p in method.parameters()]
    best = {k: v[1].clone() for k, v in fit.chosen.state.items()}
    list(run)
    assert fit.died.tolist()[1] == 4  # 60 samples in batches of 16: the second epoch begins at step 4
    assert fit.died.tolist()[::2] == [-1, -1]
    assert all(torch.equal(a, p[1]) or a.isnan().any() for a, p in zip(held, method.parameters(), strict=True))
    assert all(torch.equal(best[k], v[1]) for k, v in fit.chosen.state.items())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_masked_step_moves_nothing_of_a_held_seed(optimizer: str) -> None:
    p = torch.nn.Parameter(torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    opt = StackedOptimizer([p], TrainConfig(optimizer=optimizer, lr=0.1))
    for _ in range(20):
        p.grad = torch.ones_like(p)
        opt.step()
    before, moments = p.detach().clone(), {k: v.clone() for k, v in opt.state().items()}
    for _ in range(20):
        p.grad = torch.zeros_like(p)
        opt.step(torch.tensor([True, False, True]))
    assert torch.equal(p[1], before[1])
    assert not torch.equal(p[0], before[0])
    assert all(torch.equal(v[1], moments[k][1]) for k, v in opt.state().items() if v.dim() == 3)


def test_clip_bounds_each_seed_by_itself() -> None:
    p, q = (torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(2))
    p.grad, q.grad = torch.tensor([[3.0, 0, 0], [0.1, 0, 0]]), torch.tensor([[0, 4.0, 0], [0, 0.1, 0]])
    StackedOptimizer([p, q], TrainConfig(clip=1.0, lr=1.0, weight_decay=0, momentum=0)).step()
    norms = torch.stack([p, q]).square().sum((0, 2)).sqrt()
    assert norms.tolist() == pytest.approx([1.0, 0.02**0.5], rel=1e-5)


def test_schedules() -> None:
    step = TrainConfig(epochs=10)
    assert [schedule(step, e, 10) for e in (0, 6, 7, 9)] == [1, 1, 0.1, 0.1]
    cosine = TrainConfig(schedule="cosine")
    assert [schedule(cosine, e, 10) for e in (0, 5)] == pytest.approx([1, 0.5])
    assert schedule(TrainConfig(schedule="constant"), 9, 10) == 1


def test_streams_of_a_seed_do_not_depend_on_company_or_on_other_draws() -> None:
    alone, together = SeedStreams((3,)), SeedStreams((1, 2, 3))
    together.normal("noise", torch.zeros(3, 7))
    assert torch.equal(alone.permutation("shuffle", 50)[0], together.permutation("shuffle", 50)[2])
    state = together.state()
    expected = together.permutation("shuffle", 50)
    together.load_state(state)
    assert torch.equal(together.permutation("shuffle", 50), expected)
    assert not torch.equal(expected[0], expected[1])


def test_every_sample_is_seen_once_an_epoch_by_every_seed() -> None:
    data = feed(feature_set(2))
    rows = torch.cat([batch.idx for batch in data.epoch(SeedStreams((1, 2)), 16)], 1)
    assert [sorted(row.tolist()) for row in rows] == [list(range(60))] * 2


def test_standardisation_uses_training_samples_only() -> None:
    features = feature_set(2, absent=0.2)
    for x in features.x.values():
        x[features.rows["test"]] = 1e6
    scaled = features.standardised(features.stats())
    train = scaled.rows["train"]
    for m, x in scaled.x.items():
        mask = scaled.mask[m]
        values = x[train][mask[train]] if mask is not None else x[train]
        assert values.flatten(0, -2).mean(0).abs().max() < 1e-5
        assert torch.isfinite(x).all()
