"""The statistical route that the options choose, and its way from p values to what a figure calls significant."""

from __future__ import annotations

import warnings

from utils import InputError
from utils.datasets.models import ModelRdms
from utils.rdm import n_conditions_of, n_pairs_of
from utils.stats.regression import (
    Basis,
    orthonormal_basis,
)


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


def _check_refits(basis: Basis, ratio: float) -> None:
    """Regressions on subsets of the conditions need conditions to leave out, and enough of them left."""
    n, n_predictors = n_conditions_of(basis.n_pairs), sum(c.shape[1] for c in basis.coordinates)
    kept = round(ratio * n)
    if kept == n or n_pairs_of(kept) < n_predictors + 2:
        raise InputError(
            f"subsets of {ratio:.0%} of the conditions, for standard errors, keep {kept} of {n}: expected fewer "
            f"than all, and enough for {n_predictors} predictors; use more images or fewer models"
        )
