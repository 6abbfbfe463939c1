"""Cross-validated values of the figures: what models predict of new people and new images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.analysis.settings import Settings
from utils.stats.cross_validation import CrossValidated, CrossValidation, condition_folds
from utils.stats.regression import Basis, MakeStatistic


def validation(
    bases: Sequence[Basis], statistic: MakeStatistic, settings: Settings, *, by_person: bool
) -> Callable[[NDArray], CrossValidated]:
    """Cross-validation with the folds that the settings ask for.

    Parameters
    ----------
    bases : sequence of Basis
        One for everyone, or of each person's own models.
    statistic : callable
        `own_r2` or `own_and_parts`.
    settings : Settings
    by_person : bool
        Whether models differ between people, each of whom is then predicted from the own other images.

    Returns
    -------
    callable
        Takes the RDMs of all subjects, (n_subjects, n_locations, n_pairs), as `CrossValidation`.

    Raises
    ------
    InputError
        If there are too few conditions for so many folds and predictors.
    """
    folds = condition_folds(bases[0].n_conditions, settings.cross_validate, settings.seed)
    try:
        each = [CrossValidation(basis, statistic(basis), settings.comparison, folds) for basis in bases]
    except ValueError as error:
        raise InputError(f"`cross_validate` is {settings.cross_validate}: {error}; choose fewer folds") from None
    if not by_person:
        return each[0]

    def over_people(subjects: NDArray) -> CrossValidated:
        parts = [predict(rdms[None]) for predict, rdms in zip(each, subjects, strict=True)]
        return CrossValidated.over_people(parts)

    return over_people


def named(found: CrossValidated, n_sets: int) -> dict[str, NDArray[np.float64]]:
    """Arrays of a result by name.

    Parameters
    ----------
    found : CrossValidated
        Of `own_r2` or `own_and_parts`.
    n_sets : int

    Returns
    -------
    dict of str to ndarray of float64
        cv_r2 and cv_r2_se (n_sets, n_locations); for parts, cv_unique and cv_unique_se alike, cv_shared (n_parts,
        n_locations) and their sum, cv_total (n_locations,); and cv_ceiling (n_locations,).
    """
    arrays = {"cv_r2": found.values[:n_sets], "cv_r2_se": found.se[:n_sets]}
    if len(found.values) > n_sets:
        parts = found.values[n_sets:]
        arrays |= {"cv_unique": parts[:n_sets], "cv_unique_se": found.se[n_sets : 2 * n_sets]}
        arrays |= {"cv_shared": parts[n_sets:], "cv_total": parts.sum(axis=0)}
    return arrays | {"cv_ceiling": found.ceiling}
