"""A figure with its name and caption, and its bytes: the same figure always gives the same ones."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from mmbal_cli.report.plots.style import look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
DPI = 300
FONTS = "'DejaVu Sans', Verdana, Arial, Helvetica, sans-serif"  # of the same width first
_FAMILY = re.compile(r"(font:[^;\"]*?px )[^;\"]*?sans-serif(?=[;\"])|(font-family: )[^;\"]*?sans-serif(?=[;\"])")


@dataclass(frozen=True)
class Picture:
    """One figure: `name` for files, `title` in a few words, `caption` with everything a reader must know."""

    name: str
    title: str
    caption: str
    figure: Figure = field(repr=False, compare=False)

    @property
    def file(self) -> str:
        """The name as a file name without suffix: letters, digits and dashes."""
        return file_name(self.name)


def file_name(text: str) -> str:
    """`text` as a part of a file name and of an XML id."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:80].lower() or "x"


def render(picture: Picture, format: str, dpi: int = DPI) -> bytes:
    """Bytes of the picture as png, svg or pdf, title and caption in its metadata, without dates."""
    if format == "svg":
        return _svg(picture).encode()
    title, caption = _xml_safe(picture.title), _xml_safe(picture.caption)
    metadata = {
        "png": {"Title": title, "Description": caption, "Software": None},
        "pdf": {"Title": title, "Subject": caption, "Creator": None, "Producer": None, "CreationDate": None},
    }[format]
    return _printed(picture, format, dpi, metadata)


def save(picture: Picture, path: Path, dpi: int = DPI) -> None:
    """Write `picture` in the format of the suffix of `path` (.png, .svg, .pdf)."""
    path.write_bytes(render(picture, path.suffix.lower().removeprefix("."), dpi))


def svg(picture: Picture) -> str:
    """The picture as an `<svg>` element to stand in an HTML page beside others: no prolog, ids of its own."""
    text = _svg(picture)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    own = picture.file
    text = re.sub(r'\bid="([^"]+)"', rf'id="{own}-\1"', text)
    text = re.sub(r'\b((?:xlink:)?href)="#([^"]+)"', rf'\1="#{own}-\2"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{own}-\1)", text)
    label = quoteattr(_xml_safe(picture.caption), {"\n": " "})
    return text.replace("<svg ", f'<svg role="img" aria-label={label} ', 1).strip()


def _svg(picture: Picture) -> str:
    metadata = {"Title": _xml_safe(picture.title), "Date": None, "Creator": None}
    made = _printed(picture, "svg", 72, metadata).decode()
    text = _FAMILY.sub(lambda found: (found[1] or found[2]) + FONTS, made)
    return text.replace("</title>", f"</title>\n <desc>{escape(_xml_safe(picture.caption))}</desc>", 1)


def _printed(picture: Picture, format: str, dpi: int, metadata: dict[str, str | None]) -> bytes:
    """The bytes of one format; straight from its canvas, as `savefig` would lay everything out and draw it twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    figure, buffer = picture.figure, io.BytesIO()
    canvas, resolution = figure.canvas, figure.dpi
    try:
        with look(picture.name):
            figure.set_dpi(dpi)
            if format == "svg":
                FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)
            elif format == "pdf":
                FigureCanvasPdf(figure).print_pdf(buffer, metadata=metadata)
            else:
                FigureCanvasAgg(figure).print_png(buffer, metadata=metadata)
    finally:
        figure.set_canvas(canvas)
        figure.set_dpi(resolution)
    return buffer.getvalue()


def _xml_safe(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return "".join(c if c.isprintable() else " " for c in text)
