"""RDMs from responses in several runs: distances between runs, whose noise is independent, are not biased by it.

The distance of a pattern to another within one run grows with the noise of both. Products of differences from
different runs have the true squared distance as their expectation, so that 0 means that there is no difference, and
estimates may be negative (Walther et al. 2016, NeuroImage 137:188; Diedrichsen & Kriegeskorte 2017, PLOS Comput Biol
13:e1005508).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from utils.rdm import n_pairs_of

CROSS_VALIDATED = ("crossnobis", "cross-validated-correlation")
# Of the ordinary variance, so that denominators stay away from 0 (Guggenmos et al. 2018, NeuroImage 173:434).
_LEAST_VARIANCE = 0.1


def cross_validated_rdms(runs: NDArray, metric: str, residuals: NDArray | None = None, dof: float = 0) -> NDArray:
    """Cross-validated RDMs of a stack of locations.

    Parameters
    ----------
    runs : ndarray, shape (n, n_runs, n_conditions, n_voxels)
        Responses in each run; NaN in all voxels of all locations where a run has no response to a condition.
    metric : {"crossnobis", "cross-validated-correlation"}
        crossnobis: squared Mahalanobis distance, per voxel; squared Euclidean without `residuals`.
    residuals : ndarray, shape (n, n_residuals, n_voxels), optional
        Noise of the voxels, centred, for crossnobis: distances are in units of its covariance, estimated with the
        shrinkage of `shrunk_covariance`.
    dof : float
        Degrees of freedom of the residuals.

    Returns
    -------
    ndarray of the same dtype, shape (n, n_pairs)
        Condensed. NaN for pairs of conditions that fewer than two runs have.
    """
    n, n_runs, n_conditions, n_voxels = runs.shape
    present = np.isfinite(runs[0, :, :, 0]) if n else np.ones((n_runs, n_conditions), dtype=bool)
    rows, columns = np.triu_indices(n_conditions, k=1)
    if metric == "cross-validated-correlation":
        values = np.where(present[..., None], runs - runs.mean(axis=-1, keepdims=True), 0)
        return _correlations(values, present)[:, rows, columns]
    # A pattern that all conditions of a run have in common does not change distances, but costs digits.
    values = np.where(present[..., None], runs - np.nanmean(runs, axis=2, keepdims=True), 0)
    weighted = values
    if residuals is not None:
        precision = np.linalg.inv(shrunk_covariance(residuals, dof))
        flat = values.reshape(n, -1, n_voxels)
        weighted = (flat @ precision.astype(values.dtype)).reshape(values.shape)
    if present.all():
        square = _products_between_runs(weighted, values) / (n_runs * (n_runs - 1))
        own = np.diagonal(square, axis1=1, axis2=2)
        distances = own[:, rows] + own[:, columns] - square[:, rows, columns] - square[:, columns, rows]
    else:
        distances = _between_common_runs(weighted, values, present)
    return distances / n_voxels


def shrunk_covariance(residuals: NDArray, dof: float) -> NDArray:
    """Covariance of voxels, shrunk towards a multiple of the identity by the optimum of Ledoit & Wolf.

    Parameters
    ----------
    residuals : ndarray, shape (n, n_residuals, n_voxels)
        Centred.
    dof : float
        Degrees of freedom that they have.

    Returns
    -------
    ndarray of the same dtype, shape (n, n_voxels, n_voxels)

    References
    ----------
    Ledoit & Wolf 2004, J Multivar Anal 88:365; `shrinkage_eye` of rsatoolbox.
    """
    _, n_residuals, n_voxels = residuals.shape
    covariance = residuals.swapaxes(1, 2) @ residuals / n_residuals
    mean = np.trace(covariance, axis1=1, axis2=2)[:, None, None] / n_voxels
    squared = np.square(covariance).sum(axis=(1, 2), keepdims=True)
    fourth = np.square(np.square(residuals).sum(axis=2)).mean(axis=1)[:, None, None]
    spread = squared - n_voxels * np.square(mean)
    error = np.clip((fourth - squared) / n_residuals, 0, spread)
    share = np.divide(error, spread, out=np.ones_like(spread), where=spread > 0)
    shrunk: NDArray = ((1 - share) * covariance + share * mean * np.eye(n_voxels, dtype=covariance.dtype)) * (
        n_residuals / dof
    )
    return shrunk


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


def _products_between_runs(weighted: NDArray, values: NDArray) -> NDArray:
    """Sum, over ordered pairs of different runs, of the products of all conditions, (n, n_conditions, n_conditions)."""
    n, _, n_conditions, _ = values.shape
    within = (array.swapaxes(1, 2).reshape(n, n_conditions, -1) for array in (weighted, values))
    first, second = within
    everything = weighted.sum(axis=1) @ values.sum(axis=1).swapaxes(1, 2)
    return np.asarray(everything - first @ second.swapaxes(1, 2))


def _between_common_runs(weighted: NDArray, values: NDArray, present: NDArray[np.bool_]) -> NDArray:
    """Mean products of differences, each over the pairs of runs that have both conditions, (n, n_pairs)."""
    n, n_runs, n_conditions, _ = values.shape
    rows, columns = np.triu_indices(n_conditions, k=1)
    total, count = np.zeros((n, n_pairs_of(n_conditions)), dtype=values.dtype), np.zeros(n_pairs_of(n_conditions))
    for r in range(n_runs):
        for s in range(r + 1, n_runs):
            both = present[r, rows] & present[r, columns] & present[s, rows] & present[s, columns]
            square = weighted[:, r] @ values[:, s].swapaxes(1, 2)
            own = np.diagonal(square, axis1=1, axis2=2)
            product = own[:, rows] + own[:, columns] - square[:, rows, columns] - square[:, columns, rows]
            total += np.where(both, product, 0)
            count += both
    return np.asarray(total / np.where(count > 0, count, np.nan).astype(values.dtype))


def _correlations(values: NDArray, present: NDArray[np.bool_]) -> NDArray:
    """1 - cross-validated correlation of all pairs of conditions, (n, n_conditions, n_conditions)."""
    there = present.astype(values.dtype)
    pairs = np.outer(there.sum(axis=0), there.sum(axis=0)) - there.T @ there
    covariance = _products_between_runs(values, values) / np.where(pairs > 0, pairs, np.nan)
    covariance = (covariance + covariance.swapaxes(1, 2)) / 2
    ordinary = np.square(values).sum(axis=(1, 3)) / there.sum(axis=0)
    variance = np.maximum(np.diagonal(covariance, axis1=1, axis2=2), _LEAST_VARIANCE * ordinary)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = covariance / np.sqrt(variance[:, :, None] * variance[:, None, :])
    return np.asarray(1 - np.clip(correlation, -1, 1))
