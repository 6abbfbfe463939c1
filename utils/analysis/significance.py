"""From p values to what a figure calls significant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.parallel.resources import Resources
from utils.rdm import n_conditions_of
from utils.stats.inference import (
    TTest,
    chance_adjusted_r2,
    difference_p,
    fdr,
    largest_difference_p,
    published_fdr,
    t_test,
)
from utils.stats.permutation import Permutations, Statistic, permutation_test
from utils.stats.regression import (
    Basis,
    LinearStatistic,
    project,
)


@dataclass(frozen=True)
class Outcome:
    """p values of statistics (n_statistics, n_places) and of differences between them (n_pairs, n_places).

    `q` and `q_difference` are corrected for multiple tests, as the options say. `p_best` and `q_best`, (n_places,), are
    of the largest statistic at each place, given that it was chosen for being the largest.
    """

    p: NDArray[np.float64]
    q: NDArray[np.float64]
    p_best: NDArray[np.float64]
    q_best: NDArray[np.float64]
    pairs: list[tuple[int, int]]
    p_difference: NDArray[np.float64]
    q_difference: NDArray[np.float64]


def test_by_permutation(
    options: argparse.Namespace,
    basis: Basis,
    statistic: Statistic,
    rdms: NDArray[np.float64],
    *,
    pairs: Sequence[tuple[int, int]] = (),
    se_difference: NDArray[np.float64] | None = None,
    resources: Resources = Resources(),
) -> Outcome:
    """Permutation test of the mean RDMs (n_places, n_pairs), corrected as the options say.

    With the standard errors of the differences (n_pairs, n_places), a pair differs if both tests say so: the
    permutation test, which holds where neither set explains anything, and that of the jackknife, which holds where both
    explain the same.
    """
    test = permutation_test(
        basis,
        statistic,
        rdms,
        Permutations(options.n_permutations, options.permute, options.seed),
        pairs=pairs,
        two_sided=not options.as_published,
        resources=resources,
    )
    best = test.observed.argmax(axis=0)
    p_refit = np.zeros_like(test.p_difference)
    if se_difference is not None and not options.as_published:
        difference = np.stack([test.observed[i] - test.observed[j] for i, j in pairs])
        p_refit = difference_p(difference, se_difference, n_conditions_of(rdms.shape[-1]))
    p_difference = np.maximum(test.p_difference, p_refit)
    if options.correction == "max":
        chosen = test.p_max[best, np.arange(best.size)]
        q_difference = np.maximum(test.p_difference_max, np.minimum(1.0, p_refit.size * p_refit))
        return Outcome(test.p, test.p_max, test.p_best, chosen, test.pairs, p_difference, q_difference)
    return _corrected(options, test.p, best, test.p_best, test.pairs, p_difference)


def test_over_subjects(
    options: argparse.Namespace,
    values: NDArray[np.float64],
    chance: NDArray[np.float64],
    best: NDArray[np.int64],
    pairs: Sequence[tuple[int, int]] = (),
) -> Outcome:
    """t-test of subjects' values (n_statistics, n_subjects, n_places) against chance; as published, against 0.

    `best`, (n_places,), is the statistic that the figure shows as the largest.
    """
    test = _t_test(options, values, chance, pairs)
    return _corrected(options, test.p, best, _bonferroni(test.p, best), list(pairs), test.p_difference)


def _bonferroni(p: NDArray[np.float64], best: NDArray[np.int64]) -> NDArray[np.float64]:
    """p value of each place's best statistic, times the number of statistics it was chosen from."""
    return np.minimum(1.0, len(p) * p[best, np.arange(best.size)])


def _t_test(
    options: argparse.Namespace,
    values: NDArray[np.float64],
    chance: NDArray[np.float64],
    pairs: Sequence[tuple[int, int]],
) -> TTest:
    if values.shape[1] < 2:
        raise InputError(
            f"--stats t-test: found {values.shape[1]} subject, expected 2 or more; use --stats permutation"
        )
    return t_test(values, pairs, chance=0.0 if options.as_published else chance, paired=not options.as_published)


def _corrected(
    options: argparse.Namespace,
    p: NDArray[np.float64],
    best: NDArray[np.int64],
    p_best: NDArray[np.float64],
    pairs: list[tuple[int, int]],
    p_difference: NDArray[np.float64],
) -> Outcome:
    """Correct for the false discovery rate, by default or as published; `best` is the choice at each place."""
    if options.as_published:
        across = options.kind == "searchlight"
        q, chosen = published_fdr(p, across), (best, np.arange(best.size))
        return Outcome(p, q, p[chosen], q[chosen], pairs, p_difference, published_fdr(p_difference, across))
    return Outcome(p, fdr(p), p_best, fdr(p_best), pairs, p_difference, fdr(p_difference))


def subject_values(
    basis: Basis, statistic: LinearStatistic, subject_rdms: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A statistic of every subject, and the level it has by chance.

    Parameters
    ----------
    basis : Basis
    statistic : LinearStatistic
    subject_rdms : ndarray, shape (n_subjects, n_places, n_pairs)

    Returns
    -------
    values, chance : ndarray of float64, shape (n_statistics, n_subjects, n_places)
    """
    n_subjects, n_places, n_pairs = subject_rdms.shape
    rdms = subject_rdms.reshape(-1, n_pairs)
    values, chance = statistic(project(basis, rdms)), chance_adjusted_r2(basis, statistic, rdms)
    return values.reshape(-1, n_subjects, n_places), chance.reshape(-1, n_subjects, n_places)


def winner_exceeds_others(
    options: argparse.Namespace, winner: NDArray[np.int64], outcome: Outcome
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Does the winner of each place differ from all others?

    Returns
    -------
    p, q : ndarray of float64, shape (n_places,)
        The largest p value of its differences, and corrected over places.
    """
    p = largest_difference_p(winner, outcome.pairs, outcome.p_difference)
    if options.as_published or options.correction == "max":
        return p, largest_difference_p(winner, outcome.pairs, outcome.q_difference)
    return p, fdr(p)


def describe(options: argparse.Namespace, n_subjects: int | str) -> str:
    """One sentence on how significance was decided, for the foot of a figure or page."""
    if options.stats == "t-test":
        test = f"t-test over {n_subjects} subjects" + (
            " against 0" if options.as_published else " against chance level"
        )
    else:
        test = f"permutation of {options.permute}, {options.n_permutations:,} times, mean RDM of {n_subjects} subjects"
    if options.correction == "max":
        corrected = "family-wise by the maximum statistic"
    elif options.as_published:
        corrected = "FDR within each place" + (", then over places" if options.kind == "searchlight" else "")
    else:
        corrected = f"FDR over all {'searchlights' if options.kind == 'searchlight' else 'tests'}"
    return f"Significance: {test}; {corrected}, level {options.alpha:g}."
