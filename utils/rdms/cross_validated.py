"""RDMs from responses in several runs: distances between runs, whose noise is independent, are not biased by it.

The distance of a pattern to another within one run grows with the noise of both. Products of differences from
different runs have the true squared distance as their expectation, so that 0 means that there is no difference, and
estimates may be negative (Walther et al. 2016, NeuroImage 137:188; Diedrichsen & Kriegeskorte 2017, PLOS Comput Biol
13:e1005508).
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.rdm import n_pairs_of

CROSS_VALIDATED = ("crossnobis", "cross-validated-correlation")
# Of the ordinary variance, so that denominators stay away from 0 (Guggenmos et al. 2018, NeuroImage 173:434).
_LEAST_VARIANCE = 0.1


def prepare(runs: NDArray, metric: str) -> tuple[NDArray, NDArray[np.bool_]]:
    """Responses as `cross_validated_rdms` takes them, whatever locations they are taken from later.

    Parameters
    ----------
    runs : ndarray, shape (n_voxels, n_runs, n_conditions)
        NaN in all voxels where a run has no response to a condition.
    metric : str
        One of `CROSS_VALIDATED`.

    Returns
    -------
    values : ndarray, shape (n_voxels, n_runs, n_conditions)
        0 where there is no response; for crossnobis without the mean over the conditions of each run, which does not
        change differences, but would cost digits.
    present : ndarray of bool, shape (n_runs, n_conditions)
        Where there are responses.
    """
    present = ~np.isnan(runs).all(axis=0)
    values = np.where(present, runs, 0)
    if metric == "crossnobis":
        values -= values.sum(axis=2, keepdims=True) / present.sum(axis=1)[:, None].astype(values.dtype)
        values[:, ~present] = 0
    return values, present


def cross_validated_rdms(
    values: NDArray, present: NDArray[np.bool_], metric: str, residuals: NDArray | None = None, dof: float = 0
) -> NDArray:
    """Cross-validated RDMs of a stack of locations.

    Parameters
    ----------
    values : ndarray, shape (n, n_voxels, n_runs, n_conditions)
        Responses, as from `prepare`.
    present : ndarray of bool, shape (n_runs, n_conditions)
        Where there are responses.
    metric : {"crossnobis", "cross-validated-correlation"}
        crossnobis: squared Mahalanobis distance, per voxel; squared Euclidean without `residuals`.
    residuals : ndarray, shape (n, n_voxels, n_residuals), optional
        Noise of the voxels, centred, for crossnobis: distances are in units of its covariance, estimated with the
        shrinkage of `shrunk_covariance`.
    dof : float
        Degrees of freedom of the residuals.

    Returns
    -------
    ndarray of the same dtype, shape (n, n_pairs)
        Condensed. NaN for pairs of conditions that fewer than two runs have.
    """
    _, n_voxels, n_runs, n_conditions = values.shape
    rows, columns = np.triu_indices(n_conditions, k=1)
    if metric == "cross-validated-correlation":
        return _correlations(values - values.mean(axis=1, keepdims=True), present)[:, rows, columns]
    if residuals is not None:
        values = np.stack([whitened(own, noise, dof) for own, noise in zip(values, residuals, strict=True)])
    if present.all():
        distances = _distances(_products_between_runs(values) / (n_runs * (n_runs - 1)))
    else:
        distances = _between_common_runs(values, present)
    return distances / n_voxels


def _distances(square: NDArray) -> NDArray:
    """Squared differences of conditions, (n, n_pairs), from the products of all conditions."""
    rows, columns = np.triu_indices(square.shape[1], k=1)
    own = np.diagonal(square, axis1=1, axis2=2)
    return np.asarray(own[:, rows] + own[:, columns] - square[:, rows, columns] - square[:, columns, rows])


def whitened(values: NDArray, residuals: NDArray, dof: float) -> NDArray:
    """Responses in units of the noise of all voxels: their products are those under the inverse of its covariance.

    Parameters
    ----------
    values : ndarray, shape (n_voxels, ...)
        Of one location.
    residuals : ndarray, shape (n_voxels, n_residuals)
    dof : float
        See `shrunk_covariance`.

    Returns
    -------
    ndarray of the same dtype and shape
    """
    factor, white = np.linalg.cholesky(shrunk_covariance(residuals, dof)), values.copy()
    size, count = (ctypes.byref(ctypes.c_int(n)) for n in (len(white), white[0].size))
    number = ctypes.c_float if white.dtype == np.float32 else ctypes.c_double
    # For BLAS, whose matrices go by columns, both are transposed: white := white times the inverse of an upper factor.
    _triangular_solver(white.dtype.char)(
        b"R", b"U", b"N", b"N", count, size, ctypes.byref(number(1)), factor.ctypes.data, size, white.ctypes.data, count
    )
    return white


@lru_cache
def _triangular_solver(kind: str) -> Any:
    """TRSM of BLAS without the lock of the interpreter, which scipy's own wrapper keeps: threads would wait."""
    from numba.extending import get_cython_function_address

    address = get_cython_function_address("scipy.linalg.cython_blas", {"f": "strsm", "d": "dtrsm"}[kind])
    return ctypes.CFUNCTYPE(None, *[ctypes.c_char_p] * 4, *[ctypes.c_void_p] * 7)(address)


def shrunk_covariance(residuals: NDArray, dof: float) -> NDArray:
    """Covariance of voxels, shrunk towards a multiple of the identity by the optimum of Ledoit & Wolf.

    Parameters
    ----------
    residuals : ndarray, shape (n_voxels, n_residuals)
        Centred.
    dof : float
        Degrees of freedom that they have.

    Returns
    -------
    ndarray of the same dtype, shape (n_voxels, n_voxels)

    References
    ----------
    Ledoit & Wolf 2004, J Multivar Anal 88:365; `shrinkage_eye` of rsatoolbox.
    """
    n_voxels, n_residuals = residuals.shape
    covariance = residuals @ residuals.T
    covariance /= n_residuals
    mean = np.trace(covariance) / n_voxels
    squared = np.vdot(covariance, covariance)
    fourth = np.square(np.einsum("vt,vt->t", residuals, residuals)).mean()
    spread = squared - n_voxels * mean**2
    share = min(max((fourth - squared) / n_residuals, 0) / spread, 1) if spread > 0 else 1
    scale = n_residuals / dof
    covariance *= (1 - share) * scale
    covariance.flat[:: n_voxels + 1] += share * mean * scale
    return covariance


def deviations(runs: NDArray) -> tuple[NDArray, int]:
    """What is left of responses without the effects of conditions and of runs: a noise that the runs themselves show.

    What all conditions of a run have in common does not change distances within it, so it is no noise of theirs.

    Parameters
    ----------
    runs : ndarray, shape (n_voxels, n_runs, n_conditions)
        NaN in all voxels where a run has no response to a condition.

    Returns
    -------
    residuals : ndarray, shape (n_voxels, n_responses)
        Of least squares.
    dof : int
        Number of responses less the rank of the effects.
    """
    _, n_runs, n_conditions = runs.shape
    present = ~np.isnan(runs).all(axis=0)
    run, condition = np.nonzero(present)
    design = np.hstack([np.eye(n_conditions)[condition], np.eye(n_runs)[run]])
    u, s, _ = np.linalg.svd(design, full_matrices=False)
    effects = u[:, s > 1e-10 * s[0]].astype(runs.dtype)
    responses = runs[:, present]
    return responses - (responses @ effects) @ effects.T, len(run) - effects.shape[1]


def _products_between_runs(values: NDArray) -> NDArray:
    """Sum, over ordered pairs of different runs, of the products of all conditions, (n, n_conditions, n_conditions)."""
    total = values.sum(axis=2)
    # Voxels and runs are summed over at once.
    all_runs = values.reshape(len(values), -1, values.shape[3])
    return np.asarray(total.swapaxes(1, 2) @ total - all_runs.swapaxes(1, 2) @ all_runs)


def _between_common_runs(values: NDArray, present: NDArray[np.bool_]) -> NDArray:
    """Mean products of differences, each over the pairs of runs that have both conditions, (n, n_pairs)."""
    n, _, n_runs, n_conditions = values.shape
    rows, columns = np.triu_indices(n_conditions, k=1)
    total, count = np.zeros((n, n_pairs_of(n_conditions)), dtype=values.dtype), np.zeros(n_pairs_of(n_conditions))
    for r in range(n_runs):
        for s in range(r + 1, n_runs):
            both = present[r, rows] & present[r, columns] & present[s, rows] & present[s, columns]
            total += np.where(both, _distances(values[:, :, r].swapaxes(1, 2) @ values[:, :, s]), 0)
            count += both
    return np.asarray(total / np.where(count > 0, count, np.nan).astype(values.dtype))


def _correlations(values: NDArray, present: NDArray[np.bool_]) -> NDArray:
    """1 - cross-validated correlation of all pairs of conditions, (n, n_conditions, n_conditions)."""
    there = present.astype(values.dtype)
    pairs = np.outer(there.sum(axis=0), there.sum(axis=0)) - there.T @ there
    covariance = _products_between_runs(values) / np.where(pairs > 0, pairs, np.nan)
    ordinary = np.einsum("nvrc,nvrc->nc", values, values) / there.sum(axis=0)
    variance = np.maximum(np.diagonal(covariance, axis1=1, axis2=2), _LEAST_VARIANCE * ordinary)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = covariance / np.sqrt(variance[:, :, None] * variance[:, None, :])
    return np.asarray(1 - np.clip(correlation, -1, 1))
