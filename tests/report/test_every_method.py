"""Every method's runs can be reported on: card, robustness, calibration, dynamics, explanations."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbal_cli.methods import METHODS
from mmbal_cli.report import calibration, card, dynamics, explain, robustness
from mmbal_cli.report.runs import read_run
from tests.kit.features import feature_set
from tests.kit.prepared import write_prepared
from tests.kit.trained import train


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("every")
    write_prepared(folder / "cache", feature_set(2, n=60, easy=1.0), epochs=2, width=8, batch=16)
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_its_run_can_be_reported_on(name: str, work: Path) -> None:
    cache = work / "cache"
    run = read_run(train(work, name)[0])
    own = ["audio", "video"] if name != "unimodal" else ["audio"]
    (made,) = card.card([run], cache, "test", "cpu")
    (row,) = made.rows
    assert row.run is run
    assert card.sheets(made, 2, True)
    stressed = robustness.robustness([run], cache, "test")
    assert robustness.sheets(stressed)
    calibrated = calibration.calibration([run], "test")
    assert calibration.sheets(calibrated)
    columns = dynamics.dynamics(run).columns
    assert {"val/accuracy", "train/nll", *(f"train/accuracy/{m}" for m in own)} <= set(columns)
    explain.explain(run, [])
