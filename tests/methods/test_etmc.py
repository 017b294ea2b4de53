"""TMC and ETMC: what they combine and count, and steps against loops over seeds, samples and pairs of opinions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmbal_cli.methods.etmc import MERGED, PSEUDO
from mmbal_cli.ops import evidence as ev
from tests.kit.features import build, feature_set, feed
from tests.methods import reference
from tests.methods.slow_evidence import dempster, edl

D64 = torch.float64


@pytest.mark.parametrize("name", ["tmc", "etmc"])
def test_divergence_counts_from_nothing_to_fully(name: str) -> None:
    data = feed(feature_set(2))
    method = build(name, data, anneal=0.5)
    method.phase_epochs = 20  # ten epochs to the full weight
    batch = next(data.epoch(method.rng, 16))
    found = []
    for method.epoch in (0, 5, 10, 19):
        found.append(method.loss(method(batch), batch))
    assert torch.allclose(found[1], (found[0] + found[2]) / 2, rtol=0, atol=1e-12)
    assert torch.equal(found[2], found[3])
    assert (found[2] > found[0]).all()
    out = method(batch)
    parts = [e for v, e in out.extra.items()]
    assert len(parts) == (3 if name == "tmc" else 4)
    fit = sum(ev.evidential(e, batch.y)[0].mean(1) for e in parts)
    assert torch.allclose(found[0], fit, rtol=0, atol=1e-12)


def test_one_view_is_one_opinion_with_one_loss() -> None:
    data = feed(feature_set(1))
    method = build("tmc", data)
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    assert list(out.extra) == list(method.mods)
    assert torch.equal(out.fused, out.z[method.mods[0]])
    two = build("etmc", data)
    assert list(two(batch).extra) == [*two.mods, PSEUDO, MERGED]


def test_probabilities_are_the_mean_of_the_merged_distribution() -> None:
    data = feed(feature_set(3, absent=0.3))
    method = build("etmc", data)
    out = method(next(data.split("val", 3)))
    e = out.extra[MERGED]
    assert torch.allclose(method.predict(out), (e + 1) / (e + 1).sum(-1, keepdim=True))
    assert torch.equal(method.predict(out).argmax(-1), e.argmax(-1))


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize("name", ["tmc", "etmc"])
@pytest.mark.parametrize("absent", [0.0, 0.3])
def test_steps_equal_a_loop_over_seeds_and_samples(M: int, name: str, absent: float) -> None:
    data = feed(feature_set(M, absent=absent))
    method, fresh = build(name, data, anneal=1.0), build(name, data, anneal=1.0)
    method.epoch = 3  # of four: weight 3/4
    batches = list(data.epoch(method.rng, 16))
    for batch in batches:
        method.step(batch)

    def opinions(p: reference.Params, x: dict[str, Tensor], has: dict[str, bool]) -> list[Tensor | None]:
        D, found = method.D, []
        h = {m: reference.adapter(p, m, x[m]) if has[m] else torch.zeros(D, dtype=D64) for m in method.mods}
        for m in method.mods:
            z = h[m] @ p[f"heads.{m}_.weight"] + p[f"heads.{m}_.bias"][0]
            found.append(torch.log(1 + torch.exp(z)) if has[m] else None)
        if name == "etmc":
            z = torch.cat([h[m] for m in method.mods]) @ p["pseudo.head.weight"] + p["pseudo.head.bias"][0]
            found.append(torch.log(1 + torch.exp(z)))
        return found

    for i in range(3):
        todo = iter(batches)

        def loss(p: reference.Params, samples: list, labels: list[int], i: int = i, todo: object = todo) -> Tensor:
            batch = next(todo)  # type: ignore[call-overload]
            masks = {m: batch.present(m) for m in method.mods}
            views: list[list[Tensor]] = [[] for _ in range(M + (name == "etmc") + 1)]
            for b, (x, y) in enumerate(zip(samples, labels, strict=True)):
                has = {m: masks[m] is None or bool(masks[m][i, b]) for m in method.mods}
                found = opinions(p, x, has)
                merged = torch.zeros(4, dtype=D64)
                for view, e in enumerate(found):
                    if e is not None:
                        views[view].append(edl(e, y, 0.75))
                        merged = dempster(merged, e)
                views[-1].append(edl(merged, y, 0.75))
            return sum(sum(view) / len(view) for view in views if view)

        slow = reference.run(fresh, i, batches, loss)
        for key, value in method.state_dict().items():
            assert (value[i] - slow[key]).abs().max() < 1e-10, key
