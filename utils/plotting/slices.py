"""Maps as slices of their volume, for data in any space: the page on which they can be explored, and a still picture.

Slices lie along the axes of the voxels, in the order that is nearest to right, front and top; nothing is resampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.io.spaces import describe
from utils.io.templates import render
from utils.plotting.explorer import candidate_texts, color_steps, hover_labels, packed
from utils.plotting.label_maps import LabelMap, Map, ValueMap
from utils.plotting.page_layout import Look

_MARGIN = 2  # voxels around those that are drawn
_HELP_NOTE = (
    "Click or drag to move through the volume; the mouse wheel and Page Up/Down turn slices. Click a label in the "
    "legend to hide or show it. Left is left."
)


def slices_note(space: str) -> str:
    """Why there are slices, and what their millimetres are."""
    known = describe(space)
    return f"Slices of the volume, as it may not be in MNI space: {known}." if known else "Slices of the volume."


def to_canonical(affine: NDArray[np.floating] | None, *volumes: NDArray) -> tuple[NDArray[np.float64], list[NDArray]]:
    """Turn volumes so that their axes lead to the right, to the front and upwards, as nearly as voxels allow.

    Parameters
    ----------
    affine : ndarray, shape (4, 4)
        Voxel indices to mm.
    *volumes : ndarray, shape (X, Y, Z)

    Returns
    -------
    affine : ndarray of float64, shape (4, 4)
        Of the turned volumes.
    volumes : list of ndarray
    """
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    assert affine is not None  # vertices have no slices
    orientation = io_orientation(affine)
    turned = affine @ inv_ornt_aff(orientation, volumes[0].shape)
    return np.asarray(turned, dtype=np.float64), [apply_orientation(volume, orientation) for volume in volumes]


def bounding_box(drawn: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """The part of a volume in which something is drawn, with a margin; all of it where there is nothing."""
    if not drawn.any():
        return np.s_[:, :, :]
    corners = zip(*((where.min(), where.max()) for where in np.nonzero(drawn)), strict=True)
    low, high = (np.array(corner) for corner in corners)
    first, last = np.maximum(low - _MARGIN, 0), high + _MARGIN + 1
    x, y, z = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    return x, y, z


def write_slices(path: str | Path, maps: Sequence[Map], look: Look, notes: Sequence[str]) -> None:
    """Write the page with all maps of a figure as slices in three directions, in one file that needs no network.

    Pointing at a voxel gives the label of the first map, the value of every `ValueMap`, and the position.

    Parameters
    ----------
    path : path-like
        The file to write.
    maps : sequence of LabelMap or ValueMap
        In the order of the menu, all on one grid; the first is a `LabelMap`.
    look : Look
    notes : sequence of str
        Sentences below the map: thresholds, number of permutations, what is not shown.

    Raises
    ------
    ValueError
        If the first map is not a `LabelMap`.
    """
    first = maps[0]
    if not isinstance(first, LabelMap):
        raise ValueError(f"the first map is a {type(first).__name__}: expected a LabelMap, which says what is labelled")
    page = render(
        "plotting/slices.html",
        look=look,
        maps=maps,
        notes=" ".join([*notes, slices_note(first.space), _HELP_NOTE]),
        content=_content(maps, first),
    )
    Path(path).write_text(page, encoding="utf-8")


def _content(maps: Sequence[Map], first: LabelMap) -> dict[str, Any]:
    """What the script of the page draws: all of it by a list of the voxels that hold something."""
    affine, (drawn, *volumes) = to_canonical(first.affine, first.data > 0, *(own.data for own in maps))
    box = bounding_box(drawn)
    affine[:3, 3] += affine[:3, :3] @ [part.start or 0 for part in box]
    voxels = np.flatnonzero(drawn[box])
    held = [volume[box].reshape(-1)[voxels] for volume in volumes]
    columns = {own.title: k for k, own in enumerate(own for own in maps if isinstance(own, ValueMap))}
    hover = {
        "start": _start(drawn[box]),
        "space": first.space,
        "labels": hover_labels(first),
        "label": packed(held[0], "u2"),
        "values": [
            {"name": escape(own.name or own.title), "value": packed(at, "f4")}
            for own, at in zip(maps, held, strict=True)
            if isinstance(own, ValueMap)
        ],
    }
    if first.candidates is not None:
        _, (candidates,) = to_canonical(first.affine, first.candidates)
        hover["candidate"] = packed(candidates[box].reshape(-1)[voxels], "u2")
        hover["candidates"] = candidate_texts(first)
    return {
        "shape": drawn[box].shape,
        "affine": affine[:3].tolist(),
        "sizes": np.linalg.norm(affine[:3, :3], axis=0).tolist(),
        "voxels": packed(voxels, "u4"),
        "hover": hover,
        "maps": [
            _label_content(own, at) if isinstance(own, LabelMap) else _value_content(own, columns[own.title])
            for own, at in zip(maps, held, strict=True)
        ],
    }


def _label_content(own: LabelMap, labels: NDArray[np.integer]) -> dict[str, Any]:
    """`rows` has the labels of every line of the legend: one, and its pale state if it has one."""
    rows = [[label for label in row if label is not None] for _, rows in own.by_legend_group() for row in rows]
    note = f"{own.note} {own.pale_note}".strip()
    return {"note": note, "colors": list(own.colors), "label": packed(labels, "u2"), "rows": rows}


def _value_content(own: ValueMap, column: int) -> dict[str, Any]:
    low, high = own.limits()
    colors = [color for _, color in color_steps(own.colormap, 64)]
    return {"note": own.note, "values": column, "low": low, "high": high, "colors": colors}


def _start(drawn: NDArray[np.bool_]) -> list[int]:
    """Where the page opens: in the drawn voxel that is nearest to the middle of all."""
    where = np.argwhere(drawn)
    if not len(where):
        return [size // 2 for size in drawn.shape]
    return [int(at) for at in where[np.square(where - where.mean(axis=0)).sum(axis=1).argmin()]]
