"""Real clips, texts and vectors -> shards: right values, every fault recorded, and nothing lost by kills."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbal_cli.data.datasets import get_generator
from mmbal_cli.data.manifest import read_manifest
from mmbal_cli.encode import get_encoder
from mmbal_cli.encode import prepare as module
from mmbal_cli.encode.plan import Plan, plan
from mmbal_cli.encode.prepare import Outcome, prepare
from mmbal_cli.encode.work import Limit, Limits
from mmbal_cli.errors import CacheError, ManifestError, MediaError
from mmbal_cli.media.audio import decode_audio
from mmbal_cli.media.video import decode_video
from mmbal_cli.store.index import read_index, verify
from mmbal_cli.store.sets import read_arrays, read_set
from mmbal_cli.store.shard import is_intact
from tests.kit.faults import in_child, overwrite
from tests.kit.killer import contents, forked, kill_until_done, snapshot

CLIPS, CHUNK = 40, 5
KILLS, LONGEST_S, SEED = 8, 1.5, 3
ANY = Limits(Limit(share=1.0), Limit(share=1.0))
FEATURES = "*--*/**/*"


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated data set: 40 clips with sound and captions."""
    root = tmp_path_factory.mktemp("lab")
    get_generator("demo")(root, clips=CLIPS, workers=1)
    return root


@pytest.fixture
def copy(lab: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return shutil.copytree(lab, tmp_path / "copy")


def planned(table: Path, cache: Path, only: Sequence[str] = (), **options: Any) -> Plan:
    manifest = read_manifest(table, missing_ok=options.pop("missing_ok", False), classes=options.pop("classes", None))
    params = options.pop("params", {})
    encoders = {
        m: get_encoder("", kind, **params.get(m, {})) for m, kind in manifest.kinds.items() if not only or m in only
    }
    return plan(manifest, encoders, cache, **{"chunk": CHUNK, **options})


def prepared(table: Path, cache: Path, limits: Limits | None = None, **options: Any) -> tuple[Outcome, dict[str, Any]]:
    outcome = prepare(planned(table, cache, **options), limits=limits)
    return outcome, read_arrays(cache, outcome.prepared)


def table(tmp_path: Path, header: str, rows: Sequence[Sequence[object]], name: str = "t") -> Path:
    path = tmp_path / f"{name}.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header.split(","), *rows])
    return path


def words(tmp_path: Path, n: int = 12, **more: Any) -> Path:
    rows = [(f"s{i}", "test" if i % 4 == 3 else "train", "ab"[i // 2 % 2], f"word{i} and more") for i in range(n)]
    return table(tmp_path, "id,split,label,text", rows, **more)


# ------------------------------------------------------------------------------------------ values


def test_features_are_those_of_decoder_and_encoder(lab: Path, tmp_path: Path) -> None:
    outcome, arrays = prepared(lab / "manifest.csv", tmp_path)
    manifest = read_manifest(lab / "manifest.csv")
    assert arrays["ids"] == [sample.id for sample in manifest.samples]
    assert arrays["labels"].tolist() == [sample.label for sample in manifest.samples]
    assert arrays["splits"] == [sample.split for sample in manifest.samples]
    assert arrays["groups"] == [sample.group for sample in manifest.samples]
    shapes = {m: x.shape for m, x in arrays["features"].items()}
    assert shapes == {"video": (CLIPS, 760), "audio": (CLIPS, 640), "text": (CLIPS, 2048)}
    assert all(mask.all() for mask in arrays["mask"].values())
    for row in (0, 7, CLIPS - 1):
        clip = lab / str(manifest.samples[row].values["video"])
        for m, decoded in (("video", decode_video(clip)), ("audio", decode_audio(clip))):
            wanted = get_encoder("", m).sample(*decoded).astype(np.float16)
            np.testing.assert_array_equal(arrays["features"][m][row], wanted)
    assert outcome.made == dict.fromkeys(("video", "audio", "text"), CLIPS // CHUNK)
    assert {index.dtype for index in outcome.indexes.values()} == {"float16"}
    assert read_set(tmp_path, "manifest") == outcome.prepared


def test_bytes_depend_on_content_only(lab: Path, tmp_path: Path) -> None:
    """Two workers, another place, other times and a removed cache give byte-identical folders (issue, point 4)."""
    prepare(planned(lab / "manifest.csv", tmp_path / "one"), workers=1)
    first = contents(tmp_path / "one", f"manifest/{FEATURES}")
    shutil.rmtree(tmp_path / "one")
    moved = shutil.copytree(lab, tmp_path / "moved", copy_function=shutil.copyfile)
    prepare(planned(moved / "manifest.csv", tmp_path / "one"), workers=2)
    assert contents(tmp_path / "one", f"manifest/{FEATURES}") == first
    assert len(first) == 3 * (CLIPS // CHUNK + 1)


def test_missing_modalities_are_zeros_with_a_false_mask(tmp_path: Path) -> None:
    rows = [
        (f"s{i}", ("train", "test")[i % 2], "ab"[i // 2 % 2], f"w{i}" if i < 7 else "", f"{i} 2 3") for i in range(16)
    ]
    _, arrays = prepared(table(tmp_path, "id,split,label,text,vector", rows), tmp_path / "c")
    assert arrays["mask"]["text"].tolist() == [i < 7 for i in range(16)]  # the last chunk has no text at all
    assert not arrays["features"]["text"][7:].any()
    assert arrays["features"]["vector"][5].tolist() == [5, 2, 3]


def test_segments_give_time_and_float32_is_exact(tmp_path: Path) -> None:
    long = "one two three four five six seven eight nine ten"
    rows = [(f"s{i}", ("train", "test")[i % 2], "ab"[i // 2 % 2], f"{long} {i}", f"{i} 0.1") for i in range(8)]
    params = {"text": {"segments": 4}}
    path = table(tmp_path, "id,split,label,text,vector", rows)
    outcome, arrays = prepared(path, tmp_path / "c", params=params, dtype="float32")
    assert arrays["features"]["text"].shape == (8, 4, 2048)
    assert arrays["features"]["vector"][3].tolist() == [3, np.float32(0.1)]
    assert outcome.indexes["text"].shape == (4, 2048)


def test_texts_in_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words in a file", encoding="utf-8-sig")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xff")
    rows = [
        ("a", "train", "x", "file:a.txt"),
        ("b", "train", "y", "words in a file"),
        ("c", "train", "y", "file:bad.txt"),
    ]
    path = table(tmp_path, "id,split,label,text", [*rows, ("d", "val", "x", "more"), ("e", "test", "x", "q")])
    outcome, arrays = prepared(path, tmp_path / "c", ANY)
    np.testing.assert_array_equal(*arrays["features"]["text"][:2])
    assert arrays["mask"]["text"].tolist() == [True, True, False, True, True]
    assert "UTF-8" in outcome.indexes["text"].bad[0].reason


def test_pretrained_models_with_time_and_masks(copy: Path, copied: Callable[[str], Path], tmp_path: Path) -> None:
    """Frames [N,T,F], tokens with a mask [N,T], a missing text; the second plan needs no torch; new weights are new."""
    path = copy / "manifest.csv"
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[1]["text:text"] = ""
    path.unlink()
    table(copy, ",".join(rows[0]), [list(row.values()) for row in rows], "manifest")
    folders = {"video": copied("clip"), "text": copied("bert")}
    params: dict[str, dict[str, Any]] = {
        "video": {"pool": "frames", "frames": 3},
        "text": {"pool": "tokens", "length": 24},
    }

    def make() -> Plan:
        encoders = {m: get_encoder(str(folders[m]), m, device="cpu", **params[m]) for m in folders}
        return plan(read_manifest(path), encoders, tmp_path / "c", chunk=16)

    outcome = prepare(make())
    arrays = read_arrays(tmp_path / "c", outcome.prepared)
    assert arrays["features"]["video"].shape[:2] == (CLIPS, 3)
    assert arrays["mask"]["video"].all()
    mask = arrays["mask"]["text"]
    assert mask.shape == (CLIPS, 24)
    assert not mask[1].any()
    assert mask[0].any()
    encoder = get_encoder(str(folders["text"]), "text", device="cpu", **params["text"])
    wanted, valid = encoder.batch([encoder.sample(rows[n]["text:text"], {}) for n in (0, 2)])
    np.testing.assert_array_equal(mask[[0, 2]], valid)
    np.testing.assert_allclose(arrays["features"]["text"][[0, 2]], wanted, rtol=2e-3, atol=1e-3)
    assert outcome.indexes["video"].made_with["device"] == "cpu"

    def again() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] in ("torch", "h5py", "transformers")]:
            sys.modules[name] = None  # type: ignore[assignment]
        os._exit(7 if make().up_to_date else 1)

    assert in_child(again) == 7
    weights = bytearray((folders["text"] / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    overwrite(folders["text"] / "model.safetensors", bytes(weights))
    assert make().changes == ("text: encoder.files.model.safetensors changed",)


# --------------------------------------------------------------------------------------- bad samples


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


@pytest.mark.parametrize(("what", "word"), [("os.abort()", "SIGABRT"), ("time.sleep(60)", "1")])
def test_a_dying_or_hanging_decoder_costs_one_modality_of_one_sample(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, word: str
) -> None:
    monkeypatch.setattr(module, "command", faulty("00012.mp4", what, "video"))
    outcome = prepare(planned(lab / "manifest.csv", tmp_path, only=["video", "audio"]), limits=ANY, deadline=1.0)
    assert [(entry.id, word in entry.reason) for entry in outcome.indexes["video"].bad] == [("clip00012", True)]
    assert outcome.indexes["audio"].bad == ()


# -------------------------------------------------------------------------------------- fingerprints


def test_every_ingredient_changes_the_fingerprint_and_is_named(copy: Path, tmp_path: Path) -> None:
    """Label, split, group, id, classes, source bytes, decoder, encoder, type, chunk: other folder, old one kept."""
    cache, path = tmp_path / "c", copy / "manifest.csv"
    base = prepare(planned(path, cache)).prepared
    original = path.read_text()
    clip = max((copy / "clips").iterdir())
    classes = ["anger", "disgust", "fear", "joy", "neutral", "sadness"]
    edits: list[tuple[str, Callable[[], Plan]]] = [
        ("samples changed", lambda: planned(edited(path, original.replace(",joy,", ",fear,", 1)), cache)),
        ("samples changed", lambda: planned(edited(path, original.replace("speaker00", "speaker99", 1)), cache)),
        ("samples changed", lambda: planned(edited(path, original.replace("clip00003,", "other,", 1)), cache)),
        ("classes", lambda: planned(edited(path, original), cache, classes=classes[::-1])),
        ("text: sources changed", lambda: planned(edited(path, original[:-2] + " x\n"), cache)),
        (
            "video: decode.frames 8 -> 4",
            lambda: planned(edited(path, original), cache, params={"video": {"frames": 4}}),
        ),
        ("text: encoder.params.segments 1 -> 2", lambda: planned(path, cache, params={"text": {"segments": 2}})),
        ("dtype float16 -> float32", lambda: planned(path, cache, dtype="float32")),
        (f"chunk {CHUNK} -> 9", lambda: planned(path, cache, chunk=9)),
        ("modality 'text' is gone", lambda: planned(path, cache, only=["audio", "video"])),
        ("video: sources changed", lambda: planned(lengthened(path, clip), cache)),
    ]
    for words, make in edits:
        changed = make()
        assert changed.prepared.fingerprint != base.fingerprint, words
        assert not changed.up_to_date
        assert any(words in line for line in changed.changes), (words, changed.changes)
    assert read_set(cache, "manifest") == base


def lengthened(path: Path, clip: Path) -> Path:
    overwrite(clip, clip.read_bytes() + b"x")
    return path


def edited(path: Path, text: str) -> Path:
    overwrite(path, text.encode())
    return path


def test_one_modality_changed_redoes_only_that_one(lab: Path, tmp_path: Path) -> None:
    prepare(planned(lab / "manifest.csv", tmp_path))
    outcome = prepare(planned(lab / "manifest.csv", tmp_path, params={"audio": {"rate": 8000}}))
    assert outcome.made == {"audio": CLIPS // CHUNK}
    assert len(list((tmp_path / "manifest").glob("audio--*"))) == 2


def test_times_places_and_copies_change_nothing(copy: Path, tmp_path: Path) -> None:
    prepare(planned(copy / "manifest.csv", tmp_path / "c"))
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
    assert planned(copy / "manifest.csv", tmp_path / "c").up_to_date
    copy.rename(tmp_path / "renamed")
    (tmp_path / "c").rename(tmp_path / "elsewhere")
    again = planned(tmp_path / "renamed" / "manifest.csv", tmp_path / "elsewhere")
    assert again.up_to_date
    assert again.changes == ()


def test_changed_bytes_are_seen_at_equal_size(copy: Path, tmp_path: Path) -> None:
    """A decoder may return other pictures without an error: the source digest tells."""
    prepare(planned(copy / "manifest.csv", tmp_path, only=["audio"]))
    clip = min((copy / "clips").iterdir())
    data = bytearray(clip.read_bytes())
    data[len(data) // 2] ^= 1
    overwrite(clip, bytes(data))
    assert not planned(copy / "manifest.csv", tmp_path, only=["audio"]).up_to_date


def test_the_ledger_saves_reading_and_is_never_trusted_blindly(copy: Path, tmp_path: Path) -> None:
    for path in copy.rglob("*.mp4"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    hashed: list[int] = []
    planned(copy / "manifest.csv", tmp_path, on_hash=hashed.append)
    assert len(hashed) == CLIPS
    planned(copy / "manifest.csv", tmp_path, on_hash=hashed.append)
    assert len(hashed) == CLIPS
    ledger = tmp_path / "manifest" / "sources.json"
    for torn in (b"", b"{", b"[]", b'{"a": 1}', b'{"a": [1, 2]}'):
        overwrite(ledger, torn)
        hashed.clear()
        planned(copy / "manifest.csv", tmp_path, on_hash=hashed.append)
        assert len(hashed) == CLIPS, torn


def test_the_same_clip_in_two_splits_is_refused(copy: Path, tmp_path: Path) -> None:
    clips = sorted((copy / "clips").iterdir())
    overwrite(clips[-1], clips[0].read_bytes())
    with pytest.raises(ManifestError) as caught:
        planned(copy / "manifest.csv", tmp_path)
    assert "'clip00000' (train) and 'clip00039' (test)" in str(caught.value)
    assert "--allow-duplicates" in caught.value.repair
    notes = planned(copy / "manifest.csv", tmp_path, allow_duplicates=True).prepared.source["notes"]
    assert any("clip00039" in note for note in notes)


# ------------------------------------------------------------------------- kills, neighbours, damage


def test_kills_at_random_moments_lose_no_shard(lab: Path, tmp_path: Path) -> None:
    """After each SIGKILL every visible shard is intact; none is ever written twice; the end is byte-identical."""
    make = planned(lab / "manifest.csv", tmp_path / "calm")
    prepare(make)
    calm = contents(tmp_path / "calm" / "manifest", FEATURES)
    folder = tmp_path / "killed" / "manifest"
    seen: dict[str, tuple[int, int]] = {}

    def work() -> None:
        prepare(planned(lab / "manifest.csv", tmp_path / "killed"))

    def check() -> None:
        now = snapshot(folder, "*--*/*.h5")
        assert seen.items() <= now.items(), "a finished shard was made again"
        seen.update(now)
        assert all(is_intact(path) for path in folder.glob("*--*/*.h5"))
        for index in map(read_index, [path.parent for path in folder.glob("*--*/index.json")]):
            assert index is not None
            assert len(index.shards) == CLIPS // CHUNK

    delays = kill_until_done(work, kills=KILLS, longest=LONGEST_S, seed=SEED, check=check)
    check()
    assert contents(folder, FEATURES) == calm, f"kills at {delays}"
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize("locks", [True, False])
def test_neighbours_on_one_cache(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool) -> None:
    """Three processes at once, also where locks hold nobody back: all succeed, one digest a chunk."""
    if not locks:
        monkeypatch.setattr("fcntl.flock", lambda *_: None)

    def work() -> None:
        prepare(planned(lab / "manifest.csv", tmp_path, only=["audio", "text"]))

    children = [forked(work) for _ in range(3)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    folders = list((tmp_path / "manifest").glob("*--*"))
    assert len(folders) == 2
    for folder in folders:
        assert verify(folder) == []
        assert len(list(folder.glob("*.h5"))) == CLIPS // CHUNK


def test_an_interrupt_keeps_what_is_finished(lab: Path, tmp_path: Path) -> None:
    make = planned(lab / "manifest.csv", tmp_path, only=["audio"])

    def stop_at(sample: int) -> Callable[..., None]:
        left = iter(range(sample))

        def advance(n: int = 1, detail: str = "") -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt

        return advance

    with pytest.raises(KeyboardInterrupt):
        prepare(make, on_start=lambda total: stop_at(3 * CHUNK))
    kept = snapshot(make.modalities[0].folder, "*.h5")
    assert len(kept) == 3
    outcome = prepare(make)
    assert outcome.made == {"audio": CLIPS // CHUNK - 3}
    assert kept.items() <= snapshot(make.modalities[0].folder, "*.h5").items()


def test_damage_is_redone_and_nothing_else(lab: Path, tmp_path: Path) -> None:
    """A flipped bit, a truncated, an empty, a missing shard, a torn index: the rest is not touched."""
    make = planned(lab / "manifest.csv", tmp_path, only=["audio"])
    prepare(make)
    folder = make.modalities[0].folder
    whole = contents(folder)
    shards = sorted(folder.glob("*.h5"))
    overwrite(shards[0], b"x" + shards[0].read_bytes()[1:])
    overwrite(shards[2], shards[2].read_bytes()[:-1])
    overwrite(shards[3], b"")
    shards[5].unlink()
    shards[7].unlink()
    shutil.copy(shards[6], folder / shards[6].name.replace("00006-", "00007-"))  # intact, and not this chunk
    before = snapshot(folder, "*.h5")
    outcome = prepare(planned(lab / "manifest.csv", tmp_path, only=["audio"]))
    assert outcome.made == {"audio": 5}
    assert contents(folder) == whole
    untouched = {path.name for path in shards} - {shards[n].name for n in (0, 2, 3, 5, 7)}
    after = snapshot(folder, "*.h5")
    assert all(before[name] == after[name] for name in untouched)
    for torn in (b"", b"{}", whole["index.json"][:-9], whole["index.json"].replace(b"float16", b"float32")):
        overwrite(folder / "index.json", torn)
        again = planned(lab / "manifest.csv", tmp_path, only=["audio"])
        assert not again.up_to_date
        assert prepare(again).made == {"audio": 0}
        assert contents(folder) == whole


def test_a_full_disk_is_a_clean_error(lab: Path, tmp_path: Path) -> None:
    """Under a file size limit the process gets an error and ends normally; later it continues."""
    import resource
    import signal

    make = planned(lab / "manifest.csv", tmp_path, only=["audio"])

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        with pytest.raises(CacheError, match="Could not write"):
            prepare(make)
        os._exit(7)

    assert in_child(work) == 7
    assert not list(tmp_path.rglob("*.part"))
    assert prepare(make).made == {"audio": CLIPS // CHUNK}


def test_too_little_space_is_said_before_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = planned(words(tmp_path), tmp_path / "c")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CacheError, match="needs about"):
        prepare(make)
    assert not list(tmp_path.rglob("*.h5"))


def test_planning_loads_neither_torch_nor_hdf5(lab: Path, tmp_path: Path) -> None:
    prepare(planned(lab / "manifest.csv", tmp_path, only=["audio"]))

    def work() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] in ("torch", "h5py")]:
            sys.modules[name] = None  # type: ignore[assignment]
        assert planned(lab / "manifest.csv", tmp_path, only=["audio"]).up_to_date
        os._exit(7)

    assert in_child(work) == 7
