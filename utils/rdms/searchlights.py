"""Searchlights: where they are, their RDMs from beta maps, and the way back from values to a volume.

The release was computed with BrainIAK's block functions (``sl_rad=1``, ``max_blk_edge=2``): cubes of 4 x 4 x 4 voxels,
the outer blocks, step through the volume by two voxels. The RDM of a cube stands for its 2 x 2 x 2 core. Cores tile the
volume without overlap; the outermost layer of voxels belongs to no core. Spheres are the other shape: around every
voxel of the mask, cut off where the mask ends, and their value goes back to the voxel in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from utils import InputError
from utils.io.output import write_volume
from utils.io.readers import read_archive, read_volume
from utils.io.spaces import UNKNOWN, space_name
from utils.rdm import n_pairs_of
from utils.rdms.measure import PEARSON, Measure, Responses

RADIUS = 1
MAX_BLOCK_EDGE = 2
MIN_VOXELS = 2  # Pearson's r is +1 or -1 for two voxels, and does not exist for one
# So many values of gathered patterns at once: they stay in the second-level cache, which also bounds the memory.
_CHUNK_VALUES = 200_000
# Searchlights are put together if they share this much with the first one, among as many that follow it.
_COMMON, _FOLLOWING = 0.25, 400


@dataclass(frozen=True)
class Geometry:
    """Which voxels each searchlight stands for.

    Attributes
    ----------
    shape : tuple of int
        Size of the volume in voxels, (X, Y, Z).
    affine : ndarray of float64, shape (4, 4)
        From voxel indices to millimetres.
    offsets : ndarray of int64, shape (n_searchlights + 1,)
        Searchlight i owns ``voxels[offsets[i]:offsets[i + 1]]``.
    voxels : ndarray of int64
        Flat indices (C order) into a volume of `shape`.
    space : str
        What the millimetres are coordinates of, such as "MNI152NLin2009cAsym": see `utils.io.spaces`.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    offsets: NDArray[np.int64]
    voxels: NDArray[np.int64]
    space: str = UNKNOWN
    vertices: ClassVar[None] = None

    def __len__(self) -> int:
        """Number of searchlights."""
        return len(self.offsets) - 1

    def centers_mm(self) -> NDArray[np.float64]:
        """Mean position of the voxels of every searchlight.

        Returns
        -------
        ndarray of float64, shape (n_searchlights, 3)
            Millimetres, in the space of `affine`.
        """
        indices = np.stack(np.unravel_index(self.voxels, self.shape), axis=1).astype(np.float64)
        sizes = np.diff(self.offsets)
        means = np.add.reduceat(indices, self.offsets[:-1], axis=0) / sizes[:, None]
        return means @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_volume(self, values: ArrayLike, background: float = 0) -> NDArray:
        """Put one value per searchlight back into the voxels it stands for.

        Parameters
        ----------
        values : array_like, shape (n_searchlights,)
        background : float, optional
            Value of voxels that belong to no searchlight.

        Returns
        -------
        ndarray, shape `shape`
            Same dtype as `values`.

        Raises
        ------
        InputError
            If there is not exactly one value per searchlight.
        """
        values = np.asarray(values)
        if values.shape != (len(self),):
            raise InputError(f"values for {len(self)} searchlights were expected, got an array of shape {values.shape}")
        volume = np.full(self.shape, background, dtype=values.dtype)
        volume.reshape(-1)[self.voxels] = np.repeat(values, np.diff(self.offsets))
        return volume

    def map_files(self, path: Path) -> list[Path]:
        """Files that `write_map` writes."""
        return [path]

    def write_map(self, path: Path, volume: NDArray) -> None:
        """Write a volume (X, Y, Z)."""
        write_volume(path, volume, self.affine, space=self.space)

    def read_map(self, files: Sequence[Path]) -> NDArray:
        """Read what `write_map` wrote."""
        return read_volume(files[0])[0]

    def save(self, path: str | Path) -> None:
        """Write to a ``.npz`` archive of plain arrays."""
        with Path(path).open("wb") as file:
            np.savez_compressed(file, **vars(self))

    @classmethod
    def load(cls, path: str | Path) -> Geometry:
        """Read what `save` wrote; a file without an entry `space` does not say which that is.

        Raises
        ------
        InputError
            If the file is no such archive, or its arrays do not describe searchlights.
        """
        names = ("shape", "affine", "offsets", "voxels")
        arrays = read_archive(Path(path), (*names, "space"))
        space = space_name(str(arrays.pop("space", UNKNOWN)))
        if len(arrays) < len(names):
            raise InputError(
                f"{path}: not a searchlight geometry (found {', '.join(arrays) or 'nothing'}); expected arrays "
                f"{', '.join(names)}"
            )
        shape, affine, offsets, voxels = arrays.values()
        problem = _geometry_problem(shape, affine, offsets, voxels)
        if problem:
            raise InputError(f"{path}: {problem}; make the file again")
        numbers = (affine.astype(np.float64), offsets.astype(np.int64), voxels.astype(np.int64))
        return cls(tuple(shape.tolist()), *numbers, space)


def _geometry_problem(shape: NDArray, affine: NDArray, offsets: NDArray, voxels: NDArray) -> str:
    """What is wrong with these arrays as a `Geometry`; empty if nothing is."""
    integers = all(np.issubdtype(array.dtype, np.integer) for array in (shape, offsets, voxels))
    if not integers or shape.shape != (3,) or (shape < 1).any():
        return "shape must be three positive integers, offsets and voxels integers"
    if affine.shape != (4, 4) or not np.issubdtype(affine.dtype, np.number) or not np.isfinite(affine).all():
        return f"affine must be a finite 4 x 4 matrix, found shape {affine.shape}"
    if offsets.ndim != 1 or voxels.ndim != 1 or len(offsets) < 2:
        return "offsets and voxels must be vectors for at least one searchlight"
    if offsets[0] != 0 or offsets[-1] != len(voxels) or (np.diff(offsets) < 1).any():
        return "offsets must grow from 0 to the number of voxels"
    if (voxels < 0).any() or (voxels >= np.prod(shape, dtype=np.int64)).any():
        return "a voxel lies outside the volume"
    return ""


def release_blocks(mask: ArrayLike, radius: int = RADIUS, max_block_edge: int = MAX_BLOCK_EDGE) -> NDArray[np.int64]:
    """Outer blocks whose core holds a voxel of the mask, in the order of the release.

    Parameters
    ----------
    mask : array_like, shape (X, Y, Z)
        Non-zero inside.
    radius : int, optional
        Voxels that an outer block is wider than its core, on each side.
    max_block_edge : int, optional
        Edge of a core, and step between blocks, in voxels.

    Returns
    -------
    ndarray of int64, shape (n, 6)
        Corner (i, j, k) and size of every outer block; i varies slowest, k fastest. Smaller at the volume's upper end.

    Raises
    ------
    InputError
        If the mask has not three dimensions, or no core holds a voxel of it.

    References
    ----------
    BrainIAK, ``brainiak.searchlight.searchlight.Searchlight`` (block partition).
    """
    inside = np.asarray(mask)
    if inside.ndim != 3:
        raise InputError(f"brain mask: expected a volume with 3 dimensions, found shape {inside.shape}")
    inside = np.nan_to_num(inside) != 0
    if not inside.any():
        raise InputError(
            "brain mask: not a single voxel is inside (non-zero); give the mask that the RDMs were made with"
        )
    # The core of the block at i spans [i + radius, i + radius + edge), and ends `radius` short of the volume.
    cores = inside[tuple(slice(radius, max(size - radius, radius)) for size in inside.shape)]
    cores = np.pad(cores, [(0, -size % max_block_edge) for size in cores.shape])
    x, y, z = (size // max_block_edge for size in cores.shape)
    occupied = cores.reshape(x, max_block_edge, y, max_block_edge, z, max_block_edge).any(axis=(1, 3, 5))
    corners = np.argwhere(occupied) * max_block_edge
    if not len(corners):
        raise InputError(
            f"brain mask: its {inside.sum()} voxel(s) lie in the outermost layer of the volume, where no searchlight "
            "has its core; pad the volume"
        )
    sizes = np.minimum(np.array(inside.shape) - corners, max_block_edge + 2 * radius)
    return np.concatenate([corners, sizes], axis=1)


def block_geometry(mask: ArrayLike, affine: ArrayLike, space: str = UNKNOWN) -> Geometry:
    """Core voxels of every block of `release_blocks`: all of them, in the mask or not, as in the release.

    Parameters
    ----------
    mask : array_like, shape (X, Y, Z)
    affine : array_like, shape (4, 4)
        From voxel indices to millimetres.
    space : str, optional
        Of these millimetres.

    Returns
    -------
    Geometry
        Searchlights in the order of `release_blocks`; their cores do not overlap.
    """
    shape = np.shape(mask)
    voxels, inside = _box_voxels(release_blocks(mask)[:, :3] + RADIUS, _box(0, MAX_BLOCK_EDGE - 1), shape, RADIUS)
    offsets = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
    return Geometry(shape, np.array(affine, dtype=np.float64), offsets, voxels[inside], space)


def _box_voxels(
    corners: NDArray[np.int64], steps: NDArray[np.int64], shape: tuple[int, ...], rim: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Flat indices of the voxels in boxes, (n, n_steps); and which of them lie in the volume, upper rim aside."""
    position = corners[:, None] + steps
    inside = np.all(position < np.array(shape) - rim, axis=-1)
    return np.ravel_multi_index(tuple(np.moveaxis(position, -1, 0)), shape, mode="clip"), inside


def usable_voxels(betas: NDArray) -> NDArray[np.bool_]:
    """Which voxels are finite in every condition and not the same in all.

    Parameters
    ----------
    betas : ndarray, shape (n_conditions, n_voxels)

    Returns
    -------
    ndarray of bool, shape (n_voxels,)
    """
    # NaN and infinity survive in the extremes, so that no array of the size of `betas` is needed.
    low, high = betas.min(axis=0), betas.max(axis=0)
    return np.isfinite(low) & np.isfinite(high) & (low < high)


def member_rdms(
    responses: Responses,
    members: NDArray[np.integer],
    measure: Measure = PEARSON,
    *,
    min_voxels: int = MIN_VOXELS,
    dtype: DTypeLike | None = None,
    each: Callable[..., Iterator[None]] = map,
) -> NDArray[np.float32]:
    """RDM of every searchlight from the voxels that belong to it.

    Parameters
    ----------
    responses : Responses
        Of usable voxels only as far as they are members.
    members : ndarray of int, shape (n, any)
        Voxels of `responses` that each of `n` searchlights is made from; -1 is none.
    measure : Measure
        How RDMs are made.
    min_voxels : int
        Searchlights of fewer voxels have no RDM.
    dtype : dtype, optional
        Precision of the computation; by default that of the responses.
    each : callable, optional
        Calls a function on all items of a list, as `map`, or that of a pool of threads, does.

    Returns
    -------
    ndarray of float32, shape (n, n_pairs)
        Condensed RDMs. NaN throughout where there are too few voxels; with a correlation or cosine, NaN in the pairs
        of a condition whose pattern has none.
    """
    n_conditions, dtype = responses.patterns.shape[-1], dtype or responses.patterns.dtype
    rdms = np.full((len(members), n_pairs_of(n_conditions)), np.nan, dtype=np.float32)
    counts = (members >= 0).sum(axis=1)

    def compute(rows: NDArray[np.int64]) -> None:
        own = members[rows]
        if responses.residuals is None:
            rdms[rows] = measure.rdms(responses[own[own >= 0].reshape(len(rows), -1)].astype(dtype))
        else:
            voxels, places = _renumbered(own)
            rdms[rows] = measure.overlapping_rdms(responses[voxels].astype(dtype), places)

    groups: list[NDArray[np.int64]] = []
    if responses.residuals is None:
        # Searchlights with equally many voxels make a rectangular array, whose RDMs are one stacked matrix product.
        for count in np.unique(counts[counts >= min_voxels]):
            rows = np.flatnonzero(counts == count)
            values = max(responses.size_of_voxel * count, n_conditions**2)
            groups += [rows[part] for part in slices(len(rows), _CHUNK_VALUES // values)]
    else:
        rows = np.flatnonzero(counts >= min_voxels)
        groups += [rows[group] for group in overlapping(members[rows])]
    list(each(compute, groups))
    return rdms


def overlapping(members: NDArray[np.integer]) -> Iterator[NDArray[np.int64]]:
    """Searchlights in groups, in each of which all have voxels in common with the first.

    Parameters
    ----------
    members : ndarray of int, shape (n, any)
        As for `member_rdms`; no searchlight is empty.

    Yields
    ------
    ndarray of int64
        Rows of `members`, increasing; each is in one group.
    """
    left, inside = np.arange(len(members)), np.zeros(members.max(initial=0) + 2, dtype=np.int8)
    while len(left):
        first = members[left[0]][members[left[0]] >= 0]
        inside[first] = 1
        # The last entry, for -1, stays 0.
        common = inside.take(members.take(left[:_FOLLOWING], axis=0), mode="wrap").sum(axis=1, dtype=np.int64)
        inside[first] = 0
        chosen = np.flatnonzero(common >= _COMMON * len(first))
        yield left[chosen]
        left = np.delete(left, chosen)


def _renumbered(members: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All voxels of some searchlights, and members as their places among these, -1 for none."""
    table = np.zeros(members.max() + 2, dtype=np.int64)
    table[members] = 1
    table[-1] = 0
    voxels = np.flatnonzero(table)
    table[voxels] = np.arange(len(voxels))
    table[-1] = -1
    return voxels, table[members]


def slices(n: int, step: int) -> list[slice]:
    """`range(n)` in slices of `step`, or of 1."""
    return [slice(start, min(start + max(1, step), n)) for start in range(0, n, max(1, step))]


@dataclass(frozen=True)
class Searchlights:
    """Which voxels each searchlight's RDM is made from: one shape, at many locations.

    Attributes
    ----------
    geometry : Geometry
        The voxels that each searchlight's value goes back to.
    voxels : ndarray of int64, shape (n_voxels,)
        Flat indices (C order) of all voxels that any searchlight may hold.
    origins : ndarray of int64, shape (n_searchlights, 3)
        Voxel from which the steps of the shape lead.
    steps : ndarray of int64, shape (n_steps, 3)
        The shape: voxels relative to that one.
    """

    geometry: Geometry
    voxels: NDArray[np.int64]
    origins: NDArray[np.int64]
    steps: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of searchlights."""
        return len(self.origins)

    @property
    def width(self) -> int:
        """Voxels of the largest searchlight."""
        return len(self.steps)

    def identity(self) -> tuple[NDArray, ...]:
        """Arrays that tell these searchlights from others."""
        return self.geometry.affine, self.geometry.voxels, self.voxels, self.steps

    @cached_property
    def _padded(self) -> tuple[NDArray[np.int64], tuple[int, ...], NDArray[np.int64], NDArray[np.int64]]:
        """Margin that holds every step, size of the volume with it, and flat origins and steps in there."""
        margin = np.abs(self.steps).max(axis=0)
        x, y, z = (self.geometry.shape + 2 * margin).tolist()
        strides = np.array([y * z, z, 1])
        return margin, (x, y, z), (self.origins + margin) @ strides, self.steps @ strides

    def lookup(self, usable: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Row of `voxels` for each position of the volume with its margin, -1 where it is no usable voxel.

        Parameters
        ----------
        usable : ndarray of bool, shape (n_voxels,)

        Returns
        -------
        ndarray of int32, flat
        """
        margin, shape, *_ = self._padded
        rows = np.flatnonzero(usable)
        position = np.stack(np.unravel_index(self.voxels[rows], self.geometry.shape)) + margin[:, None]
        table = np.full(np.prod(shape), -1, dtype=np.int32)
        table[np.ravel_multi_index(tuple(position), shape)] = rows
        return table

    def uncovered(self, mask: NDArray[np.bool_]) -> int:
        """Number of voxels of a mask (X, Y, Z) that no searchlight's value goes back to."""
        return int(mask.sum() - mask.reshape(-1)[np.unique(self.geometry.voxels)].sum())

    def members(self, lookup: NDArray[np.int32], part: slice | NDArray[np.int64]) -> NDArray[np.int32]:
        """Rows of `voxels` that some of the searchlights hold, (n, n_steps), with -1 for none."""
        *_, origins, steps = self._padded
        return lookup[origins[part, None] + steps]

    def counts(self, usable: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Number of usable voxels of every searchlight, (n_searchlights,)."""
        lookup = self.lookup(usable)
        parts = slices(len(self), _CHUNK_VALUES // len(self.steps))
        return np.concatenate([(self.members(lookup, part) >= 0).sum(axis=1) for part in parts])


def block_searchlights(mask: ArrayLike, affine: ArrayLike, space: str = UNKNOWN) -> Searchlights:
    """The release's blocks: RDMs of 4 x 4 x 4 voxels, in the mask or not, for every 2 x 2 x 2 that touches it.

    Parameters
    ----------
    mask : array_like, shape (X, Y, Z)
    affine : array_like, shape (4, 4)
        From voxel indices to millimetres.
    space : str, optional
        Of these millimetres.

    Returns
    -------
    Searchlights
        In the order of `release_blocks`.

    Raises
    ------
    InputError
        As `release_blocks`.
    """
    corners, steps = release_blocks(mask)[:, :3], _box(0, MAX_BLOCK_EDGE + 2 * RADIUS - 1)
    voxels, inside = _box_voxels(corners, steps, np.shape(mask))
    return Searchlights(block_geometry(mask, affine, space), np.unique(voxels[inside]), corners, steps)


def sphere_searchlights(
    mask: ArrayLike, affine: ArrayLike, radius_mm: float, min_voxels: int, space: str = UNKNOWN
) -> Searchlights:
    """Spheres around every voxel of a mask, cut off where the mask ends; a value goes back to the centre.

    Parameters
    ----------
    mask : array_like, shape (X, Y, Z)
        Non-zero inside.
    affine : array_like, shape (4, 4)
        From voxel indices to millimetres.
    radius_mm : float
        A voxel belongs to the sphere if its centre is no farther than this from that of the middle one.
    min_voxels : int
        Spheres of fewer voxels are left out.
    space : str, optional
        Of the millimetres.

    Returns
    -------
    Searchlights
        In the order (C) of their centres in the mask.

    Raises
    ------
    InputError
        If the radius reaches no neighbour, the mask is empty, or all spheres are too small.
    """
    inside = np.nan_to_num(np.asarray(mask)) != 0
    affine = np.array(affine, dtype=np.float64)
    steps = _sphere_steps(affine, radius_mm, inside.shape)
    centers = np.flatnonzero(inside)
    if not len(centers):
        raise InputError("brain mask: not a single voxel is inside (non-zero); give the brain mask of the beta maps")

    def around(voxels: NDArray[np.int64]) -> Searchlights:
        geometry = Geometry(inside.shape, affine, np.arange(len(voxels) + 1), voxels, space)
        return Searchlights(geometry, centers, np.stack(np.unravel_index(voxels, inside.shape), axis=1), steps)

    counts = around(centers).counts(np.ones(len(centers), dtype=bool))
    if counts.max() < min_voxels:
        raise InputError(
            f"`min_voxels` is {min_voxels}, but the largest sphere of {radius_mm:g} mm has {counts.max()} voxels in "
            f"the mask (a whole one has {len(steps)}); give a larger `radius_mm` or a smaller `min_voxels`"
        )
    return around(centers[counts >= min_voxels])


def _sphere_steps(affine: NDArray[np.float64], radius_mm: float, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Voxels of a sphere relative to its centre, (n, 3), in a volume of `shape`; voxels need not be cubes."""
    axes = affine[:3, :3]
    neighbours = np.delete(_box(-1, 1), 13, axis=0)  # without the middle
    nearest = float(np.linalg.norm(axes @ neighbours.T, axis=0).min())
    # Affines are often stored in float32: a voxel exactly at the radius belongs to the sphere.
    limit = radius_mm * (1 + 1e-5)
    if not limit >= nearest:
        raise InputError(
            f"`radius_mm` {radius_mm:g} reaches no neighbour, as voxels are {nearest:g} mm apart; "
            f"give {nearest:g} or more ({3 * nearest:g} is usual)"
        )
    # How far along each axis a sphere reaches, whatever the angles between the axes.
    reach = np.floor(limit * np.linalg.norm(np.linalg.inv(axes), axis=1)).astype(np.int64)
    reach = np.minimum(reach, np.array(shape) - 1)
    steps = _box(-reach, reach)
    return steps[np.linalg.norm(axes @ steps.T, axis=0) <= limit]


def _box(low: int | NDArray[np.int64], high: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Steps from `low` to `high` along each axis, (n, 3), C order."""
    return np.ascontiguousarray(np.indices(np.full(3, high - low + 1).tolist()).reshape(3, -1).T) + low
