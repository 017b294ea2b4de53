"""What a name, recipe or table on the command line stands for, and how it was asked to be prepared.

The request is recorded with the prepared set, so that `mmbal cache repair` and `mmbal prepare NAME` can repeat it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mmbal_cli.cli.console import stage
from mmbal_cli.data.datasets import get_generator
from mmbal_cli.data.manifest import NAME, Manifest, plain_name, read_manifest
from mmbal_cli.encode import SHIPPED, get_encoder
from mmbal_cli.encode.base import Encoder
from mmbal_cli.errors import CacheError, DeviceError, ManifestError, RecipeError, UsageError, nearest
from mmbal_cli.recipe import DatasetRecipe, Source, canonical, dataset_recipe, find_recipe, parse_sets, recipe_names
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
    encoders: Sequence[str] = ()
    sets: Sequence[str] = ()
    dtype: str = "float16"
    chunk: int = 256
    max_bad: str = "1%"
    max_bad_test: str = "0"
    skip_bad: bool = False
    allow_duplicates: bool = False

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


def resolve(request: Request, cache: Path) -> tuple[Request, DatasetRecipe]:
    """The recipe behind a request: shipped, a file, made up for a bare table, or that of a prepared set."""
    path = Path(request.target)
    suffix = path.suffix.lower()
    if request.name is not None and not NAME.fullmatch(request.name):
        raise UsageError(f"'{request.name}' cannot name a data set.", "Expected lower case a-z 0-9 . _ -")
    if suffix in RECIPES:
        return _absolute(request), dataset_recipe(path)
    if suffix in TABLES:
        if not path.is_file():
            raise ManifestError(f"There is no file {path}.", "Expected a sample table.")
        name, source = request.name or plain_name(path), Source(manifest=str(path.absolute()))
        return _absolute(request), DatasetRecipe(name=name, source=source)
    shipped = find_recipe("datasets", request.target)
    if shipped is not None:
        return replace(request, target=canonical(request.target)), dataset_recipe(shipped)
    prepared = list_sets(cache)
    if request.target not in prepared:
        raise UsageError(
            f"There is no data set '{request.target}'.",
            nearest(request.target, {*recipe_names("datasets"), *prepared}),
            "mmbal prepare TABLE.csv --root DIR, or mmbal data list",
        )
    earlier = Request.recorded(read_set(cache, request.target).source.get("request", {}))
    if earlier.target == request.target:
        raise CacheError(f"'{request.target}' was made from a recipe that is gone.", "", "mmbal prepare TABLE.csv")
    return resolve(earlier.updated(request), cache)


def _absolute(request: Request) -> Request:
    return replace(request, target=str(Path(request.target).absolute()))


def table_of(request: Request, recipe: DatasetRecipe) -> Path:
    """Path of the sample table; relative ones in a recipe start at --data-root, else at the recipe."""
    if recipe.source.generator:
        return generated_root(request, recipe) / "manifest.csv"
    assert recipe.source.manifest
    shipped = find_recipe("datasets", request.target)
    return Path(request.data_root or Path(shipped or request.target).parent) / recipe.source.manifest


def root_of(request: Request, recipe: DatasetRecipe) -> Path | None:
    """Folder of the media files where it is said; else it is that of the table."""
    root = request.root or recipe.source.root
    return table_of(request, recipe).parent / root if root else None


def generated_root(request: Request, recipe: DatasetRecipe) -> Path:
    """Folder of a generated data set."""
    return Path(request.data_root or Path("data", recipe.name).absolute())


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
            run(generated_root(request, recipe), on_progress=told, workers=workers, **options)
        except TypeError as error:
            raise RecipeError(f"--set source: {error}.", "Known: clips, seed.") from error


def _for_source(request: Request) -> list[str]:
    return [item for item in request.sets if item.startswith("source.")]


def _whole(name: str, value: str) -> int:
    if not value.isdecimal():
        raise RecipeError(f"--set source.{name}={value}.", "Expected a whole number.")
    return int(value)


def read_table(request: Request, recipe: DatasetRecipe) -> Manifest:
    """The checked manifest of a request."""
    return read_manifest(
        table_of(request, recipe),
        root_of(request, recipe),
        request.classes or recipe.classes,
        request.name or recipe.name,
        missing_ok=request.skip_bad,
    )


def choose_encoders(
    kinds: Mapping[str, str], request: Request, recipe: DatasetRecipe, device: str = "auto"
) -> dict[str, Encoder]:
    """One encoder a modality: --encoder, else the recipe's, else the shipped one of that kind."""
    for modality, entry in recipe.modalities.items():
        if kinds.get(modality) != entry.kind:
            raise RecipeError(
                f"The recipe has the modality '{modality}' of kind {entry.kind}.",
                f"The table has {', '.join(f'{kind}:{name}' for name, kind in kinds.items())}.",
            )
    named = dict(_pair(item, kinds) for item in request.encoders)
    sets = parse_sets([item for item in request.sets if item not in _for_source(request)], tuple(kinds))
    found = {}
    for modality, kind in kinds.items():
        own = recipe.modalities.get(modality)
        params: dict[str, Any] = {}
        if own and modality not in named:
            decoder = {key: getattr(own, key) for key in ("frames", "size", "sampling", "rate", "seconds")}
            params = {key: value for key, value in decoder.items() if value is not None}
            params |= {key: _typed(value) for key, value in own.params.items()}
        params |= {key: _typed(value) for key, value in sets[modality].items()}
        name = named.get(modality) or (own.encoder if own else None) or ""
        if name and name not in SHIPPED:
            params.setdefault("device", device)
        found[modality] = get_encoder(name, kind, **params)
    if device not in ("auto", "cpu") and not any("device" in encoder.params for encoder in found.values()):
        _check_device(device)
    return found


def _pair(item: str, kinds: Mapping[str, str]) -> tuple[str, str]:
    modality, equals, name = item.partition("=")
    if not equals or modality not in kinds:
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
