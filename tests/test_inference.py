"""Permutation tests against literal loops, calibration, corrections and standard errors."""

import numpy as np
import pytest
from conftest import gain_rdms
from scipy import stats

from utils.inference import (
    TopModels,
    all_pairs,
    chance_adjusted_r2,
    condition_subsets,
    difference_p,
    fdr,
    jackknife,
    largest_difference_p,
    permutation_indices,
    permutation_test,
    published_fdr,
    t_test,
    unique_in_subsets,
)
from utils.rdm import condense, correlation_rdm, expand, n_pairs_of
from utils.regression import (
    orthonormal_basis,
    own_adjusted_r2,
    project,
    standardise,
    total_adjusted_r2,
    unique_adjusted_r2,
)

N_CONDITIONS = 12
N_PAIRS = n_pairs_of(N_CONDITIONS)


@pytest.fixture
def data(rng):
    """Four models of two layers, and five places of which some follow a model."""
    models = gain_rdms(rng, 8, N_CONDITIONS).reshape(4, 2, -1)
    places = gain_rdms(rng, 5, N_CONDITIONS)
    places[0] += 0.8 * models[1, 0]
    places[1] += 0.5 * models[2, 1]
    return models, places


def lstsq_adjusted(sets, response):
    """Adjusted R2 by numpy's least squares, with an intercept."""
    x = np.column_stack([np.ones(len(response)), *(predictor for s in sets for predictor in s)])
    residual = response - x @ np.linalg.lstsq(x, response, rcond=None)[0]
    r2 = 1 - (residual @ residual) / np.square(response - response.mean()).sum()
    return 1 - (1 - r2) * (len(response) - 1) / (len(response) - x.shape[1])


def lstsq_unique(sets, response):
    total = lstsq_adjusted(sets, response)
    return [total - lstsq_adjusted([s for j, s in enumerate(sets) if j != i], response) for i in range(len(sets))]


def permuted_models(models, unit, seed, number):
    """The models after permutation `number`, by permuting square RDMs (or entries) outright."""
    if unit == "entries":
        return models[..., np.random.default_rng([seed, number]).permutation(N_PAIRS)]
    order = np.random.default_rng([seed, number]).permutation(N_CONDITIONS)
    return condense(expand(models)[..., order, :][..., order])


@pytest.mark.parametrize("unit", ["conditions", "entries"])
@pytest.mark.parametrize("two_sided", [True, False])
def test_equals_a_literal_loop(data, unit, two_sided):
    models, places = data
    n, pairs = 60, all_pairs(4)
    basis = orthonormal_basis(models)
    for statistic, literal in (
        (own_adjusted_r2(basis), lambda m, y: [lstsq_adjusted([s], y) for s in m]),
        (unique_adjusted_r2(basis), lstsq_unique),
    ):
        observed = np.array([literal(models, y) for y in places]).T
        null = np.array(
            [[literal(permuted_models(models, unit, 3, k), y) for y in places] for k in range(n)]
        ).transpose(2, 0, 1)
        change = np.stack([observed[i] - observed[j] for i, j in pairs])
        null_change = np.stack([null[i] - null[j] for i, j in pairs])
        size = np.abs(null_change) if two_sided else null_change * np.where(change < 0, -1, 1)[:, None]

        test = permutation_test(basis, statistic, places, n, unit=unit, pairs=pairs, two_sided=two_sided, seed=3)
        np.testing.assert_allclose(test.observed, observed, atol=1e-12)
        assert np.array_equal(test.p, (1 + (null >= observed[:, None]).sum(axis=1)) / (1 + n))
        largest = null.max(axis=(0, 2))
        assert np.array_equal(test.p_max, (1 + (largest >= observed[..., None]).sum(axis=2)) / (1 + n))
        assert np.array_equal(test.p_difference, (1 + (size >= np.abs(change)[:, None]).sum(axis=1)) / (1 + n))
        largest = size.max(axis=(0, 2))
        expected = (1 + (largest >= np.abs(change)[..., None]).sum(axis=2)) / (1 + n)
        assert np.array_equal(test.p_difference_max, expected)


def literal_top(models, response, n_top):
    own = [lstsq_adjusted([s], response) for s in models]
    chosen = np.argsort(own)[::-1][:n_top]
    return chosen, lstsq_unique([models[i] for i in chosen], response)


@pytest.mark.parametrize("selected_once", [False, True])
def test_top_models_equal_a_literal_loop(data, selected_once):
    models, places = data
    n = 40
    basis = orthonormal_basis(models)
    chosen = np.array([literal_top(models, y, 3)[0] for y in places]).T
    observed = np.array([literal_top(models, y, 3)[1] for y in places]).T
    null = np.empty((n, 3, len(places)))
    for k in range(n):
        moved = permuted_models(models, "conditions", 0, k)
        for j, y in enumerate(places):
            if selected_once:
                null[k, :, j] = lstsq_unique(moved[chosen[:, j]], y)
            else:
                null[k, :, j] = literal_top(moved, y, 3)[1]
    statistic = TopModels(basis, 3, fixed=chosen if selected_once else None)
    test = permutation_test(basis, statistic, places, n, pairs=all_pairs(3))
    np.testing.assert_allclose(test.observed, observed, atol=1e-10)
    assert np.array_equal(test.p, (1 + (null >= observed).sum(axis=0)) / (1 + n))
    change = np.stack([observed[i] - observed[j] for i, j in all_pairs(3)])
    null_change = np.stack([null[:, i] - null[:, j] for i, j in all_pairs(3)], axis=1)
    assert np.array_equal(test.p_difference, (1 + (np.abs(null_change) >= np.abs(change)).sum(axis=0)) / (1 + n))


def test_top_models_with_a_model_inside_another(data):
    """Rank is counted where layers are collinear: the total of a team never counts a direction twice."""
    models, places = data
    models = models.copy()
    models[3] = models[1]
    basis = orthonormal_basis(models)
    assert basis.dependent == ((3, 0), (3, 1))
    observed = permutation_test(basis, TopModels(basis, 3), places, 5).observed
    assert np.isfinite(observed).all()
    twins = TopModels(basis, 2, fixed=np.full((2, 5), [[1], [3]]))
    np.testing.assert_allclose(permutation_test(basis, twins, places, 5).observed, 0, atol=1e-10)


@pytest.mark.parametrize("statistic", [own_adjusted_r2, unique_adjusted_r2])
@pytest.mark.parametrize("two_sided", [True, False])
def test_single_and_double_precision_count_the_same(rng, statistic, two_sided):
    from utils.inference import _Draws, _test_in_double_precision

    models = gain_rdms(rng, 8).reshape(4, 2, -1)
    places = gain_rdms(rng, 300)
    places[::3] += models[1, 0]
    basis = orthonormal_basis(models)
    pairs = all_pairs(4)
    fast = permutation_test(basis, statistic(basis), places, 400, pairs=pairs, two_sided=two_sided)
    draws = _Draws(basis.n_pairs, 400, "conditions", 0, None)
    exact = _test_in_double_precision(basis, statistic(basis), standardise(places), draws, pairs, two_sided, "cpu")
    for name in ("p", "p_max", "p_best", "p_difference", "p_difference_max"):
        assert np.array_equal(getattr(fast, name), getattr(exact, name)), name


def test_what_single_precision_cannot_tell_is_counted_in_double(rng, monkeypatch):
    """With an absurdly wide guard band nearly everything is recalculated, and nothing changes."""
    from utils import exceedances

    basis = orthonormal_basis(gain_rdms(rng, 4, N_CONDITIONS).reshape(2, 2, -1))
    places = gain_rdms(rng, 5, N_CONDITIONS)
    usual = permutation_test(basis, own_adjusted_r2(basis), places, 80)
    counters = []

    class Careful(exceedances.Counter):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self._error, self._n_flags = 0.05, 3
            counters.append(self)

    monkeypatch.setattr(exceedances, "Counter", Careful)
    careful = permutation_test(basis, own_adjusted_r2(basis), places, 80)
    assert sum(counter.n_exact for counter in counters) > 300
    for name in ("p", "p_max", "p_best"):
        assert np.array_equal(getattr(usual, name), getattr(careful, name)), name


def test_every_way_to_multiply_counts_the_same(data, monkeypatch):
    import torch

    from utils import inference

    models, places = data
    basis = orthonormal_basis(models)
    a, b = torch.randn(70, 30), torch.randn(50, 30)
    tests = []
    for way in inference.products():
        np.testing.assert_allclose(way(a, b), a @ b.T, rtol=1e-4, atol=1e-5)
        monkeypatch.setattr(inference, "fastest_product", lambda *_, way=way: way)
        tests.append(permutation_test(basis, unique_adjusted_r2(basis), places, 60, pairs=all_pairs(4)))
    for test in tests[1:]:
        for name in ("p", "p_max", "p_best", "p_difference", "p_difference_max"):
            assert np.array_equal(getattr(test, name), getattr(tests[0], name)), name


def test_a_way_to_multiply_that_fails_or_errs_is_not_taken(monkeypatch):
    import torch

    from utils import inference

    def fails(a, b):
        raise NotImplementedError("not on this processor")

    plain = inference.products()[0]
    monkeypatch.setattr(inference, "products", lambda: [plain, fails, lambda a, b: 0 * (a @ b.T)])
    unit = torch.nn.functional.normalize(torch.randn(40, 30), dim=1)
    assert inference.fastest_product(unit, unit) is plain


def test_error_of_single_precision_stays_within_its_bound(rng):
    from utils.exceedances import _UNIT_ROUNDOFF

    basis = orthonormal_basis(gain_rdms(rng, 6, 50).reshape(3, 2, -1))
    brain = standardise(np.concatenate([gain_rdms(rng, 200, 50), basis.q.T]))
    product = basis.q.T.astype(np.float32) @ brain.T.astype(np.float32)
    error = np.abs(product - basis.q.T @ brain.T).max()
    assert error < _UNIT_ROUNDOFF * np.sqrt(1225) / 2


def test_does_not_depend_on_blocks_threads_or_progress(data, monkeypatch):
    import torch

    models, places = data
    basis = orthonormal_basis(models)
    pairs, seen = all_pairs(4), []
    statistics = (unique_adjusted_r2(basis), TopModels(basis, 4))
    whole = [
        permutation_test(basis, statistic, places, 50, pairs=pairs, progress=lambda *state: seen.append(state))
        for statistic in statistics
    ]
    assert seen[-1] == (50, 50)
    threads = torch.get_num_threads()
    monkeypatch.setattr("utils.inference._BLOCK_BYTES", 8 * 8 * N_PAIRS * 3)
    monkeypatch.setattr("utils.inference._PLACES_PER_BLOCK", 2)
    monkeypatch.setattr("utils.inference._PLACES_PER_PRODUCT", 2)
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            for statistic, before in zip(statistics, whole, strict=True):
                cut = permutation_test(basis, statistic, places, 50, pairs=pairs)
                for name in ("p", "p_max", "p_best", "p_difference", "p_difference_max"):
                    assert np.array_equal(getattr(before, name), getattr(cut, name)), name
    finally:
        torch.set_num_threads(threads)


def test_order_of_models_does_not_matter(data):
    models, places = data
    order = [2, 0, 3, 1]
    basis, other = orthonormal_basis(models), orthonormal_basis(models[order])
    ours = permutation_test(basis, unique_adjusted_r2(basis), places, 99)
    theirs = permutation_test(other, unique_adjusted_r2(other), places, 99)
    assert np.array_equal(theirs.p, ours.p[order])
    assert np.array_equal(theirs.p_max, ours.p_max[order])


def test_first_permutations_are_the_same_for_any_number():
    whole = permutation_indices(N_PAIRS, 10, "conditions", 5)
    assert np.array_equal(whole[6:], permutation_indices(N_PAIRS, 4, "conditions", 5, start=6))
    assert not np.array_equal(whole, permutation_indices(N_PAIRS, 10, "conditions", 6))


def test_perfect_model_has_the_smallest_possible_p(data):
    models, _ = data
    basis = orthonormal_basis(models)
    test = permutation_test(basis, own_adjusted_r2(basis), models[1, :1] + 0.5 * models[1, 1:], 199)
    assert test.p[1, 0] == 1 / 200
    assert test.p_max[1, 0] == 1 / 200


@pytest.fixture(scope="module")
def calibration():
    """p values of 300 unrelated pairs of model and brain RDM, for both units of permutation."""
    rng = np.random.default_rng(7)
    p: dict[str, list[float]] = {"conditions": [], "entries": []}
    for _ in range(300):
        basis = orthonormal_basis([gain_rdms(rng, 2)])
        brain = gain_rdms(rng, 1)
        for unit, values in p.items():
            values.append(permutation_test(basis, own_adjusted_r2(basis), brain, 199, unit=unit).p[0, 0])
    return p


def test_permutation_of_conditions_is_calibrated(calibration):
    share = np.mean(np.array(calibration["conditions"]) <= 0.05)
    assert abs(share - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 300)


def test_permutation_of_entries_is_not(calibration):
    assert np.mean(np.array(calibration["entries"]) <= 0.05) > 0.25


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
    assert test.p_difference[1, 3] == pytest.approx(stats.ttest_rel(values[0, :, 3], values[2, :, 3]).pvalue, rel=1e-12)
    unpaired = t_test(values, all_pairs(3), paired=False)
    expected = stats.ttest_ind(values[0, :, 3], values[2, :, 3]).pvalue
    assert unpaired.p_difference[1, 3] == pytest.approx(expected, rel=1e-12)


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
    np.testing.assert_allclose(published_fdr(p, across_places=False), within, atol=1e-12)
    twice = np.stack([multipletests(row, method="fdr_bh")[1] for row in within])
    np.testing.assert_allclose(published_fdr(p, across_places=True), twice, atol=1e-12)


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


def test_jackknife_of_all_leave_one_out_is_the_textbook_formula(data):
    """Delete-1: sqrt((n - 1) / n sum (theta_i - mean)^2); random subsets converge on it."""
    models, places = data
    literal = np.array(
        [literal_subset_unique(models[:2], places[0], np.arange(N_CONDITIONS) != i) for i in range(N_CONDITIONS)]
    )
    n = N_CONDITIONS
    textbook = np.sqrt((n - 1) / n * np.square(literal - literal.mean(axis=0)).sum(axis=0))
    ours = jackknife(orthonormal_basis(models[:2]), places[:1], [(0, 1)], ratio=(n - 1) / n, n_subsets=20_000)
    np.testing.assert_allclose(ours.unique[:, 0], textbook, rtol=0.03)
    change = literal[:, 0] - literal[:, 1]
    textbook = np.sqrt((n - 1) / n * np.square(change - change.mean()).sum())
    np.testing.assert_allclose(ours.difference[0, 0], textbook, rtol=0.03)


def test_jackknife_unscaled_is_smaller_by_the_known_factor(data, monkeypatch):
    models, places = data
    basis = orthonormal_basis(models)
    scaled = jackknife(basis, places, all_pairs(4), ratio=0.75, n_subsets=50)
    monkeypatch.setattr("utils.inference._PLACES_PER_REFIT", 2)
    unscaled = jackknife(basis, places, all_pairs(4), ratio=0.75, n_subsets=50, scaled=False)
    np.testing.assert_allclose(scaled.unique, unscaled.unique * np.sqrt(9 / 3), rtol=1e-9)
    np.testing.assert_allclose(scaled.difference, unscaled.difference * np.sqrt(9 / 3), rtol=1e-9)


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


def test_difference_p_is_a_t_test_of_the_ratio():
    p = difference_p(np.array([[0.2, 0.0, -0.1]]), np.array([[0.1, 0.1, 0.0]]), 50)
    assert p[0, 0] == pytest.approx(2 * stats.t.sf(2, 49))
    assert p[0, 1] == 1
    assert p[0, 2] == 1


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
        test = permutation_test(basis, unique_adjusted_r2(basis), brain, 99, pairs=[(0, 1)], seed=seed)
        errors = jackknife(basis, brain, [(0, 1)], n_subsets=300, seed=seed)
        by_permutation.append(test.p_difference[0, 0])
        by_refit.append(difference_p(test.observed[[0]] - test.observed[[1]], errors.difference, 30)[0, 0])
    assert np.mean(np.array(by_permutation) <= 0.05) > 0.3
    assert np.mean(np.array(by_refit) <= 0.05) < 0.12


def test_largest_difference_of_the_winner():
    p_difference = np.array([[0.1, 0.2], [0.9, 0.3], [0.02, 0.9]])  # pairs 01, 02, 12
    assert largest_difference_p(np.array([1, 0]), all_pairs(3), p_difference).tolist() == [0.1, 0.3]


def test_total_of_the_parts_is_tested_like_any_statistic(data):
    models, places = data
    basis = orthonormal_basis(models)
    test = permutation_test(basis, total_adjusted_r2(basis), places, 20)
    assert test.p.shape == (1, 5)


def test_chance_level_needs_four_conditions(rng):
    basis = orthonormal_basis([rng.random((1, 3))])
    with pytest.raises(ValueError, match="at least 4 conditions, got 3"):
        chance_adjusted_r2(basis, own_adjusted_r2(basis), rng.random((1, 3)))
