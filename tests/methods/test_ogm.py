"""OGM and OGM-GE: the numeric checks of the specification, and an independent loop over seeds and samples."""

from __future__ import annotations

import pytest
import torch

from mmbal_cli.methods.base import Batch, Out
from mmbal_cli.nn.fusion.concat import Concat
from mmbal_cli.ops.discrepancy import discrepancy
from mmbal_cli.ops.gradients import deviation
from mmbal_cli.ops.losses import true_class_probability
from mmbal_cli.seeds import SeedStreams
from tests.kit.features import build, feature_set, feed, train
from tests.methods import reference


def logits_with(probability: float, classes: int = 4) -> torch.Tensor:
    """Logits whose softmax gives class 0 this probability."""
    rest = torch.full((classes,), (1 - probability) / (classes - 1), dtype=torch.float64)
    rest[0] = probability
    return rest.log()


@pytest.mark.parametrize(("form", "expected"), [("cvpr", 0.238406), ("tpami", 0.619203)])
def test_coefficient_of_known_probabilities(form: str, expected: float) -> None:
    data = feed(feature_set(2))
    method = build("ogm", data, (1,), alpha=0.5, form=form)
    a, v = method.mods
    z = {
        a: torch.stack([logits_with(0.9), logits_with(0.7)])[None],
        v: torch.stack([logits_with(0.4), logits_with(0.4)])[None],
    }
    y = torch.zeros(1, 2, dtype=torch.long)
    k = method.coefficients(Out({}, z[a], lambda h: z), Batch({}, y, y, dict.fromkeys(method.mods)))
    assert k[a].item() == pytest.approx(expected, abs=1e-6)
    assert k[v].item() == 1


def test_shares_of_a_known_head() -> None:
    mods = ("a", "v")
    fusion = Concat(SeedStreams((0,)), mods, 2, 2, torch.float64)
    W_a, W_v = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 2.0], [2.0, 0.0]]  # [C,D]
    with torch.no_grad():
        fusion.head.weight.copy_(torch.cat([torch.tensor(W_a).T, torch.tensor(W_v).T])[None])
        fusion.head.bias.copy_(torch.tensor([[[2.0, 0.0]]]))
    h = dict.fromkeys(mods, torch.tensor([[[1.0, 0.0]]], dtype=torch.float64))
    z = fusion.unimodal(h)
    assert z["a"].flatten().tolist() == [2, 0]
    assert z["v"].flatten().tolist() == [1, 2]
    assert fusion.logits(h).flatten().tolist() == [3, 2]
    p = [true_class_probability(z[m], torch.zeros(1, 1, dtype=torch.long)) for m in mods]
    assert p[0].item() == pytest.approx(0.880797, abs=1e-6)
    assert p[1].item() == pytest.approx(0.268941, abs=1e-6)
    assert discrepancy(torch.cat(p, 1))[0, 0].item() == pytest.approx(3.275052, abs=1e-6)


def test_discrepancy_of_three_modalities() -> None:
    assert discrepancy(torch.tensor([[6.0, 3.0, 2.0]])).tolist() == [[2.5, 1.0, 0.5]]


def test_deviation_is_unbiased_and_safe() -> None:
    assert deviation(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).item() == pytest.approx(1.290994, abs=1e-6)
    assert deviation(torch.tensor([[3.0]])).item() == 0


def test_without_damping_it_is_concat_bit_for_bit() -> None:
    data = feed(feature_set(3))
    plain, ogm = build("concat", data), build("ogm", data, alpha=0.0)
    train(plain, data, 3)
    train(ogm, data, 3)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), ogm.parameters(), strict=True))


def test_head_and_offsets_are_never_modulated_and_the_window_closes() -> None:
    data = feed(feature_set(2))
    plain, ogm = build("concat", data), build("ogm-ge", data, alpha=1.0)
    batch = next(data.epoch(plain.rng, 16))
    plain.step(batch)
    ogm.step(batch)
    for (name, p), q in zip(plain.named_parameters(), ogm.parameters(), strict=True):
        same = torch.equal(p.grad, q.grad)
        assert same == (name.startswith("fusion") or name.endswith("bias")), name
    ogm.epoch = 3  # later than half of the four epochs
    plain.load_state_dict(ogm.state_dict())
    plain.step(batch)
    ogm.step(batch)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), ogm.parameters(), strict=True))


def test_noise_has_the_spread_of_the_gradient() -> None:
    data = feed(feature_set(2))
    method = build("ogm-ge", data, (1, 2))
    p = next(method.enc.parameters())
    g = (
        torch.linspace(-1, 1, p[0].numel(), dtype=torch.float64).view(1, *p.shape[1:])
        * torch.tensor([1.0, 10.0])[:, None, None]
    )
    draws = []
    for _ in range(200):
        p.grad = g.clone()
        method.change(p, torch.ones(2, 1, 1, dtype=torch.float64), method.mods[0])
        draws.append(p.grad - g)
    spread = torch.stack(draws).transpose(0, 1).flatten(1).std(1)
    assert torch.allclose(spread, g.flatten(1).std(1), rtol=0.02)


@pytest.mark.parametrize(("M", "form"), [(2, "cvpr"), (3, "cvpr"), (3, "tpami")])
def test_steps_equal_a_loop_over_seeds_and_samples(M: int, form: str) -> None:
    data = feed(feature_set(M))
    method, alpha = build("ogm", data, alpha=0.7, form=form), 0.7
    batches = list(data.epoch(method.rng, 16))
    fresh = build("ogm", data, alpha=0.7, form=form)

    def forward(p: reference.Params, sample: dict) -> dict[str, torch.Tensor]:
        W, b, D = p["fusion.head.weight"], p["fusion.head.bias"][0], method.D
        return {
            m: reference.adapter(p, m, sample[m]) @ W[j * D : (j + 1) * D] + b / M for j, m in enumerate(method.mods)
        }

    def loss(p: reference.Params, samples: list, labels: list[int]) -> torch.Tensor:
        return sum(
            reference.cross_entropy(sum(forward(p, x).values()), y) for x, y in zip(samples, labels, strict=True)
        ) / len(labels)

    def change(p: reference.Params, samples: list, labels: list[int]) -> None:
        s = {
            m: sum(forward(p, x)[m].softmax(0)[y].item() for x, y in zip(samples, labels, strict=True))
            for m in method.mods
        }
        for m in method.mods:
            rho = sum(s[m] / s[q] for q in method.mods if q != m) / (M - 1)
            tanh = torch.tanh(torch.tensor(alpha * rho if form == "cvpr" else rho - 1, dtype=torch.float64)).item()
            k = 1.0 if rho <= 1 else 1 - tanh if form == "cvpr" else min(max(1 - alpha * tanh, 0), 1)
            for name, value in p.items():
                if name.startswith(f"enc.{m}_.") and name.endswith("weight"):
                    value.grad *= k

    for batch in batches:
        method.step(batch)
    reference.agrees(method, fresh, batches, loss, change)
