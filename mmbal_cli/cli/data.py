"""`mmbal data list|show|check`: what data sets there are, what one holds, what is wrong with a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbal_cli.cli.console import emit_json, note
from mmbal_cli.cli.listing import say, show_facts, show_rows
from mmbal_cli.cli.options import CACHE, Cache, Listing, Listings
from mmbal_cli.errors import EXIT_FINDINGS, EXIT_OK

if TYPE_CHECKING:
    from mmbal_cli.store.index import Index
    from mmbal_cli.store.sets import PreparedSet

app = typer.Typer(help="Data sets: list them, show one, check a sample table.", no_args_is_help=True)

SHOWN = 20


@app.command("list")
def list_(cache: Cache = CACHE, format: Listings = Listing.table) -> None:
    """List recipes and prepared data sets."""
    from mmbal_cli.recipe import dataset_recipe, find_recipe, recipe_names
    from mmbal_cli.store.sets import latest_set, list_sets, read_set

    latest = latest_set(cache)
    rows: list[dict[str, Any]] = []
    for name in list_sets(cache):
        prepared = read_set(cache, name)
        state = "prepared, latest" if name == latest else "prepared"
        about = {"samples": sum(prepared.counts.values()), "classes": len(prepared.classes)}
        rows.append({"name": name, "state": state, **about, "modalities": prepared.kinds})
    known = {row["name"] for row in rows}
    for name in recipe_names("datasets"):
        path = find_recipe("datasets", name)
        if name not in known and path:
            recipe = dataset_recipe(path)
            kinds = {modality: entry.kind for modality, entry in recipe.modalities.items()}
            classes = len(recipe.classes) if recipe.classes else None
            rows.append({"name": name, "state": "recipe", "samples": None, "classes": classes, "modalities": kinds})
    if format is Listing.json:
        return emit_json({"schema": 1, "data": rows})
    headers = ("name", "state", "samples", "classes", "modalities")
    show_rows(headers, [(*(row[key] for key in headers[:4]), ", ".join(row["modalities"])) for row in rows])
    note("next: mmbal data show NAME, mmbal prepare NAME")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A prepared data set or a recipe.")],
    cache: Cache = CACHE,
    format: Listings = Listing.table,
) -> None:
    """Show a data set: modalities, encoders, shapes, classes and counts, fingerprint, bad samples."""
    from mmbal_cli.errors import UsageError, nearest
    from mmbal_cli.recipe import canonical, dataset_recipe, find_recipe, recipe_names
    from mmbal_cli.store.index import read_index
    from mmbal_cli.store.sets import list_sets, read_set

    prepared = list_sets(cache)
    for spelled in (name, canonical(name)):
        if spelled in prepared:
            one = read_set(cache, spelled)
            indexes = {m: read_index(cache / spelled / folder) for m, folder in one.modalities.items()}
            if format is Listing.json:
                return emit_json(_document(one, indexes))
            return _show_prepared(cache, one, indexes)
    path = find_recipe("datasets", name)
    if path is None:
        raise UsageError(f"There is no data set '{name}'.", nearest(name, {*prepared, *recipe_names("datasets")}))
    recipe = dataset_recipe(path)
    if format is Listing.json:
        return emit_json({"schema": 1, "prepared": False, **recipe.model_dump(mode="json", exclude_none=True)})
    say(path.read_text(encoding="utf-8").rstrip())
    note(f"not prepared; next: mmbal prepare {recipe.name}")


def _document(prepared: PreparedSet, indexes: dict[str, Index | None]) -> dict[str, Any]:
    modalities = {}
    for modality, index in indexes.items():
        facts: dict[str, Any] = {"kind": prepared.kinds[modality], "folder": prepared.modalities[modality]}
        if index:
            facts |= index.model_dump(mode="json", include={"encoder", "shape", "dtype", "spec", "bad", "made_with"})
        modalities[modality] = facts
    return {"schema": 1, "prepared": True, **prepared.model_dump(mode="json", exclude={"modalities", "kinds"})} | {
        "class_counts": _class_counts(indexes),
        "modalities": modalities,
    }


def _class_counts(indexes: dict[str, Index | None]) -> dict[str, dict[str, int]]:
    """Samples of each class in each split, by class name."""
    from mmbal_cli.data.manifest import SPLITS

    index = next((index for index in indexes.values() if index), None)
    counts: dict[str, dict[str, int]] = index.spec.get("counts", {}) if index else {}
    names = index.classes if index else ()
    return {name: {split: counts.get(split, {}).get(name, 0) for split in SPLITS} for name in names}


def _show_prepared(cache: Path, prepared: PreparedSet, indexes: dict[str, Index | None]) -> None:
    from mmbal_cli.data.manifest import SPLITS

    counts = ", ".join(f"{prepared.counts.get(split, 0)} {split}" for split in SPLITS)
    facts = {
        "name": prepared.name,
        "folder": cache / prepared.name,
        "fingerprint": prepared.fingerprint,
        "samples": f"{sum(prepared.counts.values())} ({counts})",
        "split": prepared.split_note,
        "made from": prepared.source.get("request", {}).get("target", "-"),
    }
    show_facts(facts.items())
    say("")
    headers = ("modality", "kind", "encoder", "shape", "type", "decoding", "bad")
    show_rows(headers, [_modality_row(prepared, modality, index) for modality, index in indexes.items()])
    say("")
    show_rows(("class", *SPLITS), [(name, *row.values()) for name, row in _class_counts(indexes).items()])
    for line in prepared.source.get("notes", []):
        say(f"note: {line}")
    bad = [entry for index in indexes.values() if index for entry in index.bad]
    for entry in bad[:SHOWN]:
        say(f"bad: {entry.id} ({entry.split}) {entry.modality}: {entry.reason}")
    if len(bad) > SHOWN:
        note(f"{len(bad) - SHOWN} more bad samples: mmbal data show {prepared.name} --format json")


def _modality_row(prepared: PreparedSet, modality: str, index: Index | None) -> tuple[Any, ...]:
    kind = prepared.kinds[modality]
    if index is None:
        return modality, kind, "not complete: mmbal prepare", None, None, None, None
    decoding = ", ".join(f"{key} {value}" for key, value in index.spec.get("decode", {}).items()) or None
    shape = "×".join(map(str, (index.rows, *index.shape)))
    return modality, kind, index.encoder, shape, index.dtype, decoding, len(index.bad)


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="Data set name, RECIPE.yaml, or a table: .csv, .tsv, .jsonl.")],
    root: Annotated[Path | None, typer.Option(help="Folder that media paths are relative to.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Where a named data set lies.")] = None,
    classes: Annotated[str | None, typer.Option(help="Order of the classes: a file with one a line, or a,b,c.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Decode and encode every sample (nothing is stored).")] = False,
    workers: Annotated[int | None, typer.Option("--workers", "-j", min=1, help="Decoding processes [cores].")] = None,
    cache: Cache = CACHE,
    format: Listings = Listing.table,
) -> None:
    """Check a sample table and its files before anything is computed; exit 1 with findings."""
    from mmbal_cli.cli.checking import examine
    from mmbal_cli.cli.prepare import class_names
    from mmbal_cli.cli.target import Request

    request = Request(
        target=target,
        root=str(root.absolute()) if root else None,
        data_root=str(data_root.absolute()) if data_root else None,
        classes=class_names(classes),
    )
    report = examine(request, cache, full=full, workers=workers)
    if format is Listing.json:
        emit_json(report.document())
    else:
        say(report.text())
    raise typer.Exit(EXIT_FINDINGS if report.findings else EXIT_OK)
