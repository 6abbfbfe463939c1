"""The regression's predictors: the RDMs of all models, and whether there are enough conditions for them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.analysis.settings import Settings
from utils.datasets.models import ModelRdms
from utils.rdm import n_pairs_of
from utils.stats.comparison import Comparison, compared
from utils.stats.exceedances import Permutations
from utils.stats.nonnegative import Nonnegative
from utils.stats.regression import Basis, MakeStatistic, orthonormal_basis, project


def fit_bases(models: ModelRdms, settings: Settings) -> list[Basis]:
    """Orthonormal basis of the RDMs of all models; warns of those that are linear combinations of others.

    Parameters
    ----------
    models : ModelRdms
    settings : Settings

    Returns
    -------
    list of Basis
        Of the RDMs in the form in which they are compared: one for everyone, or of each person's own models.

    Raises
    ------
    InputError
        If there are too few conditions for so many predictors, the blocks of conditions do not fit, or models differ
        between people and the settings do not allow for that.
    """
    check_people(models, settings)
    check_blocks(models, settings)
    try:
        bases = bases_of(models, settings.comparison)
    except ValueError as error:
        raise InputError(
            f"{models.n_conditions} conditions are too few: {error}; use more images or fewer models"
        ) from None
    found = Counter(place for basis in bases for place in basis.dependent)
    dependent = [
        (f"{models.models[i].key} {models.layers[j]}" if i < bases[0].n_sets else f"nuisance {j + 1}")
        + (f" of {n} of {len(bases)} people" if n < len(bases) else "")
        for (i, j), n in found.items()
    ]
    if dependent:
        warnings.warn(
            f"collinear predictors: {', '.join(dependent)} (model, layer) are linear combinations of the preceding "
            "ones and add nothing; continuing with the remaining rank",
            stacklevel=2,
        )
    return bases


def check_people(models: ModelRdms, settings: Settings) -> None:
    """Refuse settings under which models may not differ between people, where they do.

    Parameters
    ----------
    models : ModelRdms
    settings : Settings

    Raises
    ------
    InputError
    """
    refused = {
        "`as_published` fits the mean RDM": settings.as_published,
        "`weights` nonnegative are fitted to the mean RDM": settings.weights == "nonnegative",
    }
    for what, chosen in refused.items():
        if models.by_person and chosen:
            raise InputError(
                f"{what}, but model RDMs are stacks with one for each of {models.n_people} people; leave this option "
                "out, or give one (n, n) matrix of each model"
            )


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


def bases_of(models: ModelRdms, comparison: Comparison, chosen: NDArray[np.int64] | slice = slice(None)) -> list[Basis]:
    """Orthonormal basis of the RDMs of models, beside nuisance RDMs if there are any.

    Parameters
    ----------
    models : ModelRdms
    comparison : {"whitened", "plain", "without_condition_effects"}
    chosen : ndarray of int, optional
        Models to use, by default all.

    Returns
    -------
    list of Basis
        Of the RDMs in the form in which they are compared: one for everyone, or of each person's own models.
    """
    bases, pairs = [], models.pairs
    given = [] if models.nuisance is None else [compared(models.nuisance, comparison, pairs)]
    for own in models.of_people():
        sets = list(compared(own.rdms[chosen], comparison, pairs))
        bases.append(orthonormal_basis([*sets, *given], n_given=len(given), pairs=pairs))
    return bases


def plain_bases(models: ModelRdms, chosen: NDArray[np.int64] | slice = slice(None)) -> list[Basis]:
    """The same of RDMs as they are, without nuisance RDMs, as in the paper; parameters as for `bases_of`."""
    return [orthonormal_basis(list(own.rdms[chosen])) for own in models.of_people()]


def averaged(function: Callable[[Basis, Any], NDArray], bases: Sequence[Basis], operands: Iterable[Any]) -> NDArray:
    """Mean over people of a function of each one's basis and operand; its value where there is one basis for all."""
    return np.asarray(np.mean([function(basis, own) for basis, own in zip(bases, operands, strict=True)], axis=0))


def projected_values(bases: Sequence[Basis], statistic: MakeStatistic, rdms: NDArray) -> NDArray[np.float64]:
    """A statistic of RDMs (n_bases, n_locations, n_pairs) in the form of the bases: (n_statistics, n_locations)."""
    return averaged(lambda basis, own: statistic(basis)(project(basis, own)), bases, rdms)


def check_blocks(models: ModelRdms, settings: Settings) -> None:
    """Check that blocks of conditions, and pairs that are left out, allow the permutations that are asked for.

    Parameters
    ----------
    models : ModelRdms
    settings : Settings

    Raises
    ------
    InputError
        If there is not one block for each condition, blocks that are exchanged differ in size or in the pairs that are
        left out, there are too few different permutations to reach the level of significance, or pairs are left out of
        a t-test.
    """
    blocks, pairs = settings.blocks, models.pairs
    if blocks and len(blocks) != models.n_conditions:
        raise InputError(
            f"`blocks` gives the blocks of {len(blocks)} conditions, expected one line for each of the "
            f"{models.n_conditions} conditions, in their order"
        )
    sizes = Counter(blocks).values()
    if settings.permute == "blocks" and len({*sizes}) > 1:
        raise InputError(
            f"`permute` is blocks: found blocks of {min(sizes)} to {max(sizes)} conditions, expected blocks of one size"
        )
    if settings.stats == "t-test":
        if pairs is not None:
            raise InputError(
                "`stats` is t-test, whose chance level is only known where all pairs count, but `pairs` leaves out "
                f"{len(pairs.kept) - pairs.n_kept}; use a permutation test"
            )
        return
    if settings.permute == "blocks" and pairs is not None and not pairs.keeps(block_exchanges(blocks)):
        raise InputError(
            "`permute` is blocks: `pairs` leaves out different pairs in different blocks, so that blocks cannot be "
            "exchanged as wholes; permute conditions, or leave out the same pairs of every block"
        )
    n_distinct = Permutations(1, settings.permute, blocks=blocks, pairs=pairs).n_distinct
    if n_distinct * settings.alpha < 1:
        other = "permute conditions within them" if settings.permute == "blocks" else "permute them as wholes"
        raise InputError(
            f"`blocks` leaves {n_distinct:.0f} different permutation(s), so that no p value reaches "
            f"{settings.alpha:g}; use other blocks, or {other}"
            if pairs is None
            else f"`pairs`{' and `blocks`' if blocks else ''} leave {n_distinct:.0f} different permutation(s) of the "
            f"conditions, so that no p value reaches {settings.alpha:g}: conditions can be exchanged if they lack the "
            "same partners; leave out pairs by runs or categories, or exchange `blocks` as wholes"
        )
    if pairs is not None and settings.permute == "conditions":
        alone = int((np.bincount(pairs.exchangeable) == 1).sum())
        if 2 * alone > models.n_conditions:
            warnings.warn(
                f"`pairs` leaves {alone} of {models.n_conditions} conditions that can be exchanged with no other, as "
                "none lacks the same partners: permutation tests exchange the rest only, and find little",
                stacklevel=3,
            )


def block_exchanges(blocks: Sequence[int]) -> NDArray[np.int64]:
    """Orders of the conditions in which the first block has changed places with each other one, of the same size."""
    members = [np.flatnonzero(np.array(blocks) == block) for block in np.unique(blocks)]
    orders = np.tile(np.arange(len(blocks)), (max(1, len(members) - 1), 1))
    for order, other in zip(orders, members[1:], strict=False):
        order[members[0]], order[other] = other, members[0]
    return orders


def check_subsets(bases: Sequence[Basis], n_left_out: int) -> None:
    """Check that regressions can be refitted without some of the conditions.

    Parameters
    ----------
    bases : sequence of Basis
        With the same numbers of predictors.
    n_left_out : int

    Raises
    ------
    InputError
        If no condition is left out, or too few are kept for so many predictors.
    """
    basis = bases[0]
    n, n_predictors = basis.n_conditions, sum(c.shape[1] for c in basis.coordinates)
    kept = n - n_left_out
    n_pairs = n_pairs_of(kept) if basis.pairs is None else basis.pairs.fewest_without(n_left_out)
    if n_left_out < 1 or kept < 4 or n_pairs < n_predictors + 2:
        raise InputError(
            f"standard errors take refits to {kept} of {n} conditions: expected fewer than all, at least 4, and enough "
            f"for {n_predictors} predictors; use more images or fewer models"
        )
