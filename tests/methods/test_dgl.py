"""DGL: the numbers of its specification, what each gradient may depend on, both forms of a step, and a slow loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mmbal_cli.methods.base import Batch, Method
from mmbal_cli.nn.fusion import FUSIONS, GENERAL
from mmbal_cli.ops.losses import ce
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed, train
from tests.methods import reference

D64 = torch.float64
EVERY_FUSION = [*GENERAL, *(f"{name}:{variant}" for name in GENERAL for variant in FUSIONS[name].variants)]


def grads(method: Method, part: str) -> list[Tensor]:
    return [p.grad.clone() for name, p in method.named_parameters() if name.startswith(part) and p.grad is not None]


def stepped(name: str, batch: Batch, data: object, **knobs: object) -> Method:
    method = build(name, data, **knobs)
    method.step(batch)
    return method


@pytest.mark.parametrize("other", [0.0, 1.0, -7.0])
def test_gradient_of_a_known_feature(other: float) -> None:
    data = feed(feature_set(2, classes=2))
    method = build("dgl", data, (1,), TrainConfig(**(CONFIG.model_dump() | {"width": 1})))
    audio, video = (nn.Parameter(torch.tensor([[[value]]], dtype=D64)) for value in (math.log(3), other))
    method.enc = nn.ParameterDict({"audio": audio, "video": video})
    method.encode = lambda batch: {m: 1 * method.enc[m] for m in method.mods}
    with torch.no_grad():
        method.fusion.head.weight.copy_(torch.tensor([[[1.0, 0.0], [0.3, -0.2]]]))
        method.fusion.head.bias.zero_()
    y = torch.zeros(1, 1, dtype=torch.long)
    method.step(Batch({}, y, y, dict.fromkeys(method.mods)))
    assert audio.grad.item() == pytest.approx(-1)


def test_the_head_learns_from_the_joint_loss_alone_whatever_alpha() -> None:
    data = feed(feature_set(3))
    batch = next(data.epoch(build("dgl", data).rng, 16))
    plain = stepped("concat", batch, data)
    for alpha in (0.0, 1.0, 5.0):
        found = grads(stepped("dgl", batch, data, alpha=alpha), "fusion")
        assert all(torch.equal(a, b) for a, b in zip(found, grads(plain, "fusion"), strict=True))


def test_an_encoder_sees_nothing_of_the_others() -> None:
    data = feed(feature_set(2))
    batch = next(data.epoch(build("dgl", data).rng, 16))
    changed = Batch({"audio": batch.x["audio"], "video": 3 - batch.x["video"]}, batch.y, batch.idx, batch.mask)
    one, other = stepped("dgl", batch, data), stepped("dgl", changed, data)
    assert all(torch.equal(a, b) for a, b in zip(grads(one, "enc.audio_."), grads(other, "enc.audio_."), strict=True))
    assert not torch.equal(grads(one, "enc.video_.")[0], grads(other, "enc.video_.")[0])


def test_without_weight_encoders_stay_as_they_were_drawn() -> None:
    data = feed(feature_set(2))
    method = build("dgl", data, alpha=0.0)
    before = {k: v.clone() for k, v in method.enc.state_dict().items()}
    train(method, data, 2)
    assert all(torch.equal(v, before[k]) for k, v in method.enc.state_dict().items())


def test_one_modality_with_unit_weight_is_plain_training() -> None:
    data = feed(feature_set(1, absent=0.0))
    plain, method = build("concat", data), build("dgl", data, alpha=1.0)
    train(plain, data, 3)
    train(method, data, 3)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), method.parameters(), strict=True))


class Head(nn.Module):
    """A fusion as a function of its weights."""

    def __init__(self, fusion: nn.Module) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, h: dict[str, Tensor], alone: bool) -> Tensor | dict[str, Tensor]:
        return self.fusion.alone(h) if alone else self.fusion.logits(h)


@pytest.mark.parametrize("fusion", EVERY_FUSION)
def test_one_pass_gives_the_same_gradients(fusion: str) -> None:
    data = feed(feature_set(3, absent=0.3))
    method, fresh = build("dgl", data, fusion=fusion, alpha=2.5), build("dgl", data, fusion=fusion, alpha=2.5)
    batch = next(data.epoch(method.rng, 16))
    loss = method.step(batch)
    head, h = Head(fresh.fusion), fresh.encode(batch)
    still = {name: p.detach() for name, p in head.named_parameters()}
    joint = ce(head({m: v.detach() for m, v in h.items()}, False), batch.y)  # first: some fusions draw dropout
    u = functional_call(head, still, (h, True))
    whole = 2.5 * sum(ce(u[m], batch.y, batch.present(m)) for m in fresh.mods) + joint
    whole.sum().backward()
    assert torch.allclose(loss, whole, rtol=0, atol=1e-12)
    for (name, p), q in zip(method.named_parameters(), fresh.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.allclose(p.grad, q.grad, rtol=0, atol=1e-12), name


@pytest.mark.parametrize(("M", "clip"), [(2, None), (3, None), (3, 0.5)])
def test_steps_equal_a_loop_over_seeds_and_samples(M: int, clip: float | None) -> None:
    data = feed(feature_set(M, n=76, absent=0.2))
    config = TrainConfig(**(CONFIG.model_dump() | {"clip": clip}))
    method, fresh = (build("dgl", data, config=config, alpha=1.7) for _ in range(2))
    batches = list(data.epoch(method.rng, 16))
    for batch in batches:
        method.step(batch)
    for i in range(3):
        p, velocity = reference.parameters_of(fresh, i), {}
        for batch in batches:
            n = batch.y.shape[1]
            here = {m: [batch.mask[m] is None or bool(batch.present(m)[i, b]) for b in range(n)] for m in method.mods}
            found = dict.fromkeys(p, 0.0)
            for b, y in enumerate(batch.y[i].tolist()):
                W, bias, blocks = p["fusion.head.weight"], p["fusion.head.bias"][0], {}
                for j, m in enumerate(method.mods):
                    h = reference.adapter(p, m, batch.x[m][i, b]) if here[m][b] else torch.zeros(method.D, dtype=D64)
                    blocks[m] = h @ W[j * method.D : (j + 1) * method.D]
                    if here[m][b]:
                        own = 1.7 * reference.cross_entropy(blocks[m] + bias, y) / sum(here[m])
                        add(found, p, own, f"enc.{m}_.")
                add(found, p, reference.cross_entropy(sum(blocks.values()) + bias, y) / n, "fusion.")
            norm = math.sqrt(sum(float((g**2).sum()) for g in found.values() if isinstance(g, Tensor)))
            factor = 1.0 if clip is None or norm <= clip else clip / (norm + 1e-6)
            for name, value in p.items():
                value.grad = found[name] * factor if isinstance(found[name], Tensor) else None
            reference.sgd(p, velocity, config.lr, config.momentum, config.weight_decay)
        for name, value in method.state_dict().items():
            assert (value[i] - p[name]).abs().max() < 1e-10, name


def add(found: dict, p: reference.Params, loss: Tensor, part: str) -> None:
    """Add the gradient of `loss` on the weights of one part."""
    names = [name for name in p if name.startswith(part)]
    for name, g in zip(names, torch.autograd.grad(loss, [p[k] for k in names], retain_graph=True), strict=True):
        found[name] = found[name] + g
