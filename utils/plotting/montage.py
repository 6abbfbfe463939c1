"""The still picture of a label map: the inflated cortex from several sides, its legend, and how stable labels are.

Labels are sampled, never interpolated, and every triangle has one colour: a colour that is not in the legend is not on
the brain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from utils.plotting.colors import to_published_color
from utils.plotting.label_maps import OUTSIDE, SURFACE_NOTE, LabelMap
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
from utils.plotting.surface import (
    GYRUS_GREY,
    HEMISPHERES,
    SULCUS_GREY,
    Hemisphere,
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
# Nearly white, so that even in greyscale it is lighter than the lightest step.
_PALE_GYRUS, _PALE_SULCUS = 0.98, 0.9


def montage(label_map: LabelMap, look: Look, note: str, stability: NDArray[np.floating] | None = None) -> Figure:
    """Draw a label map on the inflated cortex, all views at one scale, with the legend below.

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
        painted = _triangle_colors(label_map.data, label_map.affine, label_map.colors, (GYRUS_GREY, SULCUS_GREY), look)
        bands = [_cortex(painted, look), *_legend(label_map)]
        notes = [note, SURFACE_NOTE]
        if stability is not None:
            steps = _in_steps(stability, label_map.data.shape)
            painted = _triangle_colors(steps, label_map.affine, _step_colors(), (_PALE_GYRUS, _PALE_SULCUS), look)
            bands += [_scale(), _cortex(painted, look, _SMALL)]
            notes.append(STABILITY_NOTE)
        return draw_page(bands, look, " ".join(filter(None, notes)))


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


def _legend(label_map: LabelMap) -> list[Band]:
    """Labels with their counts, in rows behind the name of their group."""
    groups = label_map.by_legend_group()
    if groups[-1][0]:
        groups.append(("", []))  # for what is outside of the map
    titles = [shorten(name, 1.5, FONT["text"], bold=True) for name, _ in groups]
    left = MARGIN + 0.15 * any(titles) + max(text_width(title, FONT["text"], bold=True) for title in titles)
    bands = [heading(f"Labels and their number of {label_map.unit}")]
    for title, (_, indices) in zip(titles, groups, strict=True):
        keys = []
        for i in indices:
            count = label_map.counts[i]
            text = f"{shorten(label_map.names[i], _MAX_NAME, FONT['text'])}  {count:,}"
            keys.append(Key(text, (label_map.colors[i],), pale=not count))
        if not title:
            keys.append(Key(OUTSIDE, (str(GYRUS_GREY), str(SULCUS_GREY))))
        bands.append(legend_band(keys, title=title, left=left))
    return [*bands, Band(0.05, lambda page, top: None)]


def _cortex(painted: Mapping[str, NDArray[np.floating]], look: Look, size: float = 1.0) -> Band:
    """Both hemispheres in a row each, below the names of the sides; at size 1, all sides would fill the page."""
    views, halves = _VIEWS[look.style], {hemi: load_hemisphere(hemi, look.surface) for hemi in HEMISPHERES}
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
                _draw_surface(axes, half, painted[hemi], _screen(hemi, view), half_size)

    return Band(_HEADINGS + 2 * height, draw)


def _triangle_colors(
    data: NDArray[np.integer],
    affine: NDArray[np.floating],
    colors: Sequence[str],
    greys: tuple[float, float],
    look: Look,
) -> dict[str, NDArray[np.floating]]:
    """Colour of every triangle of both hemispheres, (n_faces, 3): that of a label, or a grey from gyri to sulci."""
    from matplotlib.colors import to_rgb

    palette = np.array([(0.0, 0.0, 0.0), *(to_rgb(color) for color in colors)])
    gyrus, sulcus = greys
    painted = {}
    for hemi, labels in sample(data, affine, look.surface).items():
        half = load_hemisphere(hemi, look.surface)
        label = labels[triangle_corners(labels, half.faces)]
        depth = (GYRUS_GREY - half.grey()[half.faces].mean(axis=1)) / (GYRUS_GREY - SULCUS_GREY)
        grey = gyrus + (sulcus - gyrus) * depth
        painted[hemi] = np.where(label[:, None] > 0, palette[label], grey[:, None])
    return painted


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
