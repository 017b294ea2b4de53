"""The training loop as one page: phases, epochs, steps; selection on validation for each seed apart.

    for each phase:  best weights of the phase before -> method.begin_phase -> its own optimizer and selection
    for each epoch:  method.begin_epoch -> step over shuffled batches -> method.end_epoch
                     -> scores on validation -> best state kept for each seed -> record -> checkpoint

A seed whose loss stops being finite is held still and marked; the others never notice. The legacy protocol trains the
same, bit for bit, and also keeps the best state by scores on test, to show what that habit does to a number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmbal_cli.engine.checkpoint import flatten, select
from mmbal_cli.engine.feed import Feed, SplitPeek, scores
from mmbal_cli.engine.recorder import EVERY, record_batch
from mmbal_cli.engine.selection import Selection
from mmbal_cli.methods.base import Batch, Method, Phase

PEEKED = "test-"  # prefix of the second selection in checkpoints


@dataclass
class Fit:
    """Progress of one stack of seeds: everything a checkpoint needs beyond the method itself."""

    method: Method
    feed: Feed
    finished: int = 0  # epochs done, over all phases
    seconds: float = 0.0
    legacy: bool = False
    chosen: Selection = field(default_factory=Selection)  # by validation
    peeked: Selection | None = None  # by test, in the legacy protocol only
    died: Tensor = field(init=False)  # [S] step at which the loss stopped being finite, -1 = alive
    steps: int = 0

    def __post_init__(self) -> None:
        self.died = torch.full((self.method.S,), -1, dtype=torch.long, device=self.feed.device)
        self.feed = self.feed.carved(self.method.held_out())
        self.method.see(self.feed.x, self.feed.mask)
        self.phases = self.method.phases()
        self.peek = SplitPeek(self.method, self.feed)

    # --------------------------------------------------------------------------------- the loop

    def run(self, stop: Callable[[], bool] = lambda: False) -> Iterator[list[dict[str, Any]]]:
        """Train; yields one record for each seed after every epoch; ends early, resumable, when `stop()`."""
        epoch = 0
        for number, phase in enumerate(self.phases):
            if epoch + phase.epochs <= self.finished:
                epoch += phase.epochs
                continue
            self.aim(phase)
            if epoch == self.finished:
                self.begin(number)
            for self.method.epoch in range(phase.epochs):
                epoch += 1
                if epoch <= self.finished:
                    continue
                start = time.perf_counter()
                record = self.train_epoch(phase)
                record |= self.validate(epoch)
                self.finished = epoch
                self.seconds += time.perf_counter() - start
                record["seconds"] = torch.full((self.method.S,), time.perf_counter() - start)
                yield self.rows(record, phase.name)
                if stop() or not bool(self.method.alive.any()):
                    return

    def aim(self, phase: Phase) -> None:
        """Tell the method which phase it is in."""
        self.method.phase, self.method.phase_epochs = phase.name, phase.epochs

    def begin(self, number: int) -> None:
        """Start a phase: from the best weights of the one before, with a new optimizer and a new selection."""
        if number and self.phases[number - 1].keep_best:
            self.method.load_state_dict(self.chosen.state)
        self.method.epoch = 0
        self.method.zero_grad()  # what the last phase trained must not be recorded in this one
        self.method.eval()
        self.method.begin_phase(self.peek)
        self.method.opt = self.method.optimizer()
        for stream in ("shuffle", "dropout/"):  # all methods of a seed see the same, whatever came before
            self.method.rng.restart(stream)
        self.chosen, self.peeked = Selection(), Selection() if self.legacy else None

    def train_epoch(self, phase: Phase) -> dict[str, Tensor]:
        """One pass over the samples of the phase; returns what was logged, as means over the epoch [S]."""
        method = self.method
        method.opt.set_epoch(method.epoch, method.phase_epochs)
        method.eval()
        method.begin_epoch(self.peek)
        method.opt.set_epoch(method.epoch, method.phase_epochs)  # it may be a new one
        parts = method.draw(self.peek)
        method.train()
        batch_size = method.config.batch
        parts = [part for part in parts or [] if part.idx.shape[1]]
        drawn = self.feed.drawn(parts, batch_size)
        losses: list[Tensor] = []
        sizes: list[Any] = []  # numbers, of drawn batches one for each seed
        for step, batch in enumerate(drawn if parts else self.feed.epoch(method.rng, batch_size, phase.data)):
            self.wake(batch)
            losses.append(method.step(batch))
            sizes.append(batch.y.shape[1] if batch.valid is None else batch.valid.sum(1))
            if (self.steps + step) % EVERY == 0 or step == method.epoch == 0:
                record_batch(method, batch)
        self.wake(None)
        each = torch.stack(losses)  # [steps,S]
        self.health(each)
        method.eval()
        method.end_epoch(self.peek)
        weight = torch.stack(sizes).to(each.dtype) if parts else each.new_tensor(sizes)[:, None]  # samples of a step
        shares = (each * (weight / weight.sum(0).clamp_min(1))).T.contiguous()  # a row a seed: its sum is its own
        return {"train/loss": shares.sum(1)} | method.collect()

    def wake(self, batch: Batch | None) -> None:
        """Seeds that have no sample in this batch draw no noise and record nothing."""
        awake = None if batch is None else batch.awake
        self.method.rng.awake = awake
        self.method.moving = None if awake is None else torch.tensor(awake, device=self.feed.device)

    def health(self, losses: Tensor) -> None:
        """Mark seeds with a loss [steps,S] that is not finite and hold them still; looked at once an epoch."""
        method = self.method
        bad = ~torch.isfinite(losses)
        first = self.steps + bad.to(torch.uint8).argmax(0)
        now = bad.any(0) & method.alive
        self.died = torch.where(now, first, self.died)
        method.alive &= ~now
        method.hold = None if bool(method.alive.all()) else method.alive
        self.steps += len(losses)

    # -------------------------------------------------------------------------------- selection

    def validate(self, epoch: int) -> dict[str, Tensor]:
        """Scores [S] of the epoch; keeps the state of every seed that improved."""
        method = self.method
        found = scores(method, self.peek.batches("val"))
        self.chosen.update(method, found, epoch)
        record = {f"val/{name}": value for name, value in found.items()}
        if self.peeked is not None:
            seen = scores(method, self.feed.split("test", method.S))
            self.peeked.update(method, seen, epoch)
            record |= {f"test/{name}": value for name, value in seen.items()}
        return record

    def rows(self, record: dict[str, Tensor], phase: str) -> list[dict[str, Any]]:
        """One record for each seed."""
        table = {name: value.detach().cpu().tolist() for name, value in record.items()}
        alive, lr = self.method.alive.tolist(), self.method.opt.lr
        return [
            {"seed": seed, "epoch": self.finished, "phase": phase, "lr": lr, "alive": alive[i]}
            | {name: values[i] for name, values in table.items()}
            for i, seed in enumerate(self.method.rng.seeds)
        ]

    # ----------------------------------------------------------------------------------- resume

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and numbers from which `load` continues bit for bit."""
        method = self.method
        tensors = flatten(
            model=dict(method.state_dict()),
            opt=method.opt.state(),
            rng=method.rng.state(),
            fit={"died": self.died, "alive": method.alive},
            **self.chosen.tables(),
            **(self.peeked.tables(PEEKED) if self.peeked else {}),
        )
        meta = {"finished": self.finished, "steps": self.steps, "seconds": self.seconds, "seeds": method.rng.seeds}
        return tensors, meta

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        method, device = self.method, self.feed.device
        epochs = 0
        for phase in self.phases:  # the saved optimizer is that of the phase of the last finished epoch
            if epochs < meta["finished"]:
                self.aim(phase)
            epochs += phase.epochs
        method.opt = method.optimizer()

        def read(group: str) -> dict[str, Tensor]:
            return {name: value.to(device) for name, value in select(tensors, group).items()}

        method.load_state_dict(read("model"))
        method.opt.load_state(read("opt"))
        method.rng.load_state(select(tensors, "rng"))
        self.chosen, self.peeked = Selection(), Selection() if self.legacy else None
        self.chosen.load(read)
        if self.peeked is not None:
            self.peeked.load(read, PEEKED)
        fit = read("fit")
        self.died, method.alive = fit["died"], fit["alive"]
        method.hold = None if bool(method.alive.all()) else method.alive
        self.finished, self.steps, self.seconds = meta["finished"], meta["steps"], meta["seconds"]

    def use(self, selection: Selection) -> None:
        """Put every seed at an epoch that was selected."""
        self.method.load_state_dict(selection.state)
        self.method.eval()

    def use_best(self) -> None:
        """Put every seed at its epoch by validation."""
        self.use(self.chosen)
