"""How the name of a method is resolved.

A name is one of the table, an entry point of the group `mmbal.methods`, or `path/to/file.py:Class`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from mmbal_cli.errors import UsageError, nearest
from mmbal_cli.methods.table import METHODS
from mmbal_cli.nn.fusion import ALIASES
from mmbal_cli.recipe import SuiteRow, canonical

if TYPE_CHECKING:
    from mmbal_cli.methods.base import Method

__all__ = ["ENTRY_POINTS", "METHODS", "known", "method_class", "with_every_method"]

ENTRY_POINTS = "mmbal.methods"


def known(name: str) -> str:
    """The table's name for `name` as typed (`OGM_GE`, `channel`), else `name` itself."""
    plain = canonical(name)
    plain = ALIASES.get(plain, plain)
    return plain if plain in METHODS else name


def with_every_method(rows: Iterable[SuiteRow]) -> list[SuiteRow]:
    """Rows of a suite, a row of method `*` replaced by one for each method of the table."""
    return [each for row in rows for each in (
        [row.model_copy(update={"method": name}) for name in METHODS] if row.method == "*" else [row]
    )]  # fmt: skip


def method_class(name: str) -> type[Method]:
    """The class of a method by name, entry point or `file.py:Class`; UsageError when there is none."""
    if name in METHODS:
        module, _, attribute = METHODS[name].path.partition(":")
        return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    if ".py:" in name:
        return _from_file(name)
    plugins = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name in plugins:
        return _checked(plugins[name].load(), name)
    raise UsageError(f"Unknown method '{name}'.", nearest(name, [*METHODS, *plugins]), "mmbal methods list")


def _from_file(name: str) -> type[Method]:
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"No method file at {path}.", "Expected path/to/file.py:Class.")
    spec = importlib.util.spec_from_file_location(f"mmbal_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not hasattr(module, attribute):
        names = [n for n, value in vars(module).items() if isinstance(value, type)]
        raise UsageError(f"{path} defines no class '{attribute}'.", nearest(attribute, names))
    return _checked(getattr(module, attribute), name)


def _checked(found: object, name: str) -> type[Method]:
    from mmbal_cli.methods.base import Method

    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UsageError(f"'{name}' is not a method class.", "Expected a subclass of mmbal_cli.methods.base.Method.")
    return found
