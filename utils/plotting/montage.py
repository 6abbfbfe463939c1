"""The still picture of a label map: the inflated cortex from several sides, its legend, and how stable labels are.

Where there is no surface to draw on, axial slices of the volume stand in for the cortex.

Labels are sampled, never interpolated, and every triangle has one colour: a colour that is not in the legend is not on
the brain. Pale places are hatched, so that they can be told from solid ones without colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from utils.plotting.colors import hatch_color, to_published_color
from utils.plotting.label_maps import OUTSIDE, PALE, LabelMap
from utils.plotting.page_layout import (
    FONT,
    MARGIN,
    PAGE_WIDTH,
    Band,
    Key,
    Look,
    Page,
    Style,
    draw_page,
    drawing_style,
    heading,
    legend_band,
    shorten,
    text_width,
)
from utils.plotting.slices import bounding_box, slices_note, to_canonical
from utils.plotting.surface import (
    GYRUS_GREY,
    SULCUS_GREY,
    Hemisphere,
    Surface,
    load_hemisphere,
    sample,
    triangle_corners,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STABILITY_NOTE = (
    "Stability: proportion of random subsets of the conditions in which the same label wins. Dark locations keep their "
    "label, light ones change it, white ones have none."
)
# Of the paper's maps these sides could be read; how they were arranged is not known.
_VIEWS: dict[Style, tuple[str, ...]] = {
    "default": ("lateral", "medial", "posterior", "ventral"),
    "paper": ("posterior", "medial", "ventral"),
}
# In inches: height of the names of sides, left margin of the cortex, gap between its sides.
_HEADINGS, _LEFT, _GAP = 0.2, 0.3, 0.08
_MAX_NAME = 2.6  # width in the legend
_SMALL = 0.72  # size of the second map to that of the first: both fit on a page
_CENTRED: dict[str, str] = {"ha": "center", "va": "center"}
_N_STEPS = 10
_N_SLICES, _SLICES_IN_ROW, _MAX_SLICES_HEIGHT = 12, 6, 5.0  # the last in inches, of all rows
_AXIAL_NOTE = "They are axial, from bottom to top; left is left."
# Hatching, in inches: distance of its lines, and how thick they are.
_HATCH, _HATCH_LINE = 0.03, 0.005
# Lines of a hatching are drawn this much nearer to the reader than their triangles, so that no neighbour covers them.
_HATCH_LIFT_MM = 4.0
# Nearly white, so that even in greyscale it is lighter than the lightest step.
_PALE_GYRUS, _PALE_SULCUS = 0.98, 0.9


def montage(label_map: LabelMap, look: Look, note: str, stability: NDArray[np.floating] | None = None) -> Figure:
    """Draw a label map on the inflated cortex or in slices, all views at one scale, with the legend below.

    Parameters
    ----------
    label_map : LabelMap
    look : Look
        Its style "paper" has the published colours and views.
    note : str
        The small print below.
    stability : ndarray of float, shape of the volume of labels, optional
        How often the label of a voxel wins, 0 to 1; NaN where there is nothing to show, such as where the winner is not
        significant. Drawn as a second, smaller map with the same views, in steps of 0.1.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot. The surfaces are pixels in a vector file too; text and legend stay text.

    Raises
    ------
    ValueError
        If `stability` has another shape than the labels, or values outside of 0 to 1.
    InputError
        If the surface cannot be downloaded.
    """
    if look.style == "paper":
        label_map = replace(label_map, colors=[to_published_color(color) for color in label_map.colors])
    with drawing_style():
        bands = [_labels(label_map, look), *_legend(label_map, outside=look.surface is not None)]
        notes = [note, label_map.pale_note.replace("Pale:", "Pale and hatched:")]
        notes.append(label_map.surface_note if look.surface else f"{slices_note(label_map.space)} {_AXIAL_NOTE}")
        if stability is not None:
            bands += [_scale(), _steps(label_map, _in_steps(stability, label_map.data.shape), look)]
            notes.append(STABILITY_NOTE)
        return draw_page(bands, look, " ".join(filter(None, notes)))


def _labels(label_map: LabelMap, look: Look) -> Band:
    """The map itself, pale places hatched."""
    if look.surface is None:
        return _axial(label_map, label_map.data, label_map.colors, _hatch_palette(label_map))
    greys = (GYRUS_GREY, SULCUS_GREY)
    painted = _triangle_colors(label_map, label_map.data, label_map.colors, greys, look.surface)
    return _cortex(painted, look, look.surface, hatches=_hatch_colors(label_map, look.surface))


def _steps(label_map: LabelMap, steps: NDArray[np.int16], look: Look) -> Band:
    """The second map, smaller: the step of every voxel's stability."""
    if look.surface is None:
        return _axial(label_map, steps, _step_colors(), size=_SMALL)
    greys = (_PALE_GYRUS, _PALE_SULCUS)
    painted = _triangle_colors(label_map, steps, _step_colors(), greys, look.surface)
    return _cortex(painted, look, look.surface, _SMALL)


def _axial(
    label_map: LabelMap,
    data: NDArray[np.integer],
    colors: Sequence[str],
    hatches: NDArray[np.floating] | None = None,
    size: float = 1.0,
) -> Band:
    """Axial slices at even steps through all labels, from bottom to top; `hatches` has a colour, or NaN, per label."""
    from matplotlib.colors import to_rgba

    affine, (drawn, turned) = to_canonical(label_map.affine, label_map.data > 0, data)
    box = bounding_box(drawn)
    start = np.array([part.start or 0 for part in box])
    drawn, turned = drawn[box], turned[box]
    levels = np.flatnonzero(drawn.any(axis=(0, 1))) if drawn.any() else np.arange(drawn.shape[2])
    chosen = levels[np.unique(np.linspace(0, len(levels) - 1, min(_N_SLICES, len(levels))).round().astype(int))]
    voxel = np.linalg.norm(affine[:3, :2], axis=0)
    extent = voxel * turned.shape[:2]
    n_rows = -(-len(chosen) // _SLICES_IN_ROW)
    room = PAGE_WIDTH - 2 * MARGIN - _GAP * (_SLICES_IN_ROW - 1)
    scale = size * min(room / _SLICES_IN_ROW / extent[0], _MAX_SLICES_HEIGHT / n_rows / extent[1])
    width, height = scale * extent
    palette = np.array([(0.0, 0.0, 0.0, 0.0), *(to_rgba(color) for color in colors)])
    middle = (np.array(turned.shape[:2]) - 1) / 2 + start[:2]
    n_columns = min(_SLICES_IN_ROW, len(chosen))
    left = (PAGE_WIDTH - n_columns * width - (n_columns - 1) * _GAP) / 2

    def draw(page: Page, top: float) -> None:
        for number, level in enumerate(chosen):
            row, column = divmod(number, _SLICES_IN_ROW)
            x, y = left + column * (width + _GAP), top + row * (height + _HEADINGS)
            mm = affine[2] @ [*middle, level + start[2], 1]
            text = f"z = {mm:.0f} mm".replace("-", "\N{MINUS SIGN}")
            page.text(x + width / 2, y + 0.12, text, size=FONT["text"], **_CENTRED)
            axes = page.figure.add_axes(page.rectangle(x, y + _HEADINGS, width, height), label=f"axial {size} {level}")
            labels = turned[:, :, level].T
            axes.imshow(palette[labels], origin="lower", extent=(0, extent[0], 0, extent[1]), interpolation="nearest")
            axes.set(aspect="auto", xlim=(0, extent[0]), ylim=(0, extent[1]))
            axes.set_axis_off()
            if hatches is not None:
                _hatch_voxels(axes, hatches[labels], voxel, _HATCH / scale)
            if number == 0:
                for side, at in (("L", x - 0.06), ("R", x + width + 0.06)):
                    page.text(at, y + _HEADINGS + height / 2, side, size=FONT["text"], **_CENTRED)

    return Band(n_rows * (height + _HEADINGS) + 0.1, draw)


def _hatch_voxels(axes: Axes, colors: NDArray[np.floating], voxel: NDArray[np.floating], distance: float) -> None:
    """Hatch those voxels of a slice (rows, columns, 3) that have a colour to be hatched with."""
    from matplotlib.collections import LineCollection

    row, column = np.nonzero(np.isfinite(colors[:, :, 0]))
    corners = np.stack([column, row], axis=1)[:, None] + [[(0, 0), (1, 0), (1, 1), (0, 1)]]
    halves = np.concatenate([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]]) * voxel
    lines, triangle = _hatching(halves, distance)
    own = colors[row, column][triangle % max(len(row), 1)]
    axes.add_collection(LineCollection(list(lines), colors=own, linewidths=72 * _HATCH_LINE, rasterized=True))


def _in_steps(stability: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.int16]:
    """Number of the step that holds each value, from 1; 0 where there is none."""
    if stability.shape != shape:
        raise ValueError(f"`stability` has shape {stability.shape}: expected that of the labels, {shape}")
    known = np.isfinite(stability)
    if (stability[known] < 0).any() or (stability[known] > 1).any():
        raise ValueError(
            f"`stability` ranges from {stability[known].min():g} to {stability[known].max():g}: expected 0 to 1"
        )
    # 0.3 x 10 is a little more than 3: without rounding it would be in the fourth step.
    steps = np.clip(np.ceil(np.round(np.where(known, stability, 0) * _N_STEPS, 6)), 1, _N_STEPS)
    return np.where(known, steps, 0).astype(np.int16)


def _step_colors() -> list[str]:
    """One colour per step, from light to dark in even steps for every kind of colour vision."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(color) for color in colormaps["cividis_r"]((np.arange(_N_STEPS) + 0.5) / _N_STEPS)]


def _scale() -> Band:
    """Heading of the second map, and its colours with the values at their ends."""
    title = "Stability of the label: proportion of subsets in which it wins"
    left, step = MARGIN + text_width(title, FONT["panel"], bold=True) + 0.3, 0.2

    def draw(page: Page, top: float) -> None:
        heading(title).draw(page, top + 0.06)
        for i, color in enumerate(_step_colors()):
            page.patch(left + i * step, top + 0.06, step, 0.1, facecolor=color, edgecolor="#444444", lw=0.3)
        for i in range(0, _N_STEPS + 1, 2):
            page.text(left + i * step, top + 0.19, f"{i / _N_STEPS:g}", ha="center", va="top", size=FONT["small"])

    return Band(0.32, draw)


def _legend(label_map: LabelMap, outside: bool) -> list[Band]:
    """Labels with their counts, in rows behind the name of their group."""
    groups = label_map.by_legend_group()
    if groups[-1][0]:
        groups.append(("", []))  # for what is outside of the map
    titles = [shorten(name, 1.5, FONT["text"], bold=True) for name, _ in groups]
    left = MARGIN + 0.15 * any(titles) + max(text_width(title, FONT["text"], bold=True) for title in titles)
    states = f": lead established · {PALE}" if label_map.pale else ""
    bands = [heading(f"Labels and their number of {label_map.unit}{states}")]
    for title, (_, rows) in zip(titles, groups, strict=True):
        keys = []
        for i, pale in rows:
            color, counts = label_map.colors[i], [label_map.counts[k] for k in (i, pale) if k is not None]
            name = shorten(label_map.names[i], _MAX_NAME, FONT["text"])
            text = f"{name}  {' · '.join(f'{count:,}' for count in counts)}"
            hatched = None if pale is None else (label_map.colors[pale], hatch_color(label_map.colors[pale]))
            keys.append(Key(text, (color,), hatched=hatched, faint=not any(counts)))
        if not title and outside:
            keys.append(Key(OUTSIDE, (str(GYRUS_GREY), str(SULCUS_GREY))))
        bands.append(legend_band(keys, title=title, left=left))
    return [*bands, Band(0.05, lambda page, top: None)]


def _cortex(
    painted: Mapping[str, NDArray[np.floating]],
    look: Look,
    surface: Surface,
    size: float = 1.0,
    hatches: Mapping[str, NDArray[np.floating]] | None = None,
) -> Band:
    """Hemispheres in a row each, below the names of the sides; at size 1, all sides would fill the page."""
    views, halves = _VIEWS[look.style], {hemi: load_hemisphere(hemi, surface) for hemi in painted}
    span = np.max([np.ptp(half.inflated, axis=0) for half in halves.values()], axis=0)
    extents = {view: np.abs(_screen("left", view)[:2]) @ span for view in _VIEWS["default"]}
    scale = size * (PAGE_WIDTH - _LEFT - _GAP * len(extents)) / sum(width for width, _ in extents.values())
    height = scale * extents["lateral"][1] + 0.1
    widths = [scale * extents[view][0] for view in views]
    start = _LEFT + (PAGE_WIDTH - _LEFT - sum(widths) - _GAP * len(widths)) / 2
    lefts = start + np.cumsum([0.0, *widths[:-1]]) + _GAP * np.arange(len(widths))

    def draw(page: Page, top: float) -> None:
        for view, x, width in zip(views, lefts, widths, strict=True):
            page.text(x + width / 2, top + 0.12, view, size=FONT["text"], **_CENTRED)
        for row, (hemi, half) in enumerate(halves.items()):
            y = top + _HEADINGS + row * height
            page.text(start - 0.13, y + height / 2, f"{hemi} hemisphere", rotation=90, size=FONT["text"], **_CENTRED)
            for view, x, width in zip(views, lefts, widths, strict=True):
                axes = page.figure.add_axes(page.rectangle(x, y, width, height), label=f"{hemi} {view}")
                half_size = np.array([width, height]) / scale / 2
                lines = hatches[hemi] if hatches else None
                _draw_surface(axes, half, painted[hemi], _screen(hemi, view), half_size, lines, _HATCH / scale)

    return Band(_HEADINGS + len(halves) * height, draw)


def _triangle_colors(
    label_map: LabelMap,
    data: NDArray[np.integer],
    colors: Sequence[str],
    greys: tuple[float, float],
    surface: Surface,
) -> dict[str, NDArray[np.floating]]:
    """Colour of every triangle of each hemisphere, (n_faces, 3): that of a label, or a grey from gyri to sulci."""
    from matplotlib.colors import to_rgb

    palette = np.array([(0.0, 0.0, 0.0), *(to_rgb(color) for color in colors)])
    gyrus, sulcus = greys
    painted = {}
    for hemi, labels in sample(data, label_map.affine, surface, label_map.vertices).items():
        half = load_hemisphere(hemi, surface)
        label = labels[triangle_corners(labels, half.faces)]
        depth = (GYRUS_GREY - half.grey()[half.faces].mean(axis=1)) / (GYRUS_GREY - SULCUS_GREY)
        grey = gyrus + (sulcus - gyrus) * depth
        painted[hemi] = np.where(label[:, None] > 0, palette[label], grey[:, None])
    return painted


def _hatch_palette(label_map: LabelMap) -> NDArray[np.floating] | None:
    """Colour of the hatching of every label, from that of no label on: NaN where there is none."""
    from matplotlib.colors import to_rgb

    if not label_map.pale:
        return None
    palette = np.full((len(label_map.names) + 1, 3), np.nan)
    for pale in label_map.pale.values():
        palette[pale + 1] = to_rgb(hatch_color(label_map.colors[pale]))
    return palette


def _hatch_colors(label_map: LabelMap, surface: Surface) -> dict[str, NDArray[np.floating]] | None:
    """Colour of the hatching of every triangle of each hemisphere, (n_faces, 3): NaN where there is none."""
    palette = _hatch_palette(label_map)
    if palette is None:
        return None
    sampled = sample(label_map.data, label_map.affine, surface, label_map.vertices)
    return {
        hemi: palette[labels[triangle_corners(labels, load_hemisphere(hemi, surface).faces)]]
        for hemi, labels in sampled.items()
    }


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
    hatches: NDArray[np.floating] | None,
    distance: float,
) -> None:
    """The triangles that face the reader, the farthest first, in millimetres around the middle of the hemisphere."""
    from matplotlib.collections import PolyCollection

    middle = (half.inflated.min(axis=0) + half.inflated.max(axis=0)) / 2
    corners = ((half.inflated - middle) @ screen.T)[half.faces]
    (one, other) = corners[:, 1, :2] - corners[:, 0, :2], corners[:, 2, :2] - corners[:, 0, :2]
    facing = np.flatnonzero(one[:, 0] * other[:, 1] > one[:, 1] * other[:, 0])
    shapes, depths = list(corners[facing, :, :2]), corners[facing, :, 2].mean(axis=1)
    # Thin edges in the colours of the triangles close the seams between them.
    faces = edges = colors[facing]
    widths = np.full(len(facing), 0.2)
    if hatches is not None:
        hatched = facing[np.isfinite(hatches[facing, 0])]
        lines, triangle = _hatching(corners[hatched, :, :2], distance)
        # A line is a polygon of two corners, as only one collection is drawn from the farthest to the nearest.
        shapes += list(lines)
        depths = np.concatenate([depths, corners[hatched[triangle], :, 2].mean(axis=1) + _HATCH_LIFT_MM])
        faces = edges = np.concatenate([colors[facing], hatches[hatched[triangle]]])
        widths = np.concatenate([widths, np.full(len(lines), 72 * _HATCH_LINE)])
    order = np.argsort(depths, kind="stable")
    axes.add_collection(
        PolyCollection(
            [shapes[i] for i in order],
            facecolors=faces[order],
            edgecolors=edges[order],
            linewidths=widths[order],
            rasterized=True,
        )
    )
    axes.set_axis_off()
    axes.set(xlim=(-half_size[0], half_size[0]), ylim=(-half_size[1], half_size[1]))


def _hatching(triangles: NDArray[np.floating], distance: float) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    """Parallel oblique lines across triangles, continued from one to the next.

    Parameters
    ----------
    triangles : ndarray of float, shape (n, 3, 2)
    distance : float
        Between the lines.

    Returns
    -------
    lines : ndarray of float, shape (n_lines, 2, 2)
        The part of a line inside of a triangle.
    triangle : ndarray of int, shape (n_lines,)
        Index of that triangle.
    """
    # Lines lie where the level, the distance from a line through the origin, is a multiple of `distance`.
    levels = triangles @ np.array([-1.0, 1.0]) / np.sqrt(2) / distance
    order = np.argsort(levels, axis=1)
    triangles = np.take_along_axis(triangles, order[:, :, None], axis=1)
    levels = np.take_along_axis(levels, order, axis=1)
    first = np.ceil(levels[:, 0]).astype(int)
    crossed = np.maximum(0, np.floor(levels[:, 2]).astype(int) - first + 1)
    triangle = np.repeat(np.arange(len(triangles)), crossed)
    level = first[triangle] + np.arange(len(triangle)) - np.repeat(np.cumsum(crossed) - crossed, crossed)
    (low, mid, high), (at_low, at_mid, at_high) = triangles[triangle].swapaxes(0, 1), levels[triangle].T

    def along(a: NDArray, b: NDArray, at_a: NDArray, at_b: NDArray) -> NDArray[np.floating]:
        share = (level - at_a) / np.where(at_b > at_a, at_b - at_a, 1)
        return a + share[:, None] * (b - a)

    # Every line crosses the side from the lowest to the highest corner, and one of the other two.
    below = (level < at_mid)[:, None]
    other = np.where(below, along(low, mid, at_low, at_mid), along(mid, high, at_mid, at_high))
    return np.stack([along(low, high, at_low, at_high), other], axis=1), triangle
