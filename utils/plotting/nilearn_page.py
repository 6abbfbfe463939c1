"""nilearn's own viewer of a label map, beside a legend.

The page of all maps of a figure is that of `plotting.explorer`, the still picture that of `plotting.montage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils.plotting.label_maps import OUTSIDE, SURFACE_NOTE, LabelMap
from utils.plotting.page_layout import Look
from utils.plotting.pages import write_page
from utils.plotting.surface import HEMISPHERES, fetch_meshes, load_hemisphere, sample_labels

_VIEWER_NOTE = (
    "Drag to rotate, scroll to zoom. Choose a hemisphere to see its medial side. This viewer shades the surface and "
    "blends colours along the borders between labels; brain_map.html shows only the colours of the legend."
)


def write_nilearn_page(path: str | Path, label_map: LabelMap, look: Look, notes: Sequence[str]) -> None:
    """Write nilearn's surface viewer of one map beside a legend, in one file that needs no network.

    Labels are those of the nearest voxels, but nilearn colours vertices, between which the browser blends colours.

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
    write_page(
        path,
        "nilearn_page.html",
        look=look,
        viewer=_viewer(label_map, look.surface),
        map=label_map,
        outside=OUTSIDE,
        notes=[*notes, SURFACE_NOTE, _VIEWER_NOTE],
    )


def _viewer(label_map: LabelMap, surface: str) -> str:
    from matplotlib.colors import ListedColormap
    from nilearn.plotting import view_surf
    from nilearn.surface import PolyMesh, SurfaceImage

    files = fetch_meshes(surface)
    mesh = PolyMesh(**{hemi: files[f"infl_{hemi}"] for hemi in HEMISPHERES})
    labels = sample_labels(label_map.data, label_map.affine, surface)
    view = view_surf(
        surf_map=SurfaceImage(mesh, {hemi: labels[hemi].astype("float32") for hemi in HEMISPHERES}),
        bg_map=SurfaceImage(mesh, {hemi: load_hemisphere(hemi, surface).grey() for hemi in HEMISPHERES}),
        hemi="both",
        cmap=ListedColormap(["#ffffff", *label_map.colors]),
        vmin=-0.5,
        vmax=len(label_map.names) + 0.5,
        threshold=0.5 if label_map.data.any() else None,  # nilearn warns of one that nothing reaches
        symmetric_cmap=False,
        colorbar=False,
        view="back",
    )
    return view.get_standalone()
