"""Refits to subsets of the conditions against literal loops, and where the answer is known."""

import numpy as np
import pytest
from helpers import N_CONDITIONS, N_PAIRS, gain_rdms, lstsq_adjusted, lstsq_unique

from utils.rdm import condense, expand
from utils.stats.inference import all_pairs
from utils.stats.refits import (
    _deviations,
    _kept_sums,
    _orthonormal_axes,
    condition_subsets,
    own_in_subsets,
    subset_deviations,
    unique_in_subsets,
    winner_stability,
)
from utils.stats.regression import (
    orthonormal_basis,
    own_adjusted_r2,
    standardise,
    total_adjusted_r2,
    unique_adjusted_r2,
)


@pytest.mark.parametrize("n_left_out", [0, 1, 5])
def test_sums_over_kept_pairs_equal_those_of_a_mask(rng, n_left_out):
    values = rng.standard_normal((N_PAIRS, 3))
    keep = condition_subsets(N_CONDITIONS, N_CONDITIONS - n_left_out, 6, seed=2)
    left_out = np.array([np.flatnonzero(~row) for row in keep])
    expected = [values[condense(np.outer(row, row))].sum(axis=0) for row in keep]
    np.testing.assert_allclose(_kept_sums(values, left_out), expected, atol=1e-12)


def test_axes_are_orthonormal_and_leave_out_dependent_predictors(rng):
    vectors = rng.standard_normal((4, 30, 5))
    vectors[1, :, 3] = vectors[1, :, 0] - 2 * vectors[1, :, 2]
    vectors[2, :, 0] = 0
    vectors[3, :, 1:3] = vectors[3, :, :1]
    rows, columns = np.triu_indices(5)
    products = np.einsum("bnk,bnk->bk", vectors[:, :, rows], vectors[:, :, columns])
    axes, found = np.empty((4, 5, 5)), np.empty((4, 5), dtype=bool)
    _orthonormal_axes(products, np.eye(5), 1e-10, axes, found)
    assert (~found).nonzero()[0].tolist() == [1, 2, 3, 3]
    assert (~found).nonzero()[1].tolist() == [3, 0, 1, 2]
    units = vectors @ axes.transpose(0, 2, 1)
    np.testing.assert_allclose(
        units.transpose(0, 2, 1) @ units, [np.diag(row.astype(float)) for row in found], atol=1e-9
    )
    for b in range(4):
        left = vectors[b] - units[b] @ (units[b].T @ vectors[b])
        np.testing.assert_allclose(left, 0, atol=1e-9)


@pytest.mark.parametrize("n_locations", [1, 70])
def test_deviations_of_contrasts(rng, n_locations):
    values = 1e3 + rng.standard_normal((11, 3, n_locations))
    contrasts = np.array([[1.0, 0, 0], [0, 1, -1], [0.5, 0, 2]])
    ours = np.empty((3, n_locations))
    _deviations(values, contrasts, ours, 0, n_locations)
    expected = np.einsum("ci,bip->bcp", contrasts, values).std(axis=0, ddof=1)
    np.testing.assert_allclose(ours, expected, rtol=1e-10)


def literal_subset_unique(models, response, keep):
    kept = np.flatnonzero(keep)
    small = [condense(expand(s)[:, kept][:, :, kept]) for s in models]
    return lstsq_unique(small, condense(expand(response)[np.ix_(kept, kept)]))


def test_refit_on_subsets_equals_a_literal_loop(data):
    models, places = data
    subsets = condition_subsets(N_CONDITIONS, 9, 12, seed=4)
    assert (subsets.sum(axis=1) == 9).all()
    basis = orthonormal_basis(models)
    ours = unique_in_subsets(basis, standardise(places), subsets)
    for b, keep in enumerate(subsets):
        for j, response in enumerate(places):
            np.testing.assert_allclose(ours[b, :, j], literal_subset_unique(models, response, keep), atol=1e-10)


@pytest.mark.parametrize("n_locations", [1, 70])
def test_refit_does_not_depend_on_blocks_and_threads(data, rng, monkeypatch, n_locations):
    models, places = data
    basis = orthonormal_basis(models)
    rdms = standardise(places.repeat(14, axis=0)[:n_locations] + rng.random((n_locations, places.shape[1])))
    subsets = condition_subsets(N_CONDITIONS, 10, 50, seed=1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole = unique_in_subsets(basis, rdms, subsets)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr("utils.stats.refits._SUBSETS_PER_REFIT", 7)
    monkeypatch.setattr("utils.stats.refits._LOCATIONS_PER_THREAD", 5)
    np.testing.assert_allclose(unique_in_subsets(basis, rdms, subsets), whole, atol=1e-13)


def test_deviations_are_those_of_the_refits(data, monkeypatch):
    models, places = data
    basis, subsets = orthonormal_basis(models), condition_subsets(N_CONDITIONS, 9, 30, seed=0)
    values = unique_in_subsets(basis, standardise(places), subsets)
    differences = np.stack([values[:, i] - values[:, j] for i, j in all_pairs(4)])
    for n_at_once in (500, 2):
        monkeypatch.setattr("utils.stats.refits._LOCATIONS_PER_REFIT", n_at_once)
        errors = subset_deviations(basis, places, subsets, all_pairs(4))
        np.testing.assert_allclose(errors.unique, values.std(axis=0, ddof=1), rtol=1e-12)
        np.testing.assert_allclose(errors.difference, differences.std(axis=1, ddof=1), rtol=1e-12)


def test_scaled_deviations_without_each_condition_are_the_textbook_jackknife(data):
    """Delete-1: sqrt((n - 1) / n sum (theta_i - mean)^2); random subsets converge on it."""
    models, places = data
    literal = np.array(
        [literal_subset_unique(models[:2], places[0], np.arange(N_CONDITIONS) != i) for i in range(N_CONDITIONS)]
    )
    n = N_CONDITIONS
    textbook = np.sqrt((n - 1) / n * np.square(literal - literal.mean(axis=0)).sum(axis=0))
    subsets = condition_subsets(n, n - 1, 20_000, seed=0)
    ours, factor = subset_deviations(orthonormal_basis(models[:2]), places[:1], subsets, [(0, 1)]), np.sqrt(n - 1)
    np.testing.assert_allclose(factor * ours.unique[:, 0], textbook, rtol=0.03)
    change = literal[:, 0] - literal[:, 1]
    textbook = np.sqrt((n - 1) / n * np.square(change - change.mean()).sum())
    np.testing.assert_allclose(factor * ours.difference[0, 0], textbook, rtol=0.03)


def test_refit_where_a_predictor_is_constant_in_a_subset(data):
    """A model that singles out one condition says nothing where that condition is left out: only the rest is fitted."""
    models, places = data
    single = np.zeros((N_CONDITIONS, N_CONDITIONS))
    single[0] = single[:, 0] = 1
    keep = np.ones((1, N_CONDITIONS), dtype=bool)
    keep[0, 0] = False
    response = standardise(places[:1])
    kept = condense(expand(models[0])[:, 1:, 1:]), condense(expand(places[0])[1:, 1:])
    for position in (0, 1):
        sets = [models[0], models[0]]
        sets[position] = condense(single)[None]
        unique = unique_in_subsets(orthonormal_basis(sets), response, keep)[0, :, 0]
        assert unique[position] == pytest.approx(0, abs=1e-9)
        assert unique[1 - position] == pytest.approx(lstsq_adjusted([kept[0]], kept[1]), abs=1e-9)


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


def test_own_r2_in_subsets_equals_a_literal_loop(data):
    models, places = data
    subsets = condition_subsets(N_CONDITIONS, 9, 12, seed=4)
    ours = own_in_subsets(orthonormal_basis(models), standardise(places), subsets)
    for b, keep in enumerate(subsets):
        small, brains = (condense(expand(rdms)[..., keep, :][..., keep]) for rdms in (models, places))
        for j, response in enumerate(brains):
            np.testing.assert_allclose(ours[b, :, j], own(small, response), atol=1e-10)


@pytest.mark.parametrize("statistic, winners_of", [(own_adjusted_r2, own), (unique_adjusted_r2, lstsq_unique)])
def test_stability_equals_a_literal_loop(data, monkeypatch, statistic, winners_of):
    models, places = data
    expected = literal(models, places, winners_of, 40, seed=2)
    seen = []
    winner = np.argmax([winners_of(models, place) for place in places], axis=1)
    arguments = (orthonormal_basis(list(models)), statistic, places, winner)
    ours = winner_stability(*arguments, n_subsets=40, seed=2, progress=lambda *state: seen.append(state))
    np.testing.assert_array_equal(ours, expected)
    assert seen[-1] == (5, 5)
    assert 0 < expected.min() < 1
    monkeypatch.setattr("utils.stats.refits._LOCATIONS_PER_REFIT", 2)
    monkeypatch.setattr("utils.stats.refits._SUBSETS_PER_REFIT", 7)
    np.testing.assert_array_equal(winner_stability(*arguments, n_subsets=40, seed=2), expected)


def test_stability_of_a_given_winner(data):
    models, places = data
    counted = np.stack(
        [
            winner_stability(orthonormal_basis(list(models)), own_adjusted_r2, places, np.full(5, i), n_subsets=40)
            for i in range(4)
        ]
    )
    np.testing.assert_allclose(counted.sum(axis=0), 1)


def test_a_clear_winner_always_wins_and_twins_share(rng):
    models = gain_rdms(rng, 6, 30).reshape(3, 2, -1)
    places = models[:2, 0] + 0.01 * gain_rdms(rng, 2, 30)
    np.testing.assert_array_equal(
        winner_stability(orthonormal_basis(list(models)), own_adjusted_r2, places, np.arange(2), n_subsets=50), 1
    )
    between = models[:1, 0] / models[0, 0].std() + models[1:2, 0] / models[1, 0].std()
    shares = [
        winner_stability(orthonormal_basis(list(models)), own_adjusted_r2, between, np.array([twin]), n_subsets=200)[0]
        for twin in (0, 1)
    ]
    assert sum(shares) == 1
    assert min(shares) > 0.1


def test_a_predictor_that_is_constant_in_a_subset_skips_it(rng):
    """It differs from 0 for one condition only: subsets without that one cannot be fitted."""
    square = np.zeros((N_CONDITIONS, N_CONDITIONS))
    square[0, 1:] = square[1:, 0] = rng.random(N_CONDITIONS - 1)
    models = np.stack([gain_rdms(rng, 1, N_CONDITIONS), condense(square)[None]])
    places = models[0] + 0.1 * gain_rdms(rng, 1, N_CONDITIONS)
    assert (
        winner_stability(
            orthonormal_basis(list(models)), own_adjusted_r2, places, np.zeros(1, dtype=int), n_subsets=60
        )[0]
        == 1
    )


def test_no_subset_is_large_enough(rng):
    """Nine of ten conditions have 36 pairs, too few for 36 predictors and the constant."""
    models, places = rng.random((18, 2, 45)), rng.random((2, 45))
    assert np.isnan(
        winner_stability(orthonormal_basis(list(models)), own_adjusted_r2, places, np.zeros(2, dtype=int), n_subsets=5)
    ).all()


def test_stability_of_another_statistic_is_refused(data):
    with pytest.raises(ValueError, match=r"`statistic` is <function total_adjusted_r2.*>, expected own_adjusted_r2"):
        winner_stability(orthonormal_basis(list(data[0])), total_adjusted_r2, data[1], np.zeros(5, dtype=int))


@pytest.mark.parametrize("statistic", [own_adjusted_r2, unique_adjusted_r2])
def test_stability_beside_nuisance_rdms(data, statistic):
    """As where every set, or one more set that does not compete, holds them."""
    models, places = data
    nuisance, winner = models[3], np.array([0, 1, 2, 0, 1])
    ours = winner_stability(orthonormal_basis([*models[:3], nuisance], 1), statistic, places, winner, n_subsets=60)
    subsets = condition_subsets(N_CONDITIONS, round(0.9 * N_CONDITIONS), 60, 0)
    values = np.empty((60, 3, 5))
    for b, keep in enumerate(subsets):
        small, brains = (condense(expand(rdms)[..., keep, :][..., keep]) for rdms in (models, places))
        for j, response in enumerate(brains):
            if statistic is own_adjusted_r2:
                values[b, :, j] = [lstsq_adjusted(small[[i, 3]], response) for i in range(3)]
            else:
                values[b, :, j] = lstsq_unique(small, response)[:3]
    np.testing.assert_array_equal(ours, (values.argmax(axis=1) == winner).mean(axis=0))
