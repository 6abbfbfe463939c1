"""Noise ceilings: how alike the RDMs of different subjects are."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numba
import numpy as np
from numpy.typing import NDArray

from utils.parallel.resources import Progress, ignore
from utils.parallel.threads import in_threads
from utils.rdm import Pairs
from utils.stats.comparison import Comparison, compared
from utils.stats.regression import adjust

# What is read at once, and at least ranked by one thread.
_CHUNK_BYTES, _LOCATIONS_PER_THREAD = 16 * 2**20, 8
# Values are sorted by 22 bits in two counting passes; an insertion sort then moves the few that differ in lower bits.
# Numba's argsort takes 4.6 times as long, numpy's 1.6 times before there are ranks.
_DIGIT = 11
_N_COUNTS = 1 << _DIGIT
_SIGN = np.uint64(1 << 63)


def noise_ceiling(
    subject_rdms: NDArray, progress: Progress = ignore
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper noise ceiling, as mean Spearman correlations over subjects.

    Upper: each subject with the mean of all subjects, itself included. Lower: each subject with the mean of the
    others. Both are correlations; square them before they share an axis with R2.

    Parameters
    ----------
    subject_rdms : ndarray, shape (n_subjects, n_locations, n_pairs)
        Condensed RDMs, any float dtype; may be memory-mapped, as it is read a block of locations at a time.
    progress : callable, optional
        Called with (locations done, locations in all) after each block.

    Returns
    -------
    lower, upper : ndarray of float64, shape (n_locations,)
        NaN where the RDM of a subject holds NaN or is constant.

    Raises
    ------
    ValueError
        If there are fewer than two subjects, for whom no ceiling exists.

    References
    ----------
    Nili et al. 2014, PLOS Comput Biol 10:e1003553 (there with other rank correlations); Spearman as in the code of
    Dwivedi et al. 2021.
    """
    n_subjects, n_locations, n_pairs = subject_rdms.shape
    if n_subjects < 2:
        raise ValueError(f"a noise ceiling needs at least 2 subjects, got {n_subjects}")
    lower, upper = np.empty(n_locations), np.empty(n_locations)
    step = max(1, _CHUNK_BYTES // (8 * n_subjects * n_pairs))
    for start in range(0, n_locations, step):
        locations = slice(start, start + step)
        block = plain(subject_rdms[:, locations])
        bounds = partial(_ceilings, block, lower[locations], upper[locations])
        in_threads(bounds, block.shape[1], _LOCATIONS_PER_THREAD)
        progress(min(start + step, n_locations), n_locations)
    return lower, upper


def ceiling_as_r2(ceiling: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared ceiling, comparable with R2.

    Parameters
    ----------
    ceiling : ndarray of float64
        Mean correlations, as from `noise_ceiling`.

    Returns
    -------
    ndarray of float64
        A negative correlation leaves nothing to explain and becomes 0; NaN remains NaN.
    """
    return np.square(np.clip(ceiling, 0.0, None))


def reliability(subject_rdms: NDArray, comparison: Comparison, pairs: Pairs | None = None) -> NDArray[np.float64]:
    """Reliability of the mean RDM: the share of its variance that is not due to differences between subjects.

    ``1 - MS_error / MS_pairs`` of the two-way analysis of variance of pairs by subjects, that is ICC(C, k). With d_s
    the centred RDM of subject s and m their mean, this is ``1 - (mean |d_s|**2 / |m|**2 - 1) / (n_subjects - 1)``.

    Parameters
    ----------
    subject_rdms : ndarray, shape (n_subjects, n_locations, n_pairs)
        Condensed RDMs as they are, any float dtype; may be memory-mapped.
    comparison : {"whitened", "plain", "without_condition_effects"}
    pairs : Pairs, optional
        The pairs that RDMs are restricted to, if not all.

    Returns
    -------
    ndarray of float64, shape (n_locations,)
        At most 1; below 0 where subjects agree less than by chance. NaN for a single subject, and where an RDM holds
        NaN or the mean RDM is all 0 once it is centred.

    References
    ----------
    McGraw & Wong 1996, Psychol Methods 1:30.
    """
    n_subjects, n_locations, _ = subject_rdms.shape
    values = np.full(n_locations, np.nan)
    if n_subjects < 2:
        return values
    for locations, centred in _centred(subject_rdms, comparison, pairs):
        size = np.square(centred).sum(axis=2).mean(axis=0)
        size_of_mean = np.square(centred.mean(axis=0)).sum(axis=1)
        ratio = np.divide(size, size_of_mean, out=np.full_like(size, np.nan), where=size_of_mean != 0)
        values[locations] = 1 - (ratio - 1) / (n_subjects - 1)
    return values


def single_subject_ceilings(
    subject_rdms: NDArray, n_predictors: int, comparison: Comparison, pairs: Pairs | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper noise ceiling of the mean R2 of single subjects, whose RDMs are fitted with weights of their own.

    Upper: no model of `n_predictors` fixed predictors has a larger mean R2 (unadjusted), since the leading principal
    components of the subjects' standardised RDMs have the largest. Lower: each subject predicted by the mean of the
    others' standardised RDMs, with R2 adjusted for this one predictor.

    Parameters
    ----------
    subject_rdms : ndarray, shape (n_subjects, n_locations, n_pairs)
        Condensed RDMs as they are, any float dtype; may be memory-mapped.
    n_predictors : int
        Free weights of the model, besides the intercept; 1 or more.
    comparison : {"whitened", "plain", "without_condition_effects"}
    pairs : Pairs, optional
        The pairs that RDMs are restricted to, if not all.

    Returns
    -------
    lower, upper : ndarray of float64, shape (n_locations,)
        R2. `upper` is the sum of the `n_predictors` largest eigenvalues of the subjects' correlation matrix, divided by
        n_subjects: 1 for as many predictors as subjects. `lower` may be below 0, and does not depend on `n_predictors`.
        Both are NaN for a single subject, and where the RDM of a subject holds NaN or is constant.

    References
    ----------
    Eckart & Young 1936, Psychometrika 1:211 (the largest sum of R2 is that of principal components); Nili et al. 2014,
    PLOS Comput Biol 10:e1003553 (one subject left out); Ezekiel 1930, Methods of Correlation Analysis (the adjustment).
    """
    n_subjects, n_locations, n_pairs = subject_rdms.shape
    lower, upper = np.full(n_locations, np.nan), np.full(n_locations, np.nan)
    if n_subjects < 2:
        return lower, upper
    for locations, centred in _centred(subject_rdms, comparison, pairs):
        length = np.linalg.norm(centred, axis=2)
        rounding = np.abs(subject_rdms[:, locations]).max(axis=2) * (n_pairs * np.finfo(np.float64).eps)
        defined = (length > rounding).all(axis=0)
        units = (centred[:, defined] / length[:, defined, None]).swapaxes(0, 1)
        correlation = units @ units.swapaxes(1, 2)
        others = correlation.sum(axis=2) - 1  # inner product of each RDM with the sum of the others
        size = others.sum(axis=1, keepdims=True) + n_subjects - 2 * others - 1  # squared length of that sum
        r2 = np.divide(others**2, size, out=np.full_like(others, np.nan), where=size > 0)
        found = locations.start + np.flatnonzero(defined)
        upper[found] = np.linalg.eigvalsh(correlation)[:, -n_predictors:].sum(axis=1) / n_subjects
        lower[found] = adjust(r2, n_pairs, 1).mean(axis=1)
    return lower, upper


def _centred(
    subject_rdms: NDArray, comparison: Comparison, pairs: Pairs | None
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Blocks of locations, and their RDMs as they are compared, centred."""
    n_subjects, n_locations, n_pairs = subject_rdms.shape
    step = max(1, _CHUNK_BYTES // (8 * n_subjects * n_pairs))
    for start in range(0, n_locations, step):
        locations = slice(start, min(start + step, n_locations))
        rdms = compared(subject_rdms[:, locations], comparison, pairs)
        yield locations, rdms - rdms.mean(axis=2, keepdims=True)


def plain(array: NDArray) -> NDArray:
    """An array of numbers as compiled loops take it: for every other kind they would be compiled again or fail.

    Parameters
    ----------
    array : ndarray
        Of any numeric dtype, byte order and layout.

    Returns
    -------
    ndarray
        Contiguous; float32 remains so, all else becomes float64.
    """
    return np.ascontiguousarray(array, dtype=np.float32 if array.dtype == np.float32 else np.float64)


@numba.njit(cache=True, nogil=True)
def _ceilings(rdms: NDArray, lower: NDArray, upper: NDArray, first: int, last: int) -> None:
    """Mean rank correlation of each subject's RDM with the sum of the others' (`lower`) and of all (`upper`).

    `rdms` is (n_subjects, n_locations, n_pairs); a sum has the ranks of the mean.
    """
    n_subjects, _, n_pairs = rdms.shape
    scratch = np.empty((4, n_pairs), np.int64), np.empty((2, _N_COUNTS), np.int64)
    total, values = np.empty(n_pairs), np.empty(n_pairs)
    everyone, own, others = np.empty(n_pairs), np.empty(n_pairs), np.empty(n_pairs)
    for location in range(first, last):
        total[:] = 0.0
        for subject in range(n_subjects):
            rdm = rdms[subject, location]
            for k in range(n_pairs):
                total[k] += rdm[k]
        _rank(total, everyone, *scratch)
        low = high = 0.0
        for subject in range(n_subjects):
            rdm = rdms[subject, location]
            for k in range(n_pairs):
                values[k] = rdm[k]
            _rank(values, own, *scratch)
            for k in range(n_pairs):
                values[k] = total[k] - rdm[k]
            _rank(values, others, *scratch)
            low += _cosine(own, others)
            high += _cosine(own, everyone)
        lower[location], upper[location] = low / n_subjects, high / n_subjects


@numba.njit(cache=True, nogil=True)
def _rank(values: NDArray, ranks: NDArray, pairs: NDArray, counts: NDArray) -> None:
    """Average ranks, doubled and centred, so that they are whole numbers; NaN if a value is NaN.

    A radix sort of keys, whole numbers that are ordered as the values are. `pairs` and `counts` are working memory.
    """
    n = values.size
    keys, sorted_keys = pairs[0].view(np.uint64), pairs[1].view(np.uint64)
    positions, order = pairs[2], pairs[3]
    least, most, undefined = ~np.uint64(0), np.uint64(0), False
    for i in range(n):
        undefined |= np.isnan(values[i])
        values[i] += 0.0  # turns -0 into 0
    bits = values.view(np.uint64)
    for i in range(n):
        key = bits[i] ^ (_SIGN if bits[i] < _SIGN else ~np.uint64(0))
        keys[i] = key
        least, most = min(least, key), max(most, key)
    if undefined:
        ranks[:] = np.nan
        return
    shift = np.uint64(0)
    while (most - least) >> shift >= _N_COUNTS * _N_COUNTS:
        shift += np.uint64(1)
    digit, mask = np.uint64(_DIGIT), np.uint64(_N_COUNTS - 1)
    counts[:] = 0
    for i in range(n):
        key = (keys[i] - least) >> shift
        counts[0, key & mask] += 1
        counts[1, key >> digit] += 1
    for row in range(2):
        before = 0
        for k in range(_N_COUNTS):
            before, counts[row, k] = before + counts[row, k], before
    for i in range(n):
        k = (keys[i] - least) >> shift & mask
        sorted_keys[counts[0, k]], positions[counts[0, k]] = keys[i], i
        counts[0, k] += 1
    for i in range(n):
        k = (sorted_keys[i] - least) >> shift >> digit
        keys[counts[1, k]], order[counts[1, k]] = sorted_keys[i], positions[i]
        counts[1, k] += 1
    for i in range(1, n):
        key, position, k = keys[i], order[i], i
        while k > 0 and keys[k - 1] > key:
            keys[k], order[k] = keys[k - 1], order[k - 1]
            k -= 1
        keys[k], order[k] = key, position
    first = 0
    for i in range(1, n + 1):
        if i == n or keys[i] != keys[first]:
            for k in range(first, i):
                ranks[order[k]] = first + i - n
            first = i


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _cosine(a: NDArray, b: NDArray) -> float:
    """Cosine of the angle between two vectors; NaN if one is all 0."""
    ab = aa = bb = 0.0
    for k in range(a.size):
        ab += a[k] * b[k]
        aa += a[k] * a[k]
        bb += b[k] * b[k]
    return ab / np.sqrt(aa * bb) if aa * bb != 0 else np.nan
