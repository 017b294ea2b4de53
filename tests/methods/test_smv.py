"""SMV: the numeric checks of the specification, and an independent loop over seeds and samples with its own lists."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
import torch
from torch import Tensor

from mmbal_cli.engine.feed import Feed, SplitPeek
from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods.base import Batch, Method
from mmbal_cli.ops.sampling import copies
from mmbal_cli.ops.shapley import shapley
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed, fit
from tests.methods import reference

D64 = torch.float64
SHORT = TrainConfig(**(CONFIG.model_dump() | {"epochs": 3, "batch": 8, "schedule": "constant"}))


@pytest.mark.parametrize(("right", "phi", "count"), [
    ("111", (1, 1), (0, 0)), ("101", (1.5, 0.5), (0, 1)), ("011", (0.5, 1.5), (1, 0)), ("001", (1, 1), (0, 0)),
    ("110", (0, 0), (2, 2)), ("100", (0.5, -0.5), (1, 3)), ("010", (-0.5, 0.5), (3, 1)), ("000", (0, 0), (2, 2)),
])  # fmt: skip
def test_contributions_and_copies_of_two_modalities(right: str, phi: tuple, count: tuple) -> None:
    values = torch.tensor([[[int(r) * size for r, size in zip(right, (1, 1, 2), strict=True)]]], dtype=D64)
    found = shapley(values, 2)
    assert found.flatten().tolist() == list(phi)
    assert found.sum().item() == values[0, 0, 2].item()
    assert copies(found, torch.ones(1, 1, 2, dtype=torch.bool)).flatten().tolist() == list(count)


def test_three_modalities_of_which_all_or_the_first_decide() -> None:
    only_full = torch.tensor([0, 0, 0, 0, 0, 0, 3], dtype=D64)[None, None]  # binary order: 1 2 12 3 13 23 123
    assert shapley(only_full, 3).flatten().tolist() == pytest.approx([1, 1, 1])
    first = torch.tensor([1, 0, 2, 0, 2, 0, 3], dtype=D64)[None, None]
    assert shapley(first, 3).flatten().tolist() == pytest.approx([2, 0.5, 0.5])
    has = torch.ones(1, 1, 3, dtype=torch.bool)
    assert copies(shapley(only_full, 3), has).flatten().tolist() == [0, 0, 0]
    assert copies(shapley(first, 3), has).flatten().tolist() == [0, 1, 1]


@pytest.mark.parametrize("M", [2, 3, 4])
def test_no_game_of_right_and_wrong_asks_for_more_copies_than_there_is_room(M: int) -> None:
    sizes = torch.tensor([code.bit_count() for code in range(1, 2**M)])
    right = torch.randint(0, 2, (1, 3000, 2**M - 1), generator=torch.Generator().manual_seed(0))
    right[0, 0] = torch.tensor([code & 1 == 0 for code in range(1, 2**M)])  # the first modality spoils everything
    count = copies(shapley((right * sizes).double(), M), torch.ones(1, 3000, M, dtype=torch.bool))
    assert count.max() == count[0, 0, 0] == M + 1


def recorded(method: Method) -> list[list[Batch]]:
    """The batches of every epoch, as `step` will see them."""
    epochs: list[list[Batch]] = [[] for _ in range(method.config.epochs)]
    step = method.step

    def spy(batch: Batch) -> Tensor:
        epochs[method.epoch].append(batch)
        return step(batch)

    method.step = spy  # type: ignore[method-assign]
    return epochs


def features(p: reference.Params, mods: tuple[str, ...], data: Feed, row: int, keep: set[str]) -> dict[str, Tensor]:
    found = {}
    for m in mods:
        mask = data.mask[m]
        there = m in keep and (mask is None or bool(mask[row].any()))
        found[m] = reference.adapter(p, m, data.x[m][row]) * (1.0 if there else 0.0)
    return found


def head(p: reference.Params, mods: tuple[str, ...], h: dict[str, Tensor]) -> Tensor:
    return torch.cat([h[m] for m in mods]) @ p["fusion.head.weight"] + p["fusion.head.bias"][0]


def slow_phi(p: reference.Params, mods: tuple[str, ...], data: Feed, row: int, has: list[str]) -> dict[str, float]:
    """Mean over all orders of joining, of those that the sample has."""

    def worth(A: list[str]) -> int:
        z = head(p, mods, features(p, mods, data, row, set(A)))
        return len(A) if A and int(z.argmax()) == int(data.y[row]) else 0

    gains: dict[str, list[int]] = {m: [] for m in has}
    for order in permutations(has):
        for n, m in enumerate(order):
            gains[m].append(worth(list(order[: n + 1])) - worth(list(order[:n])))
    return {m: sum(values) / len(values) for m, values in gains.items()}


def items(batches: list[Batch], i: int, mods: tuple[str, ...]) -> Counter:
    """What seed i saw in an epoch: (row of the training split, modalities kept)."""
    found: Counter = Counter()
    for batch in batches:
        for b in range(batch.y.shape[1]):
            if batch.valid is None or batch.valid[i, b]:
                kept = frozenset(m for m in mods if m not in batch.keep or batch.keep[m][i, b])
                found[int(batch.idx[i, b]), kept] += 1
    return found


def train_slowly(method: Method, data: Feed, p: reference.Params, velocity: dict, batches: list[Batch], i: int) -> None:
    for batch in batches:
        seen = [b for b in range(batch.y.shape[1]) if batch.valid is None or batch.valid[i, b]]
        if not seen:
            continue
        loss = torch.zeros((), dtype=D64)
        for b in seen:
            kept = {m for m in method.mods if m not in batch.keep or batch.keep[m][i, b]}
            row = int(data.rows["train"][batch.idx[i, b]])
            z = head(p, method.mods, features(p, method.mods, data, row, kept))
            loss = loss + reference.cross_entropy(z, int(data.y[row]))
        (loss / len(seen)).backward()
        reference.sgd(p, velocity, method.config.lr, method.config.momentum, method.config.weight_decay)


@pytest.mark.parametrize(("M", "absent"), [(2, 0.0), (2, 0.3), (3, 0.3)])
def test_lists_and_steps_equal_a_loop_over_seeds_and_samples(M: int, absent: float) -> None:
    data = feed(feature_set(M, n=20, absent=absent))
    method, fresh = (build("smv", data, config=SHORT, warmup=1) for _ in range(2))
    epochs = recorded(method)
    fit(method, data)
    everything = frozenset(method.mods)
    for i in range(3):
        p, velocity = reference.parameters_of(fresh, i), {}
        for e, batches in enumerate(epochs):
            expected = Counter({(n, everything): 1 for n in range(len(data.rows["train"]))})
            for n, row in enumerate(data.rows["train"].tolist() if e else []):
                has = [m for m in method.mods if data.mask[m] is None or bool(data.mask[m][row].any())]
                for m, phi in slow_phi(p, method.mods, data, row, has).items():
                    expected[n, frozenset({m})] += int(2 * max(0.0, 1 - phi) + 0.5 + 1e-9)
            assert items(batches, i, method.mods) == +expected
            train_slowly(method, data, p, velocity, batches, i)
        for name, value in method.state_dict().items():
            assert (value[i] - p[name]).abs().max() < 1e-10, name


def test_the_modality_form_equals_a_loop_and_adds_the_asked_share_of_one_modality() -> None:
    data = feed(feature_set(3, n=20, absent=0.3))
    method, fresh = (build("smv-mod", data, config=SHORT, warmup=1, part_ratio=1.0, alpha=2.0) for _ in range(2))
    epochs, logged = recorded(method), []
    for rows in Fit(method, data).run():
        logged.append([row.get("data/added", 0.0) for row in rows])
    everything = frozenset(method.mods)
    for i in range(3):
        p, velocity = reference.parameters_of(fresh, i), {}
        for e, batches in enumerate(epochs):
            found = items(batches, i, method.mods)
            assert all(found.pop((n, everything)) == 1 for n in range(len(data.rows["train"])))
            assert sum(found.values()) == int(logged[e][i] * len(data.rows["train"]) + 1e-4)
            assert len({kept for _, kept in found}) <= 1
            for n, kept in found:
                mask = data.mask[next(iter(kept))]
                assert mask is None or bool(mask[data.rows["train"][n]].any())
            train_slowly(method, data, p, velocity, batches, i)
        for name, value in method.state_dict().items():
            assert (value[i] - p[name]).abs().max() < 1e-10, name
    assert max(logged[2]) > 0


@pytest.mark.parametrize(("rule", "p"), [("linear", 1 / 3), ("tanh", 0.321513), ("power", 0.192450)])
def test_share_added_of_known_mean_contributions(rule: str, p: float) -> None:
    data = feed(feature_set(2, n=30))
    method = build("smv-mod", data, rule=rule)
    phi = torch.tensor([1.1, 0.6], dtype=D64).expand(3, 30, 2)
    sample, kept, chosen, key = method.candidates(phi, torch.ones(3, 30, 2, dtype=torch.bool))
    assert sample.shape == kept.shape == chosen.shape == key.shape
    assert method.collect()["data/added"].tolist() == pytest.approx([p] * 3, abs=1e-6)
    assert chosen.sum(1).tolist() == [30 + int(30 * p + 1e-4)] * 3
    assert [set(kept[s][chosen[s]].tolist()) for s in range(3)] == [{-1, 1}] * 3  # the second modality alone


def test_the_mean_is_of_drawn_samples_and_the_strongest_gap_is_kept() -> None:
    data = feed(feature_set(3, n=400))
    method = build("smv-mod", data, part_ratio=0.2)
    phi = torch.rand(3, 400, 3, generator=torch.Generator().manual_seed(0), dtype=D64)
    phi[..., 2] -= 1
    has = torch.ones(3, 400, 3, dtype=torch.bool)
    _, kept, chosen, _ = method.candidates(phi, has)
    assert all(set(kept[s][chosen[s]].tolist()) == {-1, 2} for s in range(3))
    exact = 2 / 3 * (phi.mean(1).amax(1) - phi.mean(1).amin(1))
    found = method.collect()["data/added"]
    assert torch.allclose(found, exact, atol=0.1)
    assert not torch.allclose(found, exact, atol=1e-6)


def test_budget_of_steps_trains_on_as_many_items_as_there_are_samples() -> None:
    data = feed(feature_set(2))
    method = build("smv", data, config=SHORT, warmup=0, budget="steps")
    epochs = recorded(method)
    fit(method, data)
    for batches in epochs:
        assert len(batches) == 8  # 60 samples in batches of 8
        for i in range(3):
            found = items(batches, i, method.mods)
            assert sum(found.values()) == 60
            assert any(len(kept) == 1 for _, kept in found)


def test_a_copy_gives_no_gradient_to_what_it_does_not_keep() -> None:
    data = feed(feature_set(2))
    method = build("smv", data)
    a, v = method.mods
    batch = next(data.epoch(method.rng, 16))
    yes = torch.ones_like(batch.y, dtype=torch.bool)
    copy = Batch(batch.x, batch.y, batch.idx, batch.mask, valid=yes, keep={a: yes, v: ~yes})
    method.step(copy)
    assert all((p.grad == 0).all() for p in method.enc[v].parameters())
    assert any((p.grad != 0).any() for p in method.enc[a].parameters())
    block = method.fusion.head.weight.grad[:, method.D :]
    assert (block == 0).all()


def test_warm_up_and_prediction_are_plain() -> None:
    data = feed(feature_set(3, absent=0.2))
    plain = fit(build("concat", data), data).method
    for name in ("smv", "smv-mod"):
        method = fit(build(name, data, warmup=4), data).method
        assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), method.parameters(), strict=True))
        batch = next(data.split("val", 3))
        assert torch.equal(method(batch).fused, plain(batch).fused)


@pytest.mark.parametrize("name", ["smv", "smv-mod"])
def test_a_list_is_the_same_alone_and_in_company_and_starts_after_the_warm_up(name: str) -> None:
    data = feed(feature_set(3, absent=0.3))
    method = build(name, data, warmup=1).eval()
    assert method.draw(SplitPeek(method, data)) is None
    method.epoch = 1
    [part] = method.draw(SplitPeek(method, data))
    assert part.idx.shape[1] % CONFIG.batch == 0
    for i, seed in enumerate((1, 2, 3)):
        solo = build(name, data, (seed,), warmup=1).eval()
        solo.epoch = 1
        [own] = solo.draw(SplitPeek(solo, data))
        n = own.idx.shape[1]
        assert torch.equal(own.idx[0], part.idx[i, :n])
        assert torch.equal(own.valid[0], part.valid[i, :n])
        assert not part.valid[i, n:].any()
        assert all(torch.equal(own.keep[m][0], part.keep[m][i, :n]) for m in method.mods)


@pytest.mark.parametrize("setting", [{"dropout": 0.2}, {"optimizer": "adamw", "lr": 0.01}])
@pytest.mark.parametrize("name", ["smv", "smv-mod", "remix"])
def test_shorter_lists_cost_a_seed_no_noise_and_no_step(name: str, setting: dict[str, object]) -> None:
    data = feed(feature_set(3, absent=0.2))
    config = TrainConfig(**(CONFIG.model_dump() | setting))
    knobs = {} if name == "remix" else {"warmup": 1}
    together = fit(build(name, data, config=config, **knobs), data).method
    for i, seed in enumerate((1, 2, 3)):
        alone = fit(build(name, data, (seed,), config, **knobs), data).method
        for entry, value in alone.state_dict().items():
            assert torch.allclose(value[0], together.state_dict()[entry][i], rtol=0, atol=1e-12), entry


def test_a_sample_that_lacks_a_modality_gets_no_copy_of_it() -> None:
    data = feed(feature_set(2, absent=0.4))
    method = build("smv", data, warmup=0).eval()
    [part] = method.draw(SplitPeek(method, data))
    for m in method.mods:
        other = next(q for q in method.mods if q != m)
        copy = part.valid & part.keep[m] & ~part.keep[other]
        there = data.mask[m][data.rows["train"][part.idx]]
        assert copy.any()
        assert (there.any(-1) if there.dim() == 3 else there)[copy].all()
