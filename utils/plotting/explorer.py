"""The page on which all maps of a figure can be explored: one file that needs no network."""

from __future__ import annotations

import base64
import html
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.io.templates import render
from utils.plotting.label_maps import OUTSIDE, SURFACE_NOTE, LabelMap, Regions, ValueMap
from utils.plotting.page_layout import text_width
from utils.plotting.surface import (
    DEFAULT_SURFACE,
    HEMISPHERES,
    Hemisphere,
    load_hemisphere,
    sample_labels,
    sample_values,
    triangle_corners,
)

# How far labels lie above the grey cortex: enough to hide it, too little to be seen.
_LIFT_MM = 0.35
# Coordinates of the drawn cortex are whole numbers of this unit: 16 bits reach 327 mm.
_UNIT_MM = 0.01
_HELP_NOTE = (
    "Drag to turn, scroll to zoom. Click a label in the legend to hide or show it, double-click to see it alone. "
    f"Folded dark grey: cortex {OUTSIDE}."
)
# The title of a colour bar is broken into lines of so many letters; with them it is so many pixels wide.
_BAR_LETTERS, _BAR_WIDTH = 22, 170


def write_explorer(
    path: str | Path,
    maps: Sequence[LabelMap | ValueMap],
    *,
    title: str,
    notes: Sequence[str],
    banner: str | None = None,
    surface: str = DEFAULT_SURFACE,
    hover: Mapping[str, NDArray[np.floating]] | None = None,
    regions: Regions | None = None,
) -> None:
    """Write the page with all maps of a figure, drawn by plotly on both inflated hemispheres.

    Where the mouse points, the page names the label of the first map, the value of every `ValueMap` and of every volume
    of `hover`, the position and the region. A triangle has one colour: that of one of its corners, the one with the
    middle label in the first map (`utils.plotting.surface.triangle_corners`); all maps take it from the same corner.

    Parameters
    ----------
    path : path-like
        The file to write.
    maps : sequence of LabelMap or ValueMap
        In the order of the menu; the first is a `LabelMap`. Each has a title of its own.
    title : str
    notes : sequence of str
        Sentences below the map: thresholds, number of permutations, what is not shown.
    banner : str, optional
        Warning across the top of the page, such as that the data are simulated.
    surface : str
        One of `utils.plotting.surface.SURFACES`.
    hover : mapping of str to ndarray of float, shape (X, Y, Z)
        Further values by name, on the grid of the first map; NaN where there is none.
    regions : Regions, optional

    Raises
    ------
    InputError
        If the surface cannot be downloaded.
    ValueError
        If the first map is no label map, titles are missing or double, or a volume of `hover` is on another grid.
    """
    from plotly.offline import get_plotlyjs

    first = maps[0] if maps else None
    if not isinstance(first, LabelMap):
        raise ValueError(f"the first map is a {type(first).__name__}: expected a LabelMap, which says what is labelled")
    titles = [own.title for own in maps]
    if "" in titles or len(set(titles)) < len(titles):
        raise ValueError(f"titles of the maps are {titles}: expected one of its own for each")
    for name, volume in (hover or {}).items():
        if volume.shape != first.data.shape:
            raise ValueError(f"{name} has shape {volume.shape}: expected {first.data.shape}, the grid of the first map")
    content = _content(maps, first, surface, hover or {}, regions)
    page = render(
        "plotting/explorer.html",
        title=title,
        banner=banner,
        titles=titles,
        notes=" ".join([*notes, SURFACE_NOTE, _HELP_NOTE]),
        tables="".join(_table(own) for own in maps if isinstance(own, LabelMap)),
        plotly=get_plotlyjs(),
        content=content,
    )
    Path(path).write_text(page, encoding="utf-8")


def _content(
    maps: Sequence[LabelMap | ValueMap],
    first: LabelMap,
    surface: str,
    hover: Mapping[str, NDArray[np.floating]],
    regions: Regions | None,
) -> dict[str, Any]:
    """What the script of the page draws. Vertices and triangles are those of the left, then of the right hemisphere."""
    halves = [load_hemisphere(hemi, surface) for hemi in HEMISPHERES]
    start = len(halves[0].pial)
    index = "u2" if 2 * start <= 2**16 else "u4"
    faces = np.concatenate([halves[0].faces, halves[1].faces + start])
    label = _joined(sample_labels(first.data, first.affine, surface))
    values = {own.title: own for own in maps if isinstance(own, ValueMap)}
    columns = [(own.name or own.title, own.data, own.affine) for own in values.values()]
    columns += [(name, volume, first.affine) for name, volume in hover.items()]
    codes, names = _region_codes(regions, surface, len(label))
    return {
        "legendWidth": max(_legend_width(own) for own in maps),
        "cortex": {
            "leftVertices": start,
            "faces": _packed(faces, index),
            "corner": _packed(triangle_corners(label, faces), index),
            "base": _packed(np.concatenate([half.inflated for half in halves]) / _UNIT_MM, "i2"),
            "lifted": _packed(np.concatenate([_lifted(half) for half in halves]) / _UNIT_MM, "i2"),
            "grey": _packed(np.concatenate([half.grey() for half in halves]) * 255, "u1"),
        },
        "hover": {
            "labels": ["", *(_heading(name, family) for name, family in zip(first.names, first.families, strict=True))],
            "values": [
                {"name": html.escape(name), "value": _packed(_joined(sample_values(data, affine, surface)), "f4")}
                for name, data, affine in columns
            ],
            "mni": _packed(np.concatenate([half.middle() for half in halves]), "i2"),
            "region": _packed(codes, "u2"),
            "regions": names,
        },
        "maps": [
            _label_content(own, surface)
            if isinstance(own, LabelMap)
            else _value_content(own, [*values].index(own.title))
            for own in maps
        ],
    }


def _label_content(label_map: LabelMap, surface: str) -> dict[str, Any]:
    return {
        "note": label_map.note,
        "heading": f"number of {html.escape(label_map.unit)}",
        "label": _packed(_joined(sample_labels(label_map.data, label_map.affine, surface)), "u2"),
        "colors": list(label_map.colors),
        "families": [family and f"<b>{html.escape(family)}</b>" for family in label_map.families],
        "legend": [_entry(name, count) for name, count in zip(label_map.names, label_map.counts, strict=True)],
    }


def _entry(name: str, count: int) -> str:
    """Line of the legend; a label that won nowhere steps back."""
    text = f'{html.escape(name)}  <span style="color:#666">{count:,}</span>'
    return text if count else f'<span style="color:#767676">{text}</span>'


def _heading(name: str, family: str) -> str:
    return f"<b>{html.escape(name)}</b>" + (f" ({html.escape(family)})" if family else "")


def _value_content(value_map: ValueMap, column: int) -> dict[str, Any]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    low, high = value_map.limits()
    steps = np.linspace(0, 1, 33)
    return {
        "note": f"{value_map.note} Folded dark grey: cortex without a value.".strip(),
        "values": column,
        "unit": "<br>".join(map(html.escape, textwrap.wrap(value_map.unit, _BAR_LETTERS))),
        "low": low,
        "high": high,
        "colorscale": [[float(at), to_hex(colormaps[value_map.colormap](at))] for at in steps],
    }


def _region_codes(regions: Regions | None, surface: str, n_vertices: int) -> tuple[NDArray[np.integer], list[str]]:
    """Position of every vertex's region in a list of names, and that list; the first is no region."""
    if regions is None:
        return np.zeros(n_vertices, dtype=np.int64), [""]
    numbers = _joined(sample_labels(regions.data, regions.affine, surface))
    codes = np.zeros_like(numbers)
    for code, number in enumerate(regions.names, start=1):
        codes[numbers == number] = code
    return codes, ["", *map(html.escape, regions.names.values())]


def _joined(by_hemisphere: Mapping[str, NDArray]) -> NDArray:
    return np.concatenate([by_hemisphere[hemi] for hemi in HEMISPHERES])


def _packed(array: NDArray, dtype: str) -> dict[str, str]:
    """An array as the script of the page reads it: flat, little-endian; rounded if of an integer type."""
    numbers = array if dtype[0] == "f" else np.rint(array)
    return {"type": dtype, "base64": base64.b64encode(numbers.astype("<" + dtype).tobytes()).decode("ascii")}


def _lifted(half: Hemisphere) -> NDArray[np.floating]:
    """The inflated cortex, every vertex moved outwards along its normal."""
    a, b, c = (half.inflated[half.faces[:, corner]] for corner in range(3))
    normals = np.zeros(half.inflated.shape)
    for corner in range(3):
        np.add.at(normals, half.faces[:, corner], np.cross(b - a, c - a))
    return half.inflated + _LIFT_MM * normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _legend_width(own: LabelMap | ValueMap) -> int:
    """Pixels to the right of the brain that the legend or the colour bar needs."""
    if isinstance(own, ValueMap):
        return _BAR_WIDTH
    texts = [f"{name}  {count:,}" for name, count in zip(own.names, own.counts, strict=True)] + list(own.families)
    # The page has a font of the system's; the one that is measured here is wider than most.
    return round(70 + 96 * max(text_width(text, 9) for text in texts))


def _table(label_map: LabelMap) -> str:
    """Names and counts of all labels, for readers who cannot or need not see the map."""
    grouped = any(label_map.families)
    rows = "".join(
        f"<tr{'' if count else ' class=none'}>"
        f'<td><i style="background:{html.escape(color)}"></i>{html.escape(name)}</td>'
        + f"<td>{html.escape(family)}</td>" * grouped
        + f"<td>{count:,}</td></tr>"
        for name, color, family, count in zip(
            label_map.names, label_map.colors, label_map.families, label_map.counts, strict=True
        )
    )
    head = "<th>label</th>" + "<th>group</th>" * grouped + f"<th>{html.escape(label_map.unit)}</th>"
    caption = f"<caption>{html.escape(label_map.title)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
