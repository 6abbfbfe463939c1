"""Permutation tests against literal loops, between precisions, and their calibration."""

import os
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import N_CONDITIONS, N_PAIRS, gain_rdms, lstsq_adjusted, lstsq_unique
from scipy import stats

from utils.parallel.resources import Resources
from utils.rdm import condense, correlation_rdm, expand, n_pairs_of
from utils.stats import exceedances, exceedances_cpu, exceedances_gpu, matmul, permutation
from utils.stats.comparison import compared
from utils.stats.inference import all_pairs, chance_r2
from utils.stats.permutation import Permutations, conditional_test, permutation_test
from utils.stats.regression import (
    orthonormal_basis,
    own_adjusted_r2,
    own_r2,
    project,
    standardise,
    total_adjusted_r2,
    unique_adjusted_r2,
)


def permuted_models(models, unit, seed, number):
    """The models after permutation `number`, by permuting square RDMs (or entries) outright."""
    order = Permutations(1, unit, seed).orders(N_PAIRS, number, number + 1)[0]
    if unit == "entries":
        return models[..., order]
    return condense(expand(models)[..., order, :][..., order])


@pytest.mark.parametrize("unit", ["conditions", "entries"])
def test_equals_a_literal_loop(data, unit):
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
        null_change = np.stack([null[i] - null[j] for i, j in pairs]) * np.where(change < 0, -1, 1)[:, None]

        test = permutation_test(basis, statistic, places, Permutations(n, unit, 3), pairs=pairs)
        np.testing.assert_allclose(test.observed, observed, atol=1e-12)
        assert np.array_equal(test.p, (1 + (null >= observed[:, None]).sum(axis=1)) / (1 + n))
        largest = null.max(axis=(0, 2))
        assert np.array_equal(test.p_max, (1 + (largest >= observed[..., None]).sum(axis=2)) / (1 + n))
        best = (1 + (null.max(axis=0) >= observed.max(axis=0)).sum(axis=0)) / (1 + n)
        assert np.array_equal(test.p_best, best)
        assert np.array_equal(test.p_difference, (1 + (null_change >= np.abs(change)[:, None]).sum(axis=1)) / (1 + n))


def moments(null, n):
    """Mean and standard deviation of null values number n and later, along the second axis."""
    return null[:, n:].mean(axis=1), null[:, n:].std(axis=1, ddof=1)


def test_the_largest_on_a_common_scale(data):
    """On the scale of chance, and in standard deviations of further permutations."""
    models, places = data
    n, basis = 40, orthonormal_basis(models)
    statistic = own_r2(basis)
    chance = chance_r2(basis, statistic, places)
    n_all = n + permutation._FOR_MOMENTS

    def values(sets):
        q = orthonormal_basis(sets)
        return statistic_of(q)(project(q, places))

    statistic_of = own_r2
    observed = values(models)
    null = np.stack([values(permuted_models(models, "conditions", 0, k)) for k in range(n_all)], axis=1)
    test = permutation_test(basis, statistic, places, Permutations(n), chance=chance)
    scaled, own = 1 - (1 - null[:, :n]) / (1 - chance[:, None]), 1 - (1 - observed) / (1 - chance)
    assert np.array_equal(test.p, (1 + (null[:, :n] >= observed[:, None] - 1e-11).sum(axis=1)) / (1 + n))
    best = (1 + (scaled.max(axis=0) >= own.max(axis=0) - 1e-11).sum(axis=0)) / (1 + n)
    assert np.array_equal(test.p_best, best)
    mean, deviation = moments(null, n)
    scaled, own = (null[:, :n] - mean[:, None]) / deviation[:, None], (observed - mean) / deviation
    test = permutation_test(basis, statistic, places, Permutations(n), chance=chance, largest="studentised")
    expected = (1 + (scaled.max(axis=(0, 2)) >= own[..., None]).sum(axis=2)) / (1 + n)
    np.testing.assert_allclose(test.p_max, expected, atol=2.5 / n)  # mean and deviation are rounded
    assert np.abs(test.p_max - expected).mean() < 0.2 / n


def least_squares(predictors, response):
    """R2 with an intercept."""
    x = np.column_stack([np.ones(len(response)), *predictors])
    residual = response - x @ np.linalg.lstsq(x, response, rcond=None)[0]
    return 1 - residual @ residual / np.square(response - response.mean()).sum()


def literal_gain(models, i, response, order):
    """R2 that the permuted part of set i outside of the others adds to them."""
    others = [layer for j, s in enumerate(models) for layer in s if j != i]
    x = np.column_stack([np.ones(len(response)), *others])
    part = [layer - x @ np.linalg.lstsq(x, layer, rcond=None)[0] for layer in models[i]]
    return least_squares([*others, *(layer[order] for layer in part)], response) - least_squares(others, response)


def test_conditional_test_equals_a_literal_loop(data):
    models, places = data
    sets = [models[0], models[1, :1], models[2], models[3]]  # of different sizes
    n, basis = 40, orthonormal_basis(sets)
    test = conditional_test(basis, places, Permutations(n, seed=2))
    orders = Permutations(n, seed=2).indices(N_PAIRS, 0, n)
    identity = np.arange(N_PAIRS)
    total = [least_squares(np.concatenate(sets), y) for y in places]
    moved = [[least_squares(np.concatenate(sets)[:, order], y) for y in places] for order in orders]
    assert np.array_equal(test.p_total, (1 + (np.array(moved) >= np.array(total) - 1e-11).sum(axis=0)) / (1 + n))
    observed = np.array([[literal_gain(sets, i, y, identity) for y in places] for i in range(4)])
    null = np.array([[[literal_gain(sets, i, y, order) for y in places] for i in range(4)] for order in orders])
    np.testing.assert_allclose(test.observed, observed, atol=1e-12)
    assert np.array_equal(test.p, (1 + (null >= observed - 1e-11).sum(axis=0)) / (1 + n))
    left = 1 - (np.array(total) - observed)  # unexplained by the others
    largest = (null / left).max(axis=(1, 2))
    expected = (1 + (largest[:, None, None] >= observed / left - 1e-11).sum(axis=0)) / (1 + n)
    assert np.array_equal(test.p_max, expected)
    largest = np.array(moved).max(axis=1)
    assert np.array_equal(test.p_total_max, (1 + (largest[:, None] >= np.array(total) - 1e-11).sum(axis=0)) / (1 + n))


@pytest.mark.parametrize("each_alone", [False, True])
def test_conditional_test_beside_nuisance_rdms_equals_a_literal_loop(data, each_alone):
    models, places = data
    sets, nuisance, n = [models[0], models[1, :1], models[2]], models[3], 40
    basis = orthonormal_basis([*sets, nuisance], n_given=1)
    test = conditional_test(basis, places, Permutations(n, seed=2), each_alone=each_alone)
    orders = [np.arange(N_PAIRS), *Permutations(n, seed=2).indices(N_PAIRS, 0, n)]
    beside = [[sets[i], nuisance] if each_alone else [sets[i], *sets[:i], *sets[i + 1 :], nuisance] for i in range(3)]
    gains = np.array([[[literal_gain(s, 0, y, order) for y in places] for s in beside] for order in orders])
    np.testing.assert_allclose(test.observed, gains[0], atol=1e-12)
    assert np.array_equal(test.p, (gains >= gains[0] - 1e-11).sum(axis=0) / (1 + n))
    total = np.array(
        [[literal_gain([np.concatenate(sets), nuisance], 0, y, order) for y in places] for order in orders]
    )
    assert np.array_equal(test.p_total, (total >= total[0] - 1e-11).sum(axis=0) / (1 + n))
    left = 1 - np.array([[least_squares([layer for s in b[1:] for layer in s], y) for y in places] for b in beside])
    values = gains / left
    if each_alone:
        by_chance = np.array([len(s) / (N_PAIRS - 1 - len(nuisance)) for s in sets])[:, None]
        values = 1 - (1 - values) / (1 - by_chance)
    best = values.max(axis=1)
    assert np.array_equal(test.p_best, (best >= best[0] - 1e-11).sum(axis=0) / (1 + n))
    largest = values.max(axis=(1, 2))
    assert np.array_equal(test.p_max, (largest[:, None, None] >= values[0] - 1e-11).sum(axis=0) / (1 + n))


@pytest.mark.slow
def test_level_beside_a_strong_nuisance_effect(rng):
    """Two networks share much with a nuisance RDM that the brain follows; 10 or more of 80 reject with p = .006."""
    rejected, ignored = 0, 0
    for _ in range(80):
        nuisance, *own = gain_rdms(rng, 3, 20)
        models = np.array(own)[:, None] + 2 * nuisance
        place = (nuisance + 0.5 * gain_rdms(rng, 1, 20)[0])[None]
        beside = orthonormal_basis([*models, nuisance[None]], n_given=1)
        rejected += int(conditional_test(beside, place, Permutations(99), each_alone=True).p_best[0] <= 0.05)
        basis = orthonormal_basis(list(models))
        ignored += int(permutation_test(basis, own_r2(basis), place, Permutations(99)).p_best[0] <= 0.05)
    assert rejected < 10
    assert ignored > 60


def test_conditional_test_of_a_set_within_the_span_of_the_others(data):
    models, places = data
    models = models.copy()
    models[3] = models[1]
    test = conditional_test(orthonormal_basis(models), places, Permutations(20))
    np.testing.assert_allclose(test.observed[[1, 3]], 0, atol=1e-12)
    assert (test.p[[1, 3]] == 1).all()


def same_fields(one, other):
    for name, value in vars(one).items():
        if name not in ("observed", "pairs"):
            assert np.array_equal(value, getattr(other, name)), name


@pytest.mark.parametrize("largest", ["as_is", "studentised"])
def test_conditional_test_counts_the_same_everywhere(study, monkeypatch, largest):
    basis, places = study
    ours = conditional_test(basis, places, Permutations(120), largest=largest)
    monkeypatch.setattr("utils.stats.exceedances_cpu._BLOCK_BYTES", 8 * 8 * 190 * 3)
    monkeypatch.setattr("utils.stats.exceedances_cpu._LOCATIONS_PER_PRODUCT", 70)
    same_fields(ours, conditional_test(basis, places, Permutations(120), largest=largest))
    counters = on_device(monkeypatch)
    monkeypatch.setattr(exceedances_gpu, "_PERMUTATIONS_PER_BLOCK", 33)
    same_fields(ours, conditional_test(basis, places, Permutations(120), largest=largest))
    assert counters


@pytest.mark.parametrize("on_gpu", [False, True])
def test_conditional_test_in_double_where_single_cannot_tell(study, monkeypatch, on_gpu):
    basis, places = study
    places = places[:20]
    usual = conditional_test(basis, places, Permutations(60))
    monkeypatch.setattr(exceedances.NullPlan, "error", 0.05)
    if on_gpu:
        on_device(monkeypatch)
    same_fields(usual, conditional_test(basis, places, Permutations(60)))


@pytest.mark.slow
def test_a_set_beside_a_strong_one_keeps_its_level_where_patterns_are_demeaned(rng):
    """Condition effects are strong in the models and absent in the brain: the joint test rejects in most runs."""
    n, alone, together = 100, [], []
    for _ in range(n):
        strong, other = gain_rdms(rng, 2, 24, spread=0.8).reshape(2, 1, -1)
        basis = orthonormal_basis([strong, other])
        place = compared(strong + 0.3 * gain_rdms(rng, 1, 24, spread=0.2), "without_condition_effects")
        alone.append(conditional_test(basis, place, Permutations(199)).p[1, 0])
        together.append(permutation_test(basis, unique_adjusted_r2(basis), place, Permutations(199)).p[1, 0])
    assert np.mean(np.array(alone) <= 0.05) < 0.12
    assert np.mean(np.array(together) <= 0.05) > 0.3


def same_p_values(one, other):
    for name in ("p", "p_max", "p_best", "p_difference"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def in_double_precision(basis, statistic, places, permutations, pairs):
    """The same test with nothing in float32."""
    n, contrasts = permutations.n, np.vstack([np.eye(4), permutation.difference_contrasts(pairs, 4)])
    moved = exceedances.permute(np.ascontiguousarray(basis.q.T), permutations.indices(basis.n_pairs, 0, n))
    responses = standardise(places)
    null = np.stack([contrasts @ statistic(moved[:, k] @ responses.T) for k in range(n)], axis=1)
    observed = contrasts @ statistic(basis.q.T @ responses.T)
    null[4:] *= np.where(observed[4:] < 0, -1, 1)[:, None]
    observed[4:] = np.abs(observed[4:])
    observed -= 1e-11

    def p_value(reached):
        return (1 + reached.sum(axis=0)) / (1 + n)

    each = (1 + (null >= observed[:, None]).sum(axis=1)) / (1 + n)
    largest = null[:4].max(axis=(0, 2))[:, None, None] >= observed[:4]
    best = null[:4].max(axis=0) >= observed[:4].max(axis=0)
    return permutation.PermutationTest(observed[:4], each[:4], p_value(largest), p_value(best), pairs, each[4:])


@pytest.fixture
def study(rng):
    """Four models, and 300 places of which every third follows one of them."""
    models = gain_rdms(rng, 8).reshape(4, 2, -1)
    places = gain_rdms(rng, 300)
    places[::3] += models[1, 0]
    return orthonormal_basis(models), places


def on_device(monkeypatch, scan=exceedances_gpu._scan):
    """Send tests to the code for GPUs, which then runs on the CPU; returns the counters that it makes."""
    monkeypatch.setattr(exceedances_gpu, "_compiled_scan", lambda: scan)
    made = []

    class Noted(exceedances_gpu._DeviceCounter):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(exceedances_gpu, "_DeviceCounter", Noted)

    def in_one_part(plan, targets, start, stop, _seconds, progress):
        yield exceedances_gpu.count_on_gpu(plan, targets, start, stop, progress, device="cpu")

    monkeypatch.setattr(permutation, "parts_on_cpu", in_one_part)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("statistic", [own_adjusted_r2, unique_adjusted_r2])
@pytest.mark.parametrize("unit", ["conditions", "entries"])
def test_all_precisions_and_devices_count_the_same(study, monkeypatch, statistic, unit):
    basis, places = study
    arguments = (basis, statistic(basis), places, Permutations(300, unit))
    ours = permutation_test(*arguments, pairs=all_pairs(4))
    same_p_values(ours, in_double_precision(*arguments, all_pairs(4)))
    counters = on_device(monkeypatch)
    same_p_values(ours, permutation_test(*arguments, pairs=all_pairs(4)))
    assert counters


@pytest.mark.parametrize("on_gpu", [False, True])
def test_what_single_precision_cannot_tell_is_counted_in_double(rng, monkeypatch, on_gpu):
    """With an absurdly wide guard band nearly everything is calculated again, in too little room; nothing changes."""
    basis = orthonormal_basis(gain_rdms(rng, 4, N_CONDITIONS).reshape(2, 2, -1))
    places = gain_rdms(rng, 5, N_CONDITIONS)
    usual = permutation_test(basis, own_adjusted_r2(basis), places, Permutations(80), pairs=[(0, 1)])
    calculated = []

    class Noted(exceedances.Exact):
        def values(self, entries, *rest):
            calculated.append(len(entries))
            return super().values(entries, *rest)

    monkeypatch.setattr(exceedances_cpu, "Exact", Noted)
    monkeypatch.setattr(exceedances_gpu, "Exact", Noted)
    monkeypatch.setattr(exceedances.NullPlan, "error", 0.05)
    monkeypatch.setattr(exceedances_cpu, "_FLAGS", 3)
    monkeypatch.setattr(exceedances_gpu, "_LEAST_ROOM", 3)
    if on_gpu:
        on_device(monkeypatch)
    same_p_values(usual, permutation_test(basis, own_adjusted_r2(basis), places, Permutations(80), pairs=[(0, 1)]))
    assert sum(calculated) > 300


def test_every_way_to_multiply_counts_the_same(data, monkeypatch):
    models, places = data
    basis = orthonormal_basis(models)
    a, b = torch.randn(70, 30), torch.randn(50, 30)
    tests = []
    for way in matmul.available_matmuls():
        np.testing.assert_allclose(way(a, b), a @ b.T, rtol=1e-4, atol=1e-5)
        monkeypatch.setattr(exceedances_cpu, "fastest_matmul", lambda *_, way=way: way)
        tests.append(permutation_test(basis, unique_adjusted_r2(basis), places, Permutations(60), pairs=all_pairs(4)))
    for test in tests[1:]:
        same_p_values(test, tests[0])


def test_a_way_to_multiply_that_fails_or_errs_is_not_taken(monkeypatch):
    def fails(a, b):
        raise NotImplementedError("not on this processor")

    plain = matmul.available_matmuls()[0]
    monkeypatch.setattr(matmul, "available_matmuls", lambda: [plain, fails, lambda a, b: 0 * (a @ b.T)])
    unit = torch.nn.functional.normalize(torch.randn(40, 30), dim=1)
    assert matmul.fastest_matmul(unit, unit) is plain


def test_error_of_single_precision_stays_within_its_bound(rng):
    basis = orthonormal_basis(gain_rdms(rng, 6, 50).reshape(3, 2, -1))
    brain = standardise(np.concatenate([gain_rdms(rng, 200, 50), basis.q.T]))
    product = basis.q.T.astype(np.float32) @ brain.T.astype(np.float32)
    error = np.abs(product - basis.q.T @ brain.T).max()
    assert error < exceedances.UNIT_ROUNDOFF * np.sqrt(1225) / 2


@pytest.mark.slow
def test_does_not_depend_on_blocks_threads_or_progress(data, monkeypatch):
    models, places = data
    basis = orthonormal_basis(models)
    pairs, seen = all_pairs(4), []
    statistics = (unique_adjusted_r2(basis), own_adjusted_r2(basis))
    whole = [
        permutation_test(
            basis, statistic, places, Permutations(50), pairs=pairs, progress=lambda *state: seen.append(state)
        )
        for statistic in statistics
    ]
    assert seen[-1] == (50, 50)
    threads = torch.get_num_threads()
    for module, name, value in (
        ("exceedances_cpu", "_BLOCK_BYTES", 8 * 8 * N_PAIRS * 3),
        ("exceedances_cpu", "_LOCATIONS_PER_PRODUCT", 2),
    ):
        monkeypatch.setattr(f"utils.stats.{module}.{name}", value)
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            for statistic, before in zip(statistics, whole, strict=True):
                same_p_values(before, permutation_test(basis, statistic, places, Permutations(50), pairs=pairs))
    finally:
        torch.set_num_threads(threads)


def test_memory_does_not_grow_with_permutations(study):
    """What stays of a permutation is its two largest values: 16 bytes, and as many while they are sorted."""
    import tracemalloc

    basis, places = study
    permutation_test(basis, own_adjusted_r2(basis), places, Permutations(10))
    peak = {}
    for n in (1000, 4000):
        tracemalloc.start()
        permutation_test(basis, own_adjusted_r2(basis), places, Permutations(n))
        peak[n] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak[4000] - peak[1000] < 200 * 3000


def count_or_die(killed, plan, targets, start, stop):
    """Ends its process at the first task from permutation 150 on, and only there: `killed` is made by one process."""
    if start >= 150:
        try:
            Path(killed).touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return exceedances_cpu.count_on_cpu(plan, targets, start, stop)


@pytest.mark.slow
@pytest.mark.parametrize("statistic", [own_adjusted_r2, unique_adjusted_r2])
def test_two_workers_of_which_one_is_killed_count_the_same(study, tmp_path, monkeypatch, statistic):
    pytest.importorskip("distributed", reason="--dask needs requirements-dask.txt")
    from utils.parallel.dask_workers import connect

    basis, places = study
    options = {"pairs": all_pairs(4)}
    ours = permutation_test(basis, statistic(basis), places, Permutations(300), **options)
    monkeypatch.setattr("utils.parallel.dask_workers._CONNECT_SECONDS", 300)
    monkeypatch.setattr("utils.stats.permutation._CHUNK_BYTES", 8 * places.shape[1] * 150)  # two chunks of the brain
    seen, killed = [], tmp_path / "killed"
    monkeypatch.setattr(permutation, "count_on_cpu", partial(count_or_die, str(killed)))
    with connect("local:2") as workers:
        options |= {"resources": Resources(workers=workers), "progress": lambda *state: seen.append(state)}
        theirs = permutation_test(basis, statistic(basis), places, Permutations(300), **options)
    assert killed.exists()
    assert len(seen) >= 20 and seen[-1] == (300, 300)
    same_p_values(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("block, room", [(7, 8192), (64, 3), (1000, 8192)])
def test_device_does_not_depend_on_blocks(study, monkeypatch, block, room):
    basis, places = study
    ours = permutation_test(basis, own_adjusted_r2(basis), places, Permutations(200), pairs=[(0, 1)])
    monkeypatch.setattr(exceedances_gpu, "_PERMUTATIONS_PER_BLOCK", block)
    monkeypatch.setattr(exceedances_gpu, "_LEAST_ROOM", room)
    monkeypatch.setattr(exceedances_gpu, "_locations_at_once", lambda *_: 37)
    monkeypatch.setattr(exceedances_gpu, "_BLOCKS_PER_TRANSFER", 3)
    counters = on_device(monkeypatch)
    seen = []
    test = permutation_test(
        basis,
        own_adjusted_r2(basis),
        places,
        Permutations(200),
        pairs=[(0, 1)],
        progress=lambda *state: seen.append(state),
    )
    same_p_values(ours, test)
    assert len(counters) == -(-300 // 37)
    assert seen == sorted(seen) and seen[-1] == (200, 200)


def test_device_short_of_memory_goes_on_in_smaller_chunks(study, monkeypatch):
    basis, places = study
    ours = permutation_test(basis, own_adjusted_r2(basis), places, Permutations(100))
    multiply, calls = exceedances_gpu.multiply, []

    def short(a, b):
        calls.append((len(a), len(b)))
        if len(b) > 80 or len(calls) == 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return multiply(a, b)

    monkeypatch.setattr(exceedances_gpu, "multiply", short)
    on_device(monkeypatch)
    with pytest.warns(UserWarning, match="memory of the GPU is short; starting again with 75 locations and 25"):
        same_p_values(ours, permutation_test(basis, own_adjusted_r2(basis), places, Permutations(100)))
    assert min(n for _, n in calls) < 75  # that at the seventh product, too


def test_device_without_any_memory_says_so(study, monkeypatch):
    basis, places = study

    def short(a, b):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(exceedances_gpu, "multiply", short)
    on_device(monkeypatch)
    with pytest.warns(UserWarning), pytest.raises(torch.OutOfMemoryError):
        permutation_test(basis, own_adjusted_r2(basis), places, Permutations(100))


@pytest.mark.slow
def test_compiled_scan_equals_the_plain_one(study):
    """The compiler for GPUs also compiles for CPUs, where there is a C compiler."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    generator = torch.Generator().manual_seed(0)
    projected = torch.randn(8, 20, 50, generator=generator) / 20
    weights, offset = torch.randn(5, 8, generator=generator), torch.randn(5, 50, generator=generator) / 10
    targets, scale = torch.rand(5, 50, generator=generator) / 100, torch.rand(5, 50, generator=generator) + 0.5
    brain = (weights, scale, offset, targets, targets[:3].amax(dim=0))
    operands = (projected, brain, torch.full((20,), 1e-4), (3, 2), 1e-6)
    plain, compiled = exceedances_gpu._scan(*operands), torch.compile(exceedances_gpu._scan, dynamic=True)(*operands)
    for one, other in zip(plain, compiled, strict=True):
        torch.testing.assert_close(one, other)


def test_without_a_compiler_the_scan_stays_as_it_is(monkeypatch):
    def fails(*_, **__):
        def run(*_):
            raise RuntimeError("no C compiler")

        return run

    monkeypatch.setattr(torch, "compile", fails)
    exceedances_gpu._compiled_scan.cache_clear()
    brain = (torch.ones(1, 1), torch.ones(1, 3), torch.zeros(1, 3), torch.ones(1, 3), torch.ones(3))
    operands = (torch.ones(1, 2, 3), brain, torch.zeros(2), (1,), 0.0)
    with pytest.warns(UserWarning, match="no compiled kernels"):
        exceedances_gpu._compiled_scan()(*operands)
    exceedances_gpu._compiled_scan()(*operands)  # says it once
    exceedances_gpu._compiled_scan.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("statistic", [own_adjusted_r2, unique_adjusted_r2])
def test_a_real_gpu_counts_the_same(study, statistic):
    basis, places = study
    options = {"pairs": all_pairs(4)}
    ours = permutation_test(basis, statistic(basis), places, Permutations(1000), **options)
    same_p_values(
        ours,
        permutation_test(basis, statistic(basis), places, Permutations(1000), resources=Resources("cuda"), **options),
    )


def test_order_of_models_does_not_matter(data):
    models, places = data
    order = [2, 0, 3, 1]
    basis, other = orthonormal_basis(models), orthonormal_basis(models[order])
    ours = permutation_test(basis, unique_adjusted_r2(basis), places, Permutations(99))
    theirs = permutation_test(other, unique_adjusted_r2(other), places, Permutations(99))
    assert np.array_equal(theirs.p, ours.p[order])
    assert np.array_equal(theirs.p_max, ours.p_max[order])


@pytest.mark.parametrize("unit", ["conditions", "entries"])
def test_permutations_are_the_same_however_they_are_cut(unit):
    permutations = Permutations(50, unit, 5)
    whole = permutations.orders(N_PAIRS, 0, 50)
    n_items = {"conditions": N_CONDITIONS, "entries": N_PAIRS}[unit]
    assert np.array_equal(np.sort(whole, axis=1), np.tile(np.arange(n_items), (50, 1)))
    cut = [permutations.orders(N_PAIRS, k, min(k + 7, 50)) for k in range(0, 50, 7)]
    assert np.array_equal(np.concatenate(cut), whole)
    assert len(np.unique(whole, axis=0)) == 50
    assert not np.array_equal(whole, Permutations(50, unit, 6).orders(N_PAIRS, 0, 50))


def test_all_permutations_are_equally_likely():
    orders = Permutations(24_000).orders(n_pairs_of(4), 0, 24_000)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 0.001


def test_perfect_model_has_the_smallest_possible_p(data):
    models, _ = data
    basis = orthonormal_basis(models)
    test = permutation_test(basis, own_adjusted_r2(basis), models[1, :1] + 0.5 * models[1, 1:], Permutations(199))
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
            values.append(permutation_test(basis, own_adjusted_r2(basis), brain, Permutations(199, unit=unit)).p[0, 0])
    return p


@pytest.mark.slow
def test_permutation_of_conditions_is_calibrated(calibration):
    share = np.mean(np.array(calibration["conditions"]) <= 0.05)
    assert abs(share - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 300)


@pytest.mark.slow
def test_permutation_of_entries_is_not(calibration):
    assert np.mean(np.array(calibration["entries"]) <= 0.05) > 0.25


def test_total_of_the_parts_is_tested_like_any_statistic(data):
    models, places = data
    basis = orthonormal_basis(models)
    test = permutation_test(basis, total_adjusted_r2(basis), places, Permutations(20))
    assert test.p.shape == (1, 5)


BLOCKS = (0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2)


def test_conditions_are_exchanged_within_blocks():
    orders = Permutations(400, seed=3, blocks=BLOCKS).orders(66, 5, 400)
    assert orders.shape == (395, 12)
    np.testing.assert_array_equal(np.array(BLOCKS)[orders], np.tile(BLOCKS, (395, 1)))
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(12), (395, 1)))
    of_first = orders[:, [0, 3, 6, 9]]
    assert len({tuple(order) for order in of_first}) == 24  # all of 4!, each of 395 with probability 1/24
    assert len({tuple(order) for order in orders}) > 380
    np.testing.assert_array_equal(orders[2:9], Permutations(400, seed=3, blocks=BLOCKS).orders(66, 7, 14))


def test_blocks_are_exchanged_as_wholes():
    orders = Permutations(100, "blocks", seed=3, blocks=BLOCKS).orders(66, 0, 100)
    moved = np.array(BLOCKS)[orders]
    first = moved[:, :3]
    assert len({tuple(order) for order in first.tolist()}) == 6 and (np.sort(first) == [0, 1, 2]).all()
    # Every block keeps its order: the k-th condition of a block takes the place of the k-th of another.
    np.testing.assert_array_equal(orders // 3, np.tile(np.arange(12) // 3, (100, 1)))


def test_number_of_different_permutations():
    assert Permutations(1).n_distinct == np.inf
    assert Permutations(1, blocks=BLOCKS).n_distinct == pytest.approx(24**3)
    assert Permutations(1, "blocks", blocks=BLOCKS).n_distinct == pytest.approx(6)


@pytest.mark.slow
def test_whole_blocks_hold_the_level_where_brain_and_model_share_categories():
    """Ten categories of five conditions with unrelated geometry; 7 or more of 40 tests reject with p = .003."""
    rng, blocks = np.random.default_rng(0), tuple(np.repeat(np.arange(10), 5).tolist())
    rejected = {"conditions": 0, "blocks": 0}
    for _ in range(40):
        centers, own = rng.standard_normal((2, 10, 60))[:, list(blocks)], rng.standard_normal((2, 50, 60))
        model, brain = (compared(correlation_rdm(patterns), "whitened") for patterns in centers + own)
        basis = orthonormal_basis([model[None]])
        for unit, of_blocks in (("conditions", ()), ("blocks", blocks)):
            test = permutation_test(basis, own_r2(basis), brain[None], Permutations(199, unit, 1, of_blocks))
            rejected[unit] += int(test.p[0, 0] <= 0.05)
    assert rejected["blocks"] <= 6
    assert rejected["conditions"] >= 20
