"""The page that still figures are drawn on: sizes in inches, text that is measured first, reproducible files.

A figure is laid out at the width of a journal page, so that text keeps its size whatever the number of panels. Sizes
are computed, not left to matplotlib's constrained layout: that makes room for what stands around axes, but names below
bars, legends in columns and notes may still run into each other.
"""

from __future__ import annotations

import pathlib
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from utils.plotting.surface import DEFAULT_SURFACE, Surface

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# "paper" is the published look: colours, axis limits, order and grid of Dwivedi et al. 2021, as far as they are known.
Style = Literal["default", "paper"]
STYLES: tuple[Style, ...] = ("default", "paper")
PAGE_WIDTH = 7.5  # inches: the widest figure of the journal
MARGIN = 0.1
FONT = {"title": 9.5, "panel": 7.5, "text": 6.5, "small": 6.0}  # points
# For labels in scripts that the first font lacks; those that a machine has are used.
_FALLBACK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK TC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Source Han Sans SC",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "IPAexGothic", "IPAGothic", "TakaoGothic", "VL Gothic", "NanumGothic",
    "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "Yu Gothic", "MS Gothic", "Malgun Gothic", "PingFang SC",
    "Hiragino Sans", "Hiragino Sans GB", "Apple SD Gothic Neo", "Arial Unicode MS", "Noto Sans", "Noto Sans Arabic",
    "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai", "Arial",
    "FreeSans", "Unifont",
)  # fmt: skip
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True)
class Look:
    """How the figures and pages of a run look.

    Attributes
    ----------
    title : str
        Heading.
    banner : str or None
        Warning across the top, such as that the data are simulated.
    surface : str, Path or None
        What is drawn on: see `utils.plotting.surface.Surface`; None for slices of the volume.
    style : {"default", "paper"}
        "paper" has the published colours, axes and views; pages always have the default ones.
    """

    title: str
    banner: str | None = None
    surface: Surface | None = DEFAULT_SURFACE
    style: Style = "default"


def save_figure(figure: Figure, svg_path: str | pathlib.Path, png_path: str | pathlib.Path) -> None:
    """Write a figure as SVG, with its text as text, and as PNG with 300 dots per inch; the bytes are reproducible.

    Warns of characters that no font of the machine has.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    svg_path, png_path : path-like
        The files to write.
    """
    from matplotlib.text import Text

    missing = sorted({character for text in figure.findobj(Text) for character in _without_glyph(text.get_text())})
    if missing:
        warnings.warn(
            f"no font of this machine has the characters {''.join(missing[:20])}{_ELLIPSIS * (len(missing) > 20)} of "
            "the labels: boxes stand for them in figure.png; install a font that has them, such as Noto Sans CJK",
            stacklevel=2,
        )
    with drawing_style():
        # The date and the random ids of clip paths would make every file differ from the last.
        figure.savefig(svg_path, format="svg", dpi=300, metadata={"Date": None})
        figure.savefig(png_path, format="png", dpi=300)


@contextmanager
def drawing_style() -> Iterator[None]:
    """Matplotlib's defaults, whatever the user's matplotlibrc says, with the house's few changes."""
    import matplotlib as mpl

    changes: dict[Any, Any] = {
        "font.family": list(_fonts()),
        "font.size": FONT["text"],
        "text.parse_math": False,  # names may hold dollar signs
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "hatch.linewidth": 0.5,
        "svg.fonttype": "none",
        "svg.hashsalt": "task-specific networks",
    }
    backend_rules = ("backend", "toolbar", "interactive")
    defaults = {k: v for k, v in mpl.rcParamsDefault.items() if not k.startswith(backend_rules)}
    with mpl.rc_context({**defaults, **changes}), _one_warning_of_glyphs():
        yield


@lru_cache
def _fonts() -> tuple[str, ...]:
    """The font of all figures, and those of this machine that stand in where it lacks a character."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return ("DejaVu Sans", *(name for name in _FALLBACK_FONTS if name in installed))


@lru_cache(maxsize=4096)
def _without_glyph(text: str) -> tuple[str, ...]:
    """Characters of a text that no font has."""
    from matplotlib.font_manager import findfont, get_font

    fonts = [get_font(findfont(name)) for name in _fonts()]
    return tuple(c for c in text if c.isprintable() and not any(font.get_char_index(ord(c)) for font in fonts))


@contextmanager
def _one_warning_of_glyphs() -> Iterator[None]:
    """Keep matplotlib from warning of each missing character, which `save_figure` does once for all."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        yield


@dataclass(frozen=True)
class Page:
    """A figure in inches from its upper left corner."""

    figure: Figure
    width: float
    height: float

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write at `x`, `y`."""
        self.figure.text(x / self.width, 1 - y / self.height, text, **style)

    def rectangle(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Matplotlib's fractions, from the lower left corner, of a rectangle with its upper left corner at `x`, `y`."""
        return (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)

    def patch(self, x: float, y: float, width: float, height: float, **style: Any) -> None:
        """Draw such a rectangle."""
        from matplotlib.patches import Rectangle

        left, bottom, *size = self.rectangle(x, y, width, height)
        self.figure.add_artist(Rectangle((left, bottom), *size, **style))


@dataclass(frozen=True)
class Band:
    """A part of a page from margin to margin: its height in inches, and what draws it from a given y position on."""

    height: float
    draw: Callable[[Page, float], None]


def heading(text: str) -> Band:
    """A line in bold above what belongs together."""

    def draw(page: Page, top: float) -> None:
        page.text(MARGIN, top + 0.1, text, va="center", weight="bold", size=FONT["panel"])

    return Band(0.22, draw)


@dataclass(frozen=True)
class Key:
    """An entry of a legend: its name beside a patch, divided among its colours, a line or a marker.

    `hatched` is a second patch: its colour, and that of its hatching. An entry is `faint` if nothing has it.
    """

    name: str
    colors: tuple[str, ...] = ()
    line: Mapping[str, Any] | None = None
    marker: Mapping[str, Any] | None = None
    hatched: tuple[str, str] | None = None
    faint: bool = False

    @property
    def indent(self) -> float:
        """Inches from the left end to the name."""
        return 0.34 if self.hatched else 0.18

    def draw(self, page: Page, x: float, y: float, name: str) -> None:
        """Draw the entry with its middle at `y`."""
        from matplotlib.lines import Line2D

        width, height = 0.13, 0.08
        for i, color in enumerate(self.colors):
            covered = width * i / len(self.colors)
            page.patch(x + covered, y - height / 2, width - covered, height, facecolor=color, lw=0)
        left, middle, length, _ = page.rectangle(x, y, width, 0)
        if self.line:
            page.figure.add_artist(Line2D([left, left + length], [middle, middle], **self.line))
        elif self.marker:
            page.figure.add_artist(Line2D([left + length / 2], [middle], **self.marker))
        else:
            page.patch(x, y - height / 2, width, height, facecolor="none", edgecolor="#444444", lw=0.3)
        if self.hatched:
            color, stripes = self.hatched
            box = (x + 0.16, y - height / 2, width, height)
            page.patch(*box, facecolor=color, edgecolor=stripes, hatch="//////", lw=0)
            page.patch(*box, facecolor="none", edgecolor="#444444", lw=0.3)
        style = {"size": FONT["text"], "color": "#767676" if self.faint else "black"}
        page.text(x + self.indent, y, name, va="center", **style)


def legend_band(
    keys: Sequence[Key], width: float = PAGE_WIDTH, *, title: str = "", left: float = MARGIN, below: float = 0.0
) -> Band:
    """A legend in as many rows as it needs.

    Parameters
    ----------
    keys : sequence of Key
    width : float
        Of the page, in inches.
    title : str
        Stands at the margin, before the first row.
    left, below : float
        Where rows begin, and space below them, in inches.

    Returns
    -------
    Band
    """
    spacing = 0.17
    places = []
    row, x = 0, left
    for key in keys:
        name = shorten(key.name, width - left - MARGIN - key.indent, FONT["text"])
        step = key.indent + text_width(name, FONT["text"]) + 0.16
        if x > left and x + step > width:
            row, x = row + 1, left
        places.append((key, name, x, 0.06 + spacing * row))
        x += step

    def draw(page: Page, top: float) -> None:
        page.text(MARGIN, top + 0.06, title, va="center", weight="bold", size=FONT["text"])
        for key, name, x, y in places:
            key.draw(page, x, top + y, name)

    return Band(spacing * (row + 1) * bool(keys) + below, draw)


def draw_page(bands: Sequence[Band], look: Look, note: str, width: float = PAGE_WIDTH) -> Figure:
    """Draw a figure: banner and title, then the bands from top to bottom, then the note.

    Parameters
    ----------
    bands : sequence of Band
    look : Look
        Its title and banner stand at the top.
    note : str
        The small print below.
    width : float
        Inches.

    Returns
    -------
    matplotlib.figure.Figure
        As high as its contents, and not registered with pyplot.
    """
    from matplotlib.figure import Figure

    bands = [
        *([_banner(look.banner, width)] if look.banner else []),
        _lines(look.title, width, FONT["title"], 0.18, 0.07, weight="bold"),
        *bands,
        _lines(note, width, FONT["small"], 0.115, 0.05, color="#333333"),
    ]
    height = sum(band.height for band in bands)
    page = Page(Figure(figsize=(width, height), facecolor="white"), width, height)
    top = 0.0
    for band in bands:
        band.draw(page, top)
        top += band.height
    return page.figure


def _banner(text: str, width: float) -> Band:
    lines = _wrap(text, width, FONT["panel"], bold=True)
    height = 0.14 * len(lines) + 0.1

    def draw(page: Page, top: float) -> None:
        page.patch(0, top, width, height, color="#1a1a1a")
        style = {"color": "white", "weight": "bold", "size": FONT["panel"]}
        page.text(width / 2, top + height / 2, "\n".join(lines), ha="center", va="center", **style)

    return Band(height, draw)


def _lines(text: str, width: float, size: float, spacing: float, above: float, **style: Any) -> Band:
    """A text broken into lines between the margins."""
    lines = _wrap(text, width, size, bold="weight" in style)

    def draw(page: Page, top: float) -> None:
        for i, line in enumerate(lines):
            page.text(MARGIN, top + above + spacing * i, line, va="top", size=size, **style)

    return Band(above + spacing * len(lines) + 0.05, draw)


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of a line of text in inches, at `size` points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    font = FontProperties(family=list(_fonts()), weight="bold" if bold else "normal")
    with _one_warning_of_glyphs():
        return float(TextPath((0, 0), text, size=size, prop=font).get_extents().x1) / 72


def shorten(text: str, width: float, size: float, *, bold: bool = False) -> str:
    """The text if it is at most `width` inches wide, else its beginning and its end around an ellipsis.

    Names of one study often begin alike: without their ends they could not be told apart.
    """
    short, kept = text, len(text)
    while kept and text_width(short, size, bold=bold) > width:
        kept -= 1
        head = text[: kept - kept // 2].rstrip()
        short = head + _ELLIPSIS + text[len(text) - kept // 2 :].lstrip()
    return short


def _wrap(text: str, width: float, size: float, *, bold: bool = False) -> list[str]:
    """Lines of `text` that fit between the margins of a page."""
    if not text:
        return []
    # The average width of a character differs from text to text, so it is measured.
    characters = int(0.96 * (width - 2 * MARGIN) * len(text) / text_width(text, size, bold=bold))
    return textwrap.wrap(text, max(20, characters))
