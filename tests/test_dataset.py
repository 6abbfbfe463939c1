"""Both data layouts, and a clear message for everything that can be wrong with them."""

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import STUDY_CONDITIONS, write_study
from scipy.io import savemat

from models.tasks import Model
from utils import InputError
from utils.datasets.layout import locate, longest_names
from utils.datasets.models import ModelRdms, load_models
from utils.datasets.rois import PAPER_ROIS, load_atlas, load_rois
from utils.datasets.searchlights import load_searchlights, upper_triangles
from utils.io.pickled_arrays import read_noise_ceiling
from utils.io.readers import open_image, read_rdms
from utils.rdm import condense, expand, n_pairs_of
from utils.rdms.searchlights import Geometry
from utils.stats.noise_ceiling import noise_ceiling

N, N_PAIRS = STUDY_CONDITIONS, n_pairs_of(STUDY_CONDITIONS)


@pytest.fixture
def folder(tmp_path, rng):
    return write_study(tmp_path / "study", rng)


# ---------------------------------------------------------------------------------------------------------- reading


def test_generic_models(folder):
    models = load_models(locate("roi", folder))
    assert [model.key for model in models.models] == ["edges", "edges_fine", "net"]
    assert models.layers == ["early", "late"]
    assert models.rdms.shape == (3, 2, N_PAIRS)
    assert models.n_conditions == N
    fine = np.load(folder / "dnn_rdms" / "edges_fine_late.npy")
    assert np.array_equal(models.rdms[1, 1], condense(fine))
    assert len(models.table) == 3 and not any(model.color for model in models.models)


def test_layers_and_models_are_chosen_in_the_order_given(folder):
    models = load_models(locate("roi", folder), layers=["late"], keys=["net", "edges"])
    assert [model.key for model in models.models] == ["net", "edges"]
    assert [model.key for model in models.table] == [
        "edges",
        "edges_fine",
        "net",
    ]
    assert models.rdms.shape == (2, 1, N_PAIRS)
    assert np.array_equal(models.rdms[0, 0], condense(np.load(folder / "dnn_rdms" / "net_late.npy")))


def test_a_model_may_lack_a_layer_that_is_not_asked_for(folder):
    (folder / "dnn_rdms" / "net_late.npy").unlink()
    assert load_models(locate("roi", folder), layers=["early"]).rdms.shape == (3, 1, N_PAIRS)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ">f8", np.int32], ids=str)
def test_upper_triangles(rng, dtype):
    square = (100 * rng.random((3, 20, 7, 7))).astype(dtype)
    assert np.array_equal(upper_triangles(square[:, 2:19]), condense(square[:, 2:19]))


def test_groups_are_means_per_layer(folder):
    models = load_models(locate("roi", folder))
    groups = models.grouped()
    assert [group.key for group in groups.models] == ["2D", "semantic"]
    np.testing.assert_allclose(groups.rdms[0], models.rdms[:2].mean(axis=0))


def test_generic_rois(folder):
    rois = load_rois(locate("roi", folder), N)
    assert rois.names == ["EVC", "IT"]
    assert rois.ids == [3, 7]
    assert [rdms.shape for rdms in rois.subjects] == [(4, N_PAIRS)] * 2
    lower, upper = rois.ceilings()
    expected = noise_ceiling(rois.subjects[1][:, None])
    assert (lower[1], upper[1]) == (expected[0][0], expected[1][0])
    atlas = load_atlas(locate("roi", folder))
    assert set(np.unique(atlas.labels)) == {0, 3, 7}
    assert atlas.affine[0, 0] == 3
    assert atlas.names == {3: "EVC", 7: "IT"}


def test_rois_are_chosen_in_the_order_given(folder):
    assert load_rois(locate("roi", folder), N, ["IT"]).ids == [7]


def test_generic_searchlights_and_kept_ceilings(folder):
    brain = load_searchlights(locate("searchlight", folder), N)
    subjects = np.stack([np.load(folder / "searchlight_rdms" / f"sub-0{s}.npy") for s in range(1, 5)])
    np.testing.assert_allclose(brain.mean, subjects.mean(axis=0, dtype=float), atol=1e-12)
    assert np.array_equal(brain.ceiling_lower, noise_ceiling(subjects)[0])
    kept = folder / "searchlight_rdms" / "noise_ceiling.npz"
    with np.load(kept) as arrays:
        assert np.array_equal(arrays["lower"], brain.ceiling_lower)
    assert np.array_equal(load_searchlights(locate("searchlight", folder), N).ceiling_upper, brain.ceiling_upper)
    # New data: the kept ceilings no longer hold.
    np.save(folder / "searchlight_rdms" / "sub-01.npy", subjects[1])
    later = kept.stat().st_mtime + 10
    os.utime(folder / "searchlight_rdms" / "sub-01.npy", (later, later))
    assert not np.array_equal(load_searchlights(locate("searchlight", folder), N).ceiling_lower, brain.ceiling_lower)


def test_kept_ceilings_of_other_subjects_are_not_used(folder):
    load_searchlights(locate("searchlight", folder), N)
    (folder / "searchlight_rdms" / "sub-04.npy").unlink()
    subjects = np.stack([np.load(folder / "searchlight_rdms" / f"sub-0{s}.npy") for s in range(1, 4)])
    brain = load_searchlights(locate("searchlight", folder), N)
    assert np.array_equal(brain.ceiling_lower, noise_ceiling(subjects)[0])


def test_a_mask_that_is_asked_for_goes_before_a_stored_geometry(folder):
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4)), folder / "other.nii")
    with pytest.raises(InputError, match=r"other\.nii: describes 1 searchlights"):
        load_searchlights(locate("searchlight", folder, mask=folder / "other.nii"), N)


def test_slices_do_not_change_the_mean(folder, monkeypatch):
    whole = load_searchlights(locate("searchlight", folder), N)
    monkeypatch.setattr("utils.datasets.searchlights._SLICE_BYTES", 4 * N_PAIRS * 8 * 3)
    cut = load_searchlights(locate("searchlight", folder), N)
    assert np.array_equal(whole.mean, cut.mean)
    assert len(list(cut.blocks())) > 1


def test_searchlights_with_bad_values_are_left_out(folder):
    path = folder / "searchlight_rdms" / "sub-02.npy"
    rdms = np.load(path)
    rdms[1, 5] = np.nan
    rdms[2] = 0.5
    np.save(path, rdms)
    brain = load_searchlights(locate("searchlight", folder), N)
    assert np.flatnonzero(~brain.usable).tolist() == [1, 2]


@pytest.mark.parametrize("dtype", [np.float32, ">f8", np.int16], ids=str)
@pytest.mark.parametrize("published", [False, True], ids=["generic", "published"])
def test_searchlights_of_any_kind_of_number_and_order(folder, dtype, published):
    rdms = folder / "searchlight_rdms"
    paths = sorted(rdms.glob("*.npy"))
    subjects = np.round(100 * np.stack([np.load(path) for path in paths])).astype(dtype)
    for path, subject in zip(paths, subjects, strict=True):
        np.save(path, np.asfortranarray(subject))
    if published:
        np.save(rdms / "all_sub_slrdms.npy", np.asfortranarray(expand(subjects)))
    brain = load_searchlights(locate("searchlight", folder), N)
    np.testing.assert_allclose(brain.mean, subjects.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_array_equal([brain.ceiling_lower, brain.ceiling_upper], noise_ceiling(subjects))
    np.testing.assert_array_equal(np.concatenate([block for _, block in brain.blocks()], axis=1), subjects)


def test_searchlights_of_text(folder):
    path = folder / "searchlight_rdms" / "sub-02.npy"
    np.save(path, np.load(path).astype(str))
    with pytest.raises(InputError, match=r"sub-02.npy: holds values of type <U\d+, expected numbers"):
        load_searchlights(locate("searchlight", folder), N)
    np.save(path.with_name("all_sub_slrdms.npy"), np.full((2, len(np.load(path)), N, N), "0.1"))
    with pytest.raises(InputError, match=r"all_sub_slrdms.npy: holds values of type <U3, expected numbers"):
        load_searchlights(locate("searchlight", folder), N)


def test_searchlights_whose_mean_does_not_vary_are_left_out(folder):
    paths = sorted((folder / "searchlight_rdms").glob("*.npy"))
    for path, sign in zip(paths, [1, -1, 1, -1], strict=True):
        rdms = np.load(path)
        rdms[3] = 1 + sign * np.arange(N_PAIRS) / 64  # exact in float32
        np.save(path, rdms)
    brain = load_searchlights(locate("searchlight", folder), N)
    assert np.flatnonzero(~brain.usable).tolist() == [3]


def test_published_layout(published_sample, published_outputs):
    sources = locate("searchlight", published_sample)
    assert sources.published
    assert not sources.simulated
    models = load_models(sources)
    assert [model.key for model in models.models] == list(published_outputs["tasks"])
    assert models.layers == ["block4", "encoder_output"]
    brain = load_searchlights(sources, 50)
    assert brain.n_subjects == 3
    np.testing.assert_allclose(brain.ceiling_lower, published_outputs["noise_ceiling"][0], atol=1e-8)
    assert len(brain.geometry) == 48
    rois = load_rois(locate("roi", published_sample), 50)
    assert rois.names == list(PAPER_ROIS)
    assert rois.ids[rois.names.index("hV4")] == 7


def test_names_match_whole_tokens_and_file_names_without_blanks(published_sample, tmp_path):
    """A folder called after a task, and ROI files named without the blank of the table."""
    copy = tmp_path / "random" / "data"
    shutil.copytree(published_sample, copy)
    (copy / "kastner_ROIs_RDMs_pearson" / "hV4 .mat").rename(copy / "kastner_ROIs_RDMs_pearson" / "hV4.mat")
    ours = load_models(locate("roi", copy))
    assert np.array_equal(ours.rdms, load_models(locate("roi", published_sample)).rdms)
    assert "hV4" in load_rois(locate("roi", copy), 50).names


@pytest.mark.parametrize(
    "name",
    ["taskonomy_{}_{}", "{}_{}_rdm_of", "{}-encoder-{}", "RDM.{}.{}", "pearson {} {}", "{}_{}",
     "{}_feedforward_encoder_{}", "bonner50_{}_encoder_{}", "01_{}_{}"],
)  # fmt: skip
def test_the_release_under_other_names(published_sample, tmp_path, name):
    """The names of the released files are not known for certain: a key may stand anywhere, as whole words."""
    copy = tmp_path / "data"
    shutil.copytree(published_sample, copy, ignore=shutil.ignore_patterns("sl_rad*"))
    ours = load_models(locate("roi", published_sample))
    folder = copy / "RDM_taskonomy_bonner50"
    shutil.rmtree(folder)
    folder.mkdir()
    for model, rdms in zip(ours.models, ours.rdms, strict=True):
        for layer, rdm in zip(ours.layers, rdms, strict=True):
            savemat(folder / f"{name.format(model.key, layer)}.mat", {"rdm": expand(rdm)})
    if name.endswith("rdm_of"):  # the layer has to be at the end
        with pytest.raises(InputError, match=r"no RDM file for 38 of 38"):
            load_models(locate("roi", copy))
        return
    found = load_models(locate("roi", copy))
    np.testing.assert_array_equal(found.rdms, ours.rdms)
    for path in [*(copy / "kastner_ROIs_RDMs_pearson").iterdir()]:
        path.rename(path.with_name(f"{name.format('subject', path.stem.strip())}.mat"))
    expected = load_rois(locate("roi", published_sample), 50)
    for one, other in zip(load_rois(locate("roi", copy), 50).subjects, expected.subjects, strict=True):
        np.testing.assert_array_equal(one, other)


def test_names_of_two_models_or_rois_are_refused(folder):
    path = folder / "dnn_rdms" / "of_net_late.npy"
    shutil.copy(folder / "dnn_rdms" / "net_late.npy", path)
    with pytest.raises(InputError, match=r"net late: net_late.npy, of_net_late.npy"):
        load_models(locate("roi", folder))
    path.rename(path.with_name("of_edges_and_net_late.npy"))
    with pytest.raises(
        InputError, match=r"of_edges_and_net_late.npy: its name holds the keys of 2 models, edges and net"
    ):
        load_models(locate("roi", folder))
    (folder / "dnn_rdms" / "of_edges_and_net_late.npy").unlink()
    (folder / "roi_rdms" / "EVC.npy").rename(folder / "roi_rdms" / "mean of EVC.npy")
    assert load_rois(locate("roi", folder), N).names == ["EVC", "IT"]
    (folder / "roi_rdms" / "IT .mat").rename(folder / "roi_rdms" / "EVC_IT.mat")
    with pytest.raises(InputError, match=r"EVC_IT.mat: its name holds the names of 2 ROIs, EVC and IT"):
        load_rois(locate("roi", folder), N)


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        ("class_1000_feedforward_encoder", ["class", "class_1000", "class_places"], ["class_1000"]),
        ("x_class-places_y", ["class", "class_places"], ["class_places"]),
        ("subclass_places", ["class", "places"], ["places"]),
        ("edge2d", ["edge", "edge2"], []),
        ("class_class_places", ["class", "class_places"], ["class", "class_places"]),
        ("V1_lh", ["V1", "V1_lh", "V1 lh"], ["V1_lh", "V1 lh"]),
        ("Ärger_1", ["rger", "Ärger"], ["Ärger"]),
    ],
)
def test_whole_words_and_longest_names(text, names, found):
    assert sorted(longest_names(text, names)) == sorted(found)


@pytest.mark.slow
def test_ten_gigabyte_file_needs_little_memory(tmp_path, published_sample):
    """A sparse file of 10 GB in the published layout is averaged by a process of less than 1 GB."""
    import subprocess
    import sys

    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    folder = tmp_path / "sl_rad=1__max_blk_edge=2"
    folder.mkdir()
    header = np.lib.format.open_memmap(
        folder / "all_sub_slrdms.npy", mode="w+", dtype=np.float64, shape=(16, 31_250, 50, 50)
    )
    assert header.nbytes == 10**10
    del header
    n = 31_250
    np.savez(folder / "noise_ceiling.npz", lower=np.ones(n), upper=np.ones(n))
    Geometry((50, 50, 50), np.eye(4), np.arange(n + 1) * 4, np.arange(4 * n)).save(folder / "geometry.npz")
    code = (
        "import re, sys; from pathlib import Path; from utils import InputError; "
        "from utils.datasets.layout import locate; from utils.datasets.searchlights import load_searchlights\n"
        "sources = locate('searchlight', Path(sys.argv[1]), fmri_rdms=Path(sys.argv[2]))\n"
        "try: load_searchlights(sources, 50)\n"
        "except InputError as error: assert 'does not vary' in str(error)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    arguments = [sys.executable, "-c", code, str(published_sample), str(folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert int(done.stdout) * 1024 < 10**9


# ---------------------------------------------------------------------------------------------------------- pickles


def test_pickled_ceilings_of_every_protocol(tmp_path):
    pair = (np.arange(4.0), np.arange(4, dtype=np.float32))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / "noise_ceiling.pkl"
        path.write_bytes(pickle.dumps(pair, protocol=protocol))
        lower, upper = read_noise_ceiling(path)
        assert np.array_equal(lower, pair[0])
        assert upper.dtype == np.float64


class Evil:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


@pytest.mark.parametrize(
    "content", [Evil(), (Evil(), np.ones(3)), np.array([Evil()], dtype=object), (print, print)], ids=str
)
def test_pickle_with_anything_but_arrays_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "noise_ceiling.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=r"noise_ceiling.pkl: refused.*expected two numpy arrays"):
        read_noise_ceiling(tmp_path / "noise_ceiling.pkl")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "content", [{"lower": 1}, np.ones(3), (np.ones(3),), (np.array(["a"]), np.array(["b"]))], ids=str
)
def test_pickle_of_the_wrong_shape_is_refused(tmp_path, content):
    (tmp_path / "noise_ceiling.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match="expected two numpy arrays"):
        read_noise_ceiling(tmp_path / "noise_ceiling.pkl")


def test_damaged_pickle_is_refused(tmp_path):
    (tmp_path / "noise_ceiling.pkl").write_bytes(pickle.dumps((np.ones(3), np.ones(3)))[:-20])
    with pytest.raises(InputError, match=r"noise_ceiling.pkl"):
        read_noise_ceiling(tmp_path / "noise_ceiling.pkl")


# --------------------------------------------------------------------------------------------------------- bad input


def test_everything_that_is_missing_is_named_at_once(tmp_path):
    with pytest.raises(InputError, match=r"3 part\(s\).*dnn_rdms.*roi_rdms.*roi_labels\.csv.*data/README.md"):
        locate("roi", tmp_path)
    with pytest.raises(InputError, match=r"data folder .*nowhere does not exist"):
        locate("roi", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"there\.nii \(given as `mask`\)"):
        locate("searchlight", tmp_path, mask=tmp_path / "there.nii")


BAD_RDMS = {
    "not square": (lambda m: m[:, :-1], r"shape \(8, 7\), expected square"),
    "not symmetric": (lambda m: np.triu(m) + 0.5 * np.tril(m), "is not symmetric"),
    "another size": (lambda m: m[:-1, :-1], "found 7 conditions, expected 8"),
    "NaN": (
        lambda m: np.where(np.eye(8, k=2) + np.eye(8, k=-2) > 0, np.nan, m),
        "holds 12 entries that are NaN or inf",
    ),
    "inf": (lambda m: np.where(np.eye(8, k=7) > 0, np.inf, m), "holds 1 entries"),
    "constant": (lambda m: np.ones((8, 8)) - np.eye(8), r"1 constant RDM\(s\)"),
    "text": (lambda m: m.astype(str), "expected numbers"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_RDMS.values(), ids=BAD_RDMS)
def test_bad_model_rdm(folder, spoil, message):
    path = folder / "dnn_rdms" / "net_early.npy"
    np.save(path, spoil(np.load(path)))
    with pytest.raises(InputError, match=message) as error:
        load_models(locate("roi", folder))
    assert "net_early.npy" in str(error.value)


def test_messages_name_model_and_layer(folder):
    path = folder / "dnn_rdms" / "net_early.npy"
    np.save(path, np.full((N, N), np.nan))
    with pytest.raises(InputError, match="model net, layer early holds 56 entries"):
        load_models(locate("roi", folder))


def test_missing_layers_are_all_named(folder):
    (folder / "dnn_rdms" / "net_early.npy").unlink()
    (folder / "dnn_rdms" / "edges_late.npy").unlink()
    with pytest.raises(InputError, match=r"2 of 6 .*edges late, net early"):
        load_models(locate("roi", folder))


def test_doubled_layer(folder):
    savemat(folder / "dnn_rdms" / "net_early.mat", {"rdm": np.load(folder / "dnn_rdms" / "net_early.npy")})
    with pytest.raises(InputError, match=r"net early: net_early\.mat, net_early\.npy"):
        load_models(locate("roi", folder))


def test_no_model_files(folder):
    for path in (folder / "dnn_rdms").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="no RDM file of any model"):
        load_models(locate("roi", folder))


def test_unknown_names(folder):
    with pytest.raises(InputError, match=r"unknown model\(s\) vgg; there are edges, edges_fine, net"):
        load_models(locate("roi", folder), keys=["net", "vgg"])
    with pytest.raises(InputError, match=r"no RDM file for 3 of 3 .*edges fc7"):
        load_models(locate("roi", folder), layers=["fc7"])
    with pytest.raises(InputError, match=r"unknown ROI\(s\) V9; there are EVC, IT"):
        load_rois(locate("roi", folder), N, ["V9"])


BAD_TABLES = {
    "no column": ("key,label,group\na,b,c\n", r"no column key, label, group .*tab-separated"),
    "no group": ("key\tlabel\na\tb\n", "no column group"),
    "empty": ("key\tlabel\tgroup\n", "holds no rows"),
    "doubled": ("key\tlabel\tgroup\na\tb\tc\na\tb\tc\n", r"a occur\(s\) more than once; give every model one row"),
    "gap": ("key\tlabel\tgroup\na\t\tc\n", "line 2 has no label"),
    "color": ("key\tlabel\tgroup\tcolor\na\tb\tc\tred\n", "has color 'red'"),
}


@pytest.mark.parametrize(("text", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_model_table(folder, text, message):
    (folder / "models.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        load_models(locate("roi", folder))


BAD_LABELS = {
    "no columns": ("id,color\n1,red\n", r"roi_labels.csv: no column roi"),
    "id": ("id,roi\nx,EVC\n", "has id 'x'"),
    "doubled": ("id,roi\n1,EVC\n2,EVC\n", r"EVC occur\(s\)"),
    "no file": ("id,roi\n3,EVC\n4,V9\n", r"no RDM file for 1 ROI.*V9"),
}


@pytest.mark.parametrize(("text", "message"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_bad_roi_table(folder, text, message):
    (folder / "roi_labels.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        load_rois(locate("roi", folder), N)


def test_other_conditions_in_the_brain(folder, rng):
    np.save(folder / "roi_rdms" / "EVC.npy", expand(rng.random((4, 10))))
    with pytest.raises(InputError, match=r"EVC.npy: found 5 conditions where the model RDMs have 8"):
        load_rois(locate("roi", folder), N)
    with pytest.raises(InputError, match=r"sub-01.npy: found 8 conditions where the model RDMs have 9"):
        load_searchlights(locate("searchlight", folder), 9)


def test_searchlight_count_that_does_not_match_the_mask(published_sample, tmp_path):
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.uint8), np.eye(4)), tmp_path / "mask.nii")
    with pytest.raises(InputError, match=r"mask.nii: describes 64 searchlights, but .* holds 48"):
        load_searchlights(locate("searchlight", published_sample, mask=tmp_path / "mask.nii"), 50)


def test_mask_with_no_voxel(published_sample, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.uint8), np.eye(4)), tmp_path / "mask.nii")
    with pytest.raises(InputError, match="mask"):
        load_searchlights(locate("searchlight", published_sample, mask=tmp_path / "mask.nii"), 50)


def test_subjects_with_different_searchlights(folder):
    np.save(folder / "searchlight_rdms" / "sub-03.npy", np.ones((2, N_PAIRS), np.float32))
    with pytest.raises(InputError, match=r"sub-03.npy: found shape \(2, 28\)"):
        load_searchlights(locate("searchlight", folder), N)


def test_one_subject_has_no_ceiling(folder):
    for subject in (2, 3, 4):
        (folder / "searchlight_rdms" / f"sub-0{subject}.npy").unlink()
    brain = load_searchlights(locate("searchlight", folder), N)
    assert not brain.has_ceiling and np.isnan(brain.ceiling_lower).all() and np.isnan(brain.ceiling_upper).all()
    assert brain.usable.all()
    np.testing.assert_array_equal(brain.mean, np.load(folder / "searchlight_rdms" / "sub-01.npy"))
    assert not (folder / "searchlight_rdms" / "noise_ceiling.npz").exists()


def test_stored_ceilings_of_one_subject_are_used(folder):
    for subject in (2, 3, 4):
        (folder / "searchlight_rdms" / f"sub-0{subject}.npy").unlink()
    n = len(np.load(folder / "searchlight_rdms" / "sub-01.npy"))
    np.savez(folder / "searchlight_rdms" / "noise_ceiling.npz", lower=np.linspace(0, 1, n), upper=np.ones(n))
    brain = load_searchlights(locate("searchlight", folder), N)
    np.testing.assert_array_equal(brain.ceiling_lower, np.linspace(0, 1, n))
    assert brain.has_ceiling


def test_ceilings_of_other_searchlights(folder):
    np.savez(folder / "searchlight_rdms" / "noise_ceiling.npz", lower=np.ones(3), upper=np.ones(3))
    with pytest.raises(InputError, match=r"noise_ceiling.npz: found ceilings of shape \(3,\)"):
        load_searchlights(locate("searchlight", folder), N)


def test_no_searchlight_can_be_used(folder):
    for path in (folder / "searchlight_rdms").glob("sub-*.npy"):
        np.save(path, np.full_like(np.load(path), np.nan))
    with pytest.raises(InputError, match="nothing to test"):
        load_searchlights(locate("searchlight", folder), N)


@pytest.mark.parametrize("name", ["net_early.npy", "net_early.mat"])
def test_damaged_files(folder, name):
    (folder / "dnn_rdms" / "net_early.npy").unlink()
    (folder / "dnn_rdms" / name).write_bytes(b"not an array at all, but long enough to look at" * 10)
    with pytest.raises(InputError, match=r"net_early\.\w+: is not a readable"):
        load_models(locate("roi", folder))


def test_pickled_npy_is_refused(folder):
    np.save(folder / "dnn_rdms" / "net_early.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="is not a readable numpy file"):
        load_models(locate("roi", folder))


def test_mat_without_its_variable(tmp_path):
    savemat(tmp_path / "a.mat", {"RDM": np.eye(4)})
    with pytest.raises(InputError, match=r"holds RDM, expected a variable named 'rdm'"):
        read_rdms(tmp_path / "a.mat", "rdm", "model a")


def test_atlas_of_fractions_or_of_other_rois(folder):
    nib.save(nib.Nifti1Image(np.full((3, 3, 3), 0.5, np.float32), np.eye(4)), folder / "atlas.nii.gz")
    with pytest.raises(InputError, match=r"not labels \(whole numbers"):
        load_atlas(locate("roi", folder))
    nib.save(nib.Nifti1Image(np.full((3, 3, 3), 99, np.int16), np.eye(4)), folder / "atlas.nii.gz")
    with pytest.raises(InputError, match="holds none of the 2 ids of"):
        load_atlas(locate("roi", folder))


def test_one_group_cannot_be_partitioned(folder):
    models = load_models(locate("roi", folder), keys=["edges", "edges_fine"])
    with pytest.raises(InputError, match=r"1 group\(s\) besides the baseline"):
        models.grouped()


def test_ceilings_of_rdms_with_the_same_size_and_an_older_time_are_not_used(folder, rng):
    path = folder / "searchlight_rdms" / "sub-02.npy"
    load_searchlights(locate("searchlight", folder), N)
    other = rng.random(np.load(path).shape).astype(np.float32)
    np.save(path, other)
    os.utime(path, (1, 1))  # as copies keep it
    found = load_searchlights(locate("searchlight", folder), N)
    rdms = np.stack([np.load(file) for file in sorted(path.parent.glob("*.npy"))])
    np.testing.assert_array_equal(rdms[1], other)
    np.testing.assert_array_equal(found.ceiling_lower, noise_ceiling(rdms)[0])
    kept = path.parent / "noise_ceiling.npz"
    before = kept.read_bytes()
    load_searchlights(locate("searchlight", folder), N)
    assert kept.read_bytes() == before


@pytest.mark.parametrize("kind", ["model", "one subject of an ROI", "release"])
def test_similarities_are_refused(folder, published_sample, tmp_path, kind):
    def refused(path, name, load):
        message = rf"{path.name}: {name}.* holds? similarities, as the diagonal is larger than all that is beside it"
        with pytest.raises(InputError, match=message):
            load()

    if kind == "model":
        path = folder / "dnn_rdms" / "net_late.npy"
        np.save(path, 1 - np.load(path))
        refused(path, "model net, layer late", lambda: load_models(locate("roi", folder)))
    elif kind == "one subject of an ROI":
        path = folder / "roi_rdms" / "EVC.npy"
        rdms = np.load(path)
        rdms[2] = 9 - rdms[2]
        np.save(path, rdms)
        refused(path, "ROI EVC", lambda: load_rois(locate("roi", folder), N))
    else:
        shutil.copytree(published_sample, tmp_path / "release")
        path = tmp_path / "release" / "sl_rad=1__max_blk_edge=2" / "all_sub_slrdms.npy"
        rdms = np.load(path)
        rdms[1] = 2 - rdms[1]
        np.save(path, rdms)
        refused(path, "RDMs of subject 2", lambda: load_searchlights(locate("searchlight", tmp_path / "release"), 50))


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_searchlights_that_vary_by_rounding_only_are_left_out(folder, rng, value):
    path = folder / "searchlight_rdms" / "sub-03.npy"
    rdms = np.load(path).astype(np.float64)
    rdms[4] = value * (1 + 1e-16 * rng.integers(-4, 4, rdms.shape[1]))
    np.save(path, rdms)
    assert not load_searchlights(locate("searchlight", folder), N).usable[4]


@pytest.mark.parametrize(("encoding", "good"), [("utf-8-sig", True), ("latin-1", False), ("utf-16", False)])
def test_names_of_conditions_in_other_encodings(folder, encoding, good):
    (folder / "conditions.txt").write_bytes("\r\n".join(f"café {i}" for i in range(N)).encode(encoding))
    if good:
        assert load_models(locate("roi", folder)).n_conditions == N
    else:
        with pytest.raises(InputError, match=r"conditions.txt: is not a readable text file"):
            load_models(locate("roi", folder))


def spoil(path, start=60, stop=8, step=5):
    """Change bytes inside of a file."""
    content = bytearray(path.read_bytes())
    for k in range(start, len(content) - stop, step):
        content[k] ^= 0x5A
    path.write_bytes(bytes(content))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_unknown_type(path):
    content = bytearray(path.read_bytes())
    content[70:72] = b"\0\0"
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [spoil, cut, of_unknown_type])
@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii"])
def test_damaged_volumes(folder, damage, name):
    (folder / "searchlight_rdms" / "geometry.npz").unlink()
    image = nib.load(folder / "mask.nii.gz")
    path = folder / name
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), path)
    damage(path)
    if name == "mask.nii" and damage is spoil:
        return  # uncompressed values carry no checksum
    with pytest.raises(InputError, match=rf"{name}: (is not a readable|holds|describes|not a single)") as caught:
        load_searchlights(locate("searchlight", folder, mask=path), N)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [spoil, cut])
def test_damaged_archives_and_matlab_files(folder, damage):
    geometry = folder / "searchlight_rdms" / "geometry.npz"
    whole = geometry.read_bytes()
    damage(geometry)
    with pytest.raises(InputError, match=r"geometry.npz: "):
        load_searchlights(locate("searchlight", folder), N)
    geometry.write_bytes(whole)
    ceilings = folder / "searchlight_rdms" / "noise_ceiling.npz"
    np.savez_compressed(ceilings, lower=np.random.default_rng(1).random(12), upper=np.ones(12))
    damage(ceilings)
    with pytest.raises(InputError, match=r"noise_ceiling.npz: "):
        load_searchlights(locate("searchlight", folder), N)
    path = folder / "roi_rdms" / "IT .mat"
    savemat(path, {"subject_rdm": np.random.default_rng(1).random((4, N, N))}, do_compression=True)
    damage(path)
    with pytest.raises(InputError, match=r"IT .mat: is not a readable MATLAB file"):
        load_rois(locate("roi", folder), N)


def test_archives_in_place_of_arrays_and_the_reverse(folder, tmp_path):
    path = folder / "dnn_rdms" / "net_late.npy"
    np.savez(tmp_path / "one.npz", rdm=np.load(path))
    shutil.copy(tmp_path / "one.npz", path)
    with pytest.raises(InputError, match=r"net_late.npy: is an archive of arrays, expected a single array"):
        load_models(locate("roi", folder))
    ceilings = folder / "searchlight_rdms" / "noise_ceiling.npz"
    np.save(tmp_path / "one.npy", np.ones(12))
    shutil.copy(tmp_path / "one.npy", ceilings)
    with pytest.raises(InputError, match=r"noise_ceiling.npz: is a single array, expected an archive"):
        load_searchlights(locate("searchlight", folder), N)
    np.savez(ceilings, lower=np.full(12, "high"), upper=np.full(12, "high"))
    with pytest.raises(InputError, match=r"noise_ceiling.npz: holds values of type <U4, expected numbers"):
        load_searchlights(locate("searchlight", folder), N)


def in_two_folders(root, rng, names, order):
    """A study, and another folder with its fMRI RDMs, whose conditions are put into another order."""
    study = write_study(root / "study", rng)
    (study / "conditions.txt").write_text("\n".join(names))
    brain = root / "brain"
    for part in ("roi_rdms", "searchlight_rdms"):
        shutil.copytree(study / part, brain / part)
        for path in (brain / part).glob("[Es]*.npy"):
            rdms = np.load(path)
            square = expand(rdms) if part == "searchlight_rdms" else rdms
            moved = square[..., order, :][..., order]
            np.save(path, condense(moved) if part == "searchlight_rdms" else moved)
    (brain / "conditions.txt").write_text("\n".join(np.array(names)[order]))
    return study, brain


def test_conditions_of_two_folders_are_matched_by_name(tmp_path, rng):
    names, order = [f"image {i}" for i in range(8)], rng.permutation(8)
    study, brain = in_two_folders(tmp_path, rng, names, order)
    whole, apart = (locate("roi", study, fmri_rdms=path) for path in (None, brain / "roi_rdms"))
    with pytest.warns(UserWarning, match=r"brain/conditions.txt: conditions are in another order than in .*study"):
        moved = load_rois(apart, 8, ["EVC"]).subjects[0]
    np.testing.assert_array_equal(moved, load_rois(whole, 8, ["EVC"]).subjects[0])
    whole, apart = (locate("searchlight", study, fmri_rdms=path) for path in (None, brain / "searchlight_rdms"))
    with pytest.warns(UserWarning, match="fMRI RDMs are put into that order, by their names"):
        moved = load_searchlights(apart, 8)
    expected = load_searchlights(whole, 8)
    np.testing.assert_array_equal(moved.mean, expected.mean)
    np.testing.assert_array_equal(next(moved.blocks())[1], next(expected.blocks())[1])


def test_two_folders_of_other_conditions_are_refused(tmp_path, rng):
    study, brain = in_two_folders(tmp_path, rng, [f"image {i}" for i in range(8)], np.arange(8))
    (brain / "conditions.txt").write_text("\n".join([*(f"image {i}" for i in range(7)), "face"]))
    message = (
        r"brain/conditions.txt: names face, expected the conditions of .*study/conditions.txt, which names image 7;"
    )
    with pytest.raises(InputError, match=message):
        load_rois(locate("roi", study, fmri_rdms=brain / "roi_rdms"), 8)


def test_more_groups_than_can_be_partitioned_are_refused(rng):
    models = [Model(f"net{i}", f"Net {i}", f"group {i}") for i in range(12)]
    too_many = ModelRdms(models, ["late"], rng.random((12, 1, 28)))
    with pytest.raises(InputError, match=r"12 groups \(4,095 parts .* at most 10 groups \(1,023 parts"):
        too_many.grouped()
    assert len(replace(too_many, models=models[:10], rdms=too_many.rdms[:10]).grouped().models) == 10


@pytest.mark.parametrize("affine", [np.diag([3.0, 3, 0, 1]), np.diag([3.0, np.nan, 3, 1])], ids=["singular", "nan"])
def test_images_without_a_place_are_refused(tmp_path, affine):
    image = nib.Nifti1Image(np.ones((3, 3, 3), np.int16), np.eye(4))
    image.header.set_sform(affine, code=1)
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = affine[:3]
    nib.save(nib.Nifti1Image(image.dataobj, None, image.header), tmp_path / "mask.nii")
    with pytest.raises(InputError, match=r"mask.nii: the affine .* expected one that can be inverted"):
        open_image(tmp_path / "mask.nii")
