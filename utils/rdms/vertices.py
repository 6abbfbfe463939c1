"""Vertices of the cortical surface: of which hemispheres and of which brain they are, and the meshes that join them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.io.data_folder import SurfaceFolder
from utils.io.readers import readable
from utils.io.spaces import read_space

HEMISPHERES = ("left", "right")
# Vertices of one hemisphere of FreeSurfer's average brain; those of a coarser mesh are the first of a finer one.
FSAVERAGE = {"fsaverage5": 10_242, "fsaverage6": 40_962, "fsaverage": 163_842}
BUILT_IN = "fsaverage5"  # nilearn ships it, and downloads the others
_N_OF_SPACE = {**FSAVERAGE, "fsLR": 32_492}
# Parts of names that say a hemisphere, the surest first.
_SIDES: tuple[tuple[str, dict[str, str]], ...] = (
    ("hemi-[LR]", {"hemi-l": "left", "hemi-r": "right"}),
    ("[lr]h", {"lh": "left", "rh": "right"}),
    ("(?:left|right)", {"left": "left", "right": "right"}),
    (r"(?:^|(?<=\.))[LR](?=\.)", {"l": "left", "r": "right"}),
)


def split_side(name: str) -> tuple[str, str]:
    """Hemisphere that the name of a file says, and the name without the part that says it.

    Parameters
    ----------
    name : str
        The surest part counts: hemi-L before lh before left, and these before L. as in files of the Human Connectome
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


@dataclass(frozen=True)
class Vertices:
    """How many vertices each hemisphere has; data of vertices are those of the left, then of the right hemisphere.

    Attributes
    ----------
    left, right : int
        0 for a hemisphere that is not there.
    """

    left: int
    right: int
    affine: ClassVar[None] = None  # there are no voxels
    has_place: ClassVar[bool] = True

    @classmethod
    def of(cls, side: str, n: int) -> Vertices:
        """Those of one hemisphere, "left" or "right"."""
        return cls(n, 0) if side == "left" else cls(0, n)

    @property
    def sides(self) -> tuple[str, ...]:
        """Hemispheres that are there."""
        return tuple(side for side in HEMISPHERES if getattr(self, side))

    @property
    def shape(self) -> tuple[int]:
        """Shape of data."""
        return (self.left + self.right,)

    @property
    def brain(self) -> str:
        """The average brain with as many vertices in each hemisphere: one of `FSAVERAGE`, "fsLR", or ""."""
        counts = {getattr(self, side) for side in self.sides}
        return next((name for name, n in _N_OF_SPACE.items() if counts == {n}), "")

    def split(self, data: NDArray) -> dict[str, NDArray]:
        """Data of each hemisphere that is there, from those of all vertices, (left + right, ...)."""
        halves = {"left": data[: self.left], "right": data[self.left :]}
        return {side: halves[side] for side in self.sides}

    def join(self, halves: dict[str, NDArray]) -> NDArray:
        """The inverse of `split`."""
        return np.concatenate([halves[side] for side in self.sides])

    def equals(self, other: Any) -> bool:
        """Whether a grid or other vertices are the same."""
        return self == other

    def __str__(self) -> str:
        parts = [f"{getattr(self, side):,} vertices of the {side} hemisphere" for side in self.sides]
        return " and ".join(parts) or "no vertices"


def space_of(vertices: Vertices, files: Iterable[Path], given: str | None = None) -> str:
    """Which brain vertices are of: an average one by their number, or what a user or names of files say."""
    return vertices.brain or given or read_space(files)


# -------------------------------------------------------------------------------------------------------------- meshes


@dataclass(frozen=True)
class Mesh:
    """Surface of one hemisphere.

    Attributes
    ----------
    points : ndarray of float64, shape (n_vertices, 3)
        In mm.
    faces : ndarray of int64, shape (n_faces, 3)
        Vertices of every triangle.
    """

    points: NDArray[np.float64]
    faces: NDArray[np.int64]


# By hemisphere: along which distances are measured, and the same vertices in a shape to draw, if there is one.
Meshes = tuple[dict[str, Mesh], dict[str, Mesh]]


def read_mesh(path: Path) -> Mesh:
    """Read a mesh from GIFTI or a file of FreeSurfer.

    Raises
    ------
    InputError
        If the file is unreadable or holds no mesh.
    """
    from nilearn.surface import load_surf_mesh

    with readable(path, "surface mesh"):
        mesh: Any = load_surf_mesh(str(path))
        points, faces = np.asarray(mesh.coordinates, dtype=np.float64), np.asarray(mesh.faces, dtype=np.int64)
    if not np.isfinite(points).all() or not len(faces) or faces.min() < 0 or faces.max() >= len(points):
        raise InputError(f"{path}: is no mesh of finite points and triangles between them; copy or make it again")
    return Mesh(points, faces)


def read_meshes(paths: Sequence[Path], vertices: Vertices) -> dict[str, Mesh]:
    """Read a mesh for each hemisphere of some data.

    Parameters
    ----------
    paths : sequence of Path
        One file per hemisphere, whose names say which; others than those of the data are left out.
    vertices : Vertices
        Of the data.

    Returns
    -------
    dict of str to Mesh
        "left" and "right", as far as the data have them.

    Raises
    ------
    InputError
        If a mesh is missing, unreadable, or of another number of vertices.
    """
    meshes: dict[str, Mesh] = {}
    for path in paths:
        side, _ = split_side(path.name)
        if not side or side in meshes:
            found = f"is a second mesh of the {side} hemisphere" if side else "its name says no hemisphere"
            raise InputError(f"{path}: {found}; expected one file with lh and one with rh in its name")
        meshes[side] = read_mesh(path)
        if side in vertices.sides and len(meshes[side].points) != getattr(vertices, side):
            raise InputError(
                f"{path}: has {len(meshes[side].points):,} vertices, but the beta maps {getattr(vertices, side):,} in "
                "this hemisphere; give the mesh that they are of"
            )
    missing = [side for side in vertices.sides if side not in meshes]
    if missing:
        raise InputError(f"{paths[0]}: is given without a mesh of the {missing[0]} hemisphere, of which there are data")
    return {side: meshes[side] for side in vertices.sides}


def fetch_average(brain: str) -> Any:
    """nilearn's files of an average brain, downloaded once unless nilearn ships them.

    Parameters
    ----------
    brain : str
        One of `FSAVERAGE`.

    Returns
    -------
    dict
        Paths by name: "pial_left", "white_left", "infl_left", "sulc_left", and those of the right hemisphere.

    Raises
    ------
    InputError
        If they cannot be downloaded.
    """
    from nilearn import datasets

    try:
        return datasets.fetch_surf_fsaverage(brain)
    except OSError as error:  # among them all that requests raises
        raise InputError(
            f"the meshes of {brain} could not be downloaded ({type(error).__name__}); run once with a network, or "
            f"choose {BUILT_IN}, which needs none (for data on {brain}: give its meshes as `surface_mesh`)"
        ) from None


def average_meshes(vertices: Vertices) -> dict[str, Mesh]:
    """Surfaces halfway between pial and white surface, of the hemispheres of some data on fsaverage.

    Raises
    ------
    InputError
        If the data are not on fsaverage, or its meshes cannot be downloaded.
    """
    brain = vertices.brain
    if brain not in FSAVERAGE:
        known = ", ".join(f"{name} ({n:,} vertices per hemisphere)" for name, n in FSAVERAGE.items())
        raise InputError(
            f"`betas` have {vertices}, which are not those of {known}; give the meshes that they are of "
            "(`surface_mesh`), such as lh.white and rh.white, or a midthickness"
        )
    files = fetch_average(brain)
    meshes = {}
    for side in vertices.sides:
        pial, white = (read_mesh(Path(files[f"{kind}_{side}"])) for kind in ("pial", "white"))
        meshes[side] = Mesh((pial.points + white.points) / 2, pial.faces)
    return meshes


def kept_meshes(vertices: Vertices, paths: Sequence[Path], inflated: Sequence[Path]) -> Meshes | None:
    """Meshes that figures have to find in the data folder; None where none are given, and on fsaverage5.

    Parameters
    ----------
    vertices : Vertices
        Of the data.
    paths, inflated : sequence of Path
        Files of the meshes, and of the same vertices in a shape to draw; may be empty.

    Raises
    ------
    InputError
        As `read_meshes`; if there is only a shape to draw.
    """
    if inflated and not paths:
        raise InputError(f"{inflated[0]}: is given as `inflated_mesh` without the `surface_mesh` that it is of; add it")
    if not paths or vertices.brain == BUILT_IN:
        return None
    return read_meshes(paths, vertices), read_meshes(inflated, vertices) if inflated else {}


def keep_meshes(folder: SurfaceFolder, meshes: Mapping[str, Mesh], inflated: Mapping[str, Mesh]) -> list[Path]:
    """Write the meshes of data into their data folder, where figures find what to draw on.

    Parameters
    ----------
    folder : SurfaceFolder
    meshes, inflated : mapping of str to Mesh
        By hemisphere: along which distances are measured, and the same vertices in a shape to draw, which may be empty.

    Returns
    -------
    list of Path
        What the folder has now.
    """
    folder.folder.mkdir(parents=True, exist_ok=True)
    written = []
    for side in HEMISPHERES:
        for path, given in ((folder.mesh(side), meshes), (folder.inflated(side), inflated)):
            if side in given:
                _write_mesh(path, given[side], side)
                written.append(path)
            else:
                path.unlink(missing_ok=True)
    return written


def _write_mesh(path: Path, mesh: Mesh, side: str) -> None:
    from nibabel import gifti, save

    arrays = [
        gifti.GiftiDataArray(mesh.points.astype(np.float32), "NIFTI_INTENT_POINTSET", "NIFTI_TYPE_FLOAT32"),
        gifti.GiftiDataArray(mesh.faces.astype(np.int32), "NIFTI_INTENT_TRIANGLE", "NIFTI_TYPE_INT32"),
    ]
    structure = {"AnatomicalStructurePrimary": f"Cortex{side.capitalize()}"}
    save(gifti.GiftiImage(darrays=arrays, meta=gifti.GiftiMetaData(structure)), path)
