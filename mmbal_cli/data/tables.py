"""Sample tables on disk -> rows with line numbers: CSV, TSV and JSON lines.

Reads what spreadsheets and annotation tools really write: a byte-order mark, CRLF, quoted newlines,
blank last lines, semicolons as separator. Tab-separated files are read with quoting off, because tweet
lists hold lone quotation marks.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from mmbal_cli.errors import ManifestError

Row = tuple[int, dict[str, Any]]
FIELD_LIMIT = 16 << 20  # characters of one cell; the csv module's default of 128 Ki cuts long articles


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """Column names and `(line number, {column: value})` rows of a .csv, .tsv or .jsonl file.

    Values are strings (CSV, TSV) or JSON values. Raises ManifestError where the table itself is broken.
    """
    readers: dict[str, Callable[[Path, str], tuple[list[str], list[Row]]]] = {
        ".csv": _read_delimited,
        ".tsv": _read_delimited,
        ".jsonl": _read_json_lines,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ManifestError(f"{path} is not a sample table.", "Expected a .csv, .tsv or .jsonl file.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"Cannot read {path}: {error.strerror}.", "Expected a sample table.") from error
    columns, rows = reader(path, as_utf8(path, data))
    if not rows:
        raise ManifestError(f"{path} holds no samples.", "Expected one row a sample below the header.")
    return columns, rows


def as_utf8(path: Path, data: bytes) -> str:
    """The text of an annotation file without its byte order mark; ManifestError names the line that is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ManifestError(
            f"{path}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8.",
            "Sample tables and annotations are UTF-8 text.",
            "Save the file as UTF-8 (or fetch it again) and run the command again.",
        ) from error


def _read_delimited(path: Path, text: str) -> tuple[list[str], list[Row]]:
    records = list(_records(path, text))
    if not records:
        return [], []
    line, header = records[0]
    columns = [cell.strip() for cell in header]
    if any(not column for column in columns):
        raise ManifestError(f"{path}, line {line}: a column has no name.", f"Found the header {header}.")
    rows = []
    for line, cells in records[1:]:
        if len(cells) != len(columns):
            raise ManifestError(
                f"{path}, line {line}: {len(cells)} cells under {len(columns)} columns.",
                "A text with a separator in it needs quotation marks around it.",
            )
        rows.append((line, dict(zip(columns, cells, strict=True))))
    _refuse_twice(path, columns)
    return columns, rows


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    header = text.split("\n", 1)[0]
    tabbed = path.suffix.lower() == ".tsv"
    comma = "\t" if tabbed else ";" if header.count(";") > header.count(",") else ","
    quoting: Literal[0, 3] = csv.QUOTE_NONE if tabbed else csv.QUOTE_MINIMAL
    before = csv.field_size_limit(FIELD_LIMIT)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=comma, quoting=quoting, strict=True)
    first = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield first, cells
            first = reader.line_num + 1
    except csv.Error as error:
        raise ManifestError(f"{path}, line {first}: {error}.", "Expected well-formed cells.") from error
    finally:
        csv.field_size_limit(before)


def _read_json_lines(path: Path, text: str) -> tuple[list[str], list[Row]]:
    rows: list[Row] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=unique)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{path}, line {number}: {error}.", "Expected one JSON object a line.") from error
        if not isinstance(row, dict):
            raise ManifestError(f"{path}, line {number}: not an object.", "Expected one JSON object a line.")
        columns.update(dict.fromkeys(row))
        rows.append((number, row))
    return list(columns), rows


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key occurs twice")
    return row


def _refuse_twice(path: Path, columns: list[str]) -> None:
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise ManifestError(f"{path}: column '{twice[0]}' occurs twice.", "Each column has its own name.")
