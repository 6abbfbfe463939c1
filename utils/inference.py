"""Chance levels, t-tests, corrections for many tests, standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.rdm import expand, n_conditions_of
from utils.regression import Basis, LinearStatistic, standardise

_PLACES_PER_REFIT = 500
_SUBSETS_PER_REFIT = 1000
_PLACES_PER_THREAD = 32
# A predictor with a smaller sum of squares of its own in a subset, of about 1 in all conditions, says nothing there.
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
    return np.square(expand(unit_rdms).sum(axis=-1)).sum(axis=-1) / (n - 2)


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
    from utils import compiled

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
        compiled.in_threads(
            partial(compiled.deviations, values, contrasts, deviation), values.shape[2], _PLACES_PER_THREAD
        )
        errors[:, here] = deviation
    return StandardErrors(factor * errors[:n_sets], factor * errors[n_sets:])


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
        All of the same number of conditions.

    Returns
    -------
    ndarray of float64, shape (n_subsets, n_sets, n_places)

    Notes
    -----
    A refit needs sums of products over the pairs that the subset holds; they are quickly taken from the sums over all
    pairs (`utils.compiled.kept_sums`). In terms of the orthonormal basis the normal equations are well conditioned,
    since a subset of 90 % of the conditions leaves the basis nearly orthonormal.
    """
    from utils import compiled

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
                compiled.unique_in_subsets, responses, predictors, left_out[here], axes, starts, slopes, result[here]
            )
            compiled.in_threads(places, len(rdms), _PLACES_PER_THREAD)

    # Threads share the subsets where there are many, as for ROIs, and the places where not.
    compiled.in_threads(refit, n_subsets, _SUBSETS_PER_REFIT)
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
    """Arguments `axes`, `starts` and `slopes` of `utils.compiled.unique_in_subsets`.

    In some subset a predictor may be constant, or two the same: there are fewer axes then, and fewer predictors to
    adjust for.
    """
    from utils import compiled

    axes: list[NDArray[np.float64]] = []
    ranks = []  # with the constant
    for arrangement in arrangements:
        products, first = compiled.kept_sums(arrangement.products, left_out), arrangement.first
        shape = (len(left_out), *arrangement.directions.shape)
        own, found = np.empty(shape), np.empty(shape[:2], dtype=np.bool_)
        compiled.orthonormal_axes(products, arrangement.directions, _SINGULAR, own, found)
        if not axes:
            axes.append(own[:, :first])
            ranks.append(found.sum(axis=1))
        axes.append(own[:, first:])
        ranks.append(found[:, :first].sum(axis=1))
    n_kept = products[:, :1]
    slopes = (n_kept - 1) / (n_kept - np.column_stack(ranks))
    return np.concatenate(axes, axis=1), np.cumsum([part.shape[1] for part in axes]), slopes


def largest_difference_p(
    winner: NDArray[np.int64], pairs: Sequence[tuple[int, int]], p_difference: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Largest p value, (n_places,), of the differences between each place's winner and all others."""
    involved = np.array([[w in pair for w in winner] for pair in pairs])
    return np.where(involved, p_difference, 0.0).max(axis=0)


def all_pairs(n: int) -> list[tuple[int, int]]:
    """All pairs (i, j) with i < j < n."""
    return list(combinations(range(n), 2))
