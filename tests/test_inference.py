"""Chance levels, t-tests and corrections against libraries and literal loops; standard errors of the ROIs."""

from contextlib import contextmanager

import numpy as np
import pytest
from helpers import N_CONDITIONS, gain_rdms, lstsq_adjusted, lstsq_unique
from scipy import stats

from models.tasks import Model
from utils.analysis.rois import partition_rois
from utils.analysis.settings import Settings
from utils.datasets.models import ModelRdms
from utils.datasets.rois import RoiRdms
from utils.parallel.resources import Resources
from utils.rdm import condense, correlation_rdm, expand
from utils.stats.inference import (
    all_pairs,
    chance_adjusted_r2,
    difference_p,
    fdr,
    largest_difference_p,
    published_fdr,
    t_test,
)
from utils.stats.permutation import Permutations, permutation_test
from utils.stats.refits import condition_subsets, subset_deviations
from utils.stats.regression import (
    orthonormal_basis,
    own_adjusted_r2,
    project,
    total_adjusted_r2,
    unique_adjusted_r2,
)


@pytest.mark.parametrize("spread", [0.0, 0.8])
def test_chance_level_equals_the_mean_over_permutations(rng, spread):
    n = 5
    from itertools import permutations

    models = gain_rdms(rng, 2, n, spread)
    places = gain_rdms(rng, 3, n, spread)
    basis = orthonormal_basis([models[:1], models[1:]])
    for statistic in (own_adjusted_r2(basis), unique_adjusted_r2(basis)):
        everything = [
            statistic(project(basis, condense(expand(places)[:, order][:, :, order])))
            for order in map(list, permutations(range(n)))
        ]
        np.testing.assert_allclose(
            chance_adjusted_r2(basis, statistic, places), np.mean(everything, axis=0), atol=1e-12
        )


def test_chance_level_is_above_zero_where_conditions_differ_in_gain(rng):
    basis = orthonormal_basis([gain_rdms(rng, 2)])
    assert chance_adjusted_r2(basis, own_adjusted_r2(basis), gain_rdms(rng, 1))[0, 0] > 0.01


def test_t_test_equals_scipy(rng):
    values = rng.standard_normal((3, 8, 4)) + 0.3
    test = t_test(values, all_pairs(3))
    expected = stats.ttest_1samp(values[1, :, 2], 0, alternative="greater").pvalue
    assert test.p[1, 2] == pytest.approx(expected, rel=1e-12)
    expected = stats.ttest_ind(values[0, :, 3], values[2, :, 3]).pvalue
    assert test.p_difference[1, 3] == pytest.approx(expected, rel=1e-12)


def test_t_test_against_chance_is_calibrated_where_zero_is_not(rng):
    """Unrelated subjects' RDMs: adjusted R2 lies above 0 by chance, and t-tests must not take that for an effect."""
    against_zero, against_chance = [], []
    for _ in range(60):
        basis = orthonormal_basis([gain_rdms(rng, 2, 15)])
        statistic = own_adjusted_r2(basis)
        subjects = gain_rdms(rng, 10, 15)
        values = statistic(project(basis, subjects))[:, :, None]
        chance = chance_adjusted_r2(basis, statistic, subjects)[:, :, None]
        against_zero.append(t_test(values).p[0, 0])
        against_chance.append(t_test(values, chance=chance).p[0, 0])
    assert np.mean(np.array(against_zero) <= 0.05) > 0.3
    assert np.mean(np.array(against_chance) <= 0.05) < 0.13


def test_fdr_equals_statsmodels(rng):
    from statsmodels.stats.multitest import multipletests

    p = rng.random((4, 30)) ** 2
    np.testing.assert_allclose(fdr(p).ravel(), multipletests(p.ravel(), method="fdr_bh")[1], atol=1e-12)
    within = np.stack([multipletests(column, method="fdr_bh")[1] for column in p.T], axis=1)
    np.testing.assert_allclose(published_fdr(p, across_locations=False), within, atol=1e-12)
    twice = np.stack([multipletests(row, method="fdr_bh")[1] for row in within])
    np.testing.assert_allclose(published_fdr(p, across_locations=True), twice, atol=1e-12)


def test_rois_of_shared_and_own_sets_are_partitioned_as_each_by_itself(data, rng, monkeypatch):
    monkeypatch.setattr("utils.analysis.rois.N_SUBSETS", 40)
    models = ModelRdms([Model(key, key, key, "#000000") for key in "abcd"], ["early", "late"], data[0])
    rdms = [
        gain_rdms(rng, n_subjects, N_CONDITIONS) + place
        for n_subjects, place in zip((3, 5, 1, 2), data[1][:4], strict=True)
    ]
    rois = RoiRdms(["V1", "V2", "V3", "V4"], [1, 2, 3, 4], rdms)
    sets = np.array([[2, 0, 2, 0], [0, 1, 0, 2]])

    steps = []

    @contextmanager
    def noted(title):
        yield lambda done, total: steps.append((done, total))

    settings, resources = Settings.published(bootstrap_ratio=0.8, seed=5), Resources(progress=noted)
    ours = partition_rois(models, rois, sets, settings, resources)
    assert steps[-1] == (4, 4)
    subsets = condition_subsets(N_CONDITIONS, 10, 40, seed=5)
    for place, subjects in enumerate(rdms):
        chosen, mean = models.rdms[sets[:, place]], subjects.mean(axis=0)
        total = lstsq_adjusted(chosen, mean)
        np.testing.assert_allclose(ours.unique[:, place], lstsq_unique(chosen, mean), atol=1e-12)
        assert ours.total[place] == pytest.approx(total, abs=1e-12)
        assert ours.parts[:, place].sum() == pytest.approx(total, abs=1e-12)
        errors = subset_deviations(orthonormal_basis(chosen), mean[None], subsets, [(0, 1)])
        np.testing.assert_allclose(ours.se[:, place], errors.unique[:, 0], rtol=1e-12)
        np.testing.assert_allclose(ours.se_difference[:, place], errors.difference[:, 0], rtol=1e-12)
        values, chance = ours.subjects[place]
        np.testing.assert_allclose(values[:, :, 0].T, [lstsq_unique(chosen, rdm) for rdm in subjects], atol=1e-12)
        explained, chance_of_all = ours.explained[place]
        np.testing.assert_allclose(explained, [lstsq_adjusted(chosen, rdm) for rdm in subjects], atol=1e-12)
        basis = orthonormal_basis(chosen)
        expected = chance_adjusted_r2(basis, unique_adjusted_r2(basis), subjects)
        np.testing.assert_allclose(chance[:, :, 0], expected, atol=1e-12)
        np.testing.assert_allclose(
            chance_of_all, chance_adjusted_r2(basis, total_adjusted_r2(basis), subjects)[0], atol=1e-12
        )


def test_difference_p_is_a_t_test_of_the_ratio():
    p = difference_p(np.array([[0.2, 0.0, -0.1]]), np.array([[0.1, 0.1, 0.0]]), 49)
    assert p[0, 0] == pytest.approx(2 * stats.t.sf(2, 49))
    assert p[0, 1] == 1
    assert p[0, 2] == 1


@pytest.mark.slow
def test_two_sets_that_explain_the_same_are_called_different_at_the_nominal_rate():
    """The permutation test alone calls most of them different, since its null is that neither explains anything."""
    rng = np.random.default_rng(11)

    def rdm(*parts):
        latents = np.hstack([np.sqrt(share) * latent for share, latent in parts])
        patterns = latents @ rng.standard_normal((latents.shape[1], 60))
        return correlation_rdm(rng.standard_normal(60) + patterns + 0.3 * rng.standard_normal(patterns.shape))

    by_permutation, by_refit = [], []
    for seed in range(120):
        a, b, c = rng.standard_normal((3, 30, 6))
        basis = orthonormal_basis([[rdm((1, a)), rdm((1, a))], [rdm((1, b)), rdm((1, b))]])
        brain = rdm((0.4, a), (0.4, b), (0.2, c))[None]
        test = permutation_test(basis, unique_adjusted_r2(basis), brain, Permutations(99, seed=seed), pairs=[(0, 1)])
        errors = subset_deviations(basis, brain, condition_subsets(30, 27, 300, seed), [(0, 1)])
        by_permutation.append(test.p_difference[0, 0])
        by_refit.append(difference_p(test.observed[[0]] - test.observed[[1]], 3 * errors.difference, 29)[0, 0])
    assert np.mean(np.array(by_permutation) <= 0.05) > 0.3
    assert np.mean(np.array(by_refit) <= 0.05) < 0.12


def test_largest_difference_of_the_winner():
    p_difference = np.array([[0.1, 0.2], [0.9, 0.3], [0.02, 0.9]])  # pairs 01, 02, 12
    assert largest_difference_p(np.array([1, 0]), all_pairs(3), p_difference).tolist() == [0.1, 0.3]


def test_chance_level_needs_four_conditions(rng):
    basis = orthonormal_basis([rng.random((1, 3))])
    with pytest.raises(ValueError, match="at least 4 conditions, got 3"):
        chance_adjusted_r2(basis, own_adjusted_r2(basis), rng.random((1, 3)))
