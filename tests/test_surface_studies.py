"""Whole studies of vertices: CIFTI files on meshes of one's own, a single hemisphere, and the simulated surface."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from helpers import run_script, write_study
from nibabel.cifti2 import BrainModelAxis, ScalarAxis
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiMetaData
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from test_surfaces import save_gifti

from utils import example, rois, searchlight
from utils.rdm import condense
from utils.rdms.discs import load_geometry, neighbours
from utils.rdms.vertices import Mesh

pytestmark = pytest.mark.slow
NAMES = [f"image_{i:02d}" for i in range(8)]
N, WALL, RADIUS = 400, 20, 45.0  # vertices of each hemisphere, those of the medial wall, and the sphere's radius in mm


def sphere(center_x: float) -> tuple[np.ndarray, np.ndarray]:
    """Points spread evenly over a sphere, and the triangles between them, seen from outside counterclockwise."""
    height = 1 - (2 * np.arange(N) + 1) / N
    angle = np.pi * (1 + 5**0.5) * np.arange(N)
    points = np.column_stack([np.cos(angle) * (1 - height**2) ** 0.5, np.sin(angle) * (1 - height**2) ** 0.5, height])
    faces = ConvexHull(points).simplices
    inward = np.linalg.det(points[faces]) < 0
    faces[inward] = faces[inward][:, ::-1]
    return RADIUS * points + [center_x, 0, 0], faces


def write_mesh(path: Path, center_x: float) -> Path:
    points, faces = sphere(center_x)
    arrays = [
        GiftiDataArray(points.astype(np.float32), intent="NIFTI_INTENT_POINTSET"),
        GiftiDataArray(faces.astype(np.int32), intent="NIFTI_INTENT_TRIANGLE", datatype="NIFTI_TYPE_INT32"),
    ]
    nib.save(GiftiImage(darrays=arrays), path)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """CIFTI files of three people, with a subcortical structure, and meshes; RDMs of discs and of two ROIs."""
    root, rng = tmp_path_factory.mktemp("cifti"), np.random.default_rng(7)
    kept = np.arange(WALL, N)
    voxels = BrainModelAxis.from_mask(np.ones((2, 2, 2)), affine=np.eye(4), name="thalamus_left")
    cortex = [BrainModelAxis.from_surface(kept, N, "CortexLeft"), BrainModelAxis.from_surface(kept, N, "CortexRight")]
    axis = cortex[0] + voxels + cortex[1]
    signal = rng.standard_normal((len(NAMES), len(axis)))
    for subject in ("sub-01", "sub-02", "sub-03"):
        values = (signal + rng.standard_normal(signal.shape)).astype(np.float32)
        image = nib.Cifti2Image(values, header=nib.Cifti2Header.from_axes((ScalarAxis(NAMES), axis)))
        (root / "betas").mkdir(exist_ok=True)
        nib.save(image, root / "betas" / f"{subject}_betas.dscalar.nii")
    meshes = [write_mesh(root / f"{side}.midthickness.surf.gii", x) for side, x in (("L", -50), ("R", 50))]
    labels = np.zeros(N, np.int32)
    labels[100:140], labels[200:260] = 1, 2
    for side in ("L", "R"):
        array = GiftiDataArray(labels, intent="NIFTI_INTENT_LABEL", datatype="NIFTI_TYPE_INT32")
        table = nib.gifti.GiftiLabelTable()
        for number, name in enumerate(("none", "V1", "LO")):
            label = nib.gifti.GiftiLabel(number)
            label.label = name
            table.labels.append(label)
        nib.save(GiftiImage(darrays=[array], labeltable=table, meta=GiftiMetaData()), root / f"{side}.areas.label.gii")
    common = ["--betas", root / "betas", "--out", root / "data", "--surface-mesh", *meshes, "-q"]
    searchlight.main([str(word) for word in [*common, "--geometry", "discs", "--radius-mm", "15"]])
    atlas = [root / f"{side}.areas.label.gii" for side in ("L", "R")]
    rois.main([str(word) for word in [*common, "--atlas", *atlas]])
    write_study(root / "models", rng, len(NAMES))
    return root


def responses(study: Path, subject: str) -> np.ndarray:
    """Of the cortex, (2 N, conditions), read by nibabel alone."""
    image = nib.load(study / "betas" / f"{subject}_betas.dscalar.nii")
    values = np.full((2 * N, len(NAMES)), np.nan)
    for name, part, axis in image.header.get_axis(1).iter_structures():
        if name.startswith("CIFTI_STRUCTURE_CORTEX"):
            values[axis.vertex + N * name.endswith("RIGHT")] = np.asarray(image.dataobj)[:, part].T
    return values


def test_rdms_of_cifti_files_are_those_of_scipy(study):
    folder = study / "data"
    geometry = load_geometry(folder / "searchlight_rdms" / "geometry.npz")
    rdms = np.load(folder / "searchlight_rdms" / "sub-02.npy")
    assert len(geometry) == 2 * (N - WALL)
    values = responses(study, "sub-02")
    for side, start, x in (("left", 0, -50), ("right", N, 50)):
        inside = np.isfinite(values[start : start + N, 0])
        for vertex in (WALL, 150, N - 1):
            (near,) = neighbours(Mesh(*sphere(x)), 15, np.array([vertex]))
            own = values[start + near[inside[near]]]
            place = int(np.flatnonzero(geometry.centers == start + vertex)[0])
            np.testing.assert_allclose(rdms[place], pdist(own.T, "correlation"), atol=2e-6, err_msg=side)
    labels = np.zeros(N, int)
    labels[100:140] = 1
    expected = pdist(values[np.tile(labels, 2) == 1].T, "correlation")
    np.testing.assert_allclose(condense(np.load(folder / "roi_rdms" / "V1.npy")[1]), expected, atol=2e-6)


@pytest.mark.parametrize("figure", ["Fig1", "Fig2", "Fig3a", "Fig3b"])
def test_figures_are_drawn_on_the_meshes_of_the_data(study, tmp_path, monkeypatch, figure):
    arguments = ["--dnn-rdms", study / "models" / "dnn_rdms", "--results", tmp_path, "-np", 60, "--no-open", "-q"]
    assert run_script(monkeypatch, figure, "--data", study / "data", *arguments) == 0
    maps = sorted((tmp_path / figure / "maps").glob("*.gii"))
    assert maps
    assert {len(nib.load(path).agg_data()) for path in maps if path.name.endswith((".func.gii", ".label.gii"))} == {N}
    if figure == "Fig3a":
        table = pd.read_csv(tmp_path / figure / "results.tsv", sep="\t")
        (left,) = [path for path in maps if "hemi-L" in path.name and "stat-total" in path.name]
        found = nib.load(left).agg_data()
        assert np.isnan(found[:WALL]).all()
        np.testing.assert_allclose(found[WALL:], table["total_adjusted_r2"][: N - WALL], atol=1e-5)


def test_a_single_hemisphere_is_a_study(study, tmp_path, monkeypatch, capsys):
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    for subject in ("sub-01", "sub-02"):
        save_gifti(tmp_path / "betas" / f"{subject}_hemi-R_betas.func.gii", responses(study, subject)[N:])
    data = tmp_path / "data"
    words = ["--betas", tmp_path / "betas", "--conditions", tmp_path / "names.txt", "--out", data, "-q"]
    words += ["--geometry", "discs", "--radius-mm", "15", "--surface-mesh", study / "R.midthickness.surf.gii"]
    searchlight.main([str(word) for word in words])
    both = np.load(study / "data" / "searchlight_rdms" / "sub-02.npy")
    one = np.load(data / "searchlight_rdms" / "sub-02.npy")
    np.testing.assert_allclose(one, both[N - WALL :], atol=1e-6)
    arguments = ["--dnn-rdms", study / "models" / "dnn_rdms", "--results", tmp_path, "-np", 60, "--no-open", "-q"]
    assert run_script(monkeypatch, "Fig1", "--data", data, *arguments) == 0
    names = {path.name for path in (tmp_path / "Fig1" / "maps").iterdir()}
    assert not any("hemi-L" in name for name in names)
    assert any("hemi-R" in name for name in names)


def test_the_surface_example_recovers_its_truth(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "data"
    example.main(["--surface", "--out", str(folder), "-q"])
    record = json.loads((folder / "example.json").read_text())
    assert record
    for figure in ("Fig3a", "Fig3b"):
        words = ["--data", folder, "--results", tmp_path, "-np", 400, "--no-open", "-q"]
        assert run_script(monkeypatch, figure, *words) == 0
    truth = pd.read_csv(folder / "truth.tsv", sep="\t", keep_default_na=False)
    places = truth[truth["kind"] == "searchlight"].reset_index(drop=True)
    table = pd.read_csv(tmp_path / "Fig3a" / "results.tsv", sep="\t")
    planted, nothing = (places["status"] == status for status in ("planted", "none"))
    tested, full = table["tested"].astype(bool), table["significant"].astype(bool)
    right = (table["group"].str.lower() == places["group"].str.lower()) & full
    assert (planted & tested).sum() > 300
    assert right[planted & tested].mean() > 0.9
    assert full[planted & tested & ~right].sum() == 0
    assert full[nothing & tested].sum() == 0
