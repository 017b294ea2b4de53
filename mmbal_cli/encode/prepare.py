"""Plan -> feature shards: decode in children, encode by chunk, publish; resume is "list the folder".

For each chunk and modality: children decode and run the per-sample half, the parent runs the batch half on the
whole chunk, and one shard is published. Chunk membership and order are fixed by the manifest, so a killed run
continues with the same batches and gives the same bytes. `index.json` follows the last shard of a modality,
`dataset.json` the last index.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from mmbal_cli.data.manifest import Sample
from mmbal_cli.encode.plan import Plan
from mmbal_cli.encode.work import Limits, ModalityWork, made_with
from mmbal_cli.encode.worker import Reading, command, readings
from mmbal_cli.media.pool import Pool
from mmbal_cli.store.atomic import best_effort_lock, check_space, sweep_parts
from mmbal_cli.store.index import Index, is_complete
from mmbal_cli.store.sets import PreparedSet, write_set

DEADLINE = 60.0  # seconds for one sample


@dataclass(frozen=True)
class Outcome:
    """What `prepare` made: the index of each modality and encoder, and how many shards were new."""

    prepared: PreparedSet
    indexes: dict[str, Index]
    made: dict[str, int]


def prepare(
    plan: Plan,
    *,
    workers: int = 1,
    deadline: float = DEADLINE,
    limits: Limits | None = None,
    retry_bad: bool = False,
    on_start: Callable[[int], Callable[..., Any]] = lambda samples: lambda n=1, detail="": None,
    notify: Callable[[str], None] = lambda message: None,
) -> Outcome:
    """Make what is missing of `plan`; `on_start(samples to decode)` gives the function told of each one.

    Raises MediaError when more samples are bad than `limits` allow (finished shards are kept), CacheError when
    something cannot be written. May be interrupted anywhere and called again.
    """
    check_space(plan.folder, plan.bytes_needed())
    with best_effort_lock(plan.folder, notify=notify):
        sweep_parts(plan.folder)
        chunks = list(plan.chunks())
        missing = [one for one in plan.modalities if retry_bad or is_complete(one.folder) is None]
        pool = Pool(command(), workers, deadline, ahead=plan.chunk)  # what a kill can cost
        work = [ModalityWork(plan, one, len(chunks), limits or Limits(), retry_bad) for one in missing]
        _decode_and_publish(chunks, work, pool, on_start)
        for one in work:
            one.publish_empty(chunks)
            one.finish(chunks)
            for text in one.shortened():
                notify(text)
        write_set(plan.cache, plan.prepared)
    return Outcome(plan.prepared, plan.indexes(), {one.key: one.made for one in work})


def _decode_and_publish(
    chunks: list[tuple[Sample, ...]],
    work: list[ModalityWork],
    pool: Pool,
    on_start: Callable[[int], Callable[..., Any]],
) -> None:
    """One job a sample that reads all its missing modalities; a chunk is published with its last sample."""
    wanted: dict[tuple[int, int], list[ModalityWork]] = {}
    for number, chunk in enumerate(chunks):
        for row, sample in enumerate(chunk):
            needed = [one for one in work if number in one.todo and sample.values[one.name] is not None]
            if needed:
                wanted[number, row] = needed
    left = Counter(number for number, _ in wanted)
    tags = list(wanted)

    def job(tag: tuple[int, int]) -> dict[str, Any]:
        return {"reads": [one.read(chunks[tag[0]][tag[1]]) for one in wanted[tag]]}

    advance = on_start(len(tags))
    with closing(pool.run(map(job, tags))) as results:
        for position, header, arrays in results:
            number, row = tag = tags[position]
            if "error" not in header:
                found = readings({}, header, arrays)
            elif len(wanted[tag]) == 1:
                found = readings(job(tag), header, arrays)
            else:
                found = _each_alone(pool, job(tag))
            for one in wanted[tag]:
                one.take(number, row, chunks[number][row], found[one.key])
            left[number] -= 1
            if not left[number]:
                for one in work:
                    one.publish(number, chunks[number])
            advance(1)


def _each_alone(pool: Pool, job: Mapping[str, Any]) -> dict[str, Reading]:
    """The modalities of a sample whose child died, one child job each: one bad stream must not cost the others."""
    jobs = [{"reads": [read]} for read in job["reads"]]
    single = Pool(pool.command, 1, pool.deadline)
    found: dict[str, Reading] = {}
    with closing(single.run(jobs)) as results:
        for position, header, arrays in results:
            found |= readings(jobs[position], header, arrays)
    return found


def version_changes(plan: Plan) -> Iterator[str]:
    """Packages whose version differs from the one that made the features of a finished plan."""
    for one in plan.modalities:
        index = plan.indexes()[one.key]
        before, now = index.made_with.get("versions", {}), made_with(one.encoder)["versions"]
        for package in sorted(before.keys() & now.keys()):
            if before[package] != now[package]:
                yield f"{one.modality} was made with {package} {before[package]}, here is {now[package]}"
