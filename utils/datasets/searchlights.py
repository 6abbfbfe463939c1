"""Searchlight RDMs: read, checked and averaged a slice at a time, with their noise ceilings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.datasets.layout import Sources
from utils.io.data_folder import SearchlightFolder
from utils.io.output import write_ceilings
from utils.io.pickled_arrays import read_noise_ceiling
from utils.io.readers import (
    check_n_conditions,
    check_n_people,
    open_array,
    read_ceilings,
    read_volume,
    similarities,
)
from utils.io.spaces import read_space
from utils.parallel.resources import Progress, ignore
from utils.parallel.threads import in_threads
from utils.rdm import EPSILON, Pairs, condense, is_similarity, n_pairs_of, pair_permutation
from utils.rdms.discs import SurfaceGeometry, load_geometry
from utils.rdms.searchlights import Geometry, block_geometry, slices
from utils.stats.noise_ceiling import noise_ceiling, plain

_SEARCHLIGHTS_PER_THREAD = 8
_SLICE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class SearchlightRdms:
    """Searchlight RDMs.

    Attributes
    ----------
    mean : ndarray of float64, shape (n_searchlights, n_pairs)
        Mean over subjects.
    ceiling_lower, ceiling_upper : ndarray of float64, shape (n_searchlights,)
        Mean Spearman correlations; NaN throughout for a single subject of whom none are stored.
    geometry : Geometry or SurfaceGeometry
        Voxels or vertices that each searchlight stands for.
    usable : ndarray of bool, shape (n_searchlights,)
        False where RDMs hold NaN or inf, or do not vary.
    n_subjects : int
    blocks : callable
        Iterates over (slice of searchlights, condensed RDMs of all subjects (n_subjects, n, n_pairs)).
    """

    mean: NDArray[np.float64]
    ceiling_lower: NDArray[np.float64]
    ceiling_upper: NDArray[np.float64]
    geometry: Geometry | SurfaceGeometry
    usable: NDArray[np.bool_]
    n_subjects: int
    blocks: Callable[[], Iterator[tuple[slice, NDArray]]]

    @property
    def has_ceiling(self) -> bool:
        """Whether there are noise ceilings."""
        return bool(np.isfinite(self.ceiling_lower).any())


def load_searchlights(
    sources: Sources,
    n_conditions: int,
    progress: Progress = ignore,
    pairs: Pairs | None = None,
    n_people: int | None = None,
) -> SearchlightRdms:
    """Read, check and average the searchlight RDMs, a slice of searchlights at a time.

    Memory stays near that of the mean (8 bytes per searchlight and pair), however many subjects there are.

    Parameters
    ----------
    sources : Sources
    n_conditions : int
        Number of conditions that the models have.
    progress : callable, optional
        Called with (searchlights done, searchlights in all).
    pairs : Pairs, optional
        The pairs that count, in the order of the model RDMs, if not all. Noise ceilings of several subjects are then
        computed, whatever is stored, and not kept.
    n_people : int, optional
        Number of people that have models of their own.

    Returns
    -------
    SearchlightRdms

    Raises
    ------
    InputError
        For files that are missing or unreadable, a mask or a number of people that does not match, or no usable
        searchlight.
    """
    folder = SearchlightFolder(sources.fmri_rdms)
    if folder.released_rdms.exists():
        n_subjects, n_searchlights, read = _published_searchlights(folder.released_rdms, n_conditions)
    else:
        n_subjects, n_searchlights, read = _generic_searchlights(folder, n_conditions)
    check_n_people(sources.fmri_rdms, n_subjects, n_people)
    parts = slices(n_searchlights, _SLICE_BYTES // (n_subjects * n_pairs_of(n_conditions) * 8))
    order = sources.fmri_order()
    chosen = None if order is None else pair_permutation(order)
    n_pairs = n_pairs_of(n_conditions)
    if pairs is not None:
        chosen, n_pairs = pairs.of(np.arange(n_pairs) if chosen is None else chosen), pairs.n_kept

    def blocks() -> Iterator[tuple[slice, NDArray]]:
        return ((part, read(part) if chosen is None else np.take(read(part), chosen, axis=-1)) for part in parts)

    geometry = _geometry(sources, n_searchlights)
    ceilings = None if pairs is not None and n_subjects > 1 else _stored_ceilings(folder, n_searchlights)
    compute = ceilings is None and n_subjects > 1
    mean, usable = np.empty((n_searchlights, n_pairs)), np.empty(n_searchlights, dtype=bool)
    lower, upper = ceilings or (np.full(n_searchlights, np.nan), np.full(n_searchlights, np.nan))
    for part, rdms in blocks():
        averages = partial(average, rdms, mean[part], usable[part])
        in_threads(averages, rdms.shape[1], _SEARCHLIGHTS_PER_THREAD)
        if compute:
            lower[part], upper[part] = noise_ceiling(rdms)
        progress(part.stop, n_searchlights)
    if compute and pairs is None:
        with suppress(InputError):  # a folder that cannot be written to stays as it is
            write_ceilings(folder.noise_ceiling, folder.all_rdms(), lower, upper)
    if compute or ceilings is not None:
        usable &= np.isfinite(lower)
    if not usable.any():
        raise InputError(
            f"{sources.fmri_rdms}: every searchlight RDM holds NaN or inf or does not vary; nothing to test"
        )
    return SearchlightRdms(mean, lower, upper, geometry, usable, n_subjects, blocks)


def _published_searchlights(path: Path, n_conditions: int) -> tuple[int, int, Callable[[slice], NDArray]]:
    """Subjects, searchlights, and a reader of the release's (n_subjects, n_searchlights, n, n) array."""
    array = open_array(path)
    if array.ndim != 4 or array.shape[2] != array.shape[3]:
        raise InputError(
            f"{path}: found shape {array.shape}, expected (subjects, searchlights, conditions, conditions)"
        )
    _check_numbers(path, array)
    check_n_conditions(path, n_pairs_of(array.shape[2]), n_conditions)
    first = np.asarray(array[:, 0], dtype=np.float64)
    alike = is_similarity(condense(first), first.diagonal(axis1=1, axis2=2))
    if alike.any():
        raise similarities(path, f"RDMs of subject {int(alike.argmax()) + 1} hold")
    # Mapped anew for every slice: pages that were read do not pile up in this process's memory.
    return array.shape[0], array.shape[1], lambda part: upper_triangles(open_array(path)[:, part])


def _generic_searchlights(folder: SearchlightFolder, n_conditions: int) -> tuple[int, int, Callable[[slice], NDArray]]:
    """Subjects, searchlights, and a reader of one condensed array (n_searchlights, n_pairs) per subject."""
    paths = folder.all_rdms()
    if not paths:
        raise InputError(f"{folder.folder}: found neither all_sub_slrdms.npy nor one .npy file per subject")
    arrays = {path: open_array(path) for path in paths}
    shape = arrays[paths[0]].shape
    for path, array in arrays.items():
        if array.ndim != 2 or array.shape != shape:
            raise InputError(
                f"{path}: found shape {array.shape}, expected {shape if len(shape) == 2 else '(searchlights, pairs)'} "
                f"as in {paths[0].name}: condensed RDMs of the same searchlights for every subject"
            )
        _check_numbers(path, array)
    check_n_conditions(paths[0], shape[1], n_conditions)
    dtype = np.float32 if all(array.dtype == np.float32 for array in arrays.values()) else np.float64

    def read(part: slice) -> NDArray:
        rdms = np.empty((len(paths), part.stop - part.start, shape[1]), dtype=dtype)

        def read_subjects(first: int, last: int) -> None:
            for subject in range(first, last):
                rdms[subject] = open_array(paths[subject])[part]

        in_threads(read_subjects, len(paths), 1)
        return rdms

    return len(paths), shape[0], read


def _geometry(sources: Sources, n_searchlights: int) -> Geometry | SurfaceGeometry:
    if sources.mask is None:
        origin = SearchlightFolder(sources.fmri_rdms).geometry
        geometry = load_geometry(origin)
    else:
        origin = sources.mask
        data, affine = read_volume(origin)
        geometry = block_geometry(np.nan_to_num(data) > 0, affine, read_space([origin]))
    if len(geometry) != n_searchlights:
        raise InputError(
            f"{origin}: describes {len(geometry)} searchlights, but {sources.fmri_rdms} holds {n_searchlights}; "
            "the RDMs need the `mask` that they were computed with"
        )
    if sources.space is None or geometry.vertices is not None:
        return geometry
    return replace(geometry, space=sources.space)


def _stored_ceilings(
    folder: SearchlightFolder, n_searchlights: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Noise ceilings that lie beside the RDMs, unless these have changed since."""
    released = folder.released_ceiling.exists()
    path = folder.released_ceiling if released else folder.noise_ceiling
    ceilings = read_noise_ceiling(path) if released else read_ceilings(path, folder.all_rdms())
    if ceilings and any(bound.shape != (n_searchlights,) for bound in ceilings):
        raise InputError(
            f"{path}: found ceilings of shape {ceilings[0].shape} and {ceilings[1].shape}, expected "
            f"({n_searchlights},) as there are searchlights; delete the file to have them computed"
        )
    return ceilings


def _check_numbers(path: Path, array: NDArray) -> None:
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: holds values of type {array.dtype}, expected numbers")


def upper_triangles(square: NDArray) -> NDArray:
    """Condense square RDMs.

    Parameters
    ----------
    square : ndarray, shape (n_subjects, n_searchlights, n, n)
        May be memory-mapped, and is read once.

    Returns
    -------
    ndarray, shape (n_subjects, n_searchlights, n_pairs)
        Of the same dtype if that is float32 or float64, else float64.
    """
    square = np.asarray(square) if square.dtype in (np.dtype(np.float32), np.dtype(np.float64)) else plain(square)
    n_subjects, n_searchlights, n, _ = square.shape
    condensed = np.empty((n_subjects, n_searchlights, n_pairs_of(n)), dtype=square.dtype)
    in_threads(partial(_condense, square, condensed), n_searchlights, _SEARCHLIGHTS_PER_THREAD)
    return condensed


@numba.njit(cache=True, nogil=True)
def _condense(square: NDArray, condensed: NDArray, first: int, last: int) -> None:
    n = square.shape[2]
    for subject in range(len(square)):
        for row in range(first, last):
            k = 0
            for i in range(n - 1):
                for j in range(i + 1, n):
                    condensed[subject, row, k] = square[subject, row, i, j]
                    k += 1


@numba.njit(cache=True, nogil=True)
def average(rdms: NDArray, mean: NDArray, usable: NDArray, first: int, last: int) -> None:
    """Average RDMs over subjects, and see whether the mean is finite and varies, as every RDM does; a numba kernel.

    Parameters
    ----------
    rdms : ndarray, shape (n_subjects, n_searchlights, n_pairs)
    mean : ndarray of float64, shape (n_searchlights, n_pairs)
        Written to.
    usable : ndarray of bool, shape (n_searchlights,)
        Written to.
    first, last : int
        Searchlights to deal with.
    """
    n_subjects, _, n_pairs = rdms.shape
    for row in range(first, last):
        total, all_vary = mean[row], True
        total[:] = 0.0
        for subject in range(n_subjects):
            rdm = rdms[subject, row]
            for k in range(n_pairs):
                total[k] += rdm[k]
            all_vary &= _varies(rdm)
        finite = True
        for k in range(n_pairs):
            total[k] /= n_subjects
            finite &= np.isfinite(total[k])
        usable[row] = finite and all_vary and _varies(total)


@numba.njit(cache=True, nogil=True)
def _varies(rdm: NDArray) -> bool:
    """Whether an RDM is not `utils.rdm.is_constant`; of one that is not finite, anything."""
    low = high = rdm[0]
    for k in range(1, len(rdm)):
        low, high = min(low, rdm[k]), max(high, rdm[k])
    return high - low > len(rdm) * EPSILON * max(abs(low), abs(high))
