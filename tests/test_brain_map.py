"""Label maps: what is sampled on the surface, what the page and the still picture hold."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from helpers import REMOTE
from label_maps import N_LABELS, make_label_map, patches
from nilearn import datasets, surface

from utils.plotting.nilearn_page import write_nilearn_page
from utils.plotting.page_layout import Look
from utils.plotting.surface import HEMISPHERES, sample_labels


@pytest.fixture(scope="module")
def label_map():
    return make_label_map(*patches())


@pytest.fixture(scope="module")
def page(label_map, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "brain_map.html"
    notes = ["q <= .05 & 10,000 permutations", "lower ceiling >= 0.033"]
    write_nilearn_page(path, label_map, Look("Best <network>", "SIMULATED EXAMPLE"), notes)
    return path.read_text(encoding="utf-8")


def viewers_of(page):
    """nilearn's pages of the hemispheres inside their frames, as the browser reads them."""
    viewers = [html.unescape(viewer) for viewer in re.findall(r'srcdoc="([^"]*)"', page)]
    return dict(zip(HEMISPHERES, viewers, strict=True))


# ------------------------------------------------------------------------------------------------------------ sampling


def along_cortex(hemi, n=11):
    """Points from the white to the pial surface, shape (n, n_vertices, 3), in mm."""
    mesh = datasets.fetch_surf_fsaverage("fsaverage5")
    white = surface.load_surf_mesh(mesh[f"white_{hemi}"]).coordinates
    pial = surface.load_surf_mesh(mesh[f"pial_{hemi}"]).coordinates
    return white + np.linspace(0, 1, n)[:, None, None] * (pial - white)


def test_surface_holds_no_label_that_the_volume_does_not(label_map):
    # Only even labels: an odd one can come from nothing but mixing.
    even = replace(label_map, data=(label_map.data // 2 * 2).astype(np.int16))
    legal = set(np.unique(even.data))
    for labels in sample_labels(even.data, even.affine).values():
        assert labels.shape == (10242,)
        assert set(np.unique(labels)) <= legal
        assert len(np.unique(labels)) > 5


def test_linear_sampling_would_fail_that(label_map):
    even = (label_map.data // 2 * 2).astype(np.int16)
    mesh = datasets.fetch_surf_fsaverage("fsaverage5")
    image = nib.Nifti1Image(even, label_map.affine)
    mixed = surface.vol_to_surf(image, mesh.pial_left, inner_mesh=mesh.white_left, interpolation="linear")
    assert not set(np.unique(np.rint(mixed))) <= set(np.unique(even))


def test_vertex_takes_the_label_that_surrounds_it(label_map):
    """Independent sampling: where all voxels from white to pial agree there is only one possible answer."""
    for hemi, labels in sample_labels(label_map.data, label_map.affine).items():
        voxels = np.rint(nib.affines.apply_affine(np.linalg.inv(label_map.affine), along_cortex(hemi))).astype(int)
        samples = label_map.data[tuple(np.moveaxis(voxels, -1, 0))]
        agreed = (samples == samples[0]).all(axis=0)
        assert agreed.mean() > 0.7
        np.testing.assert_array_equal(labels[agreed], samples[0, agreed])


def test_cortex_inside_the_map_is_covered(label_map):
    for hemi, labels in sample_labels(label_map.data, label_map.affine).items():
        inside = along_cortex(hemi)[:, :, 1].max(axis=0) < -45
        assert (labels[inside] > 0).mean() > 0.97


def test_volume_that_ends_inside_the_brain(label_map):
    """Slabs are common; nilearn alone fails on vertices outside of the volume."""
    occupied = np.argwhere(label_map.data)
    start, stop = occupied.min(axis=0), occupied.max(axis=0) + 1
    affine = label_map.affine.copy()
    affine[:3, 3] = nib.affines.apply_affine(affine, start)
    slab = replace(label_map, data=label_map.data[tuple(map(slice, start, stop))], affine=affine)
    whole = sample_labels(label_map.data, label_map.affine)
    for hemi, labels in sample_labels(slab.data, slab.affine).items():
        np.testing.assert_array_equal(labels, whole[hemi])


def test_orientation_of_the_voxel_grid_does_not_matter(label_map):
    affine = label_map.affine @ np.diag([-1, 1, 1, 1])
    affine[:3, 3] = nib.affines.apply_affine(label_map.affine, [label_map.data.shape[0] - 1, 0, 0])
    flipped = replace(label_map, data=label_map.data[::-1], affine=affine)
    whole = sample_labels(label_map.data, label_map.affine)
    for hemi, labels in sample_labels(flipped.data, flipped.affine).items():
        assert (labels == whole[hemi]).mean() > 0.999  # ties between voxels may round the other way


# ---------------------------------------------------------------------------------------------------------------- page


def test_page_names_everything(page, label_map):
    text = page.split("<iframe")[0] + page.split("</iframe>")[-1]
    for name, color, count in zip(label_map.names, label_map.colors, label_map.counts, strict=True):
        assert re.search(rf'background:{color}"></i>{re.escape(name)}<b>{count:,}</b>', text)
    for part in ("SIMULATED EXAMPLE", "q &lt;= .05 &amp; 10,000", "lower ceiling &gt;= 0.033", "Best &lt;network&gt;"):
        assert part in text
    places = [text.index(f"<h3>{group}</h3>") for group in ("2D", "3D", "semantic", "baseline")]
    assert places == sorted(places)


def test_page_asks_for_nothing_remote(page):
    assert REMOTE.search('<link rel="icon" type="x" href="https://example.org/icon.ico" />')
    shell = re.sub(r'srcdoc="[^"]*"', "", page)
    assert not REMOTE.search(shell)
    # nilearn's page names an icon, which browsers do not ask for inside of a frame (tested in a browser elsewhere).
    for viewer in viewers_of(page).values():
        tags = re.sub(r"(<script[^>]*>).*?</script>", r"\1", viewer, flags=re.S)
        assert not REMOTE.search(re.sub(r'<link rel="icon"[^>]*>', "", tags))


def vertex_colors(page):
    """Colours that nilearn gives the vertices of each hemisphere, as the browser reads them."""
    found = {hemi: re.search(r"var surfaceMapInfo = (\{.*\});", viewer) for hemi, viewer in viewers_of(page).items()}
    return {hemi: np.array(json.loads(info[1])["vertexcolor_both"]) for hemi, info in found.items()}


def channels(color):
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def test_vertices_have_the_colours_of_their_labels(page, label_map):
    sampled = sample_labels(label_map.data, label_map.affine)
    for hemi, colors in vertex_colors(page).items():
        for label, color in enumerate(label_map.colors, start=1):
            for shown in set(colors[sampled[hemi] == label]):  # nilearn rounds down
                assert np.abs(np.subtract(channels(shown), channels(color))).max() <= 1
        outside = colors[sampled[hemi] == 0]
        assert len(outside) > 5000
        assert all(color[1:3] == color[3:5] == color[5:7] for color in outside)


def test_page_says_what_its_viewer_does(page):
    assert "blends colours where labels meet; brain_map.html shows only" in page


def test_page_is_reproducible_and_stays_small(page, label_map, tmp_path):
    notes = ["q <= .05 & 10,000 permutations", "lower ceiling >= 0.033"]
    write_nilearn_page(tmp_path / "a.html", label_map, Look("Best <network>", "SIMULATED EXAMPLE"), notes)
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == page
    assert len(page) < 10e6


def test_page_without_banner_and_without_a_single_label(label_map, tmp_path):
    empty = replace(label_map, data=np.zeros_like(label_map.data), counts=[0] * N_LABELS)
    write_nilearn_page(tmp_path / "a.html", empty, Look("Nothing"), [])
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert 'class="banner"' not in text
    assert text.count('<li class="none">') == N_LABELS
    for colors in vertex_colors(text).values():
        assert all(len(set(channels(color))) == 1 for color in set(colors))


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["one"]}, "1 names, 21 colours"),
        ({"data": np.full((2, 2, 2), 22, np.int16)}, "labels 22 to 22: expected 0 to 21"),
        ({"data": np.full((2, 2, 2), -1, np.int16)}, "labels -1 to -1"),
        ({"data": np.zeros((2, 2, 2))}, "volume of integers, got float64"),
        ({"data": np.zeros((2, 2), np.int16)}, r"shape \(2, 2\)"),
    ],
)
def test_inconsistent_label_maps_are_refused(label_map, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(label_map, **changes)
