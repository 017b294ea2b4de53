"""Published split lists under a free licence, shipped so that no second repository is needed. SOURCE.md says whose."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from mmbal_cli.data.problems import Problem, some

SHIPPED = "the published list shipped with mmbal"
SHOWN = 3


@cache
def shipped(name: str) -> tuple[dict[str, str], ...]:
    """Rows of a shipped list by column name, in file order; the first one is on line 2."""
    text = gzip.decompress((Path(__file__).parent / f"{name}.csv.gz").read_bytes()).decode("utf-8")
    header, *rows = (line.split(",") for line in text.splitlines())
    return tuple(dict(zip(header, row, strict=True)) for row in rows)


def unlisted(what: str, files: Mapping[str, str], used: Iterable[str]) -> list[Problem]:
    """One warning for the files that no list names; `files` maps names to paths."""
    extra = [files[name] for name in sorted(files.keys() - set(used))]
    if not extra:
        return []
    return [Problem("warning", "unlisted-file", f"{what}: {len(extra)} in no list: {some(extra, SHOWN)}")]
