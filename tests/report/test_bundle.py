"""Bundles: the same bytes for the same run, nothing of the machine inside, and no hostile file unpacks."""

from __future__ import annotations

import io
import json
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbal_cli.engine.runs import RunSpec
from mmbal_cli.errors import CacheError
from mmbal_cli.recipe import TrainConfig
from mmbal_cli.report.bundle import INDEX, TIME, pack, without_paths
from mmbal_cli.report.replay import (
    BITWISE,
    DIFFERENT,
    WITHIN,
    Tolerance,
    document,
    judge,
    lines,
    sheet,
    tolerance_of,
)
from mmbal_cli.report.runs import Predictions, read_run
from mmbal_cli.report.unpack import unpack
from mmbal_cli.store.atomic import canonical_json, sha256_hex
from tests.kit.runs import digest, predictions, write_predictions, write_run

STRENGTHS = {"audio": 1.6, "video": 0.7}
Entries = dict[str, bytes]


def config(**changes: Any) -> dict[str, Any]:
    spec = {"dataset": "demo", "label": "concat", "method": "concat", "fusion": "concat", "knobs": {}}
    data = {"fingerprint": digest("one"), "split_hash": digest("one")}
    return RunSpec.model_validate({**spec, **data, "train": TrainConfig().model_dump(), **changes}).model_dump()


def environment(**changes: Any) -> dict[str, Any]:
    versions = {"mmbal": "0.1.0", "device": "cpu", "cores": 2, "packages": {"torch": "2.0"}}
    return {**versions, "command": ["mmbal", "train"], **changes}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    def made(name: str = "runs", command: tuple[str, ...] = ("mmbal", "train"), **facts: Any) -> Path:
        spec = config(**facts.pop("config", {}))
        folder = write_run(tmp_path / name, "concat", STRENGTHS, config=spec, **facts)
        (folder / "env.json").write_text(json.dumps(environment(command=list(command))))
        return folder

    return made


@pytest.fixture
def good(make: Callable[..., Path], tmp_path: Path) -> bytes:
    return pack(read_run(make(seeds=(1, 2), samples=30)), tmp_path / "cache")[0]


def entries(data: bytes) -> Entries:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(path: Path, files: Entries, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, each in files.items():
            archive.writestr(name, each)
    return path


def listed(files: Entries, **changes: Any) -> Entries:
    """The files with a table of contents that agrees with them, as someone with ill intent would write it."""
    index = {**json.loads(files[INDEX]), **changes}
    rest = {name: each for name, each in files.items() if name != INDEX}
    index["files"] = [{"name": n, "sha256": sha256_hex(each), "size": len(each)} for n, each in sorted(rest.items())]
    return {**rest, INDEX: canonical_json(index)}


# ------------------------------------------------------------------------------------------ packing


def test_the_same_run_gives_the_same_bytes_and_unpacks_to_itself(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make(seeds=(3, 1), failed={2: "loss was not finite at step 7"}, samples=30)
    data, contents = pack(read_run(folder), tmp_path / "cache")
    for path in sorted(folder.rglob("*.json"), reverse=True):  # written at another time, in another order
        path.write_bytes(path.read_bytes())
    assert pack(read_run(folder), tmp_path / "cache")[0] == data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert [entry.filename for entry in archive.infolist()] == sorted(archive.namelist())
        assert {entry.date_time for entry in archive.infolist()} == {TIME}
    (tmp_path / "a.zip").write_bytes(data)
    found = unpack(tmp_path / "a.zip", _new(tmp_path / "a"))
    assert found.contents == contents
    assert contents.seeds == {1: "done", 2: "failed", 3: "done"}
    assert found.spec == RunSpec.model_validate(config())
    for result in read_run(folder).seeds:
        for path in result.folder.iterdir():
            assert (found.folder / result.folder.name / path.name).read_bytes() == path.read_bytes()


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_nothing_of_the_machine_is_inside(make: Callable[..., Path], tmp_path: Path) -> None:
    own = tmp_path / "secret" / "mine.py"
    own.parent.mkdir()
    own.write_text("class Mine: ...\n")
    source = sha256_hex(own.read_bytes())
    command = ("mmbal", "train", "-m", f"{own}:Mine", f"--cache={tmp_path}/c", "--runs", str(tmp_path / "my runs"))
    folder = make(command=command, config={"method": f"{own}:Mine", "method_source": source}, seeds=(1,))
    data, contents = pack(read_run(folder), tmp_path / "cache")
    assert str(tmp_path).encode() not in data
    assert b"secret" not in data
    assert b"my runs" in data
    assert any("absolute paths" in line for line in contents.notes)
    files = entries(data)
    assert files["method/mine.py"] == own.read_bytes()
    assert json.loads(files["run.json"])["config"]["method"] == "mine.py:Mine"


@pytest.mark.parametrize("now", ["class Mine: pass  # changed\n", None])
def test_a_changed_or_lost_method_file_is_not_passed_off_as_the_one_of_the_run(
    make: Callable[..., Path], tmp_path: Path, now: str | None
) -> None:
    own = tmp_path / "mine.py"
    if now:
        own.write_text(now)
    folder = make(config={"method": f"{own}:Mine", "method_source": digest("then")}, seeds=(1,))
    data, contents = pack(read_run(folder), tmp_path / "cache")
    assert not any(name.startswith("method/") for name in entries(data))
    assert any("cannot be replayed" in line for line in contents.notes)


def test_recipes_and_lacking_features_are_said(make: Callable[..., Path], tmp_path: Path) -> None:
    data, contents = pack(read_run(make(method="arl", seeds=(1,))), tmp_path / "cache")
    assert b"arl" in entries(data)["recipes/method.yaml"]
    assert any("not in the cache" in line for line in contents.notes)
    assert contents.prepare == ""


def test_weights_only_when_asked_for(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make(seeds=(1, 2))
    run = read_run(folder)
    with pytest.raises(CacheError, match=r"model\.safetensors is not there"):
        pack(run, tmp_path, weights=True)
    for result in run.seeds:
        (result.folder / "model.safetensors").write_bytes(b"weights")
    assert not any(name.endswith("model.safetensors") for name in entries(pack(run, tmp_path)[0]))
    data, contents = pack(run, tmp_path, weights=True)
    assert contents.weights
    assert entries(data)["seed-2/model.safetensors"] == b"weights"


def test_unfinished_and_damaged_runs_are_refused(make: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="No seed"):
        pack(read_run(make(seeds=())), tmp_path)
    folder = make("torn", seeds=(1,))
    path = folder / "seed-1" / "predictions-test.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CacheError, match="predictions-test"):
        pack(read_run(folder), tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", '{"command": 3}', '{"command": null}'])
def test_an_environment_that_cannot_be_read_is_a_note(make: Callable[..., Path], tmp_path: Path, text: str) -> None:
    folder = make(seeds=(1,))
    (folder / "env.json").write_text(text)
    _, contents = pack(read_run(folder), tmp_path)
    assert any("env.json of the run cannot be read" in note for note in contents.notes) == ("command" not in text)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("--cache=/a/b/c", "--cache=<path>/c"),
        ("/x/y.py:Mine", "<path>/y.py:Mine"),
        ("audio=/m/n,video=/o", "audio=<path>/n,video=<path>/o"),
        ("~/x", "<path>/x"),
        ("~bob/x/", "<path>/x"),
        ("C:\\me\\x", "<path>/x"),
        ("/a b/c", "<path>/c"),
        ("runs/*", "runs/*"),
        ("train.lr=1e-3", "train.lr=1e-3"),
        ("https://a.org/b", "https://a.org/b"),
    ],
)
def test_absolute_paths_are_cut_and_nothing_else(text: str, kept: str) -> None:
    assert without_paths(text) == kept


# ------------------------------------------------------------------------------------------ hostile


def zip_bomb(files: Entries) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, each in listed({**files, "seed-1/model.safetensors": bytes(20 << 20)}).items():
            archive.writestr(name, each)
    return stream.getvalue()


def overlapping(data: bytes) -> bytes:
    """Every entry of the directory claims a huge size at one place."""
    central = data.index(b"PK\x01\x02")
    return data[: central + 20] + struct.pack("<II", 1 << 31, 1 << 31) + data[central + 28 :]


def zipped(files: Entries, *more: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, each in [*files.items(), *more]:
            archive.writestr(name, each)
    return stream.getvalue()


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, TIME)
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry


def deflated(files: Entries) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, each in files.items():
            archive.writestr(name, each, zipfile.ZIP_DEFLATED if name == "env.json" else zipfile.ZIP_STORED)
    return stream.getvalue()


def edited(files: Entries, name: str, **changes: Any) -> Entries:
    return listed({**files, name: canonical_json({**json.loads(files[name]), **changes})})


def spec_with(files: Entries, **changes: Any) -> Entries:
    return edited(files, "run.json", config={**json.loads(files["run.json"])["config"], **changes})


HOSTILE: dict[str, tuple[Callable[[Entries, bytes], bytes], str]] = {
    "empty": (lambda f, d: b"", "no readable zip"),
    "text": (lambda f, d: b"not a zip at all", "no readable zip"),
    "cut": (lambda f, d: d[: len(d) // 2], "no readable zip"),
    "cut at the end": (lambda f, d: d[:-30], "no readable zip"),
    "no table of contents": (lambda f, d: zipped({k: v for k, v in f.items() if k != INDEX}), "no bundle"),
    "another zip": (lambda f, d: zipped({"word/document.xml": b"<x/>"}), "no bundle does"),
    "path upwards": (lambda f, d: zipped(listed({**f, "../evil.py": b"x"})), "no bundle does"),
    "path upwards inside": (lambda f, d: zipped(listed({**f, "seed-1/../../evil": b"x"})), "no bundle does"),
    "absolute path": (lambda f, d: zipped(listed({**f, "/tmp/evil": b"x"})), "no bundle does"),
    "backslashes": (lambda f, d: zipped(listed({**f, "..\\evil": b"x"})), "no bundle does"),
    "hidden method": (lambda f, d: zipped(listed({**f, "method/.pth.py": b"x"})), "no bundle does"),
    "other script digits": (lambda f, d: zipped(listed({**f, "seed-١/done.json": b"{}"})), "no bundle does"),
    "link": (
        lambda f, d: zipped({k: v for k, v in f.items() if k != "env.json"}, (link("env.json"), b"/etc/passwd")),
        "is a link",
    ),
    "name twice": (lambda f, d: zipped(f, ("run.json", f["run.json"])), "2 times"),
    "compressed": (lambda f, d: zip_bomb(f), "larger than the file"),
    "one member compressed": (lambda f, d: deflated(f), "packed again"),
    "sizes that lie": (lambda f, d: overlapping(d), "larger than the file"),
    "not listed": (lambda f, d: zipped({**f, "data/split.json": b"{}"}), "differ"),
    "listed and absent": (lambda f, d: zipped({k: v for k, v in f.items() if k != "env.json"}), "differ"),
    "changed bytes": (lambda f, d: zipped({**f, "env.json": f["env.json"].replace(b"cpu", b"gpu")}), "sha256"),
    "other size": (lambda f, d: zipped({**f, "env.json": f["env.json"] + b" "}), "another size"),
    "later schema": (lambda f, d: zipped(listed(f, schema=2, packed_by="9.9")), "bundle schema 2"),
    "no schema": (lambda f, d: zipped(listed(f, schema=None)), "no bundle of mmbal"),
    "other kind": (lambda f, d: zipped(listed(f, kind="x")), "no bundle of mmbal"),
    "contents no JSON": (lambda f, d: zipped({**f, INDEX: b"{"}), "no JSON"),
    "contents a list": (lambda f, d: zipped({**f, INDEX: b"[]"}), "no object"),
    "nested JSON": (lambda f, d: zipped({**f, INDEX: b"[" * 200_000}), "no JSON"),
    "contents mistyped": (lambda f, d: zipped(listed(f, seeds="all")), "seeds"),
    "config unknown": (lambda f, d: zipped(spec_with(f, hidden="x")), "does not understand"),
    "data set upwards": (lambda f, d: zipped(spec_with(f, dataset="../../x")), "a name that is none"),
    "encoder upwards": (lambda f, d: zipped(spec_with(f, encoders={"audio": "../x"})), "a name that is none"),
    "split upwards": (lambda f, d: zipped(spec_with(f, split="../x")), "a name that is none"),
    "label with escapes": (lambda f, d: zipped(spec_with(f, label="\x1b[2Jx")), "a name that is none"),
    "method by path": (lambda f, d: zipped(spec_with(f, method="/home/a/x.py:X")), "by its path"),
    "run.json no JSON": (lambda f, d: zipped(listed({**f, "run.json": b"{"})), "no JSON"),
    "run.json absent": (lambda f, d: zipped(listed({k: v for k, v in f.items() if k != "run.json"})), "no run.json"),
    "run of a later schema": (lambda f, d: zipped(edited(f, "run.json", schema=9)), "schema 9"),
    "seed of another": (lambda f, d: zipped(edited(f, "seed-1/done.json", seed=2)), "in the place of another"),
    "status changed": (lambda f, d: zipped(edited(f, "seed-1/done.json", status="failed")), "not those"),
    "method of another digest": (
        lambda f, d: zipped(listed({**spec_with(f, method="x.py:X", method_source="0" * 64), "method/x.py": b"x"})),
        "not the method",
    ),
    "split of another hash": (
        lambda f, d: zipped(
            listed({**spec_with(f, split="mine"), "data/split.json": b'{"name":"mine","way":"","parts":{},"hash":""}'})
        ),
        "damaged",
    ),
    "subset of other ids": (
        lambda f, d: zipped(
            listed({**spec_with(f, subset="mine-12345678"), "data/subset.json": b'{"name":"mine","ids":["a"]}'})
        ),
        "not the subset",
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", HOSTILE)
def test_a_damaged_or_hostile_file_is_refused_and_leaves_nothing(good: bytes, tmp_path: Path, case: str) -> None:
    make, message = HOSTILE[case]
    place = _new(tmp_path / "place")
    path = place / "bundle.zip"
    path.write_bytes(make(entries(good), good))
    with pytest.raises(CacheError, match=message) as refused:
        unpack(path, _new(place / "inside"))
    assert "\x1b" not in str(refused.value)
    assert {each.name for each in place.iterdir()} == {"bundle.zip", "inside"}
    assert not any(each.is_symlink() for each in (place / "inside").rglob("*"))


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="There is no bundle"):
        unpack(tmp_path / "none.zip", tmp_path)
    with pytest.raises(CacheError, match="is a folder"):
        unpack(tmp_path, tmp_path)


def test_a_rewritten_bundle_with_right_digests_is_read(good: bytes, tmp_path: Path) -> None:
    """The cases above fail for their reason, not because any rewritten zip does."""
    found = unpack(written(tmp_path / "b.zip", listed(entries(good))), _new(tmp_path / "b"))
    assert found.contents.seeds == {1: "done", 2: "done"}


# --------------------------------------------------------------------------------------- difference


def answering(*hits: int, N: int = 100) -> list[Predictions]:
    """Seeds that are right on their first `hits` samples of two classes."""
    labels = np.zeros(N, np.int64)
    answers = [(np.arange(N) >= hit).astype(int) for hit in hits]
    ids = np.array([f"s{i:03d}" for i in range(N)], dtype=object)
    return [Predictions(ids, labels, np.eye(2)[answer], {}, {}) for answer in answers]


def test_tolerance_is_taken_from_the_spread_of_the_bundled_seeds() -> None:
    found = tolerance_of(answering(60, 62, 64, 66), 4)
    assert found.seed == pytest.approx(2 * np.sqrt(2) * np.std([0.60, 0.62, 0.64, 0.66], ddof=1))
    assert found.mean == pytest.approx(found.seed / 2)
    assert found.agreement == pytest.approx(0.94 - 2 * np.sqrt(2 * 0.94 * 0.06 / 100))  # seeds 1 and 4 agree least
    assert tolerance_of(answering(50, 50), 2) == Tolerance(1 / 100, 1 / 100, 1.0)  # never less than one sample
    one = tolerance_of(answering(80), 1)
    assert one.seed == pytest.approx(2 * np.sqrt(0.2 / 100))
    assert one.agreement == pytest.approx(0.8 - 2 * np.sqrt(2 * 0.8 * 0.2 / 100))


def test_seeds_that_agree_in_accuracy_by_luck_leave_room_for_the_answers_that_differ() -> None:
    first, second = answering(50, 50)
    second.probs[:] = second.probs[::-1]  # as accurate, on the other half of the samples
    assert tolerance_of([first, second], 2).seed == pytest.approx(2 * np.sqrt(1.0 / 100))
    assert tolerance_of([first, second], 2).agreement == 0.0


def test_no_prediction_leaves_no_room() -> None:
    assert tolerance_of([], 0) == Tolerance(0.0, 0.0, 1.0)


def shifted(folder: Path, seed: int, wrong: int) -> None:
    """Turn `wrong` right predictions of a seed into wrong ones, on both splits."""
    for split in ("val", "test"):
        arrays = predictions(seed, STRENGTHS, name="concat", samples=120)
        right = np.flatnonzero(arrays["probs"].argmax(1) == arrays["labels"])[:wrong]
        arrays["probs"][right] = np.roll(arrays["probs"][right], 1, axis=1)
        write_predictions(folder / f"seed-{seed}", split, arrays)


def compared(make: Callable[..., Path], wrong: int = 0, **options: Any) -> Any:
    one, other = make("one"), make("two")
    if wrong:
        shifted(other, 2, wrong)
    return judge(read_run(one), read_run(other), (environment(), environment(device="cuda", cores=8)),
                 (1, 2, 3, 4, 5), **options)  # fmt: skip


def test_verdicts(make: Callable[..., Path]) -> None:
    same = compared(make)
    assert same.verdict == BITWISE
    assert same.environment == (("device", "cpu", "cuda"), ("cores", "2", "8"))
    assert [each.probability for each in same.seeds] == [0.0] * 5
    room = int(same.tolerance.seed * 120 + 1e-9)
    assert 0 < room < 60


def test_a_few_other_answers_are_inside_the_tolerance_and_many_are_not(make: Callable[..., Path]) -> None:
    near = compared(make, wrong=1)
    assert near.verdict == WITHIN
    assert [each.bitwise for each in near.seeds] == [True, False, True, True, True]
    assert near.seeds[1].agreement == pytest.approx(119 / 120)
    assert near.seeds[1].change("accuracy") == pytest.approx(-1 / 120)
    text = " ".join(note for note in sheet(near).notes)
    assert "Equal bits were not to be expected: device differ" in text


def test_equal_accuracy_with_other_answers_is_another_run(make: Callable[..., Path]) -> None:
    one, other = make("one", seeds=(1, 2)), make("two", seeds=(1, 2))
    labels = np.arange(120) % 3
    for folder, wrong in ((one, slice(0, 60)), (other, slice(60, 120))):
        answers = labels.copy()
        answers[wrong] = (answers[wrong] + 1) % 3
        arrays = predictions(1, STRENGTHS) | {"probs": np.eye(3, dtype=np.float32)[answers], "labels": labels}
        for seed in (1, 2):
            for split in ("val", "test"):
                write_predictions(folder / f"seed-{seed}", split, arrays)
    found = judge(read_run(one), read_run(other), (environment(), environment()), (1, 2))
    assert [each.change("accuracy") for each in found.seeds] == [0, 0]
    assert [each.agreement for each in found.seeds] == [0, 0]
    assert found.verdict == DIFFERENT


def test_exact_allows_nothing(make: Callable[..., Path]) -> None:
    assert compared(make, wrong=1, exact=True).verdict == DIFFERENT


def test_a_large_change_is_different_and_every_form_says_so(make: Callable[..., Path]) -> None:
    far = compared(make, wrong=60)
    assert far.verdict == DIFFERENT
    assert document(far)["verdict"] == DIFFERENT
    assert document(far)["seeds"][1]["change"]["accuracy"] == pytest.approx(-0.5)
    assert DIFFERENT in sheet(far).title
    table = lines(far)
    assert {len(line) for line in table} == {len(table[0])}
    json.dumps(document(far), allow_nan=False)


def test_a_seed_that_ends_otherwise_is_different(make: Callable[..., Path]) -> None:
    reason = {5: "loss was not finite at step 3"}
    one, other = make("one", seeds=(1, 2), failed=reason), make("two", seeds=(1, 2), failed=reason)
    both = (environment(), environment())
    alike = judge(read_run(one), read_run(other), both, (1, 2, 5))
    assert alike.verdict == BITWISE  # failing again at the same step is what a replay should do
    third = make("three", seeds=(1, 2, 5))
    found = judge(read_run(one), read_run(third), both, (1, 2, 5))
    assert found.verdict == DIFFERENT
    assert "failed, now done" in [entry.text for entry in sheet(found).rows[2]]


def test_other_samples_are_not_compared(make: Callable[..., Path]) -> None:
    one, other = make("one", seeds=(1,)), make("two", seeds=(1,), ids=[f"other-{i}" for i in range(120)])
    with pytest.raises(CacheError, match="other samples"):
        judge(read_run(one), read_run(other), (environment(), environment()), (1,))


def test_equal_versions_and_other_bits_are_remarked(make: Callable[..., Path]) -> None:
    one, other = make("one"), make("two")
    shifted(other, 2, 1)
    found = judge(read_run(one), read_run(other), (environment(), environment()), (1, 2))
    assert found.verdict == WITHIN
    assert "equal bits were expected" in " ".join(sheet(found).notes)
