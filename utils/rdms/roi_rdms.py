"""RDMs of regions of interest."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils import InputError
from utils.rdm import expand, n_pairs_of, pattern_rdms
from utils.rdms.searchlights import MIN_VOXELS, usable_voxels

if TYPE_CHECKING:
    from utils.rdms.atlas import Atlas
    from utils.rdms.betas import Betas, Subject


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
        rdms[i] = roi_rdm(flat[:, labels == roi], titles[i])
    return rdms


def roi_rdm(patterns: NDArray, title: str, metric: str = "correlation", center: bool = False) -> NDArray[np.float64]:
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
    rdm: NDArray[np.float64] = pattern_rdms(patterns[:, usable].astype(np.float64), metric, center=center)
    if not np.isfinite(rdm).all():
        raise InputError(
            f"{title}: a condition has the same value in all {usable.sum()} usable voxels; leave the ROI out"
        )
    return rdm


FOLDER = "roi_rdms"
# An RDM of so few voxels is worth a warning: it is noise for the most part.
_FEW_VOXELS = 10


def subject_rdms(
    betas: Betas,
    atlas: Atlas,
    inside: NDArray[np.bool_] | None = None,
    *,
    metric: str = "correlation",
    center: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, NDArray[np.float32]], list[dict[str, Any]]]:
    """RDMs of all ROIs and subjects. An ROI that a subject has no RDM of is left out, with a warning that names both.

    Parameters
    ----------
    betas : Betas
    atlas : Atlas
        On the grid of the beta maps.
    inside : ndarray of bool, shape (X, Y, Z), optional
        Brain mask: voxels outside do not count.
    metric : str
        One of `utils.rdm.METRICS`.
    center : bool
        Subtract the mean over conditions from every voxel first.
    progress : callable, optional
        Called with (subjects done, subjects in all).

    Returns
    -------
    rdms : dict of str to ndarray of float32, shape (n_subjects, n_conditions, n_conditions)
        Per ROI.
    counts : list of dict
        One per ROI and subject: roi, subject, voxels, usable.

    Raises
    ------
    InputError
        If no ROI is left, or beta maps cannot be read.
    """
    labels = np.where(True if inside is None else inside, atlas.labels, 0).reshape(-1)
    voxels = np.flatnonzero(np.isin(labels, list(atlas.names)))
    present = {number: name for number, name in atlas.names.items() if (labels == number).any()}
    for number, name in atlas.names.items():
        if number not in present:
            _warn_of_empty(number, name, atlas, inside is not None)
    rdms: dict[str, list[NDArray]] = {name: [] for name in present.values()}
    counts: list[dict[str, Any]] = []
    for done, subject in enumerate(betas.subjects, start=1):
        patterns = betas.load(subject, voxels).T
        for number, name in present.items():
            own = patterns[:, labels[voxels] == number]
            usable = int(usable_voxels(own).sum())
            counts.append({"roi": name, "subject": subject.name, "voxels": own.shape[1], "usable": usable})
            if name in rdms:
                _add_subject(rdms, own, number, name, subject, metric, center)
        if progress is not None:
            progress(done, len(betas.subjects))
    if not rdms:
        raise InputError(
            f"{atlas.source}: none of its {len(atlas.names)} ROI(s) has an RDM in every subject; check that the atlas, "
            "the mask and the beta maps are in the same space"
        )
    _warn_of_few(rdms, counts)
    return {name: expand(np.stack(stack)).astype(np.float32) for name, stack in rdms.items()}, counts


def _add_subject(
    rdms: dict[str, list[NDArray]], own: NDArray, number: int, name: str, subject: Subject, metric: str, center: bool
) -> None:
    """Add the RDM of one subject, or take the ROI out."""
    try:
        rdms[name].append(roi_rdm(own, f"ROI {name} (label {number})", metric, center))
    except InputError as error:
        del rdms[name]
        finding = str(error).removesuffix("; leave the ROI out").split("; ")[0]
        warnings.warn(f"{finding} in subject {subject.name}: the ROI is left out", stacklevel=2)


def _warn_of_empty(number: int, name: str, atlas: Atlas, masked: bool) -> None:
    where = "on the grid of the beta maps"
    if masked and (atlas.labels == number).any():
        where = "inside the mask"
    warnings.warn(
        f"{atlas.source}: ROI {name} (label {number}) has no voxel {where}: the ROI is left out", stacklevel=2
    )


def _warn_of_few(rdms: dict[str, list[NDArray]], counts: Sequence[dict[str, Any]]) -> None:
    few = [row for row in counts if row["roi"] in rdms and row["usable"] < _FEW_VOXELS]
    if few:
        least = min(few, key=lambda row: row["usable"])
        names = ", ".join(dict.fromkeys(row["roi"] for row in few))
        warnings.warn(
            f"fewer than {_FEW_VOXELS} usable voxels in ROI(s) {names} (fewest: {least['usable']} in {least['roi']} of "
            f"{least['subject']}): such RDMs are mostly noise",
            stacklevel=2,
        )
