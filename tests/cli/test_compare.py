"""`mmbal compare` and `mmbal eval` from the command line: formats, files, exit codes, bad input."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mmbal_cli.cli.compare import compare
from mmbal_cli.cli.eval import evaluate
from mmbal_cli.cli.train import train
from mmbal_cli.errors import CacheError, MmbalError, UsageError
from tests.kit.features import feature_set
from tests.kit.prepared import write_prepared
from tests.kit.runs import write_run, write_study

app = typer.Typer(pretty_exceptions_enable=False)
app.command("compare")(compare)
app.command("eval")(evaluate)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_study(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("MMBAL_RUNS", raising=False)
    return tmp_path / "runs"


def call(*arguments: object, env: dict[str, str] | None = None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)


def test_all_runs_are_compared_by_default(runs: Path) -> None:
    result = call("compare")
    assert result.exit_code == 0
    assert result.stdout.startswith("demo · test, 120 samples, 3 classes\nmethod ")
    assert [line.split()[0] for line in result.stdout.splitlines()[3:7]] == [
        *("unimodal:audio", "unimodal:video", "unimodal-ensemble", "concat")
    ]
    assert call("compare", *sorted(runs.glob("*"))).stdout == result.stdout
    assert call("compare", env={"MMBAL_RUNS": str(runs)}).stdout == result.stdout


def test_a_terminal_width_is_kept_and_a_pipe_is_not_narrowed(runs: Path) -> None:
    wide, narrow = call("compare").stdout, call("compare", env={"COLUMNS": "60"}).stdout
    assert "mAP" in wide.splitlines()[1]
    assert "Hidden at width 60: 95% interval, acc video, acc audio, mAP" in " ".join(narrow.split())
    assert max(map(len, narrow.splitlines())) <= 60


def test_machine_formats_are_alone_on_stdout(runs: Path) -> None:
    found = json.loads(call("compare", "--format", "json").stdout)
    assert (found["schema"], len(found["blocks"][0]["rows"])) == (1, 7)
    rows = list(csv.DictReader(io.StringIO(call("compare", "-f", "csv", "--metric", "accuracy").stdout)))
    assert {row["metric"] for row in rows} == {"accuracy", "accuracy/audio", "accuracy/video", "best_epoch", "seconds"}
    assert call("compare", "-f", "md").stdout.startswith("### demo")
    assert "\\toprule" in call("compare", "-f", "latex").stdout


def test_the_suffix_of_the_file_chooses_the_format(runs: Path) -> None:
    for name, start in (("t.tex", "% needs"), ("t.md", "### "), ("t.json", "{"), ("t.csv", "dataset,"), ("t", "demo")):
        result = call("compare", "-o", name)
        assert (result.exit_code, result.stdout) == (0, "")
        assert f"wrote {name}" in result.stderr
        assert Path(name).read_text().startswith(start)
    call("compare", "-o", "t.md", "--format", "json")
    assert json.loads(Path("t.md").read_text())["schema"] == 1


def test_options(runs: Path) -> None:
    text = call("compare", "--metric", "mAP,macro-F1", "--sort-by", "ece", "--precision", "1", "--split", "val").stdout
    assert text.startswith("demo · val")
    heads = "method n mAP 95% interval macro-F1 ECE acc audio acc video"
    assert text.splitlines()[1].split() == heads.split()
    assert " ± 0." in text
    assert "." not in call("compare", "--precision", "0").stdout.splitlines()[4]


@pytest.mark.parametrize(
    ("arguments", "error", "code", "message"),
    [
        (["compare", "--metric", "acuracy"], UsageError, 2, "Unknown metric 'acuracy'. Did you mean 'accuracy'?"),
        (["compare", "--sort-by", "f2"], UsageError, 2, "Unknown metric 'f2'."),
        (["compare", "--baseline", "concta"], UsageError, 2, "No compared run is 'concta' (--baseline). Did you mean"),
        (["compare", "--test", "welch"], UsageError, 2, "--test without --baseline."),
        (["compare", "--alpha", "0.1"], UsageError, 2, "--alpha without --baseline."),
        (["compare", "--correction", "none"], UsageError, 2, "--correction without --baseline."),
        (["compare", "--keep", "(a"], UsageError, 2, "--keep '(a': missing ), unterminated subpattern"),
        (["compare", "--drop", "."], UsageError, 2, "--keep and --drop leave no row to show."),
        (["compare", "--rows", "methd"], UsageError, 2, "Unknown axis 'methd'. Did you mean 'method'?"),
        (["eval", "runs", "--metric", "f2"], UsageError, 2, "Unknown metric 'f2'."),
        (["compare", "demo-concta-1"], CacheError, 3, "There is no run demo-concta-1. Did you mean 'demo-concat-"),
        (["compare", "runs"], CacheError, 3, "runs is a folder of 7 runs, not a run."),
        (["compare", "--runs", "nowhere"], CacheError, 3, "There is no folder nowhere."),
        (["compare", "-o", "no/such/folder.md"], UsageError, 2, "no/such/folder.md cannot be written"),
        (["eval", "demo-alr"], CacheError, 3, "There is no run demo-alr. Did you mean 'demo-arl-"),
        (["eval", "runs", "--split", "train"], UsageError, 2, "Predictions on train are not saved."),
    ],
)
def test_bad_input(runs: Path, arguments: list[str], error: type[MmbalError], code: int, message: str) -> None:
    result = call(*arguments)
    assert isinstance(result.exception, error)
    assert result.exception.exit_code == code
    assert message in str(result.exception)
    assert result.stdout == ""


WRONG = "--format xml|--precision 9|--split train|--baseline concat --test t|--baseline concat --alpha 1|--correction b"


@pytest.mark.parametrize("arguments", [words.split() for words in WRONG.split("|")])
def test_unknown_choices_are_usage_errors(runs: Path, arguments: list[str]) -> None:
    assert call("compare", *arguments).exit_code == 2


def test_findings_give_exit_code_1_and_the_rest_is_shown(runs: Path) -> None:
    broken = next(runs.glob("demo-arl-*"))
    (broken / "seed-2" / "predictions-test.safetensors").write_bytes(b"torn")
    result = call("compare", "-f", "json")
    assert result.exit_code == 1
    assert f"left out: {broken.name}" in " ".join(result.stderr.split())
    assert len(json.loads(result.stdout)["blocks"][0]["rows"]) == 6


def test_a_run_of_a_later_version_is_left_out_with_the_reason(runs: Path) -> None:
    later = next(runs.glob("demo-arl-*"))
    facts = json.loads((later / "run.json").read_text())
    (later / "run.json").write_text(json.dumps({"schema": 2, "everything": "moved"}))
    result = call("compare", "-f", "json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert len(found["blocks"][0]["rows"]) == 6
    assert "has schema 2. This version of mmbal reads schema 1." in found["unreadable"][later.name]
    assert f"left out: {later.name}" in " ".join(result.stderr.split())
    alone = call("compare", later)
    assert isinstance(alone.exception, CacheError)
    for folder in runs.glob("*"):
        (folder / "run.json").write_text(json.dumps(facts | {"schema": 3}))
    none = call("compare")
    assert isinstance(none.exception, CacheError)
    assert "None of the 7 runs can be read." in str(none.exception)


def test_a_baseline_in_every_format(runs: Path) -> None:
    shown = call("compare", "--baseline", "concat").stdout
    heads = "method n accuracy 95% interval Δ concat Δ 95% p (Holm) macro-F1"
    assert " ".join(shown.splitlines()[1].split()).startswith(heads)
    assert "Holm-corrected for 6 comparisons" in " ".join(shown.split())
    found = json.loads(call("compare", "--baseline", "concat", "--test", "sign-flip", "-f", "json").stdout)
    assert found["blocks"][0]["baseline"]["warnings"].keys() == {"accuracy", "macro_f1", "map"}
    same = call("compare", "--baseline", next(runs.glob("demo-concat-*")), "--alpha", "0.05").stdout
    assert same == shown
    for format in ("md", "latex", "csv"):
        result = call("compare", "--baseline", "concat", "-f", format, "--keep", "arl", "--drop", "x", "--only-changed")
        assert (result.exit_code, "lfm-h" in result.stdout) == (0, False)
    turned = call("compare", "--rows", "method", "--cols", "dataset,metric")
    assert turned.exit_code == 0
    assert "arl" in turned.stdout


def test_a_run_named_twice_counts_once(runs: Path) -> None:
    concat = next(runs.glob("demo-concat-*"))
    result = call("compare", concat, concat.resolve(), Path("runs") / ".." / "runs" / concat.name, "-f", "json")
    assert [row["label"] for row in json.loads(result.stdout)["blocks"][0]["rows"]] == ["concat"]


def test_eval_with_chosen_metrics_and_intervals(runs: Path) -> None:
    concat = next(runs.glob("demo-concat-*"))
    result = call("eval", concat, "-m", "brier,balanced-accuracy,top5", "--format", "json")
    (run,) = json.loads(result.stdout)["runs"]
    fused = run["parts"][0]["metrics"]
    assert list(fused) == ["brier", "balanced_accuracy", "top5"]
    assert fused["brier"]["ci"][0] < fused["brier"]["mean"] < fused["brier"]["ci"][1]
    assert (fused["brier"]["over"], fused["top5"]["mean"], fused["top5"]["ci"]) == ("seeds and samples", None, None)
    text = call("eval", concat, "-m", "top5,nll").stdout
    assert "nan" not in text
    assert "top-5 says nothing about 3 classes." in text
    rows = [line.split() for line in text.splitlines()]
    low, high = (next(row for row in rows if row[:1] == [end]) for end in ("low", "high"))
    mean = next(row for row in rows if row[:1] == ["mean"])
    assert float(low[2]) < float(mean[2]) < float(high[2])


def test_eval_scores_saved_predictions(runs: Path) -> None:
    concat, arl = next(runs.glob("demo-concat-*")), next(runs.glob("demo-arl-*"))
    result = call("eval", concat, arl.name)
    assert result.exit_code == 0
    assert result.stdout.count("saved predictions") == 2
    found = json.loads(call("eval", concat, "--format", "json", "--split", "val").stdout)
    (run,) = found["runs"]
    assert [part["modality"] for part in run["parts"]] == [None, "audio", "video"]
    assert set(run["parts"][0]["metrics"]) == {"accuracy", "macro_f1", "map", "nll", "ece"}
    assert run["parts"][0]["metrics"]["nll"]["n"] == 5


def test_eval_of_unfinished_runs(runs: Path) -> None:
    empty = write_run(runs, "pmr", {}, seeds=())
    alone = call("eval", empty)
    assert isinstance(alone.exception, CacheError)
    assert alone.stdout == ""
    several = call("eval", next(runs.glob("demo-arl-*")), empty, "-f", "json")
    assert several.exit_code == 1
    assert json.loads(several.stdout)["unfinished"] == [empty.name]
    assert "no seed has finished" in several.stderr


def test_eval_leaves_out_what_cannot_be_read(runs: Path) -> None:
    later, torn = next(runs.glob("demo-arl-*")), next(runs.glob("demo-concat-*"))
    (later / "run.json").write_text('{"schema": 2}')
    (torn / "seed-2" / "predictions-test.safetensors").unlink()
    result = call("eval", *sorted(runs.glob("*")), "-f", "json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (len(found["runs"]), sorted(found["unreadable"])) == (5, [later.name, torn.name])
    assert f"left out: {torn.name}" in " ".join(result.stderr.split())
    assert isinstance(call("eval", torn).exception, CacheError)
    assert "No run can be scored" in str(call("eval", later, torn).exception)


def test_fresh_predictions_of_a_trained_run_equal_the_saved_ones(tmp_path: Path) -> None:
    cache, runs = tmp_path / "cache", tmp_path / "runs"
    write_prepared(cache, feature_set(absent=0.2))
    train(["concat"], seeds="2", set_=["train.epochs=2", "train.width=8"], jobs=1, cache=cache, runs=runs)
    (name,) = (folder.name for folder in runs.glob("tiny-concat-*"))
    common = ("eval", name, "--runs", runs, "--cache", cache, "-f", "json")
    saved, fresh, elsewhere = (
        json.loads(call(*common, *extra).stdout)["runs"][0]
        for extra in ((), ("--fresh",), ("--dataset", "tiny", "--split", "train"))
    )
    assert (saved["source"], fresh["source"], elsewhere["split"]) == ("saved", "fresh", "train")
    for one, other in zip(saved["parts"], fresh["parts"], strict=True):
        assert one["seeds"].keys() == other["seeds"].keys() == {"1", "2"}
        for seed, values in one["seeds"].items():
            assert other["seeds"][seed] == pytest.approx(values, abs=1e-5)
    samples = [part["seeds"]["1"]["samples"] for part in saved["parts"]]
    assert samples[0] == 20 > samples[1]


def test_commands_load_nothing_heavy_before_they_run() -> None:
    heavy = "{'numpy', 'torch', 'sklearn', 'scipy', 'h5py', 'pydantic'}"
    code = f"import sys, mmbal_cli.cli.compare, mmbal_cli.cli.eval; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
