"""HTML tables: well-formed, escaped, readable by a screen reader, without scripts and without the network."""

from __future__ import annotations

from html.parser import HTMLParser

from mmbal_cli.report import export
from mmbal_cli.report.tables import Entry, Sheet

HOSTILE = "<script>alert(1)</script>\"'&amp;<b onclick=x>\x1b[31m\u202e</title></style>-->"
VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Elements as (tag, attributes, text), checked for balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[int] = []
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.elements[place][2].append(data)

    def texts(self, tag: str, **attributes: str) -> list[str]:
        wanted = attributes.items()
        return ["".join(text).strip() for name, own, text in self.elements if name == tag and wanted <= own.items()]


SHEET = Sheet(
    "demo · test",
    ["method", "seed", "accuracy", "NLL"],
    [
        [Entry("concat", style="cyan"), Entry("1"), Entry("88.00", "2.00", "best", rank=1), Entry("–", style="dim")],
        [Entry(""), Entry("2"), Entry("87.00", "12.00", "tied", rank=2, remark="n=4"), Entry("0.4", mark="below")],
        [Entry("arl"), Entry("1"), Entry("9.00"), Entry("0.4", style="evil")],
    ],
    ["* best; ≈ not distinguishable."],
    "Not comparable.",
    left=2,
    rules=frozenset({2}),
    over=["", "", "demo", "demo"],
)


def test_a_table_for_eyes_and_for_screen_readers() -> None:
    found = Reader(export.html_tables([SHEET]))
    assert found.texts("caption") == ["demo · test"]
    assert found.texts("p", role="note") == ["Not comparable."]
    assert found.texts("th", scope="col") == ["method", "seed", "accuracy", "NLL"]
    assert found.texts("th", scope="colgroup", colspan="2") == ["demo"]
    assert found.texts("th", scope="row") == ["concat", "1", "2", "arl", "1"]
    assert found.texts("strong") == ["88.00"]
    assert found.texts("u") == ["87.00"]
    assert found.texts("abbr", title="not distinguishable from the best") == ["≈"]
    assert len(found.texts("tbody")) == 2
    assert found.texts("li") == ["bold: best, underlined: second; ≈ not distinguishable."]
    values = [text.replace("\xa0", " ") for text in found.texts("td")]
    assert values == ["", "", "88.00 ± 2.00", "–", "", "≈87.00 ± 12.00 (n=4)", "↓0.4", "9.00", "0.4"]
    assert "evil" not in export.html_tables([SHEET])


def test_hostile_text_is_text() -> None:
    row = [Entry(HOSTILE), Entry(HOSTILE, HOSTILE, rank=2, remark=HOSTILE)]
    hostile = Sheet(HOSTILE, [HOSTILE] * 2, [row] * 2, [HOSTILE], HOSTILE, over=["", HOSTILE])
    page = export.html_page([hostile])
    found = Reader(page)
    allowed = {"html", "head", "meta", "title", "style", "body", "main", "section", "p", "div", "table", "caption"}
    allowed |= {"thead", "tbody", "tr", "th", "td", "span", "u", "ul", "li"}
    assert {tag for tag, _, _ in found.elements} == allowed
    shown = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert found.texts("title") == found.texts("caption") == found.texts("li")[:1] == [shown]
    assert "\x1b" not in page
    assert not any(name.startswith("on") for _, own, _ in found.elements for name in own)


def test_a_page_is_complete_and_needs_nothing_else() -> None:
    page = export.html_page([SHEET, SHEET])
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert "://" not in page
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _, _ in Reader(page).elements}
    assert "default-src 'none'" in page
    assert "prefers-color-scheme:dark" in page
    assert "@media print" in page
    assert page.count("<section") == 2
    assert Reader(export.html_page([])).texts("title") == ["mmbal"]


def test_an_empty_table_and_one_without_notes() -> None:
    found = Reader(export.html_tables([Sheet("empty", ["a", "b"], [])]))
    assert found.texts("tr") == ["ab"]
    assert found.texts("ul") == []
