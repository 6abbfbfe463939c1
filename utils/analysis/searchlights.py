"""What models explain of every searchlight, and what of it is established: Fig 1 and Fig 3a."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils import InputError
from utils.analysis.assumptions import check_assumptions
from utils.analysis.predictions import named, validation
from utils.analysis.predictors import (
    averaged,
    check_subsets,
    fit_bases,
    nonnegative_fit,
    plain_bases,
    projected_values,
)
from utils.analysis.settings import Settings
from utils.analysis.significance import (
    Lead,
    Sampler,
    Significance,
    alternatives,
    beside_others,
    best_of_all,
    best_without_negative_weights,
    jackknife_of,
    published_lead,
    published_tests,
    sampled_lead,
    t_quantile,
    tests_over_subjects,
    values_of_people,
    warn_of_negative_weights,
    weights_sign,
    winner_contrasts,
)
from utils.datasets.models import ModelRdms
from utils.datasets.searchlights import SearchlightRdms
from utils.parallel.resources import Resources
from utils.stats.comparison import compared
from utils.stats.cross_validation import CrossValidated
from utils.stats.inference import above_chance_of, all_pairs, energy_of
from utils.stats.jackknife import Jackknife, Sampled
from utils.stats.nonnegative import negative_share
from utils.stats.refits import winner_stability
from utils.stats.regression import (
    Basis,
    MakeStatistic,
    own_adjusted_r2,
    own_and_parts,
    own_r2,
    part_names,
    project,
    standardise,
    total_adjusted_r2,
    unique_adjusted_r2,
    unique_and_total,
    variance_parts,
)


@dataclass(frozen=True)
class SearchlightFit:
    """What each model explains of every searchlight's RDM.

    The last axis of all arrays is all searchlights, with NaN for those that are not usable or not tested.

    Attributes
    ----------
    models : ModelRdms
    brain : SearchlightRdms
    settings : Settings
    tested : ndarray of bool, shape (n_searchlights,)
    r2, adjusted_r2 : ndarray of float64, shape (n_models, n_searchlights)
        Adjusted by the exact chance level; as published, for the number of predictors.
    plain_adjusted_r2 : ndarray of float64, shape (n_models, n_searchlights)
        Of RDMs as they are, adjusted for the number of predictors, as in the paper.
    p, q : ndarray of float64, shape (n_models, n_searchlights)
        Uncorrected and corrected p values of each model.
    p_explained, q_explained : ndarray of float64, shape (n_searchlights,)
        Whether the models explain anything: the best one, given that it was chosen for being the best, or all together.
    p_lead, q_lead : ndarray of float64, shape (n_searchlights,)
        Of the smallest difference between the winner and another model.
    q_group_lead : ndarray of float64, shape (n_searchlights,)
        As `q_lead`, over models of other groups only.
    candidates : ndarray of float64, shape (n_models, n_searchlights)
        1 for the winner and for those that are not told apart from it, else 0.
    se, share, share_se, reliability : ndarray of float64, shape (n_searchlights,)
        Of the winner's value: its standard error; the value as a share of the explainable variance, and the standard
        error of that; the reliability of the mean RDM, which is the explainable share. The last three are NaN for a
        single subject, and for models that differ between people.
    stability : ndarray of float64, shape (n_searchlights,)
        Share of subsets of the conditions in which the same model wins.
    negative_share : ndarray of float64, shape (n_models, n_searchlights)
        Share of a model's R2, with free weights, that takes negative weights.
    cross_validated : dict of str to ndarray of float64
        Arrays of `utils.analysis.predictions.named`; none unless asked for.
    """

    models: ModelRdms
    brain: SearchlightRdms
    settings: Settings
    tested: NDArray[np.bool_]
    r2: NDArray[np.float64]
    adjusted_r2: NDArray[np.float64]
    plain_adjusted_r2: NDArray[np.float64]
    p: NDArray[np.float64]
    q: NDArray[np.float64]
    p_explained: NDArray[np.float64]
    q_explained: NDArray[np.float64]
    p_lead: NDArray[np.float64]
    q_lead: NDArray[np.float64]
    q_group_lead: NDArray[np.float64]
    candidates: NDArray[np.float64]
    se: NDArray[np.float64]
    share: NDArray[np.float64]
    share_se: NDArray[np.float64]
    reliability: NDArray[np.float64]
    stability: NDArray[np.float64]
    negative_share: NDArray[np.float64]
    cross_validated: dict[str, NDArray[np.float64]]

    # What models are compared by, and its cross-validated counterpart, which ranks them where there is one.
    compared: ClassVar[str] = "adjusted_r2"
    predicted: ClassVar[str] = "cv_r2"

    def winners(self) -> pd.DataFrame:
        """The best model of every searchlight, and what is established of it.

        Returns
        -------
        DataFrame
            One row per searchlight; utils/reporting/columns.json describes the columns. Winner and group are None where
            the searchlight is not usable.
        """
        values, alpha = getattr(self, self.compared), self.settings.alpha
        ranking = self.cross_validated.get(self.predicted, values)
        winner = best(ranking)
        numbers = np.arange(len(winner))
        x, y, z = self.brain.geometry.centers_mm().T
        named = np.where(self.brain.usable, winner, -1)
        keys, groups = (
            np.array([*(getattr(model, name) for model in self.models.models), None], dtype=object)[named]
            for name in ("key", "group")
        )
        explained = self.q_explained <= alpha
        # As published, Fig 1 asks for no lead.
        any_lead = bool(np.isfinite(self.q_lead).any())
        leads = self.q_lead <= alpha if any_lead else np.ones_like(explained)
        table = {
            **{"searchlight": numbers, "x": x, "y": y, "z": z, "tested": self.tested},
            **{"winner": keys, "group": groups, self.compared: values[winner, numbers]},
        }
        if not self.settings.as_published:
            plain = getattr(self, f"plain_{self.compared}")[winner, numbers]
            margin = self.share_se * t_quantile(self.settings, self.models.n_conditions, self.brain.n_subjects)
            table |= {f"plain_{self.compared}": plain, "se": self.se, "share": self.share}
            table |= {"share_low": self.share - margin, "share_high": self.share + margin}
            if self.settings.weights == "free":
                negative = self.negative_share[winner, numbers]
                table |= {"negative_share": negative, "weights_sign": weights_sign(negative)}
        for name in (self.predicted, f"{self.predicted}_se", "cv_total", "cv_ceiling"):
            if (found := self.cross_validated.get(name)) is not None:
                table[name] = found[winner, numbers] if found.ndim > 1 else found
        table |= {"p": self.p_explained, "q": self.q_explained}
        table |= {"p_lead": self.p_lead, "q_lead": self.q_lead} if any_lead else {}
        if not self.settings.as_published:
            labels, pale = [model.label for model in self.models.models], np.flatnonzero(explained & ~leads)
            named = np.full(len(winner), "", dtype=object)
            named[pale] = [alternatives(ranking[:, i], self.candidates[:, i] == 1, labels) for i in pale]
            table |= {"explained": explained, "candidates": named}
        table["significant"] = explained & leads
        if not self.settings.as_published and any(model.key != model.group for model in self.models.models):
            established = explained & (self.q_group_lead <= alpha)
            table |= {"q_group_lead": self.q_group_lead, "group_significant": established}
        table["stability"] = self.stability
        if "weights_sign" in table:
            remedy = "; `weights` nonnegative excludes that" if self.compared == "adjusted_r2" else ""
            warn_of_negative_weights(table["weights_sign"], explained, "coloured searchlights", remedy)
        return pd.DataFrame(table).assign(ceiling_lower=self.brain.ceiling_lower, reliability=self.reliability)

    def arrays(self) -> dict[str, Any]:
        """All arrays by name, for arrays.npz."""
        hidden = ["models", "brain", "settings", "tested", "cross_validated"]
        hidden += ["negative_share"] if self.settings.as_published else []
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in hidden}
        return {
            "models": [model.key for model in self.models.models],
            "places": np.arange(len(self.tested)),
            **own,
            **self.cross_validated,
            "ceiling_lower": self.brain.ceiling_lower,
            "ceiling_upper": self.brain.ceiling_upper,
        }

    def summary(self) -> dict[str, Any]:
        """Numbers for the record of a run; `ceiling` is None where none was asked for, or there is none."""
        return {
            "n_searchlights": len(self.tested),
            "n_tested": int(self.tested.sum()),
            "ceiling": self.settings.ceiling if self.brain.has_ceiling and not self.models.by_person else None,
            "n_subjects": self.brain.n_subjects,
            "n_conditions": self.models.n_conditions,
            **({"models_by_person": True} if self.models.by_person else {}),
        }


@dataclass(frozen=True)
class SearchlightPartition(SearchlightFit):
    """Variance of every searchlight's RDM, partitioned among groups of models; they are compared by unique variance.

    Attributes
    ----------
    unique, plain_unique : ndarray of float64, shape (n_groups, n_searchlights)
        Unique variance (adjusted R2), and as in the paper.
    shared : ndarray of float64, shape (n_parts, n_searchlights)
        Variance shared by each two or more groups, in the order of `part_names`.
    total, total_share : ndarray of float64, shape (n_searchlights,)
        Adjusted R2 of all groups together, which is the sum of all parts; and as a share of the explainable variance.
    """

    unique: NDArray[np.float64]
    plain_unique: NDArray[np.float64]
    shared: NDArray[np.float64]
    total: NDArray[np.float64]
    total_share: NDArray[np.float64]

    compared: ClassVar[str] = "unique"
    predicted: ClassVar[str] = "cv_unique"

    def winners(self) -> pd.DataFrame:
        """The strongest group of every searchlight, and what is established of it."""
        total = {"total_adjusted_r2": self.total}
        return (
            super()
            .winners()
            .assign(**total if self.settings.as_published else total | {"total_share": self.total_share})
        )

    def arrays(self) -> dict[str, Any]:
        """All arrays by name, for arrays.npz."""
        keys = [group.key for group in self.models.models]
        shared = part_names(len(keys))[len(keys) :]
        return super().arrays() | {"shared_names": [" & ".join(keys[i] for i in part) for part in shared]}


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
    data = _Study(models, brain, settings, resources)
    adjusted = data.values(own_adjusted_r2)
    if settings.as_published:
        adjusted = np.clip(adjusted, 0, None)
    predicted = data.cross_validated(own_r2)
    winner = best(predicted.get("cv_r2", adjusted)[:, data.inside])
    test, lead, sampled = data.inference(own_adjusted_r2, winner, best_of_all)
    arguments = data.common(test, lead, sampled, winner, own_adjusted_r2, adjusted)
    return SearchlightFit(**arguments, cross_validated=unmask(brain.usable, **predicted))


def partition_searchlights(
    groups: ModelRdms, brain: SearchlightRdms, settings: Settings, resources: Resources
) -> SearchlightPartition:
    """Partition the variance of every searchlight's RDM among groups of models, and test their unique variance.

    Parameters, exceptions: as for `fit_searchlights`.

    Returns
    -------
    SearchlightPartition
    """
    data = _Study(groups, brain, settings, resources)
    parts, n_groups = data.values(variance_parts), len(groups.models)
    unique, total = parts[:n_groups], data.values(total_adjusted_r2)[0]
    predicted = data.cross_validated(own_and_parts)
    winner = best(predicted.get("cv_unique", unique)[:, data.inside])
    test, lead, sampled = data.inference(unique_adjusted_r2, winner, beside_others)
    total_share = np.full(len(winner), np.nan) if sampled is None else sampled.shares[n_groups]
    arguments = data.common(test, lead, sampled, winner, unique_adjusted_r2, data.values(own_adjusted_r2))
    arguments |= unmask(brain.usable, unique=unique, shared=parts[n_groups:], total=total)
    arguments |= unmask(brain.usable, plain_unique=data.plain_values(unique_adjusted_r2))
    arguments |= unmask(data.tested, total_share=total_share)
    return SearchlightPartition(**arguments, cross_validated=unmask(brain.usable, **predicted))


def best(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number of the largest value in each column of (n_models, n_locations); NaN is none."""
    return np.asarray(np.nan_to_num(values, nan=-np.inf).argmax(axis=0))


def tested_searchlights(brain: SearchlightRdms, ceiling: float | None, *, by_person: bool = False) -> NDArray[np.bool_]:
    """Searchlights that are usable and whose lower noise ceiling is high enough.

    Parameters
    ----------
    brain : SearchlightRdms
    ceiling : float or None
        Smallest lower noise ceiling, a mean Spearman correlation; None for all usable searchlights. These are all
        tested, with a warning, where there are no ceilings, as for a single subject, and where models differ between
        people, which then need not be alike.
    by_person : bool
        Whether models differ between people.

    Returns
    -------
    ndarray of bool, shape (n_searchlights,)

    Raises
    ------
    InputError
        If there is none.
    """
    if ceiling is None:
        return brain.usable
    if not brain.has_ceiling:
        warnings.warn(
            "the data of one person have no noise ceiling (`ceiling`): all searchlights that have an RDM are tested, "
            "and intervals and leads are about other images, not about other people",
            stacklevel=2,
        )
        return brain.usable
    if by_person:
        warnings.warn(
            "models differ between people, and may explain what is each person's own: all searchlights that have RDMs "
            "are tested, also those whose RDMs are not alike (`ceiling` none says so without this warning)",
            stacklevel=2,
        )
        return brain.usable
    tested = brain.usable & (brain.ceiling_lower >= ceiling)
    if not tested.any():
        highest = brain.ceiling_lower[brain.usable].max()
        raise InputError(
            f"no searchlight has a lower noise ceiling of {ceiling:g} or more (the highest is {highest:.3g}); "
            "choose a smaller `ceiling`"
        )
    return tested


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


class _Study:
    """Models and brain of a fit, in the form in which they are compared: of the mean over people, or of each person."""

    def __init__(self, models: ModelRdms, brain: SearchlightRdms, settings: Settings, resources: Resources) -> None:
        self.models, self.brain, self.settings, self.resources = models, brain, settings, resources
        self.tested = tested_searchlights(brain, settings.ceiling, by_person=models.by_person)
        # Which of the usable searchlights are tested.
        self.inside = self.tested[brain.usable]
        self.bases = fit_bases(models, settings)
        if not settings.as_published:
            check_subsets(self.bases, 1)
        self._nonnegative = nonnegative_fit(self.bases[0]) if settings.weights == "nonnegative" else None
        if models.by_person:
            self._responses, typical = self._read()
            check_assumptions(models.rdms, typical[:, None], settings, models.pairs)
        else:
            self._responses = compared(brain.mean[None, brain.usable], settings.comparison, models.pairs)
            check_assumptions(models.rdms, brain.mean[self.tested], settings, models.pairs)

    def _read(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """RDMs of every person as they are compared (n_people, n_usable, n_pairs), and the mean over tested ones."""
        n_people, n_pairs = len(self.bases), self.brain.mean.shape[1]
        responses, typical = np.empty((n_people, self.inside.size, n_pairs)), np.zeros((n_people, n_pairs))
        for here, rdms in self._fitted():
            responses[:, here] = compared(rdms, self.settings.comparison, self.models.pairs)
            typical += standardise(rdms[:, self.inside[here]]).sum(axis=1)
        return responses, typical

    def _fitted(self) -> Iterator[tuple[slice, NDArray]]:
        """What models are fitted to, as it is: which of the usable searchlights, and RDMs (n_bases, n, n_pairs)."""
        usable = self.brain.usable
        if not self.models.by_person:
            yield slice(0, int(usable.sum())), self.brain.mean[None, usable]
            return
        with self.resources.progress("reading people's RDMs") as advance:
            done = 0
            for places, rdms in self.brain.blocks():
                chosen = rdms[:, usable[places]]
                yield slice(done, done + chosen.shape[1]), chosen
                done += chosen.shape[1]
                advance(places.stop, len(usable))

    @cached_property
    def _projected(self) -> list[NDArray[np.float64]]:
        return [project(basis, rdms) for basis, rdms in zip(self.bases, self._responses, strict=True)]

    @cached_property
    def _energy(self) -> list[NDArray[np.float64]]:
        return [energy_of(standardise(rdms), self.models.pairs) for rdms in self._responses]

    @cached_property
    def _tested_rdms(self) -> NDArray[np.float64]:
        return self._responses[:, self.inside]

    def values(self, statistic: MakeStatistic) -> NDArray[np.float64]:
        """A statistic of the usable searchlights, adjusted by the chance level or as published."""
        if self._nonnegative is not None:
            return self._nonnegative.adjusted(self._responses[0])

        def of_one(basis: Basis, own: tuple[NDArray[np.float64], NDArray[np.float64]]) -> NDArray[np.float64]:
            values = statistic(basis)
            return values(own[0]) if self.settings.as_published else above_chance_of(basis, values, *own)

        return averaged(of_one, self.bases, zip(self._projected, self._energy, strict=True))

    def plain_values(self, statistic: MakeStatistic) -> NDArray[np.float64]:
        """A statistic of the usable searchlights as in the paper."""
        as_it_is = self.settings.comparison == "plain" and not self.bases[0].given
        bases = self.bases if as_it_is else plain_bases(self.models)
        return np.concatenate([projected_values(bases, statistic, rdms) for _, rdms in self._fitted()], axis=1)

    def inference(
        self, statistic: MakeStatistic, winner: NDArray[np.int64], by_permutation: Callable[..., Significance]
    ) -> tuple[Significance, Lead, Sampled | None]:
        """What is above chance, and whether the winner leads, by the route that the settings choose."""
        settings = self.settings
        pairs = all_pairs(len(self.models.models)) if settings.as_published and statistic is unique_adjusted_r2 else []
        if settings.stats == "t-test":
            test, differences = tests_over_subjects(
                self._subjects(statistic), winner, pairs, settings, over_locations=True
            )
        elif settings.as_published:
            test, differences = published_tests(
                self.bases[0], statistic(self.bases[0]), self._tested_rdms[0], pairs, settings, self.resources, True
            )
        elif self._nonnegative is not None:
            test = best_without_negative_weights(self._nonnegative, self._tested_rdms[0], settings, self.resources)
        else:
            test = by_permutation(self.bases, self._tested_rdms, settings, self.resources)
        if settings.as_published:
            return test, published_lead(len(self.models.models), winner, differences), None
        sampled = self._sampled(statistic, winner)
        groups = [model.group for model in self.models.models]
        return test, sampled_lead(sampled, winner, groups, settings), sampled

    def cross_validated(self, statistic: MakeStatistic) -> dict[str, NDArray[np.float64]]:
        """Cross-validated values of the usable searchlights by name; none unless they are asked for."""
        if not self.settings.cross_validate:
            return {}
        predict = validation(self.bases, statistic, self.settings, by_person=self.models.by_person)
        parts = []
        with self.resources.progress("cross-validation") as advance:
            for places, rdms in self.brain.blocks():
                usable = self.brain.usable[places]
                if usable.any():
                    parts.append(predict(rdms[:, usable]))
                advance(places.stop, len(self.tested))
        return named(CrossValidated.over_locations(parts), len(self.models.models))

    def _subjects(self, statistic: MakeStatistic) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Values of every subject's own RDMs and their chance levels, block after block of the tested searchlights."""
        subjects = []
        with self.resources.progress("t-tests") as advance:
            for places, rdms in self.brain.blocks():
                if self.tested[places].any():
                    chosen = compared(rdms[:, self.tested[places]], self.settings.comparison, self.models.pairs)
                    subjects.append(values_of_people(self.bases, statistic, chosen))
                advance(places.stop, len(self.tested))
        return subjects

    def _sampled(self, statistic: MakeStatistic, winner: NDArray[np.int64]) -> Sampled:
        """Of the tested searchlights: the winner minus each other model, in the winner's row its own value.

        For unique variances there is one more row, the total.
        """
        n = len(self.models.models)
        own = unique_and_total if statistic is unique_adjusted_r2 else statistic
        nonnegative, comparison = self._nonnegative, self.settings.comparison
        jackknife: Sampler
        if nonnegative is not None:
            active = nonnegative.r2(self._projected[0][:, self.inside])[1]
            jackknife = Jackknife(self.bases[0], nonnegative.statistic, comparison)
        else:
            jackknife = jackknife_of(self.bases, own, comparison, by_person=self.models.by_person)
        contrasts = winner_contrasts(winner, n, 1 if statistic is unique_adjusted_r2 else 0)
        parts, done = [], 0
        with self.resources.progress("standard errors") as advance:
            for block, rdms in self.brain.blocks():
                chosen = rdms[:, self.tested[block]]
                if chosen.shape[1]:
                    here = slice(done, done + chosen.shape[1])
                    mean = self.brain.mean[block][self.tested[block]]
                    weights, done = contrasts[here], here.stop
                    if nonnegative is not None:
                        weights = nonnegative.contrasts(active[:, here], weights)
                    part = jackknife(mean, chosen, weights)
                    if self.settings.correction != "max":  # as large as the data, and not needed
                        part = replace(part, influence=part.influence[:, :, :0])
                    parts.append(part)
                advance(block.stop, len(self.tested))
        return Sampled.over_locations(parts)

    def common(
        self,
        test: Significance,
        lead: Lead,
        sampled: Sampled | None,
        winner: NDArray[np.int64],
        statistic: MakeStatistic,
        adjusted_r2: NDArray[np.float64],
    ) -> dict[str, Any]:
        """Arguments of `SearchlightFit`."""
        n = len(winner)
        nothing = np.full(n, np.nan)
        errors = {"se": nothing, "share": nothing, "share_se": nothing, "reliability": nothing}
        if sampled is not None:
            own, over = (winner, np.arange(n)), self.settings.generalise
            errors = {
                "se": sampled.components.standard_error(over)[own],
                "share": sampled.shares[own],
                "share_se": sampled.share_components.standard_error(over)[own],
                "reliability": sampled.reliability,
            }
        with self.resources.progress("refits to subsets of the conditions") as advance:
            if self._nonnegative is not None:
                stability = self._nonnegative.stability(self._tested_rdms[0], winner, self.settings.seed)
            else:
                stability = winner_stability(
                    self.bases, statistic, self._tested_rdms, winner, seed=self.settings.seed, progress=advance
                )
        return {
            **{"models": self.models, "brain": self.brain, "settings": self.settings, "tested": self.tested},
            **unmask(
                self.brain.usable,
                r2=(
                    self._nonnegative.r2(self._projected[0])[0]
                    if self._nonnegative
                    else averaged(lambda basis, own: own_r2(basis)(own), self.bases, self._projected)
                ),
                negative_share=negative_share(self.bases, self._projected),
                adjusted_r2=adjusted_r2,
                plain_adjusted_r2=self.plain_values(own_adjusted_r2),
            ),
            **unmask(self.tested, **vars(test), **vars(lead), **errors, stability=stability),
        }
