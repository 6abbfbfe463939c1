"""Pairs of conditions that are left out: every number against a literal loop or generalised least squares."""

import json
from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from helpers import SCRIPTS, gain_rdms, lstsq_unique, related_rdms, run_script, write_study
from scipy.io import loadmat, savemat
from scipy.optimize import nnls

from models.tasks import Model
from utils import InputError
from utils.analysis.assumptions import check_assumptions
from utils.analysis.predictors import fit_bases
from utils.analysis.settings import Settings
from utils.datasets.layout import locate
from utils.datasets.models import ModelRdms, load_models
from utils.datasets.pilot import read_pilot
from utils.datasets.rois import load_rois
from utils.datasets.searchlights import load_searchlights
from utils.rdm import Pairs, condense, expand, pair_permutation
from utils.stats.comparison import as_before, compared, transposed
from utils.stats.cross_validation import CrossValidation, condition_folds
from utils.stats.exceedances import Permutations
from utils.stats.inference import above_chance, chance_r2, energy_of
from utils.stats.jackknife import Jackknife
from utils.stats.noise_ceiling import noise_ceiling, reliability, single_subject_ceilings
from utils.stats.nonnegative import Nonnegative
from utils.stats.permutation import conditional_test, permutation_test
from utils.stats.refits import condition_subsets, own_in_subsets, unique_in_subsets, winner_stability
from utils.stats.regression import (
    linear_statistic,
    orthonormal_basis,
    own_adjusted_r2,
    own_and_parts,
    own_r2,
    project,
    standardise,
    unique_adjusted_r2,
    unique_and_total,
)
from utils.stats.stepwise import stepwise_test

COMPARISONS = ["whitened", "plain", "without_condition_effects"]
N = 16
RUNS = np.arange(N) // 4


def between_runs():
    return Pairs.where(RUNS[:, None] != RUNS)


def within_runs():
    return Pairs.where(np.arange(N)[:, None] // 8 == np.arange(N) // 8)


def two_halves():
    """No odd circle: a pattern of signs cancels in all pairs."""
    return Pairs.where(np.arange(N)[:, None] % 2 != np.arange(N) % 2)


def at_random():
    return Pairs(np.random.default_rng(5).random(N * (N - 1) // 2) > 0.2)


def uneven():
    """One run of five conditions, two of three, and a single pair."""
    run = np.repeat([0, 1, 2, 3], [5, 3, 3, 5])
    square = run[:, None] != run
    square[11:, 11:] = True
    square[11, 12] = square[12, 11] = False
    return Pairs.where(square)


KINDS = [between_runs, within_runs, two_halves, at_random, uneven]


@pytest.fixture
def study(rng):
    return related_rdms(rng, N)


def covariance(pairs, comparison):
    """Of the entries that count: of squared distances of noisy patterns, restricted to these; or its counterparts."""
    rows, columns = np.array(np.triu_indices(pairs.n_conditions, k=1))[:, pairs.kept]
    one = np.eye(pairs.n_conditions)
    if comparison == "whitened":
        difference = one[rows] - one[columns]
        return np.square(difference @ difference.T)
    return np.eye(pairs.n_kept)


@cache
def inverse_covariance(pairs, comparison):
    return np.linalg.inv(covariance(pairs, comparison))


def gls_r2(pairs, predictors, response, comparison):
    """R2 beyond the intercept by generalised least squares, and beyond condition effects where these do not count."""
    inverse = inverse_covariance(pairs, comparison)
    nothing = np.ones((pairs.n_kept, 1))
    if comparison == "without_condition_effects":
        rows, columns = np.array(np.triu_indices(pairs.n_conditions, k=1))[:, pairs.kept]
        nothing = np.eye(pairs.n_conditions)[rows] + np.eye(pairs.n_conditions)[columns]

    def rest(x):
        residual = response - x @ np.linalg.pinv(x.T @ inverse @ x) @ x.T @ inverse @ response
        return residual @ inverse @ residual

    return 1 - rest(np.column_stack([nothing, *predictors])) / rest(nothing)


def basis_of(models, pairs, comparison="whitened"):
    return orthonormal_basis(list(compared(pairs.of(models), comparison, pairs)), pairs=pairs)


# --------------------------------------------------------------------------------------------------------- the pairs


@pytest.mark.parametrize("kind", KINDS)
def test_restriction_and_sums(kind, rng):
    pairs, rdms = kind(), rng.random((3, N * (N - 1) // 2))
    square = np.where(pairs.square, expand(rdms), 0)
    np.testing.assert_array_equal(expand(pairs.filled(pairs.of(rdms))), square)
    np.testing.assert_allclose(pairs.sums(pairs.of(rdms)), square.sum(axis=2))
    effects = rng.random(N)
    np.testing.assert_allclose(pairs.filled(pairs.spread(effects)), pairs.kept * condense(effects[:, None] + effects))
    assert pairs.degrees.sum() == 2 * pairs.n_kept == 2 * pairs.kept.sum()
    others = np.arange(N) != 3
    inside, smaller = pairs.among(others)
    np.testing.assert_array_equal(smaller.filled(pairs.of(rdms)[:, inside]), condense(square[:, others][:, :, others]))
    fewest = min(pairs.among(~np.isin(np.arange(N), out))[1].n_kept for out in combinations(range(N), 2))
    assert 0 < pairs.fewest_without(2) <= fewest


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_can_be_exchanged_if_that_keeps_the_pairs(kind):
    pairs = kind()
    for i, j in combinations(range(N), 2):
        order = np.arange(N)
        order[[i, j]] = j, i
        same = (pairs.square[np.ix_(order, order)] == pairs.square).all()
        assert same == (pairs.exchangeable[i] == pairs.exchangeable[j]) == pairs.keeps(order[None])


def test_classes_of_runs_and_of_all():
    np.testing.assert_array_equal(between_runs().exchangeable, RUNS)
    assert not Pairs(np.ones(120, bool)).exchangeable.any()


@pytest.mark.parametrize("kind", KINDS)
def test_permutations_stay_within_the_pairs(kind, rng):
    pairs, rdms = kind(), rng.random(N * (N - 1) // 2)
    draws = Permutations(40, seed=2, pairs=pairs)
    for order, index in zip(draws.orders(pairs.n_kept, 0, 40), draws.indices(pairs.n_kept, 0, 40), strict=True):
        np.testing.assert_array_equal(pairs.exchangeable[order], pairs.exchangeable)
        np.testing.assert_array_equal(pairs.of(rdms)[index], pairs.of(rdms[pair_permutation(order)]))
    moved = np.array([[*range(1, N), 0]])
    if not pairs.keeps(moved):
        with pytest.raises(ValueError, match="exchanges pairs that count with pairs that are left out"):
            pairs.permutation(moved)


def test_blocks_and_pairs_count_together():
    blocks = tuple((np.arange(N) % 2).tolist())
    orders = Permutations(60, seed=1, blocks=blocks, pairs=between_runs()).orders(96, 0, 60)
    np.testing.assert_array_equal(RUNS[orders], np.tile(RUNS, (60, 1)))
    np.testing.assert_array_equal(orders % 2, np.tile(np.arange(N) % 2, (60, 1)))
    assert Permutations(1, blocks=blocks, pairs=between_runs()).n_distinct == pytest.approx(2**8)
    assert Permutations(1, pairs=between_runs()).n_distinct == pytest.approx(24**4)
    whole = Permutations(60, "blocks", blocks=tuple(RUNS.tolist()), pairs=between_runs())
    assert whole.n_distinct == pytest.approx(24)
    assert (np.sort(whole.indices(96, 0, 60), axis=1) == np.arange(96)).all()
    entries = Permutations(5, "entries", pairs=between_runs()).indices(96, 0, 5)
    np.testing.assert_array_equal(entries, Permutations(5, "entries").indices(96, 0, 5))


# ---------------------------------------------------------------------------------------------------------- comparison


@pytest.mark.parametrize("comparison", COMPARISONS)
@pytest.mark.parametrize("kind", KINDS)
def test_regression_is_generalised_least_squares(study, kind, comparison):
    models, subjects = study
    pairs, mean = kind(), subjects.mean(axis=0)
    basis = basis_of(models, pairs, comparison)
    own = linear_statistic(basis, [[((0, 1), 1.0)], [((2,), 1.0)]], adjusted=False)
    found = own(project(basis, compared(pairs.of(mean), comparison, pairs)))
    for place in range(3):
        response = pairs.of(mean[place])
        both = gls_r2(pairs, pairs.of(models[:2].reshape(4, -1)), response, comparison)
        one = gls_r2(pairs, pairs.of(models[2]), response, comparison)
        np.testing.assert_allclose(found[:, place], [both, one], atol=1e-9)


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_all_pairs_are_compared_as_before(study, comparison):
    models, _ = study
    ours, before = compared(models, comparison, Pairs(np.ones(120, bool))), compared(models, comparison)
    np.testing.assert_allclose(ours, before, atol=1e-12)


@pytest.mark.parametrize("comparison", COMPARISONS)
@pytest.mark.parametrize("kind", KINDS)
def test_comparison_has_an_inverse_and_a_transpose_and_commutes_with_permutations(study, kind, comparison, rng):
    models, _ = study
    pairs = kind()
    rdms, rows = pairs.of(models[0]), standardise(rng.random((3, pairs.n_kept)))
    ours = compared(rdms, comparison, pairs)
    centred = ours - ours.mean(axis=1, keepdims=True)
    if comparison != "plain":
        np.testing.assert_allclose(ours.mean(axis=1), 0, atol=1e-12)
    if comparison == "whitened":
        difference = as_before(ours, comparison, pairs) - rdms
        np.testing.assert_allclose(difference, np.broadcast_to(difference[:, :1], rdms.shape), atol=1e-12)
    np.testing.assert_allclose(transposed(rows, comparison, pairs) @ rdms.T, rows @ centred.T, atol=1e-12)
    index = Permutations(1, seed=4, pairs=pairs).indices(pairs.n_kept, 0, 1)[0]
    np.testing.assert_allclose(compared(rdms[:, index], comparison, pairs), ours[:, index], atol=1e-12)


# --------------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("comparison", COMPARISONS)
@pytest.mark.parametrize("kind", [between_runs, uneven])
def test_p_values_equal_a_literal_loop(study, kind, comparison):
    """Conditions of the square RDMs change places, and everything is done anew."""
    models, subjects = study
    pairs, mean = kind(), subjects.mean(axis=0)
    basis, draws = basis_of(models, pairs, comparison), Permutations(30, seed=3, pairs=pairs)
    test = permutation_test(basis, own_r2(basis), compared(pairs.of(mean), comparison, pairs), draws)
    orders = draws.orders(pairs.n_kept, 0, 30)
    for model in range(3):
        for place in range(3):
            values = []
            for order in [np.arange(N), *orders]:
                moved = [pairs.of(condense(expand(rdm)[np.ix_(order, order)])) for rdm in models[model]]
                values.append(gls_r2(pairs, moved, pairs.of(mean[place]), comparison))
            assert test.observed[model, place] == pytest.approx(values[0], abs=1e-9)
            assert test.p[model, place] == (1 + (np.array(values[1:]) >= values[0] - 1e-9).sum()) / 31


def test_conditional_p_values_equal_a_literal_loop(study):
    """Double semi-partialling in the space in which RDMs are compared, with pairs of square matrices moved."""
    models, subjects = study
    pairs, place = between_runs(), 1
    basis, draws = basis_of(models, pairs), Permutations(50, seed=3, pairs=pairs)
    y = standardise(compared(pairs.of(subjects.mean(axis=0)), "whitened", pairs))[place]
    test = conditional_test(basis, y[None], draws)
    shown = compared(pairs.of(models), "whitened", pairs)
    others = np.linalg.qr(shown[1:].reshape(4, -1).T)[0]
    own = shown[0] - (shown[0] @ others) @ others.T
    values = []
    for order in [np.arange(N), *draws.orders(pairs.n_kept, 0, 50)]:
        moved = np.stack([pairs.of(condense(expand(pairs.filled(v))[np.ix_(order, order)])) for v in own])
        moved -= (moved @ others) @ others.T
        values.append(np.square(np.linalg.qr(moved.T)[0].T @ y).sum())
    assert test.observed[0, 0] == pytest.approx(values[0], abs=1e-12)
    left = 1 - np.square(others.T @ y).sum()
    assert test.p[0, 0] == (1 + (np.array(values[1:]) / left >= values[0] / left - 1e-11).sum()) / 51


def test_stepwise_p_values_equal_a_literal_loop(study):
    models, subjects = study
    pairs, draws = between_runs(), Permutations(40, seed=3, pairs=between_runs())
    basis = basis_of(models, pairs)
    y = standardise(compared(pairs.of(subjects.mean(axis=0)), "whitened", pairs))[1]
    test = stepwise_test(basis, np.array([[0], [1]]), y[None], draws)
    shown = compared(pairs.of(models), "whitened", pairs)
    given = np.linalg.qr(shown[1].T)[0]
    residual = y - given @ (given.T @ y)

    def largest_f(order):
        moved = pairs.of(condense(expand(pairs.filled(residual))[np.ix_(order, order)]))
        rest = np.square(moved - given @ (given.T @ moved)).sum()
        both = [np.linalg.qr(np.vstack([shown[1], shown[k]]).T)[0] for k in (0, 2)]
        return [(rest / np.square(moved - q @ (q.T @ moved)).sum() - 1) * (pairs.n_kept - 5) / 2 for q in both]

    observed = largest_f(np.arange(N))[0]
    null = [max(largest_f(np.argsort(order))) for order in draws.orders(pairs.n_kept, 0, 40)]
    assert test.f[0, 0] == pytest.approx(observed)
    assert test.p[0, 0] == (1 + (np.array(null) >= observed * (1 - 1e-9)).sum()) / 41


@pytest.mark.slow
def test_level_where_within_run_pairs_are_left_out():
    """Runs whose patterns share a drift within, but not between: 25 or more of 300 rejections have p = .01."""
    rng, pairs, rejected = np.random.default_rng(8), between_runs(), 0
    for _ in range(300):
        basis = basis_of(gain_rdms(rng, 2, N)[:, None], pairs)
        brain = gain_rdms(rng, 1, N) + 2 * condense(RUNS[:, None] == RUNS)
        test = permutation_test(
            basis, own_r2(basis), compared(pairs.of(brain), "whitened", pairs), Permutations(99, pairs=pairs)
        )
        rejected += int(test.p_best[0] <= 0.05)
    assert rejected <= 25


# -------------------------------------------------------------------------------------------------------- chance level


def test_chance_level_of_all_pairs_is_exact(study):
    models, subjects = study
    everything = Pairs(np.ones(120, bool))
    basis, before = basis_of(models, everything), orthonormal_basis(list(compared(models, "whitened")))
    rdms = compared(subjects[0], "whitened")
    np.testing.assert_allclose(
        chance_r2(basis, own_r2(basis), rdms), chance_r2(before, own_r2(before), rdms), atol=1e-12
    )


@pytest.mark.parametrize("comparison", ["whitened", "plain"])
def test_chance_level_is_near_the_mean_over_all_orders_of_the_models(comparison):
    rng, runs = np.random.default_rng(4), np.arange(30) // 5
    pairs, models, brain = Pairs.where(runs[:, None] != runs), gain_rdms(rng, 4, 30).reshape(2, 2, -1), None
    brain = compared(pairs.of(gain_rdms(rng, 8, 30)), comparison, pairs)
    basis = basis_of(models, pairs, comparison)
    values = []
    for _ in range(400):
        order = rng.permutation(30)
        own = basis_of(models[..., pair_permutation(order)], pairs, comparison)
        values.append(own_r2(own)(project(own, brain)))
    ratio = chance_r2(basis, own_r2(basis), brain) / np.mean(values, axis=0)
    assert abs(ratio.mean() - 1) < 0.06
    assert abs(ratio - 1).max() < 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_condition_energy_is_that_of_the_projection(study, kind):
    models, _ = study
    pairs = kind()
    units = standardise(compared(pairs.of(models[0]), "whitened", pairs))
    rows, columns = pairs.first, pairs.second
    effects = np.eye(N)[rows] + np.eye(N)[columns]
    expected = np.square(effects @ np.linalg.lstsq(effects, units.T, rcond=None)[0]).sum(axis=0)
    np.testing.assert_allclose(energy_of(units, pairs), expected, atol=1e-12)


# ----------------------------------------------------------------------------------------------------- standard errors


def refit(models, rdms, statistic, comparison, pairs, by_chance=True):
    """The whole analysis of RDMs that are restricted already: values (n_statistics, n_locations)."""
    basis = orthonormal_basis(list(compared(models, comparison, pairs)), pairs=pairs)
    responses, own = compared(rdms, comparison, pairs), statistic(basis)
    return above_chance(basis, own, responses) if by_chance else own(project(basis, responses))


@pytest.mark.parametrize("comparison", COMPARISONS)
@pytest.mark.parametrize("by_chance", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_without_each_condition_equals_a_refit(study, kind, comparison, by_chance):
    models, subjects = study
    pairs = kind()
    models, subjects = pairs.of(models), pairs.of(subjects)
    mean = subjects.mean(axis=0)
    basis = orthonormal_basis(list(compared(models, comparison, pairs)), pairs=pairs)
    jackknife = Jackknife(basis, unique_and_total(basis), comparison, by_chance=by_chance)
    ours = jackknife(mean, subjects if by_chance else None)
    expected = refit(models, mean, unique_and_total, comparison, pairs, by_chance)
    np.testing.assert_allclose(ours.estimates, expected, atol=1e-10)
    refits, shares = [], []
    for i in range(N):
        inside, smaller = pairs.among(np.arange(N) != i)
        refits.append(refit(models[..., inside], mean[..., inside], unique_and_total, comparison, smaller, by_chance))
        own = reliability(subjects[..., inside], comparison, smaller)
        shares.append(refits[-1] / np.where(own > 0, own, np.nan))
    refits = np.stack(refits, axis=2)
    np.testing.assert_allclose(ours.influence, refits - refits.mean(axis=2, keepdims=True), atol=1e-10)
    np.testing.assert_allclose(ours.components.images, (N - 1) * refits.var(axis=2), rtol=1e-6)
    if by_chance:
        np.testing.assert_allclose(ours.reliability, reliability(subjects, comparison, pairs), atol=1e-12)
        np.testing.assert_allclose(ours.share_components.images, (N - 1) * np.var(shares, axis=0), rtol=1e-6)


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_standard_errors_of_all_pairs_are_those_of_the_closed_form(study, comparison):
    models, subjects = study
    everything = Pairs(np.ones(120, bool))
    found = []
    for pairs in (everything, None):
        basis = orthonormal_basis(list(compared(models, comparison, pairs)), pairs=pairs)
        found.append(Jackknife(basis, unique_and_total(basis), comparison)(subjects.mean(axis=0), subjects))
    ours, before = found
    for name in ("estimates", "shares", "reliability", "influence"):
        np.testing.assert_allclose(getattr(ours, name), getattr(before, name), atol=1e-10)
    for of in ("components", "share_components"):
        for name in ("images", "people", "interaction"):
            np.testing.assert_allclose(getattr(getattr(ours, of), name), getattr(getattr(before, of), name), rtol=1e-7)


@pytest.mark.parametrize("kind", [between_runs, uneven])
def test_influence_of_people_is_the_derivative(study, kind):
    models, subjects = study
    pairs = kind()
    models, subjects = pairs.of(models), pairs.of(subjects)
    basis, step = orthonormal_basis(list(compared(models, "whitened", pairs)), pairs=pairs), 1e-5
    ours = Jackknife(basis, own_adjusted_r2(basis), "whitened", by_chance=False)(subjects.mean(axis=0), subjects)
    slopes = []
    for s in range(5):
        both = []
        for sign in (1, -1):
            weights = np.ones(5)
            weights[s] += sign * step
            mean = np.einsum("s,spk->pk", weights, subjects) / weights.sum()
            both.append(refit(models, mean, own_adjusted_r2, "whitened", pairs, by_chance=False))
        slopes.append((both[0] - both[1]) / (2 * step) * 5)
    np.testing.assert_allclose(ours.components.people, np.var(slopes, axis=0, ddof=1) / 5, rtol=1e-6)


def test_many_places_in_blocks(study, rng, monkeypatch):
    models, subjects = study
    pairs = between_runs()
    subjects = pairs.of(np.tile(subjects, (1, 5, 1)) + 0.01 * rng.random((5, 15, 120)))
    basis = basis_of(models, pairs)
    whole = Jackknife(basis, own_adjusted_r2(basis), "whitened")(subjects.mean(axis=0), subjects)
    monkeypatch.setattr("utils.stats.jackknife._SQUARES_AT_ONCE", 4 * N**2)
    parts = Jackknife(basis, own_adjusted_r2(basis), "whitened")(subjects.mean(axis=0), subjects.astype(np.float32))
    np.testing.assert_allclose(parts.components.images, whole.components.images, rtol=1e-5)
    np.testing.assert_allclose(parts.share_components.people, whole.share_components.people, rtol=1e-3)


# ------------------------------------------------------------------------ ceilings, subsets, predictions, other weights


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_reliability_and_ceilings(study, comparison):
    _, subjects = study
    pairs = uneven()
    own = compared(pairs.of(subjects), comparison, pairs)
    own -= own.mean(axis=2, keepdims=True)
    lower, upper = single_subject_ceilings(pairs.of(subjects), 2, comparison, pairs)
    for place in range(3):
        d = own[:, place]
        between = 5 * np.square(d.mean(axis=0)).sum() / (pairs.n_kept - 1)
        rest = np.square(d - d.mean(axis=0)).sum() / (pairs.n_kept - 1) / 4
        assert reliability(pairs.of(subjects), comparison, pairs)[place] == pytest.approx(1 - rest / between)
        units = standardise(d)
        assert upper[place] == pytest.approx(np.linalg.svd(units)[1][:2] @ np.linalg.svd(units)[1][:2] / 5)
        others = [np.delete(units, s, axis=0).sum(axis=0) for s in range(5)]
        r2 = np.array([np.corrcoef(u, o)[0, 1] ** 2 for u, o in zip(units, others, strict=True)])
        assert lower[place] == pytest.approx((1 - (1 - r2) * (pairs.n_kept - 1) / (pairs.n_kept - 2)).mean())


def test_refits_to_subsets(study):
    models, subjects = study
    pairs = uneven()
    basis = basis_of(models, pairs, "plain")
    responses = standardise(pairs.of(subjects.mean(axis=0)))
    subsets = condition_subsets(N, 14, 6, 0)
    unique, own = unique_in_subsets(basis, responses, subsets), own_in_subsets(basis, responses, subsets)
    for b, subset in enumerate(subsets):
        inside = pairs.among(subset)[0]
        for place in range(3):
            sets = [pairs.of(model)[:, inside] for model in models]
            np.testing.assert_allclose(unique[b, :, place], lstsq_unique(sets, responses[place, inside]), atol=1e-9)
            alone = [lstsq_unique([own_set], responses[place, inside])[0] for own_set in sets]
            np.testing.assert_allclose(own[b, :, place], alone, atol=1e-9)
    winner = own_adjusted_r2(basis)(project(basis, responses)).argmax(axis=0)
    share = winner_stability(basis, own_adjusted_r2, responses, winner, n_subsets=6)
    own = own_in_subsets(basis, responses, condition_subsets(N, 14, 6, 0))
    np.testing.assert_allclose(share, (own.argmax(axis=1) == winner).mean(axis=0))


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_cross_validation_equals_a_literal_loop(rng, comparison):
    n, runs = 30, np.arange(30) % 3
    pairs, folds = Pairs.where(runs[:, None] != runs), condition_folds(30, 3, 1)
    models = gain_rdms(rng, 4, n).reshape(2, 2, -1)
    subjects = pairs.of(gain_rdms(rng, 8, n).reshape(4, 2, -1) + models[0, 0])
    restricted = pairs.of(models)
    basis = orthonormal_basis(list(compared(restricted, comparison, pairs)), pairs=pairs)
    found = CrossValidation(basis, own_and_parts(basis), comparison, folds)(subjects)

    def centred(rdms, part):
        own = compared(rdms, comparison, part)
        return own - own.mean(axis=-1, keepdims=True)

    for place in range(2):
        for model in range(2):
            scores = []
            for s in range(4):
                others = np.delete(subjects[:, place], s, axis=0).mean(axis=0)
                error = variance = 0.0
                for f in range(3):
                    (train, of_train), (test, of_test) = pairs.among(folds != f), pairs.among(folds == f)
                    x, y = centred(restricted[model][:, train], of_train), centred(others[train], of_train)
                    weights = np.linalg.lstsq(x.T, y, rcond=None)[0]
                    observed = centred(subjects[s, place, test], of_test)
                    predicted = weights @ centred(restricted[model][:, test], of_test)
                    error += np.square(observed - predicted).sum()
                    variance += np.square(observed).sum()
                scores.append(1 - error / variance)
            assert found.values[model, place] == pytest.approx(np.mean(scores), abs=1e-9)


def test_cross_validation_with_too_few_pairs_in_a_fold(study):
    basis = basis_of(study[0], between_runs())
    with pytest.raises(ValueError, match="a fold has 0 pairs that count"):
        CrossValidation(basis, own_r2(basis), "whitened", RUNS)


def test_non_negative_weights(study):
    models, subjects = study
    pairs = uneven()
    basis = basis_of(models, pairs)
    responses = compared(pairs.of(subjects.mean(axis=0)), "whitened", pairs)
    fit, units = Nonnegative(basis), standardise(responses)
    shown = standardise(compared(pairs.of(models), "whitened", pairs))

    def r2(x, y):
        x, y = x - x.mean(axis=1, keepdims=True), y - y.mean()
        return 1 - nnls(x.T, y)[1] ** 2 / (y @ y), (nnls(x.T, y)[0] > 1e-12).sum()

    found = fit.r2(project(basis, responses))[0]
    expected = [[r2(model, y)[0] for y in units] for model in shown]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    winner = found.argmax(axis=0)
    won = np.zeros(3)
    for subset in condition_subsets(N, 14, 1000, 0)[:60]:
        inside = pairs.among(subset)[0]
        for place, y in enumerate(units):
            values = [r2(model[:, inside], y[inside]) for model in shown]
            adjusted = [1 - (1 - v) * (inside.sum() - 1) / (inside.sum() - k - 1) if k else 0 for v, k in values]
            won[place] += np.argmax(adjusted) == winner[place]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.stats.nonnegative.N_SUBSETS", 1000)
        patch.setattr("utils.stats.nonnegative.condition_subsets", lambda *a: condition_subsets(*a)[:60])
        np.testing.assert_allclose(fit.stability(responses, winner, 0), won / 60)
    draws, own = Permutations(20, seed=1, pairs=pairs), basis_of(models[:, :1], pairs)
    test, slope = Nonnegative(own).test(responses, draws), 1 / (1 - chance_r2(own, own_r2(own), responses))

    def values(index):
        free = np.array([[r2(model[:, index], y)[0] for y in units] for model in shown[:, :1]])
        return np.where(free > 1e-12, 1 - (1 - free) * slope, 0)

    null = np.stack([values(index) for index in draws.indices(pairs.n_kept, 0, 20)])
    expected = (1 + (null >= values(np.arange(pairs.n_kept)) - 1e-9).sum(axis=0)) / 21
    np.testing.assert_allclose(test.p, expected)


def test_an_order_of_the_conditions_is_seen_between_the_pairs_that_count(rng):
    steps = np.cumsum(rng.standard_normal((30, 6)), axis=0)
    square = ~np.eye(30, dtype=bool)
    square[0, 29] = square[29, 0] = False
    pairs = Pairs.where(square)

    def rdms(n):
        noisy = steps + 0.3 * rng.standard_normal((n, *steps.shape))
        return pairs.of(condense(np.square(noisy[:, :, None] - noisy[:, None]).sum(axis=3)))

    with pytest.warns(UserWarning, match="follow each other are more alike"):
        check_assumptions(rdms(4)[:, None], rdms(3), Settings(), pairs)


@pytest.mark.parametrize("statistic", [own_adjusted_r2, unique_adjusted_r2])
def test_adjusted_values_count_the_pairs(study, statistic):
    models, subjects = study
    pairs = between_runs()
    basis = basis_of(models, pairs, "plain")
    values = statistic(basis)(project(basis, pairs.of(subjects[0])))
    sets = [pairs.of(model) for model in models]
    for place in range(3):
        y = pairs.of(subjects[0, place])
        whole = lstsq_unique(sets, y)
        alone = [lstsq_unique([own], y)[0] for own in sets]
        np.testing.assert_allclose(values[:, place], alone if statistic is own_adjusted_r2 else whole, atol=1e-9)


# -------------------------------------------------------------------------------------------------------- data, figures

N_IMAGES = 24
RUN = np.arange(N_IMAGES) // 6
BETWEEN = RUN[:, None] != RUN


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study whose brain RDMs are not defined within runs: NaN, and a value that would spoil everything."""
    root = write_study(tmp_path_factory.mktemp("data") / "study", np.random.default_rng(4), n_conditions=N_IMAGES)
    np.save(root / "pairs.npy", BETWEEN)
    for name in ("EVC.npy", "IT .mat"):
        path = root / "roi_rdms" / name
        rdms = np.load(path) if name == "EVC.npy" else loadmat(path)["subject_rdm"]
        rdms[:, ~BETWEEN] = np.nan
        np.save(path, rdms) if name == "EVC.npy" else savemat(path, {"subject_rdm": rdms})
    for path in (root / "searchlight_rdms").glob("sub-*.npy"):
        rdms = np.load(path)
        rdms[:, ~condense(BETWEEN)] = 1e6
        np.save(path, rdms)
    return root


def run_figure(monkeypatch, figure, folder, results, *options):
    extra = ["--ceiling", "none"] if figure in ("Fig1", "Fig3a") else []
    return run_script(
        monkeypatch, figure, "--data", folder, "--results", results, "-np", 199, "--device", "cpu", *extra, *options
    )


def plain_text(path):
    return " ".join(path.read_text(encoding="utf-8").split())


@pytest.mark.slow
@pytest.mark.parametrize("figure", SCRIPTS)
def test_figures_without_pairs_within_runs(folder, tmp_path, monkeypatch, figure):
    assert run_figure(monkeypatch, figure, folder, tmp_path) == 0
    with np.load(tmp_path / figure / "arrays.npz") as file:
        arrays = dict(file)
    pairs = Pairs.where(BETWEEN)
    keys = list(arrays["models"])
    models = {path.stem: pairs.of(condense(np.load(path))) for path in sorted((folder / "dnn_rdms").glob("*.npy"))}
    if figure in ("Fig1", "Fig3a"):
        brain = np.mean([np.load(path) for path in sorted((folder / "searchlight_rdms").glob("sub-*.npy"))], axis=0)
    else:
        square = np.nan_to_num(np.load(folder / "roi_rdms" / "EVC.npy")).mean(axis=0)
        brain = condense(square)[None].astype(np.float64)
    members = {"2D": ["edges", "edges_fine"], "semantic": ["net"]}
    for k, key in enumerate(keys):
        layers = [
            np.mean([models[f"{name}_{layer}"] for name in members.get(key, [key])], axis=0)
            for layer in ("early", "late")
        ]
        for place in range(min(3, len(brain))):
            expected = gls_r2(pairs, layers, pairs.of(brain[place]), "whitened")
            assert arrays["r2"][k, place] == pytest.approx(expected, abs=1e-6)
    assert np.isfinite(arrays["se"]).all() and np.isfinite(arrays["stability"]).any()
    record = json.loads((tmp_path / figure / "run.json").read_text())["data"]
    assert (record["n_pairs"], record["n_pairs_left_out"], record["n_exchangeable"]) == (216, 60, 4)
    assert record["pairs"] == str(folder / "pairs.npy")
    page = plain_text(tmp_path / figure / "report.html")
    assert "(216 pairwise dissimilarities; 60 further pairs were left out of all RDMs)" in page
    assert "lack the same partners" in page and "restricted to these pairs" in page and "√(2/" not in page
    assert not (folder / "searchlight_rdms" / "noise_ceiling.npz").exists()
    table = pd.read_csv(tmp_path / figure / "results.tsv", sep="\t", na_values="n/a")
    assert table["explained" if "explained" in table else "significant"].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "figure, options",
    [
        ("Fig1", ["--weights", "nonnegative"]),
        ("Fig1", ["--nuisance", "{folder}/dnn_rdms/edges_late.npy", "--correction", "max"]),
        ("Fig1", ["--cross-validate", "2", "--comparison", "plain"]),
        ("Fig3a", ["--as-published"]),
        ("Fig3a", ["--condition-effects", "out", "--permute", "blocks", "--blocks", "{folder}/runs.txt"]),
        ("Fig2", ["--as-published"]),
        ("Fig2", ["--cross-validate", "2", "--alpha", "0.2"]),
        ("Fig3b", ["--blocks", "{folder}/kinds.txt"]),
    ],
)
def test_figures_with_other_choices(folder, tmp_path, monkeypatch, figure, options):
    (folder / "runs.txt").write_text("\n".join(map(str, RUN)))
    (folder / "kinds.txt").write_text("\n".join("ab" * (N_IMAGES // 2)))
    options = [option.format(folder=folder) for option in options]
    assert run_figure(monkeypatch, figure, folder, tmp_path, *options) == 0
    assert "60 further pairs were left out" in plain_text(tmp_path / figure / "report.html")


@pytest.mark.slow
def test_all_pairs_are_the_same_as_no_file(folder, tmp_path, monkeypatch):
    """Also where the file is condensed, or names 0 and 1."""
    whole = write_study(tmp_path / "study", np.random.default_rng(4), n_conditions=12)
    found = []
    for name, pairs in (("none", None), ("square", np.ones((12, 12), bool)), ("condensed", np.ones(66, np.int8))):
        options = []
        if pairs is not None:
            np.save(tmp_path / f"{name}.npy", pairs)
            options = ["--pairs", tmp_path / f"{name}.npy"]
        assert run_figure(monkeypatch, "Fig3b", whole, tmp_path / name, *options) == 0
        found.append((tmp_path / name / "Fig3b" / "results.tsv").read_bytes())
    assert found[0] == found[1] == found[2]


def test_pairs_are_brought_into_the_order_of_the_models(folder, tmp_path, rng):
    order = rng.permutation(N_IMAGES)
    names = [f"image {i}" for i in range(N_IMAGES)]
    models, brain = tmp_path / "models", tmp_path / "brain"
    for root, own in ((models, names), (brain, [names[i] for i in order])):
        root.mkdir()
        (root / "conditions.txt").write_text("\n".join(own))
    for name in ("dnn_rdms", "models.tsv"):
        (models / name).symlink_to(folder / name)
    (brain / "roi_labels.csv").symlink_to(folder / "roi_labels.csv")
    for name in ("roi_rdms", "searchlight_rdms"):
        (brain / name).mkdir()
    here = np.ix_(order, order)
    for roi in ("EVC", "IT"):
        rdms = np.load(folder / "roi_rdms" / "EVC.npy")
        np.save(brain / "roi_rdms" / f"{roi}.npy", rdms[:, *here])
    for path in (folder / "searchlight_rdms").glob("sub-*.npy"):
        np.save(brain / "searchlight_rdms" / path.name, condense(expand(np.load(path))[:, *here]))
    (brain / "searchlight_rdms" / "geometry.npz").symlink_to(folder / "searchlight_rdms" / "geometry.npz")
    np.save(brain / "pairs.npy", BETWEEN[here])
    plain = locate("roi", folder)
    expected = load_models(plain)
    for kind in ("roi", "searchlight"):
        parts = {"dnn_rdms": models / "dnn_rdms", "fmri_rdms": brain / f"{kind}_rdms"}
        parts |= {"roi_labels": brain / "roi_labels.csv"}
        sources = locate(kind, tmp_path, **parts)
        with pytest.warns(UserWarning, match="another order"):
            loaded = load_models(sources)
        np.testing.assert_array_equal(loaded.pairs.square, BETWEEN)
        np.testing.assert_array_equal(loaded.rdms, expected.rdms)
        with pytest.warns(UserWarning, match="another order"):
            if kind == "roi":
                own = load_rois(sources, N_IMAGES, pairs=loaded.pairs).subjects[0]
                np.testing.assert_array_equal(own, load_rois(plain, N_IMAGES, pairs=expected.pairs).subjects[0])
            else:
                own = load_searchlights(sources, N_IMAGES, pairs=loaded.pairs)
                same = load_searchlights(locate(kind, folder), N_IMAGES, pairs=expected.pairs)
                np.testing.assert_array_equal(own.mean, same.mean)
                np.testing.assert_array_equal(own.ceiling_lower, same.ceiling_lower)
                block = next(same.blocks())[1]
                np.testing.assert_array_equal(next(own.blocks())[1], block)
                ceiling = noise_ceiling(block)[0]
                np.testing.assert_allclose(same.ceiling_lower[: len(ceiling)], ceiling)


def only(*shape, value=True):
    return np.full(shape, value)


def one_condition_alone():
    square = ~np.eye(N_IMAGES, dtype=bool)
    square[3] = square[:, 3] = False
    return square


def a_few_at_random():
    return (np.random.default_rng(0).random(N_IMAGES * (N_IMAGES - 1) // 2) < 0.6) & condense(BETWEEN)


def not_symmetric():
    square = only(N_IMAGES, N_IMAGES)
    square[0, 1] = False
    return square


@pytest.mark.parametrize(
    "made, options, message",
    [
        (lambda: only(10, 10, value=False), [], "leaves 10 of 10 conditions without a pair that counts"),
        (lambda: np.arange(45) > 0, [], "found 24 conditions where the pairs that count have 10"),
        (lambda: only(45), [], "found 24 conditions where the pairs that count have 10"),
        (one_condition_alone, [], "leaves 1 of 24 conditions without a pair that counts"),
        (not_symmetric, [], "is not symmetric, so that it does not say which pairs count"),
        (lambda: only(5, 6), [], r"found shape (5, 6), expected (n, n), or n (n - 1) / 2 pairs"),
        (lambda: only(7), [], "found shape (7,), expected (n, n)"),
        (lambda: np.full((N_IMAGES, N_IMAGES), 0.5), [], "holds values of type float64, expected True for pairs"),
        (a_few_at_random, [], "--pairs leave 1 different permutation(s) of the conditions"),
        (lambda: BETWEEN, ["--stats", "t-test"], "but --pairs leaves out 60; use a permutation test"),
        (lambda: BETWEEN, ["--permute", "blocks", "--blocks", "blocks.txt"],
         "--pairs leaves out different pairs in different blocks"),
        (lambda: BETWEEN, ["--cross-validate", "6"], "--cross-validate is 6: a fold has"),
    ],
)  # fmt: skip
def test_pairs_that_do_not_fit_are_one_line(folder, tmp_path, monkeypatch, capsys, made, options, message):
    np.save(tmp_path / "chosen.npy", made())
    (tmp_path / "blocks.txt").write_text("\n".join(map(str, np.arange(N_IMAGES) // 8)))
    options = [tmp_path / option if option == "blocks.txt" else option for option in options]
    status = run_figure(monkeypatch, "Fig3b", folder, tmp_path / "out", "--pairs", tmp_path / "chosen.npy", *options)
    captured = capsys.readouterr().err
    assert status == 2
    assert message in " ".join(captured.split()), captured
    assert not (tmp_path / "out" / "Fig3b").exists()


def test_nan_in_a_pair_that_counts_is_refused(folder, tmp_path, monkeypatch, capsys):
    square = BETWEEN.copy()
    square[0, 1] = square[1, 0] = True
    np.save(tmp_path / "pairs.npy", square)
    assert run_figure(monkeypatch, "Fig2", folder, tmp_path / "out", "--pairs", tmp_path / "pairs.npy") == 2
    assert "holds 8 entries that are NaN or inf" in " ".join(capsys.readouterr().err.split())


def test_few_conditions_that_can_be_exchanged_are_warned_of(study):
    models, _ = study
    kept = np.ones((N, N), bool)
    for i in range(10):
        kept[i, i + 1] = kept[i + 1, i] = False
    pairs = Pairs.where(kept)
    networks = ModelRdms([Model(str(k), str(k), "2D") for k in range(3)], ["a", "b"], pairs.of(models), pairs=pairs)
    alone = (np.bincount(pairs.exchangeable) == 1).sum()
    with pytest.warns(UserWarning, match=f"leaves {alone} of 16 conditions that can be exchanged with no other"):
        fit_bases(networks, Settings())


def test_a_pilot_without_some_pairs_is_refused(folder):
    with pytest.raises(InputError, match=r"pairs\.npy: a study of which pairs are left out cannot be a pilot"):
        read_pilot(folder, "whitened")
