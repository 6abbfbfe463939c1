"""What models explain of every region of interest (ROI), and what of it is significant: Fig 2 and Fig 3b."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
from utils.datasets.rois import RoiRdms
from utils.parallel.resources import Resources
from utils.stats.inference import all_pairs
from utils.stats.permutation import Statistic, TopModels
from utils.stats.refits import condition_subsets, jackknife, winner_stability
from utils.stats.regression import (
    Basis,
    orthonormal_basis,
    own_adjusted_r2,
    own_r2,
    part_names,
    project,
    total_adjusted_r2,
    unique_adjusted_r2,
    variance_parts,
)

# Subsets of the conditions for the standard errors of ROIs.
N_SUBSETS = 10_000


@dataclass(frozen=True)
class VariancePartition:
    """Variance of each ROI's RDM, partitioned among its own sets of predictors.

    Attributes
    ----------
    sets : ndarray of int, shape (n_sets, n_rois)
        Models of each ROI, by their index.
    unique, se : ndarray of float64, shape (n_sets, n_rois)
        Unique variance (adjusted R2) and its standard error.
    se_difference : ndarray of float64, shape (n_pairs, n_rois)
        Standard errors of the differences between all pairs of sets.
    parts : ndarray of float64, shape (2**n_sets - 1, n_rois)
        All parts, in the order of `part_names`.
    total : ndarray of float64, shape (n_rois,)
        Adjusted R2 of all sets together: the sum of the parts.
    subjects : list of (values, chance)
        Per ROI, unique variance of every subject and its chance level, each (n_sets, n_subjects, 1).
    explained : list of (values, chance)
        Per ROI, the total adjusted R2 of every subject's own RDM and its chance level, each (n_subjects,).
    """

    sets: NDArray[np.int64]
    unique: NDArray[np.float64]
    se: NDArray[np.float64]
    se_difference: NDArray[np.float64]
    parts: NDArray[np.float64]
    total: NDArray[np.float64]
    subjects: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
    explained: list[tuple[NDArray[np.float64], NDArray[np.float64]]]

    @classmethod
    def empty(cls, sets: NDArray[np.int64]) -> VariancePartition:
        """Space for the partition among `sets`, (n_sets, n_rois)."""
        n_sets, n_rois = sets.shape
        shapes = {"unique": n_sets, "se": n_sets, "se_difference": len(all_pairs(n_sets)), "parts": 2**n_sets - 1}
        arrays = {name: np.empty((n, n_rois)) for name, n in shapes.items()}
        nothing: list[Any] = [None] * n_rois
        return cls(sets, **arrays, total=np.empty(n_rois), subjects=[*nothing], explained=[*nothing])


@dataclass(frozen=True)
class RoiFit:
    """What models explain of every ROI's RDM.

    Attributes
    ----------
    models : ModelRdms
    rois : RoiRdms
    r2, adjusted_r2 : ndarray of float64, shape (n_models, n_rois)
        Of each model by itself.
    partition : VariancePartition
        Of each ROI among its best models, or all groups.
    set_names : list of str
        What the sets are called: "rank 1", "rank 2", ..., or the keys of the groups.
    test : Significance
        Of the unique variance of the sets.
    stability : ndarray of float64, shape (n_rois,)
        Share of subsets of the conditions in which the same model wins.
    ceiling_lower, ceiling_upper : ndarray of float64, shape (n_rois,)
        Noise ceilings, mean Spearman correlations; NaN for a single subject.
    """

    models: ModelRdms
    rois: RoiRdms
    r2: NDArray[np.float64]
    adjusted_r2: NDArray[np.float64]
    partition: VariancePartition
    set_names: list[str]
    test: Significance
    stability: NDArray[np.float64]
    ceiling_lower: NDArray[np.float64]
    ceiling_upper: NDArray[np.float64]

    def table(self, alpha: float) -> pd.DataFrame:
        """One row per ROI and set, ROI by ROI; significant at the level `alpha`.

        `explained_r2`, its standard error over subjects and its chance level are of the subjects' own RDMs.
        """
        sets, names = self.partition.sets, self.rois.names
        n_sets, n_rois = sets.shape
        members = [self.models.models[i] for i in sets.T.ravel()]
        rank = np.argsort(np.argsort(-self._ranked_by(), axis=0, kind="stable"), axis=0) + 1
        explained = self.partition.explained

        def rows(values: Any) -> NDArray:
            return np.broadcast_to(values, (n_sets, n_rois)).T.ravel()

        return pd.DataFrame(
            {
                "roi": rows(names),
                "model": [model.key for model in members],
                "label": [model.label for model in members],
                "group": [model.group for model in members],
                "rank": rows(rank),
                "adjusted_r2": rows(np.take_along_axis(self.adjusted_r2, sets, axis=0)),
                "unique": rows(self.partition.unique),
                "se": rows(self.partition.se),
                "p": rows(self.test.p),
                "q": rows(self.test.q),
                "significant": rows(self.test.q <= alpha),
                "stability": np.where(rows(rank) == 1, rows(self.stability), np.nan),
                "total_adjusted_r2": rows(self.partition.total),
                "explained_r2": rows([values.mean() for values, _ in explained]),
                "explained_se": rows([standard_error(values) for values, _ in explained]),
                "explained_chance": rows([chance.mean() for _, chance in explained]),
                "ceiling_lower": rows(self.ceiling_lower),
                "ceiling_upper": rows(self.ceiling_upper),
            }
        )

    def _ranked_by(self) -> NDArray:
        return self.partition.unique

    def winner_exceeds_others(self, settings: Settings) -> NDArray[np.bool_]:
        """Whether the set with the largest unique variance of each ROI differs from all others, (n_rois,)."""
        _, q = winner_exceeds_others(self.partition.unique.argmax(axis=0), self.test, settings)
        return q <= settings.alpha

    def arrays(self) -> dict[str, Any]:
        """All arrays by name, for arrays.npz."""
        partition, test, n_sets = self.partition, self.test, len(self.set_names)
        names = self.set_names
        return {
            "models": [model.key for model in self.models.models],
            "places": self.rois.names,
            "r2": self.r2,
            "adjusted_r2": self.adjusted_r2,
            **{name: getattr(partition, name) for name in ("unique", "se", "se_difference", "total")},
            "shared": partition.parts[n_sets:],
            "shared_names": [" & ".join(names[i] for i in part) for part in part_names(n_sets)[n_sets:]],
            **{name: getattr(test, name) for name in ("p", "q", "p_difference", "q_difference")},
            "difference_names": [f"{names[i]} - {names[j]}" for i, j in test.pairs],
            "stability": self.stability,
            "ceiling_lower": self.ceiling_lower,
            "ceiling_upper": self.ceiling_upper,
        }

    def summary(self) -> dict[str, int | str]:
        """Numbers for the record of a run."""
        return {
            "n_rois": len(self.rois.names),
            "n_sets": len(self.set_names),
            "n_subjects": subject_range(self.rois),
            "n_conditions": self.models.n_conditions,
        }


@dataclass(frozen=True)
class BestModelsFit(RoiFit):
    """A fit whose sets are the best models of each ROI, best first."""

    def _ranked_by(self) -> NDArray:
        return -np.broadcast_to(np.arange(len(self.set_names))[:, None], self.partition.sets.shape)

    def arrays(self) -> dict[str, Any]:
        """All arrays by name, for arrays.npz."""
        return super().arrays() | {"top": self.partition.sets}


def fit_best_models(
    models: ModelRdms, rois: RoiRdms, n_best: int, settings: Settings, resources: Resources
) -> BestModelsFit:
    """Choose the best models of every ROI by adjusted R2, and test what each of them explains uniquely.

    Parameters
    ----------
    models : ModelRdms
    rois : RoiRdms
    n_best : int
        How many models to choose; all where there are fewer.
    settings : Settings
    resources : Resources

    Returns
    -------
    BestModelsFit

    Raises
    ------
    InputError
        If there are too few conditions for so many predictors, or too few subjects for a t-test.
    """
    n_best = min(n_best, len(models.models))
    basis = fit_basis(models)
    adjusted_r2 = own_adjusted_r2(basis)(project(basis, rois.mean()))
    if settings.clip_negative:
        adjusted_r2 = np.clip(adjusted_r2, 0, None)
    best = np.argsort(-adjusted_r2, axis=0, kind="stable")[:n_best]
    partition = partition_rois(models, rois, best, settings, resources)
    fixed = None if settings.reselect else best
    return BestModelsFit(
        models,
        rois,
        own_r2(basis)(project(basis, rois.mean())),
        adjusted_r2,
        partition,
        [f"rank {k}" for k in range(1, n_best + 1)],
        _test(basis, lambda: TopModels(basis, n_best, fixed, resources.device), rois, partition, settings, resources),
        winner_stability(models.rdms, own_adjusted_r2, rois.mean(), seed=settings.seed),
        *rois.ceilings(),
    )


def fit_groups(groups: ModelRdms, rois: RoiRdms, settings: Settings, resources: Resources) -> RoiFit:
    """Partition the variance of every ROI among all groups, and test their unique variance.

    Parameters, exceptions: as for `fit_best_models`.

    Returns
    -------
    RoiFit
    """
    basis = fit_basis(groups)
    projected = project(basis, rois.mean())
    everywhere = np.repeat(np.arange(len(groups.models))[:, None], len(rois.names), axis=1)
    partition = partition_rois(groups, rois, everywhere, settings, resources)
    return RoiFit(
        groups,
        rois,
        own_r2(basis)(projected),
        own_adjusted_r2(basis)(projected),
        partition,
        [group.key for group in groups.models],
        _test(basis, lambda: unique_adjusted_r2(basis), rois, partition, settings, resources),
        winner_stability(groups.rdms, unique_adjusted_r2, rois.mean(), seed=settings.seed),
        *rois.ceilings(),
    )


def partition_rois(
    models: ModelRdms, rois: RoiRdms, sets: NDArray[np.int64], settings: Settings, resources: Resources
) -> VariancePartition:
    """Partition the variance of every ROI among its own models.

    Parameters
    ----------
    models : ModelRdms
    rois : RoiRdms
    sets : ndarray of int, shape (n_sets, n_rois)
        Models of each ROI.
    settings : Settings
    resources : Resources

    Returns
    -------
    VariancePartition

    Raises
    ------
    InputError
        If subsets of the conditions are too small to fit so many predictors.
    """
    n = models.n_conditions
    subsets = condition_subsets(n, round(settings.bootstrap_ratio * n), N_SUBSETS, settings.seed)
    # ROIs with the same models are fitted together.
    choices, choice_of = np.unique(sets, axis=1, return_inverse=True)
    result, done = VariancePartition.empty(sets), 0
    with resources.progress("variance partitioning") as advance:
        for number, choice in enumerate(choices.T):
            members = np.flatnonzero(choice_of.ravel() == number)
            basis = orthonormal_basis(models.rdms[choice])
            check_subsets(basis, settings.bootstrap_ratio)
            _partition(basis, rois, members, subsets, settings.scaled_errors, result)
            done += len(members)
            advance(done, len(rois.names))
    return result


def _partition(
    basis: Basis, rois: RoiRdms, members: NDArray[np.int64], subsets: NDArray[np.bool_], scaled: bool,
    result: VariancePartition,
) -> None:  # fmt: skip
    """Fill in the partition of some ROIs, `members`, that have the same sets of predictors."""
    rdms = [rois.subjects[i] for i in members]
    mean = np.stack([own.mean(axis=0) for own in rdms])
    projected = project(basis, mean)
    errors = jackknife(basis, mean, subsets, all_pairs(len(basis.coordinates)), scaled=scaled)
    result.unique[:, members] = unique_adjusted_r2(basis)(projected)
    result.se[:, members], result.se_difference[:, members] = errors.unique, errors.difference
    result.parts[:, members] = variance_parts(basis)(projected)
    result.total[members] = total_adjusted_r2(basis)(projected)[0]
    stacked = np.concatenate(rdms)[:, None]
    ends = np.cumsum([len(own) for own in rdms])[:-1]
    unique = [np.split(part, ends, axis=1) for part in subject_values(basis, unique_adjusted_r2(basis), stacked)]
    explained = [np.split(part.ravel(), ends) for part in subject_values(basis, total_adjusted_r2(basis), stacked)]
    for i, *values in zip(members, *unique, *explained, strict=True):
        result.subjects[i], result.explained[i] = tuple(values[:2]), tuple(values[2:])


def _test(
    basis: Basis,
    statistic: Callable[[], Statistic],
    rois: RoiRdms,
    partition: VariancePartition,
    settings: Settings,
    resources: Resources,
) -> Significance:
    """Test the unique variance of the sets, by the route that the settings choose."""
    pairs = all_pairs(len(partition.sets))
    if settings.stats == "t-test":
        return significance_over_subjects(partition.subjects, partition.unique.argmax(axis=0), pairs, settings)
    return significance_by_permutation(
        basis, statistic(), rois.mean(), settings, resources, pairs=pairs, se_difference=partition.se_difference
    )


def standard_error(values: NDArray[np.float64]) -> float:
    """Standard error of a mean over subjects; NaN for one subject."""
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else np.nan


def subject_range(rois: RoiRdms) -> str:
    """How many subjects the ROIs have, as text: "16", or "14-16" where they differ."""
    numbers = [len(rdms) for rdms in rois.subjects]
    return f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)}-{max(numbers)}"
