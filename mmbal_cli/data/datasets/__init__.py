"""Data sets that the program knows: generators that make one, readers that understand a download.

Tables of plain names: a module is imported when its data set is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType

from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Folder, NoLayout, Raw, chosen, listed_hash
from mmbal_cli.errors import ManifestError, RecipeError, UsageError, nearest
from mmbal_cli.recipe import DatasetRecipe

GENERATORS: dict[str, tuple[str, str]] = {
    "demo": (
        "mmbal_cli.data.datasets.demo",
        "an imbalance laboratory: generated clips with sound and captions, stated best accuracies",
    ),
}
READERS = (
    "ave",
    "avmnist",
    "cremad",
    "food101",
    "iemocap",
    "kinetics_sounds",
    "mmsa",
    "mvsa",
    "nvgesture",
    "sarcasm",
    "twitter",
    "ucf101",
    "vectors",
)


def get_generator(name: str) -> Callable[..., Path]:
    """`generate(root, ...) -> manifest path` of a data set; UsageError with the nearest name."""
    if name not in GENERATORS:
        raise UsageError(f"No generator is called '{name}'.", nearest(name, GENERATORS))
    generate: Callable[..., Path] = import_module(GENERATORS[name][0]).generate
    return generate


def get_reader(name: str) -> ModuleType:
    """The module with `OPTIONS` and `read`; RecipeError with the nearest name."""
    if name not in READERS:
        raise RecipeError(f"No reader is called '{name}'.", nearest(name, READERS))
    return import_module(f"mmbal_cli.data.datasets.{name}")


def read_folder(recipe: DatasetRecipe, root: Path, options: Mapping[str, str]) -> Raw:
    """What the recipe's reader finds below `root`; ManifestError that shows the accepted layouts when it is none."""
    reader = get_reader(recipe.source.reader or "")
    values = chosen(reader.OPTIONS, options, recipe.name)
    layouts = f"Accepted below --data-root:\n{recipe.about.layout.rstrip()}"
    get = f"mmbal prepare {recipe.name} --data-root DIR" + f"   ({recipe.about.get})" * bool(recipe.about.get)
    if not root.is_dir():
        raise ManifestError(f"{recipe.name}: the folder {root} does not exist.", layouts, get)
    try:
        raw: Raw = reader.read(Folder(root), values)
    except NoLayout as found:
        raise ManifestError(f"{recipe.name}: {root} is not laid out as this data set: {found}", layouts, get) from None
    if not raw.rows and not any(problem.severity == "error" for problem in raw.problems):
        raise ManifestError(f"{recipe.name}: {raw.lists} below {root} name no sample.", layouts, get)
    return raw


def recognise(raw: Raw, recipe: DatasetRecipe) -> None:
    """Note in `raw` which published split this is, or how its counts differ from them; a match becomes its `lists`."""
    counts = dict(Counter(row["split"] for _, row in raw.rows))
    digest = listed_hash(raw.rows, raw.classes or recipe.classes or ())
    found = f"{raw.layout}; {raw.lists}: {_counted(counts)}"
    same = [name for name, split in recipe.splits.items() if split.hash == digest]
    alike = [name for name, split in recipe.splits.items() if split.counts == counts]
    known = "; ".join(f"{name} has {_counted(split.counts)}" for name, split in recipe.splits.items())
    rule, what = "split", f"the published split '{same[0]}'" if same else f"the counts of '{alike[0]}'" if alike else ""
    if not what:
        rule, what = "count", f"no published split ({known or 'none is known'})"
    raw.problems.append(Problem("warning", rule, f"{found}: {what}, hash {digest[:16]}"))
    if same:
        raw.lists = f"the published split '{same[0]}'"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {part}" for part, count in counts.items())
