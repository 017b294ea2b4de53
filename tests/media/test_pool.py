"""The supervisor of child processes under every fault a decoder was seen to have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mmbal_cli.errors import MediaError
from mmbal_cli.media.pool import DEPTH, Pool

CHILD = Path(__file__).with_name("faulty_child.py")
COMMAND = [sys.executable, "-P", str(CHILD)]
GRACE = 2.0  # seconds a kill may come after its deadline


def run(jobs, workers=2, deadline=30.0, ordered=True, **options):
    return list(Pool(COMMAND, workers, deadline, **options).run(jobs, ordered))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def pid_in(path: Path) -> int:
    wait_for(lambda: path.is_file() and path.read_text())
    return int(path.read_text())


def test_results_come_in_the_order_of_the_jobs():
    jobs = [{"value": i, "size": i % 5, "do": "sleep", "seconds": 0.02 * (i % 3 == 0)} for i in range(40)]
    results = run(jobs)
    assert [index for index, _, _ in results] == list(range(40))
    for index, header, (array,) in results:
        assert header["value"] == index
        np.testing.assert_array_equal(array, np.full(index % 5, index, np.float32))


def test_unordered_results_are_complete_and_do_not_wait_for_a_slow_one():
    jobs = [{"value": i, "do": "sleep", "seconds": 2.0 * (i == 0)} for i in range(20)]
    results = run(jobs, ordered=False)
    assert sorted(index for index, _, _ in results) == list(range(20))
    assert [index for index, _, _ in results].index(0) > 10


def test_no_jobs_start_no_child():
    assert run([]) == []


def test_array_types_and_shapes_survive():
    ((_, _, arrays),) = run([{"do": "many"}])
    assert [(a.dtype.str, a.shape) for a in arrays[1:]] == [("<i8", (2, 3)), ("|u1", (0, 5)), ("<f8", ())]
    assert arrays[1].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert arrays[3] == 7.5


def test_large_jobs_and_large_arrays_do_not_block_each_other():
    jobs = [{"value": i, "size": 2_000_000, "text": "x" * 1_500_000} for i in range(12)]
    results = run(jobs)
    assert [array[-1] for _, _, (array,) in results] == list(range(12))


def test_children_use_one_thread_each():
    assert run([{}])[0][1]["threads"] == "1"


def test_a_hanging_child_is_killed_at_its_deadline_and_neighbours_live():
    jobs = [{"value": i, "do": "hang" if i in (3, 4, 5) else "echo"} for i in range(30)]
    start = time.monotonic()
    results = run(jobs, deadline=1.0)
    assert time.monotonic() - start < 3 * 1.0 + GRACE
    failed = {index: header["error"] for index, header, _ in results if "error" in header}
    assert sorted(failed) == [3, 4, 5]
    assert failed[3] == {
        "type": "MediaError",
        "reason": "the decoding process gave no answer within 1 s and was killed",
    }
    assert [header["value"] for index, header, _ in results if index not in failed] == [
        i for i in range(30) if i not in failed
    ]


@pytest.mark.parametrize(("fault", "name"), [("segv", "SIGSEGV"), ("abort", "SIGABRT"), ("exit", "exit status 3")])
def test_a_crash_costs_its_own_job_only(fault, name):
    results = run([{"value": i, "do": fault if i in (0, 7) else "echo"} for i in range(20)])
    failed = {index: header["error"]["reason"] for index, header, _ in results if "error" in header}
    assert sorted(failed) == [0, 7]
    assert name in failed[0]
    assert len(results) == 20


def test_a_job_gets_a_second_child_when_its_first_was_killed(tmp_path):
    jobs = [{"value": i, "do": "segv", "once": str(tmp_path / str(i))} for i in range(4)]
    assert ["error" in header for _, header, _ in run(jobs)] == [False] * 4


def test_an_exception_in_a_child_is_an_answer_and_the_child_lives():
    results = run([{"do": "raise" if i == 1 else "echo"} for i in range(4)], workers=1)
    assert results[1][1]["error"]["reason"] == "ValueError: no such thing"
    assert len({header["pid"] for index, header, _ in results if index != 1}) == 1


def test_a_flood_on_stderr_is_kept_off_the_terminal_and_cut_to_its_end(capfd):
    results = run([{"do": "flood"}, {"do": "flood", "then": "abort"}, {"value": 2}])
    shown = capfd.readouterr()
    assert shown.out == shown.err == ""
    assert [("error" in header) for _, header, _ in results] == [False, True, False]
    reason = results[1][1]["error"]["reason"]
    assert "SIGABRT" in reason
    assert reason.endswith("the last words")
    assert len(reason) < 4096 + 200
    assert reason.isprintable()


def test_children_are_replaced_after_their_share_of_jobs():
    results = run([{"value": i} for i in range(30)], workers=1, recycle=10)
    pids = [header["pid"] for _, header, _ in results]
    assert [len(set(pids[i : i + 10])) for i in (0, 10, 20)] == [1, 1, 1]
    assert len(set(pids)) == 3


def test_a_leaking_child_is_replaced_at_its_memory_limit():
    jobs = [{"value": i, "do": "leak", "bytes": 40 << 20} for i in range(16)]
    results = run(jobs, workers=1, max_rss=200 << 20)
    pids = [header["pid"] for _, header, _ in results]
    assert [header["value"] for _, header, _ in results] == list(range(16))
    most = max(pids.count(pid) for pid in pids)
    assert most <= 200 // 40 + DEPTH  # a child finishes the jobs it holds


@pytest.mark.parametrize("options", [{"ahead": 12}, {"ahead_bytes": 8 << 20}])
def test_look_ahead_is_bounded_by_count_and_by_bytes(options):
    drawn = []

    def jobs():
        for i in range(200):
            drawn.append(i)
            yield {"value": i, "size": 250_000}

    with closing(Pool(COMMAND, 2, **options).run(jobs())) as results:
        next(results)
        wait_for(lambda: len(drawn) >= 9)
        time.sleep(0.3)
        assert len(drawn) <= 24
        assert len(list(results)) == 199


def test_children_go_on_while_the_caller_is_busy():
    drawn = []

    def jobs():
        for i in range(100):
            drawn.append(i)
            yield {"value": i}

    with closing(Pool(COMMAND, 2).run(jobs())) as results:
        next(results)
        wait_for(lambda: len(drawn) == 100)


def test_closing_early_kills_a_hanging_child_and_frees_everything(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    results = Pool(COMMAND, 1).run([{}, {"do": "hang", "pid_to": str(tmp_path / "pid")}])
    next(results)
    pid = pid_in(tmp_path / "pid")
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < GRACE
    wait_for(lambda: not alive(pid), 5.0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_children_that_never_start_are_an_error_with_what_they_said():
    command = [sys.executable, "-c", "raise SystemExit('no decoder here')"]
    with pytest.raises(MediaError, match=r"Nothing can be decoded.*exit status 1.*no decoder here"):
        list(Pool(command, 2).run({"value": i} for i in range(10)))


def test_what_is_no_answer_fails_the_job():
    results = list(Pool([*COMMAND, "garbage"], 1).run([{"value": 0}]))
    assert "no answer" in results[0][1]["error"]["reason"]


def test_an_error_while_drawing_jobs_reaches_the_caller():
    def jobs():
        yield {"value": 0}
        raise ValueError("bad row 2")

    with pytest.raises(ValueError, match="bad row 2"):
        list(Pool(COMMAND, 2).run(jobs()))


PARENT = """
import sys
from mmbal_cli.media.pool import DEPTH, Pool
jobs = [{"do": "hang", "pid_to": sys.argv[2]}]
list(Pool([sys.executable, "-P", sys.argv[1]], 1).run(jobs))
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_no_hanging_child_outlives_a_parent_that_is_stopped(tmp_path, signum):
    pid_file = tmp_path / "pid"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(CHILD), str(pid_file)], stderr=subprocess.PIPE, start_new_session=True
    )
    pid = pid_in(pid_file)
    os.killpg(parent.pid, signum)  # as a terminal does: the whole foreground group
    _, said = parent.communicate(timeout=10)
    assert parent.returncode == -signum
    assert (b"KeyboardInterrupt" in said) == (signum == signal.SIGINT)
    wait_for(lambda: not alive(pid), 5.0)
