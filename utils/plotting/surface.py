"""The cortical surface: its meshes, and what a volume holds at their vertices.

Every vertex stands for one voxel of a volume: the one that holds the point halfway between pial and white surface.
Labels, values and names of regions are read from that voxel and never interpolated, so that what is shown somewhere is
what the tables say of one searchlight or ROI.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.rdms.surface_labels import FSAVERAGE

# nilearn ships the first and downloads the others.
SURFACES = tuple(FSAVERAGE)
DEFAULT_SURFACE = "fsaverage5"
HEMISPHERES = ("left", "right")
NEAR_CORTEX_MM = 6.0
# Cortex without a label, from the crowns of the gyri to the depths of the sulci: its folds tell it from the flat light
# greys of "not significant" and "below the noise ceiling", its lightness from the untrained network's near-black.
GYRUS_GREY, SULCUS_GREY = 0.60, 0.40


@dataclass(frozen=True)
class Hemisphere:
    """One hemisphere of an average brain.

    Attributes
    ----------
    pial, white : ndarray of float, shape (n_vertices, 3)
        Outer and inner surface of the grey matter, in mm of MNI space. Read-only, as all arrays here.
    inflated : ndarray of float, shape (n_vertices, 3)
        The same vertices on the inflated cortex, in mm around its own centre.
    faces : ndarray of int, shape (n_faces, 3)
        Vertices of every triangle.
    depth : ndarray of float, shape (n_vertices,)
        Sulcal depth; positive in sulci, negative on gyri.
    """

    pial: NDArray[np.floating]
    white: NDArray[np.floating]
    inflated: NDArray[np.floating]
    faces: NDArray[np.integer]
    depth: NDArray[np.floating]

    def middle(self) -> NDArray[np.floating]:
        """Position of every vertex halfway between pial and white surface, (n_vertices, 3), in mm of MNI space."""
        return (self.pial + self.white) / 2

    def grey(self) -> NDArray[np.floating]:
        """Grey level of every vertex by sulcal depth, (n_vertices,): 0 is black, 1 is white."""
        low, high = np.percentile(self.depth, [5, 95])
        return GYRUS_GREY + (SULCUS_GREY - GYRUS_GREY) * np.clip((self.depth - low) / (high - low), 0, 1)


def fetch_meshes(surface: str = DEFAULT_SURFACE) -> Any:
    """nilearn's files of an average brain, downloaded once unless nilearn ships them.

    Parameters
    ----------
    surface : str
        One of `SURFACES`.

    Returns
    -------
    dict
        Paths by name: "pial_left", "white_left", "infl_left", "sulc_left", and those of the right hemisphere.

    Raises
    ------
    InputError
        If they cannot be downloaded.
    """
    from nilearn import datasets

    try:
        return datasets.fetch_surf_fsaverage(surface)
    except OSError as error:  # among them all that requests raises
        raise InputError(
            f"`surface` is {surface}, which could not be downloaded ({type(error).__name__}); run once with a network, "
            f"or choose {DEFAULT_SURFACE}, which needs none"
        ) from None


@lru_cache(maxsize=2 * len(SURFACES))
def load_hemisphere(hemi: str, surface: str = DEFAULT_SURFACE) -> Hemisphere:
    """Meshes and sulcal depth of one hemisphere.

    Parameters
    ----------
    hemi : {"left", "right"}
    surface : str
        One of `SURFACES`.

    Returns
    -------
    Hemisphere

    Raises
    ------
    InputError
        If the meshes cannot be downloaded.
    """
    from nilearn import surface as nilearn_surface

    files = fetch_meshes(surface)
    meshes = [nilearn_surface.load_surf_mesh(files[f"{kind}_{hemi}"]) for kind in ("pial", "white", "infl")]
    depth = nilearn_surface.load_surf_data(files[f"sulc_{hemi}"])
    arrays = [*(mesh.coordinates for mesh in meshes), meshes[0].faces, depth]
    for array in arrays:
        array.flags.writeable = False
    return Hemisphere(*arrays)


def vertex_voxels(
    shape: tuple[int, ...], affine: NDArray[np.floating], hemi: str, surface: str = DEFAULT_SURFACE
) -> NDArray[np.int64]:
    """Voxel that every vertex stands for: the one that holds the point halfway between pial and white surface.

    The same as nilearn's ``vol_to_surf(..., interpolation="nearest_most_frequent", depth=[0.5])``, which fails on
    vertices outside of the volume.

    Parameters
    ----------
    shape : tuple of int
        Size of the volume, (X, Y, Z).
    affine : ndarray, shape (4, 4)
        Voxel indices to mm in MNI space.
    hemi : {"left", "right"}
    surface : str
        One of `SURFACES`.

    Returns
    -------
    ndarray of int, shape (n_vertices,)
        Flat indices (C order), -1 outside of the volume.
    """
    from nibabel.affines import apply_affine

    position = apply_affine(np.linalg.inv(affine), load_hemisphere(hemi, surface).middle())
    voxels = np.rint(position).astype(np.int64)
    inside = ((voxels >= 0) & (voxels < shape)).all(axis=1)
    flat = np.full(len(voxels), -1)
    flat[inside] = np.ravel_multi_index(tuple(voxels[inside].T), shape)
    return flat


def sample(data: NDArray, affine: NDArray[np.floating] | None, surface: str = DEFAULT_SURFACE) -> dict[str, NDArray]:
    """Label or value of every vertex: exactly that of the voxel it stands for, or its own.

    Parameters
    ----------
    data : ndarray of int or float, shape (X, Y, Z) or (n_vertices,)
        Labels, or values. Of a finer mesh of the average brain, those vertices that the coarser one has too, which are
        its first.
    affine : ndarray, shape (4, 4), or None
        Voxel indices to mm in MNI space; None for data of the vertices of the left, then of the right hemisphere.
    surface : str
        One of `SURFACES`.

    Returns
    -------
    dict of str to ndarray, shape (n_vertices,)
        "left" and "right": labels as int64, 0 outside of the volume; values as float32, NaN outside.

    Raises
    ------
    InputError
        If the data are of a coarser mesh.
    """
    dtype, outside = (np.int64, 0) if np.issubdtype(data.dtype, np.integer) else (np.float32, np.nan)
    sampled: dict[str, NDArray] = {}
    if affine is None:
        n_vertices, n_own = FSAVERAGE[surface], len(data) // 2
        if n_own < n_vertices:
            own = next(name for name, n in FSAVERAGE.items() if n == n_own)
            raise InputError(
                f"`atlas` has the vertices of {own}, fewer than `surface` {surface}; draw it on `surface` {own}"
            )
        return {
            hemi: half[:n_vertices].astype(dtype) for hemi, half in zip(HEMISPHERES, data.reshape(2, -1), strict=True)
        }
    for hemi in HEMISPHERES:
        voxels = vertex_voxels(data.shape, affine, hemi, surface)
        sampled[hemi] = np.where(voxels >= 0, data.reshape(-1)[voxels], outside).astype(dtype)
    return sampled


def share_near_cortex(
    voxels: NDArray[np.bool_], affine: NDArray[np.floating], distance_mm: float = NEAR_CORTEX_MM
) -> float:
    """Share of voxels whose centres lie near the cortex of the average brain.

    Of a brain mask in MNI space, 73 % lie within 6 mm of the surface halfway between pial and white; 49 % if it is
    shifted by 4 cm to the front or the side, as data in another space may be.

    Parameters
    ----------
    voxels : ndarray of bool, shape (X, Y, Z)
        Which to look at; there is one or more.
    affine : ndarray, shape (4, 4)
        Voxel indices to mm in MNI space.
    distance_mm : float, optional
        What near is; half the diagonal of a voxel is near too.

    Returns
    -------
    float
        0 to 1.
    """
    from nibabel.affines import apply_affine
    from scipy.spatial import KDTree

    cortex = KDTree(np.concatenate([load_hemisphere(hemi).middle() for hemi in HEMISPHERES]))
    near = max(distance_mm, float(np.sqrt(np.square(affine[:3, :3]).sum())) / 2)
    distance, _ = cortex.query(apply_affine(affine, np.argwhere(voxels)), distance_upper_bound=near)
    return float(np.isfinite(distance).mean())


def triangle_corners(labels: NDArray[np.integer], faces: NDArray[np.integer]) -> NDArray[np.int64]:
    """Vertex that every triangle takes its colour from: of its three corners, one with the middle label.

    Where two corners agree, that is the label of those two.

    Parameters
    ----------
    labels : ndarray of int, shape (n_vertices,)
    faces : ndarray of int, shape (n_faces, 3)

    Returns
    -------
    ndarray of int, shape (n_faces,)
    """
    middle = np.argsort(labels[faces], axis=1, kind="stable")[:, 1:2]
    return np.take_along_axis(faces, middle, axis=1)[:, 0].astype(np.int64)
