"""What models explain of every searchlight, and what of it is significant: Fig 1 and Fig 3a."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils import InputError
from utils.analysis.predictors import check_subsets, fit_basis
from utils.analysis.settings import Settings
from utils.analysis.significance import (
    Significance,
    significance_by_permutation,
    significance_over_subjects,
    subject_values,
    winner_exceeds_others,
)
from utils.datasets.models import ModelRdms
from utils.datasets.searchlights import SearchlightRdms
from utils.parallel.resources import Resources
from utils.rdm import n_conditions_of
from utils.stats.inference import all_pairs, difference_p, fdr, largest_difference_p
from utils.stats.refits import condition_subsets, jackknife, winner_stability
from utils.stats.regression import (
    Basis,
    LinearStatistic,
    own_adjusted_r2,
    own_r2,
    part_names,
    project,
    total_adjusted_r2,
    unique_adjusted_r2,
    variance_parts,
)

# Subsets of the conditions for the jackknife of searchlights, and the share of the conditions in each.
N_SUBSETS_OF_SEARCHLIGHTS, SUBSET_FRACTION = 1000, 0.9


@dataclass(frozen=True)
class SearchlightFit:
    """What each model explains of every searchlight's RDM.

    The last axis of all arrays is all searchlights, with NaN for those that are not usable or not tested.

    Attributes
    ----------
    models : ModelRdms
    brain : SearchlightRdms
    tested : ndarray of bool, shape (n_searchlights,)
    r2, adjusted_r2 : ndarray of float64, shape (n_models, n_searchlights)
    p, q : ndarray of float64, shape (n_models, n_searchlights)
        Uncorrected and corrected p values of each model.
    p_best, q_best : ndarray of float64, shape (n_searchlights,)
        Of the best model, given that it was chosen for being the best.
    stability : ndarray of float64, shape (n_searchlights,)
        Share of subsets of the conditions in which the same model wins.
    """

    models: ModelRdms
    brain: SearchlightRdms
    tested: NDArray[np.bool_]
    r2: NDArray[np.float64]
    adjusted_r2: NDArray[np.float64]
    p: NDArray[np.float64]
    q: NDArray[np.float64]
    p_best: NDArray[np.float64]
    q_best: NDArray[np.float64]
    stability: NDArray[np.float64]

    # What decides which model is best.
    compared: ClassVar[str] = "adjusted_r2"

    def winners(self) -> pd.DataFrame:
        """The best model of every searchlight.

        Returns
        -------
        DataFrame
            Columns searchlight, x, y, z (centre, mm), tested, winner and group (None where the searchlight is not
            usable), what is compared, p and q.
        """
        values = getattr(self, self.compared)
        winner = np.nan_to_num(values, nan=-np.inf).argmax(axis=0)
        numbers = np.arange(len(winner))
        x, y, z = self.brain.geometry.centers_mm().T
        named = np.where(self.brain.usable, winner, -1)
        keys, groups = (
            np.array([*(getattr(model, name) for model in self.models.models), None], dtype=object)[named]
            for name in ("key", "group")
        )
        return pd.DataFrame(
            {
                **{"searchlight": numbers, "x": x, "y": y, "z": z, "tested": self.tested},
                **{"winner": keys, "group": groups, self.compared: values[winner, numbers]},
                **{"p": self.p_best, "q": self.q_best},
            }
        )

    def arrays(self) -> dict[str, Any]:
        """All arrays by name, for arrays.npz."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            "models": [model.key for model in self.models.models],
            "places": np.arange(len(self.tested)),
            **{name: own[name] for name in own if name not in ("models", "brain", "tested")},
            "ceiling_lower": self.brain.ceiling_lower,
            "ceiling_upper": self.brain.ceiling_upper,
        }

    def summary(self) -> dict[str, int]:
        """Numbers for the record of a run."""
        return {
            "n_searchlights": len(self.tested),
            "n_tested": int(self.tested.sum()),
            "n_subjects": self.brain.n_subjects,
            "n_conditions": self.models.n_conditions,
        }


@dataclass(frozen=True)
class SearchlightPartition(SearchlightFit):
    """Variance of every searchlight's RDM, partitioned among groups of models; they are compared by unique variance.

    Attributes
    ----------
    unique : ndarray of float64, shape (n_groups, n_searchlights)
        Unique variance (adjusted R2).
    shared : ndarray of float64, shape (n_parts, n_searchlights)
        Variance shared by each two or more groups, in the order of `part_names`.
    total : ndarray of float64, shape (n_searchlights,)
        Adjusted R2 of all groups together: the sum of all parts.
    p_difference : ndarray of float64, shape (n_pairs, n_searchlights)
        Of the difference between each two groups.
    p_exceeds_others, q_exceeds_others : ndarray of float64, shape (n_searchlights,)
        Of the smallest difference between the strongest group and the others.
    p_lead_in_refits, q_lead_in_refits : ndarray of float64, shape (n_searchlights,)
        The same by the jackknife, see `winner_margin`.
    """

    unique: NDArray[np.float64]
    shared: NDArray[np.float64]
    total: NDArray[np.float64]
    p_difference: NDArray[np.float64]
    p_exceeds_others: NDArray[np.float64]
    q_exceeds_others: NDArray[np.float64]
    p_lead_in_refits: NDArray[np.float64]
    q_lead_in_refits: NDArray[np.float64]

    compared: ClassVar[str] = "unique"

    def arrays(self) -> dict[str, Any]:
        """All arrays by name, for arrays.npz."""
        keys = [group.key for group in self.models.models]
        shared = part_names(len(keys))[len(keys) :]
        return super().arrays() | {
            "shared_names": [" & ".join(keys[i] for i in part) for part in shared],
            "difference_names": [f"{keys[i]} - {keys[j]}" for i, j in all_pairs(len(keys))],
        }


def fit_searchlights(
    models: ModelRdms, brain: SearchlightRdms, settings: Settings, resources: Resources
) -> SearchlightFit:
    """Regress every searchlight's RDM on each model by itself, and test how much the model explains.

    Parameters
    ----------
    models : ModelRdms
    brain : SearchlightRdms
    settings : Settings
    resources : Resources

    Returns
    -------
    SearchlightFit

    Raises
    ------
    InputError
        If no searchlight can be tested, or there are too few conditions for so many predictors.
    """
    tested = tested_searchlights(brain, settings.ceiling)
    basis = fit_basis(models)
    statistic = own_adjusted_r2(basis)
    projected = project(basis, brain.mean[brain.usable])
    adjusted_r2 = statistic(projected)
    if settings.clip_negative:
        adjusted_r2 = np.clip(adjusted_r2, 0, None)
    test = _test(basis, statistic, brain, tested, settings, resources)
    return SearchlightFit(
        models,
        brain,
        tested,
        **unmask(brain.usable, r2=own_r2(basis)(projected), adjusted_r2=adjusted_r2),
        **unmask(tested, p=test.p, q=test.q, p_best=test.p_best, q_best=test.q_best),
        **unmask(tested, stability=_stability(models, own_adjusted_r2, brain.mean[tested], settings, resources)),
    )


def partition_searchlights(
    groups: ModelRdms, brain: SearchlightRdms, settings: Settings, resources: Resources
) -> SearchlightPartition:
    """Partition the variance of every searchlight's RDM among groups of models, and test their unique variance.

    Parameters, exceptions: as for `fit_searchlights`.

    Returns
    -------
    SearchlightPartition
    """
    tested = tested_searchlights(brain, settings.ceiling)
    basis = fit_basis(groups)
    projected = project(basis, brain.mean[brain.usable])
    statistic, n_groups = unique_adjusted_r2(basis), len(groups.models)
    pairs = all_pairs(n_groups)
    test = _test(basis, statistic, brain, tested, settings, resources, pairs)
    parts = variance_parts(basis)(projected)
    winner = statistic(projected)[:, tested[brain.usable]].argmax(axis=0)
    p_exceeds, q_exceeds = winner_exceeds_others(winner, test, settings)
    p_margin, q_margin = winner_margin(basis, brain.mean[tested], pairs, settings.seed)
    return SearchlightPartition(
        groups,
        brain,
        tested,
        **unmask(
            brain.usable,
            r2=own_r2(basis)(projected),
            adjusted_r2=own_adjusted_r2(basis)(projected),
            unique=parts[:n_groups],
            shared=parts[n_groups:],
            total=total_adjusted_r2(basis)(projected)[0],
        ),
        **unmask(
            tested,
            p=test.p,
            q=test.q,
            p_best=test.p_best,
            q_best=test.q_best,
            p_difference=test.p_difference,
            p_exceeds_others=p_exceeds,
            q_exceeds_others=q_exceeds,
            p_lead_in_refits=p_margin,
            q_lead_in_refits=q_margin,
            stability=_stability(groups, unique_adjusted_r2, brain.mean[tested], settings, resources),
        ),
    )


def tested_searchlights(brain: SearchlightRdms, ceiling: float) -> NDArray[np.bool_]:
    """Searchlights that are usable and whose lower noise ceiling is high enough.

    Parameters
    ----------
    brain : SearchlightRdms
    ceiling : float
        Smallest lower noise ceiling, a mean Spearman correlation.

    Returns
    -------
    ndarray of bool, shape (n_searchlights,)

    Raises
    ------
    InputError
        If there is none.
    """
    tested = brain.usable & (brain.ceiling_lower >= ceiling)
    if not tested.any():
        highest = brain.ceiling_lower[brain.usable].max()
        raise InputError(
            f"no searchlight has a lower noise ceiling of {ceiling:g} or more (the highest is {highest:.3g}); "
            "choose a smaller `ceiling`"
        )
    return tested


def winner_margin(
    basis: Basis, rdms: NDArray[np.float64], pairs: Sequence[tuple[int, int]], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Is the margin of the strongest set beyond its jackknife standard error over conditions?

    The permutation test asks whether two sets differ more than two that explain nothing. This one asks whether they
    differ at all, given how much the difference varies between subsets of the conditions; it has less power.

    Parameters
    ----------
    basis : Basis
    rdms : ndarray of float64, shape (n_locations, n_pairs)
    pairs : sequence of (int, int)
        All pairs of sets.
    seed : int
        Of the subsets.

    Returns
    -------
    p, q : ndarray of float64, shape (n_locations,)
        Of the smallest margin over another set; and corrected over locations (FDR).

    Raises
    ------
    InputError
        If there are too few conditions to leave some out.
    """
    n = n_conditions_of(basis.n_pairs)
    check_subsets(basis, SUBSET_FRACTION)
    unique = unique_adjusted_r2(basis)(project(basis, rdms))
    subsets = condition_subsets(n, round(SUBSET_FRACTION * n), N_SUBSETS_OF_SEARCHLIGHTS, seed)
    errors = jackknife(basis, rdms, subsets, pairs)
    difference = np.stack([unique[i] - unique[j] for i, j in pairs])
    p = largest_difference_p(unique.argmax(axis=0), pairs, difference_p(difference, errors.difference, n))
    return p, fdr(p)


def unmask(mask: NDArray[np.bool_], **arrays: NDArray) -> dict[str, NDArray[np.float64]]:
    """Put the values of some searchlights back among all.

    Parameters
    ----------
    mask : ndarray of bool, shape (n_searchlights,)
        Which searchlights the values are of.
    **arrays : ndarray, shape (..., n_chosen)

    Returns
    -------
    dict of str to ndarray of float64, shape (..., n_searchlights)
        With NaN for the other searchlights.
    """
    unmasked = {}
    for name, values in arrays.items():
        unmasked[name] = np.full((*values.shape[:-1], mask.size), np.nan)
        unmasked[name][..., mask] = values
    return unmasked


def _test(
    basis: Basis,
    statistic: LinearStatistic,
    brain: SearchlightRdms,
    tested: NDArray[np.bool_],
    settings: Settings,
    resources: Resources,
    pairs: Sequence[tuple[int, int]] = (),
) -> Significance:
    """Test the statistic at the tested searchlights, by the route that the settings choose."""
    if settings.stats == "permutation":
        rdms = brain.mean[tested]
        return significance_by_permutation(
            basis, statistic, rdms, settings, resources, pairs=pairs, over_locations=True
        )
    subjects = []
    with resources.progress("t-tests") as advance:
        for places, rdms in brain.blocks():
            if tested[places].any():
                subjects.append(subject_values(basis, statistic, rdms[:, tested[places]]))
            advance(places.stop, len(tested))
    best = statistic(project(basis, brain.mean[tested])).argmax(axis=0)
    return significance_over_subjects(subjects, best, pairs, settings, over_locations=True)


def _stability(
    models: ModelRdms, statistic: Any, rdms: NDArray[np.float64], settings: Settings, resources: Resources
) -> NDArray[np.float64]:
    with resources.progress("refits to subsets of the conditions") as advance:
        return winner_stability(models.rdms, statistic, rdms, seed=settings.seed, progress=advance)
