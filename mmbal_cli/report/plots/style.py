"""One look for all figures: fonts of a paper column, colours that colour-blind readers and grey print keep apart.

The first seven colours are those of Okabe and Ito 2008 (jfly.uni-koeln.de/color, without its yellow, which
vanishes on white), the others are from Tol 2021 (SRON/EPS/TN/09-002), "muted". Line styles and markers say the
same again, so that no figure needs its colours. Nothing here depends on the user's matplotlibrc or on a display.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mmbal_cli.report.runs import STAMP
from mmbal_cli.report.tables import literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure

WIDTHS = {"column": 3.4, "page": 7.0}  # inches: one column, and the text width of a page
SIZE, SMALL, TINY = 8.0, 7.0, 6.0  # points at that width
INK, GREY, FAINT = "#222222", "#6f6f6f", "#d9d9d9"
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"),
    *("#882255", "#999933", "#332288", "#44AA99", "#AA4499"),
)
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
BEYOND = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Arial Unicode MS", "Microsoft YaHei")
LONGEST = 42  # characters of a label

_STYLE = {
    "text.parse_math": False,  # a $ in a label is a dollar
    "text.usetex": False,
    "text.hinting": "none",  # as wide at every resolution
    "font.size": SIZE,
    "axes.titlesize": SIZE,
    "axes.labelsize": SIZE,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 3.0,
    "axes.labelpad": 2.5,
    "axes.unicode_minus": True,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.4,
    "legend.borderaxespad": 0.2,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.02,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "path.simplify": True,
}


@contextmanager
def look(salt: str = "mmbal") -> Iterator[None]:
    """Everything that draws or saves happens in here: matplotlib's own defaults, then the style."""
    import matplotlib
    from matplotlib import font_manager

    named = set(font_manager.fontManager.get_font_names())
    families = ["DejaVu Sans", *(name for name in BEYOND if name in named)]
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box; SVG has the text
        matplotlib.rcdefaults()
        own = {"font.family": ["sans-serif"], "font.sans-serif": families, "svg.hashsalt": salt}
        matplotlib.rcParams.update(_STYLE | own)
        yield


def canvas(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches, outside of any window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=300, layout="constrained")  # texts are measured at this resolution
    FigureCanvasAgg(figure)
    return figure


def figure_of(axes: Axes) -> Figure:
    """The figure that holds these axes."""
    from matplotlib.figure import Figure

    figure = axes.figure
    assert isinstance(figure, Figure)
    return figure


def renderer_of(figure: Figure) -> RendererBase:
    """What measures texts of this figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    return canvas.get_renderer()


def settle(figure: Figure) -> None:
    """Lay the figure out once, for all formats."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")


def shown(label: str, longest: int = LONGEST) -> str:
    """A label as figures show it: control characters as escapes, the middle of a very long one cut out.

    The stamp of a legacy run is never cut.
    """
    text = literal(label).strip() or "(no name)"
    if len(text) <= longest:
        return text
    tail = max((longest - 1) // 3, len(text) - text.rfind(STAMP) if STAMP in text else 0)
    return f"{text[: max(longest - 1 - tail, 3)]}…{text[-tail:]}"


def all_shown(labels: Sequence[str], longest: int = LONGEST) -> list[str]:
    """`shown` of every label; those that became equal by cutting get a number."""
    texts = [shown(label, longest) for label in labels]
    return [text if texts.count(text) == 1 else f"{text} #{i + 1}" for i, text in enumerate(texts)]


def colour(index: int) -> str:
    """Colour of the series `index`; repeats after twelve."""
    return COLOURS[index % len(COLOURS)]


def deep(colour: str) -> str:
    """A darker shade of `colour`, for small text on white."""
    channels = [int(int(colour[i : i + 2], 16) * 0.72) for i in (1, 3, 5)]
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def dash(index: int) -> Any:
    """Line style of the series `index`."""
    return DASHES[index % len(DASHES)]


def marker(index: int) -> str:
    """Marker of the series `index`."""
    return MARKERS[index % len(MARKERS)]


def legend(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int = 0, *, swatch: bool = True
) -> None:
    """A legend below the axes. A label that begins with an underscore is a label like any other."""
    if not handles:
        return
    if not columns:
        inches = figure.get_size_inches()[0]
        columns = max(1, int(inches / (0.5 + 0.065 * max(map(len, labels)))))
    columns = min(columns, len(handles))
    room = {} if swatch else {"handlelength": 0, "handletextpad": 0}
    plain = [str(i) for i in range(len(labels))]
    made = figure.legend(handles, plain, loc="outside lower center", ncols=columns, **room)
    for text, label in zip(made.get_texts(), labels, strict=True):
        text.set_text(label)


def percent_axis(axis: Any) -> None:
    """Ticks of fractions as percent."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:g}"))


def above(axes: Axes, text: str, points: float, **looks: Any) -> None:
    """A left-aligned line of text `points` above the axes, which may run over its neighbours."""
    axes.annotate(text, (0, 1), (0, points), xycoords="axes fraction", textcoords="offset points",
                  annotation_clip=False, **{"fontsize": SMALL, **looks})  # fmt: skip


def empty(axes: Axes, text: str) -> None:
    """A panel without data says so."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=TINY, color=GREY)
