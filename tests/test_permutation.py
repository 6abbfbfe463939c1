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
from utils.rdm import condense, expand, n_pairs_of
from utils.stats import exceedances, exceedances_cpu, exceedances_gpu, matmul, permutation
from utils.stats.inference import all_pairs
from utils.stats.permutation import Permutations, TopModels, permutation_test
from utils.stats.regression import (
    LinearStatistic,
    orthonormal_basis,
    own_adjusted_r2,
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

        test = permutation_test(basis, statistic, places, Permutations(n, unit, 3), pairs=pairs, two_sided=two_sided)
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
    test = permutation_test(basis, statistic, places, Permutations(n), pairs=all_pairs(3))
    np.testing.assert_allclose(test.observed, observed, atol=1e-10)
    assert np.array_equal(test.p, (1 + (null >= observed).sum(axis=0)) / (1 + n))
    change = np.stack([observed[i] - observed[j] for i, j in all_pairs(3)])
    null_change = np.stack([null[:, i] - null[:, j] for i, j in all_pairs(3)], axis=1)
    assert np.array_equal(test.p_difference, (1 + (np.abs(null_change) >= np.abs(change)).sum(axis=0)) / (1 + n))


def test_top_models_with_a_model_inside_another(data):
    """Rank is counted where layers are collinear: the total of a subset of models never counts a direction twice."""
    models, places = data
    models = models.copy()
    models[3] = models[1]
    basis = orthonormal_basis(models)
    assert basis.dependent == ((3, 0), (3, 1))
    observed = permutation_test(basis, TopModels(basis, 3), places, Permutations(5)).observed
    assert np.isfinite(observed).all()
    twins = TopModels(basis, 2, fixed=np.full((2, 5), [[1], [3]]))
    np.testing.assert_allclose(permutation_test(basis, twins, places, Permutations(5)).observed, 0, atol=1e-10)


def same_p_values(one, other):
    for name in ("p", "p_max", "p_best", "p_difference", "p_difference_max"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def in_double_precision(basis, statistic, places, permutations, **options):
    """The same test with nothing in float32."""
    tensors = LinearStatistic(*(torch.from_numpy(array) for array in vars(statistic).values()))
    return permutation_test(basis, lambda projected: tensors(projected), places, permutations, **options)


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
    monkeypatch.setattr(permutation, "count_on_cpu", partial(exceedances_gpu.count_on_gpu, device="cpu"))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("statistic", [own_adjusted_r2, unique_adjusted_r2])
@pytest.mark.parametrize("unit", ["conditions", "entries"])
@pytest.mark.parametrize("two_sided", [True, False])
def test_all_precisions_and_devices_count_the_same(study, monkeypatch, statistic, unit, two_sided):
    basis, places = study
    arguments = (basis, statistic(basis), places, Permutations(300, unit))
    options = {"pairs": all_pairs(4), "two_sided": two_sided}
    ours = permutation_test(*arguments, **options)
    same_p_values(ours, in_double_precision(*arguments, **options))
    counters = on_device(monkeypatch)
    same_p_values(ours, permutation_test(*arguments, **options))
    assert counters


@pytest.mark.parametrize("on_gpu", [False, True])
def test_what_single_precision_cannot_tell_is_counted_in_double(rng, monkeypatch, on_gpu):
    """With an absurdly wide guard band nearly everything is calculated again, in too little room; nothing changes."""
    basis = orthonormal_basis(gain_rdms(rng, 4, N_CONDITIONS).reshape(2, 2, -1))
    places = gain_rdms(rng, 5, N_CONDITIONS)
    usual = permutation_test(basis, own_adjusted_r2(basis), places, Permutations(80), pairs=[(0, 1)])
    calculated = []

    class Noted(exceedances.Exact):
        def values(self, entries, permutations):
            calculated.append(len(entries))
            return super().values(entries, permutations)

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
    statistics = (unique_adjusted_r2(basis), own_adjusted_r2(basis), TopModels(basis, 4))
    whole = [
        permutation_test(
            basis, statistic, places, Permutations(50), pairs=pairs, progress=lambda *state: seen.append(state)
        )
        for statistic in statistics
    ]
    assert seen[-1] == (50, 50)
    threads = torch.get_num_threads()
    for module, name, value in (
        ("permutation", "_BLOCK_BYTES", 8 * 8 * N_PAIRS * 3),
        ("permutation", "_LOCATIONS_PER_BLOCK", 2),
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


def test_workers_for_a_statistic_they_cannot_share_are_refused(data):
    models, places = data
    basis = orthonormal_basis(models)
    with pytest.raises(ValueError, match="`workers` can share the test of a LinearStatistic, not of TopModels"):
        permutation_test(basis, TopModels(basis), places, Permutations(5), resources=Resources(workers=object()))


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
    weights, offset = torch.randn(5, 8, generator=generator), torch.randn(5, generator=generator) / 10
    targets = torch.rand(5, 50, generator=generator) / 100
    operands = (projected, weights, offset, targets, targets[:3].amax(dim=0), None, 3, 1e-4, 1e-6)
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
    operands = (torch.ones(1, 2, 3), torch.ones(1, 1), torch.zeros(1), torch.ones(1, 3), torch.ones(3), None, 1, 0, 0)
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
