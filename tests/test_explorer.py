"""The page of maps: what is sampled, what the file holds, and what a browser shows of it."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from itertools import combinations

import nibabel as nib
import numpy as np
import pytest
import requests
from browser import open_browser
from helpers import REMOTE
from label_maps import make_label_map, make_pale_map, patches
from nilearn import datasets
from nilearn import surface as nilearn_surface

from utils import InputError
from utils.plotting import explorer, surface
from utils.plotting.explorer import write_explorer
from utils.plotting.label_maps import PALE_NOTE, LabelMap, ValueMap
from utils.plotting.nilearn_page import write_nilearn_page
from utils.plotting.page_layout import Look
from utils.plotting.surface import (
    HEMISPHERES,
    Hemisphere,
    load_hemisphere,
    sample,
    triangle_corners,
    vertex_voxels,
)
from utils.rdms.atlas import Atlas

VIEWS = ("posterior", "lateral", "medial", "ventral", "dorsal")
PALETTE = (
    "#0077BB", "#E69F00", "#882255", "#228833", "#EE3377", "#66CCEE", "#CCBB44", "#009988", "#AA3377", "#16128e",
)  # fmt: skip
NOTES = ["q <= .05 & 10,000 permutations", "lower ceiling >= 0.033"]


def mni_grid():
    """Affine and coordinates (X, Y, Z, 3), in mm, of 3-mm voxels around the whole brain."""
    affine = datasets.load_mni152_gm_mask(resolution=3).affine
    shape = datasets.load_mni152_gm_mask(resolution=3).shape
    return affine, nib.affines.apply_affine(affine, np.stack(np.indices(shape), axis=-1))


def label_of_sides():
    """Ten labels, of each hemisphere what is best seen in each of the five views; what is none of them has no label."""
    affine, xyz = mni_grid()
    side, y, z = np.abs(xyz[..., 0]), xyz[..., 1], xyz[..., 2]
    regions = [
        (y < -84) & (side > 9),
        (side > 54) & (z > -12),
        (side > 3) & (side < 9) & (np.abs(y + 10) < 60) & (z > 0),
        (z < -24) & (side > 18) & (y < 20),
        (z > 57) & (side > 9),
    ]
    data = np.zeros(side.shape, dtype=np.int16)
    for number, region in reversed(list(enumerate(regions, start=1))):
        data[region] = number
    data = np.where((data > 0) & (xyz[..., 0] > 0), data + 5, data)
    counts = [int((data == number).sum()) for number in range(1, 11)]
    names = [f"{view} {hemi}" for hemi in HEMISPHERES for view in VIEWS]
    groups = [hemi for hemi in HEMISPHERES for _ in VIEWS]
    return LabelMap(data, affine, names, list(PALETTE), groups, counts, "voxels", "Sides", "Where views look.")


@pytest.fixture(scope="module")
def maps():
    """The sides; which hemisphere, with a label that is nowhere; hundredths of the number of the side."""
    sides = label_of_sides()
    halves = replace(
        sides,
        data=((sides.data + 4) // 5).astype(np.int16),
        names=["left <half>", "right half", "neither"],
        colors=["#228833", "#EE3377", "#2B2B2B"],
        legend_groups=[""] * 3,
        counts=[sum(sides.counts[:5]), sum(sides.counts[5:]), 0],
        title="Halves",
        note="Which </script> half & <i>no more</i>.",
    )
    values = np.where(sides.data > 0, sides.data / 100, np.nan).astype(np.float32)
    some = np.where(sides.data <= 5, values, np.nan)
    return [
        sides,
        halves,
        ValueMap(values, sides.affine, "Hundredths", "number of the side / 100", name="hundredth", low=0, high=0.1),
        ValueMap(some, sides.affine, "Left only", "number of the side / 100", note="Half of it.", colormap="cividis"),
    ]


@pytest.fixture(scope="module")
def extras(maps):
    first = maps[0]
    _, xyz = mni_grid()
    atlas = Atlas(np.where(xyz[..., 0] < 0, 7, 9), first.affine, {7: "L&L", 9: "R"})
    return {"atlas": atlas}


@pytest.fixture(scope="module")
def page(maps, extras, tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "brain_map.html"
    write_explorer(path, maps, Look("Sides <of> it", "SIMULATED EXAMPLE"), NOTES, **extras)
    return path


def content_of(path):
    """What the script of the page reads, with its arrays unpacked."""
    text = re.search(r'<script type="application/json" id="content">(.*?)</script>', path.read_text("utf-8"), re.S)[1]

    def unpack(thing):
        return np.frombuffer(base64.b64decode(thing["base64"]), "<" + thing["type"]) if "base64" in thing else thing

    return json.loads(text, object_hook=unpack)


def both(by_hemisphere):
    return np.concatenate([by_hemisphere[hemi] for hemi in HEMISPHERES])


def all_faces():
    left, right = (load_hemisphere(hemi) for hemi in HEMISPHERES)
    return np.concatenate([left.faces, right.faces + len(left.pial)])


def voted(labels):
    """Label of every triangle by counting: the one that two corners share, else the one in the middle."""
    result = []
    for corners in labels[all_faces()]:
        values, counts = np.unique(corners, return_counts=True)
        result.append(values[counts.argmax()] if counts.max() > 1 else sorted(corners)[1])
    return np.array(result)


# ------------------------------------------------------------------------------------------------------------- surface


@pytest.mark.slow
def test_labels_are_those_that_nilearn_samples_halfway(maps):
    files = datasets.fetch_surf_fsaverage("fsaverage5")
    image = nib.Nifti1Image(maps[0].data, maps[0].affine)
    for hemi, labels in sample(maps[0].data, maps[0].affine).items():
        expected = nilearn_surface.vol_to_surf(
            image, files[f"pial_{hemi}"], inner_mesh=files[f"white_{hemi}"],
            interpolation="nearest_most_frequent", depth=[0.5],
        )  # fmt: skip
        np.testing.assert_array_equal(labels, expected)
        assert len(np.unique(labels)) == 6


def test_values_are_exactly_those_of_the_volume_and_end_where_it_ends(maps, rng):
    volume = np.where(maps[0].data > 0, rng.random(maps[0].data.shape), np.nan).astype(np.float32)
    labels = sample(maps[0].data, maps[0].affine)
    for hemi, values in sample(volume, maps[0].affine).items():
        np.testing.assert_array_equal(np.isnan(values), labels[hemi] == 0)
        assert set(values[~np.isnan(values)]) <= set(volume[~np.isnan(volume)])
        assert len(np.unique(values)) > 1000


def test_vertices_outside_of_the_volume_have_nothing(maps):
    small = maps[0].data[:10, :10, :10] + 1
    assert (vertex_voxels(small.shape, maps[0].affine, "left") == -1).mean() > 0.9
    far = maps[0].affine.copy()
    far[:3, 3] = 500
    for hemi in HEMISPHERES:
        assert not sample(small, far)[hemi].any()
        assert np.isnan(sample(small.astype(float), far)[hemi]).all()


def test_triangle_takes_its_colour_from_a_corner_with_the_middle_label(rng):
    faces = all_faces()
    labels = rng.integers(0, 4, 20484)
    corners = triangle_corners(labels, faces)
    assert (faces == corners[:, None]).any(axis=1).all()
    np.testing.assert_array_equal(labels[corners], voted(labels))


def test_surface_that_cannot_be_downloaded(monkeypatch, maps, tmp_path):
    def fetch(surface):
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(datasets, "fetch_surf_fsaverage", fetch)
    for write in (
        lambda: write_explorer(tmp_path / "a.html", maps, Look("T", surface="fsaverage6"), []),
        lambda: write_nilearn_page(tmp_path / "a.html", maps[0], Look("T", surface="fsaverage6"), []),
    ):
        with pytest.raises(
            InputError, match=r"^the meshes of fsaverage6 .*\(ConnectionError\).*fsaverage5, which needs"
        ):
            write()
    assert not list(tmp_path.iterdir())


def test_shared_meshes_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        load_hemisphere("left").inflated[0] = 0


# ---------------------------------------------------------------------------------------------------------------- file


@pytest.mark.slow
def test_content_is_what_was_handed_in(page, maps, extras):
    content = content_of(page)
    sampled = both(sample(maps[0].data, maps[0].affine))
    np.testing.assert_array_equal(content["maps"][0]["label"], sampled)
    assert set(sampled) == set(range(11))
    np.testing.assert_array_equal(content["maps"][1]["label"], (sampled + 4) // 5)
    np.testing.assert_array_equal(content["cortex"]["faces"].reshape(-1, 3), all_faces())
    np.testing.assert_array_equal(sampled[content["cortex"]["corner"]], voted(sampled))
    names = [column["name"] for column in content["hover"]["values"]]
    assert names == ["hundredth", "Left only"]
    hundredth, left = (column["value"] for column in content["hover"]["values"])
    np.testing.assert_array_equal(hundredth, np.where(sampled > 0, sampled / 100, np.nan).astype(np.float32))
    np.testing.assert_array_equal(left, np.where(sampled <= 5, hundredth, np.nan))
    regions = [content["hover"]["regions"][code] for code in content["hover"]["region"]]
    middle = both({hemi: load_hemisphere(hemi).middle() for hemi in HEMISPHERES})
    clear = np.abs(middle[:, 0]) > 2
    assert [name for name, ok in zip(regions, clear, strict=True) if ok] == [
        "L&amp;L" if x < 0 else "R" for x in middle[clear, 0]
    ]
    np.testing.assert_array_equal(content["hover"]["mni"].reshape(-1, 3), np.rint(middle))


def test_labels_lie_closely_above_the_grey_cortex(page):
    cortex = content_of(page)["cortex"]
    base, lifted = cortex["base"].reshape(-1, 3) / 100, cortex["lifted"].reshape(-1, 3) / 100
    np.testing.assert_allclose(base, both({h: load_hemisphere(h).inflated for h in HEMISPHERES}), atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(lifted - base, axis=1), 0.35, atol=0.02)
    a, b, c = (base[all_faces()[:, corner]] for corner in range(3))
    outwards = np.cross(b - a, c - a)
    for corner in range(3):
        moved = (lifted - base)[all_faces()[:, corner]]
        assert ((moved * outwards).sum(axis=1) > 0).mean() > 0.999


def test_colour_bar_ends_where_the_values_end(maps):
    assert maps[2].limits() == (0, 0.1)
    assert maps[3].limits() == pytest.approx((0.01, 0.05))
    nothing, constant = np.full((2, 2, 2), np.nan), np.full((2, 2, 2), 0.25)
    assert replace(maps[3], data=nothing).limits() == (0, 1)
    assert replace(maps[3], data=constant).limits() == (0.25, 1.25)
    assert replace(maps[3], data=np.array([[[-np.inf, 2, 3, np.inf]]])).limits() == (2, 3)


def test_file_is_whole_small_and_always_the_same(page, maps, extras, tmp_path):
    text = page.read_text("utf-8")
    assert page.stat().st_size < 10e6
    shell = re.sub(r"(<script[^>]*>).*?</script>", r"\1", text, flags=re.S)
    assert not REMOTE.search(shell)
    assert "{{" not in shell
    for part in ("Sides &lt;of&gt; it", "SIMULATED EXAMPLE", "q &lt;= .05 &amp; 10,000 permutations", 'lang="en"'):
        assert part in shell
    write_explorer(tmp_path / "again.html", maps, Look("Sides <of> it", "SIMULATED EXAMPLE"), NOTES, **extras)
    assert (tmp_path / "again.html").read_text("utf-8") == text


def test_tables_name_and_count_every_label(page, maps):
    tables = re.findall(r"<table>.*?</table>", page.read_text("utf-8"), re.S)
    assert len(tables) == 2
    cells = [re.findall(r"<td[^>]*>(?:<i[^>]*></i>)?([^<]*)</td>", table) for table in tables]
    expected = [
        cell
        for name, group, count in zip(maps[0].names, maps[0].legend_groups, maps[0].counts, strict=True)
        for cell in (name, group, f"{count:,}")
    ]
    assert cells[0] == expected
    assert cells[1][0] == "left &lt;half&gt;"
    assert cells[1][-2:] == ["neither", "0"]


@pytest.mark.slow
def test_page_of_the_whole_cortex_and_many_maps_stays_small(maps, rng, tmp_path):
    shape = maps[0].data.shape
    whole = replace(maps[0], data=rng.integers(1, 11, shape).astype(np.int16))
    values = [
        ValueMap(rng.random(shape).astype(np.float32), maps[0].affine, f"map {number}", "u") for number in range(12)
    ]
    write_explorer(tmp_path / "a.html", [whole, maps[1], *values], Look("Whole"), [])
    assert (tmp_path / "a.html").stat().st_size < 10e6
    assert '<p class="banner">' not in (tmp_path / "a.html").read_text("utf-8")


@pytest.mark.slow
def test_mesh_with_more_vertices_than_16_bits_can_count(maps, monkeypatch, tmp_path):
    """fsaverage6 has to be downloaded; this has as many vertices: every edge of fsaverage5 gets one in its middle."""

    def finer(hemi, name="fsaverage5"):
        half = load_hemisphere(hemi)
        sides = np.sort(np.concatenate([half.faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])]), axis=1)
        edges, new = np.unique(sides, axis=0, return_inverse=True)
        ab, bc, ca = new.reshape(3, -1) + len(half.pial)
        a, b, c = half.faces.T
        faces = np.concatenate(
            [np.stack(corners, axis=1) for corners in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))]
        )
        both_ends = [np.concatenate([old, old[edges].mean(axis=1)]) for old in (half.pial, half.white, half.inflated)]
        return Hemisphere(*both_ends, faces, np.concatenate([half.depth, half.depth[edges].mean(axis=1)]))

    monkeypatch.setattr(surface, "load_hemisphere", finer)
    monkeypatch.setattr(explorer, "load_hemisphere", finer)
    write_explorer(tmp_path / "a.html", maps[:1], Look("Fine", surface="fsaverage6"), [])
    content = content_of(tmp_path / "a.html")
    faces = content["cortex"]["faces"].reshape(-1, 3)
    assert content["cortex"]["leftVertices"] == 40962
    assert faces.max() == 2 * 40962 - 1
    assert (faces == content["cortex"]["corner"][:, None]).any(axis=1).all()
    assert len(content["maps"][0]["label"]) == 2 * 40962


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps: maps[2:], "first map is a ValueMap: expected a LabelMap"),
        (lambda maps: [], "first map is a NoneType"),
        (lambda maps: [maps[0], replace(maps[1], title="")], r"\['Sides', ''\]: expected one of its own"),
        (lambda maps: [maps[0], replace(maps[1], title="Sides")], r"\['Sides', 'Sides'\]: expected one of its own"),
    ],
)
def test_maps_that_make_no_page_are_refused(change, message, maps, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_explorer(tmp_path / "a.html", change(maps), Look("T"), [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": np.zeros((2, 2, 2), dtype=int)}, "volume of floats, got int64"),
        ({"data": np.zeros((2, 2))}, r"shape \(2, 2\)"),
        ({"high": float("nan")}, "Hundredths: colour bar from 0 to nan, expected finite numbers"),
    ],
)
def test_inconsistent_value_maps_are_refused(changes, message, maps):
    with pytest.raises(ValueError, match=message):
        replace(maps[2], **changes)


# ------------------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def browser():
    with open_browser() as started:
        yield started


@pytest.fixture
def shown(browser, page):
    """The page in the browser, as it opens; opened anew only after another page."""
    browser.resize(1400, 820)
    if browser.driver.current_url == page.as_uri():
        browser.run("mapChoice.value = 0; viewChoice[0].checked = true; chooseMap(); chooseView(); draw();")
    else:
        browser.open(page)
    browser.settle()
    return browser


def choose(browser, *, map=None, view=None):
    from selenium.webdriver.support.ui import Select

    if map is not None:
        Select(browser.find("#map")[0]).select_by_visible_text(map)
    if view is not None:
        browser.find(f"label:has([value={view}])")[0].click()
    browser.settle()


def rgb(color):
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.int16)


def same_color(picture, color):
    """Pixels of this colour; graphics cards may round."""
    return (np.abs(picture - rgb(color)) <= 2).all(axis=-1)


def n_pixels(browser, colors):
    """Number of pixels of these colours on the brain, left of the legend."""
    picture = browser.pixels()[:, : browser.run("return chart.clientWidth - legendWidth")]
    return np.array([same_color(picture, color).sum() for color in colors])


def legend(browser):
    """Lines of the legend with what is to be clicked for each."""
    return {
        entry.text: entry.find_element("css selector", ".legendtoggle")
        for entry in browser.find("#brain .legend .traces:has(.legendtoggle)")
    }


def entry(browser, name):
    return next(toggle for text, toggle in legend(browser).items() if text.startswith(name))


def test_page_opens_from_disk_without_a_request_or_an_error(browser, page, maps):
    browser.open(page)
    browser.settle()
    for own, view in zip(maps, VIEWS[1:], strict=True):
        choose(browser, map=own.title, view=view)
    assert browser.requests() == [page.as_uri()]
    assert browser.errors() == []


def is_drawn(picture, color):
    """Whether a colour is shown in more than a few pixels."""
    return (np.abs(picture - color) < 30).all(axis=-1).sum() > 300


def test_nilearns_page_opens_from_disk_without_a_request_or_an_error(browser, maps, tmp_path):
    write_nilearn_page(tmp_path / "brain_map_nilearn.html", maps[0], Look("nilearn's"), [])
    browser.open(tmp_path / "brain_map_nilearn.html")
    browser.settle_nilearn()
    for side, color in zip((slice(0, 570), slice(570, 1140)), maps[0].colors[::5], strict=True):
        browser.until(lambda side=side, color=color: is_drawn(browser.pixels()[:, side], rgb(color)))
    assert browser.requests() == [(tmp_path / "brain_map_nilearn.html").as_uri()]
    assert browser.errors() == []


def test_nothing_can_be_uploaded(shown):
    assert [button.get_attribute("data-title") for button in shown.find(".modebar-btn")] == ["Download plot as a PNG"]
    assert not re.search("share|cloud|upload|chart studio", shown.find("body")[0].text, re.I)


def test_legend_names_counts_and_groups_every_label(shown, maps):
    sides, halves = maps[:2]
    assert list(legend(shown)) == [f"{name}  {count:,}" for name, count in zip(sides.names, sides.counts, strict=True)]
    texts = [text.text for text in shown.find(".legend text")]
    assert texts[0] == "number of voxels"
    assert texts.index("left") < texts.index(f"{sides.names[0]}  {sides.counts[0]:,}") < texts.index("right")
    choose(shown, map="Halves")
    assert list(legend(shown)) == [
        f"{name}  {count:,}" for name, count in zip(halves.names, halves.counts, strict=True)
    ]
    assert shown.find("#note")[0].text == halves.note


def test_each_view_shows_its_side_of_both_hemispheres(shown, maps):
    seen = {}
    for view in VIEWS:
        choose(shown, view=view)
        seen[view] = n_pixels(shown, maps[0].colors).reshape(2, 5)
        names = {text.text: text.rect["x"] for text in shown.find("#brain .annotation-text")}
        picture = shown.pixels()
        columns = [
            np.flatnonzero(same_color(picture[:, :1100], maps[0].colors[label]).any(axis=0)).mean()
            for label in (VIEWS.index(view), VIEWS.index(view) + 5)
        ]
        left_first = view != "ventral"  # seen from below, left is right
        assert (names["left hemisphere"] < names["right hemisphere"]) == left_first
        assert (columns[0] < columns[1]) == left_first
    for place, view in enumerate(VIEWS):
        own, others = seen[view][:, place], [seen[other][:, place] for other in VIEWS if other != view]
        assert (own > 500).all(), view
        assert (own > np.max(others, axis=0)).all(), view


def test_every_colour_is_on_the_brain_and_only_those(shown, maps):
    drawn = shown.run(
        "return chart.data.filter((trace) => trace.facecolor).map((trace) => "
        "[trace.name, [...new Set(trace.facecolor)], trace.x[0] === null ? 0 : trace.i.length])"
    )
    labels = voted(both(sample(maps[0].data, maps[0].affine)))
    for number, (name, colors, n_triangles) in enumerate(drawn, start=1):
        assert name.startswith(maps[0].names[number - 1])
        assert colors == [maps[0].colors[number - 1]]
        assert n_triangles == (labels == number).sum() > 100
    assert len(drawn) == 10
    # What is neither white, grey nor in the legend are the pixels in which two triangles meet.
    choose(shown, view="lateral")
    picture = shown.pixels()[200:640, :1100].reshape(-1, 3)
    colored = picture[np.ptp(picture, axis=1) > 12]
    legal = np.any([same_color(colored, color) for color in maps[0].colors], axis=0)
    assert len(colored) > 5000
    assert legal.mean() > 0.9


def test_click_hides_and_shows_double_click_isolates(shown, maps):
    colors = maps[0].colors
    before = n_pixels(shown, colors)
    posterior = [0, 5]
    assert (before[posterior] > 500).all()
    shown.click(entry(shown, "posterior left"))
    hidden = n_pixels(shown, colors)
    assert hidden[0] == 0
    np.testing.assert_allclose(hidden[1:], before[1:], atol=20)
    choose(shown, view="lateral")
    choose(shown, view="posterior")
    assert n_pixels(shown, colors)[0] == 0, "a view brings back what was hidden"
    shown.click(entry(shown, "posterior left"))
    np.testing.assert_allclose(n_pixels(shown, colors), before, atol=20)
    shown.click(entry(shown, "posterior right"), double=True)
    alone = n_pixels(shown, colors)
    assert alone[5] >= before[5] and alone.sum() == alone[5]
    shown.click(entry(shown, "posterior right"), double=True)
    np.testing.assert_allclose(n_pixels(shown, colors), before, atol=20)


def test_one_click_acts_on_both_hemispheres(shown, maps, extras, page, tmp_path):
    folded = replace(maps[0], data=np.where(maps[0].data > 5, maps[0].data - 5, maps[0].data))
    write_explorer(tmp_path / "a.html", [folded], Look("T"), [])
    shown.open(tmp_path / "a.html")
    shown.settle()

    def by_side():
        picture = same_color(shown.pixels(), folded.colors[0])
        middle = shown.run("return (chart.clientWidth - legendWidth) / 2")
        return picture[:, : int(middle)].sum(), picture[:, int(middle) : int(2 * middle)].sum()

    assert min(by_side()) > 500
    shown.click(entry(shown, "posterior left"))
    assert by_side() == (0, 0)


def hovered(browser, name):
    """What hovering tells below this name, once it is there."""

    def lines():
        found = [line.text for line in browser.find("#brain .hovertext tspan.line")]
        return found[1:] if found[:1] == [name] else None

    return browser.until(lines)


def test_hovering_tells_what_is_there(shown, maps):
    """In every map the same is told: label, all values, position and region."""
    picture = shown.pixels()
    for title, number in (("Sides", 1), ("Halves", 6), ("Hundredths", 6)):
        ys, xs = np.nonzero(same_color(picture, maps[0].colors[number - 1]))
        inner = np.argmin((ys - np.median(ys)) ** 2 + (xs - np.median(xs)) ** 2)
        choose(shown, map=title)
        shown.point(xs[inner], ys[inner])
        hemi = HEMISPHERES[number > 5]
        name = f"{maps[0].names[number - 1]} ({hemi})"
        hundredth, left, position, region = hovered(shown, name)
        assert hundredth == f"hundredth {number / 100:g}"
        assert left == ("Left only 0.01" if hemi == "left" else "Left only –")
        x, y, z = (int(value.replace("−", "-")) for value in re.findall(r"−?\d+", position))
        assert position == f"MNI {x}, {y}, {z} ({hemi})".replace("-", "−")
        assert (x < 0) == (hemi == "left") and y < -80
        assert region == ("L&L" if hemi == "left" else "R")


def test_maps_of_values_have_a_colour_bar_and_end_where_values_end(shown, maps):
    from matplotlib import colormaps

    choose(shown, map="Left only")
    assert shown.find(".legend .traces") == []
    assert shown.find("#note")[0].text == "Half of it. Dark grey with folds: cortex without a value."
    assert "number of the side" in " ".join(text.text for text in shown.find(".infolayer text"))
    trace = shown.run(
        "const t = chart.data[1]; return {n: t.intensity.length, low: t.cmin, high: t.cmax, scale: t.colorscale}"
    )
    corners = triangle_corners(both(sample(maps[0].data, maps[0].affine)), all_faces())
    values = both(sample(maps[3].data, maps[0].affine))[corners]
    assert trace["n"] == np.isfinite(values).sum() > 1000
    assert (trace["low"], trace["high"]) == pytest.approx((0.01, 0.05))
    lowest, highest = (
        "#" + "".join(f"{round(255 * channel):02x}" for channel in colormaps["cividis"](end)[:3]) for end in (0.0, 1.0)
    )
    choose(shown, view="posterior")
    first = n_pixels(shown, [lowest])[0]
    choose(shown, view="dorsal")
    last = n_pixels(shown, [highest])[0]
    assert first > 500 and last > 500


def test_turning_by_hand_stays_when_the_map_changes_and_ends_with_a_click_on_the_view(shown):
    eye = "const {x, y, z} = chart._fullLayout.scene.camera.eye; return [x, y, z]"
    straight = shown.run(eye)
    names = "#brain .annotation-text"
    assert len(shown.find(names)) == 2
    shown.drag((400, 420), (520, 440))
    turned = shown.run(eye)
    assert np.linalg.norm(np.subtract(turned, straight)) > 1
    assert shown.find(names) == []
    choose(shown, map="Halves")
    np.testing.assert_allclose(shown.run(eye), turned)
    choose(shown, view="posterior")
    np.testing.assert_allclose(shown.run(eye), straight)
    assert len(shown.find(names)) == 2


def test_menus_can_be_used_from_the_keyboard(browser, page):
    from selenium.webdriver import ActionChains, Keys

    browser.open(page)
    browser.settle()
    ActionChains(browser.driver).send_keys(Keys.TAB, Keys.ARROW_DOWN).perform()
    browser.settle()
    assert browser.find("#brain")[0].get_attribute("aria-label") == "Halves, posterior view"
    assert any(text.startswith("left <half>") for text in legend(browser))
    ActionChains(browser.driver).send_keys(Keys.TAB, Keys.ARROW_RIGHT).perform()
    browser.settle()
    assert browser.find("#brain")[0].get_attribute("aria-label") == "Halves, lateral view"
    eye = browser.run("return chart._fullLayout.scene.camera.eye")
    assert eye["x"] < 0 and eye["y"] == 0


TEXT_BOXES = """
const texts = "h1, label, summary, .banner, #note, footer p, #brain text:not(:has(.line)), #brain .line";
return [...document.querySelectorAll(texts)]
  .filter((element) => element.textContent.trim() && element.checkVisibility({ opacityProperty: true }))
  .map((element) => [element.textContent, element.getBoundingClientRect()])
  .filter(([, box]) => box.width > 0)
  .map(([text, { left, top, right, bottom }]) => [text.trim(), left, top, right, bottom]);
"""


@pytest.fixture(scope="module")
def full_page(tmp_path_factory):
    """As many labels as a figure has, long names and a long title."""
    path = tmp_path_factory.mktemp("full") / "brain_map.html"
    note = "The network that explains most of each searchlight's RDM."
    labels = make_label_map(*patches(), title="Best network", note=note)
    values = np.where(labels.data > 0, labels.data / 21, np.nan)
    unit = "proportion of jackknife samples in which the winner stays the same"
    maps = [labels, ValueMap(values, labels.affine, "Stability of the winner", unit, low=0, high=1)]
    title = "Fig 1: the network that best explains each searchlight"
    write_explorer(path, maps, Look(title, "SIMULATED EXAMPLE"), [*NOTES, "A long note. " * 12])
    return path


@pytest.mark.parametrize(("width", "height"), [(1400, 820), (1100, 700), (900, 650)])
def test_no_text_overlaps_or_is_cut(browser, full_page, width, height):
    browser.open(full_page, width=width, height=height)
    browser.settle()
    for title, view in (("Stability of the winner", "lateral"), ("Best network", "posterior")):
        choose(browser, map=title, view=view)
        boxes = browser.run(TEXT_BOXES)
        assert len(boxes) > 15
        for text, left, _, right, _ in boxes:
            assert left >= 0 and right <= width, text
        for (one, *a), (other, *b) in combinations(boxes, 2):
            apart = a[2] <= b[0] + 1 or b[2] <= a[0] + 1 or a[3] <= b[1] + 1 or b[3] <= a[1] + 1
            assert apart, (title, view, one, other)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    # The legend fits: plotly would give it a scroll bar, and the brain is as large as its place.
    assert browser.run("return document.querySelector('.legend .scrollbar').getBoundingClientRect().height") == 0
    shown = (browser.pixels()[:, : browser.run("return chart.clientWidth - legendWidth")] != 255).any(axis=-1)
    top = browser.run("return chart.getBoundingClientRect().top")
    assert np.ptp(np.flatnonzero(shown[int(top) + 5 :].any(axis=1))) > 400


def test_resizing_the_window_resizes_the_brain(shown, maps):
    choose(shown, view="lateral")
    lateral = [maps[0].colors[maps[0].names.index(f"lateral {hemi}")] for hemi in HEMISPHERES]
    wide = n_pixels(shown, lateral)
    shown.resize(900, 650)
    shown.settle()
    narrow = n_pixels(shown, lateral)
    assert (narrow > 1000).all()
    assert (narrow < 0.6 * wide).all()
    np.testing.assert_allclose(narrow[0] / wide[0], narrow[1] / wide[1], rtol=0.1)


# -------------------------------------------------------------------------------------------------------- solid, pale


@pytest.fixture(scope="module")
def pale_map(maps):
    return make_pale_map(np.minimum(maps[0].data, 5).astype(np.int16), maps[0].affine)


@pytest.fixture(scope="module")
def pale_page(pale_map, tmp_path_factory):
    path = tmp_path_factory.mktemp("pale") / "brain_map.html"
    write_explorer(path, [pale_map], Look("Pale"), [])
    return path


def test_tables_hold_both_counts_and_the_page_says_what_they_are(pale_page, pale_map):
    text = pale_page.read_text("utf-8")
    (table,) = re.findall(r"<table>.*?</table>", text, re.S)
    cells = re.findall(r"<td[^>]*>(?:<i[^>]*></i>)?([^<]*)</td>", table)
    counts = [f"{count:,}" for count in pale_map.counts]
    assert cells == ["2D", counts[0], counts[3], "3D", counts[1], counts[4], "not significant", counts[2], ""]
    assert "lead not established</th>" in table
    assert PALE_NOTE in content_of(pale_page)["maps"][0]["note"]


def test_hover_texts_name_the_candidates_of_pale_places(pale_page, pale_map):
    hover = content_of(pale_page)["hover"]
    labels = both(sample(pale_map.data, pale_map.affine))
    assert hover["labels"] == ["", *(f"<b>{name}</b>" for name in ("2D", "3D", "not significant", "2D", "3D"))]
    told = [hover["candidates"][code] for code in hover["candidate"]]
    expected = {4: "lead not established: 2D or &lt;3D&gt;", 5: "lead not established: 3D or 2D"}
    assert told == [expected.get(label, "") for label in labels]
    assert len(set(told)) == 3


def test_legend_has_a_column_of_pale_tints_that_can_be_hidden(browser, pale_page, pale_map):
    browser.resize(1400, 820)
    browser.open(pale_page)
    browser.settle()
    choose(browser, view="dorsal")
    columns = [browser.find(f"#brain .{column} .traces") for column in ("legend", "legend2")]
    texts = [[row.text for row in column] for column in columns]
    counts = [f"{count:,}" for count in pale_map.counts]
    assert texts[0] == [f"2D  {counts[0]}", f"3D  {counts[1]}", f"not significant  {counts[2]}"]
    assert texts[1] == [f"{counts[3]} pale", f"{counts[4]} pale"]
    for solid, pale in zip(*columns, strict=False):  # both states of a label are in one row
        assert abs(solid.rect["y"] - pale.rect["y"]) < 2
    pale_color = pale_map.colors[4]
    assert n_pixels(browser, [pale_color])[0] > 500
    toggles = browser.find("#brain .legend2 .legend2toggle")
    browser.click(toggles[1])
    assert n_pixels(browser, [pale_color])[0] == 0
    browser.click(browser.find("#brain .legend2 .legend2toggle")[1], double=True)
    alone = n_pixels(browser, pale_map.colors)
    assert alone[4] > 500
    assert not alone[[0, 1, 3]].any()  # the grey of "not significant" is also in the letters of the page
    hidden = "legendonly"
    assert browser.run("return chart.data.slice(1).map((trace) => trace.visible)") == [hidden] * 4 + [True]
    assert browser.errors() == []


# ------------------------------------------------------------------------------------------------------------ outlines


NAMES = "#brain .annotation-scene text"


def test_outlines_and_names_of_regions_are_off_until_they_are_asked_for(shown):
    """Each hemisphere is one region, but for what lies on the other side of the midline."""
    choose(shown, view="lateral")
    before = shown.pixels()
    box = shown.find("#outlines")[0]
    assert not box.is_selected()
    assert {text.text for text in shown.find(NAMES)} == {"left hemisphere", "right hemisphere"}
    shown.click(box)
    named = {text.text: text.rect["x"] for text in shown.find(NAMES) if "hemisphere" not in text.text}
    assert set(named) == {"L&L", "R"} and named["L&L"] < 580 < named["R"]
    inside = [same_color(before, color) for color in PALETTE[1::5]]
    assert all((np.abs(shown.pixels() - before)[area].max(axis=-1) > 2).mean() < 0.1 for area in inside)
    shown.click(box)
    np.testing.assert_array_equal(shown.pixels(), before)


def test_outlines_run_between_regions(browser, maps, tmp_path):
    """Two halves of each hemisphere meet at y = -30 mm: the line is where the colours of two labels meet."""
    affine, xyz = mni_grid()
    regions = 1 + (xyz[..., 1] > -30).astype(np.int16)
    colors = ["#E69F00", "#0077BB"]
    halves = replace(
        maps[0], data=regions, names=["back", "front"], colors=colors, legend_groups=["", ""], counts=[1, 1]
    )
    atlas = Atlas(regions, affine, {1: "Back", 2: "Front"})
    write_explorer(tmp_path / "a.html", [halves], Look("Halves"), [], atlas=atlas)
    browser.open(tmp_path / "a.html")
    choose(browser, view="lateral")
    back, front = (same_color(browser.pixels(), color) for color in colors)
    browser.click(browser.find("#outlines")[0])
    line = (browser.pixels() < 40).all(axis=-1) & (back | front)
    texts = [text for text in browser.find(NAMES) if text.text in ("Back", "Front")]
    assert sorted(text.text for text in texts) == ["Back", "Back", "Front", "Front"]
    for text in texts:
        x, y = int(text.rect["x"]), int(text.rect["y"])
        assert (back if text.text == "Back" else front)[y - 8 : y + 20, x - 8 : x + 40].all()
        line[y - 8 : y + 20, x - 8 : x + 40] = False
    rows, columns = line.nonzero()
    assert len(rows) > 300
    for row, column in zip(rows[::20], columns[::20], strict=True):
        around = np.s_[row - 15 : row + 16, column - 15 : column + 16]
        assert back[around].any() and front[around].any()
    choose(browser, view="posterior")  # names on the other side of the brain are not shown
    assert [text.text for text in browser.find(NAMES) if text.text in ("Back", "Front")] == ["Back", "Back"]
    browser.drag((500, 400), (350, 400))  # names follow, those of the hemispheres go
    assert {text.text for text in browser.find(NAMES)} == {"Back", "Front"}
    assert browser.errors() == []


def test_a_page_without_regions_has_nothing_to_outline(maps, page, tmp_path):
    write_explorer(tmp_path / "a.html", maps[:1], Look("T"), [])
    assert 'id="outlines"' not in (tmp_path / "a.html").read_text("utf-8")
    assert 'id="outlines"' in page.read_text("utf-8")
