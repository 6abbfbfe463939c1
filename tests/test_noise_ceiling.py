import numpy as np
import pytest
from helpers import gain_rdms
from scipy.stats import spearmanr

from utils.stats.comparison import compared
from utils.stats.jackknife import Jackknife
from utils.stats.noise_ceiling import ceiling_as_r2, noise_ceiling, reliability, single_subject_ceilings
from utils.stats.regression import orthonormal_basis, own_adjusted_r2

COMPARISONS = ["whitened", "plain", "without_condition_effects"]


def literal(subjects):
    """Both bounds as a loop over subjects and places."""
    n_subjects, n_places, _ = subjects.shape
    lower, upper = np.zeros(n_places), np.zeros(n_places)
    for place in range(n_places):
        rdms = subjects[:, place]
        lower[place] = np.mean(
            [spearmanr(rdms[s], np.delete(rdms, s, axis=0).mean(axis=0))[0] for s in range(n_subjects)]
        )
        upper[place] = np.mean([spearmanr(rdm, rdms.mean(axis=0))[0] for rdm in rdms])
    return lower, upper


@pytest.mark.parametrize("steps", [2**30, 8], ids=["distinct", "tied"])
def test_equals_scipy_loop(rng, steps):
    # Multiples of a power of two have exact means over 4 and equal ones over 5 subjects, so ties stay ties.
    subjects = np.round(steps * (rng.random((5, 6, 45)) + rng.random((1, 6, 45)))) / steps
    for ours, theirs in zip(noise_ceiling(subjects), literal(subjects), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_equals_published(published_sample, published_outputs):
    from utils.rdm import condense

    rdms = condense(np.load(published_sample / "sl_rad=1__max_blk_edge=2" / "all_sub_slrdms.npy"))
    np.testing.assert_allclose(noise_ceiling(rdms), published_outputs["noise_ceiling"], rtol=0, atol=1e-8)


VALUES = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails": lambda rng, shape: rng.standard_cauchy(shape) ** 3,
    "tiny differences and one outlier": lambda rng, shape: np.where(
        np.arange(shape[-1]) == 7, -1e9, 1 + np.round(rng.random(shape) * 2**20) * 2**-45
    ),
    "zeros of both signs": lambda rng, shape: rng.integers(-2, 3, shape) * rng.choice([-0.0, 0.0, 0.5], shape),
    "huge and tiny": lambda rng, shape: rng.choice([-1.0, 1.0], shape) * 2.0 ** rng.integers(-1000, 1000, shape),
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_ranks_equal_those_of_scipy(rng, values):
    """The RDM itself, its negative, and values of many magnitudes: each against the sum of the two others."""
    subjects = values(rng, (3, 4, 190))
    total = subjects.sum(axis=0)
    expected = [
        np.mean([spearmanr(rdm, reference)[0] for rdm, reference in zip(subjects[:, place], others, strict=True)])
        for place in range(4)
        for others in [total[place] - subjects[:, place]]
    ]
    np.testing.assert_allclose(noise_ceiling(subjects)[0], expected, atol=1e-12)


def test_does_not_depend_on_blocks_and_threads(rng, monkeypatch):
    subjects = rng.random((3, 40, 45))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole = noise_ceiling(subjects)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert np.array_equal(whole, noise_ceiling(subjects))
    monkeypatch.setattr("utils.stats.noise_ceiling._CHUNK_BYTES", 8 * 3 * 45 * 2)
    steps = []
    assert np.array_equal(whole, noise_ceiling(subjects, lambda done, total: steps.append((done, total))))
    assert steps == [(done, 40) for done in range(2, 41, 2)]


@pytest.mark.parametrize("dtype", [np.float32, ">f8", np.int16], ids=str)
def test_reads_any_kind_of_number(rng, dtype):
    subjects = np.round(1000 * rng.random((3, 5, 45))).astype(dtype)
    expected = noise_ceiling(subjects.astype(np.float64))
    assert np.array_equal(noise_ceiling(subjects), expected)
    assert np.array_equal(noise_ceiling(np.asfortranarray(subjects)), expected)


def test_constant_rdm_has_no_ceiling(rng):
    subjects = rng.random((3, 2, 45))
    subjects[1, 0] = 1.0
    lower, upper = noise_ceiling(subjects)
    assert np.isnan(lower[0])
    assert np.isnan(upper[0])
    assert np.isfinite(lower[1])


def test_nan_has_no_ceiling(rng):
    subjects = rng.random((3, 2, 45))
    subjects[1, 0, 3] = np.nan
    assert np.isnan(noise_ceiling(subjects)).tolist() == [[True, False], [True, False]]


def test_one_subject_has_no_ceiling(rng):
    with pytest.raises(ValueError, match="at least 2 subjects, got 1"):
        noise_ceiling(rng.random((1, 4, 45)))


def test_r2_of_a_negative_ceiling_is_zero():
    assert np.array_equal(ceiling_as_r2(np.array([-0.5, 0.5])), [0.0, 0.25])


def alike(rng, n_subjects=5, n_places=4, n=12, noise=0.5):
    """RDMs (n_subjects, n_places, n_pairs) of subjects with something in common, and what they have in common."""
    common = gain_rdms(rng, n_places, n)
    own = gain_rdms(rng, n_subjects * n_places, n, spread=0.3).reshape(n_subjects, n_places, -1)
    return common + noise * own, common


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_reliability_is_that_of_an_analysis_of_variance(rng, comparison):
    subjects, models = alike(rng)
    ours = reliability(subjects, comparison)
    for place in range(4):
        d = compared(subjects[:, place], comparison)
        n_subjects, n_pairs = d.shape
        of_pairs, of_subjects = d.mean(axis=0) - d.mean(), d.mean(axis=1) - d.mean()
        rest = d - d.mean() - of_pairs - of_subjects[:, None]
        ms_pairs = n_subjects * np.sum(of_pairs**2) / (n_pairs - 1)
        ms_error = np.sum(rest**2) / (n_pairs - 1) / (n_subjects - 1)
        assert ours[place] == pytest.approx(1 - ms_error / ms_pairs, abs=1e-12)
    basis = orthonormal_basis([compared(models[:2], comparison)])
    sampled = Jackknife(basis, own_adjusted_r2(basis), comparison)(subjects.mean(axis=0), subjects)
    np.testing.assert_allclose(ours, sampled.reliability, atol=1e-12)


@pytest.mark.parametrize("comparison", COMPARISONS)
@pytest.mark.parametrize("n_predictors", [1, 2, 4, 5, 9])
def test_ceilings_of_single_subjects_equal_a_loop(rng, comparison, n_predictors):
    subjects, _ = alike(rng)
    lower, upper = single_subject_ceilings(subjects, n_predictors, comparison)
    for place in range(4):
        d = compared(subjects[:, place], comparison)
        z = (d - d.mean(axis=1, keepdims=True)) / d.std(axis=1, keepdims=True)
        r2 = [np.corrcoef(d[s], np.delete(z, s, axis=0).mean(axis=0))[0, 1] ** 2 for s in range(5)]
        expected = np.mean([1 - (1 - v) * (d.shape[1] - 1) / (d.shape[1] - 2) for v in r2])
        assert lower[place] == pytest.approx(expected, abs=1e-12)
        components = np.linalg.svd(z, full_matrices=False)[2][:n_predictors]
        best = np.mean([np.sum((components @ row) ** 2) / (row @ row) for row in z])
        assert upper[place] == pytest.approx(best, abs=1e-12)
        assert n_predictors < 5 or upper[place] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("n_predictors", [1, 3])
def test_a_perfect_model_never_exceeds_the_upper_ceiling_of_single_subjects(rng, n_predictors):
    """The RDM that all subjects share, and unrelated ones: R2 without adjustment, which is larger than with it."""
    for _ in range(50):
        subjects, common = alike(rng, n_subjects=8, n_places=1, n=20, noise=1.0)
        model = np.vstack([common, *gain_rdms(rng, 2, 20)])[:n_predictors]
        q = np.linalg.qr((model - model.mean(axis=1, keepdims=True)).T)[0]
        centred = subjects[:, 0] - subjects[:, 0].mean(axis=1, keepdims=True)
        r2 = np.mean(np.sum((centred @ q) ** 2, axis=1) / np.sum(centred**2, axis=1))
        lower, upper = single_subject_ceilings(subjects, n_predictors, "plain")
        assert lower[0] < upper[0]
        assert r2 <= upper[0]


def test_reliability_and_ceilings_do_not_depend_on_blocks_and_precision(rng, monkeypatch):
    subjects = alike(rng, n_places=9)[0].astype(np.float32)
    whole = reliability(subjects, "whitened"), *single_subject_ceilings(subjects, 2, "whitened")
    monkeypatch.setattr("utils.stats.noise_ceiling._CHUNK_BYTES", 8 * 5 * 66 * 2)
    precise = subjects.astype(np.float64)
    again = reliability(precise, "whitened"), *single_subject_ceilings(precise, 2, "whitened")
    np.testing.assert_allclose(again, whole, atol=1e-12)


def test_one_subject_has_no_reliability_and_no_ceilings_in_r2(rng):
    alone = rng.random((1, 3, 45))
    assert np.isnan(reliability(alone, "whitened")).all()
    assert np.isnan(single_subject_ceilings(alone, 1, "whitened")).all()


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_constant_rdm_and_nan_have_no_ceilings_in_r2(rng, comparison):
    subjects = rng.random((3, 3, 45))
    subjects[1, 0] = 0.1
    subjects[2, 2, 7] = np.nan
    for bound in single_subject_ceilings(subjects, 1, comparison):
        assert np.isnan(bound).tolist() == [True, False, True]
    assert np.isnan(reliability(subjects, comparison)).tolist() == [False, False, True]
