"""From results to what is drawn: the panels of ROIs, and the maps of the brain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.tasks import to_published_color
from utils.analysis.rois import RoiFit
from utils.datasets.rois import PAPER_ROIS
from utils.plotting import venn
from utils.plotting.page_layout import FONT, MARGIN, PAGE_WIDTH, Sheet, Style, drawing_style, shorten, text_width
from utils.stats.regression import part_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patheffects import AbstractPathEffect


def roi_panels(fit: RoiFit, alpha: float) -> list[RoiPanel]:
    """What the figure shows of each ROI.

    Parameters
    ----------
    fit : RoiFit
    alpha : float
        Level of significance of stars and brackets.

    Returns
    -------
    list of RoiPanel
    """
    partition, test = fit.partition, fit.test
    parts = [frozenset(part) for part in part_names(len(partition.sets))]
    panels = []
    for i, name in enumerate(fit.rois.names):
        members = [fit.models.models[k] for k in partition.sets[:, i]]
        differ = test.q_difference[:, i] <= alpha
        panels.append(
            RoiPanel(
                roi=name,
                labels=[model.label for model in members],
                colors=[model.color for model in members],
                unique=partition.unique[:, i],
                se=partition.se[:, i],
                significant=list(test.q[:, i] <= alpha),
                brackets=[pair for pair, differs in zip(test.pairs, differ, strict=True) if differs],
                total=float(partition.total[i]),
                parts=dict(zip(parts, partition.parts[:, i].tolist(), strict=True)),
            )
        )
    return panels


PARTS_NOTE = (
    "Stacked bars: unique parts in the order and colours of the bars above, then shared parts; negative parts stand "
    "below zero."
)
NO_PARTS_NOTE = "The parts of the variance are drawn for two to five sets."
# What is known of the axes of the paper: those of its Fig 2b. Fig 3b is drawn alike; its axes are not known.
_PUBLISHED_LIMITS = (0.0, 0.45)
_PUBLISHED_COLUMNS = 4
# So little variance is noise: an axis that shows less would only magnify it.
_MIN_SPAN = 0.01


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
        Bounds of the noise ceiling as R2 (NaN: none): bounds that are correlations must be squared.
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
    ceiling: CeilingPanel | None = None,
    banner: str | None = None,
    style: Style = "default",
) -> Figure:
    """Grid of ROI panels, row by row: bars with error bars, stars and brackets; then all parts of the variance.

    Parameters
    ----------
    panels : sequence of RoiPanel, at least one
        Panels in reading order. All share one y axis.
    title, note : str
        Heading, and the small print below (what stars and error bars mean, number of permutations).
    legend : mapping of str to str
        Names and colours explained below the title; may be empty.
    ceiling : CeilingPanel, optional
        Adds a wide panel below.
    banner : str, optional
        Warning across the top of the figure, such as that the data are simulated.
    style : {"default", "paper"}
        "paper" has the published colours, order of ROIs, columns, limits of the y axis. The
        axis is made longer, and the note says so, where something would else be cut.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot. Stars, brackets, the parts of stacked bars and the axes of Venn diagrams carry the
        labels "star", "bracket", "part" and "venn".
    """
    if style == "paper":
        panels, legend, ceiling = _published_look(panels, legend, ceiling)
    with drawing_style():
        grid = _Grid.of(panels, style)
        y_axis = _y_axis(panels, grid.bars_height, style)
        keys = [_Key(name, (color,)) for name, color in legend.items()]
        parts = _PartsBlock.of(panels, grid.width)
        notes = [note, parts.note, _limits_note(y_axis) if style == "paper" else ""]
        body = _keys_height(keys, grid.width) + grid.height + parts.height
        sheet = Sheet.new(
            grid.width,
            body + (_ceiling_height(ceiling, grid.width) if ceiling else 0.0),
            title=title,
            note=" ".join(filter(None, notes)),
            banner=banner,
        )
        top = sheet.top
        _draw_keys(sheet, top, keys)
        top += _keys_height(keys, grid.width)
        _draw_grid(sheet, top, grid, panels, y_axis)
        top += grid.height
        parts.draw(sheet, top, panels)
        top += parts.height
        if ceiling:
            _draw_ceiling(sheet, top, ceiling)
        return sheet.figure


def _published_look(
    panels: Sequence[RoiPanel], legend: Mapping[str, str], ceiling: CeilingPanel | None
) -> tuple[list[RoiPanel], dict[str, str], CeilingPanel | None]:
    """The same in the colours of the paper and in its order of ROIs, those that it does not have last."""

    def position(roi: str) -> int:
        return PAPER_ROIS.index(roi) if roi in PAPER_ROIS else len(PAPER_ROIS)

    panels = [replace(panel, colors=[to_published_color(color) for color in panel.colors]) for panel in panels]
    legend = {name: to_published_color(color) for name, color in legend.items()}
    if ceiling is not None:
        rois = ceiling.rois
        order = sorted(range(len(rois)), key=lambda i: position(rois[i]))
        values = (ceiling.explained, ceiling.error, ceiling.lower, ceiling.upper, ceiling.chance)
        ceiling = CeilingPanel([rois[i] for i in order], *(value[order] for value in values))
    return sorted(panels, key=lambda panel: position(panel.roi)), legend, ceiling


@dataclass(frozen=True)
class _Key:
    """An entry of a legend: a patch divided among its colours, or a line."""

    name: str
    colors: tuple[str, ...] = ()
    line: Mapping[str, Any] | None = None


_KEYS_LINE = 0.17


def _keys_rows(keys: Sequence[_Key], sheet_width: float) -> list[list[tuple[_Key, str, float]]]:
    """Entries with what is written and their x position in inches, broken into rows."""
    rows: list[list[tuple[_Key, str, float]]] = [[]] if keys else []
    x = MARGIN
    for key in keys:
        name = shorten(key.name, sheet_width - 2 * MARGIN - 0.18, FONT["text"])
        step = 0.18 + text_width(name, FONT["text"]) + 0.16
        if rows[-1] and x + step > sheet_width:
            rows.append([])
            x = MARGIN
        rows[-1].append((key, name, x))
        x += step
    return rows


def _keys_height(keys: Sequence[_Key], sheet_width: float) -> float:
    return _KEYS_LINE * len(_keys_rows(keys, sheet_width))


def _draw_keys(sheet: Sheet, top: float, keys: Sequence[_Key]) -> None:
    for i, row in enumerate(_keys_rows(keys, sheet.width)):
        y = top + 0.06 + _KEYS_LINE * i
        for key, name, x in row:
            if key.line is None:
                sheet.swatch(x, y, *key.colors)
            else:
                sheet.line(x, y, **key.line)
            sheet.text(x + 0.18, y, name, va="center", size=FONT["text"])


def _draw_heading(sheet: Sheet, top: float, heading: str) -> None:
    sheet.text(MARGIN, top + 0.1, heading, va="center", weight="bold", size=FONT["panel"])


_HEADING = 0.22


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

    left = 0.42
    title = 0.22
    bars_height = 0.8
    gap = 0.08

    @property
    def bars(self) -> float:
        return self.cell - self.gap

    @property
    def row(self) -> float:
        return self.title + self.bars_height + self.names_height

    @property
    def height(self) -> float:
        return _HEADING + self.n_rows * self.row + 0.05

    @classmethod
    def of(cls, panels: Sequence[RoiPanel], style: Style) -> _Grid:
        n = len(panels)
        n_rows = -(-n // (_PUBLISHED_COLUMNS if n <= 16 or style == "paper" else 5))
        n_columns = min(n, _PUBLISHED_COLUMNS) if style == "paper" else -(-n // n_rows)
        width = PAGE_WIDTH if n_columns > 3 else max(4.6, 0.8 + 2.0 * n_columns)
        cell = min(2.3, (width - cls.left - MARGIN) / n_columns)
        slot = (cell - cls.gap) / (max(len(panel.labels) for panel in panels) + 0.1)
        names = [[_in_two_lines(label, slot) for label in panel.labels] for panel in panels]
        if all(_fit_side_by_side(own, slot) for own in names):
            lines = max(name.count("\n") + 1 for own in names for name in own)
            return cls(n_columns, n_rows, width, cell, names, 0.1 + 0.1 * lines, 0.0)
        # Slanted names end below their bars and reach to the left, at most to the edge of the page.
        longest = min(0.9, (cls.left + 0.5 * slot - 0.06) / 0.71)
        names = [[shorten(label, longest, FONT["small"]) for label in panel.labels] for panel in panels]
        widest = max(text_width(name, FONT["small"]) for own in names for name in own)
        return cls(n_columns, n_rows, width, cell, names, 0.17 + 0.71 * widest, 45.0)


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


_YAxis = tuple[float, float, float]


def _draw_grid(sheet: Sheet, top: float, grid: _Grid, panels: Sequence[RoiPanel], y_axis: _YAxis) -> None:
    low, high, step = y_axis
    _draw_heading(sheet, top, "Unique variance (adjusted R²)")
    for number, (panel, names) in enumerate(zip(panels, grid.names, strict=True)):
        row, column = divmod(number, grid.n_columns)
        x, y = grid.left + column * grid.cell, top + _HEADING + row * grid.row + grid.title
        axes = sheet.figure.add_axes(sheet.rectangle(x, y, grid.bars, grid.bars_height))
        axes.set_ylim(low, high)
        _draw_bars(axes, panel, (high - low) / grid.bars_height, step)
        slant: dict[str, Any] = {"rotation": grid.rotation, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(names)), names, size=FONT["small"], **(slant if grid.rotation else {}))
        axes.tick_params(axis="y", labelleft=column == 0, labelsize=FONT["small"])
        total = f": R² = {round(panel.total, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")  # + 0.0: never "-0.00"
        room = grid.bars - text_width(total, FONT["panel"], bold=True)
        roi = shorten(panel.roi, room, FONT["panel"], bold=True)
        axes.set_title(roi + total, loc="left", size=FONT["panel"], weight="bold", pad=4)


# Heights in inches, from the top of what lies below.
_STAR = 0.09
_BRACKET = 0.12


def _y_axis(panels: Sequence[RoiPanel], height: float, style: Style) -> _YAxis:
    """Limits of the y axis that all panels share, with room for stars and brackets, and the height of a bracket.

    Stars and brackets have a size on paper, so their size in data units depends on the limits, which depend on them:
    the limits are widened until everything fits.
    """
    low = min(0.0, *(float(np.nanmin(panel.unique - np.nan_to_num(panel.se))) for panel in panels))
    bars = max(low + _MIN_SPAN, *(float(_tops(panel).max()) for panel in panels))
    low -= 0.03 * (bars - low) * (low < 0)
    # Many sets make many brackets: squeeze them rather than the bars.
    most = max(len(panel.brackets) for panel in panels)
    step = min(_BRACKET, 0.6 * height / max(1, most))
    high = max(bars, _PUBLISHED_LIMITS[1]) if style == "paper" else bars
    least = high
    for _ in range(100):
        inch = (high - low) / height
        high = max(least, *(_stacks(panel, _STAR * inch, step * inch)[2] + 0.02 * inch for panel in panels))
    return low, high, step


def _limits_note(y_axis: _YAxis) -> str:
    """What of the published limits of the y axis could not be kept."""
    bottom, top = _PUBLISHED_LIMITS
    low, high, _ = y_axis
    if low >= bottom and high <= top + 1e-9:
        return ""
    return (
        f"The y axis of the paper, {bottom:g} to {top:g}, is made longer here: it would cut off what these data show."
    )


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


def _draw_bars(axes: Axes, panel: RoiPanel, inch: float, step: float) -> None:
    """Bars, error bars, stars and brackets of one ROI; `inch` is the number of data units in an inch of the y axis."""
    x = np.arange(len(panel.labels))
    _prepare(axes, len(x), n_ticks=5)
    axes.set_xlim(-0.55, len(x) - 0.45)
    axes.bar(x, panel.unique, width=0.68, color=list(panel.colors), edgecolor="#222222", lw=0.4)
    _draw_errors(axes, panel.unique, panel.se)
    stars, brackets, _ = _stacks(panel, _STAR * inch, step * inch)
    for i, y in stars.items():
        _draw_star(axes, i, y + 0.5 * _STAR * inch)
    for (i, j), y in brackets.items():
        foot, bar = y + 0.2 * step * inch, y + 0.4 * step * inch
        left, right = i + 0.06, j - 0.06
        axes.plot([left, left, right, right], [foot, bar, bar, foot], color="black", lw=0.6, label="bracket")
        _draw_star(axes, (i + j) / 2, y + 0.7 * step * inch, min(3.6, 24 * step))


def _prepare(axes: Axes, n: int, n_ticks: int) -> None:
    """What all panels share: a slot per bar, a line at zero, and a grid behind."""
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#e4e4e4", lw=0.5)
    axes.axhline(0, color="black", lw=0.6)
    axes.set_xlim(-0.6, n - 0.4)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0, pad=3)
    axes.tick_params(axis="y", labelsize=FONT["small"])
    axes.locator_params(axis="y", nbins=n_ticks)


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


def _draw_star(axes: Axes, x: float, y: float, size: float = 3.6) -> None:
    # A marker, not a "*": that glyph sits high in its line, and where is up to the reader's font.
    axes.plot([x], [y], marker=(5, 2, 0), ms=size, mew=0.7, color="black", label="star")


@dataclass(frozen=True)
class _Columns:
    """A row of ROIs side by side, in inches: the width of their slots, and how their names are written."""

    names: list[str]
    slot: float
    rotation: float
    names_height: float

    @classmethod
    def of(cls, rois: Sequence[str], n_slots: int, sheet_width: float) -> _Columns:
        slot = min(0.7, (sheet_width - _Grid.left - MARGIN) / n_slots)
        if max(text_width(roi, FONT["small"]) for roi in rois) <= 0.95 * slot:
            return cls(list(rois), slot, 0.0, 0.13)
        names = [shorten(roi, 1.0, FONT["small"]) for roi in rois]
        return cls(names, slot, 90.0, 0.1 + max(text_width(name, FONT["small"]) for name in names))

    def add_axes(self, sheet: Sheet, top: float, height: float, n_ticks: int) -> Axes:
        box = sheet.rectangle(_Grid.left, top, len(self.names) * self.slot, height)
        axes = sheet.figure.add_axes(box)
        _prepare(axes, len(self.names), n_ticks)
        axes.set_xlim(-0.5, len(self.names) - 0.5)
        axes.set_xticks(range(len(self.names)), self.names, size=FONT["small"], rotation=self.rotation)
        return axes


_MAX_SETS = 5
_PER_ROW = 16
_TOTAL_LINE: dict[str, Any] = {"color": "black", "lw": 1.1}


@dataclass(frozen=True)
class _PartsBlock:
    """Sizes in inches of the signed stacked bars of all ROIs, each below its Venn diagram; no rows if nothing is drawn.

    A shared part is divided from left to right among the colours of its sets. Unlike areas of circles, the bars show
    every part at its size, negative ones too, and all ROIs on one axis.
    """

    rows: list[_Columns]
    keys: list[_Key]
    sheet_width: float
    circles: float
    note: str

    bars_height = 0.9
    words_height = 0.2

    @classmethod
    def of(cls, panels: Sequence[RoiPanel], sheet_width: float) -> _PartsBlock:
        n_sets = max(len(panel.labels) for panel in panels)
        if not 2 <= n_sets <= _MAX_SETS:
            return cls([], [], sheet_width, 0.0, NO_PARTS_NOTE if n_sets > 1 else "")
        n_rows = -(-len(panels) // _PER_ROW)
        per_row = -(-len(panels) // n_rows)
        rois = [panel.roi for panel in panels]
        rows = [_Columns.of(rois[i : i + per_row], per_row, sheet_width) for i in range(0, len(rois), per_row)]
        greys = [str(grey) for grey in np.linspace(0.35, 0.9, n_sets).round(2)]
        names = ["unique to one", *(f"shared by {count}" for count in ("two", "three", "four", "five"))]
        keys = [_Key(names[i], tuple(greys[: i + 1])) for i in range(n_sets)]
        keys.append(_Key("total: the sum of all parts", line=_TOTAL_LINE))
        has_circles = any(venn.can_draw(len(panel.labels)) for panel in panels)
        if not has_circles:
            return cls(rows, keys, sheet_width, 0.0, PARTS_NOTE)
        if not venn.is_installed():
            return cls(rows, keys, sheet_width, 0.0, f"{PARTS_NOTE} {venn.MISSING_NOTE}")
        return cls(rows, keys, sheet_width, min(0.5, 0.96 * rows[0].slot), f"{PARTS_NOTE} {venn.NOTE}")

    @property
    def height(self) -> float:
        if not self.rows:
            return 0.0
        return self._head + sum(self._row_height(columns) for columns in self.rows)

    @property
    def _head(self) -> float:
        return _HEADING + _keys_height(self.keys, self.sheet_width) + 0.05

    def _row_height(self, columns: _Columns) -> float:
        return self._above_bars + self.bars_height + columns.names_height + 0.1

    @property
    def _above_bars(self) -> float:
        return self.circles + self.words_height if self.circles else 0.0

    def draw(self, sheet: Sheet, top: float, panels: Sequence[RoiPanel]) -> None:
        if not self.rows:
            return
        _draw_heading(sheet, top, "All parts of the variance (adjusted R²)")
        _draw_keys(sheet, top + _HEADING, self.keys)
        top += self._head
        limits = _parts_limits(panels)
        panels = list(panels)
        for columns in self.rows:
            n = len(columns.names)
            own, panels = panels[:n], panels[n:]
            axes = columns.add_axes(sheet, top + self._above_bars, self.bars_height, n_ticks=5)
            axes.set_ylim(limits)
            for i, panel in enumerate(own):
                _draw_stack(axes, i, panel)
                if self.circles and venn.can_draw(len(panel.labels)):
                    self._draw_circles(sheet, _Grid.left + (i + 0.5) * columns.slot, top, panel)
            axes.hlines([panel.total for panel in own], np.arange(n) - 0.42, np.arange(n) + 0.42, **_TOTAL_LINE)
            top += self._row_height(columns)

    def _draw_circles(self, sheet: Sheet, middle: float, top: float, panel: RoiPanel) -> None:
        box = sheet.rectangle(middle - self.circles / 2, top, self.circles, self.circles)
        wrong = venn.draw(sheet.figure.add_axes(box, label="venn"), panel.parts, panel.colors)
        style = {"ha": "center", "va": "top", "size": FONT["small"], "color": "#444444", "linespacing": 1.0}
        sheet.text(middle, top + self.circles + 0.01, "\n".join(wrong), **style)


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
    for subset in venn.subsets(len(panel.labels)):
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


_CEILING_COLORS = {"explained": "#3f6f8f", "noise ceiling, from lower to upper bound": "#c4c4c4"}
_CHANCE_LINE: dict[str, Any] = {"color": "#d1495b", "lw": 1.4}
_CEILING_KEYS = [
    *(_Key(name, (color,)) for name, color in _CEILING_COLORS.items()),
    _Key("chance level", line=_CHANCE_LINE),
]
_CEILING_BARS = 0.8


def _ceiling_height(ceiling: CeilingPanel, sheet_width: float) -> float:
    columns = _Columns.of(ceiling.rois, len(ceiling.rois), sheet_width)
    return _HEADING + _keys_height(_CEILING_KEYS, sheet_width) + 0.05 + _CEILING_BARS + columns.names_height + 0.05


def _draw_ceiling(sheet: Sheet, top: float, ceiling: CeilingPanel) -> None:
    """Bars of explained variance before the band of the noise ceiling, one slot per ROI."""
    _draw_heading(sheet, top, "Explained variance and noise ceiling (R²)")
    _draw_keys(sheet, top + _HEADING, _CEILING_KEYS)
    top += _HEADING + _keys_height(_CEILING_KEYS, sheet.width) + 0.05
    axes = _Columns.of(ceiling.rois, len(ceiling.rois), sheet.width).add_axes(sheet, top, _CEILING_BARS, n_ticks=5)
    bar_color, band_color = _CEILING_COLORS.values()
    x = np.arange(len(ceiling.rois))
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
    _draw_errors(axes, ceiling.explained, ceiling.error)
    chance = axes.hlines(ceiling.chance, x - 0.43, x + 0.43, **_CHANCE_LINE)
    chance.set_path_effects(_white_edge(_CHANCE_LINE["lw"]))
