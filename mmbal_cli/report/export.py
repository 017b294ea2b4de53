"""Reports as text: terminal table, markdown, CSV in long format, JSON, and LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from mmbal_cli.report.tables import MARKS, Entry, Sheet, literal, natural_width, terminal

SUFFIXES = {".txt": "table", ".md": "md", ".csv": "csv", ".json": "json", ".tex": "latex"}
_TEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"},
    **{"±": r"$\pm$", "≈": r"$\approx$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "−": "$-$"},
    **{"†": r"$^\dagger$", "·": r"$\cdot$", "–": "--", "*": r"$^\ast$", "[": "{[}", "]": "{]}"},
}


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
    """One table a sheet; the best value is bold."""
    return "\n".join(_markdown(sheet) for sheet in sheets)


def latex(sheets: Sequence[Sheet]) -> str:
    """One table a sheet (needs booktabs); the best value is bold."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex(sheet) for sheet in sheets)


def csv_text(lines: Sequence[Sequence[Any]]) -> str:
    """Lines as CSV; unknown numbers are empty, control characters are escaped."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([literal(cell) if isinstance(cell, str) else cell for cell in line] for line in lines)
    return stream.getvalue()


def json_text(document: Any) -> str:
    """One JSON document in ASCII; numbers that are not finite become null."""
    return json.dumps(_finite(document), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _markdown(sheet: Sheet) -> str:
    def escaped(text: str) -> str:
        return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", literal(text))

    def cell(entry: Entry) -> str:
        value = escaped(entry.text) + (f" ± {entry.spread}" if entry.spread else "")
        if entry.mark == "best":
            return f"**{value}**"
        return f"{MARKS[entry.mark]} {value}" if entry.mark else value

    rows = [[cell(entry) for entry in row] for row in sheet.rows]
    rule = [":--" if i < sheet.left else "--:" for i in range(len(sheet.heads))]
    table = [[escaped(head) for head in sheet.heads], rule, *rows]
    notes = [f"- {escaped(_bold_best(note))}" for note in sheet.notes]
    caution = [f"**{escaped(sheet.caution)}**", ""] if sheet.caution else []
    body = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([f"### {escaped(sheet.title)}", "", *caution, *body, "", *notes, ""])


def _latex(sheet: Sheet) -> str:
    def escaped(text: str) -> str:
        return "".join(_TEX.get(c, c) for c in literal(text))

    def cell(entry: Entry) -> str:
        value = f"\\textbf{{{escaped(entry.text)}}}" if entry.mark == "best" else escaped(entry.text)
        mark = _TEX[MARKS[entry.mark]] + " " if entry.mark not in ("", "best") else ""
        return mark + value + (f" $\\pm$ {entry.spread}" if entry.spread else "")

    lines = [
        "\\begin{table}[t]",
        "\\centering",
        f"\\caption{{{escaped(' '.join(filter(None, (sheet.title + '.', sheet.caution))))}}}",
        f"\\begin{{tabular}}{{{'l' * sheet.left}{'r' * (len(sheet.heads) - sheet.left)}}}",
        "\\toprule",
        " & ".join(map(escaped, sheet.heads)) + " \\\\",
        "\\midrule",
    ]
    for i, row in enumerate(sheet.rows):
        lines += ["\\midrule"] if i in sheet.rules else []
        lines.append(" & ".join(map(cell, row)) + " \\\\")
    notes = escaped(_bold_best(" ".join(sheet.notes)))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", f"\\par\\footnotesize {notes}", "\\end{table}", ""])


def _bold_best(note: str) -> str:
    """The legend of the best value for formats that show it in bold."""
    return note.replace(f"{MARKS['best']} best", "bold: best")
