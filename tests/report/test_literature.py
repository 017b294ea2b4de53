"""The ledger of published figures: complete, named as ours, never mixed with ours."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from mmbal_cli.methods import METHODS
from mmbal_cli.report.literature import known_datasets, ledger, literature
from mmbal_cli.report.metrics import METRICS
from tests.kit.cli import Inside
from tests.kit.runs import write_run

FIGURES = {"lfm-poster": 208, "balancebenchmark": 276}


def test_every_published_figure_is_there_under_names_of_ours() -> None:
    for source, count in FIGURES.items():
        assert sum(len(each.figures) for each in ledger() if each.source == source) == count
    figures = [figure for each in ledger() for figure in each.figures]
    assert {figure.method for figure in figures} <= set(METHODS)
    assert {figure.metric for figure in figures} <= set(METRICS)
    assert all(0 < figure.percent < 100 for figure in figures)


@pytest.mark.parametrize(
    ("dataset", "source", "row", "metric", "percent", "spread"),
    [
        ("cremad", "lfm-poster", "Ours-LB", "map", 90.06, 1.09),
        ("nvgesture", "lfm-poster", "Unimodal-3", "accuracy", 81.54, None),
        ("cremad", "balancebenchmark", "MBSD", "accuracy", 74.86, None),
        ("vggsound", "balancebenchmark", "UMT", "macro_f1", 50.48, None),
    ],
)
def test_single_figures(dataset: str, source: str, row: str, metric: str, percent: float, spread: float | None) -> None:
    (published,) = (each for each in literature([dataset]) if each.source == source)
    (figure,) = (each for each in published.figures if (each.row, each.metric) == (row, metric))
    assert (figure.percent, figure.plus_minus) == (percent, spread)


def test_names_of_data_sets_are_tolerant() -> None:
    for name, usual in {
        "CREMA-D": "cremad",
        "KS": "kinetics-sounds",
        "Food_101": "food101",
        "CMU-MOSEI": "mosei",
    }.items():
        assert {each.dataset for each in literature([name])} == {usual}
    assert literature(["demo"]) == []
    assert "cremad" in known_datasets()


def test_a_sheet_names_the_protocol_and_what_is_doubtful() -> None:
    sheets = [each.sheet() for each in literature(["sarcasm"])]
    (sheet,) = sheets
    assert "not comparable with ours" in sheet.caution
    assert "fine-tuned" in sheet.caution
    (row,) = (row for row in sheet.rows if row[0].text == "ML-LSTM")
    assert [cell.text for cell in row] == ["ML-LSTM", "ml-lstm", "82.05", "70.73?"]
    assert any("copying slip" in note for note in sheet.notes)


@pytest.mark.parametrize("mismatch", ["trained from scratch", "selected on test", "truncated test set", "single run"])
def test_every_kind_of_mismatch_is_named(mismatch: str) -> None:
    assert any(mismatch in each.caution for each in literature(["cremad"]))


def test_compare_prints_them_apart(tmp_path: Path, inside: Inside) -> None:
    write_run(tmp_path / "runs", "concat", {"audio": 2.0, "video": 1.0}, dataset="cremad")
    plain = inside("compare", cwd=tmp_path).stdout
    both = inside("compare", "--with-literature", cwd=tmp_path).stdout
    assert both.startswith(plain.rstrip())
    assert both.count("Published figures, not comparable") == 2
    found = json.loads(inside("compare", "--with-literature", "-f", "json", cwd=tmp_path).stdout)
    assert [each["source"] for each in found["literature"]] == ["lfm-poster", "balancebenchmark"]
    assert "literature" not in json.loads(inside("compare", "-f", "json", cwd=tmp_path).stdout)
    lines = list(csv.DictReader(io.StringIO(inside("compare", "--with-literature", "-f", "csv", cwd=tmp_path).stdout)))
    (line,) = (each for each in lines if each["label"] == "Ours-LB" and each["metric"] == "map")
    assert (line["split"], line["mean"], line["run"]) == ("published", "0.9006", "")


def test_where_nothing_is_published_it_says_so(tmp_path: Path, inside: Inside) -> None:
    write_run(tmp_path / "runs", "concat", {"audio": 2.0, "video": 1.0}, dataset="own")
    done = inside("compare", "--with-literature", cwd=tmp_path)
    assert "No published figures for own; there are some for balanced-av, cremad" in done.stderr
    assert "Published" not in done.stdout


@pytest.mark.parametrize(
    ("format", "head", "figure"),
    [
        ("table", "Published figures, not comparable", "90.06 ± 1.09"),
        ("md", "**Published figures, not comparable", "| 90.06 ± 1.09 |"),
        ("latex", "\\textbf{Published figures, not comparable", "90.06 $\\pm$ 1.09"),
        ("html", '<p class="caution" role="note">Published figures, not comparable', "90.06<span"),
    ],
)
def test_every_format_names_the_protocol(tmp_path: Path, inside: Inside, format: str, head: str, figure: str) -> None:
    write_run(tmp_path / "runs", "concat", {"audio": 2.0, "video": 1.0}, dataset="cremad")
    shown = inside("compare", "--with-literature", "-f", format, cwd=tmp_path).stdout
    assert shown.count(head) == 2
    assert figure in shown
