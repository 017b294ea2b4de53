"""The test set is sealed: other test labels change no weight, selection, tuned value or validation figure, bitwise.

And the legacy protocol, which unseals it to measure what that does: same training, other epoch, a stamp, `mmbal audit`.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.kit.cli import Inside, mmbal
from tests.kit.features import feature_set
from tests.kit.prepared import write_prepared
from tests.kit.trained import train

SUITE = """\
name: peeking
rows:
  - concat
  - unimodal-ensemble
  - {method: gblend, knobs: {n: 1, first: 1}}
  - {method: iibalance}
  - {method: mses}
  - {method: ogm-ge, tune: {alpha: [0.1, 0.9]}}
  - {method: uniform, tune: {train.lr: [0.001, 0.05]}}
"""
METHODS = "concat,unimodal-ensemble,arl"


def seed_folders(runs: Path) -> dict[tuple[str, str], Path]:
    """Every finished seed by the run's label and settings, whatever the fingerprint in its folder's name."""
    found = {}
    for path in sorted(runs.rglob("run.json")):
        config = json.loads(path.read_text())["config"]
        own = {key: value for key, value in config.items() if key not in ("fingerprint", "split_hash", "protocol")}
        for seed in sorted(path.parent.glob("seed-*")):
            found[json.dumps(own, sort_keys=True), seed.name] = seed
    return found


def records(seed: Path) -> list[dict]:
    rows = [json.loads(line) for line in (seed / "records.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_equal(one: Path, other: Path, name: str, but: tuple[str, ...] = ()) -> None:
    first, second = load_file(one / name), load_file(other / name)
    assert first.keys() == second.keys()
    for key in first.keys() - set(but):
        assert np.array_equal(first[key], second[key]), (one.parent.name, name, key)


def test_other_test_labels_change_nothing_but_test_figures(tmp_path: Path) -> None:
    for name in ("true", "shuffled"):
        features = feature_set(2, n=90, easy=1.0, absent=0.1)
        if name == "shuffled":
            rows = features.rows["test"]
            features.y[rows] = features.y[rows][torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
        work = tmp_path / name
        write_prepared(work / "cache", features, epochs=4, width=8, batch=16)
        (work / "peeking.yaml").write_text(SUITE)
        mmbal("suite", "run", "peeking.yaml", "-s", "2", cwd=work)
    true, shuffled = (seed_folders(tmp_path / name / "runs") for name in ("true", "shuffled"))
    assert true.keys() == shuffled.keys()
    assert len(true) == 2 * 9  # five rows and two candidates for each of two
    labels_differ = 0
    for key, folder in true.items():
        other = shuffled[key]
        assert_equal(folder, other, "model.safetensors")
        assert_equal(folder, other, "predictions-val.safetensors")
        assert_equal(folder, other, "predictions-test.safetensors", but=("labels",))
        assert records(folder) == records(other)
        one, two = (json.loads((each / "done.json").read_text()) for each in (folder, other))
        assert {**one, "seconds": 0} == {**two, "seconds": 0}
        tests = [load_file(each / "predictions-test.safetensors")["labels"] for each in (folder, other)]
        labels_differ += not np.array_equal(*tests)
    assert labels_differ == len(true)  # the shuffle was one
    chosen = [table_labels(tmp_path / name) for name in ("true", "shuffled")]
    assert chosen[0] == chosen[1]
    assert any("tuned" in label for label in chosen[0])


def table_labels(work: Path) -> set[str]:
    """Labels of the finished table: tuned rows name the values they took."""
    text = mmbal("suite", "table", "peeking.yaml", "-s", "2", "--split", "val", "-f", "csv", cwd=work).stdout
    return {row["label"] for row in csv.DictReader(io.StringIO(text))}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sealed and legacy runs of the same methods."""
    work = tmp_path_factory.mktemp("legacy")
    write_prepared(work / "cache", feature_set(2, n=120, easy=0.6), epochs=12, width=8, batch=16)
    train(work, METHODS, 3)
    done = mmbal("train", "-m", METHODS, "-s", "3", "--protocol", "legacy", cwd=work)
    assert "selected on TEST" in done.stderr
    return work


def runs_of(work: Path, protocol: str) -> list[Path]:
    found = [path for path in sorted((work / "runs").iterdir()) if ("-legacy-" in path.name) == (protocol == "legacy")]
    assert len(found) == 3
    return found


def test_a_legacy_run_is_the_sealed_training_with_another_epoch(both: Path) -> None:
    moved = 0
    for sealed, legacy in zip(runs_of(both, "sealed"), runs_of(both, "legacy"), strict=True):
        for seed in ("seed-1", "seed-2", "seed-3"):
            one, two = sealed / seed, legacy / seed
            own = load_file(one / "predictions-test.safetensors")
            beside = load_file(two / "predictions-test-sealed.safetensors")
            assert all(np.array_equal(own[key], beside[key]) for key in own)
            assert records(one) == [
                {key: value for key, value in row.items() if not key.startswith("test/")} for row in records(two)
            ]
            facts = [json.loads((each / "done.json").read_text()) for each in (one, two)]
            assert facts[0]["best_epoch"] == facts[1]["sealed_epoch"]
            assert "sealed_epoch" not in facts[0]
            for unit, epoch in facts[1]["best_epoch"].items():
                suffix = "" if unit == "fused" else f"/{unit}"
                rows = records(two)
                top = max(rows, key=lambda r: (r[f"test/accuracy{suffix}"], -r[f"test/nll{suffix}"], -r["epoch"]))
                assert epoch == top["epoch"]
            shown = load_file(two / "predictions-test.safetensors")
            if facts[1]["best_epoch"].keys() == {"fused"}:
                score = (shown["probs"].argmax(-1) == shown["labels"]).mean()
                assert score == pytest.approx(max(row["test/accuracy"] for row in records(two)))
            moved += facts[1]["best_epoch"] != facts[1]["sealed_epoch"]
    assert moved


def test_legacy_numbers_are_stamped_and_stand_apart(both: Path, inside: Inside) -> None:
    for format in ("table", "md", "csv", "json", "latex", "html"):
        text = inside("compare", "-f", format, cwd=both).stdout
        assert text.count("selected on TEST") >= 3, format
    document = json.loads(inside("compare", "-f", "json", cwd=both).stdout)
    apart = [block for block in document["blocks"] if block["apart"]]
    assert len(apart) == 1
    assert "selected on TEST" in apart[0]["apart"]
    stamped = [row["label"] for row in apart[0]["rows"]]
    assert len(stamped) == 3
    assert all(label.endswith("(selected on TEST)") for label in stamped)
    assert "selected on TEST" in inside("eval", *map(str, runs_of(both, "legacy")), "-f", "json", cwd=both).stdout


def test_audit_prints_the_inflation(both: Path, inside: Inside) -> None:
    found = json.loads(inside("audit", "-f", "json", cwd=both).stdout)
    legacy, sealed = found["groups"]
    assert {row["protocol"] for row in legacy["rows"]} == {"legacy"}
    assert {row["protocol"] for row in sealed["rows"]} == {"sealed"}
    assert not any(row["faults"] for group in found["groups"] for row in group["rows"])
    concat = next(row for row in legacy["rows"] if row["label"].startswith("concat"))
    folder = next(path for path in runs_of(both, "legacy") if "concat" in path.name)
    each = []
    for seed in ("seed-1", "seed-2", "seed-3"):
        rows, facts = records(folder / seed), json.loads((folder / seed / "done.json").read_text())
        chosen = next(row for row in rows if row["epoch"] == facts["sealed_epoch"]["fused"])
        each.append(max(row["test/accuracy"] for row in rows) - chosen["test/accuracy"])
    assert concat["inflation"]["mean"] == pytest.approx(np.mean(each), abs=1e-6)
    assert concat["inflation"]["sd"] == pytest.approx(np.std(each, ddof=1), abs=1e-6)
    assert concat["inflation"]["mean"] >= 0
    assert concat["best_on_test"]["mean"] - concat["by_validation"]["mean"] == pytest.approx(
        concat["inflation"]["mean"]
    )
    text = inside("audit", cwd=both).stdout
    assert "inflation" in text
    assert "selected on TEST" in text


def test_audit_finds_an_epoch_that_the_records_do_not_give(both: Path, tmp_path: Path) -> None:
    shutil.copytree(both / "runs", tmp_path / "runs")
    folder = next(
        path for path in (tmp_path / "runs").iterdir() if "-concat-" in path.name and "legacy" not in path.name
    )
    path = folder / "seed-2" / "done.json"
    facts = json.loads(path.read_text())
    right = facts["best_epoch"]["fused"]
    facts["best_epoch"]["fused"] = wrong = right % 12 + 1
    path.write_text(json.dumps(facts))
    done = mmbal("audit", str(folder), cwd=tmp_path, code=1)
    assert f"by val is {wrong}, by its records {right}" in " ".join(done.stdout.split())
    (folder / "seed-2" / "records.jsonl").write_text("")
    done = mmbal("audit", str(folder), cwd=tmp_path, code=1)
    assert "seed 2: its records are empty" in " ".join(done.stdout.split())
    odd = {"epoch": 1, "val/accuracy": "x", "val/nll": [1], "test/accuracy": "y"}
    (folder / "seed-2" / "records.jsonl").write_text(json.dumps(odd) + "\n")
    done = mmbal("audit", str(folder), cwd=tmp_path, code=1)
    assert "seed 2: its records have test figures" in " ".join(done.stdout.split())


def test_a_set_without_test_samples_has_no_legacy_protocol(tmp_path: Path) -> None:
    features = feature_set(2, n=60)
    features.rows["test"] = features.rows["test"][:0]
    write_prepared(tmp_path / "cache", features, epochs=2, width=8)
    done = mmbal("train", "-m", "concat", "--protocol", "legacy", cwd=tmp_path, code=2)
    assert "no test sample" in done.stderr
