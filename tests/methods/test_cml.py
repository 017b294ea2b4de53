"""CML: the chain of sets, the penalty by hand, and whole steps against loops over seeds and samples."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from mmbal_cli.methods.base import Out
from mmbal_cli.seeds import SeedStreams
from tests.kit.features import build, feature_set, feed, steps
from tests.methods import reference
from tests.methods.test_slow import shares


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize("knobs", [{}, {"lam": 5.0, "margin": 0.02}, {"lam": 5.0, "spare": False}])
def test_steps_equal_a_loop_over_seeds_and_samples(M: int, knobs: dict[str, object]) -> None:
    data = feed(feature_set(M))
    method, fresh = build("cml", data, **knobs), build("cml", data, **knobs)
    batches = steps(method, data, 4)
    for i, seed in enumerate((1, 2, 3)):
        streams = SeedStreams((seed,))

        def loss(p: reference.Params, samples: list, labels: list[int], streams: SeedStreams = streams) -> torch.Tensor:
            like = torch.zeros(1, 1, dtype=torch.float64)
            keys = {m: streams.normal(f"cml/{m}", like).item() for m in method.mods}
            order = sorted(method.mods, key=lambda m: keys[m])  # removed from the front
            total = torch.zeros((), dtype=torch.float64)
            for x, y in zip(samples, labels, strict=True):
                z = shares(p, method.mods, method.D, x)
                bias = p["fusion.head.bias"][0]
                answers = [sum(z[m] - bias / M for m in method.mods if m in order[k:]) + bias for k in range(M)]
                for k, answer in enumerate(answers):
                    total = total + reference.cross_entropy(answer, y) / M
                    if k == 0:
                        continue
                    before, after = answers[k - 1].softmax(0), answer.softmax(0)
                    spared = method.spare and int(after.argmax()) == y and int(before.argmax()) != y
                    grown = after.max() - before.max() - method.margin
                    if grown > 0 and not spared:
                        total = total + method.lam * grown
            return total / len(labels)

        slow = reference.run(fresh, i, batches, loss)
        for name, value in method.state_dict().items():
            assert (value[i] - slow[name]).abs().max() < 1e-10, name


def test_every_order_occurs_and_every_set_is_one_smaller() -> None:
    method = build("cml", feed(feature_set(3)))
    seen = set()
    for _ in range(60):
        chain = method.chain(torch.zeros(3, 4, 4, dtype=torch.float64))  # type: ignore[operator]
        assert [int(kept[0].sum()) for kept in chain] == [3, 2, 1]
        assert all(bool((small <= large).all()) for large, small in pairwise(chain))
        seen.add(tuple(chain[1][0].tolist()) + tuple(chain[2][0].tolist()))
    assert len(seen) == 6


def test_growth_by_hand() -> None:
    method = build("cml", feed(feature_set(2)), (1,))
    here = torch.ones(1, 3, dtype=torch.bool)
    confident, unsure = [math.log(3), 0.0], [0.0, math.log(3)]  # 3/4 for class 0, for class 1
    flat = [0.0, math.log(1.5)]  # 0.6 for class 1
    large = torch.tensor([[flat, flat, confident]], dtype=torch.float64)
    small = torch.tensor([[confident, unsure, flat]], dtype=torch.float64)
    y = torch.tensor([[0, 0, 0]])  # the first sample is right in the smaller set only: spared
    grown = method.growth((large, here), (small, here), y)  # type: ignore[operator]
    assert grown.item() == pytest.approx(0.15 / 3)
    alone = method.growth((large, here), (small, torch.tensor([[True, False, False]])), y)  # type: ignore[operator]
    assert alone.item() == 0


def test_a_sample_with_nothing_left_does_not_count() -> None:
    data = feed(feature_set(2, absent=0.4))
    method = build("cml", data, (1,))
    batch = next(data.epoch(method.rng, 16))
    out = Out(method.encode(batch), method(batch).fused, method.fusion.unimodal)
    kept = torch.tensor([[True, False]])
    _, here = method.answer(out, batch, kept)  # type: ignore[operator]
    assert torch.equal(here, batch.present("audio"))
