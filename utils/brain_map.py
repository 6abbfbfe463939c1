"""Label maps of the brain: the interactive page and its still picture.

Labels are sampled, never interpolated: a colour that is not in the legend is not on the brain. Both pictures are drawn
by nilearn on the fsaverage5 surface, which nilearn ships, so nothing is downloaded.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from utils.plots import PAGE_WIDTH, Sheet, drawing_style, text_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEMISPHERES = ("left", "right")

OUTSIDE = "outside the map"

HELP_NOTE = (
    "Drag to turn, scroll to zoom. The inner side of a hemisphere shows when that hemisphere is chosen alone and seen "
    "from the other side."
)

# Linear sampling of label numbers makes labels up: between 1 and 3 lies 2. This one counts votes.
_SAMPLING = {"interpolation": "nearest_most_frequent"}

# Cortex without a label, from the crowns of the gyri to the depths of the sulci: its folds tell it from the flat light
# greys of "not significant" and "below the noise ceiling", its lightness from the untrained network's near-black.
_GYRUS_GREY, _SULCUS_GREY = 0.60, 0.40

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


def surface_labels(label_map: LabelMap) -> dict[str, NDArray[np.int64]]:
    """Label of every vertex of fsaverage5: the most frequent one on the way from pial to white surface.

    Parameters
    ----------
    label_map : LabelMap

    Returns
    -------
    dict of str to ndarray of int, shape (10242,)
        "left" and "right"; 0 where there is no label. Values are a subset of those in the volume. "No label" votes too,
        and wins a tie, so that what is smaller than the cortex is thick fades rather than grows.
    """
    from nilearn import surface

    image, mesh = _image_around_mesh(label_map), _mesh()
    return {
        hemi: surface.vol_to_surf(image, mesh[f"pial_{hemi}"], inner_mesh=mesh[f"white_{hemi}"], **_SAMPLING).astype(
            np.int64
        )
        for hemi in HEMISPHERES
    }


def _mesh() -> Any:
    from nilearn import datasets

    return datasets.fetch_surf_fsaverage("fsaverage5")


def _image_around_mesh(label_map: LabelMap) -> Any:
    """The volume as an image, padded with "no label" until the cortex fits in: nilearn fails on vertices outside."""
    import nibabel as nib
    from nilearn import surface

    mesh = _mesh()
    vertices = np.concatenate(
        [
            surface.load_surf_mesh(mesh[f"{kind}_{hemi}"]).coordinates
            for kind in ("pial", "white")
            for hemi in HEMISPHERES
        ]
    )
    voxels = nib.affines.apply_affine(np.linalg.inv(label_map.affine), vertices)
    before = np.maximum(0, np.ceil(1 - voxels.min(axis=0))).astype(int)
    after = np.maximum(0, np.ceil(voxels.max(axis=0) + 2 - label_map.data.shape)).astype(int)
    affine = np.array(label_map.affine, dtype=float)
    affine[:3, 3] -= affine[:3, :3] @ before
    data = np.pad(label_map.data, list(zip(before, after, strict=True)))
    return nib.Nifti1Image(data.astype(np.int16), affine)


def _cortex_grey(hemi: str) -> NDArray[np.floating]:
    """Grey level of every vertex by sulcal depth: 0 is black, 1 is white."""
    from nilearn import surface

    depth = surface.load_surf_data(_mesh()[f"sulc_{hemi}"])
    low, high = np.percentile(depth, [5, 95])
    return _GYRUS_GREY + (_SULCUS_GREY - _GYRUS_GREY) * np.clip((depth - low) / (high - low), 0, 1)


# ---------------------------------------------------------------------------------------------------------------- page


def write_page(
    label_map: LabelMap, path: str | Path, *, title: str, notes: Sequence[str], banner: str | None = None
) -> None:
    """Write the interactive map: nilearn's surface viewer beside a legend, in one file that needs no network.

    Parameters
    ----------
    label_map : LabelMap
    path : path-like
        The file to write.
    title : str
    notes : sequence of str
        Sentences below the map: thresholds, number of permutations, what is not shown.
    banner : str, optional
        Warning across the top of the page, such as that the data are simulated.
    """
    # In an attribute only these two need to be escaped; to escape all would make the file a quarter larger.
    viewer = _viewer(label_map).replace("&", "&amp;").replace("'", "&#39;")
    text = _PAGE.substitute(
        title=html.escape(title),
        banner=f'<p class="banner">{html.escape(banner)}</p>' if banner else "",
        viewer=viewer,
        legend=_html_legend(label_map),
        notes=" ".join(f"<span>{html.escape(note)}</span>" for note in [*notes, SURFACE_NOTE, HELP_NOTE]),
    )
    Path(path).write_text(text, encoding="utf-8")


def _viewer(label_map: LabelMap) -> str:
    """nilearn's page of the labels, with one colour per triangle, even light and no request for a remote icon."""
    from matplotlib.colors import ListedColormap
    from nilearn import plotting

    view = plotting.view_img_on_surf(
        _image_around_mesh(label_map),
        surf_mesh="fsaverage5",
        vol_to_surf_kwargs=_SAMPLING,
        cmap=ListedColormap(["#ffffff", *label_map.colors]),
        vmin=-0.5,
        vmax=len(label_map.names) + 0.5,
        threshold=0.5 if label_map.data.any() else None,  # nilearn warns of one that nothing reaches
        symmetric_cmap=False,
        colorbar=False,
        view="back",
    )
    page = _paint_triangles(view.get_standalone(), label_map)
    page = re.sub(r"<link rel=\"icon\"[^>]*>", "", page)
    return page.replace("</head>", _VIEWER_STYLE + "</head>", 1)


def _paint_triangles(page: str, label_map: LabelMap) -> str:
    """Replace nilearn's colours of vertices by colours of triangles.

    Between two vertices of different colour the browser mixes the two, so that half of the triangles of a map of 19
    labels would show colours that are in no legend. A page that is not laid out as expected is left as it is.
    """
    found = re.search(r"var surfaceMapInfo = (\{.*\});", page)
    if found is None or '"vertexcolor_both"' not in found[1]:
        return page
    info = json.loads(found[1])
    # With a view of its own the viewer would return to it whenever another hemisphere is chosen.
    info["view"] = None
    colors = {hemi: _triangle_colors(label_map, labels, hemi) for hemi, labels in surface_labels(label_map).items()}
    colors["both"] = colors["left"] + colors["right"]
    for hemi, facecolor in colors.items():
        info.pop(f"vertexcolor_{hemi}")
        for kind in ("inflated", "pial"):
            info[f"{kind}_{hemi}"]["facecolor"] = facecolor
    page = page[: found.start(1)] + json.dumps(info, separators=(",", ":")) + page[found.end(1) :]
    return page.replace('<option value="back">', '<option value="back" selected>')


def _triangle_colors(label_map: LabelMap, labels: NDArray[np.int64], hemi: str) -> list[str]:
    """Colour of every triangle: that of the label which two of its corners share, else of the middle one."""
    from nilearn import surface

    faces = surface.load_surf_mesh(_mesh()[f"pial_{hemi}"]).faces
    label_of_face = np.median(labels[faces], axis=1).astype(int)
    grey = np.rint(255 * _cortex_grey(hemi)[faces].mean(axis=1)).astype(int)
    return [
        label_map.colors[label - 1] if label else f"#{level:02x}{level:02x}{level:02x}"
        for label, level in zip(label_of_face, grey, strict=True)
    ]


def _html_legend(label_map: LabelMap) -> str:
    parts: list[str] = []
    for family, indices in label_map.by_family():
        rows = "".join(
            f"<li{'' if label_map.counts[i] else ' class=none'}>"
            f'<i style="background:{html.escape(label_map.colors[i])}"></i>{html.escape(label_map.names[i])}'
            f"<b>{label_map.counts[i]:,}</b></li>"
            for i in indices
        )
        heading = f"<h3>{html.escape(family)}</h3>" if family else "<hr>" * bool(parts)
        parts.append(f"{heading}<ul>{rows}</ul>")
    parts.append(f'<ul><li><i class="outside"></i>{OUTSIDE}</li></ul>')
    return f"<h2>label <b>{html.escape(label_map.unit)}</b></h2>" + "".join(parts)


# Plotly's own light darkens colours by up to a half; this leaves just enough shade to see the folds.
_VIEWER_STYLE = """
<style>
  body { margin: 0; font: 14px system-ui, sans-serif; text-align: center; overflow: hidden; }
  #surface-plot { width: fit-content; margin: 0 auto; }
  select { font: inherit; }
  .modebar-btn--logo { display: none; }
</style>
<script>
  function getLighting () { return { ambient: 0.96, diffuse: 0.08, specular: 0, fresnel: 0 } }
</script>
"""

# The viewer sizes itself by its window and would run under the legend: a frame gives it a window of its own.
_PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
  * { box-sizing: border-box; }
  body { margin: 0; height: 100vh; min-height: 560px; display: flex; flex-direction: column;
         font: 14px/1.35 system-ui, sans-serif; color: #1a1a1a; background: #fff; }
  h1 { font-size: 19px; margin: 8px 16px 4px; }
  .banner { margin: 0; padding: 5px 16px; background: #1a1a1a; color: #fff; font-weight: 700; text-align: center; }
  main { flex: 1; min-height: 0; display: flex; }
  iframe { flex: 1; min-width: 0; border: 0; }
  aside { flex: none; width: 250px; padding: 0 16px 4px 4px; overflow-y: auto; font-size: 13px; }
  aside h2, aside li { display: flex; align-items: center; gap: 7px; }
  aside h2 { font-size: 12px; font-weight: 400; color: #555; margin: 0 0 2px; justify-content: space-between; }
  aside h2 b { font-weight: 400; }
  aside h3 { font-size: 13px; margin: 5px 0 1px; }
  aside hr { border: 0; border-top: 1px solid #ccc; margin: 7px 0 4px; }
  aside ul { list-style: none; margin: 0; padding: 0; }
  aside li { line-height: 18px; }
  aside li.none { color: #767676; }
  aside li b { margin-left: auto; font-weight: 400; font-variant-numeric: tabular-nums; }
  aside i { flex: none; width: 18px; height: 12px; border: 1px solid rgba(0, 0, 0, .35); }
  aside i.outside { background: linear-gradient(115deg, $gyrus, $sulcus 35%, $gyrus 65%, $sulcus); }
  footer { padding: 4px 16px 8px; font-size: 12px; color: #333; }
</style>
</head>
<body>
$banner
<h1>$title</h1>
<main>
<iframe title="Interactive brain map" srcdoc='$viewer'></iframe>
<aside>$legend</aside>
</main>
<footer>$notes</footer>
</body>
</html>
""".replace("$gyrus", f"rgb({_GYRUS_GREY:.0%} {_GYRUS_GREY:.0%} {_GYRUS_GREY:.0%})").replace(
        "$sulcus", f"rgb({_SULCUS_GREY:.0%} {_SULCUS_GREY:.0%} {_SULCUS_GREY:.0%})"
    )
)


# ------------------------------------------------------------------------------------------------------- still picture

_VIEWS = ("lateral", "medial", "posterior", "ventral")

# Zoom at which matplotlib draws a cube seen face on as large as its axes; at 1 it fills 59.5 % of their width.
_FILL = 1 / 0.595


def static_figure(label_map: LabelMap, *, title: str, note: str, banner: str | None = None) -> Figure:
    """Montage of the inflated cortex: four views of each hemisphere at one scale, with the legend below.

    Parameters
    ----------
    label_map : LabelMap
    title, note : str
        Heading, and the small print below.
    banner : str, optional
        Warning across the top of the figure, such as that the data are simulated.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot. The surfaces are pixels in a vector file too; text and legend stay text.
    """
    with drawing_style():
        montage = _Montage.of_mesh(PAGE_WIDTH)
        legend = _Legend.of(label_map)
        body = montage.height + legend.height
        sheet = Sheet.new(PAGE_WIDTH, body, title=title, note=f"{note} {SURFACE_NOTE}".strip(), banner=banner)
        montage.draw(sheet, label_map)
        legend.draw(sheet, sheet.top + montage.height, label_map)
        return sheet.figure


@dataclass(frozen=True)
class _Montage:
    """Sizes in inches of the panels: every view has the same scale, so that areas can be compared."""

    widths: tuple[float, ...]
    row: float
    inches_per_mm: float

    left = 0.3
    gap = 0.08
    headings = 0.2

    @property
    def height(self) -> float:
        return self.headings + len(HEMISPHERES) * self.row

    @classmethod
    def of_mesh(cls, page_width: float) -> _Montage:
        size = np.max([np.ptp(_inflated(hemi).coordinates, axis=0) for hemi in HEMISPHERES], axis=0)
        widths_mm = np.array([{"posterior": size[0]}.get(view, size[1]) for view in _VIEWS])
        scale = float((page_width - cls.left - cls.gap * len(_VIEWS)) / widths_mm.sum())
        return cls(tuple(scale * widths_mm), float(scale * size[2]) + 0.1, scale)

    def draw(self, sheet: Sheet, label_map: LabelMap) -> None:
        labels = surface_labels(label_map)
        for row, hemi in enumerate(HEMISPHERES):
            x, y = self.left, sheet.top + self.headings + row * self.row
            sheet.text(0.17, y + self.row / 2, f"{hemi} hemisphere", rotation=90, ha="center", va="center", size=6.5)
            for width, view in zip(self.widths, _VIEWS, strict=True):
                if row == 0:
                    sheet.text(x + width / 2, sheet.top + 0.12, view, ha="center", va="center", size=6.5)
                # A square in which the whole brain fits from any side, centred on the panel and larger than it.
                side = 1.1 * max(self.widths)
                box = sheet.rectangle(x + (width - side) / 2, y + (self.row - side) / 2, side, side)
                _draw_surface(sheet.figure, box, label_map, labels[hemi], hemi, view, side / self.inches_per_mm)
                x += width + self.gap


def _inflated(hemi: str) -> Any:
    """A mesh of one's own: nilearn moves the one that it draws to the origin, in place."""
    from nilearn import surface

    mesh = surface.load_surf_mesh(_mesh()[f"infl_{hemi}"])
    return surface.InMemoryMesh(mesh.coordinates.copy(), mesh.faces.copy())


def _draw_surface(
    figure: Figure,
    box: tuple[float, float, float, float],
    label_map: LabelMap,
    labels: NDArray[np.int64],
    hemi: str,
    view: str,
    side_mm: float,
) -> None:
    from matplotlib.colors import ListedColormap
    from nilearn import plotting

    mesh = _inflated(hemi)
    low, high = mesh.coordinates.min(axis=0), mesh.coordinates.max(axis=0)
    middle = (low + high) / 2 - mesh.coordinates.mean(axis=0)
    axes: Any = figure.add_axes(box, projection="3d", facecolor="none")
    plotting.plot_surf_roi(
        mesh,
        roi_map=labels,
        hemi=hemi,
        view=view,
        bg_map=1 - _cortex_grey(hemi),
        cmap=ListedColormap(["#ffffff", *label_map.colors]),
        vmin=-0.5,
        vmax=len(label_map.names) + 0.5,
        threshold=0.5,
        avg_method="median",  # of three labels it is always one of the three
        colorbar=False,
        axes=axes,
        figure=figure,
    )
    # nilearn scales the three axes differently and looks in perspective.
    axes.set_proj_type("ortho")
    axes.set(**{f"{name}lim": (c - side_mm / 2, c + side_mm / 2) for name, c in zip("xyz", middle, strict=True)})
    axes.set_box_aspect((1, 1, 1), zoom=_FILL)
    axes.set_rasterized(True)


# A line of the legend: a text with the index of its label, None for a heading.
_Line = tuple[str, int | None]


@dataclass(frozen=True)
class _Legend:
    """Legend in columns, in inches; families are not broken."""

    columns: list[list[_Line]]
    column_width: float

    line = 0.145
    heading = 0.2

    @property
    def height(self) -> float:
        return self.heading + self.line * max(len(column) for column in self.columns) + 0.05

    @classmethod
    def of(cls, label_map: LabelMap) -> _Legend:
        blocks = _legend_blocks(label_map)
        width = 0.85 + max(text_width(text, 6.5, bold=True) for block in blocks for text, _ in block)
        n_columns = int(np.clip((PAGE_WIDTH - 0.2) / width, 1, 4))
        height = max(*map(len, blocks), -(-sum(map(len, blocks)) // n_columns))
        while len(columns := _in_columns(blocks, height)) > n_columns:
            height += 1
        return cls(columns, width)

    def draw(self, sheet: Sheet, top: float, label_map: LabelMap) -> None:
        left = (sheet.width - self.column_width * len(self.columns)) / 2 + 0.1
        sheet.text(
            left, top + 0.1, f"Labels and their number of {label_map.unit}", va="center", size=6.5, color="#555555"
        )
        for c, column in enumerate(self.columns):
            x = left + c * self.column_width
            for r, (text, index) in enumerate(column):
                y = top + self.heading + self.line * (r + 0.5)
                if index is None:
                    sheet.text(x, y, text, va="center", size=6.5, weight="bold")
                    continue
                is_label = index < len(label_map.names)
                # As on the page, labels that won nowhere step back.
                color = "#767676" if is_label and not label_map.counts[index] else "black"
                sheet.text(x + 0.19, y, text, va="center", size=6.5, color=color)
                if is_label:
                    sheet.swatch(x, y, label_map.colors[index])
                    count = f"{label_map.counts[index]:,}"
                    sheet.text(x + self.column_width - 0.3, y, count, va="center", ha="right", size=6.5, color=color)
                else:
                    sheet.swatch(x, y, str(_GYRUS_GREY), str(_SULCUS_GREY))


def _legend_blocks(label_map: LabelMap) -> list[list[_Line]]:
    """Lines that stay together: every family under its heading, and what has none after an empty line."""
    blocks: list[list[_Line]] = []
    outside: _Line = (OUTSIDE, len(label_map.names))
    for family, indices in label_map.by_family():
        lines: list[_Line] = [(label_map.names[i], i) for i in indices]
        if family:
            blocks.append([(family, None), *lines])
        elif blocks:
            return [*blocks, [("", None), *lines, outside]]
        else:
            blocks = [[line] for line in lines]
    return [*blocks, [outside]]


def _in_columns(blocks: list[list[_Line]], height: int) -> list[list[_Line]]:
    """Blocks one below the other in columns of at most `height` lines."""
    columns: list[list[_Line]] = [[]]
    for block in blocks:
        if columns[-1] and len(columns[-1]) + len(block) > height:
            columns.append([])
        columns[-1].extend(block)
    return columns
