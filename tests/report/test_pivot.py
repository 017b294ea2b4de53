"""Turned tables: every figure at its place, nothing that is not comparable in one table, n where it differs."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from mmbal_cli.errors import UsageError
from mmbal_cli.report import export
from mmbal_cli.report.compare import Comparison, compare
from mmbal_cli.report.pivot import AXES, parse_axes, pivot
from mmbal_cli.report.runs import STAMP, find_runs, read_run
from mmbal_cli.report.settings import Look
from mmbal_cli.report.tables import Sheet
from tests.kit.runs import write_run, write_study

METRICS = ["accuracy", "nll"]


def compared(root: Path) -> Comparison:
    return compare([read_run(folder) for folder in find_runs([], root)], METRICS)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two data sets; one has a method more, one a run with fewer seeds and a failed one."""
    root = tmp_path_factory.mktemp("two")
    write_study(root)
    write_run(root, "concat", {"audio": 1.0, "video": 0.4}, dataset="other", fingerprint="two")
    write_run(root, "arl", {"audio": 1.4}, dataset="other", fingerprint="two", seeds=(1, 2), failed={3: "diverged"})
    return compared(root)


def cells(sheet: Sheet) -> dict[tuple[str, ...], str]:
    """{(row texts..., column name): mean}, repeated row texts filled in."""
    found, before = {}, [""] * sheet.left
    for row in sheet.rows:
        left = [entry.text or old for entry, old in zip(row[: sheet.left], before, strict=True)]
        before = left
        for name, entry in zip(sheet.names[sheet.left :], row[sheet.left :], strict=True):
            found[(*left, name)] = entry.text
    return found


def test_the_wide_table_of_the_literature(two: Comparison) -> None:
    (sheet,) = pivot(two, ["method"], ["dataset", "metric"])
    assert sheet.names == ["method", "demo accuracy", "demo NLL", "other accuracy", "other NLL"]
    assert sheet.spans == [("", 1), ("demo", 2), ("other", 2)]
    assert sheet.title == "method by dataset, metric · test"
    assert [row[0].text for row in sheet.rows][:4] == [
        "unimodal:audio",
        "unimodal:video",
        "unimodal-ensemble",
        "concat",
    ]
    assert sheet.rules == {4}
    table = cells(sheet)
    for block, name in zip(two.blocks, ("demo", "other"), strict=True):
        for row in block.rows:
            for key, title, scale, digits in (("accuracy", "accuracy", 100, 2), ("nll", "NLL", 1, 3)):
                mean = np.mean(list(row.cells[key].values.values())) * scale
                assert table[row.label, f"{name} {title}"] == f"{mean:.{digits}f}"
    assert table["ogm-ge", "other accuracy"] == "–"
    odd = [entry.remark for row in sheet.rows for entry in row if entry.remark]
    assert odd == ["n=2", "n=2"]
    notes = " ".join(sheet.notes)
    assert "n = 5 seeds unless the cell says otherwise" in notes
    assert "other, arl: seed 3 failed and is left out (diverged)." in notes


def test_marks_and_ranks_are_among_the_methods_of_one_data_set_and_metric(two: Comparison) -> None:
    (wide,) = pivot(two, ["method"], ["dataset", "metric"])
    (tall,) = pivot(two, ["dataset", "metric"], ["method"])
    for column in range(1, len(wide.heads)):
        entries = [row[column] for row in wide.rows]
        values = {entry.text: float(entry.text) for entry in entries if entry.text != "–"}
        ordered = sorted(values.values(), reverse="NLL" not in wide.names[column])
        assert [float(e.text) for e in entries if e.rank == 1] == ordered[:1]
        assert [float(e.text) for e in entries if e.rank == 2] == ordered[1:2]
        across = tall.rows[column - 1][2:]
        assert [(e.text, e.mark, e.rank) for e in across] == [(e.text, e.mark, e.rank) for e in entries]
    best = [entry for row in wide.rows for entry in row if entry.mark == "best"]
    assert all(entry.rank == 1 for entry in best)
    assert len(best) == 4


@pytest.mark.parametrize("turn", range(3))
def test_every_way_to_turn_it_shows_the_same_figures(two: Comparison, turn: int) -> None:
    """Against a dictionary made by hand; each seed is a figure of its own."""
    titles = {"accuracy": "accuracy", "nll": "NLL"}
    truth = {}
    for block, key in itertools.product(two.blocks, METRICS):
        for row in block.rows:
            for seed, value in row.cells[key].values.items():
                shown_as = f"{value * 100:.2f}" if key == "accuracy" else f"{value:.3f}"
                truth[row.label, block.facts.dataset, titles[key], str(seed)] = shown_as
    for order in list(itertools.permutations(AXES))[turn::3]:
        (sheet,) = pivot(two, order[:2], order[2:])
        shown = {key: text for key, text in cells(sheet).items() if text != "–"}
        place = [AXES.index(axis) for axis in order]
        expected = {}
        for known, text in truth.items():
            names = [f"seed {known[i]}" if AXES[i] == "seed" and n > 1 else known[i] for n, i in enumerate(place)]
            expected[names[0], names[1], f"{names[2]} {names[3]}"] = text
        assert shown == expected, order


def test_unnamed_axes_make_a_sheet_for_each_of_their_values(two: Comparison) -> None:
    sheets = pivot(two, ["seed"], ["method"])
    assert [sheet.title for sheet in sheets] == [
        f"{dataset} · {metric} · seed by method · test"
        for dataset in ("demo", "other")
        for metric in ("accuracy", "NLL")
    ]
    assert [len(sheet.rows) for sheet in sheets] == [5, 5, 5, 5]
    assert cells(sheets[2])["3", "arl"] == "–"
    best = [max(float(e.text) for e in row[1:]) for row in sheets[0].rows]
    assert [next(float(e.text) for e in row if e.rank == 1) for row in sheets[0].rows] == best
    (sheet, *_) = pivot(two, ["dataset"], ["method"])
    assert sheet.title == "accuracy · dataset by method · test"


def test_what_is_not_comparable_stands_apart(tmp_path: Path) -> None:
    write_study(tmp_path)
    write_run(tmp_path, "concat", {"audio": 1.0}, split="another")
    write_run(tmp_path, "arl", {"audio": 1.3}, dataset="other", fingerprint="two")
    main, apart = pivot(compared(tmp_path), ["method"], ["dataset", "metric"])
    assert not main.caution
    assert {text for text, _ in main.spans} == {"", "demo", "other"}
    assert apart.caution.startswith("Not comparable with the table above: split is")
    assert [row[0].text for row in apart.rows] == ["concat"]
    assert len(apart.heads) == 3


def test_hidden_rows_still_take_part_in_the_marks(two: Comparison) -> None:
    (whole,) = pivot(two, ["method"], ["dataset", "metric"])
    runs = [row.run for block in two.blocks for row in block.rows]
    part = compare(runs, METRICS, look=Look(drop=("^arl$",)))
    (sheet,) = pivot(part, ["method"], ["dataset", "metric"])
    assert [row for row in whole.rows if row[0].text != "arl"] == list(sheet.rows)
    assert "demo: 1 rows are hidden; they take part in every mark and rank." in sheet.notes


def test_figures_selected_on_test_are_stamped(tmp_path: Path) -> None:
    protocol = {"name": "legacy", "selection": "test accuracy"}
    write_study(tmp_path)
    write_run(tmp_path, "concat", {"audio": 1.3}, dataset="other", fingerprint="two", protocol=protocol)
    (sheet,) = pivot(compared(tmp_path), ["method"], ["dataset", "metric"])
    assert STAMP in sheet.caution
    stamped = [row for row in sheet.rows if STAMP in row[0].text]
    assert [[entry.text for entry in row[1:3]] for row in stamped] == [["–", "–"]]


def test_one_seed_has_no_spread_and_the_note_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, "concat", {"audio": 1.0}, seeds=(1,))
    write_run(tmp_path, "arl", {"audio": 1.3}, seeds=())
    (sheet,) = pivot(compared(tmp_path), ["method"], ["metric"])
    assert [entry.spread for row in sheet.rows for entry in row] == [""] * 6
    assert sheet.notes[0] == "One seed, which has no standard deviation, in percent (NLL in nats)."
    assert "demo: no finished seed yet: arl." in sheet.notes


def test_axes_of_a_user() -> None:
    assert parse_axes("method", "dataset,metric") == (("method",), ("dataset", "metric"))
    assert parse_axes("Methods", " Seeds ") == (("method",), ("seed",))
    assert parse_axes("dataset", None) == (("dataset",), ("method",))
    assert parse_axes(None, "metric") == (("method",), ("metric",))
    assert parse_axes("method,dataset,metric", None)[1] == ("seed",)
    assert parse_axes("method", None) == (("method",), ("dataset", "metric"))


@pytest.mark.parametrize(
    ("rows", "cols", "message"),
    [
        ("methd", "metric", r"Unknown axis 'methd'.*Did you mean 'method'.*dataset, method, metric, seed"),
        ("method", "metric,method", r"The axis method is named twice.*method, dataset, metric, seed"),
        ("seed,seed", "metric", "The axis seed is named twice"),
        ("method,dataset,metric,seed", None, "Every axis is on one side"),
        ("", "metric", "--rows names no axis"),
    ],
)
def test_wrong_axes(rows: str, cols: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_axes(rows, cols)


def test_all_formats_take_a_turned_table(two: Comparison) -> None:
    sheets = pivot(two, ["method"], ["dataset", "metric"])
    assert "\\multicolumn{2}{c}{demo} & \\multicolumn{2}{c}{other}" in export.latex(sheets)
    assert '<th scope="colgroup" colspan="2">demo</th>' in export.html_tables(sheets)
    assert "| method | demo accuracy | demo NLL | other accuracy | other NLL |" in export.markdown(sheets)
    lines = export.plain(sheets).splitlines()
    assert lines[1].split() == ["demo", "demo", "other", "other"]
    assert lines[2].split() == ["method", "accuracy", "NLL", "accuracy", "NLL"]
