"""What the figures would claim of one simulated study, found by the code that the figures run.

Every function takes a study and the settings of an analysis, and returns outcomes by name: 1 or 0 for a claim that is
made or not, otherwise a value. Claims about a single place are judged by p values that are not corrected over places.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.analysis.rois import adjusted
from utils.analysis.settings import Settings
from utils.analysis.significance import (
    Significance,
    beside_others,
    best_of_all,
    difference_p_values,
    permutations,
    published_lead,
    published_tests,
    sampled_lead,
    subject_values,
    t_quantile,
    tests_over_subjects,
    winner_contrasts,
)
from utils.datasets.worlds import Study
from utils.parallel.resources import Resources
from utils.rdm import n_conditions_of
from utils.stats.comparison import compared
from utils.stats.inference import all_pairs, fdr
from utils.stats.jackknife import Jackknife, Population, Sampled
from utils.stats.permutation import permutation_test
from utils.stats.regression import (
    Basis,
    orthonormal_basis,
    own_adjusted_r2,
    own_r2,
    unique_adjusted_r2,
    unique_and_total,
)
from utils.stats.stepwise import stepwise_test

Outcomes = dict[str, float]
_RESOURCES = Resources()
N_PERMUTATIONS = 199


def routes(seed: int) -> dict[str, Settings]:
    """The analyses that are compared, with permutations of their own for every run."""
    own: dict[str, Any] = {"n_permutations": N_PERMUTATIONS, "seed": seed}
    return {
        "default": Settings(**own),
        "default, images": Settings(generalise="images", **own),
        "plain": Settings(comparison="plain", **own),
        "without condition effects": Settings(comparison="without_condition_effects", **own),
        "published": Settings.published(**own),
        "published, conditions": Settings.published(permute="conditions", **own),
    }


def _prepared(study: Study, settings: Settings) -> tuple[Basis, NDArray[np.float64]]:
    """Basis of the networks, and mean RDMs, both as they are compared."""
    models = [compared(layers, settings.comparison) for layers in study.models]
    return orthonormal_basis(models), compared(study.mean, settings.comparison)


def explained(study: Study, settings: Settings) -> Outcomes:
    """Fig 1: something is explained at the first place, by whichever network explains most."""
    basis, rdms = _prepared(study, settings)
    if settings.as_published:
        test, _ = published_tests(basis, own_adjusted_r2(basis), rdms, [], settings, _RESOURCES, False)
    else:
        test = best_of_all(basis, rdms, settings, _RESOURCES)
    return {"explained": float(test.q_explained[0] <= settings.alpha)}


def stars(study: Study, settings: Settings) -> Outcomes:
    """Fig 3b: every network, as a group, adds something to all others, at the first place."""
    basis, rdms = _prepared(study, settings)
    test = _unique_test(basis, rdms, settings)
    return {f"star {k + 1}": float(p <= settings.alpha) for k, p in enumerate(test.p[:, 0])}


def filled_stars(study: Study, settings: Settings) -> Outcomes:
    """Fig 3b: the second group adds something, and the interval of its share lies above the minimum effect."""
    star, sampled = stars(study, settings)["star 2"], _sampled(study, settings)
    quantile = t_quantile(settings, n_conditions_of(study.people.shape[-1]), len(study.people))
    low = sampled.shares[1, 0] - quantile * sampled.share_components.standard_error(settings.generalise)[1, 0]
    return {"star": star, "filled": star * (low > settings.minimum_effect), "share": float(sampled.shares[1, 0])}


def _unique_test(basis: Basis, rdms: NDArray[np.float64], settings: Settings) -> Significance:
    if not settings.as_published:
        return beside_others(basis, rdms, settings, _RESOURCES)
    return published_tests(basis, unique_adjusted_r2(basis), rdms, [], settings, _RESOURCES, False)[0]


def ranks(study: Study, settings: Settings) -> Outcomes:
    """Fig 2: the three best networks of the first place, and which of them have a star."""
    basis, rdms = _prepared(study, settings)
    values = adjusted([basis], own_adjusted_r2, rdms[None], settings)
    best = np.argsort(-(np.clip(values, 0, None) if settings.as_published else values), axis=0, kind="stable")[:3]
    if settings.as_published:  # the chosen networks are tested by themselves
        own = orthonormal_basis([study.models[k] for k in best[:, 0]])
        p = _unique_test(own, rdms, settings).p[:, 0]
    else:
        p = stepwise_test(basis, best, rdms, permutations(settings, basis)).p[:, 0]
    outcomes = {f"rank {k + 1}": float(value <= settings.alpha) for k, value in enumerate(p)}
    return outcomes | {f"network {k + 1}": float(network) for k, network in enumerate(best[:, 0])}


def _leads(
    study: Study, settings: Settings
) -> tuple[Basis, NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Basis, compared RDMs, the group with the most unique variance of each place, and p values of its lead."""
    basis, rdms = _prepared(study, settings)
    unique, n = unique_adjusted_r2(basis), len(study.models)
    winner = adjusted([basis], unique_adjusted_r2, rdms[None], settings).argmax(axis=0)
    if settings.as_published:
        _, differences = published_tests(basis, unique, rdms, all_pairs(n), settings, _RESOURCES, False)
        return basis, rdms, winner, published_lead(n, winner, differences).p_lead
    sampled = Jackknife(basis, unique_and_total(basis), settings.comparison)(
        study.mean, study.people if study.people.shape[0] > 1 else None, winner_contrasts(winner, n, 1)
    )
    return basis, rdms, winner, sampled_lead(sampled, winner, [str(k) for k in range(n)], settings).p_lead


def lead(study: Study, settings: Settings) -> Outcomes:
    """Fig 3a: one group leads all others at the first place, and which one."""
    _, _, winner, p = _leads(study, settings)
    return {"lead": float(p[0] <= settings.alpha), "winner": float(winner[0])}


def lead_map(study: Study, settings: Settings) -> Outcomes:
    """Fig 3a as a map: places of kind 0 follow no group, of kind 1 two groups alike, of kind 2 mostly the first."""
    basis, rdms, winner, p_lead = _leads(study, settings)
    if settings.as_published:
        test, differences = published_tests(
            basis, unique_adjusted_r2(basis), rdms, all_pairs(len(study.models)), settings, _RESOURCES, True
        )
        q_lead = published_lead(len(study.models), winner, differences).q_lead
    else:
        test, q_lead = beside_others(basis, rdms, settings, _RESOURCES), fdr(p_lead)
    coloured = (test.q_explained <= settings.alpha) & (q_lead <= settings.alpha)
    right = coloured & (study.kind == 2) & (winner == 0)
    return {
        "false discovery proportion": (coloured & ~right).sum() / max(1, coloured.sum()),
        "unrelated coloured": coloured[study.kind == 0].mean(),
        "ties coloured": coloured[study.kind == 1].mean(),
        "leads coloured right": right[study.kind == 2].mean(),
        "quarter of ties": float(coloured[study.kind == 1].mean() > 0.25),
    }


def _sampled(study: Study, settings: Settings) -> Sampled:
    """Unique variances and the difference of the first two, at the first place."""
    basis, _ = _prepared(study, settings)
    n = len(study.models)
    contrasts = np.eye(n + 1)
    contrasts = np.vstack([contrasts, contrasts[0] - contrasts[1]])
    return Jackknife(basis, unique_and_total(basis), settings.comparison)(study.mean, study.people, contrasts)


def intervals(study: Study, settings: Settings) -> Outcomes:
    """Bars: unique variance of the first group, its difference from the second, the total as a share; with margins."""
    sampled, n = _sampled(study, settings), len(study.models)
    n_images, n_people = n_conditions_of(study.people.shape[-1]), len(study.people)
    outcomes = {"unique": sampled.estimates[0, 0], "difference": sampled.estimates[n + 1, 0]}
    outcomes |= {"total share": sampled.shares[n, 0], "reliability": sampled.reliability[0]}
    populations: tuple[Population, ...] = ("images", "people", "both")
    for over in populations:
        quantile = t_quantile(replace(settings, generalise=over), n_images, n_people)
        se = sampled.components.standard_error(over)
        outcomes |= {f"unique, {over}": quantile * se[0, 0], f"difference, {over}": quantile * se[n + 1, 0]}
        outcomes[f"total share, {over}"] = quantile * sampled.share_components.standard_error(over)[n, 0]
    return {name: float(value) for name, value in outcomes.items()}


def contest(study: Study, settings: Settings) -> Outcomes:
    """Fig 1: the first network, which has more layers, explains more than the second."""
    basis, rdms = _prepared(study, settings)
    values = adjusted([basis], own_adjusted_r2, rdms[None], settings)[:, 0]
    return {"first wins": float(values[0] > values[1])}


def over_people(study: Study, settings: Settings) -> Outcomes:
    """t-tests over people: a star for any group, and a bracket between any two groups."""
    basis, _ = _prepared(study, settings)
    unique, pairs = unique_adjusted_r2(basis), all_pairs(len(study.models))
    values = subject_values(basis, unique, compared(study.people, settings.comparison))
    best = adjusted([basis], unique_adjusted_r2, compared(study.mean[None], settings.comparison), settings).argmax(
        axis=0
    )
    tests, differences = tests_over_subjects([values], best, pairs if settings.as_published else [], settings)
    outcomes = {"one star": float(tests.p[0, 0] <= settings.alpha), "any star": float(tests.q.min() <= settings.alpha)}
    if settings.as_published:
        return outcomes | {"any bracket": float(differences.q.min() <= settings.alpha)}
    sampled = Jackknife(basis, unique, settings.comparison)(study.mean, study.people, _differences(len(study.models)))
    p = difference_p_values(sampled.estimates, sampled.components, settings)
    return outcomes | {"any bracket": float(fdr(p).min() <= settings.alpha)}


def _differences(n: int) -> NDArray[np.float64]:
    return np.array([np.eye(n)[i] - np.eye(n)[j] for i, j in all_pairs(n)])


def maximum(study: Study, settings: Settings) -> Outcomes:
    """Family-wise over a map: places of kind 1 found, and any place of kind 0; studentised (as the product) or not."""
    basis, rdms = _prepared(study, settings)
    outcomes: Outcomes = {}
    for scale in ("studentised", "as_is"):
        test = permutation_test(basis, own_r2(basis), rdms, permutations(settings, basis), largest=scale)
        found = test.p_max.min(axis=0) <= settings.alpha
        outcomes |= {f"{scale}: found": found[study.kind == 1].mean() if (study.kind == 1).any() else np.nan}
        outcomes |= {f"{scale}: any false": float(found[study.kind == 0].any())}
    return outcomes


def recovered_share(study: Study, settings: Settings) -> Outcomes:
    """Share of the explainable variance from 12 people, and what the mean RDM of all other people says of it.

    The truth is R2 of the others' mean, divided by its reliability from their two halves (Spearman 1910, Br J Psychol
    3:271; Brown 1910, ibid. 3:296), which is not how the share itself is found.
    """
    few, many = (replace(study, people=people) for people in (study.people[:12], study.people[12:]))
    sampled, n = _sampled(few, settings), len(study.models)
    basis, rdms = _prepared(many, settings)
    r2 = adjusted([basis], unique_and_total, rdms[None], settings)[n, 0]
    halves = [compared(half.mean(axis=0)[0], settings.comparison) for half in (many.people[::2], many.people[1::2])]
    alike = np.asarray(np.corrcoef(halves))[0, 1]
    outcomes = {"share": sampled.shares[n, 0], "not divided": sampled.estimates[n, 0]}
    return {name: float(value) for name, value in outcomes.items()} | {"true": float(r2 * (1 + alike) / (2 * alike))}
