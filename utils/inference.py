"""Chance levels, t-tests, corrections for many tests, standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.rdm import n_conditions_of
from utils.regression import Basis, LinearStatistic, adjust, standardise

_PLACES_PER_REFIT = 500
_SINGULAR = 1e-10


def chance_adjusted_r2(basis: Basis, statistic: LinearStatistic, rdms: ArrayLike) -> NDArray[np.float64]:
    """Exact mean of a statistic over all permutations of conditions.

    The pairs of n conditions split into three spaces that no permutation of conditions mixes: the constant, the n - 1
    dimensions of condition effects (how far a condition lies from all others), and the remaining n (n - 3) / 2. By
    Schur's lemma the mean of ``(q' P y)**2`` over all permutations P is the sum, over these spaces, of the squared
    length of q in it times that of y, divided by its dimension. Where model and brain RDM both have strong condition
    effects this exceeds what adjusted R2 allows for, hence adjusted R2 alone is above 0 by chance.

    Parameters
    ----------
    basis : Basis
    statistic : LinearStatistic
        Of that basis.
    rdms : array_like, shape (n_places, n_pairs)
        Condensed brain RDMs of at least 4 conditions.

    Returns
    -------
    ndarray of float64, shape (n_statistics, n_places)

    References
    ----------
    Diaconis 1988, Group Representations in Probability and Statistics, ch. 7 (the spaces); docs/METHODS.md, "Chance
    level" (the derivation).
    """
    n = n_conditions_of(basis.n_pairs)
    if n < 4:
        raise ValueError(f"the chance level needs at least 4 conditions, got {n}")
    directions = _condition_energy((basis.q @ statistic.directions).T)
    responses = _condition_energy(standardise(np.asarray(rdms)))
    mean = np.outer(directions, responses) / (n - 1) + np.outer(1 - directions, 1 - responses) / (n * (n - 3) / 2)
    return statistic.weights @ mean + statistic.offset


def _condition_energy(unit_rdms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the variance of condensed RDMs (n_rdms, n_pairs) that effects of single conditions make up."""
    n = n_conditions_of(unit_rdms.shape[-1])
    rows, columns = np.triu_indices(n, k=1)
    incidence = np.zeros((unit_rdms.shape[-1], n))
    incidence[np.arange(rows.size), rows] = incidence[np.arange(rows.size), columns] = 1.0
    return np.square(unit_rdms @ incidence).sum(axis=-1) / (n - 2)


@dataclass(frozen=True)
class TTest:
    """Outcome of `t_test`: one-sided `p` (n_statistics, n_places), two-sided `p_difference` (n_pairs, n_places)."""

    p: NDArray[np.float64]
    p_difference: NDArray[np.float64]


def t_test(
    values: NDArray[np.float64],
    pairs: Sequence[tuple[int, int]] = (),
    *,
    chance: NDArray[np.float64] | float = 0.0,
    paired: bool = True,
) -> TTest:
    """Are values above chance, and do they differ, over subjects as a random sample?

    Parameters
    ----------
    values : ndarray of float64, shape (n_statistics, n_subjects, n_places)
        Statistics of each subject's own RDMs.
    pairs : sequence of (int, int)
        Statistics to be compared with one another.
    chance : ndarray or float
        Level to test against, as `values` or a constant; see `chance_adjusted_r2`.
    paired : bool
        Compare within subjects; otherwise as independent samples, as the published code does.

    Returns
    -------
    TTest
    """
    from scipy import stats

    above = stats.ttest_1samp(values - chance, 0.0, axis=1, alternative="greater").pvalue
    excess = values - chance
    compare = stats.ttest_rel if paired else stats.ttest_ind
    differences = [compare(excess[i], excess[j], axis=0).pvalue for i, j in pairs]
    return TTest(np.asarray(above), np.array(differences).reshape(len(pairs), values.shape[2]))


def fdr(p: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
    """Benjamini-Hochberg q values over all entries, or along one axis; 1 where p is not a number.

    References
    ----------
    Benjamini & Hochberg 1995, J R Stat Soc B 57:289.
    """
    from scipy.stats import false_discovery_control

    if p.size == 0:
        return p.copy()
    q = false_discovery_control(np.nan_to_num(p, nan=1.0), axis=axis)
    return np.asarray(q).reshape(p.shape)


def published_fdr(p: NDArray[np.float64], across_places: bool) -> NDArray[np.float64]:
    """The published correction: over models within each place, then (searchlights only) over places for each model."""
    within = fdr(p, axis=0)
    return fdr(within, axis=1) if across_places else within


@dataclass(frozen=True)
class StandardErrors:
    """Standard errors of unique variances (n_sets, n_places) and of their differences (n_pairs, n_places)."""

    unique: NDArray[np.float64]
    difference: NDArray[np.float64]


def jackknife(
    basis: Basis,
    rdms: ArrayLike,
    pairs: Sequence[tuple[int, int]] = (),
    *,
    ratio: float = 0.9,
    n_subsets: int = 10_000,
    seed: int = 0,
    scaled: bool = True,
) -> StandardErrors:
    """Standard errors of unique variance and its differences, from refitting on random subsets of the conditions.

    Delete-d jackknife: the standard deviation over subsets of m of n conditions, times ``sqrt(m / (n - m))``, because
    subsets of 90 % of the conditions differ far less among themselves than new experiments would.

    Parameters
    ----------
    basis : Basis
    rdms : array_like, shape (n_places, n_pairs)
    pairs : sequence of (int, int)
        Sets whose unique variances are compared.
    ratio : float
        Share of the conditions in a subset.
    n_subsets : int
    seed : int
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
    n = n_conditions_of(basis.n_pairs)
    m = round(ratio * n)
    subsets = condition_subsets(n, m, n_subsets, seed)
    factor = np.sqrt(m / (n - m)) if scaled else 1.0
    unique = np.empty((len(basis.coordinates), len(responses)))
    difference = np.empty((len(pairs), len(responses)))
    for start in range(0, len(responses), _PLACES_PER_REFIT):
        here = slice(start, start + _PLACES_PER_REFIT)
        values = unique_in_subsets(basis, responses[here], subsets)
        unique[:, here] = factor * values.std(axis=0, ddof=1)
        for row, (i, j) in enumerate(pairs):
            difference[row, here] = factor * (values[:, i] - values[:, j]).std(axis=0, ddof=1)
    return StandardErrors(unique, difference)


def difference_p(
    difference: NDArray[np.float64], standard_error: NDArray[np.float64], n_conditions: int
) -> NDArray[np.float64]:
    """Two-sided p value of a difference between two unique variances, by its jackknife standard error.

    The permutation of conditions asks whether two sets differ more than two that explain nothing. Two sets that explain
    the same, but something, differ by more than that from sample to sample: their difference has to be held against its
    own standard error (t distribution with n_conditions - 1 degrees of freedom). docs/METHODS.md, "Differences".
    """
    from scipy.stats import t

    ratio = np.divide(np.abs(difference), standard_error, out=np.zeros_like(difference), where=standard_error > 0)
    return np.asarray(2 * t.sf(ratio, n_conditions - 1))


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

    Returns
    -------
    ndarray of float64, shape (n_subsets, n_sets, n_places)

    Notes
    -----
    The sums of squares and products that a subset needs are linear in which pairs it holds, so all of them come from
    one matrix product. In terms of the orthonormal basis the normal equations are well conditioned, since a subset of
    90 % of the conditions leaves the basis nearly orthonormal.
    """
    n_sets = len(basis.coordinates)
    rows, columns = np.triu_indices(subsets.shape[1], k=1)
    rank, n_places = basis.q.shape[1], len(rdms)
    data = np.hstack([basis.q, rdms.T])
    left, right = np.triu_indices(rank)
    products = np.hstack(
        [np.ones((len(data), 1)), data, basis.q[:, left] * basis.q[:, right], rdms.T**2]
        + [basis.q[:, [k]] * rdms.T for k in range(rank)]
    )
    everything = tuple(range(n_sets))
    families = [everything] + [tuple(j for j in everything if j != i) for i in everything]
    coordinates = [basis.subset(family) for family in families]
    result = np.empty((len(subsets), n_sets, n_places))
    for start in range(0, len(subsets), 1000):
        chosen = subsets[start : start + 1000]
        sums = (chosen[:, rows] & chosen[:, columns]).astype(np.float64) @ products
        n_kept, totals, upper, square, cross = np.split(
            sums, np.cumsum([1, rank + n_places, left.size, n_places]), axis=1
        )
        gram = np.empty((len(chosen), rank, rank))
        gram[:, left, right] = gram[:, right, left] = upper
        sum_q, sum_y = totals[:, :rank], totals[:, rank:]
        gram -= sum_q[:, :, None] * sum_q[:, None, :] / n_kept[:, :, None]
        cross = cross.reshape(-1, rank, n_places) - sum_q[:, :, None] * sum_y[:, None, :] / n_kept[:, :, None]
        square = square - sum_y**2 / n_kept
        r2 = [_adjusted_from_moments(b, gram, cross, square, n_kept) for b in coordinates]
        for i in everything:
            result[start : start + 1000, i] = r2[0] - r2[1 + i]
    return result


def _adjusted_from_moments(
    directions: NDArray, gram: NDArray, cross: NDArray, square: NDArray, n_kept: NDArray
) -> NDArray[np.float64]:
    """Adjusted R2, (n_subsets, n_places), of the predictors `directions`, from centred moments of each subset."""
    if directions.shape[1] == 0:
        return np.zeros_like(square)
    inner = directions.T @ cross
    square_sums = directions.T @ gram @ directions
    fitted, rank = np.empty_like(inner), np.full((len(inner), 1), directions.shape[1])
    # In some subset a predictor may be constant, or two the same: there, only the rank that is left is fitted.
    singular = np.linalg.det(square_sums) < _SINGULAR
    fitted[~singular] = np.linalg.solve(square_sums[~singular], inner[~singular])
    if singular.any():
        length, axes = np.linalg.eigh(square_sums[singular])
        inverse = np.divide(1.0, length, out=np.zeros_like(length), where=length > _SINGULAR)
        fitted[singular] = axes @ (inverse[:, :, None] * (axes.swapaxes(1, 2) @ inner[singular]))
        rank[singular, 0] = (inverse > 0).sum(axis=1)
    r2 = np.einsum("bkp,bkp->bp", inner, fitted) / square
    return adjust(r2, n_kept, rank)


def largest_difference_p(
    winner: NDArray[np.int64], pairs: Sequence[tuple[int, int]], p_difference: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Largest p value, (n_places,), of the differences between each place's winner and all others."""
    involved = np.array([[w in pair for w in winner] for pair in pairs])
    return np.where(involved, p_difference, 0.0).max(axis=0)


def all_pairs(n: int) -> list[tuple[int, int]]:
    """All pairs (i, j) with i < j < n."""
    return list(combinations(range(n), 2))
