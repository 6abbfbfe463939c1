"""Loops of `utils.rdms.cross_validated` that numba compiles, without the lock of the interpreter."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)
def distances(square: NDArray) -> NDArray:
    """Squared differences of conditions, (n, n_pairs), from the products of all conditions."""
    n, n_conditions, _ = square.shape
    found = np.empty((n, n_conditions * (n_conditions - 1) // 2), square.dtype)
    for location in range(n):
        pair, own = 0, square[location]
        for i in range(n_conditions):
            for j in range(i + 1, n_conditions):
                found[location, pair] = own[i, i] + own[j, j] - own[i, j] - own[j, i]
                pair += 1
    return found


@numba.njit(cache=True, nogil=True)
def shrunk(products: NDArray, voxels: NDArray, fourth: float, n_residuals: int, dof: float) -> NDArray:
    """Lower triangle of the shrunk covariance of some voxels, from the products of the residuals of more.

    `fourth` is the mean over residual volumes of the squared sum of squares over these voxels. What is above the
    diagonal is not set.
    """
    n = len(voxels)
    covariance = np.empty((n, n), products.dtype)
    trace, squared = 0.0, 0.0
    for i in range(n):
        row = products[voxels[i]]
        for j in range(i + 1):
            value = row[voxels[j]]
            covariance[i, j] = value
            squared += 2 * value * value
        trace += value
        squared -= value * value
    mean, squared = trace / (n * n_residuals), squared / n_residuals**2
    spread = squared - n * mean * mean
    share = min(max((fourth - squared) / n_residuals, 0.0) / spread, 1.0) if spread > 0 else 1.0
    for i in range(n):
        covariance[i, : i + 1] *= (1 - share) / dof
        covariance[i, i] += share * mean * n_residuals / dof
    return covariance


@numba.njit(cache=True, nogil=True)
def sum_over_runs(values: NDArray) -> NDArray:
    """Sum of responses, (n, n_voxels, n_conditions): numpy takes several times as long for a middle axis."""
    total = values[:, :, 0].copy()
    for location in range(len(values)):
        for voxel in range(values.shape[1]):
            for run in range(1, values.shape[2]):
                for condition in range(values.shape[3]):
                    total[location, voxel, condition] += values[location, voxel, run, condition]
    return total
