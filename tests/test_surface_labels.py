"""ROI labels of vertices: the forms in which they are published, and the figures that are drawn from them."""

import base64
import json
import re
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from helpers import run_script, write_study
from nibabel import freesurfer, gifti
from samples import REAL

from utils import InputError
from utils.datasets.layout import locate
from utils.datasets.rois import load_atlas
from utils.plotting.surface import SURFACES, load_hemisphere, sample
from utils.rdms.atlas import WANG_ROIS
from utils.rdms.surface_labels import SurfaceLabels, is_surface, read_surface_labels
from utils.rdms.vertices import FSAVERAGE, Vertices

N = FSAVERAGE["fsaverage5"]
NAMES = {3: "EVC", 7: "IT", 9: "nowhere"}


@pytest.fixture
def halves(rng):
    """Labels of both hemispheres; no vertex has the last one."""
    return {side: rng.choice([0, 3, 7], N).astype(np.int32) for side in ("lh", "rh")}


def annotation(path, labels, names):
    """Names in an order of the file's own."""
    colors = np.column_stack([np.arange(len(names)) * 9 + 5, np.zeros((len(names), 3), int), np.zeros(len(names), int)])
    positions = np.array([names.index(NAMES.get(number, "unknown")) for number in labels.tolist()])
    positions[:5][labels[:5] == 0] = -1  # vertices that no label covers
    freesurfer.write_annot(path, positions, colors, names, fill_ctab=True)


def label_gifti(path, labels, names, **extra):
    table = gifti.GiftiLabelTable()
    for key, name in names.items():
        table.labels.append(label := gifti.GiftiLabel(key))
        label.label = name
    array = gifti.GiftiDataArray(labels, intent="NIFTI_INTENT_LABEL", datatype="NIFTI_TYPE_INT32")
    nib.save(gifti.GiftiImage(darrays=[array] * extra.get("arrays", 1), labeltable=table), path)


def image(path, labels):
    kind = nib.MGHImage if path.suffix in (".mgz", ".mgh") else nib.Nifti1Image
    nib.save(kind(labels.reshape(1, 1, -1).astype(np.float32), np.eye(4)), path)


def write(folder, halves, form):
    """Both files, whose own numbers differ between hemispheres where they have any."""
    paths = [folder / f"{side}.areas{form}" for side in halves]
    for path, labels, turn in zip(paths, halves.values(), (1, -1), strict=True):
        if form == ".annot":
            annotation(path, labels, ["unknown", "IT", "EVC"][::turn])
        elif form == ".label.gii":
            own = {0: "???", 40: "EVC", 41: "IT"} if turn == 1 else {0: "???", 1: "IT", 2: "EVC"}
            numbers = {name: key for key, name in own.items()}
            label_gifti(path, np.array([numbers.get(NAMES.get(k), 0) for k in labels.tolist()], np.int32), own)
        else:
            image(path, labels)
    return paths


@pytest.mark.parametrize("form", [".annot", ".label.gii", ".mgz", ".mgh", ".nii.gz"])
def test_every_form_gives_the_labels_of_the_table(tmp_path, halves, form):
    paths = write(tmp_path, halves, form)
    assert all(map(is_surface, paths))
    read = read_surface_labels(paths[::-1], NAMES)
    np.testing.assert_array_equal(read.left, halves["lh"])
    np.testing.assert_array_equal(read.right, halves["rh"])
    np.testing.assert_array_equal(read.labels, np.concatenate([halves["lh"], halves["rh"]]))
    assert read.names == NAMES and read.space == "fsaverage5"


@pytest.mark.parametrize("form", [".annot", ".label.gii"])
def test_files_bring_names_of_their_own(tmp_path, halves, form):
    read = read_surface_labels(write(tmp_path, halves, form))
    assert sorted(read.names.values()) == ["EVC", "IT"]
    for half, side in ((read.left, "lh"), (read.right, "rh")):
        for number, name in read.names.items():
            np.testing.assert_array_equal(half == number, halves[side] == {"EVC": 3, "IT": 7}[name])


def test_other_files_need_names(tmp_path, halves):
    with pytest.raises(InputError, match=r"lh.areas.mgz: names of its ROIs are not known; give .* as `roi_labels`"):
        read_surface_labels(write(tmp_path, halves, ".mgz"))


def test_areas_of_wang_et_al_on_fsaverage():
    folder = REAL / "wang2015"
    if not folder.is_dir():
        pytest.skip("needs the atlas of Wang et al. 2015 on fsaverage")
    paths = [folder / f"{side}.wang15_mplbl.v1_0.mgz" for side in ("lh", "rh")]
    read = read_surface_labels(paths)
    assert tuple(read.names.values()) == WANG_ROIS and read.space == "fsaverage"
    for half, path in zip((read.left, read.right), paths, strict=True):
        np.testing.assert_array_equal(half, np.asarray(nib.load(path).dataobj).ravel())
    # Left and right are told by where areas lie: V1 is on the medial side, hMT on the lateral one.
    for hemi, labels in sample(read.labels, None).items():
        x = np.abs(load_hemisphere(hemi).middle()[:, 0])
        assert x[np.isin(labels, [1, 2])].mean() < 20 < 40 < x[labels == 13].mean()


def refused(message, *arguments):
    with pytest.raises(InputError, match=message) as caught:
        read_surface_labels(*arguments)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_used_is_refused(tmp_path, halves):
    left, right = write(tmp_path, halves, ".label.gii")
    annot, _ = write(tmp_path, halves, ".annot")
    refused("no file of the right hemisphere is given", [left], NAMES)
    refused(
        "lh.areas.annot: is a second file of the same hemisphere|lh.areas.label.gii: is a second", [left, annot, right]
    )
    shutil.copy(left, tmp_path / "both.label.gii")
    refused("both.label.gii: its name says no hemisphere", [tmp_path / "both.label.gii"], NAMES)
    refused(
        r"none of the 1 ROIs FFA has a vertex \(found EVC, IT, IT, EVC\); give the matching table",
        [left, right],
        {1: "FFA"},
    )
    label_gifti(tmp_path / "lh.many.gii", halves["lh"], NAMES, arrays=8)
    refused(
        r"lh.many.gii: holds 8 array\(s\) of shape \(10242,\), expected one number per vertex",
        [tmp_path / "lh.many.gii", right],
    )
    (tmp_path / "lh.x.annot").write_bytes(b"no annotation")
    (tmp_path / "lh.x.gii").write_text("<GIFTI")
    (tmp_path / "lh.x.mgz").write_bytes(b"x")
    refused("lh.x.annot: is not a readable FreeSurfer annotation", [tmp_path / "lh.x.annot", right])
    refused("lh.x.gii: is not a readable GIFTI file", [tmp_path / "lh.x.gii", right])
    refused("lh.x.mgz: is not a readable", [tmp_path / "lh.x.mgz", right], NAMES)
    nib.save(nib.MGHImage(np.zeros((4, 5, 6), np.float32), np.eye(4)), tmp_path / "lh.volume.mgz")
    assert not is_surface(tmp_path / "lh.volume.mgz")
    refused(
        r"lh.volume.mgz: holds 4 x 5 x 6 values, expected one number per vertex",
        [tmp_path / "lh.volume.mgz", right],
        NAMES,
    )
    image(tmp_path / "lh.thickness.mgz", np.linspace(0, 4, N))
    refused("lh.thickness.mgz: holds values that are not labels", [tmp_path / "lh.thickness.mgz", right], NAMES)


def test_another_mesh_is_named_with_its_vertices():
    labels = SurfaceLabels(np.ones(32_492, np.int32), np.ones(32_492, np.int32), {1: "V1"}, "lh.gii, rh.gii")
    assert (labels.vertices, labels.space) == (Vertices(32_492, 32_492), "fsLR")
    with pytest.raises(InputError, match=r"32,492 vertices per hemisphere, expected 10,242 \(fsaverage5\), 40,962"):
        sample(labels.labels, None, vertices=labels.vertices)
    uneven = SurfaceLabels(np.ones(N, np.int32), np.ones(N + 1, np.int32), {1: "V1"}, "two")
    assert (uneven.space, str(uneven.vertices)[-40:]) == ("unknown", " 10,243 vertices of the right hemisphere")
    with pytest.raises(InputError, match="`atlas` has 10,243 vertices per hemisphere"):
        sample(uneven.labels, None, vertices=uneven.vertices)


def test_the_vertices_of_a_coarser_mesh_are_the_first_of_a_finer_one(rng):
    """By the bundled fsaverage5 alone: its first quarter are the vertices of the next coarser mesh."""
    for hemi in ("left", "right"):
        sphere = load_hemisphere(hemi)
        coarser, edges = 2562, np.unique(np.sort(sphere.faces[:, :2], axis=1), axis=0)
        # Where the coarser vertices are the first ones, no edge of the finer mesh joins two of them.
        assert not (edges < coarser).all(axis=1).any()
    data = rng.integers(0, 5, 2 * FSAVERAGE["fsaverage6"])
    halves = data.reshape(2, -1)
    drawn = sample(data, None, "fsaverage5")
    np.testing.assert_array_equal(drawn["left"], halves[0, :N])
    np.testing.assert_array_equal(drawn["right"], halves[1, :N])
    with pytest.raises(
        InputError, match="`atlas` or the data have the vertices of fsaverage6, fewer than `surface` fsaverage; draw"
    ):
        sample(data, None, "fsaverage")
    assert sample(data.astype(float), None, "fsaverage6")["left"].dtype == np.float32
    assert tuple(FSAVERAGE) == SURFACES


# ------------------------------------------------------------------------------------------------------------- figures


@pytest.fixture
def study(tmp_path, rng):
    return write_study(tmp_path / "study", rng, n_conditions=12)


def content_of(page):
    text = re.search(r'<script type="application/json" id="content">(.*?)</script>', page.read_text("utf-8"), re.S)[1]

    def unpack(thing):
        return np.frombuffer(base64.b64decode(thing["base64"]), "<" + thing["type"]) if "base64" in thing else thing

    return json.loads(text, object_hook=unpack)


@pytest.mark.slow
@pytest.mark.parametrize("form", [".annot", ".mgz"])
def test_roi_figure_is_drawn_at_its_vertices(study, halves, tmp_path, monkeypatch, form):
    paths = write(tmp_path, halves, form)
    results = tmp_path / "results"
    assert run_script(monkeypatch, "Fig3b", "--data", study, "--results", results, "-np", 9, "--atlas", *paths) == 0
    content = content_of(results / "Fig3b" / "brain_map.html")
    labels = np.concatenate([halves["lh"], halves["rh"]])
    regions = np.array(content["hover"]["regions"])
    np.testing.assert_array_equal(
        regions[content["hover"]["region"]], np.array(["", "EVC", "IT"])[np.searchsorted([0, 3, 7], labels)]
    )
    np.testing.assert_array_equal(content["maps"][0]["label"] > 0, labels > 0)
    table = pd.read_csv(results / "Fig3b" / "results.tsv", sep="\t")
    unique = next(value["value"] for value in content["hover"]["values"] if value["name"].startswith("unique variance"))
    for number, roi in ((3, "EVC"), (7, "IT")):
        shown = np.unique(unique[labels == number])
        assert len(shown) == 1 and np.isclose(table.loc[table["roi"] == roi, "unique"], shown[0], rtol=1e-6).any()
    assert np.isnan(unique[labels == 0]).all()
    maps = {path.name for path in (results / "Fig3b" / "maps").iterdir()}
    assert not [name for name in maps if name.endswith(".nii.gz")]
    exported = nib.load(
        results / "Fig3b" / "maps" / "hemi-R_space-fsaverage_den-10k_desc-strongestGroup_dseg.label.gii"
    )
    np.testing.assert_array_equal(exported.agg_data() > 0, halves["rh"] > 0)
    assert "space-fsaverage_den-10k_desc-strongestGroup_dseg.tsv" in maps
    record = json.loads((results / "Fig3b" / "run.json").read_text())
    assert record["data"]["atlas"] == f"{paths[0]}, {paths[1]}"


@pytest.mark.slow
def test_searchlight_figure_names_the_regions_of_vertices(study, halves, tmp_path, monkeypatch):
    """Those of the files, whatever the table of the study's own ROIs says."""
    (study / "roi_labels.csv").write_text("id,roi\n1,other\n")
    paths = write(tmp_path, halves, ".annot")
    arguments = ["--data", study, "--results", tmp_path / "results", "-np", 9, "--ceiling", -1]
    assert run_script(monkeypatch, "Fig3a", *arguments, "--atlas", *paths, "--space", "MNI") == 0
    hover = content_of(tmp_path / "results" / "Fig3a" / "brain_map.html")["hover"]
    labels = np.concatenate([halves["lh"], halves["rh"]])
    expected = np.array(["", "EVC", "IT"])[np.searchsorted([0, 3, 7], labels)]
    np.testing.assert_array_equal(np.array(hover["regions"])[hover["region"]], expected)
    # Without a table, the study's volume has no names.
    (study / "roi_labels.csv").unlink()
    assert load_atlas(locate("searchlight", study)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lh.areas.mgz"], "no file of the right hemisphere is given"),
        (["lh.areas.mgz", "rh.areas.mgz", "--surface", "fsaverage6"],
         "--atlas or the data have the vertices of fsaverage5, fewer than --surface fsaverage6; draw"),
        (["lh.areas.mgz", "rh.areas.mgz", "--surface", "none"], "--surface none draws slices, but --atlas has v"),
        (["lh.short.mgz", "rh.short.mgz"], "100 vertices per hemisphere, expected 10,242 (fsaverage5)"),
    ],
)  # fmt: skip
def test_atlases_that_cannot_be_drawn_end_a_figure_before_it_computes(
    study, halves, tmp_path, monkeypatch, capsys, arguments, message
):
    write(tmp_path, halves, ".mgz")
    for side in ("lh", "rh"):
        image(tmp_path / f"{side}.short.mgz", np.full(100, 3))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("Fig3b_groupeddnns_ROIs.fit_groups", lambda *_: pytest.fail("computed first"))
    assert run_script(monkeypatch, "Fig3b", "--data", study, "--results", tmp_path / "r", "--atlas", *arguments) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and message in errors[0]
    assert not [*(tmp_path / "r").rglob("*")]


@pytest.mark.slow
def test_rois_without_a_vertex_are_named(study, halves, tmp_path, monkeypatch, capsys):
    halves["lh"][halves["lh"] == 7] = halves["rh"][halves["rh"] == 7] = 0
    paths = write(tmp_path, halves, ".mgz")
    assert (
        run_script(monkeypatch, "Fig3b", "--data", study, "--results", tmp_path / "r", "-np", 9, "--atlas", *paths) == 0
    )
    assert "rh.areas.mgz: does not have IT: not on the brain map" in capsys.readouterr().err
