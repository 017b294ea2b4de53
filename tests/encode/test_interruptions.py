"""Kills, interrupts, neighbours, damage and full disks: no finished shard is lost or made again."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmbal_cli.encode.prepare import prepare
from mmbal_cli.errors import CacheError
from mmbal_cli.store.index import read_index, verify
from mmbal_cli.store.shard import is_intact
from tests.kit.faults import ended, forked, in_child, overwrite
from tests.kit.killer import contents, kill_until_done, snapshot
from tests.kit.lab import CHUNK, CLIPS, FEATURES, planned, table

KILLS, LONGEST_S, SEED = 8, 1.5, 3


def words(tmp_path: Path, n: int = 12, **more: Any) -> Path:
    rows = [(f"s{i}", "test" if i % 4 == 3 else "train", "ab"[i // 2 % 2], f"word{i} and more") for i in range(n)]
    return table(tmp_path, "id,split,label,text", rows, **more)


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
    assert [ended(pid) for pid in children] == [0, 0, 0]
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
