"""Tiny pretrained models, built once a session, and copies of models and data that a test may damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit import models

Make = Callable[[str], Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Folder of a tiny model of a family, built once; not to be changed by a test."""
    home = tmp_path_factory.mktemp("models")

    def get(family: str) -> Path:
        folder = home / family
        return folder if folder.is_dir() else models.make_model(family, folder)

    return get


@pytest.fixture
def copied(made: Make, tmp_path: Path) -> Make:
    """A copy of such a folder that a test may damage."""
    return lambda family: Path(shutil.copytree(made(family), tmp_path / family))


@pytest.fixture
def copy(lab: Path, tmp_path: Path) -> Path:
    """A copy of the small data set that a test may damage."""
    return shutil.copytree(lab, tmp_path / "copy")
