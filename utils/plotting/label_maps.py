"""Maps of labels and values: what is drawn on a brain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.plotting.surface import (
    DEFAULT_SURFACE,
    sample_labels,
)

OUTSIDE = "outside the map"
SURFACE_NOTE = (
    "Counts are those of the volume: a small isolated label that falls between the vertices of the surface, or lies "
    "off the average cortex, is counted but may not show."
)


@dataclass(frozen=True)
class LabelMap:
    """A volume of labels with what a legend needs.

    Attributes
    ----------
    data : ndarray of int, shape (X, Y, Z)
        0 where there is no label, ``k + 1`` where the k-th one holds.
    affine : ndarray, shape (4, 4)
        Voxel indices to mm in MNI space.
    names, colors, families : list of str
        One per label: its name, its colour as ``#rrggbb``, and the heading it stands under ("" for none).
    counts : list of int
        Number of places that carry each label.
    unit : str
        What is counted: "searchlights", "ROIs".
    title, note : str
        What the map is called among others, and a sentence on what it shows.

    Raises
    ------
    ValueError
        If the lists differ in length, or the volume holds a label that they do not describe.
    """

    data: NDArray[np.integer]
    affine: NDArray[np.floating]
    names: Sequence[str]
    colors: Sequence[str]
    families: Sequence[str]
    counts: Sequence[int]
    unit: str
    title: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        lengths = {len(self.names), len(self.colors), len(self.families), len(self.counts)}
        if len(lengths) != 1:
            raise ValueError(
                f"{len(self.names)} names, {len(self.colors)} colours, {len(self.families)} families and "
                f"{len(self.counts)} counts: expected one of each per label"
            )
        if self.data.ndim != 3 or not np.issubdtype(self.data.dtype, np.integer):
            raise ValueError(f"expected a volume of integers, got {self.data.dtype} of shape {self.data.shape}")
        if self.data.min() < 0 or self.data.max() > len(self.names):
            raise ValueError(
                f"the volume holds labels {self.data.min()} to {self.data.max()}: expected 0 to {len(self.names)}"
            )

    def by_family(self) -> list[tuple[str, list[int]]]:
        """Headings of the legend with the indices of their labels, in order of appearance, those without one last."""
        headings = list(dict.fromkeys(self.families))
        headings.sort(key=lambda family: family == "")
        return [(family, [i for i, own in enumerate(self.families) if own == family]) for family in headings]


def surface_labels(label_map: LabelMap, surface: str = DEFAULT_SURFACE) -> dict[str, NDArray[np.int64]]:
    """Label of every vertex: that of the voxel halfway between pial and white surface.

    Parameters
    ----------
    label_map : LabelMap
    surface : str
        One of `utils.plotting.surface.SURFACES`.

    Returns
    -------
    dict of str to ndarray of int, shape (n_vertices,)
        "left" and "right"; 0 where there is no label. Values are a subset of those in the volume.
    """
    return sample_labels(label_map.data, label_map.affine, surface)


@dataclass(frozen=True)
class ValueMap:
    """A volume of values with what a colour bar needs.

    Attributes
    ----------
    data : ndarray of float, shape (X, Y, Z)
        NaN where there is no value.
    affine : ndarray, shape (4, 4)
        Voxel indices to mm in MNI space.
    title : str
        What the map is called among others.
    unit : str
        What the values are: stands at the colour bar.
    name : str
        What stands before a value where the mouse points; by default the title.
    low, high : float, optional
        Values at the ends of the colour bar; by default the smallest and the largest of the map.
    colormap : str
        One of matplotlib's; it should be perceptually uniform and without grey, which is the cortex's.
    note : str
        A sentence on what the map shows.

    Raises
    ------
    ValueError
        If the data are no volume of floating-point numbers, or an end of the colour bar is not finite.
    """

    data: NDArray[np.floating]
    affine: NDArray[np.floating]
    title: str
    unit: str
    name: str = ""
    low: float | None = None
    high: float | None = None
    colormap: str = "viridis"
    note: str = ""

    def __post_init__(self) -> None:
        if self.data.ndim != 3 or not np.issubdtype(self.data.dtype, np.floating):
            raise ValueError(f"expected a volume of floats, got {self.data.dtype} of shape {self.data.shape}")
        if not all(np.isfinite(end) for end in (self.low, self.high) if end is not None):
            raise ValueError(f"{self.title}: colour bar from {self.low} to {self.high}, expected finite numbers")

    def limits(self) -> tuple[float, float]:
        """Values at the ends of the colour bar, the second larger than the first."""
        finite = self.data[np.isfinite(self.data)]
        low = float(finite.min()) if finite.size else 0.0
        high = float(finite.max()) if finite.size else 1.0
        low, high = (low if self.low is None else self.low), (high if self.high is None else self.high)
        return low, high if high > low else low + 1


@dataclass(frozen=True)
class Regions:
    """Names of regions to show beside what is mapped.

    Attributes
    ----------
    data : ndarray of int, shape (X, Y, Z)
        Number of the region of each voxel.
    affine : ndarray, shape (4, 4)
        Voxel indices to mm in MNI space.
    names : mapping of int to str
        Names of the regions; numbers without one are not shown.
    """

    data: NDArray[np.integer]
    affine: NDArray[np.floating]
    names: Mapping[int, str]


@dataclass(frozen=True)
class Map:
    """A map of the brain, and what its files are called.

    Attributes
    ----------
    name : str
        Letters and digits: names the files, as BIDS entity "desc" (labels) or "stat" (values).
    drawn : LabelMap or ValueMap
    """

    name: str
    drawn: LabelMap | ValueMap
