"""MSES: the numeric checks of the specification, freezing and restoring bit for bit, and a loop over everything."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from mmbal_cli.engine.feed import Feed, SplitPeek
from mmbal_cli.methods.base import Method
from mmbal_cli.ops.stopping import Stopping
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed, fit, steps
from tests.methods.slow_runs import D64, Params, SlowRun

CURVE = [1.0, 0.5, 0.9, 0.9, 0.9]  # with patience 1: best in the third epoch, stop after the fifth
FALLING = [1.0, 0.9, 0.8, 0.7, 0.6]


def config(**values: object) -> TrainConfig:
    return TrainConfig(**(CONFIG.model_dump() | values))


def watched(values: list[float], patience: int) -> tuple[list[bool], list[bool], Stopping]:
    """Which epochs are the best so far, and after which a modality stops."""
    stopping, better, stop = Stopping(1, 1, D64), [], []
    for epoch, v in enumerate(values):
        one, other = stopping.watch(torch.tensor([[v]], dtype=D64), epoch, 0.6, patience)
        better.append(one.item())
        stop.append(other.item())
    return better, stop, stopping


def test_smoothing_uses_the_last_raw_loss() -> None:
    better, _, stopping = watched([1.0, 0.8], 5)
    assert better == [True, True]
    assert stopping.best.item() == pytest.approx(0.92)
    _, _, stopping = watched([1.0, 0.5, 0.9], 5)
    assert stopping.best.item() == pytest.approx(0.66)


def test_patience_is_strict() -> None:
    assert watched([1.0] * 6, 2)[1] == [False, False, False, True, False, False]
    assert watched([1.0] * 3, 0)[1] == [False, True, False]
    better, stop, stopping = watched(CURVE, 1)
    assert better == [True, True, True, False, False]
    assert stop == [False, False, False, False, True]
    assert (stopping.since.item(), stopping.active.item()) == (2, 0)
    better, stop, _ = watched([*CURVE, 0.0, 0.0], 1)  # too late
    assert (better[5:], stop[5:]) == ([False, False], [False, False])


def test_what_is_not_a_number_is_no_improvement() -> None:
    assert watched([math.nan] * 3, 1)[0] == [False] * 3
    assert watched([math.nan] * 3, 1)[1] == [False, False, True]
    better, stop, stopping = watched([1.0, math.nan, 0.5, 0.5], 5)
    assert better == [True, False, False, True]
    assert not any(stop)
    assert stopping.best.item() == pytest.approx(0.5)


def weights(method: Method) -> Params:
    return {name: p.detach().clone() for name, p in method.named_parameters() if not name.startswith("kept")}


def guided(
    method: Method, data: Feed, curves: list[list[list[float]]], after: int = 0
) -> list[dict[str, torch.Tensor]]:
    """Train with validation losses curves[seed][modality]; weights after each epoch's steps and after its end."""
    found, n = [], len(curves[0][0])
    method.phase_epochs = n + after
    for method.epoch in range(n + after):
        method.begin_epoch(None)
        method.opt.set_epoch(method.epoch, n + after)
        method.train()
        steps(method, data, 4)
        found.append(weights(method))
        table = torch.tensor(curves, dtype=D64)[..., min(method.epoch, n - 1)]
        method.end_epoch(SimpleNamespace(losses=lambda split, t=table: {m: t[:, j] for j, m in enumerate(method.mods)}))
        found.append(weights(method))
    return found


def of(name: str, value: torch.Tensor, mods: tuple[str, ...], m: str) -> torch.Tensor | None:
    """What of a parameter [S,...] belongs to the branch of m."""
    if name == "fusion.head.weight":
        return value.chunk(len(mods), 1)[mods.index(m)]
    return value if f".{m}_." in name else None


@pytest.mark.parametrize("fusion", ["concat", "sum", "gated"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("keep_head", [False, True])
def test_a_stopped_branch_is_its_best_epoch_for_ever(fusion: str, optimizer: str, keep_head: bool) -> None:
    data = feed(feature_set(2))
    settings = config(optimizer=optimizer, weight_decay=0.1, clip=1.0, schedule="constant")
    method = build("mses", data, (1, 2, 3), settings, patience=1, fusion=fusion, keep_head=keep_head)
    # seed 0: audio stops; seed 1: both stop; seed 2: none
    found = guided(method, data, [[CURVE, FALLING], [CURVE, CURVE], [FALLING, FALLING]], after=1)
    assert method.stopping.active.tolist() == [[0, 1], [0, 0], [1, 1]]
    best, before, stopped, end = found[5], found[8], found[9], found[11]
    for name, value in end.items():
        joint = name.startswith("fusion") and (keep_head or fusion == "gated")
        for j, m in enumerate(() if joint else method.mods):
            mine = [of(name, w[name], method.mods, m) for w in (best, before, stopped, end)]
            for s in range(3) if mine[0] is not None else ():
                goes = bool(method.stopping.active[s, j])
                at_best, at_last, at_stop, at_end = (w[s] for w in mine)
                assert torch.equal(at_stop, at_last if goes else at_best), name
                assert torch.equal(at_stop, at_end) != goes, name
                assert not torch.equal(at_best, at_last), name
        if joint or all(of(name, value, method.mods, m) is None for m in method.mods):  # of no branch
            assert torch.equal(stopped[name], before[name])
            moved = [not torch.equal(value[s], stopped[name][s]) for s in range(3)]
            assert moved == [True, keep_head, True], name


def test_only_the_branch_or_everything_or_nothing_is_restored() -> None:
    data = feed(feature_set(2))
    for restore in ("branch", "all", "none"):
        method = build("mses", data, (1, 2), config(momentum=0.9), patience=1, restore=restore)
        found = guided(method, data, [[CURVE, FALLING], [FALLING, FALLING]])
        best, before, stopped = found[5], found[8], found[9]
        for name, value in stopped.items():
            kept = restore == "all" or (restore == "branch" and ".audio_." in name)
            assert torch.equal(value[1], before[name][1])
            if name == "fusion.head.weight" and restore == "branch":
                rows = method.D
                assert torch.equal(value[0], torch.cat([best[name][0][:rows], before[name][0][rows:]]))
            else:
                assert torch.equal(value[0], (best if kept else before)[name][0])
        momentum = [v for key, v in method.opt.state().items() if key.endswith("momentum_buffer")]
        assert all(v[0].any() != (restore == "all") and v[1].any() for v in momentum)


def test_of_several_that_stop_at_once_the_latest_best_epoch_counts() -> None:
    data = feed(feature_set(3))
    early = [1.0, 2.0, 2.0, 1.9, 1.9]
    for curves in ([early, CURVE, early], [CURVE, early, CURVE]):
        method = build("mses", data, (1,), patience=1, restore="all")
        method.stopping.active.fill_(1)
        stops = torch.tensor([[True, True, True]])
        method.stopping.since.copy_(torch.tensor([[2.0 if c is CURVE else 0.0 for c in curves]]))
        assert method.stopping.latest(stops).tolist() == [[c is CURVE for c in curves]]
        assert not method.stopping.latest(~stops).any()


@pytest.mark.parametrize("M", [2, 3])
def test_without_losses_and_stops_it_is_the_baseline(M: int) -> None:
    data = feed(feature_set(M, absent=0.2))
    for fusion in ("concat", "gated"):
        plain = fit(build("concat", data, fusion=fusion), data).method
        for knobs in ({"beta": 0}, {"aux": "none"}):
            own = fit(build("mses", data, patience=100_000, fusion=fusion, **knobs), data).method.state_dict()
            assert all(torch.equal(value, own[name]) for name, value in plain.state_dict().items())


def test_what_is_watched() -> None:
    data = feed(feature_set(2, absent=0.2))
    method, shares = build("mses", data), build("mses", data, aux="none")
    concat = build("concat", data)
    peeks = [SplitPeek(one.eval(), data).losses("val") for one in (method, shares, concat)]
    assert all(torch.equal(peeks[1][m], peeks[2][m]) for m in concat.mods)
    assert not any(torch.equal(peeks[0][m], peeks[2][m]) for m in concat.mods)
    heads = weights(shares)
    steps(shares, data, 3)
    assert all(torch.equal(p, heads[f"heads.{name}"]) for name, p in shares.heads.named_parameters())


class Slow(SlowRun):
    """One seed."""

    def __init__(self, method: Method, data: Feed, i: int) -> None:
        super().__init__(method, data, i)
        self.aux, self.keep_head, self.restore = (method.knobs[k] for k in ("aux", "keep_head", "restore"))
        self.f = dict.fromkeys(self.mods, 1.0)
        self.watch = self.own if self.aux == "heads" else self.share

    def branch(self, name: str) -> dict[str, torch.Tensor | slice]:
        return {} if self.keep_head and name.startswith("fusion") else super().branch(name)

    @property
    def rest(self) -> float:
        return 1.0 if self.keep_head else max(self.f.values())

    def clip(self, p: Params) -> None:
        for name, value in p.items():
            if value.grad is not None and not self.branch(name):
                value.grad *= self.rest
            for m, rows in self.branch(name).items():
                if value.grad is not None and self.f[m] == 0:
                    value.grad[rows] = 0
        super().clip(p)

    def copy(self) -> Params:
        return {name: value.detach().clone() for name, value in self.p.items()}

    def put_back(self, m: str, kept: Params) -> None:
        with torch.no_grad():
            for name, value in self.p.items():
                rows = slice(None) if self.restore == "all" else self.branch(name).get(m)
                if rows is not None:
                    value[rows] = kept[name][rows]

    def run(self, patience: int) -> dict[str, int]:
        last: dict[str, float] = {}
        best, when, kept, stops = dict.fromkeys(self.mods, math.inf), dict.fromkeys(self.mods, 0), {}, {}
        for epoch in range(self.config.epochs):
            for rows in self.batches():
                found = self.losses(self.p, rows, self.own)
                own = sum(found[m] for m in self.mods) if self.aux == "heads" else 0.0
                self.paced_step(found["fused"] + own, self.f, epoch, self.rest)
            with torch.no_grad():
                v = {m: float(loss) for m, loss in self.losses(self.p, self.split("val"), self.watch).items()}
            now = [m for m in self.mods if self.f[m]]
            for m in now:
                smooth = 0.6 * last[m] + 0.4 * v[m] if epoch else v[m]
                if smooth < best[m]:
                    best[m], when[m], kept[m] = smooth, epoch, self.copy()
            last, late = v, sorted((m for m in now if epoch - when[m] > patience), key=lambda m: when[m])
            for m in late:
                self.f[m], stops[m] = 0.0, epoch
                if self.restore != "none":
                    self.put_back(m, kept[m])
                if self.restore == "all":
                    self.velocity = {}
        return stops


CASES = [
    (2, "concat", {"patience": 0}),
    (3, "sum", {"patience": 1}),
    (3, "concat", {"patience": 0, "keep_head": True}),
    (2, "concat", {"patience": 0, "restore": "all"}),
    (2, "sum", {"patience": 0, "restore": "none"}),
    (3, "concat", {"patience": 0, "aux": "none"}),
]


@pytest.mark.parametrize(("M", "fusion", "knobs"), CASES)
def test_a_run_equals_a_loop_over_seeds_and_samples(M: int, fusion: str, knobs: dict) -> None:
    data = feed(feature_set(M, n=40, easy=0.5, absent=0.2))
    settings = config(clip=0.5, epochs=6, lr=0.2)
    fresh = build("mses", data, (1, 2), settings, fusion=fusion, **knobs)
    run = fit(build("mses", data, (1, 2), settings, fusion=fusion, **knobs), data)
    stops = []
    for i in range(2):
        slow = Slow(fresh, run.feed, i)
        stops.append(slow.run(int(knobs["patience"])))
        for name, value in weights(run.method).items():
            assert (value[i] - slow.p[name]).abs().max() < 1e-10, name
        assert run.method.stopping.active[i].tolist() == list(slow.f.values())
    assert any(stop < 5 for found in stops for stop in found.values()), stops
