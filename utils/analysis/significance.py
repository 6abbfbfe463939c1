"""From p values to what a figure calls significant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.analysis.settings import Settings
from utils.parallel.resources import Resources
from utils.rdm import n_conditions_of
from utils.stats.inference import chance_adjusted_r2, difference_p, fdr, largest_difference_p, published_fdr, t_test
from utils.stats.permutation import Permutations, Statistic, permutation_test
from utils.stats.regression import Basis, LinearStatistic, project


@dataclass(frozen=True)
class Significance:
    """p values of statistics and of differences between them, and q values: p corrected for multiple tests.

    Attributes
    ----------
    p, q : ndarray of float64, shape (n_statistics, n_locations)
    p_best, q_best : ndarray of float64, shape (n_locations,)
        Of the largest statistic of each searchlight or ROI, given that it was chosen for being the largest.
    pairs : list of (int, int)
        Statistics that were compared with each other.
    p_difference, q_difference : ndarray of float64, shape (n_pairs, n_locations)
    """

    p: NDArray[np.float64]
    q: NDArray[np.float64]
    p_best: NDArray[np.float64]
    q_best: NDArray[np.float64]
    pairs: list[tuple[int, int]]
    p_difference: NDArray[np.float64]
    q_difference: NDArray[np.float64]


def significance_by_permutation(
    basis: Basis,
    statistic: Statistic,
    rdms: NDArray[np.float64],
    settings: Settings,
    resources: Resources,
    *,
    pairs: Sequence[tuple[int, int]] = (),
    se_difference: NDArray[np.float64] | None = None,
    over_locations: bool = False,
) -> Significance:
    """Permutation test of RDMs averaged over subjects, corrected as the settings say.

    Parameters
    ----------
    basis : Basis
        Of all predictors.
    statistic : callable
        Maps projected RDMs (rank, n) to values (n_statistics, n).
    rdms : ndarray of float64, shape (n_locations, n_pairs)
    settings : Settings
    resources : Resources
    pairs : sequence of (int, int)
        Statistics to compare with each other.
    se_difference : ndarray of float64, shape (n_pairs, n_locations), optional
        Jackknife standard errors of their differences. With them, two statistics differ if both tests say so: the
        permutation test, which is valid where neither explains anything, and the jackknife, which is valid where both
        explain the same.
    over_locations : bool
        Whether `correction="within_location"` is followed by one over locations.

    Returns
    -------
    Significance
    """
    with resources.progress("permutation test") as advance:
        test = permutation_test(
            basis,
            statistic,
            rdms,
            Permutations(settings.n_permutations, settings.permute, settings.seed),
            pairs=pairs,
            two_sided=settings.two_sided,
            resources=resources,
            progress=advance,
        )
    best = test.observed.argmax(axis=0)
    p_jackknife = np.zeros_like(test.p_difference)
    if se_difference is not None and settings.jackknife_differences:
        difference = np.stack([test.observed[i] - test.observed[j] for i, j in pairs])
        p_jackknife = difference_p(difference, se_difference, n_conditions_of(rdms.shape[-1]))
    p_difference = np.maximum(test.p_difference, p_jackknife)
    if settings.correction == "max":
        chosen = test.p_max[best, np.arange(best.size)]
        q_difference = np.maximum(test.p_difference_max, np.minimum(1.0, p_jackknife.size * p_jackknife))
        return Significance(test.p, test.p_max, test.p_best, chosen, test.pairs, p_difference, q_difference)
    return _corrected(test.p, test.p_best, p_difference, best, test.pairs, settings, over_locations)


def significance_over_subjects(
    subjects: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    best: NDArray[np.int64],
    pairs: Sequence[tuple[int, int]],
    settings: Settings,
    *,
    over_locations: bool = False,
) -> Significance:
    """t-test of the values of subjects against their chance level, or against 0.

    Parameters
    ----------
    subjects : sequence of (values, chance)
        Statistics of each subject and their chance levels, both (n_statistics, n_subjects, n_locations), of locations
        one after the other; the number of subjects may differ between entries.
    best : ndarray of int, shape (n_locations,)
        The statistic that the figure shows as the largest of each location.
    pairs : sequence of (int, int)
        Statistics to compare with each other.
    settings : Settings
    over_locations : bool
        As for `significance_by_permutation`.

    Returns
    -------
    Significance

    Raises
    ------
    InputError
        If there are fewer than two subjects.
    """
    n_subjects = min(values.shape[1] for values, _ in subjects)
    if n_subjects < 2:
        raise InputError(
            f"`stats` is t-test: found {n_subjects} subject, expected 2 or more; use a permutation test instead"
        )
    tests = [
        t_test(values, pairs, chance=chance if settings.chance_level else 0.0, paired=settings.paired)
        for values, chance in subjects
    ]
    p = np.concatenate([test.p for test in tests], axis=1)
    p_difference = np.concatenate([test.p_difference for test in tests], axis=1)
    # Bonferroni over the statistics among which the best was chosen.
    p_best = np.minimum(1.0, len(p) * p[best, np.arange(best.size)])
    return _corrected(p, p_best, p_difference, best, list(pairs), settings, over_locations)


def _corrected(
    p: NDArray[np.float64],
    p_best: NDArray[np.float64],
    p_difference: NDArray[np.float64],
    best: NDArray[np.int64],
    pairs: list[tuple[int, int]],
    settings: Settings,
    over_locations: bool,
) -> Significance:
    """Control the false discovery rate of `p`, `p_best` and `p_difference`; `best` is the choice at each location."""
    if settings.correction == "within_location":
        q, chosen = published_fdr(p, over_locations), (best, np.arange(best.size))
        q_difference = published_fdr(p_difference, over_locations)
        return Significance(p, q, p[chosen], q[chosen], pairs, p_difference, q_difference)
    return Significance(p, fdr(p), p_best, fdr(p_best), pairs, p_difference, fdr(p_difference))


def subject_values(
    basis: Basis, statistic: LinearStatistic, subject_rdms: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A statistic of every subject's own RDM, and the level it has by chance.

    Parameters
    ----------
    basis : Basis
    statistic : LinearStatistic
    subject_rdms : ndarray, shape (n_subjects, n_locations, n_pairs)

    Returns
    -------
    values, chance : ndarray of float64, shape (n_statistics, n_subjects, n_locations)
    """
    n_subjects, n_locations, n_pairs = subject_rdms.shape
    rdms = subject_rdms.reshape(-1, n_pairs)
    values, chance = statistic(project(basis, rdms)), chance_adjusted_r2(basis, statistic, rdms)
    return values.reshape(-1, n_subjects, n_locations), chance.reshape(-1, n_subjects, n_locations)


def winner_exceeds_others(
    winner: NDArray[np.int64], test: Significance, settings: Settings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Does the winner of each searchlight or ROI differ from all others?

    Parameters
    ----------
    winner : ndarray of int, shape (n_locations,)
    test : Significance
        With the differences between all pairs.
    settings : Settings

    Returns
    -------
    p, q : ndarray of float64, shape (n_locations,)
        The largest p value of its differences from the others, and corrected over locations.
    """
    p = largest_difference_p(winner, test.pairs, test.p_difference)
    if settings.correction == "fdr":
        return p, fdr(p)
    return p, largest_difference_p(winner, test.pairs, test.q_difference)
