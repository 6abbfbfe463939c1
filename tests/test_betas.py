"""Beta maps: whose they are, what is read, and what is refused."""

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from utils import InputError
from utils.io.readers import read_conditions
from utils.rdms.betas import find_betas, read_mask

AFFINE = np.array([[3.0, 0, 0, -9], [0, 3, 0, -90], [0, 0, 3, -6], [0, 0, 0, 1]])
SHAPE = (4, 5, 3)
NAMES = ["face", "house", "shoe"]


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return data


@pytest.fixture
def conditions(tmp_path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES) + "\n")
    return path


def maps(rng, n=3) -> np.ndarray:
    return rng.standard_normal((*SHAPE, n)).astype(np.float32)


def some_voxels(rng) -> np.ndarray:
    return rng.permutation(np.prod(SHAPE))[:20]


def test_one_file_per_subject(rng, tmp_path, conditions):
    data = {name: save(tmp_path / f"{name}.nii.gz", maps(rng)) for name in ("s10", "s2", "s1")}
    betas = find_betas([tmp_path / f"{name}.nii.gz" for name in data], conditions)
    assert [subject.name for subject in betas.subjects] == ["s1", "s2", "s10"]
    assert betas.conditions == tuple(NAMES)
    assert betas.grid.shape == SHAPE
    voxels = some_voxels(rng)
    for subject in betas.subjects:
        loaded = betas.load(subject, voxels)
        assert loaded.dtype == np.float32
        np.testing.assert_array_equal(loaded, data[subject.name].reshape(-1, 3)[voxels])
    assert str(betas) == "3 subject(s): s1, s2, s10; 3 conditions, 1 run(s) each"


@pytest.mark.parametrize("layout", ["folder", "paths"])
def test_runs_of_a_subject_are_averaged(rng, tmp_path, conditions, layout):
    runs = [[save(tmp_path / f"sub-0{s}" / f"run-{r}.nii", maps(rng)) for r in (1, 2, 3)] for s in (1, 2)]
    folders = [tmp_path / "sub-01", tmp_path / "sub-02"]
    paths = folders if layout == "folder" else [path for folder in folders for path in sorted(folder.iterdir())]
    betas = find_betas(paths, conditions)
    assert [subject.name for subject in betas.subjects] == ["sub-01", "sub-02"]
    voxels = some_voxels(rng)
    for subject, of_subject in zip(betas.subjects, runs, strict=True):
        expected = np.mean(of_subject, axis=0).reshape(-1, 3)[voxels]
        np.testing.assert_allclose(betas.load(subject, voxels), expected, atol=1e-6)
    assert str(betas).endswith("3 run(s) each")


def test_volumes_named_after_conditions(rng, tmp_path):
    data = {}
    for subject, runs in (("anna", (1, 2)), ("ben", (1,))):
        for name in ("image_10", "image_2"):
            data[subject, name] = [
                save(tmp_path / subject / f"sub-x_run-{r}_{name}.nii.gz", maps(rng)[..., 0]) for r in runs
            ]
    (tmp_path / "anna" / ".hidden.nii").write_text("not read")
    betas = find_betas([tmp_path / "ben", tmp_path / "anna"])
    assert [subject.name for subject in betas.subjects] == ["anna", "ben"]
    assert betas.conditions == ("image_2", "image_10")
    voxels = some_voxels(rng)
    for subject in betas.subjects:
        for column, name in enumerate(betas.conditions):
            expected = np.mean(data[subject.name, name], axis=0).reshape(-1)[voxels]
            np.testing.assert_allclose(betas.load(subject, voxels)[:, column], expected, atol=1e-6)


def test_order_of_volumes_from_a_file_or_the_data_folder(rng, tmp_path, conditions):
    for name in NAMES:
        save(tmp_path / "s1" / f"{name}.nii", np.full(SHAPE, NAMES.index(name), np.float32))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "conditions.txt").write_text("shoe\nface\nhouse\n")
    kept = tmp_path / "data" / "conditions.txt"
    betas = find_betas([tmp_path / "s1"], kept=kept)
    assert betas.load(betas.subjects[0], np.arange(1)).tolist() == [[2, 0, 1]]
    assert find_betas([tmp_path / "s1"], conditions, tmp_path / "nowhere").conditions == tuple(NAMES)


def test_scaled_integers_doubles_and_large_files(rng, tmp_path, conditions, monkeypatch):
    monkeypatch.setattr("utils.rdms.betas._READ_BYTES", 8 * int(np.prod(SHAPE)) * 2)  # two volumes at a time
    image = nib.Nifti1Image(rng.integers(-99, 99, (*SHAPE, 3)).astype(np.int16), AFFINE)
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, tmp_path / "a.nii.gz")
    stored = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    betas = find_betas([tmp_path / "a.nii.gz"], conditions)
    loaded = betas.load(betas.subjects[0], np.arange(60))
    assert loaded.dtype == np.float32
    np.testing.assert_allclose(loaded, stored.reshape(60, 3), rtol=1e-6)
    exact = save(tmp_path / "b.nii.gz", 1e9 + rng.standard_normal((*SHAPE, 3)))
    betas = find_betas([tmp_path / "b.nii.gz"], conditions)
    assert betas.dtype == np.float64
    np.testing.assert_array_equal(betas.load(betas.subjects[0], np.arange(60)), exact.reshape(60, 3))


def test_subjects_of_equal_file_names_take_the_folders(rng, tmp_path, conditions):
    paths = [tmp_path / person / "betas.nii" for person in ("anna", "ben")]
    for path in paths:
        save(path, maps(rng))
    assert [subject.name for subject in find_betas(paths, conditions).subjects] == ["anna", "ben"]
    for person in ("anna", "ben"):
        save(tmp_path / person / "x" / "betas.nii", maps(rng))
    with pytest.raises(InputError, match=r"cannot tell subjects apart, as files are named alike \(x\)"):
        find_betas([tmp_path / person / "x" / "betas.nii" for person in ("anna", "ben")], conditions)


def test_twelve_runs(runs):
    betas = find_betas(sorted(runs.glob("run-*.nii.gz")), runs / "conditions.txt")
    assert len(betas.subjects) == 12
    mask, _ = read_mask(runs / "mask.nii.gz", betas)
    assert mask.sum() == 129
    loaded = betas.load(betas.subjects[4], np.flatnonzero(mask))
    np.testing.assert_array_equal(loaded, nib.load(runs / "run-05_betas.nii.gz").get_fdata(dtype=np.float32)[mask])


def refused(message: str, *arguments, **options) -> None:
    with pytest.raises(InputError, match=message) as caught:
        find_betas(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_betas_that_cannot_be_used_are_refused(rng, tmp_path, conditions):
    good, other = tmp_path / "good.nii.gz", tmp_path / "other.nii.gz"
    save(good, maps(rng))
    refused("gone.nii: no such file or folder", [tmp_path / "gone.nii"], conditions)
    refused("is given more than once", [good, good], conditions)
    refused(r"good.nii.gz: a 4-D file does not say which volume is which condition; give .* as `conditions`", [good])
    save(other, maps(rng, 4))
    refused(r"other.nii.gz: holds 4 volumes, expected 3, one for each condition of .*names", [good, other], conditions)
    save(other, maps(rng)[:3])
    refused(r"other.nii.gz: is on a grid of 3 x 5 x 3 voxels .* expected 4 x 5 x 3", [good, other], conditions)
    save(other, maps(rng), AFFINE + np.eye(4)[:, [3, 0, 1, 2]].T)
    refused(r"other.nii.gz: is on a grid", [good, other], conditions)
    other.write_bytes(b"no image")
    refused("other.nii.gz: is not a readable NIfTI image", [good, other], conditions)
    save(other, maps(rng)[..., 0])
    (tmp_path / "empty").mkdir()
    refused("empty: holds no .nii or .nii.gz file", [tmp_path / "empty"], conditions)
    save(other, np.zeros((*SHAPE, 2, 2), np.float32))
    refused("other.nii.gz: has 5 dimensions, expected 3 or 4", [good, other], conditions)
    save(other, np.zeros((*SHAPE, 3), np.complex64))
    refused("other.nii.gz: holds values of type complex64", [good, other], conditions)


def test_volumes_that_do_not_make_a_set_are_refused(rng, tmp_path, conditions):
    for name in NAMES:
        save(tmp_path / "s1" / f"{name}.nii", maps(rng)[..., 0])
        save(tmp_path / "s2" / f"{name}.nii", maps(rng)[..., 0])
    (tmp_path / "s2" / "shoe.nii").rename(tmp_path / "s2" / "cat.nii")
    refused(
        r"subject s2 \(.*s2\): has no file for shoe and has files for cat, expected the 3 conditions of s1",
        [tmp_path / "s1", tmp_path / "s2"],
    )
    save(tmp_path / "s1" / "runs.nii", maps(rng))
    refused("is one volume, but runs.nii holds 3; give 4-D files or 3-D files for s1", [tmp_path / "s1"])
    save(tmp_path / "s3" / "run-1.nii", maps(rng)[..., 0])
    refused("run-1.nii: is a single volume, and its name says no condition", [tmp_path / "s3"])
    save(tmp_path / "s4" / "face.nii", maps(rng)[..., 0])
    refused("face.nii: is the only condition of s4", [tmp_path / "s4"])


@pytest.mark.parametrize("name", ["cut.nii.gz", "cut.nii"])
def test_a_file_that_ends_early_is_named(rng, tmp_path, conditions, name):
    path = tmp_path / name
    save(path, maps(rng))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match=rf"{name}: (cannot be read to its end|is not a readable NIfTI)"):
        betas = find_betas([path], conditions)
        betas.load(betas.subjects[0], np.arange(60))


def test_lists_of_conditions(tmp_path):
    path = tmp_path / "conditions.txt"
    path.write_text("\ufeffa\r\nb b\r\n\r\n", encoding="utf-8")
    assert read_conditions(path) == ["a", "b b"]
    for text, message in (
        ("a\n\nb\n", "line 2 is empty"),
        ("a\nb\na\n", r"a occur\(s\) more than once"),
        ("a\n", r"names 1 condition\(s\), expected two or more"),
        ("", r"names 0 condition\(s\)"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_conditions(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not a readable text file"):
        read_conditions(path)


def test_a_data_folder_is_of_one_set_of_conditions(rng, tmp_path, conditions):
    save(tmp_path / "s1.nii", maps(rng))
    kept = tmp_path / "conditions.txt"
    for names in (NAMES, None):
        kept.write_text("\n".join(NAMES))
        assert find_betas([tmp_path / "s1.nii"], conditions if names else None, kept).conditions == tuple(NAMES)
    kept.write_text("face\nshoe\nhouse\n")
    with pytest.raises(InputError, match=r"has shoe in line 2 where the beta maps have house"):
        find_betas([tmp_path / "s1.nii"], conditions, kept)
    kept.write_text("face\nhouse\nshoe\ncat\n")
    with pytest.raises(InputError, match=r"has 4 conditions where the beta maps have 3"):
        find_betas([tmp_path / "s1.nii"], conditions, kept)


def test_masks(rng, tmp_path, conditions):
    save(tmp_path / "mask.nii", np.zeros(SHAPE, np.uint8))
    with pytest.raises(InputError, match=r"mask.nii: not a single voxel is inside"):
        read_mask(tmp_path / "mask.nii")
    save(tmp_path / "s1.nii", maps(rng))
    save(tmp_path / "mask.nii", np.where(rng.random((4, 5, 4)) < 0.5, np.nan, 1).astype(np.float32))
    mask, _ = read_mask(tmp_path / "mask.nii")
    assert 0 < mask.sum() < mask.size
    with pytest.raises(
        InputError, match=r"mask.nii: is on a grid of 4 x 5 x 4 .* but the beta maps \(s1\) are on one of"
    ):
        read_mask(tmp_path / "mask.nii", find_betas([tmp_path / "s1.nii"], conditions))


def test_compressed_mask_that_is_damaged_in_the_middle(rng, tmp_path):
    save(tmp_path / "mask.nii", maps(rng)[..., 0])
    packer = zlib.compressobj(wbits=31)
    start = packer.compress((tmp_path / "mask.nii").read_bytes()[:400]) + packer.flush(zlib.Z_FULL_FLUSH)
    (tmp_path / "mask.nii.gz").write_bytes(start + 100 * b"\xff")  # no kind of block begins with these bits
    with pytest.raises(InputError, match=r"mask.nii.gz: is not a readable NIfTI image \(.*invalid block type"):
        read_mask(tmp_path / "mask.nii.gz")
