"""Data Remixing: the numeric checks of the specification, and an independent loop over seeds and samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmbal_cli.engine.feed import Feed, SplitPeek
from mmbal_cli.methods.base import Batch, Method
from mmbal_cli.ops.losses import entropy
from mmbal_cli.ops.sampling import most_uncertain
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed, fit
from tests.methods import reference

D64 = torch.float64
SHORT = TrainConfig(**(CONFIG.model_dump() | {"epochs": 3, "batch": 8, "schedule": "constant"}))


def test_distance_to_uniform_of_known_predictions() -> None:
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1], [1.0, 1e-300]], dtype=D64)
    H = entropy(p.log())
    bits = (math.log(2) - H) / math.log(2)
    assert bits.tolist() == pytest.approx([0, 0.531004, 1], abs=1e-6)
    has = torch.ones(1, 1, 2, dtype=torch.bool)
    assert most_uncertain(H[None, None, :2], has).item() == 0  # audio predicts (.5, .5), video (.9, .1)
    assert most_uncertain(H[None, None, [0, 0]], has).item() == 1  # the last of equals


def recorded(method: Method) -> list[tuple[int, Batch]]:
    """(epoch, batch) of every step."""
    found: list[tuple[int, Batch]] = []
    step = method.step

    def spy(batch: Batch) -> Tensor:
        found.append((method.epoch, batch))
        return step(batch)

    method.step = spy  # type: ignore[method-assign]
    return found


def feature(p: reference.Params, data: Feed, m: str, row: int) -> Tensor:
    return reference.adapter(p, m, data.x[m][row]) * (1.0 if present(data, m, row) else 0.0)


def present(data: Feed, m: str, row: int) -> bool:
    return data.mask[m] is None or bool(data.mask[m][row].any())


def aux(p: reference.Params, m: str, h: Tensor) -> Tensor:
    return h @ p[f"heads.{m}_.weight"] + p[f"heads.{m}_.bias"][0]


def fused(p: reference.Params, mods: tuple[str, ...], h: dict[str, Tensor]) -> Tensor:
    joined = torch.cat([h.get(m, torch.zeros_like(next(iter(h.values())))) for m in mods])
    return joined @ p["fusion.head.weight"] + p["fusion.head.bias"][0]


def slow_owner(p: reference.Params, mods: tuple[str, ...], data: Feed, row: int, uni: str) -> str | None:
    found: dict[str, float] = {}
    for m in mods:
        if not present(data, m, row):
            continue
        h = feature(p, data, m, row)
        q = (aux(p, m, h) if uni == "aux" else fused(p, mods, {m: h})).softmax(0).tolist()
        found[m] = sum(c * math.log2(len(q) * max(c, 1e-9)) for c in q)
    least = min(found.values(), default=0.0)
    return next((m for m in reversed(mods) if found.get(m) == least), None)


def slow_loss(p: reference.Params, method: Method, data: Feed, rows: list[int], part: str) -> Tensor:
    total = torch.zeros((), dtype=D64)
    have = {m: sum(present(data, m, row) for row in rows) for m in method.mods}
    for row in rows:
        y = int(data.y[row])
        if part:
            h = {part: feature(p, data, part, row)}
            total = total + reference.cross_entropy(fused(p, method.mods, h), y) / len(rows)
            total = total + 0.7 * reference.cross_entropy(aux(p, part, h[part]), y) / len(rows)
            continue
        h = {m: feature(p, data, m, row) for m in method.mods}
        total = total + reference.cross_entropy(fused(p, method.mods, h), y) / len(rows)
        for m in method.mods:
            if present(data, m, row):
                total = total + 0.3 * reference.cross_entropy(aux(p, m, h[m]), y) / have[m]
    return total


def check_owners(p: reference.Params, method: Method, data: Feed, batches: list[Batch], i: int, uni: str) -> None:
    """Every sample once, in the part of its owner, the parts from the last modality to the first."""
    seen: dict[int, str] = {}
    for batch in batches:
        for b in torch.nonzero(batch.valid[i]).flatten().tolist():
            assert int(batch.idx[i, b]) not in seen
            seen[int(batch.idx[i, b])] = batch.part
    owners = {n: slow_owner(p, method.mods, data, row, uni) for n, row in enumerate(data.rows["train"].tolist())}
    assert seen == {n: m for n, m in owners.items() if m is not None}
    order = [method.mods.index(batch.part) for batch in batches]
    assert order == sorted(order, reverse=True)


@pytest.mark.parametrize(("M", "absent", "uni"), [(2, 0.0, "aux"), (2, 0.3, "zero"), (3, 0.3, "aux")])
def test_owners_and_steps_equal_a_loop_over_seeds_and_samples(M: int, absent: float, uni: str) -> None:
    data = feed(feature_set(M, n=20, absent=absent))
    knobs = {"beta": 0.3, "gamma": 0.7, "warmup": 0.3, "uni": uni}
    method, fresh = (build("remix", data, config=SHORT, **knobs) for _ in range(2))
    steps = recorded(method)
    fit(method, data)
    for i in range(3):
        p, velocity = reference.parameters_of(fresh, i), {}
        for e in range(3):
            batches = [batch for at, batch in steps if at == e]
            assert all(bool(batch.part) == (e > 0) for batch in batches)
            if e:
                check_owners(p, method, data, batches, i, uni)
            for batch in batches:
                idx = batch.idx[i] if batch.valid is None else batch.idx[i][batch.valid[i]]
                if len(idx):
                    slow_loss(p, method, data, data.rows["train"][idx].tolist(), batch.part).backward()
                    reference.sgd(p, velocity, SHORT.lr, SHORT.momentum, SHORT.weight_decay)
        for name, value in method.state_dict().items():
            assert (value[i] - p[name]).abs().max() < 1e-10, name


def of_part(batch: Batch, m: str) -> Batch:
    yes = torch.ones_like(batch.y, dtype=torch.bool)
    return Batch(batch.x, batch.y, batch.idx, batch.mask, valid=yes, part=m)


@pytest.mark.parametrize("decay", [False, True])
def test_absent_modalities_are_not_touched_unless_they_shall_decay(decay: bool) -> None:
    data = feed(feature_set(3))
    method = build("remix", data, decay_absent=decay)
    batch, (a, v, t) = next(data.epoch(method.rng, 16)), method.mods
    method.step(batch)  # gives everything a momentum
    before = {k: x.clone() for k, x in method.state_dict().items()}
    method.step(of_part(batch, a))
    for m in (v, t):
        assert all(p.grad is None if not decay else (p.grad == 0).all() for p in method.enc[m].parameters())
        assert all(p.grad is None for p in method.heads[m].parameters())
        moved = any(not torch.equal(before[f"enc.{m}_.{k}"], p) for k, p in method.enc[m].named_parameters())
        assert moved == decay
    assert any((p.grad != 0).any() for p in method.enc[a].parameters())
    assert any((p.grad != 0).any() for p in method.heads[a].parameters())


def test_decay_of_the_absent_changes_their_update_alone() -> None:
    data = feed(feature_set(2))
    one, other = (build("remix", data, decay_absent=flag) for flag in (False, True))
    batch = next(data.epoch(one.rng, 16))
    for method in (one, other):
        method.step(batch)
        method.step(of_part(batch, one.mods[0]))
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q) == (one.owner(name) != one.mods[1] or name.startswith("heads")), name


@pytest.mark.parametrize("absent", [0.0, 0.3])
def test_parts_share_the_samples_out_and_are_the_same_alone(absent: float) -> None:
    data = feed(feature_set(3, absent=absent))
    method = build("remix", data).eval()
    method.epoch = 1
    parts = method.draw(SplitPeek(method, data))
    assert [part.name for part in parts] == list(reversed(method.mods))
    for i, seed in enumerate((1, 2, 3)):
        rows = [n for part in parts for n in part.idx[i][part.valid[i]].tolist()]
        with_any = [n for n, row in enumerate(data.rows["train"].tolist())
                    if any(present(data, m, row) for m in method.mods)]  # fmt: skip
        assert sorted(rows) == with_any
        solo = build("remix", data, (seed,)).eval()
        solo.epoch = 1
        for own, part in zip(solo.draw(SplitPeek(solo, data)), parts, strict=True):
            n = own.idx.shape[1]
            assert torch.equal(own.idx[0], part.idx[i, :n])
            assert int(own.valid.sum()) == int(part.valid[i].sum())


def test_a_modality_that_owns_nothing_is_skipped() -> None:
    data = feed(feature_set(2))
    method = build("remix", data, warmup=0)
    with torch.no_grad():
        for m, scale in zip(method.mods, (0.0, 50.0), strict=True):  # the first one never prefers a class
            method.heads[m].weight.mul_(scale)
            method.heads[m].bias.mul_(scale)
    parts = method.eval().draw(SplitPeek(method, data))
    assert [int(part.valid.sum()) for part in parts] == [0, 180]
    assert parts[0].idx.shape == (3, 0)
    assert fit(method, data).died.tolist() == [-1, -1, -1]


def test_an_endless_warm_up_is_joint_training() -> None:
    data = feed(feature_set(3, absent=0.2))
    for base, beta in (("concat", 0.0), ("heads", 1.0)):
        plain = fit(build(base, data), data).method.state_dict()
        own = fit(build("remix", data, warmup=1, beta=beta), data).method.state_dict()
        assert all(torch.equal(value, own[name]) for name, value in plain.items())


def test_a_sixth_of_the_epochs_is_warm_up() -> None:
    data = feed(feature_set(2))
    method = build("remix", data).eval()
    peek = SplitPeek(method, data)
    for epochs, last in ((60, 9), (100, 16), (4, 0)):
        method.phase_epochs = epochs
        for method.epoch, plain in ((last, True), (last + 1, False)):
            assert (method.draw(peek) is None) == plain
