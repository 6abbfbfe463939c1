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
    assert str(betas).splitlines() == [
        "3 subject(s): s1, s2, s10; 3 conditions, 1 run(s) each",
        "conditions: face, house, shoe",
    ]


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
    assert "3 run(s) each" in str(betas)


def test_volumes_named_after_conditions(rng, tmp_path):
    data = {}
    for subject, runs in (("anna", (1, 2)), ("ben", (1,))):
        for name in ("image_10", "image_2"):
            data[subject, name] = [save(tmp_path / subject / f"run-{r}_{name}.nii.gz", maps(rng)[..., 0]) for r in runs]
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
    monkeypatch.setattr("utils.rdms.beta_files._READ_BYTES", 8 * int(np.prod(SHAPE)) * 2)  # two volumes at a time
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
        "s1 has no beta map of cat; s2 has no beta map of shoe; expected every condition at least once in every subject"
        ".*`drop_incomplete`",
        [tmp_path / "s1", tmp_path / "s2"],
    )
    refused(r"subject s2 \(.*s2\): has beta maps of cat, expected the 3 cond", [tmp_path / "s2"], conditions)
    save(tmp_path / "s1" / "runs.nii", maps(rng))
    refused("runs.nii: a 4-D file does not say which volume is which condition", [tmp_path / "s1"])
    save(tmp_path / "s3" / "run-1.nii", maps(rng)[..., 0])
    refused("run-1.nii: is a single volume, and its name says no condition", [tmp_path / "s3"])
    save(tmp_path / "s4" / "face.nii", maps(rng)[..., 0])
    refused(r"face.nii: 1 condition\(s\) that every subject has \(face\), expected two", [tmp_path / "s4"])


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
    kept.write_text("face\nhouse\nshoe\ncat\n")
    with pytest.raises(InputError, match=r"conditions.txt: has cat, of which there are no beta maps \(.*s1.nii\)"):
        find_betas([tmp_path / "s1.nii"], conditions, kept)
    kept.write_text("face\nhouse\ncat\n")
    with pytest.raises(InputError, match=r"has cat, .* and lacks shoe, of which there are beta maps"):
        find_betas([tmp_path / "s1.nii"], conditions, kept)


def test_conditions_are_put_into_the_order_of_the_data_folder(rng, tmp_path, conditions):
    data = save(tmp_path / "s1.nii", maps(rng))
    kept = tmp_path / "conditions.txt"
    kept.write_text("shoe\nface\nhouse\n")
    betas = find_betas([tmp_path / "s1.nii"], conditions, kept)
    assert betas.conditions == ("shoe", "face", "house")
    assert f"conditions are put into the order of {kept}, by their names" in str(betas)
    np.testing.assert_array_equal(betas.load(betas.subjects[0], np.arange(60)), data.reshape(60, 3)[:, [2, 0, 1]])


def test_files_of_several_subjects_in_one_folder(rng, tmp_path):
    data = {
        (s, name): save(tmp_path / "all" / f"sub-0{s}_{name}.nii", maps(rng)[..., 0]) for s in (1, 2) for name in NAMES
    }
    betas = find_betas([tmp_path / "all"])
    assert [subject.name for subject in betas.subjects] == ["sub-01", "sub-02"]
    loaded = betas.load(betas.subjects[1], np.arange(60))
    np.testing.assert_array_equal(loaded, np.stack([data[2, name].reshape(-1) for name in NAMES], axis=1))


def test_runs_without_a_subject_are_questioned(rng, tmp_path, conditions):
    paths = [tmp_path / f"run-{r:02d}.nii" for r in (1, 2)]
    for path in paths:
        save(path, maps(rng))
    with pytest.warns(UserWarning, match="run-01, run-02 are taken for 2 subjects, as no name says sub-"):
        assert len(find_betas(paths, conditions).subjects) == 2


TABLE = """file\tindex\tcondition\trun\tsubject
one.nii\t0\tface\t1\t01
one.nii\t1\tface\t1\t01
one.nii\t2\thouse\t1\t01
one.nii\t3\tn/a\t1\t01
two.nii\t0\thouse\t2\tsub-01
two.nii\t1\tface\t2\tsub-01
sub-02/one.nii\t0\thouse\t1\t
sub-02/one.nii\t1\tface\t1\t
"""


@pytest.fixture
def trials(rng, tmp_path) -> dict[str, np.ndarray]:
    """Single trials of two subjects, and trials.tsv, which names them."""
    (tmp_path / "trials.tsv").write_text(TABLE)
    shapes = {"sub-01/one.nii": 4, "sub-01/two.nii": 2, "sub-02/one.nii": 2}
    return {name: save(tmp_path / name, maps(rng, n)).reshape(60, n) for name, n in shapes.items()}


def test_single_trials_named_by_a_table_are_averaged(tmp_path, trials):
    betas = find_betas([tmp_path / "sub-01", tmp_path / "sub-02"], tmp_path / "trials.tsv")
    assert betas.conditions == ("face", "house")
    one, two, other = trials.values()
    first, second = betas.subjects
    assert (first.runs, first.counts()) == (["1", "2"], {"face": 3, "house": 2})
    expected = np.stack([(one[:, 0] + one[:, 1] + two[:, 1]) / 3, (one[:, 2] + two[:, 0]) / 2], axis=1)
    np.testing.assert_allclose(betas.load(first, np.arange(60)), expected, atol=1e-6)
    np.testing.assert_array_equal(betas.load(second, np.arange(60)), other[:, ::-1])
    by_run = np.array([[one[:, :2].mean(axis=1), one[:, 2]], [two[:, 1], two[:, 0]]])
    np.testing.assert_allclose(betas.load_runs(first, np.arange(60)), by_run.transpose(2, 0, 1), atol=1e-6)
    assert str(betas).splitlines() == [
        "2 subject(s): sub-01, sub-02; 2 conditions, 1 to 2 run(s) each; 1 to 3 map(s) of each condition, which are "
        "averaged",
        "conditions: face, house",
        "1 map(s) are left out (n/a in trials.tsv)",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("one.nii\t3\tn/a\t1\t01\n", "", r"sub-01/one.nii: volume\(s\) 3 of 4 \(counted from 0\) have no line in"),
        ("one.nii\t3", "one.nii\t4", r"volume\(s\) 3 of 4 .* have no line"),
        ("one.nii\t3", "one.nii\t2", r"lines 4 and 5 are of the same volume \(2 of .*sub-01/one.nii\)"),
        ("two.nii\t0", "two.nii\tx", r"line 6 has index 'x', expected a whole number from 0 on"),
        ("sub-02/one.nii\t1\tface\t1\t\n", "", r"sub-02/one.nii: volume\(s\) 1 of 2"),
        ("sub-02/one.nii\t1\tface\t1\t\n", "sub-02/one.nii\t1\tface\t1\t\nsub-03/one.nii\t0\tface\t1\t\n",
         r"trials.tsv: line 10 \(file sub-03/one.nii, index 0, condition face, run 1\) is of no beta map given"),
        ("condition", "name", r"conditions of .*trials.tsv|volumes, expected 9"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_are_refused(tmp_path, trials, old, new, message):
    (tmp_path / "trials.tsv").write_text(TABLE.replace(old, new))
    refused(message, [tmp_path / "sub-01", tmp_path / "sub-02"], tmp_path / "trials.tsv")


def test_rows_without_index_are_the_volumes_in_order(rng, tmp_path):
    data = save(tmp_path / "s1.nii", maps(rng)).reshape(60, 3)
    (tmp_path / "volumes.tsv").write_text("condition\nshoe\nface\nshoe\n")
    betas = find_betas([tmp_path / "s1.nii"], tmp_path / "volumes.tsv")
    assert betas.conditions == ("shoe", "face")
    expected = np.stack([(data[:, 0] + data[:, 2]) / 2, data[:, 1]], axis=1)
    np.testing.assert_allclose(betas.load(betas.subjects[0], np.arange(60)), expected, atol=1e-6)


def test_a_condition_may_be_missing_in_a_run_but_not_in_a_subject(rng, tmp_path):
    for name in ("sub-01/run-1_face", "sub-01/run-1_house", "sub-01/run-2_face", "sub-01/run-2_shoe",
                 "sub-02/run-1_face", "sub-02/run-1_house"):  # fmt: skip
        save(tmp_path / f"{name}.nii", maps(rng)[..., 0])
    paths = [tmp_path / "sub-01", tmp_path / "sub-02"]
    refused("sub-02 has no beta map of shoe", paths)
    betas = find_betas(paths, drop_incomplete=True)
    assert betas.conditions == ("face", "house")
    lines = str(betas).splitlines()
    assert "left out for all, as not every subject has them: shoe" in lines
    assert any(line.startswith("runs without some conditions: sub-01 (1)") for line in lines)
    by_run = betas.load_runs(betas.subjects[0], np.arange(60))
    assert np.isnan(by_run[:, 1, 1]).all()
    assert np.isfinite(by_run[:, 0]).all()
    assert np.isfinite(betas.load(betas.subjects[0], np.arange(60))).all()


@pytest.mark.parametrize("nothing", [0.0, np.nan])
def test_a_condition_that_was_never_shown_is_named(rng, tmp_path, conditions, nothing):
    data = maps(rng)
    data[..., 1] = nothing
    for name, values in {"sub-01": maps(rng), "sub-02": data}.items():
        save(tmp_path / f"{name}.nii", values)
    paths = [tmp_path / "sub-01.nii", tmp_path / "sub-02.nii"]
    betas = find_betas(paths, conditions)
    with pytest.raises(InputError, match=r"sub-02.nii: has one value in all voxels for house of sub-02"):
        betas.load(betas.subjects[1], np.arange(60))
    assert find_betas(paths, conditions, drop_incomplete=True).conditions == ("face", "shoe")


def test_a_blank_repeat_does_not_count(rng, tmp_path, conditions):
    runs = [maps(rng), maps(rng)]
    runs[1][..., 2] = 0
    for number, values in enumerate(runs, start=1):
        save(tmp_path / "sub-01" / f"run-{number}.nii", values)
    betas = find_betas([tmp_path / "sub-01"], conditions)
    with pytest.warns(UserWarning, match=r"sub-01: 1 beta map\(s\) with one value in all voxels .* \(shoe\)"):
        loaded = betas.load(betas.subjects[0], np.arange(60))
    np.testing.assert_array_equal(loaded[:, 2], runs[0][..., 2].reshape(-1))
    np.testing.assert_allclose(loaded[:, 0], np.mean(runs, axis=0)[..., 0].reshape(-1), atol=1e-6)


def test_voxels_that_a_run_does_not_cover_are_left_out(rng, tmp_path, conditions):
    runs = [maps(rng), maps(rng)]
    runs[0][0] = 7  # in no run: a voxel without any variance, which is not NaN
    runs[1][:2] = 0
    for number, values in enumerate(runs, start=1):
        save(tmp_path / "sub-01" / f"run-{number}.nii", values)
    betas = find_betas([tmp_path / "sub-01"], conditions)
    with pytest.warns(UserWarning, match=r"sub-01: 15 of 60 voxels have the same value in all conditions of run-2"):
        loaded = betas.load(betas.subjects[0], np.arange(60)).reshape(*SHAPE, 3)
    assert np.isnan(loaded[1]).all()
    assert (loaded[0] == 3.5).all()
    np.testing.assert_allclose(loaded[2:], np.mean(runs, axis=0)[2:], atol=1e-6)
    by_run = betas.load_runs(betas.subjects[0], np.arange(60)).reshape(*SHAPE, 2, 3)
    assert np.isnan(by_run[0, ..., 0, :]).all()
    assert np.isnan(by_run[:2, ..., 1, :]).all()
    assert np.isfinite(by_run[1:, ..., 0, :]).all()


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
