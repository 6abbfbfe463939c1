"""The regression's predictors: the RDMs of all models, and whether there are enough conditions for them."""

from __future__ import annotations

import warnings

from utils import InputError
from utils.datasets.models import ModelRdms
from utils.rdm import n_conditions_of, n_pairs_of
from utils.stats.regression import Basis, orthonormal_basis


def fit_basis(models: ModelRdms) -> Basis:
    """Orthonormal basis of the RDMs of all models; warns of those that are linear combinations of others.

    Parameters
    ----------
    models : ModelRdms

    Returns
    -------
    Basis

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
            f"collinear predictors: {', '.join(dependent)} (model, layer) are linear combinations of the preceding "
            "ones and add nothing; continuing with the remaining rank",
            stacklevel=2,
        )
    return basis


def check_subsets(basis: Basis, ratio: float) -> None:
    """Check that regressions can be refitted to subsets of the conditions.

    Parameters
    ----------
    basis : Basis
    ratio : float
        Share of the conditions in a subset.

    Raises
    ------
    InputError
        If a subset leaves no condition out, or keeps too few for so many predictors.
    """
    n, n_predictors = n_conditions_of(basis.n_pairs), sum(c.shape[1] for c in basis.coordinates)
    kept = round(ratio * n)
    if kept == n or n_pairs_of(kept) < n_predictors + 2:
        raise InputError(
            f"subsets of {ratio:.0%} of the conditions, for standard errors, keep {kept} of {n}: expected fewer "
            f"than all, and enough for {n_predictors} predictors; use more images or fewer models"
        )
