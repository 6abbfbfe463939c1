"""What a planned study can find: power of the claims of the figures, and width of intervals, by simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from utils import InputError
from utils.analysis.settings import Settings
from utils.analysis.significance import (
    beside_others,
    best_of_all,
    sampled_lead,
    t_quantile,
    winner_contrasts,
)
from utils.datasets.worlds import World, simulate
from utils.parallel.resources import Progress, Resources, ignore
from utils.stats.comparison import Comparison, compared
from utils.stats.inference import above_chance
from utils.stats.jackknife import Jackknife
from utils.stats.noise_ceiling import reliability
from utils.stats.regression import Basis, orthonormal_basis, unique_adjusted_r2, unique_and_total

# Networks and brain as in many measured data: images differ in how strongly they drive each, people in what they have.
TYPICAL = World(voxels=80, network_gain=0.35, brain_gain=(0.35,), people_differ=0.3)
_GROUPS = ("1", "2", "3")
# Effects and reliabilities are those of the default comparison, however the data are analysed.
COMPARISON: Comparison = "whitened"
# Beside a group that adds an effect stands one that adds this share of the explainable variance.
BESIDE = 0.3
# Draws for the calibration of noise and effects, the images they have, and the noise that is tried.
_DRAWS, _IMAGES, _NOISE = 12, 50, (0.05, 60.0)
# What of an effect models reach that are measured with error, before it is known better.
_REACH, _LARGEST_SUM = 0.82, 0.95


@dataclass(frozen=True)
class Plan:
    """A planned study.

    Attributes
    ----------
    n_images, n_people : int
    reliability : float
        Of the mean RDM of these people in the whitened comparison, between 0 and 1 (ICC(C, k); column `reliability` of
        the tables).
    """

    n_images: int
    n_people: int
    reliability: float

    def __post_init__(self) -> None:
        if self.n_images < 8:
            raise InputError(f"`images` is {self.n_images}, expected 8 or more")
        if self.n_people < 1:
            raise InputError(f"`people` is {self.n_people}, expected 1 or more")
        if not 0 < self.reliability < 1:
            raise InputError(f"`reliability` is {self.reliability:g}, expected a value between 0 and 1")


@dataclass(frozen=True)
class Power:
    """What was found in simulated studies with one effect.

    Attributes
    ----------
    effect : float
        Share of the explainable variance.
    explained, star, lead : int
        In how many studies: of three groups, of which one explains the effect, something was explained; a group that
        adds the effect beside one that adds .3 got a star; a group that adds the effect was established to lead
        another that adds a quarter as much, and a third that adds nothing.
    n : int
        Number of studies.
    margin : float
        Mean half width of the 95 % interval of the leading group's share.
    """

    effect: float
    explained: int
    star: int
    lead: int
    n: int
    margin: float


def at_other_size(value: float, n_people: int, n_others: int) -> float:
    """Reliability of the mean RDM of `n_others` people, from that of `n_people` (Spearman-Brown).

    Parameters
    ----------
    value : float
    n_people, n_others : int

    Returns
    -------
    float
    """
    ratio = n_others / n_people
    return ratio * value / (1 + (ratio - 1) * value)


@lru_cache(maxsize=64)
def world_of(plan: Plan, follows: tuple[float, ...], seed: int = 0) -> World:
    """A typical world in which the mean RDM of a study has, in the median, the reliability of the plan.

    Parameters
    ----------
    plan : Plan
    follows : tuple of float
        Shares of the variance of the place's patterns that follow each of the first groups.
    seed : int

    Returns
    -------
    World

    Raises
    ------
    InputError
        If the reliability cannot be reached with so many people.
    """
    # Of a single person, reliability is only defined through others.
    people = max(2, plan.n_people)
    wanted = at_other_size(plan.reliability, plan.n_people, people)
    world = replace(
        TYPICAL, n_images=min(plan.n_images, _IMAGES), n_people=people, layers=(1, 1, 1), kinds=(_all(follows),)
    )

    def difference(log_noise: float) -> float:
        noisy = replace(world, noise=float(np.exp(log_noise)))
        rdms = [simulate(np.random.default_rng([seed, 3, k]), noisy).people for k in range(_DRAWS)]
        return float(np.median(reliability(np.concatenate(rdms, axis=1), COMPARISON))) - wanted

    low, high = np.log(_NOISE)
    if (excess := difference(low)) < 0:
        most = at_other_size(wanted + excess, people, plan.n_people)
        raise InputError(
            f"`reliability` is {plan.reliability:g}, but in simulations {plan.n_people} people who differ reach at "
            f"most {most:.2f}; choose a smaller one, or more people"
        )
    if difference(high) > 0:
        raise InputError(f"`reliability` is {plan.reliability:g}, which is too small to find anything")
    noise = float(np.exp(brentq(difference, low, high, xtol=0.02)))
    return replace(world, layers=TYPICAL.layers, n_images=plan.n_images, n_people=plan.n_people, noise=noise)


@lru_cache(maxsize=256)
def follows_for(effects: tuple[float, ...], seed: int = 0) -> tuple[float, ...]:
    """Shares of the variance of patterns with which groups add given shares of the explainable variance.

    Parameters
    ----------
    effects : tuple of float
        Share of the explainable variance of the mean RDM that each group is to add to the others.
    seed : int

    Returns
    -------
    tuple of float

    Raises
    ------
    InputError
        If the effects are larger than what models that are measured with error can reach.
    """
    wanted = np.array(effects)
    reach = np.full(len(wanted), _REACH)
    for _ in range(3):
        # Explained variance of RDMs goes with the squared variance of patterns; the area's own latents have size 1.
        ratio = wanted / reach
        if ratio.sum() >= _LARGEST_SUM:
            listed = " and ".join(f"{effect:g}" for effect in effects if effect > 0)
            raise InputError(
                f"no simulated groups add {listed} of the explainable variance at once; choose a smaller `effect`"
            )
        size = np.sqrt(ratio / (1 - ratio.sum()))
        follows = tuple(float(share) for share in size / (1 + size.sum()))
        world = replace(TYPICAL, n_people=12, noise=0.0, kinds=(_all(follows),))
        found = true_shares(world, seed)[: len(wanted)]
        reach = np.where(wanted > 0, reach * found / np.where(wanted > 0, wanted, 1), _REACH)
    return follows


@lru_cache(maxsize=512)
def true_shares(world: World, seed: int = 0, comparison: Comparison = COMPARISON) -> NDArray[np.float64]:
    """Share of the explainable variance that each set adds to the others, on average over draws.

    Parameters
    ----------
    world : World
        With one place; its images do not count; it should have no noise, or many people.
    seed : int
    comparison : {"whitened", "plain", "without_condition_effects"}

    Returns
    -------
    ndarray of float64, shape (n_sets + 1,)
        The last is that of all together.
    """
    many = replace(world, n_images=2 * _IMAGES)
    values = []
    for k in range(_DRAWS):
        study = simulate(np.random.default_rng([seed, 4, k]), many)
        basis = orthonormal_basis([compared(model, comparison) for model in study.models])
        explained = above_chance(basis, unique_and_total(basis), compared(study.mean, comparison))
        values.append(explained[:, 0] / reliability(study.people, comparison))
    return np.asarray(np.mean(values, axis=0))


def power(
    plan: Plan,
    effects: Sequence[float],
    repetitions: int,
    settings: Settings,
    progress: Progress = ignore,
) -> list[Power]:
    """Simulate a planned study many times with each of some effects, and count what is found.

    Parameters
    ----------
    plan : Plan
    effects : sequence of float
        Shares of the explainable variance.
    repetitions : int
    settings : Settings
        Of the analysis.
    progress : callable, optional
        Called with (studies simulated, studies in all).

    Returns
    -------
    list of Power

    Raises
    ------
    InputError
        If reliability or effects are out of reach.
    """
    cases = [[follows_for(adds) for adds in ((e,), (BESIDE, e), (e, e / 4))] for e in effects]
    worlds = [[world_of(plan, follows) for follows in case] for case in cases]
    results = []
    for i, (effect, world) in enumerate(zip(effects, worlds, strict=True)):
        found, margins = np.zeros(3, dtype=int), []
        for k in range(repetitions):
            rngs = [np.random.default_rng([settings.seed, i, k, part]) for part in range(3)]
            own = replace(settings, seed=k)
            found[0] += _explained(world[0], own, rngs[0])
            found[1] += _star(world[1], own, rngs[1])
            established, margin = _lead(world[2], own, rngs[2])
            found[2] += established
            margins.append(margin)
            progress(i * repetitions + k + 1, len(effects) * repetitions)
        explained, star, leads = (int(count) for count in found)
        results.append(Power(effect, explained, star, leads, repetitions, float(np.nanmean(margins))))
    return results


def _all(follows: Sequence[float]) -> tuple[float, ...]:
    """Shares of all groups; those that are not named have none."""
    return (*follows, *(0.0,) * (len(_GROUPS) - len(follows)))


def _drawn(
    world: World, settings: Settings, rng: np.random.Generator
) -> tuple[Basis, NDArray[np.float64], NDArray[np.float64]]:
    """A study: basis of the groups and mean RDMs as they are compared, and the people's RDMs as they are."""
    study = simulate(rng, world)
    basis = orthonormal_basis([compared(model, settings.comparison) for model in study.models])
    return basis, compared(study.mean, settings.comparison), study.people


def _explained(world: World, settings: Settings, rng: np.random.Generator) -> bool:
    basis, rdms, _ = _drawn(world, settings, rng)
    return bool(best_of_all(basis, rdms, settings, Resources()).p_explained[0] <= settings.alpha)


def _star(world: World, settings: Settings, rng: np.random.Generator) -> bool:
    """Whether the second group adds something, by its own p value."""
    basis, rdms, _ = _drawn(world, settings, rng)
    return bool(beside_others(basis, rdms, settings, Resources()).p[1, 0] <= settings.alpha)


def _lead(world: World, settings: Settings, rng: np.random.Generator) -> tuple[bool, float]:
    """Whether the first group is established to lead the others, and half the width of its share's interval."""
    basis, rdms, subjects = _drawn(world, settings, rng)
    n = len(_GROUPS)
    winner = above_chance(basis, unique_adjusted_r2(basis), rdms).argmax(axis=0)
    # The winner against each other group, and then the first group's own value.
    contrasts = np.vstack([winner_contrasts(winner, n, 1)[0], np.eye(1, n + 1)])
    sampled = Jackknife(basis, unique_and_total(basis), settings.comparison)(subjects.mean(axis=0), subjects, contrasts)
    established = sampled_lead(sampled, winner, _GROUPS, settings)
    components = sampled.share_components if len(subjects) > 1 else sampled.components
    margin = components.standard_error(settings.generalise)[-1, 0] * t_quantile(settings, world.n_images, len(subjects))
    return bool(winner[0] == 0 and established.p_lead[0] <= settings.alpha), float(margin)
