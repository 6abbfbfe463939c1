"""Regions of interest (ROIs): RDMs from beta maps and an atlas of integer labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils import InputError
from utils.rdm import correlation_rdm, n_pairs_of
from utils.searchlight import usable_voxels

MIN_VOXELS = 2  # Pearson's r is +1 or -1 for two voxels, and does not exist for one


def roi_rdms(
    betas: ArrayLike, atlas: ArrayLike, ids: Sequence[int], names: Sequence[str] | None = None
) -> NDArray[np.float64]:
    """RDM of every ROI: 1 - Pearson correlation of its voxel patterns, for all pairs of conditions.

    Voxels that are constant over conditions or not finite in one of them are left out.

    Parameters
    ----------
    betas : array_like, shape (n_conditions, X, Y, Z)
        Response of every voxel to every condition.
    atlas : array_like of int, shape (X, Y, Z)
        Label of every voxel, 0 outside all ROIs.
    ids : sequence of int
        Labels of the wanted ROIs.
    names : sequence of str, optional
        Their names, for messages.

    Returns
    -------
    ndarray of float64, shape (len(ids), n_pairs)
        Condensed RDMs.

    Raises
    ------
    InputError
        If the arrays do not fit together, an ROI has fewer than two usable voxels, or a condition's pattern in it is
        constant.
    """
    betas, atlas = np.asarray(betas), np.asarray(atlas)
    if betas.ndim != 4 or betas.shape[0] < 2:
        raise InputError(
            f"beta maps: expected shape (conditions, X, Y, Z) with 2 conditions or more, found {betas.shape}"
        )
    if atlas.shape != betas.shape[1:]:
        raise InputError(
            f"atlas of shape {atlas.shape} is not on the grid of the beta maps {betas.shape[1:]}; resample it"
        )
    titles = [f"ROI {roi}" if names is None else f"ROI {names[i]} (label {roi})" for i, roi in enumerate(ids)]
    flat, labels = betas.reshape(len(betas), -1), atlas.reshape(-1)
    rdms = np.empty((len(ids), n_pairs_of(len(betas))))
    for i, roi in enumerate(ids):
        rdms[i] = _roi_rdm(flat[:, labels == roi], titles[i])
    return rdms


def _roi_rdm(patterns: NDArray, title: str) -> NDArray[np.float64]:
    """Condensed RDM of `patterns` (n_conditions, n_voxels)."""
    n_voxels = patterns.shape[1]
    if n_voxels == 0:
        raise InputError(f"{title}: the atlas has no voxel with that label; check the label, or leave the ROI out")
    usable = usable_voxels(patterns)
    if usable.sum() < MIN_VOXELS:
        raise InputError(
            f"{title}: {usable.sum()} of its {n_voxels} voxel(s) are usable (finite, not the same in all conditions), "
            f"expected {MIN_VOXELS} or more; leave the ROI out, or check that the beta maps cover it"
        )
    rdm = correlation_rdm(patterns[:, usable])
    if not np.isfinite(rdm).all():
        raise InputError(
            f"{title}: a condition has the same value in all {usable.sum()} usable voxels; leave the ROI out"
        )
    return rdm
