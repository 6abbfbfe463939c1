"""RDMs of regions of interest."""

from __future__ import annotations

import colorsys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.io.data_folder import RECORD, DataFolder, SurfaceFolder
from utils.io.output import staged, write_conditions, write_roi_table, write_rows, write_vertices, write_volume
from utils.io.provenance import fingerprint
from utils.parallel.resources import Progress, ignore
from utils.rdm import expand
from utils.rdms.atlas import Atlas
from utils.rdms.betas import Betas
from utils.rdms.measure import PEARSON, Measure, Responses
from utils.rdms.searchlights import MIN_VOXELS, usable_voxels
from utils.rdms.stimuli import few
from utils.rdms.surface_labels import SurfaceLabels
from utils.rdms.vertices import Meshes, keep_meshes

# An RDM of so few voxels is worth a warning: it is noise for the most part.
_FEW_VOXELS = 10


def roi_rdm(responses: Responses, title: str, measure: Measure = PEARSON) -> NDArray[np.float64]:
    """RDM of an ROI, computed in float64.

    Voxels that are constant over conditions or not finite in one of them are left out.

    Parameters
    ----------
    responses : Responses
    title : str
        Which ROI it is, for messages.
    measure : Measure
        How the RDM is made.

    Returns
    -------
    ndarray of float64, shape (n_pairs,)

    Raises
    ------
    InputError
        If fewer than two voxels are usable, or a condition's pattern over them is constant.
    """
    n_voxels = len(responses.patterns)
    if n_voxels == 0:
        raise InputError(f"{title}: the atlas has no voxel with that label; check the label, or leave the ROI out")
    usable = usable_voxels(responses.values.T)
    if usable.sum() < MIN_VOXELS:
        raise InputError(
            f"{title}: {usable.sum()} of its {n_voxels} voxel(s) are usable (finite, not the same in all conditions), "
            f"expected {MIN_VOXELS} or more; leave the ROI out, or check that the beta maps cover it"
        )
    rdm: NDArray[np.float64] = measure.rdms(responses[np.flatnonzero(usable)[None]].astype(np.float64))[0]
    if not np.isfinite(rdm).all():
        raise InputError(
            f"{title}: a condition has the same value in all {usable.sum()} usable voxels; leave the ROI out"
        )
    return rdm


def write_roi_rdms(
    betas: Betas,
    atlas: Atlas | SurfaceLabels,
    data: DataFolder,
    record: Callable[[Mapping[str, Any]], dict[str, Any]],
    rdms: Mapping[str, NDArray[np.float32]],
    counts: Sequence[Mapping[str, Any]],
    meshes: Meshes | None = None,
) -> list[Path]:
    """Write the RDMs of all ROIs, their names and their volume into a data folder.

    Parameters
    ----------
    betas : Betas
    atlas : Atlas or SurfaceLabels
    data : DataFolder
    record : callable
        Makes what run.json holds from a description of the data, as `utils.io.provenance.provenance` does.
    rdms, counts
        As from `subject_rdms`.
    meshes : Meshes, optional
        Of vertices, to be kept.

    Returns
    -------
    list of Path
        All files.

    Raises
    ------
    InputError
        If they cannot be written; the folder is as it was then.
    """

    def name(path: Path) -> str:
        return path.relative_to(data.root).as_posix()

    ids = {roi: number for number, roi in atlas.names.items() if roi in rdms}
    labels = np.where(np.isin(atlas.labels, list(ids.values())), atlas.labels, 0)
    described = {**betas.provenance(), "space": atlas.space, "fingerprint": fingerprint(atlas.labels, *rdms.values())}
    with staged(data.root, name(data.roi_rdms / RECORD)) as outputs:
        for roi, stack in rdms.items():
            np.save(outputs.path(name(data.roi_rdm(roi))), stack)
        write_rows(outputs.path(name(data.roi_rdms / "roi_voxels.tsv")), counts)
        write_roi_table(outputs.path(name(data.roi_labels)), {ids[roi]: roi for roi in rdms})
        if isinstance(atlas, SurfaceLabels):
            colors = roi_colors({ids[roi]: roi for roi in rdms})
            for side, half in atlas.vertices.split(labels).items():
                write_vertices(outputs.path(name(data.atlas_half(side))), half, side, "ROIs", colors)
        else:
            write_volume(outputs.path(name(data.atlas)), labels.astype(np.int16), atlas.affine, space=atlas.space)
        files = outputs.publish(record(described))
    write_conditions(data.conditions, betas.conditions)
    kept = [] if meshes is None else keep_meshes(SurfaceFolder(data.surface), *meshes)
    return [*files, *kept, data.conditions]


def roi_colors(names: Mapping[int, str]) -> dict[int, tuple[str, float, float, float, float]]:
    """Names of ROIs by number, each with a colour in programs that draw label files: hues far from those before."""
    colors = (colorsys.hsv_to_rgb(k * 0.618 % 1, 0.6, 0.9) for k in range(len(names)))
    labels = {number: (name, *color, 1.0) for (number, name), color in zip(names.items(), colors, strict=True)}
    return {0: ("???", 0.0, 0.0, 0.0, 0.0), **labels}


def subject_rdms(
    betas: Betas,
    atlas: Atlas | SurfaceLabels,
    inside: NDArray[np.bool_] | None = None,
    *,
    measure: Measure = PEARSON,
    progress: Progress = ignore,
) -> tuple[dict[str, NDArray[np.float32]], list[dict[str, Any]]]:
    """Compute the RDMs of all ROIs and subjects.

    An ROI of which a subject has no RDM is left out, with a warning that names both.

    Parameters
    ----------
    betas : Betas
    atlas : Atlas or SurfaceLabels
        On the grid, or of the vertices, of the beta maps.
    inside : ndarray of bool, shape (X, Y, Z), optional
        Brain mask: voxels outside do not count.
    measure : Measure
        How RDMs are made.
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
    inside_mask, on_grid = ({*np.unique(numbers).tolist()} for numbers in (labels[voxels], atlas.labels))
    present = {number: name for number, name in atlas.names.items() if number in inside_mask}
    absent: dict[str, list[str]] = {}
    for number, name in atlas.names.items():
        if number not in present:
            where = "inside the mask" if number in on_grid else "on the grid of the beta maps"
            absent.setdefault(where, []).append(f"{name} (label {number})")
    for where, named in absent.items():
        verb = "has" if len(named) == 1 else "have"
        warnings.warn(f"{atlas.source}: ROI {few(named)} {verb} no voxel {where}: left out", stacklevel=2)
    rdms: dict[str, list[NDArray]] = {name: [] for name in present.values()}
    counts: list[dict[str, Any]] = []
    for done, subject in enumerate(betas.subjects, start=1):
        responses = measure.load(betas, subject, voxels)
        for number, name in present.items():
            own = responses[labels[voxels] == number]
            usable = int(usable_voxels(own.values.T).sum())
            counts.append({"roi": name, "subject": subject.name, "voxels": len(own.patterns), "usable": usable})
            if name in rdms:
                try:
                    rdms[name].append(roi_rdm(own, f"ROI {name} (label {number})", measure))
                except InputError as error:
                    del rdms[name]
                    finding = str(error).split("; ")[0]
                    warnings.warn(f"{finding} in subject {subject.name}: the ROI is left out", stacklevel=2)
        progress(done, len(betas.subjects))
    if not rdms:
        raise InputError(
            f"{atlas.source}: none of its {len(atlas.names)} ROI(s) has an RDM in every subject; check that the atlas, "
            "the mask and the beta maps are in the same space"
        )
    _warn_of_few(rdms, counts)
    return {name: expand(np.stack(stack)).astype(np.float32) for name, stack in rdms.items()}, counts


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
