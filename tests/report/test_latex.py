"""LaTeX tables: exact text, and real documents through pdflatex wherever it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mmbal_cli.report import export
from mmbal_cli.report.export_latex import GREEK, LONGEST, escaped
from mmbal_cli.report.literature import known_datasets, literature
from mmbal_cli.report.tables import Entry, Sheet

HOSTILE = (
    "[red]x\x1b[31m_$&%#{}~^|\\<b>`*\n\u009b",
    "αβγ ΩΣς άΈ ϕϵ µ ő Ł ß é ñ ü å ç İ ą đ ð þ",
    "漢字 😀 ＡＢ ½ x² H₂O ≤≥≠→ “quoted” ‘q’ «g» „u“ …–—",
    "-- --- '' `` ,, ?` !` << >> \" ''' \\\\ %% $$ ^^M ~",
    "[0] optional",
    "*",
    "e\u0301 a\u0308 ḁ̈ \ud800 \u202e",
    "\\input{/etc/passwd} \\end{tabular}",
    "",
)


def sheet(label: str = "method", columns: int = 2, rows: int = 3) -> Sheet:
    entries = [
        Entry("89.27", "0.72", "best", rank=1),
        Entry("88.60", "12.89", "tied", rank=2, remark="n=4"),
        Entry("–", style="dim"),
    ]
    return Sheet(
        f"{label}: title",
        [label, *(f"m{i}" for i in range(columns))],
        [[Entry(f"{label} {i}"), *[entries[i % 3]] * columns] for i in range(rows)],
        [f"{label}: note", "* best; ≈ not distinguishable from it."],
        f"{label}: caution",
        rules=frozenset({2, 30, 34, 90}),
        over=["", *["first"] * 2, *["second"] * (columns - 2)] if columns > 2 else (),
    )


def test_a_table_reads_exactly_so() -> None:
    lines = export.latex([sheet(columns=3)]).splitlines()
    assert lines[0] == r"% needs \usepackage{booktabs,graphicx}"
    assert r"\caption{method: title. \textbf{method: caution}}" in lines
    start = lines.index(r"\begin{tabular}{@{}lrrr@{}}")
    assert lines[start + 1 : start + 10] == [
        r"\toprule",
        r"\multicolumn{1}{c}{} & \multicolumn{2}{c}{first} & \multicolumn{1}{c}{second} \\",
        r"\cmidrule(lr){2-3}",
        r"\cmidrule(lr){4-4}",
        r"method & m0 & m1 & m2 \\",
        r"\midrule",
        " & ".join(["method 0", *[r"\textbf{89.27} $\pm$ 0.72\phantom{ {\scriptsize (n=4)}}"] * 3]) + r" \\",
        " & ".join(["method 1", *[r"$\approx$ \underline{88.60} $\pm$ 12.89 {\scriptsize (n=4)}"] * 3]) + r" \\",
        r"\midrule",
    ]
    assert r"\textendash{}\phantom{ $\pm$ 12.89}\phantom{ {\scriptsize (n=4)}}" in lines[start + 10]
    assert "bold: best, underlined: second; $\\approx$ not distinguishable" in lines[-2]


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("a_b & 50% of $x #1 {y}", r"a\_b \& 50\% of \$x \#1 \{y\}"),
        ("\\x1b ~ ^", r"\textbackslash{}x1b \textasciitilde{} \textasciicircum{}"),
        ("\x1b[0m", r"\textbackslash{}x1b{[}0m"),
        ("é ő ç e\u0301 ß Ł", r"\'{e} \H{o} \c{c} \'{e} \ss{} \L{}"),
        ("α Σ ς Α ο ά", r"$\alpha$ $\Sigma$ $\varsigma$ $\mathrm{A}$ $o$ $\alpha$"),
        ("x² H₂O ± ≈", r"x$^{2}$ H$_{2}$O $\pm$ $\approx$"),
        ("漢 😀", r"\textbackslash{}u6f22 \textbackslash{}U0001f600"),
        ("a--b---c – ''", r"a-{}-b-{}-{}-c \textendash{} '{}'{}"),
    ],
)
def test_text_is_escaped(text: str, tex: str) -> None:
    assert escaped(text) == tex


def test_everything_becomes_ascii_and_every_greek_letter_has_a_name() -> None:
    every = "".join(chr(c) for c in range(0x3000))
    assert escaped(every).isascii()
    small = [chr(c) for c in range(ord("α"), ord("ω") + 1)]
    assert len(small) == len(GREEK)
    assert all(re.fullmatch(r"\$(\\\w+|\\mathrm\{\w\}|o)\$", escaped(c)) for c in small + [c.upper() for c in small])


def test_long_tables_go_on_in_further_ones() -> None:
    long = sheet(rows=100)
    tex = export.latex([long])
    bodies = re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", tex, re.DOTALL)
    names = [re.findall(r"^method (\d+) &", body, re.MULTILINE) for body in bodies]
    assert [int(name) for part in names for name in part] == list(range(100))
    assert [len(part) for part in names] == [34, 36, 30]
    assert max(map(len, names)) <= LONGEST
    assert tex.count("(continued)") == 2
    assert tex.count("method: note") == 1


def compiled(folder: Path, tex: str, preamble: str) -> str:
    """The log of pdflatex (its lines are cut at 79 letters)."""
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("pdflatex is not on the PATH (Debian: texlive-latex-base and texlive-latex-recommended)")
    document = f"\\documentclass{{article}}\n{preamble}\n\\begin{{document}}\n{tex}\\end{{document}}\n"
    (folder / "doc.tex").write_text(document, encoding="utf-8")
    options = ["-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "-draftmode"]
    done = subprocess.run([program, *options, "doc.tex"], cwd=folder, capture_output=True, timeout=120)
    log = (folder / "doc.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, log[-3000:]
    return log


@pytest.mark.parametrize("encoding", ["", "\\usepackage[T1]{fontenc}"])
def test_hostile_labels_wide_and_long_tables_compile(tmp_path: Path, encoding: str) -> None:
    """Also one of every letter that a font could lack; nothing sticks out, whatever the font encoding is."""
    letters = [chr(c) for c in range(0xA0, 0x2400)]
    every = Sheet("all", ["a", "b"], [[Entry("".join(letters[i : i + 60])), Entry("1")] for i in range(0, 9000, 60)])
    sheets = [*map(sheet, HOSTILE), sheet(columns=30), sheet(rows=100), every]
    log = compiled(tmp_path, export.latex(sheets), encoding + "\\usepackage{booktabs,graphicx}")
    assert not re.findall(r"^(?:!|Overfull|Missing character|LaTeX Warning: Float too large).*", log, re.MULTILINE)


def test_published_tables_compile_in_two_columns(tmp_path: Path) -> None:
    """As in a paper: a narrow column, where long captions and notes must break."""
    sheets = [published.sheet() for published in literature(known_datasets())]
    log = compiled(tmp_path, "\\twocolumn\n" + export.latex(sheets), "\\usepackage{booktabs,graphicx}")
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([0-9.]+)pt", log)]
    assert max(wide, default=0) < 5
    assert "too large" not in log
