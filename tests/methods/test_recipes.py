"""The papers' values: every shipped recipe names a method, knobs that exist and settings that are valid."""

from __future__ import annotations

import pytest

from mmbal_cli.methods import METHODS, method_class
from mmbal_cli.recipe import TrainConfig, build, dataset_recipe, find_recipe, method_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names("methods"))
def test_a_recipe_fits_its_method(name: str) -> None:
    assert name in METHODS
    recipe, cls = method_recipe(name), method_class(name)
    assert recipe.name == name
    for special in ({}, *recipe.datasets.values()):
        knobs = {**recipe.knobs, **{key: value for key, value in special.items() if key != "train"}}
        cls.resolve(knobs)
        build(TrainConfig, {**recipe.train, **special.get("train", {})}, "train")


def test_values_for_a_data_set_stand_under_its_own_name() -> None:
    """Under an alias they would never be used."""
    datasets = [dataset_recipe(path) for name in recipe_names("datasets") if (path := find_recipe("datasets", name))]
    aliases = {alias for dataset in datasets for alias in dataset.aliases}
    for name in recipe_names("methods"):
        assert not aliases & method_recipe(name).datasets.keys(), name
