"""Blocks: what may stand in one table, in which order, and with which marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbal_cli.report.blocks import Block, Row
from mmbal_cli.report.captions import failures
from mmbal_cli.report.compare import Comparison, compare
from mmbal_cli.report.metrics import metrics
from mmbal_cli.report.runs import find_runs, read_run
from mmbal_cli.report.views import sheets
from tests.kit.runs import CLASSES, PROTOCOL, predictions, write_predictions, write_run, write_study

STRENGTHS = {"audio": 1.5, "video": 0.5}


def comparison(root: Path, *names: str, **options: Any) -> Comparison:
    return compare([read_run(folder) for folder in find_runs([], root)], names or ("accuracy",), **options)


def row(block: Block, label: str) -> Row:
    return next(each for each in block.rows if each.label == label)


def notes(block: Comparison) -> str:
    return " ".join(note for sheet in sheets(block) for note in sheet.notes)


def test_references_stand_on_top_and_the_rest_is_sorted(tmp_path: Path) -> None:
    write_study(tmp_path)
    write_run(tmp_path, "uniform", STRENGTHS)
    (block,) = comparison(tmp_path, "accuracy", "nll").blocks
    labels = [each.label for each in block.rows]
    assert labels[:5] == ["unimodal:audio", "unimodal:video", "unimodal-ensemble", "concat", "uniform"]
    means = [each.mean("accuracy") or 0 for each in block.rows[5:]]
    assert means == sorted(means, reverse=True)
    (block,) = comparison(tmp_path, "accuracy", sort_by="nll").blocks
    assert [column.key for column in block.columns] == ["accuracy", "nll", "accuracy/audio", "accuracy/video"]
    means = [each.mean("nll") or 0 for each in block.rows[5:]]
    assert means == sorted(means)


def test_cells_are_the_metrics_of_the_saved_predictions(tmp_path: Path) -> None:
    write_study(tmp_path)
    (block,) = comparison(tmp_path, "macro_f1", split="val").blocks
    arrays = predictions(3, {"audio": 1.55, "video": 1.05}, name="arl", fused=2.0)
    expected = metrics(arrays["probs"], arrays["labels"], CLASSES)
    cells = row(block, "arl").cells
    assert cells["macro_f1"].values[3] == pytest.approx(expected["macro_f1"])
    inside = np.mean(arrays["logits/video"].argmax(axis=1) == arrays["labels"])
    assert cells["accuracy/video"].values[3] == pytest.approx(inside)


def test_marks_of_best_tied_and_beaten(tmp_path: Path) -> None:
    for label, fused in (("strong", 3.0), ("near", 2.95), ("weak", 0.3)):
        write_run(tmp_path, label, STRENGTHS, fused=fused, samples=300)
    (block,) = comparison(tmp_path, "accuracy", "nll").blocks
    assert [each.cells["accuracy"].mark for each in block.rows] == ["best", "tied", ""]
    low, high = block.rows[2].cells["accuracy"].interval or (0, 0)
    assert low < high < 0
    low, high = block.rows[2].cells["nll"].interval or (0, 0)
    assert 0 < low < high


def test_equal_means_are_a_tie_and_no_gain(tmp_path: Path) -> None:
    write_run(tmp_path, "concat", STRENGTHS)
    for label, seeds in (("one", (1, 2, 3)), ("two", (3, 1, 2))):
        folder = write_run(tmp_path, label, {"audio": 1.0}, seeds=(1, 2, 3))
        for place, seed in zip((1, 2, 3), seeds, strict=True):
            write_predictions(folder / f"seed-{place}", "test", predictions(seed, STRENGTHS, name="same"))
    (block,) = comparison(tmp_path).blocks
    assert {row(block, label).cells["accuracy"].mark for label in ("one", "two")} <= {"best", "tied"}
    write_study(tmp_path / "study")
    copy = write_run(tmp_path / "study", "copy", {"audio": 1.6, "video": 0.5}, fused=1.7)
    for seed in range(1, 6):
        arrays = predictions(seed, {"audio": 1.6, "video": 0.5}, name="concat", fused=1.7)
        write_predictions(copy / f"seed-{seed}", "test", arrays)
    (block,) = comparison(tmp_path / "study").blocks
    base, *means = (row(block, label).mean("accuracy") or 0 for label in ("concat", "ogm-ge", "arl", "lfm-h"))
    assert (block.versus[1].methods, block.versus[1].better) == (4, sum(mean > base for mean in means))


def test_a_single_row_is_not_called_best(tmp_path: Path) -> None:
    write_run(tmp_path, "arl", STRENGTHS)
    (block,) = comparison(tmp_path).blocks
    assert {cell.mark for cell in block.rows[0].cells.values()} == {""}


def test_in_model_accuracy_is_judged_against_the_own_unimodal_model(tmp_path: Path) -> None:
    write_study(tmp_path)
    write_run(tmp_path, "lifted", {"audio": 1.6, "video": 2.5})
    (block,) = comparison(tmp_path).blocks
    assert row(block, "unimodal:video").cells["accuracy/audio"].values == {}
    marks = {each.label: each.cells["accuracy/video"].mark for each in block.rows}
    assert marks["concat"] == "below"
    assert marks["lifted"] == "above"
    assert marks["unimodal:video"] == ""
    assert row(block, "unimodal:audio").best_unimodal
    assert not row(block, "unimodal:video").best_unimodal


def test_methods_are_counted_against_best_unimodal_and_concat(tmp_path: Path) -> None:
    write_study(tmp_path)
    write_run(tmp_path, "sum", STRENGTHS, fused=9.0)  # a fusion, no balancing method
    (block,) = comparison(tmp_path).blocks
    assert [each.label for each in block.versus] == ["unimodal:audio", "concat"]
    concat = block.versus[1]
    means = [row(block, label).mean("accuracy") for label in ("ogm-ge", "arl", "lfm-h")]
    assert (concat.methods, concat.better) == (
        3,
        sum((m or 0) > (row(block, "concat").mean("accuracy") or 0) for m in means),
    )
    assert 0 <= concat.distinguishable <= concat.better


MIXTURES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "fingerprint": ({"fingerprint": "two"}, ["data fingerprint is "]),
    "split": ({"split": "two"}, ["split is "]),
    "protocol": ({"protocol": {**PROTOCOL, "epochs": 100}}, ["protocol: epochs is 100, not 30"]),
    "selection": (
        {"protocol": {"selection": "test accuracy", "epochs": 30}},
        ["protocol: selection is 'test accuracy'"],
    ),
    "both": ({"fingerprint": "two", "split": "two"}, ["data fingerprint is ", "split is "]),
    "samples": ({"ids": [f"other-{i}" for i in range(120)]}, ["scored samples are "]),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_are_shown_apart_with_what_differs(tmp_path: Path, name: str) -> None:
    facts, reasons = MIXTURES[name]
    write_study(tmp_path)
    write_run(tmp_path, "stranger", STRENGTHS, **facts)
    main, apart = comparison(tmp_path).blocks
    assert (len(main.rows), main.apart) == (7, "")
    assert [each.label for each in apart.rows] == ["stranger"]
    assert all(reason in apart.apart for reason in reasons)
    assert len(apart.apart.split("; ")) == len(reasons)


def test_other_data_sets_have_their_own_block_and_no_reproach(tmp_path: Path) -> None:
    write_study(tmp_path)
    write_run(tmp_path, "concat", STRENGTHS, dataset="actions", fingerprint="two", classes=("run", "sit"))
    first, second = comparison(tmp_path).blocks
    assert (first.facts.dataset, first.apart, second.facts.dataset, second.apart) == ("actions", "", "demo", "")


def test_other_seeds_are_noted_and_pairs_use_common_ones(tmp_path: Path) -> None:
    write_study(tmp_path)
    write_run(tmp_path, "few", STRENGTHS, seeds=(1, 2, 9))
    write_run(tmp_path, "none-in-common", STRENGTHS, seeds=(21, 22), fused=9.0)
    found = comparison(tmp_path)
    (block,) = found.blocks
    assert "Seeds are 1-5, but none-in-common 21-22, few 1-2, 9" in notes(found)
    assert row(block, "none-in-common").cells["accuracy"].mark == "best"
    assert row(block, "arl").cells["accuracy"].interval is None
    assert row(block, "arl").cells["accuracy"].mark == ""


def test_failed_seeds_are_left_out_and_marked(tmp_path: Path) -> None:
    write_study(tmp_path)
    folder = write_run(tmp_path, "pmr", STRENGTHS, failed={6: "loss is not finite at epoch 4"})
    arrays = predictions(2, STRENGTHS)
    arrays["probs"][:] = np.nan
    write_predictions(folder / "seed-2", "test", arrays)
    found = comparison(tmp_path)
    cell = row(found.blocks[0], "pmr").cells["accuracy"]
    assert cell.summary.n == 4
    assert np.isfinite(cell.summary.mean or np.nan)
    sheet = sheets(found)[0]
    assert next(entries[1].text for entries in sheet.rows if entries[0].text == "pmr") == "4/6"
    assert "pmr: seed 6 failed and is left out (loss is not finite at epoch 4)." in sheet.notes
    assert "pmr: seed 2 failed and is left out (its probabilities are not finite)." in sheet.notes


def test_seeds_that_failed_for_one_reason_are_one_sentence() -> None:
    many = dict.fromkeys((2, 3, 4, 9), "not finite") | {7: "no gradient"}
    assert list(failures(many, "pmr")) == [
        "pmr: seeds 2-4, 9 failed and are left out (not finite).",
        "pmr: seed 7 failed and is left out (no gradient).",
    ]
    assert list(failures({7: "no gradient"})) == ["Seed 7 failed and is left out (no gradient)."]


def test_runs_without_a_finished_seed_are_shown_as_such(tmp_path: Path) -> None:
    write_study(tmp_path)
    folder = write_run(tmp_path, "pmr", {}, seeds=())
    (folder / ".job-1-2").mkdir()
    found = comparison(tmp_path)
    (block,) = found.blocks
    assert block.rows[-1].label == "pmr"
    assert [entry.text for entry in sheets(found)[0].rows[-1]] == ["pmr", "0", "–", "–", "–", "–"]
    assert "No finished seed yet: pmr." in notes(found)
    assert found.complete


def test_only_unfinished_runs_make_a_table_and_a_finding(tmp_path: Path) -> None:
    write_run(tmp_path, "pmr", {}, seeds=())
    found = comparison(tmp_path)
    assert not found.complete
    assert "No finished seed yet" in notes(found)


def test_one_unreadable_run_does_not_cost_the_table(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    (study["arl"] / "seed-3" / "predictions-test.safetensors").write_bytes(b"torn")
    found = comparison(tmp_path)
    assert list(found.unreadable) == [study["arl"].name]
    assert len(found.blocks[0].rows) == 6
    assert not found.complete


def test_namesakes_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    for alpha in (0.1, 0.3):
        write_run(tmp_path, "ogm", STRENGTHS, config={"method": {"alpha": alpha}, "train": {"lr": 0.01}})
    for lr in (1, 2):
        config = {"train": {"lr": lr, "epochs": lr, "batch": lr}}
        write_run(tmp_path, "arl", STRENGTHS, config=config, note="reconstructed")
    (block,) = comparison(tmp_path).blocks
    labels = {each.label for each in block.rows}
    assert {"ogm [alpha=0.1]", "ogm [alpha=0.3]"} <= labels
    specs = {each.run.facts.spec[:8] for each in block.rows if each.run.facts.label == "arl"}
    assert {f"arl [{spec}] (reconstructed)" for spec in specs} <= labels


def test_given_labels_keep_the_given_order(tmp_path: Path) -> None:
    """Of comparable runs and of a run apart; a run without a given label keeps its own; a note is always shown."""
    study = write_study(tmp_path)
    empty = write_run(tmp_path, "pmr", {}, seeds=(), note="reconstructed")
    other = write_run(tmp_path, "uniform", STRENGTHS, split="two", note="reconstructed")
    again = write_run(tmp_path, "sum", STRENGTHS, split="two")
    order = [other, empty, study["lfm-h"], again, study["concat"], study["unimodal:audio"], study["arl"]]
    labels = {folder.name: f"row {i}" for i, folder in enumerate(order[:-1])}
    found = compare([read_run(folder) for folder in order], ["accuracy"], sort_by="nll", labels=labels)
    main, apart = found.blocks
    assert [each.label for each in main.rows] == ["row 1 (reconstructed)", "row 2", "row 4", "row 5", "arl"]
    assert [each.label for each in apart.rows] == ["row 0 (reconstructed)", "row 3"]
    assert (main.apart, "split is " in apart.apart) == ("", True)
    usual = compare([read_run(folder) for folder in order], ["accuracy"], sort_by="nll").blocks
    for mine, theirs in zip((main, apart), usual, strict=True):
        rows = {each.run.name: each for each in theirs.rows}
        assert {name: each.cells for name, each in rows.items()} == {each.run.name: each.cells for each in mine.rows}
        assert mine.samples == theirs.samples
        assert {each.label for each in mine.versus} <= {"row 4", "row 5"}


def test_absent_class_is_noted(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "arl", STRENGTHS, seeds=(1,))
    arrays = predictions(1, STRENGTHS)
    arrays["labels"] = np.minimum(arrays["labels"], 1)
    write_predictions(folder / "seed-1", "test", arrays)
    assert "No sample here of joy: left out of macro-F1 and mAP." in notes(comparison(tmp_path))


def test_encoders_and_selection_are_named(tmp_path: Path) -> None:
    write_study(tmp_path)
    text = notes(comparison(tmp_path))
    assert "Hand-made descriptors (audio: logmel-stats, video: hog-motion)" in text
    assert "epoch selected by validation accuracy" in text


def test_intervals_end_where_the_metric_does(tmp_path: Path) -> None:
    """Two seeds far apart give wide intervals, but no accuracy beyond 100% and no loss below 0."""
    labels = np.arange(40) % 3
    right = np.eye(3)[labels] * 0.9 + 0.1 / 3
    folder = write_run(tmp_path, "concat", {"audio": 1.0}, seeds=(1, 2), samples=40)
    for seed, share in ((1, 40), (2, 30)):
        probs = np.where(np.arange(40)[:, None] < share, right, np.roll(right, 1, axis=1))
        arrays = {"probs": probs, "labels": labels} | {
            "logits/audio": np.log(probs),
            "present/audio": np.ones(40, np.uint8),
        }
        write_predictions(folder / f"seed-{seed}", "test", arrays)
    (block,) = compare([read_run(folder)], ("accuracy", "nll", "brier")).blocks
    for key, most in (("accuracy", 1.0), ("nll", np.inf), ("brier", 2.0)):
        found = block.rows[0].cells[key].estimate
        assert 0 <= found.low < found.mean < found.high <= most, key
