"""From results to what is drawn: the panels of ROIs, and the maps of the brain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.tasks import (
    BELOW_CEILING_COLOR,
    NOT_SIGNIFICANT_COLOR,
    Model,
    group_colors,
    group_names,
    legend_order,
)
from utils.datasets.rois import Atlas, RoiRdms
from utils.io.output import Outputs
from utils.plotting.explorer import write_explorer
from utils.plotting.export import save_labels, save_values
from utils.plotting.label_maps import LabelMap, Regions, ValueMap
from utils.plotting.montage import montage
from utils.plotting.nilearn_page import write_page
from utils.plotting.page_layout import Style, save_figure
from utils.rdms.searchlights import Geometry
from utils.stats.noise_ceiling import ceiling_as_r2

if TYPE_CHECKING:
    import pandas as pd
from utils.plotting.label_maps import Map

NOT_SIGNIFICANT = "not significant"
BELOW_CEILING = "below the noise ceiling"
_UNIQUE = "unique variance (adjusted R²)"


def network_maps(models: Sequence[Model], geometry: Geometry, table: pd.DataFrame) -> list[Map]:
    """Maps of Fig 1, from its table with one row per searchlight."""
    return [
        Map("bestNetwork", best_network(models, geometry, table)),
        Map("groupOfBestNetwork", _group_of_best_network(models, geometry, table)),
        _value(geometry, table["adjusted_r2"], "adjustedR2", "Adjusted R² of the best network", "adjusted R²", low=0,
               note="How much of the RDM the best network explains, significant or not."),
        _value(geometry, _share_of_ceiling(table["adjusted_r2"], table), "shareOfCeiling", "Share of the noise ceiling",
               "adjusted R² / squared lower noise ceiling", low=0, high=1,
               note="How much the best network explains of what could be explained."),
        *_common_maps(geometry, table, "network"),
    ]  # fmt: skip


def group_maps(
    groups: Sequence[Model], geometry: Geometry, table: pd.DataFrame, unique: NDArray, shared: NDArray
) -> list[Map]:
    """Maps of Fig 3a, from its table and the parts of variance, (n_groups, n_searchlights) and (n_parts, ...)."""
    high = float(np.nanmax(unique))
    return [
        Map("strongestGroup", strongest_group(groups, geometry, table)),
        *(
            _value(geometry, values, f"unique{_letters(group.label)}", f"Unique variance of {group.label}", _UNIQUE,
                   name=f"unique {group.label}", low=0, high=high,
                   note=f"What the {group.label} networks explain and no other group does.")
            for group, values in zip(groups, unique, strict=True)
        ),
        _value(geometry, shared.sum(axis=0), "shared", "Shared variance", "shared variance (adjusted R²)", low=0,
               note="What two or more groups explain alike: the total without the unique parts."),
        _value(geometry, table["total_adjusted_r2"], "total", "Total variance", "adjusted R² of all groups", low=0,
               note="What all groups explain together."),
        *_common_maps(geometry, table, "group"),
    ]  # fmt: skip


def best_network(models: Sequence[Model], geometry: Geometry, table: pd.DataFrame) -> LabelMap:
    """The network that explains each searchlight best, or why there is none."""
    note = "The network that explains most of each searchlight's RDM, if more than by chance."
    return replace(searchlight_label_map(geometry, models, table), title="Best network", note=note)


def strongest_group(groups: Sequence[Model], geometry: Geometry, table: pd.DataFrame) -> LabelMap:
    """The group with the largest unique variance at each searchlight, or why there is none."""
    note = "The group with the largest unique variance, if above chance and above every other group's."
    return replace(searchlight_label_map(geometry, groups, table), title="Strongest group", note=note)


def _group_of_best_network(models: Sequence[Model], geometry: Geometry, table: pd.DataFrame) -> LabelMap:
    names = group_names(models)
    colors = group_colors(names)
    groups = [Model(name, name, name, colors[name]) for name in names]
    note = "The group to which the best network belongs. Fig 3a tests the groups themselves."
    label_map = searchlight_label_map(geometry, groups, table.assign(winner=table["group"]))
    return replace(label_map, title="Group of the best network", note=note)


def _common_maps(geometry: Geometry, table: pd.DataFrame, what: str) -> list[Map]:
    # A q value of 0 cannot come out of a permutation test, but of a t-test.
    significance = -np.log10(np.clip(table["q"], 1e-16, 1))
    return [
        _value(geometry, table["stability"], "stability", "Stability of the winner",
               f"share of subsets of the conditions with the same {what}", name="stability", low=0, high=1,
               note=f"How often the same {what} wins when some conditions are left out; 1 is always."),
        _value(geometry, table["ceiling_lower"], "noiseCeiling", "Noise ceiling",
               "lower noise ceiling (mean Spearman correlation)", name="noise ceiling", low=0,
               note="How alike the RDMs of different people are: none below the threshold is tested."),
        _value(geometry, significance, "significance", "Significance", "−log₁₀ q", low=0,
               note=f"Of the {what} that is largest; q = .05 is 1.3."),
    ]  # fmt: skip


def _share_of_ceiling(explained: pd.Series, table: pd.DataFrame) -> pd.Series:
    return (explained / ceiling_as_r2(table["ceiling_lower"].to_numpy())).where(table["tested"])


def _value(
    geometry: Geometry,
    values: ArrayLike,
    file_name: str,
    title: str,
    unit: str,
    *,
    name: str = "",
    low: float | None = None,
    high: float | None = None,
    note: str = "",
) -> Map:
    volume = geometry.to_volume(np.asarray(values, dtype=np.float32), background=np.nan)
    return Map(file_name, ValueMap(volume, geometry.affine, title, unit, name or unit, low, high, note=note))


def _letters(text: str) -> str:
    """Letters and digits of a name, which is all that the names of BIDS files may have."""
    return "".join(character for character in text.title() if character.isalnum() and character.isascii())


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


def roi_maps(atlas: Atlas, rois: RoiRdms, models: Sequence[Model], first: pd.DataFrame, what: str) -> list[Map]:
    """Maps of the ROIs, each in the colour of its first model.

    Parameters
    ----------
    atlas : Atlas
    rois : RoiRdms
    models : sequence of Model
    first : DataFrame
        One row per ROI, in order, with columns model, significant, unique, total_adjusted_r2, ceiling_lower and q.
    what : {"network", "group"}
        What the models are.
    """

    def value(
        values: ArrayLike,
        file_name: str,
        title: str,
        unit: str,
        *,
        name: str = "",
        high: float | None = None,
        note: str,
    ) -> Map:
        volume = values_to_atlas(atlas.labels, rois.ids, np.asarray(values, dtype=np.float32), background=np.nan)
        return Map(file_name, ValueMap(volume, atlas.affine, title, unit, name or unit, 0, high, note=note))

    labels = roi_label_map(
        atlas.labels, atlas.affine, rois.ids, models, list(first["model"]), list(first["significant"])
    )
    title = "Best network" if what == "network" else "Strongest group"
    note = f"The {title.lower()} of each ROI, if its unique variance is significant" + (
        "." if what == "network" else " and exceeds every other's."
    )
    significance = -np.log10(np.clip(first["q"], 1e-16, 1))
    return [
        Map("bestNetwork" if what == "network" else "strongestGroup", replace(labels, title=title, note=note)),
        value(first["unique"], "unique", f"Unique variance of the {title.lower()}", _UNIQUE, name="unique variance",
              note=f"What the {title.lower()} explains and the others in the regression do not."),
        value(first["total_adjusted_r2"], "total", "Total variance", "adjusted R² of all in the regression",
              name="total variance", note="What all in the regression explain together."),
        value(first["ceiling_lower"], "noiseCeiling", "Noise ceiling",
              "lower noise ceiling (mean Spearman correlation)", name="noise ceiling",
              note="How alike the RDMs of different people are."),
        value(first["stability"], "stability", "Stability of the winner",
              f"share of subsets of the conditions with the same {what}", name="stability", high=1,
              note=f"How often the same {what} wins when some conditions are left out; 1 is always."),
        value(significance, "significance", "Significance", "−log₁₀ q", note="q = .05 is 1.3."),
    ]  # fmt: skip


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


def values_to_atlas(atlas: NDArray[np.int64], ids: Sequence[int], values: NDArray, background: float = 0) -> NDArray:
    """Volume with each ROI's value in its voxels and `background` elsewhere, in the type of `values`."""
    volume = np.full(atlas.shape, background, dtype=values.dtype)
    for number, value in zip(ids, values, strict=True):
        volume[atlas == number] = value
    return volume


def save_maps(
    outputs: Outputs,
    maps: Sequence[Map],
    *,
    title: str,
    notes: Sequence[str],
    banner: str | None,
    surface: str,
    atlas: Atlas | None,
) -> None:
    """Write the page of all maps, nilearn's page of the first, and files for other programs."""
    drawn = [own.drawn for own in maps]
    regions = None if atlas is None else Regions(atlas.labels, atlas.affine, atlas.names)
    write_explorer(
        outputs.path("brain_map.html"), drawn, title=title, notes=notes, banner=banner, surface=surface, regions=regions
    )
    assert isinstance(drawn[0], LabelMap)
    write_page(drawn[0], outputs.path("brain_map_nilearn.html"), title=title, notes=notes, banner=banner,
               surface=surface)  # fmt: skip
    for own in maps:
        description = f"{own.drawn.title}. {own.drawn.note}"
        if isinstance(own.drawn, LabelMap):
            save_labels(outputs, own.drawn, own.name, description, simulated=banner is not None, surface=surface)
        else:
            save_values(outputs, own.drawn.data, own.drawn.affine, own.name, description, units=own.drawn.unit,
                        simulated=banner is not None, surface=surface)  # fmt: skip


def save_montage(
    outputs: Outputs, maps: Sequence[Map], *, title: str, note: str, banner: str | None, surface: str, style: Style
) -> None:
    """Write the still picture of the first map, and of how stable its labels are, as figure.svg and figure.png."""
    labels = maps[0].drawn
    stability = next(own.drawn.data for own in maps if own.name == "stability")
    assert isinstance(labels, LabelMap)
    # Where the winner is not significant there is none, however often it comes first.
    n_models = len(labels.names) - len((NOT_SIGNIFICANT, BELOW_CEILING))
    won = (labels.data > 0) & (labels.data <= n_models)
    figure = montage(
        labels, title=title, note=note, banner=banner, stability=np.where(won, stability, np.nan), surface=surface,
        style=style,
    )  # fmt: skip
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
    # Groups as labels stand under no heading.
    families = ["" if model.key == model.group else model.group for model in models]
    return LabelMap(
        data=data,
        affine=affine,
        names=names,
        colors=[model.color for model in models] + [greys[other] for other in others],
        families=families + [""] * len(others),
        counts=[int((labels == k).sum()) for k in range(1, len(names) + 1)],
        unit=unit,
    )
