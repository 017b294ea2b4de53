"""What training looked like, epoch by epoch: the records of all seeds of a run as arrays, and as sparklines.

The columns are those of records.jsonl, the same for all methods, so that curves of different methods overlay:
`val/accuracy` (fused) and `val/accuracy/M` (of one modality), `train/loss` (the method's own), `grad/M` (norm of the
gradient of an adapter), `discrepancy/M` (sum over a batch of the true-class probability of M over the mean of the
others': Peng et al., CVPR 2022, eq. 8), `coef/NAME` or `coef/NAME/M` (what a method weighs with).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmbal_cli.errors import CacheError, UsageError
from mmbal_cli.report.runs import Run, read_records

SCHEMA = 1
NOT_COLUMNS = ("seed", "epoch", "phase")
DONE, FAILED, RUNNING = "done", "failed", "running"


class Phase(NamedTuple):
    """A stretch of epochs of one phase; both ends belong to it."""

    name: str
    first: int
    last: int


class Band(NamedTuple):
    """Of every epoch [E]: the mean over seeds, mean ∓ sample standard deviation, and how many seeds have a value.

    NaN where no seed has a value; `low` and `high` also where only one has.
    """

    mean: NDArray
    low: NDArray
    high: NDArray
    n: NDArray


@dataclass(frozen=True)
class Dynamics:
    """The records of one run: `epochs` [E] in rising order, `table` {column: [S,E]}, NaN where nothing was recorded.

    `status` says of every seed whether it is done, failed or still running; failed seeds are in the arrays, but not in
    `band`. `unreadable` {seed: reason} are the seeds that are missing here.
    """

    run: Run
    seeds: tuple[int, ...]
    status: tuple[str, ...]
    epochs: NDArray
    phases: tuple[Phase, ...]
    table: Mapping[str, NDArray] = field(repr=False)
    failed: Mapping[int, str] = field(default_factory=dict)
    unreadable: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in the order of the records."""
        return tuple(self.table)

    @cached_property
    def kept(self) -> NDArray:
        """Which seeds [S] enter means: those that did not fail; all where every one failed."""
        kept = np.array([status != FAILED for status in self.status], bool)
        return kept if kept.any() else np.ones(len(kept), bool)

    def values(self, column: str) -> NDArray:
        """One column [S,E], NaN where absent; all NaN for a column that this run does not have."""
        return self.table.get(column, np.full((len(self.seeds), len(self.epochs)), np.nan))

    def band(self, column: str) -> Band:
        """Mean and spread of one column over the kept seeds."""
        values = self.values(column)[self.kept]
        known = np.isfinite(values)
        n = known.sum(axis=0)
        mean = np.divide(np.where(known, values, 0.0).sum(axis=0), n, out=np.full(len(n), np.nan), where=n > 0)
        squares = np.where(known, (values - mean) ** 2, 0.0).sum(axis=0)
        sd = np.sqrt(np.divide(squares, n - 1, out=np.full(len(n), np.nan), where=n > 1))
        return Band(mean, mean - sd, mean + sd, n)


def dynamics(run: Run) -> Dynamics:
    """Read the records of all seeds of `run`, ended or in progress; what cannot be read is named, not raised."""
    records: dict[int, list[dict[str, Any]]] = {}
    status, unreadable, notes = {}, {}, []
    for result in run.seeds:
        seed = result.facts.seed
        try:
            rows, note = _read(result.folder / "records.jsonl")
        except CacheError as error:
            unreadable[seed] = error.found
            continue
        records[seed], status[seed] = rows, DONE if result.facts.status == "done" else FAILED
        notes += [f"seed {seed}: {note}"] if note else []
    for path in sorted(run.folder.glob(".job-*/records.jsonl")):
        try:
            rows, _ = _read(path)  # the last line of a run in progress is torn as a rule
        except CacheError as error:
            notes.append(error.found)
            continue
        for row in rows:
            own = row.get("seed")
            if isinstance(own, int) and status.get(own, RUNNING) == RUNNING and own not in unreadable:
                records.setdefault(own, []).append(row)
                status[own] = RUNNING
    failed = {r.facts.seed: r.facts.reason or f"status {r.facts.status}" for r in run.seeds if r.facts.status != "done"}
    seeds = tuple(sorted(records))
    epochs, phases, table = _arrays([records[seed] for seed in seeds])
    states = tuple(status[seed] for seed in seeds)
    return Dynamics(run, seeds, states, epochs, phases, table, failed, unreadable, tuple(notes))


def _read(path: Path) -> tuple[list[dict[str, Any]], str]:
    try:
        return read_records(path)
    except OSError as error:
        if isinstance(error, CacheError):
            raise
        raise CacheError(f"{path.parent.name}/{path.name} cannot be read: {error.strerror}.") from error


def _arrays(seeds: Sequence[list[dict[str, Any]]]) -> tuple[NDArray, tuple[Phase, ...], dict[str, NDArray]]:
    """Records of every seed to epochs [E], phases and {column: [S,E]}; the last record of an epoch counts."""
    rows = [(s, row) for s, records in enumerate(seeds) for row in records if type(row.get("epoch")) is int]
    epochs = sorted({row["epoch"] for _, row in rows})
    place = {epoch: i for i, epoch in enumerate(epochs)}
    table: dict[str, NDArray] = {}
    names: dict[int, str] = {}
    for s, row in rows:
        names[row["epoch"]] = str(row.get("phase") or "")
        for key, value in row.items():
            if key in NOT_COLUMNS or not (value is None or isinstance(value, (int, float))):
                continue
            column = table.setdefault(key, np.full((len(seeds), len(epochs)), np.nan))
            column[s, place[row["epoch"]]] = _finite(value)
    phases: list[Phase] = []
    for epoch in epochs:
        if phases and phases[-1].name == names[epoch]:
            phases[-1] = phases[-1]._replace(last=epoch)
        else:
            phases.append(Phase(names[epoch], epoch, epoch))
    return np.array(epochs, np.int64), tuple(phases), table


def _finite(value: float | None) -> float:
    """The number, NaN for what is none or larger than a float."""
    try:
        return float(value) if value is not None and math.isfinite(value) else math.nan
    except OverflowError:
        return math.nan


class Family(NamedTuple):
    """Columns that are shown side by side on one scale: a fused or only one, then one of each modality."""

    name: str
    title: str
    percent: bool
    columns: tuple[tuple[str, str], ...]  # (head, column)


TITLES = {
    "val/accuracy": "validation accuracy",
    "train/accuracy": "accuracy on training batches, as trained",
    "train/loss": "training loss (the method's own)",
    "grad": "gradient norm of the adapters",
    "discrepancy": "discrepancy of the modalities (OGM)",
}
COEFFICIENT = "coef/"


def families(many: Sequence[Dynamics], pattern: str | None = None) -> list[Family]:
    """The families of columns of these runs: the main ones, or those that the regular expression finds.

    Raises UsageError for a pattern that is none, or that no column fits.
    """
    modalities = list(dict.fromkeys(m for each in many for m in each.run.facts.data.modalities))
    columns = list(dict.fromkeys(column for each in many for column in each.columns))
    if pattern is None:
        chosen = [c for c in columns if _stem(c, modalities) in TITLES or c.startswith(COEFFICIENT)]
    else:
        try:
            chosen = [c for c in columns if re.search(pattern, c)]
        except re.error as error:
            raise UsageError(f"--column {pattern!r} is no regular expression: {error}.") from error
        if not chosen:
            raise UsageError(f"No column fits {pattern!r}.", f"Known: {', '.join(sorted(columns)) or 'none'}.")
    grouped: dict[str, list[str]] = {}
    for column in chosen:
        grouped.setdefault(_stem(column, modalities), []).append(column)
    order = {name: i for i, name in enumerate(TITLES)}
    found = []
    for name in sorted(grouped, key=lambda name: (order.get(name, len(order)), name)):
        members = sorted(grouped[name], key=lambda c: _place(c, name, modalities))
        alone = "fused" if any(m != name for m in members) else "value"
        heads = tuple((alone if c == name else c.removeprefix(f"{name}/"), c) for c in members)
        found.append(Family(name, TITLES.get(name, name), "accuracy" in name.split("/"), heads))
    return found


def _stem(column: str, modalities: Iterable[str]) -> str:
    """The column without its modality."""
    return next((column.removesuffix(f"/{m}") for m in modalities if column.endswith(f"/{m}")), column)


def _place(column: str, stem: str, modalities: Sequence[str]) -> int:
    name = column.removeprefix(f"{stem}/")
    return modalities.index(name) + 1 if column != stem and name in modalities else 0


def scale(many: Iterable[Dynamics], family: Family) -> tuple[float, float]:
    """Smallest and largest seed mean of a family over all runs, NaN without any: one scale for all its sparklines."""
    bands = [each.band(column).mean for each in many for _, column in family.columns if column in each.table]
    known = np.concatenate([np.empty(0), *bands])
    known = known[np.isfinite(known)]
    return (float(known.min()), float(known.max())) if len(known) else (math.nan, math.nan)


def document(many: Sequence[Dynamics], pattern: str | None = None) -> dict[str, Any]:
    """All chosen columns as plain data, None for what was not recorded; every column without a pattern."""
    return {"schema": SCHEMA, "report": "dynamics", "runs": [_run_document(each, pattern) for each in many]}


def _run_document(each: Dynamics, pattern: str | None) -> dict[str, Any]:
    chosen = chosen_columns(each, pattern)
    return {
        "run": each.run.name,
        "label": each.run.facts.title,
        "dataset": each.run.facts.dataset,
        "seeds": list(each.seeds),
        "status": {str(seed): status for seed, status in zip(each.seeds, each.status, strict=True)},
        "failed": {str(seed): reason for seed, reason in each.failed.items()},
        "unreadable": {str(seed): reason for seed, reason in each.unreadable.items()},
        "epochs": each.epochs.tolist(),
        "phases": [phase._asdict() for phase in each.phases],
        "columns": {c: [[_plain(v) for v in row] for row in each.values(c).tolist()] for c in chosen},
        "notes": list(each.notes),
    }


def chosen_columns(each: Dynamics, pattern: str | None) -> list[str]:
    """Columns of one run that the pattern finds, all without one."""
    return [c for c in each.columns if pattern is None or re.search(pattern, c)]


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


LINE_HEAD = ("run", "label", "seed", "status", "phase", "epoch", "column", "value")


def lines(many: Sequence[Dynamics], pattern: str | None = None) -> list[list[Any]]:
    """Long format, `LINE_HEAD` first: one line for each run, seed, epoch and recorded value."""
    table: list[list[Any]] = [list(LINE_HEAD)]
    for each in many:
        phase = {e: p.name for p in each.phases for e in each.epochs.tolist() if p.first <= e <= p.last}
        chosen = chosen_columns(each, pattern)
        for s, (seed, status) in enumerate(zip(each.seeds, each.status, strict=True)):
            place = [each.run.name, each.run.facts.title, seed, status]
            for e, epoch in enumerate(each.epochs.tolist()):
                found = [(column, float(each.table[column][s, e])) for column in chosen]
                table += [[*place, phase[epoch], epoch, column, v] for column, v in found if math.isfinite(v)]
    return table
