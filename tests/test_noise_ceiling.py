import numpy as np
import pytest
from scipy.stats import spearmanr

from utils.noise_ceiling import ceiling_as_r2, noise_ceiling


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
    np.testing.assert_allclose(noise_ceiling(rdms), published_outputs["noise_ceiling"], atol=1e-8)


def test_does_not_depend_on_blocks(rng, monkeypatch):
    subjects = rng.random((3, 11, 45))
    whole = noise_ceiling(subjects)
    monkeypatch.setattr("utils.noise_ceiling._CHUNK_BYTES", 8 * 3 * 45 * 2)
    assert np.array_equal(whole, noise_ceiling(subjects))


def test_constant_rdm_has_no_ceiling(rng):
    subjects = rng.random((3, 2, 45))
    subjects[1, 0] = 1.0
    lower, upper = noise_ceiling(subjects)
    assert np.isnan(lower[0])
    assert np.isnan(upper[0])
    assert np.isfinite(lower[1])


def test_one_subject_has_no_ceiling(rng):
    with pytest.raises(ValueError, match="at least 2 subjects, got 1"):
        noise_ceiling(rng.random((1, 4, 45)))


def test_r2_of_a_negative_ceiling_is_zero():
    assert np.array_equal(ceiling_as_r2(np.array([-0.5, 0.5])), [0.0, 0.25])
