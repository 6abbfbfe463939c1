"""The figure of ROIs: unique variance of every set of predictors, all parts of the variance, and the noise ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.analysis.rois import RoiFit
from utils.datasets.rois import PAPER_ROIS
from utils.plotting import venn
from utils.plotting.colors import to_published_color
from utils.plotting.page_layout import (
    FONT,
    MARGIN,
    PAGE_WIDTH,
    Band,
    Key,
    Look,
    Page,
    draw_page,
    drawing_style,
    heading,
    legend_band,
    shorten,
    text_width,
)
from utils.stats.regression import part_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patheffects import AbstractPathEffect

PARTS_NOTE = (
    "Stacked bars: unique parts in the order and colours of the bars above, then shared parts; negative parts extend "
    "below zero."
)
NO_PARTS_NOTE = "Parts of the variance are shown for two to five sets of predictors only."
# So little variance is noise: an axis that shows less would only magnify it.
_MIN_SPAN = 0.01


@dataclass(frozen=True)
class PublishedBars:
    """How the paper draws the bars of a figure: limits and ticks of the y axis, hatches by rank, colour of edges."""

    limits: tuple[float, float]
    ticks: tuple[float, ...]
    hatches: tuple[str, ...] = ()
    edge: str = "#222222"


# From the code that drew the published figures; the colours of bars are those of the networks and groups.
PUBLISHED_BARS = {
    "Fig2": PublishedBars((0.0, 0.45), (0.0, 0.1, 0.2, 0.3, 0.4), ("////", "\\\\\\\\", "||||"), "#b3b3b3"),
    "Fig3b": PublishedBars((0.0, 0.32), (0.0, 0.1, 0.2)),
}
_PUBLISHED_COLUMNS = 4


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
    stars : sequence of str, length n_sets
        "filled" where the unique variance of a set lies above the minimum effect, "hollow" where it lies above zero
        only, else "".
    brackets : sequence of (int, int)
        Pairs of sets whose unique variances differ significantly.
    total : float
        Adjusted R2 of all sets together.
    parts : mapping of frozenset of int to float
        Signed variance part of every non-empty subset of the sets, as variance partitioning gives it.
    share : float
        Total variance as a share of the explainable variance; NaN: not shown.
    """

    roi: str
    labels: Sequence[str]
    colors: Sequence[str]
    unique: NDArray[np.floating]
    se: NDArray[np.floating]
    stars: Sequence[str]
    brackets: Sequence[tuple[int, int]]
    total: float
    parts: Mapping[frozenset[int], float]
    share: float = np.nan


def roi_figure(
    panels: Sequence[RoiPanel],
    look: Look,
    note: str,
    *,
    legend: Mapping[str, str],
    ceiling: pd.DataFrame | None = None,
    figure: str = "Fig2",
) -> Figure:
    """Grid of ROI panels, row by row: bars with error bars, stars and brackets; then all parts of the variance.

    Parameters
    ----------
    panels : sequence of RoiPanel, at least one
        Panels in reading order. All share one y axis.
    look : Look
        Its style "paper" has the published colours, hatches, order of ROIs, columns and limits of the y axis. The axis
        is extended, and the note says so, where something would else be cut off.
    note : str
        The small print below (what stars and error bars mean, number of permutations).
    legend : mapping of str to str
        Names and colours explained below the title; may be empty.
    ceiling : DataFrame, optional
        Adds a wide panel below. One row per ROI, whose name is the index, with R2 in all columns: explained and error
        (half length of its error bar), lower and upper (the noise ceiling; squared, as its bounds are correlations),
        chance (what unrelated networks would explain). NaN where there is none.
    figure : str
        A key of `PUBLISHED_BARS`: the figure of the paper whose bars the style "paper" has.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot. Stars, brackets, the parts of stacked bars and the axes of Venn diagrams carry the
        labels "star", "bracket", "part" and "venn".
    """
    published = PUBLISHED_BARS[figure] if look.style == "paper" else None
    if published:
        panels, legend, ceiling = _published_look(panels, legend, ceiling)
    with drawing_style():
        grid = _Grid.of(panels, published is not None)
        y_axis = _YAxis.of(panels, grid.bars_height, published)
        parts, parts_note = _parts(panels, grid.width)
        keys = [Key(name, (color,)) for name, color in legend.items()]
        if grid.stars == _FILLED_OR_HOLLOW:
            keys += [Key(name, marker=grid.stars[star]) for star, name in _STAR_NAMES.items()]
        bands = [
            legend_band(keys, grid.width),
            heading("Unique variance (adjusted R²)"),
            grid.band(panels, y_axis, published),
            *parts,
            *(_ceiling(ceiling, grid.width) if ceiling is not None else []),
        ]
        notes = [note, parts_note, y_axis.note(published) if published else ""]
        return draw_page(bands, look, " ".join(filter(None, notes)), grid.width)


def _published_look(
    panels: Sequence[RoiPanel], legend: Mapping[str, str], ceiling: pd.DataFrame | None
) -> tuple[list[RoiPanel], dict[str, str], pd.DataFrame | None]:
    """The same in the colours of the paper and in its order of ROIs, those that it does not have last."""

    def position(roi: str) -> int:
        return PAPER_ROIS.index(roi) if roi in PAPER_ROIS else len(PAPER_ROIS)

    panels = [replace(panel, colors=[to_published_color(color) for color in panel.colors]) for panel in panels]
    legend = {name: to_published_color(color) for name, color in legend.items()}
    if ceiling is not None:
        ceiling = ceiling.sort_index(key=lambda rois: rois.map(position), kind="stable")
    return sorted(panels, key=lambda panel: position(panel.roi)), legend, ceiling


@dataclass(frozen=True)
class _Grid:
    """Sizes in inches of a grid of panels, and how the names of the sets are written below the bars."""

    n_columns: int
    n_rows: int
    width: float
    cell: float
    names: list[list[str]]
    names_height: float
    rotation: float
    title: float
    stars: Mapping[str, Mapping[str, Any]]

    left = 0.42
    bars_height = 0.8
    gap = 0.08

    @classmethod
    def of(cls, panels: Sequence[RoiPanel], as_published: bool) -> _Grid:
        n = len(panels)
        n_rows = -(-n // (_PUBLISHED_COLUMNS if n <= 16 or as_published else 5))
        n_columns = min(n, _PUBLISHED_COLUMNS) if as_published else -(-n // n_rows)
        width = PAGE_WIDTH if n_columns > 3 else max(4.6, 0.8 + 2.0 * n_columns)
        cell = min(2.3, (width - cls.left - MARGIN) / n_columns)
        slot = (cell - cls.gap) / (max(len(panel.labels) for panel in panels) + 0.1)
        names = [[_in_two_lines(label, slot) for label in panel.labels] for panel in panels]
        # Where all stars are filled there is nothing to tell apart: they are drawn as in the published figures.
        stars = _FILLED_OR_HOLLOW if any("hollow" in panel.stars for panel in panels) else _FILLED
        title = 0.22 + _SHARE * any(np.isfinite(panel.share) for panel in panels)
        if all(_fit_side_by_side(own, slot) for own in names):
            lines = max(name.count("\n") + 1 for own in names for name in own)
            return cls(n_columns, n_rows, width, cell, names, 0.1 + 0.1 * lines, 0.0, title, stars)
        # Slanted names end below their bars and reach to the left, at most to the edge of the page.
        longest = min(0.9, (cls.left + 0.5 * slot - 0.06) / 0.71)
        names = [[shorten(label, longest, FONT["small"]) for label in panel.labels] for panel in panels]
        widest = max(text_width(name, FONT["small"]) for own in names for name in own)
        return cls(n_columns, n_rows, width, cell, names, 0.17 + 0.71 * widest, 45.0, title, stars)

    def band(self, panels: Sequence[RoiPanel], y_axis: _YAxis, published: PublishedBars | None) -> Band:
        row_height = self.title + self.bars_height + self.names_height

        def draw(page: Page, top: float) -> None:
            for number, (panel, names) in enumerate(zip(panels, self.names, strict=True)):
                row, column = divmod(number, self.n_columns)
                x, y = self.left + column * self.cell, top + row * row_height + self.title
                box = page.rectangle(x, y, self.cell - self.gap, self.bars_height)
                axes = page.figure.add_axes(box)
                _draw_bars(axes, panel, y_axis, published, self.stars)
                slant: dict[str, Any] = {"rotation": self.rotation, "ha": "right", "rotation_mode": "anchor"}
                axes.set_xticks(range(len(names)), names, size=FONT["small"], **(slant if self.rotation else {}))
                axes.tick_params(axis="y", labelleft=column == 0, labelsize=FONT["small"])
                pad = 4 + 72 * (self.title - 0.22)
                axes.set_title(self._panel_title(panel), loc="left", size=FONT["panel"], weight="bold", pad=pad)
                if np.isfinite(panel.share):
                    text = f"{round(100 * panel.share):d} % of explainable variance".replace("-", "\N{MINUS SIGN}")
                    page.text(x, y - 0.04, text, size=FONT["small"], color="#444444")

        return Band(self.n_rows * row_height + 0.05, draw)

    def _panel_title(self, panel: RoiPanel) -> str:
        total = f": R² = {round(panel.total, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")  # + 0.0: never "-0.00"
        room = self.cell - self.gap - text_width(total, FONT["panel"], bold=True)
        return shorten(panel.roi, room, FONT["panel"], bold=True) + total


def _in_two_lines(label: str, slot: float) -> str:
    """The label, broken at the blank that makes it narrowest if it is wider than its slot."""
    if text_width(label, FONT["small"]) <= slot - 0.04:
        return label
    words = label.split()
    broken = [" ".join(words[:i]) + "\n" + " ".join(words[i:]) for i in range(1, len(words))]
    return min([label, *broken], key=_lines_width)


def _lines_width(text: str) -> float:
    return max(text_width(line, FONT["small"]) for line in text.split("\n"))


def _fit_side_by_side(names: Sequence[str], slot: float) -> bool:
    widths = [_lines_width(name) for name in names]
    inside = max(widths[0], widths[-1]) <= 1.2 * slot
    return inside and all((a + b) / 2 + 0.03 <= slot for a, b in pairwise(widths))


# Heights in inches, from the top of what lies below.
_STAR = 0.09
_SHARE = 0.12  # line below the title of a panel
# Stars are markers, not a "*": that glyph sits high in its line, and where is up to the reader's font.
_ASTERISK: dict[str, Any] = {"marker": (5, 2, 0), "ms": 3.6, "mew": 0.7, "color": "black", "label": "star"}
_FILLED = {"filled": _ASTERISK}
_FIVE_POINTED: dict[str, Any] = {"marker": "*", "ms": 5.6, "mew": 0.5, "color": "black", "label": "star"}
_FILLED_OR_HOLLOW = {"filled": _FIVE_POINTED, "hollow": {**_FIVE_POINTED, "markerfacecolor": "white"}}
_STAR_NAMES = {"filled": "above the minimum effect", "hollow": "above zero only"}
_BRACKET = 0.12


@dataclass(frozen=True)
class _YAxis:
    """Limits of the y axis that all panels share, data units in an inch of it, and the height of a bracket in inches.

    Stars and brackets have a size on paper, so their size in data units depends on the limits, which depend on them:
    the limits are widened until everything fits.
    """

    low: float
    high: float
    inch: float
    bracket: float

    @classmethod
    def of(cls, panels: Sequence[RoiPanel], height: float, published: PublishedBars | None) -> _YAxis:
        low = min(0.0, *(float(np.nanmin(panel.unique - np.nan_to_num(panel.se))) for panel in panels))
        high = max(low + _MIN_SPAN, *(float(_tops(panel).max()) for panel in panels))
        low -= 0.03 * (high - low) * (low < 0)
        # Many sets make many brackets: squeeze them rather than the bars.
        most = max(len(panel.brackets) for panel in panels)
        bracket = min(_BRACKET, 0.6 * height / max(1, most))
        least = high = max(high, published.limits[1]) if published else high
        for _ in range(100):
            inch = (high - low) / height
            high = max(least, *(_stacks(panel, _STAR * inch, bracket * inch)[2] + 0.02 * inch for panel in panels))
        return cls(low, high, (high - low) / height, bracket)

    def keeps(self, published: PublishedBars) -> bool:
        """Whether these are the published limits."""
        return self.low >= published.limits[0] and self.high <= published.limits[1] + 1e-9

    def note(self, published: PublishedBars) -> str:
        """What of the published limits could not be kept."""
        if self.keeps(published):
            return ""
        low, high = published.limits
        return f"The published y axis, {low:g} to {high:g}, is extended here: it would cut off some of these data."


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
    stars = {i: tops[i] for i, kind in enumerate(panel.stars) if kind}
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


def _draw_bars(
    axes: Axes,
    panel: RoiPanel,
    y_axis: _YAxis,
    published: PublishedBars | None,
    markers: Mapping[str, Mapping[str, Any]],
) -> None:
    """Bars, error bars, stars and brackets of one ROI."""
    n = len(panel.labels)
    x = np.arange(n)
    _prepare(axes)
    axes.set(xlim=(-0.55, n - 0.45), ylim=(y_axis.low, y_axis.high))
    edge, hatches = "#222222", [""] * n
    if published:
        edge = published.edge
        hatches = [published.hatches[i % len(published.hatches)] if published.hatches else "" for i in range(n)]
        if y_axis.keeps(published):
            axes.set_yticks(published.ticks)
    axes.bar(x, panel.unique, width=0.68, color=list(panel.colors), edgecolor=edge, lw=0.4, hatch=hatches)
    _draw_errors(axes, panel.unique, panel.se)
    star, bracket = _STAR * y_axis.inch, y_axis.bracket * y_axis.inch
    stars, brackets, _ = _stacks(panel, star, bracket)
    for i, y in stars.items():
        axes.plot([i], [y + 0.5 * star], **markers[panel.stars[i]])
    for (i, j), y in brackets.items():
        foot, bar = y + 0.2 * bracket, y + 0.4 * bracket
        left, right = i + 0.06, j - 0.06
        axes.plot([left, left, right, right], [foot, bar, bar, foot], color="black", lw=0.6, label="bracket")
        size = min(_ASTERISK["ms"], 24 * y_axis.bracket)
        axes.plot([(i + j) / 2], [y + 0.7 * bracket], **{**_ASTERISK, "ms": size})


def _prepare(axes: Axes) -> None:
    """What all panels share: a line at zero, and a grid behind."""
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#e4e4e4", lw=0.5)
    axes.axhline(0, color="black", lw=0.6)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0, pad=3)
    axes.tick_params(axis="y", labelsize=FONT["small"])
    axes.locator_params(axis="y", nbins=5)


def _draw_errors(axes: Axes, values: NDArray[np.floating], errors: NDArray[np.floating]) -> None:
    known = np.flatnonzero(np.isfinite(errors) & np.isfinite(values))
    _, caps, bars = axes.errorbar(
        known, values[known], yerr=errors[known],
        fmt="none", ecolor="#222222", elinewidth=0.7, capsize=1.6, capthick=0.7,
    )  # fmt: skip
    for line in (*caps, *bars):
        line.set_path_effects(_white_edge(0.7))


def _white_edge(lw: float) -> list[AbstractPathEffect]:
    """What makes a line of width `lw` stand out from a bar as dark as itself."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=lw + 0.7, foreground="white")]


@dataclass(frozen=True)
class _Row:
    """ROIs side by side, in inches: the width of their slots, and how their names are written."""

    names: list[str]
    slot: float
    rotation: float
    names_height: float

    @classmethod
    def of(cls, rois: Sequence[str], n_slots: int, page_width: float) -> _Row:
        slot = min(0.7, (page_width - _Grid.left - MARGIN) / n_slots)
        if max(text_width(roi, FONT["small"]) for roi in rois) <= 0.95 * slot:
            return cls(list(rois), slot, 0.0, 0.13)
        names = [shorten(roi, 1.0, FONT["small"]) for roi in rois]
        return cls(names, slot, 90.0, 0.1 + max(text_width(name, FONT["small"]) for name in names))

    def add_axes(self, page: Page, top: float, height: float) -> Axes:
        n = len(self.names)
        axes = page.figure.add_axes(page.rectangle(_Grid.left, top, n * self.slot, height))
        _prepare(axes)
        axes.set_xlim(-0.5, n - 0.5)
        axes.set_xticks(range(n), self.names, size=FONT["small"], rotation=self.rotation)
        return axes


_MAX_SETS = 5
_PER_ROW = 16
_TOTAL_LINE: dict[str, Any] = {"color": "black", "lw": 1.1}


def _parts(panels: Sequence[RoiPanel], page_width: float) -> tuple[list[Band], str]:
    """Signed stacked bars of all ROIs, each below its Venn diagram, and a note on them.

    A shared part is divided from left to right among the colours of its sets. Unlike areas of circles, the bars show
    every part at its size, negative ones too, and all ROIs on one axis.
    """
    n_sets = max(len(panel.labels) for panel in panels)
    if not 2 <= n_sets <= _MAX_SETS:
        return [], NO_PARTS_NOTE if n_sets > 1 else ""
    greys = [str(grey) for grey in np.linspace(0.35, 0.9, n_sets).round(2)]
    names = ["unique to one", *(f"shared by {count}" for count in ("two", "three", "four", "five"))]
    keys = [Key(names[i], tuple(greys[: i + 1])) for i in range(n_sets)]
    keys.append(Key("total: the sum of all parts", line=_TOTAL_LINE))
    note, with_circles = PARTS_NOTE, any(venn.can_draw(len(panel.labels)) for panel in panels)
    if with_circles:
        note = f"{PARTS_NOTE} {venn.NOTE if venn.is_installed() else venn.MISSING_NOTE}"
    per_row = -(-len(panels) // -(-len(panels) // _PER_ROW))
    limits = _parts_limits(panels)
    bands = [heading("All parts of the variance (adjusted R²)"), legend_band(keys, page_width, below=0.05)]
    for start in range(0, len(panels), per_row):
        own = panels[start : start + per_row]
        row = _Row.of([panel.roi for panel in own], per_row, page_width)
        circles = min(0.5, 0.96 * row.slot) if with_circles and venn.is_installed() else 0.0
        bands.append(_parts_row(own, row, limits, circles))
    return bands, note


def _parts_row(panels: Sequence[RoiPanel], row: _Row, limits: tuple[float, float], circles: float) -> Band:
    bars_height, words_height = 0.9, 0.2
    above = circles + words_height if circles else 0.0

    def draw(page: Page, top: float) -> None:
        axes = row.add_axes(page, top + above, bars_height)
        axes.set_ylim(limits)
        for i, panel in enumerate(panels):
            _draw_stack(axes, i, panel)
            if circles and venn.can_draw(len(panel.labels)):
                _draw_circles(page, _Grid.left + (i + 0.5) * row.slot, top, circles, panel)
        x = np.arange(len(panels))
        axes.hlines([panel.total for panel in panels], x - 0.42, x + 0.42, **_TOTAL_LINE)

    return Band(above + bars_height + row.names_height + 0.1, draw)


def _draw_circles(page: Page, middle: float, top: float, size: float, panel: RoiPanel) -> None:
    box = page.rectangle(middle - size / 2, top, size, size)
    wrong = venn.draw(page.figure.add_axes(box, label="venn"), panel.parts, panel.colors)
    style = {"ha": "center", "va": "top", "size": FONT["small"], "color": "#444444", "linespacing": 1.0}
    page.text(middle, top + size + 0.01, "\n".join(wrong), **style)


def _parts_limits(panels: Sequence[RoiPanel]) -> tuple[float, float]:
    """Lower and upper end of the longest stacks, with a margin."""
    signed = [np.array(list(panel.parts.values())) for panel in panels]
    low = min(0.0, *(float(parts[parts < 0].sum()) for parts in signed), *(panel.total for panel in panels))
    high = max(low + _MIN_SPAN, *(float(parts[parts > 0].sum()) for parts in signed))
    margin = 0.04 * (high - low)
    return low - margin * (low < 0), high + margin


def _draw_stack(axes: Axes, x: float, panel: RoiPanel, width: float = 0.66) -> None:
    """All parts of one ROI on top of each other, positive ones upwards from zero and negative ones downwards."""
    ends = {True: 0.0, False: 0.0}
    for subset in map(frozenset, part_names(len(panel.labels))):
        part = panel.parts.get(subset, 0.0)
        bottom = ends[part > 0]
        ends[part > 0] += part
        share = width / len(subset)
        for k, member in enumerate(sorted(subset)):
            left = x - width / 2 + k * share
            axes.bar(left, part, share, bottom=bottom, align="edge", color=panel.colors[member], lw=0)
        (outline,) = axes.bar(x, part, width, bottom=bottom, facecolor="none", edgecolor="white", lw=0.25)
        outline.set_label("part")
    for end in ends.values():
        axes.bar(x, end, width, facecolor="none", edgecolor="#222222", lw=0.4)


_CHANCE_LINE: dict[str, Any] = {"color": "#d1495b", "lw": 1.4}


def _ceiling(ceiling: pd.DataFrame, page_width: float) -> list[Band]:
    """Bars of explained variance before the band of the noise ceiling, one slot per ROI."""
    colors = {"explained": "#3f6f8f", "noise ceiling, from lower to upper bound": "#c4c4c4"}
    keys = [Key(name, (color,)) for name, color in colors.items()] + [Key("chance level", line=_CHANCE_LINE)]
    row = _Row.of(list(ceiling.index), len(ceiling), page_width)
    bars_height = 0.8

    def draw(page: Page, top: float) -> None:
        axes = row.add_axes(page, top, bars_height)
        bar, band = colors.values()
        x = np.arange(len(ceiling))
        span = ceiling["upper"] - ceiling["lower"]
        axes.bar(x, span, bottom=ceiling["lower"], width=0.86, color=band, edgecolor="#777777", lw=0.4)
        axes.bar(x, ceiling["explained"], width=0.46, color=bar, edgecolor="#222222", lw=0.4)
        _draw_errors(axes, ceiling["explained"].to_numpy(), ceiling["error"].to_numpy())
        chance = axes.hlines(ceiling["chance"], x - 0.43, x + 0.43, **_CHANCE_LINE)
        chance.set_path_effects(_white_edge(_CHANCE_LINE["lw"]))

    return [
        heading("Explained variance and noise ceiling (R²)"),
        legend_band(keys, page_width, below=0.05),
        Band(bars_height + row.names_height + 0.05, draw),
    ]


def roi_panels(fit: RoiFit, colors: Mapping[str, str]) -> list[RoiPanel]:
    """What the figure shows of each ROI.

    Parameters
    ----------
    fit : RoiFit
    colors : mapping of str to str
        Colours of the models, by their keys.

    Returns
    -------
    list of RoiPanel
    """
    partition, differences = fit.partition, fit.differences
    parts = [frozenset(part) for part in part_names(len(partition.sets))]
    # A single subject has no reliability, and shares of it are shares of the whole variance.
    known = np.isfinite(partition.reliability) & (not fit.settings.as_published)
    shares, stars = np.where(known, partition.total_share, np.nan), fit.stars
    panels = []
    for i, name in enumerate(fit.rois.names):
        members = [fit.models.models[k] for k in partition.sets[:, i]]
        differ = differences.q[:, i] <= fit.settings.alpha
        panels.append(
            RoiPanel(
                roi=name,
                labels=[model.label for model in members],
                colors=[colors[model.key] for model in members],
                unique=partition.unique[:, i],
                se=partition.se[:, i],
                stars=stars[:, i].tolist(),
                brackets=[pair for pair, differs in zip(differences.pairs, differ, strict=True) if differs],
                total=float(partition.total[i]),
                parts=dict(zip(parts, partition.parts[:, i].tolist(), strict=True)),
                share=float(shares[i]),
            )
        )
    return panels
