"""Maps that other programs open: volumes and surfaces with names, colours and a description, named as in BIDS.

Volumes (NIfTI) hold what was computed, voxel by voxel. Surfaces (GIFTI, one file per hemisphere) hold what the pages
show: the value of the voxel that each vertex of the average brain stands for, or that of the vertex itself in data of
vertices, of which there are no volumes. Beside the labels lie their names and colours as a table (BIDS), for
FreeSurfer's freeview and for FSLeyes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from utils.io.output import Outputs, write_vertices, write_volume
from utils.io.spaces import reference
from utils.plotting.label_maps import LabelMap, Map
from utils.plotting.surface import DEFAULT_SURFACE, Surface, sample
from utils.rdms.vertices import FSAVERAGE, Vertices

# BIDS entity "den": vertices of one hemisphere, in thousands.
_DENSITIES = {"fsaverage5": "10k", "fsaverage6": "41k", "fsaverage": "164k", "fsLR": "32k"}


def save_map(outputs: Outputs, own: Map, *, simulated: bool, surface: Surface | None = DEFAULT_SURFACE) -> None:
    """Write a map into `maps/` of a run's results: volume and surfaces, each with a description as JSON.

    Labels are int16, 0 where there is none; values are float32, NaN where there is none.

    Parameters
    ----------
    outputs : Outputs
    own : LabelMap or ValueMap
    simulated : bool
        Whether the data are, for the JSON files.
    surface : str, Path or None
        Average brain of the GIFTI files of volumes; None for no such files, as for maps that are not in MNI space.
    """
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
    if own.affine is None:  # vertices are written as they came
        mesh, halves = own.space, (own.vertices or Vertices(len(own.data) // 2, len(own.data) // 2)).split(own.data)
    elif surface is not None:
        mesh, halves = str(surface), sample(own.data, own.affine, surface)
    else:
        return
    for hemi, values in halves.items():
        stem = f"maps/hemi-{hemi[0].upper()}_{_of_mesh(mesh)}_{name}"
        write_vertices(outputs.path(f"{stem}.{suffix}"), values, hemi, *_gifti_names(own))
        _write_json(outputs.path(f"{stem}.json"), {**described, "SpatialReference": mesh})


def _of_mesh(mesh: str) -> str:
    space = "fsaverage" if mesh in FSAVERAGE else mesh
    return f"space-{space}_den-{_DENSITIES[mesh]}" if mesh in _DENSITIES else f"space-{space}"


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


def _gifti_names(own: Map) -> tuple[str, dict[int, tuple[str, float, float, float, float]] | None]:
    """Name of a map in GIFTI files, and names and colours of its labels."""
    if not isinstance(own, LabelMap):
        return own.key, None
    labels = {0: ("outside", 0.0, 0.0, 0.0, 0.0)}
    for key, (name, color) in enumerate(zip(own.names, own.colors, strict=True), start=1):
        red, green, blue = _rgb(color)
        labels[key] = (name, red / 255, green / 255, blue / 255, 1.0)
    return "labels", labels
