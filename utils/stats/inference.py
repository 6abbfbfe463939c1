"""Chance levels, t-tests, corrections for many tests, and tests of differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.rdm import Pairs, expand, n_conditions_of, n_pairs_of
from utils.stats.comparison import metric
from utils.stats.regression import Basis, LinearStatistic, standardise

# Square RDMs that are held at once; differences whose influences are given signs at once.
_SQUARE_BYTES, _FLIPPED_AT_ONCE = 4 * 2**20, 2000


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
    dimensions, directions = _energy_of_directions(basis, statistic)
    responses = energy_of(standardise(np.asarray(rdms)), basis.pairs)
    mean = mean_r2(dimensions, np.ones(len(directions)), directions, responses[:, None]).T
    return statistic.weights @ mean + statistic.offset


def chance_r2(basis: Basis, statistic: LinearStatistic, rdms: ArrayLike) -> NDArray[np.float64]:
    """Exact mean, over all permutations of conditions, of the R2 of every subset of the predictors.

    Parameters, exceptions: as for `chance_adjusted_r2`.

    Returns
    -------
    ndarray of float64, shape (n_subsets, n_locations)
    """
    return _chance_r2(basis, statistic, energy_of(standardise(np.asarray(rdms)), basis.pairs))


def _chance_r2(basis: Basis, statistic: LinearStatistic, energy: NDArray[np.float64]) -> NDArray[np.float64]:
    """`chance_r2` from the condition energies of the brain RDMs, (n_locations,)."""
    dimensions, directions = _energy_of_directions(basis, statistic)
    return mean_r2(
        dimensions, np.array(statistic.sizes), np.add.reduceat(directions, statistic.starts), energy[:, None]
    ).T


def _energy_of_directions(basis: Basis, statistic: LinearStatistic) -> tuple[Dimensions, NDArray[np.float64]]:
    """Dimensions of the spaces, which must suffice for a chance level, and condition energy of each direction."""
    if basis.n_conditions < 4:
        raise ValueError(f"the chance level needs at least 4 conditions, got {basis.n_conditions}")
    energy = energy_of((basis.q @ statistic.directions).T, basis.pairs)
    return dimensions_of(basis.n_conditions, basis.pairs), energy


def above_chance(basis: Basis, statistic: LinearStatistic, rdms: ArrayLike) -> NDArray[np.float64]:
    """A statistic with every R2 adjusted by what it is by chance: ``1 - (1 - R2) / (1 - chance R2)``.

    Where nothing is related its mean over permutations is 0, whatever the number of predictors, so that neither
    networks with many layers nor large groups are favoured.

    Parameters
    ----------
    basis : Basis
    statistic : LinearStatistic
        Of that basis; only its subsets and their weights are used, not its own adjustment.
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
    Peres-Neto et al. 2006, Ecology 87:2614 (there with simulated permutations).
    """
    units = standardise(np.asarray(rdms))
    return above_chance_of(basis, statistic, basis.q.T @ units.T, energy_of(units, basis.pairs))


def above_chance_of(
    basis: Basis, statistic: LinearStatistic, projected: NDArray[np.float64], energy: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`above_chance` from what any number of statistics need of the brain RDMs.

    Parameters
    ----------
    basis, statistic
        As for `above_chance`.
    projected : ndarray of float64, shape (rank, n_locations)
        From `regression.project`.
    energy : ndarray of float64, shape (n_locations,)
        `energy_of` the standardised RDMs.

    Returns
    -------
    ndarray of float64, shape (n_statistics, n_locations)
    """
    r2 = statistic.r2(projected)
    return statistic.subset_weights @ (1 - (1 - r2) / (1 - _chance_r2(basis, statistic, energy)))


# Of the space of condition effects, and of that of what is left of centred RDMs.
Dimensions = tuple[Any, Any]


def dimensions_of(n: int, pairs: Pairs | None = None) -> Dimensions:
    """Dimensions of the two spaces that a permutation of n conditions does not mix; see `chance_adjusted_r2`."""
    n_effects, n_pairs = (n, n_pairs_of(n)) if pairs is None else (metric(pairs, "plain").n_effects, pairs.n_kept)
    return n_effects - 1, n_pairs - n_effects


def mean_r2(dimensions: Dimensions, rank: NDArray, energy: NDArray, energy_of_rdms: NDArray) -> NDArray[np.float64]:
    """Mean R2 of some directions over all permutations of conditions.

    Where pairs are left out, it is what it would be if all directions within each of the two spaces were equally likely
    (docs/METHODS.md, "Pairs left out").

    Parameters
    ----------
    dimensions : (int, int), or arrays
        From `dimensions_of`.
    rank, energy : ndarray
        Number of orthonormal directions, and the sum of their condition energies.
    energy_of_rdms : ndarray
        Condition energy of the brain RDMs; broadcasts against the others.

    Returns
    -------
    ndarray of float64
    """
    of_effects, of_others = dimensions
    return energy * energy_of_rdms / of_effects + (rank - energy) * (1 - energy_of_rdms) / of_others


def energy_of(unit_rdms: NDArray[np.float64], pairs: Pairs | None = None) -> NDArray[np.float64]:
    """Share of the variance of condensed RDMs (n_rdms, n_pairs) of unit length that condition effects make up."""
    if pairs is not None:
        sums = pairs.sums(unit_rdms)
        return np.asarray(((sums @ metric(pairs, "plain").effects) * sums).sum(axis=-1))
    n = n_conditions_of(unit_rdms.shape[-1])
    # Squares of all RDMs at once would take twice the memory of the RDMs.
    step = max(1, _SQUARE_BYTES // (8 * n * n))
    blocks = [expand(unit_rdms[start : start + step]).sum(axis=-1) for start in range(0, max(1, len(unit_rdms)), step)]
    return np.square(np.concatenate(blocks)).sum(axis=-1) / (n - 2)


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
) -> TTest:
    """Are values above chance, and do they differ, over subjects as a random sample?

    Parameters
    ----------
    values : ndarray of float64, shape (n_statistics, n_subjects, n_locations)
        Statistics of each subject's own RDMs.
    pairs : sequence of (int, int)
        Statistics to be compared with one another, as independent samples, as the published code does.
    chance : ndarray or float
        Level to test against, as `values` or a constant; see `chance_adjusted_r2`.

    Returns
    -------
    TTest
    """
    from scipy import stats

    excess = values - chance
    above = stats.ttest_1samp(excess, 0.0, axis=1, alternative="greater").pvalue
    differences = [stats.ttest_ind(excess[i], excess[j], axis=0).pvalue for i, j in pairs]
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
    difference: NDArray[np.float64], standard_error: NDArray[np.float64], degrees_of_freedom: int
) -> NDArray[np.float64]:
    """Two-sided p value of a difference by its standard error (t distribution).

    Permutations of conditions ask whether two sets differ more than two that explain nothing. Two sets that explain the
    same, but something, differ by more than that from sample to sample: their difference has to be held against its own
    standard error. docs/METHODS.md, "Leads".

    Parameters
    ----------
    difference, standard_error : ndarray of float64, of the same shape
    degrees_of_freedom : int

    Returns
    -------
    ndarray of float64
        Same shape; 1 where the standard error is 0.
    """
    from scipy.stats import t

    ratio = np.divide(np.abs(difference), standard_error, out=np.zeros_like(difference), where=standard_error > 0)
    return np.asarray(2 * t.sf(ratio, degrees_of_freedom))


def sign_flip_p(p: NDArray[np.float64], influence: NDArray[np.float64], n_flips: int, seed: int) -> NDArray[np.float64]:
    """p values of differences, corrected for all of them by the maximum over random signs of the images' influences.

    The influences of the images on all differences at all locations keep their dependence, since every image gets one
    sign for all of them. A p value is compared with the largest deviation through the normal distribution.

    Parameters
    ----------
    p : ndarray of float64, shape (n_differences, n_locations)
        Two-sided p values.
    influence : ndarray of float64, shape (n_differences, n_locations, n_conditions)
        From `Jackknife`.
    n_flips : int
    seed : int

    Returns
    -------
    ndarray of float64, shape (n_differences, n_locations)
        ``(1 + #{largest >= observed}) / (1 + n_flips)``.

    References
    ----------
    Winkler et al. 2014, NeuroImage 92:381 (sign flipping); Nichols & Holmes 2002, Hum Brain Mapp 15:1 (the maximum).
    """
    from scipy.stats import norm

    flat = influence.reshape(-1, influence.shape[-1])
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    units = np.divide(flat, length, out=np.zeros_like(flat), where=length > 0)
    signs = np.random.default_rng([seed, 0, 2]).choice([-1.0, 1.0], (n_flips, flat.shape[1]))
    largest = np.zeros(n_flips)
    for start in range(0, len(units), _FLIPPED_AT_ONCE):
        largest = np.maximum(largest, np.abs(signs @ units[start : start + _FLIPPED_AT_ONCE].T).max(axis=1))
    observed = norm.isf(np.clip(p, 1e-300, 1) / 2)
    return (1.0 + n_flips - np.searchsorted(np.sort(largest), observed)) / (1.0 + n_flips)


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
