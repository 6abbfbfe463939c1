"""Beta maps in files: where each one is, of which voxels or vertices, and its values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.io import glmsingle
from utils.io.readers import is_cifti, open_image, readable
from utils.rdms.vertices import HEMISPHERES, Vertices, split_side

_GRID_TOLERANCE_MM = 1e-3
_READ_BYTES = 64 * 2**20  # of a 4-D file at a time
NOT_A_CONDITION = "n/a"  # of maps that are left out
_SUFFIX = re.compile(
    r"((\.(dscalar|dtseries))?\.nii(\.gz)?|\.HEAD|\.BRIK(\.gz)?|(\.(func|shape|time))?\.gii|\.mg[hz])$"
)
# Of vertices: what GIFTI arrays are that are no values.
_NO_VALUES = {"NIFTI_INTENT_POINTSET": "a mesh", "NIFTI_INTENT_TRIANGLE": "a mesh", "NIFTI_INTENT_LABEL": "labels"}


@dataclass(frozen=True)
class Grid:
    """Voxels of a volume: how many along each axis, and where they are (NaN where files do not say it)."""

    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    @property
    def has_place(self) -> bool:
        """Whether it is known where the voxels lie."""
        return bool(np.isfinite(self.affine).all())

    def equals(self, other: Grid | Vertices) -> bool:
        """Whether voxels are the same, to a thousandth of a millimetre; by their numbers where places are not known."""
        if isinstance(other, Vertices):
            return False
        if self.shape != other.shape or not (self.has_place and other.has_place):
            return self.shape == other.shape
        return bool(np.allclose(self.affine, other.affine, rtol=0, atol=_GRID_TOLERANCE_MM))

    def __str__(self) -> str:
        if not self.has_place:
            return " x ".join(map(str, self.shape)) + " voxels"
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
    right : Path or None
        Of vertices in two files, that of the right hemisphere; `path` is that of the left one.
    """

    path: Path
    index: int = 0
    condition: str = ""
    run: str = ""
    right: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files."""
        return (self.path,) if self.right is None else (self.path, self.right)


@dataclass(frozen=True)
class Header:
    """What the header of a file says.

    Attributes
    ----------
    grid : Grid or Vertices
        Vertices of the hemispheres in this file.
    n_volumes : int
    dtype : dtype
        Of the values, in the byte order of this machine.
    intent : int
        NIfTI intent code, 0 for none.
    description : str
    labels : tuple of str
        Of AFNI's sub-bricks; empty in other files.
    names : tuple of str
        Of the maps of a GIFTI or CIFTI file; empty in other files.
    side : str
        Hemisphere that the file is of by its name, "left" or "right"; "" for volumes, and for CIFTI files, which say
        it themselves.
    """

    grid: Grid | Vertices
    n_volumes: int
    dtype: np.dtype
    intent: int = 0
    description: str = ""
    labels: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    side: str = ""


def read_header(path: Path) -> Header:
    """Read the header of a volume.

    Raises
    ------
    InputError
        If the file is no volume of real numbers in three or four dimensions.
    """
    if glmsingle.is_output(path):
        values = glmsingle.read_values(path)
        return Header(Grid(values.shape[:3], np.full((4, 4), np.nan)), values.shape[3], values.dtype)
    if path.suffix == ".gii":
        arrays, names = read_gifti(path)
        side = _side(path)
        return Header(Vertices.of(side, len(arrays[0])), len(arrays), np.result_type(*arrays), names=names, side=side)
    image = open_image(path, cifti=True)
    if is_cifti(image):
        vertices, *_ = _cortex_of(path, image)
        names = tuple(map(str, getattr(image.header.get_axis(0), "name", ())))
        return Header(vertices, image.shape[0], np.result_type(image.get_data_dtype(), np.float32), names=names)
    shape = image.shape if len(image.shape) != 3 else (*image.shape, 1)
    if len(shape) != 4:
        raise InputError(f"{path}: has {len(shape)} dimensions, expected 3 or 4 (the last one: conditions)")
    dtype = np.dtype(image.get_data_dtype())
    if dtype.kind not in "fiu":
        raise InputError(f"{path}: holds values of type {dtype}, expected real numbers")
    if shape[1:3] == (1, 1) and (path.suffix in (".mgh", ".mgz") or split_side(path.name)[0]):
        side = _side(path)
        return Header(Vertices.of(side, shape[0]), shape[3], dtype.newbyteorder("="), side=side)
    grid, header = Grid(shape[:3], np.asarray(image.affine, dtype=np.float64)), image.header
    if hasattr(header, "get_volume_labels"):  # AFNI's own format
        return Header(grid, shape[3], dtype.newbyteorder("="), labels=tuple(header.get_volume_labels() or ()))
    texts = [bytes(e.get_content()).decode("utf-8", "replace") for e in getattr(header, "extensions", ())]
    labels = re.search(r'atr_name="BRICK_LABS"[^>]*>\s*"([^"]*)"', "".join(texts))
    return Header(
        grid,
        shape[3],
        dtype.newbyteorder("="),
        int(header["intent_code"]) if "intent_code" in header else 0,
        bytes(header["descrip"]).decode("latin-1").rstrip("\0") if "descrip" in header else "",
        tuple(labels[1].rstrip("~").split("~")) if labels else (),
    )


def _side(path: Path) -> str:
    """Hemisphere that the name of a file of vertices says."""
    side, _ = split_side(path.name)
    if not side:
        raise InputError(
            f"{path}: holds vertices, but its name says no hemisphere; expected lh or rh (or left and right, hemi-L "
            "and hemi-R) as a part of it"
        )
    return side


def _cortex_of(path: Path, image: Any) -> tuple[Vertices, NDArray[np.int64], NDArray[np.int64]]:
    """Vertices of the hemispheres in a CIFTI file, its columns that are of them, and the vertex of each column."""
    with readable(path, "CIFTI file"):
        axis = image.header.get_axis(len(image.shape) - 1)
        sides = {f"CIFTI_STRUCTURE_CORTEX_{side.upper()}": side for side in HEMISPHERES}
        models = {sides[name]: (part, model) for name, part, model in axis.iter_structures() if name in sides}
        counts = {
            side: model.nvertices[f"CIFTI_STRUCTURE_CORTEX_{side.upper()}"] for side, (_, model) in models.items()
        }
    if not models:
        raise InputError(f"{path}: has no vertices of the cortex, expected those of one hemisphere or both")
    vertices = Vertices(counts.get("left", 0), counts.get("right", 0))
    columns, rows = [], []
    for side, (part, model) in models.items():
        columns.append(np.arange(*part.indices(image.shape[-1])))
        rows.append(model.vertex + (vertices.left if side == "right" else 0))
    return vertices, np.concatenate(columns), np.concatenate(rows)


def read_gifti(path: Path) -> tuple[list[NDArray], tuple[str, ...]]:
    """Values of the vertices of one hemisphere, one array (n_vertices,) per map, and names of the maps, if any.

    Raises
    ------
    InputError
        If the file is unreadable, or holds a mesh or labels.
    """
    import nibabel as nib

    with readable(path, "GIFTI file"):
        content: Any = nib.load(path)
        intents = [str(nib.nifti1.intent_codes.niistring[array.intent]) for array in content.darrays]
        arrays = [np.asarray(array.data) for array in content.darrays]
        names = tuple(dict(array.meta).get("Name", "") for array in content.darrays)
    other = next((_NO_VALUES[intent] for intent in intents if intent in _NO_VALUES), "")
    shapes = [tuple(array.shape) for array in arrays]
    if other or len({*shapes}) != 1 or arrays[0].ndim != 1:
        found = other or f"arrays of shapes {', '.join(map(str, sorted({*shapes}))) or 'none'}"
        raise InputError(f"{path}: holds {found}, expected one value per vertex in each array")
    return arrays, names


def read_slice(path: Path, part: Any, image: Any = None) -> NDArray:
    """Some of the values of an image, which is opened unless it is given; an InputError if they are damaged."""
    image = image or open_image(path, cifti=True)
    with readable(path, "NIfTI image"):
        return np.asanyarray(image.dataobj[part])


def stem(path: Path) -> str:
    """Name of a file without .nii, .nii.gz or the suffix of another kind of volume."""
    return _SUFFIX.sub("", path.name)


def read_maps(maps: Sequence[BetaMap], flat: NDArray[np.int64] | slice) -> Iterator[tuple[BetaMap, NDArray]]:
    """Read some voxels or vertices of maps, one map after the other; each file is opened once, read in its own order.

    Parameters
    ----------
    maps : sequence of BetaMap
    flat : ndarray of int64, shape (n_voxels,), or slice
        Voxels, as indices in Fortran order, which is that of the files; or vertices.

    Yields
    ------
    map : BetaMap
    values : ndarray, shape (n_voxels,)

    Raises
    ------
    InputError
        If a file cannot be read to its end.
    """
    of_file: dict[tuple[Path, ...], list[BetaMap]] = {}
    for entry in maps:
        of_file.setdefault(entry.paths, []).append(entry)
    for paths, own in of_file.items():
        contents = [_open(path) for path in paths]
        step = max(1, _READ_BYTES // (8 * sum(content.n_places for content in contents)))  # scaled values are float64
        for start in range(0, contents[0].n_maps, step):
            here = [entry for entry in own if start <= entry.index < start + step]
            if here:
                parts = [content.read(slice(start, start + step)) for content in contents]
                values = parts[0] if len(parts) == 1 else np.concatenate(parts)
                yield from ((entry, values[:, entry.index - start][flat]) for entry in here)


@dataclass(frozen=True)
class _Content:
    """Maps of a file in any format: voxels or vertices of each, how many maps, and a reader of some of them, (n, k)."""

    n_places: int
    n_maps: int
    read: Callable[[slice], NDArray]


def _open(path: Path) -> _Content:
    if glmsingle.is_output(path):
        values = glmsingle.read_values(path)
        n_places = values[..., 0].size
        # A part at a time: all of it in another order would be a second copy of gigabytes.
        return _Content(n_places, values.shape[3], lambda part: values[..., part].reshape(n_places, -1, order="F"))
    if path.suffix == ".gii":
        arrays, _ = read_gifti(path)
        return _Content(len(arrays[0]), len(arrays), lambda part: np.stack(arrays[part], axis=1))
    image = open_image(path, cifti=True)
    if is_cifti(image):
        vertices, columns, rows = _cortex_of(path, image)
        read = partial(_read_cortex, path, image, vertices.shape[0], columns, rows)
        return _Content(vertices.shape[0], image.shape[0], read)
    n_places, single = int(np.prod(image.shape[:3])), len(image.shape) == 3

    def read_volumes(part: slice) -> NDArray:
        values = read_slice(path, np.s_[...] if single else np.s_[..., part], image)
        return values.reshape(n_places, -1, order="F")

    return _Content(n_places, 1 if single else image.shape[3], read_volumes)


def _read_cortex(
    path: Path, image: Any, n_places: int, columns: NDArray[np.int64], rows: NDArray[np.int64], part: slice
) -> NDArray:
    """Some maps of a CIFTI file on all vertices, (n_places, n): NaN on those that it leaves out, the medial wall."""
    values = read_slice(path, part, image)[:, columns]
    every = np.full((n_places, len(values)), np.nan, dtype=np.result_type(values.dtype, np.float32))
    every[rows] = values.T
    return every
