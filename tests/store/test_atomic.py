"""Publishing is all or nothing, at whichever system call it stops; locks only save work."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbal_cli.errors import CacheError
from mmbal_cli.store.atomic import (
    STALE,
    best_effort_lock,
    canonical_json,
    check_space,
    digest_of,
    publish,
    sha256_hex,
    sweep_parts,
)
from tests.kit.faults import ERRORS, Injected, LossyDisk, die, die_after, fail, in_child, short

OLD, NEW = b"old content " * 9, b"new content, longer " * 50
ORDER = ["open", "write", "chmod", "fsync", "close", "replace", "fsync_dir"]
STARTS = {"fresh": None, "replacing": OLD, "new folder": None}


def start(tmp_path: Path, kind: str) -> tuple[Path, bytes | None]:
    """A folder as publish may meet it, and what the visible name holds there."""
    folder = tmp_path / kind
    if kind == "replacing":
        publish(folder, "x.json", OLD)
    elif kind == "fresh":
        folder.mkdir(parents=True)
    else:
        folder = folder / "of" / "two levels"
    return folder, STARTS[kind]


def holds(folder: Path) -> bytes | None:
    """Content of the visible name."""
    return (folder / "x.json").read_bytes() if (folder / "x.json").exists() else None


def leftovers(folder: Path) -> list[Path]:
    """Private files."""
    return list(folder.rglob(".*.part"))


def test_order_makes_the_content_durable_before_the_name(tmp_path):
    watch = Injected(0, short)
    path = publish(tmp_path, "x.json", NEW, system=watch.system)
    assert watch.log == ORDER
    assert path.read_bytes() == NEW
    assert path.stat().st_mode & 0o777 == 0o444 & ~umask()


def umask() -> int:
    """This process's umask."""
    value = os.umask(0o022)
    os.umask(value)
    return value


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o444), (0o077, 0o400), (0o027, 0o440)])
def test_mode_passes_through_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        assert publish(tmp_path, "x", b"").stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)


@pytest.mark.parametrize("kind", STARTS)
@pytest.mark.parametrize("error", ERRORS)
def test_every_system_call_may_fail(tmp_path, kind, error):
    for at in range(1, 99):
        folder, old = start(tmp_path / str(at), kind)
        injected = Injected(at, fail(error))
        if injected_fails(folder, injected, error):
            assert holds(folder) in ({old, NEW} if injected.log.count("replace") else {old})
            assert leftovers(tmp_path) == []
            publish(folder, "x.json", NEW)  # the rerun completes
        assert holds(folder) == NEW
        if not injected.reached:
            break
    assert at > len(ORDER)


def injected_fails(folder: Path, injected: Injected, error: int) -> bool:
    """Publish; whether it failed, in the words it should."""
    caught = None
    try:
        publish(folder, "x.json", NEW, system=injected.system)
    except CacheError as raised:
        caught = raised
    assert (caught is not None) == injected.reached
    if caught is not None:
        words = (str(folder / "x.json"), f"{len(NEW):,} bytes", os.strerror(error))
        assert all(word in caught.found for word in words)
        assert caught.exit_code == 3
    return caught is not None


@pytest.mark.parametrize("at", range(1, len(ORDER) + 1))
def test_a_disk_that_fails_for_good_costs_at_most_a_leftover(tmp_path, at):
    publish(tmp_path, "x.json", OLD)
    with pytest.raises(CacheError):
        publish(tmp_path, "x.json", NEW, system=Injected(at, fail(errno.EIO), forever=True).system)
    assert holds(tmp_path) == (NEW if at == len(ORDER) else OLD)
    assert len(leftovers(tmp_path)) <= 1


def test_short_writes_are_continued(tmp_path):
    publish(tmp_path, "x.json", NEW, system=Injected(1, short, forever=True).system)
    assert holds(tmp_path) == NEW


def test_a_disk_that_accepts_nothing_is_no_endless_loop(tmp_path):
    def accept_nothing(name, real, args):
        return 0 if name == "write" else real(*args)

    nothing = Injected(2, accept_nothing, forever=True)
    with pytest.raises(CacheError, match="accepted no more"):
        publish(tmp_path, "x.json", NEW, system=nothing.system)


@pytest.mark.parametrize("at", range(1, len(ORDER) + 1))
def test_ctrl_c_removes_the_private_file(tmp_path, at):
    def interrupt(name, real, args):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path, "x.json", NEW, system=Injected(at, interrupt).system)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("kind", STARTS)
@pytest.mark.parametrize("death", [die, die_after])
def test_death_at_every_system_call_leaves_old_or_new(tmp_path, kind, death):
    for at in range(1, 99):
        folder, old = start(tmp_path / str(at), kind)
        code = in_child(partial(publish, folder, "x.json", NEW, system=Injected(at, death).system))
        if code == 0:
            break
        assert code == 9
        assert holds(folder) in (old, NEW)
        assert [p.name for p in folder.parent.rglob("*") if p.is_file() and not p.name.startswith(".")] in (
            [[]] if holds(folder) is None else [["x.json"]]
        )
        sweep_parts(tmp_path)
        assert leftovers(tmp_path) == []
        publish(folder, "x.json", NEW)
        assert holds(folder) == NEW
    assert at > len(ORDER)


@pytest.mark.parametrize("files", [{}, {"x.json": OLD}])
def test_power_loss_at_every_moment(tmp_path, files):
    disk = LossyDisk(files)
    publish(tmp_path, "x.json", NEW, system=disk.system)
    for states in disk.worst:
        for state in states:
            assert state.get("x.json") in (files.get("x.json"), NEW)
    assert all(state["x.json"] == NEW for state in disk.after_power_loss())


def test_the_simulated_disk_notices_a_missing_sync(tmp_path, monkeypatch):
    lazy = LossyDisk({"x.json": OLD})
    monkeypatch.setattr(lazy, "_fsync", lambda fd: None)
    publish(tmp_path, "x.json", NEW, system=lazy.system)
    assert any(state["x.json"] == b"" for states in lazy.worst for state in states)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/x", "a\\b", "a\0b", ".hidden"])
def test_names_stay_in_their_folder(tmp_path, name):
    with pytest.raises(CacheError, match="no file name"):
        publish(tmp_path / "inner", name, b"x")
    assert list(tmp_path.iterdir()) == []


def test_what_stands_in_the_way_is_an_error_not_a_crash(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder" / "x").mkdir(parents=True)
    for folder, name in ((tmp_path / "file", "x"), (tmp_path / "folder", "x"), (tmp_path, "n" * 300)):
        with pytest.raises(CacheError, match="Could not write"):
            publish(folder, name, b"data")
    assert leftovers(tmp_path) == []


LIMITED = """
import resource, sys
from pathlib import Path
from mmbal_cli.errors import CacheError
from mmbal_cli.store.atomic import publish
from mmbal_cli.store.shard import shard_image, shard_name
import numpy as np
if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
image = shard_image({"features": np.ones((1000, 500), "f4")}, {})
try:
    publish(Path(sys.argv[1]), shard_name(0, image), image)
except CacheError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_file_size_limit_is_an_error_not_a_crash(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), "limit"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3, done.stderr
    assert "ulimit" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_not_a_crash(tmp_path):
    """A real one: 256 KiB of memory disk in a private mount name space, where the machine allows that."""
    unshare = shutil.which("unshare")
    mount = f'mount -t tmpfs -o size=256k none "{tmp_path}"'
    inside = [unshare or "", "--mount", "--propagation", "private", "sh", "-c"]
    if not unshare or subprocess.run([*inside, mount], capture_output=True, timeout=60).returncode:
        pytest.skip("mounting is not allowed here; the file-size limit stands in")
    script = f'{mount} && "$0" -c "$1" "{tmp_path}" full; code=$?; ls -A "{tmp_path}"; exit $code'
    done = subprocess.run([*inside, script, sys.executable, LIMITED], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert "No space left" in done.stdout
    assert done.stdout.count("\n") == 1, "a leftover"


def test_space_is_checked_before_starting(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    check_space(tmp_path / "not" / "yet", free // 4)
    with pytest.raises(CacheError, match="MB are free"):
        check_space(tmp_path / "not" / "yet", free)
    assert list(tmp_path.iterdir()) == []


def test_four_processes_publish_the_same_files(tmp_path):
    images = {f"{n}.h5": bytes([n]) * 50_000 for n in range(3)}

    def work():
        for _ in range(20):
            for name, image in images.items():
                publish(tmp_path, name, image)

    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            os._exit(in_child(work))
        children.append(pid)
    bad = 0
    while children:
        for path in tmp_path.glob("*.h5"):
            bad += path.read_bytes() != images[path.name]
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            assert status == 0
            children.remove(pid)
    assert bad == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(images)


def test_leftovers_of_the_dead_and_of_yesterday_are_swept(tmp_path):
    (tmp_path / "bad").mkdir()
    for folder in (tmp_path, tmp_path / "bad"):
        assert in_child(partial(publish, folder, "x", NEW, system=Injected(3, die).system)) == 9
    old, young, own = (tmp_path / f".x.{n}.part" for n in ("1.aaaa", "2.bbbb", "3.cccc"))
    for path in (old, young, own):
        path.touch()
    os.utime(old, (0, time.time() - STALE - 10))
    os.utime(young, (0, time.time() + 3 * STALE))  # the clock jumped
    publish(tmp_path, "kept.h5", NEW)
    assert len(leftovers(tmp_path)) == 5
    assert sweep_parts(tmp_path) == 3
    assert set(leftovers(tmp_path)) == {young, own}
    assert (tmp_path / "kept.h5").exists()


def test_a_living_writer_keeps_its_private_file(tmp_path):
    def sweep_now(name, real, args):
        assert sweep_parts(tmp_path) == 0
        return real(*args)

    publish(tmp_path, "x", NEW, system=Injected(6, sweep_now).system)
    assert (tmp_path / "x").read_bytes() == NEW


HOLDER = """
import sys, time
from pathlib import Path
from mmbal_cli.store.atomic import best_effort_lock
with best_effort_lock(Path(sys.argv[1])) as held:
    print(held, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_waiting_is_bounded_and_names_the_holder(tmp_path, holder):
    said: list[str] = []
    begin = time.monotonic()
    with best_effort_lock(tmp_path, wait=0.3, notify=said.append) as held:
        assert not held
        publish(tmp_path, "x", b"works all the same")
    assert time.monotonic() - begin < 5
    assert len(said) == 2
    assert all(f"process {holder.pid} on" in line for line in said)


def test_the_lock_of_a_killed_process_is_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    begin = time.monotonic()
    with best_effort_lock(tmp_path, wait=10) as held:
        assert held
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("number", [37, 524, errno.ENOSYS])
def test_a_disk_without_locks_gives_one_notice(tmp_path, monkeypatch, number):
    def refuse(fd, how):
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    said: list[str] = []
    with best_effort_lock(tmp_path, notify=said.append) as held:
        assert not held
    assert len(said) == 1
    assert "no file locks" in said[0]


def test_a_lock_that_holds_nobody_back_is_harmless(tmp_path, monkeypatch, holder):
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: None)
    with best_effort_lock(tmp_path) as held:
        assert held
        publish(tmp_path, "x", NEW)
    assert holds(tmp_path) is None
    assert (tmp_path / "x").read_bytes() == NEW


def test_a_lock_note_with_escape_codes_is_not_shown(tmp_path, holder):
    (tmp_path / ".lock").write_bytes(b"\x1b[31m[red]evil\x1b[0m")
    said: list[str] = []
    with best_effort_lock(tmp_path, wait=0, notify=said.append):
        pass
    assert "another process" in said[0]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_canonical_json_has_one_spelling(value):
    data = canonical_json(value)
    assert json.loads(data) == value
    assert canonical_json(dict(reversed(value.items()))) == data
    assert digest_of(value) == sha256_hex(data)
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_json_cannot_say_is_an_error(value):
    with pytest.raises(CacheError, match="Not representable"):
        canonical_json({"x": value})
