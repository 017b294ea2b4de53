"""The plain methods and OGM-GE against loops over seeds and samples (ARL, OGM and LFM have files of their own)."""

from __future__ import annotations

import pytest
import torch

from mmbal_cli.seeds import SeedStreams
from tests.kit.features import build, feature_set, feed, steps
from tests.methods import reference


def shares(p: reference.Params, mods: tuple[str, ...], width: int, sample: dict) -> dict[str, torch.Tensor]:
    """Per-modality logits of one sample, whichever of the two additive heads the model has."""
    h = {m: reference.adapter(p, m, sample[m]) for m in mods}
    if "fusion.head.weight" not in p:
        return {m: h[m] @ p[f"fusion.heads.{m}_.weight"] + p[f"fusion.heads.{m}_.bias"][0] for m in mods}
    W, b = p["fusion.head.weight"], p["fusion.head.bias"][0]
    return {m: h[m] @ W[i * width : (i + 1) * width] + b / len(mods) for i, m in enumerate(mods)}


def heads(p: reference.Params, mods: tuple[str, ...], sample: dict, z: dict) -> dict[str, torch.Tensor]:
    """Logits of one sample from the auxiliary heads; `z` for a model that has none."""
    if f"heads.{mods[0]}_.weight" not in p:
        return z
    h = {m: reference.adapter(p, m, sample[m]) for m in mods}
    return {m: h[m] @ p[f"heads.{m}_.weight"] + p[f"heads.{m}_.bias"][0] for m in mods}


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize(
    "name", ["concat", "sum", "unimodal", "unimodal-ensemble", "uniform", "heads", "late-fusion", "ogm-ge"]
)
def test_steps_equal_a_loop_over_seeds_and_samples(name: str, M: int) -> None:
    data = feed(feature_set(M))
    method, fresh = build(name, data), build(name, data)
    batches = list(data.epoch(method.rng, 16))
    joint = {"unimodal-ensemble": 0.0}.get(name, 1.0)
    own = 1.0 if name in ("unimodal-ensemble", "uniform", "heads", "late-fusion") else 0.0

    def loss(p: reference.Params, samples: list, labels: list[int]) -> torch.Tensor:
        each = []
        for x, y in zip(samples, labels, strict=True):
            z = shares(p, method.mods, method.D, x)
            unimodal = sum(reference.cross_entropy(v, y) for v in heads(p, method.mods, x, z).values())
            each.append(joint * reference.cross_entropy(sum(z.values()), y) + own * unimodal)
        return sum(each) / len(each)

    for batch in batches:
        method.step(batch)
    for i, seed in enumerate((1, 2, 3)):
        noise = SeedStreams((seed,))

        def change(p: reference.Params, samples: list, labels: list[int], noise: SeedStreams = noise) -> None:
            z = [shares(p, method.mods, method.D, x) for x in samples]
            s = {m: sum(v[m].softmax(0)[y].item() for v, y in zip(z, labels, strict=True)) for m in method.mods}
            for m in method.mods:
                rho = sum(s[m] / s[q] for q in method.mods if q != m) / (M - 1)
                k = 1 - torch.tanh(torch.tensor(0.3 * rho, dtype=torch.float64)).item() if rho > 1 else 1.0
                for key, value in p.items():
                    if key.startswith(f"enc.{m}_.") and key.endswith("weight"):
                        sigma = value.grad.std() + 1e-8
                        value.grad = k * value.grad + sigma * noise.normal(f"ogm-ge/{m}", value.grad[None])[0]

        slow = reference.run(fresh, i, batches, loss, change if name == "ogm-ge" else None)
        for key, value in method.state_dict().items():
            assert (value[i] - slow[key]).abs().max() < 1e-10, key


def test_late_fusion_predicts_the_mean_of_the_heads_that_a_sample_has() -> None:
    data = feed(feature_set(3, absent=0.3))
    method = build("late-fusion", data)
    steps(method, data, 4)
    batch = next(data.split("val", 3))
    probs = method.eval().predict(method(batch))
    for i in range(3):
        p = reference.parameters_of(method, i)
        for b in range(batch.y.shape[1]):
            present = {m: batch.present(m) for m in method.mods}
            has = [m for m, mask in present.items() if mask is None or mask[i, b]]
            if has:
                own = heads(p, tuple(has), {m: batch.x[m][i, b] for m in has}, {})
                assert torch.allclose(probs[i, b], (sum(own.values()) / len(has)).softmax(0), atol=1e-12)


def test_heads_without_their_losses_are_concat() -> None:
    data = feed(feature_set(3))
    plain, own = build("concat", data), build("heads", data, beta=0.0)
    steps(plain, data, 6)
    steps(own, data, 6)
    mine = own.state_dict()
    assert all(torch.equal(value, mine[name]) for name, value in plain.state_dict().items())
