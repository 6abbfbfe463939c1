"""The cortical surface: its meshes, and what data hold at their vertices.

Every vertex stands for one voxel of a volume: the one that holds the point halfway between pial and white surface.
Labels, values and names of regions are read from that voxel and never interpolated, so that what is shown somewhere is
what the tables say of one searchlight or ROI. Data of vertices are shown as they are, on the mesh that they are of.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.io.data_folder import SurfaceFolder
from utils.rdms.vertices import FSAVERAGE, HEMISPHERES, Mesh, Vertices, fetch_average, read_mesh

# nilearn ships the first and downloads the others.
SURFACES = tuple(FSAVERAGE)
DEFAULT_SURFACE = "fsaverage5"
NEAR_CORTEX_MM = 6.0
# Cortex without a label, from the crowns of the gyri to the depths of the sulci: its folds tell it from the flat light
# greys of "not significant" and "below the noise ceiling", its lightness from the untrained network's near-black.
GYRUS_GREY, SULCUS_GREY = 0.60, 0.40
# Width, length and height within which the meshes of data are drawn: about those of a hemisphere of inflated fsaverage.
_ROOM_MM = (92.0, 216.0, 150.0)
_SURROUNDINGS = 50  # steps of smoothing, over which the depth of sulci is measured


# What maps are drawn on: an average brain, one of `SURFACES`, or a folder with the meshes of the data.
Surface = str | Path


@dataclass(frozen=True)
class Hemisphere:
    """One hemisphere.

    Attributes
    ----------
    pial, white : ndarray of float, shape (n_vertices, 3)
        Outer and inner surface of the grey matter, in mm (of MNI space, of an average brain); of other brains, both are
        the one surface that is known. Read-only, as all arrays here.
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
        """Position of every vertex halfway between pial and white surface, (n_vertices, 3), in mm."""
        return (self.pial + self.white) / 2

    def grey(self) -> NDArray[np.floating]:
        """Grey level of every vertex by sulcal depth, (n_vertices,): 0 is black, 1 is white."""
        low, high = np.percentile(self.depth, [5, 95])
        return GYRUS_GREY + (SULCUS_GREY - GYRUS_GREY) * np.clip((self.depth - low) / (high - low), 0, 1)


@lru_cache(maxsize=2 * len(SURFACES))
def load_hemisphere(hemi: str, surface: Surface = DEFAULT_SURFACE) -> Hemisphere:
    """Meshes and sulcal depth of one hemisphere.

    Parameters
    ----------
    hemi : {"left", "right"}
    surface : str or Path
        One of `SURFACES`, or a folder (`utils.io.data_folder.SurfaceFolder`).

    Returns
    -------
    Hemisphere

    Raises
    ------
    InputError
        If the meshes cannot be downloaded or read.
    """
    arrays = _own_arrays(SurfaceFolder(surface), hemi) if isinstance(surface, Path) else _average_arrays(surface, hemi)
    for array in arrays:
        array.flags.writeable = False
    return Hemisphere(*arrays)


def _average_arrays(brain: str, hemi: str) -> list[NDArray]:
    from nilearn import surface as nilearn_surface

    files = fetch_average(brain)
    meshes = [nilearn_surface.load_surf_mesh(files[f"{kind}_{hemi}"]) for kind in ("pial", "white", "infl")]
    depth = nilearn_surface.load_surf_data(files[f"sulc_{hemi}"])
    return [*(mesh.coordinates for mesh in meshes), meshes[0].faces, depth]


def _own_arrays(folder: SurfaceFolder, hemi: str) -> list[NDArray]:
    mesh = read_mesh(folder.mesh(hemi))
    shape = read_mesh(folder.inflated(hemi)).points if folder.inflated(hemi).exists() else mesh.points
    low, high = shape.min(axis=0), shape.max(axis=0)
    drawn = (shape - (low + high) / 2) * min(np.array(_ROOM_MM) / np.maximum(high - low, 1e-6))
    return [mesh.points, mesh.points, drawn, mesh.faces, _depth(mesh)]


def vertex_normals(points: NDArray[np.floating], faces: NDArray[np.integer]) -> NDArray[np.float64]:
    """Unit vectors that point out of a mesh at its vertices, (n_vertices, 3); 0 where no triangle is."""
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    normals = np.zeros(points.shape)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], np.cross(b - a, c - a))
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return normals / np.where(length > 0, length, 1)


def _depth(mesh: Mesh) -> NDArray[np.float64]:
    """How far vertices lie below their surroundings, (n_vertices,), in mm: positive in sulci, negative on gyri."""
    from scipy.sparse import csr_array

    ends = np.concatenate([mesh.faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])])
    rows, columns = np.concatenate([ends, ends[:, ::-1], np.arange(len(mesh.points))[:, None].repeat(2, axis=1)]).T
    joined = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(mesh.points),) * 2)
    mean = joined.multiply(1 / joined.sum(axis=1)[:, None]).tocsr()
    smooth = mesh.points
    for _ in range(_SURROUNDINGS):
        smooth = mean @ smooth
    depth: NDArray[np.float64] = ((smooth - mesh.points) * vertex_normals(mesh.points, mesh.faces)).sum(axis=1)
    return depth


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


def sample(
    data: NDArray,
    affine: NDArray[np.floating] | None,
    surface: Surface = DEFAULT_SURFACE,
    vertices: Vertices | None = None,
) -> dict[str, NDArray]:
    """Label or value of every vertex: exactly that of the voxel it stands for, or its own.

    Parameters
    ----------
    data : ndarray of int or float, shape (X, Y, Z) or (n_vertices,)
        Labels, or values. Of a finer mesh of the average brain, those vertices that the coarser one has too, which are
        its first.
    affine : ndarray, shape (4, 4), or None
        Voxel indices to mm in MNI space; None for vertices.
    surface : str or Path
        What is drawn on: see `Surface`.
    vertices : Vertices, optional
        What data of vertices are of; by default both hemispheres of an average brain.

    Returns
    -------
    dict of str to ndarray, shape (n_vertices,)
        "left" and "right", or the one hemisphere that data are of: labels as int64, 0 outside of the volume; values as
        float32, NaN outside.

    Raises
    ------
    InputError
        If the data are of other vertices than the surface.
    """
    dtype, outside = (np.int64, 0) if np.issubdtype(data.dtype, np.integer) else (np.float32, np.nan)
    sampled: dict[str, NDArray] = {}
    if affine is None:
        vertices = vertices or Vertices(len(data) // 2, len(data) // 2)
        for hemi, half in vertices.split(data).items():
            n = n_vertices_of(hemi, surface)
            if len(half) != n and not (vertices.brain in FSAVERAGE and isinstance(surface, str) and n < len(half)):
                raise InputError(_misfit(len(half), vertices.brain, n, surface))
            sampled[hemi] = half[:n].astype(dtype)
        return sampled
    assert isinstance(surface, str)
    for hemi in HEMISPHERES:
        voxels = vertex_voxels(data.shape, affine, hemi, surface)
        sampled[hemi] = np.where(voxels >= 0, data.reshape(-1)[voxels], outside).astype(dtype)
    return sampled


def n_vertices_of(hemi: str, surface: Surface) -> int:
    """Number of vertices of one hemisphere of what is drawn on."""
    return FSAVERAGE[surface] if isinstance(surface, str) else len(load_hemisphere(hemi, surface).inflated)


def _misfit(n_data: int, brain: str, n_surface: int, surface: Surface) -> str:
    if isinstance(surface, Path):
        return (
            f"{surface}: its meshes have {n_surface:,} vertices per hemisphere, but the data or ROI labels {n_data:,}; "
            "give the meshes of the data (`surface_mesh`), and labels of the same vertices"
        )
    if brain in FSAVERAGE:
        return (
            f"`atlas` or the data have the vertices of {brain}, fewer than `surface` {surface}; draw them on `surface` "
            f"{brain}"
        )
    return f"`atlas` has {n_data:,} vertices per hemisphere, expected {known_brains()}; bring it to one of these meshes"


def known_brains() -> str:
    """Average brains that can be drawn, by their number of vertices."""
    return ", ".join(f"{n:,} ({name})" for name, n in FSAVERAGE.items())


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
