"""nilearn's own viewer of a label map, beside a legend.

The page of all maps of a figure is that of `plotting.explorer`, the still picture that of `plotting.montage`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.io.spaces import is_mni
from utils.io.templates import render
from utils.plotting.label_maps import OUTSIDE, LabelMap
from utils.plotting.page_layout import Look
from utils.plotting.slices import slices_note
from utils.plotting.surface import Surface, load_hemisphere, sample
from utils.rdms.vertices import fetch_average

_SLICES_NOTE = "Click or drag to move through the volume. brain_map.html names what is at a voxel, and has all maps."
_VIEWER_NOTE = (
    "Drag to rotate, scroll to zoom. This viewer shades the surface and blends colours where labels meet; "
    "brain_map.html shows only the colours of the legend."
)


def write_nilearn_page(path: str | Path, label_map: LabelMap, look: Look, notes: Sequence[str]) -> None:
    """Write nilearn's viewer of one map beside a legend, in one file that needs no network.

    On the surface, labels are those of the nearest voxels, but nilearn colours vertices, between which the browser
    blends colours. Without a surface, it is nilearn's viewer of slices.

    Parameters
    ----------
    path : path-like
        The file to write.
    label_map : LabelMap
    look : Look
    notes : sequence of str
        Sentences below the map: thresholds, number of permutations, what is not shown.

    Raises
    ------
    InputError
        If the surface cannot be downloaded.
    """
    if look.surface is None:
        viewers, outside, more = {"": _slices(label_map)}, "", [slices_note(label_map.space), _SLICES_NOTE]
    else:
        sampled = sample(label_map.data, label_map.affine, look.surface, label_map.vertices)
        viewers = {f"{hemi} hemisphere": _viewer(label_map, hemi, half, look.surface) for hemi, half in sampled.items()}
        outside, more = OUTSIDE, [label_map.surface_note, _VIEWER_NOTE]
    page = render(
        "plotting/nilearn_page.html",
        look=look,
        viewers=viewers,
        map=label_map,
        outside=outside,
        notes=[note for note in (*notes, label_map.pale_note, *more) if note],
    )
    Path(path).write_text(page, encoding="utf-8")


def _slices(label_map: LabelMap) -> str:
    """nilearn's page of slices in three directions, in front of its template where that is in the same space."""
    from matplotlib.colors import ListedColormap
    from nibabel import Nifti1Image
    from nilearn.plotting import view_img

    with warnings.catch_warnings():
        # nilearn warns of a background that is empty, where voxels are no cubes and it is resampled.
        warnings.simplefilter("ignore")
        view = view_img(
            Nifti1Image(label_map.data.astype(np.int16), label_map.affine),
            bg_img="MNI152" if is_mni(label_map.space) else None,
            cmap=ListedColormap(["#ffffff", *label_map.colors]),
            vmin=-0.5,
            vmax=len(label_map.names) + 0.5,
            threshold=0.5 if label_map.data.any() else None,
            symmetric_cmap=False,
            colorbar=False,
            black_bg=False,
            resampling_interpolation="nearest",
        )
    # Its parts have random names, by which every page would differ from the last.
    return re.sub(r"-[0-9a-f]{32}\b", "-0", view.get_standalone())


def _viewer(label_map: LabelMap, hemi: str, labels: NDArray, surface: Surface) -> str:
    """nilearn's page of one hemisphere; of both in one, the medial sides could not be seen."""
    from matplotlib.colors import ListedColormap
    from nilearn.plotting import view_surf
    from nilearn.surface import InMemoryMesh

    half = load_hemisphere(hemi, surface)
    mesh = InMemoryMesh(half.inflated.copy(), half.faces.copy()) if isinstance(surface, Path) else None
    view = view_surf(
        mesh or fetch_average(str(surface))[f"infl_{hemi}"],
        labels.astype(np.float32),
        bg_map=half.grey(),
        cmap=ListedColormap(["#ffffff", *label_map.colors]),
        vmin=-0.5,
        vmax=len(label_map.names) + 0.5,
        threshold=0.5 if labels.any() else None,  # nilearn warns of one that nothing reaches
        symmetric_cmap=False,
        colorbar=False,
        view="back",
    )
    return view.get_standalone()
