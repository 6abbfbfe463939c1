"""Searchlights on the cortical surface: discs of all vertices within a distance along the surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import dijkstra

from utils import InputError
from utils.io.readers import readable
from utils.rdms.searchlights import Geometry
from utils.rdms.surface_labels import FSAVERAGE

_SOURCES = 512  # of shortest paths at a time: each has distances to all vertices


@dataclass(frozen=True)
class Discs:
    """Which vertices each searchlight's RDM is made from; with the interface of `Searchlights`.

    Attributes
    ----------
    geometry : Geometry
        The vertex that each value goes back to.
    voxels : ndarray of int64, shape (n_vertices,)
        All vertices, those of the left hemisphere first.
    steps : ndarray of int32, shape (n_searchlights, width)
        Vertices of every disc; -1 where it has fewer than the largest.
    """

    geometry: Geometry
    voxels: NDArray[np.int64]
    steps: NDArray[np.int32]

    def __len__(self) -> int:
        """Number of searchlights."""
        return len(self.steps)

    @property
    def width(self) -> int:
        """Vertices of the largest disc."""
        return self.steps.shape[1]

    def lookup(self, usable: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Row of each vertex, -1 where it is not usable; one more -1 for what is no vertex."""
        rows = np.where(usable, np.arange(len(usable)), -1)
        return np.append(rows, -1).astype(np.int32)

    def members(self, lookup: NDArray[np.int32], part: slice | NDArray[np.int64]) -> NDArray[np.int32]:
        """Rows of the vertices of some of the discs, (n, width), with -1 for none."""
        return lookup[self.steps[part]]

    def counts(self, usable: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Number of usable vertices of every disc, (n_searchlights,)."""
        return (self.members(self.lookup(usable), slice(None)) >= 0).sum(axis=1)


def surface_discs(n_vertices: int, radius_mm: float, centers: NDArray[np.bool_], meshes: Sequence[Path] = ()) -> Discs:
    """Discs around vertices of both hemispheres, cut off where the usable ones end.

    Parameters
    ----------
    n_vertices : int
        Of both hemispheres.
    radius_mm : float
        Largest distance along the surface halfway between pial and white surface, or along the meshes given.
    centers : ndarray of bool, shape (n_vertices,)
        Vertices that get a disc, and that discs are made of.
    meshes : sequence of Path
        Surfaces of the left and the right hemisphere; by default those of the average brain with so many vertices.

    Returns
    -------
    Discs

    Raises
    ------
    InputError
        If there is no average brain of so many vertices, meshes do not fit, or the radius reaches no neighbour.
    """
    space = next((name for name, n in FSAVERAGE.items() if 2 * n == n_vertices), None)
    if space is None:
        known = ", ".join(f"{n:,} ({name})" for name, n in FSAVERAGE.items())
        raise InputError(
            f"`betas`: have {n_vertices:,} vertices in both hemispheres, expected those of an average brain, per "
            f"hemisphere {known}; bring the maps to one of these meshes (mri_surf2surf)"
        )
    halves = [_read_mesh(path) for path in meshes] if meshes else _average_meshes(space)
    for path, (points, _) in zip(meshes, halves, strict=False):
        if len(points) != n_vertices // 2:
            raise InputError(
                f"{path}: has {len(points):,} vertices, but the beta maps {n_vertices // 2:,} in this hemisphere; give "
                "the mesh that they are of"
            )
    parts, start = [], 0
    for points, faces in halves:
        own = np.flatnonzero(centers[start : start + len(points)])
        parts += [near[np.isin(near, own)] + start for near in neighbours(points, faces, radius_mm, own)]
        start += len(points)
    sizes = np.array([len(part) for part in parts])
    if not len(parts) or sizes.max() < 2:
        raise InputError(
            f"`radius_mm` {radius_mm:g} reaches no neighbour on these meshes; give a larger one (10 is usual)"
        )
    table = np.full((len(parts), sizes.max()), -1, dtype=np.int32)
    table[np.arange(sizes.max()) < sizes[:, None]] = np.concatenate(parts)
    voxels = np.flatnonzero(centers)
    positions = np.concatenate([points for points, _ in halves]).astype(np.float64)
    geometry = Geometry((n_vertices, 1, 1), np.eye(4), np.arange(len(voxels) + 1), voxels, space, positions)
    return Discs(geometry, np.arange(n_vertices), table)


def neighbours(
    points: NDArray[np.floating], faces: NDArray[np.integer], radius_mm: float, sources: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Vertices within a distance along a mesh of each source.

    Distances are lengths of shortest paths over edges, and across edges: between the two corners that face each other
    over a common edge, in the plane into which its two triangles unfold.

    Parameters
    ----------
    points : ndarray, shape (n_vertices, 3)
        In mm.
    faces : ndarray of int, shape (n_faces, 3)
    radius_mm : float
    sources : ndarray of int64

    Returns
    -------
    list of ndarray of int64
        For each source, sorted.
    """
    graph, found = _paths(points.astype(np.float64), faces), []
    for start in range(0, len(sources), _SOURCES):
        distance = dijkstra(graph, directed=False, indices=sources[start : start + _SOURCES], limit=radius_mm)
        found += [np.flatnonzero(row <= radius_mm) for row in distance]
    return found


def _paths(points: NDArray[np.float64], faces: NDArray[np.integer]) -> csr_array:
    """Graph of the edges of a mesh and of the unfolded diagonals of neighbouring triangles, with their lengths."""
    # Each edge once per triangle, with the corner that faces it.
    edges = np.concatenate([faces[:, [0, 1, 2]], faces[:, [1, 2, 0]], faces[:, [2, 0, 1]]]).astype(np.int64)
    edges[:, :2] = np.sort(edges[:, :2], axis=1)
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
    twin = (edges[1:, :2] == edges[:-1, :2]).all(axis=1)
    a, b = edges[:-1][twin][:, :2].T
    c, d = edges[:-1][twin][:, 2], edges[1:][twin][:, 2]
    base = points[b] - points[a]
    length = np.linalg.norm(base, axis=1)

    def along_and_away(corner: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        side = points[corner] - points[a]
        along = (side * base).sum(axis=1) / length
        return along, np.sqrt(np.clip((side**2).sum(axis=1) - along**2, 0, None))

    (x1, y1), (x2, y2) = along_and_away(c), along_and_away(d)
    # Where the straight line between the corners crosses the edge, and not its extension.
    crossing = x1 + (x2 - x1) * y1 / np.maximum(y1 + y2, np.finfo(float).tiny)
    straight = (crossing >= 0) & (crossing <= length)
    diagonal = np.hypot(x2 - x1, y1 + y2)
    first, second = np.unique(edges[:, :2], axis=0).T
    rows = np.concatenate([first, c[straight]])
    columns = np.concatenate([second, d[straight]])
    lengths = np.concatenate([np.linalg.norm(points[first] - points[second], axis=1), diagonal[straight]])
    return csr_array(coo_array((lengths, (rows, columns)), shape=(len(points),) * 2))


def _read_mesh(path: Path) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    from nilearn.surface import load_surf_mesh

    with readable(path, "surface mesh"):
        mesh: Any = load_surf_mesh(str(path))
        return np.asarray(mesh.coordinates), np.asarray(mesh.faces)


def _average_meshes(space: str) -> list[tuple[NDArray[np.floating], NDArray[np.integer]]]:
    """Surfaces halfway between pial and white surface, of both hemispheres."""
    from nilearn.datasets import fetch_surf_fsaverage

    try:
        files: Any = fetch_surf_fsaverage(space)
    except OSError as error:  # among them all that requests raises
        raise InputError(
            f"the meshes of {space} could not be downloaded ({type(error).__name__}); run once with a network, or give "
            "them as `surface_mesh`"
        ) from None
    halves: list[tuple[NDArray[np.floating], NDArray[np.integer]]] = []
    for side in ("left", "right"):
        (pial, faces), (white, _) = (_read_mesh(Path(files[f"{kind}_{side}"])) for kind in ("pial", "white"))
        halves.append(((pial + white) / 2, faces))
    return halves
