"""Beta maps: whose they are, of which conditions, on which grid, and their voxels as an array.

A PATH on the command line is a file or a folder.

- A 4-D NIfTI file holds one volume per condition, in the order of the conditions.
- A folder holds 4-D files, which are runs, or 3-D files, of which each is named after its condition: `face.nii.gz`, or
  with parts that say whose and which run it is, `sub-01_run-2_face.nii.gz`. Parts `sub-…`, `ses-…` and `run-…` are no
  part of the condition's name.
- PATHs that have the same `sub-…` in their name, or failing that in the name of a folder above, are of one subject. Any
  other PATH is a subject of its own, named after its file or folder.

Runs of one condition are averaged.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.io.readers import read_conditions, read_volume
from utils.rdms.stimuli import few, natural_key, one_line

_GRID_TOLERANCE_MM = 1e-3
_READ_BYTES = 64 * 2**20  # of a 4-D file at a time
_SUBJECT = re.compile(r"(?<![A-Za-z0-9])sub-[A-Za-z0-9]+")
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
class Subject:
    """Files of one subject.

    Attributes
    ----------
    name : str
        Begins the names of what is computed from them.
    runs : tuple of Path
        4-D files; empty where there are 3-D ones.
    maps : dict of str to tuple of Path
        3-D files of every condition; empty where there are 4-D ones.
    """

    name: str
    runs: tuple[Path, ...] = ()
    maps: dict[str, tuple[Path, ...]] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """All files, in a fixed order."""
        return [*self.runs, *(path for name in sorted(self.maps) for path in self.maps[name])]


@dataclass(frozen=True)
class Betas:
    """Beta maps of all subjects: the same conditions on the same grid.

    Attributes
    ----------
    subjects : tuple of Subject
        In natural order of their names.
    conditions : tuple of str
    grid : Grid
    dtype : dtype
        What they are read as: float64 where a file holds float64 (or integers of 32 bits and more), else float32.
    """

    subjects: tuple[Subject, ...]
    conditions: tuple[str, ...]
    grid: Grid
    dtype: np.dtype

    def load(self, subject: Subject, voxels: NDArray[np.int64]) -> NDArray:
        """Read the responses of one subject, averaged over runs.

        Parameters
        ----------
        subject : Subject
        voxels : ndarray of int64, shape (n_voxels,)
            Flat indices (C order) into a volume of the grid.

        Returns
        -------
        ndarray of `dtype`, shape (n_voxels, n_conditions)
            NaN where any run is NaN.

        Raises
        ------
        InputError
            If a file cannot be read to its end.
        """
        place = np.unravel_index(voxels, self.grid.shape)
        # Volumes lie in files with the first axis fastest.
        flat = np.ravel_multi_index(place, self.grid.shape, order="F")
        patterns = np.zeros((len(voxels), len(self.conditions)), dtype=self.dtype)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is counted and left out later
            for path in subject.runs:
                _add_run(path, flat, patterns)
            for column, name in enumerate(self.conditions if subject.maps else ()):
                for path in subject.maps[name]:
                    patterns[:, column] += read_slice(path, np.s_[..., :]).reshape(-1, order="F")[flat]
                patterns[:, column] /= len(subject.maps[name])
            if len(subject.runs) > 1:
                patterns /= len(subject.runs)
        return patterns

    def __str__(self) -> str:
        """One line on what was found, so that a wrong grouping shows."""
        n_runs = [max([len(s.runs), *(len(files) for files in s.maps.values())]) for s in self.subjects]
        runs = f"{n_runs[0]}" if len(set(n_runs)) == 1 else f"{min(n_runs)} to {max(n_runs)}"
        names = [subject.name for subject in self.subjects]
        shown = ", ".join(names if len(names) <= 4 else [*names[:2], "…", names[-1]])
        return f"{len(names)} subject(s): {shown}; {len(self.conditions)} conditions, {runs} run(s) each"

    def provenance(self) -> dict[str, Any]:
        """What run.json says of them."""
        return {
            "simulated": False,
            "n_subjects": len(self.subjects),
            "n_conditions": len(self.conditions),
            "grid": str(self.grid),
            "files": {subject.name: [str(path) for path in subject.files] for subject in self.subjects},
        }


def find_betas(paths: Sequence[Path], conditions: Path | None = None, kept: Path | None = None) -> Betas:
    """Sort files into subjects, conditions and runs, and check everything that their headers tell.

    Parameters
    ----------
    paths : sequence of Path
        See the top of this module.
    conditions : Path, optional
        Text file with the names of the conditions, in order, one per line.
    kept : Path, optional
        Such a file of the data folder that the RDMs are for, which need not exist: its names are taken where no others
        are given, and others are refused.

    Returns
    -------
    Betas

    Raises
    ------
    InputError
        If a file is missing or unreadable; names or numbers of conditions differ, between subjects or from those given
        or kept; 4-D files come without names of conditions; files are on different grids; or subjects cannot be told
        apart.
    """
    headers: dict[Path, _Header] = {}
    subjects = tuple(_as_subject(name, files, headers) for name, files in _group_by_subject(paths).items())
    kept = kept if kept is not None and kept.is_file() else None
    source = conditions or kept
    names = read_conditions(source) if source is not None else _names_of_maps(subjects)
    for subject in subjects:
        _check_conditions(subject, names, headers, source or subjects[0].name)
    if kept is not None:
        _check_same_conditions(kept, names)
    first = next(iter(headers))
    for path, header in headers.items():
        if not header.grid.equals(headers[first].grid):
            raise InputError(
                f"{path}: is on a grid of {header.grid}, expected {headers[first].grid} as in {first}; "
                "bring all beta maps to one grid first"
            )
    exact = any(np.result_type(header.dtype, np.float32) != np.float32 for header in headers.values())
    dtype = np.dtype(np.float64 if exact else np.float32)
    return Betas(subjects, tuple(names), headers[first].grid, dtype)


def _group_by_subject(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Files of every subject, both in natural order."""
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give one 4-D NIfTI file or one folder per subject")
    repeated = sorted({str(path) for path in paths if list(paths).count(path) > 1})
    if repeated:
        raise InputError(f"`betas`: {', '.join(repeated)} is given more than once; give every file or folder once")
    tokens = [_subject_token(path) for path in paths]
    own = _own_names([path for path, token in zip(paths, tokens, strict=True) if not token])
    grouped: dict[str, list[Path]] = {}
    for path, token in zip(paths, tokens, strict=True):
        grouped.setdefault(token or own[path], []).extend(_nifti_files(path))
    return {name: grouped[name] for name in sorted(grouped, key=natural_key)}


def _subject_token(path: Path) -> str:
    for part in (path.name, *reversed(path.parent.parts)):
        found = _SUBJECT.findall(part)
        if found:
            return str(found[-1])
    return ""


def _own_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Names of subjects whose paths do not tell: of their files or folders, else of the folders above."""
    names: list[str] = []
    for name_of in (_stem, lambda path: path.absolute().parent.name):
        names = [name_of(path) for path in paths]
        if len(set(names)) == len(names) and all(names):
            return dict(zip(paths, names, strict=True))
    raise InputError(
        f"`betas`: cannot tell subjects apart, as files are named alike ({', '.join(sorted(set(names)))}); "
        "put the subject into the names of files or folders, such as sub-01"
    )


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name)


def _nifti_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = [file for file in path.iterdir() if re.search(r"\.nii(\.gz)?$", file.name) and file.name[0] != "."]
    if not files:
        raise InputError(f"{path}: holds no .nii or .nii.gz file; expected 4-D runs, or one 3-D file per condition")
    return sorted(files, key=lambda file: natural_key(file.name))


def _as_subject(name: str, files: Sequence[Path], headers: dict[Path, _Header]) -> Subject:
    """Read the headers of a subject's files, and see what they are."""
    headers.update({path: _read_header(path) for path in files})
    flat = [path for path in files if headers[path].n_volumes == 1]
    if flat and len(flat) < len(files):
        deep = next(path for path in files if path not in flat)
        raise InputError(
            f"{flat[0]}: is one volume, but {deep.name} holds {headers[deep].n_volumes}; "
            f"give 4-D files or 3-D files for {name}, not both"
        )
    if not flat:
        return Subject(name, runs=tuple(files))
    maps: dict[str, tuple[Path, ...]] = {}
    for path in flat:
        condition = "_".join(part for part in _stem(path).split("_") if not _NOT_THE_CONDITION.fullmatch(part))
        if not condition:
            raise InputError(
                f"{path}: is a single volume, and its name says no condition; expected a 4-D file with one volume per "
                "condition, or 3-D files named like face_run-01.nii.gz"
            )
        maps[condition] = (*maps.get(condition, ()), path)
    return Subject(name, maps=maps)


def _names_of_maps(subjects: Sequence[Subject]) -> list[str]:
    """Conditions of the first subject's 3-D files, in natural order."""
    deep = next((subject for subject in subjects if subject.runs), None)
    if deep is not None:
        raise InputError(
            f"{deep.runs[0]}: a 4-D file does not say which volume is which condition; "
            "give a file with their names in order, one per line, as `conditions`"
        )
    names = sorted(subjects[0].maps, key=natural_key)
    if len(names) < 2:
        raise InputError(
            f"{subjects[0].files[0]}: is the only condition of {subjects[0].name} ({names[0]}), expected two or more: "
            "3-D files named after them, or a 4-D file"
        )
    return names


def _check_conditions(subject: Subject, names: Sequence[str], headers: dict[Path, _Header], source: Path | str) -> None:
    """`source` is where the names come from: a file, or another subject's files."""
    for path in subject.runs:
        if headers[path].n_volumes != len(names):
            raise InputError(
                f"{path}: holds {headers[path].n_volumes} volumes, expected {len(names)}, one for each condition of "
                f"{source}"
            )
    missing = [name for name in names if name not in subject.maps] if subject.maps else []
    excess = [name for name in subject.maps if name not in names]
    if missing or excess:
        parts = [f"has no file for {few(missing)}"] * bool(missing) + [f"has files for {few(excess)}"] * bool(excess)
        raise InputError(
            f"subject {subject.name} ({subject.files[0].parent}): {' and '.join(parts)}, "
            f"expected the {len(names)} conditions of {source}, each with one file or more"
        )


def _check_same_conditions(path: Path, names: Sequence[str]) -> None:
    """Make sure that the file of a data folder names these conditions, in this order."""
    kept = read_conditions(path)
    if list(names) == kept:
        return
    line = next((i for i, (old, new) in enumerate(zip(kept, names, strict=False)) if old != new), None)
    found = f"{len(kept)} conditions" if line is None else f"{kept[line]} in line {line + 1}"
    expected = f"{len(names)}" if line is None else f"{names[line]}"
    raise InputError(
        f"{path}: has {found} where the beta maps have {expected}; RDMs in one data folder must be of the same "
        "conditions in the same order: give `conditions` to match, or another folder as `out`"
    )


@dataclass(frozen=True)
class _Header:
    grid: Grid
    n_volumes: int
    dtype: np.dtype


def _read_header(path: Path) -> _Header:
    image = open_image(path)
    shape = image.shape if len(image.shape) != 3 else (*image.shape, 1)
    if len(shape) != 4:
        raise InputError(f"{path}: has {len(shape)} dimensions, expected 3 or 4 (the last one: conditions)")
    dtype = np.dtype(image.get_data_dtype())
    if dtype.kind not in "fiu":
        raise InputError(f"{path}: holds values of type {dtype}, expected real numbers")
    grid = Grid(shape[:3], np.asarray(image.affine, dtype=np.float64))
    return _Header(grid, shape[3], dtype.newbyteorder("="))


def open_image(path: Path) -> Any:
    """Open a NIfTI image, whose values are not read yet; an InputError if it is none."""
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    try:
        # An open file goes on where the last slice ended: compressed ones are then unpacked only once.
        return nib.load(path, keep_file_open=True)
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: is not a readable NIfTI image ({one_line(error)}); copy or make it again") from None


def read_slice(path: Path, part: Any, image: Any = None) -> NDArray:
    """Some of the values of an image, which is opened unless it is given; an InputError if they are damaged."""
    image = image or open_image(path)
    try:
        return np.asanyarray(image.dataobj[part])
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read to its end ({one_line(error)}); copy or make it again") from None


def _add_run(path: Path, flat: NDArray[np.int64], patterns: NDArray) -> None:
    """Add the volumes of a 4-D file to `patterns` (n_voxels, n_conditions); `flat`: which voxels, in Fortran order."""
    image = open_image(path)
    *shape, n = image.shape
    n_voxels = int(np.prod(shape))
    step = max(1, _READ_BYTES // (8 * n_voxels))  # scaled values come as float64
    for start in range(0, n, step):
        volumes = read_slice(path, np.s_[..., start : start + step], image).reshape(n_voxels, -1, order="F")
        for i in range(volumes.shape[1]):
            patterns[:, start + i] += volumes[:, i][flat]


def read_mask(path: Path, betas: Betas | None = None) -> tuple[NDArray[np.bool_], Grid]:
    """Read a brain mask, inside where values are greater than zero.

    Parameters
    ----------
    path : Path
    betas : Betas, optional
        Beta maps on whose grid it has to be.

    Returns
    -------
    inside : ndarray of bool, shape (X, Y, Z)
    grid : Grid

    Raises
    ------
    InputError
        If the file is unreadable, no voxel is inside, or the grid is another.
    """
    data, affine = read_volume(path)
    inside = np.nan_to_num(data) > 0
    if not inside.any():
        raise InputError(f"{path}: not a single voxel is inside (greater than 0); give the brain mask of the beta maps")
    grid = Grid(inside.shape, affine)
    if betas is not None and not grid.equals(betas.grid):
        raise InputError(
            f"{path}: is on a grid of {grid}, but the beta maps ({betas.subjects[0].name}) are on one of "
            f"{betas.grid}; resample it to theirs (nearest neighbour)"
        )
    return inside, grid
