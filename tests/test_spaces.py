"""Spaces: read from names and headers, written into headers, kept from beta maps to maps, and told to the user."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import run_script, write_study
from label_maps import make_pale_map, patches
from scipy.spatial.distance import cdist

from utils import InputError
from utils import rois as rois_command
from utils import searchlight as searchlight_command
from utils.datasets.layout import locate
from utils.datasets.rois import load_atlas
from utils.datasets.searchlights import load_searchlights
from utils.io.output import write_volume
from utils.io.spaces import is_mni, read_space, reference, space_name
from utils.plotting.brain_maps import warn_of_space
from utils.plotting.surface import HEMISPHERES, load_hemisphere, share_near_cortex
from utils.rdms.searchlights import Geometry

AFFINE = np.array([[3.0, 0, 0, -12], [0, 3, 0, -90], [0, 0, 3, -6], [0, 0, 0, 1]])
CODES = {"unknown": 0, "scanner": 1, "aligned": 2, "Talairach": 3, "MNI": 4, "template": 5}


def volume(path: Path, sform: int = 2, qform: int = 0, data=None, affine=AFFINE) -> Path:
    """An image with these codes."""
    image = nib.Nifti1Image(np.ones((8, 7, 6), np.float32) if data is None else data, affine)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


# -------------------------------------------------------------------------------------------------- names and headers


@pytest.mark.parametrize("name", [
    "MNI", "MNI152NLin2009cAsym", "MNI152NLin6Asym", "MNI305", "MNIColin27", "mni152", "IXI549Space", "ICBM452AirSpace"
])  # fmt: skip
def test_templates_in_mni_space(name):
    assert is_mni(name)


@pytest.mark.parametrize("name", ["T1w", "Talairach", "scanner", "aligned", "unknown", "MNIInfant", "individual"])
def test_other_spaces(name):
    assert not is_mni(name)


@pytest.mark.parametrize(("space", "code"), CODES.items())
def test_codes_name_spaces(tmp_path, space, code):
    assert read_space([volume(tmp_path / "a.nii.gz", sform=code)]) == space
    # The qform holds where there is no sform, as for the affine.
    assert read_space([volume(tmp_path / "b.nii.gz", sform=0, qform=code)]) == space
    if code:
        assert read_space([volume(tmp_path / "c.nii.gz", sform=code, qform=1)]) == space


def test_names_count_more_than_headers(tmp_path):
    named = volume(tmp_path / "sub-01_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz", sform=1)
    native = volume(tmp_path / "sub-01_space-T1w_stat-effect.nii.gz", sform=4)
    assert read_space([named]) == "MNI152NLin2009cAsym"
    assert read_space([native]) == "T1w"
    assert read_space([volume(tmp_path / "plain.nii", sform=4), native]) == "T1w"


def test_the_code_that_says_most_holds(tmp_path):
    files = {code: volume(tmp_path / f"{code}.nii.gz", sform=code) for code in CODES.values()}
    assert read_space([files[2], files[4], files[1]]) == "MNI"
    assert read_space([files[0], files[2]]) == "aligned"
    assert read_space([files[0], files[1]]) == "scanner"


def test_files_of_two_spaces_are_refused(tmp_path):
    one, other = (tmp_path / f"sub-0{n}_space-{name}.nii.gz" for n, name in ((1, "T1w"), (2, "MNI152NLin6Asym")))
    with pytest.raises(InputError, match=r"sub-0\d_space-.*: is in space .*, but .* in space .*; bring all"):
        read_space([one, other])


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "a.nii.gz").write_text("no image")
    with pytest.raises(InputError, match=r"a\.nii\.gz: is not a readable NIfTI image"):
        read_space([tmp_path / "a.nii.gz"])


def test_surface_files_say_nothing_of_a_volume(tmp_path):
    from nibabel import cifti2

    axes = cifti2.ScalarAxis(["one"]), cifti2.BrainModelAxis.from_surface(np.arange(3), 5, "CortexLeft")
    nib.save(cifti2.Cifti2Image(np.ones((1, 3), np.float32), header=axes), tmp_path / "a.dscalar.nii")
    (tmp_path / "a.func.gii").write_text("not read")
    assert read_space([tmp_path / "a.dscalar.nii", tmp_path / "a.func.gii"]) == "unknown"


@pytest.mark.parametrize("text", ["", "MNI 152", "a/b", "MNI152_2009"])
def test_no_names_of_spaces(text):
    with pytest.raises(InputError, match="is no name of a space"):
        space_name(text)
    assert space_name("space-MNI152NLin6Asym") == "MNI152NLin6Asym"


@pytest.mark.parametrize(("space", "code"), [
    ("MNI", 4), ("MNI152NLin2009cAsym", 4), ("T1w", 2), ("aligned", 2), ("scanner", 1), ("Talairach", 3)
])  # fmt: skip
def test_written_volumes_carry_code_and_name(tmp_path, space, code):
    oblique = AFFINE.copy()
    oblique[:2, :2] = 3 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    write_volume(tmp_path / "v.nii.gz", np.ones((4, 5, 6)), oblique, space=space)
    image = nib.load(tmp_path / "v.nii.gz")
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (code, code)
    np.testing.assert_allclose(image.affine, oblique, atol=1e-5)
    np.testing.assert_allclose(image.get_qform(), oblique, atol=1e-4)
    assert read_space([tmp_path / "v.nii.gz"]) == space
    # A program that moves the volume to another space changes the code, and the name no longer holds.
    image.set_sform(oblique, 5)
    nib.save(image, tmp_path / "moved.nii.gz")
    assert read_space([tmp_path / "moved.nii.gz"]) == "template"


def test_a_volume_without_a_transform_stays_where_it_is(tmp_path):
    guessed = nib.Nifti1Image(np.ones((4, 5, 6)), None)
    guessed.header.set_zooms((3, 3, 3))
    base = guessed.header.get_base_affine()
    for name, affine, code in (("base", base, 0), ("other", AFFINE, 2)):
        write_volume(tmp_path / f"{name}.nii.gz", np.ones((4, 5, 6)), affine, space="unknown")
        image = nib.load(tmp_path / f"{name}.nii.gz")
        assert int(image.header["sform_code"]) == code
        np.testing.assert_allclose(image.affine, affine, atol=1e-5)


def test_references_name_the_space():
    assert reference("MNI152NLin2009cAsym") == "MNI152NLin2009cAsym"
    assert "MNI152" in reference("MNI") and "scanner" in reference("scanner")


# ------------------------------------------------------------------------------------------------- from betas to maps


@pytest.fixture
def betas(tmp_path, rng):
    """Three subjects' beta maps, a mask and an atlas, all with code 2."""
    signal = rng.standard_normal((9, 8, 7, 8))
    for subject in range(1, 4):
        data = (signal + rng.standard_normal(signal.shape)).astype(np.float32)
        volume(tmp_path / f"sub-{subject:02d}.nii.gz", data=data)
    mask = np.zeros(signal.shape[:3], np.uint8)
    mask[1:8, 1:7, 1:6] = 1
    volume(tmp_path / "mask.nii.gz", data=mask)
    atlas = mask.astype(np.int16)
    atlas[4:] *= 2
    volume(tmp_path / "atlas.nii.gz", data=atlas)
    (tmp_path / "labels.csv").write_text("id,roi\n1,EVC\n2,LOC\n")
    (tmp_path / "conditions.txt").write_text("".join(f"c{i}\n" for i in range(8)))
    return tmp_path


def run_command(command, betas, *extra, out="study"):
    files = sorted(betas.glob("sub-*.nii.gz"))
    shared = ["--betas", *files, "--mask", betas / "mask.nii.gz", "--conditions", betas / "conditions.txt"]
    command.main([str(part) for part in (*shared, "--out", betas / out, *extra, "-q")])
    return betas / out


def written_codes(folder):
    return {int(nib.load(path).header["sform_code"]) for path in folder.rglob("*.nii.gz")}


@pytest.mark.filterwarnings("ignore:.*belong to no searchlight")
@pytest.mark.parametrize(("space", "codes"), [("MNI152NLin6Asym", {4}), ("T1w", {2}), (None, {2})])
def test_searchlights_keep_the_space(betas, space, codes):
    given = [] if space is None else ["--space", space]
    study = run_command(searchlight_command, betas, *given)
    assert Geometry.load(study / "searchlight_rdms" / "geometry.npz").space == (space or "aligned")
    assert read_space([study / "mask.nii.gz"]) == (space or "aligned")
    assert written_codes(study) == codes
    assert json.loads((study / "searchlight_rdms" / "run.json").read_text())["data"]["space"] == (space or "aligned")


@pytest.mark.filterwarnings("ignore:.*belong to no searchlight")
def test_names_and_masks_tell_the_space_of_searchlights(betas):
    volume(betas / "mask.nii.gz", sform=4, data=np.asarray(nib.load(betas / "mask.nii.gz").dataobj))
    study = run_command(searchlight_command, betas, "--geometry", "spheres", "--radius-mm", "6")
    assert Geometry.load(study / "searchlight_rdms" / "geometry.npz").space == "MNI"
    for path in sorted(betas.glob("sub-*.nii.gz")):
        path.rename(path.with_name(path.name.replace(".nii", "_space-MNI152NLin2009cAsym.nii")))
    study = run_command(searchlight_command, betas, out="named")
    assert Geometry.load(study / "searchlight_rdms" / "geometry.npz").space == "MNI152NLin2009cAsym"


def test_rois_keep_the_space(betas):
    atlas = ["--atlas", betas / "atlas.nii.gz", "--labels", betas / "labels.csv"]
    study = run_command(rois_command, betas, *atlas, "--space", "MNI152NLin6Asym")
    assert written_codes(study) == {4} and read_space([study / "atlas.nii.gz"]) == "MNI152NLin6Asym"
    assert read_space([run_command(rois_command, betas, *atlas, out="plain") / "atlas.nii.gz"]) == "aligned"


def test_an_mni_atlas_on_other_data_is_told(betas):
    volume(betas / "atlas.nii.gz", sform=4, data=np.asarray(nib.load(betas / "atlas.nii.gz").dataobj))
    atlas = ["--atlas", betas / "atlas.nii.gz", "--labels", betas / "labels.csv"]
    with pytest.warns(UserWarning, match="is in MNI space, but the beta maps do not say that they are"):
        run_command(rois_command, betas, *atlas)


def test_voxels_without_a_searchlight_are_counted(betas):
    mask = np.zeros((9, 8, 7), np.uint8)
    mask[:, 2:5, 2:5] = 1  # blocks cover neither the first layer nor the last
    volume(betas / "mask.nii.gz", data=mask)
    with pytest.warns(UserWarning, match="18 of 81 voxels of the mask belong to no searchlight: blocks do not cover"):
        study = run_command(searchlight_command, betas)
    owned = np.zeros(mask.size, bool)
    owned[Geometry.load(study / "searchlight_rdms" / "geometry.npz").voxels] = True
    assert (mask.astype(bool) & ~owned.reshape(mask.shape)).sum() == 18


def test_data_folders_say_their_space(tmp_path, rng):
    study = write_study(tmp_path / "study", rng, space="aligned")
    geometry = study / "searchlight_rdms" / "geometry.npz"
    with np.load(geometry) as arrays:
        np.savez(geometry, **{name: arrays[name] for name in ("shape", "affine", "offsets", "voxels")})

    def spaces(**given):
        searchlights = load_searchlights(locate("searchlight", study, **given), 8).geometry.space
        return searchlights, load_atlas(locate("roi", study, space=given.get("space"))).space

    assert spaces() == ("unknown", "aligned")  # an archive of before says nothing
    assert spaces(space="MNI152NLin6Asym") == ("MNI152NLin6Asym", "MNI152NLin6Asym")
    geometry.unlink()
    assert spaces() == ("aligned", "aligned")  # blocks of the mask, and the mask's space
    (study / "truth.tsv").touch()
    assert spaces() == ("MNI", "MNI")  # the example


def test_the_release_is_in_mni_space(published_sample):
    assert locate("searchlight", published_sample).space == "MNI"
    assert locate("roi", published_sample).space == "MNI"
    assert locate("searchlight", published_sample, space="T1w").space == "T1w"
    released = published_sample / "sl_rad=1__max_blk_edge=2" / "all_sub_slrdms.npy"
    assert locate("searchlight", published_sample, fmri_rdms=released).space == "MNI"


# -------------------------------------------------------------------------------------------------------- what is told


def test_share_near_the_cortex(rng):
    voxels = rng.random((30, 36, 30)) < 0.1
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    affine[:3, 3] = [-72, -105, -60]
    xyz = np.argwhere(voxels) * 5.0 + affine[:3, 3]
    cortex = np.concatenate([load_hemisphere(hemi).middle() for hemi in HEMISPHERES])
    for distance, near in ((6.0, 6.0), (2.0, 2.5 * np.sqrt(3))):  # half the diagonal of a voxel is near in any case
        expected = (cdist(xyz, cortex).min(axis=1) <= near).mean()
        assert 0.2 < expected < 0.8
        assert share_near_cortex(voxels, affine, distance) == pytest.approx(expected, abs=1e-12)


@pytest.fixture(scope="module")
def mni_map():
    data, affine = patches()
    return make_pale_map(np.where(data > 0, 1 + data % 5, 0).astype(np.int16), affine)


def test_maps_in_mni_space_that_fit_are_no_news(mni_map, recwarn):
    warn_of_space(mni_map)
    warn_of_space(replace(mni_map, space="MNI152NLin2009cAsym"))
    assert not recwarn.list


def test_other_spaces_are_told_with_what_to_do(mni_map):
    with pytest.warns(UserWarning) as told:
        warn_of_space(replace(mni_map, space="aligned"))
    (message,) = (str(warning.message) for warning in told)
    share = re.search(r"(\d+)% of the voxels lie within 6 mm", message)
    assert "another space" in message and "code 2" in message and "`space` MNI152NLin2009cAsym" in message
    assert int(share[1]) == round(100 * share_near_cortex(mni_map.data > 0, mni_map.affine))
    with pytest.warns(UserWarning, match="the data are in space T1w, not in MNI space: maps are drawn as slices"):
        warn_of_space(replace(mni_map, space="T1w"))


def test_maps_beside_the_cortex_are_told(mni_map):
    beside = mni_map.affine.copy()
    beside[1, 3] -= 40
    with pytest.warns(UserWarning, match=r"only \d+% of the voxels lie within 6 mm of the cortex of MNI space; if"):
        warn_of_space(replace(mni_map, affine=beside))
    beside[1, 3] -= 5000
    with pytest.warns(UserWarning, match="only 0% .* none meets it: the map on the page is empty"):
        warn_of_space(replace(mni_map, affine=beside))


# ------------------------------------------------------------------------------------------------------------ figures


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Figures of a study in another space, and with its space said to be MNI."""
    root = tmp_path_factory.mktemp("spaces")
    write_study(root / "study", np.random.default_rng(3), space="aligned")
    with pytest.MonkeyPatch.context() as patch:
        for figure in ("Fig1", "Fig3b"):
            common = ("--data", root / "study", "-np", 99, "--no-open", "-q")
            assert run_script(patch, figure, *common, "--results", root / "other") == 0
            assert run_script(patch, figure, *common, "--results", root / "mni", "--space", "MNI152NLin6Asym") == 0
    return root


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["Fig1", "Fig3b"])
def test_figures_are_drawn_where_the_data_are(drawn, figure):
    other, mni = drawn / "other" / figure, drawn / "mni" / figure
    names = [path.name for path in (other / "maps").iterdir()]
    assert names and all(own.startswith("space-aligned_") for own in names)
    assert 'id="planes"' in (other / "brain_map.html").read_text()
    assert "another space" in (other / "report.html").read_text()
    assert written_codes(other) == {2}
    assert json.loads((other / "run.json").read_text())["data"]["space"] == "aligned"
    names = [path.name for path in (mni / "maps").iterdir()]
    assert {own.split("_")[0] for own in names} == {"space-MNI152NLin6Asym", "hemi-L", "hemi-R"}
    assert "plotly" in (mni / "brain_map.html").read_text()
    assert written_codes(mni) == {4}
    described = next((mni / "maps").glob("space-*_dseg.json"))
    assert json.loads(described.read_text())["SpatialReference"] == "MNI152NLin6Asym"
    # Only the picture differs.
    assert (other / "results.tsv").read_bytes() == (mni / "results.tsv").read_bytes()


# --------------------------------------------------------------------------------------------------------- one person


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """All figures of a single person."""
    root = tmp_path_factory.mktemp("alone")
    study = write_study(root / "study", np.random.default_rng(4), 12)
    for subject in (2, 3, 4):
        (study / "searchlight_rdms" / f"sub-0{subject}.npy").unlink()
    shutil.rmtree(study / "roi_rdms")
    (study / "roi_rdms").mkdir()
    rdms = np.load(study / "dnn_rdms" / "net_late.npy")
    noise = np.random.default_rng(5).random((2, 12, 12))
    for name, own in zip(("EVC", "IT"), rdms + noise + noise.swapaxes(1, 2), strict=True):
        np.save(study / "roi_rdms" / f"{name}.npy", np.where(np.eye(12), 0, own))
    with pytest.MonkeyPatch.context() as patch:
        for figure in ("Fig1", "Fig2", "Fig3a", "Fig3b"):
            arguments = ("--data", study, "-np", 99, "--no-open", "-q", "--results", root)
            assert run_script(patch, figure, *arguments) == 0
    return root


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["Fig1", "Fig3a"])
def test_searchlights_of_one_person(alone, figure):
    import pandas as pd

    table = pd.read_csv(alone / figure / "results.tsv", sep="\t")
    assert table["tested"].all()
    for column in ("share", "share_low", "share_high", "reliability", "ceiling_lower"):
        assert table[column].isna().all(), column
    assert np.isfinite(table["se"]).all() and (table["significant"] | table["explained"]).any()
    report = (alone / figure / "report.html").read_text()
    assert "for a single participant, there is no noise ceiling" in report
    assert "other images, not to other participants" in report
    assert "1 participant," in report and "1 participants" not in report
    names = {path.name for path in (alone / figure / "maps").iterdir()}
    assert not any("noiseCeiling" in name or "stat-share_" in name for name in names)
    page = (alone / figure / "brain_map.html").read_text()
    assert "One participant: results are about other images, not about other people" in page
    assert "below the noise ceiling" not in page
    assert json.loads((alone / figure / "run.json").read_text())["data"]["ceiling"] is None


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["Fig2", "Fig3b"])
def test_rois_of_one_person(alone, figure):
    svg = (alone / figure / "figure.svg").read_text()
    text = " ".join(re.findall(r">([^<]+)</text>", svg))
    assert "jackknife over images)" in text and "One participant" in text and "nan" not in text.lower().split()
    assert "Bottom:" not in text


@pytest.mark.slow
def test_ceiling_none_tests_all(alone, tmp_path, monkeypatch, capfd):
    study = write_study(tmp_path / "study", np.random.default_rng(6), 12)
    arguments = ("--data", study, "-np", 99, "--no-open", "-q", "--results", tmp_path)
    assert run_script(monkeypatch, "Fig1", *arguments, "--ceiling", "none") == 0
    assert "ceiling" not in capfd.readouterr().err
    with np.load(tmp_path / "Fig1" / "arrays.npz") as arrays:
        assert np.isfinite(arrays["ceiling_lower"]).all() and np.isfinite(arrays["p_explained"]).all()
    assert "All searchlights that had RDMs were tested (12 of 12" in (tmp_path / "Fig1" / "report.html").read_text()
    assert run_script(monkeypatch, "Fig1", *arguments, "--ceiling", "low") == 2
    assert "expected a number or none" in capfd.readouterr().err
