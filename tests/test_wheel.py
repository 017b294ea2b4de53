"""The built wheel carries the recipes and works from any folder, in an environment that has never seen the source."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel in it; the heavy dependencies are borrowed, not downloaded again."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, cwd=folder)
    wheel = next(folder.glob("mmbal-*.whl"))
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    target = subprocess.run(
        [python, "-c", where],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, cwd=folder)
    (Path(target) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def call(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [folder / "env" / "bin" / "mmbal", *args], capture_output=True, text=True, cwd=elsewhere, env=clean
    )


def test_the_package_is_the_installed_one_and_has_its_recipes(installed: Path) -> None:
    python = installed / "env" / "bin" / "python"
    code = "import mmbal_cli, mmbal_cli.recipe as r; print(mmbal_cli.__file__); print(r.recipe_names('datasets'))"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    shown = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, cwd=installed, env=clean, check=True
    ).stdout
    assert str(installed) in shown
    assert "demo" in shown


def test_commands_work_from_any_folder(installed: Path) -> None:
    version = call(installed, "--version")
    assert version.returncode == 0, version.stderr
    assert "arl" in call(installed, "methods", "list").stdout
    assert "demo" in call(installed, "data", "list").stdout
    missing = call(installed, "train", "-m", "concat")
    assert missing.returncode == 3
    assert "mmbal prepare demo" in missing.stderr
