"""Three modalities as real sets have them, prepared from miniatures: every method trains on both.

NVGesture: three video streams, 25 classes of which four occur. MOSEI: sequences of different width with masks.
"""

from __future__ import annotations

import math

import pytest
import torch

from mmbal_cli.data.features import load_features
from mmbal_cli.engine.feed import Feed, predictions
from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods import METHODS
from tests.kit.cli import invoke
from tests.kit.features import CONFIG, build
from tests.kit.minis import mosei, nvgesture

FEW = CONFIG.model_copy(update={"epochs": 2})


@pytest.fixture(scope="module", params=["nvgesture", "mosei"])
def trio(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Feed:
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "nvgesture":
        nvgesture.build(root / "raw", takes=2)
    else:
        mosei.build(root / "raw")
    invoke("prepare", request.param, "--data-root", str(root / "raw"), "--cache", str(root / "cache"))
    features = load_features(root / "cache", request.param)[1]
    return Feed(features.standardised(features.stats()), torch.device("cpu"), torch.float64)


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_trains_on_three_real_modalities(name: str, trio: Feed) -> None:
    run = Fit(build(name, trio, (1, 2), FEW), trio)
    rows = [row for epoch in run.run() for row in epoch]
    assert all(math.isfinite(row["train/loss"]) for row in rows)
    assert run.died.tolist() == [-1, -1]
    run.use_best()
    found = predictions(run.method.eval(), trio, "test")
    assert len(run.method.mods) == (1 if name == "unimodal" else 3)
    assert torch.allclose(found["probs"].sum(-1), torch.ones_like(found["probs"][..., 0]))
