"""Inner loops, compiled: averages of RDMs, noise ceilings, refits on subsets of the conditions.

Functions with the arguments `first` and `last` work on that stretch of places. All release Python's lock, so that
`in_threads` can run several stretches at once; what comes out for a place does not depend on how they were cut.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numba
import numpy as np
from numpy.typing import NDArray

from utils.rdm import n_pairs_of
from utils.threads import available_cores

# Values are sorted by 22 bits in two counting passes; an insertion sort then moves the few that differ in lower bits.
_DIGIT = 11
_N_COUNTS = 1 << _DIGIT
_SIGN = np.uint64(1 << 63)
# Places that are refitted together: their sums over a subset fill whole vector registers, their products a cache.
_LANES, _LANE_BYTES = 32, 4 * 2**20
_PLACES_PER_THREAD = 8


def in_threads(work: Callable[[int, int], None], n: int, least: int) -> None:
    """Call ``work(first, last)`` on stretches that make up ``range(n)``, one for each thread that this process may use.

    Within a thread of whatever pool, where the cores are at work already, it is one call.

    Parameters
    ----------
    work : callable
        Releases Python's lock for most of its time, and writes only what no other stretch writes.
    n : int
    least : int
        Shorter stretches are not worth a thread.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    n_threads = int(given) if given.isdigit() and int(given) > 0 else available_cores()
    n_stretches = min(n_threads, n // least) if threading.current_thread() is threading.main_thread() else 1
    if n_stretches < 2:
        work(0, n)
        return
    cuts = [n * i // n_stretches for i in range(n_stretches + 1)]
    with ThreadPoolExecutor(n_stretches) as pool:
        list(pool.map(work, cuts[:-1], cuts[1:]))


def plain(array: NDArray) -> NDArray:
    """An array as contiguous float32 or float64: for every other kind, the loops would be compiled again or fail."""
    return np.ascontiguousarray(array, dtype=np.float32 if array.dtype == np.float32 else np.float64)


# ---------------------------------------------------------------------------------------------------- RDMs of subjects


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


# ------------------------------------------------------------------------------------------------------ noise ceilings


@numba.njit(cache=True, nogil=True)
def ceilings(rdms: NDArray, lower: NDArray, upper: NDArray, first: int, last: int) -> None:
    """Mean rank correlation of each subject's RDM with the sum of the others' (`lower`) and of all (`upper`).

    `rdms` is (n_subjects, n_places, n_pairs); a sum has the ranks of the mean.
    """
    n_subjects, _, n_pairs = rdms.shape
    scratch = np.empty((4, n_pairs), np.int64), np.empty((2, _N_COUNTS), np.int64)
    total, values = np.empty(n_pairs), np.empty(n_pairs)
    everyone, own, others = np.empty(n_pairs), np.empty(n_pairs), np.empty(n_pairs)
    for place in range(first, last):
        total[:] = 0.0
        for subject in range(n_subjects):
            rdm = rdms[subject, place]
            for k in range(n_pairs):
                total[k] += rdm[k]
        _rank(total, everyone, *scratch)
        low = high = 0.0
        for subject in range(n_subjects):
            rdm = rdms[subject, place]
            for k in range(n_pairs):
                values[k] = rdm[k]
            _rank(values, own, *scratch)
            for k in range(n_pairs):
                values[k] = total[k] - rdm[k]
            _rank(values, others, *scratch)
            low += _cosine(own, others)
            high += _cosine(own, everyone)
        lower[place], upper[place] = low / n_subjects, high / n_subjects


@numba.njit(cache=True, nogil=True)
def _rank(values: NDArray, ranks: NDArray, pairs: NDArray, counts: NDArray) -> None:
    """Average ranks, doubled and centred, so that they are whole numbers; NaN if a value is NaN.

    A radix sort of keys, whole numbers that are ordered as the values are. `pairs` and `counts` are working memory.
    """
    n = values.size
    keys, sorted_keys = pairs[0].view(np.uint64), pairs[1].view(np.uint64)
    places, order = pairs[2], pairs[3]
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
        sorted_keys[counts[0, k]], places[counts[0, k]] = keys[i], i
        counts[0, k] += 1
    for i in range(n):
        k = (sorted_keys[i] - least) >> shift >> digit
        keys[counts[1, k]], order[counts[1, k]] = sorted_keys[i], places[i]
        counts[1, k] += 1
    for i in range(1, n):
        key, place, k = keys[i], order[i], i
        while k > 0 and keys[k - 1] > key:
            keys[k], order[k] = keys[k - 1], order[k - 1]
            k -= 1
        keys[k], order[k] = key, place
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


# ------------------------------------------------------------------------------------------- subsets of the conditions


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def kept_sums(values: NDArray, left_out: NDArray) -> NDArray:
    """Sums of values over the pairs of conditions that each subset holds.

    Parameters
    ----------
    values : ndarray of float64, shape (n_pairs, n_columns)
    left_out : ndarray of int64, shape (n_subsets, n_left_out)
        Conditions that are not in the subset, in ascending order.

    Returns
    -------
    ndarray of float64, shape (n_subsets, n_columns)

    Notes
    -----
    The sum over all pairs, minus those of each condition left out, plus the pairs of two such conditions, which were
    taken away twice: of 50 conditions without 5, that is 16 terms instead of 990.
    """
    n_subsets, n_left_out = left_out.shape
    n_pairs, n_columns = values.shape
    n = round((1 + np.sqrt(1 + 8 * n_pairs)) / 2)
    total, of_condition = np.zeros(n_columns), np.zeros((n, n_columns))
    pair = 0
    for i in range(n - 1):
        for j in range(i + 1, n):
            for c in range(n_columns):
                total[c] += values[pair, c]
                of_condition[i, c] += values[pair, c]
                of_condition[j, c] += values[pair, c]
            pair += 1
    sums = np.empty((n_subsets, n_columns))
    for b in range(n_subsets):
        row = sums[b]
        row[:] = total
        for x in range(n_left_out):
            i = left_out[b, x]
            before = i * n - i * (i + 3) // 2 - 1  # pair (i, j) is number before + j
            for c in range(n_columns):
                row[c] -= of_condition[i, c]
            for y in range(x + 1, n_left_out):
                pair = before + left_out[b, y]
                for c in range(n_columns):
                    row[c] += values[pair, c]
    return sums


@numba.njit(cache=True, nogil=True, error_model="numpy")
def orthonormal_axes(products: NDArray, directions: NDArray, least: float, axes: NDArray, found: NDArray) -> None:
    """Orthonormalise predictors in every subset, one after the other (Cholesky).

    Parameters
    ----------
    products : ndarray of float64, shape (n_subsets, n (n + 1) / 2)
        Upper triangles, row by row, of the sums of products of the n predictors.
    directions : ndarray of float64, shape (n, n_coordinates)
        Coordinates of the predictors.
    least : float
        A predictor with a smaller sum of squares outside the span of those before it adds no axis.
    axes : ndarray of float64, shape (n_subsets, n, n_coordinates)
        Filled with the coordinates of the axes; 0 where a predictor adds none.
    found : ndarray of bool, shape (n_subsets, n)
        Filled: whether a predictor adds an axis.
    """
    n_subsets, n, n_coordinates = axes.shape
    work = np.empty((n, n + n_coordinates))
    for b in range(n_subsets):
        k = 0
        for i in range(n):
            for j in range(i, n):
                work[i, j] = products[b, k]
                k += 1
            for c in range(n_coordinates):
                work[i, n + c] = directions[i, c]
        for i in range(n):
            row = work[i]
            found[b, i] = row[i] > least
            scale = 1 / np.sqrt(row[i]) if found[b, i] else 0.0
            for c in range(i, row.size):
                row[c] *= scale
            for j in range(i + 1, n):
                for c in range(j, row.size):
                    work[j, c] -= row[j] * row[c]
            for c in range(n_coordinates):
                axes[b, i, c] = row[n + c]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def unique_in_subsets(
    rdms: NDArray,
    predictors: NDArray,
    left_out: NDArray,
    axes: NDArray,
    starts: NDArray,
    slopes: NDArray,
    unique: NDArray,
    first: int,
    last: int,
) -> None:
    """Unique variance of sets of predictors in every subset of the conditions.

    Parameters
    ----------
    rdms : ndarray of float64, shape (n_pairs, n_places)
    predictors : ndarray of float64, shape (n_pairs, n_predictors)
    left_out : ndarray of int64, shape (n_subsets, n_left_out)
    axes : ndarray of float64, shape (n_subsets, n_axes, n_predictors)
        Orthonormal axes in terms of the predictors; the first is the constant.
    starts : ndarray of int64, shape (n_sets + 1,)
        Axes before ``starts[1]`` span all predictors; ``starts[i]`` to ``starts[i + 1] - 1`` what set i adds to the
        others.
    slopes : ndarray of float64, shape (n_subsets, 1 + n_sets)
        Factor that adjusts unexplained variance for the number of predictors: of all sets, and of all but set i.
    unique : ndarray of float64, shape (n_subsets, n_sets, n_places)
        Filled for the places from `first` to `last` - 1.
    """
    n_pairs, n_predictors = predictors.shape
    n_subsets, n_sets, _ = unique.shape
    step = max(1, min(_LANES, _LANE_BYTES // (8 * n_pairs * (n_predictors + 1))))
    for left in range(first, last, step):
        lanes = min(step, last - left)
        products = np.empty((n_pairs, n_predictors + 1, lanes))
        for k in range(n_pairs):
            for s in range(lanes):
                value = rdms[k, left + s]
                for c in range(n_predictors):
                    products[k, c, s] = predictors[k, c] * value
                products[k, n_predictors, s] = value * value
        sums = kept_sums(products.reshape(n_pairs, -1), left_out).reshape(n_subsets, n_predictors + 1, lanes)
        z, constant, others, added = np.empty(lanes), np.empty(lanes), np.empty(lanes), np.empty((n_sets, lanes))
        for b in range(n_subsets):
            _sum_of_squares(sums[b], axes[b, :1], z, constant)
            _sum_of_squares(sums[b], axes[b, 1 : starts[0]], z, others)
            for i in range(n_sets):
                _sum_of_squares(sums[b], axes[b, starts[i] : starts[i + 1]], z, added[i])
            for s in range(lanes):
                variance = sums[b, n_predictors, s] - constant[s]
                rest = 1 - (others[s] + added[0, s]) / variance
                for i in range(n_sets):
                    unique[b, i, left + s] = (rest + added[i, s] / variance) * slopes[b, 1 + i] - rest * slopes[b, 0]


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _sum_of_squares(sums: NDArray, axes: NDArray, z: NDArray, squares: NDArray) -> None:
    """Sum of the squared coordinates, on some axes, of RDMs whose sums of products are given, (n_predictors, lanes)."""
    squares[:] = 0.0
    for axis in axes:
        z[:] = 0.0
        for c in range(axis.size):
            for s in range(z.size):
                z[s] += axis[c] * sums[c, s]
        for s in range(z.size):
            squares[s] += z[s] * z[s]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def deviations(values: NDArray, contrasts: NDArray, deviation: NDArray, first: int, last: int) -> None:
    """Standard deviations over subsets of contrasts, (n_contrasts, n_sets), of values (n_subsets, n_sets, n_places)."""
    n_subsets, n_sets, _ = values.shape
    n_contrasts = len(contrasts)
    for left in range(first, last, _LANES):
        lanes = min(_LANES, last - left)
        mean, z, squares = np.zeros((n_sets, lanes)), np.empty(lanes), np.zeros((n_contrasts, lanes))
        for b in range(n_subsets):
            for i in range(n_sets):
                for s in range(lanes):
                    mean[i, s] += values[b, i, left + s] / n_subsets
        for b in range(n_subsets):
            for row in range(n_contrasts):
                z[:] = 0.0
                for i in range(n_sets):
                    for s in range(lanes):
                        z[s] += contrasts[row, i] * (values[b, i, left + s] - mean[i, s])
                for s in range(lanes):
                    squares[row, s] += z[s] * z[s]
        for row in range(n_contrasts):
            for s in range(lanes):
                deviation[row, left + s] = np.sqrt(squares[row, s] / (n_subsets - 1))
