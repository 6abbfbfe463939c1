"""Regressions refitted to subsets of the conditions: standard errors, and how often the same model wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from utils.parallel.threads import in_threads
from utils.rdm import n_conditions_of
from utils.stats.matmul import Matmul, fastest_matmul
from utils.stats.regression import Basis, LinearStatistic, orthonormal_basis, standardise

_PLACES_PER_THREAD = 32

# A predictor with a smaller sum of squares of its own in a subset, of about 1 in all conditions, says nothing there.
_SINGULAR = 1e-10
# Places that are refitted together: their sums over a subset fill whole vector registers, their products a cache.
_LANES, _LANE_BYTES = 32, 4 * 2**20


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
def _unique_in_subsets(
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


_PLACES_PER_REFIT = 500
_SUBSETS_PER_REFIT = 1000


@dataclass(frozen=True)
class StandardErrors:
    """Standard errors of unique variances (n_sets, n_places) and of their differences (n_pairs, n_places)."""

    unique: NDArray[np.float64]
    difference: NDArray[np.float64]


def jackknife(
    basis: Basis,
    rdms: ArrayLike,
    subsets: NDArray[np.bool_],
    pairs: Sequence[tuple[int, int]] = (),
    *,
    scaled: bool = True,
) -> StandardErrors:
    """Standard errors of unique variance and its differences, from refitting on random subsets of the conditions.

    Delete-d jackknife: the standard deviation over subsets of m of n conditions, times ``sqrt(m / (n - m))``, because
    subsets of 90 % of the conditions differ far less among themselves than new experiments would.

    Parameters
    ----------
    basis : Basis
    rdms : array_like, shape (n_places, n_pairs)
    subsets : ndarray of bool, shape (n_subsets, n_conditions)
        From `condition_subsets`.
    pairs : sequence of (int, int)
        Sets whose unique variances are compared.
    scaled : bool
        False leaves the factor out, as the published code does.

    Returns
    -------
    StandardErrors

    References
    ----------
    Shao & Wu 1989, Ann Stat 17:1176.
    """
    responses = standardise(np.asarray(rdms))
    n_sets, n_places = len(basis.coordinates), len(responses)
    kept = subsets[0].sum()
    factor = np.sqrt(kept / (subsets.shape[1] - kept)) if scaled else 1.0
    contrasts = np.vstack([np.eye(n_sets), np.zeros((len(pairs), n_sets))])
    for row, (i, j) in enumerate(pairs, start=n_sets):
        contrasts[row, i], contrasts[row, j] = 1.0, -1.0
    errors = np.empty((len(contrasts), n_places))
    for start in range(0, n_places, _PLACES_PER_REFIT):
        here = slice(start, start + _PLACES_PER_REFIT)
        values = unique_in_subsets(basis, responses[here], subsets)
        deviation = np.empty((len(contrasts), values.shape[2]))
        in_threads(partial(deviations, values, contrasts, deviation), values.shape[2], _PLACES_PER_THREAD)
        errors[:, here] = deviation
    return StandardErrors(factor * errors[:n_sets], factor * errors[n_sets:])


def condition_subsets(n_conditions: int, size: int, n_subsets: int, seed: int) -> NDArray[np.bool_]:
    """Random subsets of conditions without replacement, (n_subsets, n_conditions) of bool."""
    # A stream apart from those of the permutations, [seed, number].
    order = np.random.default_rng([seed, 0, 1]).random((n_subsets, n_conditions)).argsort(axis=1)
    return order < size


def unique_in_subsets(basis: Basis, rdms: NDArray[np.float64], subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Unique variance of every set of predictors, refitted on subsets of the conditions.

    Parameters
    ----------
    basis : Basis
    rdms : ndarray of float64, shape (n_places, n_pairs)
    subsets : ndarray of bool, shape (n_subsets, n_conditions)
        All of the same number of conditions.

    Returns
    -------
    ndarray of float64, shape (n_subsets, n_sets, n_places)

    Notes
    -----
    A refit needs sums of products over the pairs that the subset holds; they are quickly taken from the sums over all
    pairs (`kept_sums`). In terms of the orthonormal basis the normal equations are well conditioned,
    since a subset of 90 % of the conditions leaves the basis nearly orthonormal.
    """
    n_sets, (n_subsets, n) = len(basis.coordinates), subsets.shape
    left_out = np.flatnonzero(~subsets).reshape(n_subsets, -1) % n
    responses = np.ascontiguousarray(rdms.T)
    predictors = np.column_stack([np.ones(basis.n_pairs), basis.q])
    arrangements = [_Arrangement.of(basis, predictors, i) for i in range(n_sets)]
    result = np.empty((n_subsets, n_sets, len(rdms)))

    def refit(first: int, last: int) -> None:
        for start in range(first, last, _SUBSETS_PER_REFIT):
            here = slice(start, min(start + _SUBSETS_PER_REFIT, last))
            axes, starts, slopes = _axes_in_subsets(arrangements, left_out[here])
            places = partial(
                _unique_in_subsets, responses, predictors, left_out[here], axes, starts, slopes, result[here]
            )
            in_threads(places, len(rdms), _PLACES_PER_THREAD)

    # Threads share the subsets where there are many, as for ROIs, and the places where not.
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
        ordered = predictors @ directions.T
        rows, columns = np.triu_indices(len(directions))
        return cls(directions, ordered[:, rows] * ordered[:, columns], 1 + others.shape[1])


def _axes_in_subsets(
    arrangements: Sequence[_Arrangement], left_out: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Arguments `axes`, `starts` and `slopes` of `_unique_in_subsets`.

    In some subset a predictor may be constant, or two the same: there are fewer axes then, and fewer predictors to
    adjust for.
    """
    axes: list[NDArray[np.float64]] = []
    ranks = []  # with the constant
    for arrangement in arrangements:
        products, first = kept_sums(arrangement.products, left_out), arrangement.first
        shape = (len(left_out), *arrangement.directions.shape)
        own, found = np.empty(shape), np.empty(shape[:2], dtype=np.bool_)
        orthonormal_axes(products, arrangement.directions, _SINGULAR, own, found)
        if not axes:
            axes.append(own[:, :first])
            ranks.append(found.sum(axis=1))
        axes.append(own[:, first:])
        ranks.append(found[:, :first].sum(axis=1))
    n_kept = products[:, :1]
    slopes = (n_kept - 1) / (n_kept - np.column_stack(ranks))
    return np.concatenate(axes, axis=1), np.cumsum([part.shape[1] for part in axes]), slopes


# Subsets of the conditions that winners are compared on.
N_SUBSETS = 1000
_PLACES_PER_PRODUCT = 5000
_SUBSETS_PER_PRODUCT = 16
# Predictors with less of their own on a subset, of 1 on all conditions, cannot be told apart there.
_SINGULAR_AXIS = 1e-5


def winner_stability(
    models: ArrayLike,
    statistic: Callable[[Basis], LinearStatistic],
    rdms: ArrayLike,
    *,
    ratio: float = 0.9,
    n_subsets: int = N_SUBSETS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Share of random subsets of the conditions in which the same model wins as with all conditions.

    A map of winners shows a narrow lead like a wide one. Here everything is fitted anew to each subset; 1 means that no
    subset changes the winner, and of two models that explain the same each wins about half of the time. Subsets of 90 %
    of the conditions differ less than new experiments would, so the share is a description of these data and no
    probability.

    Parameters
    ----------
    models : array_like, shape (n_models, n_layers, n_pairs)
        Condensed model RDMs.
    statistic : callable
        What is compared, such as `own_adjusted_r2` or `unique_adjusted_r2`; the largest one wins.
    rdms : array_like, shape (n_places, n_pairs)
        Condensed brain RDMs.
    ratio : float
        Share of the conditions in a subset.
    n_subsets : int
    seed : int
    progress : callable, optional
        Called with (subsets done, subsets in all).

    Returns
    -------
    ndarray of float64, shape (n_places,)
        NaN if no subset leaves every predictor something to vary.
    """
    models, responses = np.asarray(models, dtype=np.float64), standardise(np.asarray(rdms))
    n = n_conditions_of(models.shape[-1])
    subsets = condition_subsets(n, round(ratio * n), n_subsets, seed)
    basis = orthonormal_basis(list(models))
    race = _Race(basis, responses, statistic(basis)(basis.q.T @ responses.T).argmax(axis=0))
    # Numpy's products here are too small to share; the large one is torch's.
    with threadpool_limits(1, user_api="blas"):
        for start in range(0, n_subsets, _SUBSETS_PER_PRODUCT):
            race.run(_fits(basis, statistic, subsets[start : start + _SUBSETS_PER_PRODUCT]))
            if progress is not None:
                progress(min(start + _SUBSETS_PER_PRODUCT, n_subsets), n_subsets)
    return race.wins / race.n if race.n else np.full(len(responses), np.nan)


@dataclass(frozen=True)
class _Fit:
    """A statistic, fitted to a subset of the conditions.

    Attributes
    ----------
    pairs : ndarray of bool, shape (n_pairs,)
        Which pairs the subset holds.
    mean : ndarray of float32, shape (rank, 1)
        Mean of each axis of the basis over them.
    turn : ndarray of float32, shape (n_directions, rank)
        What products of the axes with RDMs, over these pairs, are to be multiplied with to become projections on
        directions that are orthonormal on the subset.
    weights, offset : ndarray of float32
        Of the `LinearStatistic`.
    """

    pairs: NDArray[np.bool_]
    mean: NDArray[np.float32]
    turn: NDArray[np.float32]
    weights: NDArray[np.float32]
    offset: NDArray[np.float32]

    def values(self, sums: NDArray[np.float32]) -> NDArray[np.float32]:
        """The statistic, (n_models, n_places), from sums over the subset.

        `sums`, (rank + 2, n_places), are of the products of axes and RDMs, of RDMs, and of squared RDMs.
        """
        products, total, squares = sums[:-2], sums[-2], sums[-1]
        variation = squares - total**2 / self.pairs.sum()
        along = self.turn @ (products - self.mean * total)
        return self.weights @ np.square(along) / np.maximum(variation, np.finfo(np.float32).tiny) + self.offset


def _fits(basis: Basis, statistic: Callable[[Basis], LinearStatistic], subsets: NDArray[np.bool_]) -> list[_Fit]:
    """Fits to all subsets (n_subsets, n_conditions) but those where predictors depend on one another.

    With the products G of the axes on a subset, centred, and G = L L', the axes ``L^-1 q`` are orthonormal there, and
    predictors have the coordinates ``L' B`` in place of B.
    """

    rank = basis.q.shape[1]
    left_out = np.stack([np.flatnonzero(~kept) for kept in subsets])
    upper = np.triu_indices(rank)
    sums = kept_sums(np.hstack([basis.q, basis.q[:, upper[0]] * basis.q[:, upper[1]]]), left_out)
    first, second = np.triu_indices(subsets.shape[1], k=1)
    fits = []
    for kept, row in zip(subsets, sums, strict=True):
        pairs = kept[first] & kept[second]
        n_pairs = int(pairs.sum())
        mean = row[:rank] / n_pairs
        gram = np.empty((rank, rank))
        gram[upper] = gram[upper[::-1]] = row[rank:]
        gram -= n_pairs * np.outer(mean, mean)
        try:
            lower = np.linalg.cholesky(gram)
        except np.linalg.LinAlgError:
            continue
        if n_pairs - rank < 2 or np.diag(lower).min() < _SINGULAR_AXIS:
            continue
        # Of its axes, only the number of pairs matters to a statistic.
        there = Basis(np.broadcast_to(0.0, (n_pairs, rank)), tuple(lower.T @ b for b in basis.coordinates), ())
        linear = statistic(there)
        turn = np.linalg.solve(lower.T, linear.directions).T
        single = (array.astype(np.float32) for array in (mean[:, None], turn, linear.weights, linear.offset))
        fits.append(_Fit(pairs, *single))
    return fits


class _Race:
    """Counts in how many fits the winner of each place wins. In float32: a tie of two models is one either way."""

    def __init__(self, basis: Basis, responses: NDArray[np.float64], winner: NDArray[np.int64]) -> None:
        import torch

        parts = np.array_split(np.arange(len(responses)), -(-len(responses) // _PLACES_PER_PRODUCT))
        self._places = [slice(part[0], part[-1] + 1) for part in parts]
        self._brains = [torch.from_numpy(responses[places].astype(np.float32)) for places in self._places]
        self._axes = np.vstack([basis.q.T, np.ones(len(basis.q))]).astype(np.float32)
        self._winner = winner
        self._product: Matmul | None = None
        self.wins = np.zeros(len(winner), dtype=np.int64)
        self.n = 0

    def run(self, fits: Sequence[_Fit]) -> None:
        import torch

        if not fits:
            return
        self.n += len(fits)
        stacked = torch.from_numpy(np.concatenate([self._axes * fit.pairs for fit in fits]))
        held = stacked[len(self._axes) - 1 :: len(self._axes)].contiguous()
        self._product = self._product or fastest_matmul(stacked, self._brains[0])
        for places, brain in zip(self._places, self._brains, strict=True):
            sums = self._product(stacked, brain).numpy().reshape(len(fits), len(self._axes), -1)
            squares = self._product(held, brain.square()).numpy()
            for fit, mine, square in zip(fits, sums, squares, strict=True):
                best = fit.values(np.vstack([mine, square])).argmax(axis=0)
                self.wins[places] += best == self._winner[places]
