"""Every method's runs can be reported on: card, robustness, calibration, dynamics, explanations."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbal_cli.cli.train import open_data
from mmbal_cli.engine.job import run_job
from mmbal_cli.engine.plan import expand_methods, plan_run
from mmbal_cli.methods import METHODS
from mmbal_cli.report import calibration, card, dynamics, explain, robustness
from mmbal_cli.report.runs import read_run
from tests.kit.features import feature_set
from tests.kit.prepared import write_prepared


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("every") / "cache"
    write_prepared(folder, feature_set(2, n=60, easy=1.0), epochs=2, width=8, batch=16)
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_its_run_can_be_reported_on(name: str, cache: Path, tmp_path: Path) -> None:
    data = open_data(cache, None)
    method, knobs = expand_methods([name], tuple(data.shapes))[0]
    planned = plan_run(data, method, knobs, None, {}, {})
    folder = planned.folder(tmp_path)
    folder.create(planned.facts, {})
    events = list(run_job(planned.spec, (1, 2), folder, cache, "cpu", lambda: False))
    assert events[-1]["event"] == "done"
    run = read_run(folder.path)
    own = list(planned.facts["data"]["modalities"]) if name != "unimodal" else [str(knobs["modality"])]
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
