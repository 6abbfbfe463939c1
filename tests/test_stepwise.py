"""The stepwise test of Fig 2 against a literal loop, and its level where some models are real."""

import numpy as np
import pytest
from helpers import N_PAIRS, gain_rdms

from utils.stats.exceedances import Permutations
from utils.stats.regression import orthonormal_basis, own_adjusted_r2, project
from utils.stats.stepwise import stepwise_test


def least_squares(predictors, response):
    """Sum of squared residuals, with an intercept."""
    x = np.column_stack([np.ones(len(response)), *predictors])
    residual = response - x @ np.linalg.lstsq(x, response, rcond=None)[0]
    return residual @ residual, residual


def literal(models, chosen, k, response, order, nuisance=()):
    """F of each model that is not among the others, beside them; of permuted residuals, as Freedman and Lane say."""
    others = [*(layer for j in np.delete(chosen, k) for layer in models[j]), *nuisance]
    rest = [j for j in range(len(models)) if j not in np.delete(chosen, k)]
    left = least_squares(others, response)[1]
    permuted = (response - left) + left[order]
    reduced = least_squares(others, permuted)[0]
    values = {}
    for j in rest:
        full = least_squares([*others, *models[j]], permuted)[0]
        degrees = len(response) - 1 - len(others) - len(models[j])
        values[j] = (reduced - full) / len(models[j]) / (full / degrees)
    return values


def test_equals_a_literal_loop(data):
    models, places = data
    n, basis = 30, orthonormal_basis(models)
    chosen = np.argsort(-own_adjusted_r2(basis)(project(basis, places)), axis=0)[:3]
    test = stepwise_test(basis, chosen, places, Permutations(n, seed=4))
    indices = Permutations(n, seed=4).indices(N_PAIRS, 0, n)
    identity = np.arange(N_PAIRS)
    for i, response in enumerate(places):
        for k in range(3):
            observed = literal(models, chosen[:, i], k, response, identity)[chosen[k, i]]
            assert test.f[k, i] == pytest.approx(observed, rel=1e-9)
            # Permuting the models is permuting the brain by the inverse.
            null = [max(literal(models, chosen[:, i], k, response, np.argsort(row)).values()) for row in indices]
            assert test.p[k, i] == (1 + np.sum(np.array(null) >= observed)) / (1 + n)


def test_beside_nuisance_rdms_equals_a_literal_loop(data):
    models, nuisance, places = data[0][:3], data[0][3], data[1][:2]
    n, basis = 20, orthonormal_basis([*models, nuisance], n_given=1)
    chosen = np.array([[1, 0], [2, 1]])
    test = stepwise_test(basis, chosen, places, Permutations(n, seed=4))
    indices = Permutations(n, seed=4).indices(N_PAIRS, 0, n)
    for i, response in enumerate(places):
        for k in range(2):
            observed = literal(models, chosen[:, i], k, response, np.arange(N_PAIRS), nuisance)[chosen[k, i]]
            assert test.f[k, i] == pytest.approx(observed, rel=1e-9)
            null = [
                max(literal(models, chosen[:, i], k, response, np.argsort(row), nuisance).values()) for row in indices
            ]
            assert test.p[k, i] == (1 + np.sum(np.array(null) >= observed)) / (1 + n)


def test_maximum_over_ranks_and_locations(data):
    models, places = data
    basis, n = orthonormal_basis(models), 50
    chosen = np.argsort(-own_adjusted_r2(basis)(project(basis, places)), axis=0)[:2]
    test = stepwise_test(basis, chosen, places, Permutations(n))
    assert (test.p_max >= test.p).all()
    alone = stepwise_test(basis, chosen[:, :1], places[:1], Permutations(n))
    assert np.array_equal(alone.p, test.p[:, :1])
    assert (alone.p_max <= test.p_max[:, :1]).all()


def test_a_model_within_the_span_of_the_others_adds_nothing(data):
    models, places = data
    models = models.copy()
    models[3] = models[1]
    basis = orthonormal_basis(models)
    test = stepwise_test(basis, np.tile([[1], [3], [0]], 5), places, Permutations(20))
    np.testing.assert_allclose(test.f[:2], 0, atol=1e-9)
    assert (test.p[:2] == 1).all()


def test_one_chosen_model_of_several_blocks_of_permutations(data, monkeypatch):
    models, places = data
    basis = orthonormal_basis(models)
    chosen = np.argsort(-own_adjusted_r2(basis)(project(basis, places)), axis=0)[:1]
    whole, steps = stepwise_test(basis, chosen, places, Permutations(25)), []
    monkeypatch.setattr("utils.stats.stepwise._BLOCK_BYTES", 1)
    parts = stepwise_test(basis, chosen, places, Permutations(25), lambda done, total: steps.append((done, total)))
    assert np.array_equal(whole.p, parts.p)
    assert steps[-1] == (25, 25)


@pytest.mark.slow
def test_second_rank_keeps_its_level_where_the_first_is_real(rng):
    """One of ten models is real: the second rank is the best of nine that are not."""
    n, hits = 120, 0
    for _ in range(n):
        models = gain_rdms(rng, 10, 20, spread=0.2).reshape(10, 1, -1)
        place = gain_rdms(rng, 1, 20, spread=0.2) + 1.5 * models[0]
        basis = orthonormal_basis(list(models))
        chosen = np.argsort(-own_adjusted_r2(basis)(project(basis, place)), axis=0)[:2]
        assert chosen[0, 0] == 0
        hits += stepwise_test(basis, chosen, place, Permutations(199)).p[1, 0] <= 0.05
    assert hits / n <= 0.10  # 5 % and two standard errors
