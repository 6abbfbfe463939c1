import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from utils.rdm import (
    condense,
    correlation_rdm,
    expand,
    is_constant,
    is_similarity,
    n_conditions_of,
    n_pairs_of,
    pair_permutation,
    pattern_rdms,
)


def test_condense_is_the_order_of_scipy(rng):
    vector = rng.random(45)
    assert np.array_equal(condense(squareform(vector)), vector)
    assert np.array_equal(expand(vector), squareform(vector))


def test_condense_keeps_leading_dimensions_and_dtype(rng):
    rdms = rng.random((2, 3, 5, 5)).astype(np.float32)
    assert condense(rdms).shape == (2, 3, 10)
    assert condense(rdms).dtype == np.float32
    assert condense(rdms)[1, 2, 0] == rdms[1, 2, 0, 1]


def test_condense_refuses_what_is_not_square():
    with pytest.raises(ValueError, match=r"square RDMs.*\(3, 4\)"):
        condense(np.zeros((3, 4)))


@pytest.mark.parametrize("n", [2, 3, 50, 515])
def test_sizes_are_inverse(n):
    assert n_conditions_of(n_pairs_of(n)) == n


@pytest.mark.parametrize("n_pairs", [0, 2, 7, 1226])
def test_impossible_sizes_are_refused(n_pairs):
    with pytest.raises(ValueError, match=f"{n_pairs} entries"):
        n_conditions_of(n_pairs)


def test_correlation_rdm_equals_scipy(rng):
    patterns = rng.standard_normal((4, 12, 7))
    expected = np.stack([pdist(pattern, "correlation") for pattern in patterns])
    np.testing.assert_allclose(correlation_rdm(patterns), expected, atol=1e-12)


def test_correlation_rdm_of_a_constant_pattern_is_nan(rng):
    patterns = rng.standard_normal((5, 7))
    patterns[2] = 3.3
    rdm = expand(correlation_rdm(patterns))
    assert np.isnan(rdm[2, [0, 1, 3, 4]]).all()
    assert np.isfinite(rdm[0, 1])


def test_pair_permutation_is_what_permuting_rows_and_columns_does(rng):
    rdm = squareform(rng.random(45))
    order = rng.permutation(10)
    assert np.array_equal(condense(rdm)[pair_permutation(order)], condense(rdm[order][:, order]))


@pytest.mark.parametrize("metric", ["correlation", "cosine", "euclidean", "sqeuclidean"])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_metrics_equal_scipy(rng, metric, center, library):
    import torch

    patterns = rng.standard_normal((3, 9, 14)) + 2
    shifted = patterns - patterns.mean(axis=1, keepdims=True) if center else patterns
    expected = np.stack([pdist(pattern, metric) for pattern in shifted])
    given = torch.from_numpy(patterns) if library == "torch" else patterns
    np.testing.assert_allclose(np.asarray(pattern_rdms(given, metric, center=center)), expected, atol=1e-12)
    single = given.float() if library == "torch" else given.astype(np.float32)
    rdms = pattern_rdms(single, metric, center=center)
    assert str(rdms.dtype).endswith("float32")
    np.testing.assert_allclose(np.asarray(rdms), expected, rtol=1e-4, atol=1e-5)


def test_single_precision_tells_a_constant_pattern(rng):
    import torch

    patterns = torch.from_numpy(rng.standard_normal((4, 1000))).float()
    patterns[1] = 0.1
    rdm = expand(np.asarray(pattern_rdms(patterns)))
    assert np.isnan(rdm[1, [0, 2, 3]]).all()
    assert np.isfinite(rdm[0, [2, 3]]).all()


def test_unknown_metric_is_answered_with_those_there_are(rng):
    with pytest.raises(ValueError, match=r"unknown metric 'manhattan'; there are correlation, cosine, euclidean"):
        pattern_rdms(rng.random((3, 4)), "manhattan")


@pytest.mark.parametrize("metric", ["correlation", "cosine"])
def test_patterns_of_one_direction_have_no_distance(rng, metric):
    low = 500 + 5 * rng.standard_normal((12, 1))
    patterns = np.hstack([low, 1.8 * low]) if metric == "cosine" else np.hstack([low, low + rng.uniform(1, 9, (12, 1))])
    assert (pattern_rdms(patterns, metric) == 0).all()
    torch = pytest.importorskip("torch")
    assert (pattern_rdms(torch.tensor(patterns), metric) == 0).all()


def test_what_counts_as_constant(rng):
    noise = rng.standard_normal((3, 66))
    for size in (1e-9, 1.0, 1e12):  # whatever the unit
        rdms = size * np.stack([1 + 1e-15 * noise[0], 1 + 1e-9 * noise[1], noise[2]])
        assert is_constant(rdms).tolist() == [True, False, False]
    assert is_constant(np.zeros((1, 66))).all()


def test_what_counts_as_a_similarity(rng):
    r = np.corrcoef(rng.standard_normal((12, 30)))
    for matrix, expected in ((r, True), (1 - r, False), (np.where(np.eye(12) > 0, 0, -(r**2)), False)):
        assert bool(is_similarity(condense(matrix), matrix.diagonal())) is expected
