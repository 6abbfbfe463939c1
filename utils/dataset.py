"""The data folder: where things lie, how they are read, and what is checked before any number is computed.

Two layouts are read, the published release's and a generic one (data/README.md describes both).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.tasks import BASELINE, TASK_LAYERS, TASKS, Model, group_colors, group_names, shades
from utils import InputError
from utils.files import open_array, read_noise_ceiling, read_rdms, read_table, read_volume
from utils.geometry import Geometry, block_geometry
from utils.noise_ceiling import noise_ceiling
from utils.rdm import n_conditions_of, n_pairs_of

Progress = Callable[[int, int], None]
Kind = Literal["searchlight", "roi"]

# The 15 regions of the paper's figures, in its order.
PAPER_ROIS = (
    "V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4", "VO1", "VO2", "PHC1", "PHC2", "LO2", "LO1", "V3b", "V3a",
)  # fmt: skip

_SLICE_BYTES = 32 * 2**20
_PLACES_PER_THREAD = 8
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


@dataclass(frozen=True)
class ModelRdms:
    """Model RDMs: `rdms` is float64 of shape (n_models, n_layers, n_pairs), in the order of `models` and `layers`."""

    models: list[Model]
    layers: list[str]
    rdms: NDArray[np.float64]

    @property
    def n_conditions(self) -> int:
        """Number of conditions."""
        return n_conditions_of(self.rdms.shape[-1])

    def grouped(self) -> ModelRdms:
        """Groups of models instead of models: the mean RDM of each group, per layer, without the baseline.

        Raises
        ------
        InputError
            If fewer than two groups are left.
        """
        groups = [group for group in group_names(self.models) if group != BASELINE]
        if len(groups) < 2:
            raise InputError(
                f"the models form {len(groups)} group(s) besides the baseline, but variance can only be partitioned "
                "among two or more: give more groups in the `group` column of models.tsv"
            )
        colors = group_colors(groups)
        members = [[i for i, model in enumerate(self.models) if model.group == group] for group in groups]
        return ModelRdms(
            models=[Model(group, group, group, colors[group]) for group in groups],
            layers=self.layers,
            rdms=np.stack([self.rdms[rows].mean(axis=0) for rows in members]),
        )


@dataclass(frozen=True)
class RoiRdms:
    """ROI RDMs: per ROI its name, number in the atlas, and subjects' RDMs, float64 of shape (n_subjects, n_pairs)."""

    names: list[str]
    ids: list[int]
    subjects: list[NDArray[np.float64]]

    def mean(self) -> NDArray[np.float64]:
        """Mean RDM over subjects, (n_rois, n_pairs)."""
        return np.stack([rdms.mean(axis=0) for rdms in self.subjects])

    def ceilings(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper noise ceiling (mean Spearman correlation) of each ROI; NaN for a single subject."""
        both = [noise_ceiling(rdms[:, None]) if len(rdms) > 1 else (np.array([np.nan]),) * 2 for rdms in self.subjects]
        return np.concatenate([low for low, _ in both]), np.concatenate([high for _, high in both])


@dataclass(frozen=True)
class Atlas:
    """Where ROIs lie.

    Attributes
    ----------
    labels : ndarray of int64, shape (X, Y, Z)
        Number of each voxel's ROI.
    affine : ndarray, shape (4, 4)
        Voxel indices to mm.
    names : dict of int to str
        Names of the ROIs, by their numbers.
    """

    labels: NDArray[np.int64]
    affine: NDArray[np.float64]
    names: dict[int, str]


@dataclass(frozen=True)
class SearchlightRdms:
    """Searchlight RDMs.

    Attributes
    ----------
    mean : ndarray of float64, shape (n_searchlights, n_pairs)
        Mean over subjects.
    ceiling_lower, ceiling_upper : ndarray of float64, shape (n_searchlights,)
        Mean Spearman correlations.
    geometry : Geometry
        Voxels that each searchlight stands for.
    usable : ndarray of bool, shape (n_searchlights,)
        False where RDMs hold NaN or inf, or do not vary.
    n_subjects : int
    blocks : callable
        Iterates over (slice of searchlights, condensed RDMs of all subjects (n_subjects, n, n_pairs)).
    """

    mean: NDArray[np.float64]
    ceiling_lower: NDArray[np.float64]
    ceiling_upper: NDArray[np.float64]
    geometry: Geometry
    usable: NDArray[np.bool_]
    n_subjects: int
    blocks: Callable[[], Iterator[tuple[slice, NDArray]]]


# ------------------------------------------------------------------------------------------------- where things lie


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


# ---------------------------------------------------------------------------------------------------------- models


def load_models(sources: Sources, layers: Sequence[str] | None = None, keys: Sequence[str] | None = None) -> ModelRdms:
    """Read and check the model RDMs.

    Parameters
    ----------
    sources : Sources
    layers : sequence of str, optional
        Layers to use, in this order; by default all that the files have.
    keys : sequence of str, optional
        Models to use; by default all of the table.

    Returns
    -------
    ModelRdms

    Raises
    ------
    InputError
        For an unknown model, a missing or doubled layer, or an RDM that is none.
    """
    models: list[Model] = list(TASKS) if sources.models is None else read_model_table(sources.models)
    table = [model.key for model in models]
    if keys is not None:
        models = _choose(keys, models, table, "model")
    known_layers = list(layers) if layers else (list(TASK_LAYERS) if sources.models is None else None)
    files = _layer_files(sources.dnn_rdms, table, known_layers)
    chosen = {model.key for model in models}
    layers = known_layers or sorted({layer for key, layer in files if key in chosen}, key=_layer_position)
    _check_layer_files(files, [model.key for model in models], layers, sources.dnn_rdms)
    rdms, size = [], None
    for model in models:
        for layer in layers:
            path = files[model.key, layer][0]
            rdm = read_rdms(path, "rdm", f"model {model.key}, layer {layer}")
            if rdm.ndim != 1:
                raise InputError(f"{path}: found a stack of {len(rdm)} RDMs, expected one (n, n) matrix")
            size = size or rdm.size
            if rdm.size != size:
                raise InputError(
                    f"{path}: found {n_conditions_of(rdm.size)} conditions, expected {n_conditions_of(size)} as in "
                    f"{files[models[0].key, layers[0]][0].name}: all RDMs must be of the same conditions"
                )
            rdms.append(rdm)
    loaded = ModelRdms(models, layers, np.stack(rdms).reshape(len(models), len(layers), -1))
    if sources.conditions is not None:
        names = sources.conditions.read_text(encoding="utf-8").split("\n")
        n_names = sum(bool(name.strip()) for name in names)
        if n_names != loaded.n_conditions:
            raise InputError(
                f"{sources.conditions}: names {n_names} conditions, but the model RDMs have {loaded.n_conditions}; "
                "both must be of the same conditions in the same order"
            )
    return loaded


def read_model_table(path: Path) -> list[Model]:
    """Read `models.tsv`: tab-separated columns key, label, group and optionally color.

    Models without a colour get shades of their group's.

    Raises
    ------
    InputError
        If columns are missing, a key stands twice, a value is empty, or a colour is not ``#rrggbb``.
    """
    rows = read_table(path, "\t", ("key", "label", "group"))
    keys = [row["key"] for row in rows]
    doubled = sorted({key for key in keys if keys.count(key) > 1})
    if doubled:
        raise InputError(f"{path}: model(s) {', '.join(doubled)} stand more than once; give every model one row")
    plain = [Model(row["key"], row["label"], row["group"], "") for row in rows]
    colors = group_colors(group_names(plain))
    models = []
    for row, model in zip(rows, plain, strict=True):
        siblings = [other.key for other in plain if other.group == model.group]
        shade = shades(colors[model.group], len(siblings))[siblings.index(model.key)]
        color = row.get("color") or shade
        if len(color) != 7 or color[0] != "#" or any(c not in "0123456789abcdefABCDEF" for c in color[1:]):
            raise InputError(
                f"{path}: model {model.key} has color '{color}', expected a hexadecimal one such as #0077BB"
            )
        models.append(Model(model.key, model.label, model.group, color))
    return models


def _layer_position(layer: str) -> tuple[int, str]:
    return (TASK_LAYERS.index(layer) if layer in TASK_LAYERS else len(TASK_LAYERS), layer)


def _layer_files(folder: Path, table: Sequence[str], layers: list[str] | None) -> dict[tuple[str, str], list[Path]]:
    """Files of each (model, layer).

    A file belongs to the model whose key is the longest run of whole tokens at its start: ``class_places_...`` is never
    taken for ``class``, nor a folder name for a model. What is left names the layer; the release puts `encoder` or
    `feedforward_encoder` in between.
    """
    files: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(folder.iterdir()):
        stem = path.stem.strip()
        owner = max((key for key in table if stem.startswith(key + "_")), key=len, default=None)
        if owner is None or path.suffix not in (".mat", ".npy") or path.name.startswith("."):
            continue
        rest = stem[len(owner) + 1 :]
        named = [rest] if layers is None else [name for name in layers if ("_" + rest).endswith("_" + name)]
        if named:
            files.setdefault((owner, max(named, key=len)), []).append(path)
    return files


def _check_layer_files(
    files: dict[tuple[str, str], list[Path]], keys: Sequence[str], layers: Sequence[str], folder: Path
) -> None:
    if not layers:
        raise InputError(
            f"{folder}: no RDM file of any model found; expected <model>_<layer>.npy or .mat for {', '.join(keys)}"
        )
    missing = [f"{key} {layer}" for key in keys for layer in layers if (key, layer) not in files]
    if missing:
        raise InputError(
            f"{folder}: no RDM file for {len(missing)} of {len(keys) * len(layers)} (model, layer): "
            f"{', '.join(missing)}; expected <model>_<layer>.npy or .mat with layers {', '.join(layers)}; "
            "a layer that only some models have can be left out with --layers, a model with --models"
        )
    doubled = {pair: found for pair, found in files.items() if len(found) > 1 and pair[0] in keys and pair[1] in layers}
    if doubled:
        listing = "; ".join(
            f"{key} {layer}: {', '.join(path.name for path in found)}" for (key, layer), found in doubled.items()
        )
        raise InputError(f"{folder}: more than one RDM file for the same model and layer ({listing}); keep one of them")


# ------------------------------------------------------------------------------------------------------------ ROIs


def load_rois(sources: Sources, n_conditions: int, names: Sequence[str] | None = None) -> RoiRdms:
    """Read and check the ROI RDMs of all subjects.

    Parameters
    ----------
    sources : Sources
    n_conditions : int
        Number of conditions that the models have.
    names : sequence of str, optional
        ROIs to use, in this order; by default the paper's 15 where the table has them all, otherwise all.

    Returns
    -------
    RoiRdms

    Raises
    ------
    InputError
        For an unknown ROI, a table without its columns, missing files, or RDMs that are none.
    """
    assert sources.roi_labels is not None
    table = read_roi_labels(sources.roi_labels)
    known = [name for _, name in table]
    if names is None:
        names = PAPER_ROIS if set(PAPER_ROIS) <= set(known) else known
    chosen = _choose(names, table, known, "ROI")
    files: dict[str, Path] = {}
    for path in sorted(sources.fmri_rdms.iterdir()):
        if path.suffix in (".mat", ".npy") and path.stem.strip() in known:
            other = files.setdefault(path.stem.strip(), path)
            if other != path:
                raise InputError(f"{sources.fmri_rdms}: {other.name} and {path.name} are of one ROI; keep one of them")
    missing = [name for _, name in chosen if name not in files]
    if missing:
        raise InputError(
            f"{sources.fmri_rdms}: no RDM file for {len(missing)} ROI(s) of {sources.roi_labels.name}: "
            f"{', '.join(missing)}; expected <roi>.mat or <roi>.npy"
        )
    subjects = []
    for _, name in chosen:
        rdms = np.atleast_2d(read_rdms(files[name], "subject_rdm", f"ROI {name}"))
        _check_conditions(files[name], rdms.shape[-1], n_conditions)
        subjects.append(rdms)
    return RoiRdms([name for _, name in chosen], [number for number, _ in chosen], subjects)


def read_roi_labels(path: Path) -> list[tuple[int, str]]:
    """Read the ROI table: CSV with columns id and roi; blanks around names are stripped.

    Raises
    ------
    InputError
        If a column is missing, an id is no positive whole number, or an id or name stands twice.
    """
    table = []
    for row in read_table(path, ",", ("id", "roi")):
        if not row["id"].isdigit() or int(row["id"]) == 0:
            raise InputError(f"{path}: ROI {row['roi']} has id '{row['id']}', expected a whole number from 1 on")
        table.append((int(row["id"]), row["roi"]))
    for column in zip(*table, strict=True):
        doubled = sorted({str(value) for value in column if column.count(value) > 1})
        if doubled:
            raise InputError(f"{path}: {', '.join(doubled)} stand(s) more than once; ids and names must be unique")
    return table


def load_atlas(sources: Sources) -> Atlas | None:
    """ROIs as a volume; None where there is no volume or no table of their names.

    Raises
    ------
    InputError
        If the volume is not made of whole numbers, or holds none of the ROIs of the table.
    """
    if sources.atlas is None or sources.roi_labels is None:
        return None
    data, affine = read_volume(sources.atlas)
    if not np.isfinite(data).all() or (data != np.round(data)).any():
        raise InputError(f"{sources.atlas}: found values that are not whole numbers, expected the ids of the ROI table")
    labels, names = data.astype(np.int64), dict(read_roi_labels(sources.roi_labels))
    if not np.isin(labels, list(names)).any():
        raise InputError(f"{sources.atlas}: holds none of the ids of {sources.roi_labels}; give a matching --atlas")
    return Atlas(labels, affine, names)


# ----------------------------------------------------------------------------------------------------- searchlights


def load_searchlights(sources: Sources, n_conditions: int, progress: Progress | None = None) -> SearchlightRdms:
    """Read, check and average the searchlight RDMs, a slice of searchlights at a time.

    Memory stays near that of the mean (8 bytes per searchlight and pair), however many subjects there are.

    Parameters
    ----------
    sources : Sources
    n_conditions : int
        Number of conditions that the models have.
    progress : callable, optional
        Called with (searchlights done, searchlights in all).

    Returns
    -------
    SearchlightRdms

    Raises
    ------
    InputError
        For files that are missing or unreadable, a mask that does not match, or no usable searchlight.
    """
    from utils import compiled

    published = sources.fmri_rdms if sources.fmri_rdms.is_file() else sources.fmri_rdms / "all_sub_slrdms.npy"
    if published.exists():
        n_subjects, n_searchlights, blocks = _published_searchlights(published, n_conditions)
    else:
        n_subjects, n_searchlights, blocks = _generic_searchlights(sources.fmri_rdms, n_conditions)
    geometry = _geometry(sources, n_searchlights)
    ceilings = _stored_ceilings(sources.fmri_rdms, n_searchlights)
    mean, usable = np.empty((n_searchlights, n_pairs_of(n_conditions))), np.empty(n_searchlights, dtype=bool)
    lower, upper = ceilings or (np.full(n_searchlights, np.nan), np.full(n_searchlights, np.nan))
    for places, rdms in blocks():
        averages = partial(compiled.average, rdms, mean[places], usable[places])
        compiled.in_threads(averages, rdms.shape[1], _PLACES_PER_THREAD)
        if ceilings is None and n_subjects > 1:
            lower[places], upper[places] = noise_ceiling(rdms)
        if progress is not None:
            progress(min(places.stop, n_searchlights), n_searchlights)
    if n_subjects == 1 and ceilings is None:
        raise InputError(
            f"{sources.fmri_rdms}: found one subject, but the noise ceiling needs two or more; "
            "add subjects, or a noise_ceiling.npz with arrays lower and upper"
        )
    if ceilings is None:
        _keep_ceilings(sources.fmri_rdms, lower, upper)
    usable &= np.isfinite(lower)
    if not usable.any():
        raise InputError(
            f"{sources.fmri_rdms}: every searchlight RDM holds NaN or inf or does not vary; nothing to test"
        )
    return SearchlightRdms(mean, lower, upper, geometry, usable, n_subjects, blocks)


def _published_searchlights(path: Path, n_conditions: int) -> tuple[int, int, Callable[[], Iterator]]:
    """Reader of the release's (n_subjects, n_searchlights, n, n) array."""
    from utils.compiled import upper_triangles

    array = open_array(path)
    if array.ndim != 4 or array.shape[2] != array.shape[3]:
        raise InputError(
            f"{path}: found shape {array.shape}, expected (subjects, searchlights, conditions, conditions)"
        )
    _check_numbers(path, array)
    n_subjects, n_searchlights, n, _ = array.shape
    _check_conditions(path, n_pairs_of(n), n_conditions)
    step = max(1, _SLICE_BYTES // (n_subjects * n_pairs_of(n) * 8))

    def blocks() -> Iterator[tuple[slice, NDArray]]:
        for start in range(0, n_searchlights, step):
            places = slice(start, min(start + step, n_searchlights))
            # Mapped anew for every slice: pages that were read do not pile up in this process's memory.
            yield places, upper_triangles(open_array(path)[:, places])

    return n_subjects, n_searchlights, blocks


def _generic_searchlights(folder: Path, n_conditions: int) -> tuple[int, int, Callable[[], Iterator]]:
    """Reader of one condensed array (n_searchlights, n_pairs) per subject."""
    from utils.compiled import in_threads

    paths = sorted(folder.glob("*.npy")) if folder.is_dir() else []
    if not paths:
        raise InputError(f"{folder}: found neither all_sub_slrdms.npy nor one .npy file per subject")
    arrays = {path: open_array(path) for path in paths}
    shape = arrays[paths[0]].shape
    for path, array in arrays.items():
        if array.ndim != 2 or array.shape != shape:
            raise InputError(
                f"{path}: found shape {array.shape}, expected {shape if len(shape) == 2 else '(searchlights, pairs)'} "
                f"as in {paths[0].name}: condensed RDMs of the same searchlights for every subject"
            )
        _check_numbers(path, array)
    _check_conditions(paths[0], shape[1], n_conditions)
    dtype = np.float32 if all(array.dtype == np.float32 for array in arrays.values()) else np.float64
    step = max(1, _SLICE_BYTES // (len(paths) * shape[1] * 8))

    def blocks() -> Iterator[tuple[slice, NDArray]]:
        for start in range(0, shape[0], step):
            places = slice(start, min(start + step, shape[0]))
            rdms = np.empty((len(paths), places.stop - start, shape[1]), dtype=dtype)

            def read(first: int, last: int, rdms: NDArray = rdms, places: slice = places) -> None:
                for subject in range(first, last):
                    rdms[subject] = open_array(paths[subject])[places]

            in_threads(read, len(paths), 1)
            yield places, rdms

    return len(paths), shape[0], blocks


def _geometry(sources: Sources, n_searchlights: int) -> Geometry:
    if sources.mask is None:
        origin = sources.fmri_rdms / "geometry.npz"
        geometry = Geometry.load(origin)
    else:
        origin = sources.mask
        data, affine = read_volume(origin)
        geometry = block_geometry(np.nan_to_num(data) > 0, affine)
    if len(geometry) != n_searchlights:
        raise InputError(
            f"{origin}: describes {len(geometry)} searchlights, but {sources.fmri_rdms} holds {n_searchlights}; "
            "give the mask that the RDMs were computed with (--mask)"
        )
    return geometry


# --------------------------------------------------------------------------------------------------- noise ceilings


def _stored_ceilings(folder: Path, n_searchlights: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Noise ceilings that lie beside the RDMs, unless these have changed since."""
    folder = folder if folder.is_dir() else folder.parent
    released, kept = folder / "noise_ceiling.pkl", folder / "noise_ceiling.npz"
    if released.exists():
        lower, upper = read_noise_ceiling(released)
        path = released
    elif kept.exists() and kept.stat().st_mtime >= max(f.stat().st_mtime for f in folder.glob("*.npy")):
        arrays = open_array(kept)
        if not {"lower", "upper"} <= set(arrays.files):
            raise InputError(f"{kept}: found arrays {', '.join(arrays.files)}, expected lower and upper")
        if "names" in arrays.files and not _same_files(folder, arrays["names"], arrays["sizes"]):
            return None
        lower, upper, path = arrays["lower"], arrays["upper"], kept
    else:
        return None
    if lower.shape != (n_searchlights,) or upper.shape != (n_searchlights,):
        raise InputError(
            f"{path}: found ceilings of shape {lower.shape} and {upper.shape}, expected ({n_searchlights},) as "
            "there are searchlights; delete the file to have them computed"
        )
    return lower, upper


def _files(folder: Path) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Names and sizes of the RDM files that noise ceilings were computed from."""
    paths = sorted(folder.glob("*.npy"))
    return np.array([path.name for path in paths]), np.array([path.stat().st_size for path in paths], dtype=np.int64)


def _same_files(folder: Path, names: NDArray[np.str_], sizes: NDArray[np.int64]) -> bool:
    found, found_sizes = _files(folder)
    return np.array_equal(found, names) and np.array_equal(found_sizes, sizes)


def _keep_ceilings(folder: Path, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> None:
    """Store computed ceilings beside the RDMs; a folder that cannot be written to is left as it is."""
    folder = folder if folder.is_dir() else folder.parent
    temporary = folder / f".noise_ceiling.{os.getpid()}.npz"
    try:
        names, sizes = _files(folder)
        np.savez(temporary, lower=lower, upper=upper, names=names, sizes=sizes)
        temporary.replace(folder / "noise_ceiling.npz")
    except OSError:
        temporary.unlink(missing_ok=True)


def _choose(wanted: Sequence[str], items: Sequence[Any], names: Sequence[str], kind: str) -> list[Any]:
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise InputError(f"unknown {kind}(s) {', '.join(unknown)}; there are {', '.join(names)}")
    return [items[names.index(name)] for name in dict.fromkeys(wanted)]


def _check_numbers(path: Path, array: NDArray) -> None:
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: holds values of type {array.dtype}, expected numbers")


def _check_conditions(path: Path, n_pairs: int, n_conditions: int) -> None:
    if n_pairs != n_pairs_of(n_conditions):
        try:
            found = f"{n_conditions_of(n_pairs)} conditions"
        except ValueError:
            found = f"{n_pairs} entries per RDM, which no number of conditions gives,"
        raise InputError(
            f"{path}: found {found} where the model RDMs have {n_conditions}; both must be of the same conditions"
        )
