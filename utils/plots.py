"""Figures of regions of interest (ROIs): bars, brackets, Venn diagrams, the noise ceiling.

Everything drawn here was computed elsewhere. Figures are laid out in inches at the width of a journal page, so that
text keeps its size whatever the number of panels. Negative values are drawn as they are; only the areas of a Venn
diagram cannot be negative, and a diagram that leaves something out says so.
"""

from __future__ import annotations

import pathlib
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path

PAGE_WIDTH = 7.5  # inches: the widest figure of the journal
_MARGIN = 0.1
_FONT = {"title": 9.5, "panel": 7.5, "text": 6.5, "small": 6.0}

# Three circles have too few degrees of freedom for seven areas: a diagram this far off says that it is.
_TOLERANCE = 0.05

VENN_NOTE = (
    "Venn diagrams: unique and shared variance as shares of their panel's total; clipped: a negative part has no area "
    "and is left out; distorted or not drawable: circles cannot show these parts, an area would be off by more than "
    f"{_TOLERANCE:.0%} of the total."
)
NO_VENN_NOTE = "Venn diagrams need the package matplotlib-venn, which is not installed."


@dataclass(frozen=True)
class RoiPanel:
    """What one panel shows: the sets of predictors of one ROI and the variance each explains alone.

    Attributes
    ----------
    roi : str
        Name of the ROI.
    labels, colors : sequence of str, length n_sets
        Name and colour of each set, in the order of the bars.
    unique, se : ndarray, shape (n_sets,)
        Unique variance (adjusted R2, may be negative) and its standard error (NaN: no error bar).
    significant : sequence of bool, length n_sets
        Whether the unique variance of a set is significant.
    brackets : sequence of (int, int)
        Pairs of sets whose unique variances differ significantly.
    total : float
        Adjusted R2 of all sets together.
    parts : mapping of frozenset of int to float
        Signed variance part of every non-empty subset of the sets, as variance partitioning gives it.
    """

    roi: str
    labels: Sequence[str]
    colors: Sequence[str]
    unique: NDArray[np.floating]
    se: NDArray[np.floating]
    significant: Sequence[bool]
    brackets: Sequence[tuple[int, int]]
    total: float
    parts: Mapping[frozenset[int], float]


@dataclass(frozen=True)
class CeilingPanel:
    """Explained variance of ROIs against their noise ceiling, all as R2.

    Attributes
    ----------
    rois : sequence of str, length n_rois
    explained, error : ndarray, shape (n_rois,)
        R2 and the half length of its error bar (NaN: none).
    lower, upper : ndarray, shape (n_rois,)
        Bounds of the noise ceiling as R2: bounds that are correlations must be squared.
    chance : ndarray, shape (n_rois,)
        What unrelated networks would explain.
    """

    rois: Sequence[str]
    explained: NDArray[np.floating]
    error: NDArray[np.floating]
    lower: NDArray[np.floating]
    upper: NDArray[np.floating]
    chance: NDArray[np.floating]


def roi_figure(
    panels: Sequence[RoiPanel],
    *,
    title: str,
    note: str,
    legend: Mapping[str, str],
    ylabel: str = "unique variance (adjusted R²)",
    ceiling: CeilingPanel | None = None,
    banner: str | None = None,
) -> Figure:
    """Grid of ROI panels, row by row: bars with error bars, stars and brackets, and a Venn diagram.

    Parameters
    ----------
    panels : sequence of RoiPanel, at least one
        Panels in reading order. All share one y axis.
    title, note : str
        Heading, and the small print below (what stars and error bars mean, number of permutations).
    legend : mapping of str to str
        Names and colours explained below the title; may be empty.
    ylabel : str
        What the bars show.
    ceiling : CeilingPanel, optional
        Adds a wide panel below the grid.
    banner : str, optional
        Warning across the top of the figure, such as that the data are simulated.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot. Stars, brackets and Venn diagrams carry the gids "star", "bracket" and "venn".
    """
    with drawing_style():
        grid = _Grid.of(panels)
        legend_height = 0.17 * len(_legend_rows(legend, grid.width)) if legend else 0.0
        ceiling_height = _ceiling_height(ceiling, grid.width) if ceiling else 0.0
        sheet = Sheet.new(
            grid.width,
            legend_height + grid.height + ceiling_height,
            title=title,
            note=f"{note} {_venn_note(panels)}".strip(),
            banner=banner,
        )
        _draw_legend(sheet, sheet.top, legend)
        _draw_grid(sheet, sheet.top + legend_height, grid, panels, ylabel)
        if ceiling:
            _draw_ceiling(sheet, sheet.top + legend_height + grid.height, ceiling)
        return sheet.figure


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
        "font.size": _FONT["text"],
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

        titles, notes = _wrap(title, width, _FONT["title"], bold=True), _wrap(note, width, _FONT["small"])
        banners = _wrap(banner or "", width, _FONT["panel"], bold=True)
        banner_height = (0.14 * len(banners) + 0.1) if banners else 0.0
        top = banner_height + 0.07 + 0.18 * len(titles) + 0.04
        height = top + body + 0.115 * len(notes) + 0.1
        figure = Figure(figsize=(width, height), facecolor="white")
        sheet = cls(figure, width, height, top)
        if banners:
            rectangle = Rectangle((0, 1 - banner_height / height), 1, banner_height / height, color="#1a1a1a")
            figure.add_artist(rectangle)
            style = {"color": "white", "weight": "bold", "size": _FONT["panel"]}
            sheet.text(width / 2, banner_height / 2, "\n".join(banners), ha="center", va="center", **style)
        for i, line in enumerate(titles):
            sheet.text(_MARGIN, banner_height + 0.07 + 0.18 * i, line, va="top", weight="bold", size=_FONT["title"])
        for i, line in enumerate(notes):
            y = top + body + 0.05 + 0.115 * i
            sheet.text(_MARGIN, y, line, va="top", size=_FONT["small"], color="#333333")
        return sheet

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write at `x`, `y` inches from the upper left corner."""
        self.figure.text(x / self.width, 1 - y / self.height, text, **style)

    def rectangle(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Inches from the upper left corner to matplotlib's fractions from the lower left one."""
        return (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)

    def swatch(self, x: float, y: float, color: str, other: str | None = None) -> None:
        """A patch of colour, or of two, beside a name of the legend; `y` is its middle."""
        from matplotlib.patches import Rectangle

        left, bottom, width, height = self.rectangle(x, y - 0.04, 0.13, 0.08)
        for start, fill in ((0.0, color), (0.5, other or color)):
            half = Rectangle((left + start * width, bottom), (1 - start) * width, height, facecolor=fill, lw=0)
            self.figure.add_artist(half)
        self.figure.add_artist(Rectangle((left, bottom), width, height, facecolor="none", edgecolor="#444444", lw=0.3))

    def line(self, x: float, y: float, color: str, lw: float) -> None:
        """A line beside a name of the legend."""
        from matplotlib.lines import Line2D

        left, bottom, width, _ = self.rectangle(x, y, 0.17, 0.0)
        self.figure.add_artist(Line2D([left, left + width], [bottom, bottom], color=color, lw=lw))


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of a line of text in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return float(TextPath((0, 0), text, size=size, prop=font).get_extents().x1) / 72


def _wrap(text: str, width: float, size: float, *, bold: bool = False) -> list[str]:
    """Lines of `text` that fit between the margins of a sheet."""
    if not text:
        return []
    # The average width of a character differs from text to text, so it is measured.
    characters = int(0.96 * (width - 2 * _MARGIN) * len(text) / text_width(text, size, bold=bold))
    return textwrap.wrap(text, max(20, characters))


# -------------------------------------------------------------------------------------------------------------- legend


def _legend_rows(legend: Mapping[str, str], width: float) -> list[list[tuple[str, float]]]:
    """Names with their x position in inches, broken into rows."""
    rows: list[list[tuple[str, float]]] = [[]]
    x = _MARGIN
    for name in legend:
        step = 0.18 + text_width(name, _FONT["text"]) + 0.16
        if rows[-1] and x + step > width:
            rows.append([])
            x = _MARGIN
        rows[-1].append((name, x))
        x += step
    return rows


def _draw_legend(sheet: Sheet, top: float, legend: Mapping[str, str]) -> None:
    for i, row in enumerate(_legend_rows(legend, sheet.width)):
        for name, x in row:
            y = top + 0.06 + 0.17 * i
            sheet.swatch(x, y, legend[name])
            sheet.text(x + 0.18, y, name, va="center", size=_FONT["text"])


# ---------------------------------------------------------------------------------------------------------------- grid


@dataclass(frozen=True)
class _Grid:
    """Sizes in inches of a grid of panels."""

    n_columns: int
    n_rows: int
    width: float
    cell: float
    bars: float
    venn: float
    names: float
    rotation: float

    left = 0.52
    title = 0.23
    bars_height = 0.88

    @property
    def row(self) -> float:
        return self.title + self.bars_height + self.names

    @property
    def height(self) -> float:
        return self.n_rows * self.row

    @classmethod
    def of(cls, panels: Sequence[RoiPanel]) -> _Grid:
        n = len(panels)
        n_rows = -(-n // (4 if n <= 16 else 5))
        n_columns = -(-n // n_rows)
        width = PAGE_WIDTH if n_columns > 3 else max(4.6, 0.8 + 2.0 * n_columns)
        cell = min(2.3, (width - cls.left - _MARGIN) / n_columns)
        venn = 0.36 * cell if any(_has_venn(panel) for panel in panels) else 0.0
        bars = cell - venn - 0.12
        widths = [[text_width(label, _FONT["small"]) for label in panel.labels] for panel in panels]
        slot = bars / max(map(len, widths))
        crowded = any((a + b) / 2 + 0.03 > slot for own in widths for a, b in pairwise(own))
        rotated = crowded or max(map(max, widths)) > 1.4 * slot
        names = 0.15 + (0.71 * max(map(max, widths)) if rotated else 0.1)
        return cls(n_columns, n_rows, width, cell, bars, venn, names, 45.0 if rotated else 0.0)


def _draw_grid(sheet: Sheet, top: float, grid: _Grid, panels: Sequence[RoiPanel], ylabel: str) -> None:
    low, high, step = _y_axis(panels, grid.bars_height)
    for number, panel in enumerate(panels):
        row, column = divmod(number, grid.n_columns)
        x, y = grid.left + column * grid.cell, top + row * grid.row + grid.title
        axes = sheet.figure.add_axes(sheet.rectangle(x, y, grid.bars, grid.bars_height))
        axes.set_ylim(low, high)
        _draw_bars(axes, panel, grid.rotation, (high - low) / grid.bars_height, step)
        axes.tick_params(axis="y", labelleft=column == 0, labelsize=_FONT["small"])
        total = f"{round(panel.total, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")  # + 0.0: never "-0.00"
        axes.set_title(f"{panel.roi}: R² = {total}", loc="left", size=_FONT["panel"], weight="bold", pad=4)
        if _has_venn(panel):
            size = min(grid.venn, grid.bars_height)
            middle = y + grid.bars_height / 2
            box = sheet.rectangle(x + grid.bars + 0.02, middle - size / 2, grid.venn, size)
            _draw_venn(sheet.figure.add_axes(box), panel)
    sheet.text(
        0.1,
        top + (grid.height + grid.title - grid.names) / 2,
        ylabel,
        rotation=90,
        ha="center",
        va="center",
        size=_FONT["text"],
    )


# Heights in inches, from the top of what lies below.
_STAR = 0.1
_BRACKET = 0.15


def _y_axis(panels: Sequence[RoiPanel], height: float) -> tuple[float, float, float]:
    """Limits of the y axis that all panels share, with room for stars and brackets, and the height of a bracket.

    Stars and brackets have a size on paper, so their size in data units depends on the limits, which depend on them:
    the limits are widened until everything fits.
    """
    low = min(0.0, *(float(np.nanmin(panel.unique - np.nan_to_num(panel.se))) for panel in panels))
    bars = max(0.0, *(float(_tops(panel).max()) for panel in panels))
    if bars - low <= 0:
        bars = 0.1
    low -= 0.03 * (bars - low) * (low < 0)
    # Many sets make many brackets: squeeze them rather than the bars.
    most = max(len(panel.brackets) for panel in panels)
    step = min(_BRACKET, 0.6 * height / max(1, most))
    high = bars
    for _ in range(100):
        inch = (high - low) / height
        high = max(_stacks(panel, _STAR * inch, step * inch)[2] for panel in panels) + 0.02 * inch
    return low, high, step


def _tops(panel: RoiPanel) -> NDArray[np.floating]:
    """Upper end of every bar with its error bar, at least zero."""
    return np.maximum(0.0, panel.unique + np.nan_to_num(panel.se))


def _stacks(
    panel: RoiPanel, star: float, bracket: float
) -> tuple[dict[int, float], dict[tuple[int, int], float], float]:
    """Lower ends of stars (by bar) and brackets (by pair), and the top of it all, in data units.

    Brackets are placed from the narrowest to the widest, each above all that stands between its ends.
    """
    tops = [float(top) for top in _tops(panel)]
    stars = {i: tops[i] for i, significant in enumerate(panel.significant) if significant}
    for i in stars:
        tops[i] += star
    # Brackets fill the gaps between bars: two that meet at a bar need not be stacked.
    gaps = [0.0] * (len(tops) - 1)
    brackets = {}
    pairs = {(min(pair), max(pair)) for pair in panel.brackets}
    for i, j in sorted(pairs, key=lambda pair: (pair[1] - pair[0], pair)):
        brackets[i, j] = max(tops[i : j + 1] + gaps[i:j])
        gaps[i:j] = [brackets[i, j] + bracket] * (j - i)
    return stars, brackets, max(tops + gaps)


def _draw_bars(axes: Axes, panel: RoiPanel, rotation: float, inch: float, step: float) -> None:
    """Bars, error bars, stars and brackets of one ROI; `inch` is the number of data units in an inch of the y axis."""
    n = len(panel.labels)
    x = np.arange(n)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#e4e4e4", lw=0.5)
    axes.bar(x, panel.unique, width=0.68, color=list(panel.colors), edgecolor="#222222", lw=0.4)
    has_error = np.isfinite(panel.se)
    axes.errorbar(
        x[has_error], panel.unique[has_error], yerr=panel.se[has_error],
        fmt="none", ecolor="#222222", elinewidth=0.7, capsize=1.6, capthick=0.7,
    )  # fmt: skip
    axes.axhline(0, color="black", lw=0.6)
    stars, brackets, _ = _stacks(panel, _STAR * inch, step * inch)
    for i, y in stars.items():
        _draw_star(axes, i, y + 0.5 * _STAR * inch)
    for (i, j), y in brackets.items():
        foot, bar = y + 0.2 * step * inch, y + 0.4 * step * inch
        axes.plot(
            [i + 0.06, i + 0.06, j - 0.06, j - 0.06], [foot, bar, bar, foot], color="black", lw=0.6, gid="bracket"
        )
        _draw_star(axes, (i + j) / 2, y + 0.7 * step * inch, min(3.6, 24 * step))
    axes.set_xlim(-0.6, n - 0.4)
    axes.spines["bottom"].set_visible(False)
    axes.locator_params(axis="y", nbins=4)
    style = {"rotation": rotation, "ha": "right", "rotation_mode": "anchor"} if rotation else {"ha": "center"}
    axes.set_xticks(x, list(panel.labels), size=_FONT["small"], **style)
    axes.tick_params(axis="x", length=0, pad=3)


def _draw_star(axes: Axes, x: float, y: float, size: float = 3.6) -> None:
    # A marker, not a "*": that glyph sits high in its line, and where is up to the reader's font.
    axes.plot([x], [y], marker=(5, 2, 0), ms=size, mew=0.7, color="black", gid="star")


# ---------------------------------------------------------------------------------------------------------------- Venn


def _has_venn(panel: RoiPanel) -> bool:
    return len(panel.labels) in (2, 3) and find_spec("matplotlib_venn") is not None


def _venn_note(panels: Sequence[RoiPanel]) -> str:
    if not any(len(panel.labels) in (2, 3) for panel in panels):
        return ""
    return VENN_NOTE if any(_has_venn(panel) for panel in panels) else NO_VENN_NOTE


def _draw_venn(axes: Axes, panel: RoiPanel) -> None:
    """Venn diagram of two or three sets, without text but for what is wrong with it; its colours are the bars'."""
    n = len(panel.labels)
    subsets = [frozenset(s) for size in range(1, n + 1) for s in combinations(range(n), size)]
    parts = {subset: panel.parts.get(subset, 0.0) for subset in subsets}
    # matplotlib-venn takes negative areas without a word and draws something else.
    areas = {subset: max(0.0, part) for subset, part in parts.items()}
    axes.set_gid("venn")
    axes.set_axis_off()
    caveats = ["clipped"] * any(part < 0 for part in parts.values())
    if not any(areas.values()):
        caveats.append("nothing left")
    else:
        error = _draw_circles(axes, areas, panel.colors)
        if error > _TOLERANCE:
            caveats.append("distorted" if np.isfinite(error) else "not drawable")
    style: dict[str, Any] = {
        "size": _FONT["small"],
        "ha": "center",
        "va": "top",
        "color": "#444444",
        "transform": axes.transAxes,
    }
    axes.text(0.5, -0.02, "\n".join(caveats), **style)


def _draw_circles(axes: Axes, areas: Mapping[frozenset[int], float], colors: Sequence[str]) -> float:
    """Draw the diagram; returns the largest error of an area as a share of the total, infinite if none can be drawn."""
    from matplotlib.colors import to_rgb
    from matplotlib_venn import venn2, venn3
    from matplotlib_venn._region import VennRegionException  # raised to callers, but exported nowhere

    n = len(colors)
    codes = {subset: "".join("01"[i in subset] for i in range(n)) for subset in areas}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bad positions: the error is measured below
        draw = venn2 if n == 2 else venn3
        try:
            diagram = draw({codes[subset]: area for subset, area in areas.items()}, ax=axes, set_labels=None)
        except VennRegionException:  # one circle would have to lie inside another's unique part
            return np.inf
    drawn = {}
    for subset, code in codes.items():
        if (text := diagram.get_label_by_id(code)) is not None:
            text.set_visible(False)
        patch = diagram.get_patch_by_id(code)
        drawn[subset] = _area(patch.get_path()) if patch is not None else 0.0
        if patch is not None:
            mixed = np.mean([to_rgb(colors[i]) for i in subset], axis=0)
            patch.set(facecolor=0.8 * mixed + 0.2, alpha=1, edgecolor="white", linewidth=0.7)
    total, total_drawn = sum(areas.values()), sum(drawn.values())
    return max(abs(drawn[subset] / total_drawn - areas[subset] / total) for subset in areas)


def _area(path: Path) -> float:
    """Area inside a path, by the shoelace formula."""
    area = 0.0
    for polygon in path.to_polygons():
        x, y = np.asarray(polygon).T
        area += abs(float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))) / 2
    return area


# ------------------------------------------------------------------------------------------------------- noise ceiling


_CEILING_COLORS = {"explained": "#3f6f8f", "noise ceiling, from lower to upper bound": "#c4c4c4"}
_CHANCE_LINE: dict[str, Any] = {"color": "#d1495b", "lw": 1.4}


def _ceiling_slot(ceiling: CeilingPanel, sheet_width: float) -> float:
    """Width of the slot of one ROI, in inches."""
    return min(0.7, (sheet_width - _Grid.left - _MARGIN) / len(ceiling.rois))


def _ceiling_names(ceiling: CeilingPanel, sheet_width: float) -> tuple[float, float]:
    """Rotation of the names of the ROIs and the height that they take, in inches."""
    widest = max(text_width(roi, _FONT["small"]) for roi in ceiling.rois)
    upright = widest > 0.9 * _ceiling_slot(ceiling, sheet_width)
    return (90, widest) if upright else (0, 0.1)


def _ceiling_height(ceiling: CeilingPanel, sheet_width: float) -> float:
    return 0.36 + 0.9 + 0.13 + _ceiling_names(ceiling, sheet_width)[1]


def _draw_ceiling(sheet: Sheet, top: float, ceiling: CeilingPanel) -> None:
    """Bars of explained variance before the band of the noise ceiling, one slot per ROI."""
    n = len(ceiling.rois)
    bar_color, band_color = _CEILING_COLORS.values()
    width = n * _ceiling_slot(ceiling, sheet.width)
    axes = sheet.figure.add_axes(sheet.rectangle(_Grid.left, top + 0.36, width, 0.9))
    x = np.arange(n)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#e4e4e4", lw=0.5)
    axes.bar(
        x,
        ceiling.upper - ceiling.lower,
        bottom=ceiling.lower,
        width=0.86,
        color=band_color,
        edgecolor="#777777",
        lw=0.4,
    )
    axes.bar(x, ceiling.explained, width=0.46, color=bar_color, edgecolor="#222222", lw=0.4)
    has_error = np.isfinite(ceiling.error)
    axes.errorbar(
        x[has_error], ceiling.explained[has_error], yerr=ceiling.error[has_error],
        fmt="none", ecolor="#222222", elinewidth=0.7, capsize=1.6, capthick=0.7,
    )  # fmt: skip
    axes.hlines(ceiling.chance, x - 0.43, x + 0.43, **_CHANCE_LINE)
    axes.axhline(0, color="black", lw=0.6)
    axes.set_xlim(-0.6, n - 0.4)
    axes.spines["bottom"].set_visible(False)
    rotation, _ = _ceiling_names(ceiling, sheet.width)
    axes.set_xticks(x, list(ceiling.rois), size=_FONT["small"], rotation=rotation)
    axes.tick_params(axis="x", length=0, pad=3)
    axes.tick_params(axis="y", labelsize=_FONT["small"])
    axes.locator_params(axis="y", nbins=5)
    axes.set_ylabel("R²", size=_FONT["text"])
    sheet.text(
        _Grid.left, top + 0.1, "Explained variance and noise ceiling", va="center", weight="bold", size=_FONT["panel"]
    )
    x_legend = _Grid.left
    for name, color in _CEILING_COLORS.items():
        sheet.swatch(x_legend, top + 0.26, color)
        sheet.text(x_legend + 0.18, top + 0.26, name, va="center", size=_FONT["text"])
        x_legend += 0.34 + text_width(name, _FONT["text"])
    sheet.line(x_legend, top + 0.26, **_CHANCE_LINE)
    sheet.text(x_legend + 0.22, top + 0.26, "chance level", va="center", size=_FONT["text"])
