"""From results to maps of the brain, and the files that show them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from models.tasks import Model, group_names, legend_order
from utils.io.output import Outputs
from utils.io.spaces import describe, is_mni
from utils.plotting.colors import BELOW_CEILING_COLOR, NOT_SIGNIFICANT_COLOR, pale_color
from utils.plotting.explorer import write_explorer
from utils.plotting.export import save_map
from utils.plotting.label_maps import PALE, LabelMap, Locations, Map, ValueMap
from utils.plotting.montage import montage
from utils.plotting.nilearn_page import write_nilearn_page
from utils.plotting.page_layout import Look, save_figure
from utils.plotting.slices import write_slices
from utils.plotting.surface import NEAR_CORTEX_MM, sample, share_near_cortex
from utils.rdms.atlas import Atlas
from utils.rdms.surface_labels import SurfaceLabels

NOT_SIGNIFICANT = "not significant"
BELOW_CEILING = "below the noise ceiling"
WITHOUT_RDM = "not tested: no RDM"
_UNIQUE = "unique variance (adjusted R²)"


def network_maps(
    geometry: Locations, models: Sequence[Model], colors: Mapping[str, str], table: pd.DataFrame
) -> list[Map]:
    """Maps of Fig 1.

    Parameters
    ----------
    geometry : Geometry or SurfaceGeometry
        Where the searchlights lie.
    models : sequence of Model
    colors : mapping of str to str
        Colours of the models and of their groups, as `utils.plotting.colors.study_colors` gives them.
    table : DataFrame
        One row per searchlight with columns winner, group, significant, tested, adjusted_r2, q, stability and
        ceiling_lower. A significant winner is drawn in solid colour. Optional columns: explained (drawn pale where the
        winner is not significant) with candidates (those not told apart there, such as "2D or 3D"), share (of the
        explainable variance), q_lead (of the winner's lead over every other) and group_significant (whether it leads
        every network of other groups).

    Returns
    -------
    list of LabelMap and ValueMap
        The first shows the best network.
    """
    groups = [Model(name, name, name) for name in group_names(models)]
    where = "" if "explained" in table else ", where this is significant"
    of_groups = table.assign(winner=table["group"])
    beyond = "."
    if "group_significant" in table:
        of_groups["significant"] = table["group_significant"]
        beyond = ", and whether the network leads every network of other groups."
    return [
        _winners(geometry, models, colors, table, unit="searchlights", key="bestNetwork", title="Best network",
                 note=f"The network that {'predicts' if 'cv_r2' in table else 'explains'} most variance of each "
                      f"searchlight's RDM{where}."),
        _winners(geometry, groups, colors, of_groups, unit="searchlights", key="groupOfBestNetwork",
                 title="Group of the best network",
                 note=f"The group of the best network{beyond} Fig 3a tests the groups themselves."),
        _values(geometry, table["adjusted_r2"], "adjustedR2", "Adjusted R² of the best network", "adjusted R²",
                note="Variance explained by the best network, significant or not."),
        *_common_maps(geometry, table, "network", of="the best network"),
    ]  # fmt: skip


def group_maps(
    geometry: Locations,
    groups: Sequence[Model],
    colors: Mapping[str, str],
    table: pd.DataFrame,
    unique: NDArray,
    shared: NDArray,
) -> list[Map]:
    """Maps of Fig 3a.

    Parameters
    ----------
    geometry, groups, colors
        As for `network_maps`, with groups instead of networks.
    table : DataFrame
        One row per searchlight with columns winner, significant, tested, total_adjusted_r2, q, stability and
        ceiling_lower, and optionally those of `network_maps`; share is that of all groups together.
    unique : ndarray of float, shape (n_groups, n_searchlights)
        Unique variance (adjusted R2) of each group.
    shared : ndarray of float, shape (n_parts, n_searchlights)
        Parts of the variance that two or more groups share.

    Returns
    -------
    list of LabelMap and ValueMap
        The first shows the strongest group.
    """
    high = float(np.nanmax(unique))
    where = "" if "explained" in table else ", where this is above chance and exceeds that of every other group"
    return [
        _winners(geometry, groups, colors, table, unit="searchlights", key="strongestGroup", title="Strongest group",
                 note=f"The group with the largest {'cross-validated ' if 'cv_unique' in table else ''}unique "
                      f"variance{where}."),
        *(
            _values(geometry, values, f"unique{_letters(group.label)}", f"Unique variance of {group.label}", _UNIQUE,
                    name=f"unique {group.label}", high=high,
                    note=f"What the {group.label} networks explain and no other group does.")
            for group, values in zip(groups, unique, strict=True)
        ),
        _values(geometry, shared.sum(axis=0), "shared", "Shared variance", "shared variance (adjusted R²)",
                note="Variance that two or more groups explain in common: the total minus the unique parts."),
        _values(geometry, table["total_adjusted_r2"], "total", "Total variance", "adjusted R² of all groups",
                note="Variance explained by all groups together."),
        *_common_maps(geometry, table, "group", of="all groups together"),
    ]  # fmt: skip


def roi_maps(
    locations: Locations, models: Sequence[Model], colors: Mapping[str, str], first: pd.DataFrame
) -> list[Map]:
    """Maps of Fig 2 and Fig 3b: each ROI in the colour of its first network or group.

    Parameters
    ----------
    locations : RoiLocations
        Where the ROIs lie.
    models, colors
        As for `network_maps`, or groups: models whose key is their group.
    first : DataFrame
        One row per ROI, in the order of `locations`, with columns model, significant, unique, total_adjusted_r2,
        ceiling_lower, stability and q, and optionally those of `network_maps`; share is that of all predictors
        together.

    Returns
    -------
    list of LabelMap and ValueMap
        The first shows the best network or the strongest group.
    """
    if all(model.key == model.group for model in models):
        key, title, more = "strongestGroup", "Strongest group", " and exceeds that of every other group."
    else:
        key, title, more = "bestNetwork", "Best network", "."
    where = "." if "explained" in first else f", where its unique variance is significant{more}"
    return [
        _winners(locations, models, colors, first.assign(winner=first["model"]), unit="ROIs", key=key, title=title,
                 note=f"The {title.lower()} of each ROI{where}"),
        _values(locations, first["unique"], "unique", f"Unique variance of the {title.lower()}", _UNIQUE,
                name="unique variance",
                note=f"What the {title.lower()} explains and the other predictors in the regression do not."),
        _values(locations, first["total_adjusted_r2"], "total", "Total variance", "adjusted R² of the regression",
                name="total variance", note="Variance explained by all predictors in the regression together."),
        *_common_maps(locations, first, title.split()[-1], of="all predictors in the regression together"),
    ]  # fmt: skip


def _common_maps(locations: Locations, table: pd.DataFrame, what: str, of: str) -> list[Map]:
    threshold = " Searchlights below the threshold are not tested." if "tested" in table else ""
    more, ceiling, lead = [], [], []
    if "share" in table and table["share"].notna().any():
        more.append(
            _values(locations, table["share"], "share", "Share of the explainable variance",
                    "share of the explainable variance", name="share of explainable", high=1,
                    note=f"Variance explained by {of} as a share of what any model could explain (reliability of the "
                         "mean RDM over participants)."),
        )  # fmt: skip
    if "cv_ceiling" in table:
        name, called = ("cv_unique", "unique variance") if what == "group" else ("cv_r2", "R²")
        more.append(
            _values(locations, table[name], "crossValidated", f"Cross-validated {called}",
                    f"{called} in new participants and images", name=f"cross-validated {called}",
                    note=f"What the winning {what} predicts of the RDMs of participants and images that were not used "
                         "to fit."),
        )  # fmt: skip
    if "negative_share" in table:
        more.append(
            _values(locations, table["negative_share"], "negativeWeights", "Negative weights",
                    "share of R² from negative weights", name="from negative weights", high=1,
                    note=f"Share of the variance explained by the winning {what} that takes negative weights; 1: all "
                         "of its RDMs correlate negatively with the brain's."),
        )  # fmt: skip
    if table["ceiling_lower"].notna().any():
        ceiling.append(
            _values(locations, table["ceiling_lower"], "noiseCeiling", "Noise ceiling",
                    "lower noise ceiling (mean Spearman correlation)", name="noise ceiling",
                    note="Consistency of RDMs across participants." + threshold),
        )  # fmt: skip
    if "q_lead" in table:
        lead.append(
            _values(locations, _minus_log10(table["q_lead"]), "lead", "Lead", "−log₁₀ q of the lead",
                    name="lead: −log₁₀ q",
                    note=f"Whether the winning {what} leads every other; q = .05 is 1.3."),
        )  # fmt: skip
    return [
        *more,
        _values(locations, table["stability"], "stability", "Stability of the winner",
                f"proportion of subsets of the conditions with the same {what}", name="stability", high=1,
                note=f"How often the same {what} wins when some of the conditions are left out (1: always)."),
        *ceiling,
        _values(locations, _minus_log10(table["q"]), "significance", "Significance", "−log₁₀ q",
                note=f"Of the winning {what}; q = .05 is 1.3."),
        *lead,
    ]  # fmt: skip


def _minus_log10(q: pd.Series) -> pd.Series:
    # A q value of 0 cannot come out of a permutation test, but of a t-test.
    return -np.log10(np.clip(q, 1e-16, 1))


def _winners(
    locations: Locations, models: Sequence[Model], colors: Mapping[str, str], table: pd.DataFrame, **texts: Any
) -> LabelMap:
    """The winning model at each location, or why there is none; one row of `table` per location."""
    ordered = [models[i] for i in legend_order(models)]
    n = len(ordered)
    names = [model.label for model in ordered]
    shades = [colors[model.key] for model in ordered]
    # Groups as labels are listed under no group.
    groups = ["" if model.key == model.group else model.group for model in ordered]
    others = {NOT_SIGNIFICANT: NOT_SIGNIFICANT_COLOR}
    number = table["winner"].map({model.key: k for k, model in enumerate(ordered, start=1)})
    labels = np.where(table["significant"], number, n + 1)
    if "tested" in table:
        # Without a noise ceiling, what is not tested has an RDM that says nothing.
        others[BELOW_CEILING if table["ceiling_lower"].notna().any() else WITHOUT_RDM] = BELOW_CEILING_COLOR
        labels = np.where(table["tested"], labels, n + 2)
    names, shades, groups = [*names, *others], [*shades, *others.values()], [*groups, *[""] * len(others)]
    if "explained" in table:
        first = len(names)
        is_pale = table["explained"] & (labels == n + 1)
        labels = np.where(is_pale, number + first, labels)
        names += [f"{model.label} ({PALE})" for model in ordered]
        # One tint for all networks of a group: which of them wins there is not known for sure.
        shades += [pale_color(colors[model.group]) for model in ordered]
        groups += groups[:n]
        texts["pale"] = {k: first + k for k in range(n)}
        candidates = table["candidates"].where(is_pale, "")
        texts["candidate_names"] = ["", *candidates[candidates != ""].unique()]
        codes = pd.Categorical(candidates, categories=texts["candidate_names"]).codes
        texts["candidates"] = locations.to_volume(codes.astype(np.int32))
    labels = labels.astype(np.int16)
    return LabelMap(
        data=locations.to_volume(labels),
        affine=locations.affine,
        space=locations.space,
        vertices=locations.vertices,
        names=names,
        colors=shades,
        legend_groups=groups,
        counts=[int((labels == k).sum()) for k in range(1, len(names) + 1)],
        **texts,
    )


def _values(
    locations: Locations,
    values: ArrayLike,
    key: str,
    title: str,
    unit: str,
    *,
    note: str,
    name: str = "",
    high: float | None = None,
) -> ValueMap:
    """One value per location, on a colour bar from 0."""
    return ValueMap(
        locations.to_volume(np.asarray(values, dtype=np.float32), background=np.nan), locations.affine, title, unit,
        name or unit, 0, high, note=note, key=key, space=locations.space, vertices=locations.vertices,
    )  # fmt: skip


def _letters(text: str) -> str:
    """Letters and digits of a name, which is all that the names of BIDS files may have."""
    return "".join(character for character in text.title() if character.isalnum() and character.isascii())


def save_maps(
    outputs: Outputs, maps: Sequence[Map], look: Look, notes: Sequence[str], atlas: Atlas | SurfaceLabels | None
) -> None:
    """Write the page of all maps, nilearn's page of the first, and files for other programs.

    Parameters
    ----------
    outputs : Outputs
    maps : sequence of LabelMap or ValueMap
        The first is a `LabelMap`.
    look : Look
    notes : sequence of str
        Sentences below the maps: thresholds, number of permutations, what is not shown.
    atlas : Atlas, SurfaceLabels or None
        ROIs, for hover texts and outlines.

    Raises
    ------
    InputError
        If the surface cannot be downloaded.
    """
    page = outputs.path("brain_map.html")
    if look.surface is None:
        write_slices(page, maps, look, notes)
    else:
        write_explorer(page, maps, look, notes, atlas=atlas)
    assert isinstance(maps[0], LabelMap)
    write_nilearn_page(outputs.path("brain_map_nilearn.html"), maps[0], look, notes)
    for own in maps:
        save_map(outputs, own, simulated=look.banner is not None, surface=look.surface)


def warn_of_space(label_map: LabelMap) -> None:
    """Say where volumes are not drawn on the cortex and why, or that they do not fit it.

    Parameters
    ----------
    label_map : LabelMap
    """
    if label_map.affine is None:
        return
    drawn = label_map.data > 0
    share = share_near_cortex(drawn, label_map.affine) if drawn.any() else 0.0
    near = f"{share:.0%} of the voxels lie within {NEAR_CORTEX_MM:g} mm of the cortex of MNI space"
    slices = "maps are drawn as slices of the volume, not on the average cortex"
    if not is_mni(label_map.space):
        known = describe(label_map.space)
        if known is None:
            warnings.warn(f"the data are in space {label_map.space}, not in MNI space: {slices}", stacklevel=2)
            return
        warnings.warn(
            f"the data seem to be in another space than MNI space, as {known}: {slices}. If they are in MNI space, say "
            f"so with `space` MNI152NLin2009cAsym (or their template): {near}; of a brain in MNI space, most do",
            stacklevel=2,
        )
    elif share < 0.5:
        empty = (
            ""
            if any((half > 0).any() for half in sample(label_map.data, label_map.affine).values())
            else (", and none meets it: the map on the page is empty")
        )
        warnings.warn(
            f"only {near}{empty}; if the data are in another space, say which as `space`, and maps are drawn as slices",
            stacklevel=2,
        )


def save_montage(outputs: Outputs, maps: Sequence[Map], look: Look, notes: Sequence[str]) -> None:
    """Write the still picture of the first map, and of how stable its labels are, as figure.svg and figure.png.

    Parameters
    ----------
    outputs : Outputs
    maps : sequence of LabelMap or ValueMap
        Those of `network_maps` or `group_maps`.
    look : Look
    notes : sequence of str
        The small print below.

    Raises
    ------
    InputError
        If the surface cannot be downloaded.
    """
    labels = maps[0]
    assert isinstance(labels, LabelMap)
    stability = next(own.data for own in maps if own.key == "stability")
    # Where nothing is significant there is no winner, however often it comes first.
    nobody = [
        k for k, name in enumerate(labels.names, start=1) if name in (NOT_SIGNIFICANT, BELOW_CEILING, WITHOUT_RDM)
    ]
    won = (labels.data > 0) & ~np.isin(labels.data, nobody)
    figure = montage(labels, look, " ".join(notes), np.where(won, stability, np.nan))
    save_figure(figure, outputs.path("figure.svg"), outputs.path("figure.png"))
