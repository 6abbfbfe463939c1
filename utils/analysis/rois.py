"""Fits and tests of regions of interest."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.analysis.fitting import _check_refits
from utils.analysis.significance import Outcome, _bonferroni, _corrected, _t_test, subject_values
from utils.datasets.models import ModelRdms
from utils.datasets.rois import RoiRdms
from utils.parallel.resources import Progress
from utils.stats.inference import (
    all_pairs,
)
from utils.stats.refits import condition_subsets, jackknife
from utils.stats.regression import (
    Basis,
    orthonormal_basis,
    project,
    total_adjusted_r2,
    unique_adjusted_r2,
    variance_parts,
)

# Subsets of the conditions that regressions are refitted on for standard errors: of ROIs, and of searchlights.
N_SUBSETS, N_SUBSETS_OF_SEARCHLIGHTS = 10_000, 1000


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
