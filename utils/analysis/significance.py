"""From tests and standard errors to what a figure claims."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils import InputError
from utils.analysis.settings import Settings
from utils.parallel.resources import Resources
from utils.stats.comparison import Comparison
from utils.stats.exceedances import Permutations
from utils.stats.inference import (
    chance_adjusted_r2,
    chance_r2,
    difference_p,
    fdr,
    largest_difference_p,
    published_fdr,
    sign_flip_p,
    t_test,
)
from utils.stats.jackknife import Components, Jackknife, Sampled, degrees_of_freedom
from utils.stats.nonnegative import Nonnegative
from utils.stats.permutation import ConditionalTest, PermutationTest, conditional_test, permutation_test
from utils.stats.regression import Bases, Basis, LinearStatistic, MakeStatistic, each_person, own_r2, project

Pairs = Sequence[tuple[int, int]]
# Sets that are named where more are not told apart.
_NAMED = 3
# A share of R2 this close to all of it is all of it, but for rounding.
_ALL_NEGATIVE = 1e-9
# Values of every subject's own RDMs, and their chance levels, both (n_statistics, n_subjects, n_locations).
SubjectValues = tuple[NDArray[np.float64], NDArray[np.float64]]
# From mean RDMs, those of all subjects and contrasts to estimates with their variance components; see `Jackknife`.
Sampler = Callable[[NDArray, NDArray, NDArray], Sampled]


@dataclass(frozen=True)
class Significance:
    """What is above chance: p values, and q values, which are p corrected for multiple tests.

    Attributes
    ----------
    p, q : ndarray of float64, shape (n_sets, n_locations)
        Of each network or group: of its own R2, or of what it adds to the others.
    p_explained, q_explained : ndarray of float64, shape (n_locations,)
        Of each searchlight or ROI: whether the models explain anything.
    """

    p: NDArray[np.float64]
    q: NDArray[np.float64]
    p_explained: NDArray[np.float64]
    q_explained: NDArray[np.float64]

    @classmethod
    def by_fdr(cls, p: NDArray[np.float64], p_explained: NDArray[np.float64]) -> Significance:
        """Control the false discovery rate of both over all of their entries."""
        return cls(p, fdr(p), p_explained, fdr(p_explained))


@dataclass(frozen=True)
class Differences:
    """Differences between sets of predictors, and whether they are established.

    Attributes
    ----------
    pairs : sequence of (int, int)
    p, q : ndarray of float64, shape (n_pairs, n_locations)
    """

    pairs: Pairs
    p: NDArray[np.float64]
    q: NDArray[np.float64]


@dataclass(frozen=True)
class Lead:
    """Whether the winner of each searchlight or ROI leads all others.

    Attributes
    ----------
    p_lead, q_lead : ndarray of float64, shape (n_locations,)
        The largest p value of its differences from the others, and corrected over locations; NaN where there is none.
    q_group_lead : ndarray of float64, shape (n_locations,)
        As `q_lead`, over the sets of other groups only: whether the winner's group is established.
    candidates : ndarray of bool, shape (n_sets, n_locations)
        The winner, and those that are not told apart from it.
    """

    p_lead: NDArray[np.float64]
    q_lead: NDArray[np.float64]
    q_group_lead: NDArray[np.float64]
    candidates: NDArray[np.bool_]


def permutations(settings: Settings, basis: Basis) -> Permutations:
    """The permutations that the settings ask for, of the pairs that count."""
    return Permutations(settings.n_permutations, settings.permute, settings.seed, settings.blocks, basis.pairs)


def largest(settings: Settings) -> Literal["studentised", "as_is"]:
    """What the maximum statistic compares: where it decides, values on one scale for all locations."""
    return "studentised" if settings.correction == "max" else "as_is"


def t_quantile(settings: Settings, n_conditions: int, n_subjects: int) -> float:
    """How many standard errors an interval reaches to either side."""
    from scipy.stats import t

    return float(t.isf(settings.alpha / 2, degrees_of_freedom(settings.generalise, n_conditions, n_subjects)))


def difference_p_values(
    estimates: NDArray[np.float64], components: Components, settings: Settings
) -> NDArray[np.float64]:
    """Two-sided p values of differences, by their standard errors over images, people or both.

    Parameters
    ----------
    estimates : ndarray of float64, shape (n_differences, n_locations)
    components : Components
        Of the same differences.
    settings : Settings

    Returns
    -------
    ndarray of float64, shape (n_differences, n_locations)
    """
    over = settings.generalise
    return difference_p(estimates, components.standard_error(over), components.degrees_of_freedom(over))


def lead_p_values(estimates: NDArray[np.float64], components: Components, settings: Settings) -> NDArray[np.float64]:
    """p values of the winner's differences from the others; 1 where another explains more, if the winner is the one
    that predicts best.

    Parameters, value: as for `difference_p_values`.
    """
    return np.where(estimates < 0, 1.0, difference_p_values(estimates, components, settings))


def family_wise(
    p: NDArray[np.float64], influence: NDArray[np.float64], settings: Settings
) -> NDArray[np.float64] | None:
    """p values of differences, corrected for all differences and locations where the settings ask for that.

    Parameters
    ----------
    p : ndarray of float64, shape (n_differences, n_locations)
    influence : ndarray of float64, shape (n_differences, n_locations, n_conditions)
    settings : Settings
    """
    return sign_flip_p(p, influence, settings.n_permutations, settings.seed) if settings.correction == "max" else None


def best_of_all(basis: Bases, rdms: NDArray[np.float64], settings: Settings, resources: Resources) -> Significance:
    """Permutation test of every model by itself, beside nuisance RDMs if there are any, and of the best of them.

    Parameters
    ----------
    basis : Basis, or sequence of Basis
        Of each person's own models, if they differ.
    rdms : ndarray of float64, shape (n_locations, n_pairs) or (n_people, n_locations, n_pairs)
        In the form in which they are compared; of every person, if models differ.
    settings : Settings
    resources : Resources

    Returns
    -------
    Significance
    """
    how: dict[str, Any] = {"largest": largest(settings), "resources": resources}
    test: PermutationTest | ConditionalTest
    bases, rdms = each_person(basis, rdms)
    order = permutations(settings, bases[0])
    with resources.progress("permutation test") as advance:
        if bases[0].given:
            test = conditional_test(bases, rdms, order, each_alone=True, progress=advance, **how)
        else:
            statistics = [own_r2(own) for own in bases]
            everyone = zip(bases, statistics, rdms, strict=True)
            chance = np.mean([chance_r2(*own) for own in everyone], axis=0)
            test = permutation_test(bases, statistics, rdms, order, chance=chance, progress=advance, **how)
    if settings.correction == "max":
        return Significance(test.p, test.p_max, test.p_best, test.p_max.min(axis=0))
    return Significance.by_fdr(test.p, test.p_best)


def best_without_negative_weights(
    fit: Nonnegative, rdms: NDArray[np.float64], settings: Settings, resources: Resources
) -> Significance:
    """The same with non-negative weights.

    Parameters
    ----------
    fit : Nonnegative
    rdms, settings, resources
        As for `best_of_all`.

    Returns
    -------
    Significance
    """
    with resources.progress("permutation test") as advance:
        test = fit.test(
            rdms, permutations(settings, fit.basis),
            studentised=largest(settings) == "studentised", progress=advance, resources=resources,
        )  # fmt: skip
    if settings.correction == "max":
        return Significance(test.p, test.p_max, test.p_best, test.p_max.min(axis=0))
    return Significance.by_fdr(test.p, test.p_best)


def weights_sign(negative_share: NDArray[np.float64]) -> NDArray[np.str_]:
    """Signs of a model's weights by the share of its R2 that takes negative ones: "+", "mixed" or "-"; "" for NaN.

    "-" is a model whose RDMs all correlate negatively with the brain's.
    """
    names = np.where(negative_share == 0, "+", np.where(negative_share > 1 - _ALL_NEGATIVE, "-", "mixed"))
    return np.where(np.isnan(negative_share), "", names)


def warn_of_negative_weights(sign: ArrayLike, coloured: NDArray[np.bool_], locations: str, remedy: str = "") -> None:
    """Warn if models that win are the opposite of the brain.

    Parameters
    ----------
    sign : array_like of str, shape (n_locations,)
        From `weights_sign`, of the winners.
    coloured : ndarray of bool, shape (n_locations,)
        Where something is claimed.
    locations : str
        What to call those, as "coloured searchlights".
    remedy : str
        What to do about it.
    """
    sign = np.asarray(sign)[coloured]
    opposite, mixed = int((sign == "-").sum()), int((sign == "mixed").sum())
    if opposite:
        warnings.warn(
            f"{opposite:,} of {len(sign):,} {locations}: the RDMs of the winner correlate negatively with the brain's, "
            f"so that without negative weights it would explain nothing (weights_sign -); in {mixed:,} more, some of "
            f"the winner's weights are negative{remedy}",
            stacklevel=3,
        )


def beside_others(basis: Bases, rdms: NDArray[np.float64], settings: Settings, resources: Resources) -> Significance:
    """Conditional permutation test of every set beside the others, and of all together.

    Parameters, value: as for `best_of_all`.
    """
    bases, rdms = each_person(basis, rdms)
    with resources.progress("permutation test") as advance:
        test = conditional_test(
            bases, rdms, permutations(settings, bases[0]),
            largest=largest(settings), resources=resources, progress=advance,
        )  # fmt: skip
    if settings.correction == "max":
        return Significance(test.p, test.p_max, test.p_total, test.p_total_max)
    return Significance.by_fdr(test.p, test.p_total)


def winner_contrasts(winner: NDArray[np.int64], n_sets: int, n_more: int = 0) -> NDArray[np.float64]:
    """The winner of each location minus each other set; in the winner's own row its value.

    Parameters
    ----------
    winner : ndarray of int, shape (n_locations,)
    n_sets : int
    n_more : int
        Statistics behind those of the sets, which are kept as they are.

    Returns
    -------
    ndarray of float64, shape (n_locations, n_sets + n_more, n_sets + n_more)
    """
    places, sets = np.arange(len(winner)), np.arange(n_sets)
    contrasts = np.zeros((len(winner), n_sets + n_more, n_sets + n_more))
    contrasts[:, sets, sets] = -1
    contrasts[:, n_sets:, n_sets:] = np.eye(n_more)
    contrasts[places, winner, winner] = 0
    contrasts[places[:, None], sets, winner[:, None]] += 1
    return contrasts


def lead_of(
    p: NDArray[np.float64],
    influence: NDArray[np.float64],
    winner: NDArray[np.int64],
    groups: Sequence[str],
    settings: Settings,
) -> Lead:
    """The winner leads if it differs from each other set.

    The largest p value is that of the lead, without a correction for the number of sets (Gutmann & Maymin 1987, Ann
    Stat 15:456; Hung & Fithian 2019, Ann Stat 47:1003).

    Parameters
    ----------
    p : ndarray of float64, shape (n_sets, n_locations)
        Of the differences of the winner from each set; whatever stands in the winner's own row does not count.
    influence : ndarray of float64, shape (n_sets, n_locations, n_conditions)
        Of the same differences.
    winner : ndarray of int, shape (n_locations,)
    groups : sequence of str
        Of the sets.
    settings : Settings
    """
    is_winner = np.arange(len(p))[:, None] == winner
    in_group = np.array([[other == group for group in groups] for other in groups])[:, winner]
    corrected = family_wise(p, influence, settings)

    def over(excluded: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        largest = np.where(excluded, 0.0, p).max(axis=0)
        return largest, fdr(largest) if corrected is None else np.where(excluded, 0.0, corrected).max(axis=0)

    p_lead, q_lead = over(is_winner)
    # One-sided, and Bonferroni over the others; the closest one is always named.
    candidates = (p > settings.alpha * min(1.0, 2 / max(1, len(p) - 1))) | (p == p_lead) | is_winner
    return Lead(p_lead, q_lead, over(in_group)[1], candidates)


def sampled_lead(sampled: Sampled, winner: NDArray[np.int64], groups: Sequence[str], settings: Settings) -> Lead:
    """Whether winners lead, from `winner_contrasts` as the jackknife has sampled them; see `lead_of`.

    Parameters
    ----------
    sampled : Sampled
        Its first rows are the differences of the winner from each set; any others do not count.
    winner, groups, settings
        As for `lead_of`.
    """
    n = len(groups)
    p = lead_p_values(sampled.estimates[:n], sampled.components[:n], settings)
    return lead_of(p, sampled.influence[:n], winner, groups, settings)


def alternatives(values: NDArray[np.float64], candidates: NDArray[np.bool_], labels: Sequence[str]) -> str:
    """The sets that are not told apart, those with the largest values first: "2D or 3D", "Depth, Edges or 12 more".

    Parameters
    ----------
    values : ndarray of float64, shape (n_sets,)
    candidates : ndarray of bool, shape (n_sets,)
    labels : sequence of str
    """
    names = [labels[k] for k in np.argsort(-values, kind="stable") if candidates[k]]
    if len(names) > _NAMED:
        names = [*names[: _NAMED - 1], f"{len(names) - _NAMED + 1} more"]
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def values_of_people(bases: Sequence[Basis], statistic: MakeStatistic, subject_rdms: NDArray) -> SubjectValues:
    """`subject_values` with one basis for everyone, or that of each subject's own models.

    Parameters
    ----------
    bases : sequence of Basis
    statistic : callable
    subject_rdms : ndarray, shape (n_subjects, n_locations, n_pairs)

    Returns
    -------
    values, chance : ndarray of float64, shape (n_statistics, n_subjects, n_locations)
    """
    rdms = [subject_rdms] if len(bases) == 1 else subject_rdms[:, None]
    found = [subject_values(own, statistic(own), part) for own, part in zip(bases, rdms, strict=True)]
    values, chance = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    return values, chance


def jackknife_of(
    bases: Sequence[Basis], statistic: MakeStatistic, comparison: Comparison, *, by_person: bool
) -> Sampler:
    """The jackknife of the mean RDM, or of the mean over people where each has models of the own.

    Parameters
    ----------
    bases : sequence of Basis
    statistic : callable
    comparison : {"whitened", "plain", "without_condition_effects"}
    by_person : bool

    Returns
    -------
    callable
        Takes mean RDMs (n_locations, n_pairs), those of all subjects (n_subjects, n_locations, n_pairs), and contrasts,
        as a call of `Jackknife`.
    """
    each = [Jackknife(basis, statistic(basis), comparison) for basis in bases]
    if not by_person:
        return each[0]

    def over_people(_: NDArray, subjects: NDArray, contrasts: NDArray) -> Sampled:
        parts = [own(rdms, None, contrasts) for own, rdms in zip(each, subjects, strict=True)]
        return Sampled.over_people(parts)

    return over_people


def subject_values(basis: Basis, statistic: LinearStatistic, subject_rdms: NDArray) -> SubjectValues:
    """A statistic of every subject's own RDM, and the level it has by chance.

    Parameters
    ----------
    basis : Basis
    statistic : LinearStatistic
    subject_rdms : ndarray, shape (n_subjects, n_locations, n_pairs)

    Returns
    -------
    values, chance : ndarray of float64, shape (n_statistics, n_subjects, n_locations)
    """
    n_subjects, n_locations, n_pairs = subject_rdms.shape
    rdms = subject_rdms.reshape(-1, n_pairs)
    values, chance = statistic(project(basis, rdms)), chance_adjusted_r2(basis, statistic, rdms)
    return values.reshape(-1, n_subjects, n_locations), chance.reshape(-1, n_subjects, n_locations)


def tests_over_subjects(
    subjects: Sequence[SubjectValues],
    best: NDArray[np.int64],
    pairs: Pairs,
    settings: Settings,
    *,
    over_locations: bool = False,
) -> tuple[Significance, Differences]:
    """t-test of the values of subjects against their chance level, or against 0 as published.

    Parameters
    ----------
    subjects : sequence of (values, chance)
        Of locations one after the other; the number of subjects may differ between entries.
    best : ndarray of int, shape (n_locations,)
        The statistic that the figure shows as the largest of each location.
    pairs : sequence of (int, int)
        Statistics to compare with each other, as published.
    settings : Settings
    over_locations : bool
        Whether the published correction within locations is followed by one over locations.

    Returns
    -------
    Significance, Differences

    Raises
    ------
    InputError
        If there are fewer than two subjects.
    """
    n_subjects = min(values.shape[1] for values, _ in subjects)
    if n_subjects < 2:
        raise InputError(
            f"`stats` is t-test: found {n_subjects} subject, expected 2 or more; use a permutation test instead"
        )
    tests = [t_test(values, pairs, chance=0.0 if settings.as_published else chance) for values, chance in subjects]
    p = np.concatenate([test.p for test in tests], axis=1)
    p_difference = np.concatenate([test.p_difference for test in tests], axis=1)
    if settings.as_published:
        return _as_published(p, best, p_difference, pairs, over_locations)
    # Bonferroni over the statistics among which the best was chosen.
    p_best = np.minimum(1.0, len(p) * p[best, np.arange(best.size)])
    return Significance.by_fdr(p, p_best), Differences(pairs, p_difference, p_difference)


def published_tests(
    basis: Basis,
    statistic: LinearStatistic,
    rdms: NDArray[np.float64],
    pairs: Pairs,
    settings: Settings,
    resources: Resources,
    over_locations: bool,
) -> tuple[Significance, Differences]:
    """Permutation test as published: of each statistic by itself, and of differences in the direction observed.

    Parameters
    ----------
    basis : Basis
    statistic : LinearStatistic
    rdms : ndarray of float64, shape (n_locations, n_pairs)
    pairs : sequence of (int, int)
    settings : Settings
    resources : Resources
    over_locations : bool
        Whether the correction within locations is followed by one over locations.

    Returns
    -------
    Significance, Differences
    """
    with resources.progress("permutation test") as advance:
        test = permutation_test(
            basis, statistic, rdms, permutations(settings, basis), pairs=pairs, resources=resources, progress=advance
        )
    best = test.observed.argmax(axis=0)
    return _as_published(test.p, best, test.p_difference, pairs, over_locations)


def _as_published(
    p: NDArray[np.float64],
    best: NDArray[np.int64],
    p_difference: NDArray[np.float64],
    pairs: Pairs,
    over_locations: bool,
) -> tuple[Significance, Differences]:
    """The published correction: over sets or pairs within each location, then perhaps over locations."""
    q, chosen = published_fdr(p, over_locations), (best, np.arange(best.size))
    differences = Differences(pairs, p_difference, published_fdr(p_difference, over_locations))
    return Significance(p, q, p[chosen], q[chosen]), differences


def published_lead(n_sets: int, winner: NDArray[np.int64], differences: Differences) -> Lead:
    """As published, the winner has to differ from all others; in Fig 1, without differences, no lead is asked for."""
    nothing = np.full(len(winner), np.nan)
    candidates = np.zeros((n_sets, len(winner)), dtype=bool)
    if not len(differences.pairs):
        return Lead(nothing, nothing, nothing, candidates)
    p, q = (largest_difference_p(winner, differences.pairs, values) for values in (differences.p, differences.q))
    return Lead(p, q, nothing, candidates)
