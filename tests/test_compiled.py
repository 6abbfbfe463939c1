"""Compiled loops against numpy; the loops as a whole are tested with the modules that use them."""

import numpy as np
import pytest
from helpers import N_CONDITIONS, N_PAIRS

from utils.datasets.searchlights import upper_triangles
from utils.rdm import condense
from utils.stats.refits import condition_subsets, deviations, kept_sums, orthonormal_axes


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ">f8", np.int32], ids=str)
def test_upper_triangles(rng, dtype):
    square = (100 * rng.random((3, 20, 7, 7))).astype(dtype)
    assert np.array_equal(upper_triangles(square[:, 2:19]), condense(square[:, 2:19]))


@pytest.mark.parametrize("n_left_out", [0, 1, 5])
def test_sums_over_kept_pairs_equal_those_of_a_mask(rng, n_left_out):
    values = rng.standard_normal((N_PAIRS, 3))
    keep = condition_subsets(N_CONDITIONS, N_CONDITIONS - n_left_out, 6, seed=2)
    left_out = np.array([np.flatnonzero(~row) for row in keep])
    expected = [values[condense(np.outer(row, row))].sum(axis=0) for row in keep]
    np.testing.assert_allclose(kept_sums(values, left_out), expected, atol=1e-12)


def test_axes_are_orthonormal_and_leave_out_dependent_predictors(rng):
    vectors = rng.standard_normal((4, 30, 5))
    vectors[1, :, 3] = vectors[1, :, 0] - 2 * vectors[1, :, 2]
    vectors[2, :, 0] = 0
    vectors[3, :, 1:3] = vectors[3, :, :1]
    rows, columns = np.triu_indices(5)
    products = np.einsum("bnk,bnk->bk", vectors[:, :, rows], vectors[:, :, columns])
    axes, found = np.empty((4, 5, 5)), np.empty((4, 5), dtype=bool)
    orthonormal_axes(products, np.eye(5), 1e-10, axes, found)
    assert (~found).nonzero()[0].tolist() == [1, 2, 3, 3]
    assert (~found).nonzero()[1].tolist() == [3, 0, 1, 2]
    units = vectors @ axes.transpose(0, 2, 1)
    np.testing.assert_allclose(
        units.transpose(0, 2, 1) @ units, [np.diag(row.astype(float)) for row in found], atol=1e-9
    )
    for b in range(4):
        left = vectors[b] - units[b] @ (units[b].T @ vectors[b])
        np.testing.assert_allclose(left, 0, atol=1e-9)


@pytest.mark.parametrize("n_places", [1, 70])
def test_deviations_of_contrasts(rng, n_places):
    values = 1e3 + rng.standard_normal((11, 3, n_places))
    contrasts = np.array([[1.0, 0, 0], [0, 1, -1], [0.5, 0, 2]])
    ours = np.empty((3, n_places))
    deviations(values, contrasts, ours, 0, n_places)
    expected = np.einsum("ci,bip->bcp", contrasts, values).std(axis=0, ddof=1)
    np.testing.assert_allclose(ours, expected, rtol=1e-10)
