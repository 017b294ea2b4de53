"""docs/exports.md names every field of real documents and every column of real lines."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmbal_cli.errors import EXIT_FINDINGS, EXIT_OK
from mmbal_cli.report.export import SUFFIXES
from mmbal_cli.report.export_latex import LONGEST
from mmbal_cli.report.metrics import METRICS
from mmbal_cli.report.probe import Row, Share
from mmbal_cli.report.replay import SeedDifference, Tolerance
from tests.kit.cli import Inside
from tests.kit.runs import write_run, write_study

PAGE = (Path(__file__).parents[2] / "docs" / "exports.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([a-z_]+)`", PAGE))
VALUES = {
    "modalities",
    "failed",
    "unreadable",
    "p",
    "holm",
    "comparisons",
    "settings",
    "counts",
    "columns",
    "smallest_p",
    "from",
    "alone",
    "classes",
    "references",
    "left_out",
}  # {name: value}


def fields(document: Any) -> Iterator[str]:
    """Names of all fields, but not keys that are names of runs, seeds, metrics, tests or modalities."""
    if isinstance(document, list):
        for each in document:
            yield from fields(each)
    if isinstance(document, dict):
        for key, value in document.items():
            if not key.isdigit() and key.partition("/")[0] not in METRICS:
                yield key
            if key not in VALUES:
                yield from fields(value)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_study(tmp_path / "runs", dataset="cremad")
    write_run(tmp_path / "runs", "arl", {"audio": 1.0}, dataset="cremad", split="two", failed={9: "diverged"})
    return tmp_path


def test_every_field_of_a_comparison_is_documented(study: Path, inside: Inside) -> None:
    options = ["--baseline", "concat", "--params", "--with-literature"]
    found = json.loads(inside("compare", *options, "-f", "json", cwd=study).stdout)
    assert set(fields(found)) - NAMED == set()
    assert {"literature", "baseline", "settings", "plus_minus", "warnings"} <= set(fields(found))
    columns = next(csv.reader(io.StringIO(inside("compare", "-f", "csv", cwd=study).stdout)))
    assert set(columns) - NAMED == set()


def test_every_field_of_an_evaluation_is_documented(study: Path, inside: Inside) -> None:
    run = next(path.name for path in (study / "runs").iterdir() if "concat" in path.name)
    found = json.loads(inside("eval", run, "-f", "json", cwd=study).stdout)
    assert (found["schema"], found["report"]) == (1, "eval")
    assert set(fields(found)) - NAMED == set()
    columns = next(csv.reader(io.StringIO(inside("eval", run, "-f", "csv", cwd=study).stdout)))
    assert set(columns) - NAMED == set()


REPORTS = {
    "plan": (["plan", "cremad", "--samples", "100"], EXIT_OK),
    "audit": (["audit"], EXIT_OK),
    "card": (["report", "card", "--no-fresh"], EXIT_OK),
    "robustness": (["report", "robustness"], EXIT_FINDINGS),  # there are no features
    "calibration": (["report", "calibration"], EXIT_OK),
    "dynamics": (["report", "dynamics"], EXIT_OK),
}


@pytest.mark.parametrize("report", REPORTS)
def test_every_field_of_the_other_reports_is_documented(study: Path, inside: Inside, report: str) -> None:
    words, code = REPORTS[report]
    found = json.loads(inside(*words, "-f", "json", cwd=study, code=code).stdout)
    assert (found["schema"], found["report"]) == (1, report)
    assert set(fields(found)) - NAMED == set()
    columns = next(csv.reader(io.StringIO(inside(*words, "-f", "csv", cwd=study, code=code).stdout)))
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {report} |"))
    assert (
        list(dict.fromkeys(name.partition("/")[0] for name in columns))
        == re.findall(r"`([a-z_]+)`", line)[: len(columns)]
    )


def test_every_field_of_an_explanation_is_documented(study: Path, inside: Inside) -> None:
    run = next(path.name for path in (study / "runs").iterdir() if "concat" in path.name)
    found = json.loads(inside("explain", run, "-f", "json", cwd=study).stdout)
    assert found["report"] == "explain"
    assert {key for each in found["findings"] for key in each} | set(found) <= NAMED


@pytest.mark.parametrize("part", [SeedDifference, Tolerance, Row, Share])
def test_every_field_of_what_needs_a_model_is_documented(part: Any) -> None:
    names = part._fields if hasattr(part, "_fields") else [each.name for each in dataclasses.fields(part)]
    assert set(names) - set(re.findall(r"`([a-zA-Z_]+)`", PAGE)) == set()


def test_what_the_page_says_of_formats_is_so() -> None:
    assert all(suffix in PAGE for suffix in SUFFIXES)
    assert f"more than {LONGEST} rows" in PAGE
