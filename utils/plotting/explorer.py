"""The page on which all maps of a figure can be explored: one file that needs no network."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.io.templates import render
from utils.plotting.label_maps import OUTSIDE, PALE, LabelMap, Map, ValueMap
from utils.plotting.page_layout import Look, text_width
from utils.plotting.surface import Hemisphere, Surface, load_hemisphere, sample, triangle_corners, vertex_normals
from utils.rdms.atlas import Atlas
from utils.rdms.surface_labels import SurfaceLabels

# How far labels lie above the grey cortex: enough to hide it, too little to be seen.
_LIFT_MM = 0.35
# Coordinates of the drawn cortex are whole numbers of this unit: 16 bits reach 327 mm.
_UNIT_MM = 0.01
_HELP_NOTE = (
    "Drag to rotate, scroll to zoom. Click a label in the legend to hide or show it, double-click to show it alone. "
    f"Dark grey with folds: cortex {OUTSIDE}."
)
_PALE_HELP_NOTE = (
    "Pale tints have a column of their own in the legend, which a click on its heading hides or shows; pointing at a "
    "pale place names those that are not told apart."
)
# The label of a colour bar is broken into lines of so many letters; with them it is so many pixels wide.
_BAR_LETTERS, _BAR_WIDTH = 22, 170


def write_explorer(
    path: str | Path, maps: Sequence[Map], look: Look, notes: Sequence[str], atlas: Atlas | SurfaceLabels | None = None
) -> None:
    """Write the page with all maps of a figure, drawn by plotly on the inflated hemispheres.

    Hover texts give the label of the first map, the value of every `ValueMap`, the position and the region. A triangle
    has one colour: that of one of its corners, the one with the middle label in the first map
    (`utils.plotting.surface.triangle_corners`); all maps take it from the same corner.

    Parameters
    ----------
    path : path-like
        The file to write.
    maps : sequence of LabelMap or ValueMap
        In the order of the menu; the first is a `LabelMap`. Each has a title of its own.
    look : Look
        With a surface.
    notes : sequence of str
        Sentences below the map: thresholds, number of permutations, what is not shown.
    atlas : Atlas or SurfaceLabels, optional
        Regions to name in hover texts, and to outline on demand; numbers without a name are not shown.

    Raises
    ------
    InputError
        If the surface cannot be downloaded.
    ValueError
        If the first map is not a `LabelMap`, or titles are missing or repeated.
    """
    from plotly.offline import get_plotlyjs

    first = maps[0] if maps else None
    if not isinstance(first, LabelMap):
        raise ValueError(f"the first map is a {type(first).__name__}: expected a LabelMap, which says what is labelled")
    assert look.surface is not None
    titles = [own.title for own in maps]
    if "" in titles or len(set(titles)) < len(titles):
        raise ValueError(f"titles of the maps are {titles}: expected one of its own for each")
    content = _content(maps, first, look.surface, atlas)
    page = render(
        "plotting/explorer.html",
        look=look,
        maps=titles,
        notes=" ".join([*notes, first.surface_note, _HELP_NOTE, *([_PALE_HELP_NOTE] if first.pale else [])]),
        pale=PALE,
        tables=[own for own in maps if isinstance(own, LabelMap)],
        plotly=get_plotlyjs(),
        content=content,
    )
    Path(path).write_text(page, encoding="utf-8")


def _content(
    maps: Sequence[Map], first: LabelMap, surface: Surface, atlas: Atlas | SurfaceLabels | None
) -> dict[str, Any]:
    """What the script of the page draws. Vertices and triangles are those of the left, then of the right hemisphere."""
    sides = list(_sampled(first, surface))
    halves = {hemi: load_hemisphere(hemi, surface) for hemi in sides}
    starts = np.cumsum([0, *(len(half.inflated) for half in halves.values())])
    index = "u2" if starts[-1] <= 2**16 else "u4"
    faces = np.concatenate([half.faces + start for half, start in zip(halves.values(), starts, strict=False)])
    label = _joined(first, surface)
    values = {own.title: own for own in maps if isinstance(own, ValueMap)}
    codes, names = _region_codes(atlas, surface, halves)
    return {
        "legendWidth": max(_legend_width(own) for own in maps),
        "cortex": {
            "sides": sides,
            "leftVertices": len(halves["left"].inflated) if "left" in halves else 0,
            "faces": packed(faces, index),
            "corner": packed(triangle_corners(label, faces), index),
            "base": packed(np.concatenate([half.inflated for half in halves.values()]) / _UNIT_MM, "i2"),
            "lifted": packed(np.concatenate([_lifted(half) for half in halves.values()]) / _UNIT_MM, "i2"),
            "grey": packed(np.concatenate([half.grey() for half in halves.values()]) * 255, "u1"),
        },
        "hover": {
            "labels": hover_labels(first),
            **_candidates(first, surface),
            "values": [
                {"name": escape(own.name or own.title), "value": packed(_joined(own, surface), "f4")}
                for own in values.values()
            ],
            "space": "mm" if isinstance(surface, Path) else "MNI",
            "mni": packed(np.concatenate([half.middle() for half in halves.values()]), "i2"),
            "region": packed(codes, "u2"),
            "regions": names,
        },
        "maps": [
            _label_content(own, surface)
            if isinstance(own, LabelMap)
            else _value_content(own, [*values].index(own.title))
            for own in maps
        ],
    }


def _label_content(label_map: LabelMap, surface: Surface) -> dict[str, Any]:
    return {
        "note": f"{label_map.note} {label_map.pale_note}".strip(),
        "heading": f"number of {escape(label_map.unit)}",
        "paleHeading": PALE,
        "pale": [*label_map.pale.values()],
        "rows": len(label_map.rows()) + len(set(label_map.legend_groups)) + 1,
        "label": packed(_joined(label_map, surface), "u2"),
        "colors": list(label_map.colors),
        "legendGroups": _legend_groups(label_map),
        "legend": _legend_entries(label_map),
    }


def _legend_groups(label_map: LabelMap) -> list[str]:
    """Title of every label's group; blanks for those of pale labels, which stand beside the others."""
    pale = label_map.pale.values()
    blanks = {group: " " * k for k, group in enumerate(dict.fromkeys(filter(None, label_map.legend_groups)), start=2)}
    return [
        group and (blanks[group] if i in pale else f"<b>{escape(group)}</b>")
        for i, group in enumerate(label_map.legend_groups)
    ]


def _legend_entries(label_map: LabelMap) -> list[str]:
    """Lines of the legend; faint for labels that win nowhere."""
    entries = []
    for i, (name, count) in enumerate(zip(label_map.names, label_map.counts, strict=True)):
        text = f'<span style="color:#666">{count:,}</span>'
        text = f"{text} pale" if i in label_map.pale.values() else f"{escape(name)}  {text}"
        entries.append(text if count else f'<span style="color:#767676">{text}</span>')
    return entries


def hover_labels(label_map: LabelMap) -> list[str]:
    """What hovering calls every label, from that of no label on; a pale one is called as it is where it is solid."""
    solid = {pale: i for i, pale in label_map.pale.items()}
    called = [label_map.names[solid.get(i, i)] for i in range(len(label_map.names))]
    groups = [f" ({escape(group)})" if group else "" for group in label_map.legend_groups]
    return ["", *(f"<b>{escape(name)}</b>{group}" for name, group in zip(called, groups, strict=True))]


def _candidates(label_map: LabelMap, surface: Surface) -> dict[str, Any]:
    """Number of every vertex's candidates, and what hovering says of them."""
    if label_map.candidates is None:
        return {}
    codes = [*sample(label_map.candidates, label_map.affine, surface, label_map.vertices).values()]
    return {"candidate": packed(np.concatenate(codes), "u2"), "candidates": candidate_texts(label_map)}


def candidate_texts(label_map: LabelMap) -> list[str]:
    """What hovering says of those that are not told apart, by their numbers in `LabelMap.candidates`."""
    return ["", *(f"{PALE}: {escape(names)}" for names in label_map.candidate_names[1:])]


def _value_content(value_map: ValueMap, column: int) -> dict[str, Any]:
    low, high = value_map.limits()
    return {
        "note": f"{value_map.note} Dark grey with folds: cortex without a value.".strip(),
        "values": column,
        "unit": "<br>".join(map(escape, textwrap.wrap(value_map.unit, _BAR_LETTERS))),
        "low": low,
        "high": high,
        "colorscale": color_steps(value_map.colormap, 33),
    }


def color_steps(colormap: str, n: int) -> list[tuple[float, str]]:
    """Colours of one of matplotlib's colour maps at `n` even steps from 0 to 1."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [(float(at), to_hex(colormaps[colormap](at))) for at in np.linspace(0, 1, n)]


def _region_codes(
    atlas: Atlas | SurfaceLabels | None, surface: Surface, halves: Mapping[str, Hemisphere]
) -> tuple[NDArray[np.integer], list[str]]:
    """Position of every vertex's region in a list of names, and that list; the first is no region."""
    none = {hemi: np.zeros(len(half.inflated), dtype=np.int64) for hemi, half in halves.items()}
    if atlas is None:
        return np.concatenate([*none.values()]), [""]
    sampled = sample(atlas.labels, atlas.affine, surface, atlas.vertices)
    numbers = np.concatenate([sampled.get(hemi, blank) for hemi, blank in none.items()])
    codes = np.zeros_like(numbers)
    for code, number in enumerate(atlas.names, start=1):
        codes[numbers == number] = code
    return codes, ["", *map(escape, atlas.names.values())]


def _sampled(own: Map, surface: Surface) -> dict[str, NDArray]:
    return sample(own.data, own.affine, surface, own.vertices)


def _joined(own: Map, surface: Surface) -> NDArray:
    """Of the left, then of the right hemisphere."""
    return np.concatenate([*_sampled(own, surface).values()])


def packed(array: NDArray, dtype: str) -> dict[str, str]:
    """An array as the script of the page reads it: flat, little-endian; rounded if of an integer type."""
    numbers = array if dtype[0] == "f" else np.rint(array)
    return {"type": dtype, "base64": base64.b64encode(numbers.astype("<" + dtype).tobytes()).decode("ascii")}


def _lifted(half: Hemisphere) -> NDArray[np.floating]:
    """The inflated cortex, every vertex moved outwards along its normal."""
    return half.inflated + _LIFT_MM * vertex_normals(half.inflated, half.faces)


def _legend_width(own: Map) -> int:
    """Pixels to the right of the brain that the legend or the colour bar needs."""
    if isinstance(own, ValueMap):
        return _BAR_WIDTH
    texts = [f"{own.names[i]}  {own.counts[i]:,}" for i, _ in own.rows()] + list(own.legend_groups)
    # The page has a font of the system's; the one that is measured here is wider than most.
    width = round(70 + 96 * max(text_width(text, 9) for text in texts))
    if own.pale:
        entry = max(text_width(f"{own.counts[k]:,} pale", 9) for k in own.pale.values())
        width += round(max(78 + 96 * entry, 48 + 96 * text_width(PALE, 9)))
    return width
