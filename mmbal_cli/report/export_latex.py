"""Sheets as LaTeX tables that compile with pdflatex in any font encoding, whatever the labels are.

The text is plain ASCII: letters with accents become accent commands, Greek letters and signs become mathematics,
and what has no command in plain LaTeX (Chinese, emoji) is shown as its escape, "\\u6f22". Only booktabs and
graphicx are needed; a table that is wider than the line is shrunk to it, a long one goes on in further tables.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mmbal_cli.report.tables import MARKS, Entry, Sheet, literal, reading, widest

HEAD = "% needs \\usepackage{booktabs,graphicx}\n"
LONGEST = 36  # rows of one table, so that a page holds it with its notes
CLOSE = 6  # with more columns they stand closer together
GREEK = (
    *("alpha", "beta", "gamma", "delta", "varepsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu"),
    *("nu", "xi", "o", "pi", "rho", "varsigma", "sigma", "tau", "upsilon", "varphi", "chi", "psi", "omega"),
)
COMBINING = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327"
ACCENTS = dict(zip(COMBINING, "`'^~=u." + '"rHvc', strict=True))
SIGNS = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": r"\`{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\char34{}", "*": r"$\ast$"},
    **{"[": "{[}", "]": "{]}", "\u2010": "-", "\u2013": r"\textendash{}", "\u2014": r"\textemdash{}"},
    **{"\u2018": r"\textquoteleft{}", "\u2019": r"\textquoteright{}", "\u201c": r"\textquotedblleft{}"},
    **{"\u201d": r"\textquotedblright{}", "\u201e": ",,", "\xab": r"$\ll$", "\xbb": r"$\gg$", "\u2026": r"\ldots{}"},
    **{"\u2039": r"\textless{}", "\u203a": r"\textgreater{}", "\xa1": r"\textexclamdown{}"},
    **{"\xbf": r"\textquestiondown{}", "\xa7": r"\S{}", "\xb6": r"\P{}", "\xa9": r"\copyright{}", "\xa3": r"\pounds{}"},
    **{"\xdf": r"\ss{}", "\xe6": r"\ae{}", "\xc6": r"\AE{}", "\u0153": r"\oe{}", "\u0152": r"\OE{}"},
    **{
        "\xf8": r"\o{}",
        "\xd8": r"\O{}",
        "\u0142": r"\l{}",
        "\u0141": r"\L{}",
        "\u0131": r"\i{}",
        "\u2022": r"$\bullet$",
    },
}
MATHS = {
    **{"±": r"\pm", "×": r"\times", "÷": r"\div", "−": "-", "·": r"\cdot", "°": r"^\circ", "†": r"^\dagger"},
    **{"‡": r"^\ddagger", "≈": r"\approx", "≠": r"\neq", "≤": r"\leq", "≥": r"\geq", "∞": r"\infty", "∈": r"\in"},
    **{"→": r"\rightarrow", "←": r"\leftarrow", "↑": r"\uparrow", "↓": r"\downarrow", "↔": r"\leftrightarrow"},
    **{"⇒": r"\Rightarrow", "∑": r"\sum", "∏": r"\prod", "√": r"\surd", "∂": r"\partial", "∇": r"\nabla"},
    **{"∅": r"\emptyset", "∪": r"\cup", "∩": r"\cap", "⊂": r"\subset", "¬": r"\neg", "µ": r"\mu", "ϵ": r"\epsilon"},
    **{"ϕ": r"\phi", "ϑ": r"\vartheta", "ϱ": r"\varrho", "ϖ": r"\varpi", "ℓ": r"\ell"},
}


def latex(sheets: Sequence[Sheet]) -> str:
    """One table a sheet (needs booktabs and graphicx); the best value is bold, the second underlined."""
    return HEAD + "\n".join(_latex(part) for sheet in sheets for part in _parts(sheet))


def escaped(text: str) -> str:
    """`text` so that LaTeX shows it literally, in ASCII."""
    shown = "".join(_sign(c) for c in unicodedata.normalize("NFC", literal(text)))
    return re.sub("([-,])(?=\\1)", r"\1{}", shown)  # two hyphens are not a dash, two commas no quote


def _sign(c: str) -> str:
    if c in SIGNS or (c.isascii() and c != "'"):
        return SIGNS.get(c, c)
    if c in MATHS:
        return f"${MATHS[c]}$"
    if c == "'":
        return "'{}"  # two of them are not one closing quote
    if greek := _greek(c):
        return greek
    kind, _, plain = unicodedata.decomposition(c).rpartition(">")
    parts = [chr(int(code, 16)) for code in plain.split()]
    if kind in ("<super", "<sub") and len(parts) == 1 and parts[0].isascii():
        return f"${'^' if kind == '<super' else '_'}{{{parts[0]}}}$"
    if not kind and len(parts) == 2 and parts[1] in ACCENTS and parts[0].isascii():
        return f"\\{ACCENTS[parts[1]]}{{{parts[0]}}}"
    return "".join(SIGNS.get(each, each) for each in c.encode("unicode_escape").decode())


def _greek(c: str) -> str:
    """A Greek letter in mathematics, its accents left out; "" for anything else."""
    base = unicodedata.normalize("NFD", c)[0]
    place = ord(base.lower()) - ord("α")
    if not 0 <= place < len(GREEK) or not ("α" <= base <= "ω" or "Α" <= base <= "Ω"):
        return ""
    name = GREEK[place]
    if base == base.lower():
        return f"$\\{name}$" if name != "o" else "$o$"
    same = dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧ", "ABEZHIKMNOPTX", strict=True))
    return f"$\\mathrm{{{same[base]}}}$" if base in same else f"$\\{name.removeprefix('var').capitalize()}$"


def _parts(sheet: Sheet) -> Iterator[Sheet]:
    """The sheet in tables of at most LONGEST rows, begun at a rule where there is one; the notes below the last."""
    start = 0
    while len(sheet.rows) - start > LONGEST:
        end = max((rule for rule in sheet.rules if start < rule <= start + LONGEST), default=start + LONGEST)
        yield _part(sheet, start, end)
        start = end
    yield _part(sheet, start, len(sheet.rows))


def _part(sheet: Sheet, start: int, end: int) -> Sheet:
    last = end == len(sheet.rows)
    return replace(
        sheet,
        title=sheet.title + (" (continued)" if start else ""),
        rows=sheet.rows[start:end],
        rules=frozenset(rule - start for rule in sheet.rules if start < rule < end),
        notes=reading(sheet) if last else ["Continued in the next table."],
        caution="" if start else sheet.caution,
    )


def _latex(sheet: Sheet) -> str:
    caution = f" \\textbf{{{escaped(sheet.caution)}}}" if sheet.caution else ""
    lines = [
        "\\begin{table}[tp]",
        "\\centering\\setlength{\\belowcaptionskip}{4pt}",
        f"\\caption{{{escaped(sheet.title)}.{caution}}}",
        "\\setlength{\\tabcolsep}{4pt}%" if len(sheet.heads) > CLOSE else "",
        "\\sbox0{%",
        f"\\begin{{tabular}}{{@{{}}{'l' * sheet.left}{'r' * (len(sheet.heads) - sheet.left)}@{{}}}}",
        "\\toprule",
        *_over(sheet),
        " & ".join(map(escaped, sheet.heads)) + " \\\\",
        "\\midrule",
    ]
    room = widest(sheet)
    for i, row in enumerate(sheet.rows):
        lines += ["\\midrule"] if i in sheet.rules else []
        lines.append(" & ".join(map(_cell, row, room)) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}}%"]
    lines.append("\\ifdim\\wd0>\\linewidth\\resizebox{\\linewidth}{!}{\\usebox0}\\else\\usebox0\\fi")
    notes = " ".join(map(escaped, sheet.notes))
    below = ["\\par\\smallskip", f"\\parbox{{\\linewidth}}{{\\footnotesize\\raggedright {notes}}}"] if notes else []
    return "\n".join([*filter(None, lines), *below, "\\end{table}", ""])


def _over(sheet: Sheet) -> Iterator[str]:
    """The line of upper heads with a rule below each."""
    if not sheet.spans:
        return
    yield " & ".join(f"\\multicolumn{{{n}}}{{c}}{{{escaped(text)}}}" for text, n in sheet.spans) + " \\\\"
    first = 1
    for text, n in sheet.spans:
        if text:
            yield f"\\cmidrule(lr){{{first}-{first + n - 1}}}"
        first += n


def _cell(entry: Entry, room: tuple[str, str]) -> str:
    """One field; without a spread or remark it keeps the `room` of the widest of its column."""
    value = escaped(entry.text)
    if entry.best:
        value = f"\\textbf{{{value}}}"
    elif entry.rank == 2:
        value = f"\\underline{{{value}}}"
    mark = escaped(MARKS[entry.mark]) + " " if entry.mark not in ("", "best") else ""
    spread = _or_room(f" $\\pm$ {escaped(entry.spread or room[0])}", entry.spread, room[0])
    remark = _or_room(f" {{\\scriptsize ({escaped(entry.remark or room[1])})}}", entry.remark, room[1])
    return mark + value + spread + remark


def _or_room(tex: str, own: str, room: str) -> str:
    return tex if own else f"\\phantom{{{tex}}}" if room else ""
