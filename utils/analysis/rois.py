"""What models explain of every region of interest (ROI), and what of it is established: Fig 2 and Fig 3b."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.analysis.assumptions import check_assumptions
from utils.analysis.predictions import named, validation
from utils.analysis.predictors import (
    averaged,
    bases_of,
    check_subsets,
    fit_bases,
    plain_bases,
    projected_values,
)
from utils.analysis.settings import Settings
from utils.analysis.significance import (
    Differences,
    Lead,
    Sampler,
    Significance,
    SubjectValues,
    alternatives,
    beside_others,
    best_of_all,
    difference_p_values,
    family_wise,
    jackknife_of,
    lead_of,
    lead_p_values,
    permutations,
    published_lead,
    published_tests,
    t_quantile,
    tests_over_subjects,
    values_of_people,
    warn_of_negative_weights,
    weights_sign,
    winner_contrasts,
)
from utils.datasets.models import ModelRdms
from utils.datasets.rois import RoiRdms
from utils.parallel.resources import Resources
from utils.stats.comparison import compared
from utils.stats.cross_validation import CrossValidated
from utils.stats.inference import above_chance, all_pairs, difference_contrasts, fdr
from utils.stats.noise_ceiling import single_subject_ceilings
from utils.stats.nonnegative import negative_share
from utils.stats.refits import condition_subsets, subset_deviations, winner_stability
from utils.stats.regression import (
    Basis,
    MakeStatistic,
    orthonormal_basis,
    own_adjusted_r2,
    own_and_parts,
    own_r2,
    part_names,
    project,
    total_adjusted_r2,
    unique_adjusted_r2,
    unique_and_total,
    variance_parts,
)
from utils.stats.stepwise import stepwise_test

# Subsets of the conditions for the published error bars.
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
    share, share_low, share_high : ndarray of float64, shape (n_sets, n_rois)
        Unique variance as a share of the explainable variance, with its interval; for a single subject, and for models
        that differ between people, for which no reliability is known, of the whole variance.
    plain_unique : ndarray of float64, shape (n_sets, n_rois)
        Of RDMs as they are, adjusted for the number of predictors, as in the paper.
    se_difference, p_difference : ndarray of float64, shape (n_pairs, n_rois)
        Standard errors of the differences between all pairs of sets, and their p values.
    influence : ndarray of float64, shape (n_pairs, n_rois, n_conditions)
        How much the differences change without each condition.
    parts : ndarray of float64, shape (2**n_sets - 1, n_rois)
        All parts, in the order of `part_names`.
    total, total_share, total_low, total_high, plain_total : ndarray of float64, shape (n_rois,)
        Adjusted R2 of all sets together, which is the sum of the parts; as a share, with its interval; as in the paper.
    reliability : ndarray of float64, shape (n_rois,)
        Share of the mean RDM's variance that could be explained; NaN for a single subject, and for models that differ
        between people.
    ceiling_r2_lower, ceiling_r2_upper : ndarray of float64, shape (n_rois,)
        What could be explained of single subjects' RDMs (R2); NaN for a single subject.
    subjects : list of (values, chance)
        Per ROI, unique variance of every subject and its chance level, each (n_sets, n_subjects, 1).
    explained : list of (values, chance)
        Per ROI, the total adjusted R2 of every subject's own RDM and its chance level, each (n_subjects,).
    """

    sets: NDArray[np.int64]
    unique: NDArray[np.float64]
    se: NDArray[np.float64]
    share: NDArray[np.float64]
    share_low: NDArray[np.float64]
    share_high: NDArray[np.float64]
    plain_unique: NDArray[np.float64]
    se_difference: NDArray[np.float64]
    p_difference: NDArray[np.float64]
    influence: NDArray[np.float64]
    parts: NDArray[np.float64]
    total: NDArray[np.float64]
    total_share: NDArray[np.float64]
    total_low: NDArray[np.float64]
    total_high: NDArray[np.float64]
    plain_total: NDArray[np.float64]
    reliability: NDArray[np.float64]
    ceiling_r2_lower: NDArray[np.float64]
    ceiling_r2_upper: NDArray[np.float64]
    subjects: list[SubjectValues]
    explained: list[SubjectValues]

    @classmethod
    def empty(cls, sets: NDArray[np.int64], n_conditions: int) -> VariancePartition:
        """Space for the partition among `sets`, (n_sets, n_rois): NaN."""
        n_sets, n_rois = sets.shape
        n_pairs = len(all_pairs(n_sets))
        of_sets = ("unique", "se", "share", "share_low", "share_high", "plain_unique")
        of_rois = ("total", "total_share", "total_low", "total_high", "plain_total", "reliability",
                   "ceiling_r2_lower", "ceiling_r2_upper")  # fmt: skip
        shapes: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(of_sets, (n_sets, n_rois)),
            **dict.fromkeys(("se_difference", "p_difference"), (n_pairs, n_rois)),
            **{"influence": (n_pairs, n_rois, n_conditions), "parts": (2**n_sets - 1, n_rois)},
            **dict.fromkeys(of_rois, (n_rois,)),
        }
        nothing: list[Any] = [None] * n_rois
        arrays = {name: np.full(shape, np.nan) for name, shape in shapes.items()}
        return cls(sets, **arrays, subjects=[*nothing], explained=[*nothing])


@dataclass(frozen=True)
class RoiFit:
    """What models explain of every ROI's RDM.

    Attributes
    ----------
    models : ModelRdms
    rois : RoiRdms
    settings : Settings
    r2, adjusted_r2, plain_adjusted_r2 : ndarray of float64, shape (n_models, n_rois)
        Of each model by itself: not adjusted; adjusted by the exact chance level (as published: for the number of
        predictors); as in the paper.
    partition : VariancePartition
        Of each ROI among its best models, or all groups.
    set_names : list of str
        What the sets are called: "rank 1", "rank 2", ..., or the keys of the groups.
    test : Significance
        Of the unique variance of the sets, and of whether the models explain anything.
    differences : Differences
        Between the unique variances of all pairs of sets.
    lead : Lead
        Of the model that gives the ROI its colour on the map, among all models.
    stability : ndarray of float64, shape (n_rois,)
        Share of subsets of the conditions in which the same model wins.
    negative_share : ndarray of float64, shape (n_models, n_rois)
        Share of the R2 of each model by itself that takes negative weights.
    cross_validated : dict of str to ndarray of float64
        Arrays of `utils.analysis.predictions.named`, cv_r2 of all models and the others of the sets; none unless asked
        for.
    ceiling_lower, ceiling_upper : ndarray of float64, shape (n_rois,)
        Noise ceilings, mean Spearman correlations; NaN for a single subject.
    """

    models: ModelRdms
    rois: RoiRdms
    settings: Settings
    r2: NDArray[np.float64]
    adjusted_r2: NDArray[np.float64]
    plain_adjusted_r2: NDArray[np.float64]
    partition: VariancePartition
    set_names: list[str]
    test: Significance
    differences: Differences
    lead: Lead
    stability: NDArray[np.float64]
    negative_share: NDArray[np.float64]
    cross_validated: dict[str, NDArray[np.float64]]
    ceiling_lower: NDArray[np.float64]
    ceiling_upper: NDArray[np.float64]

    @property
    def stars(self) -> NDArray[np.str_]:
        """Of every bar, (n_sets, n_rois): "filled" above the minimum effect, "hollow" above 0, else empty."""
        settings = self.settings
        large = settings.as_published | (self.partition.share_low > settings.minimum_effect)
        return np.where(self.test.q <= settings.alpha, np.where(large, "filled", "hollow"), "")

    def table(self) -> pd.DataFrame:
        """One row per ROI and set, ROI by ROI; utils/reporting/columns.json describes the columns."""
        sets, partition, published = self.partition.sets, self.partition, self.settings.as_published
        members = [self.models.models[i] for i in sets.T.ravel()]
        rank = np.argsort(np.argsort(-self._ranked_by(), axis=0, kind="stable"), axis=0) + 1

        def rows(values: Any) -> NDArray:
            return np.broadcast_to(values, sets.shape).T.ravel()

        def of_partition(*names: str) -> dict[str, NDArray]:
            return {} if published else {name: rows(getattr(partition, name)) for name in names}

        own, plain = (np.take_along_axis(a, sets, axis=0) for a in (self.adjusted_r2, self.plain_adjusted_r2))
        columns = {
            "roi": rows(self.rois.names),
            "model": [model.key for model in members],
            "label": [model.label for model in members],
            "group": [model.group for model in members],
            **{
                "rank": rows(rank),
                "adjusted_r2": rows(own),
                "unique": rows(partition.unique),
                "se": rows(partition.se),
            },
            **of_partition("share", "share_low", "share_high"),
            **{"p": rows(self.test.p), "q": rows(self.test.q)},
            "significant": rows(self.test.q <= self.settings.alpha),
            **({} if published else {"star": rows(self.stars), "plain_adjusted_r2": rows(plain)}),
            **of_partition("plain_unique"),
            **self._signs_and_predictions(),
            "stability": np.where(rows(rank) == 1, rows(self.stability), np.nan),
            "total_adjusted_r2": rows(partition.total),
            **of_partition("total_share", "total_low", "total_high", "plain_total", "reliability"),
            "explained_r2": rows([values.mean() for values, _ in partition.explained]),
            "explained_se": rows([standard_error(values) for values, _ in partition.explained]),
            "explained_chance": rows([chance.mean() for _, chance in partition.explained]),
            **{"ceiling_lower": rows(self.ceiling_lower), "ceiling_upper": rows(self.ceiling_upper)},
            **of_partition("ceiling_r2_lower", "ceiling_r2_upper"),
        }
        table = pd.DataFrame(columns)
        if "weights_sign" in table:
            warn_of_negative_weights(table["weights_sign"], table["significant"].to_numpy(), "bars with an asterisk")
        return table

    def _signs_and_predictions(self) -> dict[str, NDArray]:
        """Columns on the signs of weights, and what is predicted of new people and images."""
        sets, found = self.partition.sets, self.cross_validated
        columns: dict[str, NDArray] = {}
        if not self.settings.as_published:
            columns["negative_share"] = np.take_along_axis(self.negative_share, sets, axis=0)
            columns["weights_sign"] = weights_sign(columns["negative_share"])
        for name in ("cv_r2", "cv_r2_se"):
            if name in found:
                columns[name] = np.take_along_axis(found[name], sets, axis=0)
        columns |= {
            name: found[name] for name in ("cv_unique", "cv_unique_se", "cv_total", "cv_ceiling") if name in found
        }
        return {name: np.broadcast_to(values, sets.shape).T.ravel() for name, values in columns.items()}

    def on_the_map(self, table: pd.DataFrame) -> pd.DataFrame:
        """What the map shows of each ROI: its first row, and whether that one's lead is established.

        Parameters
        ----------
        table : DataFrame
            That of `table`, perhaps with further columns.

        Returns
        -------
        DataFrame
            `significant` is now whether the ROI has its full colour, `explained` whether it has at least a pale one.
        """
        first, alpha = table[table["rank"] == 1], self.settings.alpha
        leads = self.lead.q_lead <= alpha
        if self.settings.as_published:
            return first.assign(significant=first["significant"].to_numpy() & (leads | np.isnan(self.lead.q_lead)))
        explained, values = self.test.q_explained <= alpha, self._compared_by()
        labels = [model.label for model in self.models.models]
        named = [alternatives(values[:, i], self.lead.candidates[:, i], labels) for i in range(len(leads))]
        return first.assign(
            significant=explained & leads,
            explained=explained,
            candidates=np.where(explained & ~leads, named, ""),
            q=self.test.q_explained,
            q_lead=self.lead.q_lead,
            share=np.where(np.isfinite(self.partition.reliability), self.partition.total_share, np.nan),
        )

    def _ranked_by(self) -> NDArray:
        return self._compared_by()

    def _compared_by(self) -> NDArray:
        """What decides which model gives a ROI its colour, (n_models, n_rois)."""
        return self.cross_validated.get("cv_unique", self.partition.unique)

    def arrays(self) -> dict[str, Any]:
        """All arrays by name, for arrays.npz."""
        partition, n_sets, names = self.partition, len(self.set_names), self.set_names
        hidden = ("sets", "p_difference", "influence", "parts", "subjects", "explained")
        own = [field.name for field in fields(partition) if field.name not in hidden]
        return {
            "models": [model.key for model in self.models.models],
            "places": self.rois.names,
            **{name: getattr(self, name) for name in ("r2", "adjusted_r2", "plain_adjusted_r2")},
            **{name: getattr(partition, name) for name in own},
            "shared": partition.parts[n_sets:],
            "shared_names": [" & ".join(names[i] for i in part) for part in part_names(n_sets)[n_sets:]],
            **vars(self.test),
            "p_difference": self.differences.p,
            "q_difference": self.differences.q,
            "difference_names": [f"{names[i]} - {names[j]}" for i, j in self.differences.pairs],
            **vars(self.lead),
            **{name: getattr(self, name) for name in ("stability", "ceiling_lower", "ceiling_upper")},
            **({} if self.settings.as_published else {"negative_share": self.negative_share}),
            **self.cross_validated,
        }

    def summary(self) -> dict[str, int | str]:
        """Numbers for the record of a run."""
        return {
            "n_rois": len(self.rois.names),
            "n_sets": len(self.set_names),
            "n_subjects": subject_range(self.rois),
            "n_conditions": self.models.n_conditions,
            **({"models_by_person": True} if self.models.by_person else {}),
        }


@dataclass(frozen=True)
class BestModelsFit(RoiFit):
    """A fit whose sets are the best models of each ROI, best first."""

    def _ranked_by(self) -> NDArray:
        return -np.broadcast_to(np.arange(len(self.set_names))[:, None], self.partition.sets.shape)

    def _compared_by(self) -> NDArray:
        return self.cross_validated.get("cv_r2", self.adjusted_r2)

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
    bases, fitted = fit_bases(models, settings), rois.fitted(models.by_person)
    rdms = compared(fitted, settings.comparison, models.pairs)
    check_assumptions(models.rdms, fitted, settings, models.pairs)
    adjusted_r2 = adjusted(bases, own_adjusted_r2, rdms, settings)
    if settings.as_published:
        adjusted_r2 = np.clip(adjusted_r2, 0, None)
    predicted = _predicted(bases, own_r2, models, rois, settings)
    best = np.argsort(-predicted.get("cv_r2", adjusted_r2), axis=0, kind="stable")[:n_best]
    partition = partition_rois(models, rois, best, settings, resources)
    test, differences = _tests_of_chosen(bases, models, rdms, partition, settings, resources)
    if settings.as_published:
        lead = published_lead(len(models.models), best[0], Differences((), *(np.zeros((0, len(rois.names))),) * 2))
    else:
        lead = _lead(bases, own_adjusted_r2, models, rois, best[0], settings)
    common = _common(models, rois, best[0], settings, own_adjusted_r2)
    predicted = _predicted_parts(models, rois, best, settings) | predicted
    names = [f"rank {k}" for k in range(1, n_best + 1)]
    return BestModelsFit(
        **common, adjusted_r2=adjusted_r2, partition=partition, set_names=names, test=test, differences=differences,
        lead=lead, cross_validated=predicted,
    )  # fmt: skip


def _tests_of_chosen(
    bases: list[Basis],
    models: ModelRdms,
    rdms: NDArray[np.float64],
    partition: VariancePartition,
    settings: Settings,
    resources: Resources,
) -> tuple[Significance, Differences]:
    """Test the best models of every ROI beside each other, by the route that the settings choose."""
    if settings.stats == "t-test":
        return _tests_over_subjects(partition, settings)
    if not settings.as_published:
        explained = best_of_all(bases, rdms, settings, resources)
        with resources.progress("stepwise test") as advance:
            steps = stepwise_test(bases, partition.sets, rdms, permutations(settings, bases[0]), advance, resources)
        q = steps.p_max if settings.correction == "max" else fdr(steps.p)
        return Significance(steps.p, q, explained.p_explained, explained.q_explained), _differences(partition, settings)
    # As published, the models are chosen once: those of each ROI are tested by themselves.
    pairs = all_pairs(len(partition.sets))
    tests = []
    for choice, rdm in zip(partition.sets.T, rdms[0], strict=True):
        own = orthonormal_basis(models.rdms[choice], pairs=models.pairs)
        tests.append(published_tests(own, unique_adjusted_r2(own), rdm[None], pairs, settings, resources, False))
    joined = [np.concatenate([getattr(test, name) for test, _ in tests], axis=-1) for name in vars(tests[0][0])]
    between = [np.concatenate([getattr(own, name) for _, own in tests], axis=1) for name in ("p", "q")]
    return Significance(*joined), Differences(pairs, *between)


def fit_groups(groups: ModelRdms, rois: RoiRdms, settings: Settings, resources: Resources) -> RoiFit:
    """Partition the variance of every ROI among all groups, and test their unique variance.

    Parameters, exceptions: as for `fit_best_models`.

    Returns
    -------
    RoiFit
    """
    bases, fitted = fit_bases(groups, settings), rois.fitted(groups.by_person)
    rdms = compared(fitted, settings.comparison, groups.pairs)
    check_assumptions(groups.rdms, fitted, settings, groups.pairs)
    everywhere = np.repeat(np.arange(len(groups.models))[:, None], len(rois.names), axis=1)
    partition = partition_rois(groups, rois, everywhere, settings, resources)
    predicted = _predicted(bases, own_and_parts, groups, rois, settings)
    winner = predicted.get("cv_unique", partition.unique).argmax(axis=0)
    pairs = all_pairs(len(groups.models))
    if settings.stats == "t-test":
        test, differences = _tests_over_subjects(partition, settings)
    elif settings.as_published:
        statistic = unique_adjusted_r2(bases[0])
        test, differences = published_tests(bases[0], statistic, rdms[0], pairs, settings, resources, False)
    else:
        test, differences = beside_others(bases, rdms, settings, resources), _differences(partition, settings)
    if settings.as_published:
        lead = published_lead(len(groups.models), winner, differences)
    else:
        lead = _lead(bases, unique_and_total, groups, rois, winner, settings)
    return RoiFit(
        **_common(groups, rois, winner, settings, unique_adjusted_r2),
        adjusted_r2=adjusted(bases, own_adjusted_r2, rdms, settings),
        partition=partition,
        set_names=[group.key for group in groups.models],
        test=test,
        differences=differences,
        lead=lead,
        cross_validated=predicted,
    )


def _predicted(
    bases: list[Basis], statistic: MakeStatistic, models: ModelRdms, rois: RoiRdms, settings: Settings
) -> dict[str, NDArray[np.float64]]:
    """Cross-validated values of the ROIs by name; none unless they are asked for."""
    if not settings.cross_validate:
        return {}
    predict = validation(bases, statistic, settings, by_person=models.by_person)
    found = [predict(subjects[:, None]) for subjects in rois.subjects]
    return named(CrossValidated.over_locations(found), len(models.models))


def _predicted_parts(
    models: ModelRdms, rois: RoiRdms, sets: NDArray[np.int64], settings: Settings
) -> dict[str, NDArray[np.float64]]:
    """Cross-validated values of each ROI's own sets of predictors, (n_sets, n_rois)."""
    if not settings.cross_validate:
        return {}
    found = []
    for chosen, subjects in zip(sets.T, rois.subjects, strict=True):
        bases = bases_of(models, settings.comparison, chosen)
        predict = validation(bases, own_and_parts, settings, by_person=models.by_person)
        found.append(predict(subjects[:, None]))
    return named(CrossValidated.over_locations(found), len(sets))


def adjusted(
    bases: Sequence[Basis], statistic: MakeStatistic, rdms: NDArray[np.float64], settings: Settings
) -> NDArray[np.float64]:
    """A statistic with R2 adjusted by the exact chance level, or as published for the number of predictors.

    Parameters
    ----------
    bases : sequence of Basis
        One for everyone, or of each person's own models.
    statistic : callable
    rdms : ndarray of float64, shape (n_bases, n_locations, n_pairs)
        In the form in which they are compared: mean RDMs, or those of every person.
    settings : Settings

    Returns
    -------
    ndarray of float64, shape (n_statistics, n_locations)
        Mean over people.
    """

    def of_one(basis: Basis, own: NDArray[np.float64]) -> NDArray[np.float64]:
        values = statistic(basis)
        return values(project(basis, own)) if settings.as_published else above_chance(basis, values, own)

    return averaged(of_one, bases, rdms)


def _common(
    models: ModelRdms, rois: RoiRdms, winner: NDArray[np.int64], settings: Settings, statistic: Any
) -> dict[str, Any]:
    """Arguments of `RoiFit` that are found in the same way for both figures."""
    fitted, bases = rois.fitted(models.by_person), bases_of(models, settings.comparison)
    rdms = compared(fitted, settings.comparison, models.pairs)
    projected = [project(basis, own) for basis, own in zip(bases, rdms, strict=True)]
    lower, upper = rois.ceilings()
    return {
        **{"models": models, "rois": rois, "settings": settings},
        "r2": averaged(lambda basis, own: own_r2(basis)(own), bases, projected),
        "plain_adjusted_r2": projected_values(plain_bases(models), own_adjusted_r2, fitted),
        "stability": winner_stability(bases, statistic, rdms, winner, seed=settings.seed),
        "negative_share": negative_share(bases, projected),
        **{"ceiling_lower": lower, "ceiling_upper": upper},
    }


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
        If there are too few conditions to fit so many predictors without some of them.
    """
    # ROIs with the same models are fitted together.
    choices, choice_of = np.unique(sets, axis=1, return_inverse=True)
    result, done = VariancePartition.empty(sets, models.n_conditions), 0
    with resources.progress("variance partitioning") as advance:
        for number, choice in enumerate(choices.T):
            members = np.flatnonzero(choice_of.ravel() == number)
            _partition(models, choice, rois, members, settings, result)
            done += len(members)
            advance(done, len(rois.names))
    return result


def _partition(
    models: ModelRdms, choice: NDArray[np.int64], rois: RoiRdms, members: NDArray[np.int64], settings: Settings,
    result: VariancePartition,
) -> None:  # fmt: skip
    """Fill in the partition of some ROIs, `members`, that have the same models, `choice`."""
    own, bases = [rois.subjects[i] for i in members], bases_of(models, settings.comparison, choice)
    fitted = rois.fitted(models.by_person, members)
    rdms = compared(fitted, settings.comparison, models.pairs)
    result.unique[:, members] = adjusted(bases, unique_adjusted_r2, rdms, settings)
    result.parts[:, members] = adjusted(bases, variance_parts, rdms, settings)
    result.total[members] = adjusted(bases, total_adjusted_r2, rdms, settings)[0]
    plain = plain_bases(models, choice)
    result.plain_unique[:, members] = projected_values(plain, unique_adjusted_r2, fitted)
    result.plain_total[members] = projected_values(plain, total_adjusted_r2, fitted)[0]
    if settings.as_published:
        _published_errors(bases[0], fitted[0], members, settings, result)
    else:
        check_subsets(bases, 1)
        sampler = jackknife_of(bases, unique_and_total, settings.comparison, by_person=models.by_person)
        n_predictors = max(basis.q.shape[1] for basis in bases)
        for i, subjects in zip(members, own, strict=True):
            _errors(sampler, subjects, i, settings, result)
            bounds = single_subject_ceilings(subjects[:, None], n_predictors, settings.comparison, models.pairs)
            result.ceiling_r2_lower[i], result.ceiling_r2_upper[i] = (float(bound[0]) for bound in bounds)
    if models.by_person:
        of_sets, of_all = (values_of_people(bases, make, rdms) for make in (unique_adjusted_r2, total_adjusted_r2))
        unique = [np.split(part, len(members), axis=2) for part in of_sets]
        explained = [[*part[0].T] for part in of_all]
    else:
        stacked = compared(np.concatenate(own), settings.comparison, models.pairs)[:, None]
        of_sets, of_all = (values_of_people(bases, make, stacked) for make in (unique_adjusted_r2, total_adjusted_r2))
        ends = np.cumsum([len(subjects) for subjects in own])[:-1]
        unique = [np.split(part, ends, axis=1) for part in of_sets]
        explained = [np.split(part.ravel(), ends) for part in of_all]
    for i, *values in zip(members, *unique, *explained, strict=True):
        result.subjects[i], result.explained[i] = tuple(values[:2]), tuple(values[2:])


def _published_errors(
    basis: Basis, mean: NDArray[np.float64], members: NDArray[np.int64], settings: Settings, result: VariancePartition
) -> None:
    """Standard deviations over random subsets of the conditions."""
    n_conditions = result.influence.shape[2]
    kept = round(settings.bootstrap_ratio * n_conditions)
    check_subsets([basis], n_conditions - kept)
    subsets = condition_subsets(n_conditions, kept, N_SUBSETS, settings.seed)
    errors = subset_deviations(basis, mean, subsets, all_pairs(basis.n_sets))
    result.se[:, members], result.se_difference[:, members] = errors.unique, errors.difference


def _errors(
    sampler: Sampler,
    subjects: NDArray[np.float64],
    i: int,
    settings: Settings,
    result: VariancePartition,
) -> None:
    """Standard errors and intervals of one ROI: of the sets, of all pairs, and of the total."""
    n_sets = len(result.unique)
    pairs = np.pad(difference_contrasts(all_pairs(n_sets), n_sets), ((0, 0), (0, 1)))
    sampled = sampler(subjects.mean(axis=0)[None], subjects[:, None], np.vstack([np.eye(n_sets + 1), pairs]))
    sets, total, between = slice(0, n_sets), n_sets, slice(n_sets + 1, None)
    over, reliable = settings.generalise, bool(np.isfinite(sampled.reliability[0]))
    se = sampled.components.standard_error(over)[:, 0]
    values, components = (
        (sampled.shares, sampled.share_components) if reliable else (sampled.estimates, sampled.components)
    )
    margin = components.standard_error(over)[:, 0] * t_quantile(settings, result.influence.shape[2], len(subjects))
    share, low, high = values[:, 0], values[:, 0] - margin, values[:, 0] + margin
    result.se[:, i], result.se_difference[:, i] = se[sets], se[between]
    result.share[:, i], result.share_low[:, i], result.share_high[:, i] = share[sets], low[sets], high[sets]
    result.total_share[i], result.total_low[i], result.total_high[i] = share[total], low[total], high[total]
    result.reliability[i] = sampled.reliability[0]
    result.influence[:, i] = sampled.influence[between, 0]
    result.p_difference[:, i] = difference_p_values(sampled.estimates, sampled.components, settings)[between, 0]


def _differences(partition: VariancePartition, settings: Settings) -> Differences:
    """Differences between all pairs of sets, corrected over pairs and ROIs."""
    p, pairs = partition.p_difference, all_pairs(len(partition.sets))
    corrected = family_wise(p, partition.influence, settings)
    return Differences(pairs, p, fdr(p) if corrected is None else corrected)


def _tests_over_subjects(partition: VariancePartition, settings: Settings) -> tuple[Significance, Differences]:
    pairs = all_pairs(len(partition.sets)) if settings.as_published else []
    test, differences = tests_over_subjects(partition.subjects, partition.unique.argmax(axis=0), pairs, settings)
    return test, differences if settings.as_published else _differences(partition, settings)


def _lead(
    bases: list[Basis],
    statistic: MakeStatistic,
    models: ModelRdms,
    rois: RoiRdms,
    winner: NDArray[np.int64],
    settings: Settings,
) -> Lead:
    """Whether each ROI's model leads all others, by the first values of the statistic."""
    n, n_all = len(models.models), len(statistic(bases[0]).subset_weights)
    sampler = jackknife_of(bases, statistic, settings.comparison, by_person=models.by_person)
    contrasts = winner_contrasts(winner, n, n_all - n)
    found = [
        sampler(subjects.mean(axis=0)[None], subjects[:, None], contrasts[i])
        for i, subjects in enumerate(rois.subjects)
    ]
    p = np.concatenate([lead_p_values(s.estimates, s.components, settings)[:n] for s in found], axis=1)
    influence = np.concatenate([s.influence[:n] for s in found], axis=1)
    return lead_of(p, influence, winner, [model.group for model in models.models], settings)


def standard_error(values: NDArray[np.float64]) -> float:
    """Standard error of a mean over subjects; NaN for one subject."""
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else np.nan


def subject_range(rois: RoiRdms) -> str:
    """How many subjects the ROIs have, as text: "16", or "14-16" where they differ."""
    numbers = [len(rdms) for rdms in rois.subjects]
    return f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)}-{max(numbers)}"
