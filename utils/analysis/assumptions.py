"""Warnings where data break an assumption of the permutation tests, or make a finding easy to misread."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from utils.analysis.settings import Settings
from utils.rdm import Pairs, expand, n_conditions_of
from utils.stats.comparison import compared
from utils.stats.exceedances import Permutations
from utils.stats.regression import standardise

_N_PERMUTATIONS = 999
# Below this, an assumption is said to be broken; above the other, nothing is said to be shared.
_BROKEN, _UNRELATED = 0.01, 0.05


def check_assumptions(
    models: NDArray[np.float64], rdms: NDArray[np.float64], settings: Settings, pairs: Pairs | None = None
) -> None:
    """Warn of too few permutations, of an order of the conditions, and of shared gains.

    Parameters
    ----------
    models : ndarray of float64, shape (n_models, n_layers, n_pairs) or (n_models, n_layers, n_people, n_pairs)
        Condensed model RDMs as they are.
    rdms : ndarray of float64, shape (n_locations, n_pairs) or (n_people, n_locations, n_pairs)
        Condensed RDMs of the locations to be tested as they are, averaged over subjects, or those of every person where
        models differ between people.
    settings : Settings
    pairs : Pairs, optional
        The pairs that RDMs are restricted to, if not all.
    """
    if settings.stats == "permutation" and (settings.n_permutations + 1) * settings.alpha < 1:
        warnings.warn(
            f"`n_permutations` is {settings.n_permutations:,}: no p value can be below "
            f"1/{settings.n_permutations + 1:,}, so that nothing is significant at level {settings.alpha:g}; "
            f"use at least {round(1 / settings.alpha) - 1:,}, better 10,000",
            stacklevel=2,
        )
    if (n_conditions_of(rdms.shape[-1]) if pairs is None else pairs.n_conditions) < 5:
        return
    rdms = rdms if rdms.ndim == 3 else rdms[None]
    brain = standardise(rdms).mean(axis=1)
    networks = standardise(np.asarray(models).reshape(-1, *brain.shape)).mean(axis=0)
    _check_order(networks, brain, settings, pairs)
    if settings.comparison != "without_condition_effects":
        _check_gains(networks, brain, settings, pairs)


def _check_order(
    networks: NDArray[np.float64], brain: NDArray[np.float64], settings: Settings, pairs: Pairs | None
) -> None:
    """Warn if neighbours are more alike than other conditions, in networks and brain."""
    p = [
        _p_value(rdms, settings, pairs, lambda _, square, orders: -square[orders[:, 1:], orders[:, :-1]].mean(axis=1))
        for rdms in (networks, brain)
    ]
    if max(p) <= _BROKEN:
        warnings.warn(
            "conditions that follow each other are more alike than others, in the networks' RDMs and in the brain's "
            f"(p = {p[0]:.3f} and {p[1]:.3f}): if both are ordered for reasons of their own, such as runs, categories "
            "or frames of a film, permutation tests are not valid; give `blocks` of conditions that can be exchanged",
            stacklevel=3,
        )


def _check_gains(
    networks: NDArray[np.float64], brain: NDArray[np.float64], settings: Settings, pairs: Pairs | None
) -> None:
    """Warn if nothing but effects of single conditions seems to be shared."""
    sums = _square(networks, pairs).sum(axis=2)

    def effects(person: int, square: NDArray, orders: NDArray) -> NDArray[np.float64]:
        return np.asarray(square.sum(axis=1)[orders] @ sums[person])

    others = _square(compared(networks, "without_condition_effects", pairs), pairs)

    def rest(person: int, square: NDArray, orders: NDArray) -> NDArray[np.float64]:
        return np.array([(square[np.ix_(order, order)] * others[person]).sum() for order in orders])

    p_effects = _p_value(brain, settings, pairs, effects)
    if p_effects > _BROKEN:
        return
    p_rest = _p_value(compared(brain, "without_condition_effects", pairs), settings, pairs, rest)
    if p_rest > _UNRELATED:
        warnings.warn(
            f"on average, brain and networks share effects of single conditions (p = {p_effects:.3f}), but nothing "
            f"else (p = {p_rest:.2f}): conditions that drive both strongly may be all that they share; try "
            "`condition_effects` out",
            stacklevel=3,
        )


def _square(rdms: NDArray[np.float64], pairs: Pairs | None) -> NDArray[np.float64]:
    """The square RDMs, with 0, the mean, for pairs that are left out: no permutation that is valid moves these."""
    return expand(rdms if pairs is None else pairs.filled(rdms))


def _p_value(
    rdms: NDArray[np.float64],
    settings: Settings,
    pairs: Pairs | None,
    statistic: Callable[[int, NDArray, NDArray], NDArray],
) -> float:
    """One-sided p value of a statistic of square RDMs, summed over people, for orders that may be exchanged."""
    unit = "conditions" if settings.permute == "entries" else settings.permute
    exchange = Permutations(_N_PERMUTATIONS, unit, settings.seed, settings.blocks, pairs)
    squares = _square(rdms, pairs)

    def summed(orders: NDArray) -> NDArray[np.float64]:
        return np.sum([statistic(person, square, orders) for person, square in enumerate(squares)], axis=0)

    # Sums that differ by rounding only are equal.
    observed = summed(np.arange(squares.shape[1])[None])[0]
    values = summed(exchange.orders(rdms.shape[1], 0, _N_PERMUTATIONS))
    return float((1 + (values >= observed - 1e-12 * abs(observed)).sum()) / (1 + _N_PERMUTATIONS))
