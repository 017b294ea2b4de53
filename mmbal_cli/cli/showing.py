"""The work behind `mmbal data show`: a prepared set, or everything that the recipe of a known data set says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.cli.console import emit_json, note
from mmbal_cli.cli.listing import say, show_facts, show_rows
from mmbal_cli.cli.options import Listing
from mmbal_cli.data.datasets import get_reader
from mmbal_cli.data.manifest import SPLITS
from mmbal_cli.errors import CacheError, UsageError, nearest
from mmbal_cli.recipe import DatasetRecipe, ModalityRecipe, canonical, dataset_recipe, find_recipe, recipe_names
from mmbal_cli.store.index import Index, read_index
from mmbal_cli.store.sets import PreparedSet, list_sets, read_set
from mmbal_cli.store.shard import read_shard

SHOWN = 20
Features = list[tuple[str, str, Index | None]]  # modality, encoder label, index


def show(name: str, cache: Path, format: Listing, *, recipe: bool = False) -> None:
    """Print the prepared set of that name, else (or where asked for) the recipe."""
    prepared = list_sets(cache)
    for spelled in (name, canonical(name)):
        if spelled in prepared and not recipe:
            one = read_set(cache, spelled)
            features = _features(cache, one)
            if format is Listing.json:
                return emit_json(_document(one, features))
            return _show_prepared(cache, one, features)
    path = find_recipe("datasets", name)
    if path is None:
        raise UsageError(f"There is no data set '{name}'.", nearest(name, {*prepared, *recipe_names("datasets")}))
    found = dataset_recipe(path)
    if format is Listing.json:
        return emit_json({"schema": 1, "prepared": False, **found.model_dump(mode="json", exclude_none=True)})
    _show_recipe(found)
    where = " --data-root DIR" if found.source.reader else ""
    note(f"next: mmbal data check {found.name}{where}, mmbal prepare {found.name}{where}")


def samples_of(recipe: DatasetRecipe) -> int | None:
    """Samples of the first published split."""
    return next((sum(split.counts.values()) for split in recipe.splits.values()), None)


def _features(cache: Path, prepared: PreparedSet) -> Features:
    """Every modality with each of its encoders, the one that training takes first."""
    found: Features = []
    for modality, folder in prepared.modalities.items():
        others = prepared.encoders.get(modality, {"": folder})
        for label, place in sorted(others.items(), key=lambda item: item[1] != folder):
            found.append((modality, label, read_index(cache / prepared.name / place)))
    return found


def _show_recipe(recipe: DatasetRecipe) -> None:
    """Everything a recipe says: what it is, where to get it, layouts, splits, label order, decoding, encoders."""
    about = recipe.about
    facts = {
        "name": ", ".join([recipe.name, *recipe.aliases]),
        "title": about.title,
        "task": about.task,
        "modalities": about.modality_notes,
        "classes": f"{len(recipe.classes)}: {', '.join(recipe.classes)}" if recipe.classes else "",
        "label order": about.label_order,
        "group": recipe.group,
        "licence": about.licence,
        "get it": about.get,
        "size": about.size,
        "cite": about.cite,
        "source": " ".join(f"{key} {value}" for key, value in recipe.source if value),
        "note": recipe.note,
    }
    show_facts((key, value) for key, value in facts.items() if value)
    if about.layout:
        say("\naccepted below --data-root:")
        say(about.layout.rstrip())
    say("")
    headers = ("modality", "kind", "encoder", "decoding", "or pretrained")
    show_rows(headers, [_recipe_row(modality, entry) for modality, entry in recipe.modalities.items()])
    if recipe.splits:
        say("")
        published = [
            (name, ", ".join(f"{n} {part}" for part, n in split.counts.items()), split.hash[:16] or None, split.source)
            for name, split in recipe.splits.items()
        ]
        show_rows(("published split", "samples", "hash", "source"), published)
    offered = get_reader(recipe.source.reader).OPTIONS if recipe.source.reader else {}
    if offered:
        say("")
        rows = [(f"--set source.{key}=", " | ".join(choices)) for key, choices in offered.items()]
        show_rows(("option", "choices, the first is the default"), rows)
    if recipe.train:
        say("\ntraining: " + ", ".join(f"{key} {value}" for key, value in recipe.train.items()))
    for line in about.pitfalls:
        say(f"pitfall: {line}")


def _recipe_row(modality: str, entry: ModalityRecipe) -> tuple[Any, ...]:
    settings = {**entry.settings(entry.encoder or ""), **entry.params}
    decoding = ", ".join(f"{key} {value}" for key, value in settings.items())
    return modality, entry.kind, entry.encoder, decoding or None, ", ".join(entry.pretrained) or None


def _document(prepared: PreparedSet, features: Features) -> dict[str, Any]:
    modalities: dict[str, Any] = {}
    for modality, label, index in features:
        facts: dict[str, Any] = {"kind": prepared.kinds[modality]}
        if index:
            facts |= index.model_dump(mode="json", include={"encoder", "shape", "dtype", "spec", "bad", "made_with"})
        if modality not in modalities:
            modalities[modality] = facts | {"folder": prepared.modalities[modality]}
        else:
            modalities[modality].setdefault("others", {})[label] = facts
    return {"schema": 1, "prepared": True, **prepared.model_dump(mode="json", exclude={"modalities", "kinds"})} | {
        "class_counts": _class_counts(features),
        "modalities": modalities,
    }


def _class_counts(features: Features) -> dict[str, dict[str, int]]:
    """Samples of each class in each split, by class name."""
    index = next((index for _, _, index in features if index), None)
    counts: dict[str, dict[str, int]] = index.spec.get("counts", {}) if index else {}
    names = index.classes if index else ()
    return {name: {split: counts.get(split, {}).get(name, 0) for split in SPLITS} for name in names}


def _show_prepared(cache: Path, prepared: PreparedSet, features: Features) -> None:
    counts = ", ".join(f"{prepared.counts.get(split, 0)} {split}" for split in SPLITS)
    facts = {
        "name": prepared.name,
        "folder": cache / prepared.name,
        "fingerprint": prepared.fingerprint,
        "samples": f"{sum(prepared.counts.values())} ({counts})",
        "split": f"{prepared.split_note} (hash {prepared.split_hash[:16]})",
        "made from": prepared.source.get("request", {}).get("target", "-"),
    }
    show_facts(facts.items())
    say("")
    headers = ("modality", "kind", "encoder", "shape", "type", "decoding", "time base", "bad")
    folder = cache / prepared.name
    show_rows(headers, [_modality_row(prepared, folder, *one) for one in features])
    say("")
    show_rows(("class", *SPLITS), [(name, *row.values()) for name, row in _class_counts(features).items()])
    for line in prepared.source.get("notes", []):
        say(f"note: {line}")
    bad = [entry for _, _, index in features if index for entry in index.bad]
    for entry in bad[:SHOWN]:
        say(f"bad: {entry.id} ({entry.split}) {entry.modality}: {entry.reason}")
    if len(bad) > SHOWN:
        note(f"{len(bad) - SHOWN} more bad samples: mmbal data show {prepared.name} --format json")


def _modality_row(
    prepared: PreparedSet, folder: Path, modality: str, label: str, index: Index | None
) -> tuple[Any, ...]:
    kind = prepared.kinds[modality]
    if index is None:
        return modality, kind, "not complete: mmbal prepare", None, None, None, None, None
    decoding = ", ".join(f"{key} {value}" for key, value in index.spec.get("decode", {}).items()) or None
    shape = "×".join(map(str, (index.rows, *index.shape)))
    place = folder / prepared.encoders.get(modality, {}).get(label, prepared.modalities[modality])
    name = f"{label} ({index.encoder})" if label not in ("", index.encoder) else index.encoder
    return modality, kind, name, shape, index.dtype, decoding, _time_base(place, index), len(index.bad)


def _time_base(folder: Path, index: Index) -> str | None:
    """Median seconds that a sample covers and, of [N,T,F] features, that a step covers; from the first shard."""
    try:
        arrays, _ = read_shard(folder / index.shards[0].name)
    except (CacheError, IndexError):
        return None
    times = np.asarray(arrays.get("times", np.zeros((0, 2))))
    steps = times.reshape(-1, 2)
    if not np.isfinite(steps).any():
        return None
    step = float(np.nanmedian(steps[:, 1] - steps[:, 0]))
    if times.ndim == 2:
        return f"{step:.2f} s"
    valid = times[np.isfinite(times).any((1, 2))]
    whole = float(np.median(np.nanmax(valid, (1, 2)) - np.nanmin(valid, (1, 2))))
    return f"{whole:.2f} s in steps of {step:.2f} s"
