"""MSLR: the numeric checks of the specification, rates against torch's own groups, and a loop over everything."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mmbal_cli.engine.fit import Fit
from mmbal_cli.errors import RecipeError
from mmbal_cli.methods.base import Method
from mmbal_cli.methods.mslr import progress
from mmbal_cli.ops.branchwise import branchwise, by_name
from mmbal_cli.ops.losses import ce
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed, fit, steps
from tests.methods.slow_runs import D64, SlowRun


def config(**values: object) -> TrainConfig:
    return TrainConfig(**(CONFIG.model_dump() | values))


def after(method: Method, *accuracies: list[list[float]]) -> torch.Tensor:
    """Factors [S,M] of the epoch that follows epochs with these accuracies [S,M]."""
    method.phase_epochs = len(accuracies) + 1
    for method.epoch, values in enumerate(accuracies):
        table = torch.tensor(values, dtype=D64)
        peek = SimpleNamespace(accuracy=lambda split, t=table: {m: t[:, j] for j, m in enumerate(method.mods)})
        method.begin_epoch(peek)
        method.end_epoch(peek)
    method.epoch, method._log = len(accuracies), {}
    method.begin_epoch(peek)
    logged = method.collect()
    return torch.stack([logged[f"coef/rate/{m}"] for m in method.mods], 1)


def test_a_known_history_gives_known_factors() -> None:
    data = feed(feature_set(2))
    half = [[0.5, 0.5]]
    f = after(build("mslr", data, (1,), c="audio=0.9"), *[half] * 5, [[0.6, 0.5]])
    assert f.flatten().tolist() == pytest.approx([1.08, 1.0])
    f = after(build("mslr", data, (1,), c="audio=0.9"), *[half] * 4, [[0.6, 0.5]])  # only four before the last
    assert f.flatten().tolist() == pytest.approx([0.9, 1.0])
    rising = [[[0.1 * e, 0.5]] for e in range(1, 8)]  # the oldest values leave the ring
    assert after(build("mslr", data, (1,)), *rising).flatten().tolist() == pytest.approx([0.7 / 0.4, 1.0])


def test_factors_are_not_cumulative_bounded_and_defined() -> None:
    history = torch.tensor([[[0.5] * 5, [0.5] * 5, [0.0] * 5, [0.1] * 5]], dtype=D64)
    accuracy = torch.tensor([[0.6, 0.0, 0.3, 0.9]], dtype=D64)
    assert progress(accuracy, history, 2.0).flatten().tolist() == pytest.approx([1.2, 0.5, 1.0, 2.0])
    assert progress(accuracy, history, 1.0).flatten().tolist() == [1.0] * 4
    data = feed(feature_set(2))
    f = after(build("mslr", data, (1,), history=1), [[0.5, 0.5]], [[0.6, 0.4]], [[0.6, 0.4]])
    assert f.flatten().tolist() == [1.0, 1.0]


def test_seeds_have_factors_of_their_own_in_any_order() -> None:
    data = feed(feature_set(2))
    values = [[0.5, 0.5], [0.5, 0.5]], [[0.6, 0.5], [0.5, 0.4]]
    swapped = [table[::-1] for table in values]
    one, other = (after(build("mslr", data, (1, 2), history=1), *tables) for tables in (values, swapped))
    assert one.tolist() == [pytest.approx([1.2, 1.0]), pytest.approx([1.0, 0.8])]
    assert torch.equal(one, other.flip(0))
    data = feed(feature_set(2, easy=0.4, n=90))
    runs = [fit(build("mslr", data, seeds, history=1), data).method for seeds in ((1, 2), (2, 1))]
    assert all(torch.equal(a, b.flip(0)) for a, b in zip(*(run.state_dict().values() for run in runs), strict=True))
    assert not torch.equal(runs[0].r[0], runs[0].r[1])


SMOOTH = [(4.0, 0, 4.0), (4.0, 2, 2.0), (0.25, 2, 0.5), (0.25, 3, 0.25**0.25)]


@pytest.mark.parametrize(("c", "epoch", "expected"), SMOOTH)
def test_smooth_goes_from_the_unimodal_rate_to_the_common_one(c: float, epoch: int, expected: float) -> None:
    method = build("mslr", feed(feature_set(2)), (1,), strategy="smooth", c=f"video={c}")
    method.epoch, method.phase_epochs = epoch, 4
    method.begin_epoch(None)
    found = method.collect()
    assert found["coef/rate/audio"].item() == 1
    assert found["coef/rate/video"].item() == pytest.approx(expected)


@pytest.mark.parametrize("fusion", ["sum", "concat", "gated", "affine"])
def test_without_factors_it_is_the_baseline_bit_for_bit(fusion: str) -> None:
    data = feed(feature_set(3, absent=0.2))
    for knobs in ({"strategy": "keep"}, {"strategy": "smooth"}, {"history": 100}):
        one, other = build("mslr", data, fusion=fusion, **knobs), build("concat", data, fusion=fusion)
        fit(one, data)
        fit(other, data)
        mine = one.state_dict()
        assert all(torch.equal(value, mine[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_factor_is_a_learning_rate_of_torch(optimizer: str) -> None:
    data, settings = feed(feature_set(2)), config(optimizer=optimizer, lr=0.02, weight_decay=0.1, schedule="constant")
    method, twin = (build("mslr", data, config=settings, strategy="keep", c="audio=0.5") for _ in range(2))
    slow = [p for name, p in twin.named_parameters() if ".audio_." in name]
    fast = [p for name, p in twin.named_parameters() if ".audio_." not in name]
    assert len(slow) == 6
    groups = [{"params": slow, "lr": 0.01}, {"params": fast, "lr": 0.02}]
    cls, extra = (torch.optim.SGD, {"momentum": 0.9}) if optimizer == "sgd" else (torch.optim.AdamW, {})
    opt = cls(groups, weight_decay=0.1, **extra)
    halved = build("mslr", data, config=settings, strategy="keep", c="")  # gradients halved instead of updates
    method.begin_epoch(None)
    for batch in steps(method, data, 6):
        opt.zero_grad()
        ce(twin(batch).fused, batch.y).sum().backward()
        opt.step()
        halved.opt.zero_grad()
        ce(halved(batch).fused, batch.y).sum().backward()
        for name, p in halved.named_parameters():
            p.grad *= 0.5 if ".audio_." in name else 1.0
        halved.opt.step()
    for p, q in zip(method.parameters(), twin.parameters(), strict=True):  # Adam divides by tiny deviations
        assert torch.allclose(p, q, rtol=0, atol=1e-9)
    pairs = zip(method.enc["audio"].parameters(), halved.enc["audio"].parameters(), strict=True)
    assert not any(torch.allclose(p, q, rtol=0, atol=1e-4) for p, q in pairs)


def test_a_branch_has_its_part_of_an_additive_head_only() -> None:
    data = feed(feature_set(3))
    values = torch.tensor([[2.0, 3.0, 5.0]] * 3)
    names = {}
    for fusion in ("sum", "concat", "concat:mlp", "sum:feature", "gated"):
        method = build("mslr", data, fusion=fusion)
        spread = branchwise(values, method.mods, method.enc, head=method.fusion)
        names[fusion] = {name for name, p in method.named_parameters() if p in spread and name.startswith("fusion")}
        for name, p in method.named_parameters():
            if p in spread and name != "fusion.head.weight":
                expected = values[0, method.mods.index(method.owner(name))]
                assert torch.equal(spread[p].expand_as(p), torch.full_like(p, expected).to(values.dtype))
            elif p in spread:
                assert spread[p].shape == (3, 3 * method.D, 1)
                assert spread[p][0, :, 0].tolist() == [2.0] * method.D + [3.0] * method.D + [5.0] * method.D
    parts = {f"fusion.heads.{m}_.{kind}" for m in ("audio", "video", "text") for kind in ("weight", "bias")}
    assert names == {
        "sum": parts,
        "concat": {"fusion.head.weight"},
        "concat:mlp": set(),
        "sum:feature": set(),
        "gated": set(),
    }


def test_factors_are_read_by_name() -> None:
    mods = ("audio", "video")
    assert by_name("", mods) == [1, 1]
    assert by_name("video=1.1,audio=.9", mods) == [0.9, 1.1]
    assert by_name("video=2", mods) == [1, 2]
    for wrong in ("vidoe=1", "video", "video=fast", "video=-1", "video=nan", "video=inf"):
        with pytest.raises(RecipeError):
            build("mslr", feed(feature_set(2)), c=wrong)


def test_warm_start_is_the_unimodal_ensemble() -> None:
    data = feed(feature_set(2, absent=0.1))
    run, ensemble = Fit(build("mslr", data, warm=4), data), Fit(build("unimodal-ensemble", data), data)
    list(ensemble.run())
    list(run.run(stop=lambda: run.finished == 4))
    assert all(torch.equal(value, run.chosen.state[name]) for name, value in ensemble.chosen.state.items())
    assert not run.method.seen.any()
    list(run.run())
    assert run.finished == 8
    assert run.method.seen[..., :4].all()


class Slow(SlowRun):
    """One seed."""

    def accuracies(self) -> dict[str, float]:
        hits: dict[str, list[bool]] = {m: [] for m in self.mods}
        with torch.no_grad():
            for row in self.split("val"):
                for m, h in self.features(self.p, row).items():
                    hits[m].append(int(self.share(self.p, m, h).argmax()) == int(self.data.y[row]))
        return {m: sum(v) / len(v) for m, v in hits.items()}

    def run(self, strategy: str, c: dict[str, float], window: int) -> list[dict[str, float]]:
        past: dict[str, list[float]] = {m: [] for m in self.mods}
        r, used = dict.fromkeys(self.mods, 1.0), []
        for epoch in range(self.config.epochs):
            power = 1 - epoch / self.config.epochs if strategy == "smooth" else 1.0
            f = {m: c[m] ** power * (r[m] if strategy == "dynamic" else 1.0) for m in self.mods}
            used.append(f)
            for rows in self.batches():
                self.paced_step(self.losses(self.p, rows, self.share)["fused"], f, epoch)
            for m, accuracy in self.accuracies().items():
                if len(past[m]) >= window:
                    mean = sum(past[m][-window:]) / window
                    r[m] = min(max(accuracy / mean, 0.5), 2.0) if mean else 1.0
                past[m].append(accuracy)
        return used


@pytest.mark.parametrize(("M", "fusion", "strategy"), [(2, "sum", "dynamic"), (3, "concat", "dynamic"),
                                                       (3, "sum", "smooth"), (2, "concat", "keep")])  # fmt: skip
def test_a_run_equals_a_loop_over_seeds_and_samples(M: int, fusion: str, strategy: str) -> None:
    data = feed(feature_set(M, easy=0.4, absent=0.2))
    settings = config(clip=0.5)
    knobs = {"strategy": strategy, "c": "audio=0.7,video=1.6", "history": 1, "fusion": fusion}
    fresh = build("mslr", data, (1, 2), settings, **knobs)
    run = fit(build("mslr", data, (1, 2), settings, **knobs), data)
    for i in range(2):
        slow = Slow(fresh, run.feed, i)
        used = slow.run(strategy, {"audio": 0.7, "video": 1.6, "text": 1.0}, 1)
        changes = len({tuple(f.values()) for f in used})
        assert {"dynamic": changes > 1, "smooth": changes == 4, "keep": changes == 1}[strategy]
        for name, value in run.method.named_parameters():
            assert (value[i] - slow.p[name]).abs().max() < 1e-10, name
