"""Standard errors in closed form against literal refits, and variance components against their definitions."""

import numpy as np
import pytest
from helpers import gain_rdms, related_rdms

from utils.rdm import condense, expand
from utils.stats.comparison import compared, condition_weight
from utils.stats.inference import above_chance
from utils.stats.jackknife import Components, Jackknife, degrees_of_freedom
from utils.stats.regression import (
    linear_statistic,
    orthonormal_basis,
    own_adjusted_r2,
    project,
    unique_adjusted_r2,
    unique_and_total,
    variance_parts,
)

COMPARISONS = ["whitened", "plain", "without_condition_effects"]
N = 14


@pytest.fixture
def study(rng):
    return related_rdms(rng, N)


def without(rdms, i):
    """Condensed RDMs without condition i."""
    kept = np.delete(np.arange(N), i)
    return condense(expand(rdms)[..., kept, :][..., kept])


def literal(models, rdms, statistic, comparison, by_chance):
    """The whole analysis of plain RDMs, anew: values (n_statistics, n_locations)."""
    basis = orthonormal_basis(list(compared(models, comparison)))
    responses = compared(rdms, comparison)
    own = statistic(basis)
    return above_chance(basis, own, responses) if by_chance else own(project(basis, responses))


def reliability(subjects, comparison):
    """ICC(C, k) of the mean of RDMs (n_subjects, n_pairs) by a two-way analysis of variance."""
    d = compared(subjects, comparison)
    d = d - d.mean(axis=1, keepdims=True)
    n_subjects, n_pairs = d.shape
    between = n_subjects * np.square(d.mean(axis=0)).sum() / (n_pairs - 1)
    rest = np.square(d - d.mean(axis=0)).sum() / (n_pairs - 1) / (n_subjects - 1)
    return 1 - rest / between


@pytest.mark.parametrize("comparison", COMPARISONS)
@pytest.mark.parametrize("by_chance", [True, False])
@pytest.mark.parametrize("statistic", [own_adjusted_r2, unique_adjusted_r2, variance_parts])
def test_without_each_condition_equals_a_refit(study, comparison, by_chance, statistic):
    models, subjects = study
    mean = subjects.mean(axis=0)
    basis = orthonormal_basis(list(compared(models, comparison)))
    jackknife = Jackknife(basis, statistic(basis), comparison, by_chance=by_chance)
    ours = jackknife(mean)
    np.testing.assert_allclose(ours.estimates, literal(models, mean, statistic, comparison, by_chance), atol=1e-12)
    refits = np.stack(
        [literal(without(models, i), without(mean, i), statistic, comparison, by_chance) for i in range(N)], axis=2
    )
    np.testing.assert_allclose(ours.influence, refits - refits.mean(axis=2, keepdims=True), atol=1e-12)
    expected = (N - 1) / N * np.square(refits - refits.mean(axis=2, keepdims=True)).sum(axis=2)
    np.testing.assert_allclose(ours.components.images, expected, rtol=1e-8)
    assert np.array_equal(ours.components.standard_error("both"), np.sqrt(ours.components.images))


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_without_each_condition_equals_a_refit_beside_nuisance_rdms(study, comparison):
    models, subjects = study
    mean = subjects.mean(axis=0)

    def fitted(models, mean):
        basis = orthonormal_basis(list(compared(models, comparison)), n_given=1)
        return basis, above_chance(basis, unique_and_total(basis), compared(mean, comparison))

    basis, values = fitted(models, mean)
    ours = Jackknife(basis, unique_and_total(basis), comparison)(mean)
    np.testing.assert_allclose(ours.estimates, values, atol=1e-12)
    refits = np.stack([fitted(without(models, i), without(mean, i))[1] for i in range(N)], axis=2)
    np.testing.assert_allclose(ours.influence, refits - refits.mean(axis=2, keepdims=True), atol=1e-12)


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_shares_of_the_explainable_variance(study, comparison):
    models, subjects = study
    mean = subjects.mean(axis=0)
    basis = orthonormal_basis(list(compared(models, comparison)))
    ours = Jackknife(basis, unique_adjusted_r2(basis), comparison)(mean, subjects)
    rho = np.array([reliability(subjects[:, p], comparison) for p in range(3)])
    np.testing.assert_allclose(ours.reliability, rho, atol=1e-12)
    values = literal(models, mean, unique_adjusted_r2, comparison, True)
    np.testing.assert_allclose(ours.shares, values / rho, atol=1e-12)
    refits = []
    for i in range(N):
        smaller = without(subjects, i)
        own = np.array([reliability(smaller[:, p], comparison) for p in range(3)])
        fitted = literal(without(models, i), smaller.mean(axis=0), unique_adjusted_r2, comparison, True)
        refits.append(fitted / np.where(own > 0, own, np.nan))
    expected = (N - 1) * np.var(refits, axis=0)
    np.testing.assert_allclose(ours.share_components.images, expected, rtol=1e-8)


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_influence_of_people_is_the_derivative(study, comparison):
    """More weight to one subject changes the estimate as its influence says, and so do the shares."""
    models, subjects = study
    basis = orthonormal_basis(list(compared(models, comparison)))
    n_subjects, step = len(subjects), 1e-5
    for statistic in (own_adjusted_r2, unique_adjusted_r2):
        jackknife = Jackknife(basis, statistic(basis), comparison, by_chance=False)
        ours = jackknife(subjects.mean(axis=0), subjects)

        def values(weights, statistic=statistic):
            mean = np.einsum("s,spk->pk", weights, subjects) / weights.sum()
            sizes = np.square(compared(subjects, comparison) - compared(subjects, comparison).mean(axis=2)[..., None])
            size = np.einsum("s,spk->p", weights, sizes) / weights.sum()
            whole = compared(mean, comparison)
            whole = np.square(whole - whole.mean(axis=1, keepdims=True)).sum(axis=1)
            rho = 1 - (size / whole - 1) / (n_subjects - 1)
            estimate = literal(models, mean, statistic, comparison, False)
            return np.stack([estimate, estimate / rho])

        slopes = []
        for s in range(n_subjects):
            weights = np.ones(n_subjects)
            up, down = weights.copy(), weights.copy()
            up[s] += step
            down[s] -= step
            slopes.append((values(up) - values(down)) / (2 * step) * n_subjects)
        variance = np.var(slopes, axis=0, ddof=1) / n_subjects
        np.testing.assert_allclose(ours.components.people, variance[0], rtol=1e-6)
        np.testing.assert_allclose(ours.share_components.people, variance[1], rtol=1e-6)


def test_contrasts_and_blocks_of_locations(study, rng):
    models, subjects = study
    subjects = np.tile(subjects, (1, 70, 1)) + 0.01 * rng.random((5, 210, subjects.shape[2]))
    basis = orthonormal_basis(list(compared(models, "whitened")))
    jackknife = Jackknife(basis, unique_adjusted_r2(basis), "whitened")
    mean = subjects.mean(axis=0)
    alone, contrast = jackknife(mean, subjects), np.array([[1.0, -1, 0], [0, 0, 1]])
    common = jackknife(mean, subjects, contrast)
    np.testing.assert_allclose(common.estimates, contrast @ alone.estimates, atol=1e-12)
    np.testing.assert_allclose(common.influence[0], alone.influence[0] - alone.influence[1], atol=1e-12)
    np.testing.assert_allclose(common.components.people[1], alone.components.people[2], rtol=1e-9)
    own = jackknife(mean, subjects, np.broadcast_to(contrast, (210, 2, 3)))
    for name in ("estimates", "shares", "reliability", "influence"):
        np.testing.assert_allclose(getattr(own, name), getattr(common, name), atol=1e-12)
    for name in ("images", "people", "interaction"):
        for of in ("components", "share_components"):
            np.testing.assert_allclose(getattr(getattr(own, of), name), getattr(getattr(common, of), name), rtol=1e-9)
    last = jackknife(mean[150:], subjects[:, 150:], contrast)
    np.testing.assert_allclose(last.share_components.interaction, common.share_components.interaction[:, 150:])


def test_float32_subjects_and_a_single_subject(study):
    models, subjects = study
    basis = orthonormal_basis(list(compared(models, "plain")))
    jackknife = Jackknife(basis, own_adjusted_r2(basis), "plain")
    double, single = (jackknife(subjects.mean(axis=0), s) for s in (subjects, subjects.astype(np.float32)))
    np.testing.assert_allclose(single.components.people, double.components.people, rtol=1e-4)
    alone = jackknife(subjects[0], subjects[:1])
    assert np.isnan(alone.shares).all() and np.isnan(alone.reliability).all()
    assert alone.components.degrees_of_freedom("both") == N - 1


def test_components_add_up():
    images, people, both = (np.array([[v]]) for v in (4.0, 9.0, 3.0))
    components = Components(images, people, both, 50, 8)
    assert components.standard_error("images") == 2
    assert components.standard_error("people") == 3
    assert components.standard_error("both") == np.sqrt(10)
    assert Components(images, people, 6 * both, 50, 8).standard_error("both") == 3
    assert [degrees_of_freedom(over, 50, 8) for over in ("images", "people", "both")] == [49, 7, 7]
    assert degrees_of_freedom("both", 20, 30) == 19


def test_collinear_predictors_and_too_few_conditions(study):
    models, subjects = study
    models[1, 1] = models[1, 0]
    basis = orthonormal_basis(list(compared(models, "whitened")))
    assert np.isfinite(Jackknife(basis, own_adjusted_r2(basis), "whitened")(subjects[0]).components.images).all()
    few = gain_rdms(np.random.default_rng(0), 2, 4)
    basis = orthonormal_basis([few[:1]])
    with pytest.raises(ValueError, match="4 conditions are too few"):
        Jackknife(basis, own_adjusted_r2(basis), "plain")


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_comparison_is_generalised_least_squares(study, comparison):
    """Regression of whitened RDMs equals that with the covariance of squared distances, as rsatoolbox builds it."""
    models, subjects = study
    y, x = subjects[0, 0], models[:, 0]
    rows, columns = np.triu_indices(N, k=1)
    contrast = (np.eye(N)[rows] - np.eye(N)[columns]) @ np.eye(N)
    v = np.square(contrast @ contrast.T)
    weight = condition_weight(comparison, N)
    if comparison == "plain":
        v = np.eye(len(y))
    elif comparison == "without_condition_effects":
        indicator = np.eye(N)[rows] + np.eye(N)[columns]
        indicator -= indicator.mean(axis=0)
        v = np.linalg.pinv(np.eye(len(y)) - indicator @ np.linalg.pinv(indicator, rcond=1e-10), rcond=1e-10)
    inverse = np.linalg.pinv(v, rcond=1e-10)  # rounding of the singular values is no rank
    design = np.column_stack([np.ones(len(y)), *x])
    residual = y - design @ np.linalg.pinv(design.T @ inverse @ design) @ design.T @ inverse @ y
    around = y - np.ones(len(y)) * (np.ones(len(y)) @ inverse @ y) / (np.ones(len(y)) @ inverse @ np.ones(len(y)))
    expected = 1 - residual @ inverse @ residual / (around @ inverse @ around)
    basis = orthonormal_basis([compared(x, comparison)])
    statistic = linear_statistic(basis, [[((0,), 1.0)]], adjusted=False)
    assert statistic(project(basis, compared(y[None], comparison)))[0, 0] == pytest.approx(expected, abs=1e-8)
    assert 0 <= weight <= 1


def test_inner_product_is_that_of_linear_centred_kernel_alignment(study):
    models, _ = study
    a, b = models[0, 0], models[1, 1]
    centring = np.eye(N) - 1 / N
    kernels = []
    for rdm in (a, b):
        square = expand(rdm - rdm.mean())
        kernels.append(centring @ square @ centring)
    whitened = compared(np.stack([a, b]), "whitened")
    assert whitened[0] @ whitened[1] == pytest.approx(np.sum(kernels[0] * kernels[1]) / 2, abs=1e-10)
