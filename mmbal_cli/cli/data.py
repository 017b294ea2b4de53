"""`mmbal data list|show|check|audit|probe`: what data sets there are, what is in one, what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmbal_cli.cli.console import emit_json, note
from mmbal_cli.cli.listing import show_parts, show_rows
from mmbal_cli.cli.options import (
    CACHE,
    Cache,
    Classes,
    DataRoot,
    Decoders,
    Listing,
    Listings,
    NamedSplit,
    Root,
    SourceSets,
    Subset,
    SubsetFile,
    Target,
)
from mmbal_cli.cli.output import write_text
from mmbal_cli.errors import EXIT_FINDINGS, EXIT_OK

app = typer.Typer(
    help="Data sets: list, show, check before preparing, audit splits, probe modalities.", no_args_is_help=True
)


@app.command("list")
def list_(cache: Cache = CACHE, format: Listings = Listing.table) -> None:
    """List recipes and prepared data sets."""
    from mmbal_cli.cli.showing import samples_of
    from mmbal_cli.recipe import dataset_recipe, find_recipe, recipe_names
    from mmbal_cli.store.sets import latest_set, list_sets, read_set

    latest = latest_set(cache)
    rows: list[dict[str, Any]] = []
    for name in list_sets(cache):
        prepared = read_set(cache, name)
        state = "prepared, latest" if name == latest else "prepared"
        about = {"samples": sum(prepared.counts.values()), "classes": len(prepared.classes)}
        rows.append({"name": name, "state": state, **about, "modalities": prepared.kinds, "title": ""})
    known = {row["name"] for row in rows}
    for name in recipe_names("datasets"):
        path = find_recipe("datasets", name)
        if name not in known and path:
            recipe = dataset_recipe(path)
            kinds = {modality: entry.kind for modality, entry in recipe.modalities.items()}
            classes = len(recipe.classes) if recipe.classes else None
            facts = {"samples": samples_of(recipe), "classes": classes, "modalities": kinds}
            rows.append({"name": name, "state": "recipe", **facts, "title": recipe.about.title})
    if format is Listing.json:
        return emit_json({"schema": 1, "data": rows})
    headers = ("name", "state", "samples", "classes", "modalities", "title")
    show_rows(
        headers, [(*(row[key] for key in headers[:4]), ", ".join(row["modalities"]), row["title"]) for row in rows]
    )
    note("next: mmbal data show NAME, mmbal data check NAME --data-root DIR, mmbal prepare NAME --data-root DIR")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A prepared data set or a recipe.")],
    cache: Cache = CACHE,
    recipe: Annotated[bool, typer.Option("--recipe", help="The recipe, also when the set is prepared.")] = False,
    format: Listings = Listing.table,
) -> None:
    """Show a prepared set (encoders, shapes, classes, bad samples) or a recipe (layouts, splits, licence, encoders)."""
    from mmbal_cli.cli.showing import show as show_it

    show_it(name, cache, format, recipe=recipe)


@app.command()
def check(
    target: Target,
    root: Root = None,
    data_root: DataRoot = None,
    classes: Classes = None,
    set_: SourceSets = None,
    subset: SubsetFile = None,
    complete_ids: Annotated[
        Path | None, typer.Option(help="Write the ids of complete samples to this file, to name a --subset.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Decode and encode every sample (nothing is stored).")] = False,
    workers: Decoders = None,
    cache: Cache = CACHE,
    format: Listings = Listing.table,
) -> None:
    """Check a data set before anything is computed: annotations, names, digests and headers; exit 1 with findings."""
    from mmbal_cli.cli.checking import examine
    from mmbal_cli.cli.target import Request

    request = Request.of(target, root, data_root, classes, subset, set_)
    report = examine(request, cache, full=full, workers=workers)
    if format is Listing.json:
        emit_json(report.document())
    else:
        show_parts(report.tables())
    if complete_ids:
        write_text(complete_ids, "".join(f"{name}\n" for name in report.complete))
        note(f"wrote {complete_ids}: {len(report.complete)} complete samples; next: --subset {complete_ids}")
    raise typer.Exit(EXIT_FINDINGS if report.findings else EXIT_OK)


@app.command()
def audit(
    target: Target,
    root: Root = None,
    data_root: DataRoot = None,
    classes: Classes = None,
    subset: SubsetFile = None,
    set_: SourceSets = None,
    near: Annotated[float, typer.Option(help="Cosine of features from which two samples are near copies.")] = 0.999,
    propose: Annotated[bool, typer.Option("--propose", help="Propose a split by groups even without overlap.")] = False,
    name: Annotated[str | None, typer.Option(help="Name of the proposed split (default: what a group is).")] = None,
    shares: Annotated[
        str | None, typer.Option(help="Parts of the proposed split, e.g. 70/10/20 (default: those of the split).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the proposed split.")] = 0,
    no_store: Annotated[bool, typer.Option("--no-store", help="Show the proposed split without storing it.")] = False,
    cache: Cache = CACHE,
    format: Listings = Listing.table,
) -> None:
    """Audit the splits: groups and copies in two of them, labels, missing modalities; proposes a split by groups.

    Looks at a prepared set, a download, the published list of a known data set, or a table; exit 1 with findings.
    """
    from mmbal_cli.cli.auditing import run
    from mmbal_cli.cli.target import Request

    request = Request.of(target, root, data_root, classes, subset, set_)
    split: dict[str, Any] = {"name": name, "shares": shares, "seed": seed, "store": not no_store}
    raise typer.Exit(run(request, cache, near=near, wanted=propose, format=format, **split))


@app.command()
def probe(
    name: Annotated[str | None, typer.Argument(help="Prepared data set; the one prepared last by default.")] = None,
    split: NamedSplit = None,
    subset: Subset = None,
    cache: Cache = CACHE,
    format: Listings = Listing.table,
) -> None:
    """Probe each modality, and all together, by linear models on validation: which one leads, before training.

    The test split is not offered: settings are chosen by what a probe shows.
    """
    from mmbal_cli.cli.probing import run

    run(name, cache, format, split, subset)
