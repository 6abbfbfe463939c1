"""Folders as SPM, FSL, nilearn, GLMsingle and AFNI write them: what is read, what is left out, and what is refused."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat
from scipy.spatial.distance import pdist, squareform

from utils import InputError, rois
from utils.io.pickled_arrays import read_pickled_array
from utils.io.readers import read_mat
from utils.rdms.betas import find_betas

AFFINE = np.array([[3.0, 0, 0, -9], [0, 3, 0, -90], [0, 0, 3, -6], [0, 0, 0, 1]])
SHAPE = (4, 5, 3)
EVERYWHERE = np.arange(60)


def save(path: Path, data: np.ndarray, description: str = "", intent: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data.astype(np.float32), AFFINE)
    image.header["descrip"], image.header["intent_code"] = description.encode()[:79], intent
    nib.save(image, path)
    return data.astype(np.float32).reshape(60, -1)


def volume(rng) -> np.ndarray:
    return rng.standard_normal(SHAPE)


def lines(betas) -> list[str]:
    return str(betas).splitlines()


# ----------------------------------------------------------------------------------------------------------------- SPM

SPM_REGRESSORS = [
    f"Sn({run}) {name}"
    for run in (1, 2)
    for name in ("face*bf(1)", "face*bf(2)", "house*bf(1)", "housexsize^1*bf(1)", "R1", "R2")
] + ["Sn(1) constant", "Sn(2) constant"]


def write_spm(root: Path, rng, *, spm_mat: str = "v5", descriptions: bool = True) -> dict[tuple[str, str], np.ndarray]:
    """A first-level folder of SPM12; returns the betas of conditions by run and name."""
    betas = {}
    for number, name in enumerate(SPM_REGRESSORS, start=1):
        text = f"spm_spm:beta ({number:04d}) - {name}" if descriptions else ""
        values = save(root / f"beta_{number:04d}.nii", volume(rng), text)
        if name.endswith("*bf(1)") and "^" not in name:
            betas[name[3], name[6:].removesuffix("*bf(1)")] = values[:, 0]
    save(root / "mask.nii", np.ones(SHAPE), "spm_spm:resultant analysis mask")
    save(root / "ResMS.nii", volume(rng) ** 2, "spm_spm:Residual sum-of-squares")
    save(root / "RPV.nii", volume(rng) ** 2, "spm_spm: resels per voxel")
    save(root / "con_0001.nii", volume(rng), "Contrast 1: face - house")
    save(root / "spmT_0001.nii", volume(rng), "SPM{T_[300.0]} - contrast 1: face - house", 3)
    if spm_mat == "v5":
        savemat(root / "SPM.mat", {"SPM": {"xX": {"name": np.array(SPM_REGRESSORS, dtype=object)[None]}, "nscan": 300}})
    elif spm_mat == "v7.3":
        with h5py.File(root / "SPM.mat", "w", userblock_size=512) as file:
            names = file.create_dataset("SPM/xX/name", (len(SPM_REGRESSORS), 1), dtype=h5py.ref_dtype)
            for i, name in enumerate(SPM_REGRESSORS):
                text = file.create_dataset(f"#refs#/{i}", data=np.array([[ord(c)] for c in name], dtype=np.uint16))
                names[i, 0] = text.ref
    return betas


@pytest.mark.parametrize("spm_mat", ["v5", "v7.3", "none"])
def test_first_level_folders_of_spm(rng, tmp_path, spm_mat):
    truth = [write_spm(tmp_path / f"sub-0{s}" / "glm", rng, spm_mat=spm_mat) for s in (1, 2)]
    betas = find_betas([tmp_path / "sub-01", tmp_path / "sub-02"])
    assert betas.conditions == ("face", "house")
    for subject, own in zip(betas.subjects, truth, strict=True):
        assert subject.runs == ["run-1", "run-2"]
        expected = np.stack([(own["1", name] + own["2", name]) / 2 for name in ("face", "house")], axis=1)
        np.testing.assert_allclose(betas.load(subject, EVERYWHERE), expected, atol=1e-6)
        by_run = np.stack([np.stack([own[run, name] for name in ("face", "house")], axis=1) for run in "12"], axis=1)
        np.testing.assert_array_equal(betas.load_runs(subject, EVERYWHERE), by_run)
    assert lines(betas) == [
        "2 subject(s): sub-01, sub-02; 2 conditions, 2 run(s) each",
        "conditions: face, house",
        "read as first-level folders of SPM (28 files)",
        "left out, SPM's regressors of no condition (movement, derivatives, modulators, constants): Sn(1) constant, "
        "Sn(1) face*bf(2), Sn(1) housexsize^1*bf(1), Sn(1) R1, Sn(1) R2 and 5 more",
        "left out, SPM's statistics, contrasts and residuals: con_0001.nii, ResMS.nii, RPV.nii, spmT_0001.nii",
        "left out, mask: mask.nii",
    ]


def test_folders_of_people_without_sub_in_their_names(rng, tmp_path):
    for name in ("anna", "ben"):
        write_spm(tmp_path / "glm" / name, rng)
    assert [subject.name for subject in find_betas([tmp_path / "glm"]).subjects] == ["anna", "ben"]
    given = [tmp_path / "glm" / name for name in ("ben", "anna")]
    assert [subject.name for subject in find_betas(given).subjects] == ["anna", "ben"]


def test_betas_of_spm_named_by_a_table(rng, tmp_path):
    write_spm(tmp_path / "sub-01", rng, spm_mat="none", descriptions=False)
    with pytest.raises(InputError, match=r"beta_0001.nii: is a single volume, and its name says no condition.*table"):
        find_betas([tmp_path / "sub-01"])
    rows = ["file\tcondition\trun", *(f"beta_{i:04d}.nii\tn/a\t" for i in range(1, 15))]
    rows[3], rows[4] = "beta_0003.nii\tcat\t1", "beta_0004.nii\tdog\t1"
    (tmp_path / "names.tsv").write_text("\n".join(rows) + "\n")
    betas = find_betas([tmp_path / "sub-01"], tmp_path / "names.tsv")
    assert betas.conditions == ("cat", "dog")
    third = np.asarray(nib.load(tmp_path / "sub-01" / "beta_0003.nii").dataobj).reshape(-1)
    np.testing.assert_array_equal(betas.load(betas.subjects[0], EVERYWHERE)[:, 0], third)


def test_a_table_may_be_silent_about_regressors_of_no_condition(rng, tmp_path):
    write_spm(tmp_path / "sub-01", rng)
    named = {1: "portrait", 3: "villa", 7: "portrait", 9: "villa"}
    rows = ["file\tcondition", *(f"beta_{i:04d}.nii\t{name}" for i, name in named.items())]
    (tmp_path / "names.tsv").write_text("\n".join(rows) + "\n")
    assert find_betas([tmp_path / "sub-01"], tmp_path / "names.tsv").conditions == ("portrait", "villa")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("mask.nii", "mask"), ("ResMS.nii", "SPM's statistics"), ("RPV.nii", "SPM's"), ("con_0001.nii", "SPM's"),
        ("spmT_0001.nii", "SPM's"), ("stats/varcope1.nii.gz", "FSL's variances"), ("stats/zstat1.nii.gz", "FSL's"),
        ("stats/tstat2.nii.gz", "FSL's"), ("sub-01_contrast-face_stat-z_statmap.nii.gz", "maps of other statistics"),
        ("sub-01_contrast-face_stat-variance_statmap.nii.gz", "maps of other"), ("sub-01_brain_mask.nii.gz", "mask"),
        ("sub-01_task-x_bold.nii.gz", "images that are no estimates"), ("R2.nii.gz", "GLMsingle's other maps"),
    ],
)  # fmt: skip
def test_maps_of_no_responses_that_are_named_are_refused(rng, tmp_path, name, what):
    save(tmp_path / name, volume(rng))
    message = f"{Path(name).name}: is no map of responses but belongs to {what}.*; give maps of betas or effects"
    with pytest.raises(InputError, match=message):
        find_betas([tmp_path / name])


def test_statistics_are_known_by_the_intent_in_their_headers(rng, tmp_path):
    for name in ("face", "house"):
        save(tmp_path / "sub-01" / f"{name}.nii", volume(rng))
    save(tmp_path / "sub-01" / "faces_against_houses.nii", volume(rng), intent=3)
    betas = find_betas([tmp_path / "sub-01"])
    assert betas.conditions == ("face", "house")
    assert lines(betas)[-1] == (
        "left out, maps of statistics, by the intent in their headers: faces_against_houses.nii"
    )


def test_a_folder_of_nothing_but_statistics_is_refused(rng, tmp_path):
    save(tmp_path / "sub-01" / "spmT_0001.nii", volume(rng))
    save(tmp_path / "sub-01" / "mask.nii", volume(rng))
    with pytest.raises(InputError, match=r"sub-01: holds no .* file of responses; expected .*left out: spmT_0001.nii"):
        find_betas([tmp_path / "sub-01"])


# ----------------------------------------------------------------------------------------------------------------- FSL

DESIGN_CON = """/ContrastName1\tface
/ContrastName2\thouse
/ContrastName3\tface > house
/NumWaves\t4
/NumContrasts\t3
/PPheights\t1 1 1
/RequiredEffect\t1 1 1

/Matrix
1.000000e+00 0.000000e+00 0.000000e+00 0.000000e+00
0.000000e+00 0.000000e+00 1.000000e+00 0.000000e+00
1.000000e+00 0.000000e+00 -1.000000e+00 0.000000e+00
"""


def write_feat(feat: Path, rng, design: str | None = DESIGN_CON) -> dict[str, np.ndarray]:
    """A first-level FEAT folder; returns its copes by name."""
    save(feat / "mask.nii.gz", np.ones(SHAPE))
    save(feat / "filtered_func_data.nii.gz", rng.standard_normal((*SHAPE, 6)))
    if design is not None:
        (feat / "design.con").write_text(design)
    copes = {}
    for number, name in enumerate(("face", "house", "difference"), start=1):
        copes[name] = save(feat / "stats" / f"cope{number}.nii.gz", volume(rng))[:, 0]
        for kind in ("varcope", "tstat", "zstat", "pe"):
            save(feat / "stats" / f"{kind}{number}.nii.gz", volume(rng))
    save(feat / "stats" / "sigmasquareds.nii.gz", volume(rng))
    save(feat / "stats" / "res4d.nii.gz", rng.standard_normal((*SHAPE, 6)))
    return copes


def test_feat_folders_are_runs(rng, tmp_path):
    runs = [write_feat(tmp_path / "sub-01" / f"run{r}.feat", rng) for r in (1, 2)]
    write_feat(tmp_path / "sub-02" / "run1.feat", rng)
    betas = find_betas([tmp_path / "sub-01", tmp_path / "sub-02"])
    assert betas.conditions == ("face", "house")
    assert [subject.runs for subject in betas.subjects] == [["run1", "run2"], ["run1"]]
    expected = np.stack([(runs[0][name] + runs[1][name]) / 2 for name in ("face", "house")], axis=1)
    np.testing.assert_allclose(betas.load(betas.subjects[0], EVERYWHERE), expected, atol=1e-6)
    text = str(betas)
    assert "read as folders of FSL (9 files)" in text
    assert "left out, contrasts of several regressors: face > house" in text
    assert "left out, FSL's variances, statistics and inputs: res4d.nii.gz, sigmasquareds.nii.gz, tstat1" in text
    direct = find_betas([tmp_path / "sub-01" / f"run{r}.feat" for r in (1, 2)])
    np.testing.assert_allclose(direct.load(direct.subjects[0], EVERYWHERE), expected, atol=1e-6)


def test_copes_of_a_second_level_are_named_by_their_lower_contrasts(rng, tmp_path):
    root = tmp_path / "sub-01" / "all.gfeat"
    truth = {}
    for number, name in enumerate(("face", "house"), start=1):
        truth[name] = save(root / f"cope{number}.feat" / "stats" / "cope1.nii.gz", volume(rng))[:, 0]
        save(root / f"cope{number}.feat" / "stats" / "varcope1.nii.gz", volume(rng))
        (root / f"cope{number}.feat" / "design.lev").write_text(name + "\n")
    betas = find_betas([tmp_path / "sub-01"])
    assert betas.conditions == ("face", "house")
    np.testing.assert_array_equal(betas.load(betas.subjects[0], EVERYWHERE)[:, 1], truth["house"])


def test_feat_without_its_design(rng, tmp_path):
    write_feat(tmp_path / "sub-01" / "run1.feat", rng, design=None)
    with pytest.raises(InputError, match=r"cope1.nii.gz: is a single volume, and its name says no condition"):
        find_betas([tmp_path / "sub-01"])
    rows = ["file\tcondition", "stats/cope1.nii.gz\tcat", "stats/cope2.nii.gz\tdog", "stats/cope3.nii.gz\tn/a"]
    (tmp_path / "names.tsv").write_text("\n".join(rows))
    assert find_betas([tmp_path / "sub-01"], tmp_path / "names.tsv").conditions == ("cat", "dog")
    (tmp_path / "sub-01" / "run1.feat" / "design.con").write_text(DESIGN_CON.replace("/ContrastName3", "/Other"))


# ------------------------------------------------------------------------------------------------------- nilearn, BIDS


@pytest.mark.slow
def test_what_nilearn_saves(rng, tmp_path):
    """The folder that the installed nilearn itself writes."""
    from nilearn.glm import save_glm_to_bids
    from nilearn.glm.first_level import FirstLevelModel

    events = pd.DataFrame({"onset": 14.0 * np.arange(4), "duration": 2.0, "trial_type": ["face", "house"] * 2})
    mask = nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE)
    effects = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for subject in ("sub-01", "sub-02"):
            bold = nib.Nifti1Image((100 + rng.standard_normal((*SHAPE, 60))).astype(np.float32), AFFINE)
            model = FirstLevelModel(t_r=1, mask_img=mask, minimize_memory=False).fit(bold, events=events)
            contrasts = {"face": "face", "house": "house", "faceMinusHouse": "face - house"}
            save_glm_to_bids(model, contrasts=contrasts, out_dir=tmp_path / "out", prefix=f"{subject}_task-objects")
            effects[subject] = [
                np.asarray(model.compute_contrast(name, output_type="effect_size").dataobj).reshape(-1)
                for name in ("face", "house")
            ]
    betas = find_betas([tmp_path / "out"])
    assert betas.conditions == ("face", "house")
    assert [subject.name for subject in betas.subjects] == ["sub-01", "sub-02"]
    for subject in betas.subjects:
        loaded = betas.load(subject, EVERYWHERE)
        np.testing.assert_allclose(loaded, np.stack(effects[subject.name], axis=1), rtol=1e-5)
    text = str(betas)
    assert "read as BIDS names (contrast-…, stat-effect)" in text
    assert "left out, contrasts of several regressors: faceminushouse" in text
    assert "left out, maps of other statistics than effects" in text


def test_trees_of_sessions_and_runs(rng, tmp_path):
    data = {}
    for sub in ("sub-01", "sub-02"):
        for ses, run in (("ses-1", "run-1"), ("ses-1", "run-2"), ("ses-2", "run-1")):
            for name in ("face", "house"):
                file = f"{sub}_{ses}_task-x_{run}_space-MNI152NLin2009cAsym_condition-{name}_stat-effect_statmap.nii.gz"
                data[sub, ses, run, name] = save(tmp_path / sub / ses / "func" / file, volume(rng))[:, 0]
                save(tmp_path / sub / ses / "func" / file.replace("stat-effect", "stat-t"), volume(rng))
    betas = find_betas([tmp_path])
    assert betas.conditions == ("face", "house")
    assert betas.subjects[1].runs == ["ses-1_run-1", "ses-1_run-2", "ses-2_run-1"]
    by_run = betas.load_runs(betas.subjects[1], EVERYWHERE)
    np.testing.assert_array_equal(by_run[:, 2, 1], data["sub-02", "ses-2", "run-1", "house"])
    other = tmp_path / "sub-01" / "ses-1" / "func" / "sub-01_ses-1_run-1_space-T1w_condition-face_stat-effect.nii.gz"
    save(other, volume(rng))
    with pytest.raises(
        InputError, match=r"holds maps in 2 spaces \(space-MNI152NLin2009cAsym, space-T1w\), expected one"
    ):
        find_betas([tmp_path])


# ----------------------------------------------------------------------------------------------------------- GLMsingle

ORDER = [3, 1, 2, 1, 3, 2, 2]  # from 1, as in MATLAB
NAMES = ["zebra", "ant", "cat"]


def write_glmsingle(folder: Path, rng, kind: str, order=ORDER) -> np.ndarray:
    folder.mkdir(parents=True)
    values = rng.standard_normal((*SHAPE, len(ORDER))).astype(np.float32)
    stem = folder / "TYPED_FITHRF_GLMDENOISE_RR"
    np.save(folder / "TYPEA_ONOFF.npy", {"onoffR2": rng.random(SHAPE)}, allow_pickle=True)
    if kind == "npy":
        np.save(stem.with_suffix(".npy"), {"betasmd": values, "R2": rng.random(SHAPE), "pcnum": 3}, allow_pickle=True)
        design = {"stimorder": [n - 1 for n in order], "numtrialrun": np.array([4, 3]), "params": {"wantlss": 0}}
        np.save(folder / "DESIGNINFO.npy", design, allow_pickle=True)
        return values
    if kind == "hdf5":
        with h5py.File(stem.with_suffix(".hdf5"), "w") as file:
            file["betasmd"], file["R2"] = values, rng.random(SHAPE)
    elif kind == "mat v5":
        savemat(stem.with_suffix(".mat"), {"modelmd": values, "R2": rng.random(SHAPE)})
    else:
        with h5py.File(stem.with_suffix(".mat"), "w", userblock_size=512) as file:
            file["modelmd"] = values.T  # MATLAB's first axis is the last one here
    savemat(folder / "DESIGNINFO.mat", {"stimorder": np.array(order)[None], "numtrialrun": np.array([[4, 3]])})
    return values


@pytest.mark.parametrize("kind", ["npy", "hdf5", "mat v5", "mat v7.3"])
def test_single_trials_of_glmsingle(rng, tmp_path, kind):
    values = [write_glmsingle(tmp_path / f"sub-0{s}", rng, kind) for s in (1, 2)]
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    betas = find_betas([tmp_path / "sub-01", tmp_path / "sub-02"], tmp_path / "names.txt")
    assert betas.conditions == tuple(NAMES)
    assert "read as GLMsingle (2 files)" in str(betas)
    assert "2 to 3 map(s) of each condition" in str(betas)
    for subject, own in zip(betas.subjects, values, strict=True):
        flat = own.reshape(60, -1)
        of = np.array(ORDER)
        expected = np.stack([flat[:, of == n].mean(axis=1) for n in (1, 2, 3)], axis=1)
        np.testing.assert_allclose(betas.load(subject, EVERYWHERE), expected, atol=1e-6)
        assert subject.runs == ["run-1", "run-2"]
        first = np.stack([flat[:, :4][:, of[:4] == n].mean(axis=1) for n in (1, 2, 3)], axis=1)
        np.testing.assert_allclose(betas.load_runs(subject, EVERYWHERE)[:, 0], first, atol=1e-6)
    assert find_betas([tmp_path / "sub-01"]).conditions == ("1", "2", "3")


def test_glmsingle_without_its_design_or_with_another(rng, tmp_path):
    write_glmsingle(tmp_path / "sub-01", rng, "npy")
    (tmp_path / "names.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"names.txt: names 2 conditions, but the design of .*TYPED.* has 3"):
        find_betas([tmp_path / "sub-01"], tmp_path / "names.txt")
    np.save(tmp_path / "sub-01" / "DESIGNINFO.npy", {"stimorder": [0, 1]}, allow_pickle=True)
    with pytest.raises(InputError, match=r"TYPED_.*npy: holds 7 trials, but the design beside it 2"):
        find_betas([tmp_path / "sub-01"])
    (tmp_path / "sub-01" / "DESIGNINFO.npy").unlink()
    with pytest.raises(InputError, match=r"sub-01: GLMsingle's betas are here without its design.* table of `cond"):
        find_betas([tmp_path / "sub-01"])
    (tmp_path / "trials.tsv").write_text("condition\trun\n" + "".join(f"{NAMES[n - 1]}\t1\n" for n in ORDER))
    assert find_betas([tmp_path / "sub-01"], tmp_path / "trials.tsv").conditions == ("cat", "zebra", "ant")


def test_roi_rdms_of_glmsingle_are_on_the_grid_of_the_mask(rng, tmp_path):
    for s in (1, 2):
        values = write_glmsingle(tmp_path / f"sub-0{s}", rng, "npy", order=[3, 1, 2, 1, 3, 4, 5])
    labels = np.zeros(SHAPE)
    labels[1:4, 1:4, 1:] = 1
    save(tmp_path / "atlas.nii.gz", labels)
    save(tmp_path / "mask.nii.gz", np.ones(SHAPE))
    (tmp_path / "labels.csv").write_text("id,roi\n1,V1\n")
    given = ["--betas", tmp_path / "sub-01", tmp_path / "sub-02", "--atlas", tmp_path / "atlas.nii.gz", "--labels",
             tmp_path / "labels.csv", "--out", tmp_path / "out", "-q"]  # fmt: skip
    with pytest.raises(InputError, match=r"TYPED_.*: does not say where its voxels lie; give their `mask`"):
        rois.main([*map(str, given)])
    rois.main([*map(str, given), "--mask", str(tmp_path / "mask.nii.gz")])
    of, flat = np.array([3, 1, 2, 1, 3, 4, 5]), values[labels > 0]
    patterns = np.stack([flat[:, of == n].mean(axis=1) for n in range(1, 6)])
    found = np.load(tmp_path / "out" / "roi_rdms" / "V1.npy")[1]
    np.testing.assert_allclose(found, squareform(pdist(patterns.astype(float), "correlation")), atol=1e-6)


def test_pickles_with_code_in_them_are_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (print, ("run",))

    np.save(tmp_path / "x.npy", {"betasmd": Harmful()}, allow_pickle=True)
    with pytest.raises(InputError, match=r"x.npy: refused, since it asks for 'builtins.print'"):
        read_pickled_array(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(InputError, match=r"x.npy: holds an array of float64, expected a dictionary"):
        read_pickled_array(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(pickle.dumps({}))
    with pytest.raises(InputError, match=r"x.npy: is not a readable numpy file"):
        read_pickled_array(tmp_path / "x.npy")


# ---------------------------------------------------------------------------------------------------------------- AFNI


def test_labels_of_afni(rng, tmp_path):
    labels = [
        "Full_Fstat",
        "face#0_Coef",
        "face#0_Tstat",
        "face#1_Coef",
        "face#1_Tstat",
        "house#0_Coef",
        "house#0_Tstat",
    ]
    data = rng.standard_normal((*SHAPE, len(labels)))
    image = nib.Nifti1Image(data.astype(np.float32), AFFINE)
    text = f'<?xml version="1.0"?>\n<AFNI_attributes>\n<AFNI_atr ni_type="String" ni_dimen="1" atr_name="BRICK_LABS" >\n "{"~".join(labels)}" </AFNI_atr>\n</AFNI_attributes>'  # noqa: E501
    image.header.extensions.append(nib.nifti1.Nifti1Extension(4, text.encode()))
    (tmp_path / "sub-01").mkdir()
    nib.save(image, tmp_path / "sub-01" / "stats.nii.gz")
    betas = find_betas([tmp_path / "sub-01"])
    assert betas.conditions == ("face", "house")
    flat = data.astype(np.float32).reshape(60, -1)
    expected = np.stack([(flat[:, 1] + flat[:, 3]) / 2, flat[:, 5]], axis=1)
    np.testing.assert_allclose(betas.load(betas.subjects[0], EVERYWHERE), expected, atol=1e-6)
    assert "read as labelled sub-bricks of AFNI" in str(betas)
    assert "left out, AFNI's statistics: face#0_Tstat, face#1_Tstat, Full_Fstat, house#0_Tstat" in str(betas)


def test_variables_of_matlab_files(tmp_path):
    savemat(tmp_path / "a.mat", {"x": np.arange(6.0).reshape(2, 3)})
    with h5py.File(tmp_path / "b.mat", "w", userblock_size=512) as file:
        file["x"] = np.arange(6.0).reshape(2, 3).T
    for name in ("a.mat", "b.mat"):
        np.testing.assert_array_equal(read_mat(tmp_path / name, ["y", "x"]), np.arange(6.0).reshape(2, 3))
        with pytest.raises(InputError, match=rf"{name}: holds x, expected a variable named 'y' or 'z'"):
            read_mat(tmp_path / name, ["y", "z"])
