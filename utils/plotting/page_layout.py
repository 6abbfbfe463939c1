"""The paper that still figures are drawn on: sizes in inches, text that is measured first, reproducible files.

A figure is laid out at the width of a journal page, so that text keeps its size whatever the number of panels.
"""

from __future__ import annotations

import pathlib
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# "paper" is the published look: colours, axis limits, order and grid of Dwivedi et al. 2021, as far as they are known.
Style = Literal["default", "paper"]
STYLES: tuple[Style, ...] = ("default", "paper")
PAGE_WIDTH = 7.5  # inches: the widest figure of the journal
MARGIN = 0.1
FONT = {"title": 9.5, "panel": 7.5, "text": 6.5, "small": 6.0}  # points
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def save_figure(figure: Figure, svg_path: str | pathlib.Path, png_path: str | pathlib.Path) -> None:
    """Write a figure as SVG, with its text as text, and as PNG with 300 dots per inch; the bytes are reproducible.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    svg_path, png_path : path-like
        The files to write.
    """
    with drawing_style():
        # The date and the random ids of clip paths would make every file differ from the last.
        figure.savefig(svg_path, format="svg", dpi=300, metadata={"Date": None})
        figure.savefig(png_path, format="png", dpi=300)


@contextmanager
def drawing_style() -> Iterator[None]:
    """Matplotlib's defaults, whatever the user's matplotlibrc says, with the house's few changes."""
    import matplotlib as mpl

    changes: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": FONT["text"],
        "text.parse_math": False,  # names may hold dollar signs
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "svg.fonttype": "none",
        "svg.hashsalt": "task-specific networks",
    }
    backend_rules = ("backend", "toolbar", "interactive")
    defaults = {k: v for k, v in mpl.rcParamsDefault.items() if not k.startswith(backend_rules)}
    with mpl.rc_context({**defaults, **changes}):
        yield


@dataclass(frozen=True)
class Sheet:
    """A figure with banner, title and note in place; `top` is where its body starts, in inches from the upper edge."""

    figure: Figure
    width: float
    height: float
    top: float

    @classmethod
    def new(cls, width: float, body: float, *, title: str, note: str, banner: str | None) -> Sheet:
        """Make a sheet `width` inches wide with room for a body `body` inches high."""
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle

        titles, notes = _wrap(title, width, FONT["title"], bold=True), _wrap(note, width, FONT["small"])
        banners = _wrap(banner or "", width, FONT["panel"], bold=True)
        banner_height = (0.14 * len(banners) + 0.1) if banners else 0.0
        top = banner_height + 0.07 + 0.18 * len(titles) + 0.04
        height = top + body + 0.115 * len(notes) + 0.1
        figure = Figure(figsize=(width, height), facecolor="white")
        sheet = cls(figure, width, height, top)
        if banners:
            rectangle = Rectangle((0, 1 - banner_height / height), 1, banner_height / height, color="#1a1a1a")
            figure.add_artist(rectangle)
            style = {"color": "white", "weight": "bold", "size": FONT["panel"]}
            sheet.text(width / 2, banner_height / 2, "\n".join(banners), ha="center", va="center", **style)
        for i, line in enumerate(titles):
            sheet.text(MARGIN, banner_height + 0.07 + 0.18 * i, line, va="top", weight="bold", size=FONT["title"])
        for i, line in enumerate(notes):
            y = top + body + 0.05 + 0.115 * i
            sheet.text(MARGIN, y, line, va="top", size=FONT["small"], color="#333333")
        return sheet

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write at `x`, `y` inches from the upper left corner."""
        self.figure.text(x / self.width, 1 - y / self.height, text, **style)

    def rectangle(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Inches from the upper left corner to matplotlib's fractions from the lower left one."""
        return (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)

    def swatch(self, x: float, y: float, *colors: str) -> None:
        """A patch, divided among its colours, beside a name of the legend; `y` is its middle."""
        from matplotlib.patches import Rectangle

        left, bottom, width, height = self.rectangle(x, y - 0.04, 0.13, 0.08)
        for i, color in enumerate(colors):
            start = i / len(colors)
            rest = Rectangle((left + start * width, bottom), (1 - start) * width, height, facecolor=color, lw=0)
            self.figure.add_artist(rest)
        self.figure.add_artist(Rectangle((left, bottom), width, height, facecolor="none", edgecolor="#444444", lw=0.3))

    def line(self, x: float, y: float, color: str, lw: float) -> None:
        """A line beside a name of the legend."""
        from matplotlib.lines import Line2D

        left, bottom, width, _ = self.rectangle(x, y, 0.13, 0.0)
        self.figure.add_artist(Line2D([left, left + width], [bottom, bottom], color=color, lw=lw))


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of a line of text in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
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
    """Lines of `text` that fit between the margins of a sheet."""
    if not text:
        return []
    # The average width of a character differs from text to text, so it is measured.
    characters = int(0.96 * (width - 2 * MARGIN) * len(text) / text_width(text, size, bold=bold))
    return textwrap.wrap(text, max(20, characters))
