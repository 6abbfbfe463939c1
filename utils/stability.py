"""How close the race was: in how many samples of the conditions the same model wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from utils.inference import condition_subsets
from utils.products import Product, fastest_product
from utils.rdm import n_conditions_of
from utils.regression import Basis, LinearStatistic, orthonormal_basis, standardise

# Subsets of the conditions that winners are compared on.
N_SUBSETS = 1000
_PLACES_PER_PRODUCT = 5000
_SUBSETS_PER_PRODUCT = 16
# Predictors with less of their own on a subset, of 1 on all conditions, cannot be told apart there.
_SINGULAR = 1e-5


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
    from utils.compiled import kept_sums

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
        if n_pairs - rank < 2 or np.diag(lower).min() < _SINGULAR:
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
        self._product: Product | None = None
        self.wins = np.zeros(len(winner), dtype=np.int64)
        self.n = 0

    def run(self, fits: Sequence[_Fit]) -> None:
        import torch

        if not fits:
            return
        self.n += len(fits)
        stacked = torch.from_numpy(np.concatenate([self._axes * fit.pairs for fit in fits]))
        held = stacked[len(self._axes) - 1 :: len(self._axes)].contiguous()
        self._product = self._product or fastest_product(stacked, self._brains[0])
        for places, brain in zip(self._places, self._brains, strict=True):
            sums = self._product(stacked, brain).numpy().reshape(len(fits), len(self._axes), -1)
            squares = self._product(held, brain.square()).numpy()
            for fit, mine, square in zip(fits, sums, squares, strict=True):
                best = fit.values(np.vstack([mine, square])).argmax(axis=0)
                self.wins[places] += best == self._winner[places]
