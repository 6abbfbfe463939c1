"""Atlases: volumes of ROI labels in the forms in which they are published, brought to the grid of the beta maps."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.io.readers import open_image, read_volume
from utils.io.roi_tables import read_roi_table
from utils.io.spaces import MNI, UNKNOWN, read_space
from utils.rdms.beta_files import Grid, read_slice
from utils.rdms.stimuli import few, natural_key
from utils.rdms.vertices import split_side

Hemisphere = Literal["left", "right", "both", "separate"]
# Wang et al. 2015, in the order of their numbers 1-25; MST is their TO2, hMT their TO1.
WANG_ROIS = (
    "V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4", "VO1", "VO2", "PHC1", "PHC2", "MST", "hMT", "LO2", "LO1", "V3b",
    "V3a", "IPS0", "IPS1", "IPS2", "IPS3", "IPS4", "IPS5", "SPL1", "FEF",
)  # fmt: skip
_WANG_FILE = re.compile(r"(maxprob|perc_VTPM)_vol_|wang15_mplbl", re.IGNORECASE)
_LARGEST_ID = 32767  # label volumes are written as 16-bit integers
# Labels that were scaled to integers on disk come back so much off: 3 as 2.99992, with 8 bits 3.05.
_ROUNDING = 0.1


@dataclass(frozen=True)
class Atlas:
    """A volume of ROI labels.

    Attributes
    ----------
    labels : ndarray of int, shape (X, Y, Z)
        Number of the ROI of each voxel, 0 outside all.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to mm.
    names : dict of int to str
        Names of the ROIs by their numbers, with or without voxels.
    source : str
        File or files, for messages.
    space : str
        What the millimetres are coordinates of: see `utils.io.spaces`.
    """

    labels: NDArray
    affine: NDArray[np.float64]
    names: dict[int, str]
    source: str = ""
    space: str = UNKNOWN
    vertices: ClassVar[None] = None


def read_atlas(
    paths: Sequence[Path],
    grid: Grid | None = None,
    table: Path | None = None,
    hemisphere: Hemisphere = "both",
    threshold: float | None = None,
) -> Atlas:
    """Read an atlas, bring it to a grid, and choose hemispheres.

    Parameters
    ----------
    paths : sequence of Path
        One volume of labels, one per hemisphere, or probability maps.
    grid : Grid, optional
        Where it belongs: that of the beta maps, by default that of the first volume. On another grid, each voxel takes
        the value of the nearest.
    table : Path, optional
        Names: see `utils.io.roi_tables.read_roi_table`. Not needed for the files of Wang et al. 2015.
    hemisphere : {"left", "right", "both", "separate"}
        "separate" makes ROIs <name>_lh and <name>_rh, and adds a power of ten to the ids of the right ones.
    threshold : float, optional
        Volumes are probability maps, and voxels of this or more belong to an ROI.

    Returns
    -------
    Atlas

    Raises
    ------
    InputError
        If files are unreadable or hold something else, names are missing, or hemispheres are not clear.
    """
    sides = files_by_side(paths)
    if "whole" not in sides:
        wanted = ("left", "right") if hemisphere in ("both", "separate") else (hemisphere,)
        sides = choose_sides(sides, wanted, hemisphere)
    names = read_roi_table(table) if table is not None else wang_names(paths)
    every = [path for files in sides.values() for path in files]
    where, what = " where the beta maps are", "the beta maps are"
    if grid is None:
        grid, where, what = grid_of(every[0]), "", f"{every[0].name} is"
    _warn_of_resampling(every, grid, what)
    volumes: dict[str, NDArray[np.int32]] = {}
    for side, files in sides.items():
        read = _read_labels(files, grid) if threshold is None else _read_maps(files, grid, names, threshold)
        if side == "whole" and hemisphere != "both":
            volumes |= {half: np.where(_on_side(half, grid), read, 0) for half in ("left", "right")}
        else:
            volumes[side] = read
    source = ", ".join(str(path) for path in paths[:2]) + (", …" if len(paths) > 2 else "")
    found = np.unique(np.concatenate([volume[volume > 0] for volume in volumes.values()])).tolist()
    unnamed = [label for label in found if label not in names]
    if unnamed == found:
        raise InputError(
            f"{source}: holds none of the {len(names)} ids of {table or 'Wang et al. 2015'}{where} "
            f"(found {few(found) or 'nothing'}); give the matching table as `roi_labels`, or an atlas in the space of "
            "the beta maps"
        )
    if unnamed:
        warnings.warn(f"{source}: label(s) {few(unnamed)} have no name in the table and are left out", stacklevel=2)
        volumes = {side: np.where(np.isin(volume, unnamed), 0, volume) for side, volume in volumes.items()}
    largest = max(label for label in found if label in names)
    if largest > _LARGEST_ID:
        raise InputError(f"{source}: label {largest} is too large, expected {_LARGEST_ID} or less; renumber the atlas")
    if hemisphere == "separate":
        names, shift = separate_names(names, largest, source)
        volumes["right"] = np.where(volumes["right"] > 0, volumes["right"] + shift, 0)
    chosen = [volumes[hemisphere]] if hemisphere in volumes else list(volumes.values())
    space = MNI if all(map(_WANG_FILE.search, map(str, every))) else read_space(every)
    return Atlas(_joined(chosen, source), grid.affine, names, source, space)


def separate_names(names: dict[int, str], largest: int, source: str) -> tuple[dict[int, str], int]:
    """Names of ROIs by hemisphere, <name>_lh and <name>_rh, and what is added to the numbers of the right ones.

    Raises
    ------
    InputError
        If numbers up to `largest` leave no room for those.
    """
    shift = 10 ** len(str(largest))
    if shift + largest > _LARGEST_ID:
        raise InputError(
            f"{source}: ids up to {largest} leave no room for those of separate hemispheres (`hemisphere`); renumber"
        )
    left = {number: name for number, name in names.items() if number < shift}
    right = {number + shift: f"{name}_rh" for number, name in left.items()}
    return {number: f"{name}_lh" for number, name in left.items()} | right, shift


def brings_names(paths: Sequence[Path]) -> bool:
    """Whether the names of an atlas's ROIs are known without a table, by the names of its files."""
    return all(path.suffix in (".annot", ".gii") or _WANG_FILE.search(path.name) for path in paths)


def wang_names(paths: Sequence[Path]) -> dict[int, str]:
    """The built-in names of the areas of Wang et al. 2015; an InputError if files are not named as that atlas's."""
    other = next((path for path in paths if not _WANG_FILE.search(path.name)), None)
    if other is not None:
        raise InputError(
            f"{other}: names of its ROIs are not known; give the atlas's table of ids and names as `roi_labels` "
            "(only those of Wang et al. 2015 are built in: maxprob_vol_…, perc_VTPM_vol_… and wang15_mplbl…)"
        )
    return dict(enumerate(WANG_ROIS, start=1))


def files_by_side(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Files of each hemisphere, or of the whole brain, by what their names say.

    Parameters
    ----------
    paths : sequence of Path

    Returns
    -------
    dict of str to list of Path
        "left" and "right", or "whole" if names say no hemisphere.

    Raises
    ------
    InputError
        If a file is missing, or only some of the names say a hemisphere.
    """
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected an atlas")
    sides: dict[str, list[Path]] = {}
    for path in sorted(dict.fromkeys(paths), key=lambda path: natural_key(path.name)):
        sides.setdefault(split_side(path.name)[0] or "whole", []).append(path)
    if "whole" in sides and len(sides) > 1:
        raise InputError(
            f"{sides['whole'][0]}: its name says no hemisphere, unlike those of other files; expected lh or rh as "
            "a part of every name, such as maxprob_vol_lh.nii.gz"
        )
    return sides


def choose_sides(sides: dict[str, list[Path]], wanted: Sequence[str], hemisphere: Hemisphere) -> dict[str, list[Path]]:
    """Files of the wanted hemispheres; an InputError that names `hemisphere` if there are none of one of them."""
    for side in wanted:
        if side not in sides:
            other = "left" if side == "right" else "right"
            raise InputError(
                f"{sides[other][0]}: no file of the {side} hemisphere is given, which `hemisphere` {hemisphere} needs; "
                f"give it, or `hemisphere` {other}"
            )
    return {side: sides[side] for side in wanted}


def _on_side(side: str, grid: Grid) -> NDArray[np.bool_]:
    """Voxels of a hemisphere; those exactly in the middle are in neither."""
    i, j, k = np.ogrid[tuple(slice(0, size) for size in grid.shape)]
    x = grid.affine[0, 0] * i + grid.affine[0, 1] * j + grid.affine[0, 2] * k + grid.affine[0, 3]
    return np.asarray(x < 0 if side == "left" else x > 0)


def _joined(volumes: Sequence[NDArray[np.int32]], source: str) -> NDArray[np.int32]:
    """One volume of labels; voxels that carry different ones belong to none."""
    joined = volumes[0].copy()
    for volume in volumes[1:]:
        clash = (joined > 0) & (volume > 0) & (joined != volume)
        joined = np.where(joined > 0, joined, volume)
        joined[clash] = 0
        if clash.any():
            warnings.warn(
                f"{source}: {clash.sum()} voxel(s) have different labels in the two hemispheres and are left out",
                stacklevel=3,
            )
    return joined


def _read_labels(files: Sequence[Path], grid: Grid) -> NDArray[np.int32]:
    if len(files) > 1:
        raise InputError(
            f"{files[1]}: is a second volume of the same hemisphere beside {files[0].name}; expected one, "
            "or probability maps with a `threshold` (utils.rois)"
        )
    data, affine = _read(files[0])
    if data.ndim != 3:
        raise InputError(
            f"{files[0]}: has {data.ndim} dimensions, expected 3-D labels; of probability maps, "
            "utils.rois makes labels with a `threshold`"
        )
    return _on_grid(as_labels(files[0], data), affine, grid)


def as_labels(path: Path, data: NDArray) -> NDArray[np.int32]:
    """Whole numbers from the values of a file: NaN is outside of all ROIs, and what is nearly whole is rounded.

    Parameters
    ----------
    path : Path
        Whose values they are, for messages.
    data : ndarray

    Returns
    -------
    ndarray of int32

    Raises
    ------
    InputError
        If values are negative, infinite or not nearly whole.
    """
    labels = np.where(np.isnan(data), 0, data)
    rounded = np.rint(labels)
    if not np.isfinite(labels).all() or (np.abs(labels - rounded) > _ROUNDING).any() or (rounded < 0).any():
        raise InputError(
            f"{path}: holds values that are not labels (whole numbers from 0 on); of probability maps, utils.rois "
            "makes labels with a `threshold`"
        )
    return rounded.astype(np.int32)


def grid_of(path: Path) -> Grid:
    """The grid of a volume of three or four dimensions."""
    image = open_image(path)
    return Grid(tuple(image.shape[:3]), np.asarray(image.affine, dtype=np.float64))


def _read_maps(files: Sequence[Path], grid: Grid, names: dict[int, str], threshold: float) -> NDArray[np.int32]:
    """Labels from probability maps: the ROI of the largest value, where that reaches the threshold."""
    best = np.full(grid.shape, -np.inf)
    labels = np.zeros(grid.shape, dtype=np.int32)
    for number, data, affine in _maps_of(files, names):
        values = np.nan_to_num(_on_grid(data, affine, grid))
        larger = (values >= threshold) & (values > best)
        labels[larger], best[larger] = number, values[larger]
    if not labels.any():
        raise InputError(
            f"{files[0]}: no value reaches `threshold` {threshold:g} where the beta maps are; "
            "give one in the unit of the maps (percent or share), or maps in the space of the beta maps"
        )
    return labels


def _maps_of(
    files: Sequence[Path], names: dict[int, str]
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    """Number, values and affine of every probability map, one after the other."""
    first, affine = _read(files[0])
    if first.ndim == 4:
        if len(files) > 1:
            raise InputError(f"{files[0]}: is 4-D, expected it to be the only file of a hemisphere, or 3-D files")
        if first.shape[3] != len(names):
            raise InputError(
                f"{files[0]}: holds {first.shape[3]} maps, expected {len(names)}, one for each ROI of the table"
            )
        yield from ((number, first[..., i], affine) for i, number in enumerate(sorted(names)))
        return
    seen = set()
    for path in files:
        number = _number_of(path, names)
        if number in seen:
            raise InputError(f"{path}: is a second map of ROI {names[number]} (id {number}); give one per hemisphere")
        data, affine = _read(path)
        if data.ndim != 3:
            raise InputError(f"{path}: has {data.ndim} dimensions, expected 3, as in {files[0].name}")
        seen.add(number)
        yield number, data, affine


def _number_of(path: Path, names: dict[int, str]) -> int:
    """ROI of a probability map, from `roi1` in its name, or from its name in the table as a part of it."""
    words = re.split(r"[_.]", path.name)
    numbers = [int(m[1]) for word in words if (m := re.fullmatch(r"roi-?0*(\d+)", word, re.IGNORECASE))]
    numbers += [number for number, name in names.items() if name in words]
    if not numbers or numbers[0] not in names:
        raise InputError(
            f"{path}: which ROI it is of is not clear; expected its id, such as roi1, or its name as a part of the "
            "file name, and that in the table"
        )
    return numbers[0]


def _read(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Data of 3 or 4 dimensions, and affine."""
    image = open_image(path)
    if len(image.shape) != 4 or image.shape[3] == 1:
        return read_volume(path)
    return read_slice(path, np.s_[...], image).astype(np.float64), np.asarray(image.affine)


def _warn_of_resampling(files: Sequence[Path], grid: Grid, what: str) -> None:
    """One warning, however many files are on other grids than `what`."""
    for path in files:
        own = grid_of(path)
        if not own.equals(grid):
            warnings.warn(
                f"{path}: is on a grid of {own}, but {what} on one of {grid}; atlas voxels are resampled to that "
                "(nearest neighbour)",
                stacklevel=3,
            )
            return


def _on_grid(data: NDArray, affine: NDArray[np.float64], grid: Grid) -> NDArray:
    """Value of the nearest voxel for each voxel of a grid; 0 outside the volume."""
    if Grid(data.shape, affine).equals(grid):
        return data
    indices = np.indices(grid.shape).reshape(3, -1)
    to_atlas = np.linalg.inv(affine) @ grid.affine
    # Halfway between two voxels the upper one is taken, whatever rounding in the affines says.
    nearest = np.floor(to_atlas[:3, :3] @ indices + to_atlas[:3, 3:] + 0.5 + 1e-6).astype(np.int64)
    inside = ((nearest >= 0) & (nearest < np.array(data.shape)[:, None])).all(axis=0)
    values = np.zeros(indices.shape[1], dtype=data.dtype)
    values[inside] = data[tuple(nearest[:, inside])]
    return values.reshape(grid.shape)
