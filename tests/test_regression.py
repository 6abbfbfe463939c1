from functools import partial
from itertools import combinations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from utils.stats.regression import (
    adjust,
    orthonormal_basis,
    own_adjusted_r2,
    own_r2,
    part_names,
    project,
    standardise,
    total_adjusted_r2,
    unique_adjusted_r2,
    unique_and_total,
    variance_parts,
)

N_PAIRS = 190


@pytest.fixture
def data(rng):
    """Four sets of 1 to 3 predictors that share variance, and responses that depend on some of them."""
    shared = rng.standard_normal(N_PAIRS)
    sets = [0.7 * shared + rng.standard_normal((k, N_PAIRS)) for k in (2, 1, 3, 2)]
    responses = rng.standard_normal((6, N_PAIRS)) + 0.4 * sets[0][0] + 0.3 * sets[2][1] - 0.2 * sets[1][0]
    return sets, responses


def sklearn_adjusted(sets, response):
    x = np.vstack(sets).T
    r2 = LinearRegression().fit(x, response).score(x, response)
    return 1 - (1 - r2) * (N_PAIRS - 1) / (N_PAIRS - x.shape[1] - 1)


def test_own_r2_equals_sklearn(data):
    sets, responses = data
    basis = orthonormal_basis(sets)
    projected = project(basis, responses)
    for i, predictors in enumerate(sets):
        for j, response in enumerate(responses):
            expected = LinearRegression().fit(predictors.T, response).score(predictors.T, response)
            assert own_r2(basis)(projected)[i, j] == pytest.approx(expected, abs=1e-12)
            assert own_adjusted_r2(basis)(projected)[i, j] == pytest.approx(
                sklearn_adjusted([predictors], response), abs=1e-12
            )


def test_adjusted_r2_equals_statsmodels(data):
    import statsmodels.api as sm

    sets, responses = data
    fit = sm.OLS(responses[0], sm.add_constant(np.vstack(sets).T)).fit()
    total = total_adjusted_r2(orthonormal_basis(sets))(project(orthonormal_basis(sets), responses))
    assert total[0, 0] == pytest.approx(fit.rsquared_adj, abs=1e-12)


def test_unique_is_the_drop_without_a_set(data):
    sets, responses = data
    basis = orthonormal_basis(sets)
    unique = unique_adjusted_r2(basis)(project(basis, responses))
    for i in range(4):
        others = [s for j, s in enumerate(sets) if j != i]
        for place, response in enumerate(responses):
            expected = sklearn_adjusted(sets, response) - sklearn_adjusted(others, response)
            assert unique[i, place] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n_sets", [1, 2, 3, 4])
def test_parts_sum_to_every_union(data, n_sets):
    """What a union of sets explains is the sum of all parts that touch it; so the parts are the right ones."""
    sets, responses = data[0][:n_sets], data[1]
    basis = orthonormal_basis(sets)
    parts = variance_parts(basis)(project(basis, responses))
    names = part_names(n_sets)
    assert len(names) == 2**n_sets - 1 == len(parts)
    for size in range(1, n_sets + 1):
        for union in combinations(range(n_sets), size):
            inside = [k for k, part in enumerate(names) if set(part) & set(union)]
            expected = [sklearn_adjusted([sets[i] for i in union], response) for response in responses]
            np.testing.assert_allclose(parts[inside].sum(axis=0), expected, atol=1e-12)


def test_statistics_beside_nuisance_rdms_are_what_sets_add_to_them(data):
    sets, responses = data[0][:3], data[1]
    nuisance = data[0][3]
    basis = orthonormal_basis([*sets, nuisance], n_given=1)
    assert basis.n_sets == 3 and basis.given == (3,)

    def added(*chosen):
        of = [sklearn_adjusted([*(sets[i] for i in chosen), nuisance], response) for response in responses]
        return np.array(of) - [sklearn_adjusted([nuisance], response) for response in responses]

    projected, everything = project(basis, responses), (0, 1, 2)
    same = partial(np.testing.assert_allclose, rtol=0, atol=1e-12)
    same(own_adjusted_r2(basis)(projected), [added(i) for i in everything])
    same(total_adjusted_r2(basis)(projected)[0], added(*everything))
    others = [added(*(j for j in everything if j != i)) for i in everything]
    same(unique_adjusted_r2(basis)(projected), added(*everything) - others)
    same(unique_and_total(basis)(projected)[:3], added(*everything) - others)
    parts = variance_parts(basis)(projected)
    for union in ((0,), (1,), (0, 2), everything):
        inside = [k for k, part in enumerate(part_names(3)) if set(part) & set(union)]
        same(parts[inside].sum(axis=0), added(*union))


def test_parts_of_three_sets_come_in_the_published_order():
    assert part_names(3) == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


def test_order_of_sets_does_not_matter(data):
    sets, responses = data
    order = [2, 0, 3, 1]
    basis, other = orthonormal_basis(sets), orthonormal_basis([sets[i] for i in order])
    for statistic in (own_adjusted_r2, unique_adjusted_r2):
        ours = statistic(basis)(project(basis, responses))
        np.testing.assert_allclose(statistic(other)(project(other, responses)), ours[order], atol=1e-12)


def test_basis_is_orthonormal_and_centred_even_for_nearly_equal_predictors(rng):
    x = rng.standard_normal(N_PAIRS)
    basis = orthonormal_basis(
        [np.stack([x, x + 1e-6 * rng.standard_normal(N_PAIRS)]), rng.standard_normal((2, N_PAIRS))]
    )
    np.testing.assert_allclose(basis.q.T @ basis.q, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(basis.q.mean(axis=0), 0, atol=1e-14)


def test_collinear_predictors_are_named_and_add_no_rank(data):
    sets, responses = data
    copy = np.vstack([3 * sets[0][0] - 2 * sets[0][1] + 5, sets[1][0]])
    basis = orthonormal_basis([sets[0], copy])
    assert basis.dependent == ((1, 0),)
    assert basis.q.shape[1] == 3
    own = own_adjusted_r2(basis)(project(basis, responses))
    assert own[1, 0] == pytest.approx(sklearn_adjusted([copy], responses[0]), abs=1e-10)
    unique = unique_adjusted_r2(basis)(project(basis, responses))
    only_new = sklearn_adjusted([sets[0], sets[1]], responses[0]) - sklearn_adjusted([sets[0]], responses[0])
    assert unique[1, 0] == pytest.approx(only_new, abs=1e-10)


def test_a_set_inside_another_has_no_unique_variance(data):
    sets, responses = data
    basis = orthonormal_basis([sets[2], sets[2][:1]])
    np.testing.assert_allclose(unique_adjusted_r2(basis)(project(basis, responses))[1], 0, atol=1e-12)


def test_constant_predictor_is_refused(rng):
    with pytest.raises(ValueError, match="1 of 2 RDMs are constant"):
        orthonormal_basis([np.stack([np.full(N_PAIRS, 0.3), rng.random(N_PAIRS)])])


def test_too_few_pairs_are_refused(rng):
    with pytest.raises(ValueError, match="5 predictors need at least 7 pairs"):
        orthonormal_basis([rng.random((5, 6))])


def test_standardise_tells_rounding_from_variation():
    with pytest.raises(ValueError, match="constant"):
        standardise(np.full(45, 0.1) + 1e-17)
    assert np.linalg.norm(standardise(np.arange(45.0) * 1e-9)) == pytest.approx(1)


def test_adjust_by_hand():
    assert adjust(0.5, 11, 4) == pytest.approx(1 - 0.5 * 10 / 6)


def test_published_numbers(published_sample, published_outputs):
    from utils.datasets.layout import locate
    from utils.datasets.models import load_models
    from utils.datasets.rois import load_rois
    from utils.datasets.searchlights import load_searchlights

    same = partial(np.testing.assert_allclose, rtol=0, atol=1e-8)
    sources = locate("searchlight", published_sample)
    models = load_models(sources)
    brain = load_searchlights(sources, 50)
    groups = models.grouped()
    assert [model.key for model in models.models] == list(published_outputs["tasks"])
    basis, group_basis = orthonormal_basis(models.rdms), orthonormal_basis(groups.rdms)

    fig1 = own_adjusted_r2(basis)(project(basis, brain.mean))
    same(np.clip(fig1, 0, None), published_outputs["fig1_r2"])
    fig3a = project(group_basis, brain.mean)
    same(unique_adjusted_r2(group_basis)(fig3a), published_outputs["fig3a_unique"])
    same(variance_parts(group_basis)(fig3a), published_outputs["fig3a_all7"])
    same(total_adjusted_r2(group_basis)(fig3a)[0], published_outputs["fig3a_total"])

    rois = load_rois(locate("roi", published_sample), 50, list(published_outputs["rois"]))
    fig2 = np.clip(own_adjusted_r2(basis)(project(basis, rois.mean())), 0, None)
    same(fig2, published_outputs["fig2_r2"])
    top = np.argsort(-fig2, axis=0, kind="stable")[:3]
    assert np.array_equal(top.T, published_outputs["fig2_top3"])
    for place, chosen in enumerate(top.T):
        best = orthonormal_basis(models.rdms[chosen])
        projected = project(best, rois.mean()[[place]])
        same(unique_adjusted_r2(best)(projected)[:, 0], published_outputs["fig2_unique"][place])
        same(total_adjusted_r2(best)(projected)[0, 0], published_outputs["fig2_total"][place])
    fig3b = project(group_basis, rois.mean())
    same(unique_adjusted_r2(group_basis)(fig3b), published_outputs["fig3b_unique"])
    same(variance_parts(group_basis)(fig3b), published_outputs["fig3b_all7"])
    same(total_adjusted_r2(group_basis)(fig3b)[0], published_outputs["fig3b_total"])
