"""Maps that other programs open: volumes and surfaces with names, colours and a description, named as in BIDS.

Volumes (NIfTI) hold what was computed, voxel by voxel. Surfaces (GIFTI, one file per hemisphere) hold what the pages
show: the value of the voxel that each vertex of the average brain stands for. Beside each volume of labels lie its
names and colours as a table (BIDS), for FreeSurfer's freeview and for FSLeyes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from utils.io.output import Outputs, write_volume
from utils.plotting.surface import DEFAULT_SURFACE, sample_labels, sample_values

if TYPE_CHECKING:
    from utils.plotting.label_maps import LabelMap

# BIDS entity "den": vertices of one hemisphere, in thousands.
_DENSITIES = {"fsaverage5": "10k", "fsaverage6": "41k", "fsaverage": "164k"}
_SPACE = "MNI152 space of the input images; the affine in the header says where the voxels lie"


def save_labels(
    outputs: Outputs,
    label_map: LabelMap,
    name: str,
    description: str,
    *,
    simulated: bool,
    surface: str = DEFAULT_SURFACE,
) -> None:
    """Write a map of labels into `maps/` of a run's results.

    Parameters
    ----------
    outputs : Outputs
    label_map : LabelMap
    name : str
        Letters and digits: BIDS entity "desc".
    description : str
        A sentence on what the labels are, for the JSON files.
    simulated : bool
    surface : str
        Average brain of the GIFTI files.
    """
    stem = f"maps/space-MNI_desc-{name}_dseg"
    write_volume(outputs.path(f"{stem}.nii.gz"), label_map.data, label_map.affine, intent="label")
    table = list(zip(label_map.names, label_map.colors, label_map.counts, strict=True))
    outputs.path(f"{stem}.tsv").write_text(_bids_table(table, label_map.unit), encoding="utf-8")
    outputs.path(f"{stem}_freesurfer.txt").write_text(_freesurfer_table(table), encoding="utf-8")
    outputs.path(f"{stem}_fsleyes.lut").write_text(_fsleyes_table(table), encoding="utf-8")
    described = {"Description": description, "Simulated": simulated, "BackgroundValue": 0}
    _write_json(outputs.path(f"{stem}.json"), {**described, "SpatialReference": _SPACE})
    for hemi, labels in sample_labels(label_map.data, label_map.affine, surface).items():
        stem = f"maps/{_surface_entities(hemi, surface)}_desc-{name}_dseg"
        _write_label_gifti(outputs.path(f"{stem}.label.gii"), labels, label_map, hemi)
        _write_json(outputs.path(f"{stem}.json"), {**described, "SpatialReference": surface})


def save_values(
    outputs: Outputs,
    data: NDArray[np.floating],
    affine: NDArray[np.floating],
    name: str,
    description: str,
    *,
    units: str,
    simulated: bool,
    surface: str = DEFAULT_SURFACE,
) -> None:
    """Write a map of values into `maps/` of a run's results; NaN where there is none.

    Parameters
    ----------
    outputs : Outputs
    data : ndarray of float, shape (X, Y, Z)
    affine : ndarray, shape (4, 4)
        Voxel indices to mm.
    name : str
        Letters and digits: BIDS entity "stat".
    description : str
        A sentence on what the values are, for the JSON files.
    units : str
        Such as "adjusted R2", "correlation".
    simulated : bool
    surface : str
        Average brain of the GIFTI files.
    """
    stem = f"maps/space-MNI_stat-{name}_statmap"
    write_volume(outputs.path(f"{stem}.nii.gz"), data, affine)
    described = {"Description": description, "Units": units, "Simulated": simulated, "BackgroundValue": "NaN"}
    _write_json(outputs.path(f"{stem}.json"), {**described, "SpatialReference": _SPACE})
    for hemi, values in sample_values(data, affine, surface).items():
        stem = f"maps/{_surface_entities(hemi, surface)}_stat-{name}_statmap"
        _write_metric_gifti(outputs.path(f"{stem}.func.gii"), values, name, hemi)
        _write_json(outputs.path(f"{stem}.json"), {**described, "SpatialReference": surface})


def _surface_entities(hemi: str, surface: str) -> str:
    return f"hemi-{hemi[0].upper()}_space-fsaverage_den-{_DENSITIES[surface]}"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


_Table = Sequence[tuple[str, str, int]]


def _bids_table(table: _Table, unit: str) -> str:
    rows = [f"{k}\t{name}\t{color}\t{count}" for k, (name, color, count) in enumerate(table, start=1)]
    return "\n".join([f"index\tname\tcolor\tn_{unit.lower()}", *rows]) + "\n"


def _freesurfer_table(table: _Table) -> str:
    """Columns number, name, red, green, blue (0 to 255), opacity, as in FreeSurferColorLUT.txt; no blanks in names."""
    rows = ["0 Unknown 0 0 0 0"]
    for k, (name, color, _) in enumerate(table, start=1):
        rows.append(" ".join([str(k), "-".join(name.split()), *map(str, _rgb(color)), "0"]))
    return "\n".join(rows) + "\n"


def _fsleyes_table(table: _Table) -> str:
    """Columns number, red, green, blue (0 to 1), name, as FSLeyes reads lookup tables."""
    rows = []
    for k, (name, color, _) in enumerate(table, start=1):
        rows.append(" ".join([str(k), *(f"{level / 255:.4f}" for level in _rgb(color)), name]))
    return "\n".join(rows) + "\n"


def _write_label_gifti(path: Path, labels: NDArray[np.int64], label_map: LabelMap, hemi: str) -> None:
    import nibabel as nib

    table = nib.gifti.GiftiLabelTable()
    for key, (name, color) in enumerate([("outside", None), *zip(label_map.names, label_map.colors, strict=True)]):
        level = (0.0, 0.0, 0.0, 0.0) if color is None else (*(part / 255 for part in _rgb(color)), 1.0)
        label = nib.gifti.GiftiLabel(key, *level)
        label.label = name  # type: ignore[attr-defined]
        table.labels.append(label)
    array = nib.gifti.GiftiDataArray(
        labels.astype(np.int32), intent="NIFTI_INTENT_LABEL", datatype="NIFTI_TYPE_INT32", meta={"Name": "labels"}
    )
    nib.save(nib.GiftiImage(darrays=[array], labeltable=table, meta=_structure(hemi)), path)


def _write_metric_gifti(path: Path, values: NDArray[np.float32], name: str, hemi: str) -> None:
    import nibabel as nib

    array = nib.gifti.GiftiDataArray(
        values.astype(np.float32), intent="NIFTI_INTENT_NONE", datatype="NIFTI_TYPE_FLOAT32", meta={"Name": name}
    )
    nib.save(nib.GiftiImage(darrays=[array], meta=_structure(hemi)), path)


def _structure(hemi: str) -> Any:
    """What tells Connectome Workbench which hemisphere a file is of."""
    import nibabel as nib

    return nib.gifti.GiftiMetaData({"AnatomicalStructurePrimary": f"Cortex{hemi.capitalize()}"})
