"""Regression with weights that may not be negative, exactly, for networks of a few layers.

A network whose RDM is the opposite of the brain's explains as much, by negative weights, as one that agrees with it.
With non-negative weights, least squares is the best of all subsets of the layers whose own least squares has no
negative weight, so that for a few layers all subsets are tried (docs/METHODS.md, "Non-negative weights").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import combinations

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.io.interim import identity
from utils.parallel.resources import Progress, Resources, ignore
from utils.stats.exceedances import Permutations, permute
from utils.stats.inference import chance_r2
from utils.stats.permutation import PermutationTest
from utils.stats.refits import N_SUBSETS, condition_subsets
from utils.stats.regression import Bases, Basis, LinearStatistic, linear_statistic, project, standardise

# With more layers there are too many subsets to try all in every permutation.
MOST_LAYERS = 4
# Two values closer than this are equal but for rounding.
_TIE = 1e-11
# Inner products of a subset of layers whose smallest eigenvalue is smaller than this are those of fewer layers.
_SINGULAR = 1e-9
_FOR_MOMENTS = 200
_BLOCK_BYTES = 64 * 2**20
_SUBSETS_AT_ONCE = 16
# Locations at a time, so that what a thread works on stays in the first-level cache.
_TILE = 256


def negative_share(basis: Bases, projected: NDArray[np.float64] | Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Share of the R2 of each set of predictors that is lost if no weight may be negative.

    Parameters
    ----------
    basis : Basis, or sequence of Basis
    projected : ndarray of float64, shape (rank, n_locations), or sequence of them
        From `regression.project`. Where models differ between people, one for each basis; R2 are then means over
        people.

    Returns
    -------
    ndarray of float64, shape (n_sets, n_locations)
        0 where no weight is negative; 1 where no predictor correlates positively with the brain RDM.
    """
    people = [(basis, np.asarray(projected))] if isinstance(basis, Basis) else [*zip(basis, projected, strict=True)]
    n_sets = people[0][0].n_sets
    shares = np.empty((n_sets, people[0][1].shape[1]))
    for i in range(n_sets):
        free = np.sum([np.square(own.subset([i]).T @ c).sum(axis=0) for own, c in people], axis=0)
        kept = np.sum([_nonnegative_r2(own.coordinates[i], c) for own, c in people], axis=0)
        lost = 1 - kept / np.where(free > 0, free, np.inf)
        # Rounding must not make a few weights negative where none is.
        shares[i] = np.where(lost < _TIE, 0.0, lost)
    return shares


def _nonnegative_r2(coordinates: NDArray[np.float64], projected: NDArray[np.float64]) -> NDArray[np.float64]:
    """R2 (n_locations,) of one set of predictors, (rank, n_predictors), with non-negative weights."""
    if coordinates.shape[1] <= MOST_LAYERS:
        alone = Basis(np.eye(len(coordinates)), (coordinates,), ())
        return Nonnegative(alone).r2(projected)[0][0]
    from scipy.optimize import nnls

    weights = np.stack([nnls(coordinates, response)[0] for response in projected.T], axis=1)
    fitted = coordinates @ weights
    return np.asarray((2 * fitted * projected - np.square(fitted)).sum(axis=0))


class Nonnegative:
    """R2 of every set of predictors by itself, with non-negative weights.

    R2 is adjusted by the exact chance level of the predictors whose weights are above 0, whose number is an unbiased
    estimate of the degrees of freedom of such a fit (Meyer & Woodroofe 2000, Ann Stat 28:1083).

    Parameters
    ----------
    basis : Basis
        Kept as an attribute.

    Raises
    ------
    ValueError
        If a set has more than `MOST_LAYERS` predictors.

    References
    ----------
    Lawson & Hanson 1974, Solving Least Squares Problems, ch. 23 (the conditions of the best fit); Khaligh-Razavi &
    Kriegeskorte 2014, PLOS Comput Biol 10:e1003915 (non-negative weights of layers).
    """

    def __init__(self, basis: Basis) -> None:
        sizes = [coordinates.shape[1] for coordinates in basis.coordinates]
        if max(sizes) > MOST_LAYERS:
            raise ValueError(f"non-negative weights are for up to {MOST_LAYERS} layers per network, got {max(sizes)}")
        self.basis, self.n_sets = basis, len(sizes)
        self._layers = np.hstack(basis.coordinates)
        gram = self._layers.T @ self._layers
        starts = np.cumsum([0, *sizes[:-1]])
        subsets = [
            (i, tuple(int(starts[i]) + j for j in chosen))
            for i, k in enumerate(sizes)
            for size in range(1, k + 1)
            for chosen in combinations(range(k), size)
        ]
        self._subsets = [(i, own) for i, own in subsets if np.linalg.eigvalsh(gram[np.ix_(own, own)])[0] > _SINGULAR]
        self._owner = np.array([i for i, _ in self._subsets])
        self._tables = _tables(gram, [own for _, own in self._subsets])

    @cached_property
    def _single_layers(self) -> Basis:
        return Basis(self.basis.q, tuple(self._layers.T[:, :, None]), (), pairs=self.basis.pairs)

    @cached_property
    def statistic(self) -> LinearStatistic:
        """Free regression on every subset of the layers of every set, of which one is the best."""
        return linear_statistic(self._single_layers, [[(own, 1.0)] for _, own in self._subsets])

    def r2(self, projected: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Not adjusted, for projected responses (rank, n).

        Returns
        -------
        r2 : ndarray of float64, shape (n_sets, n)
        subset : ndarray of int64, shape (n_sets, n)
            The statistic that it is one of; -1 where no predictor has a weight above 0, and R2 is 0.
        """
        correlations = np.ascontiguousarray(self._layers.T @ projected)[:, None]
        r2, subset = np.zeros((self.n_sets, 1, projected.shape[1])), np.empty((self.n_sets, 1, projected.shape[1]), int)
        slope = np.ones((len(self._owner), projected.shape[1]))
        _best_subsets(correlations, self._owner, *self._tables, slope, r2, subset)
        return r2[:, 0], subset[:, 0]

    def adjusted(self, rdms: ArrayLike) -> NDArray[np.float64]:
        """Adjusted R2 (n_sets, n_locations) of brain RDMs (n_locations, n_pairs); 0 where no weight is above 0."""
        r2, subset = self.r2(project(self.basis, rdms))
        slope = np.take_along_axis(self._slope(np.asarray(rdms)), np.maximum(subset, 0), axis=0)
        return np.where(subset < 0, 0.0, 1 - (1 - r2) * slope)

    def _slope(self, rdms: NDArray) -> NDArray[np.float64]:
        """What unexplained variance is multiplied by, (n_subsets, n_locations)."""
        return 1 / (1 - chance_r2(self._single_layers, self.statistic, rdms))

    def contrasts(self, subset: NDArray[np.int64], of_sets: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weights of `statistic` in contrasts of the sets, with the subset that is the best in each.

        Parameters
        ----------
        subset : ndarray of int, shape (n_sets, n_locations)
            From `r2`.
        of_sets : ndarray of float64, shape (n_locations, n_contrasts, n_sets)

        Returns
        -------
        ndarray of float64, shape (n_locations, n_contrasts, n_subsets)
        """
        chosen = (np.arange(len(self._owner)) == subset.T[:, :, None]).astype(np.float64)
        return of_sets @ chosen

    def test(
        self,
        rdms: ArrayLike,
        permutations: Permutations,
        *,
        studentised: bool = False,
        progress: Progress = ignore,
        resources: Resources = Resources(),
    ) -> PermutationTest:
        """Permutation test of the adjusted R2 of every set, and of the largest of them; see `permutation_test`.

        Parameters
        ----------
        rdms : array_like, shape (n_locations, n_pairs)
        permutations : Permutations
        studentised : bool
            Whether the largest values are taken in standard deviations of the null values.
        progress : callable, optional
        resources : Resources
            Of which only `interim` is used.

        Returns
        -------
        PermutationTest
            Without differences.
        """
        rdms = np.asarray(rdms)
        responses, slope = np.ascontiguousarray(standardise(rdms).T), self._slope(rdms)
        observed = self.adjusted(rdms)
        centre, scale = np.zeros_like(observed), np.ones_like(observed)
        if studentised:
            n = permutations.n
            null = np.concatenate(list(self._null(responses, slope, permutations, n, n + _FOR_MOMENTS)), axis=1)
            centre, scale = null.mean(axis=1), null.std(axis=1, ddof=1)
            scale[scale == 0] = 1.0
        threshold = (observed - centre) / scale - _TIE
        best = threshold.max(axis=0)
        tally = resources.interim.tally(
            lambda: identity(
                f"nonnegative {permutations.describe()} {studentised}",
                brain_RDMs=(rdms,),
                model_RDMs=(self.basis.q, *self.basis.coordinates),
            ),
            count=np.zeros(observed.shape, dtype=np.int64),
            best=np.zeros(len(rdms), dtype=np.int64),
            largest=np.empty(permutations.n),
            done=np.zeros(permutations.n, dtype=np.int32),
        )
        count, count_best, largest, done = (tally.arrays[name] for name in ("count", "best", "largest", "done"))
        start = int(done.sum())
        with tally:
            for null in self._null(responses, slope, permutations, start, permutations.n):
                if studentised:
                    null = (null - centre[:, None]) / scale[:, None]
                top = null.max(axis=0)
                stop = start + len(top)
                with tally.changes():
                    count += (null >= threshold[:, None]).sum(axis=1)
                    count_best += (top >= best).sum(axis=0)
                    largest[start:stop] = top.max(axis=1)
                    done[start:stop] = 1
                progress(start := stop, permutations.n)
        n = permutations.n
        at_least = n - np.searchsorted(np.sort(largest), threshold)
        p, p_max, p_best = (np.asarray((1.0 + k) / (1.0 + n)) for k in (count, at_least, count_best))
        return PermutationTest(observed, p, p_max, p_best, [], np.empty((0, len(rdms))))

    def _null(
        self, responses: NDArray, slope: NDArray, permutations: Permutations, start: int, stop: int
    ) -> Iterator[NDArray[np.float64]]:
        """Adjusted R2 (n_sets, n, n_locations) in blocks of n permutations."""
        layers = np.ascontiguousarray((self.basis.q @ self._layers).T)
        n_pairs, n_locations = responses.shape
        size = max(1, _BLOCK_BYTES // (8 * len(layers) * max(n_locations, n_pairs)))
        for first in range(start, stop, size):
            orders = permutations.indices(n_pairs, first, min(first + size, stop))
            moved = permute(layers, orders).reshape(-1, n_pairs)
            correlations = (moved @ responses).reshape(len(layers), len(orders), n_locations)
            values = np.zeros((self.n_sets, *correlations.shape[1:]))
            _best_subsets(correlations, self._owner, *self._tables, slope, values, np.empty(values.shape, np.int64))
            yield values

    def stability(self, rdms: ArrayLike, winner: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
        """Share of random subsets of 90 % of the conditions in which the winner wins; see `winner_stability`.

        Parameters
        ----------
        rdms : array_like, shape (n_locations, n_pairs)
        winner : ndarray of int, shape (n_locations,)
            Set that has to have the largest R2, adjusted for the number of weights above 0.
        seed : int

        Returns
        -------
        ndarray of float64, shape (n_locations,)
        """
        n, layers = self.basis.n_conditions, (self.basis.q @ self._layers).T
        responses = np.ascontiguousarray(standardise(np.asarray(rdms)).T)
        n_locations, n_layers = responses.shape[1], len(layers)
        squares, pairs = np.square(responses), np.array(np.triu_indices(n, k=1))
        if self.basis.pairs is not None:
            pairs = pairs[:, self.basis.pairs.kept]
        members = [own for _, own in self._subsets]
        sizes = np.array([len(own) for own in members])[:, None]
        values, won = np.empty((self.n_sets, 1, n_locations)), np.zeros(n_locations)
        subsets = condition_subsets(n, round(0.9 * n), N_SUBSETS, seed)
        for start in range(0, len(subsets), _SUBSETS_AT_ONCE):
            kept = np.asarray(subsets[start : start + _SUBSETS_AT_ONCE][:, pairs].all(axis=1), dtype=np.float64)
            n_kept = kept.sum(axis=1)
            own = kept[:, None] * (layers - (kept @ layers.T / n_kept[:, None])[:, :, None])
            own /= np.linalg.norm(own, axis=2, keepdims=True)
            products = np.concatenate([own, kept[:, None]], axis=1).reshape(-1, layers.shape[1]) @ responses
            products = products.reshape(len(kept), n_layers + 1, n_locations)
            products[:, :-1] /= np.sqrt(kept @ squares - np.square(products[:, -1]) / n_kept[:, None])[:, None]
            for vectors, correlations, size in zip(own, products, n_kept, strict=True):
                tables = _tables(vectors @ vectors.T, members)
                slope = np.repeat((size - 1) / (size - sizes - 1), n_locations, axis=1)
                _best_subsets(
                    correlations[:-1, None], self._owner, *tables, slope, values, np.empty(values.shape, np.int64)
                )
                won += values[:, 0].argmax(axis=0) == winner
        return won / len(subsets)


def _tables(gram: NDArray, subsets: Sequence[tuple[int, ...]]) -> tuple[NDArray, NDArray, NDArray]:
    """Of each subset of layers: how many, which, and the inverse of their inner products; the rest is 0."""
    sizes, most = np.array([len(own) for own in subsets]), max(map(len, subsets))
    members, inverse = np.zeros((len(subsets), most), dtype=np.int64), np.zeros((len(subsets), most, most))
    for row, own in enumerate(subsets):
        members[row, : len(own)] = own
        inverse[row, : len(own), : len(own)] = np.linalg.inv(gram[np.ix_(own, own)])
    return sizes, members, inverse


@numba.njit(cache=True, parallel=True)
def _best_subsets(
    correlations: NDArray,
    owner: NDArray,
    sizes: NDArray,
    members: NDArray,
    inverse: NDArray,
    slope: NDArray,
    value: NDArray,
    subset: NDArray,
) -> None:
    """Fill in the adjusted R2 of every set, and the subset of its layers that has it.

    `correlations` of the layers with the brain RDMs are (n_layers, n, n_locations), `slope` (n_subsets, n_locations),
    `value` and `subset` (n_sets, n, n_locations). Of the subsets without a negative weight that with the largest R2 is
    the fit with non-negative weights.
    """
    _, n, n_locations = value.shape
    for p in numba.prange(n):
        weight, r2 = np.empty(_TILE), np.empty(_TILE)
        valid, largest = np.empty(_TILE, dtype=np.bool_), np.empty(_TILE)
        for first in range(0, n_locations, _TILE):
            length = min(_TILE, n_locations - first)
            last = first + length
            for row in range(owner.size):
                i = owner[row]
                best, which = value[i, p, first:last], subset[i, p, first:last]
                if row == 0 or owner[row - 1] != i:
                    largest[:] = 0.0
                    best[:] = 0.0
                    which[:] = -1
                r2[:] = 0.0
                valid[:] = True
                for a in range(sizes[row]):
                    weight[:] = 0.0
                    for b in range(sizes[row]):
                        factor, own = inverse[row, a, b], correlations[members[row, b], p, first:last]
                        for s in range(length):
                            weight[s] += factor * own[s]
                    own = correlations[members[row, a], p, first:last]
                    for s in range(length):
                        valid[s] &= weight[s] > 0
                        r2[s] += weight[s] * own[s]
                times = slope[row, first:last]
                for s in range(length):
                    better = valid[s] and r2[s] > largest[s]
                    largest[s] = r2[s] if better else largest[s]
                    best[s] = 1 - (1 - r2[s]) * times[s] if better else best[s]
                    which[s] = row if better else which[s]
