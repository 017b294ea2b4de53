"""Recipes: YAML -> frozen typed models; an unknown key is refused with the nearest valid one.

YAML's own guesses are not trusted (`1e-3` is a string, `010` is 8, `no` is False, a duplicate key silently
wins): every scalar is read as text and converted by the type that the model declares. Size, alias and node
limits keep a hostile file from costing memory.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mmbal_cli.errors import RecipeError, UsageError, nearest

MAX_BYTES, MAX_NODES = 1 << 20, 20_000
Kind = Literal["video", "audio", "image", "text", "vector"]
Lines = dict[tuple[str, ...], int]


class Frozen(BaseModel):
    """Base of every recipe model: immutable, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _none(value: Any) -> Any:
    return None if isinstance(value, str) and value.lower() in {"", "null", "none", "~"} else value


OptionalFloat = Annotated[float | None, BeforeValidator(_none)]


class TrainConfig(Frozen):
    """Everything about training that is not the method's own; shared by all methods of one table."""

    epochs: int = Field(100, ge=1, le=100_000, description="passes over the training split")
    batch: int = Field(64, ge=1, description="samples a step, for each seed")
    lr: float = Field(1e-2, gt=0, le=10, description="initial learning rate")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd (with momentum) or adamw")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay (on every parameter, as the papers do)")
    schedule: Literal["step", "cosine", "constant"] = Field("step", description="learning rate over the epochs")
    step_at: float = Field(0.7, gt=0, le=1, description="share of the epochs after which `step` decays once")
    step_factor: float = Field(0.1, gt=0, le=1, description="factor of that decay")
    width: int = Field(256, ge=1, le=65_536, description="adapter width D")
    depth: int = Field(2, ge=1, le=8, description="layers of each adapter")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout inside the adapters")
    temporal: Literal["attention", "mean"] = Field("attention", description="pooling over T of [N,T,F] features")
    standardise: bool = Field(True, description="scale features by mean and deviation of the training split")
    clip: OptionalFloat = Field(None, gt=0, description="bound on each seed's gradient norm; none = off")
    select: Literal["accuracy", "nll"] = Field("accuracy", description="validation figure that picks the epoch")
    dtype: Literal["float32", "float64"] = Field("float32", description="precision of training")


class Expected(Frozen):
    """What is usual of the files of one modality; `mmbal data check` reports what is outside."""

    seconds: tuple[float, float] | None = None
    size: int | None = Field(None, ge=1, description="least pixels a side")


class ModalityRecipe(Frozen):
    """How one modality is decoded and encoded; unset values are the encoder's own.

    `encoder` needs no download; `pretrained` are those to take instead, by --pretrained (the first) or by name.
    """

    kind: Kind
    encoder: str | None = None
    pretrained: list[str] = Field(default_factory=list)
    frames: int | None = Field(None, ge=1, le=1024)
    size: int | None = Field(None, ge=8, le=2048)
    sampling: str | None = None
    fps: float | None = Field(None, gt=0)
    folder_fps: float | None = Field(None, gt=0)
    show: str | None = None
    rate: int | None = Field(None, ge=1000, le=192_000)
    seconds: float | None = Field(None, gt=0)
    window: float | None = Field(None, ge=0)
    hop: float | None = Field(None, ge=0)
    windows: int | None = Field(None, ge=0)
    params: dict[str, Any] = Field(default_factory=dict)
    expect: Expected = Expected()

    def settings(self, encoder: str) -> dict[str, Any]:
        """Decoder settings that are set; the numbers that fit the shipped encoder only are left to any other."""
        own = ("frames", "size", "rate", "seconds") if encoder == (self.encoder or "") else ("frames",)
        names = (*own, "sampling", "fps", "folder_fps", "show", "window", "hop", "windows")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Source(Frozen):
    """Where samples come from, one of: an embedded generator, the reader of a known data set with its options, a
    manifest file below a root folder, a file or folder of arrays."""

    generator: str | None = None
    reader: str | None = None
    options: dict[str, str] = Field(default_factory=dict)
    manifest: str | None = None
    root: str | None = None
    arrays: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Source:
        if sum(way is not None for way in (self.generator, self.reader, self.manifest, self.arrays)) != 1:
            raise ValueError("source needs exactly one of 'generator', 'reader', 'manifest' and 'arrays'")
        return self


class About(Frozen):
    """What a reader of the recipe wants to know; `layout` shows every accepted layout as a tree."""

    title: str = ""
    task: str = ""
    modality_notes: str = ""
    label_order: str = ""
    licence: str = ""
    get: str = ""
    size: str = ""
    cite: str = ""
    layout: str = ""
    pitfalls: list[str] = Field(default_factory=list)


class PublishedSplit(Frozen):
    """A split of the literature: samples of each part, and the digest of (id, split, class index) of its list."""

    counts: dict[str, int]
    hash: str = Field("", pattern="^([0-9a-f]{64})?$")
    source: str = ""


class DatasetRecipe(Frozen):
    """One data set: source, label order, modalities with their encoders, training values that suit it.

    `splits` are the published ones; `group` says in a word what a group is; `duplicates: keep` that the published split
    has the same files in two parts, which is then reported and not refused.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    aliases: list[str] = Field(default_factory=list)
    source: Source
    classes: list[str] | None = None
    about: About = About()
    splits: dict[str, PublishedSplit] = Field(default_factory=dict)
    group: str = Field("", pattern=r"^([a-z][a-z0-9-]*)?$")
    duplicates: Literal["refuse", "keep"] = "refuse"
    modalities: dict[str, ModalityRecipe] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    note: str = ""

    @model_validator(mode="after")
    def _train_is_typed(self) -> DatasetRecipe:
        build(TrainConfig, self.train, "train")
        return self


class MethodRecipe(Frozen):
    """Values of a method's paper: for all data sets, and for single ones; knobs and training settings."""

    name: str
    knobs: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    datasets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    note: str = ""


class SuiteRow(Frozen):
    """One row of a table: a method and what differs from its defaults; each value of `tune` is a candidate.

    Keys of `tune` are knobs, or `train.` and a training setting.
    """

    method: str = Field(pattern=r"^[^,]+$")
    label: str = Field("", max_length=80)
    fusion: str | None = None
    knobs: dict[str, str] = Field(default_factory=dict)
    train: dict[str, str] = Field(default_factory=dict)
    tune: dict[str, Annotated[list[str], Field(min_length=2)]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value

    def candidates(self) -> list[dict[str, str]]:
        """Values of every candidate in the order of the grid; none where nothing is tuned."""
        return [dict(zip(self.tune, values, strict=True)) for values in product(*self.tune.values())] * bool(self.tune)


class SuiteRecipe(Frozen):
    """A whole table: its rows in their order. Tuned rows have equally many candidates."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    note: str = ""
    rows: list[SuiteRow] = Field(min_length=1)

    @property
    def budget(self) -> int:
        """Candidates of each tuned row; 0 where no row is tuned."""
        return max(len(row.candidates()) for row in self.rows)


# --------------------------------------------------------------------------------------------- YAML


def load_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """Read a YAML mapping as nested dicts, lists and *strings*, with the line of every key."""
    if not path.is_file():
        raise RecipeError(f"No recipe file at {path}.", "Expected a YAML file.")
    if path.stat().st_size > MAX_BYTES:
        raise RecipeError(f"{path} has {path.stat().st_size} bytes.", f"A recipe has at most {MAX_BYTES}.")
    lines: Lines = {}
    budget = [MAX_NODES]

    def construct(node: yaml.Node, at: tuple[str, ...]) -> Any:
        budget[0] -= 1
        if budget[0] < 0:
            raise RecipeError(f"{path}: more than {MAX_NODES} values (aliases count each time).")
        if isinstance(node, yaml.ScalarNode):
            return node.value
        if isinstance(node, yaml.SequenceNode):
            lines.update({(*at, str(i)): child.start_mark.line + 1 for i, child in enumerate(node.value)})
            return [construct(child, (*at, str(i))) for i, child in enumerate(node.value)]
        table: dict[str, Any] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{path}:{line}: a key must be a plain name.")
            if key.value in table:
                raise RecipeError(f"{path}:{line}: duplicate key '{key.value}'.", "Each key once.")
            lines[(*at, key.value)] = line
            table[key.value] = construct(child, (*at, key.value))
        return table

    try:
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
        _refuse_tags(root, path)
        document = construct(root, ()) if root is not None else {}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as problem:
        first = " ".join(str(problem).split())[:300]
        raise RecipeError(f"{path} is not valid YAML: {first}") from None
    if not isinstance(document, dict):
        raise RecipeError(f"{path} holds no mapping.", "Expected `key: value` lines.")
    return document, lines


def _refuse_tags(root: yaml.Node | None, path: Path) -> None:
    """An explicit tag (`!!python/...`) asks for an object; no recipe needs one."""
    seen: set[int] = set()
    stack = [root] if root is not None else []
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
            raise RecipeError(f"{path}:{node.start_mark.line + 1}: tag '{node.tag}' is not allowed.")
        if isinstance(node, yaml.MappingNode):
            stack += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value


T = TypeVar("T", bound=BaseModel)


def build(model: type[T], values: dict[str, Any], where: str, lines: Lines | None = None) -> T:
    """Validate `values` as `model`; the first problem becomes a RecipeError with place and nearest key."""
    try:
        return model.model_validate(values)
    except ValidationError as problems:
        problem = problems.errors()[0]
        at = tuple(str(part) for part in problem["loc"])
        line = next((lines[at[:n]] for n in range(len(at), 0, -1) if at[:n] in lines), None) if lines else None
        place = f"{where}:{line}" if line else where
        if problem["type"] == "extra_forbidden":
            known = _fields_at(model, at[:-1])
            raise RecipeError(f"{place}: unknown key '{'.'.join(at)}'.", nearest(at[-1], known)) from None
        cause = (problem.get("ctx") or {}).get("error")
        if isinstance(cause, RecipeError):
            raise cause from None
        got = "" if problem["type"] == "missing" else f" Found {problem['input']!r}."
        raise RecipeError(f"{place}: '{'.'.join(at)}': {problem['msg']}.{got}") from None


def _fields_at(model: type[BaseModel], at: tuple[str, ...]) -> list[str]:
    if not at:
        return list(model.model_fields)
    annotation = model.model_fields[at[0]].annotation if at[0] in model.model_fields else None
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            rest = at[1:] if candidate is annotation else at[2:]
            return _fields_at(candidate, rest)
    return []


# --------------------------------------------------------------------------------- finding recipes

RecipeKind = Literal["datasets", "methods", "suites"]


@cache
def recipe_folder() -> Path:
    """`recipes/` beside the package in a source tree, `_recipes/` inside an installed wheel."""
    package = Path(__file__).parent
    bundled = package / "_recipes"
    return bundled if bundled.is_dir() else package.parent / "recipes"


def recipe_names(kind: RecipeKind) -> list[str]:
    """Names of the shipped recipes of one kind."""
    return sorted(path.stem for path in (recipe_folder() / kind).glob("*.yaml"))


def find_recipe(kind: RecipeKind, name: str) -> Path | None:
    """Path of a shipped recipe, or None; names are matched without regard to case and underscores."""
    wanted = canonical(name)
    paths = [recipe_folder() / kind / f"{n}.yaml" for n in recipe_names(kind)]
    named = next((path for path in paths if canonical(path.stem) == wanted), None)
    if named or kind != "datasets":
        return named
    return next((path for path in paths if wanted in map(canonical, dataset_recipe(path).aliases)), None)


def canonical(name: str) -> str:
    """Names are tolerant on input (`OGM_GE`), canonical on output (`ogm-ge`)."""
    return name.strip().lower().replace("_", "-")


def dataset_recipe(path: Path) -> DatasetRecipe:
    """Load one data set recipe."""
    values, lines = load_yaml(path)
    return build(DatasetRecipe, values, str(path), lines)


def method_recipe(name: str) -> MethodRecipe:
    """The shipped recipe of a method, empty when there is none."""
    path = find_recipe("methods", name)
    if path is None:
        return MethodRecipe(name=name)
    values, lines = load_yaml(path)
    return build(MethodRecipe, values, str(path), lines)


def suite_recipe(name: str) -> SuiteRecipe:
    """A shipped suite by name, or the suite in a YAML file."""
    path = Path(name) if Path(name).suffix.lower() in {".yaml", ".yml"} else find_recipe("suites", name)
    if path is None:
        raise UsageError(f"There is no suite '{name}'.", nearest(name, recipe_names("suites")), "mmbal suite list")
    values, lines = load_yaml(path)
    suite = build(SuiteRecipe, values, str(path), lines)
    sizes = [(row.label or row.method, len(row.candidates())) for row in suite.rows if row.tune]
    if len({size for _, size in sizes}) > 1:
        listed = ", ".join(f"{label} {size}" for label, size in sizes)
        raise RecipeError(f"{path}: tuned rows have different numbers of candidates: {listed}.",
                          "Every tuned row of a suite gets the same budget.")  # fmt: skip
    return suite


def parse_sets(items: list[str], sections: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """`["train.lr=1e-3"]` -> {"train": {"lr": "1e-3"}}; a later item wins; unknown sections are refused."""
    tables: dict[str, dict[str, str]] = {section: {} for section in sections}
    for item in items:
        key, equals, value = item.partition("=")
        section, dot, name = key.strip().partition(".")
        if not equals or not dot or not name:
            raise RecipeError(f"--set {item!r} is not of the form section.key=value.", "Example: --set train.lr=1e-3")
        if section not in tables:
            raise RecipeError(f"--set {item!r}: unknown section '{section}'.", nearest(section, sections))
        tables[section][name] = value.strip()
    return tables
