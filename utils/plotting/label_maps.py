"""Maps of labels and values: what is drawn on a brain, and how values of searchlights and ROIs become volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils import InputError
from utils.io.spaces import MNI
from utils.rdms.atlas import Atlas
from utils.rdms.discs import SurfaceGeometry
from utils.rdms.searchlights import Geometry
from utils.rdms.surface_labels import SurfaceLabels
from utils.rdms.vertices import Vertices

OUTSIDE = "outside the map"
SURFACE_NOTE = (
    "Counts refer to the volume: an isolated label that falls between the vertices of the surface, or outside the "
    "average cortex, is counted but may not be visible."
)
VERTEX_NOTE = (
    "Data of vertices, drawn as they are. On a coarser surface than their own, a very small region may lie between the "
    "vertices."
)
PALE = "lead not established"
PALE_NOTE = (
    "Solid: the lead over all others is established. Pale: more is explained than by chance, but the lead is not "
    "established."
)


@dataclass(frozen=True)
class RoiLocations:
    """The ROIs of an atlas that have values.

    Attributes
    ----------
    atlas : Atlas or SurfaceLabels
    ids : sequence of int
        Number of each ROI in the atlas, in the order of the values.

    Raises
    ------
    InputError
        If the atlas holds none of them.
    """

    atlas: Atlas | SurfaceLabels
    ids: Sequence[int]

    def __post_init__(self) -> None:
        if not np.isin(self.atlas.labels, self.ids).any():
            names = ", ".join(self.atlas.names.get(number, str(number)) for number in self.ids)
            raise InputError(f"`atlas` holds none of the ROIs {names}; its labels must be the ids of the ROI table")

    @property
    def affine(self) -> NDArray[np.float64] | None:
        """Voxel indices to mm, (4, 4); None for vertices."""
        return self.atlas.affine

    @property
    def space(self) -> str:
        """What these millimetres are coordinates of, or which brain the vertices are of."""
        return self.atlas.space

    @property
    def vertices(self) -> Vertices | None:
        """What vertices there are; None for voxels."""
        return self.atlas.vertices

    def to_volume(self, values: ArrayLike, background: float = 0) -> NDArray:
        """The value of each ROI in its voxels or vertices, and `background` elsewhere; same dtype as `values`."""
        values, labels = np.asarray(values), self.atlas.labels
        volume = np.full(labels.shape, background, dtype=values.dtype)
        for number, value in zip(self.ids, values, strict=True):
            volume[labels == number] = value
        return volume


# Where the values of searchlights or ROIs lie.
Locations = Geometry | SurfaceGeometry | RoiLocations


@dataclass(frozen=True)
class LabelMap:
    """Labels of the voxels of a volume, or of the vertices of a brain, with what a legend needs.

    A place may have a label in one of two states: solid where its lead over all others is established, pale where it is
    not. A pale state is a label of its own, with its number in the volume, its name, colour and count.

    Attributes
    ----------
    data : ndarray of int, shape (X, Y, Z) or (n_vertices,)
        0 where there is no label, ``k + 1`` where the k-th one holds.
    affine : ndarray, shape (4, 4), or None
        Voxel indices to mm; None for vertices.
    names, colors, legend_groups : list of str
        One per label: its name, its colour as ``#rrggbb``, and the group it is listed under ("" for none).
    counts : list of int
        Number of searchlights or ROIs with each label.
    unit : str
        What is counted: "searchlights", "ROIs".
    title, note : str
        Name of the map among others, and a sentence on what it shows.
    key : str
        Letters and digits: names its files, as BIDS entity "desc".
    pale : mapping of int to int
        Index, in the lists, of the pale state of a label, by the index of its solid state; empty if there are none.
    candidates : ndarray of int, shape of `data`, optional
        Index in `candidate_names` of those that are not told apart at a pale place; 0 elsewhere.
    candidate_names : sequence of str
        Such as "2D or 3D"; the first is "".
    space : str
        What the millimetres are coordinates of: see `utils.io.spaces`. Only MNI space has a surface to draw on. Of
        vertices, the brain: see `utils.rdms.vertices.space_of`.
    vertices : Vertices, optional
        What vertices the data are of; by default those of both hemispheres of an average brain.

    Raises
    ------
    ValueError
        If the lists differ in length, `candidates` is not of the shape of `data`, or the volume holds a label that the
        lists do not describe.
    """

    data: NDArray[np.integer]
    affine: NDArray[np.floating] | None
    names: Sequence[str]
    colors: Sequence[str]
    legend_groups: Sequence[str]
    counts: Sequence[int]
    unit: str
    title: str = ""
    note: str = ""
    key: str = ""
    pale: Mapping[int, int] = field(default_factory=dict)
    candidates: NDArray[np.integer] | None = None
    candidate_names: Sequence[str] = ("",)
    space: str = MNI
    vertices: Vertices | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.names), len(self.colors), len(self.legend_groups), len(self.counts)}
        if len(lengths) != 1:
            raise ValueError(
                f"{len(self.names)} names, {len(self.colors)} colours, {len(self.legend_groups)} legend groups and "
                f"{len(self.counts)} counts: expected one of each per label"
            )
        if self.data.ndim != _n_axes(self.affine) or not np.issubdtype(self.data.dtype, np.integer):
            raise ValueError(f"expected a volume of integers, got {self.data.dtype} of shape {self.data.shape}")
        if self.data.min() < 0 or self.data.max() > len(self.names):
            raise ValueError(
                f"the volume holds labels {self.data.min()} to {self.data.max()}: expected 0 to {len(self.names)}"
            )
        if self.candidates is not None and self.candidates.shape != self.data.shape:
            raise ValueError(f"candidates of shape {self.candidates.shape}: expected that of the labels")

    @property
    def surface_note(self) -> str:
        """What may be missing on a surface."""
        return VERTEX_NOTE if self.affine is None else SURFACE_NOTE

    @property
    def pale_note(self) -> str:
        """What solid and pale mean; empty if nothing can be pale."""
        return PALE_NOTE if self.pale else ""

    def rows(self) -> list[tuple[int, int | None]]:
        """Indices of what stands in one row of a legend or table: a label, and its pale state if it can have one."""
        states = set(self.pale.values())
        return [(i, self.pale.get(i)) for i in range(len(self.names)) if i not in states]

    def by_legend_group(self) -> list[tuple[str, list[tuple[int, int | None]]]]:
        """Groups of the legend with their rows, in order of appearance, those without a group last."""
        groups = sorted(dict.fromkeys(self.legend_groups), key=lambda group: group == "")
        return [(group, [row for row in self.rows() if self.legend_groups[row[0]] == group]) for group in groups]


@dataclass(frozen=True)
class ValueMap:
    """Values of the voxels of a volume, or of the vertices of a brain, with what a colour bar needs.

    Attributes
    ----------
    data : ndarray of float, shape (X, Y, Z) or (n_vertices,)
        NaN where there is no value.
    affine : ndarray, shape (4, 4), or None
        Voxel indices to mm; None for vertices.
    title : str
        Name of the map among others.
    unit : str
        What the values are: the label of the colour bar.
    name : str
        Stands before a value in hover texts; by default the title.
    low, high : float, optional
        Ends of the colour bar; by default the smallest and the largest value.
    colormap : str
        One of matplotlib's; perceptually uniform, and without grey, which is the cortex's.
    note : str
        A sentence on what the map shows.
    key : str
        Letters and digits: names its files, as BIDS entity "stat".
    space, vertices
        As for `LabelMap`.

    Raises
    ------
    ValueError
        If the data are not a volume of floats, or an end of the colour bar is not finite.
    """

    data: NDArray[np.floating]
    affine: NDArray[np.floating] | None
    title: str
    unit: str
    name: str = ""
    low: float | None = None
    high: float | None = None
    colormap: str = "viridis"
    note: str = ""
    key: str = ""
    space: str = MNI
    vertices: Vertices | None = None

    def __post_init__(self) -> None:
        if self.data.ndim != _n_axes(self.affine) or not np.issubdtype(self.data.dtype, np.floating):
            raise ValueError(f"expected a volume of floats, got {self.data.dtype} of shape {self.data.shape}")
        if not all(np.isfinite(end) for end in (self.low, self.high) if end is not None):
            raise ValueError(f"{self.title}: colour bar from {self.low} to {self.high}, expected finite numbers")

    def limits(self) -> tuple[float, float]:
        """Ends of the colour bar, the second larger than the first."""
        finite = self.data[np.isfinite(self.data)]
        low = float(finite.min()) if finite.size else 0.0
        high = float(finite.max()) if finite.size else 1.0
        low, high = (low if self.low is None else self.low), (high if self.high is None else self.high)
        return low, high if high > low else low + 1


def _n_axes(affine: NDArray[np.floating] | None) -> int:
    return 1 if affine is None else 3


Map = LabelMap | ValueMap
