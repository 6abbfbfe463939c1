"""The regression's predictors: the RDMs of all models, and whether there are enough conditions for them."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.analysis.settings import Settings
from utils.datasets.models import ModelRdms
from utils.rdm import n_conditions_of, n_pairs_of
from utils.stats.comparison import Comparison, compared
from utils.stats.exceedances import Permutations
from utils.stats.nonnegative import Nonnegative
from utils.stats.regression import Basis, orthonormal_basis


def fit_basis(models: ModelRdms, settings: Settings) -> Basis:
    """Orthonormal basis of the RDMs of all models; warns of those that are linear combinations of others.

    Parameters
    ----------
    models : ModelRdms
    settings : Settings

    Returns
    -------
    Basis
        Of the RDMs in the form in which they are compared.

    Raises
    ------
    InputError
        If there are too few conditions for so many predictors, or the blocks of conditions do not fit.
    """
    check_blocks(models, settings)
    try:
        basis = basis_of(models.rdms, models.nuisance, settings.comparison)
    except ValueError as error:
        raise InputError(
            f"{models.n_conditions} conditions are too few: {error}; use more images or fewer models"
        ) from None
    dependent = [
        f"{models.models[i].key} {models.layers[j]}" if i < basis.n_sets else f"nuisance {j + 1}"
        for i, j in basis.dependent
    ]
    if dependent:
        warnings.warn(
            f"collinear predictors: {', '.join(dependent)} (model, layer) are linear combinations of the preceding "
            "ones and add nothing; continuing with the remaining rank",
            stacklevel=2,
        )
    return basis


def nonnegative_fit(basis: Basis) -> Nonnegative:
    """Regression with non-negative weights.

    Parameters
    ----------
    basis : Basis

    Returns
    -------
    Nonnegative

    Raises
    ------
    InputError
        If there are too many layers.
    """
    try:
        return Nonnegative(basis)
    except ValueError as error:
        raise InputError(f"{error}; choose some of the `layers`") from None


def basis_of(rdms: NDArray[np.float64], nuisance: NDArray[np.float64] | None, comparison: Comparison) -> Basis:
    """Orthonormal basis of the RDMs of models, beside nuisance RDMs if there are any.

    Parameters
    ----------
    rdms : ndarray of float64, shape (n_models, n_layers, n_pairs)
    nuisance : ndarray of float64, shape (n_nuisance, n_pairs), or None
    comparison : {"whitened", "plain", "without_condition_effects"}

    Returns
    -------
    Basis
        Of the RDMs in the form in which they are compared.
    """
    sets = list(compared(rdms, comparison))
    if nuisance is None:
        return orthonormal_basis(sets)
    return orthonormal_basis([*sets, compared(nuisance, comparison)], n_given=1)


def check_blocks(models: ModelRdms, settings: Settings) -> None:
    """Check that blocks of conditions allow the permutations that are asked for.

    Parameters
    ----------
    models : ModelRdms
    settings : Settings

    Raises
    ------
    InputError
        If there is not one block for each condition, blocks that are exchanged differ in size, or there are too few
        different permutations to reach the level of significance.
    """
    if not settings.blocks:
        return
    if len(settings.blocks) != models.n_conditions:
        raise InputError(
            f"`blocks` gives the blocks of {len(settings.blocks)} conditions, expected one line for each of the "
            f"{models.n_conditions} conditions, in their order"
        )
    sizes = Counter(settings.blocks).values()
    if settings.permute == "blocks" and len({*sizes}) > 1:
        raise InputError(
            f"`permute` is blocks: found blocks of {min(sizes)} to {max(sizes)} conditions, expected blocks of one size"
        )
    n_distinct = Permutations(1, settings.permute, blocks=settings.blocks).n_distinct
    if n_distinct * settings.alpha < 1:
        other = "permute conditions within them" if settings.permute == "blocks" else "permute them as wholes"
        raise InputError(
            f"`blocks` leaves {n_distinct:.0f} different permutation(s), so that no p value reaches "
            f"{settings.alpha:g}; use other blocks, or {other}"
        )


def check_subsets(basis: Basis, n_left_out: int) -> None:
    """Check that regressions can be refitted without some of the conditions.

    Parameters
    ----------
    basis : Basis
    n_left_out : int

    Raises
    ------
    InputError
        If no condition is left out, or too few are kept for so many predictors.
    """
    n, n_predictors = n_conditions_of(basis.n_pairs), sum(c.shape[1] for c in basis.coordinates)
    kept = n - n_left_out
    if n_left_out < 1 or kept < 4 or n_pairs_of(kept) < n_predictors + 2:
        raise InputError(
            f"standard errors take refits to {kept} of {n} conditions: expected fewer than all, at least 4, and enough "
            f"for {n_predictors} predictors; use more images or fewer models"
        )
