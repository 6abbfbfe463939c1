"""Beta maps in files: where each one is, on which grid, and its values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.io import glmsingle
from utils.io.readers import readable

_GRID_TOLERANCE_MM = 1e-3
_READ_BYTES = 64 * 2**20  # of a 4-D file at a time
NOT_A_CONDITION = "n/a"  # of maps that are left out
_SUFFIX = re.compile(r"(\.nii(\.gz)?|\.HEAD|\.BRIK(\.gz)?|\.(func|shape|time)?\.?gii|\.mgh|\.mgz)$")
# Parts of names that say a hemisphere, the surest first.
_SIDES: tuple[tuple[str, dict[str, str]], ...] = (
    ("hemi-[LR]", {"hemi-l": "left", "hemi-r": "right"}),
    ("[lr]h", {"lh": "left", "rh": "right"}),
    ("(?:left|right)", {"left": "left", "right": "right"}),
    (r"(?<=\.)[LR](?=\.)", {"l": "left", "r": "right"}),
)
# Of vertices: what GIFTI arrays are that are no values.
_NO_VALUES = {"NIFTI_INTENT_POINTSET": "a mesh", "NIFTI_INTENT_TRIANGLE": "a mesh", "NIFTI_INTENT_LABEL": "labels"}


@dataclass(frozen=True)
class Grid:
    """Voxels of a volume: how many along each axis, and where they are (NaN where files do not say it).

    The vertices of a surface, those of the left before those of the right hemisphere, are a volume of one axis, as in
    files of FreeSurfer: (n_vertices, 1, 1).
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    @property
    def is_surface(self) -> bool:
        """Whether these are vertices."""
        return self.shape[1:] == (1, 1)

    @property
    def has_place(self) -> bool:
        """Whether it is known where the voxels lie."""
        return bool(np.isfinite(self.affine).all())

    def equals(self, other: Grid) -> bool:
        """Whether voxels are the same, to a thousandth of a millimetre; by their numbers where places are not known."""
        if self.shape != other.shape or not (self.has_place and other.has_place):
            return self.shape == other.shape
        return bool(np.allclose(self.affine, other.affine, rtol=0, atol=_GRID_TOLERANCE_MM))

    def __str__(self) -> str:
        if self.is_surface:
            return f"{self.shape[0]:,} vertices"
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
        Of vertices, the file of the right hemisphere; `path` is that of the left one.
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
    grid : Grid
    n_volumes : int
    dtype : dtype
        Of the values, in the byte order of this machine.
    intent : int
        NIfTI intent code, 0 for none.
    description : str
    labels : tuple of str
        Of AFNI's sub-bricks; empty in other files.
    """

    grid: Grid
    n_volumes: int
    dtype: np.dtype
    intent: int = 0
    description: str = ""
    labels: tuple[str, ...] = ()


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
        values = vertex_values(path)
        return Header(Grid((len(values), 1, 1), np.eye(4)), values.shape[1], values.dtype)
    image = open_image(path)
    shape = image.shape if len(image.shape) != 3 else (*image.shape, 1)
    if len(shape) != 4:
        raise InputError(f"{path}: has {len(shape)} dimensions, expected 3 or 4 (the last one: conditions)")
    dtype = np.dtype(image.get_data_dtype())
    if dtype.kind not in "fiu":
        raise InputError(f"{path}: holds values of type {dtype}, expected real numbers")
    affine = np.eye(4) if shape[1:3] == (1, 1) else np.asarray(image.affine, dtype=np.float64)
    grid, header = Grid(shape[:3], affine), image.header
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


def is_of_vertices(path: Path, header: Header) -> bool:
    """Whether a file holds values of vertices."""
    return path.suffix == ".gii" or header.grid.is_surface


def vertex_values(path: Path) -> NDArray:
    """Values of the vertices of one hemisphere.

    Parameters
    ----------
    path : Path
        GIFTI with one array per map, or an image of one axis (.mgh, .mgz, .nii), with or without an axis of maps.

    Returns
    -------
    ndarray, shape (n_vertices, n_maps)

    Raises
    ------
    InputError
        If the file is unreadable or holds something else.
    """
    if path.suffix != ".gii":
        image = open_image(path)
        return read_slice(path, np.s_[...], image).reshape(image.shape[0], -1)
    import nibabel as nib

    with readable(path, "GIFTI file"):
        content: Any = nib.load(path)
        arrays = [(nib.nifti1.intent_codes.niistring[a.intent], np.asarray(a.data)) for a in content.darrays]
    other = next((_NO_VALUES[intent] for intent, _ in arrays if intent in _NO_VALUES), "")
    lengths = {values.shape for _, values in arrays}
    if other or len(lengths) != 1 or len(next(iter(lengths))) != 1:
        found = other or f"arrays of shapes {', '.join(map(str, sorted(lengths))) or 'none'}"
        raise InputError(f"{path}: holds {found}, expected one value per vertex in each array")
    return np.stack([values for _, values in arrays], axis=1)


def split_side(name: str) -> tuple[str, str]:
    """Hemisphere that the name of a file says, and the name without the part that says it.

    Parameters
    ----------
    name : str
        The surest part counts: hemi-L before lh before left, and these before .L. as in files of the Human Connectome
        Project. Any other such part stays, as in `lh.left_hand.gii`.

    Returns
    -------
    side : str
        "left", "right", or "" if no part says it.
    rest : str
    """
    for part, sides in _SIDES:
        if found := re.search(rf"(?:^|(?<=[_.])){part}(?=[_.]|$)", name, re.IGNORECASE):
            return sides[found[0].lower()], (name[: found.start()] + name[found.end() + 1 :]).strip("_.")
    return "", name


def stem(path: Path) -> str:
    """Name of a file without .nii, .nii.gz or the suffix of another kind of volume."""
    return _SUFFIX.sub("", path.name)


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
    of_file: dict[tuple[Path, ...], list[BetaMap]] = {}
    for entry in maps:
        of_file.setdefault(entry.paths, []).append(entry)
    for (path, *right), own in of_file.items():
        if right:
            both = np.concatenate([vertex_values(path), *(vertex_values(other) for other in right)])
            yield from ((entry, both[:, entry.index][flat]) for entry in own)
            continue
        if glmsingle.is_output(path):
            values = glmsingle.read_values(path)
            yield from ((entry, values[..., entry.index].reshape(-1, order="F")[flat]) for entry in own)
            continue
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
