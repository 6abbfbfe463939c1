import numpy as np
import pytest
from scipy.stats import spearmanr

from utils.stats.noise_ceiling import ceiling_as_r2, noise_ceiling


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
