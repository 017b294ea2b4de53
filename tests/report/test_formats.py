"""Every format from one comparison: exact text at a fixed width, and each machine format parses back."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from mmbal_cli.report import evaluate as evaluation
from mmbal_cli.report import export, views
from mmbal_cli.report.compare import Comparison, compare
from mmbal_cli.report.runs import find_runs, read_run
from mmbal_cli.report.tables import Entry, Sheet, literal, natural_width, number, reading, terminal, widths
from tests.kit.runs import write_predictions, write_run, write_study

HOSTILE = "[red]x\x1b[31m_$&%#{}~^|\\<b>`*\n\u009b"


def known(root: Path, label: str, wrong: dict[str, list[int]], **facts: object) -> None:
    """A run of 100 samples and three seeds where exactly `wrong` samples are misjudged by each part."""
    folder = write_run(root, label, {"audio": 1.0}, seeds=(1, 2, 3), samples=100, classes=("no", "yes"), **facts)  # type: ignore[arg-type]
    labels = np.arange(100) % 2
    for i, seed in enumerate((1, 2, 3)):
        arrays: dict[str, np.ndarray] = {"labels": labels}
        for part, counts in wrong.items():
            said = np.where(np.arange(100) < counts[i], 1 - labels, labels)
            logits = (np.eye(2)[said] * np.log(3.0)).astype(np.float32)  # probabilities 0.75 and 0.25
            if part == "fused":
                arrays |= {"logits": logits, "probs": np.where(np.eye(2)[said] > 0, 0.75, 0.25).astype(np.float32)}
            else:
                arrays |= {f"logits/{part}": logits, f"present/{part}": np.ones(100, np.uint8)}
        write_predictions(folder / f"seed-{seed}", "test", arrays)


@pytest.fixture
def small(tmp_path: Path) -> Comparison:
    known(tmp_path, "unimodal:audio", {"fused": [20, 22, 24], "audio": [20, 22, 24]})
    known(tmp_path, "unimodal:video", {"fused": [40, 40, 40], "video": [40, 40, 40]})
    known(tmp_path, "concat", {"fused": [12, 12, 12], "audio": [20, 21, 22], "video": [60, 62, 64]})
    known(tmp_path, "arl", {"fused": [11, 12, 16], "audio": [20, 22, 21], "video": [40, 42, 44]})
    return compare([read_run(folder) for folder in find_runs([], tmp_path)], ["accuracy", "nll"])


TABLE = """\
demo · test, 100 samples, 2 classes
method            n       accuracy    95% interval             NLL     acc audio      acc video
───────────────────────────────────────────────────────────────────────────────────────────────
unimodal:audio †  3   78.00 ± 2.00  [--.--, --.--]   0.529 ± 0.022  78.00 ± 2.00       –
unimodal:video    3   60.00 ± 0.00  [--.--, --.--]   0.727 ± 0.000      –          60.00 ± 0.00
concat            3  *88.00 ± 0.00  [--.--, --.--]  *0.420 ± 0.000  79.00 ± 1.00  ↓38.00 ± 2.00
───────────────────────────────────────────────────────────────────────────────────────────────
arl               3  ≈87.00 ± 2.65  [--.--, --.--]  ≈0.431 ± 0.029  79.00 ± 1.00   58.00 ± 2.00

· Mean ± sample standard deviation (divisor n − 1) over n seeds (1-3), in percent (NLL in nats).
· 95% interval: of the mean accuracy, for new seeds and new samples of this kind.
· acc M: accuracy of the logits of modality M inside the model, on the samples that have M.
· † best unimodal model; * best; ≈ not distinguishable from the best; ↓ below, ↑ above the
  modality's own unimodal model (95% intervals: paired bootstrap over seeds and samples, 10,000
  draws; 10 intervals, not corrected).
· By accuracy, 1 of 1 balancing methods are better than unimodal:audio, 1 distinguishably.
· By accuracy, 0 of 1 balancing methods are better than concat, 0 distinguishably.
· Data 7692c3ad, split 7692c3ad; epoch selected by validation accuracy.
· Hand-made descriptors (audio: logmel-stats, video: hog-motion), far below pretrained encoders;
  published figures cannot be reproduced with them.
"""


def test_the_table_reads_exactly_so(small: Comparison) -> None:
    shown = re.sub(r"\[\d\d\.\d\d, \d\d\.\d\d\]", "[--.--, --.--]", export.plain(views.sheets(small)))
    assert shown == TABLE


def rendered(sheet: Sheet, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None, _environ={})
    console.print(terminal(sheet, width))
    return console.file.getvalue()  # type: ignore[attr-defined]


BELOW = Entry("9.00", "1.00", "below")
SMALL = Sheet(
    "demo · test",
    ["method", "n", "accuracy", "NLL", "acc audio"],
    [
        [Entry("unimodal:audio †"), Entry("3"), Entry("78.00", "2.00"), Entry("0.529", "0.022"), Entry("–")],
        [Entry("concat"), Entry("3"), Entry("88.00", "0.00", "best", rank=1), Entry("0.420", "0.000"), Entry("79.00")],
        [Entry("arl"), Entry("3"), Entry("87.00", "12.65", "tied", rank=2), Entry("0.431"), BELOW],
    ],
    ["* best; ≈ not distinguishable from the best.", "Data 7692c3ad."],
    "Not comparable.",
    rules=frozenset({2}),
    hide=(3, 4),
)


def test_a_narrow_terminal_loses_columns_in_the_stated_order() -> None:
    sheet = SMALL
    natural = natural_width(sheet)
    assert "Hidden" not in rendered(sheet, natural)
    order = ["NLL", "acc audio"]
    seen = []
    for width in range(natural - 1, 36, -1):
        text = rendered(sheet, width)
        assert all(len(line) <= width for line in text.splitlines())
        assert "unimodal:audio †" in text or width < 40
        hidden = " ".join(text.split()).partition(f"Hidden at width {width}: ")[2].partition(" (a wider")[0]
        seen.append(hidden.split(", "))
    assert all(hidden == order[: len(hidden)] for hidden in seen)
    assert (seen[0], seen[-1]) == (["NLL"], order)


@pytest.mark.parametrize("width", [80, 40, 30, 20, 8, 1])
def test_no_terminal_is_too_narrow_and_wide_letters_take_two_columns(width: int) -> None:
    texts = ["表現方法😀", "e\u0301 unimodal:" + "x" * 90, "plain"]
    numbers = [Entry("漢", "字"), Entry("–"), Entry("1.00", "2.00", "tied", remark="n=4")]
    rows = [[Entry(text), Entry("fused"), each, each] for text, each in zip(texts, numbers, strict=True)]
    text = rendered(Sheet("方法 " * 9, ["方法", "part", "value", "更に"], rows, ["a note 漢字"], left=2), width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert "Hidden at width" in " ".join(text.split()) or width > 40 or width < 9
    if width == 80:
        (first, last) = (line for line in text.splitlines() if "± " in line)
        assert cell_len(first.partition("±")[0]) == cell_len(last.partition("±")[0])
        assert "字" in first
        assert "≈1.00 ± 2.00 (n=4)" in last


def test_long_labels_break_behind_a_sign() -> None:
    labels = ["unimodal-ensemble", "bmlmi (made)", "a b c d e f g", "x" * 30]
    sheet = Sheet("t", ["method", "value"], [[Entry(label), Entry("1" * 10)] for label in labels])
    lines = [line.split("1")[0].strip() for line in rendered(sheet, 24).splitlines()[3:]]
    assert lines[:9] == ["unimodal-", "ensemble", "bmlmi (made)", "a b c d e f", "g", "x" * 12, "x" * 12, "x" * 6, ""]


def test_numbers_stand_below_each_other() -> None:
    column = [Entry("9.10", "0.50"), Entry("10.00", "12.25", "best"), Entry("–"), Entry("7.00", "1.00", "tied")]
    sheet = Sheet("t", ["m", "value"], [[Entry("a"), entry] for entry in column])
    lines = [line.rstrip() for line in rendered(sheet, 60).splitlines()[3:7]]
    assert lines == ["a    9.10 ±  0.50", "a  *10.00 ± 12.25", "a       –", "a  ≈ 7.00 ±  1.00"]
    assert widths(sheet) == [1, 14]


def test_numbers_and_literals() -> None:
    assert number(0.71525, percent=True, precision=1) == "71.5"
    assert number(1.23456, percent=False, precision=2) == "1.235"
    assert number(None, percent=True, precision=2) == "–"
    assert literal("é漢 [b]\x1b[0m\t\x7f\u009b\u202e") == "é漢 [b]\\x1b[0m\\t\\x7f\\x9b\\u202e"


def test_hostile_labels_are_shown_literally_in_every_format(tmp_path: Path) -> None:
    write_study(tmp_path)
    write_run(tmp_path, HOSTILE, {"audio": 1.0}, failed={9: HOSTILE})
    found = compare([read_run(folder) for folder in find_runs([], tmp_path)])
    sheets = views.sheets(found)
    stream = io.StringIO()
    console = Console(width=200, file=stream, force_terminal=True, color_system="truecolor", _environ={})
    console.print(terminal(sheets[0], 200))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert literal(HOSTILE) in shown
    assert "\x1b[31m_" not in stream.getvalue()
    texts = [export.plain(sheets), export.markdown(sheets), export.latex(sheets)]
    texts += [export.csv_text(views.lines(found)), export.json_text(views.document(found))]
    for text in texts:
        assert all(c.isprintable() or c == "\n" for c in text)
    labels = [row["label"] for row in json.loads(texts[-1])["blocks"][0]["rows"]]
    assert HOSTILE in labels
    table = [line for line in texts[1].splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1


def test_markdown() -> None:
    lines = export.markdown([SMALL]).splitlines()
    assert lines[:3] == ["### demo · test", "", "**Not comparable.**"]
    assert lines[4:6] == ["| method | n | accuracy | NLL | acc audio |", "| :-- | --: | --: | --: | --: |"]
    assert lines[7] == "| concat | 3 | **88.00 ± 0.00** | 0.420 ± 0.000 | 79.00 |"
    assert lines[8] == "| arl | 3 | ≈ <u>87.00 ± 12.65</u> | 0.431 | ↓ 9.00 ± 1.00 |"
    assert lines[-2] == "- bold: best, underlined: second; ≈ not distinguishable from the best."


def test_what_bold_means_is_said_even_where_the_notes_do_not() -> None:
    sheet = replace(SMALL, notes=["Nothing."])
    assert reading(sheet) == ["Nothing.", "Bold: best, underlined: second."]
    assert reading(replace(sheet, rows=sheet.rows[:1])) == ["Nothing."]
    assert reading(SMALL)[0].startswith("bold: best, underlined: second; ≈")


def test_json(small: Comparison) -> None:
    found = json.loads(export.json_text(views.document(small)))
    assert (found["schema"], found["report"], found["split"]) == (1, "compare", "test")
    (block,) = found["blocks"]
    arl = block["rows"][-1]
    cell = arl["metrics"]["accuracy"]
    assert cell["values"] == {"1": 0.89, "2": 0.88, "3": 0.84}
    assert cell["mean"] == pytest.approx(0.87)
    assert cell["sd"] == pytest.approx(np.std([0.89, 0.88, 0.84], ddof=1))
    assert (cell["n"], cell["mark"]) == (3, "tied")
    assert cell["interval"][0] < 0 < cell["interval"][1]
    assert arl["best_epoch"] == {"mean": 12.0, "sd": 1.0, "n": 3}
    assert block["rows"][0]["metrics"]["accuracy/video"]["mean"] is None
    assert export.json_text({"x": [float("nan"), float("inf")]}) == json.dumps({"x": [None, None]}, indent=2) + "\n"


RECONSTRUCTED = "(reconstructed): the full paper or code could not be had; what is missing was designed by us."


def test_reconstructed_methods_are_called_so_in_every_format(tmp_path: Path) -> None:
    """In the first column or label of the row, and once in the caption of its block only."""
    write_study(tmp_path)
    write_run(tmp_path, "bmlr", {"audio": 1.0, "video": 0.8}, note="reconstructed")
    write_run(tmp_path, "concat", {"audio": 1.0}, dataset="plain", fingerprint="two")
    found = compare([read_run(folder) for folder in find_runs([], tmp_path)])
    sheets = views.sheets(found)
    assert re.findall(r"^bmlr \(reconstructed\) +5 ", export.plain(sheets), re.MULTILINE)
    assert "| bmlr (reconstructed) | 5 |" in export.markdown(sheets)
    assert "bmlr (reconstructed) & 5 &" in export.latex(sheets)
    texts = [" ".join(text.split()) for text in (export.plain(sheets), export.markdown(sheets), export.latex(sheets))]
    assert all(text.count(RECONSTRUCTED) == 1 for text in texts)
    lines = list(csv.DictReader(io.StringIO(export.csv_text(views.lines(found)))))
    assert {line["label"] for line in lines if line["method"] == "bmlr"} == {"bmlr (reconstructed)"}
    demo, plain = json.loads(export.json_text(views.document(found)))["blocks"]
    assert {row["label"]: row["note"] for row in demo["rows"]}["bmlr (reconstructed)"] == "reconstructed"
    assert RECONSTRUCTED in demo["caption"]
    assert RECONSTRUCTED not in plain["caption"]


def test_rows_trained_for_longer_are_named(tmp_path: Path) -> None:
    runs = write_study(tmp_path)
    assert not any("Epochs over all stages" in note for sheet in sheets_of(tmp_path) for note in sheet.notes)
    for path in runs["arl"].glob("seed-*/done.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"epochs": 80}))
    (sheet,) = sheets_of(tmp_path)
    assert "Epochs over all stages: 30, but arl 80." in sheet.notes


def sheets_of(root: Path) -> list[Sheet]:
    return views.sheets(compare([read_run(folder) for folder in find_runs([], root)]))


def test_csv_is_no_program_for_a_spreadsheet() -> None:
    risky = ["=1+1", "+cmd", "-x", "@sum", "\uff1dA1", " =2", "\t=3"]
    safe = ["-1.5", "+2", "a=b", "", "–", "1e-3", "-", "nan"]
    read = next(csv.reader(io.StringIO(export.csv_text([[*risky, *safe, -0.5, None]]))))
    assert read[: len(risky)] == [*(f"'{text}" for text in risky[:-1]), "\\t=3"]
    assert read[len(risky) :] == [*safe[:-2], "'-", "nan", "-0.5", ""]


def test_json_knows_numbers_of_numpy() -> None:
    odd = {1: np.float32(0.5), "a": np.array([1.0, np.nan]), "b": (np.int64(3), np.bool_(True)), "c": {"d": np.inf}}
    assert json.loads(export.json_text(odd)) == {"1": 0.5, "a": [1.0, None], "b": [3, True], "c": {"d": None}}


def test_csv(small: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(export.csv_text(views.lines(small)))))
    assert len(rows) == 4 * (4 + 2)
    (cell,) = [r for r in rows if r["label"] == "concat" and r["metric"] == "accuracy/video"]
    assert float(cell["mean"]) == pytest.approx(0.38)
    assert (cell["n"], cell["failed"], cell["mark"], cell["apart"]) == ("3", "0", "below", "")
    assert float(cell["low"]) < float(cell["high"]) < 0
    assert {r["metric"] for r in rows} >= {"best_epoch", "seconds"}


def test_evaluation_of_each_seed_and_their_mean(tmp_path: Path) -> None:
    known(tmp_path, "arl", {"fused": [10, 11, 15], "audio": [20, 22, 21]})
    run = read_run(find_runs([], tmp_path)[0])
    made = evaluation.evaluate(run, *run.collect("test"), split="test")
    sheet = evaluation.sheet(made)
    text = export.plain([sheet])
    assert text.splitlines()[1].startswith("part   seed  samples")
    assert re.search(r"^fused +1 +100 +90\.00", text, re.MULTILINE)
    mean = next(line for line in text.splitlines() if "mean " in line).split()
    assert mean[:4] == ["mean", "88.00", "±", "2.65"]
    document = evaluation.document([made])
    part = json.loads(export.json_text(document))["runs"][0]["parts"][1]
    assert (part["modality"], part["seeds"]["2"]["samples"]) == ("audio", 100)
    assert part["seeds"]["2"]["accuracy"] == pytest.approx(0.78)
    rows = list(csv.DictReader(io.StringIO(export.csv_text(evaluation.lines([made])))))
    assert len(rows) == 2 * 3 * len(part["metrics"])


def test_modality_rows_count_only_samples_that_have_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "arl", {"audio": 1.0, "video": 1.0}, seeds=(1,))
    arrays = read_run(folder).collect("test")[0][1]
    mask = np.arange(120) < 30
    raw = {"labels": arrays.labels, "probs": arrays.probs, "logits/video": arrays.logits["video"]}
    write_predictions(folder / "seed-1", "test", raw | {"present/video": mask.astype(np.uint8)})
    run = read_run(folder)
    made = evaluation.evaluate(run, *run.collect("test"), split="test")
    assert [part.samples[1] for part in made.parts] == [120, 30]
    right = arrays.logits["video"][:30].argmax(axis=1) == arrays.labels[:30]
    assert made.parts[1].values[1]["accuracy"] == pytest.approx(right.mean())
