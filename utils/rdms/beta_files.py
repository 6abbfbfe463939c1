"""Files of beta maps: which maps a file or folder holds, and their values.

Every map is of one condition, in one run. Files say which by their names; a table says it where they do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.io.readers import readable
from utils.rdms.stimuli import natural_key

_GRID_TOLERANCE_MM = 1e-3
_READ_BYTES = 64 * 2**20  # of a 4-D file at a time
_NIFTI = re.compile(r"\.nii(\.gz)?$")
_NOT_THE_CONDITION = re.compile(r"(sub|ses|run)-[A-Za-z0-9]+")


@dataclass(frozen=True)
class Grid:
    """Voxels of a volume: how many along each axis, and where they are."""

    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    def equals(self, other: Grid) -> bool:
        """Whether voxels are the same, to a thousandth of a millimetre."""
        same_place = np.allclose(self.affine, other.affine, rtol=0, atol=_GRID_TOLERANCE_MM)
        return self.shape == other.shape and bool(same_place)

    def __str__(self) -> str:
        size = np.linalg.norm(self.affine[:3, :3], axis=0)
        voxels, millimetres = (" x ".join(f"{v:g}" for v in values) for values in (self.shape, size.round(3)))
        return f"{voxels} voxels of {millimetres} mm, first at ({', '.join(f'{v:g}' for v in self.affine[:3, 3])}) mm"


@dataclass(frozen=True)
class BetaMap:
    """One map of responses.

    Attributes
    ----------
    path : Path
    index : int
        Volume of the file, counted from 0.
    condition : str
        Empty where the file does not say it.
    run : str
        Empty where the files do not say it.
    """

    path: Path
    index: int = 0
    condition: str = ""
    run: str = ""


@dataclass(frozen=True)
class Header:
    grid: Grid
    n_volumes: int
    dtype: np.dtype


def read_header(path: Path) -> Header:
    image = open_image(path)
    shape = image.shape if len(image.shape) != 3 else (*image.shape, 1)
    if len(shape) != 4:
        raise InputError(f"{path}: has {len(shape)} dimensions, expected 3 or 4 (the last one: conditions)")
    dtype = np.dtype(image.get_data_dtype())
    if dtype.kind not in "fiu":
        raise InputError(f"{path}: holds values of type {dtype}, expected real numbers")
    grid = Grid(shape[:3], np.asarray(image.affine, dtype=np.float64))
    return Header(grid, shape[3], dtype.newbyteorder("="))


def open_image(path: Path) -> Any:
    """Open a NIfTI image, whose values are not read yet; an InputError if it is none."""
    import nibabel as nib

    with readable(path, "NIfTI image"):
        # An open file goes on where the last slice ended: compressed ones are then unpacked only once.
        image: Any = nib.load(path, keep_file_open=True)
    if not isinstance(image, nib.spatialimages.SpatialImage):
        raise InputError(f"{path}: holds {type(image).__name__}, expected a volume (NIfTI)")
    return image


def read_slice(path: Path, part: Any, image: Any = None) -> NDArray:
    """Some of the values of an image, which is opened unless it is given; an InputError if they are damaged."""
    image = image or open_image(path)
    with readable(path, "NIfTI image"):
        return np.asanyarray(image.dataobj[part])


def maps_of(path: Path, headers: dict[Path, Header]) -> list[BetaMap]:
    """All maps of a file or folder, in natural order of the names of files.

    Parameters
    ----------
    path : Path
        A NIfTI file or a folder of such files.
    headers : dict of Path to Header
        Those of the files are added.

    Returns
    -------
    list of BetaMap
        Of a 4-D file without condition.

    Raises
    ------
    InputError
        If there is no such file, one is unreadable, or the name of a 3-D file says no condition.
    """
    maps = []
    for file in _nifti_files(path):
        headers[file] = read_header(file)
        run = next((part for part in stem(file).split("_") if re.fullmatch(r"run-[A-Za-z0-9]+", part)), "")
        if headers[file].n_volumes > 1:
            maps += [BetaMap(file, index, run=run or stem(file)) for index in range(headers[file].n_volumes)]
        else:
            name = "_".join(part for part in stem(file).split("_") if not _NOT_THE_CONDITION.fullmatch(part))
            maps.append(BetaMap(file, 0, name, run))
    return maps


def stem(path: Path) -> str:
    """Name of a file without .nii or .nii.gz."""
    return _NIFTI.sub("", path.name)


def _nifti_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = [file for file in path.iterdir() if _NIFTI.search(file.name) and file.name[0] != "."]
    if not files:
        raise InputError(f"{path}: holds no .nii or .nii.gz file; expected 4-D runs, or one 3-D file per condition")
    return sorted(files, key=lambda file: natural_key(file.name))


def read_maps(maps: Sequence[BetaMap], flat: NDArray[np.int64] | slice) -> Iterator[tuple[BetaMap, NDArray]]:
    """Read some voxels of maps, one map after the other; each file is opened once and read in its own order.

    Parameters
    ----------
    maps : sequence of BetaMap
    flat : ndarray of int64, shape (n_voxels,), or slice
        Voxels, as indices in Fortran order, which is that of the files.

    Yields
    ------
    map : BetaMap
    values : ndarray, shape (n_voxels,)

    Raises
    ------
    InputError
        If a file cannot be read to its end.
    """
    of_file: dict[Path, list[BetaMap]] = {}
    for entry in maps:
        of_file.setdefault(entry.path, []).append(entry)
    for path, own in of_file.items():
        image = open_image(path)
        if len(image.shape) == 3:
            yield own[0], read_slice(path, np.s_[..., :], image).reshape(-1, order="F")[flat]
            continue
        *shape, n = image.shape
        n_voxels = int(np.prod(shape))
        step = max(1, _READ_BYTES // (8 * n_voxels))  # scaled values come as float64
        for start in range(0, n, step):
            here = [entry for entry in own if start <= entry.index < start + step]
            if here:
                volumes = read_slice(path, np.s_[..., start : start + step], image).reshape(n_voxels, -1, order="F")
                yield from ((entry, volumes[:, entry.index - start][flat]) for entry in here)
