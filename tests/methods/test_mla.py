"""MLA: the numeric checks of the specification, and an independent loop over seeds, turns and samples."""

from __future__ import annotations

import math

import pytest
import torch

from mmbal_cli.nn.stacked import total
from mmbal_cli.ops.losses import ce
from mmbal_cli.ops.mixing import mixed, weights
from mmbal_cli.ops.projection import damped, normed, ridge
from tests.kit.features import CONFIG, build, feature_set, feed, fit
from tests.methods import reference
from tests.methods.alternating_reference import epochs, mean, samples

D64 = torch.float64


def logits(*p: float) -> torch.Tensor:
    return torch.tensor([[p]], dtype=D64).log()


def test_known_directions_give_known_projections() -> None:
    P = damped(torch.eye(2, dtype=D64)[None], torch.tensor([[1.0, 0.0]], dtype=D64), 0.1)
    assert P.flatten().tolist() == pytest.approx([1 - 1 / 1.1, 0, 0, 1])
    g = torch.tensor([[2.0], [3.0]], dtype=D64)  # one class: a column of our weight [D,C]
    assert (P[0] @ g).flatten().tolist() == pytest.approx([0.181818, 3], abs=1e-6)
    assert (normed(P)[0] @ g).flatten().tolist() == pytest.approx([0.181071, 2.987680], abs=1e-6)
    P = damped(P, torch.ones(1, 2, dtype=D64), 0.1)
    assert P.flatten().tolist() == pytest.approx([0.083969, -0.076336, -0.076336, 0.160305], abs=1e-6)


def test_projections_stay_symmetric_and_between_zero_and_one() -> None:
    P = torch.eye(6).repeat(2, 1, 1)
    g = torch.Generator().manual_seed(0)
    for i in range(200):
        P = damped(P, torch.randn(2, 6, generator=g), ridge(i % 10, 10))
        assert torch.equal(P, P.transpose(1, 2))
    values = torch.linalg.eigvalsh(P)
    assert (values >= -1e-6).all()
    assert (values <= 1).all()


def test_a_direction_of_zeros_changes_nothing() -> None:
    P = torch.eye(3)[None]
    assert torch.equal(damped(P, torch.zeros(1, 3), 0.01), P)


def test_the_constant_falls_within_an_epoch() -> None:
    assert [ridge(i, 4) for i in range(4)] == pytest.approx([0.1, 0.056234, 0.031623, 0.017783], abs=1e-6)


def test_known_probabilities_give_known_weights() -> None:
    w = weights([logits(0.9, 0.1), logits(0.5, 0.5)], [None, None], "sample")
    assert w.flatten().tolist() == pytest.approx([0.590992, 0.409008], abs=1e-6)
    same = weights([logits(0.9, 0.1), logits(0.1, 0.9)], [None, None], "sample")
    assert same.flatten().tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("rule", ["sample", "off"])
def test_a_missing_modality_has_no_weight_and_neighbours_do_not_matter(rule: str) -> None:
    g = torch.Generator().manual_seed(0)
    z = [torch.randn(1, 5, 4, generator=g, dtype=D64) for _ in range(3)]
    present = torch.tensor([[True, False, True, True, True]])
    w = weights(z, [None, present, None], rule)
    assert w[0, 1, 1] == 0
    assert torch.allclose(w.sum(-1), torch.ones(1, 5, dtype=D64))
    for b in range(5):
        alone = weights([x[:, b : b + 1] for x in z], [None, present[:, b : b + 1], None], rule)
        assert torch.equal(alone[0, 0], w[0, b])
        parts = [x[0, b] for j, x in enumerate(z) if j != 1 or present[0, b]]
        H = [float(-(x.softmax(0) * x.log_softmax(0)).sum()) for x in parts]
        share = [math.exp(-h) if rule == "sample" else 1.0 for h in H]
        expected = sum(s * x for s, x in zip(share, parts, strict=True)) / sum(share)
        assert torch.allclose(mixed(z, [None, present, None], rule)[0, b], expected)


def test_no_modality_at_all_is_finite() -> None:
    gone = torch.zeros(1, 1, dtype=torch.bool)
    w = weights([logits(0.9, 0.1), logits(0.5, 0.5)], [gone, gone], "sample")
    assert w.flatten().tolist() == [0.5, 0.5]


def test_in_a_turn_only_its_own_adapter_and_the_head_move() -> None:
    data = feed(feature_set(3))
    method = build("mla", data)
    batches = list(data.epoch(method.rng, 16))
    for batch in batches[:2]:  # so that every parameter has momentum
        method.step(batch)
    update, moved = method.update, []

    def watched(*args: object) -> None:
        before = {name: p.detach().clone() for name, p in method.named_parameters()}
        update(*args)
        moved.append({name for name, p in method.named_parameters() if not torch.equal(p, before[name])})

    method.update = watched
    method.step(batches[2])
    for m, names in zip(method.mods, moved, strict=True):
        assert names == {n for n, _ in method.named_parameters() if n.startswith((f"enc.{m}_.", "fusion.head"))}


def test_gradient_norms_of_all_adapters_are_recorded() -> None:
    data = feed(feature_set(3))
    method = build("mla", data)
    rows = epochs(method, data, 1)
    assert len(rows) == 1
    assert all(p.grad is not None for m in method.mods for p in method.enc[m].parameters())


def test_the_first_update_is_never_projected_and_the_second_is() -> None:
    data = feed(feature_set(2))
    batch = next(data.epoch(build("mla", data).rng, 16))
    grads = {}
    for proj in ("off", "owm", "owm_norm"):
        method, grads[proj] = build("mla", data, proj=proj), []
        step = method.opt.step

        def watched(mask: object, step=step, method=method, kept=grads[proj]) -> None:
            kept.append((method.fusion.head.weight.grad.clone(), method.fusion.head.bias.grad.clone()))
            step(mask)

        method.opt.step = watched
        method.step(batch)
    for proj in ("owm", "owm_norm"):
        assert all(torch.equal(a, b) for a, b in zip(grads["off"][0], grads[proj][0], strict=True))
        assert not torch.equal(grads["off"][1][0], grads[proj][1][0])
        assert torch.equal(grads["off"][1][1], grads[proj][1][1])  # the bias is never projected
    method = build("mla", data)
    method.epoch = 1  # a later epoch has no first update
    method.step(batch)
    once = build("mla", data)
    once.step(batch)
    assert not torch.equal(method.P, once.P)


def test_without_projection_it_is_plain_alternation() -> None:
    data = feed(feature_set(3, absent=0.2))
    method, plain = build("mla", data, proj="off"), build("mla", data)
    for batch in [b for _ in range(2) for b in data.epoch(build("mla", data).rng, 16)]:
        method.step(batch)
        for m in plain.mods:
            each = ce(plain.fusion.head(plain.enc[m](batch.x[m], batch.mask[m])), batch.y, batch.present(m))
            plain.opt.zero_grad()
            each.sum().backward()
            plain.opt.step()
    assert all(torch.equal(a, b) for a, b in zip(method.parameters(), plain.parameters(), strict=True))


def test_small_steps_without_projection_follow_the_sum_of_unimodal_losses() -> None:
    data = feed(feature_set(2))
    config = CONFIG.model_copy(update={"lr": 1e-6, "momentum": 0.0, "weight_decay": 0.0})
    method = build("mla", data, config=config, proj="off")
    before = [p.detach().clone() for p in method.parameters()]
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    whole = total(ce(out.z[m], batch.y) for m in method.mods)
    grads = torch.autograd.grad(whole.sum(), list(method.parameters()))
    method.step(batch)
    for p, old, g in zip(method.parameters(), before, grads, strict=True):
        assert torch.allclose((old - p) / 1e-6, g, atol=1e-5)


def test_both_rules_are_recorded() -> None:
    data = feed(feature_set(2, absent=0.2))
    run = fit(build("mla", data), data)
    run.method.end_epoch(run.peek)
    found = run.method.collect()
    assert torch.allclose(found["accuracy/sample"], run.peek.accuracy("val")["fused"])
    view = run.peek.outputs("val")
    masks = [view.present[m].double()[..., None] for m in run.method.mods]
    z = sum(mask * view.z[m] for mask, m in zip(masks, run.method.mods, strict=True))
    assert torch.allclose(found["accuracy/off"], (z.argmax(-1) == view.y).double().mean(1))


@pytest.mark.parametrize(("M", "absent"), [(2, 0.0), (3, 0.0), (3, 0.3)])
@pytest.mark.parametrize("proj", ["owm_norm", "owm", "off"])
def test_epochs_equal_a_loop_over_seeds_turns_and_samples(M: int, absent: float, proj: str) -> None:
    data = feed(feature_set(M, absent=absent))
    method, fresh = build("mla", data, proj=proj), build("mla", data, proj=proj)
    fed = epochs(method, data, 2)
    config = method.config
    for i in range(3):
        p, velocity, count = reference.parameters_of(fresh, i), {}, 0
        P = p.pop("P").detach()
        for batches in fed:
            for number, batch in enumerate(batches):
                a = 0.1 ** (1 + number / len(batches))
                for m in method.mods:
                    own = [(x[m], y) for x, y in samples(method, i, batch) if m in x]
                    h = [reference.adapter(p, m, x) for x, _ in own]
                    z = [u @ p["fusion.head.weight"] + p["fusion.head.bias"][0] for u in h]
                    each = [reference.cross_entropy(row, y) for row, (_, y) in zip(z, own, strict=True)]
                    mean(each, torch.zeros((), dtype=D64)).backward()
                    if count > 0 and proj != "off":
                        r = mean([u.detach() for u in h], P[0])
                        k = P @ r
                        P = P - torch.outer(k, k) / (a + r @ k)
                        if proj == "owm_norm":
                            P = P / math.sqrt(float((P * P).sum()))
                        p["fusion.head.weight"].grad = P @ p["fusion.head.weight"].grad
                    reference.sgd(p, velocity, config.lr, config.momentum, config.weight_decay)
                    count += 1
        for name, value in method.state_dict().items():
            assert (value[i] - {**p, "P": P}[name]).abs().max() < 1e-10, name


def test_parameters_that_join_later_have_plain_momentum() -> None:
    data = feed(feature_set(2))
    config = CONFIG.model_copy(update={"width": 64})  # wide enough for torch's fused kernel
    method, plain = build("mla", data, config=config, proj="off"), build("mla", data, config=config, proj="off")
    sgd = torch.optim.SGD(
        plain.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay, foreach=False
    )
    for batch in data.epoch(build("mla", data).rng, 16):
        method.step(batch)
        for m in plain.mods:
            sgd.zero_grad(set_to_none=True)
            ce(plain.head(plain.enc[m](batch.x[m], batch.mask[m])), batch.y).sum().backward()
            sgd.step()
    for a, b in zip(method.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-13)
