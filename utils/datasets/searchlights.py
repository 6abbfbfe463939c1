"""Searchlight RDMs: read, checked and averaged a slice at a time, with their noise ceilings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.datasets.layout import Sources
from utils.io.readers import open_array, read_noise_ceiling, read_volume
from utils.parallel.threads import in_threads
from utils.rdm import n_conditions_of, n_pairs_of
from utils.rdms.searchlights import Geometry, block_geometry
from utils.stats.noise_ceiling import noise_ceiling, plain

_PLACES_PER_THREAD = 8

Progress = Callable[[int, int], None]
_SLICE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class SearchlightRdms:
    """Searchlight RDMs.

    Attributes
    ----------
    mean : ndarray of float64, shape (n_searchlights, n_pairs)
        Mean over subjects.
    ceiling_lower, ceiling_upper : ndarray of float64, shape (n_searchlights,)
        Mean Spearman correlations.
    geometry : Geometry
        Voxels that each searchlight stands for.
    usable : ndarray of bool, shape (n_searchlights,)
        False where RDMs hold NaN or inf, or do not vary.
    n_subjects : int
    blocks : callable
        Iterates over (slice of searchlights, condensed RDMs of all subjects (n_subjects, n, n_pairs)).
    """

    mean: NDArray[np.float64]
    ceiling_lower: NDArray[np.float64]
    ceiling_upper: NDArray[np.float64]
    geometry: Geometry
    usable: NDArray[np.bool_]
    n_subjects: int
    blocks: Callable[[], Iterator[tuple[slice, NDArray]]]


def load_searchlights(sources: Sources, n_conditions: int, progress: Progress | None = None) -> SearchlightRdms:
    """Read, check and average the searchlight RDMs, a slice of searchlights at a time.

    Memory stays near that of the mean (8 bytes per searchlight and pair), however many subjects there are.

    Parameters
    ----------
    sources : Sources
    n_conditions : int
        Number of conditions that the models have.
    progress : callable, optional
        Called with (searchlights done, searchlights in all).

    Returns
    -------
    SearchlightRdms

    Raises
    ------
    InputError
        For files that are missing or unreadable, a mask that does not match, or no usable searchlight.
    """
    published = sources.fmri_rdms if sources.fmri_rdms.is_file() else sources.fmri_rdms / "all_sub_slrdms.npy"
    if published.exists():
        n_subjects, n_searchlights, blocks = _published_searchlights(published, n_conditions)
    else:
        n_subjects, n_searchlights, blocks = _generic_searchlights(sources.fmri_rdms, n_conditions)
    geometry = _geometry(sources, n_searchlights)
    ceilings = _stored_ceilings(sources.fmri_rdms, n_searchlights)
    mean, usable = np.empty((n_searchlights, n_pairs_of(n_conditions))), np.empty(n_searchlights, dtype=bool)
    lower, upper = ceilings or (np.full(n_searchlights, np.nan), np.full(n_searchlights, np.nan))
    for places, rdms in blocks():
        averages = partial(average, rdms, mean[places], usable[places])
        in_threads(averages, rdms.shape[1], _PLACES_PER_THREAD)
        if ceilings is None and n_subjects > 1:
            lower[places], upper[places] = noise_ceiling(rdms)
        if progress is not None:
            progress(min(places.stop, n_searchlights), n_searchlights)
    if n_subjects == 1 and ceilings is None:
        raise InputError(
            f"{sources.fmri_rdms}: found one subject, but the noise ceiling needs two or more; "
            "add subjects, or a noise_ceiling.npz with arrays lower and upper"
        )
    if ceilings is None:
        _keep_ceilings(sources.fmri_rdms, lower, upper)
    usable &= np.isfinite(lower)
    if not usable.any():
        raise InputError(
            f"{sources.fmri_rdms}: every searchlight RDM holds NaN or inf or does not vary; nothing to test"
        )
    return SearchlightRdms(mean, lower, upper, geometry, usable, n_subjects, blocks)


def _published_searchlights(path: Path, n_conditions: int) -> tuple[int, int, Callable[[], Iterator]]:
    """Reader of the release's (n_subjects, n_searchlights, n, n) array."""

    array = open_array(path)
    if array.ndim != 4 or array.shape[2] != array.shape[3]:
        raise InputError(
            f"{path}: found shape {array.shape}, expected (subjects, searchlights, conditions, conditions)"
        )
    _check_numbers(path, array)
    n_subjects, n_searchlights, n, _ = array.shape
    _check_conditions(path, n_pairs_of(n), n_conditions)
    step = max(1, _SLICE_BYTES // (n_subjects * n_pairs_of(n) * 8))

    def blocks() -> Iterator[tuple[slice, NDArray]]:
        for start in range(0, n_searchlights, step):
            places = slice(start, min(start + step, n_searchlights))
            # Mapped anew for every slice: pages that were read do not pile up in this process's memory.
            yield places, upper_triangles(open_array(path)[:, places])

    return n_subjects, n_searchlights, blocks


def _generic_searchlights(folder: Path, n_conditions: int) -> tuple[int, int, Callable[[], Iterator]]:
    """Reader of one condensed array (n_searchlights, n_pairs) per subject."""
    from utils.parallel.threads import in_threads

    paths = sorted(folder.glob("*.npy")) if folder.is_dir() else []
    if not paths:
        raise InputError(f"{folder}: found neither all_sub_slrdms.npy nor one .npy file per subject")
    arrays = {path: open_array(path) for path in paths}
    shape = arrays[paths[0]].shape
    for path, array in arrays.items():
        if array.ndim != 2 or array.shape != shape:
            raise InputError(
                f"{path}: found shape {array.shape}, expected {shape if len(shape) == 2 else '(searchlights, pairs)'} "
                f"as in {paths[0].name}: condensed RDMs of the same searchlights for every subject"
            )
        _check_numbers(path, array)
    _check_conditions(paths[0], shape[1], n_conditions)
    dtype = np.float32 if all(array.dtype == np.float32 for array in arrays.values()) else np.float64
    step = max(1, _SLICE_BYTES // (len(paths) * shape[1] * 8))

    def blocks() -> Iterator[tuple[slice, NDArray]]:
        for start in range(0, shape[0], step):
            places = slice(start, min(start + step, shape[0]))
            rdms = np.empty((len(paths), places.stop - start, shape[1]), dtype=dtype)

            def read(first: int, last: int, rdms: NDArray = rdms, places: slice = places) -> None:
                for subject in range(first, last):
                    rdms[subject] = open_array(paths[subject])[places]

            in_threads(read, len(paths), 1)
            yield places, rdms

    return len(paths), shape[0], blocks


def _geometry(sources: Sources, n_searchlights: int) -> Geometry:
    if sources.mask is None:
        origin = sources.fmri_rdms / "geometry.npz"
        geometry = Geometry.load(origin)
    else:
        origin = sources.mask
        data, affine = read_volume(origin)
        geometry = block_geometry(np.nan_to_num(data) > 0, affine)
    if len(geometry) != n_searchlights:
        raise InputError(
            f"{origin}: describes {len(geometry)} searchlights, but {sources.fmri_rdms} holds {n_searchlights}; "
            "give the mask that the RDMs were computed with (--mask)"
        )
    return geometry


def _stored_ceilings(folder: Path, n_searchlights: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Noise ceilings that lie beside the RDMs, unless these have changed since."""
    folder = folder if folder.is_dir() else folder.parent
    released, kept = folder / "noise_ceiling.pkl", folder / "noise_ceiling.npz"
    if released.exists():
        lower, upper = read_noise_ceiling(released)
        path = released
    elif kept.exists() and kept.stat().st_mtime >= max(f.stat().st_mtime for f in folder.glob("*.npy")):
        arrays = open_array(kept)
        if not {"lower", "upper"} <= set(arrays.files):
            raise InputError(f"{kept}: found arrays {', '.join(arrays.files)}, expected lower and upper")
        if "names" in arrays.files and not _same_files(folder, arrays["names"], arrays["sizes"]):
            return None
        lower, upper, path = arrays["lower"], arrays["upper"], kept
    else:
        return None
    if lower.shape != (n_searchlights,) or upper.shape != (n_searchlights,):
        raise InputError(
            f"{path}: found ceilings of shape {lower.shape} and {upper.shape}, expected ({n_searchlights},) as "
            "there are searchlights; delete the file to have them computed"
        )
    return lower, upper


def _files(folder: Path) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Names and sizes of the RDM files that noise ceilings were computed from."""
    paths = sorted(folder.glob("*.npy"))
    return np.array([path.name for path in paths]), np.array([path.stat().st_size for path in paths], dtype=np.int64)


def _same_files(folder: Path, names: NDArray[np.str_], sizes: NDArray[np.int64]) -> bool:
    found, found_sizes = _files(folder)
    return np.array_equal(found, names) and np.array_equal(found_sizes, sizes)


def _keep_ceilings(folder: Path, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> None:
    """Store computed ceilings beside the RDMs; a folder that cannot be written to is left as it is."""
    folder = folder if folder.is_dir() else folder.parent
    temporary = folder / f".noise_ceiling.{os.getpid()}.npz"
    try:
        names, sizes = _files(folder)
        np.savez(temporary, lower=lower, upper=upper, names=names, sizes=sizes)
        temporary.replace(folder / "noise_ceiling.npz")
    except OSError:
        temporary.unlink(missing_ok=True)


def _choose(wanted: Sequence[str], items: Sequence[Any], names: Sequence[str], kind: str) -> list[Any]:
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise InputError(f"unknown {kind}(s) {', '.join(unknown)}; there are {', '.join(names)}")
    return [items[names.index(name)] for name in dict.fromkeys(wanted)]


def _check_numbers(path: Path, array: NDArray) -> None:
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: holds values of type {array.dtype}, expected numbers")


def _check_conditions(path: Path, n_pairs: int, n_conditions: int) -> None:
    if n_pairs != n_pairs_of(n_conditions):
        try:
            found = f"{n_conditions_of(n_pairs)} conditions"
        except ValueError:
            found = f"{n_pairs} entries per RDM, which no number of conditions gives,"
        raise InputError(
            f"{path}: found {found} where the model RDMs have {n_conditions}; both must be of the same conditions"
        )


def upper_triangles(square: NDArray) -> NDArray:
    """Condensed RDMs (n_subjects, n_places, n_pairs) of square ones; these may be memory-mapped, and are read once."""
    square = np.asarray(square) if square.dtype in (np.dtype(np.float32), np.dtype(np.float64)) else plain(square)
    n_subjects, n_places, n, _ = square.shape
    condensed = np.empty((n_subjects, n_places, n_pairs_of(n)), dtype=square.dtype)
    in_threads(partial(_condense, square, condensed), n_places, _PLACES_PER_THREAD)
    return condensed


@numba.njit(cache=True, nogil=True)
def _condense(square: NDArray, condensed: NDArray, first: int, last: int) -> None:
    n = square.shape[2]
    for subject in range(len(square)):
        for place in range(first, last):
            k = 0
            for i in range(n - 1):
                for j in range(i + 1, n):
                    condensed[subject, place, k] = square[subject, place, i, j]
                    k += 1


@numba.njit(cache=True, nogil=True)
def average(rdms: NDArray, mean: NDArray, usable: NDArray, first: int, last: int) -> None:
    """Mean over subjects of RDMs (n_subjects, n_places, n_pairs), and whether it is finite and every RDM varies."""
    n_subjects, _, n_pairs = rdms.shape
    for place in range(first, last):
        total, all_vary = mean[place], True
        total[:] = 0.0
        for subject in range(n_subjects):
            rdm, varies = rdms[subject, place], False
            for k in range(n_pairs):
                total[k] += rdm[k]
                varies |= rdm[k] != rdm[0]
            all_vary &= varies
        finite, varies = True, False
        for k in range(n_pairs):
            total[k] /= n_subjects
            finite &= np.isfinite(total[k])
            varies |= total[k] != total[0]
        usable[place] = finite and varies and all_vary
