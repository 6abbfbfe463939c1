"""The simulated example: layout, truth, what it lets an analysis find, and how it gets onto the disk."""

import csv
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist

from models.tasks import BASELINE, TASK_LAYERS, TASKS
from utils import InputError, example
from utils.datasets import simulated
from utils.datasets.simulated import ensure_example, read_truth
from utils.datasets.simulated_worlds import HARD, Latents
from utils.io import data_folder
from utils.io.output import Outputs
from utils.rdm import condense, correlation_rdm, pair_permutation
from utils.rdms.searchlights import Geometry, block_geometry, release_blocks
from utils.stats.comparison import compared
from utils.stats.inference import above_chance, energy_of
from utils.stats.noise_ceiling import noise_ceiling
from utils.stats.regression import orthonormal_basis, standardise, unique_adjusted_r2

GROUPS = ("2D", "3D", "semantic")
CEILING = 0.033


@pytest.fixture(scope="module")
def folder(example) -> Path:
    return example


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Two subjects of it."""
    made = tmp_path_factory.mktemp("small")
    simulated._write(Outputs(made, made), n_subjects=2)
    return made


@pytest.fixture(scope="module")
def truth(folder) -> pd.DataFrame:
    return read_truth(folder)


@pytest.fixture(scope="module")
def searchlight_truth(truth) -> pd.DataFrame:
    return truth[truth.kind == "searchlight"].reset_index(drop=True)


@pytest.fixture(scope="module")
def lower_ceiling(folder) -> np.ndarray:
    return np.load(folder / "searchlight_rdms" / "noise_ceiling.npz")["lower"]


@pytest.fixture(scope="module")
def network_rdms(folder) -> dict[str, np.ndarray]:
    """Condensed, (layers, n_pairs) by network."""
    return {
        task.key: np.stack(
            [condense(np.load(folder / "dnn_rdms" / f"{task.key}_{layer}.npy")) for layer in TASK_LAYERS]
        )
        for task in TASKS
    }


@pytest.fixture(scope="module")
def mean_rdms(folder) -> np.ndarray:
    """Mean over subjects of the searchlight RDMs, (n_searchlights, n_pairs)."""
    total = 0.0
    for path in sorted((folder / "searchlight_rdms").glob("sub-*.npy")):
        total = total + np.load(path).astype(np.float64)
    return total / simulated.N_SUBJECTS


def files_of(folder: Path) -> dict[str, bytes]:
    """Digest of every file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).digest() for path in paths}


def without_marker(folder: Path) -> dict[str, bytes]:
    """As `files_of`, without the file that says that all others are there."""
    return {name: digest for name, digest in files_of(folder).items() if name != "example.json"}


# --- what is in it ---------------------------------------------------------------------------------------------------


def test_layout(folder):
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    rois = [row["roi"] for row in csv.DictReader((folder / "roi_labels.csv").open())]
    subjects = [f"searchlight_rdms/sub-{number:02d}.npy" for number in range(1, 17)]
    assert names == {
        *(f"dnn_rdms/{task.key}_{layer}.npy" for task in TASKS for layer in TASK_LAYERS),
        *(f"roi_rdms/{roi}.npy" for roi in rois),
        *subjects,
        "searchlight_rdms/geometry.npz",
        "searchlight_rdms/noise_ceiling.npz",
        *("models.tsv", "roi_labels.csv", "mask.nii.gz", "atlas.nii.gz", "conditions.txt", "truth.tsv"),
        *("README.txt", "example.json"),
    }
    assert sum((folder / name).stat().st_size for name in names) < 300e6
    n_searchlights = len(Geometry.load(folder / "searchlight_rdms" / "geometry.npz"))
    assert 2500 <= n_searchlights <= 3300
    for name in subjects:
        rdms = np.load(folder / name, mmap_mode="r")
        assert rdms.shape == (n_searchlights, 1225)
        assert rdms.dtype == np.float32
        assert rdms.flags.c_contiguous
        assert np.isfinite(rdms).all()
    for roi in rois:
        rdms = np.load(folder / "roi_rdms" / f"{roi}.npy")
        assert rdms.shape == (16, 50, 50)
        assert rdms.dtype == np.float32
        assert np.isfinite(rdms).all()
        np.testing.assert_array_equal(rdms, rdms.swapaxes(1, 2))
    for task in TASKS:
        rdm = np.load(folder / "dnn_rdms" / f"{task.key}_block4.npy")
        assert rdm.shape == (50, 50)
        assert rdm.dtype == np.float64
    assert len((folder / "conditions.txt").read_text().splitlines()) == 50
    assert (folder / "README.txt").read_text().startswith("SIMULATED DATA")
    assert "APPROXIMATE" in (folder / "README.txt").read_text()


def test_tables_name_the_networks_and_the_atlas(folder):
    models = list(csv.DictReader((folder / "models.tsv").open(), delimiter="\t"))
    assert [tuple(row.values()) for row in models] == [(task.key, task.label, task.group, task.color) for task in TASKS]
    rois = list(csv.DictReader((folder / "roi_labels.csv").open()))
    assert [int(row["id"]) for row in rois] == list(range(1, 26))
    names = [row["roi"] for row in rois]
    assert names[:7] == ["V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"]
    assert names[7:17] == ["VO1", "VO2", "PHC1", "PHC2", "MST", "hMT", "LO2", "LO1", "V3b", "V3a"]
    assert names[17:] == ["IPS0", "IPS1", "IPS2", "IPS3", "IPS4", "IPS5", "SPL1", "FEF"]


def test_mask_and_atlas(folder):
    mask, atlas = nibabel.load(folder / "mask.nii.gz"), nibabel.load(folder / "atlas.nii.gz")
    assert mask.get_data_dtype() == np.uint8
    assert atlas.get_data_dtype() == np.int16
    assert mask.shape == atlas.shape
    np.testing.assert_array_equal(mask.affine, atlas.affine)
    inside = np.asarray(mask.dataobj) > 0
    behind = nibabel.affines.apply_affine(mask.affine, np.argwhere(inside))[:, 1]
    assert behind.max() < -40
    labels = np.asarray(atlas.dataobj)
    counts = np.bincount(labels.ravel(), minlength=26)
    assert len(counts) == 26
    assert counts[1:].min() >= 20
    x = nibabel.affines.apply_affine(atlas.affine, np.argwhere(labels > 0))[:, 0]
    sides = np.bincount(labels[labels > 0], weights=x < 0, minlength=26)[1:] / counts[1:]
    assert ((sides > 0.25) & (sides < 0.75)).all()  # every area on both sides
    geometry = Geometry.load(folder / "searchlight_rdms" / "geometry.npz")
    expected = block_geometry(inside, mask.affine)
    np.testing.assert_array_equal(geometry.voxels, expected.voxels)
    np.testing.assert_array_equal(geometry.affine, mask.affine)


def test_nearly_all_of_posterior_cortex_is_covered(folder):
    from nilearn.datasets import fetch_surf_fsaverage
    from nilearn.surface import load_surf_mesh, vol_to_surf

    geometry = Geometry.load(folder / "searchlight_rdms" / "geometry.npz")
    labels = nibabel.Nifti1Image(geometry.to_volume(np.ones(len(geometry), dtype=np.int16)), geometry.affine)
    meshes = fetch_surf_fsaverage("fsaverage5")
    for side in ("left", "right"):
        pial, white = meshes[f"pial_{side}"], meshes[f"white_{side}"]
        found = vol_to_surf(labels, pial, inner_mesh=white, interpolation="nearest_most_frequent")
        posterior = load_surf_mesh(pial).coordinates[:, 1] < -42
        assert (found[posterior] == 1).mean() > 0.98
        assert not found[load_surf_mesh(pial).coordinates[:, 1] > -25].any()


def test_rdms_come_from_beta_maps_by_way_of_scipy(folder):
    brain = simulated._simulated_brain()
    betas = simulated._beta_maps(brain, brain.simulated_voxels(), subject=3)
    stored = np.load(folder / "searchlight_rdms" / "sub-03.npy", mmap_mode="r")
    for number in range(0, len(stored), 331):
        i, j, k, di, dj, dk = release_blocks(brain.mask)[number]
        patterns = betas[:, i : i + di, j : j + dj, k : k + dk].reshape(50, -1)
        assert (np.ptp(patterns, axis=0) > 0).all()  # voxels outside the mask hold noise, not zeros
        np.testing.assert_allclose(stored[number], pdist(patterns.astype(float), "correlation"), atol=2e-7)
    for number, roi in ((1, "V1v"), (25, "FEF")):
        expected = pdist(betas[:, brain.atlas == number].astype(float), "correlation")
        np.testing.assert_allclose(condense(np.load(folder / "roi_rdms" / f"{roi}.npy")[2]), expected, atol=2e-7)


def test_noise_ceiling_is_that_of_the_rdms(folder):
    places = [0, 700, 2000]
    rdms = np.stack([np.load(path)[places] for path in sorted((folder / "searchlight_rdms").glob("sub-*.npy"))])
    lower, upper = noise_ceiling(rdms)
    with np.load(folder / "searchlight_rdms" / "noise_ceiling.npz") as stored:
        assert stored["lower"].dtype == np.float64
        np.testing.assert_allclose(stored["lower"][places], lower, atol=1e-12)
        np.testing.assert_allclose(stored["upper"][places], upper, atol=1e-12)


# --- truth -----------------------------------------------------------------------------------------------------------


def test_truth_is_consistent(truth, searchlight_truth, lower_ceiling):
    group_of = {task.key: task.group for task in TASKS}
    assert searchlight_truth.place.tolist() == [str(number) for number in range(len(lower_ceiling))]
    assert len(truth) == len(lower_ceiling) + 25
    assert set(truth.status) == {"planted", "mixed", "none"}
    none = truth.status == "none"
    assert ((truth.share == 0) == none).all()
    assert ((truth.model == "") == none).all()
    assert (truth.group == truth.model.map(group_of).fillna("")).all()
    assert (truth.share[truth.status == "planted"] > 0.5).all()
    assert ((truth.model_share <= truth.share) & (truth.share <= 1)).all()
    assert (truth.signal[~none] == "reliable").all()
    assert set(truth.signal[none]) == {"reliable", "noise"}
    counts = searchlight_truth[searchlight_truth.status == "planted"].group.value_counts()
    assert counts[list(GROUPS)].min() >= 80


def test_truth_of_searchlights_counts_their_voxels(searchlight_truth):
    brain = simulated._simulated_brain()
    for number in range(0, len(blocks := release_blocks(brain.mask)), 97):
        i, j, k, di, dj, dk = blocks[number]
        numbers = brain.area_of[i : i + di, j : j + dj, k : k + dk].ravel()
        areas = [brain.areas[area] if area >= 0 else None for area in numbers]
        row = searchlight_truth.loc[number]
        followed = [area.group for area in areas if area and area.group]
        assert row.share == pytest.approx(followed.count(row.group) / len(areas) if row.group else 0, abs=1e-4)
        models = [area.network for area in areas if area and area.network]
        assert row.model_share == pytest.approx(models.count(row.model) / len(areas) if row.model else 0, abs=1e-4)
        if row.status == "planted":
            assert set(followed) == {row.group}
        assert (row.signal == "reliable") == any(area and area.reliable for area in areas)


def test_truth_of_rois(truth):
    rois = truth[truth.kind == "roi"].set_index("place")
    assert (rois[rois.status == "planted"].share == 1).all()
    assert not (rois.status == "mixed").any()
    assert (rois.loc[["V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"], "group"] == "2D").all()
    assert (rois.loc[["V3a", "V3b", "LO1", "LO2", "hMT", "MST", "IPS0"], "group"] == "3D").all()
    assert (rois.loc[["VO1", "VO2", "PHC1", "PHC2"], "group"] == "semantic").all()
    assert (rois.loc[["IPS1", "IPS2", "IPS3", "IPS4", "IPS5", "SPL1", "FEF"], "status"] == "none").all()


def test_missing_truth_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"truth.tsv: no such file; only the simulated example has one"):
        read_truth(tmp_path)


# --- what it lets an analysis find -----------------------------------------------------------------------------------


def test_networks_of_a_group_are_alike_but_not_the_same(network_rdms):
    correlation = np.corrcoef([network_rdms[task.key].ravel() for task in TASKS])
    groups = np.array([task.group for task in TASKS])
    pairs = np.triu(np.ones((len(TASKS), len(TASKS)), dtype=bool), k=1)
    within = correlation[pairs & (groups[:, None] == groups)]
    across = correlation[pairs & (groups[:, None] != groups)]
    assert within.mean() > across.mean() + 0.15
    assert within.max() < 0.9
    random = correlation[groups == BASELINE][0, groups != BASELINE]
    assert 0 < random.mean() < within.mean() - 0.15
    for rdms in network_rdms.values():  # two layers of a network: more alike than two networks, not collinear
        assert 0.8 < np.corrcoef(rdms)[0, 1] < 0.99


def test_searchlights_above_the_noise_ceiling(searchlight_truth, lower_ceiling):
    tested = lower_ceiling >= CEILING
    assert 1400 <= tested.sum() <= 1900
    assert tested[searchlight_truth.status == "planted"].mean() > 0.95
    assert tested[searchlight_truth.signal == "noise"].mean() < 0.02
    assert (tested & (searchlight_truth.status == "none")).sum() > 300


def adjusted_r2(predictors: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """By least squares; predictors (k, n_pairs), responses (n, n_pairs)."""
    design = np.column_stack([np.ones(predictors.shape[1]), predictors.T])
    residual = responses.T - design @ np.linalg.lstsq(design, responses.T, rcond=None)[0]
    n, k = design.shape[0], len(predictors)
    r2 = 1 - (residual**2).sum(axis=0) / ((responses.T - responses.mean(axis=1)) ** 2).sum(axis=0)
    return 1 - (1 - r2) * (n - 1) / (n - k - 1)


def unique_variance(group_rdms: list[np.ndarray], responses: np.ndarray) -> np.ndarray:
    """Adjusted R2 of all groups, less that without each: (groups, n)."""
    everything = adjusted_r2(np.concatenate(group_rdms), responses)
    without = [np.concatenate([rdms for j, rdms in enumerate(group_rdms) if j != i]) for i in range(len(group_rdms))]
    return np.stack([everything - adjusted_r2(rest, responses) for rest in without])


@pytest.fixture(scope="module")
def group_rdms(network_rdms) -> list[np.ndarray]:
    return [np.mean([network_rdms[task.key] for task in TASKS if task.group == group], axis=0) for group in GROUPS]


def test_planted_searchlights_show_their_group_and_network(
    mean_rdms, group_rdms, network_rdms, searchlight_truth, lower_ceiling
):
    planted = ((searchlight_truth.status == "planted") & (lower_ceiling >= CEILING)).to_numpy()
    rows = searchlight_truth[planted]
    unique = unique_variance(group_rdms, mean_rdms[planted])
    right = np.array(GROUPS)[unique.argmax(axis=0)] == rows.group
    assert right.mean() >= 0.97
    assert 0.03 < np.median(unique.max(axis=0)) < 0.3
    alone = np.stack([adjusted_r2(network_rdms[task.key], mean_rdms[planted]) for task in TASKS])
    best = [TASKS[i] for i in alone.argmax(axis=0)]
    assert np.mean([task.group for task in best] == rows.group) >= 0.97
    assert np.mean([task.key for task in best] == rows.model) >= 0.75
    assert 0.1 < np.median(alone.max(axis=0)) < 0.5


def test_planted_rois_show_their_group_and_network(folder, truth, group_rdms, network_rdms):
    rois = truth[(truth.kind == "roi") & (truth.status == "planted")]
    rdms = np.stack([condense(np.load(folder / "roi_rdms" / f"{roi}.npy")) for roi in rois.place]).astype(float)
    responses = rdms.mean(axis=1)
    assert [GROUPS[i] for i in unique_variance(group_rdms, responses).argmax(axis=0)] == rois.group.tolist()
    alone = np.stack([adjusted_r2(network_rdms[task.key], responses) for task in TASKS])
    assert [TASKS[i].key for i in alone.argmax(axis=0)] == rois.model.tolist()
    early = rois.group.to_numpy() == "2D"
    total = adjusted_r2(np.concatenate(group_rdms), responses)
    assert ((total[early] > 0.2) & (total[early] < 0.6)).all()
    lower, _ = noise_ceiling(rdms.swapaxes(0, 1))
    assert ((lower > 0.2) & (lower < 0.75)).all()


def test_conditions_must_be_permuted_not_entries(mean_rdms, group_rdms, searchlight_truth, lower_ceiling):
    """Where nothing is planted, permuted conditions give the nominal error rate, permuted entries many times that."""
    null = ((searchlight_truth.status == "none") & (lower_ceiling >= CEILING)).to_numpy()
    centred = mean_rdms[null] - mean_rdms[null].mean(axis=1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    everything, *without = (
        np.linalg.qr((rdms - rdms.mean(axis=1, keepdims=True)).T)[0]
        for rdms in (
            np.concatenate(group_rdms),
            *(np.concatenate(group_rdms[:i] + group_rdms[i + 1 :]) for i in range(3)),
        )
    )

    def unique(index: np.ndarray) -> np.ndarray:
        """As `unique_variance`, by projection (thousands of least-squares fits take a minute)."""
        total = 1 - (1 - ((unit @ everything[index]) ** 2).sum(axis=1)) * 1224 / 1218
        return np.stack([total - 1 + (1 - ((unit @ basis[index]) ** 2).sum(axis=1)) * 1224 / 1220 for basis in without])

    observed = unique(np.arange(1225))
    np.testing.assert_allclose(observed[:, :20], unique_variance(group_rdms, mean_rdms[null][:20]), atol=1e-10)
    random = np.random.default_rng(0)
    false_positives = {}
    for kind in ("conditions", "entries"):
        above = np.ones_like(observed)
        for _ in range(400):
            above += (
                unique(pair_permutation(random.permutation(50)) if kind == "conditions" else random.permutation(1225))
                >= observed
            )
        false_positives[kind] = np.mean(above / 401 <= 0.05)
    assert false_positives["conditions"] < 0.10  # places of one parcel share their chance likeness to a network
    assert false_positives["entries"] > 0.20


# --- how it gets onto the disk ---------------------------------------------------------------------------------------


def test_same_bytes_every_time(folder, small, tmp_path):
    simulated._write(Outputs(tmp_path, tmp_path), n_subjects=2)
    assert files_of(tmp_path) == files_of(small)
    one, whole = files_of(small), files_of(folder)
    for name in ("searchlight_rdms/sub-02.npy", "searchlight_rdms/geometry.npz", "truth.tsv", "atlas.nii.gz"):
        assert one[name] == whole[name]


@pytest.fixture
def quick(small, monkeypatch) -> list[Path]:
    """Has the example copied from the small one instead of simulated; lists the folders it was written to."""
    written = []

    def copy(outputs: Outputs, **_: object) -> None:
        written.append(outputs.folder)
        shutil.copytree(small, outputs.staging, dirs_exist_ok=True)

    monkeypatch.setattr(simulated, "_write", copy)
    return written


def test_complete_example_is_left_alone(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert ensure_example(folder) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing file", "short file", "other version", "damaged marker", "no marker"])
def test_half_written_or_outdated_example_is_made_again(quick, small, tmp_path, damage):
    folder = ensure_example(tmp_path / "data" / "example")
    assert len(quick) == 1
    marker = folder / "example.json"
    if damage == "missing file":
        (folder / "searchlight_rdms" / "sub-02.npy").unlink()
    elif damage == "short file":
        (folder / "roi_rdms" / "V1v.npy").write_bytes(b"\x93NUMPY")
    elif damage == "other version":
        marker.write_text(json.dumps({**json.loads(marker.read_text()), "version": "0"}))
    elif damage == "damaged marker":
        marker.write_text('{"version": ')
    else:
        marker.unlink()
    (folder / "notes.txt").write_text("somebody's own")
    assert ensure_example(folder) == folder
    assert len(quick) == 2
    assert (folder / "notes.txt").read_text() == "somebody's own"
    (folder / "notes.txt").unlink()
    assert without_marker(folder) == files_of(small)
    assert [path.name for path in folder.parent.iterdir()] == ["example"]  # nothing left over
    assert not list(folder.glob(".*"))
    ensure_example(folder)
    assert len(quick) == 2


def test_an_interrupted_run_leaves_nothing(monkeypatch, tmp_path):
    def interrupted(outputs: Outputs, **_: object) -> None:
        outputs.path("models.tsv").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(simulated, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_example(tmp_path / "example")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_several_at_once_do_not_disturb_each_other(quick, small, tmp_path):
    folder = tmp_path / "example"
    for damaged in (False, True):
        if damaged:
            (folder / "models.tsv").unlink()
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda _: ensure_example(folder), range(8))) == [folder] * 8
        assert without_marker(folder) == files_of(small)
        assert [path.name for path in tmp_path.iterdir()] == ["example"]


def test_folders_of_others_are_never_replaced(quick, tmp_path):
    folder = tmp_path / "mine"
    (folder / "dnn_rdms").mkdir(parents=True)
    (folder / "models.tsv").write_text("key\tlabel\tgroup\n")
    with pytest.raises(InputError, match=r"mine: holds files that are not the simulated example; choose another"):
        ensure_example(folder)
    assert (folder / "models.tsv").read_text() == "key\tlabel\tgroup\n"
    with pytest.raises(InputError, match=r"models.tsv: is a file; expected a folder"):
        ensure_example(folder / "models.tsv")
    with pytest.raises(InputError, match=r"the example \(300 MB\) cannot be written \(.+\); free space"):
        ensure_example(folder / "models.tsv" / "example")
    assert quick == []
    (tmp_path / "empty").mkdir()
    assert ensure_example(tmp_path / "empty") == tmp_path / "empty"


def test_command_line(quick, tmp_path, capsys):
    example.main(["--out", str(tmp_path / "example")])
    assert capsys.readouterr().out == f"{tmp_path / 'example'}\n"
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: is a file; expected a folder"):
        example.main(["--out", str(tmp_path / "file")])


def test_worlds_are_told_apart(quick, tmp_path):
    kind = ensure_example(tmp_path / "kind")
    with pytest.raises(InputError, match="unknown world 'harder'; there are kind, hard"):
        ensure_example(kind, world="harder")


def test_limiting_rdm_is_that_of_very_many_units():
    rng = np.random.default_rng(0)
    latents = Latents(rng.standard_normal((12, 5)) / np.sqrt(5), 0.4 * rng.standard_normal(12))
    many = correlation_rdm(latents.patterns(400_000, 0.5, rng))
    np.testing.assert_allclose(many, latents.limiting_rdm(0.5), atol=0.01)


def test_tied_groups_of_the_harder_world_explain_the_same_on_average():
    """In 20 draws of images and networks, SD .055: the mean of any difference lies within .05 but for 1 in 10,000."""
    differences, energies = [], []
    for seed in range(100, 120):
        world = replace(HARD, seed=seed)
        rdms = {(task.key, layer): world.network_rdm(task.key, layer) for task in TASKS for layer in TASK_LAYERS}
        members = {group: [task.key for task in TASKS if task.group == group] for group in GROUPS}
        sets = [[np.mean([rdms[key, layer] for key in keys], axis=0) for layer in TASK_LAYERS]
                for keys in members.values()]  # fmt: skip
        tied = [area for area in world.rois if area.kind == "tie"]
        areas = compared([world.limiting_rdm(area) for area in tied], "whitened")
        basis = orthonormal_basis(list(compared(sets, "whitened")))
        unique = above_chance(basis, unique_adjusted_r2(basis), areas)
        first, second = ([GROUPS.index(area.follows[k]) for area in tied] for k in (0, 1))
        places = np.arange(len(tied))
        differences.append(unique[second, places] - unique[first, places])
        assert unique[first, places].min() > 0.1
        energies += [float(energy_of(standardise(rdm)[None])[0]) for rdm in rdms.values()]
    assert np.abs(np.mean(differences, axis=0)).max() < 0.05
    assert np.quantile(energies, 0.05) < 0.3 and np.quantile(energies, 0.95) > 0.5


def test_noise_of_the_harder_world_is_smooth_and_autocorrelated():
    """Along the order in which the person saw the images: that in which neighbours are most alike, or at random."""
    box = np.moveaxis(np.indices((16, 16, 16)), 0, -1).reshape(-1, 3).T
    world = replace(HARD, noise_autocorrelation=0.3)
    noise = simulated._smooth_noise(world, box, 3.0, np.random.default_rng(1)).astype(np.float64)
    assert noise.shape == (simulated.N_CONDITIONS, 4096)
    assert noise.std() == pytest.approx(1, abs=0.05)
    cube = noise.reshape(-1, 16, 16, 16)
    kernel = np.exp(-np.square(np.arange(-8, 9) * 3.0) / 2 / (world.noise_fwhm_mm / 2.3548) ** 2)
    expected = (kernel[1:] @ kernel[:-1]) / (kernel @ kernel)
    assert expected > 0.4
    for axis in (1, 2, 3):
        one, other = np.delete(cube, 0, axis), np.delete(cube, -1, axis)
        assert (one * other).mean() == pytest.approx(expected, abs=0.03)
    likeness = np.sort(np.corrcoef(noise)[np.triu_indices(simulated.N_CONDITIONS, k=1)])
    assert np.median(likeness[-49:]) == pytest.approx(0.3, abs=0.06)  # 49 pairs of neighbours
    assert np.median(likeness) == pytest.approx(0, abs=0.02)


def test_score_counts_states_of_places_and_asterisks_of_bars(tmp_path, capsys):
    truth = pd.DataFrame({
        "kind": ["searchlight"] * 5 + ["roi"] * 2, "place": [*"01234", "V1", "V2"],
        "type": ["lead", "lead", "tie", "unrelated", "mixed", "lead", "tie"],
        "follows": ["2D", "3D", "2D = 3D", "", "2D", "2D", "2D = 3D"], "group": ["2D", "3D", "", "", "2D", "2D", ""],
    })  # fmt: skip
    lights = pd.DataFrame({
        "searchlight": range(5), "tested": [True, True, True, False, True], "group": ["2D", "2D", "3D", "2D", "2D"],
        "significant": [True, True, False, True, True], "explained": [True, True, True, True, True],
    })  # fmt: skip
    found = simulated.score(lights, truth)
    assert found.loc["lead"].to_list() == [2, 0.5, 0.5, 0, 0]
    assert found.loc["tie"].to_list() == [1, 0, 0, 1, 0]
    assert found.loc["unrelated", "tested"] == 0 and np.isnan(found.loc["unrelated", "right"])
    established = lights.assign(group_significant=[False, False, True, False, False])
    assert simulated.score(established, truth).loc["tie", "wrong"] == 1
    bars = pd.DataFrame({
        "roi": ["V1"] * 3 + ["V2"] * 3, "model": [*GROUPS] * 2, "star": ["filled", "hollow", "", "filled", "", "hollow"]
    })  # fmt: skip
    found = simulated.score(bars, truth)
    assert found.loc["lead"].to_list() == [1, 1, 0, 2, 0, 1]
    assert found.loc["tie"].to_list() == [2, 1, 0, 1, 0, 1]
    with pytest.raises(InputError, match="has places that the truth lacks"):
        simulated.score(bars.assign(roi="V7"), truth)
    with pytest.raises(InputError, match=r"no column star; give that of Fig 1, 3a or 3b \(not as published\)"):
        simulated.score(bars.drop(columns="star"), truth)
    truth.to_csv(tmp_path / "truth.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match="there are no results of Fig1, Fig3a or Fig3b"):
        example.main(["--score", str(tmp_path / "results"), "--out", str(tmp_path)])
    (tmp_path / "results" / "Fig3a").mkdir(parents=True)
    lights.to_csv(tmp_path / "results" / "Fig3a" / "results.tsv", sep="\t", index=False)
    example.main(["--score", str(tmp_path / "results"), "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert out.startswith("Fig3a\n") and "0.500" in out


def test_data_are_kept_in_the_repository_and_else_with_the_user(monkeypatch, tmp_path):
    assert data_folder.default_data() == Path(__file__).resolve().parents[1] / "data"
    monkeypatch.setattr(data_folder, "_CHECKOUT", tmp_path)
    assert data_folder.default_data().name == "dnn2brain" and tmp_path not in data_folder.default_data().parents
