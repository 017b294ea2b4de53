"""DOMFN: the checks of the specification, and routing sample by sample in an independent loop."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods.base import Batch
from mmbal_cli.ops import routing
from mmbal_cli.ops.losses import cross_entropies
from mmbal_cli.ops.mixing import mean_of_present
from tests.kit.features import CONFIG, build, feature_set, feed, fit, steps
from tests.methods import reference

D64 = torch.float64


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=D64).view(1, 1, -1)


def test_modalities_that_agree_are_fused() -> None:
    p = [tensor(0.9, 0.2), tensor(0.5, 0.4)]
    mean = mean_of_present(p, [None, None])
    d = [routing.divergence(x, mean) for x in p]
    assert mean.flatten().tolist() == pytest.approx([0.7, 0.3])
    assert [x.item() for x in d] == [pytest.approx(0.04)] * 2
    assert routing.agreement([x / 0.2 for x in d], 0.8, [None, None]).item()
    label = torch.zeros(1, 1, dtype=torch.long)
    assert cross_entropies(p[0], label).item() == pytest.approx(0.403186, abs=1e-6)
    assert cross_entropies(p[1], label).item() == pytest.approx(0.644397, abs=1e-6)


def test_at_the_bound_they_are_not_and_the_first_of_equals_answers() -> None:
    p = [tensor(0.9, 0.1), tensor(0.1, 0.9)]
    mean = mean_of_present(p, [None, None])
    d = [routing.divergence(x, mean) for x in p]
    assert [x.item() for x in d] == [pytest.approx(0.16)] * 2
    assert not routing.agreement([x / 0.2 for x in d], 0.8, [None, None]).item()
    exact = [torch.full((1, 1), 0.75), torch.full((1, 1), 0.5)]
    assert not routing.agreement(exact, 0.75, [None, None]).item()
    assert routing.agreement(exact, 0.7500001, [None, None]).item()
    assert routing.most_certain(p, p, [None, None]).flatten().tolist() == [0.9, 0.1]
    assert routing.most_certain(p[::-1], p[::-1], [None, None]).flatten().tolist() == [0.1, 0.9]
    assert routing.most_certain(p, [p[0], p[1] + 0.01], [None, None]).flatten().tolist() == [0.1, 0.9]


def test_two_modalities_are_equally_far_from_their_mean_and_never_far() -> None:
    g = torch.Generator().manual_seed(0)
    p = [torch.rand(2, 500, 3, generator=g, dtype=D64) for _ in range(2)]
    mean = mean_of_present(p, [None, None])
    d = [routing.divergence(x, mean) for x in p]
    assert torch.allclose(*d, rtol=0, atol=1e-15)
    assert d[0].max() <= 0.25


def test_losses_of_sigmoid_scores_are_bounded() -> None:
    label = torch.zeros(1, 1, dtype=torch.long)
    for C, low, high in ((2, 0.3133, 1.3133), (6, 1.0436, 2.6804), (31, 2.4879, 4.4134)):
        right = torch.zeros(1, 1, C, dtype=D64)
        right[..., 0] = 1
        assert cross_entropies(right, label).item() == pytest.approx(low, abs=1e-4)
        assert cross_entropies(1 - right, label).item() == pytest.approx(high, abs=1e-4)
        assert right.softmax(-1).max().item() == pytest.approx(math.e / (math.e + C - 1))


def test_a_missing_modality_neither_objects_nor_answers() -> None:
    gone = torch.tensor([[True, False]])
    far, near = torch.tensor([[0.9, 0.9]]), torch.tensor([[0.1, 0.1]])
    assert routing.agreement([far, near], 0.5, [gone, None]).tolist() == [[False, True]]
    p = [torch.full((1, 2, 2), 0.9), torch.full((1, 2, 2), 0.6)]
    assert routing.most_certain(p, p, [gone, None])[..., 0].flatten().tolist() == pytest.approx([0.9, 0.6])
    assert mean_of_present(p, [gone, None])[..., 0].flatten().tolist() == pytest.approx([0.75, 0.6])
    nobody = torch.zeros(1, 2, dtype=torch.bool)
    assert mean_of_present(p, [nobody, nobody]).abs().max() == 0
    assert routing.agreement([far, far], 0.5, [nobody, nobody]).all()


@pytest.mark.parametrize("fused", ["fused", "avg"])
def test_extreme_bounds_give_the_two_losses(fused: str) -> None:
    data = feed(feature_set(3))
    method = build("domfn", data, gamma=1000.0, eta=0.0, reference=fused)
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    own = [cross_entropies(out.z[m], batch.y) for m in method.mods]
    joint = cross_entropies(out.extra["joint"], batch.y)
    expected = (sum(0.5 * x.square() + x for x in own) + joint).mean(1)
    assert torch.allclose(method.loss(out, batch), expected, rtol=0, atol=1e-14)
    assert torch.equal(out.fused, out.extra["joint"])
    method = build("domfn", data, gamma=0.0, reference=fused)
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    expected = sum(cross_entropies(out.z[m], batch.y) for m in method.mods).mean(1)
    each = method.loss(out, batch)
    assert torch.allclose(each, expected, rtol=0, atol=1e-14)
    each.backward(torch.ones_like(each))
    assert all(p.grad.abs().max() == 0 for module in (method.hidden, method.top) for p in module.parameters())
    certain = torch.stack([out.z[m].amax(-1) for m in method.mods], -1).argmax(-1)
    for s in range(3):
        for b in range(16):
            assert torch.equal(out.fused[s, b], out.z[method.mods[int(certain[s, b])]][s, b])


def test_an_accepted_sample_weighs_its_own_loss() -> None:
    data = feed(feature_set(2))
    method = build("domfn", data, (1,), gamma=1000.0, eta=0.0)
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    z = out.z[method.mods[0]]
    found = torch.autograd.grad(method.loss(out, batch).sum(), z, retain_graph=True)[0]
    own = cross_entropies(z, batch.y)
    slope = torch.autograd.grad(own.sum(), z)[0]
    assert torch.allclose(found, (1 + own)[..., None] * slope / 16, rtol=0, atol=1e-15)


@pytest.mark.parametrize("reject", ["plain", "amended"])
@pytest.mark.parametrize("out", ["sigmoid", "linear"])
def test_a_batch_is_the_mean_of_its_samples(reject: str, out: str) -> None:
    data = feed(feature_set(3))
    method = build("domfn", data, gamma=0.2, reject_loss=reject, out=out)
    batch = next(data.epoch(method.rng, 16))
    whole = method.loss(method(batch), batch)
    singles = []
    for b in range(16):
        x = {m: value[:, b : b + 1] for m, value in batch.x.items()}
        one = Batch(x, batch.y[:, b : b + 1], batch.idx[:, b : b + 1], batch.mask)
        singles.append(method.loss(method(one), one))
    assert torch.allclose(whole, sum(singles) / 16, rtol=0, atol=1e-13)


def test_pretraining_is_unimodal_and_leaves_the_fusion_head_alone() -> None:
    data = feed(feature_set(2, absent=0.2))
    method = build("domfn", data, pre=0.5)
    assert [(phase.name, phase.epochs) for phase in method.phases()] == [("pre", 2), ("train", 4)]
    assert [phase.name for phase in build("domfn", data, pre=0.0).phases()] == ["train"]
    before = {k: v.clone() for k, v in method.state_dict().items()}
    run = Fit(method, data)
    epochs = iter(run.run())
    next(epochs)
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(("hidden", "top")), name
    assert method.selects("enc.audio_.mlp.layers.0.weight") == "audio"
    assert method.selects("top.weight") == "fused"
    next(epochs)
    next(epochs)
    assert method.phase == "train"
    assert method.selects("enc.audio_.mlp.layers.0.weight") == "fused"


def test_adapters_learn_more_slowly_after_pretraining_only() -> None:
    data = feed(feature_set(2))
    moved = {}
    for ft_lr in (1.0, 0.25):
        method = build("domfn", data, ft_lr=ft_lr, pre=0.25)
        method.phase = "train"
        method.begin_epoch(None)  # type: ignore[arg-type]
        before = {k: v.clone() for k, v in method.named_parameters()}
        steps(method, data, 1)
        moved[ft_lr] = {k: v.detach() - before[k] for k, v in method.named_parameters()}
    for name, full in moved[1.0].items():
        factor = 0.25 if name.startswith("enc") else 1.0
        assert torch.allclose(moved[0.25][name], factor * full, rtol=0, atol=1e-15), name
    method = build("domfn", data, pre=0.0)
    method.begin_epoch(None)  # type: ignore[arg-type]
    assert not method.opt.rates


def test_one_modality_trains_and_is_judged_by_the_rule() -> None:
    data = feed(feature_set(1))
    method = build("domfn", data, reference="avg")
    out = method(next(data.split("val", 3)))
    assert out.extra["accepted"].all()
    assert fit(build("domfn", data), data).died.tolist() == [-1, -1, -1]


def test_widths_of_the_fusion_head() -> None:
    data = feed(feature_set(3))
    sizes = {fuse: build("domfn", data, fuse=fuse).hidden.weight.shape for fuse in ("concat", "mean", "max")}
    assert sizes == {"concat": (3, 24, 64), "mean": (3, 8, 64), "max": (3, 8, 64)}


CASES = [
    {},
    {"reference": "avg"},
    {"fuse": "mean", "reject_loss": "amended", "eta": 2.0},
    {"fuse": "max", "out": "linear", "reference": "avg", "reject_loss": "amended"},
]


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize("knobs", CASES, ids=str)
@pytest.mark.parametrize("absent", [0.0, 0.3])
def test_steps_equal_a_loop_over_seeds_and_samples(M: int, knobs: dict, absent: float) -> None:
    data = feed(feature_set(M, absent=absent))
    config = CONFIG.model_copy(update={"lr": 0.2})
    first = build("domfn", data, config=config, **knobs)
    sample = next(data.split("train", 3))
    out, present = first(sample), [sample.present(m) for m in first.mods]
    found = first.divergences(out.z, out.extra["joint"], present)
    d = torch.stack([x if p is None else x * p for x, p in zip(found, present, strict=True)], -1).amax(-1)
    gamma = 1.001 * d[d > 0].median().item() / 0.3  # about as many samples on either side, none at the bound
    method, fresh = (build("domfn", data, config=config, gamma=gamma, tau=0.3, **knobs) for _ in range(2))
    o = method.knobs
    batches = list(data.epoch(method.rng, 16))
    for batch in batches:
        method.step(batch)
    routes: list[bool] = []
    answers: list[Tensor] = []

    def one(
        p: reference.Params, x: dict[str, Tensor], has: dict[str, bool], y: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Loss of each modality that the sample has, and of the fusion head (zero when rejected)."""

        def squash(u: Tensor) -> Tensor:
            return 1 / (1 + torch.exp(-u)) if o["out"] == "sigmoid" else u

        def probability(u: Tensor) -> Tensor:
            return u if o["out"] == "sigmoid" else torch.exp(u) / torch.exp(u).sum()

        here = [m for m in method.mods if has[m]]
        h = {m: reference.adapter(p, m, x[m]) if has[m] else torch.zeros(method.D, dtype=D64) for m in method.mods}
        if o["fuse"] == "concat":
            joined = torch.cat([h[m] for m in method.mods])
        elif o["fuse"] == "mean":
            joined = sum(h[m] for m in here) / max(len(here), 1)
            joined = joined if here else torch.zeros(method.D, dtype=D64)
        else:
            joined = torch.stack([h[m] for m in method.mods]).amax(0)
        hidden = torch.relu(joined @ p["hidden.weight"] + p["hidden.bias"][0])
        joint = squash(hidden @ p["top.weight"] + p["top.bias"][0])
        z = {m: squash(h[m] @ p[f"heads.{m}_.weight"] + p[f"heads.{m}_.bias"][0]) for m in here}
        prob = {m: probability(z[m]) for m in here}
        against = probability(joint)
        if o["reference"] == "avg" and here:
            against = sum(prob.values()) / len(here)
        ok = all(float(((prob[m] - against) ** 2).max().detach()) / o["tau"] < o["gamma"] for m in here)
        routes.append(ok)
        answers.append(joint if ok else z[max(here, key=lambda m: float(prob[m].max().detach()))])
        parts = {}
        for m in here:
            ell = reference.cross_entropy(z[m], y)
            gap = ((prob[m] - (against if ok else against.detach())) ** 2).max()
            amended = 0.5 * ell**2 - o["eta"] * gap
            parts[m] = amended + ell if ok else amended if o["reject_loss"] == "amended" else ell
        return parts, reference.cross_entropy(joint, y) * float(ok)  # no gradient at all would stop its momentum

    for i in range(3):
        todo = iter(batches)

        def loss(p: reference.Params, samples: list, labels: list[int], i: int = i, todo: object = todo) -> Tensor:
            batch = next(todo)  # type: ignore[call-overload]
            masks = {m: batch.present(m) for m in method.mods}
            found: dict[str, list[Tensor]] = {m: [] for m in method.mods}
            joint = []
            for b, (x, y) in enumerate(zip(samples, labels, strict=True)):
                has = {m: masks[m] is None or bool(masks[m][i, b]) for m in method.mods}
                parts, fused = one(p, x, has, y)
                joint.append(fused)
                for m, part in parts.items():
                    found[m].append(part)
            return sum(joint) / len(labels) + sum(sum(each) / len(each) for each in found.values() if each)

        slow = reference.run(fresh, i, batches, loss)
        for key, value in method.state_dict().items():
            assert (value[i] - slow[key]).abs().max() < 1e-10, key
    assert 0.05 < sum(routes) / len(routes) < 0.95
    last = replace(batches[-1])
    answers.clear()
    with torch.no_grad():
        out = method(last)
        p = {k: v[2] for k, v in method.state_dict().items()}
        for b in range(last.y.shape[1]):
            has = {m: last.present(m) is None or bool(last.present(m)[2, b]) for m in method.mods}
            one(p, {m: last.x[m][2, b] for m in method.mods}, has, 0)
        assert (torch.stack(answers) - out.fused[2]).abs().max() < 1e-12
