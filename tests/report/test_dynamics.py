"""Records of all seeds as arrays, and as sparklines: gaps, torn lines, failed and running seeds, several phases."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from mmbal_cli.errors import UsageError
from mmbal_cli.report.dynamics import Dynamics, document, dynamics, families, lines, scale
from mmbal_cli.report.runs import read_run
from mmbal_cli.report.sparklines import BLOCKS, PLAIN, WIDTH, sheets, sparkline
from tests.kit.runs import write_run

STRENGTHS = {"audio": 1.6, "video": 1.1}


def record(epoch: int, **values: Any) -> dict[str, Any]:
    return {"epoch": epoch, "phase": "train", **{k.replace("__", "/"): v for k, v in values.items()}}


def write_records(folder: Path, records: list[dict[str, Any]], tail: str = "") -> None:
    (folder / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records) + tail)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path, "arl", STRENGTHS, seeds=(1, 2, 3))


def course(epochs: int, offset: float) -> list[dict[str, Any]]:
    return [record(e, val__accuracy=offset + e / 100, train__loss=1 / e) for e in range(1, epochs + 1)]


def test_arrays_hold_every_value_of_every_seed(folder: Path) -> None:
    for seed in (1, 2, 3):
        write_records(folder / f"seed-{seed}", course(4, seed / 10))
    found = dynamics(read_run(folder))
    assert found.seeds == (1, 2, 3)
    assert found.columns == ("val/accuracy", "train/loss")
    assert found.epochs.tolist() == [1, 2, 3, 4]
    expected = np.array([[s / 10 + e / 100 for e in (1, 2, 3, 4)] for s in (1, 2, 3)])
    np.testing.assert_allclose(found.values("val/accuracy"), expected)
    band = found.band("val/accuracy")
    np.testing.assert_allclose(band.mean, expected.mean(axis=0))
    np.testing.assert_allclose(band.high - band.mean, expected.std(axis=0, ddof=1))
    np.testing.assert_allclose(band.mean - band.low, expected.std(axis=0, ddof=1))
    assert band.n.tolist() == [3, 3, 3, 3]


def test_gaps_nulls_and_unequal_lengths_are_nan_and_lower_n(folder: Path) -> None:
    write_records(folder / "seed-1", course(4, 0.1))
    write_records(folder / "seed-2", [record(1, val__accuracy=None), record(3, val__accuracy=0.5, coef__k=2.0)])
    write_records(folder / "seed-3", [])
    found = dynamics(read_run(folder))
    values = found.values("val/accuracy")
    assert np.isnan(values[1]).tolist() == [True, True, False, True]
    assert np.isnan(values[2]).all()
    band = found.band("val/accuracy")
    assert band.n.tolist() == [1, 1, 2, 1]
    assert np.isnan(band.low[[0, 1, 3]]).all()
    assert math.isclose(band.mean[2], (0.13 + 0.5) / 2)
    assert np.isnan(found.band("no/such").mean).all()
    assert found.values("no/such").shape == (3, 4)


def test_values_that_are_no_finite_numbers_are_nan_and_texts_no_columns(folder: Path) -> None:
    rows = '{"epoch": 1, "val/nll": NaN, "grad/audio": Infinity, "alive": true, "note": "x", "deep": {"a": 1}}\n'
    rows += f'{{"epoch": 2, "grad/audio": {"9" * 400}}}\n{{"no": "epoch"}}\n{{"epoch": "two"}}\n'
    (folder / "seed-1" / "records.jsonl").write_text(rows)
    found = dynamics(read_run(folder))
    assert np.isnan(found.values("val/nll")[0]).all()
    assert np.isnan(found.values("grad/audio")[0]).all()
    assert found.values("alive")[0, found.epochs.tolist().index(1)] == 1.0
    assert "note" not in found.columns
    assert "deep" not in found.columns


def test_a_resumed_run_counts_the_last_record_of_an_epoch(folder: Path) -> None:
    write_records(folder / "seed-1", [record(1, val__accuracy=0.1), record(1, val__accuracy=0.9)])
    assert dynamics(read_run(folder)).values("val/accuracy")[0].tolist()[1] == 0.9  # epoch 0 is of the other seeds


def test_torn_damaged_and_missing_records_are_named(folder: Path) -> None:
    write_records(folder / "seed-1", course(2, 0.1), tail='{"epoch": 3, "val/acc')
    (folder / "seed-2" / "records.jsonl").write_text('{"epoch": 1}\n{torn}\n{"epoch": 3}\n')
    (folder / "seed-3" / "records.jsonl").unlink()
    found = dynamics(read_run(folder))
    assert found.seeds == (1,)
    assert set(found.unreadable) == {2, 3}
    assert "line 2" in found.unreadable[2]
    assert "cannot be read" in found.unreadable[3]
    assert any("torn" in note for note in found.notes)
    text = "\n".join(sheets([found], 1)[-1].notes)
    assert "seed 2" in text
    assert "torn" in text


def test_failed_seeds_are_in_the_arrays_and_not_in_the_means(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "arl", STRENGTHS, seeds=(1, 2), failed={3: "loss was not finite at step 7"})
    write_records(folder / "seed-1", course(3, 0.1))
    write_records(folder / "seed-2", course(3, 0.3))
    write_records(folder / "seed-3", course(2, 0.9))
    found = dynamics(read_run(folder))
    assert found.status == ("done", "done", "failed")
    assert found.failed == {3: "loss was not finite at step 7"}
    np.testing.assert_allclose(found.band("val/accuracy").mean, [0.21, 0.22, 0.23])
    (sheet, *_) = sheets([found], 1)
    assert sheet.rows[0][1].text == "2/3"
    assert any("seed 3 failed" in note and "not finite" in note for note in sheets([found], 1)[-1].notes)


def test_when_every_seed_failed_the_curves_are_theirs_and_said_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "arl", STRENGTHS, seeds=(), failed={1: "not finite"})
    write_records(folder / "seed-1", course(3, 0.1))
    found = dynamics(read_run(folder))
    np.testing.assert_allclose(found.band("val/accuracy").mean, [0.11, 0.12, 0.13])
    (sheet, *_) = sheets([found], 1)
    assert sheet.rows[0][1].text == "0/1"
    assert any("every seed failed" in note for note in sheets([found], 1)[-1].notes)


def test_seeds_in_progress_are_read_from_their_job(folder: Path) -> None:
    job = folder / ".job-4-5"
    job.mkdir()
    rows = [record(1, seed=s, val__accuracy=0.2) for s in (4, 5)] + [record(2, seed=4, val__accuracy=0.3)]
    write_records(job, [*rows, record(1, seed=1, val__accuracy=0.0)], tail='{"seed": 5, "ep')
    found = dynamics(read_run(folder))
    assert found.seeds == (1, 2, 3, 4, 5)
    assert found.status[3:] == ("running", "running")
    assert found.values("val/accuracy")[0, 0] == 0.5  # an ended seed keeps its own records
    assert found.values("val/accuracy")[3].tolist()[-2:] == [0.2, 0.3]
    assert any("seed 4, 5 in progress" in note for note in sheets([found], 1)[-1].notes)


def test_phases_are_stretches_of_epochs(folder: Path) -> None:
    rows = [{"epoch": e, "phase": "teach" if e < 3 else "train", "val/accuracy": 0.5} for e in (1, 2, 3, 4, 5)]
    for seed in (1, 2, 3):
        write_records(folder / f"seed-{seed}", rows)
    found = dynamics(read_run(folder))
    assert [tuple(phase) for phase in found.phases] == [("teach", 1, 2), ("train", 3, 5)]
    assert any("teach 1-2, train 3-5" in note for note in sheets([found], 1)[-1].notes)
    table = lines([found])
    assert {(row[4], row[5]) for row in table[1:]} == {
        *(("teach", e) for e in (1, 2)), *(("train", e) for e in (3, 4, 5)),
    }  # fmt: skip


def test_sparkline_covers_its_scale_and_never_leaves_it() -> None:
    assert sparkline(np.linspace(0, 1, 8), 0, 1) == BLOCKS
    assert sparkline(np.array([-5.0, 0, 1, 9]), 0, 1) == "▁▁██"
    assert sparkline(np.array([0.5, np.nan, 0.5]), 0.5, 0.5) == "▁ ▁"
    assert sparkline(np.linspace(0, 1, 500), 0, 1, width=8) == BLOCKS
    assert sparkline(np.linspace(0, 1, 8), 0, 1, PLAIN) == PLAIN
    assert sparkline(np.array([]), 0, 1) == ""


def two(tmp_path: Path) -> list[Dynamics]:
    found = []
    for label, low, own in (("arl", 0.2, "coef/k/audio"), ("ogm-ge", 0.6, "coef/gamma")):
        folder = write_run(tmp_path, label, STRENGTHS, seeds=(1, 2))
        rows = [
            {"epoch": e, "val/accuracy": low + e / 50, "val/accuracy/video": low, "val/accuracy/audio": low + 0.1,
             "train/loss": 2 / e, "seconds": 0.1, own: e}
            for e in range(1, 11)
        ]  # fmt: skip
        for seed in (1, 2):
            write_records(folder / f"seed-{seed}", rows)
        found.append(dynamics(read_run(folder)))
    return found


def test_all_runs_share_the_scale_of_a_family_so_that_curves_overlay(tmp_path: Path) -> None:
    many = two(tmp_path)
    found = families(many)
    assert [family.name for family in found] == ["val/accuracy", "train/loss", "coef/gamma", "coef/k"]
    assert [head for head, _ in found[0].columns] == ["fused", "audio", "video"]
    assert scale(many, found[0]) == pytest.approx((0.2, 0.8))
    made = sheets(many, 1)
    assert [sheet.heads for sheet in made] == [
        ["method", "n", "fused", "audio", "video"], ["method", "n", "value"], ["method", "name", "n", "value", "audio"],
    ]  # fmt: skip
    low, high = (row[2].text[:WIDTH].strip() for row in made[0].rows)
    assert max(map(BLOCKS.index, low)) < min(map(BLOCKS.index, high))  # the runs' ranges do not overlap
    assert made[0].rows[0][2].text.endswith("22.0→40.0")
    assert len(made[2].rows) == 2  # a coefficient is a row of the run that has it, and of no other


def test_columns_by_pattern_and_a_wrong_pattern(tmp_path: Path) -> None:
    many = two(tmp_path)
    assert [f.name for f in families(many, "^seconds$")] == ["seconds"]
    assert {row[6] for row in lines(many, "video")[1:]} == {"val/accuracy/video"}
    with pytest.raises(UsageError, match="No column fits"):
        families(many, "nothing")
    with pytest.raises(UsageError, match="no regular expression"):
        families(many, "(")


def test_document_and_lines_hold_the_same_numbers(tmp_path: Path) -> None:
    many = two(tmp_path)
    made = json.loads(json.dumps(document(many), allow_nan=False))
    assert (made["schema"], made["report"]) == (1, "dynamics")
    flat = {
        (run["run"], seed, epoch, column): value
        for run in made["runs"]
        for column, rows in run["columns"].items()
        for seed, row in zip(run["seeds"], rows, strict=True)
        for epoch, value in zip(run["epochs"], row, strict=True)
        if value is not None
    }
    assert flat == {(run, seed, epoch, column): value for run, _, seed, _, _, epoch, column, value in lines(many)[1:]}


def command(*args: str, encoding: str = "utf-8") -> Any:
    import typer

    from mmbal_cli.cli.dynamics import dynamics as run

    app = typer.Typer()
    app.command()(run)
    return CliRunner(charset=encoding, env={"COLUMNS": "140"}).invoke(app, list(args))


def test_command_prints_tables_csv_and_json(tmp_path: Path) -> None:
    two(tmp_path)
    shown = command("--runs", str(tmp_path))
    assert shown.exit_code == 0
    assert "█" in shown.stdout
    assert "22.0→40.0" in shown.stdout
    rows = list(csv.DictReader(io.StringIO(command("--runs", str(tmp_path), "-f", "csv", "--column", "coef").stdout)))
    assert len(rows) == 2 * 2 * 10
    assert {row["column"] for row in rows} == {"coef/gamma", "coef/k/audio"}
    made = json.loads(command("--runs", str(tmp_path), "-f", "json").stdout)
    assert len(made["runs"]) == 2
    assert "seconds" in made["runs"][0]["columns"]


def test_command_falls_back_to_ascii_where_the_encoding_has_no_blocks(tmp_path: Path) -> None:
    two(tmp_path)
    shown = command("--runs", str(tmp_path), encoding="latin-1")
    assert shown.exit_code == 0, shown.output
    assert "22.0>40.0" in shown.stdout
    assert not set(BLOCKS) & set(shown.stdout)


def test_command_names_damaged_records_and_exits_with_1(folder: Path) -> None:
    (folder / "seed-2" / "records.jsonl").write_text("{torn}\n{}\n")
    shown = command(str(folder))
    assert shown.exit_code == 1
    assert "seed 2" in shown.stderr


def test_widths_stay_within_a_usual_terminal(tmp_path: Path) -> None:
    assert all(cell_len(entry.text) <= 28 for sheet in sheets(two(tmp_path), 1) for row in sheet.rows for entry in row)
