"""ROIs as labels of the vertices of a cortical surface, in the forms in which they are published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.io.readers import open_image, readable
from utils.io.roi_tables import is_background
from utils.io.spaces import UNKNOWN
from utils.rdms.atlas import Hemisphere, as_labels, choose_sides, files_by_side, separate_names, wang_names
from utils.rdms.beta_files import read_slice
from utils.rdms.stimuli import few
from utils.rdms.vertices import HEMISPHERES, Vertices


@dataclass(frozen=True)
class SurfaceLabels:
    """ROI labels of vertices.

    Attributes
    ----------
    left, right : ndarray of int32, shape (n_vertices,)
        Number of the ROI of each vertex of a hemisphere, 0 outside all; none of a hemisphere that is not there.
    names : dict of int to str
        Names of the ROIs by their numbers, with or without vertices.
    source : str
        Files, for messages.
    """

    left: NDArray[np.int32]
    right: NDArray[np.int32]
    names: dict[int, str]
    source: str
    affine: ClassVar[None] = None  # there are no voxels

    @property
    def labels(self) -> NDArray[np.int32]:
        """Labels of the left, then of the right hemisphere, (n_vertices of both,)."""
        return np.concatenate([self.left, self.right])

    @property
    def vertices(self) -> Vertices:
        """How many there are."""
        return Vertices(len(self.left), len(self.right))

    @property
    def space(self) -> str:
        """The average brain that they are of, by their number."""
        return self.vertices.brain or UNKNOWN


def is_surface(path: Path) -> bool:
    """Whether a file holds one value per vertex rather than per voxel.

    Parameters
    ----------
    path : Path
        FreeSurfer annotation (.annot), GIFTI (.gii), or an image such as .mgz, which has vertices if all its axes but
        one have the length 1.

    Returns
    -------
    bool

    Raises
    ------
    InputError
        If an image is unreadable.
    """
    return path.suffix in (".annot", ".gii") or _is_line(open_image(path).shape)


def _is_line(shape: Sequence[int]) -> bool:
    return sum(length > 1 for length in shape) == 1


def read_surface_labels(
    paths: Sequence[Path],
    names: Mapping[int, str] | None = None,
    hemisphere: Hemisphere = "both",
    vertices: Vertices | None = None,
) -> SurfaceLabels:
    """Read the ROI labels of vertices.

    Parameters
    ----------
    paths : sequence of Path
        One file per hemisphere, with lh and rh (or left and right, hemi-L and hemi-R) in their names: FreeSurfer
        annotations, label GIFTIs, or images with one number per vertex (.mgz, .mgh, .nii).
    names : mapping of int to str, optional
        Names by number. Files that bring names of their own are matched with them by name: their own numbers, which may
        differ between hemispheres, do not count. Needed for files without names, unless they are named as those of Wang
        et al. 2015.
    hemisphere : {"left", "right", "both", "separate"}
        "separate" makes ROIs <name>_lh and <name>_rh, and adds a power of ten to the numbers of the right ones.
    vertices : Vertices, optional
        Of the data that labels are for: both hemispheres are those that the data have.

    Returns
    -------
    SurfaceLabels
        With the numbers of `names`, or, without these, with new ones from 1 on, in the order of the files' names.

    Raises
    ------
    InputError
        If a hemisphere is missing, a file is unreadable or holds something else, names are missing, none of them
        occurs, or labels are of other vertices than the data.
    """
    sides = files_by_side(paths)
    if "whole" in sides:
        raise InputError(
            f"{paths[0]}: its name says no hemisphere; expected two files with labels of vertices, with lh and rh as a "
            "part of their names"
        )
    there = HEMISPHERES if vertices is None else vertices.sides
    sides = choose_sides(sides, there if hemisphere in ("both", "separate") else (hemisphere,), hemisphere)
    extra = next((files[1] for files in sides.values() if len(files) > 1), None)
    if extra is not None:
        raise InputError(f"{extra}: is a second file of the same hemisphere, expected one of each")
    source = ", ".join(str(files[0]) for files in sides.values())
    read = {side: _read(files[0]) for side, files in sides.items()}
    own_names = [own for _, own in read.values()]
    if names is None:
        every = dict.fromkeys(name for own in own_names if own for name in own.values())
        names = wang_names(paths) if None in own_names else dict(enumerate(every, start=1))
    numbers = {name: number for number, name in names.items()}
    labels = {side: np.zeros(getattr(vertices, side, 0), dtype=np.int32) for side in HEMISPHERES}
    for side, (values, own) in read.items():
        if vertices is not None and len(values) != getattr(vertices, side):
            raise InputError(
                f"{sides[side][0]}: has labels of {len(values):,} vertices, but the beta maps have "
                f"{getattr(vertices, side):,} in this hemisphere; give the labels of their mesh"
            )
        given = dict(zip(names, names, strict=True)) if own is None else {k: numbers.get(n, 0) for k, n in own.items()}
        labels[side] = _renumbered(values, given)
    if not any(half.any() for half in labels.values()):
        found = [name for own in own_names if own for name in own.values()]
        found = found or [f"{number:g}" for number in np.unique(next(iter(read.values()))[0])]
        raise InputError(
            f"{source}: none of the {len(names)} ROIs {few([*names.values()])} has a vertex (found {few(found)}); "
            "give the matching table as `roi_labels`"
        )
    if hemisphere == "separate":
        names, shift = separate_names(dict(names), max(half.max(initial=0) for half in labels.values()), source)
        labels["right"] = np.where(labels["right"] > 0, labels["right"] + np.int32(shift), 0)
    return SurfaceLabels(labels["left"], labels["right"], dict(names), source)


def _renumbered(values: NDArray[np.int32], numbers: Mapping[int, int]) -> NDArray[np.int32]:
    """The number that stands for each value; 0 for those that have none."""
    found, position = np.unique(values, return_inverse=True)
    return np.array([numbers.get(value, 0) for value in found.tolist()], dtype=np.int32)[position]


def _read(path: Path) -> tuple[NDArray[np.int32], dict[int, str] | None]:
    """Number of each vertex, and names by number where the file has them."""
    if path.suffix == ".annot":
        return _read_annotation(path)
    if path.suffix == ".gii":
        return _read_gifti(path)
    image = open_image(path)
    if not _is_line(image.shape):
        shape = " x ".join(map(str, image.shape))
        raise InputError(f"{path}: holds {shape} values, expected one number per vertex, as in the other hemisphere")
    return as_labels(path, read_slice(path, np.s_[...], image).reshape(-1).astype(np.float64)), None


def _read_annotation(path: Path) -> tuple[NDArray[np.int32], dict[int, str]]:
    from nibabel.freesurfer import read_annot

    with readable(path, "FreeSurfer annotation"), np.errstate(over="ignore"):
        labels, _, names = read_annot(path)
    texts = [name.decode("utf-8", "replace").strip() for name in names]
    # Vertices without a label have -1, those with one its position in the list.
    return (labels + 1).astype(np.int32), {k: name for k, name in enumerate(texts, start=1) if not is_background(name)}


def _read_gifti(path: Path) -> tuple[NDArray[np.int32], dict[int, str] | None]:
    import nibabel as nib

    with readable(path, "GIFTI file"):
        image: Any = nib.load(path)
        arrays = [array.data for array in image.darrays]
        names = image.labeltable.get_labels_as_dict()
    if len(arrays) != 1 or arrays[0].ndim != 1:
        raise InputError(
            f"{path}: holds {len(arrays)} array(s) of shape {arrays[0].shape if arrays else ()}, expected one number "
            "per vertex (label.gii)"
        )
    own = {int(key): name.strip() for key, name in names.items() if key and not is_background(name.strip())}
    return as_labels(path, arrays[0].astype(np.float64)), own or None
