"""Reference methods: what they must equal, and what a mask must do."""

from __future__ import annotations

import pytest
import torch

from mmbal_cli.engine.feed import predictions
from mmbal_cli.engine.fit import Fit
from tests.kit.features import build, feature_set, feed, train


def test_concat_equals_sum_with_copied_weights() -> None:
    data = feed(feature_set(2))
    concat, total = build("concat", data), build("sum", data)
    with torch.no_grad():
        for m, block in zip(concat.mods, concat.fusion.head.weight.chunk(2, 1), strict=True):
            total.fusion.heads[m].weight.copy_(block)
            total.fusion.heads[m].bias.copy_(concat.fusion.head.bias / 2)
    batch = next(data.split("val", 3))
    one, other = concat(batch), total(batch)
    assert torch.allclose(one.fused, other.fused, atol=1e-14)
    assert all(torch.allclose(one.z[m], other.z[m], atol=1e-14) for m in concat.mods)


def test_concat_is_one_product_on_the_concatenation() -> None:
    data = feed(feature_set(3))
    method = build("concat", data)
    out = method(next(data.split("val", 3)))
    joined = torch.cat([out.h[m] for m in method.mods], -1)
    assert torch.allclose(
        out.fused, torch.baddbmm(method.fusion.head.bias, joined, method.fusion.head.weight), atol=1e-14
    )


@pytest.mark.parametrize("absent", [0.0, 0.3])
def test_every_part_of_the_ensemble_equals_its_unimodal_run(absent: float) -> None:
    data = feed(feature_set(3, absent=absent))
    ensemble = Fit(build("unimodal-ensemble", data), data)
    list(ensemble.run())
    ensemble.use_best()
    together = predictions(ensemble.method, data, "test")
    total = torch.zeros_like(together["logits"])
    count = torch.zeros_like(total[..., 0])
    for m in ensemble.method.mods:
        alone = Fit(build("unimodal", data, modality=m), data)
        list(alone.run())
        alone.use_best()
        logits = predictions(alone.method, data, "test")["logits"]
        assert torch.allclose(logits, together[f"logits/{m}"], rtol=0, atol=1e-12)
        present = together[f"present/{m}"].to(logits.dtype)
        total += present[..., None] * logits
        count += present
    assert torch.allclose(together["logits"], total / count.clamp_min(1)[..., None], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["concat", "uniform", "unimodal", "arl", "lfm-h", "ogm-ge", "unimodal-ensemble"])
def test_values_stored_for_absent_samples_never_matter(name: str) -> None:
    features = feature_set(3, absent=0.3)
    poisoned = feature_set(3, absent=0.3)
    for m, mask in features.mask.items():
        hole = ~mask
        poisoned.x[m][hole] = 7.5
    one, other = feed(features), feed(poisoned)
    first, second = build(name, one), build(name, other)
    train(first, one, 2)
    train(second, other, 2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_uniform_without_weight_is_concat() -> None:
    data = feed(feature_set(2))
    plain, uniform = build("concat", data), build("uniform", data, gamma=0.0)
    train(plain, data, 3)
    train(uniform, data, 3)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), uniform.parameters(), strict=True))


def test_modalities_may_have_any_name() -> None:
    features = feature_set(2)
    for old, new in (("audio", "type"), ("video", "keys")):
        features.x[new], features.mask[new] = features.x.pop(old), features.mask.pop(old)
    data = feed(features)
    for name in ("concat", "sum", "unimodal-ensemble"):
        assert all(torch.isfinite(loss).all() for loss in train(build(name, data), data))
    assert torch.isfinite(train(build("concat", data, fusion="gated"), data)[-1]).all()
