"""Sheets as HTML: fragments for the report page, and a page of its own; no scripts, nothing from the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from mmbal_cli.report.tables import MARKS, Entry, Sheet, literal, reading, widest

MEANING = {
    "tied": "not distinguishable from the best",
    "below": "distinguishably below",
    "above": "distinguishably above",
}
STYLES = ("dim", "bold", "cyan", "yellow", "red", "green")
LONG = 40  # letters of a text that may be broken
CSS = """\
.sheet{--ink:#1a1a1a;--soft:#5c5c5c;--line:#c9c9c9;--warn:#8a4b00;--good:#1b6e2d;--bad:#a3261b;--name:#0b5e8a;
margin:0 0 2.5rem;color:var(--ink);font:15px/1.45 system-ui,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}
.sheet .scroll{overflow-x:auto}
.sheet table{border-collapse:collapse;border-top:2px solid var(--ink);border-bottom:2px solid var(--ink);
font-variant-numeric:tabular-nums}
.sheet caption{text-align:left;font-weight:600;font-size:1.1em;padding:0 0 .5em}
.sheet th,.sheet td{padding:.25em .8em;text-align:right;font-weight:400;white-space:nowrap}
.sheet thead th{font-weight:600;vertical-align:bottom;border-bottom:1px solid var(--ink)}
.sheet thead th[colspan]{text-align:center;border-bottom:1px solid var(--line)}
.sheet .text{text-align:left}
.sheet .long{white-space:normal;overflow-wrap:anywhere;min-width:18em}
.sheet tbody+tbody tr:first-child>*{border-top:1px solid var(--line)}
.sheet .sd{display:inline-block;text-align:right;color:var(--soft)}
.sheet .remark{display:inline-block;text-align:left;color:var(--warn);font-size:.85em;white-space:pre}
.sheet .caution{color:var(--warn);font-weight:600;max-width:60em;margin:0 0 .5em}
.sheet .notes{color:var(--soft);font-size:.87em;max-width:70em;margin:.6em 0 0;padding-left:1.2em}
.sheet strong,.sheet .bold{font-weight:700}
.sheet u{text-underline-offset:.2em}
.sheet .mark{padding-right:.3em;text-decoration:none;cursor:help}
.sheet .dim,.sheet .tied{color:var(--soft)}.sheet .cyan{color:var(--name)}.sheet .yellow{color:var(--warn)}
.sheet .red,.sheet .below{color:var(--bad)}.sheet .green,.sheet .above{color:var(--good)}
@media (prefers-color-scheme:dark){.sheet{--ink:#ececec;--soft:#a8a8a8;--line:#4a4a4a;--warn:#f0b35b;--good:#7fd191;
--bad:#ff9a8d;--name:#7cc7ef}}
@media print{.sheet{--ink:#000;--soft:#444;--line:#999;--warn:#5e3300;--good:#0b4d1a;--bad:#7d1710;--name:#043d5c;
font-size:8.5pt}.sheet .scroll{overflow:visible}.sheet th,.sheet td{padding:.15em .4em}.sheet tr{break-inside:avoid}
.sheet caption,.sheet .caution,.sheet thead{break-after:avoid}}
"""
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body{{margin:2rem auto;padding:0 1.5rem;max-width:90rem;background:#fff}}
@media (prefers-color-scheme:dark){{body{{background:#16181a}}}}
@media print{{body{{margin:0;padding:0;background:#fff}}}}
{css}</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"""


def html_page(sheets: Sequence[Sheet]) -> str:
    """One self-contained page with all sheets, named after the first."""
    title = _text(sheets[0].title) if sheets else "mmbal"
    return PAGE.format(title=title, css=CSS, body=html_tables(sheets))


def html_tables(sheets: Sequence[Sheet]) -> str:
    """A `<section class="sheet">` for each sheet; `CSS` is their style. The best is bold, the second underlined."""
    return "".join(line + "\n" for sheet in sheets for line in _section(sheet))


def _text(text: str) -> str:
    return escape(literal(text))


def _section(sheet: Sheet) -> Iterator[str]:
    yield '<section class="sheet">'
    if sheet.caution:
        yield f'<p class="caution" role="note">{_text(sheet.caution)}</p>'
    yield f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(sheet.title)}"><table>'
    yield f"<caption>{_text(sheet.title)}</caption>"
    yield "<thead>"
    if sheet.spans:
        over = (f'<th scope="colgroup" colspan="{n}">{_text(text)}</th>' if text else "<td></td>" * n
                for text, n in sheet.spans)  # fmt: skip
        yield f"<tr>{''.join(over)}</tr>"
    heads = (f'<th scope="col"{_class(i, sheet)}>{_text(head)}</th>' for i, head in enumerate(sheet.heads))
    yield f"<tr>{''.join(heads)}</tr>"
    yield "</thead>"
    yield "<tbody>"
    room = widest(sheet)
    for number, row in enumerate(sheet.rows):
        if number in sheet.rules and number:
            yield "</tbody>\n<tbody>"
        yield f"<tr>{''.join(_cell(entry, i, sheet, *room[i]) for i, entry in enumerate(row))}</tr>"
    yield "</tbody>"
    yield "</table></div>"
    if notes := reading(sheet):
        yield f'<ul class="notes">{"".join(f"<li>{_text(note)}</li>" for note in notes)}</ul>'
    yield "</section>"


def _class(column: int, sheet: Sheet, *more: str) -> str:
    names = [*(["text"] if column < sheet.left else []), *more]
    return f' class="{" ".join(names)}"' if names else ""


def _cell(entry: Entry, column: int, sheet: Sheet, spread: str, remark: str) -> str:
    """A row header for a text that names the row, else a field; numbers keep room for the widest spread and remark."""
    styles = [word for word in entry.style.split() if word in STYLES]
    value = _text(entry.text)
    if entry.best:
        value = f"<strong>{value}</strong>"
    elif entry.rank == 2:
        value = f"<u>{value}</u>"
    if column < sheet.left:
        if not entry.text:
            return "<td></td>"
        styles += ["long"] if len(entry.text) > LONG else []
        return f'<th scope="row"{_class(column, sheet, *styles)}>{value}</th>'
    if meaning := MEANING.get(entry.mark):
        value = f'<abbr class="mark {entry.mark}" title="{meaning}">{MARKS[entry.mark]}</abbr>{value}'
    if spread:
        text = f"\xa0±\xa0{_text(entry.spread)}" if entry.spread else ""
        value += f'<span class="sd" style="min-width:{len(spread) + 2}ch">{text}</span>'
    if remark:
        text = f" ({_text(entry.remark)})" if entry.remark else ""
        value += f'<span class="remark" style="min-width:{len(remark) + 2}ch">{text}</span>'
    return f"<td{_class(column, sheet, *styles)}>{value}</td>"
