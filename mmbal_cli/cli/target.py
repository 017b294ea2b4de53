"""What a name, recipe or table on the command line stands for, and how it was asked to be prepared.

The request is recorded with the prepared set, so that `mmbal cache repair` and `mmbal prepare NAME` can repeat it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mmbal_cli.cli.console import stage
from mmbal_cli.data.arrays import FILES, PICKLES, read_arrays_as_table, refuse_pickle
from mmbal_cli.data.datasets import get_generator, read_folder, recognise
from mmbal_cli.data.manifest import NAME, Manifest, accepted, inspect_manifest, inspect_raw, plain_name
from mmbal_cli.data.named import read_ids
from mmbal_cli.data.problems import Problem
from mmbal_cli.encode import SHIPPED, get_encoder
from mmbal_cli.encode.base import Encoder
from mmbal_cli.encode.catalogue import card_of
from mmbal_cli.encode.families import FAMILIES
from mmbal_cli.errors import CacheError, DeviceError, ManifestError, RecipeError, UsageError, nearest
from mmbal_cli.recipe import (
    DatasetRecipe,
    ModalityRecipe,
    Source,
    dataset_recipe,
    find_recipe,
    parse_sets,
    recipe_names,
)
from mmbal_cli.store.sets import list_sets, read_set

TABLES = (".csv", ".tsv", ".jsonl")
RECIPES = (".yaml", ".yml")


@dataclass(frozen=True)
class Request:
    """Everything about `mmbal prepare` that decides the result; paths are absolute."""

    target: str
    root: str | None = None
    data_root: str | None = None
    name: str | None = None
    classes: list[str] | None = None
    subset: str | None = None
    encoders: list[str] = field(default_factory=list)
    pretrained: bool = False
    sets: list[str] = field(default_factory=list)
    dtype: str = "float16"
    chunk: int = 256
    max_bad: str = "1%"
    max_bad_test: str = "0"
    skip_bad: bool = False
    allow_duplicates: bool = False

    @classmethod
    def of(
        cls,
        target: str,
        root: Path | None,
        data_root: Path | None,
        classes: str | None,
        subset: Path | None,
        sets: Sequence[str] | None,
        **others: Any,
    ) -> Request:
        """The request that these options make."""
        root_, data_root_, subset_ = (str(path.absolute()) if path else None for path in (root, data_root, subset))
        return cls(
            target, root_, data_root_, classes=class_names(classes), subset=subset_, sets=list(sets or []), **others
        )

    def record(self) -> dict[str, Any]:
        """As JSON, for `PreparedSet.source`."""
        return asdict(self)

    @classmethod
    def recorded(cls, values: Mapping[str, Any]) -> Request:
        """The request of an earlier call; CacheError when the set does not hold one."""
        known = {field.name for field in fields(cls)}
        if "target" not in values or not values.keys() <= known:
            raise CacheError("The prepared set does not say how it was made.", "", "mmbal prepare TABLE.csv")
        return cls(**values)

    def updated(self, given: Request) -> Request:
        """This request with every option that `given` sets to something else than the default."""
        plain = Request(given.target)
        changed = {
            f.name: getattr(given, f.name) for f in fields(self) if getattr(given, f.name) != getattr(plain, f.name)
        }
        changed.pop("target", None)
        return replace(self, **changed)


def class_names(text: str | None) -> list[str] | None:
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


def resolve(request: Request, cache: Path) -> tuple[Request, DatasetRecipe]:
    """The recipe behind a request: shipped, a file, made up for a bare table, or that of a prepared set."""
    path = Path(request.target)
    suffix = path.suffix.lower()
    if request.name is not None and not NAME.fullmatch(request.name):
        raise UsageError(f"'{request.name}' cannot name a data set.", "Expected lower case a-z 0-9 . _ -")
    if suffix in RECIPES:
        return _absolute(request), dataset_recipe(path)
    if suffix in PICKLES:
        raise refuse_pickle(path)
    if suffix in TABLES or suffix in FILES:
        if not path.is_file():
            raise ManifestError(f"There is no file {path}.", "Expected a sample table or a file of features.")
        where = str(path.absolute())
        source = Source(manifest=where) if suffix in TABLES else Source(arrays=where)
        return _absolute(request), DatasetRecipe(name=request.name or plain_name(path), source=source)
    shipped = find_recipe("datasets", request.target)
    if shipped is not None:
        recipe = dataset_recipe(shipped)
        return _where_it_was(replace(request, target=shipped.stem), recipe, cache), recipe
    if path.is_dir() and re.search(r"[/\\]|^\.", request.target):
        source = Source(arrays=str(path.absolute()))
        return _absolute(request), DatasetRecipe(name=request.name or plain_name(path.absolute()), source=source)
    prepared = list_sets(cache)
    if request.target not in prepared:
        raise UsageError(
            f"There is no data set '{request.target}'.",
            nearest(request.target, {*recipe_names("datasets"), *prepared}),
            "mmbal data list, or for your own data mmbal prepare TABLE.csv --root DIR",
        )
    earlier = Request.recorded(read_set(cache, request.target).source.get("request", {}))
    if earlier.target == request.target:
        raise CacheError(f"'{request.target}' was made from a recipe that is gone.", "", "mmbal prepare TABLE.csv")
    return resolve(earlier.updated(request), cache)


def _where_it_was(request: Request, recipe: DatasetRecipe, cache: Path) -> Request:
    """A known data set that was prepared before is looked for, and prepared, as then."""
    name = request.name or recipe.name
    if recipe.source.reader and request.data_root is None and name in list_sets(cache):
        earlier = Request.recorded(read_set(cache, name).source.get("request", {}))
        if earlier.target == request.target:
            return earlier.updated(request)
    return request


def _absolute(request: Request) -> Request:
    return replace(request, target=str(Path(request.target).absolute()))


def data_root(request: Request, recipe: DatasetRecipe) -> Path:
    """Folder of a known or generated data set: --data-root, else data/NAME."""
    return Path(request.data_root or Path("data", recipe.name).absolute())


def place_of(request: Request, recipe: DatasetRecipe) -> Path:
    """What messages about the samples name: the table, the file of arrays, or the folder of a known data set.

    A relative table in a recipe starts at --data-root, else at the recipe.
    """
    source = recipe.source
    if source.reader:
        return data_root(request, recipe)
    if source.generator:
        return data_root(request, recipe) / "manifest.csv"
    shipped = find_recipe("datasets", request.target)
    return Path(request.data_root or Path(shipped or request.target).parent) / (source.manifest or source.arrays or "")


def _root(request: Request, recipe: DatasetRecipe) -> Path | None:
    """Folder of the media files where it is said; else it is that of the table."""
    root = request.root or recipe.source.root
    return place_of(request, recipe).parent / root if root else None


def generate(request: Request, recipe: DatasetRecipe, workers: int) -> None:
    """Make the files of a generated data set, those that are not there yet."""
    if not recipe.source.generator:
        return
    options = {
        name: _whole(name, value) for name, value in parse_sets(_for_source(request), ("source",))["source"].items()
    }
    done = 0
    with ExitStack() as stack:
        advance: Callable[..., None] | None = None

        def told(ready: int, total: int) -> None:
            nonlocal advance, done
            if advance is None and ready < total:
                advance = stack.enter_context(stage(f"generate {recipe.name}", total - ready))
            elif advance is not None:
                advance(ready - done)
            done = ready

        run = get_generator(recipe.source.generator)
        try:
            run(data_root(request, recipe), on_progress=told, workers=workers, **options)
        except TypeError as error:
            raise RecipeError(f"--set source: {error}.", "Known: clips, seed.") from error


def _for_source(request: Request) -> list[str]:
    return [item for item in request.sets if item.startswith("source.")]


def _whole(name: str, value: str) -> int:
    if not value.isdecimal():
        raise RecipeError(f"--set source.{name}={value}.", "Expected a whole number.")
    return int(value)


def read_samples(request: Request, recipe: DatasetRecipe) -> Manifest:
    """The checked manifest of a request; ManifestError that sums up what is wrong."""
    root = f"{request.target} --data-root {place_of(request, recipe)}" if recipe.source.reader else ""
    return accepted(request.target, *inspect_samples(request, recipe, missing_ok=request.skip_bad), root)


def inspect_samples(
    request: Request, recipe: DatasetRecipe, *, missing_ok: bool = False
) -> tuple[Manifest, list[Problem]]:
    """The samples of a request as far as they can be read, and all findings on them."""
    place, name = place_of(request, recipe), request.name or recipe.name
    classes = request.classes or recipe.classes
    only = read_ids(Path(request.subset)).ids if request.subset else None
    if not (recipe.source.reader or recipe.source.arrays):
        root = _root(request, recipe)
        return inspect_manifest(place, root, classes, name, missing_ok=missing_ok, only=only)
    if recipe.source.reader:
        given = {**recipe.source.options, **parse_sets(_for_source(request), ("source",))["source"]}
        raw = read_folder(recipe, place, given)
        recognise(raw, recipe)
        if only is not None:  # what is missing beside the subset does not count
            raw.problems = [problem for problem in raw.problems if problem.rule not in ("class-lost", "missing-rate")]
    else:
        place = place.resolve()
        raw, place = read_arrays_as_table(place), place if place.is_dir() else place.parent
    return inspect_raw(raw, place, classes, name, missing_ok=missing_ok, only=only)


def choose_encoders(
    kinds: Mapping[str, str], request: Request, recipe: DatasetRecipe, device: str = "auto"
) -> dict[str, list[Encoder]]:
    """The encoders of each modality: --encoder, else the recipe's, else the shipped one of that kind."""
    for modality, entry in recipe.modalities.items():
        if kinds.get(modality) != entry.kind and not recipe.source.reader:  # a reader knows variants
            raise RecipeError(
                f"The recipe has the modality '{modality}' of kind {entry.kind}.",
                f"The table has {', '.join(f'{kind}:{name}' for name, kind in kinds.items())}.",
            )
    named: dict[str, list[str]] = {modality: [] for modality in kinds}
    for modality, name in (_pair(part, kinds) for item in request.encoders for part in item.split(",")):
        if name in named[modality]:
            raise UsageError(f"--encoder names '{name}' twice for {modality}.", "Each encoder once.")
        named[modality].append(name)
    sets = parse_sets([item for item in request.sets if item not in _for_source(request)], tuple(kinds))
    found = {}
    for modality, kind in kinds.items():
        own = recipe.modalities.get(modality)
        own = own if own and own.kind == kind else ModalityRecipe(kind=kind)
        usual = (own.pretrained[0] if request.pretrained and own.pretrained else own.encoder) or ""
        given = {key: _typed(value) for key, value in sets[modality].items()}
        found[modality] = [_encoder(own, kind, name, given, device) for name in named[modality] or [usual]]
    if device not in ("auto", "cpu") and not any("device" in e.params for several in found.values() for e in several):
        _check_device(device)
    return found


def _encoder(own: ModalityRecipe, kind: str, name: str, given: Mapping[str, Any], device: str) -> Encoder:
    """One encoder with the recipe's decoder settings, its parameters where it is the recipe's own, and those given."""
    params = own.settings(name)
    if name == (own.encoder or ""):
        params |= {key: _typed(value) for key, value in own.params.items()}
    card = card_of(name)
    if card and FAMILIES[card.family].front == "clip":  # it sees as many frames as it was made for
        params.pop("frames", None)
    if name and name not in SHIPPED:
        params.setdefault("device", device)
    return get_encoder(name, kind, **{**params, **given})


def _pair(item: str, kinds: Mapping[str, str]) -> tuple[str, str]:
    modality, equals, name = item.strip().partition("=")
    if not equals or modality not in kinds or not name:
        raise UsageError(f"--encoder {item}", f"Expected MODALITY=NAME. {nearest(modality, kinds)}")
    return modality, name


def _typed(value: Any) -> Any:
    """Numbers written as text become numbers; the encoder's own declaration says whether they may."""
    for kind in (int, float):
        try:
            return kind(value) if isinstance(value, str) else value
        except ValueError:
            continue
    return value


def _check_device(device: str) -> None:
    """A device asked for by name must be there, even where the encoders do not use it."""
    import torch

    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"There is no device '{device}'.", "Expected auto, cpu, cuda or cuda:N.") from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"There is no GPU '{device}' here.", "", "Use --device cpu or --device auto.")
