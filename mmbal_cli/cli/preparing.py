"""The work behind `mmbal prepare`: request -> plan -> shards, with progress, and what is said about it.

Apart from the command, so that `mmbal --help` does not load it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from mmbal_cli.cli.console import note, stage
from mmbal_cli.cli.listing import say, show_rows
from mmbal_cli.cli.target import Request, choose_encoders, data_root, generate, read_samples, resolve
from mmbal_cli.data.manifest import Manifest
from mmbal_cli.data.named import read_ids
from mmbal_cli.encode.plan import Plan
from mmbal_cli.encode.plan import plan as make_plan
from mmbal_cli.encode.prepare import Outcome, version_changes
from mmbal_cli.encode.prepare import prepare as work_on
from mmbal_cli.encode.work import Limit, Limits
from mmbal_cli.errors import CacheError, UsageError
from mmbal_cli.recipe import DatasetRecipe
from mmbal_cli.store.sets import latest_set, write_set


def run(
    request: Request,
    cache: Path,
    *,
    device: str = "auto",
    workers: int | None = None,
    retry_bad: bool = False,
    dry_run: bool = False,
) -> None:
    """Prepare what is missing of a request and say what was written, where, and what to type next."""
    workers = workers or len(os.sched_getaffinity(0))
    limits = parse_limit(request.max_bad, "--max-bad"), parse_limit(request.max_bad_test, "--max-bad-test")
    request, recipe = resolve(request, cache)
    if dry_run and recipe.source.generator and not (data_root(request, recipe) / "manifest.csv").exists():
        return note(f"would generate '{recipe.name}' in {data_root(request, recipe)} and prepare it")
    generate(request, recipe, workers)
    plan = _plan(request, recipe, cache, device)
    for line in plan.prepared.source["notes"]:
        note(f"note: {line}")
    if plan.up_to_date and not retry_bad:
        return _up_to_date(plan)
    for line in plan.changes:
        note(f"changed since '{plan.prepared.name}' was prepared: {line} (the earlier features are kept)")
    if dry_run:
        return _show_plan(plan)
    accepted = Limits(Limit(1.0), Limit(1.0)) if request.skip_bad else Limits(*limits)
    with ExitStack() as stack:

        def started(samples: int) -> Callable[..., None]:
            return stack.enter_context(stage(f"prepare {plan.prepared.name}", samples))

        done = work_on(plan, workers=workers, limits=accepted, retry_bad=retry_bad, on_start=started, notify=note)
    _show_outcome(plan, done)
    _offer_pretrained(request, recipe)


def _offer_pretrained(request: Request, recipe: DatasetRecipe) -> None:
    """Say that better encoders than the hand-made ones are a word away."""
    better = [f"{modality}={entry.pretrained[0]}" for modality, entry in recipe.modalities.items() if entry.pretrained]
    if better and not request.pretrained and not request.encoders:
        note(f"features are hand-made, to run offline; --pretrained takes {', '.join(better)} (downloads)")


def _plan(request: Request, recipe: DatasetRecipe, cache: Path, device: str) -> Plan:
    manifest = read_samples(request, recipe)
    encoders = choose_encoders(manifest.kinds, request, recipe, device)
    with ExitStack() as stack:
        advance = None

        def hashed(files: int) -> None:
            nonlocal advance
            advance = advance or stack.enter_context(stage("hash source files", len(manifest.sizes)))
            advance(files)

        return make_plan(
            manifest,
            encoders,
            cache,
            chunk=request.chunk,
            dtype=request.dtype,
            allow_duplicates=request.allow_duplicates or recipe.duplicates == "keep",
            settings=recipe.train,
            source={"request": request.record(), "root": str(manifest.root), **_subset(request, manifest)},
            on_hash=hashed,
        )


def _subset(request: Request, manifest: Manifest) -> dict[str, Any]:
    """Name and hash of a subset, and how many test samples were listed before it."""
    if not request.subset:
        return {}
    subset = read_ids(Path(request.subset))
    facts = {"name": subset.name, "ids": len(subset.ids), "hash": subset.hash}
    return {"subset": facts, "expected": manifest.listed}


def _up_to_date(plan: Plan) -> None:
    name, bad = plan.prepared.name, sum(len(index.bad) for index in plan.indexes().values())
    if latest_set(plan.cache) != name or plan.earlier != plan.prepared:  # the sources may lie elsewhere now
        with suppress(CacheError):  # a read-only cache can still be used by name
            write_set(plan.cache, plan.prepared)
    for line in version_changes(plan):
        note(f"note: {line}")
    tail = f", {bad} bad samples carried as missing" if bad else ""
    samples = len(plan.manifest.samples)
    facts = f"{len(plan.prepared.modalities)} modalities, {samples} samples{tail}; {plan.prepared.fingerprint[:16]}"
    say(f"{name}: up to date ({facts})")


def _show_plan(plan: Plan) -> None:
    for one in plan.modalities:
        state = "complete" if one.done else "to do"
        say(f"{one.modality}: {one.encoder.name}, {state}, {one.folder}")
    note(f"{len(plan.manifest.samples)} samples, about {plan.bytes_needed() / 1e6:.1f} MB to write; nothing was done")


def _show_outcome(plan: Plan, outcome: Outcome) -> None:
    rows = []
    for one in plan.modalities:
        index = outcome.indexes[one.key]
        made = outcome.made.get(one.key, 0)
        cells = (
            one.modality,
            index.encoder,
            "×".join(map(str, (index.rows, *index.shape))),
            index.dtype,
            f"{made} new of {len(index.shards)}",
            f"{sum(shard.bytes for shard in index.shards) / 1e6:.1f}",
            len(index.bad),
        )
        rows.append(cells)
    show_rows(("modality", "encoder", "shape", "type", "shards", "MB", "bad"), rows)
    prepared = outcome.prepared
    note(f"wrote {plan.folder}")
    counts = ", ".join(f"{count} {split}" for split, count in prepared.counts.items())
    note(f"prepared '{prepared.name}': {counts}; {len(prepared.classes)} classes; {prepared.split_note}")
    bad = sum(len(index.bad) for index in outcome.indexes.values())
    if bad:
        note(f"{bad} bad samples are carried as missing; reasons: mmbal data show {prepared.name}")
    note(f"next: mmbal train --dataset {prepared.name} --method concat")


def parse_limit(text: str, option: str) -> Limit:
    """`1%`, `0.01` (shares) or `12` (a count)."""
    try:
        if text.endswith("%") or "." in text:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
            if 0 <= share <= 1:
                return Limit(share=share)
        elif int(text) >= 0:
            return Limit(count=int(text))
    except ValueError:
        pass
    raise UsageError(f"{option} {text}", "Expected a share such as 1% or 0.01, or a count such as 12.")
