"""ROI RDMs against scipy, and input that cannot be used."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from utils import InputError
from utils.datasets import simulated
from utils.io.data_folder import DataFolder, roi_of
from utils.rdms.atlas import WANG_ROIS, read_atlas
from utils.rdms.beta_files import Grid
from utils.rdms.measure import Responses
from utils.rdms.roi_rdms import roi_rdm


@pytest.fixture
def atlas(rng) -> np.ndarray:
    atlas = rng.integers(0, 4, (5, 6, 7))
    atlas[0, 0, 0] = 9  # an ROI of one voxel
    return atlas


def test_rdms_equal_scipy(rng, atlas):
    betas = rng.standard_normal((8, 5, 6, 7)).astype(np.float32)
    for roi in (3, 1):
        rdm = roi_rdm(Responses(betas[:, atlas == roi].T), f"ROI {roi}")
        assert rdm.dtype == np.float64
        np.testing.assert_allclose(rdm, pdist(betas[:, atlas == roi].astype(float), "correlation"), atol=1e-12)


def test_constant_and_missing_voxels_are_left_out(rng, atlas):
    betas = rng.standard_normal((8, 5, 6, 7))
    inside = np.argwhere(atlas == 2)
    betas[:, *inside[0]] = 7.0
    betas[3, *inside[1]] = np.nan
    betas[5, *inside[2]] = np.inf
    expected = pdist(np.stack([betas[:, *voxel] for voxel in inside[3:]], axis=1), "correlation")
    np.testing.assert_allclose(roi_rdm(Responses(betas[:, atlas == 2].T), "ROI 2"), expected, atol=1e-12)


def test_rois_that_cannot_be_used_are_named(rng, atlas):
    betas = rng.standard_normal((8, 5, 6, 7))
    with pytest.raises(InputError, match=r"ROI FEF \(label 25\): the atlas has no voxel with that label"):
        roi_rdm(Responses(betas[:, atlas == 25].T), "ROI FEF (label 25)")
    with pytest.raises(InputError, match=r"ROI 9: 1 of its 1 voxel\(s\) are usable .* expected 2 or more"):
        roi_rdm(Responses(betas[:, atlas == 9].T), "ROI 9")
    betas[:, atlas == 2] = 0
    with pytest.raises(InputError, match=r"ROI V2d \(label 2\): 0 of its \d+ voxel\(s\) are usable"):
        roi_rdm(Responses(betas[:, atlas == 2].T), "ROI V2d (label 2)")
    betas = rng.standard_normal((8, 5, 6, 7))
    betas[4] = 1.0
    with pytest.raises(InputError, match=r"ROI 1: a condition has the same value in all \d+ usable voxels"):
        roi_rdm(Responses(betas[:, atlas == 1].T), "ROI 1")


# ------------------------------------------------------------------------------------------------------------- atlases

AFFINE = np.array([[3.0, 0, 0, -15], [0, 3, 0, -90], [0, 0, 3, -6], [0, 0, 0, 1]])
GRID = Grid((10, 8, 6), AFFINE)


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text("id,roi\n1,V1v\n2, V1d\n3,hV4 \n")
    return path


@pytest.fixture
def volume(rng) -> np.ndarray:
    return rng.integers(0, 4, GRID.shape).astype(np.int16)


def test_an_atlas_on_the_grid_of_the_betas_is_taken_as_it_is(tmp_path, table, volume):
    atlas = read_atlas([save(tmp_path / "atlas.nii.gz", volume)], GRID, table)
    np.testing.assert_array_equal(atlas.labels, volume)
    assert atlas.names == {1: "V1v", 2: "V1d", 3: "hV4"}


@pytest.mark.parametrize("names", [("maxprob_vol_lh.nii.gz", "maxprob_vol_rh.nii.gz"), ("left.nii", "right.nii")])
def test_hemispheres_in_two_files(tmp_path, table, volume, names):
    left = volume * (np.arange(10) < 5)[:, None, None]
    right = volume - left
    paths = [save(tmp_path / name, half) for name, half in zip(names, (left, right), strict=True)]
    np.testing.assert_array_equal(read_atlas(paths, GRID, table).labels, volume)
    np.testing.assert_array_equal(read_atlas(paths[::-1], GRID, table, "left").labels, left)
    np.testing.assert_array_equal(read_atlas(paths[1:], GRID, table, "right").labels, right)
    separate = read_atlas(paths, GRID, table, "separate")
    assert separate.names == {1: "V1v_lh", 2: "V1d_lh", 3: "hV4_lh", 11: "V1v_rh", 12: "V1d_rh", 13: "hV4_rh"}
    np.testing.assert_array_equal(separate.labels, left + np.where(right > 0, right + 10, 0))
    with pytest.raises(InputError, match="no file of the right hemisphere is given, which `hemisphere` both needs"):
        read_atlas(paths[:1], GRID, table)


def test_names_of_wang_et_al_are_built_in(tmp_path):
    labels = np.arange(480, dtype=np.int16).reshape(GRID.shape) % 26
    paths = [save(tmp_path / f"maxprob_vol_{side}.nii.gz", labels) for side in ("lh", "rh")]
    names = read_atlas(paths, GRID).names
    assert list(names) == list(range(1, 26))
    assert (names[1], names[7], names[12], names[13], names[25]) == ("V1v", "hV4", "MST", "hMT", "FEF")
    with pytest.raises(
        InputError,
        match=r"other.nii: names of its ROIs are not known; give the atlas's table of ids and names as `roi_labels`",
    ):
        read_atlas([save(tmp_path / "other.nii", labels)], GRID)


def test_the_example_has_the_same_names():
    assert tuple(name for name, *_ in simulated._ROIS) == WANG_ROIS


def test_hemispheres_of_one_file_are_told_by_x(tmp_path, table, volume):
    path = save(tmp_path / "atlas.nii", volume)
    x = -15 + 3 * np.arange(10)
    for side, inside in (("left", x < 0), ("right", x > 0)):
        np.testing.assert_array_equal(read_atlas([path], GRID, table, side).labels, volume * inside[:, None, None])


def test_a_voxel_of_two_rois_belongs_to_none(tmp_path, table):
    left, right = np.zeros((2, *GRID.shape), np.int16)
    left[2:6, 2, 2], right[5:9, 2, 2] = 1, 2
    paths = [save(tmp_path / f"atlas_{side}.nii", half) for side, half in (("lh", left), ("rh", right))]
    with pytest.warns(UserWarning, match=r"1 voxel\(s\) have different labels in the two hemispheres"):
        labels = read_atlas(paths, GRID, table).labels
    assert labels[2:9, 2, 2].tolist() == [1, 1, 1, 0, 2, 2, 2]


def test_another_grid_is_resampled_as_nilearn_does(rng, tmp_path, table):
    from nilearn.image import resample_img

    fine = np.array([[-1.1, 0.1, 0, 16.3], [0, 1.3, 0.05, -92.1], [0.02, 0, 0.9, -7.4], [0, 0, 0, 1]])
    data = rng.integers(0, 4, (31, 22, 19)).astype(np.int16)
    path = save(tmp_path / "atlas.nii.gz", data, fine)
    with pytest.warns(
        UserWarning, match=r"atlas.nii.gz: is on a grid of 31 x 22 x 19 .* beta maps are on one of 10 x 8"
    ):
        labels = read_atlas([path], GRID, table).labels
    expected = resample_img(
        nib.Nifti1Image(data, fine), AFFINE, GRID.shape, interpolation="nearest", copy_header=True, force_resample=True
    )
    # Beyond the centres of the outermost voxels nilearn sees nothing, though half a voxel of the volume is left there.
    to_atlas = np.linalg.inv(fine) @ AFFINE
    position = np.einsum("ab,bxyz->axyz", to_atlas[:3, :3], np.indices(GRID.shape)) + to_atlas[:3, 3, None, None, None]
    within = ((position >= 0) & (position <= np.array(data.shape)[:, None, None, None] - 1)).all(axis=0)
    assert 0.5 < within.mean() < 1
    np.testing.assert_array_equal(labels[within], expected.get_fdata()[within])
    assert (labels[~within] > 0).any()


@pytest.mark.parametrize("form", ["4-D", "files"])
def test_probability_maps(rng, tmp_path, table, form):
    maps = rng.integers(0, 100, (*GRID.shape, 3)).astype(np.float32)
    if form == "4-D":
        paths = [save(tmp_path / "maps.nii.gz", maps)]
    else:
        paths = [save(tmp_path / f"perc_VTPM_vol_roi{i + 1}_lh.nii.gz", maps[..., i]) for i in range(3)]
    labels = read_atlas(paths, GRID, table, "left" if form == "files" else "both", threshold=60).labels
    expected = np.where(maps.max(axis=-1) >= 60, maps.argmax(axis=-1) + 1, 0)
    np.testing.assert_array_equal(labels, expected)
    with pytest.raises(InputError, match="no value reaches `threshold` 101 where the beta maps are"):
        read_atlas(paths, GRID, table, "left" if form == "files" else "both", threshold=101)


def test_atlases_that_cannot_be_used_are_refused(rng, tmp_path, table, volume):
    def refused(message, *names, **options):
        with pytest.raises(InputError, match=message) as caught:
            read_atlas([tmp_path / name for name in names], GRID, table, **options)
        assert "\n" not in str(caught.value)

    save(tmp_path / "atlas.nii", volume)
    save(tmp_path / "share.nii", volume / np.float32(3))
    save(tmp_path / "minus.nii", -volume)
    save(tmp_path / "inf.nii", np.where(volume == 1, np.inf, volume).astype(np.float32))
    save(tmp_path / "deep.nii", np.stack([volume] * 2, axis=-1))
    save(tmp_path / "lh.nii", volume)
    save(tmp_path / "high.nii", volume + np.int16(40))
    (tmp_path / "broken.nii").write_bytes(b"x")
    refused("gone.nii: no such file", "gone.nii")
    refused("broken.nii: is not a readable NIfTI image", "broken.nii")
    refused(r"share.nii: holds values that are not labels .* utils.rois makes labels with a `threshold`", "share.nii")
    refused("minus.nii: holds values that are not labels", "minus.nii")
    refused("inf.nii: holds values that are not labels", "inf.nii")
    refused("deep.nii: has 4 dimensions, expected 3-D labels", "deep.nii")
    refused("deep.nii: holds 2 maps, expected 3, one for each ROI", "deep.nii", threshold=1)
    refused("atlas.nii: which ROI it is of is not clear", "atlas.nii", threshold=1)
    refused("is a second volume of the same hemisphere", "atlas.nii", "share.nii")
    refused("atlas.nii: its name says no hemisphere, unlike those of other files", "atlas.nii", "lh.nii")
    refused(r"high.nii: holds none of the 3 ids of .*labels.csv .*\(found 40, 41, 42, 43\)", "high.nii")


def test_labels_without_a_name_are_named_in_a_warning(tmp_path, table, volume):
    volume[0, 0, :2] = 8
    with pytest.warns(UserWarning, match=r"label\(s\) 8 have no name in the table"):
        read_atlas([save(tmp_path / "atlas.nii", volume)], GRID, table)


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.int32, np.float32])
def test_labels_that_were_scaled_on_disk_are_rounded_and_nan_is_outside(tmp_path, table, volume, kind):
    volume[0, 0, :3] = 25
    table.write_text(table.read_text() + "25,FEF\n")
    if kind == np.float32:
        path = save(tmp_path / "atlas.nii", np.where(volume > 0, volume, np.nan).astype(kind))
    else:
        image = nib.Nifti1Image(volume.astype(float), AFFINE)
        image.set_data_dtype(kind)
        path = tmp_path / "atlas.nii"
        nib.save(image, path)
        assert (nib.load(path).get_fdata() != volume).any()
    np.testing.assert_array_equal(read_atlas([path], GRID, table).labels, volume)


def test_labels_without_a_name_are_not_taken_for_those_of_the_other_hemisphere(tmp_path, table, volume):
    """11 is what the right V1v becomes."""
    left = np.where(np.arange(10)[:, None, None] < 5, np.where(volume == 3, 11, volume), 0).astype(np.int16)
    right = np.where(np.arange(10)[:, None, None] < 5, 0, np.where(volume == 3, 0, volume)).astype(np.int16)
    paths = [save(tmp_path / f"{side}.nii", half) for side, half in (("lh", left), ("rh", right))]
    with pytest.warns(UserWarning, match=r"label\(s\) 11 have no name"):
        atlas = read_atlas(paths, GRID, table, "separate")
    assert atlas.names[11] == "V1v_rh"
    np.testing.assert_array_equal(atlas.labels == 11, right == 1)


def test_an_atlas_has_a_grid_of_its_own(tmp_path, table, volume):
    halves = [np.where((np.arange(10) < 5)[:, None, None] == (side == "lh"), volume, 0) for side in ("lh", "rh")]
    paths = [save(tmp_path / f"{side}.nii", half) for side, half in zip(("lh", "rh"), halves, strict=True)]
    atlas = read_atlas(paths, table=table)
    np.testing.assert_array_equal(atlas.labels, volume)
    np.testing.assert_array_equal(atlas.affine, AFFINE)


@pytest.mark.parametrize(
    "name", ["V1/V2", "a\\b", "50%", "..", "Area: 4*", "Superior Temporal Gyrus, anterior division"]
)
def test_any_name_is_that_of_one_file_in_the_folder(tmp_path, name):
    path = DataFolder(tmp_path).roi_rdm(name)
    assert path.parent == tmp_path / "roi_rdms"
    assert not set(path.name) & set('/\\:*?"<>|')
    assert roi_of(path) == name
    assert roi_of(Path("hV4 .mat")) == "hV4"
