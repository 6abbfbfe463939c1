"""Searchlights: the release's block scheme, its RDMs from beta maps, and the way back from values to a volume.

The release was computed with BrainIAK's block functions (``sl_rad=1``, ``max_blk_edge=2``): cubes of 4 x 4 x 4 voxels,
the outer blocks, step through the volume by two voxels. The RDM of a cube stands for its 2 x 2 x 2 core. Cores tile the
volume without overlap; the outermost layer of voxels belongs to no core.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils import InputError
from utils.rdm import correlation_rdm, n_pairs_of

RADIUS = 1
MAX_BLOCK_EDGE = 2

# Bounds the memory of `block_rdms`: so many values of gathered patterns at once (float64, hence 64 MB).
_CHUNK_VALUES = 8_000_000


@dataclass(frozen=True)
class Geometry:
    """Which voxels each searchlight stands for.

    Attributes
    ----------
    shape : tuple of int
        Size of the volume in voxels.
    affine : ndarray of float64, shape (4, 4)
        From voxel indices to millimetres.
    offsets : ndarray of int64, shape (n_searchlights + 1,)
        Searchlight i owns ``voxels[offsets[i]:offsets[i + 1]]``.
    voxels : ndarray of int64
        Flat indices (C order) into a volume of `shape`.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    offsets: NDArray[np.int64]
    voxels: NDArray[np.int64]

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

    def save(self, path: str | Path) -> None:
        """Write to a ``.npz`` archive of plain arrays."""
        with Path(path).open("wb") as file:
            np.savez_compressed(
                file, shape=np.array(self.shape), affine=self.affine, offsets=self.offsets, voxels=self.voxels
            )

    @classmethod
    def load(cls, path: str | Path) -> Geometry:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If the file is no such archive, or its arrays do not describe searchlights.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                shape, affine, offsets, voxels = (arrays[key] for key in ("shape", "affine", "offsets", "voxels"))
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; expected the searchlight geometry (geometry.npz)") from None
        except Exception as error:  # zipfile, zlib and numpy each have their own way to say "damaged"
            raise InputError(
                f"{path}: not a searchlight geometry ({error}); expected arrays shape, affine, offsets and voxels"
            ) from error
        problem = _geometry_problem(shape, affine, offsets, voxels)
        if problem:
            raise InputError(f"{path}: {problem}; make the file again")
        x, y, z = (int(size) for size in shape)
        return cls((x, y, z), affine.astype(np.float64), offsets.astype(np.int64), voxels.astype(np.int64))


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
    corners = np.argwhere(_core_occupied(inside, radius, max_block_edge)) * max_block_edge
    if not len(corners):
        raise InputError(
            f"brain mask: its {inside.sum()} voxel(s) lie in the outermost layer of the volume, where no searchlight "
            "has its core; pad the volume"
        )
    sizes = np.minimum(np.array(inside.shape) - corners, max_block_edge + 2 * radius)
    return np.concatenate([corners, sizes], axis=1)


def _core_occupied(inside: NDArray[np.bool_], radius: int, edge: int) -> NDArray[np.bool_]:
    """Whether a mask voxel lies in the core of each block, shape (blocks along x, y, z)."""
    counts = tuple(-(-size // edge) for size in inside.shape)
    cores = np.zeros(tuple(count * edge for count in counts), dtype=bool)
    # The core of the block at i spans [i + radius, i + radius + edge), and ends `radius` short of the volume.
    interior = inside[tuple(slice(radius, max(size - radius, radius)) for size in inside.shape)]
    cores[tuple(slice(0, size) for size in interior.shape)] = interior
    x, y, z = counts
    occupied: NDArray[np.bool_] = np.any(cores.reshape(x, edge, y, edge, z, edge), axis=(1, 3, 5))
    return occupied


def block_geometry(
    mask: ArrayLike, affine: ArrayLike, radius: int = RADIUS, max_block_edge: int = MAX_BLOCK_EDGE
) -> Geometry:
    """Core voxels of every block of `release_blocks`: all of them, in the mask or not, as in the release.

    Parameters
    ----------
    mask : array_like, shape (X, Y, Z)
    affine : array_like, shape (4, 4)
        From voxel indices to millimetres.
    radius, max_block_edge : int, optional
        See `release_blocks`.

    Returns
    -------
    Geometry
        Searchlights in the order of `release_blocks`; their cores do not overlap.
    """
    shape = np.shape(mask)
    blocks = release_blocks(mask, radius, max_block_edge)
    voxels, inside = _box_voxels(blocks[:, :3] + radius, blocks[:, 3:] - 2 * radius, shape)
    offsets = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
    x, y, z = shape
    return Geometry((x, y, z), np.array(affine, dtype=np.float64), offsets.astype(np.int64), voxels[inside])


def _box_voxels(
    corners: NDArray[np.int64], sizes: NDArray[np.int64], shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Flat voxel indices of boxes, (n, largest box), C order inside each; and which of them lie in the box."""
    steps = np.stack(np.meshgrid(*(np.arange(edge) for edge in sizes.max(axis=0)), indexing="ij"), axis=-1).reshape(
        -1, 3
    )
    inside: NDArray[np.bool_] = np.all(steps[None] < sizes[:, None], axis=-1)
    position = corners[:, None] + np.where(inside[..., None], steps[None], 0)
    _, y, z = shape
    return (position[..., 0] * y + position[..., 1]) * z + position[..., 2], inside


def block_territory(
    blocks: ArrayLike, shape: tuple[int, int, int]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Voxels of the outer blocks, those of equal size together.

    Parameters
    ----------
    blocks : array_like of int, shape (n, 6)
        As from `release_blocks`.
    shape : tuple of int
        Size of the volume in voxels.

    Yields
    ------
    rows : ndarray of int64, shape (m,)
        Positions in `blocks` of the blocks of one size.
    voxels : ndarray of int64, shape (m, n_voxels)
        Flat indices (C order) of their voxels.
    """
    blocks = np.asarray(blocks, dtype=np.int64)
    sizes, group = np.unique(blocks[:, 3:], axis=0, return_inverse=True)
    for number in range(len(sizes)):
        rows = np.flatnonzero(group.reshape(-1) == number)
        voxels, _ = _box_voxels(blocks[rows, :3], blocks[rows, 3:], shape)
        yield rows, voxels


def block_rdms(betas: ArrayLike, blocks: ArrayLike) -> NDArray[np.float32]:
    """RDM of every block: 1 - Pearson correlation of its voxel patterns, for all pairs of conditions.

    All voxels of the outer block count, in the brain mask or not, as in the release. Voxels that are constant over
    conditions or not finite in one of them say nothing about conditions and are left out.

    Parameters
    ----------
    betas : array_like, shape (n_conditions, X, Y, Z)
        Response of every voxel to every condition.
    blocks : array_like of int, shape (n, 6)
        As from `release_blocks`.

    Returns
    -------
    ndarray of float32, shape (n, n_pairs)
        Condensed RDMs, computed in float64. NaN throughout where fewer than two voxels are usable; NaN in the pairs of
        a condition whose pattern is constant over voxels.

    Raises
    ------
    InputError
        If `betas` has not four dimensions or fewer than two conditions, or a block reaches outside the volume.
    """
    betas = np.asarray(betas)
    blocks = np.asarray(blocks, dtype=np.int64)
    if betas.ndim != 4 or betas.shape[0] < 2:
        raise InputError(
            f"beta maps: expected shape (conditions, X, Y, Z) with 2 conditions or more, found {betas.shape}"
        )
    x, y, z = betas.shape[1:]
    if (blocks[:, :3] < 0).any() or (blocks[:, :3] + blocks[:, 3:] > (x, y, z)).any():
        raise InputError(
            f"beta maps of {x} x {y} x {z} voxels: a searchlight reaches outside; is the mask on another grid?"
        )
    n_conditions = betas.shape[0]
    flat = betas.reshape(n_conditions, -1)
    usable = usable_voxels(flat)
    rdms = np.empty((len(blocks), n_pairs_of(n_conditions)), dtype=np.float32)
    for rows, voxels in block_territory(blocks, (x, y, z)):
        for rows_alike, voxels_alike in _alike(rows, voxels, usable):
            for part in _chunks(len(rows_alike), n_conditions * max(voxels_alike.shape[1], 1)):
                rdms[rows_alike[part]] = _pattern_rdms(flat, voxels_alike[part])
    return rdms


def usable_voxels(betas: NDArray) -> NDArray[np.bool_]:
    """Which voxels are finite in every condition and not the same in all; `betas` is (n_conditions, n_voxels)."""
    # NaN and infinity survive in the extremes, so that no array of the size of `betas` is needed.
    low, high = betas.min(axis=0), betas.max(axis=0)
    return np.isfinite(low) & np.isfinite(high) & (low < high)


def _alike(
    rows: NDArray[np.int64], voxels: NDArray[np.int64], usable: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Split blocks of one size by their number of usable voxels, so that each part is a rectangular array of these."""
    keep = usable[voxels]
    counts = keep.sum(axis=1)
    for count in np.unique(counts):
        same = counts == count
        # The number of rows is named, as reshape cannot infer it where no voxel is usable.
        yield rows[same], voxels[same][keep[same]].reshape(int(same.sum()), count)


def _chunks(n: int, values_each: int) -> Iterator[slice]:
    step = max(1, _CHUNK_VALUES // values_each)
    for start in range(0, n, step):
        yield slice(start, start + step)


def _pattern_rdms(flat: NDArray, voxels: NDArray[np.int64]) -> NDArray[np.float64]:
    """RDMs (m, n_pairs) over `voxels` (m, k) of `flat` (n_conditions, all voxels)."""
    if voxels.shape[1] < 2:
        return np.full((len(voxels), n_pairs_of(len(flat))), np.nan)
    return correlation_rdm(np.moveaxis(flat[:, voxels], 0, 1))
