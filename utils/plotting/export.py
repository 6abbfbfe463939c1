"""Maps that other programs open: volumes and surfaces with names, colours and a description, named as in BIDS.

Volumes (NIfTI) hold what was computed, voxel by voxel. Surfaces (GIFTI, one file per hemisphere) hold what the pages
show: the value of the voxel that each vertex of the average brain stands for. Beside each volume of labels lie its
names and colours as a table (BIDS), for FreeSurfer's freeview and for FSLeyes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.io.output import Outputs, write_volume
from utils.io.spaces import reference
from utils.plotting.label_maps import LabelMap, Map
from utils.plotting.surface import DEFAULT_SURFACE, sample

# BIDS entity "den": vertices of one hemisphere, in thousands.
_DENSITIES = {"fsaverage5": "10k", "fsaverage6": "41k", "fsaverage": "164k"}


def save_map(outputs: Outputs, own: Map, *, simulated: bool, surface: str | None = DEFAULT_SURFACE) -> None:
    """Write a map into `maps/` of a run's results: volume and surfaces, each with a description as JSON.

    Labels are int16, 0 where there is none; values are float32, NaN where there is none.

    Parameters
    ----------
    outputs : Outputs
    own : LabelMap or ValueMap
    simulated : bool
        Whether the data are, for the JSON files.
    surface : str or None
        Average brain of the GIFTI files; None for no such files, as for maps that are not in MNI space.
    """
    mesh = own.space if own.affine is None else surface  # vertices are written as they came
    stem = f"maps/space-{own.space}" if own.affine is not None else f"maps/{_of_mesh(own.space)}"
    described: dict[str, Any] = {"Description": f"{own.title}. {own.note}", "Simulated": simulated}
    if isinstance(own, LabelMap):
        described["Description"] = f"{described['Description']} {own.pale_note}".strip()
        name, suffix, intent = f"desc-{own.key}_dseg", "label.gii", "label"
        described["BackgroundValue"] = 0
        _write_tables(outputs, f"{stem}_{name}", own)
    else:
        name, suffix, intent = f"stat-{own.key}_statmap", "func.gii", "none"
        described |= {"Units": own.unit, "BackgroundValue": "NaN"}
    if own.affine is not None:
        write_volume(outputs.path(f"{stem}_{name}.nii.gz"), own.data, own.affine, intent, own.space)
        _write_json(outputs.path(f"{stem}_{name}.json"), {**described, "SpatialReference": reference(own.space)})
    if mesh is None:
        return
    for hemi, values in sample(own.data, own.affine, mesh).items():
        stem = f"maps/hemi-{hemi[0].upper()}_{_of_mesh(mesh)}_{name}"
        _write_gifti(outputs.path(f"{stem}.{suffix}"), own, values, hemi)
        _write_json(outputs.path(f"{stem}.json"), {**described, "SpatialReference": mesh})


def _of_mesh(mesh: str) -> str:
    return f"space-fsaverage_den-{_DENSITIES[mesh]}"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _write_tables(outputs: Outputs, stem: str, label_map: LabelMap) -> None:
    """Names and colours of labels for BIDS, FreeSurfer and FSLeyes."""
    # FreeSurfer: number, name, red, green, blue (0 to 255), opacity, as in FreeSurferColorLUT.txt; no blanks in names.
    # FSLeyes: number, red, green, blue (0 to 1), name.
    bids = [f"index\tname\tcolor\tn_{label_map.unit.lower()}"]
    freesurfer, fsleyes = ["0 Unknown 0 0 0 0"], []
    labels = zip(label_map.names, label_map.colors, label_map.counts, strict=True)
    for k, (name, color, count) in enumerate(labels, start=1):
        bids.append(f"{k}\t{name}\t{color}\t{count}")
        freesurfer.append(" ".join([str(k), "-".join(name.split()), *map(str, _rgb(color)), "0"]))
        fsleyes.append(" ".join([str(k), *(f"{level / 255:.4f}" for level in _rgb(color)), name]))
    for suffix, rows in ((".tsv", bids), ("_freesurfer.txt", freesurfer), ("_fsleyes.lut", fsleyes)):
        outputs.path(stem + suffix).write_text("\n".join(rows) + "\n", encoding="utf-8")


def _write_gifti(path: Path, own: Map, values: NDArray, hemi: str) -> None:
    """Labels with their names and colours, or values, of the vertices of one hemisphere."""
    from nibabel import gifti, save

    table = gifti.GiftiLabelTable()
    if isinstance(own, LabelMap):
        kind = {"intent": "NIFTI_INTENT_LABEL", "datatype": "NIFTI_TYPE_INT32", "meta": {"Name": "labels"}}
        values = values.astype(np.int32)
        colors = [(*(level / 255 for level in _rgb(color)), 1.0) for color in own.colors]
        names = zip(["outside", *own.names], [(0.0, 0.0, 0.0, 0.0), *colors], strict=True)
        for key, (name, rgba) in enumerate(names):
            label = gifti.GiftiLabel(key, *rgba)
            label.label = name  # type: ignore[attr-defined]
            table.labels.append(label)
    else:
        kind = {"intent": "NIFTI_INTENT_NONE", "datatype": "NIFTI_TYPE_FLOAT32", "meta": {"Name": own.key}}
    # Tells Connectome Workbench which hemisphere the file is of.
    structure = gifti.GiftiMetaData({"AnatomicalStructurePrimary": f"Cortex{hemi.capitalize()}"})
    array = gifti.GiftiDataArray(values, **kind)
    save(gifti.GiftiImage(darrays=[array], labeltable=table, meta=structure), path)
