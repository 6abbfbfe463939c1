"""The data folder: every path of both layouts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils import InputError

Kind = Literal["searchlight", "roi"]
_RELEASE_FMRI = ("sl_rad=1__max_blk_edge=2", "kastner_ROIs_RDMs_pearson")
_SIMULATION_MARK = "truth.tsv"


@dataclass(frozen=True)
class Sources:
    """Where the parts of a data set lie.

    Attributes
    ----------
    dnn_rdms, fmri_rdms : Path
        Folders of RDMs; for searchlights also the published file itself.
    models : Path or None
        Table of models; None for the built-in Taskonomy networks.
    mask, roi_labels, atlas, conditions : Path or None
        None where the data set has none and the figure can do without; no mask also where the searchlight RDMs bring
        their geometry and no mask was asked for.
    published : bool
        Whether everything is in the layout of the release.
    simulated : bool
        Whether any part comes from the built-in example.
    """

    dnn_rdms: Path
    fmri_rdms: Path
    models: Path | None
    mask: Path | None
    roi_labels: Path | None
    atlas: Path | None
    conditions: Path | None
    published: bool
    simulated: bool


def holds_release(folder: Path) -> bool:
    """Whether the published release lies in a folder."""
    return (folder / "RDM_taskonomy_bonner50").is_dir()


def locate(
    kind: Kind,
    data: Path,
    *,
    dnn_rdms: Path | None = None,
    fmri_rdms: Path | None = None,
    mask: Path | None = None,
    roi_labels: Path | None = None,
    atlas: Path | None = None,
) -> Sources:
    """Find the parts of a data set.

    Parameters
    ----------
    kind : {"searchlight", "roi"}
        What the figure needs.
    data : Path
        Data folder in either layout.
    dnn_rdms, fmri_rdms, mask, roi_labels, atlas : Path, optional
        Parts that lie elsewhere.

    Returns
    -------
    Sources

    Raises
    ------
    InputError
        One message with everything that is missing.
    """
    given = {"dnn-rdms": dnn_rdms, "fmri-rdms": fmri_rdms, "mask": mask, "roi-labels": roi_labels, "atlas": atlas}
    missing = [f"{path} (given as --{name})" for name, path in given.items() if path and not path.exists()]
    if not data.is_dir() and not (dnn_rdms and fmri_rdms):
        raise InputError(f"data folder {data} does not exist: give one in the layout of data/README.md with --data")

    def find(path: Path | None, *candidates: str, required: bool = True) -> Path | None:
        if path is not None:
            return path
        found = next((data / name for name in candidates if (data / name).exists()), None)
        if found is None and required:
            missing.append(" or ".join(str(data / name) for name in candidates))
        return found

    dnn = find(dnn_rdms, "RDM_taskonomy_bonner50", "dnn_rdms")
    table = next((f for f in (data / "models.tsv", dnn and dnn.parent / "models.tsv") if f and f.exists()), None)
    if kind == "searchlight":
        fmri = find(fmri_rdms, "sl_rad=1__max_blk_edge=2", "searchlight_rdms")
        if fmri is None or not (fmri / "geometry.npz").exists():
            mask = find(mask, "mask.nii", "mask.nii.gz", required=fmri is not None)
    else:
        fmri = find(fmri_rdms, "kastner_ROIs_RDMs_pearson", "roi_rdms")
    roi_labels = find(roi_labels, "ROIfiles_Labeling.txt", "roi_labels.csv", required=kind == "roi")
    atlas = find(atlas, "atlas.nii.gz", "atlas.nii", required=False)
    if missing:
        raise InputError(
            f"{len(missing)} part(s) of the data are missing: {'; '.join(missing)}; "
            "see data/README.md for the layout and for how to get the published release"
        )
    assert dnn is not None and fmri is not None
    parts = [dnn.parent, fmri.parent]
    return Sources(
        dnn_rdms=dnn,
        fmri_rdms=fmri,
        models=table,
        mask=mask,
        roi_labels=roi_labels,
        atlas=atlas,
        conditions=find(None, "conditions.txt", required=False),
        published=table is None and fmri.name in _RELEASE_FMRI,
        simulated=any((part / _SIMULATION_MARK).exists() for part in parts),
    )
