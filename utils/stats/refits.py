"""Regressions refitted to subsets of the conditions: the published error bars, and how often the same model wins.

`unique_in_subsets` is the one engine. A refit needs sums of products over the pairs that a subset holds; they are
quickly taken from the sums over all pairs (`_kept_sums`). The spread of its values is `subset_deviations`, and how
often the same set is the largest is `winner_stability`. Standard errors are found in closed form (`jackknife`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.parallel.resources import Progress, ignore
from utils.parallel.threads import in_threads
from utils.stats.inference import difference_contrasts
from utils.stats.regression import (
    Bases,
    Basis,
    MakeStatistic,
    each_person,
    own_adjusted_r2,
    standardise,
    unique_adjusted_r2,
)

# Subsets of the conditions that winners are compared on.
N_SUBSETS = 1000
# A predictor with a smaller sum of squares of its own in a subset, of about 1 in all conditions, says nothing there.
_SINGULAR = 1e-10
# What is refitted at once, and at least by one thread.
_LOCATIONS_PER_REFIT, _SUBSETS_PER_REFIT, _LOCATIONS_PER_THREAD = 500, 1000, 32
# Locations that one thread refits together: their sums over a subset fill whole vector registers, their products a
# cache.
_LANES, _LANE_BYTES = 32, 4 * 2**20


@dataclass(frozen=True)
class SubsetDeviations:
    """Standard deviations over subsets of unique variances, and of their differences.

    Attributes
    ----------
    unique : ndarray of float64, shape (n_sets, n_locations)
    difference : ndarray of float64, shape (n_pairs, n_locations)
    """

    unique: NDArray[np.float64]
    difference: NDArray[np.float64]


def subset_deviations(
    basis: Basis, rdms: ArrayLike, subsets: NDArray[np.bool_], pairs: Sequence[tuple[int, int]] = ()
) -> SubsetDeviations:
    """Standard deviations of unique variance and its differences, from refitting on random subsets of the conditions.

    The published error bars. Subsets of 90 % of the conditions differ far less among themselves than new experiments
    would: times ``sqrt(m / (n - m))`` for m of n conditions, they would be standard errors (delete-d jackknife).

    Parameters
    ----------
    basis : Basis
    rdms : array_like, shape (n_locations, n_pairs)
        Condensed brain RDMs.
    subsets : ndarray of bool, shape (n_subsets, n_conditions)
        From `condition_subsets`.
    pairs : sequence of (int, int)
        Sets whose unique variances are compared.

    Returns
    -------
    SubsetDeviations

    References
    ----------
    Shao & Wu 1989, Ann Stat 17:1176.
    """
    responses, n_sets = standardise(np.asarray(rdms)), len(basis.coordinates)
    contrasts = np.vstack([np.eye(n_sets), difference_contrasts(pairs, n_sets)])
    errors = []
    for here in _blocks(len(responses)):
        values = unique_in_subsets(basis, responses[here], subsets)
        errors.append(np.empty((len(contrasts), values.shape[2])))
        in_threads(partial(_deviations, values, contrasts, errors[-1]), values.shape[2], _LOCATIONS_PER_THREAD)
    error = np.concatenate(errors, axis=1)
    return SubsetDeviations(error[:n_sets], error[n_sets:])


def winner_stability(
    basis: Bases,
    statistic: MakeStatistic,
    rdms: ArrayLike,
    winner: NDArray[np.int64],
    *,
    ratio: float = 0.9,
    n_subsets: int = N_SUBSETS,
    seed: int = 0,
    progress: Progress = ignore,
) -> NDArray[np.float64]:
    """Share of random subsets of the conditions in which the same model wins as with all conditions.

    A map of winners shows a narrow lead like a wide one. Here everything is fitted anew to each subset; 1 means that no
    subset changes the winner, and of two models that explain the same each wins about half of the time. Subsets of 90 %
    of the conditions differ less than new experiments would, so the share is a description of these data and no
    probability. Where models differ between people, means over people are compared.

    Parameters
    ----------
    basis : Basis, or sequence of Basis
        Of the models; of each person's own.
    statistic : callable
        What is compared, `own_adjusted_r2` or `unique_adjusted_r2`; the largest one wins.
    rdms : array_like, shape (n_locations, n_pairs) or (n_people, n_locations, n_pairs)
        Condensed brain RDMs; for models that differ, those of every person.
    winner : ndarray of int, shape (n_locations,)
        The model that wins with all conditions.
    ratio : float
        Share of the conditions in a subset.
    n_subsets : int
    seed : int
    progress : callable, optional
        Called with (locations done, locations in all).

    Returns
    -------
    ndarray of float64, shape (n_locations,)
        Over the subsets that leave every predictor something of its own to vary; NaN if there is none.

    Raises
    ------
    ValueError
        If the statistic is another one.
    """
    refits: dict[Callable, Callable] = {own_adjusted_r2: own_in_subsets, unique_adjusted_r2: unique_in_subsets}
    if (refit := refits.get(statistic)) is None:
        raise ValueError(f"`statistic` is {statistic!r}, expected own_adjusted_r2 or unique_adjusted_r2")
    bases, rdms = each_person(basis, rdms)
    responses, n, n_locations = standardise(rdms), bases[0].n_conditions, rdms.shape[1]
    subsets = condition_subsets(n, round(ratio * n), n_subsets, seed)
    subsets = subsets[np.all([_is_of_full_rank(own, subsets) for own in bases], axis=0)]
    share = np.full(n_locations, np.nan)
    for here in _blocks(n_locations):
        if len(subsets):
            values = sum(refit(own, y[here], subsets) for own, y in zip(bases, responses, strict=True))
            values = values[:, : bases[0].n_sets]
            share[here] = (values.argmax(axis=1) == winner[here]).mean(axis=0)
        progress(min(here.stop, n_locations), n_locations)
    return share


def _blocks(n_locations: int) -> Iterator[slice]:
    for start in range(0, n_locations, _LOCATIONS_PER_REFIT):
        yield slice(start, start + _LOCATIONS_PER_REFIT)


def condition_subsets(n_conditions: int, size: int, n_subsets: int, seed: int) -> NDArray[np.bool_]:
    """Random subsets of conditions without replacement.

    Parameters
    ----------
    n_conditions, size, n_subsets : int
        Each of the subsets holds `size` of the conditions.
    seed : int

    Returns
    -------
    ndarray of bool, shape (n_subsets, n_conditions)
    """
    # A stream apart from those of the permutations, [seed, number].
    order = np.random.default_rng([seed, 0, 1]).random((n_subsets, n_conditions)).argsort(axis=1)
    return order < size


def own_in_subsets(basis: Basis, rdms: NDArray[np.float64], subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Adjusted R2 of every set with those that are given, refitted on subsets.

    Parameters and value are those of `unique_in_subsets`.
    """
    # Unique variance where there are no other sets.
    spans = [basis.subset([i, *basis.given]) for i in range(basis.n_sets)]
    alone = [Basis(basis.q @ span, (np.eye(span.shape[1]),), (), pairs=basis.pairs) for span in spans]
    return np.concatenate([unique_in_subsets(own, rdms, subsets) for own in alone], axis=1)


def unique_in_subsets(basis: Basis, rdms: NDArray[np.float64], subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Unique variance of every set of predictors, refitted on subsets of the conditions.

    Parameters
    ----------
    basis : Basis
    rdms : ndarray of float64, shape (n_locations, n_pairs)
        Standardised brain RDMs.
    subsets : ndarray of bool, shape (n_subsets, n_conditions)
        From `condition_subsets`.

    Returns
    -------
    ndarray of float64, shape (n_subsets, n_sets, n_locations)

    Notes
    -----
    In terms of the orthonormal basis the normal equations are well conditioned, since a subset of 90 % of the
    conditions leaves the basis nearly orthonormal. Where a predictor is constant in a subset, or two are the same,
    there are fewer predictors to adjust for.
    """
    n_sets, n_subsets, left_out = len(basis.coordinates), len(subsets), _left_out(subsets)
    responses = np.ascontiguousarray(_whole(basis, rdms).T)
    predictors = _with_constant(basis)
    arrangements = [_Arrangement.of(basis, predictors, i) for i in range(n_sets)]
    result = np.empty((n_subsets, n_sets, len(rdms)))

    def refit(first: int, last: int) -> None:
        for start in range(first, last, _SUBSETS_PER_REFIT):
            here = slice(start, min(start + _SUBSETS_PER_REFIT, last))
            axes, starts, slopes = _axes_in_subsets(arrangements, left_out[here])
            operands = (responses, predictors, left_out[here], axes, starts, slopes, result[here])
            in_threads(partial(_unique, *operands), len(rdms), _LOCATIONS_PER_THREAD)

    # Threads share the subsets where there are many, as for ROIs, and the locations where not.
    in_threads(refit, n_subsets, _SUBSETS_PER_REFIT)
    return result


@dataclass(frozen=True)
class _Arrangement:
    """Predictors in terms of which a set adds to the others: the constant, what spans the others, what is left.

    `directions`, (n, n), are in terms of the constant and the basis; `products`, (n_pairs, n (n + 1) / 2), are those of
    all pairs of the predictors; the set adds those from number `first` on.
    """

    directions: NDArray[np.float64]
    products: NDArray[np.float64]
    first: int

    @classmethod
    def of(cls, basis: Basis, predictors: NDArray[np.float64], i: int) -> _Arrangement:
        others = basis.subset([j for j in range(len(basis.coordinates)) if j != i])
        directions = np.eye(predictors.shape[1])
        directions[1:, 1:] = np.linalg.qr(others, mode="complete")[0].T
        return cls(directions, _products(predictors @ directions.T), 1 + others.shape[1])


def _with_constant(basis: Basis) -> NDArray[np.float64]:
    """The constant and the basis, (n_pairs, 1 + rank)."""
    return np.column_stack([_whole(basis, np.ones(basis.n_pairs)), _whole(basis, basis.q.T).T])


def _whole(basis: Basis, rdms: NDArray[np.float64]) -> NDArray[np.float64]:
    """RDMs with 0 for pairs that are left out: as the constant is 0 there, too, these add nothing to any sum."""
    return rdms if basis.pairs is None else basis.pairs.filled(rdms)


def _products(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Products of all pairs of columns, row by row of their upper triangle."""
    rows, columns = np.triu_indices(vectors.shape[1])
    return vectors[:, rows] * vectors[:, columns]


def _left_out(subsets: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Conditions that each subset lacks, (n_subsets, n_left_out), in ascending order."""
    return np.flatnonzero(~subsets).reshape(len(subsets), -1) % subsets.shape[1]


def _is_of_full_rank(basis: Basis, subsets: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each subset has enough pairs to fit all predictors, and leaves each something of its own."""
    vectors = _with_constant(basis)
    n_subsets, n = len(subsets), vectors.shape[1]
    sums, found = _kept_sums(_products(vectors), _left_out(subsets)), np.empty((n_subsets, n), dtype=np.bool_)
    _orthonormal_axes(sums, np.empty((n, 0)), _SINGULAR, np.empty((n_subsets, n, 0)), found)
    return found.all(axis=1) & (sums[:, 0] - n >= 1)


def _axes_in_subsets(
    arrangements: Sequence[_Arrangement], left_out: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Arguments `axes`, `starts` and `slopes` of `_unique`."""
    axes: list[NDArray[np.float64]] = []
    ranks: list[NDArray[np.int64]] = []  # with the constant
    for arrangement in arrangements:
        products, first = _kept_sums(arrangement.products, left_out), arrangement.first
        shape = (len(left_out), *arrangement.directions.shape)
        own, found = np.empty(shape), np.empty(shape[:2], dtype=np.bool_)
        _orthonormal_axes(products, arrangement.directions, _SINGULAR, own, found)
        if not axes:
            axes.append(own[:, :first])
            ranks.append(found.sum(axis=1))
        axes.append(own[:, first:])
        ranks.append(found[:, :first].sum(axis=1))
    n_kept = products[:, :1]
    slopes = (n_kept - 1) / (n_kept - np.column_stack(ranks))
    return np.concatenate(axes, axis=1), np.cumsum([part.shape[1] for part in axes]), slopes


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _kept_sums(values: NDArray, left_out: NDArray) -> NDArray:
    """Sums of values (n_pairs, n_columns) over the pairs that are in each subset: (n_subsets, n_columns).

    The sum over all pairs, minus those of each condition left out, plus the pairs of two such conditions, which were
    taken away twice: of 50 conditions without 5, that is 16 terms instead of 990. `left_out` as from `_left_out`.
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
def _orthonormal_axes(products: NDArray, directions: NDArray, least: float, axes: NDArray, found: NDArray) -> None:
    """Orthonormalise n predictors in every subset, one after the other (Cholesky).

    `products`, (n_subsets, n (n + 1) / 2), are upper triangles, row by row, of their sums of products; `directions`,
    (n, n_coordinates), their coordinates. Fills `axes`, (n_subsets, n, n_coordinates), and `found`, (n_subsets, n):
    a predictor whose sum of squares outside the span of those before it is not above `least` adds no axis, but 0.
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
def _unique(
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
    """Fill `unique`, (n_subsets, n_sets, n_locations), for the locations from `first` to `last` - 1.

    `rdms` is (n_pairs, n_locations), `predictors` (n_pairs, n_predictors). `axes`, (n_subsets, n_axes, n_predictors),
    are orthonormal in each subset; the first is the constant, those before ``starts[1]`` span all predictors, and
    ``starts[i]`` to ``starts[i + 1] - 1`` are what set i adds to the others. `slopes`, (n_subsets, 1 + n_sets), adjust
    unexplained variance for the number of predictors: of all sets, and of all but set i.
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
        sums = _kept_sums(products.reshape(n_pairs, -1), left_out).reshape(n_subsets, n_predictors + 1, lanes)
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
def _deviations(values: NDArray, contrasts: NDArray, deviation: NDArray, first: int, last: int) -> None:
    """Fill the standard deviations over subsets of contrasts, (n_contrasts, n_sets), of `values` (see `_unique`)."""
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
