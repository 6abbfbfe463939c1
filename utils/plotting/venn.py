"""Venn diagrams of parts of variance, and what is wrong with them.

Circles cannot show everything: a negative part has no area, and three circles have too few degrees of freedom for
seven areas. Areas are measured once drawn, and a diagram that omits or distorts a part says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from utils.stats.regression import part_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.path import Path

# A diagram with an area this far off, as a share of the total, says that it is.
_TOLERANCE = 0.05
NOTE = (
    "Circles: the same parts as areas; clipped: a negative part has no area and is omitted; distorted: an area is off "
    f"by more than {_TOLERANCE:.0%} of the total; not drawn: circles cannot show these parts."
)
MISSING_NOTE = "Venn diagrams need the package matplotlib-venn, which is not installed."


def is_installed() -> bool:
    """Whether matplotlib-venn is installed."""
    return find_spec("matplotlib_venn") is not None


def can_draw(n_sets: int) -> bool:
    """Whether there is a diagram of `n_sets` sets: of two or three."""
    return n_sets in (2, 3)


def draw(axes: Axes, parts: Mapping[frozenset[int], float], colors: Sequence[str]) -> list[str]:
    """Draw two or three circles without any text.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    parts : mapping of frozenset of int to float
        Signed part of every subset of the sets; missing ones are 0.
    colors : sequence of str, length 2 or 3
        Colours of the sets; overlaps are a mixture.

    Returns
    -------
    list of str
        What is wrong with the diagram: "clipped", "distorted", "not drawn"; none if its areas are the parts.
    """
    axes.set_axis_off()
    signed = {subset: parts.get(subset, 0.0) for subset in map(frozenset, part_names(len(colors)))}
    # matplotlib-venn takes negative areas without a word and draws something else.
    areas = {subset: max(0.0, part) for subset, part in signed.items()}
    wrong = ["clipped"] * any(part < 0 for part in signed.values())
    error = _draw_circles(axes, areas, colors) if any(areas.values()) else np.inf
    if error > _TOLERANCE:
        wrong.append("distorted" if np.isfinite(error) else "not drawn")
    return wrong


def _draw_circles(axes: Axes, areas: Mapping[frozenset[int], float], colors: Sequence[str]) -> float:
    """Draw the diagram; returns the largest error of an area as a share of the total, infinite if none can be drawn."""
    from matplotlib.colors import to_rgb
    from matplotlib_venn import venn2, venn3
    from matplotlib_venn._region import VennRegionException  # raised to callers, but exported nowhere

    n = len(colors)
    codes = {subset: "".join("01"[i in subset] for i in range(n)) for subset in areas}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bad positions: the error is measured below
        circles = venn2 if n == 2 else venn3
        try:
            diagram = circles({codes[subset]: area for subset, area in areas.items()}, ax=axes, set_labels=None)
        except VennRegionException:  # one circle would have to lie inside another's unique part
            return np.inf
    drawn = {}
    for subset, code in codes.items():
        if (text := diagram.get_label_by_id(code)) is not None:
            text.set_visible(False)
        patch = diagram.get_patch_by_id(code)
        drawn[subset] = area_of(patch.get_path()) if patch is not None else 0.0
        if patch is not None:
            mixed = np.mean([to_rgb(colors[i]) for i in subset], axis=0)
            patch.set(facecolor=0.8 * mixed + 0.2, alpha=1, edgecolor="white", linewidth=0.5)
    total, total_drawn = sum(areas.values()), sum(drawn.values())
    return max(abs(drawn[subset] / total_drawn - areas[subset] / total) for subset in areas)


def area_of(path: Path) -> float:
    """Area inside a path, by the shoelace formula."""
    area = 0.0
    for polygon in path.to_polygons():
        x, y = np.asarray(polygon).T
        area += abs(float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))) / 2
    return area
