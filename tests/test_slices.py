"""Maps as slices: what the page holds of the volume, what a browser shows of it, and the still picture."""

import base64
import json
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from browser import open_browser
from helpers import REMOTE
from label_maps import make_pale_map
from matplotlib.colors import to_hex, to_rgb

from utils.io.output import staged
from utils.plotting.colors import hatch_color
from utils.plotting.export import save_map
from utils.plotting.label_maps import ValueMap
from utils.plotting.montage import montage
from utils.plotting.nilearn_page import write_nilearn_page
from utils.plotting.page_layout import Look
from utils.plotting.slices import bounding_box, to_canonical, write_slices

# Voxels of 4 x 3 x 5 mm whose axes lead to the left, upwards and to the back, a little obliquely.
ROTATION = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1.0]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = ROTATION @ np.array([[-4.0, 0, 0], [0, 0, -5.0], [0, 3.0, 0]])
AFFINE[:3, 3] = [40, 30, -20]
SHAPE = (20, 18, 16)
LOOK = Look("Slices <of> it", "SIMULATED EXAMPLE", None)
TYPES = {"u2": np.uint16, "u4": np.uint32, "f4": np.float32}


@pytest.fixture(scope="module")
def maps():
    """Five labels in blocks, of which the last two are pale, and values in the same voxels."""
    x, y, z = np.indices(SHAPE)
    inside = (x > 3) & (x < 15) & (y > 2) & (y < 16) & (z > 4) & (z < 13)
    data = np.where(inside, 1 + (x // 3 + 2 * (y // 3) + z // 4) % 5, 0).astype(np.int16)
    labels = make_pale_map(data, AFFINE, space="aligned", note="Which group.")
    values = np.where(inside & (x > 5), x + 20 * y + 400 * z, np.nan).astype(np.float32) / 1000
    return [labels, ValueMap(values, AFFINE, "Share & more", "share", low=0, space="aligned")]


@pytest.fixture(scope="module")
def page(maps, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "brain_map.html"
    write_slices(path, maps, LOOK, ["A note."])
    return path


def content_of(page):
    text = re.search(r'id="content">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)[1]

    def unpack(value):
        if isinstance(value, dict) and "base64" in value:
            return np.frombuffer(base64.b64decode(value["base64"]), TYPES[value["type"]])
        return value

    return json.loads(text, object_hook=unpack)


def test_the_page_holds_every_voxel_at_its_place(page, maps):
    content, (labels, values) = content_of(page), maps
    assert len(content["voxels"]) == (labels.data > 0).sum()
    affine, back = np.vstack([content["affine"], [0, 0, 0, 1]]), np.linalg.inv(AFFINE)
    hover = content["hover"]
    assert [own["name"] for own in hover["values"]] == ["Share &amp; more"]
    for row, flat in enumerate(content["voxels"]):
        voxel = np.unravel_index(flat, content["shape"])
        at = tuple(np.rint(nib.affines.apply_affine(back @ affine, voxel)).astype(int))
        assert content["maps"][0]["label"][row] == hover["label"][row] == labels.data[at] > 0
        assert hover["candidate"][row] == labels.candidates[at]
        np.testing.assert_equal(hover["values"][0]["value"][row], values.data[at])
    # The axes lead to the right, to the front and upwards.
    assert (np.diag(affine)[:3] > 0).all() and np.argmax(np.abs(affine[:3, :3]), axis=0).tolist() == [0, 1, 2]
    np.testing.assert_allclose(content["sizes"], [4, 5, 3])


def test_turning_agrees_with_nibabel(maps):
    affine, (turned,) = to_canonical(AFFINE, maps[0].data)
    expected = nib.as_closest_canonical(nib.Nifti1Image(maps[0].data, AFFINE))
    np.testing.assert_array_equal(turned, np.asarray(expected.dataobj))
    np.testing.assert_allclose(affine, expected.affine)


def test_the_box_holds_all_with_a_margin():
    drawn = np.zeros((9, 9, 9), bool)
    drawn[1, 4, 8] = drawn[3, 5, 8] = True
    assert bounding_box(drawn) == np.s_[0:6, 2:8, 6:11]
    assert drawn[bounding_box(drawn)].sum() == 2
    assert bounding_box(np.zeros((2, 2, 2), bool)) == np.s_[:, :, :]


def test_the_page_is_one_reproducible_file(page, maps, tmp_path):
    text = page.read_text(encoding="utf-8")
    assert not REMOTE.search(text) and "Slices &lt;of&gt; it" in text and "SIMULATED EXAMPLE" in text
    assert "it may not be in MNI space: the header says no more than" in text
    write_slices(tmp_path / "again.html", maps, LOOK, ["A note."])
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text
    write_slices(tmp_path / "mni.html", [replace(own, space="MNI") for own in maps], replace(LOOK, banner=None), [])
    mni = (tmp_path / "mni.html").read_text(encoding="utf-8")
    assert "may not be in MNI" not in mni and "SIMULATED" not in mni


def test_an_empty_map_and_a_map_of_values_first(maps, tmp_path):
    empty = replace(maps[0], data=np.zeros_like(maps[0].data), candidates=None)
    write_slices(tmp_path / "a.html", [empty], LOOK, [])
    assert content_of(tmp_path / "a.html")["voxels"].size == 0
    montage(empty, LOOK, "")
    with pytest.raises(ValueError, match="the first map is a ValueMap"):
        write_slices(tmp_path / "b.html", maps[::-1], LOOK, [])


def test_nilearns_page_of_slices(maps, tmp_path):
    for name in ("a", "b"):
        write_nilearn_page(tmp_path / f"{name}.html", maps[0], LOOK, [])
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.html").read_text(encoding="utf-8")
    assert text.count("<iframe") == 1 and "brainsprite" in text and "outside the map" not in text


def test_volumes_only_are_written_for_other_programs(maps, tmp_path):
    with staged(tmp_path / "Fig") as outputs:
        for own in maps:
            save_map(outputs, replace(own, key="some", space="scanner"), simulated=False, surface=None)
        outputs.publish({})
    names = sorted(path.name for path in (tmp_path / "Fig" / "maps").iterdir())
    assert all(name.startswith("space-scanner_") for name in names) and not any(".gii" in name for name in names)
    image = nib.load(tmp_path / "Fig" / "maps" / "space-scanner_desc-some_dseg.nii.gz")
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
    np.testing.assert_array_equal(np.asarray(image.dataobj), maps[0].data)
    described = json.loads((tmp_path / "Fig" / "maps" / "space-scanner_desc-some_dseg.json").read_text())
    assert described["SpatialReference"].startswith("space of the input images (scanner)")


# --------------------------------------------------------------------------------------------------- the still picture


def slices_of(figure):
    """Pictures of all slices, (rows, columns, 4), by their titles; of the map, then of stability."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def test_slices_have_the_colours_of_the_legend(maps):
    labels = maps[0]
    stability = np.where(labels.data > 0, 0.55, np.nan)
    figure = montage(labels, LOOK, "A note.", stability)
    pictures = slices_of(figure)
    _, (turned,) = to_canonical(AFFINE, labels.data)
    levels = np.flatnonzero((turned > 0).any(axis=(0, 1)))
    assert len(pictures) == 2 * min(12, len(levels))
    colors = {
        to_hex(pixel[:3]) for picture in pictures[: len(pictures) // 2] for pixel in picture.reshape(-1, 4) if pixel[3]
    }
    assert colors == {color.lower() for color in labels.colors}
    steps = {
        to_hex(pixel[:3]) for picture in pictures[len(pictures) // 2 :] for pixel in picture.reshape(-1, 4) if pixel[3]
    }
    assert len(steps) == 1
    # Every voxel of a level is drawn, the first row at the back.
    chosen = levels[np.unique(np.linspace(0, len(levels) - 1, 12).round().astype(int))]
    for level, picture in zip(chosen, pictures, strict=False):
        rows, columns = np.nonzero(picture[:, :, 3])
        plane = turned[bounding_box(turned > 0)[:2]][:, :, level]
        np.testing.assert_array_equal(np.stack([columns, rows], 1), np.argwhere(plane.T)[:, ::-1])
        np.testing.assert_allclose(
            picture[rows, columns, :3], [to_rgb(labels.colors[k - 1]) for k in plane.T[rows, columns]]
        )
    texts = [text.get_text() for text in figure.texts]
    assert {"L", "R", "SIMULATED EXAMPLE"} <= set(texts) and sum(text.startswith("z = ") for text in texts) == len(
        pictures
    )
    assert not any("outside the map" in text for text in texts)


def test_pale_voxels_are_hatched(maps):
    labels = maps[0]
    figure = montage(labels, LOOK, "")
    hatched = {to_hex(color) for axes in figure.axes for lines in axes.collections for color in lines.get_colors()}
    assert hatched == {to_hex(hatch_color(labels.colors[k])) for k in labels.pale.values()}
    solid = replace(labels, data=np.where(labels.data > 3, 1, labels.data).astype(np.int16))
    assert not any(len(lines.get_segments()) for axes in montage(solid, LOOK, "").axes for lines in axes.collections)


# ------------------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def browser():
    with open_browser() as started:
        yield started


def share_of(browser, color):
    """Share of the pixels of the page that have exactly this colour."""
    return (browser.pixels() == [int(color[k : k + 2], 16) for k in (1, 3, 5)]).all(axis=-1).mean()


def test_the_page_in_a_browser(browser, page, maps):
    labels, values = maps
    browser.open(page)
    solid, grey, pale = labels.colors[0], labels.colors[2], labels.colors[3]
    browser.until(lambda: share_of(browser, solid) > 0.005)
    assert all(share_of(browser, color) > 0.005 for color in (*labels.colors[:2], grey, pale))

    # What stands at every voxel of a row, and at which coordinates.
    content = content_of(page)
    x, y, z = content["hover"]["start"]
    index = {int(flat): row for row, flat in enumerate(content["voxels"])}
    for step in range(-3, 4):
        browser.run(f"move([{x + step}, {y}, {z}])")
        flat = np.ravel_multi_index((x + step, y, z), content["shape"])
        told = browser.run("return document.getElementById('here').innerText").splitlines()
        if flat not in index:
            assert told[0] == "outside the map"
            continue
        row = index[flat]
        k = content["hover"]["label"][row] - 1
        assert told[0].startswith(labels.names[k if k < 3 else k - 3])
        if k > 2:
            assert told[1] == f"lead not established: {labels.candidate_names[k - 2]}"
        mm = np.vstack([content["affine"], [0, 0, 0, 1]]) @ [x + step, y, z, 1]
        numbers = [int(number.replace("−", "-")) for number in re.findall(r"−?\d+", told[-1])]
        np.testing.assert_allclose(numbers[:3], mm[:3], atol=0.51)
        assert told[-1].endswith("(space: aligned)")

    # A click in the legend takes a label and its pale state away.
    line = next(item for item in browser.find("aside:not([hidden]) li") if item.text.startswith("2D"))
    line.click()
    browser.until(lambda: share_of(browser, pale) < 0.002)
    assert share_of(browser, solid) < 0.002 < 0.005 < share_of(browser, labels.colors[1])
    line.click()
    browser.until(lambda: share_of(browser, pale) > 0.005)

    # The second map: its colours and the ends of its bar.
    browser.run("const menu = document.getElementById('map'); menu.value = 1; menu.dispatchEvent(new Event('change'))")
    browser.until(lambda: share_of(browser, solid) == 0)
    ends = browser.run(
        "return [...document.querySelectorAll('aside:not([hidden]) .ends span')].map((e) => e.innerText)"
    )
    assert ends == ["0", f"{values.limits()[1]:.3g}"]
    assert browser.requests() == [page.as_uri()]
    assert browser.errors() == []


def test_a_click_moves_all_slices(browser, page):
    browser.open(page)
    shape = content_of(page)["shape"]
    axial = browser.find("canvas")[2]
    axial.click()  # in the middle
    cursor = browser.run("return cursor")
    assert abs(cursor[0] + 0.5 - shape[0] / 2) <= 1 and abs(cursor[1] + 0.5 - shape[1] / 2) <= 1
    captions = [item.text for item in browser.find("figcaption")]
    expected = browser.run("return rounded(cursor)")
    assert captions == [f"{axis} = {value} mm" for axis, value in zip("xyz", expected, strict=True)]
    from selenium.webdriver.common.keys import Keys

    axial.send_keys(Keys.PAGE_UP)
    assert browser.run("return cursor") == [*cursor[:2], cursor[2] + 1]
