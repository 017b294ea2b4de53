"""AMCo: the checks of the specification, and whole steps of both forms against formulas written out for one seed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmbal_cli.ops import dependence
from mmbal_cli.ops.losses import ce
from tests.kit.features import build, feature_set, feed, steps
from tests.methods import reference

D64 = torch.float64


def test_the_ramp() -> None:
    assert dependence.sine_ramp(0.15 / 0.3) == pytest.approx(0.707107, abs=1e-6)
    assert int(dependence.sine_ramp(0.15 / 0.3) * 6) == 4
    assert dependence.sine_ramp(0) == 0
    assert dependence.sine_ramp(1) == dependence.sine_ramp(7) == 1


def test_masks_have_exactly_as_many_zeros_as_asked_for_and_one_entry_stays() -> None:
    order = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    for share, zeros in ((0.0, 0), (0.707107, 4), (0.5, 3), (1.0, 5)):
        mask = dependence.without(order, share)
        assert (~mask).sum(1).tolist() == [zeros] * 3
    assert not torch.equal(*dependence.without(order, 0.5)[:2])


def test_known_shares() -> None:
    z = [torch.tensor([[[math.log(6), 0.0]]], dtype=D64), torch.zeros(1, 1, 2, dtype=D64)]
    found = dependence.shares(z, [None, None])
    assert found.flatten().tolist() == pytest.approx([7 / 9, 2 / 9])
    assert (found > 0.5).tolist() == [[True, False]]


def test_shares_are_means_over_the_samples_that_have_everything() -> None:
    z = [torch.tensor([[[math.log(6), 0.0], [50.0, 0.0]]], dtype=D64), torch.zeros(1, 2, 2, dtype=D64)]
    found = dependence.shares(z, [None, torch.tensor([[True, False]])])
    assert found.flatten().tolist() == pytest.approx([7 / 9, 2 / 9])
    assert dependence.shares(z, [None, torch.tensor([[False, False]])]).tolist() == [[0, 0]]


def test_hiding_is_for_some_seeds_only_and_stops_the_gradient() -> None:
    x = torch.ones(2, 3, 4, dtype=D64, requires_grad=True)
    mask = torch.tensor([[True, False, True, False]] * 2)
    found = dependence.hide(x, mask, torch.tensor([True, False]))
    assert found[0].tolist() == [[1, 0, 1, 0]] * 3
    assert (found[1] == 1).all()
    ce(dependence.hide(x, torch.zeros(2, 4, dtype=torch.bool), torch.tensor([True, True])),
       torch.zeros(2, 3, dtype=torch.long)).sum().backward()  # fmt: skip
    assert x.grad.abs().max() == 0


def test_without_dependence_and_with_an_identity_it_is_the_additive_head() -> None:
    data = feed(feature_set(3))
    method, plain = build("amco", data), build("concat", data)
    with torch.no_grad():
        method.star.weight.copy_(torch.eye(4, dtype=D64).expand(3, 4, 4))
        method.star.bias.zero_()
    batch = next(data.epoch(plain.rng, 16))
    assert torch.allclose(method(batch).fused, plain(batch).fused, rtol=0, atol=1e-14)
    method.epoch = 3
    assert (method.hidden(method(batch), batch).fused - method(batch).fused).abs().max() > 0
    method.epoch = 0
    out = method(batch)
    expected = ce(out.fused, batch.y) + sum(ce(out.z[m], batch.y) for m in method.mods)
    assert torch.allclose(method.loss(out, batch), expected, rtol=0, atol=1e-14)


def test_predictions_are_never_masked() -> None:
    data = feed(feature_set(2))
    for form in ("feature", "bb"):
        method = build("amco", data, form=form)
        method.epoch = 3
        steps(method, data, 2)
        batch = next(data.split("val", 3))
        out = method(batch)
        z = sum(method.fusion.unimodal(out.h).values())
        assert torch.equal(out.fused, method.star(z))


def test_the_bound_is_one_over_m_and_a_margin() -> None:
    data = feed(feature_set(3))
    batch = next(data.epoch(build("concat", data).rng, 16))
    for margin in (0.0, 0.01, 0.5):
        method = build("amco", data, margin=margin)
        out = method(batch)
        mass = dependence.shares([out.z[m] for m in method.mods], [None] * 3)
        assert torch.equal(method.found(out, batch), mass > 1 / 3 + margin)
    assert not method.found(out, batch).any()


def test_an_epoch_of_bb_starts_without_a_mask_and_ends_with_all_but_one() -> None:
    data = feed(feature_set(2))
    method = build("amco", data, form="bb", end=1.0)
    method.epoch = 2
    zeros = []
    original = method.mask

    def watched(n: int, share: float) -> Tensor:
        mask = original(n, share)
        zeros.append((~mask).sum(1).tolist())
        return mask

    method.mask = watched
    steps(method, data, 4)
    assert zeros == [[0] * 3, [3] * 3, [3] * 3, [3] * 3]  # l = 0, .2, .4, .6; int(.866 * 4) = 3
    assert method.dependent.any()
    method.begin_epoch(None)  # type: ignore[arg-type]
    assert method.level == 0
    assert not method.dependent.any()
    method = build("amco", data, form="bb", end=0.25)
    method.epoch = 2  # later than a quarter of the four epochs
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    assert method.hidden(out, batch) is out


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize("form", ["feature", "bb"])
def test_steps_equal_formulas_written_out(M: int, form: str) -> None:
    data = feed(feature_set(M))
    knobs = {"form": form, "ramp": 1.0, "pmax": 0.8, "margin": 0.01, "end": 1.0}
    method, fresh = build("amco", data, **knobs), build("amco", data, **knobs)
    method.epoch = 3
    batches = steps(method, data, 4)
    n = method.D if form == "feature" else method.C
    orders = [fresh.rng.permutation("mask", n) for _ in batches]
    masked = []
    for i in range(3):
        state = {"step": 0, "dependent": [False] * M}

        def loss(p: reference.Params, samples: list, labels: list[int], i: int = i, state: dict = state) -> Tensor:
            step, D = state["step"], method.D
            if form == "feature":
                share = 0.8 * math.sin(math.pi / 2 * min(1, 3 / 4))
            else:
                share = math.sin(math.pi / 2 * min(0.3, 0.3 * step) / 0.3)
            gone = orders[step][i] < min(int(share * n), n - 1)

            def head(h: Tensor, j: int) -> Tensor:
                return h @ p["fusion.head.weight"][j * D : (j + 1) * D] + p["fusion.head.bias"][0] / M

            def shares(z: list[list[Tensor]]) -> list[float]:
                found = [0.0] * M
                for row in z:
                    whole = sum(float(torch.exp(u.detach()).sum()) for u in row)
                    for j, u in enumerate(row):
                        found[j] += float(torch.exp(u.detach()).sum()) / whole / len(z)
                return found

            def cut(x: Tensor, j: int) -> Tensor:
                return torch.where(gone, torch.zeros(n, dtype=D64), x) if state["dependent"][j] else x

            h = [[reference.adapter(p, m, x[m]) for m in method.mods] for x in samples]
            if form == "feature":
                state["dependent"] = [
                    s > 1 / M + 0.01 for s in shares([[head(u, j) for j, u in enumerate(r)] for r in h])
                ]
                z = [[head(cut(u, j), j) for j, u in enumerate(row)] for row in h]
            else:
                z = [[cut(head(u, j), j) for j, u in enumerate(row)] for row in h]
            masked.append(any(state["dependent"]) and bool(gone.any()))
            total = torch.zeros((), dtype=D64)
            for row, y in zip(z, labels, strict=True):
                total = total + reference.cross_entropy(sum(row) @ p["star.weight"] + p["star.bias"][0], y)
                total = total + sum(reference.cross_entropy(u, y) for u in row)
            if form == "bb":
                state["dependent"] = [s > 1 / M + 0.01 for s in shares(z)]
            state["step"] += 1
            return total / len(labels)

        slow = reference.run(fresh, i, batches, loss)
        for name, value in method.state_dict().items():
            assert (value[i] - slow[name]).abs().max() < 1e-10, name
    assert sum(masked) >= 3
