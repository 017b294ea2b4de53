"""The audit of written runs: failed seeds, metrics that are no percentages, records that are gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmbal_cli.report.audit import SEALED, audit, document, sheets
from mmbal_cli.report.metrics import metrics
from mmbal_cli.report.runs import read_predictions, read_run
from tests.kit.runs import CLASSES, PROTOCOL, predictions, write_predictions, write_run

LEGACY = PROTOCOL | {"name": "legacy", "selection": "TEST accuracy"}


def legacy(root: Path, label: str, **more: object) -> Path:
    folder = write_run(root, label, {"audio": 1.6, "video": 0.5}, seeds=(1, 2, 3), protocol=LEGACY, **more)
    for seed in (1, 2, 3):
        arrays = predictions(seed, {"audio": 1.5, "video": 0.3}, name=label)
        write_predictions(folder / f"seed-{seed}", SEALED, arrays)
    return folder


def score(folder: Path, seed: int, split: str, metric: str) -> float:
    found = read_predictions(folder / f"seed-{seed}" / f"predictions-{split}.safetensors", CLASSES)
    return metrics(found.probs, found.labels, CLASSES, [metric])[metric]


@pytest.mark.parametrize("metric", ["accuracy", "nll"])
def test_the_mean_inflation_is_in_the_unit_of_the_metric(tmp_path: Path, metric: str) -> None:
    folders = [legacy(tmp_path, label) for label in ("concat", "arl")]
    (found,) = audit([read_run(folder) for folder in folders], metric)
    each = [score(f, s, "test", metric) - score(f, s, SEALED, metric) for f in folders for s in (1, 2, 3)]
    assert np.mean([row.inflation.mean for row in found.rows if row.inflation]) == pytest.approx(np.mean(each))
    shown = " ".join(sheets([found])[0].notes)
    wanted = f"{100 * np.mean(each):+.2f} points." if metric == "accuracy" else f"{np.mean(each):+.2f}."
    assert f"Mean inflation over 2 runs: {wanted}" in shown


@pytest.mark.parametrize("split", ["test", SEALED])
def test_failed_and_flawed_seeds_are_named_and_in_no_number(tmp_path: Path, split: str) -> None:
    folder = legacy(tmp_path, "concat", failed={4: "loss was not finite at step 7"})
    arrays = predictions(2, {"audio": 1.5, "video": 0.3})
    arrays["probs"][0] = np.nan
    write_predictions(folder / "seed-2", split, arrays)
    (found,) = audit([read_run(folder)])
    (row,) = found.rows
    assert {row.sealed.n, row.peeked.n if row.peeked else 0, row.inflation.n if row.inflation else 0} == {2}
    assert row.epochs[1] == pytest.approx(np.mean([11, 13]))  # best epochs of the seeds that count
    assert set(row.failed) == {2, 4}
    shown = " ".join(sheets([found])[0].notes)
    assert "seed 4 failed and is left out (loss was not finite at step 7)" in shown
    assert set(document([found])["groups"][0]["rows"][0]["failed"]) == {"2", "4"}


def test_records_that_are_gone_are_a_fault(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "concat", {"audio": 1.6, "video": 0.5}, seeds=(1, 2))
    (folder / "seed-2" / "records.jsonl").unlink()
    (found,) = audit([read_run(folder)])
    assert "records.jsonl cannot be read" in found.rows[0].faults[0]
    assert found.rows[0].sealed.mean is None


def test_two_seeds_of_few_samples_have_accuracies_between_0_and_1(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "concat", {"audio": 1.0, "video": 0.5}, seeds=(1, 2), samples=4)
    (found,) = audit([read_run(folder)])
    sealed = found.rows[0].sealed
    assert sealed.low is not None
    assert sealed.high is not None
    assert 0 <= sealed.low <= sealed.high <= 1
