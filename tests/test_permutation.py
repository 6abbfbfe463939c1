"""Permutation tests against literal loops, between precisions, and their calibration."""

import numpy as np
import pytest
from conftest import N_CONDITIONS, N_PAIRS, gain_rdms, lstsq_adjusted, lstsq_unique

from utils.inference import all_pairs
from utils.permutation import TopModels, permutation_indices, permutation_test
from utils.rdm import condense, expand
from utils.regression import (
    orthonormal_basis,
    own_adjusted_r2,
    standardise,
    total_adjusted_r2,
    unique_adjusted_r2,
)


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
    from utils.permutation import _Draws, _test_in_double_precision

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

    from utils import permutation

    models, places = data
    basis = orthonormal_basis(models)
    a, b = torch.randn(70, 30), torch.randn(50, 30)
    tests = []
    for way in permutation.products():
        np.testing.assert_allclose(way(a, b), a @ b.T, rtol=1e-4, atol=1e-5)
        monkeypatch.setattr(permutation, "fastest_product", lambda *_, way=way: way)
        tests.append(permutation_test(basis, unique_adjusted_r2(basis), places, 60, pairs=all_pairs(4)))
    for test in tests[1:]:
        for name in ("p", "p_max", "p_best", "p_difference", "p_difference_max"):
            assert np.array_equal(getattr(test, name), getattr(tests[0], name)), name


def test_a_way_to_multiply_that_fails_or_errs_is_not_taken(monkeypatch):
    import torch

    from utils import permutation

    def fails(a, b):
        raise NotImplementedError("not on this processor")

    plain = permutation.products()[0]
    monkeypatch.setattr(permutation, "products", lambda: [plain, fails, lambda a, b: 0 * (a @ b.T)])
    unit = torch.nn.functional.normalize(torch.randn(40, 30), dim=1)
    assert permutation.fastest_product(unit, unit) is plain


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
    monkeypatch.setattr("utils.permutation._BLOCK_BYTES", 8 * 8 * N_PAIRS * 3)
    monkeypatch.setattr("utils.permutation._PLACES_PER_BLOCK", 2)
    monkeypatch.setattr("utils.permutation._PLACES_PER_PRODUCT", 2)
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


def test_total_of_the_parts_is_tested_like_any_statistic(data):
    models, places = data
    basis = orthonormal_basis(models)
    test = permutation_test(basis, total_adjusted_r2(basis), places, 20)
    assert test.p.shape == (1, 5)
