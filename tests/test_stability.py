"""Stability of winners against a literal loop, and where it is known."""

import numpy as np
import pytest
from helpers import N_CONDITIONS, gain_rdms, lstsq_adjusted, lstsq_unique

from utils.rdm import condense, expand
from utils.stats.refits import condition_subsets, winner_stability
from utils.stats.regression import own_adjusted_r2, unique_adjusted_r2


def literal(models, places, winners_of, n_subsets, seed):
    wins = np.zeros(len(places))
    first = np.array([np.argmax(winners_of(models, y)) for y in places])
    for kept in condition_subsets(N_CONDITIONS, round(0.9 * N_CONDITIONS), n_subsets, seed):
        cut = condense(expand(models)[..., kept, :][..., kept])
        brains = condense(expand(places)[..., kept, :][..., kept])
        wins += [np.argmax(winners_of(cut, y)) == w for y, w in zip(brains, first, strict=True)]
    return wins / n_subsets


def own(models, y):
    return [lstsq_adjusted([m], y) for m in models]


@pytest.mark.parametrize("statistic, winners_of", [(own_adjusted_r2, own), (unique_adjusted_r2, lstsq_unique)])
def test_equals_a_literal_loop(data, monkeypatch, statistic, winners_of):
    models, places = data
    expected = literal(models, places, winners_of, 40, seed=2)
    seen = []
    ours = winner_stability(models, statistic, places, n_subsets=40, seed=2, progress=lambda *state: seen.append(state))
    np.testing.assert_array_equal(ours, expected)
    assert seen[-1] == (40, 40)
    assert 0 < expected.min() < 1
    monkeypatch.setattr("utils.stats.refits._PLACES_PER_PRODUCT", 2)
    monkeypatch.setattr("utils.stats.refits._SUBSETS_PER_PRODUCT", 7)
    np.testing.assert_array_equal(winner_stability(models, statistic, places, n_subsets=40, seed=2), expected)


def test_a_clear_winner_always_wins_and_twins_share(rng):
    models = gain_rdms(rng, 6, 30).reshape(3, 2, -1)
    places = models[:2, 0] + 0.01 * gain_rdms(rng, 2, 30)
    np.testing.assert_array_equal(winner_stability(models, own_adjusted_r2, places, n_subsets=50), 1)
    between = models[:1, 0] / models[0, 0].std() + models[1:2, 0] / models[1, 0].std()
    share = winner_stability(models, own_adjusted_r2, between, n_subsets=200)[0]
    assert share < 1


def test_a_predictor_that_is_constant_in_a_subset_skips_it(rng):
    """It differs from 0 for one condition only: subsets without that one cannot be fitted."""
    square = np.zeros((N_CONDITIONS, N_CONDITIONS))
    square[0, 1:] = square[1:, 0] = rng.random(N_CONDITIONS - 1)
    models = np.stack([gain_rdms(rng, 1, N_CONDITIONS), condense(square)[None]])
    places = models[0] + 0.1 * gain_rdms(rng, 1, N_CONDITIONS)
    assert winner_stability(models, own_adjusted_r2, places, n_subsets=60)[0] == 1
