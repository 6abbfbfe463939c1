import numpy as np
import pytest
from helpers import gain_rdms
from scipy.optimize import nnls

from utils.rdm import condense, expand
from utils.stats.comparison import compared
from utils.stats.exceedances import Permutations
from utils.stats.inference import chance_adjusted_r2, chance_r2
from utils.stats.jackknife import Jackknife
from utils.stats.nonnegative import Nonnegative, negative_share
from utils.stats.refits import condition_subsets
from utils.stats.regression import linear_statistic, orthonormal_basis, own_r2, project, standardise


def literal_r2(predictors, rdm):
    """R2 of one brain RDM by scipy's non-negative least squares, and the weights of standardised predictors."""
    x, y = standardise(predictors).T, standardise(rdm)
    weights, residual = nnls(x, y)
    return 1 - residual**2, weights


def sets_of(rng, n_layers, n_sets=3, n=14):
    return gain_rdms(rng, n_sets * n_layers, n).reshape(n_sets, n_layers, -1)


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4])
def test_equals_scipy(rng, n_layers):
    models, places = sets_of(rng, n_layers), gain_rdms(rng, 40, 14)
    places[:5] -= 0.8 * models[0].mean(axis=0)
    basis = orthonormal_basis(list(models))
    r2, subset = Nonnegative(basis).r2(project(basis, places))
    for i, model in enumerate(models):
        for place, rdm in enumerate(places):
            expected, weights = literal_r2(model, rdm)
            assert r2[i, place] == pytest.approx(expected, abs=1e-10)
            assert (subset[i, place] < 0) == (not weights.any())
    assert (subset < 0).any() or n_layers > 2


@pytest.mark.parametrize("n_layers", [1, 2, 3, 6])
def test_negative_share_is_what_free_weights_have_more(rng, n_layers):
    models, places = sets_of(rng, n_layers), gain_rdms(rng, 30, 14)
    basis = orthonormal_basis(list(models))
    places[0] = -models[0].sum(axis=0)
    places[1] = models[0].sum(axis=0)
    projected = project(basis, places)
    found, free = negative_share(basis, projected), own_r2(basis)(projected)
    for i, model in enumerate(models):
        expected = [1 - literal_r2(model, rdm)[0] / free[i, place] for place, rdm in enumerate(places)]
        np.testing.assert_allclose(found[i], expected, atol=1e-9)
        weights = np.linalg.lstsq(standardise(model).T, standardise(places).T, rcond=None)[0]
        assert np.array_equal(found[i] == 0, (weights >= -1e-12).all(axis=0))
        positive = (standardise(model) @ standardise(places).T > 0).any(axis=0)
        assert np.array_equal(found[i] > 1 - 1e-9, ~positive)
    assert found[0, 1] == 0


def test_collinear_layers_count_once(rng):
    model, places = gain_rdms(rng, 2, 14), gain_rdms(rng, 20, 14)
    twice = np.vstack([model, model[0] + 2 * model[1], 3 * model[0]])
    bases = [orthonormal_basis([sets]) for sets in (model, twice)]
    one, two = (Nonnegative(basis).r2(project(basis, places))[0] for basis in bases)
    np.testing.assert_allclose(one, two, atol=1e-10)


def adjusted_literally(model, rdm):
    """1 - (1 - R2) / (1 - chance) with the exact chance level of a free regression on the layers that have a weight."""
    r2, weights = literal_r2(model, rdm)
    if not weights.any():
        return 0.0
    basis = orthonormal_basis([model[weights > 0]])
    chance = chance_adjusted_r2(basis, linear_statistic(basis, [[((0,), 1.0)]], adjusted=False), rdm[None])[0, 0]
    return 1 - (1 - r2) / (1 - chance)


def test_permutation_test_equals_a_loop(rng):
    models, places = compared(sets_of(rng, 2, n=10), "whitened"), compared(gain_rdms(rng, 4, 10), "whitened")
    places[0] += 0.3 * models[1, 0]
    basis, permutations = orthonormal_basis(list(models)), Permutations(60, "conditions", 5)
    test = Nonnegative(basis).test(places, permutations)
    observed = np.array([[adjusted_literally(model, rdm) for rdm in places] for model in models])
    np.testing.assert_allclose(test.observed, observed, atol=1e-12)
    null = np.array(
        [
            [[adjusted_literally(model[:, order], rdm) for rdm in places] for model in models]
            for order in permutations.indices(45, 0, 60)
        ]
    )
    np.testing.assert_allclose(test.p, (1 + (null >= observed - 1e-11).sum(axis=0)) / 61)
    np.testing.assert_allclose(test.p_best, (1 + (null.max(axis=1) >= observed.max(axis=0) - 1e-11).sum(axis=0)) / 61)
    np.testing.assert_allclose(
        test.p_max, (1 + (null.max(axis=(1, 2))[:, None, None] >= observed - 1e-11).sum(axis=0)) / 61
    )


def test_studentised_maximum_and_blocks(rng, monkeypatch):
    models, places = sets_of(rng, 2), gain_rdms(rng, 6, 14)
    places[2] += models[0, 1]
    basis, permutations = orthonormal_basis(list(models)), Permutations(99, "conditions", 1)
    whole = Nonnegative(basis).test(places, permutations, studentised=True)
    further = Nonnegative(basis).test(places, permutations)
    np.testing.assert_array_equal(whole.p, further.p)
    assert whole.p_max[0, 2] <= 0.05
    monkeypatch.setattr("utils.stats.nonnegative._BLOCK_BYTES", 1)
    again = Nonnegative(basis).test(places, permutations, studentised=True)
    for name in ("p", "p_max", "p_best"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))


def test_adjusted_values_are_near_zero_by_chance_whatever_the_number_of_layers(rng):
    orders = Permutations(100).indices(190, 0, 100)
    for n_layers in (1, 2, 4):
        places, adjusted, not_adjusted, free = compared(gain_rdms(rng, 30, spread=0.3), "whitened"), [], [], []
        for _ in range(4):
            basis = orthonormal_basis([compared(gain_rdms(rng, n_layers, spread=0.3), "whitened")])
            fit = Nonnegative(basis)
            adjusted += [fit.adjusted(places[:, order]).mean() for order in orders]
            not_adjusted += [fit.r2(project(basis, places[:, order]))[0].mean() for order in orders]
            free.append(chance_r2(basis, own_r2(basis), places).mean())
        assert np.mean(not_adjusted) > 0.4 * np.mean(free)
        assert abs(np.mean(adjusted)) < 0.1 * np.mean(free)


@pytest.mark.parametrize("comparison", ["plain", "whitened"])
def test_standard_errors_are_those_of_refits_without_each_condition(rng, comparison):
    models, places = sets_of(rng, 2, n_sets=2, n=16), 0.3 * gain_rdms(rng, 2, 16)
    places[0] += models[0].sum(axis=0) + 0.6 * models[1, 1] - 0.5 * models[1, 0]
    places[1] += models[1, 0] + 0.7 * models[0, 1]
    basis = orthonormal_basis(list(compared(models, comparison)))
    fit, rdms = Nonnegative(basis), compared(places, comparison)
    weights = fit.contrasts(fit.r2(project(basis, rdms))[1], np.tile([[1.0, 0.0], [1.0, -1.0]], (2, 1, 1)))
    sampled = Jackknife(basis, fit.statistic, comparison)(places, contrasts=weights)
    values = fit.adjusted(rdms)
    np.testing.assert_allclose(sampled.estimates, [values[0], values[0] - values[1]], atol=1e-12)

    def without(rdm, i):
        return condense(np.delete(np.delete(expand(rdm), i, axis=-1), i, axis=-2))

    left_out, same = np.empty((16, 2, 2)), np.ones(2, dtype=bool)
    active = [[literal_r2(model, rdm)[1] > 0 for model in compared(models, comparison)] for rdm in rdms]
    for i in range(16):
        fewer = compared(without(models, i), comparison), compared(without(places, i), comparison)
        own = np.array([[adjusted_literally(model, rdm) for rdm in fewer[1]] for model in fewer[0]])
        left_out[i] = own[0], own[0] - own[1]
        for place, rdm in enumerate(fewer[1]):
            same[place] &= np.array_equal(active[place], [literal_r2(model, rdm)[1] > 0 for model in fewer[0]])
    # Layers with a weight are held fixed: where the same ones have it without each condition, that is exact.
    assert same.any()
    expected = 15 * left_out.var(axis=0)
    np.testing.assert_allclose(sampled.components.images[:, same], expected[:, same], rtol=1e-9)
    np.testing.assert_allclose(sampled.components.images, expected, rtol=0.2)


def test_stability_equals_a_loop(rng, monkeypatch):
    monkeypatch.setattr("utils.stats.nonnegative.N_SUBSETS", 21)
    models, places = sets_of(rng, 2, n=12), gain_rdms(rng, 6, 12)
    fit, winner = Nonnegative(orthonormal_basis(list(models))), np.array([0, 1, 2, 0, 1, 2])
    won = np.zeros(6)
    for subset in condition_subsets(12, 11, 21, 3):
        pairs = subset[np.array(np.triu_indices(12, k=1))].all(axis=0)
        for place, rdm in enumerate(places):
            fits = [literal_r2(model[:, pairs], rdm[pairs]) for model in models]
            numbers = [(weights > 0).sum() for _, weights in fits]
            adjusted = [1 - (1 - r2) * 54 / (54 - k) if k else 0.0 for (r2, _), k in zip(fits, numbers, strict=True)]
            won[place] += np.argmax(adjusted) == winner[place]
    np.testing.assert_allclose(fit.stability(places, winner, 3), won / 21)
    assert 0 < won.sum() < 126


def test_an_opposite_rdm_explains_nothing(rng):
    model = gain_rdms(rng, 2, 14)
    basis = orthonormal_basis([model])
    fit, opposite = Nonnegative(basis), -model.mean(axis=0)[None]
    assert own_r2(basis)(project(basis, opposite))[0, 0] == pytest.approx(1)
    assert fit.adjusted(opposite)[0, 0] == 0


def test_too_many_layers_are_refused(rng):
    with pytest.raises(ValueError, match="up to 4 layers per network, got 5"):
        Nonnegative(orthonormal_basis(list(sets_of(rng, 5))))
