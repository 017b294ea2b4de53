"""Run folders: tolerant where they may be in progress, strict where a number would be wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mmbal_cli.errors import CacheError
from mmbal_cli.report.runs import as_predictions, find_runs, read_records, read_run, read_runs
from tests.kit.runs import CLASSES, predictions, write_predictions, write_run, write_study

STRENGTHS = {"audio": 1.5, "video": 0.5}


def test_a_run_is_read_whole(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, "ogm-ge", STRENGTHS, failed={7: "loss is not finite"}, note="reconstructed"))
    assert (run.facts.label, run.facts.note, run.running) == ("ogm-ge", "reconstructed", False)
    assert [(s.facts.seed, s.facts.status) for s in run.seeds][-2:] == [(5, "done"), (7, "failed")]
    good, failed = run.collect("test")
    assert list(good) == [1, 2, 3, 4, 5]
    assert failed == {7: "loss is not finite"}
    records, note = run.seeds[0].records()
    assert (len(records), note) == (3, "")
    assert good[1].probs.shape == (120, 3)
    assert set(good[1].logits) == set(good[1].present) == {"audio", "video"}


def test_torn_last_record_is_dropped_wherever_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    first, last = b'{"epoch": 0, "val/nll": NaN}\n', '{"epoch": 1, "phase": "wärme", "lr": 1e-3}'.encode()
    for cut in range(len(last) + 1):
        path.write_bytes(first + last[:cut])
        records, note = read_records(path)
        whole = cut == len(last)
        assert [record["epoch"] for record in records] == ([0, 1] if whole else [0])
        assert bool(note) == (0 < cut < len(last))


def test_damage_before_the_last_record_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"epoch": 0}\n{"epo\n{"epoch": 2}\n')
    with pytest.raises(CacheError, match="line 2, is damaged"):
        read_records(path)


def test_unknown_fields_are_ignored_and_a_later_schema_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "arl", STRENGTHS, invented={"later": 1})
    for name in ("run.json", "seed-1/done.json"):
        facts = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(facts | {"new_field": [1, 2]}))
    assert read_run(folder).facts.label == "arl"
    facts = json.loads((folder / "run.json").read_text())
    for later in (2, "2", 1.5):
        (folder / "run.json").write_text(json.dumps(facts | {"schema": later}))
        with pytest.raises(CacheError, match=f"schema {later}"):
            read_run(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}'])
def test_a_damaged_run_file_is_named(tmp_path: Path, text: str) -> None:
    folder = write_run(tmp_path, "arl", STRENGTHS)
    (folder / "run.json").write_text(text)
    with pytest.raises(CacheError, match=r"run\.json is damaged"):
        read_run(folder)


def test_a_run_in_progress_has_no_seed_yet(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "arl", {}, seeds=())
    (folder / ".job-1-2").mkdir()
    (folder / "seed-9").mkdir()  # not complete: no done.json
    run = read_run(folder)
    assert (run.seeds, run.running) == ((), True)
    assert run.collect("test") == ({}, {})


def test_predictions_are_sorted_by_id(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "arl", STRENGTHS, seeds=(1,))
    before = read_run(folder).collect("test")[0][1]
    arrays = predictions(1, STRENGTHS, name="arl")
    order = np.random.default_rng(0).permutation(120)
    ids = [f"clip-{i:04d}" for i in order]
    write_predictions(folder / "seed-1", "test", {k: v[order] for k, v in arrays.items()}, ids)
    after = read_run(folder).collect("test")[0][1]
    assert after.samples() == before.samples()
    assert np.array_equal(after.probs, before.probs)
    assert np.array_equal(after.logits["video"], before.logits["video"])


def test_seed_with_numbers_that_are_not_finite_counts_as_failed(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "arl", STRENGTHS)
    for seed, key in ((2, "probs"), (4, "logits/video")):
        arrays = predictions(seed, STRENGTHS, name="arl")
        arrays[key][5] = np.nan
        write_predictions(folder / f"seed-{seed}", "test", arrays)
    good, failed = read_run(folder).collect("test")
    assert list(good) == [1, 3, 5]
    assert failed == {2: "its probabilities are not finite", 4: "its logits of video are not finite"}


def test_numbers_of_an_absent_modality_are_never_looked_at(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "arl", STRENGTHS, seeds=(1,))
    arrays = predictions(1, STRENGTHS, name="arl")
    arrays["present/video"][::2] = 0
    before = as_predictions(arrays, [str(i) for i in range(120)], CLASSES).modality("video")[0]
    arrays["logits/video"][::2] = np.nan
    write_predictions(folder / "seed-1", "test", arrays)
    good, failed = read_run(folder).collect("test")
    assert not failed
    assert len(good[1].modality("video")[1]) == 60
    after = as_predictions(arrays, [str(i) for i in range(120)], CLASSES).modality("video")[0]
    assert np.array_equal(before, after)


def test_seeds_on_different_samples_are_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "arl", STRENGTHS, seeds=(1, 2))
    write_predictions(folder / "seed-2", "test", predictions(2, STRENGTHS), [f"x{i}" for i in range(120)])
    with pytest.raises(CacheError, match="different samples"):
        read_run(folder).collect("test")


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("probs", lambda a: a[:-1], "probs has shape"),
        ("logits/audio", lambda a: a[:, :2], "logits/audio has shape|audio has shape"),
        ("labels", lambda a: a + 1, r"labels must lie in 0\.\.2"),
        ("labels", lambda a: a[:3], "must have 120 rows"),
        ("present/audio", lambda a: a[:3], "must have 120 rows"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, key: str, change, message: str) -> None:
    folder = write_run(tmp_path, "arl", STRENGTHS, seeds=(1,))
    arrays = predictions(1, STRENGTHS)
    write_predictions(folder / "seed-1", "test", arrays | {key: change(arrays[key])}, [str(i) for i in range(120)])
    with pytest.raises(CacheError, match=message):
        read_run(folder).collect("test")


def test_missing_torn_and_repeating_prediction_files_are_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "arl", STRENGTHS, seeds=(1,))
    path = folder / "seed-1" / "predictions-test.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CacheError, match=r"predictions-test\.safetensors cannot be read"):
        read_run(folder).collect("test")
    path.unlink()
    with pytest.raises(CacheError, match=r"predictions-test\.safetensors is missing"):
        read_run(folder).collect("test")
    write_predictions(folder / "seed-1", "test", predictions(1, STRENGTHS), ["same"] * 120)
    with pytest.raises(CacheError, match="ids repeat"):
        read_run(folder).collect("test")


def test_seeds_share_the_ids_and_order_of_the_same_samples(tmp_path: Path) -> None:
    """Whether ids are listed in order or not, and in whichever order: rows of all runs line up."""
    ids = [f"clip-{i:04d}" for i in range(120)]
    plain = read_run(write_run(tmp_path, "arl", STRENGTHS, seeds=(1, 2))).collect("test")[0]
    assert plain[1].ids is plain[2].ids
    with pytest.raises(ValueError, match="read-only"):
        plain[1].ids[0] = "x"
    folder = write_run(tmp_path, "ogm", STRENGTHS, seeds=(1, 2))
    order = np.arange(120)[::-1]
    for seed in (1, 2):
        arrays = predictions(seed, STRENGTHS, name="arl")
        turned = {k: v[order] for k, v in arrays.items()}
        write_predictions(folder / f"seed-{seed}", "test", turned, [ids[i] for i in order])
    again = read_run(folder).collect("test")[0]
    fresh = as_predictions(predictions(1, STRENGTHS, name="arl"), ids, CLASSES)
    for each in (again[1], again[2], fresh):
        assert each.samples() == plain[1].samples()
        assert each.ids.tolist() == ids
    assert np.array_equal(again[2].probs, plain[2].probs)
    labels = np.roll(plain[1].labels, 1)
    assert replace(plain[1], labels=labels).samples() != plain[1].samples()
    assert replace(plain[1], named="").samples() == plain[1].samples()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (None, "it has no sample ids"),
        ("7", "not a list of texts"),
        ("[1, 2]", "not a list of texts"),
        ("[", "cannot be"),
    ],
)
def test_damaged_ids_are_refused(tmp_path: Path, ids: str | None, message: str) -> None:
    folder = write_run(tmp_path, "arl", STRENGTHS, seeds=(1,))
    arrays = {key: np.ascontiguousarray(array) for key, array in predictions(1, STRENGTHS).items()}
    save_file(arrays, folder / "seed-1" / "predictions-test.safetensors", {} if ids is None else {"ids": ids})
    with pytest.raises(CacheError, match=message):
        read_run(folder).collect("test")


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "arl", STRENGTHS, seeds=(1,))
    arrays = predictions(1, STRENGTHS)
    del arrays["labels"]
    save_file(
        arrays, folder / "seed-1" / "predictions-test.safetensors", {"ids": json.dumps(list(map(str, range(120))))}
    )
    with pytest.raises(CacheError, match="it has no 'labels'"):
        read_run(folder).collect("test")


def test_readable_runs_are_kept_and_the_others_named(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    later, torn = study["arl"], study["concat"]
    (later / "run.json").write_text('{"schema": 9, "moved": []}')
    (torn / "seed-2" / "done.json").write_text("{")
    runs, unreadable = read_runs(find_runs([], tmp_path))
    assert (len(runs), list(unreadable)) == (5, [later.name, torn.name])
    assert "schema 9" in unreadable[later.name]
    assert "done.json is damaged" in unreadable[torn.name]
    with pytest.raises(CacheError, match="schema 9"):
        read_runs([later])
    with pytest.raises(CacheError, match=f"None of the 2 runs can be read. The first, {later.name}: .*schema 9"):
        read_runs([later, torn])
    assert read_runs([]) == ([], {})


def test_runs_are_found_by_path_by_name_and_all(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    assert find_runs([], tmp_path) == sorted(study.values())
    (tmp_path / "table.md").write_text("left by the user")
    paths = [*sorted(tmp_path.glob("*")), study["arl"]]  # as a shell expands runs/*
    assert sorted(find_runs(paths, tmp_path)) == sorted(study.values())
    assert find_runs([Path(study["arl"].name)], tmp_path) == [study["arl"]]
    twice = [study["arl"], study["concat"], tmp_path / ".." / tmp_path.name / study["arl"].name]
    assert find_runs(twice, tmp_path) == [study["arl"], study["concat"]]


def test_what_is_no_run_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs", "concat", STRENGTHS)
    with pytest.raises(CacheError, match=f"There is no run demo-concta.*Did you mean '{folder.name}'"):
        find_runs([Path("demo-concta")], tmp_path / "runs")
    with pytest.raises(CacheError, match="is a folder of 1 runs"):
        find_runs([tmp_path / "runs"], tmp_path / "runs")
    with pytest.raises(CacheError, match=r"it has no run\.json"):
        find_runs([tmp_path], tmp_path / "runs")
    with pytest.raises(CacheError, match="There is no folder"):
        find_runs([], tmp_path / "elsewhere")
