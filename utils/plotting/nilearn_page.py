"""Label maps of the brain, and nilearn's viewer of one.

Labels are sampled, never interpolated: a colour that is not in the legend is not on the brain. The page of all maps of
a figure is that of `plotting.explorer`, the still picture that of `plotting.montage`.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.plotting.label_maps import OUTSIDE, SURFACE_NOTE, LabelMap, surface_labels
from utils.plotting.surface import (
    DEFAULT_SURFACE,
    GYRUS_GREY,
    HEMISPHERES,
    SULCUS_GREY,
    fetch_meshes,
    load_hemisphere,
    triangle_corners,
)

HELP_NOTE = (
    "Drag to turn, scroll to zoom. The inner side of a hemisphere shows when that hemisphere is chosen alone and seen "
    "from the other side."
)
# Linear sampling of label numbers makes labels up: between 1 and 3 lies 2. This one takes the nearest voxel's.
_SAMPLING = {"interpolation": "nearest_most_frequent", "depth": [0.5]}


def write_page(
    label_map: LabelMap,
    path: str | Path,
    *,
    title: str,
    notes: Sequence[str],
    banner: str | None = None,
    surface: str = DEFAULT_SURFACE,
) -> None:
    """Write nilearn's own surface viewer of one map beside a legend, in one file that needs no network.

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
    surface : str
        One of `utils.plotting.surface.SURFACES`.

    Raises
    ------
    InputError
        If the surface cannot be downloaded.
    """
    # In an attribute only these two need to be escaped; to escape all would make the file a quarter larger.
    viewer = _viewer(label_map, surface).replace("&", "&amp;").replace("'", "&#39;")
    text = _PAGE.substitute(
        title=html.escape(title),
        banner=f'<p class="banner">{html.escape(banner)}</p>' if banner else "",
        viewer=viewer,
        legend=_html_legend(label_map),
        notes=" ".join(f"<span>{html.escape(note)}</span>" for note in [*notes, SURFACE_NOTE, HELP_NOTE]),
    )
    Path(path).write_text(text, encoding="utf-8")


def _viewer(label_map: LabelMap, surface: str) -> str:
    """nilearn's page of the labels, with one colour per triangle, even light and no request for a remote icon."""
    from matplotlib.colors import ListedColormap
    from nilearn import plotting

    view = plotting.view_img_on_surf(
        _image_around_cortex(label_map, surface),
        surf_mesh=fetch_meshes(surface),
        vol_to_surf_kwargs=_SAMPLING,
        cmap=ListedColormap(["#ffffff", *label_map.colors]),
        vmin=-0.5,
        vmax=len(label_map.names) + 0.5,
        threshold=0.5 if label_map.data.any() else None,  # nilearn warns of one that nothing reaches
        symmetric_cmap=False,
        colorbar=False,
        view="back",
    )
    page = _paint_triangles(view.get_standalone(), label_map, surface)
    page = re.sub(r"<link rel=\"icon\"[^>]*>", "", page)
    return page.replace("</head>", _VIEWER_STYLE + "</head>", 1)


def _image_around_cortex(label_map: LabelMap, surface: str) -> Any:
    """The volume as an image, padded with "no label" until the cortex fits in: nilearn fails on vertices outside."""
    import nibabel as nib

    halves = [load_hemisphere(hemi, surface) for hemi in HEMISPHERES]
    vertices = np.concatenate([side for half in halves for side in (half.pial, half.white)])
    voxels = nib.affines.apply_affine(np.linalg.inv(label_map.affine), vertices)
    before = np.maximum(0, np.ceil(1 - voxels.min(axis=0))).astype(int)
    after = np.maximum(0, np.ceil(voxels.max(axis=0) + 2 - label_map.data.shape)).astype(int)
    affine = np.array(label_map.affine, dtype=float)
    affine[:3, 3] -= affine[:3, :3] @ before
    data = np.pad(label_map.data, list(zip(before, after, strict=True)))
    return nib.Nifti1Image(data.astype(np.int16), affine)


def _paint_triangles(page: str, label_map: LabelMap, surface: str) -> str:
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
    colors = {
        hemi: _triangle_colors(label_map, labels, hemi, surface)
        for hemi, labels in surface_labels(label_map, surface).items()
    }
    colors["both"] = colors["left"] + colors["right"]
    for hemi, facecolor in colors.items():
        info.pop(f"vertexcolor_{hemi}")
        for kind in ("inflated", "pial"):
            info[f"{kind}_{hemi}"]["facecolor"] = facecolor
    page = page[: found.start(1)] + json.dumps(info, separators=(",", ":")) + page[found.end(1) :]
    return page.replace('<option value="back">', '<option value="back" selected>')


def _triangle_colors(label_map: LabelMap, labels: NDArray[np.int64], hemi: str, surface: str) -> list[str]:
    """Colour of every triangle: that of the label which two of its corners share, else of the middle one."""
    half = load_hemisphere(hemi, surface)
    grey = np.rint(255 * half.grey()[half.faces].mean(axis=1)).astype(int)
    return [
        label_map.colors[label - 1] if label else f"#{level:02x}{level:02x}{level:02x}"
        for label, level in zip(labels[triangle_corners(labels, half.faces)], grey, strict=True)
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
""".replace("$gyrus", f"rgb({GYRUS_GREY:.0%} {GYRUS_GREY:.0%} {GYRUS_GREY:.0%})").replace(
        "$sulcus", f"rgb({SULCUS_GREY:.0%} {SULCUS_GREY:.0%} {SULCUS_GREY:.0%})"
    )
)
