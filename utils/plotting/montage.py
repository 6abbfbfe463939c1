"""The still picture of a label map: the inflated cortex from several sides, its legend, and how stable labels are.

Labels are sampled, never interpolated, and every triangle has one colour: a colour that is not in the legend is not on
the brain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.tasks import to_published_color
from utils.plotting.label_maps import OUTSIDE, SURFACE_NOTE, LabelMap
from utils.plotting.page_layout import FONT, MARGIN, PAGE_WIDTH, Sheet, Style, drawing_style, shorten, text_width
from utils.plotting.surface import (
    DEFAULT_SURFACE,
    GYRUS_GREY,
    HEMISPHERES,
    SULCUS_GREY,
    Hemisphere,
    load_hemisphere,
    sample_labels,
    triangle_corners,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STABILITY_NOTE = (
    "Stability: share of random subsets of the conditions in which the same label wins; dark places keep theirs, light "
    "ones change it, white ones have none."
)
# Of the paper's maps these sides could be read; in what arrangement they were printed is not known.
_VIEWS: dict[Style, tuple[str, ...]] = {
    "default": ("lateral", "medial", "posterior", "ventral"),
    "paper": ("posterior", "medial", "ventral"),
}
# Heights in inches.
_HEADINGS = 0.2
_SCALE = 0.32
_MAX_NAME = 2.6  # width in the legend
_SMALL = 0.72  # size of the second map to that of the first: both fit on a page
_CENTRED: dict[str, str] = {"ha": "center", "va": "center"}
_N_STEPS = 10
# Nearly white, so that even in greyscale it is lighter than the lightest step.
_PALE_GYRUS, _PALE_SULCUS = 0.98, 0.9


def montage(
    label_map: LabelMap,
    *,
    title: str,
    note: str,
    banner: str | None = None,
    stability: NDArray[np.floating] | None = None,
    surface: str = DEFAULT_SURFACE,
    style: Style = "default",
) -> Figure:
    """Draw a label map on the inflated cortex, all views at one scale, with the legend below.

    Parameters
    ----------
    label_map : LabelMap
    title, note : str
        Heading, and the small print below.
    banner : str, optional
        Warning across the top of the figure, such as that the data are simulated.
    stability : ndarray of float, shape of the volume of labels, optional
        How often the label of a voxel wins, 0 to 1; NaN where there is nothing to show, such as where the winner is not
        significant. Drawn as a second, smaller map with the same views, in steps of 0.1.
    surface : str
        One of `utils.plotting.surface.SURFACES`.
    style : {"default", "paper"}
        "paper" has the published colours and views.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot. The surfaces are pixels in a vector file too; text and legend stay text.

    Raises
    ------
    ValueError
        If `stability` has another shape than the labels, or values that are no shares.
    InputError
        If the surface cannot be downloaded.
    """
    if style == "paper":
        label_map = replace(label_map, colors=[to_published_color(color) for color in label_map.colors])
    steps = None if stability is None else _in_steps(stability, label_map.data.shape)
    brain = {hemi: load_hemisphere(hemi, surface) for hemi in HEMISPHERES}
    views = _VIEWS[style]
    with drawing_style():
        labels = _Map(label_map.data, label_map.colors, (GYRUS_GREY, SULCUS_GREY))
        rows = {hemi: _Row.of(brain, hemi, views) for hemi in HEMISPHERES}
        legend = _Legend.of(label_map)
        body = _block_height(rows.values()) + legend.height
        if steps is not None:
            shares = _Map(steps, _step_colors(), (_PALE_GYRUS, _PALE_SULCUS))
            small_rows = {hemi: _Row.of(brain, hemi, views, _SMALL) for hemi in HEMISPHERES}
            body += _SCALE + _block_height(small_rows.values())
        notes = [note, SURFACE_NOTE, STABILITY_NOTE if steps is not None else ""]
        sheet = Sheet.new(PAGE_WIDTH, body, title=title, note=" ".join(filter(None, notes)), banner=banner)
        top = sheet.top
        _draw_block(sheet, top, rows, brain, labels.triangles(brain, label_map.affine, surface))
        top += _block_height(rows.values())
        legend.draw(sheet, top, label_map)
        if steps is not None:
            top += legend.height
            _draw_scale(sheet, top)
            _draw_block(sheet, top + _SCALE, small_rows, brain, shares.triangles(brain, label_map.affine, surface))
        return sheet.figure


def _in_steps(stability: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.int16]:
    """Number of the step that holds each share, from 1; 0 where there is none."""
    if stability.shape != shape:
        raise ValueError(f"stability has the shape {stability.shape}: expected that of the labels, {shape}")
    known = np.isfinite(stability)
    if (stability[known] < 0).any() or (stability[known] > 1).any():
        raise ValueError(
            f"stability ranges from {stability[known].min():g} to {stability[known].max():g}: expected shares, 0 to 1"
        )
    # 0.3 x 10 is a little more than 3: without rounding it would be in the fourth step.
    steps = np.clip(np.ceil(np.round(np.where(known, stability, 0) * _N_STEPS, 6)), 1, _N_STEPS)
    return np.where(known, steps, 0).astype(np.int16)


def _step_colors() -> list[str]:
    """One colour per step, from light to dark in even steps for every kind of colour vision."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(color) for color in colormaps["cividis_r"]((np.arange(_N_STEPS) + 0.5) / _N_STEPS)]


def _draw_scale(sheet: Sheet, top: float) -> None:
    """Heading of the second map, and its colours with the shares at their ends."""
    from matplotlib.patches import Rectangle

    heading = "Stability of the label: share of subsets in which it wins"
    y = top + 0.5 * _SCALE
    sheet.text(MARGIN, y, heading, va="center", weight="bold", size=FONT["panel"])
    left, step = MARGIN + text_width(heading, FONT["panel"], bold=True) + 0.3, 0.2
    for i, color in enumerate(_step_colors()):
        box = sheet.rectangle(left + i * step, y - 0.1, step, 0.1)
        sheet.figure.add_artist(Rectangle(box[:2], box[2], box[3], facecolor=color, edgecolor="#444444", lw=0.3))
    for i in range(0, _N_STEPS + 1, 2):
        sheet.text(left + i * step, y + 0.03, f"{i / _N_STEPS:g}", ha="center", va="top", size=FONT["small"])


@dataclass(frozen=True)
class _Map:
    """Labels in a volume, their colours, and the greys of gyri and sulci where there is none."""

    data: NDArray[np.integer]
    colors: Sequence[str]
    greys: tuple[float, float]

    def triangles(
        self, brain: dict[str, Hemisphere], affine: NDArray[np.floating], surface: str
    ) -> dict[str, NDArray[np.floating]]:
        """Colour of every triangle of both hemispheres, (n_faces, 3): that of a label, or its grey."""
        from matplotlib.colors import to_rgb

        palette = np.array([(0.0, 0.0, 0.0), *(to_rgb(color) for color in self.colors)])
        gyrus, sulcus = self.greys
        colors = {}
        for hemi, labels in sample_labels(self.data, affine, surface).items():
            faces = brain[hemi].faces
            label = labels[triangle_corners(labels, faces)]
            depth = (GYRUS_GREY - brain[hemi].grey()[faces].mean(axis=1)) / (GYRUS_GREY - SULCUS_GREY)
            grey = gyrus + (sulcus - gyrus) * depth
            colors[hemi] = np.where(label[:, None] > 0, palette[label], grey[:, None])
        return colors


@dataclass(frozen=True)
class _Row:
    """A hemisphere from several sides; widths and height in inches."""

    views: Sequence[str]
    widths: list[float]
    height: float
    inches_per_mm: float

    left = 0.3
    gap = 0.08

    @classmethod
    def of(cls, brain: dict[str, Hemisphere], hemi: str, views: Sequence[str], share: float = 1.0) -> _Row:
        """Sizes at `share` of the scale at which all views of a hemisphere fill the page, whatever views are shown."""
        span = np.max([np.ptp(half.inflated, axis=0) for half in brain.values()], axis=0)
        extent = {view: np.abs(_screen(hemi, view)[:2]) @ span for view in _VIEWS["default"]}
        free = PAGE_WIDTH - cls.left - cls.gap * len(extent)
        scale = share * free / sum(size[0] for size in extent.values())
        widths = [float(scale * extent[view][0]) for view in views]
        return cls(views, widths, float(scale * extent["lateral"][1]) + 0.1, float(scale))

    def columns(self) -> Iterator[tuple[str, float, float]]:
        """Every view with its left end and width."""
        x = self.left + (PAGE_WIDTH - self.left - sum(self.widths) - self.gap * len(self.widths)) / 2
        for view, width in zip(self.views, self.widths, strict=True):
            yield view, x, width
            x += width + self.gap


def _block_height(rows: Iterable[_Row]) -> float:
    return _HEADINGS + sum(row.height for row in rows)


def _draw_block(
    sheet: Sheet,
    top: float,
    rows: dict[str, _Row],
    brain: dict[str, Hemisphere],
    colors: dict[str, NDArray[np.floating]],
) -> None:
    """One row per hemisphere, below the names of the views."""
    for view, x, width in rows[HEMISPHERES[0]].columns():
        sheet.text(x + width / 2, top + 0.12, view, size=FONT["text"], **_CENTRED)
    top += _HEADINGS
    for hemi, row in rows.items():
        for i, (view, x, width) in enumerate(row.columns()):
            if i == 0:
                name = f"{hemi} hemisphere"
                sheet.text(x - 0.13, top + row.height / 2, name, rotation=90, size=FONT["text"], **_CENTRED)
            axes = sheet.figure.add_axes(sheet.rectangle(x, top, width, row.height), label=f"{hemi} {view}")
            half_size = np.array([width, row.height]) / row.inches_per_mm / 2
            _draw_surface(axes, brain[hemi], colors[hemi], _screen(hemi, view), half_size)
        top += row.height


def _screen(hemi: str, view: str) -> NDArray[np.floating]:
    """Directions in the brain, (3, 3), that point to the right, upwards and out of a picture of one hemisphere."""
    outwards = np.array([-1.0 if hemi == "left" else 1.0, 0, 0])
    if view == "posterior":
        return np.array([(1, 0, 0), (0, 0, 1), (0, -1, 0)])
    if view == "ventral":
        return np.array([(0, -1, 0), (-1, 0, 0), (0, 0, -1)])
    towards = outwards if view == "lateral" else -outwards
    return np.array([np.cross((0, 0, 1), towards), (0, 0, 1), towards])


def _draw_surface(
    axes: Axes,
    half: Hemisphere,
    colors: NDArray[np.floating],
    screen: NDArray[np.floating],
    half_size: NDArray[np.floating],
) -> None:
    """The triangles that face the reader, the farthest first, in millimetres around the middle of the hemisphere."""
    from matplotlib.collections import PolyCollection

    middle = (half.inflated.min(axis=0) + half.inflated.max(axis=0)) / 2
    corners = ((half.inflated - middle) @ screen.T)[half.faces]
    (one, other) = corners[:, 1, :2] - corners[:, 0, :2], corners[:, 2, :2] - corners[:, 0, :2]
    facing = np.flatnonzero(one[:, 0] * other[:, 1] > one[:, 1] * other[:, 0])
    order = facing[np.argsort(corners[facing, :, 2].mean(axis=1), kind="stable")]
    # Thin edges in the colours of the triangles close the seams between them.
    axes.add_collection(
        PolyCollection(
            corners[order, :, :2], facecolors=colors[order], edgecolors=colors[order], linewidths=0.2, rasterized=True
        )
    )
    axes.set_axis_off()
    axes.set(xlim=(-half_size[0], half_size[0]), ylim=(-half_size[1], half_size[1]))


# A line of the legend: a text with the index of its label, None for a heading.
_Line = tuple[str, int | None]


@dataclass(frozen=True)
class _Legend:
    """Legend in columns, in inches; families are not broken."""

    columns: list[list[_Line]]
    column_width: float

    line = 0.145
    heading = 0.2

    @property
    def height(self) -> float:
        return self.heading + self.line * max(len(column) for column in self.columns) + 0.05

    @classmethod
    def of(cls, label_map: LabelMap) -> _Legend:
        blocks = _legend_blocks(label_map)
        width = 0.85 + max(text_width(text, FONT["text"], bold=True) for block in blocks for text, _ in block)
        n_columns = int(np.clip((PAGE_WIDTH - 2 * MARGIN) / width, 1, 4))
        height = max(*map(len, blocks), -(-sum(map(len, blocks)) // n_columns))
        while len(columns := _in_columns(blocks, height)) > n_columns:
            height += 1
        return cls(columns, width)

    def draw(self, sheet: Sheet, top: float, label_map: LabelMap) -> None:
        left = (sheet.width - self.column_width * len(self.columns)) / 2 + 0.1
        size = FONT["text"]
        heading = f"Labels and their number of {label_map.unit}"
        sheet.text(left, top + 0.1, heading, va="center", size=size, color="#555555")
        for c, column in enumerate(self.columns):
            x = left + c * self.column_width
            for r, (text, index) in enumerate(column):
                y = top + self.heading + self.line * (r + 0.5)
                if index is None:
                    sheet.text(x, y, text, va="center", size=size, weight="bold")
                    continue
                is_label = index < len(label_map.names)
                # As on the page, labels that won nowhere step back.
                color = "#767676" if is_label and not label_map.counts[index] else "black"
                sheet.text(x + 0.19, y, text, va="center", size=size, color=color)
                if is_label:
                    sheet.swatch(x, y, label_map.colors[index])
                    count = f"{label_map.counts[index]:,}"
                    sheet.text(x + self.column_width - 0.3, y, count, va="center", ha="right", size=size, color=color)
                else:
                    sheet.swatch(x, y, str(GYRUS_GREY), str(SULCUS_GREY))


def _legend_blocks(label_map: LabelMap) -> list[list[_Line]]:
    """Lines that stay together: every family under its heading, and what has none after an empty line."""
    names = [shorten(name, _MAX_NAME, FONT["text"]) for name in label_map.names]
    blocks: list[list[_Line]] = []
    outside: _Line = (OUTSIDE, len(names))
    for family, indices in label_map.by_family():
        lines: list[_Line] = [(names[i], i) for i in indices]
        if family:
            blocks.append([(shorten(family, _MAX_NAME, FONT["text"], bold=True), None), *lines])
        elif blocks:
            return [*blocks, [("", None), *lines, outside]]
        else:
            blocks = [[line] for line in lines]
    return [*blocks, [outside]]


def _in_columns(blocks: list[list[_Line]], height: int) -> list[list[_Line]]:
    """Blocks one below the other in columns of at most `height` lines."""
    columns: list[list[_Line]] = [[]]
    for block in blocks:
        if columns[-1] and len(columns[-1]) + len(block) > height:
            columns.append([])
        columns[-1].extend(block)
    return columns
