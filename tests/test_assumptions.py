"""Warnings where data break an assumption: they come where they should, and hardly ever elsewhere."""

import warnings
from itertools import pairwise

import numpy as np
import pytest

from utils.analysis.assumptions import check_assumptions
from utils.analysis.settings import Settings
from utils.rdm import correlation_rdm

N_CONDITIONS = 30


def rdms_of(latents, rng, n, gains=None, units=80):
    """RDMs of n sets of units that respond to the latents, (n, n_pairs)."""
    gains = np.zeros(len(latents)) if gains is None else gains
    patterns = [
        1.5 * rng.standard_normal(units)
        + np.exp(gains)[:, None] * (latents @ rng.standard_normal((latents.shape[1], units)))
        for _ in range(n)
    ]
    return np.stack([correlation_rdm(pattern + 0.3 * rng.standard_normal(pattern.shape)) for pattern in patterns])


def warned(models, rdms, settings=None):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        check_assumptions(models, rdms, settings or Settings())
    return [str(warning.message) for warning in found]


def walk(rng):
    """Latents that drift from condition to condition."""
    steps = rng.standard_normal((N_CONDITIONS, 6))
    for earlier, later in pairwise(steps):
        later *= 0.4
        later += 0.9 * earlier
    return steps


def test_conditions_in_an_order_that_brain_and_networks_share_are_warned_of(rng):
    models, brain = rdms_of(walk(rng), rng, 4)[:, None], rdms_of(walk(rng), rng, 3)
    (message,) = warned(models, brain)
    assert "follow each other are more alike than others" in message and "give `blocks`" in message
    shuffled = rng.permutation(N_CONDITIONS)
    unordered = rdms_of(walk(rng)[shuffled], rng, 3)
    assert not warned(models, unordered)


def test_no_warning_of_an_order_within_blocks_that_hold_it(rng):
    blocks = tuple(np.repeat(range(3), 10).tolist())
    latents = [rng.standard_normal((3, 6))[list(blocks)] + 0.5 * rng.standard_normal((N_CONDITIONS, 6)) for _ in "ab"]
    models, brain = rdms_of(latents[0], rng, 4)[:, None], rdms_of(latents[1], rng, 3)
    assert any("follow each other" in message for message in warned(models, brain))
    assert not any("follow each other" in message for message in warned(models, brain, Settings(blocks=blocks)))


def test_shared_gains_alone_are_warned_of(rng):
    gains = 0.5 * rng.standard_normal(N_CONDITIONS)
    models = rdms_of(rng.standard_normal((N_CONDITIONS, 6)), rng, 4, gains)[:, None]
    brain = rdms_of(rng.standard_normal((N_CONDITIONS, 6)), rng, 3, gains)
    (message,) = warned(models, brain, Settings(comparison="plain"))
    assert "share effects of single conditions" in message and "try `condition_effects` out" in message
    assert not warned(models, brain, Settings(comparison="without_condition_effects"))


def test_a_shared_geometry_with_gains_is_not_warned_of(rng):
    gains, latents = 0.5 * rng.standard_normal(N_CONDITIONS), rng.standard_normal((N_CONDITIONS, 6))
    assert not warned(rdms_of(latents, rng, 4, gains)[:, None], rdms_of(latents, rng, 3, gains))


def test_unrelated_data_are_hardly_ever_warned_of():
    """Both kinds take p <= .01 twice, or once and p > .05: at most 1 % of data sets, 4 of 100 with p = .003."""
    count = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        models, brain = (rdms_of(rng.standard_normal((N_CONDITIONS, 6)), rng, n) for n in (2, 2))
        count += bool(warned(models[:, None], brain))
    assert count <= 4


def test_too_few_permutations_are_warned_of(rng):
    models, brain = (rdms_of(rng.standard_normal((N_CONDITIONS, 6)), rng, 2) for _ in range(2))
    (message,) = warned(models[:, None], brain, Settings(n_permutations=18))
    assert message.startswith("`n_permutations` is 18: no p value can be below 1/19") and "at least 19" in message
    assert not warned(models[:, None], brain, Settings(n_permutations=19))


@pytest.mark.filterwarnings("error")
def test_a_few_conditions_are_not_judged(rng):
    check_assumptions(rng.random((2, 1, 6)), rng.random((3, 6)), Settings())
