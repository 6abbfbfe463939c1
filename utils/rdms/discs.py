"""Searchlights on the cortical surface: discs of all vertices within a distance along the surface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from utils import InputError
from utils.io.output import write_vertices
from utils.io.readers import read_archive
from utils.rdms.beta_files import read_gifti, read_maps, stem
from utils.rdms.betas import Betas, is_blank
from utils.rdms.searchlights import Geometry
from utils.rdms.vertices import Mesh, Vertices

_SOURCES = 256  # of shortest paths at a time, which are neighbours: only the part of the mesh around them is searched
_ARRAYS = ("n_vertices", "centers", "positions", "space")


@dataclass(frozen=True)
class SurfaceGeometry:
    """Which vertex each disc stands for; with the interface of `Geometry`.

    Attributes
    ----------
    vertices : Vertices
        Of the data.
    centers : ndarray of int64, shape (n_discs,)
        Vertex in the middle of each disc, among those of the left, then of the right hemisphere.
    positions : ndarray of float64, shape (n_discs, 3)
        Where these are, in mm.
    space : str
        Which brain the vertices are of: see `utils.rdms.vertices.space_of`.
    """

    vertices: Vertices
    centers: NDArray[np.int64]
    positions: NDArray[np.float64]
    space: str
    affine: ClassVar[None] = None

    def __len__(self) -> int:
        """Number of discs."""
        return len(self.centers)

    def centers_mm(self) -> NDArray[np.float64]:
        """Position of the middle of every disc, (n_discs, 3), in mm."""
        return self.positions

    def to_volume(self, values: ArrayLike, background: float = 0) -> NDArray:
        """Put one value per disc back into the vertices they stand for, (n_vertices,); `background` elsewhere."""
        values = np.asarray(values)
        if values.shape != (len(self),):
            raise InputError(f"values for {len(self)} searchlights were expected, got an array of shape {values.shape}")
        every = np.full(self.vertices.shape, background, dtype=values.dtype)
        every[self.centers] = values
        return every

    def map_files(self, path: Path) -> list[Path]:
        """Files that `write_map` writes: one per hemisphere."""
        sides = self.vertices.sides
        return [path.with_name(f"{stem(path)}_hemi-{side[0].upper()}.func.gii") for side in sides]

    def write_map(self, path: Path, values: NDArray) -> None:
        """Write one value per vertex, (n_vertices,)."""
        for file, (side, half) in zip(self.map_files(path), self.vertices.split(values).items(), strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_vertices(file, half, side, stem(path))

    def read_map(self, files: Sequence[Path]) -> NDArray:
        """Read what `write_map` wrote."""
        return np.concatenate([read_gifti(file)[0][0] for file in files])

    def save(self, path: str | Path) -> None:
        """Write to a ``.npz`` archive of plain arrays."""
        counts = np.array([self.vertices.left, self.vertices.right])
        with Path(path).open("wb") as file:
            np.savez_compressed(
                file, n_vertices=counts, centers=self.centers, positions=self.positions, space=self.space
            )


def load_geometry(path: Path) -> Geometry | SurfaceGeometry:
    """Read what `save` of either geometry wrote.

    Raises
    ------
    InputError
        If the file is no such archive, or its arrays do not describe searchlights.
    """
    arrays = read_archive(path, _ARRAYS)
    if "n_vertices" not in arrays:
        return Geometry.load(path)
    counts, centers, positions = (arrays.get(name, np.zeros(0)) for name in _ARRAYS[:3])
    whole = all(array.dtype.kind in "iu" for array in (counts, centers))
    if (
        not whole or counts.shape != (2,) or (counts < 0).any() or centers.ndim != 1 or not len(centers)
        or positions.shape != (len(centers), 3) or centers.min() < 0 or centers.max() >= counts.sum()
    ):  # fmt: skip
        raise InputError(f"{path}: its arrays {', '.join(_ARRAYS[:3])} do not describe discs; make the file again")
    vertices = Vertices(*counts.tolist())
    return SurfaceGeometry(vertices, centers.astype(np.int64), positions.astype(np.float64), str(arrays["space"]))


@dataclass(frozen=True)
class Discs:
    """Which vertices each searchlight's RDM is made from; with the interface of `Searchlights`.

    Attributes
    ----------
    geometry : SurfaceGeometry
        The vertex that each value goes back to.
    offsets : ndarray of int64, shape (n_discs + 1,)
        Disc i holds ``members_of[offsets[i]:offsets[i + 1]]``.
    members_of : ndarray of int32
        Vertices, those of the left before those of the right hemisphere.
    """

    geometry: SurfaceGeometry
    offsets: NDArray[np.int64]
    members_of: NDArray[np.int32]

    def __len__(self) -> int:
        """Number of discs."""
        return len(self.offsets) - 1

    @cached_property
    def voxels(self) -> NDArray[np.int64]:
        """All vertices of the data, which are the rows of `members`."""
        return np.arange(self.geometry.vertices.shape[0])

    @property
    def width(self) -> int:
        """Vertices of the largest disc."""
        return int(np.diff(self.offsets).max())

    def identity(self) -> tuple[NDArray, ...]:
        """Arrays that tell these discs from others."""
        return self.geometry.centers, self.offsets, self.members_of

    def lookup(self, usable: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Row of each vertex, -1 where it is not usable; (n_vertices,)."""
        return np.where(usable, self.voxels, -1).astype(np.int32)

    def uncovered(self, mask: NDArray[np.bool_]) -> int:
        """Number of vertices of a mask (n_vertices,) that are in the middle of no disc."""
        return int(mask.sum() - mask[self.geometry.centers].sum())

    def members(self, lookup: NDArray[np.int32], part: slice | NDArray[np.int64]) -> NDArray[np.int32]:
        """Rows of the vertices of some of the discs, (n, size of the largest of them), with -1 for none."""
        starts, sizes = self.offsets[:-1][part], np.diff(self.offsets)[part]
        table = np.full((len(sizes), sizes.max(initial=0)), -1, dtype=np.int32)
        there = np.arange(table.shape[1]) < sizes[:, None]
        table[there] = lookup[self.members_of[(starts[:, None] + np.arange(table.shape[1]))[there]]]
        return table

    def counts(self, usable: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Number of usable vertices of every disc, (n_discs,)."""
        return np.add.reduceat(usable[self.members_of].astype(np.int64), self.offsets[:-1])


def measured_vertices(betas: Betas) -> NDArray[np.bool_]:
    """Vertices whose responses are finite and vary between maps in any subject: not those of the medial wall.

    Parameters
    ----------
    betas : Betas
        Of vertices.

    Returns
    -------
    ndarray of bool, shape (n_vertices,)

    Raises
    ------
    InputError
        If there are none, or a file cannot be read to its end.
    """
    measured = np.zeros(betas.grid.shape, dtype=bool)
    for subject in betas.subjects:
        low, high = np.full(measured.shape, np.inf), np.full(measured.shape, -np.inf)
        with np.errstate(invalid="ignore"):
            for _, values in read_maps(subject.maps, slice(None)):
                if not is_blank(values):
                    np.minimum(low, values, out=low)
                    np.maximum(high, values, out=high)
        measured |= np.isfinite(low) & np.isfinite(high) & (low < high)
    if not measured.any():
        raise InputError(
            f"{betas.files[0]}: no vertex has finite values that vary between conditions, in any subject; check the "
            "beta maps"
        )
    return measured


def surface_discs(
    vertices: Vertices,
    meshes: Mapping[str, Mesh],
    radius_mm: float,
    measured: NDArray[np.bool_],
    min_voxels: int,
    space: str,
) -> Discs:
    """Discs around all measured vertices, cut off where these end; a value goes back to the vertex in the middle.

    Parameters
    ----------
    vertices : Vertices
        Of the data.
    meshes : mapping of str to Mesh
        Of each hemisphere that there is.
    radius_mm : float
        Largest distance from the middle, along the mesh: see `neighbours`.
    measured : ndarray of bool, shape (n_vertices,)
        Vertices that get a disc, and that discs are made of.
    min_voxels : int
        Discs of fewer vertices are left out.
    space : str
        Which brain the vertices are of.

    Returns
    -------
    Discs
        In the order of the vertices in their middle.

    Raises
    ------
    InputError
        If the radius reaches no neighbour, or all discs are too small.
    """
    parts, start = [], 0
    for side, inside in vertices.split(measured).items():
        for near in neighbours(meshes[side], radius_mm, np.flatnonzero(inside)):
            parts.append(near[inside[near]] + start)
        start += len(inside)
    sizes = np.array([len(part) for part in parts])
    if sizes.max() < max(2, min_voxels):
        raise InputError(
            f"the largest disc of `radius_mm` {radius_mm:g} has {sizes.max()} vertices with data, fewer than "
            f"{max(2, min_voxels)}; give a larger radius (10 mm is usual), or a smaller `min_voxels`"
        )
    kept = sizes >= min_voxels
    centers = np.flatnonzero(measured)[kept]
    points = vertices.join({side: meshes[side].points for side in vertices.sides})
    return Discs(
        SurfaceGeometry(vertices, centers, points[centers], space),
        np.concatenate([[0], np.cumsum(sizes[kept])]),
        np.concatenate([part for part, keep in zip(parts, kept, strict=True) if keep]).astype(np.int32),
    )


def neighbours(mesh: Mesh, radius_mm: float, sources: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Vertices within a distance along a mesh of each source.

    Distances are lengths of shortest paths (Dijkstra 1959, by SciPy) over edges, and across edges: between the two
    corners that face each other over a common edge, in the plane into which its two triangles unfold. They are never
    shorter than exact ones; docs/METHODS.md says how much longer.

    Parameters
    ----------
    mesh : Mesh
    radius_mm : float
    sources : ndarray of int64

    Returns
    -------
    list of ndarray of int64
        For each source, sorted.
    """
    graph, tree = _paths(mesh), cKDTree(mesh.points)
    found: dict[int, NDArray[np.int64]] = {}
    for batch in _batches(mesh.points, sources):
        # No path within the radius leaves the ball of that radius: the rest of the mesh need not be searched.
        around = tree.query_ball_point(mesh.points[batch], radius_mm * (1 + 1e-9))
        part = np.unique(np.concatenate([np.asarray(near, dtype=np.int64) for near in around]))
        own = np.searchsorted(part, batch)
        distance = dijkstra(graph[part][:, part], directed=False, indices=own, limit=radius_mm)
        for source, row in zip(batch.tolist(), distance, strict=True):
            found[source] = part[row <= radius_mm]
    return [found[source] for source in sources.tolist()]


def _batches(points: NDArray[np.float64], sources: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Sources in batches of neighbours."""
    if not len(sources):
        return
    order = np.asarray(cKDTree(points[sources], leafsize=_SOURCES // 8).indices)
    for start in range(0, len(order), _SOURCES):
        yield sources[order[start : start + _SOURCES]]


def _paths(mesh: Mesh) -> csr_array:
    """Graph of the edges of a mesh and of the unfolded diagonals of neighbouring triangles, with their lengths."""
    points, faces = mesh.points, mesh.faces
    # Each edge once per triangle, with the corner that faces it.
    edges = np.concatenate([faces[:, [0, 1, 2]], faces[:, [1, 2, 0]], faces[:, [2, 0, 1]]]).astype(np.int64)
    edges[:, :2] = np.sort(edges[:, :2], axis=1)
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
    twin = (edges[1:, :2] == edges[:-1, :2]).all(axis=1)
    a, b = edges[:-1][twin][:, :2].T
    c, d = edges[:-1][twin][:, 2], edges[1:][twin][:, 2]
    base = points[b] - points[a]
    length = np.maximum(np.linalg.norm(base, axis=1), np.finfo(float).tiny)

    def along_and_away(corner: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        side = points[corner] - points[a]
        along = (side * base).sum(axis=1) / length
        return along, np.sqrt(np.clip((side**2).sum(axis=1) - along**2, 0, None))

    (x1, y1), (x2, y2) = along_and_away(c), along_and_away(d)
    # Where the straight line between the corners crosses the edge, and not its extension.
    crossing = x1 + (x2 - x1) * y1 / np.maximum(y1 + y2, np.finfo(float).tiny)
    straight = (crossing >= 0) & (crossing <= length)
    diagonal = np.hypot(x2 - x1, y1 + y2)
    ends = np.concatenate([edges[:, :2], np.sort(np.stack([c, d], axis=1)[straight], axis=1)])
    sides = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    lengths = np.concatenate([sides, diagonal[straight]])
    # Two corners may be joined in several ways, of which the shortest counts.
    order = np.lexsort((lengths, ends[:, 1], ends[:, 0]))
    ends, lengths = ends[order], lengths[order]
    first = np.concatenate([[True], (ends[1:] != ends[:-1]).any(axis=1)])
    return csr_array(coo_array((lengths[first], tuple(ends[first].T)), shape=(len(points),) * 2))
