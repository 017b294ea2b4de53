"""G-Blend: the numeric checks of the specification, what side trainings must not touch, and a loop over everything."""

from __future__ import annotations

import math

import pytest
import torch

from mmbal_cli.engine.feed import SplitPeek
from mmbal_cli.engine.fit import Fit
from mmbal_cli.ops.blending import blend, growth, super_epoch
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed, fit, steps
from tests.methods.slow_runs import D64, Params, SlowRun

RGB, AUDIO, FUSED = ((2.0, 2.0), (0.5, 1.0)), ((2.0, 2.0), (1.0, 1.5)), ((2.0, 2.0), (0.2, 1.0))
Stream = tuple[tuple[float, float], tuple[float, float]]  # (training, held out) before and after


def losses(*streams: Stream) -> tuple[torch.Tensor, torch.Tensor]:
    table = torch.tensor([streams], dtype=D64)  # [S,K,2,2]
    return table[:, :, 0], table[:, :, 1]


def test_known_losses_give_known_weights() -> None:
    before, after = losses(RGB, AUDIO, FUSED)
    G, O = growth(before, after)  # noqa: E741
    assert G.flatten().tolist() == pytest.approx([1, 0.5, 1])
    assert O.flatten().tolist() == pytest.approx([0.5, 0.5, 0.8])
    w = blend(before, after, 1e-3).flatten().tolist()
    assert w == pytest.approx([0.528926, 0.264463, 0.206612], abs=1e-6)
    assert sum(w) == pytest.approx(1, abs=1e-15)
    scaled = blend(7 * before, 7 * after, 1e-3).flatten().tolist()
    assert scaled == pytest.approx(w, abs=1e-12)


def test_a_stream_whose_held_out_loss_rose_gets_nothing() -> None:
    before, after = losses(((2.0, 2.0), (1.5, 2.1)), AUDIO, FUSED)
    w = blend(before, after, 1e-3).flatten().tolist()
    assert w == pytest.approx([0, 2 / 3.5625, 1.5625 / 3.5625])
    G = [0.1 / 0.6**2, 2.0, 1.5625]
    assert blend(before, after, 1e-3, "abs").flatten().tolist() == pytest.approx([g / sum(G) for g in G])


def test_floor_and_cap() -> None:
    still: Stream = ((2.0, 2.0), (1.0, 1.0))  # no growth of the gap: O = 0
    before, after = losses(still, AUDIO, FUSED)
    raw = [1 / 0.5**2, 2, 1.5625]
    assert blend(before, after, 0.5).flatten().tolist() == pytest.approx([r / sum(raw) for r in raw])
    top = 1e6 / (1e6 + 2 + 1.5625)
    w = blend(before, after, 1e-3).flatten().tolist()
    assert w[0] == pytest.approx(0.98)
    assert w[1] == pytest.approx(2 / (1e6 + 3.5625) + (top - 0.98) / 2)
    assert sum(w) == pytest.approx(1)
    before, after = losses(still, still[:1] * 2, still[:1] * 2)
    assert blend(before, after, 1e-3).flatten().tolist() == pytest.approx([0.98, 0.01, 0.01])


@pytest.mark.parametrize("end", [(1.5, 2.5), (2.0, 2.0), (math.nan, math.nan), (math.inf, math.inf)])
def test_no_stream_generalises_or_all_diverge(end: tuple[float, float]) -> None:
    before, after = losses(*[((2.0, 2.0), end)] * 4)
    assert blend(before, after, 1e-3).flatten().tolist() == [0.25] * 4
    before, after = losses(((2.0, 2.0), end), AUDIO)
    assert blend(before, after, 1e-3, cap=1.0).flatten().tolist() == [0, 1]


def test_super_epochs() -> None:
    assert [super_epoch(e, 22, 10, 5) for e in range(22)] == [10] + [0] * 9 + [5] + [0] * 4 + [5] + [0] * 4 + [2, 0]
    assert [super_epoch(e, 4, 10, 5) for e in range(4)] == [4, 0, 0, 0]
    assert [super_epoch(e, 4, 1, 1) for e in range(4)] == [1, 1, 1, 1]


@pytest.mark.parametrize("M", [2, 3])
def test_equal_weights_are_the_multi_loss(M: int) -> None:
    data = feed(feature_set(M, absent=0.2))
    heads, method = build("heads", data), build("gblend", data)
    method.w.fill_(1)
    steps(heads, data, 6)
    steps(method, data, 6)
    assert all(torch.equal(p, q) for p, q in zip(heads.parameters(), method.parameters(), strict=True))
    slow, plain = (
        TrainConfig(**(CONFIG.model_dump() | {"weight_decay": 0, "lr": lr})) for lr in (0.05 / (M + 1), 0.05)
    )
    heads, method = build("heads", data, config=slow), build("gblend", data, config=plain)  # the weights it begins with
    steps(heads, data, 6)
    steps(method, data, 6)
    assert all(torch.allclose(p, q, atol=1e-13) for p, q in zip(heads.parameters(), method.parameters(), strict=True))


@pytest.mark.parametrize("fusion", ["concat", "gated"])
def test_all_weight_on_the_fused_stream_is_the_baseline(fusion: str) -> None:
    data = feed(feature_set(3, absent=0.2))
    plain, method = build("concat", data, fusion=fusion), build("gblend", data, fusion=fusion)
    method.w.copy_(torch.tensor([0.0, 0, 0, 1], dtype=D64))
    steps(plain, data, 6)
    steps(method, data, 6)
    mine = method.state_dict()
    assert all(torch.equal(value, mine[name]) for name, value in plain.state_dict().items())
    assert all(not p.grad.any() for p in method.heads.parameters())


def test_side_trainings_leave_the_run_as_it_was() -> None:
    data = feed(feature_set(2, absent=0.1)).carved(0.2)
    config = TrainConfig(**(CONFIG.model_dump() | {"dropout": 0.3, "clip": 0.5}))
    method, twin = build("gblend", data, config=config), build("gblend", data, config=config)
    for one in (method, twin):
        one.train()
        steps(one, data, 5)
        one.eval()
    found = (method.state_dict(), method.opt.state(), method.rng.state())
    state, opt, streams = ({k: v.clone() for k, v in part.items()} for part in found)
    method.begin_epoch(SplitPeek(method, data))
    changed = {name for name, value in method.state_dict().items() if not torch.equal(value, state[name])}
    assert changed == {"w", "seen"}
    assert opt.keys() == method.opt.state().keys()
    assert all(torch.equal(value, opt[name]) for name, value in method.opt.state().items())
    after = method.rng.state()
    assert all(torch.equal(value, after[name]) for name, value in streams.items())
    assert all("/probe" in name for name in after.keys() - streams.keys())
    assert not method.training
    assert all(p.grad is None for p in method.parameters())
    method.w.copy_(twin.w)
    for one in (method, twin):
        one.train()
        steps(one, data, 3)
    assert all(torch.equal(p, q) for p, q in zip(method.parameters(), twin.parameters(), strict=True))


def weigh(before: torch.Tensor, after: torch.Tensor) -> list[float]:
    """Weights of one seed, from losses [K,2]."""
    raw = []
    for (t0, v0), (t1, v1) in zip(before.tolist(), after.tolist(), strict=True):
        G, O = v0 - v1, (v1 - t1) - (v0 - t0)  # noqa: E741
        raw.append(max(G, 0.0) / max(abs(O), 1e-3) ** 2)
    w = [r / sum(raw) for r in raw] if sum(raw) > 0 else [1 / len(raw)] * len(raw)
    top = max(w)
    return [0.98 if x > 0.98 else x + max(top - 0.98, 0) / (len(w) - 1) for x in w]


def test_joint_estimates_come_from_the_run_itself() -> None:
    data = feed(feature_set(2, n=80, easy=0.5))
    method = build("gblend", data, estimate="joint", first=2, n=1)
    seen, used, measure, begin = {}, {}, method.measure, method.begin_epoch

    def measured(peek: SplitPeek) -> torch.Tensor:
        seen[method.epoch] = measure(peek)
        return seen[method.epoch]

    def began(peek: SplitPeek) -> None:
        begin(peek)
        used[method.epoch] = method.w.clone()

    method.measure, method.begin_epoch = measured, began
    fit(method, data)
    assert sorted(seen) == [0, 2, 3]
    for epoch, since in ((0, None), (1, None), (2, 0), (3, 2)):
        for s in range(3):
            expected = [1 / 3] * 3 if since is None else weigh(seen[since][s], seen[epoch][s])
            assert used[epoch][s].tolist() == pytest.approx(expected, abs=1e-12)
    assert not torch.allclose(used[2], used[3])
    assert not torch.allclose(used[2], torch.full_like(used[2], 1 / 3))


@pytest.mark.parametrize(("knobs", "expected"), [({}, {0: 4}), ({"first": 1, "n": 2}, {0: 1, 1: 2, 3: 1}),
                                                 ({"mode": "offline", "first": 1, "n": 1}, {0: 4})])  # fmt: skip
def test_when_and_for_how_long_streams_are_tried(knobs: dict, expected: dict) -> None:
    data = feed(feature_set(2))
    method, found, probe = build("gblend", data, **knobs), {}, None
    probe = method.probe

    def tried(peek: SplitPeek, epochs: int, fused: bool) -> torch.Tensor:
        found[method.epoch] = epochs
        return probe(peek, epochs, fused)

    method.probe = tried
    fit(method, data)
    assert found == expected


def test_without_held_out_samples_it_judges_by_validation() -> None:
    data = feed(feature_set(2))
    method = build("gblend", data, holdout=0)
    assert method.held_out() == 0
    peek = SplitPeek(method.eval(), data)
    assert torch.equal(method.measure(peek)[:, -1, 1], peek.losses("val")["fused"])
    assert torch.equal(method.measure(peek)[:, 0, 0], peek.losses("train")[method.mods[0]])


class Slow(SlowRun):
    """One seed; every stream is trained by itself."""

    def cross_entropies(self, p: Params, rows: list[int]) -> dict[str, torch.Tensor]:
        return self.losses(p, rows, self.own)

    def measure(self, p: Params) -> dict[str, tuple[float, float]]:
        with torch.no_grad():
            found = [self.cross_entropies(p, self.split(name)) for name in ("train", "inner")]
        return {k: (float(found[0][k]), float(found[1][k])) for k in found[0]}

    def estimate(self, start: int, length: int) -> list[float]:
        orders = [[list(self.batches("probe")) for _ in range(length)] for _ in range(2)]  # unimodal streams, fused
        before, after = self.measure(self.p), {}
        for k in before:
            q = {name: v.detach().clone().requires_grad_() for name, v in self.p.items()}
            velocity: Params = {}
            for late, order in enumerate(orders[k == "fused"]):
                for rows in order:
                    self.step(q, self.cross_entropies(q, rows)[k], velocity, start + late)
            after[k] = self.measure(q)[k]
        return weigh(*(torch.tensor(list(found.values()), dtype=D64) for found in (before, after)))

    def run(self, first: int, n: int) -> None:
        for epoch in range(self.config.epochs):
            if epoch == 0 or (epoch >= first and (epoch - first) % n == 0):
                self.w = self.estimate(epoch, min(n if epoch else first, self.config.epochs - epoch))
            for rows in self.batches():
                found = self.cross_entropies(self.p, rows).values()
                self.step(self.p, sum(w * v for w, v in zip(self.w, found, strict=True)), self.velocity, epoch)


@pytest.mark.parametrize(("M", "clip", "absent"), [(2, None, 0.0), (2, 0.5, 0.2), (3, None, 0.2)])
def test_a_run_equals_a_loop_over_seeds_streams_and_samples(M: int, clip: float | None, absent: float) -> None:
    data = feed(feature_set(M, n=40, easy=0.6, absent=absent))
    config = TrainConfig(**(CONFIG.model_dump() | {"epochs": 3, "step_at": 0.4, "clip": clip}))
    knobs = {"first": 2, "n": 1, "holdout": 0.2}
    method = build("gblend", data, (1, 2), config, **knobs)
    fresh = build("gblend", data, (1, 2), config, **knobs)
    run = Fit(method, data)
    list(run.run())
    for i in range(2):
        slow = Slow(fresh, run.feed, i)
        slow.run(2, 1)
        assert method.w[i].tolist() == pytest.approx(slow.w, abs=1e-10)
        assert max(slow.w) - min(slow.w) > 0.01
        for name, value in method.named_parameters():
            assert (value[i] - slow.p[name]).abs().max() < 1e-10, name


def test_side_trainings_count_among_the_epochs_of_all_stages() -> None:
    data = feed(feature_set(2))
    method, calls = build("gblend", data, first=2, n=3), []
    probe = method.probe

    def counted(peek: object, epochs: int, fused: bool) -> torch.Tensor:
        calls.append(epochs)
        return probe(peek, epochs, fused)

    method.probe = counted
    fit(method, data)
    assert sum(calls) == method.side_epochs() == 2 * CONFIG.epochs
    assert build("gblend", data, estimate="joint").side_epochs() == 0
