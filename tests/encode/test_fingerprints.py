"""Every ingredient of the features changes their fingerprint, nothing else does, and changes are named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mmbal_cli.encode.plan import Plan
from mmbal_cli.encode.prepare import prepare
from mmbal_cli.errors import ManifestError
from mmbal_cli.store.sets import read_set
from tests.kit.faults import overwrite
from tests.kit.lab import CHUNK, CLIPS, planned


def lengthened(path: Path, clip: Path) -> Path:
    overwrite(clip, clip.read_bytes() + b"x")
    return path


def edited(path: Path, text: str) -> Path:
    overwrite(path, text.encode())
    return path


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
