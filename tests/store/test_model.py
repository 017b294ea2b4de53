"""Random sequences of publishing, crashing, damaging and repairing: the store always equals a dictionary."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mmbal_cli.errors import CacheError
from mmbal_cli.store.atomic import publish, sha256_hex, sweep_parts
from mmbal_cli.store.index import (
    Index,
    ShardEntry,
    discard_damaged,
    is_complete,
    read_index,
    shards_present,
    verify,
    write_index,
)
from mmbal_cli.store.shard import is_intact, read_shard, shard_image, shard_name
from tests.kit.faults import ERRORS, Injected, fail, flipped, overwrite

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # order is tested here, not durability
NUMBERS = st.integers(0, 3)
CALLS = st.integers(1, 7)


def content(number: int) -> bytes:
    """The one right image of a chunk."""
    arrays: dict[str, Any] = {
        "features": np.full((2, 3), number, np.float16),
        "mask": np.ones(2, bool),
        "labels": np.arange(2),
        "ids": [f"{number}/0", f"{number}/1"],
        "splits": ["train", "test"],
        "groups": ["", ""],
    }
    return shard_image(arrays, {"chunk": number})


IMAGES = [content(number) for number in range(4)]


class Death(BaseException):
    """Nothing runs after it: no clean-up either."""


class Store(RuleBasedStateMachine):
    """`good` are the chunks that must be readable, `harmed` those that must be reported and never read."""

    @initialize(finished=st.booleans())
    def begin(self, finished: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mmbal-", dir=MEMORY)) / "video--fixed--00"
        self.good: set[int] = set()
        self.harmed: set[int] = set()
        self.index: Index | None = None
        if finished:
            for number in range(4):
                self.put(number)
            self.finish()

    def teardown(self) -> None:
        shutil.rmtree(self.folder.parent)

    def name(self, number: int) -> str:
        return shard_name(number, IMAGES[number])

    def _arrived(self, number: int) -> None:
        self.good.add(number)
        self.harmed.discard(number)

    @rule(number=NUMBERS)
    def put(self, number: int) -> None:
        publish(self.folder, self.name(number), IMAGES[number])
        self._arrived(number)

    @rule(number=NUMBERS, at=CALLS, error=st.sampled_from(ERRORS))
    def put_on_a_failing_disk(self, number: int, at: int, error: int) -> None:
        injected = Injected(at, fail(error))
        try:
            publish(self.folder, self.name(number), IMAGES[number], system=injected.system)
        except CacheError:
            if "replace" in injected.log[: at - 1]:  # only the last folder sync failed
                self._arrived(number)
        else:
            self._arrived(number)

    @rule(number=NUMBERS, at=CALLS)
    def die_while_putting(self, number: int, at: int) -> None:
        def stop(name: str, real: object, args: object) -> None:
            raise Death

        injected = Injected(at, stop, forever=True)
        with contextlib.suppress(Death):
            publish(self.folder, self.name(number), IMAGES[number], system=injected.system)
        if "replace" in injected.log[: at - 1]:
            self._arrived(number)

    @rule(number=NUMBERS, bit=st.integers(0, 8 * len(IMAGES[0]) - 1))
    def rot(self, number: int, bit: int) -> None:
        if number in self.good:
            overwrite(self.folder / self.name(number), flipped(IMAGES[number], bit % (8 * len(IMAGES[number]))))
            self.good.discard(number)
            self.harmed.add(number)

    @rule(number=NUMBERS)
    def lose(self, number: int) -> None:
        (self.folder / self.name(number)).unlink(missing_ok=True)
        self.good.discard(number)
        self.harmed.discard(number)

    @rule()
    def repair(self) -> None:
        assert {path.name for path in discard_damaged(self.folder)} == {self.name(n) for n in self.harmed}
        self.harmed.clear()

    @rule()
    def sweep(self) -> None:
        for part in self.folder.glob(".*.part"):
            os.utime(part, (0, 0))  # the dead of this test share the number of a living process
        sweep_parts(self.folder)
        assert list(self.folder.glob(".*.part")) == []

    @rule()
    def finish(self) -> None:
        if self.good != {0, 1, 2, 3}:
            return
        shards = [
            ShardEntry(name=self.name(n), rows=2, bytes=len(image), sha256=sha256_hex(image))
            for n, image in enumerate(IMAGES)
        ]
        facts = {"modality": "video", "kind": "video", "encoder": "fixed", "fingerprint": "0", "spec": {}}
        self.index = Index(**facts, rows=8, shape=(3,), dtype="float16", classes=("a", "b"), shards=shards)
        write_index(self.folder, self.index)

    @rule(cut=st.integers(0, 400))
    def tear_the_index(self, cut: int) -> None:
        if self.index is None:
            return
        overwrite(self.folder / "index.json", (self.folder / "index.json").read_bytes()[:cut])
        self.index = None

    @invariant()
    def equals_the_model(self) -> None:
        present = shards_present(self.folder)
        assert set(present) == self.good | self.harmed
        assert {number for number, path in present.items() if is_intact(path)} == self.good
        for number in self.good:
            arrays, facts = read_shard(present[number], sha256_hex(IMAGES[number]))
            assert facts == {"chunk": number}
            assert (np.asarray(arrays["features"]) == number).all()
        assert read_index(self.folder) == self.index
        reported = {finding.shard for finding in verify(self.folder)}
        if self.index is None:
            assert reported == {"index.json"} | {self.name(n) for n in self.harmed}
        else:
            assert reported == {self.name(n) for n in range(4) if n not in self.good}
            assert (is_complete(self.folder) is not None) == (set(present) == {0, 1, 2, 3})


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=200, stateful_step_count=10, derandomize=True, deadline=None, database=None)
