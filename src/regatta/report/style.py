"""One look for all figures: palette, font, sizes, safe labels, and the three files of each figure.

Figures are drawn without pyplot, so nothing global is left behind, and under a style that ignores
the user's own matplotlibrc: a `text.usetex: true` there would run class names through TeX.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from regatta.report.formats import ON_PAGE, current_formats
from regatta.report.pdf_fonts import shared_cuts

PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#B5539C",
    "#E69F00",
    "#56B4E9",
    "#3D3D3D",
    "#7A2C3D",
)
"""Okabe and Ito's colours (2008) without yellow, which vanishes on white; wine added."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">")
CanvasT = TypeVar("CanvasT", FigureCanvasAgg, FigureCanvasSVG, FigureCanvasPdf)
BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
INK, MUTED, GRID, EMPTY = "#1F2430", "#5B6472", "#E3E6EB", "#ECEEF1"

PNG_DPI = 150
STYLE: dict[str, Any] = {
    "font.size": 8.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.dpi": PNG_DPI,
    "savefig.facecolor": "white",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "hatch.color": MUTED,
    "axes.unicode_minus": True,
    "text.parse_math": False,  # a class named $\input{x}$ is a name, not a formula
    "text.usetex": False,
    "text.hinting": "no_hinting",  # hinted text is wider at some resolutions and then cut off
    "svg.hashsalt": "regatta",
    "svg.fonttype": "path",  # the same picture on every machine, whatever fonts it has
    "pdf.fonttype": 42,  # publishers refuse Type 3
    "figure.max_open_warning": 0,
}

FONT = "DejaVu Sans"
FALLBACK_FONTS = (
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "Yu Gothic",
    "Malgun Gothic",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Bengali",
    "Noto Sans Tamil",
    "Noto Sans Thai",
    "Noto Sans Symbols",
    "Noto Sans Symbols 2",
    "Noto Emoji",
    "Arial Unicode MS",
)
"""Asked, where installed, for letters that DejaVu Sans lacks."""

SVG_LIMIT_BYTES = 150_000
"""Above this the page embeds the PNG: many cells make an SVG larger than its picture."""


@cache
def figure_fonts() -> tuple[str, ...]:
    """DejaVu Sans, which matplotlib brings, and the installed ones of FALLBACK_FONTS."""
    # Only installed ones: matplotlib warns about each family that it does not find.
    installed = {entry.name for entry in fontManager.ttflist}
    return (FONT, *(name for name in FALLBACK_FONTS if name in installed))


@cache
def font_faces() -> tuple[Any, ...]:
    return tuple(
        get_font(fontManager.findfont(FontProperties(family=name))) for name in figure_fonts()
    )


@contextmanager
def figure_style() -> Iterator[None]:
    """Our style over matplotlib's defaults inside the block; the caller's settings come back."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)  # pyright: ignore[reportCallIssue, reportArgumentType]
        mpl.rcParams["font.family"] = list(figure_fonts())
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of `width` x `height` inches that keeps its labels apart."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[union-attr]
    return figure


def render(figure: Figure) -> dict[str, bytes]:
    """The figure by format, byte-equal for equal input: no dates, fixed ids.

    All of "svg", "pdf" and "png", unless `drawing_formats` asks for fewer.
    """
    # Laid out once; otherwise each format would solve the same layout again.
    engine = figure.get_layout_engine()
    if engine is not None and figure.axes:
        engine.execute(figure)
    figure.set_layout_engine("none")
    return {name: WRITERS[name](figure) for name in current_formats()}


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    # The canvases' own writers: savefig draws every figure twice per format.
    _at_print_resolution(figure, FigureCanvasAgg(figure)).print_png(
        file, metadata={"Software": None}
    )
    return file.getvalue()


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    _at_print_resolution(figure, FigureCanvasSVG(figure)).print_svg(file, metadata=SVG_METADATA)
    return file.getvalue()


def _pdf(figure: Figure) -> bytes:
    file = io.BytesIO()
    canvas = _at_print_resolution(figure, FigureCanvasPdf(figure))
    with shared_cuts(str(findfont(FontProperties(family=FONT)))):
        canvas.print_pdf(file, metadata=PDF_METADATA)
    return file.getvalue()


WRITERS = {"svg": _svg, "pdf": _pdf, "png": _png}
SVG_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
PDF_METADATA: dict[str, Any] = {"CreationDate": None, "Creator": None, "Producer": None}


def _at_print_resolution(figure: Figure, canvas: CanvasT) -> CanvasT:
    """SVG and PDF writers leave 72 dpi behind, which would make embedded rasters coarse."""
    figure.dpi = PNG_DPI
    return canvas


@dataclass(frozen=True)
class RenderedFigure:
    """One figure in its formats.

    `name` is its path below `report/figures` without suffix, such as `videomae/accuracy_heatmap`;
    `pixels` are the width and height of its PNG.
    """

    name: str
    title: str
    caption: str
    alt: str
    formats: dict[str, bytes]
    pixels: tuple[int, int]

    @property
    def page_format(self) -> str:
        """What the page embeds: SVG, unless it is large and the PNG is smaller."""
        sizes = {name: len(self.formats[name]) for name in ON_PAGE if name in self.formats}
        if len(sizes) < len(ON_PAGE):
            return next(iter(sizes))
        return "svg" if sizes["svg"] <= max(SVG_LIMIT_BYTES, sizes["png"]) else "png"


@dataclass(frozen=True)
class FigureGap:
    """A figure that is not drawn, and the sentence that stands in its place."""

    name: str
    title: str
    reason: str


Drawn = RenderedFigure | FigureGap


def drawn(name: str, figure: Figure, *, title: str, caption: str, alt: str) -> RenderedFigure:
    """`figure` in its formats, with caption and alternative text as clean lines."""
    pixels = figure.canvas.get_width_height(physical=True)
    return RenderedFigure(name, title, clean_text(caption), clean_text(alt), render(figure), pixels)


def entry_color(position: int) -> str:
    """Colour of the entry at `position` of the study, the same in every figure and on the page."""
    return PALETTE[position % len(PALETTE)]


def entry_marker(position: int) -> str:
    return MARKERS[position % len(MARKERS)]


def shrinking(largest: float, smallest: float, place: int, count: int) -> float:
    """Size of mark `place` of `count`: a mark under an equal one still shows around it."""
    return largest - (largest - smallest) * place / max(count - 1, 1)


def ordered_colors(count: int) -> list[Any]:
    """`count` colours from light to dark for an ordered quantity such as stride."""
    return [mpl.colormaps["viridis"](x) for x in np.linspace(0.86, 0.05, max(count, 1))]


def accuracy_colormap() -> Colormap:
    """Light (low) to dark (high), readable in grey and by colour-blind readers."""
    stops = ["#F6F4DC", "#C3E2C4", "#7CC5BE", "#3A9FB8", "#23699F", "#17375E"]
    return LinearSegmentedColormap.from_list("regatta", stops).with_extremes(bad=EMPTY)


def common_scale(*arrays: Any) -> Normalize:
    """One scale that covers every finite value of all arrays; never of zero width."""
    values = np.concatenate([np.asarray(a, dtype=float).ravel() for a in arrays] or [np.zeros(0)])
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    return Normalize(float(low), float(high))


def ink_on(color: Any) -> str:
    """Near-black or white, whichever is read better on `color` (WCAG relative luminance)."""
    rgb = np.asarray(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return "#0B0D12" if (luminance + 0.05) ** 2 > 1.05 * 0.054 else "white"


def clean_text(text: str) -> str:
    """`text` on one line, without what XML or UTF-8 refuse and marks that reverse text order."""
    kept = (" " if c.isspace() else c for c in str(text))
    return "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cs", "Cn") or c in BIDI_CONTROLS else c
        for c in kept
    ).strip()


def shorten(text: str, limit: int) -> str:
    """`text` cut in the middle to `limit` characters: long names differ at both ends."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 3
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"


def figure_label(text: str, *, limit: int = 28) -> str:
    """`text` as it may stand in a figure: one line, cut, only letters that some font has."""
    cleaned = shorten(clean_text(text), limit)
    # A missing glyph is a warning and an empty box in the picture; say so with a box of our own.
    label = "".join(c if _has_glyph(c) else "□" for c in cleaned)
    # matplotlib leaves out of a legend what starts with an underscore.
    return label if not label.startswith("_") else f"\u200a{label}"


def _has_glyph(character: str) -> bool:
    return any(face.get_char_index(ord(character)) for face in font_faces())


def name_labels(names: Sequence[str], *, limit: int = 24) -> list[str]:
    """Labels of all names, with their number where cutting or the font made two equal."""
    labels = [figure_label(name, limit=limit) for name in names]
    return [
        f"{number}: {label}" if labels.count(label) > 1 or "□" in label or not label else label
        for number, label in enumerate(labels)
    ]


def name_figure(ax: Axes, name: str, *, left_inches: float = 1.0) -> None:
    """The title of a one-panel figure, cut to its width, which the layout does not do."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    letters = (figure.get_figwidth() - left_inches) * 72 / (9.5 * 0.62)
    ax.set_title(figure_label(name, limit=max(8, int(letters))))


def padded_limits(
    *arrays: Any, floor: float | None = None, ceiling: float | None = None, share: float = 0.06
) -> tuple[float, float]:
    """Axis limits around every finite value with a margin that ends at `floor` and `ceiling`."""
    scale = common_scale(*arrays)
    low, high = float(scale.vmin or 0.0), float(scale.vmax or 0.0)
    margin = share * (high - low)
    lower = low - margin if floor is None else min(max(low - margin, floor), low)
    upper = high + margin if ceiling is None else max(min(high + margin, ceiling), high)
    return lower, upper
