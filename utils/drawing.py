"""From results to what is drawn: the panels of ROIs, volumes of labels with names, colours and counts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.tasks import BELOW_CEILING_COLOR, NOT_SIGNIFICANT_COLOR, Model, legend_order
from utils.analysis import Outcome, Partition, describe, subject_range
from utils.brain_map import LabelMap, static_figure, write_page
from utils.dataset import ModelRdms, RoiRdms, Sources, load_atlas
from utils.geometry import Geometry
from utils.plots import RoiPanel, save_figure
from utils.regression import part_names
from utils.results import Outputs, write_labels, write_volume

if TYPE_CHECKING:
    import pandas as pd

NOT_SIGNIFICANT = "not significant"
BELOW_CEILING = "below the noise ceiling"


def roi_panels(
    options: argparse.Namespace, models: ModelRdms, rois: RoiRdms, partition: Partition, outcome: Outcome
) -> list[RoiPanel]:
    """What the figure shows of each ROI."""
    n_sets = len(partition.sets)
    panels = []
    for place, name in enumerate(rois.names):
        members = [models.models[i] for i in partition.sets[:, place]]
        differ = outcome.q_difference[:, place] <= options.alpha
        panels.append(
            RoiPanel(
                roi=name,
                labels=[model.label for model in members],
                colors=[model.color for model in members],
                unique=partition.unique[:, place],
                se=partition.se[:, place],
                significant=list(outcome.q[:, place] <= options.alpha),
                brackets=[pair for pair, differs in zip(outcome.pairs, differ, strict=True) if differs],
                total=float(partition.total[place]),
                parts={
                    frozenset(part): float(value)
                    for part, value in zip(part_names(n_sets), partition.parts[:, place], strict=True)
                },
            )
        )
    return panels


def searchlight_label_map(geometry: Geometry, models: Sequence[Model], table: pd.DataFrame) -> LabelMap:
    """Labels of searchlights: the winning model, or why there is none.

    Parameters
    ----------
    geometry : Geometry
    models : sequence of Model
    table : DataFrame
        One row per searchlight with columns winner (key of a model), significant and tested.

    Returns
    -------
    LabelMap
    """
    ordered = [models[i] for i in legend_order(models)]
    number = table["winner"].map({model.key: k for k, model in enumerate(ordered, start=1)})
    labels = np.where(table["significant"], number, len(models) + 1)
    labels = np.where(table["tested"], labels, len(models) + 2).astype(np.int16)
    data = geometry.to_volume(labels)
    return _label_map(data, geometry.affine, ordered, labels, (NOT_SIGNIFICANT, BELOW_CEILING), "searchlights")


def roi_label_map(
    atlas: NDArray[np.int64],
    affine: NDArray[np.float64],
    ids: Sequence[int],
    models: Sequence[Model],
    winners: Sequence[str],
    significant: Sequence[bool],
) -> LabelMap:
    """Labels of ROIs in an atlas volume: the winning model, or that none is significant.

    Parameters
    ----------
    atlas : ndarray of int, shape (X, Y, Z)
    affine : ndarray, shape (4, 4)
    ids : sequence of int
        Number of each ROI in the atlas.
    models : sequence of Model
    winners : sequence of str
        Key of the winning model of each ROI.
    significant : sequence of bool

    Returns
    -------
    LabelMap
    """
    ordered = [models[i] for i in legend_order(models)]
    number = {model.key: k for k, model in enumerate(ordered, start=1)}
    labels = np.where(significant, [number[winner] for winner in winners], len(models) + 1).astype(np.int16)
    data = values_to_atlas(atlas, ids, labels)
    return _label_map(data, affine, ordered, labels, (NOT_SIGNIFICANT,), "ROIs")


def values_to_atlas(atlas: NDArray[np.int64], ids: Sequence[int], values: NDArray) -> NDArray:
    """Volume with each ROI's value in its voxels and 0 elsewhere, in the type of `values`."""
    volume = np.zeros(atlas.shape, dtype=values.dtype)
    for number, value in zip(ids, values, strict=True):
        volume[atlas == number] = value
    return volume


def save_label_map(
    outputs: Outputs, label_map: LabelMap, name: str, *, title: str, notes: Sequence[str], banner: str | None
) -> None:
    """Write the page, the volume of labels and the table that names them."""
    write_page(label_map, outputs.path("brain_map.html"), title=title, notes=notes, banner=banner)
    write_volume(outputs.path(f"maps/{name}_dseg.nii.gz"), label_map.data, label_map.affine)
    write_labels(outputs.path(f"maps/{name}_dseg.tsv"), label_map.names, label_map.colors)


def save_roi_map(
    options: argparse.Namespace,
    outputs: Outputs,
    sources: Sources,
    rois: RoiRdms,
    models: Sequence[Model],
    first: pd.DataFrame,
    name: str,
    title: str,
    banner: str | None,
) -> None:
    """Brain map of the ROIs, each in the colour of its first model; without an atlas, a line on how to get one.

    `first` is a table with one row per ROI, in order, with columns model, significant, unique and total_adjusted_r2.
    """
    found = load_atlas(sources, rois)
    if found is None:
        print(
            "No brain map of the ROIs: there is no atlas. Give one with --atlas FILE (a NIfTI volume whose labels are "
            "the ids of the ROI table), for the paper's ROIs the probabilistic atlas of Wang et al. 2015."
        )
        return
    atlas, affine = found
    label_map = roi_label_map(atlas, affine, rois.ids, models, list(first["model"]), list(first["significant"]))
    notes = [
        "Each ROI has the colour of the " + name.replace("-", " ") + ", if its unique variance is significant"
        + (" and exceeds every other's." if name == "strongest-group" else "."),
        describe(options, subject_range(rois)),
    ]  # fmt: skip
    save_label_map(outputs, label_map, name, title=title, notes=notes, banner=banner)
    for column in ("unique", "total_adjusted_r2"):
        volume = values_to_atlas(atlas, rois.ids, first[column].to_numpy(dtype=np.float32))
        write_volume(outputs.path(f"maps/{column.replace('_', '-')}.nii.gz"), volume, affine)


def in_legend_order(models: Sequence[Model], chosen: NDArray[np.int64]) -> list[int]:
    """Indices of the models that occur in `chosen`, in the order of the legend."""
    return [i for i in legend_order(models) if i in chosen]


def save_values(outputs: Outputs, geometry: Geometry, table: pd.DataFrame, columns: Mapping[str, str]) -> None:
    """Write columns of the table, one row per searchlight, as volumes of the given names; 0 where there is no value."""
    for column, name in columns.items():
        volume = geometry.to_volume(table[column].fillna(0).to_numpy(dtype=np.float32))
        write_volume(outputs.path(f"maps/{name}.nii.gz"), volume, geometry.affine)


def save_montage(outputs: Outputs, label_map: LabelMap, *, title: str, note: str, banner: str | None) -> None:
    """Write the still picture of a label map as figure.svg and figure.png."""
    figure = static_figure(label_map, title=title, note=note, banner=banner)
    save_figure(figure, outputs.path("figure.svg"), outputs.path("figure.png"))


def _label_map(
    data: NDArray,
    affine: NDArray[np.float64],
    models: Sequence[Model],
    labels: NDArray[np.int16],
    others: Sequence[str],
    unit: str,
) -> LabelMap:
    greys = {NOT_SIGNIFICANT: NOT_SIGNIFICANT_COLOR, BELOW_CEILING: BELOW_CEILING_COLOR}
    names = [model.label for model in models] + list(others)
    return LabelMap(
        data=data,
        affine=affine,
        names=names,
        colors=[model.color for model in models] + [greys[other] for other in others],
        families=["group" if model.key == model.group else model.group for model in models] + [""] * len(others),
        counts=[int((labels == k).sum()) for k in range(1, len(names) + 1)],
        unit=unit,
    )
