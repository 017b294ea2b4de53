"""Samples that cannot be used are recorded with a reason, carried as missing, and never dropped unasked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmbal_cli.encode import prepare as module
from mmbal_cli.encode.prepare import prepare
from mmbal_cli.encode.work import Limit, Limits
from mmbal_cli.errors import MediaError
from mmbal_cli.store.index import verify
from mmbal_cli.store.sets import read_arrays
from tests.kit.faults import overwrite
from tests.kit.killer import snapshot
from tests.kit.lab import ANY, CHUNK, CLIPS, planned, prepared, table


def faulty(clip: str, what: str, modality: str = "") -> Callable[[], list[str]]:
    """The command of a child that does `what` when it decodes `clip`."""
    code = (
        "import json, os, time\n"
        "from mmbal_cli.encode import worker\n"
        "real = worker.decode\n"
        "def decode(kind, value, settings):\n"
        f"    if str(value).endswith({clip!r}) and {modality!r} in ('', kind):\n"
        f"        {what}\n"
        "    return real(kind, value, settings)\n"
        "worker.decode = decode\n"
        "worker.serve(worker.handle)\n"
    )
    return lambda: [sys.executable, "-P", "-c", code]


def test_bad_clips_are_recorded_and_never_dropped(copy: Path, tmp_path: Path) -> None:
    """Truncated, empty, wrong type, no such file: each listed with a reason; other modalities are kept."""
    clips = sorted((copy / "clips").iterdir())
    whole = clips[0].read_bytes()
    for clip, data in zip(clips, (whole[: len(whole) // 2], b"", b"not a video " * 99), strict=False):
        overwrite(clip, data)
    clips[3].unlink()
    make = planned(copy / "manifest.csv", tmp_path, missing_ok=True)
    with pytest.raises(MediaError) as caught:
        prepare(make)
    assert "video: 4 of 40 samples (0 of them in test) cannot be used" in caught.value.found
    assert "clip00001 (train)" in caught.value.found
    assert "--skip-bad" in caught.value.repair
    assert not list(tmp_path.glob("**/index.json"))
    before = snapshot(tmp_path / "manifest", "*--*/*.h5")
    outcome = prepare(make, limits=ANY)
    after = snapshot(tmp_path / "manifest", "*--*/*.h5")
    assert before.items() <= after.items(), "accepting bad samples must not redo finished shards"
    arrays = read_arrays(tmp_path, outcome.prepared)
    for m in ("video", "audio"):
        assert arrays["mask"][m].tolist() == [False] * 4 + [True] * (CLIPS - 4)
        assert not arrays["features"][m][:4].any()
        listed = json.loads(
            (tmp_path / "manifest" / outcome.prepared.modalities[m] / "bad" / "00000.json").read_bytes()
        )
        assert [entry["id"] for entry in listed] == [f"clip{n:05d}" for n in range(4)]
        assert all(entry["reason"] and str(copy) not in entry["reason"] for entry in listed)
        assert [entry.model_dump() for entry in outcome.indexes[m].bad] == listed
    assert arrays["mask"]["text"].all()


def test_a_bad_test_sample_stops_below_the_share(copy: Path, tmp_path: Path) -> None:
    overwrite(max((copy / "clips").iterdir()), b"")
    make = planned(copy / "manifest.csv", tmp_path, only=["audio"])
    with pytest.raises(MediaError, match="1 of 40 samples"):
        prepare(make, limits=Limits(Limit(share=0.5)))
    assert prepare(make, limits=Limits(Limit(count=1), Limit(count=1))).indexes["audio"].bad[0].split == "test"


def test_limits() -> None:
    assert Limit(share=0.01).allows(2, 200)
    assert not Limit(share=0.01).allows(3, 200)
    assert not Limit(share=0.01).allows(1, 99)
    assert Limit(count=3).allows(3, 10)
    assert not Limit().allows(1, 10**9)


def test_a_hopeless_run_stops_early(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number}.wav").write_bytes(b"no sound %d" % number)
    rows = [(n, "train" if n % 3 else "test", n // 3 % 2, f"{n}.wav") for n in range(200)]
    done: list[int] = []
    make = planned(table(tmp_path, "id,split,label,audio", rows), tmp_path / "c")
    with pytest.raises(MediaError, match="of 200 samples"):
        prepare(make, on_start=lambda total: lambda n=1, detail="": done.append(n))
    assert len(done) < 60
    assert list(tmp_path.glob("c/t/audio--*/bad/*.json"))


def test_everything_bad_is_an_error_even_when_accepted(tmp_path: Path) -> None:
    rows = [(n, ("train", "test")[n % 2], n // 2 % 2, "7 7 7") for n in range(8)]
    make = planned(table(tmp_path, "id,split,label,vector", rows), tmp_path / "c")
    with pytest.raises(MediaError, match="cannot be used"):
        prepare(make)
    outcome = prepare(make, limits=ANY)  # a shape is known, so zeros can be carried
    assert len(outcome.indexes["vector"].bad) == 8
    for number in range(8):
        (tmp_path / f"{number}.wav").write_bytes(b"no sound %d" % number)
    rows = [(n, ("train", "test")[n % 2], n // 2 % 2, f"{n}.wav") for n in range(8)]
    with pytest.raises(MediaError, match="No sample of 'audio' could be used"):
        prepare(planned(table(tmp_path, "id,split,label,audio", rows, "a"), tmp_path / "c"), limits=ANY)


def test_unusable_numbers_are_found(tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", np.arange(2.0))
    values = ["1 2 3", "1 nan 3", "1 inf 3", "5 5 5", "1 2 70000", "short.npy", "4 5 6", "0 0 1"]
    rows = [(f"s{n}", "train" if n < 6 else "test", n % 2, value) for n, value in enumerate(values)]
    path = table(tmp_path, "id,split,label,vector", rows)
    outcome, arrays = prepared(path, tmp_path / "c", ANY)
    reasons = {entry.id: entry.reason for entry in outcome.indexes["vector"].bad}
    assert list(reasons) == ["s1", "s2", "s3", "s4", "s5"]
    assert "finite" in reasons["s1"]
    assert "finite" in reasons["s2"]
    assert reasons["s3"] == "features are constant"
    assert "--dtype float32" in reasons["s4"]
    assert reasons["s5"] == "has shape [2], others [3]"
    assert arrays["mask"]["vector"].tolist() == [True, False, False, False, False, False, True, True]
    assert np.isfinite(arrays["features"]["vector"]).all()
    outcome, _ = prepared(path, tmp_path / "c", ANY, dtype="float32")
    assert "s4" not in {entry.id for entry in outcome.indexes["vector"].bad}


def test_retry_bad_redoes_exactly_the_chunks_with_bad_samples(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed by accident (a busy disk, a killed child) need not stay bad."""
    make = planned(lab / "manifest.csv", tmp_path, only=["audio"])
    monkeypatch.setattr(module, "command", faulty("00012.mp4", "raise OSError('busy')"))
    prepare(make, limits=ANY)
    before = snapshot(make.modalities[0].folder, "*.h5")
    monkeypatch.undo()
    assert prepare(make, limits=ANY).made == {}  # bad is recorded; nothing is tried again unasked
    outcome = prepare(make, retry_bad=True)
    assert outcome.indexes["audio"].bad == ()
    after = snapshot(make.modalities[0].folder, "*.h5")
    assert outcome.made == {"audio": 1}
    assert len(before.items() & after.items()) == CLIPS // CHUNK - 1
    assert verify(make.modalities[0].folder) == []


@pytest.mark.parametrize(("what", "word"), [("os.abort()", "SIGABRT"), ("time.sleep(60)", "1")])
def test_a_dying_or_hanging_decoder_costs_one_modality_of_one_sample(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, word: str
) -> None:
    monkeypatch.setattr(module, "command", faulty("00012.mp4", what, "video"))
    outcome = prepare(planned(lab / "manifest.csv", tmp_path, only=["video", "audio"]), limits=ANY, deadline=1.0)
    assert [(entry.id, word in entry.reason) for entry in outcome.indexes["video"].bad] == [("clip00012", True)]
    assert outcome.indexes["audio"].bad == ()
