"""`mmbal train` in real processes: missing seeds only, resume, signals, failures, refusals."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.kit.broken import BROKEN
from tests.kit.cli import ROOT, Inside, mmbal, start
from tests.kit.features import feature_set
from tests.kit.prepared import write_prepared


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write_prepared(tmp_path / "cache", feature_set(2, n=90, easy=1.0, absent=0.1), epochs=3, width=8)
    return tmp_path


def run_of(work: Path, label: str) -> Path:
    found = list((work / "runs").glob(f"tiny-{label}-????????"))
    assert len(found) == 1, found
    return found[0]


def states(run: Path) -> dict[str, dict]:
    """Weights and predictions of every seed."""
    files = sorted(run.glob("seed-*/*.safetensors"))
    return {f"{path.parent.name}/{path.name}": load_file(path) for path in files}


def assert_close(one: dict[str, dict], other: dict[str, dict], tolerance: float) -> None:
    assert set(one) == set(other)
    for name, tensors in one.items():
        for key, value in tensors.items():
            assert abs(value.astype("float64") - other[name][key].astype("float64")).max() <= tolerance, (name, key)


def test_several_methods_make_several_runs_with_everything_in_them(work: Path) -> None:
    done = mmbal("train", "-m", "unimodal,concat,LFM_H", "--seeds", "2", cwd=work)
    assert done.stdout == ""
    assert "mmbal compare" in done.stderr
    labels = sorted(re.sub(r"-\w{8}$", "", path.name) for path in (work / "runs").iterdir())
    assert labels == ["tiny-concat", "tiny-lfm-h", "tiny-unimodal-audio", "tiny-unimodal-video"]
    run = run_of(work, "concat")
    assert not list(run.glob(".job-*"))
    facts = json.loads((run / "run.json").read_text())
    assert facts["config"]["train"]["epochs"] == 3
    assert json.loads((run / "env.json").read_text())["packages"]["torch"]
    for seed in (1, 2):
        names = {path.name for path in (run / f"seed-{seed}").iterdir()}
        predictions = {"predictions-val.safetensors", "predictions-test.safetensors"}
        assert names == {"done.json", "records.jsonl", "model.safetensors"} | predictions
        rows = [json.loads(line) for line in (run / f"seed-{seed}" / "records.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in rows] == [1, 2, 3]
        assert {"train/loss", "val/accuracy", "val/accuracy/audio", "grad/video", "lr"} <= set(rows[0])


def test_more_seeds_train_only_the_missing_ones_and_grouping_does_not_matter(work: Path) -> None:
    mmbal("train", "-m", "ogm-ge", "--seeds", "2", "--jobs", "1", cwd=work)
    run = run_of(work, "ogm-ge")
    before = {path: path.stat().st_mtime_ns for path in run.glob("seed-*/*")}
    more = mmbal("train", "-m", "ogm-ge", "--seeds", "1,2,4", cwd=work)
    assert "2 seeds are there, training 1 more" in more.stderr
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    again = mmbal("train", "-m", "ogm-ge", "--seeds", "1,2,4", cwd=work)
    assert "up to date" in again.stderr
    mmbal("train", "-m", "ogm-ge", "--seeds", "1,2,4", "--runs", "together", cwd=work)
    assert_close(states(run), states(next((work / "together").iterdir())), 0)


def test_overwrite_trains_again_to_the_same_bits(work: Path) -> None:
    mmbal("train", "-m", "arl", "--seeds", "3", cwd=work)
    first = states(run_of(work, "arl"))
    mmbal("train", "-m", "arl", "--seeds", "3", "--overwrite", cwd=work)
    assert_close(first, states(run_of(work, "arl")), 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_stopped_at_any_moment_it_resumes_to_the_same_numbers(work: Path, number: signal.Signals) -> None:
    options = ("train", "-m", "lfm-h", "--seeds", "2", "--jobs", "1", "--set", "train.epochs=300")
    mmbal(*options, "--runs", "whole", cwd=work)
    process = start(*options, cwd=work)
    deadline = time.monotonic() + 60
    while not list(work.glob("runs/*/.job-*/records.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    process.communicate(timeout=60)
    expected = {signal.SIGINT: 130, signal.SIGKILL: -9}.get(number, 75)
    assert process.returncode == expected
    if number is not signal.SIGKILL:
        assert list(work.glob("runs/*/.job-*/checkpoint-*.safetensors"))
    refused = mmbal(*options, cwd=work, code=2)
    assert "--resume" in refused.stderr
    assert "--overwrite" in refused.stderr
    mmbal(*options, "--resume", cwd=work)
    one, other = next((work / "whole").iterdir()), next((work / "runs").iterdir())
    assert_close(states(one), states(other), 0)
    for seed in (1, 2):
        texts = [(run / f"seed-{seed}" / "records.jsonl").read_text() for run in (one, other)]
        rows = [[json.loads(line) | {"seconds": 0} for line in text.splitlines()] for text in texts]
        assert rows[0] == rows[1]


HURT = f'''{BROKEN}
class Hurt(Method):
    """Seed 2 meets a loss that is not a number in the second epoch."""
    card = Card("hurt", "loss")
    def loss(self, out, batch):
        bad = torch.tensor([seed == 2 and self.epoch == 1 for seed in self.rng.seeds])
        return torch.where(bad, torch.nan, super().loss(out, batch))

class Hungry(Method):
    """Needs more memory than there is for more than three seeds."""
    card = Card("hungry", "loss")
    def loss(self, out, batch):
        if self.S > 3:
            raise torch.OutOfMemoryError("out of memory")
        return super().loss(out, batch)

class NoMethod:
    pass
'''


def test_a_seed_that_fails_does_not_cost_the_others(work: Path) -> None:
    (work / "own.py").write_text(HURT)
    failed = mmbal("train", "-m", "own.py:Hurt,concat", "--seeds", "3", "--jobs", "1", cwd=work, code=4)
    assert "hurt: seed 2 failed" in failed.stderr
    mmbal("train", "-m", "own.py:Hurt", "--seeds", "1,3", "--jobs", "1", "--runs", "others", cwd=work)
    run = run_of(work, "hurt")
    done = {seed: json.loads((run / f"seed-{seed}" / "done.json").read_text()) for seed in (1, 2, 3)}
    assert [done[seed]["status"] for seed in (1, 2, 3)] == ["done", "failed", "done"]
    assert "not finite at step 2" in done[2]["reason"]  # two steps an epoch, and the second epoch hurts
    assert not (run / "seed-2" / "model.safetensors").exists()
    assert_close(states(run), states(next((work / "others").iterdir())), 0)


def test_a_method_that_raises_is_one_line_and_other_runs_go_on(work: Path) -> None:
    (work / "own.py").write_text(HURT)
    failed = mmbal("train", "-m", "own.py:Broken,concat", "--seeds", "2", cwd=work, code=4)
    assert "ValueError: no such thing" in failed.stderr
    assert len(list(run_of(work, "concat").glob("seed-*"))) == 2


def test_out_of_memory_is_done_again_as_two_halves(work: Path) -> None:
    (work / "own.py").write_text(HURT)
    done = mmbal("train", "-m", "own.py:Hungry,concat", "--seeds", "5", "--jobs", "1", cwd=work)
    assert "two halves" in done.stderr
    assert_close(states(run_of(work, "hungry")), states(run_of(work, "concat")), 0)


def test_two_trainings_into_one_folder_exclude_each_other(work: Path) -> None:
    options = ("train", "-m", "concat", "--seeds", "2", "--set", "train.epochs=300")
    pair = [start(*options, cwd=work) for _ in range(2)]
    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in pair]
    codes = sorted(code for _, code in ends)
    assert codes in ([0, 2], [0, 0])  # the second may begin after the first has ended
    assert all("is being trained by process" in err for err, code in ends if code == 2)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("-m", "ogm-gee"), "Did you mean 'ogm-ge'?"),
        (("-m", "concat", "-d", "tinny"), "tiny"),
        (("-m", "concat", "--fusion", "gate"), "Did you mean 'gated'?"),
        (("-m", "sum", "--fusion", "gated"), "does not support fusion"),
        (("-m", "concat", "--set", "train.lrr=1"), "Did you mean 'lr'?"),
        (("-m", "concat", "--set", "train.lr=fast"), "train"),
        (("-m", "concat", "--set", "train.lr=-1"), "greater than 0"),
        (("-m", "concat", "--set", "trian.lr=1"), "Did you mean 'train'?"),
        (("-m", "concat", "--set", "lr=1"), "section.key=value"),
        (("-m", "arl", "--set", "method.gama=1"), "Did you mean 'gamma'?"),
        (("-m", "arl", "--set", "method.modulate=often"), "dynamic, constant, off"),
        (("-m", "arl", "--set", "method.gamma=-3"), "from 0 to 100"),
        (("-m", "concat", "--seeds", "x"), "neither a count nor a list"),
        (("-m", "concat", "--seeds", "1,1"), "different numbers"),
        (("-m", "unimodal:smell",), "no modality 'smell'"),
        (("-m", "concat:audio",), "only unimodal takes a modality"),
        (("-m", "nowhere.py:Method",), "No method file"),
        (("-m", "own.py:Missing",), "defines no class"),
        (("-m", "own.py:NoMethod",), "not a method class"),
        (("-m", "concat", "--device", "cuda:7"), "CUDA devices are visible"),
        (("-m", "concat", "--device", "toaster"), "is no device"),
        (("-m", "concat", "--resume", "--overwrite"), "exclude each other"),
    ],
)  # fmt: skip
def test_bad_input_is_one_panel_and_trains_nothing(
    work: Path, inside: Inside, args: tuple[str, ...], words: str
) -> None:
    (work / "own.py").write_text(HURT)
    code = 3 if "-d" in args else 2
    failed = inside("train", *args, cwd=work, code=code)
    assert words in " ".join(failed.stderr.replace("│", " ").split())
    assert not list(work.glob("runs/*/seed-*"))


def test_nothing_prepared_names_the_command(tmp_path: Path, inside: Inside) -> None:
    failed = inside("train", "-m", "concat", cwd=tmp_path, code=3)
    assert "mmbal prepare demo" in failed.stderr
    assert not (tmp_path / "runs").exists()


def test_damaged_features_are_refused_with_the_repair(work: Path) -> None:
    shard = next(work.glob("cache/tiny/audio--*/00000-*.h5"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(data)
    failed = mmbal("train", "-m", "concat", "--seeds", "1", cwd=work, code=3)
    assert "mmbal cache repair tiny" in failed.stderr.replace("\n", " ")


def test_adamw_warns_about_methods_that_scale_gradients(work: Path, inside: Inside) -> None:
    shown = inside("train", "-m", "ogm", "--set", "train.optimizer=adamw", "--dry-run", cwd=work)
    assert "AdamW divides" in shown.stderr
    assert "optimizer: adamw" in shown.stdout
    assert not (work / "runs").exists()


def test_the_documented_example_of_an_own_method_trains(work: Path) -> None:
    page = (ROOT / "docs" / "own-method.md").read_text()
    (work / "my_method.py").write_text(re.findall(r"```python\n(.*?)```", page, re.S)[0])
    mmbal("train", "-m", "my_method.py:Focal", "--seeds", "2", "--set", "method.gamma=1", cwd=work)
    rows = (run_of(work, "focal") / "seed-1" / "records.jsonl").read_text().splitlines()
    assert "coef/focus" in json.loads(rows[0])
    shown = mmbal("methods", "show", "my_method.py:Focal", cwd=work)
    assert "method.gamma" in shown.stdout
