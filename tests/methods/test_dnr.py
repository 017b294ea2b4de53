"""D&R: the numeric checks of the specification; which samples are clustered; what a pull changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from mmbal_cli.engine.feed import SplitPeek
from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods import dnr
from mmbal_cli.methods.base import Method
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed, fit, train

D64 = torch.float64


def events(epochs: int, **knobs: object) -> list[int]:
    """Epochs (0-based) after which it pulls."""
    method = build("dnr", feed(feature_set(2)), (1,), **knobs)
    method.phase_epochs = epochs
    found = []
    for method.epoch in range(epochs):
        found += [method.epoch - 1] * method.due()
    return found


def test_pulls_come_after_the_epochs_of_the_schedule() -> None:
    assert events(100) == [20, 40, 60]
    assert events(90, every=0.2222) == [20, 40, 60]
    assert events(30, every=0.5, times=2) == [15]  # epoch 30 does not exist
    assert events(100, times=1) == [20]
    assert events(100, times=0) == events(4, every=1.0) == []
    assert events(4) == [1, 2]  # every epoch but the first; nothing follows the last


@pytest.mark.parametrize(("gap", "w"), [(0.2, 0.537050), (0.05, 0.148885), (0.0, 0.0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_strength_and_pull_of_known_gaps(gap: float, w: float, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = feed(feature_set(2))
    method = build("dnr", data).eval()
    purities = {"train": 0.6 + sign * gap, "val": 0.6}
    monkeypatch.setattr(
        method, "purities", lambda _, split: {m: torch.full((3,), purities[split], dtype=D64) for m in method.mods}
    )
    first = method.initial()
    train(method, data, 1)
    before = {k: x.clone() for k, x in method.state_dict().items()}
    method.epoch, method.phase_epochs = 2, 4
    method.begin_epoch(SplitPeek(method, data))
    for name, value in method.state_dict().items():
        own = w if name.startswith("enc.") else 0.0
        assert torch.allclose(value, own * first[name] + (1 - own) * before[name], rtol=0, atol=1e-6), name
        if own == 0:
            assert torch.equal(value, before[name])
    logged = method.collect()
    assert all(logged[f"coef/w/{m}"].tolist() == pytest.approx([w] * 3, abs=1e-6) for m in method.mods)


def test_a_pull_of_known_numbers_and_of_each_seed_apart() -> None:
    p = torch.nn.Parameter(torch.full((2, 3), 3.0, dtype=D64))
    with torch.no_grad():
        dnr.pull({p: torch.ones(2, 3, dtype=D64)}, torch.tensor([math.tanh(0.6), 0.0], dtype=D64))
    assert p[0].tolist() == pytest.approx([1.925901] * 3, abs=1e-6)
    assert p[1].tolist() == [3.0] * 3


def purity_by_loops(x: np.ndarray, y: list[int], k: int, seed: int) -> float:
    low, high = x.min(0), x.max(0)
    flat = high == low
    x = np.where(flat, 0.0, 2 * (x - low) / np.where(flat, 1.0, high - low) - 1)
    found = KMeans(k, n_init=10, max_iter=100, random_state=seed).fit(x).labels_
    best = 0
    for cluster in set(found.tolist()):
        inside = [y[n] for n in range(len(y)) if found[n] == cluster]
        best += max(inside.count(c) for c in inside)
    return best / len(y)


def spied(method: Method, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What `cluster_purity` is asked, with what it answers."""
    calls: list[tuple] = []
    real = dnr.cluster_purity

    def spy(x: torch.Tensor, y: torch.Tensor, k: int, seed: int) -> float:
        calls.append((x.clone(), y.clone(), k, seed, real(x, y, k, seed)))
        return calls[-1][-1]

    monkeypatch.setattr(dnr, "cluster_purity", spy)
    return calls


@pytest.mark.parametrize("absent", [0.0, 0.3])
def test_clusters_are_of_the_features_of_samples_that_have_the_modality(
    absent: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = feed(feature_set(2, absent=absent))
    method = build("dnr", data, (1, 2)).eval()
    calls = spied(method, monkeypatch)
    for split in ("train", "val"):
        calls.clear()
        found = method.purities(SplitPeek(method, data), split)
        batch = next(data.split(split, 2))
        h = method.encode(batch)
        for j, m in enumerate(method.mods):
            for i in range(2):
                x, y, k, seed, answer = calls[2 * j + i]
                mask = batch.present(m)
                there = torch.ones_like(batch.y[0]).bool() if mask is None else mask[0]
                own, labels = h[m][i][there].tolist(), batch.y[i][there].tolist()
                assert sorted(zip(x.tolist(), y.tolist(), strict=True)) == sorted(zip(own, labels, strict=True))
                assert k == 4
                assert found[m][i].item() == answer == purity_by_loops(x.numpy(), y.tolist(), k, seed)
        assert len({call[3] for call in calls}) == 4  # a start of its own for each seed and modality


def test_a_seed_gets_the_same_clusters_alone_and_in_company(monkeypatch: pytest.MonkeyPatch) -> None:
    data = feed(feature_set(2, absent=0.2))
    together = build("dnr", data, (1, 2, 3)).eval()
    calls = spied(together, monkeypatch)
    first = together.purities(SplitPeek(together, data), "train")
    seeds = [call[3] for call in calls]
    calls.clear()
    alone = build("dnr", data, (2,)).eval()
    second = alone.purities(SplitPeek(alone, data), "train")
    assert [call[3] for call in calls] == [seeds[1], seeds[4]]
    assert all(first[m][1] == second[m][0] for m in alone.mods)


def test_a_large_split_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnr, "MOST", 10)
    data = feed(feature_set(2))
    method = build("dnr", data, (1, 2)).eval()
    calls = spied(method, monkeypatch)
    method.purities(SplitPeek(method, data), "train")
    assert {len(call[0]) for call in calls} == {10}
    assert not torch.equal(calls[0][1], calls[1][1])  # each seed its own


def test_separated_features_do_not_pull() -> None:
    data = feed(feature_set(2, easy=100.0))
    config = TrainConfig(**(CONFIG.model_dump() | {"temporal": "mean", "lr": 1e-6, "width": 64}))
    run = Fit(build("dnr", data, config=config), data)
    logged = [row for rows in run.run() for row in rows if "coef/w/audio" in row]
    assert len(logged) == 6  # two events, three seeds
    assert all(row[f"coef/purity/{split}/audio"] == 1 for row in logged for split in ("train", "val"))
    assert all(row["coef/w/audio"] == 0 for row in logged)


def test_without_strength_or_events_it_is_concat() -> None:
    data = feed(feature_set(3, absent=0.2))
    plain = fit(build("concat", data), data).method
    for knobs in ({"lam": 0.0}, {"times": 0}, {"every": 1.0}):
        method = fit(build("dnr", data, **knobs), data).method
        assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), method.parameters(), strict=True))
    method = fit(build("dnr", data), data).method
    assert not all(torch.equal(a, b) for a, b in zip(plain.parameters(), method.parameters(), strict=True))


@pytest.mark.parametrize("reset", [False, True])
def test_momentum_of_adapters_stays_unless_it_shall_be_forgotten(reset: bool) -> None:
    data = feed(feature_set(2))
    method = build("dnr", data, reset_momentum=reset)
    train(method, data, 1)
    before = {k: x.clone() for k, x in method.opt.state().items()}
    method.epoch, method.phase_epochs = 2, 4
    method.eval().begin_epoch(SplitPeek(method, data))
    names = [name for name, _ in method.named_parameters()]
    for key, value in method.opt.state().items():
        forgotten = reset and names[int(key.partition("/")[0])].startswith("enc.")
        assert torch.equal(value, torch.zeros_like(value) if forgotten else before[key])
        assert (before[key] != 0).any()


def test_a_failed_seed_is_left_alone_and_so_is_a_modality_without_samples() -> None:
    features = feature_set(2, absent=0.1)
    features.mask["audio"][features.rows["val"]] = False
    data = feed(features)
    method = build("dnr", data).eval()
    train(method, data, 1)
    with torch.no_grad():
        method.enc["video"].mlp.layers[0].weight[0] = torch.nan
    method.alive = torch.tensor([False, True, True])
    before = {k: x.clone() for k, x in method.state_dict().items()}
    method.epoch, method.phase_epochs = 2, 4
    method.begin_epoch(SplitPeek(method, data))
    for name, value in method.state_dict().items():
        kept = torch.isclose(value, before[name], rtol=0, atol=0, equal_nan=True).flatten(1).all(1)
        assert kept.tolist() == ([True, False, False] if name.startswith("enc.video") else [True] * 3), name
    assert all(torch.isfinite(value).all() for value in method.collect().values())
