"""Calibration against definitions, scikit-learn and a fine grid of temperatures; nothing is fitted on test."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.stats import norm

from mmbal_cli.report.calibration import calibration, document, lines, reliability, scaled, sheets
from mmbal_cli.report.metrics import metrics, softmax
from mmbal_cli.report.runs import Run, read_run
from mmbal_cli.report.temperature import LIMITS, ece_by_chance, fit_temperature, log_probabilities
from tests.kit.cli import invoke
from tests.kit.runs import CLASSES, predictions, write_predictions, write_run, write_study


def drawn(seed: int, samples: int = 90, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=samples)
    return softmax(2 * rng.normal(size=(samples, classes)) + 1.5 * np.eye(classes)[labels]), labels


def nll(probs: np.ndarray, labels: np.ndarray, T: float) -> float:
    """By definition, one sample after the other."""
    total = 0.0
    for p, y in zip(probs.tolist(), labels.tolist(), strict=True):
        logs = [math.log(max(value, 1.2e-38)) / T for value in p]
        top = max(logs)
        total += top + math.log(sum(math.exp(value - top) for value in logs)) - logs[y]
    return total / len(labels)


def names(n: int) -> list[str]:
    return [f"val-{i:04d}" for i in range(n)]


def validated(root: Path, label: str, **settings: Any) -> Run:
    """A run whose validation samples have ids of their own."""
    settings = {"seeds": (1, 2)} | settings
    folder = write_run(root, label, {"audio": 1.6, "video": 0.5}, **settings)
    for seed in settings["seeds"]:
        arrays = predictions(seed + 50, {"audio": 1.6, "video": 0.5}, name=label)
        write_predictions(folder / f"seed-{seed}", "val", arrays, names(len(arrays["labels"])))
    return read_run(folder)


@pytest.mark.parametrize("seed", range(5))
def test_temperature_is_the_best_of_a_fine_grid(seed: int) -> None:
    probs, labels = drawn(seed)
    found = fit_temperature(log_probabilities(probs), labels)
    grid = np.exp(np.linspace(*np.log(LIMITS), 2001))
    best = min(grid, key=lambda T: nll(probs, labels, T))
    assert found.bound == ""
    assert abs(math.log(found.value / best)) <= math.log(grid[1] / grid[0])
    assert nll(probs, labels, found.value) <= nll(probs, labels, best) + 1e-12


def test_temperature_of_log_probabilities_is_that_of_logits() -> None:
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(60, 3)) + 7, rng.integers(3, size=60)
    from_probs = fit_temperature(log_probabilities(softmax(logits)), labels)
    assert fit_temperature(logits, labels).value == pytest.approx(from_probs.value, rel=1e-9)
    assert scaled(softmax(logits), 2.5) == pytest.approx(softmax(logits / 2.5))


def test_a_known_temperature_is_recovered() -> None:
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(40_000, 5))
    labels = (softmax(logits).cumsum(axis=1) < rng.random((40_000, 1))).sum(axis=1)
    assert fit_temperature(3 * logits, labels).value == pytest.approx(3, rel=0.02)


def test_temperatures_without_an_optimum_are_at_a_bound() -> None:
    right = np.eye(3)[[0, 1, 2]]
    assert fit_temperature(log_probabilities(right), np.array([0, 1, 2])).bound == "lower"
    assert fit_temperature(np.log([[0.6, 0.4], [0.3, 0.7]]), np.array([0, 1])).value == LIMITS[0]
    wrong = fit_temperature(log_probabilities(right), np.array([1, 2, 0]))
    assert (wrong.value, wrong.bound) == (LIMITS[1], "upper")
    flat = fit_temperature(np.log(np.full((4, 3), 1 / 3, np.float32)), np.array([0, 0, 1, 2]))
    assert (flat.value, flat.bound) == (1.0, "flat")


def test_probabilities_of_exactly_zero_and_one_have_a_temperature() -> None:
    """Nine of ten one-hot predictions are right: at the optimum the confidence is 0.9."""
    probs = np.eye(2)[np.zeros(10, int)]
    labels = np.array([0] * 9 + [1])
    found = fit_temperature(log_probabilities(probs), labels)
    assert found.bound == ""
    assert scaled(probs, found.value)[0, 0] == pytest.approx(0.9, rel=1e-6)


def test_one_class_and_constant_predictions_are_defined() -> None:
    probs = np.tile([0.7, 0.2, 0.1], (30, 1))
    assert fit_temperature(np.log(probs), np.zeros(30, int)).bound == "lower"  # surer is better without end
    mixed = np.array([0] * 15 + [1] * 9 + [2] * 6)
    found = fit_temperature(np.log(probs), mixed)
    best = min(np.linspace(0.5, 4, 3501), key=lambda T: nll(probs, mixed, T))
    assert found.value == pytest.approx(best, abs=0.002)
    assert metrics(probs, mixed, CLASSES, ["ece"])["ece"] > 0
    with pytest.raises(ValueError, match="no sample"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, int))


@pytest.mark.parametrize(("samples", "decimals"), [(90, 9), (61, 1), (7, 2), (1, 3)])
def test_reliability_bins_have_equal_mass_and_add_up_to_the_ece(samples: int, decimals: int) -> None:
    probs, labels = drawn(3, samples)
    probs = probs.round(decimals)  # with ties in confidence
    bins = reliability(probs, labels)
    assert len(bins) == min(15, samples)
    assert max(b.count for b in bins) - min(b.count for b in bins) <= 1
    ece = sum(b.count * abs(b.confidence - b.accuracy) for b in bins) / samples
    assert ece == pytest.approx(metrics(probs, labels, range(4), ["ece"])["ece"], abs=1e-12)
    assert [b.confidence for b in bins] == sorted(b.confidence for b in bins)
    for b in bins:
        z, p, n = norm.ppf(0.975), b.accuracy, b.count
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        assert (b.low, b.high) == pytest.approx((centre - half, centre + half), abs=1e-9)
    order = np.random.default_rng(1).permutation(samples)
    again = reliability(probs[order], labels[order])
    assert [(b.count, b.accuracy) for b in again] == [(b.count, b.accuracy) for b in bins]


def test_reliability_of_other_numbers_of_bins_and_of_nothing() -> None:
    probs, labels = drawn(0)
    assert sum(b.count for b in reliability(probs, labels, bins=4)) == 90
    assert len(reliability(probs, labels, bins=4)) == 4
    assert reliability(np.zeros((0, 3)), np.zeros(0, int)) == []


def test_chance_is_the_mean_ece_of_calibrated_models() -> None:
    rng = np.random.default_rng(0)
    probs = softmax(1.5 * rng.normal(size=(600, 4)))
    eces = []
    for _ in range(300):
        labels = (probs.cumsum(axis=1) < rng.random((600, 1))).sum(axis=1)
        eces.append(metrics(probs, labels, range(4), ["ece"])["ece"])
    assert ece_by_chance(probs, labels) == pytest.approx(np.mean(eces), rel=0.05)


def test_each_part_of_a_run_equals_the_definitions(tmp_path: Path) -> None:
    from sklearn.metrics import brier_score_loss, log_loss

    run = validated(tmp_path, "concat")
    fused, audio, video = calibration([run])[0].parts
    assert [part.name for part in (fused, audio, video)] == ["fused", "audio", "video"]
    for seed in (1, 2):
        arrays = load_file(run.folder / f"seed-{seed}" / "predictions-test.safetensors")
        labels = arrays["labels"]
        for part, probs in ((fused, arrays["probs"].astype(float)), (audio, softmax(arrays["logits/audio"]))):
            found = {key: values[seed] for key, values in part.values.items()}
            probs = probs / probs.sum(axis=1, keepdims=True)
            hits = probs.argmax(axis=1) == labels
            assert found["nll"] == pytest.approx(log_loss(labels, probs), rel=1e-6)
            assert found["brier"] == pytest.approx(brier_score_loss(labels, probs, scale_by_half=False), rel=1e-6)
            assert found["overconfidence"] == pytest.approx(probs.max(axis=1).mean() - hits.mean(), abs=1e-6)
            assert found["accuracy"] == hits.mean()
            after = scaled(probs, found["temperature"])
            assert found["nll_scaled"] == pytest.approx(log_loss(labels, after), rel=1e-6)
            assert found["ece_change"] == pytest.approx(found["ece_scaled"] - found["ece"], abs=1e-12)
    mean = fused.estimates["brier"]
    assert mean.mean == pytest.approx(np.mean(list(fused.values["brier"].values())))
    assert mean.low < mean.mean < mean.high
    assert mean.over == "seeds and samples"


def relabel(run: Run, split: str, ids: list[str] | None = None) -> None:
    """The same other labels for the samples of `split` in all seeds."""
    for folder in run.folder.glob("seed-*"):
        arrays = load_file(folder / f"predictions-{split}.safetensors")
        order = np.random.default_rng(5).permutation(len(arrays["labels"]))
        (folder / f"predictions-{split}.safetensors").unlink()
        write_predictions(folder, split, arrays | {"labels": arrays["labels"][order]}, ids)


def test_the_temperature_comes_from_validation_alone(tmp_path: Path) -> None:
    """Other test labels change every score and no temperature; other validation labels change the temperatures."""
    run = validated(tmp_path, "concat")
    first = calibration([run])[0].parts
    relabel(run, "test")
    second = calibration([run])[0].parts
    relabel(run, "val", names(120))
    third = calibration([run])[0].parts
    for one, two, three in zip(first, second, third, strict=True):
        assert two.temperatures == one.temperatures
        assert two.values["nll"] != one.values["nll"]
        assert three.values["nll"] == two.values["nll"]
        assert all(three.temperatures[seed] != two.temperatures[seed] for seed in (1, 2))


def test_no_temperature_without_validation_or_on_validation_itself(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, "concat", {"audio": 1.6}, seeds=(1, 2)))  # the same ids in val and test
    assert "share 120 samples" in calibration([run])[0].unscaled
    run = validated(tmp_path, "ogm-ge")
    assert "same samples" in calibration([run], "val")[0].unscaled
    (run.folder / "seed-2" / "predictions-val.safetensors").unlink()
    found = calibration([run])[0]
    assert "cannot be read" in found.unscaled
    assert not found.parts[0].temperatures
    assert found.parts[0].estimates["ece"].n == 2
    (sheet,) = sheets([found])
    assert any("no temperature" in note for note in sheet.notes)
    arrays = predictions(52, {"audio": 1.6, "video": 0.5})
    write_predictions(run.folder / "seed-2", "val", arrays | {"probs": arrays["probs"] * np.nan}, names(120))
    found = calibration([run])[0]
    assert "seed 2" in found.unscaled
    assert sorted(found.parts[0].temperatures) == [1]


def test_single_seed_failed_seed_and_absent_modality(tmp_path: Path) -> None:
    run = validated(tmp_path, "concat", seeds=(1,), failed={9: "loss is not finite"})
    place = run.folder / "seed-1"
    for split, ids in (("test", None), ("val", names(120))):
        arrays = load_file(place / f"predictions-{split}.safetensors")
        arrays["present/video"] = np.zeros(120, np.uint8)
        (place / f"predictions-{split}.safetensors").unlink()
        write_predictions(place, split, arrays, ids)
    found = calibration([run])
    fused, audio, video = found[0].parts
    assert fused.estimates["ece"].sd is None
    assert fused.estimates["ece"].over == "samples"
    assert video.samples == {1: 0}
    assert not video.estimates
    assert audio.samples == {1: 120}
    notes = " ".join(sheets(found)[0].notes)
    assert "seed 9 failed" in notes
    assert "no sample has video" in notes
    assert "one seed have no sd" in notes
    json.dumps(document(found), allow_nan=False)


def test_a_modality_is_scored_and_scaled_where_it_is_present(tmp_path: Path) -> None:
    run = validated(tmp_path, "concat", seeds=(1,))
    place, present = run.folder / "seed-1", np.arange(120) % 3 > 0
    kept = {}
    for split, ids in (("test", None), ("val", names(120))):
        arrays = load_file(place / f"predictions-{split}.safetensors")
        kept[split] = softmax(arrays["logits/video"][present]), arrays["labels"][present]
        arrays["logits/video"] = np.where(present[:, None], arrays["logits/video"], np.float32(99.0))
        (place / f"predictions-{split}.safetensors").unlink()
        write_predictions(place, split, arrays | {"present/video": present.astype(np.uint8)}, ids)
    video = calibration([run])[0].parts[2]
    fit = fit_temperature(log_probabilities(kept["val"][0]), kept["val"][1])
    assert video.temperatures[1] == fit
    assert fit.samples == 80
    after = metrics(scaled(kept["test"][0], fit.value), kept["test"][1], CLASSES, ["ece", "nll"])
    assert video.values["ece_scaled"][1] == pytest.approx(after["ece"])
    assert video.values["nll_scaled"][1] == pytest.approx(after["nll"])


def test_groups_problems_and_stamps_are_shown(tmp_path: Path) -> None:
    study = write_study(tmp_path, seeds=(1, 2))
    other = write_run(tmp_path, "arl", {"audio": 1.6}, seeds=(1, 2), split="two")
    legacy = write_run(tmp_path, "agm", {"audio": 1.6}, seeds=(1, 2), protocol={"name": "legacy"})
    broken = study["lfm-h"] / "seed-1" / "predictions-test.safetensors"
    broken.write_bytes(broken.read_bytes()[:100])
    found = calibration([read_run(folder) for folder in (*study.values(), other, legacy)])
    made = sheets(found)
    assert [bool(sheet.caution) for sheet in made] == [False, True, True, False]
    assert "split is" in " ".join(sheet.caution for sheet in made)
    assert "selected on TEST" in next(each.label for each in found if each.run.folder == legacy)
    problem = next(each for each in found if each.run.folder == study["lfm-h"])
    assert "cannot be read" in problem.problem
    assert not problem.parts
    rows = lines(found)
    assert {len(row) for row in rows} == {len(rows[0])}


def test_command(tmp_path: Path) -> None:
    validated(tmp_path, "concat")
    result = invoke("report", "calibration", "--runs", str(tmp_path), "-f", "json")
    fused = json.loads(result.stdout)["runs"][0]["parts"][0]
    assert 0 < fused["temperatures"]["1"]["value"] < 100
    assert fused["metrics"]["ece"]["n"] == 2
    assert "conf − acc" in invoke("report", "calibration", "--runs", str(tmp_path)).stdout
    empty = write_run(tmp_path, "arl", {"audio": 1.0}, seeds=())
    result = invoke("report", "calibration", str(empty), code=1)
    assert "no seed has finished" in result.output
