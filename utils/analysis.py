"""The statistical route that the options choose, and its way from p values to what a figure calls significant."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.dataset import ModelRdms, RoiRdms, SearchlightRdms
from utils.inference import (
    TTest,
    all_pairs,
    chance_adjusted_r2,
    condition_subsets,
    difference_p,
    fdr,
    jackknife,
    largest_difference_p,
    published_fdr,
    t_test,
)
from utils.permutation import Progress, Statistic, permutation_test
from utils.rdm import n_conditions_of, n_pairs_of
from utils.regression import (
    Basis,
    LinearStatistic,
    orthonormal_basis,
    project,
    total_adjusted_r2,
    unique_adjusted_r2,
    variance_parts,
)

if TYPE_CHECKING:
    from utils.cluster import Cluster

# Subsets of the conditions that regressions are refitted on for standard errors: of ROIs, and of searchlights.
N_SUBSETS, N_SUBSETS_OF_SEARCHLIGHTS = 10_000, 1000


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


def fit_basis(models: ModelRdms) -> Basis:
    """Basis of all predictors; warns of those that are linear combinations of others.

    Raises
    ------
    InputError
        If there are too few conditions for so many predictors.
    """
    try:
        basis = orthonormal_basis(list(models.rdms))
    except ValueError as error:
        raise InputError(
            f"{models.n_conditions} conditions are too few: {error}; use more images or fewer models"
        ) from None
    dependent = [f"{models.models[i].key} {models.layers[j]}" for i, j in basis.dependent]
    if dependent:
        warnings.warn(
            f"collinear predictors: {', '.join(dependent)} (model, layer) are linear combinations of those before them "
            "and add nothing; going on with the rank that is there",
            stacklevel=2,
        )
    return basis


def test_by_permutation(
    options: argparse.Namespace,
    basis: Basis,
    statistic: Statistic,
    rdms: NDArray[np.float64],
    *,
    pairs: Sequence[tuple[int, int]] = (),
    se_difference: NDArray[np.float64] | None = None,
    device: str,
    cluster: Cluster | None = None,
    progress: Progress | None = None,
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
        options.n_permutations,
        unit=options.permute,
        pairs=pairs,
        two_sided=not options.as_published,
        seed=options.seed,
        device=device,
        tf32=options.tf32,
        cluster=cluster,
        progress=progress,
    )
    if test.slack:
        warnings.warn(
            f"TF32: p values, before correction, are too large by up to {test.slack:.2g}, and never too small",
            stacklevel=2,
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


def describe(options: argparse.Namespace, n_subjects: int | str) -> str:
    """One sentence on how significance was decided, for the foot of a figure or page."""
    if options.stats == "t-test":
        test = f"t-test over {n_subjects} subjects" + (
            " against 0" if options.as_published else " against chance level"
        )
    else:
        test = f"permutation of {options.permute}, {options.n_permutations:,} times, mean RDM of {n_subjects} subjects"
        if options.tf32:
            test += ", in TF32"
    if options.correction == "max":
        corrected = "family-wise by the maximum statistic"
    elif options.as_published:
        corrected = "FDR within each place" + (", then over places" if options.kind == "searchlight" else "")
    else:
        corrected = f"FDR over all {'searchlights' if options.kind == 'searchlight' else 'tests'}"
    return f"Significance: {test}; {corrected}, level {options.alpha:g}."


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
    device: str,
    cluster: Cluster | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Test the statistic at the tested searchlights, by the route that the options choose."""
    if options.stats == "permutation":
        rdms = brain.mean[tested]
        return test_by_permutation(
            options, basis, statistic, rdms, pairs=pairs, device=device, cluster=cluster, progress=progress
        )
    parts = []
    for places, rdms in brain.blocks():
        if tested[places].any():
            parts.append(subject_values(basis, statistic, rdms[:, tested[places]]))
        if progress is not None:
            progress(places.stop, len(tested))
    values, chance = (np.concatenate(part, axis=2) for part in zip(*parts, strict=True))
    best = statistic(project(basis, brain.mean[tested])).argmax(axis=0)
    return test_over_subjects(options, values, chance, best, pairs)


def _check_refits(basis: Basis, ratio: float) -> None:
    """Regressions on subsets of the conditions need conditions to leave out, and enough of them left."""
    n, n_predictors = n_conditions_of(basis.n_pairs), sum(c.shape[1] for c in basis.coordinates)
    kept = round(ratio * n)
    if kept == n or n_pairs_of(kept) < n_predictors + 2:
        raise InputError(
            f"subsets of {ratio:.0%} of the conditions, for standard errors, keep {kept} of {n}: expected fewer "
            f"than all, and enough for {n_predictors} predictors; use more images or fewer models"
        )


def spread(values: NDArray, places: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values (..., n_chosen) of the chosen places among all, (..., n_places), with NaN elsewhere."""
    result = np.full((*values.shape[:-1], places.size), np.nan)
    result[..., places] = values
    return result


@dataclass(frozen=True)
class Partition:
    """Variance of each place's RDM among its own sets of predictors.

    Attributes
    ----------
    sets : ndarray of int, shape (n_sets, n_places)
        Models of each place, by their index.
    unique, se : ndarray of float64, shape (n_sets, n_places)
        Unique variance (adjusted R2) and its standard error.
    se_difference : ndarray of float64, shape (n_pairs, n_places)
        Standard errors of the differences between all pairs of sets.
    parts : ndarray of float64, shape (2**n_sets - 1, n_places)
        All parts, in the order of `part_names`.
    total : ndarray of float64, shape (n_places,)
        Adjusted R2 of all sets together: the sum of the parts.
    subjects : list of (values, chance)
        Per place, unique variance of every subject and its chance level, each (n_sets, n_subjects, 1).
    explained : list of (values, chance)
        Per place, the total adjusted R2 of every subject's own RDM and its chance level, each (n_subjects,).
    """

    sets: NDArray[np.int64]
    unique: NDArray[np.float64]
    se: NDArray[np.float64]
    se_difference: NDArray[np.float64]
    parts: NDArray[np.float64]
    total: NDArray[np.float64]
    subjects: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
    explained: list[tuple[NDArray[np.float64], NDArray[np.float64]]]


def partition_rois(
    options: argparse.Namespace,
    models: ModelRdms,
    rois: RoiRdms,
    sets: NDArray[np.int64],
    progress: Progress | None = None,
) -> Partition:
    """Partition the variance of every ROI among its own models.

    Parameters
    ----------
    options : Namespace
    models : ModelRdms
    rois : RoiRdms
    sets : ndarray of int, shape (n_sets, n_rois)
        Models of each ROI.
    progress : callable, optional
        Called with (ROIs done, ROIs in all).

    Raises
    ------
    InputError
        If subsets of the conditions are too small to fit so many predictors.
    """
    n_rois, n = sets.shape[1], models.n_conditions
    subsets = condition_subsets(n, round(options.bootstrap_ratio * n), N_SUBSETS, options.seed)
    teams, team_of = np.unique(sets, axis=1, return_inverse=True)
    columns: dict[int, tuple[Any, ...]] = {}
    for number, team in enumerate(teams.T):
        places = np.flatnonzero(team_of.ravel() == number).tolist()
        basis = orthonormal_basis(models.rdms[team])
        columns.update(zip(places, _partition(options, basis, rois, places, subsets), strict=True))
        if progress is not None:
            progress(len(columns), n_rois)
    unique, se, se_difference, parts, total, subject_unique, explained = zip(
        *(columns[place] for place in range(n_rois)), strict=True
    )
    return Partition(
        sets=sets,
        unique=np.stack(unique, axis=1),
        se=np.stack(se, axis=1),
        se_difference=np.stack(se_difference, axis=1),
        parts=np.stack(parts, axis=1),
        total=np.array(total),
        subjects=list(subject_unique),
        explained=list(explained),
    )


def _partition(
    options: argparse.Namespace, basis: Basis, rois: RoiRdms, places: list[int], subsets: NDArray[np.bool_]
) -> Iterator[tuple[Any, ...]]:
    """What `Partition` holds of each of some ROIs that have the same sets of predictors."""
    _check_refits(basis, options.bootstrap_ratio)
    mean = np.stack([rois.subjects[place].mean(axis=0) for place in places])
    projected = project(basis, mean)
    errors = jackknife(basis, mean, subsets, all_pairs(len(basis.coordinates)), scaled=not options.as_published)
    rdms = np.concatenate([rois.subjects[place] for place in places])[:, None]
    ends = np.cumsum([len(rois.subjects[place]) for place in places])[:-1]
    unique = [np.split(part, ends, axis=1) for part in subject_values(basis, unique_adjusted_r2(basis), rdms)]
    explained = [np.split(part.ravel(), ends) for part in subject_values(basis, total_adjusted_r2(basis), rdms)]
    return zip(
        unique_adjusted_r2(basis)(projected).T,
        errors.unique.T,
        errors.difference.T,
        variance_parts(basis)(projected).T,
        total_adjusted_r2(basis)(projected)[0],
        zip(*unique, strict=True),
        zip(*explained, strict=True),
        strict=True,
    )


def test_rois_over_subjects(
    options: argparse.Namespace, partition: Partition, pairs: Sequence[tuple[int, int]]
) -> Outcome:
    """t-test over the subjects of every ROI, which may differ in number."""
    tests = [_t_test(options, values, chance, pairs) for values, chance in partition.subjects]
    p = np.concatenate([test.p for test in tests], axis=1)
    best = partition.unique.argmax(axis=0)
    p_difference = np.concatenate([test.p_difference for test in tests], axis=1)
    return _corrected(options, p, best, _bonferroni(p, best), list(pairs), p_difference)


def describe_bars(options: argparse.Namespace) -> str:
    """One sentence on bars, stars and brackets."""
    spread_over = f"{options.bootstrap_ratio:.0%} of the conditions"
    error = (
        f"SD over subsets of {spread_over}" if options.as_published else f"standard error (jackknife, {spread_over})"
    )
    return f"Bars: unique variance ± {error}; star: above chance; bracket: the two differ."


def standard_error(values: NDArray[np.float64]) -> float:
    """Standard error of a mean over subjects; NaN for one subject."""
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else np.nan


def subject_range(rois: RoiRdms) -> str:
    """How many subjects the ROIs have, as text: "16", or "14-16" where they differ."""
    numbers = [len(rdms) for rdms in rois.subjects]
    return f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)}-{max(numbers)}"
