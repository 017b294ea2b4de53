"""The papers' values: every shipped recipe names a method, knobs that exist and settings that are valid."""

from __future__ import annotations

import pytest

from mmbal_cli.methods import METHODS, method_class
from mmbal_cli.recipe import TrainConfig, build, method_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names("methods"))
def test_a_recipe_fits_its_method(name: str) -> None:
    assert name in METHODS
    recipe, cls = method_recipe(name), method_class(name)
    assert recipe.name == name
    for special in ({}, *recipe.datasets.values()):
        knobs = {**recipe.knobs, **{key: value for key, value in special.items() if key != "train"}}
        cls.resolve(knobs)
        build(TrainConfig, {**recipe.train, **special.get("train", {})}, "train")
