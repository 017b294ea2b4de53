"""`mmbal cache ls|verify|repair|gc`: sizes, damage, repair of exactly what is damaged, and what nobody uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbal_cli.cli.console import emit_json, note
from mmbal_cli.cli.listing import say, show_rows
from mmbal_cli.cli.options import CACHE, Cache, Listing, Listings
from mmbal_cli.errors import EXIT_FINDINGS, EXIT_OK, CacheError, MmbalError, nearest

if TYPE_CHECKING:
    from mmbal_cli.store.index import Finding

app = typer.Typer(help="The feature cache: sizes, verify, repair, remove what nobody uses.", no_args_is_help=True)

Name = Annotated[str | None, typer.Argument(help="One prepared data set (default: all).")]


@dataclass(frozen=True)
class Entry:
    """One modality folder of the cache; `used` when the data set points to it."""

    dataset: str
    folder: Path
    used: bool

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.lstat().st_size for path in self.folder.rglob("*") if path.is_file())


def entries(cache: Path, name: str | None = None) -> Iterator[Entry]:
    """Modality folders of one or all data sets; CacheError when there is no such cache or data set."""
    from mmbal_cli.store.sets import SET, read_set

    if not cache.is_dir():
        raise CacheError(f"There is no cache at {cache}.", "", "mmbal prepare demo")
    places = sorted(path for path in cache.iterdir() if path.is_dir() and not path.name.startswith("."))
    if name is not None and cache / name not in places:
        raise CacheError(f"There is no data set '{name}' in {cache}.", nearest(name, [path.name for path in places]))
    for place in places:
        if name not in (None, place.name):
            continue
        used: set[str] = set()
        if (place / SET).exists():
            try:
                used = read_set(cache, place.name).folders
            except CacheError:  # a damaged pointer must not make its features look unused
                used = {path.name for path in place.iterdir()}
        found = {path.name for path in place.glob("*--*--*") if path.is_dir()}
        for folder in sorted(found | {one for one in used if "--" in one}):
            yield Entry(place.name, place / folder, folder in used)


@app.command()
def ls(cache: Cache = CACHE, format: Listings = Listing.table) -> None:
    """List what the cache holds, with sizes."""
    from mmbal_cli.store.index import read_index

    rows: list[dict[str, Any]] = []
    for entry in entries(cache):
        index = read_index(entry.folder)
        state = ("used" if entry.used else "unused") if index else "incomplete"
        row = {"data": entry.dataset, "folder": entry.folder.name, "state": state, "bytes": entry.size()}
        shape = [index.rows, *index.shape] if index else []
        rows.append(row | {"encoder": index.encoder if index else None, "shape": shape})
    if format is Listing.json:
        return emit_json({"schema": 1, "cache": str(cache), "folders": rows})
    cells = [
        (
            row["data"],
            row["folder"],
            row["state"],
            "×".join(map(str, row["shape"])) or None,
            f"{row['bytes'] / 1e6:.1f}",
        )
        for row in rows
    ]
    show_rows(("data", "folder", "state", "shape", "MB"), cells)
    note(f"{cache}: {sum(row['bytes'] for row in rows) / 1e6:.1f} MB")


def findings(cache: Path, name: str | None) -> list[Finding]:
    """Damage of one or all data sets; the missing index of an interrupted `prepare` is none."""
    from mmbal_cli.data.named import damaged
    from mmbal_cli.store.index import INDEX, Finding, verify
    from mmbal_cli.store.sets import SET, read_set

    found: list[Finding] = []
    seen: set[str] = set()
    for entry in entries(cache, name):
        if entry.dataset not in seen and (cache / entry.dataset / SET).exists():
            try:
                read_set(cache, entry.dataset)
            except CacheError as error:
                found.append(Finding(cache / entry.dataset, SET, error.found))
            found += damaged(cache, entry.dataset)
        seen.add(entry.dataset)
        absent = not (entry.folder / INDEX).exists()
        found += [one for one in verify(entry.folder) if entry.used or not absent or one.shard != INDEX]
    return found


@app.command()
def verify(name: Name = None, cache: Cache = CACHE, format: Listings = Listing.table) -> None:
    """Read every byte and compare it with its digest; exit 1 with findings."""
    found = findings(cache, name)
    if format is Listing.json:
        rows = [{"folder": str(one.folder), "file": one.shard, "problem": one.problem} for one in found]
        emit_json({"schema": 1, "cache": str(cache), "ok": not found, "findings": rows})
    else:
        for one in found:
            say(f"{one.folder / one.shard}: {one.problem}")
        say(f"{cache}: {len(found)} findings" if found else f"{cache}: every byte is as it was written")
    if found:
        note("next: mmbal cache repair")
        raise typer.Exit(EXIT_FINDINGS)


@app.command()
def repair(
    name: Name = None,
    cache: Cache = CACHE,
    delete_only: Annotated[bool, typer.Option("--delete-only", help="Remove damaged shards, redo nothing.")] = False,
) -> None:
    """Remove damaged shards and make exactly those again."""
    from mmbal_cli.cli.preparing import run
    from mmbal_cli.cli.target import Request
    from mmbal_cli.store.index import discard_damaged
    from mmbal_cli.store.sets import SET, read_set

    found = findings(cache, name)
    for folder in sorted({one.folder for one in found}):
        removed = discard_damaged(folder) + _discard_strangers(folder)
        for path in removed:
            note(f"removed {path}")
    broken = sorted({one.folder.relative_to(cache).parts[0] for one in found})
    if not broken:
        return say(f"{cache}: nothing to repair")
    failed = 0
    for dataset in broken:
        if delete_only or not (cache / dataset / SET).exists():
            note(f"next: mmbal prepare {dataset}")
            continue
        try:
            run(Request.recorded(read_set(cache, dataset).source.get("request", {})), cache)
        except MmbalError as error:
            failed += 1
            note(f"{dataset}: {error}")
    left = [] if delete_only else findings(cache, name)
    say(f"{cache}: {len(found)} findings, {len(left)} left")
    raise typer.Exit(EXIT_FINDINGS if failed or left else EXIT_OK)


def _discard_strangers(folder: Path) -> list[Path]:
    """Remove intact shards that the index contradicts: another file holds their chunk."""
    from mmbal_cli.store.index import read_index
    from mmbal_cli.store.shard import NAME

    index = read_index(folder)
    listed = {shard.number: shard.name for shard in index.shards} if index else {}
    removed = []
    for path in sorted(folder.glob("*.h5")):
        match = NAME.fullmatch(path.name)
        other = listed.get(int(match["number"]), path.name) if match else path.name
        if other != path.name and (folder / other).exists():
            path.unlink()
            removed.append(path)
    return removed


@app.command()
def gc(
    cache: Cache = CACHE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete; without it sizes are only shown.")] = False,
) -> None:
    """Show, and with --yes delete, feature folders that no data set points to."""
    import shutil

    from mmbal_cli.store.atomic import best_effort_lock, sweep_parts

    unused = [entry for entry in entries(cache) if not entry.used]
    sizes = {entry.folder: entry.size() for entry in unused}
    for entry in unused:
        say(f"{sizes[entry.folder] / 1e6:8.1f} MB  {entry.folder}")
    total = sum(sizes.values()) / 1e6
    if not yes:
        say(f"{len(unused)} unused folders, {total:.1f} MB")
        if unused:
            note("delete them with: mmbal cache gc --yes")
        return
    for entry in unused:
        with best_effort_lock(cache / entry.dataset, wait=0, notify=note) as held:
            if held:  # else a running `prepare` may be filling it
                shutil.rmtree(entry.folder)
                sweep_parts(cache / entry.dataset)
            else:
                note(f"kept {entry.folder}: in use")
    gone = sum(not entry.folder.exists() for entry in unused)
    say(f"deleted {gone} folders, {sum(s for f, s in sizes.items() if not f.exists()) / 1e6:.1f} MB")
