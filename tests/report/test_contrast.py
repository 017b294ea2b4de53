"""Statistics of a comparison: intervals, ranks, differences to a baseline, settings, what is hidden."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mmbal_cli.errors import UsageError
from mmbal_cli.report.blocks import Block, Row
from mmbal_cli.report.compare import Comparison, compare
from mmbal_cli.report.contrast import CHOICES, Against
from mmbal_cli.report.inference import TESTS, holm, paired
from mmbal_cli.report.measure import correct, measure
from mmbal_cli.report.metrics import METRICS
from mmbal_cli.report.runs import find_runs, read_run
from mmbal_cli.report.settings import Look
from mmbal_cli.report.statistics import estimate
from mmbal_cli.report.tables import Sheet, natural_width, terminal
from mmbal_cli.report.views import LINE_HEAD, document, lines, sheets
from tests.kit.runs import PROTOCOL, predictions, write_predictions, write_run, write_study

STRENGTHS = {"audio": 1.5, "video": 0.5}


def comparison(root: Path, *names: str, **options: Any) -> Comparison:
    return compare([read_run(folder) for folder in find_runs([], root)], names or ("accuracy",), **options)


def row(block: Block, label: str) -> Row:
    return next(each for each in block.rows if each.label == label)


def notes(block: Comparison) -> str:
    return " ".join(note for sheet in sheets(block) for note in sheet.notes)


def texts(sheet: Sheet, head: str) -> dict[str, str]:
    """{label: text} of one column."""
    column = list(sheet.heads).index(head)
    return {entries[0].text.removesuffix(" †"): entries[column].text for entries in sheet.rows}


def test_every_cell_has_the_interval_of_its_mean(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    found = comparison(tmp_path, *METRICS)
    (block,) = found.blocks
    good, _ = read_run(study["arl"]).collect("test")
    for column in block.columns:
        cell = row(block, "arl").cells[column.key]
        if column.key == "top5":
            assert (cell.values, cell.estimate.mean, cell.rank) == ({}, None, 0)
            continue
        measured = measure(good, column.key.partition("/")[0], column.modality)
        assert asdict(cell.estimate) == pytest.approx(asdict(estimate(measured)))
        assert cell.values == pytest.approx(dict(measured.values))
        assert cell.estimate.over == "seeds and samples"
        assert (cell.estimate.low or 0) < (cell.estimate.mean or 0) < (cell.estimate.high or 0)
    assert "top-5 says nothing about 3 classes." in notes(found)
    sheet = sheets(found)[0]
    assert list(sheet.heads[:4]) == ["method", "n", "accuracy", "95% interval"]
    own = row(block, "arl").cells["accuracy"].estimate
    assert texts(sheet, "95% interval")["arl"] == f"[{100 * (own.low or 0):.2f}, {100 * (own.high or 0):.2f}]"


def test_best_and_second_are_ranked_and_equal_means_share_a_rank(tmp_path: Path) -> None:
    for label, fused in (("strong", 3.0), ("near", 2.6), ("weak", 0.3), ("weaker", 0.2)):
        write_run(tmp_path, label, STRENGTHS, fused=fused, samples=300)
    (block,) = comparison(tmp_path, "accuracy", "nll").blocks
    assert [each.cells["accuracy"].rank for each in block.rows] == [1, 2, 0, 0]
    best = min(block.rows, key=lambda each: each.mean("nll") or 0)
    assert best.cells["nll"].rank == 1
    assert {cell.rank for each in block.rows for key, cell in each.cells.items() if "/" in key} == {0}
    for label in ("copy", "copy-2"):
        folder = write_run(tmp_path, label, STRENGTHS, samples=300)
        for seed in range(1, 6):
            write_predictions(
                folder / f"seed-{seed}", "test", predictions(seed, STRENGTHS, name="strong", samples=300, fused=3.0)
            )
    (block,) = comparison(tmp_path).blocks
    ranks = {each.label: each.cells["accuracy"].rank for each in block.rows}
    assert ranks == {"strong": 1, "copy": 1, "copy-2": 1, "near": 0, "weak": 0, "weaker": 0}
    first = sheets(comparison(tmp_path))[0]
    assert {entries[0].text: entries[2].rank for entries in first.rows} == ranks


@pytest.mark.parametrize("test", CHOICES)
@pytest.mark.parametrize("correction", ["holm", "none"])
def test_contrasts_are_the_paired_tests_against_the_baseline(tmp_path: Path, test: str, correction: str) -> None:
    study = write_study(tmp_path)
    against = Against("concat", test, correction, 0.02)
    found = comparison(tmp_path, "accuracy", "nll", against=against)
    (block,) = found.blocks
    good = {label: read_run(folder).collect("test")[0] for label, folder in study.items()}
    others = [each.label for each in block.rows if each.label != "concat"]
    for key in ("accuracy", "nll"):
        right = key == "accuracy"
        base = measure(good["concat"], key)
        expected = {
            label: paired(
                measure(good[label], key),
                base,
                (correct(good[label]), correct(good["concat"])) if right else None,
            )
            for label in others
        }
        corrected = {name: holm([expected[label].p[name] for label in others]) for name in map(str, TESTS)}
        for place, label in enumerate(others):
            contrast = row(block, label).cells[key].contrast
            assert contrast is not None
            assert asdict(contrast.difference) == pytest.approx(asdict(expected[label].difference), abs=1e-12)
            assert contrast.p == expected[label].p
            assert contrast.holm == {name: ps[place] for name, ps in corrected.items()}
            counts = (contrast.holm if correction == "holm" else contrast.p)[against.chosen]
            assert contrast.counts == counts
            assert contrast.significant == (counts is not None and counts < 0.02)
            mean = contrast.difference.mean or 0
            assert contrast.better == (mean < 0 if key == "nll" else mean > 0)
    assert row(block, "concat").cells["accuracy"].contrast is None
    text = notes(found)
    assert f"p: {against.chosen} (" in text
    assert ("Holm-corrected for 6 comparisons" if correction == "holm" else "not corrected, 6 comparisons") in text
    assert "where p < 0.02" in text


def test_the_table_shows_difference_interval_p_and_marks(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    write_run(tmp_path, "broken", STRENGTHS, fused=0.0)
    found = comparison(tmp_path, "accuracy", "map", against=Against("concat"))
    (sheet,) = sheets(found, precision=1)
    assert list(sheet.heads[:8]) == ["method", "n", "accuracy", "95% interval", "Δ concat", "Δ 95%", "p (Holm)", "mAP"]
    (block,) = found.blocks
    contrast = row(block, "broken").cells["accuracy"].contrast
    assert contrast is not None
    mean, low, high = (100 * (each or 0) for each in (contrast.difference.mean, *list_of(contrast.difference)))
    assert mean < 0
    assert texts(sheet, "Δ concat")["broken"] == f"−{-mean:.1f}"
    assert texts(sheet, "Δ 95%")["broken"] == f"[−{-low:.1f}, −{-high:.1f}]"
    assert texts(sheet, "p (Holm)")["broken"] == f"{contrast.counts:.3f}"
    assert texts(sheet, "Δ concat")["concat"] == "base"
    marks = {entries[0].text: entries[4].mark for entries in sheet.rows}
    assert (marks["broken"], marks["concat"]) == ("below", "")
    assert "p (Holm)" not in sheets(comparison(tmp_path, against=Against("concat", correction="none")))[0].heads
    by_run = comparison(tmp_path, "accuracy", "map", against=Against(str(study["concat"]) + "/"))
    assert sheets(by_run, 1) == [sheet]


def list_of(found: Any) -> tuple[float, float]:
    return found.low, found.high


def test_a_test_that_cannot_reach_the_level_warns(tmp_path: Path) -> None:
    write_study(tmp_path)
    found = comparison(tmp_path, against=Against("concat", "sign-flip"))
    assert "With 5 paired seeds the sign-flip test cannot go below p = 0.0625" in notes(found)
    assert not any(
        each.cells["accuracy"].contrast.significant for each in found.blocks[0].rows if each.label != "concat"
    )
    assert "cannot go below" not in notes(comparison(tmp_path, against=Against("concat")))
    text = notes(comparison(tmp_path, "map", against=Against("concat", "mcnemar")))
    assert "it has a p for accuracy only" in text
    assert set(
        texts(sheets(comparison(tmp_path, "map", against=Against("concat", "mcnemar")))[0], "p (Holm)").values()
    ) == {
        "–",
        "",
    }


def test_a_baseline_that_is_not_there_is_said(tmp_path: Path) -> None:
    write_study(tmp_path)
    write_run(tmp_path, "arl", STRENGTHS, dataset="actions", fingerprint="two")
    found = comparison(tmp_path, against=Against("concat"))
    first, second = found.blocks
    assert (first.facts.dataset, first.baseline and first.baseline.label) == ("actions", "")
    sheet = sheets(found)[0]
    assert "No differences to 'concat' here: it is not among these runs." in sheet.notes
    assert "Δ concat" not in sheet.heads
    assert second.baseline is not None
    assert second.baseline.comparisons == {"accuracy": 6}
    with pytest.raises(UsageError, match=r"No compared run is 'concta' .*Did you mean 'concat'"):
        comparison(tmp_path, against=Against("concta"))


def test_an_unfinished_or_ambiguous_baseline(tmp_path: Path) -> None:
    write_run(tmp_path, "arl", STRENGTHS)
    write_run(tmp_path, "concat", {}, seeds=())
    found = comparison(tmp_path, against=Against("concat"))
    assert "No differences to 'concat' here: it has no finished seed." in notes(found)
    for alpha in (0.1, 0.3):
        write_run(tmp_path, "ogm", STRENGTHS, config={"method": {"alpha": alpha}})
    with pytest.raises(UsageError, match=r"'ogm' names 2 rows.*'ogm \[alpha=0.1\]', 'ogm \[alpha=0.3\]'"):
        comparison(tmp_path, against=Against("ogm"))
    (block,) = comparison(tmp_path, against=Against("ogm [alpha=0.3]")).blocks
    assert block.baseline is not None
    assert block.baseline.label == "ogm [alpha=0.3]"


def test_rows_without_a_common_seed_have_no_difference(tmp_path: Path) -> None:
    write_study(tmp_path)
    write_run(tmp_path, "elsewhere", STRENGTHS, seeds=(21, 22))
    write_run(tmp_path, "few", STRENGTHS, seeds=(2, 3, 9))
    found = comparison(tmp_path, against=Against("concat"))
    (block,) = found.blocks
    assert row(block, "elsewhere").cells["accuracy"].contrast is None
    assert texts(sheets(found)[0], "Δ concat")["elsewhere"] == "–"
    assert "No seed in common with concat, so no difference: elsewhere." in notes(found)
    few = row(block, "few").cells["accuracy"].contrast
    assert few is not None
    assert few.difference.n == 2
    assert block.baseline is not None
    assert (block.baseline.seeds, block.baseline.comparisons["accuracy"]) == (2, 7)


def test_hidden_rows_still_count(tmp_path: Path) -> None:
    write_study(tmp_path)
    against = Against("concat")
    whole = comparison(tmp_path, against=against)
    part = comparison(tmp_path, against=against, look=Look(keep=("^arl$", "^ogm"), drop=("-ge",)))
    (block,) = part.blocks
    assert [each.label for each in block.rows] == ["arl"]
    assert block.rows[0] == row(whole.blocks[0], "arl")
    assert set(block.hidden) == {each.label for each in whole.blocks[0].rows} - {"arl"}
    assert "6 rows are hidden" in notes(part)
    assert "Holm-corrected for 6 comparisons" in notes(part)
    assert block.intervals == whole.blocks[0].intervals > 6
    assert f"{block.intervals} intervals, not corrected" in notes(part)
    assert document(part)["blocks"][0]["hidden"] == list(block.hidden)
    with pytest.raises(UsageError, match="leave no row"):
        comparison(tmp_path, look=Look(keep=("nothing",)))
    with pytest.raises(UsageError, match=r"--drop '\[a': unterminated character set"):
        Look(drop=("[a",))
    write_run(tmp_path, "other", STRENGTHS, dataset="actions", fingerprint="two")
    assert "All rows are hidden of a table on actions." in notes(comparison(tmp_path, look=Look(keep=("arl",))))


def test_single_seeds_have_no_sd_and_say_so(tmp_path: Path) -> None:
    write_study(tmp_path, seeds=(4,))
    found = comparison(tmp_path, against=Against("concat"))
    cell = row(found.blocks[0], "arl").cells["accuracy"]
    assert (cell.estimate.sd, cell.estimate.n, cell.estimate.over) == (None, 1, "samples")
    assert (cell.estimate.low or 1) < (cell.estimate.mean or 0) < (cell.estimate.high or 0)
    assert "One seed only: every row. It has no standard deviation, and its interval is over samples alone." in notes(
        found
    )
    assert {entries[2].spread for entries in sheets(found)[0].rows} == {""}
    contrast = cell.contrast
    assert contrast is not None
    assert (contrast.p["welch"], contrast.p["sign-flip"]) == (None, 1.0)
    write_run(tmp_path, "more", STRENGTHS)
    write_run(tmp_path, "again", STRENGTHS)
    assert "One seed only: unimodal:audio, unimodal:video" in notes(comparison(tmp_path))


def test_constant_predictions_and_a_single_class(tmp_path: Path) -> None:
    for label in ("concat", "flat"):
        folder = write_run(tmp_path, label, STRENGTHS)
        for seed in range(1, 6):
            arrays = predictions(seed, STRENGTHS, name=label)
            arrays["probs"][:] = [0.5, 0.3, 0.2]
            write_predictions(folder / f"seed-{seed}", "test", arrays)
    found = comparison(tmp_path, *METRICS, against=Against("concat"))
    contrast = row(found.blocks[0], "flat").cells["accuracy"].contrast
    assert contrast is not None
    assert (contrast.difference.mean, contrast.difference.low, contrast.difference.high) == (0, 0, 0)
    assert (contrast.p["paired-bootstrap"], contrast.p["mcnemar"], contrast.significant) == (1, 1, False)
    assert texts(sheets(found)[0], "Δ concat")["flat"] == "0.00"
    assert row(found.blocks[0], "flat").cells["map"].estimate.mean == pytest.approx(1 / 3)
    for path in tmp_path.glob("*/seed-*"):
        arrays = predictions(1, STRENGTHS)
        write_predictions(path, "test", arrays | {"labels": np.zeros(120, np.int64)})
    assert row(comparison(tmp_path, *METRICS).blocks[0], "flat").cells["map"].estimate.mean == 1


def test_legacy_runs_stand_apart_and_are_stamped(tmp_path: Path) -> None:
    write_study(tmp_path)
    write_run(tmp_path, "arl", STRENGTHS, protocol={**PROTOCOL, "name": "legacy", "selection": "test accuracy"})
    found = comparison(tmp_path, against=Against("concat"))
    main, apart = found.blocks
    assert [each.label for each in apart.rows] == ["arl (selected on TEST)"]
    sheet = sheets(found)[1]
    assert "Not comparable with the table above: epochs selected on TEST, not on validation." in sheet.caution
    assert "Rows marked 'selected on TEST' chose their epoch by test accuracy" in sheet.caution
    stamps = {each["stamp"] for block in document(found)["blocks"] for each in block["rows"]}
    assert stamps == {"", "selected on TEST"}
    assert "selected on TEST" not in sheets(found)[0].caution
    stamped = [line[LINE_HEAD.index("stamp")] for line in lines(found)[1:] if line[4].startswith("arl (")]
    assert set(stamped) == {"selected on TEST"}
    assert main.apart == ""


def test_narrow_terminals_lose_columns_in_the_stated_order(tmp_path: Path) -> None:
    for label, lr in (("concat", 1), ("arl", 2), ("ogm-ge", 2)):
        write_run(tmp_path, label, STRENGTHS, config={"train": {"lr": lr, "epochs": 7}})
    found = comparison(tmp_path, "accuracy", "map", "nll", against=Against("concat"), look=Look(params=True))
    (sheet,) = sheets(found)
    gone = [sheet.heads[i] for i in sheet.hide]
    assert gone == ["epochs", "lr", "95% interval", "p (Holm)", "Δ 95%", "acc video", "acc audio", "NLL", "mAP"]
    kept = [head for head in sheet.heads if head not in gone]
    assert kept == ["method", "n", "accuracy", "Δ concat"]
    console = Console(width=natural_width(sheet) - 1, record=True, file=io.StringIO())
    console.print(terminal(sheet, console.width))
    assert f"Hidden at width {console.width}: epochs" in console.export_text()


def test_settings_as_columns(tmp_path: Path) -> None:
    for label, lr, extra in (("concat", 0.01, {}), ("arl", 0.1, {}), ("ogm", 0.1, {"alpha": 0.30, "on": True})):
        write_run(tmp_path, label, STRENGTHS, config={"label": label, "knobs": extra, "train": {"lr": lr, "batch": 64}})
    shown = sheets(comparison(tmp_path, look=Look(params=True)))[0]
    assert list(shown.heads[-4:]) == ["lr", "batch", "alpha", "on"]
    assert texts(shown, "lr") == {"concat": "0.01", "arl": "0.1", "ogm": "0.1"}
    assert texts(shown, "alpha") == {"concat": "–", "arl": "–", "ogm": "0.3"}
    assert texts(shown, "on")["ogm"] == "on"
    found = comparison(tmp_path, look=Look(only_changed=True))
    assert list(sheets(found)[0].heads[-3:]) == ["lr", "alpha", "on"]
    assert document(found)["blocks"][0]["rows"][0]["settings"] == {"lr": "0.01", "alpha": "–", "on": "–"}
    same = comparison(tmp_path, look=Look(keep=("arl",), only_changed=True))
    assert sheets(same)[0].heads[-1] == "acc video"
    assert "The shown rows have the same settings." in notes(same)


def test_documents_have_every_test_raw_and_corrected(tmp_path: Path) -> None:
    write_study(tmp_path)
    found = comparison(tmp_path, "accuracy", "macro_f1", against=Against("concat", alpha=0.01))
    (block,) = document(found)["blocks"]
    facts = block["baseline"]
    assert (facts["label"], facts["test"], facts["correction"], facts["alpha"]) == (
        "concat",
        "paired-bootstrap",
        "holm",
        0.01,
    )
    assert facts["comparisons"] == {"accuracy": 6, "macro_f1": 6}
    for each in block["rows"]:
        for key in ("accuracy", "macro_f1"):
            cell = each["metrics"][key]
            assert cell["ci"][0] <= cell["mean"] <= cell["ci"][1]
            assert cell["over"] == "seeds and samples"
            if each["label"] == "concat":
                assert cell["baseline"] is None
                continue
            assert set(cell["baseline"]["p"]) == set(cell["baseline"]["holm"]) == set(map(str, TESTS))
            assert (cell["baseline"]["p"]["mcnemar"] is None) == (key == "macro_f1")
        assert each["metrics"]["accuracy/audio"]["baseline"] is None if "accuracy/audio" in each["metrics"] else True
    head, *table = lines(found)
    assert tuple(head) == LINE_HEAD
    assert {len(line) for line in table} == {len(head)}
    line = next(line for line in table if (line[4], line[9]) == ("arl", "accuracy"))
    arl = next(each for each in block["rows"] if each["label"] == "arl")["metrics"]["accuracy"]
    named = dict(zip(head, line, strict=True))
    assert named["p_holm"] == arl["baseline"]["holm"]["paired-bootstrap"]
    assert (named["difference"], named["comparisons"]) == (arl["baseline"]["difference"]["mean"], 6)
    assert [named["ci_low"], named["ci_high"]] == arl["ci"]
