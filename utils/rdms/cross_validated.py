"""RDMs from responses in several runs: distances between runs, whose noise is independent, are not biased by it.

The distance of a pattern to another within one run grows with the noise of both. Products of differences from
different runs have the true squared distance as their expectation, so that 0 means that there is no difference, and
estimates may be negative (Walther et al. 2016, NeuroImage 137:188; Diedrichsen & Kriegeskorte 2017, PLOS Comput Biol
13:e1005508).
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from types import ModuleType
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
    if metric == "cross-validated-correlation":
        rows, columns = np.triu_indices(n_conditions, k=1)
        return _correlations(values - values.mean(axis=1, keepdims=True), present)[:, rows, columns]
    if residuals is not None:
        whole = np.arange(n_voxels)[None]
        found = [
            noise_normalised_rdms(own, present, noise, dof, whole) for own, noise in zip(values, residuals, strict=True)
        ]
        return np.concatenate(found)
    if present.all():
        distances = _compiled().distances(_products_between_runs(values) / (n_runs * (n_runs - 1)))
    else:
        distances = _between_common_runs(values, present)
    return distances / n_voxels


def noise_normalised_rdms(
    values: NDArray, present: NDArray[np.bool_], residuals: NDArray, dof: float, members: NDArray[np.integer]
) -> NDArray:
    """Crossnobis RDMs of locations that overlap: the products of the residuals of two voxels are computed once for all.

    Parameters
    ----------
    values : ndarray, shape (n_voxels, n_runs, n_conditions)
        Responses of all voxels of the locations, as from `prepare`.
    present : ndarray of bool, shape (n_runs, n_conditions)
        Where there are responses.
    residuals : ndarray of the same dtype, shape (n_voxels, n_residuals)
        Noise of the voxels, centred.
    dof : float
        See `shrunk_covariance`.
    members : ndarray of int, shape (n, any)
        Voxels of each location; -1 is none.

    Returns
    -------
    ndarray of the same dtype, shape (n, n_pairs)
        As from `cross_validated_rdms`.
    """
    places = [row[row >= 0] for row in members]
    inside = np.zeros((len(places), len(values)), dtype=residuals.dtype)
    for row, own in zip(inside, places, strict=True):
        row[own] = 1
    lengths = inside @ np.square(residuals)  # squared, of each residual volume within each location
    products = residuals @ residuals.T
    rdms = np.empty((len(places), n_pairs_of(values.shape[2])), dtype=values.dtype)
    for rdm, own, fourth in zip(rdms, places, np.square(lengths).mean(axis=1).tolist(), strict=True):
        white = values[own]
        _whiten(white, _compiled().shrunk(products, own, fourth, residuals.shape[1], float(dof)))
        rdm[:] = cross_validated_rdms(white[None], present, "crossnobis")[0]
    return rdms


def _whiten(values: NDArray, covariance: NDArray) -> None:
    """Bring responses (n_voxels, ...) into units of noise: their products are then those under its inverse covariance.

    Of the covariance, the lower triangle is read, and overwritten.
    """
    size, count = (ctypes.byref(ctypes.c_int(n)) for n in (len(values), values[0].size))
    number, info = ctypes.c_float if values.dtype == np.float32 else ctypes.c_double, ctypes.c_int()
    factorise, solve = _routines(values.dtype.char)
    # For LAPACK and BLAS, whose matrices go by columns, both are transposed: an upper factor takes the place of the
    # covariance, and values := values times its inverse.
    factorise(b"U", size, covariance.ctypes.data, size, ctypes.byref(info))
    if info.value:
        raise np.linalg.LinAlgError("the covariance of the noise is not positive definite")
    one, data = ctypes.byref(number(1)), values.ctypes.data
    solve(b"R", b"U", b"N", b"N", count, size, one, covariance.ctypes.data, size, data, count)


@lru_cache
def _compiled() -> ModuleType:
    """Loops that numba compiles: loaded when they are used, which the command line need not wait for."""
    from utils.rdms import cross_validated_loops

    return cross_validated_loops


@lru_cache
def _routines(kind: str) -> tuple[Any, Any]:
    """POTRF of LAPACK and TRSM of BLAS without the lock of the interpreter, which scipy keeps: threads would wait."""
    from numba.extending import get_cython_function_address

    letter = {"f": "s", "d": "d"}[kind]
    factorise = get_cython_function_address("scipy.linalg.cython_lapack", f"{letter}potrf")
    solve = get_cython_function_address("scipy.linalg.cython_blas", f"{letter}trsm")
    return (
        ctypes.CFUNCTYPE(None, ctypes.c_char_p, *[ctypes.c_void_p] * 4)(factorise),
        ctypes.CFUNCTYPE(None, *[ctypes.c_char_p] * 4, *[ctypes.c_void_p] * 7)(solve),
    )


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
    fourth = float(np.square(np.einsum("vt,vt->t", residuals, residuals)).mean())
    lower = np.tril(_compiled().shrunk(residuals @ residuals.T, np.arange(n_voxels), fourth, n_residuals, float(dof)))
    return np.asarray(lower + np.tril(lower, -1).T)


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
    total = _compiled().sum_over_runs(values)
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
            total += np.where(both, _compiled().distances(values[:, :, r].swapaxes(1, 2) @ values[:, :, s]), 0)
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
