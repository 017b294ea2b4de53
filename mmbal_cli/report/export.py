"""Reports as text: terminal table, markdown, CSV in long format, JSON, LaTeX (booktabs) and HTML."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from mmbal_cli.report.export_html import CSS, html_page, html_tables
from mmbal_cli.report.export_latex import latex
from mmbal_cli.report.tables import MARKS, Entry, Sheet, literal, natural_width, reading, terminal

__all__ = ["CSS", "SUFFIXES", "csv_text", "html_page", "html_tables", "json_text", "latex", "markdown", "plain"]
SUFFIXES = {
    **{".txt": "table", ".md": "md", ".csv": "csv", ".json": "json", ".tex": "latex"},
    **{".html": "html", ".htm": "html"},
}
FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"  # what a spreadsheet takes for the start of a formula


def plain(sheets: Sequence[Sheet]) -> str:
    """The terminal tables without colour, as wide as they need to be."""
    stream = io.StringIO()
    for sheet in sheets:
        width = max(natural_width(sheet), 100)
        console = Console(file=stream, width=width, color_system=None, force_terminal=False, legacy_windows=False)
        console.print(terminal(sheet, width))
        console.print()
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).rstrip() + "\n"


def markdown(sheets: Sequence[Sheet]) -> str:
    """One table a sheet; the best value is bold, the second underlined."""
    return "\n".join(_markdown(sheet) for sheet in sheets)


def csv_text(lines: Sequence[Sequence[Any]]) -> str:
    """Lines as CSV; unknown numbers are empty, control characters are escaped.

    A text that a spreadsheet would run as a formula (it begins with = + - @ and is no number) gets a leading '.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([_field(cell) if isinstance(cell, str) else cell for cell in line] for line in lines)
    return stream.getvalue()


def _field(text: str) -> str:
    text = literal(text)
    return f"'{text}" if text.lstrip()[:1] in FORMULA and text.strip() and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def json_text(document: Any) -> str:
    """One JSON document in ASCII; numbers that are not finite become null."""
    return json.dumps(_plain(document), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """`value` of what JSON knows: arrays become lists, numbers of numpy those of Python."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _markdown(sheet: Sheet) -> str:
    def escaped(text: str) -> str:
        return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", literal(text))

    def cell(entry: Entry) -> str:
        value = escaped(entry.text) + (f" ± {entry.spread}" if entry.spread else "")
        value += f" ({escaped(entry.remark)})" if entry.remark else ""
        if entry.best:
            value = f"**{value}**"
        elif entry.rank == 2:
            value = f"<u>{value}</u>"
        return f"{MARKS[entry.mark]} {value}" if entry.mark not in ("", "best") else value

    rows = [[cell(entry) for entry in row] for row in sheet.rows]
    rule = [":--" if i < sheet.left else "--:" for i in range(len(sheet.heads))]
    table = [[escaped(head) for head in sheet.names], rule, *rows]
    notes = [f"- {escaped(note)}" for note in reading(sheet)]
    caution = [f"**{escaped(sheet.caution)}**", ""] if sheet.caution else []
    body = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([f"### {escaped(sheet.title)}", "", *caution, *body, "", *notes, ""])
