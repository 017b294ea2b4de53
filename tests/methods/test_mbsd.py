"""MBSD: both forms by hand and against loops over seeds and samples."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from mmbal_cli.methods.base import Batch, Out
from tests.kit.features import build, feature_set, feed, steps
from tests.methods import reference
from tests.methods.test_slow import shares


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize("knobs", [{}, {"lam": 3.0}, {"form": "released"}])
def test_steps_equal_a_loop_over_seeds_and_samples(M: int, knobs: dict[str, object]) -> None:
    data = feed(feature_set(M))
    method, fresh = build("mbsd", data, **knobs), build("mbsd", data, **knobs)
    batches = steps(method, data, 4)

    def pair(one: torch.Tensor, two: torch.Tensor, y: int) -> torch.Tensor:
        strong, weak = (one, two) if one.softmax(0)[y] >= two.softmax(0)[y] else (two, one)
        if y not in (int(one.argmax()), int(two.argmax())):
            return torch.zeros((), dtype=torch.float64)
        if method.form == "released":
            p, q = strong.softmax(0)[y], weak.softmax(0)[y]
            a, b = (one, two) if M == 2 else (one.softmax(0), two.softmax(0))
            return (p - q) * (q * (torch.log(q) - p) + sum((a - b) ** 2) / len(a))
        p, q = strong.softmax(0).detach(), weak.softmax(0)
        divergence = sum(p * (torch.log(p) - torch.log(q)))
        return (p[y] - q[y]).detach() * (divergence + sum((strong.detach() - weak) ** 2) / len(p))

    def loss(p: reference.Params, samples: list, labels: list[int]) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for x, y in zip(samples, labels, strict=True):
            z = shares(p, method.mods, method.D, x)
            total = total + reference.cross_entropy(sum(z.values()), y)
            total = total + sum(reference.cross_entropy(v, y) for v in z.values())
            pairs = [pair(z[a], z[b], y) for a, b in combinations(method.mods, 2)]
            total = total + method.lam * sum(pairs) / len(pairs)
        return total / len(labels)

    reference.agrees(method, fresh, batches, loss)


def outcome(a: list[float], b: list[float], y: int, **knobs: object) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Distillation of one sample with two modalities, and its gradients."""
    method = build("mbsd", feed(feature_set(2, classes=2)), (1,), **knobs)
    z = {m: torch.tensor([[p]], dtype=torch.float64).log().requires_grad_() for m, p in (("audio", a), ("video", b))}
    fused = z["audio"] + z["video"]
    out = Out({}, fused, lambda h: z)
    batch = Batch({}, torch.tensor([[y]]), torch.tensor([[0]]), {"audio": None, "video": None})
    value = method.distil(out, batch, "audio", "video")  # type: ignore[operator]
    grads = torch.autograd.grad(value.sum(), [z["audio"], z["video"]], allow_unused=True, materialize_grads=True)
    return value.item(), grads[0], grads[1]


def test_the_better_modality_teaches_and_is_not_taught() -> None:
    value, audio, video = outcome([0.8, 0.2], [0.4, 0.6], 0)
    log = torch.tensor([0.8, 0.2, 0.4, 0.6], dtype=torch.float64).log()
    divergence = 0.8 * (log[0] - log[2]) + 0.2 * (log[1] - log[3])
    apart = ((log[0] - log[2]) ** 2 + (log[1] - log[3]) ** 2) / 2
    assert value == pytest.approx(0.4 * float(divergence + apart))
    assert audio.abs().max() == 0
    assert video.abs().max() > 0
    _, audio, video = outcome([0.8, 0.2], [0.4, 0.6], 1)
    assert video.abs().max() == 0
    assert audio.abs().max() > 0


def test_nothing_is_taught_where_both_are_wrong() -> None:
    assert outcome([0.2, 0.8], [0.4, 0.6], 0)[0] == 0


def test_released_sends_gradients_into_the_teacher() -> None:
    _, audio, _ = outcome([0.8, 0.2], [0.4, 0.6], 0, form="released")
    assert audio.abs().max() > 0
