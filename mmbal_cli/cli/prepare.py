"""`mmbal prepare`: raw files -> feature shards, once."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mmbal_cli.cli.console import note, out, stage
from mmbal_cli.cli.options import CACHE, Cache, Device
from mmbal_cli.cli.target import Request, choose_encoders, generate, generated_root, read_table, resolve
from mmbal_cli.errors import CacheError, UsageError

if TYPE_CHECKING:
    from mmbal_cli.encode.plan import Plan
    from mmbal_cli.encode.prepare import Outcome
    from mmbal_cli.encode.work import Limit


def prepare(
    target: Annotated[str, typer.Argument(help="Data set name, RECIPE.yaml, or a table: .csv, .tsv, .jsonl.")],
    root: Annotated[Path | None, typer.Option(help="Folder that media paths are relative to [default: the table's].")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Where a named data set lies or is generated [data/NAME].")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the prepared set [default: of the recipe or table].")] = None,
    classes: Annotated[str | None, typer.Option(help="Order of the classes: a file with one a line, or a,b,c.")] = None,
    encoder: Annotated[list[str] | None, typer.Option(help="MODALITY=NAME[@REVISION]; see `mmbal encoders list`.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="MODALITY.key=value, e.g. video.frames=4.")] = None,
    dtype: Annotated[str, typer.Option(help="Stored type: float16 or float32.")] = "float16",
    device: Device = "auto",
    workers: Annotated[int | None, typer.Option("--workers", "-j", min=1, help="Decoding processes [cores].")] = None,
    chunk: Annotated[int, typer.Option(help="Samples a shard.")] = 256,
    max_bad: Annotated[str, typer.Option(help="Bad samples accepted for each modality: 1%, 0.01 or a count.")] = "1%",
    max_bad_test: Annotated[str, typer.Option(help="The same for the test split.")] = "0",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Accept any number of bad or missing files.")] = False,
    retry_bad: Annotated[bool, typer.Option("--retry-bad", help="Try again what was bad in an earlier call.")] = False,
    allow_duplicates: Annotated[
        bool, typer.Option("--allow-duplicates", help="Accept the same file bytes in two splits.")
    ] = False,
    cache: Cache = CACHE,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Decode and encode a data set into the feature cache; a second call is up to date at once."""
    request = Request(
        target=target,
        root=str(root.absolute()) if root else None,
        data_root=str(data_root.absolute()) if data_root else None,
        name=name,
        classes=_classes(classes),
        encoders=[_absolute_folder(item) for item in encoder or []],
        sets=list(set_ or []),
        dtype=dtype,
        chunk=chunk,
        max_bad=max_bad,
        max_bad_test=max_bad_test,
        skip_bad=skip_bad,
        allow_duplicates=allow_duplicates,
    )
    run(request, cache, device=device, workers=workers, retry_bad=retry_bad, dry_run=dry_run)


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
    if dry_run and recipe.source.generator and not (generated_root(request, recipe) / "manifest.csv").exists():
        return note(f"would generate '{recipe.name}' in {generated_root(request, recipe)} and prepare it")
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
    from mmbal_cli.encode.prepare import prepare as work
    from mmbal_cli.encode.work import Limit, Limits

    accepted = Limits(Limit(1.0), Limit(1.0)) if request.skip_bad else Limits(*limits)
    with ExitStack() as stack:

        def started(samples: int) -> Any:
            bar = stack.enter_context(stage(f"prepare {plan.prepared.name}", samples))
            return bar

        outcome = work(plan, workers=workers, limits=accepted, retry_bad=retry_bad, on_start=started, notify=note)
    _show_outcome(plan, outcome)


def _plan(request: Request, recipe: Any, cache: Path, device: str) -> Plan:
    from mmbal_cli.encode.plan import plan

    manifest = read_table(request, recipe)
    encoders = choose_encoders(manifest.kinds, request, recipe, device)
    with ExitStack() as stack:
        advance = None

        def hashed(files: int) -> None:
            nonlocal advance
            advance = advance or stack.enter_context(stage("hash source files", len(manifest.sizes)))
            advance(files)

        return plan(
            manifest,
            encoders,
            cache,
            chunk=request.chunk,
            dtype=request.dtype,
            allow_duplicates=request.allow_duplicates,
            settings=recipe.train,
            source={"request": request.record(), "root": str(manifest.root)},
            on_hash=hashed,
        )


def _up_to_date(plan: Plan) -> None:
    from mmbal_cli.encode.prepare import version_changes
    from mmbal_cli.store.sets import latest_set, write_set

    name, bad = plan.prepared.name, sum(len(index.bad) for index in plan.indexes().values())
    if latest_set(plan.cache) != name:
        with suppress(CacheError):  # a read-only cache can still be used by name
            write_set(plan.cache, plan.prepared)
    for line in version_changes(plan):
        note(f"note: {line}")
    tail = f", {bad} bad samples carried as missing" if bad else ""
    samples = len(plan.manifest.samples)
    line = f"{name}: up to date ({len(plan.modalities)} modalities, {samples} samples{tail}; {plan.prepared.fingerprint[:16]})"
    out().print(Text(line), soft_wrap=True)


def _show_plan(plan: Plan) -> None:
    table = Table("modality", "encoder", "state", "folder", box=None, header_style="bold", pad_edge=False)
    for one in plan.modalities:
        state = "complete" if one.done else "to do"
        table.add_row(*map(Text, (one.modality, one.encoder.name, state, str(one.folder))))
    out().print(table)
    note(f"{len(plan.manifest.samples)} samples, about {plan.bytes_needed() / 1e6:.1f} MB to write; nothing was done")


def _show_outcome(plan: Plan, outcome: Outcome) -> None:
    headers = ("modality", "encoder", "shape", "type", "shards", "MB", "bad", "folder")
    table = Table(*headers, box=None, header_style="bold", pad_edge=False)
    for one in plan.modalities:
        index = outcome.indexes[one.modality]
        made = outcome.made.get(one.modality, 0)
        cells = (
            one.modality,
            index.encoder,
            "×".join(map(str, (index.rows, *index.shape))),
            index.dtype,
            f"{made} new of {len(index.shards)}",
            f"{sum(shard.bytes for shard in index.shards) / 1e6:.1f}",
            str(len(index.bad)),
            str(one.folder),
        )
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    out().print(table)
    prepared = outcome.prepared
    counts = ", ".join(f"{count} {split}" for split, count in prepared.counts.items())
    note(f"prepared '{prepared.name}': {counts}; {len(prepared.classes)} classes; {prepared.split_note}")
    bad = sum(len(index.bad) for index in outcome.indexes.values())
    if bad:
        note(f"{bad} bad samples are carried as missing; reasons: mmbal data show {prepared.name}")
    note(f"next: mmbal train --dataset {prepared.name} --method concat")


def parse_limit(text: str, option: str) -> Limit:
    """`1%`, `0.01` (shares) or `12` (a count)."""
    from mmbal_cli.encode.work import Limit

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


def _classes(text: str | None) -> list[str] | None:
    """Class names from a file (one a line) or a comma-separated list."""
    if text is None:
        return None
    if Path(text).is_file():
        lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
        return [line.strip() for line in lines if line.strip()]
    names = [part.strip() for part in text.split(",") if part.strip()]
    if len(names) < 2:
        raise UsageError(f"--classes {text}", "Expected a file with one class a line, or a,b,c.")
    return names


def _absolute_folder(item: str) -> str:
    """A local model folder keeps its meaning when the request is repeated from elsewhere."""
    modality, equals, name = item.partition("=")
    folder = Path(name).expanduser()
    return f"{modality}{equals}{folder.absolute()}" if name and folder.is_dir() else item
