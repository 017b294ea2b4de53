"""Every known data set on its miniature: check, prepare, train, compare; every planted pitfall is reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from mmbal_cli.cli.checking import Report, examine
from mmbal_cli.cli.target import Request
from mmbal_cli.data.datasets import READERS, get_reader
from mmbal_cli.recipe import DatasetRecipe, dataset_recipe, find_recipe, recipe_names
from tests.kit.cli import invoke as run
from tests.kit.minis.common import Pitfall

Build = Callable[[Path], object]


def recipes() -> Iterator[DatasetRecipe]:
    for name in recipe_names("datasets"):
        path = find_recipe("datasets", name)
        assert path
        recipe = dataset_recipe(path)
        if recipe.source.reader:
            yield recipe


RECIPES = {recipe.name: recipe for recipe in recipes()}


def mini(name: str):
    return import_module(f"tests.kit.minis.{name.replace('-', '_')}")


def layouts() -> list[tuple[str, str, Build]]:
    return [
        (name, variant, build)
        for name in RECIPES
        for variant, build in {"usual": mini(name).build, **mini(name).VARIANTS}.items()
    ]


def pitfalls() -> list[tuple[str, Pitfall]]:
    return [(name, pitfall) for name in RECIPES for pitfall in mini(name).PITFALLS]


def words(value: object) -> str:
    return value if isinstance(value, str) else getattr(value, "name", "")


def checked(name: str, root: Path) -> Report:
    return examine(Request(name, data_root=str(root)), root.parent / "cache", workers=1)


def test_there_are_twelve_sets_and_each_reader_has_a_recipe() -> None:
    assert len(RECIPES) >= 12
    assert {recipe.source.reader for recipe in RECIPES.values()} == set(READERS)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_a_reader_wants_to_know(name: str) -> None:
    recipe = RECIPES[name]
    for fact in ("title", "task", "licence", "get", "cite", "layout"):
        assert getattr(recipe.about, fact), fact
    assert recipe.about.pitfalls
    assert recipe.classes
    assert recipe.modalities
    assert all(entry.encoder for entry in recipe.modalities.values())
    choices = get_reader(recipe.source.reader or "").OPTIONS
    assert all(value in choices[key] for key, value in recipe.source.options.items())


@pytest.mark.parametrize(
    ("name", "variant", "build"), layouts(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_clean_download_has_no_findings(tmp_path: Path, name: str, variant: str, build: Build) -> None:
    build(tmp_path / "raw")
    report = checked(name, tmp_path / "raw")
    assert report.findings == [], [str(problem) for problem in report.findings]
    assert len(report.complete) == len(report.manifest.samples) > 0
    assert report.manifest.kinds.keys() >= {m for m in RECIPES[name].modalities if not m.startswith("flow")}


@pytest.mark.parametrize(("name", "pitfall"), pitfalls(), ids=words)
def test_a_planted_pitfall_is_reported_with_file_and_reason(tmp_path: Path, name: str, pitfall: Pitfall) -> None:
    root = tmp_path / "raw"
    mini(name).build(root)
    pitfall.plant(root)
    report = checked(name, root)
    said = [(problem.rule, str(problem)) for problem in (*report.findings, *report.notes)]
    assert any(rule == pitfall.rule and pitfall.says in text for rule, text in said), said


@pytest.mark.parametrize("name", RECIPES)
def test_check_prepare_train_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    mini(name).build(tmp_path / "raw")
    report = json.loads(run("data", "check", name, "--data-root", "raw", "--format", "json").stdout)
    assert report["ok"]
    run("prepare", name, "--data-root", "raw")
    few = ("--set", "train.epochs=2", "--set", "train.width=8", "--seeds", "2", "--device", "cpu", "--jobs", "1")
    run("train", "--dataset", name, "--method", "concat,uniform", *few)
    table = json.loads(run("compare", *map(str, (tmp_path / "runs").iterdir()), "--format", "json").stdout)
    assert [row["label"] for row in table["blocks"][0]["rows"]] == ["concat", "uniform"]
    shown = json.loads(run("data", "show", name, "--format", "json").stdout)
    assert shown["counts"] == report["counts"]
    assert set(shown["modalities"]) == set(report["modalities"])
    assert "up to date" in run("prepare", name).stdout
