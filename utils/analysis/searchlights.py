"""Fits and tests of searchlights."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.analysis.fitting import _check_refits
from utils.analysis.rois import N_SUBSETS_OF_SEARCHLIGHTS
from utils.analysis.significance import Outcome, subject_values, test_by_permutation, test_over_subjects
from utils.datasets.searchlights import SearchlightRdms
from utils.parallel.resources import Resources
from utils.rdm import n_conditions_of
from utils.stats.inference import (
    difference_p,
    fdr,
    largest_difference_p,
)
from utils.stats.refits import condition_subsets, jackknife
from utils.stats.regression import (
    Basis,
    LinearStatistic,
    project,
    unique_adjusted_r2,
)


def lead_in_refits(
    options: argparse.Namespace, basis: Basis, rdms: NDArray[np.float64], pairs: Sequence[tuple[int, int]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Does the strongest set of each place keep its lead when the regression is fitted to other conditions?

    The permutation test asks whether two sets differ more than two that explain nothing. This one asks whether they
    differ at all, given how much the difference varies from subset to subset of the conditions; it has less power.

    Parameters
    ----------
    options : Namespace
    basis : Basis
    rdms : ndarray of float64, shape (n_places, n_pairs)
    pairs : sequence of (int, int)

    Returns
    -------
    p, q : ndarray of float64, shape (n_places,)
        Of the smallest lead over another set, by its jackknife standard error; and corrected over places (FDR).
    """
    n, ratio = n_conditions_of(basis.n_pairs), 0.9
    _check_refits(basis, ratio)
    unique = unique_adjusted_r2(basis)(project(basis, rdms))
    subsets = condition_subsets(n, round(ratio * n), N_SUBSETS_OF_SEARCHLIGHTS, options.seed)
    errors = jackknife(basis, rdms, subsets, pairs)
    difference = np.stack([unique[i] - unique[j] for i, j in pairs])
    p = difference_p(difference, errors.difference, n)
    lead = largest_difference_p(unique.argmax(axis=0), pairs, p)
    return lead, fdr(lead)


def tested_searchlights(options: argparse.Namespace, brain: SearchlightRdms) -> NDArray[np.bool_]:
    """Searchlights, (n_searchlights,) of bool, that are usable and whose lower noise ceiling is high enough.

    Raises
    ------
    InputError
        If there is none.
    """
    tested = brain.usable & (brain.ceiling_lower >= options.ceiling)
    if not tested.any():
        highest = brain.ceiling_lower[brain.usable].max()
        raise InputError(
            f"no searchlight has a lower noise ceiling of {options.ceiling:g} or more (the highest is {highest:.3g}); "
            "give a smaller --ceiling"
        )
    return tested


def test_searchlights(
    options: argparse.Namespace,
    basis: Basis,
    statistic: LinearStatistic,
    brain: SearchlightRdms,
    tested: NDArray[np.bool_],
    *,
    pairs: Sequence[tuple[int, int]] = (),
    resources: Resources = Resources(),
) -> Outcome:
    """Test the statistic at the tested searchlights, by the route that the options choose."""
    if options.stats == "permutation":
        rdms = brain.mean[tested]
        return test_by_permutation(options, basis, statistic, rdms, pairs=pairs, resources=resources)
    parts = []
    for places, rdms in brain.blocks():
        if tested[places].any():
            parts.append(subject_values(basis, statistic, rdms[:, tested[places]]))
        if resources.progress is not None:
            resources.progress(places.stop, len(tested))
    values, chance = (np.concatenate(part, axis=2) for part in zip(*parts, strict=True))
    best = statistic(project(basis, brain.mean[tested])).argmax(axis=0)
    return test_over_subjects(options, values, chance, best, pairs)


def spread(values: NDArray, places: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values (..., n_chosen) of the chosen places among all, (..., n_places), with NaN elsewhere."""
    result = np.full((*values.shape[:-1], places.size), np.nan)
    result[..., places] = values
    return result
