"""A small generated data set, tables of one's own, and how tests prepare them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmbal_cli.data.manifest import read_manifest
from mmbal_cli.encode import get_encoder
from mmbal_cli.encode.plan import Plan, plan
from mmbal_cli.encode.prepare import Outcome, prepare
from mmbal_cli.encode.work import Limit, Limits
from mmbal_cli.store.sets import read_arrays

CLIPS, CHUNK = 40, 5
ANY = Limits(Limit(share=1.0), Limit(share=1.0))
FEATURES = "*--*/**/*"


def planned(table: Path, cache: Path, only: Sequence[str] = (), **options: Any) -> Plan:
    """The plan of `table` with the shipped encoders, of all its modalities or `only` some."""
    manifest = read_manifest(table, missing_ok=options.pop("missing_ok", False), classes=options.pop("classes", None))
    params = options.pop("params", {})
    encoders = {
        m: get_encoder("", kind, **params.get(m, {})) for m, kind in manifest.kinds.items() if not only or m in only
    }
    return plan(manifest, encoders, cache, **{"chunk": CHUNK, **options})


def prepared(table: Path, cache: Path, limits: Limits | None = None, **options: Any) -> tuple[Outcome, dict[str, Any]]:
    """What `prepare` returns, and the arrays that it stored."""
    outcome = prepare(planned(table, cache, **options), limits=limits)
    return outcome, read_arrays(cache, outcome.prepared)


def table(tmp_path: Path, header: str, rows: Sequence[Sequence[object]], name: str = "t") -> Path:
    """A CSV table in `tmp_path`."""
    path = tmp_path / f"{name}.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header.split(","), *rows])
    return path
