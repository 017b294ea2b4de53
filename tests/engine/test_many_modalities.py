"""Six modalities, as multi-view sets have them: every method trains on them, or refuses before it trains.

The contract covers one to four; the six-view digits are the reason for more.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mmbal_cli.data.features import FeatureSet, from_arrays
from mmbal_cli.engine.feed import Feed, predictions
from mmbal_cli.engine.fit import Fit
from mmbal_cli.errors import UsageError
from mmbal_cli.methods import METHODS, method_class
from mmbal_cli.nn.fusion import FUSIONS
from tests.kit.features import CONFIG, build, feed, fit

CLASSES = 4
VIEWS = {"pix": (24,), "fou": (8,), "fac": (21,), "zer": (5,), "kar": (2, 6), "mor": (3,)}  # kar in two time steps
FEW = CONFIG.model_copy(update={"epochs": 2})


def six_views(absent: float = 0.1) -> FeatureSet:
    """48 / 16 / 16 samples; the first view says most, the last one little, and every one is missing here and there."""
    g = np.random.default_rng(6)
    labels = np.arange(80) % CLASSES
    features, masks = {}, {}
    for i, (m, shape) in enumerate(VIEWS.items()):
        means = g.normal(size=(CLASSES, shape[-1])) * (2 - 0.3 * i)
        x = g.normal(size=(80, *shape)) + (means[labels] if len(shape) == 1 else means[labels][:, None])
        features[m], masks[m] = x.astype("float32"), np.ones((80, *shape[:-1]), bool)
        masks[m][g.random(80) < absent] = False
    arrays: dict[str, Any] = {
        "ids": [f"d{i}" for i in range(80)],
        "splits": ["train"] * 48 + ["val"] * 16 + ["test"] * 16,
    }
    arrays |= {"labels": labels, "features": features, "mask": masks}
    return from_arrays("six", "6" * 64, tuple("wxyz"), arrays)


@pytest.fixture(scope="module")
def data() -> Feed:
    return feed(six_views())


def check(name: str, data: Feed, **settings: object) -> None:
    """Two epochs to finite losses; probabilities of every test sample that sum to 1; logits of every view."""
    run = Fit(build(name, data, (1, 2), FEW, **settings), data)
    rows = [row for epoch in run.run() for row in epoch]
    assert all(math.isfinite(row["train/loss"]) for row in rows)
    assert run.died.tolist() == [-1, -1]
    run.use_best()
    found = predictions(run.method.eval(), data, "test")
    assert found["probs"].shape == (2, 16, CLASSES)
    assert torch.allclose(found["probs"].sum(-1), torch.ones(2, 16, dtype=torch.float64))
    assert list(run.method.mods) == (["pix"] if name == "unimodal" else list(VIEWS))
    assert all(torch.isfinite(found[f"logits/{m}"]).all() for m in run.method.mods)


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_trains_on_six_views(name: str, data: Feed) -> None:
    check(name, data)


def test_a_card_s_limit_is_refused_before_training(data: Feed) -> None:
    """No shipped method has a limit above; one's own may."""
    concat = method_class("concat")

    class Pair(concat):  # type: ignore[misc, valid-type]
        card = replace(concat.card, name="pair", max_modalities=2)

    with pytest.raises(UsageError, match=r"pair cannot train on 6 modalities.*1 to 2"):
        Pair(data.shape, FEW, (1,), "concat", {})


@pytest.mark.parametrize("fusion", [name for name, row in FUSIONS.items() if row.general])
def test_a_fusion_takes_six_views(fusion: str, data: Feed) -> None:
    check("concat", data, fusion=fusion)


def test_six_views_say_more_than_the_weakest_of_them(data: Feed) -> None:
    """The set can tell a model that uses its views from one that does not."""
    settings = CONFIG.model_copy(update={"epochs": 20})
    run = fit(build("late-fusion", data, (1, 2), settings), data)
    run.use_best()
    found = predictions(run.method.eval(), data, "test")
    right = {m: (found[f"logits/{m}"].argmax(-1) == found["labels"]).double().mean() for m in VIEWS}
    assert (found["probs"].argmax(-1) == found["labels"]).double().mean() > right["mor"] + 0.2
