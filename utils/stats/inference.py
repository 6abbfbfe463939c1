"""Chance levels, t-tests, corrections for many tests, and tests of differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.rdm import expand, n_conditions_of
from utils.stats.regression import Basis, LinearStatistic, standardise


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
    rdms : array_like, shape (n_locations, n_pairs)
        Condensed brain RDMs of at least 4 conditions.

    Returns
    -------
    ndarray of float64, shape (n_statistics, n_locations)

    Raises
    ------
    ValueError
        If there are fewer than 4 conditions, or a brain RDM is constant.

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
    return np.square(expand(unit_rdms).sum(axis=-1)).sum(axis=-1) / (n - 2)


@dataclass(frozen=True)
class TTest:
    """Outcome of `t_test`.

    Attributes
    ----------
    p : ndarray of float64, shape (n_statistics, n_locations)
        One-sided.
    p_difference : ndarray of float64, shape (n_pairs, n_locations)
        Two-sided.
    """

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
    values : ndarray of float64, shape (n_statistics, n_subjects, n_locations)
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

    excess = values - chance
    above = stats.ttest_1samp(excess, 0.0, axis=1, alternative="greater").pvalue
    compare = stats.ttest_rel if paired else stats.ttest_ind
    differences = [compare(excess[i], excess[j], axis=0).pvalue for i, j in pairs]
    return TTest(np.asarray(above), np.array(differences).reshape(len(pairs), values.shape[2]))


def fdr(p: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
    """Benjamini-Hochberg q values.

    Parameters
    ----------
    p : ndarray of float64
    axis : int, optional
        Correct along this axis only, not over all entries.

    Returns
    -------
    ndarray of float64
        Same shape; NaN counts as 1.

    References
    ----------
    Benjamini & Hochberg 1995, J R Stat Soc B 57:289.
    """
    from scipy.stats import false_discovery_control

    if p.size == 0:
        return p.copy()
    q = false_discovery_control(np.nan_to_num(p, nan=1.0), axis=axis)
    return np.asarray(q).reshape(p.shape)


def published_fdr(p: NDArray[np.float64], across_locations: bool) -> NDArray[np.float64]:
    """The published correction: over models within each location, then perhaps over locations for each model.

    Parameters
    ----------
    p : ndarray of float64, shape (n_models, n_locations)
    across_locations : bool
        Whether to correct over locations, too, as published for searchlights.

    Returns
    -------
    ndarray of float64, shape (n_models, n_locations)
    """
    within = fdr(p, axis=0)
    return fdr(within, axis=1) if across_locations else within


def difference_p(
    difference: NDArray[np.float64], standard_error: NDArray[np.float64], n_conditions: int
) -> NDArray[np.float64]:
    """Two-sided p value of a difference between two unique variances, by its jackknife standard error.

    The permutation of conditions asks whether two sets differ more than two that explain nothing. Two sets that explain
    the same, but something, differ by more than that from sample to sample: their difference has to be held against its
    own standard error (t distribution with n_conditions - 1 degrees of freedom). docs/METHODS.md, "Differences".

    Parameters
    ----------
    difference, standard_error : ndarray of float64, of the same shape
    n_conditions : int

    Returns
    -------
    ndarray of float64
        Same shape; 1 where the standard error is 0.
    """
    from scipy.stats import t

    ratio = np.divide(np.abs(difference), standard_error, out=np.zeros_like(difference), where=standard_error > 0)
    return np.asarray(2 * t.sf(ratio, n_conditions - 1))


def largest_difference_p(
    winner: NDArray[np.int64], pairs: Sequence[tuple[int, int]], p_difference: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Largest p value of the differences between each location's winner and all others.

    Parameters
    ----------
    winner : ndarray of int, shape (n_locations,)
    pairs : sequence of (int, int)
        All pairs of statistics.
    p_difference : ndarray of float64, shape (n_pairs, n_locations)

    Returns
    -------
    ndarray of float64, shape (n_locations,)
    """
    involved = np.array([[w in pair for w in winner] for pair in pairs])
    return np.where(involved, p_difference, 0.0).max(axis=0)


def all_pairs(n: int) -> list[tuple[int, int]]:
    """All pairs (i, j) with i < j < n."""
    return list(combinations(range(n), 2))


def difference_contrasts(pairs: Sequence[tuple[int, int]], n: int) -> NDArray[np.float64]:
    """Matrix that turns n values into their differences.

    Parameters
    ----------
    pairs : sequence of (int, int)
    n : int

    Returns
    -------
    ndarray of float64, shape (n_pairs, n)
        1 for the first of a pair, -1 for the second.
    """
    first, second = np.array(pairs, dtype=int).reshape(-1, 2).T
    return np.eye(n)[first] - np.eye(n)[second]
