"""HTML of the report page: escaped text, tables of sheets, inline pictures, and the frame around them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mmbal_cli.report.export_html import CSS
from mmbal_cli.report.page_style import STYLE
from mmbal_cli.report.tables import literal

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def escape(text: object) -> str:
    """Any text as HTML: markup and quotes as entities, unprintable characters as their escapes."""
    return html.escape(literal(str(text)), quote=True)


def marked(text: str) -> str:
    """Text as HTML, with what stands between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def paragraph(*sentences: str, kind: str = "") -> str:
    """Sentences that are not empty as one paragraph."""
    text = " ".join(marked(each) for each in sentences if each)
    return f"<p{_class(kind)}>{text}</p>" if text else ""


def bullets(items: Iterable[str], kind: str = "") -> str:
    """A list of plain texts; nothing for none."""
    found = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul{_class(kind)}>{found}</ul>" if found else ""


def facts(pairs: Mapping[str, str | Sequence[str]]) -> str:
    """Terms and what they are here; several values stand below each other, empty ones are left out."""
    rows = []
    for term, given in pairs.items():
        values = [given] if isinstance(given, str) else list(given)
        if any(values):
            rows.append(f"<dt>{escape(term)}</dt>" + "".join(f"<dd>{escape(v)}</dd>" for v in values if v))
    return f"<dl>{''.join(rows)}</dl>" if rows else ""


def scrolling(inner: str, label: str) -> str:
    """What may be wider than the window scrolls in a region of its own, by keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{inner}</div>'


def grid(label: str, heads: Sequence[str], rows: Iterable[Sequence[str]], code: Sequence[int] = ()) -> str:
    """A plain table of texts; the columns `code` are names and digests. The first column heads its row."""
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = []
    for row in rows:
        cells = [f"<code>{escape(cell)}</code>" if i in code else escape(cell) for i, cell in enumerate(row)]
        body.append(
            f'<tr><th scope="row">{cells[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in cells[1:]) + "</tr>"
        )
    table = f'<table class="plain"><thead><tr>{top}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return scrolling(table, label)


def picture(svg: str, number: int, title: str, caption: str) -> str:
    """An `<svg>` element with its caption; what is too wide for a window scrolls."""
    return (
        f'<figure id="figure-{number}"><div class="plot" role="region" tabindex="0" aria-label="{escape(title)}">{svg}'
        f"</div><figcaption><b>Figure {number}.</b> {escape(caption)}</figcaption></figure>"
    )


@dataclass(frozen=True)
class Section:
    """One part of the page: its anchor, title and HTML; `missing` says why it could not be made."""

    key: str
    title: str
    body: str
    missing: str = ""


def frame(title: str, lead: str, sections: Sequence[Section], foot: str) -> str:
    """The whole document. `lead` is HTML below the title, `foot` a plain sentence at the end."""
    contents = "".join(
        f'<li><a href="#{s.key}">{escape(s.title)}</a>{" (not made)" if s.missing else ""}</li>' for s in sections
    )
    parts = []
    for s in sections:
        body = s.body + (paragraph(s.missing, kind="absent") if s.missing else "")
        parts.append(f'<section id="{s.key}" aria-labelledby="{s.key}-title"><h2 id="{s.key}-title">'
                     f"{escape(s.title)}</h2>{body}</section>")  # fmt: skip
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}{STYLE}</style>\n</head>\n<body>\n"
        f'<header><h1>{escape(title)}</h1>{lead}</header>\n<div class="columns">\n'
        f'<nav aria-label="Contents"><h2>Contents</h2><ol>{contents}</ol></nav>\n<main>\n'
        + "\n".join(parts)
        + f"\n</main>\n</div>\n<footer><p>{escape(foot)}</p></footer>\n</body>\n</html>\n"
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
