"""`mmbal data probe`: linear probes of a prepared data set as a listing or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmbal_cli.cli.console import emit_json, note
from mmbal_cli.cli.listing import say, show_rows
from mmbal_cli.cli.options import Listing
from mmbal_cli.errors import CacheError

if TYPE_CHECKING:
    from mmbal_cli.report.probe import Probe, Row


def run(name: str | None, cache: Path, format: Listing, split: str | None = None, subset: str | None = None) -> None:
    """Probe a prepared set (the latest without a name), in a stored split and of a subset where they are given."""
    from mmbal_cli.data.features import laid_over, load_features
    from mmbal_cli.data.named import Overlay, find_subset, store_subset
    from mmbal_cli.report.probe import probe
    from mmbal_cli.store.sets import latest_set, read_set

    dataset = name or latest_set(cache)
    if dataset is None:
        raise CacheError(f"No data set is prepared in {cache}/.", "Prepare one first.", "mmbal prepare demo")
    prepared = read_set(cache, dataset)
    kept = find_subset(cache, dataset, subset) if subset else None
    if kept:
        laid_over(cache, prepared, Overlay(subset=kept))
        store_subset(cache, dataset, kept)
    found = probe(load_features(cache, dataset, split or "", kept.key if kept else "")[1])
    if format is Listing.json:
        return emit_json(found.document())
    _show(found)
    for line in found.notes:
        note(f"note: {line}")
    note(f"next: mmbal train --dataset {dataset} --method unimodal,unimodal-ensemble,concat")


def _show(found: Probe) -> None:
    from mmbal_cli.report.probe import percent

    say(f"{found.dataset}: validation, {found.classes} classes; always '{found.largest}': {percent(found.majority)}")
    say("")
    show_rows(
        ("probe", "width", "train", "val", "accuracy", "95% interval", "on train", "C", "steps"),
        [_cells(row) for row in found.rows],
    )
    say("")
    for line in found.findings():
        say(line)


def _cells(row: Row) -> tuple[object, ...]:
    from mmbal_cli.report.probe import percent

    counts = row.name, row.width, row.train, row.val
    if row.accuracy is None or row.train_accuracy is None:
        return (*counts, None, None, None, None, None)
    between = f"{percent(row.accuracy.low)} to {percent(row.accuracy.high)}"
    steps = row.steps if row.converged else f"{row.steps}+"
    return (*counts, percent(row.accuracy.value), between, percent(row.train_accuracy), f"{row.C:g}", steps)
