"""Data of vertices: which files make a map, discs along the surface, and maps of what is found in them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from helpers import run_script, write_study
from nilearn.datasets import fetch_surf_fsaverage
from nilearn.surface import load_surf_mesh
from scipy.sparse.csgraph import dijkstra
from scipy.spatial.distance import pdist

from utils import InputError, rois, searchlight
from utils.datasets.layout import locate
from utils.datasets.searchlights import load_searchlights
from utils.rdm import condense
from utils.rdms.betas import find_betas
from utils.rdms.discs import SurfaceGeometry, _paths, load_geometry, measured_vertices, neighbours, surface_discs
from utils.rdms.vertices import Mesh, Vertices, average_meshes, split_side

N = 10_242  # vertices of a hemisphere of fsaverage5
NAMES = [f"image_{i:02d}" for i in range(8)]
BOTH = Vertices(N, N)
MIDDLE = average_meshes(BOTH)


def save_gifti(path: Path, values: np.ndarray, intent: str = "NIFTI_INTENT_NONE") -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = values.astype(np.float32)
    arrays = [nib.gifti.GiftiDataArray(column, intent=intent, datatype="NIFTI_TYPE_FLOAT32") for column in values.T]
    nib.save(nib.GiftiImage(darrays=arrays), path)
    return values


def save_mgh(path: Path, values: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = values.astype(np.float32)
    shape = (len(values), 1, 1, values.shape[1])[: 4 if values.shape[1] > 1 else 3]
    nib.save(nib.MGHImage(values.reshape(shape), np.eye(4)), path)
    return values


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", ["gifti", "mgh", "one file per condition"])
def test_the_two_hemispheres_of_a_map_are_one(rng, tmp_path, kind):
    (tmp_path / "names.txt").write_text("\n".join(NAMES[:3]))
    truth = {}
    for subject in ("sub-01", "sub-02"):
        halves = [rng.standard_normal((n, 3)) for n in (40, 50)]
        for side, values in zip(("lh", "rh"), halves, strict=True):
            if kind == "gifti":
                values = save_gifti(tmp_path / subject / f"{subject}_run-1_{side}.func.gii", values)
            elif kind == "mgh":
                values = save_mgh(tmp_path / subject / f"{side}.betas.mgz", values)
            else:
                hemi = {"lh": "hemi-L", "rh": "hemi-R"}[side]
                for name, column in zip(NAMES, values.T, strict=False):
                    save_gifti(tmp_path / subject / f"{subject}_{hemi}_{name}.func.gii", column[:, None])
        truth[subject] = np.concatenate(halves).astype(np.float32)
    names = None if kind == "one file per condition" else tmp_path / "names.txt"
    paths = [tmp_path / subject for subject in truth]
    for given in (paths, [file for path in paths for file in sorted(path.iterdir())]):
        betas = find_betas(given, names)
        assert betas.conditions == tuple(NAMES[:3])
        assert betas.grid == Vertices(40, 50)
        for subject in betas.subjects:
            np.testing.assert_array_equal(betas.load(subject, np.arange(90)), truth[subject.name])
            np.testing.assert_array_equal(betas.load(subject, np.array([3, 60])), truth[subject.name][[3, 60]])
            assert len(subject.files) == (6 if names is None else 2)


def test_files_of_vertices_that_do_not_fit_are_refused(rng, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(NAMES[:3]))

    def refused(message):
        with pytest.raises(InputError, match=message) as caught:
            find_betas([tmp_path / "sub-01"], tmp_path / "names.txt")
        assert "\n" not in str(caught.value)

    left = tmp_path / "sub-01" / "lh.b.func.gii"
    save_gifti(left, rng.standard_normal((40, 3)))
    save_gifti(tmp_path / "sub-01" / "rh.b.func.gii", rng.standard_normal((40, 2)))
    refused(
        r"lh.b.func.gii: there is no map 2 of the right hemisphere with it, as of other maps; give both hemispheres"
    )
    save_gifti(tmp_path / "sub-01" / "rh.b.func.gii", rng.standard_normal((41, 3)))
    save_gifti(tmp_path / "sub-01" / "lh.c.func.gii", rng.standard_normal((40, 3)))
    save_gifti(tmp_path / "sub-01" / "rh.c.func.gii", rng.standard_normal((40, 3)))
    refused(r"lh.c.func.gii: is on a grid of 40 .* and 40 vertices of the right hemisphere, expected 40 .* and 41 ")
    (tmp_path / "sub-01" / "lh.c.func.gii").unlink()
    (tmp_path / "sub-01" / "rh.c.func.gii").unlink()
    left.rename(tmp_path / "sub-01" / "b.func.gii")
    refused(r"b.func.gii: holds vertices, but its name says no hemisphere; expected lh or rh")
    (tmp_path / "sub-01" / "b.func.gii").unlink()
    save_gifti(tmp_path / "sub-01" / "rh.b.func.gii", rng.standard_normal((40, 3)), "NIFTI_INTENT_LABEL")
    refused(r"rh.b.func.gii: holds labels, expected one value per vertex")
    (tmp_path / "sub-01" / "rh.b.func.gii").write_bytes(b"<GIFTI")
    refused(r"rh.b.func.gii: is not a readable GIFTI file")


@pytest.mark.parametrize(
    ("name", "side", "rest"),
    [
        ("lh.left_hand.func.gii", "left", "left_hand.func.gii"),
        ("sub-1_hemi-R_lh_x.gii", "right", "sub-1_lh_x.gii"),
        ("right_b.mgz", "right", "b.mgz"),
        ("b.LH.gii", "left", "b.gii"),
        ("S1200.L.white.32k_fs_LR.surf.gii", "left", "S1200.white.32k_fs_LR.surf.gii"),
        ("R.midthickness.surf.gii", "right", "midthickness.surf.gii"),
        ("letter_L.gii", "", "letter_L.gii"),
        ("hemi-lost.gii", "", "hemi-lost.gii"),
    ],
)
def test_names_say_the_hemisphere(name, side, rest):
    assert split_side(name) == (side, rest)


def test_sides_in_the_names_of_conditions_stay(rng, tmp_path):
    names = ("left", "left_hand", "right_hand", "tongue")
    for name in names:
        image = nib.Nifti1Image(rng.standard_normal((3, 3, 3)), np.eye(4))
        (tmp_path / "volumes").mkdir(exist_ok=True)
        nib.save(image, tmp_path / "volumes" / f"{name}.nii.gz")
        for side in ("lh", "rh"):
            save_gifti(tmp_path / "vertices" / f"{side}.{name}.gii", rng.standard_normal((5, 1)))
    for kind in ("volumes", "vertices"):
        assert find_betas([tmp_path / kind]).conditions == names


def test_subjects_are_named_without_the_hemisphere(rng, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(NAMES[:3]))
    for side in ("lh", "rh"):
        for subject in ("anna", "ben"):
            save_gifti(tmp_path / f"{side}.{subject}.func.gii", rng.standard_normal((5, 3)))
    betas = find_betas(sorted(tmp_path.glob("*.gii")), tmp_path / "names.txt")
    assert [subject.name for subject in betas.subjects] == ["anna", "ben"]


def test_one_hemisphere_is_enough_and_said(rng, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(NAMES[:3]))
    values = save_gifti(tmp_path / "sub-01" / "rh.b.func.gii", rng.standard_normal((40, 3)))
    betas = find_betas([tmp_path / "sub-01"], tmp_path / "names.txt")
    assert betas.grid == Vertices(0, 40)
    np.testing.assert_array_equal(betas.load(betas.subjects[0], np.arange(40)), values)
    assert "40 vertices of the right hemisphere; there are no maps of the left hemisphere" in str(betas).splitlines()


def save_cifti(path: Path, values: dict[str, tuple], counts: dict[str, int], names: list[str], *, series=False) -> None:
    """Vertices of the cortex by hemisphere, as (numbers of vertices, values), and some voxels that do not count."""
    kinds = nib.cifti2
    axes = [kinds.BrainModelAxis.from_surface(numbers, counts[side], f"CORTEX_{side.upper()}")
            for side, (numbers, _) in values.items()]  # fmt: skip
    columns = [data for _, data in values.values()]
    axes.insert(1, kinds.BrainModelAxis.from_mask(np.ones((2, 2, 2), dtype=bool), "THALAMUS_LEFT", np.eye(4)))
    columns.insert(1, np.full((len(names), 8), 99.0))
    models = axes[0]
    for axis in axes[1:]:
        models = models + axis
    first = kinds.SeriesAxis(0, 1, len(names)) if series else kinds.ScalarAxis(names)
    nib.Cifti2Image(np.concatenate(columns, axis=1).astype(np.float32), (first, models)).to_filename(path)


def test_cortex_of_cifti_files(rng, tmp_path):
    counts = {"left": 50, "right": 40}
    parts = {side: (np.sort(rng.choice(n, n - 9, replace=False)), rng.standard_normal((3, n - 9)).astype(np.float32))
             for side, n in counts.items()}  # fmt: skip
    expected = np.full((90, 3), np.nan, dtype=np.float32)
    for start, (numbers, data) in zip((0, 50), parts.values(), strict=True):
        expected[start + numbers] = data.T
    save_cifti(tmp_path / "sub-1.dscalar.nii", parts, counts, ["face", "house", "left"])
    betas = find_betas([tmp_path / "sub-1.dscalar.nii"])
    assert betas.grid == Vertices(50, 40) and betas.conditions == ("face", "house", "left")
    assert [subject.name for subject in betas.subjects] == ["sub-1"]
    np.testing.assert_array_equal(betas.load(betas.subjects[0], np.arange(90)), expected)
    np.testing.assert_array_equal(measured_vertices(betas), np.isfinite(expected[:, 0]))
    (tmp_path / "names.txt").write_text("a\nb\nc")
    for name, maps, series in (("m.dscalar.nii", ["map 1", "map 2", "#3"], False), ("s.dtseries.nii", [""] * 3, True)):
        save_cifti(tmp_path / name, parts, counts, maps, series=series)
        betas = find_betas([tmp_path / name], tmp_path / "names.txt")
        assert betas.conditions == ("a", "b", "c")
        np.testing.assert_array_equal(betas.load(betas.subjects[0], np.array([3, 60])), expected[[3, 60]])
    save_cifti(tmp_path / "l.dscalar.nii", {"left": parts["left"]}, counts, ["a", "b", "c"])
    assert find_betas([tmp_path / "l.dscalar.nii"]).grid == Vertices(50, 0)
    voxels = nib.cifti2.BrainModelAxis.from_mask(np.ones((2, 2, 2), dtype=bool), "THALAMUS_LEFT", np.eye(4))
    nothing = nib.Cifti2Image(np.zeros((3, 8)), (nib.cifti2.ScalarAxis(["a", "b", "c"]), voxels))
    nothing.to_filename(tmp_path / "voxels.dscalar.nii")
    with pytest.raises(InputError, match=r"voxels.dscalar.nii: has no vertices of the cortex, expected those of one"):
        find_betas([tmp_path / "voxels.dscalar.nii"])


def test_names_of_gifti_maps_are_conditions_and_must_agree(rng, tmp_path):
    def save(side, names):
        kind = {"datatype": "NIFTI_TYPE_FLOAT32"}
        arrays = [nib.gifti.GiftiDataArray(rng.random(9).astype("f4"), meta={"Name": name}, **kind) for name in names]
        nib.save(nib.GiftiImage(darrays=arrays), tmp_path / f"{side}.betas.func.gii")

    save("lh", ["face", "house", "face"])
    save("rh", ["face", "house", "face"])
    betas = find_betas([tmp_path])
    assert betas.conditions == ("face", "house") and betas.subjects[0].counts() == {"face": 2, "house": 1}
    save("rh", ["face", "tool", "face"])
    with pytest.raises(
        InputError, match=r"rh.betas.func.gii: map 1 is of tool, expected house as in lh.betas.func.gii"
    ):
        find_betas([tmp_path])


def test_meshes_and_shapes_are_no_responses(rng, tmp_path):
    for name in ("white.surf.gii", "thickness.mgh", "sulc.shape.gii", "aparc.label.gii"):
        (tmp_path / f"lh.{name}").touch()
    for name in ("face", "house", "area"):
        save_mgh(tmp_path / f"lh.run-1_{name}.mgh", rng.random((9, 1)))
    betas = find_betas([tmp_path])
    assert betas.conditions == ("area", "face", "house")
    assert "left out, meshes, labels and shapes of the cortex: lh.aparc.label.gii, " in str(betas)


# --------------------------------------------------------------------------------------------------------------- discs


def test_distances_on_a_plane():
    """Where the diagonals of the triangles run the other way, edges alone would make a distance of 1.41 one of 2."""
    x, y = np.meshgrid(np.arange(7.0), np.arange(7.0), indexing="ij")
    points = np.stack([x.ravel(), y.ravel(), np.zeros(49)], axis=1)
    corner = np.arange(49).reshape(7, 7)[:-1, :-1].ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + 1, corner + 7], 1), np.stack([corner + 1, corner + 8, corner + 7], 1)]
    )
    middle = 24
    for radius, expected in ((1.0, 5), (1.4, 5), (1.42, 9), (2.0, 13)):
        (near,) = neighbours(Mesh(points, faces), radius, np.array([middle]))
        exact = np.flatnonzero(np.linalg.norm(points - points[middle], axis=1) <= radius)
        np.testing.assert_array_equal(near, exact)
        assert len(near) == expected


def test_the_shortest_way_between_two_corners_counts():
    """In a tetrahedron, all corners are joined by an edge and by a diagonal; in an octahedron, by two diagonals."""
    points = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=float)
    joined = _paths(Mesh(points, np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])))
    np.testing.assert_allclose(joined.data, np.full(6, np.sqrt(8)))
    points = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=float)
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    joined = _paths(Mesh(points, faces)).tocoo()
    opposite = joined.row // 2 == joined.col // 2
    np.testing.assert_allclose(joined.data[opposite], np.full(3, np.sqrt(6)))
    np.testing.assert_allclose(joined.data[~opposite], np.full(12, np.sqrt(2)))


def test_distances_on_a_sphere_are_within_five_percent():
    mesh = load_surf_mesh(fetch_surf_fsaverage("fsaverage5")["sphere_left"])
    points = 100 * mesh.coordinates / np.linalg.norm(mesh.coordinates, axis=1, keepdims=True)
    sources = np.arange(0, N, 1000)
    for source, near in zip(sources, neighbours(Mesh(points, mesh.faces), 20, sources), strict=True):
        arc = 100 * np.arccos(np.clip(points @ points[source] / 1e4, -1, 1))
        assert set(np.flatnonzero(arc <= 20 / 1.055)) <= set(near) <= set(np.flatnonzero(arc <= 20.01))


def test_discs_do_not_depend_on_what_else_is_searched(rng):
    mesh = MIDDLE["right"]
    sources = rng.choice(N, 400, replace=False)
    whole = dijkstra(_paths(mesh), directed=False, indices=sources, limit=12)
    for own, row in zip(neighbours(mesh, 12, sources), whole, strict=True):
        np.testing.assert_array_equal(own, np.flatnonzero(row <= 12))


def test_discs_stay_in_their_hemisphere_and_among_measured_vertices(rng):
    measured, every = rng.random(2 * N) < 0.9, np.ones(2 * N, dtype=bool)
    discs = surface_discs(BOTH, MIDDLE, 10, measured, 2, "fsaverage5")
    centers = discs.geometry.centers
    table = discs.members(discs.lookup(every), slice(None))
    assert table.shape == (len(discs), discs.width)
    np.testing.assert_array_equal((table >= 0).sum(axis=1), discs.counts(every))
    assert measured[table[table >= 0]].all()
    assert (np.where(table >= 0, table // N, (centers // N)[:, None]) == (centers // N)[:, None]).all()
    assert (table == centers[:, None]).any(axis=1).all()
    usable = rng.random(2 * N) < 0.5
    some = discs.members(discs.lookup(usable), np.array([7, 5]))
    for row, number in zip(some, (7, 5), strict=True):
        np.testing.assert_array_equal(row[row >= 0], [v for v in table[number] if v >= 0 and usable[v]])
    np.testing.assert_array_equal(discs.counts(usable), ((table >= 0) & usable[table]).sum(axis=1))
    fewer = surface_discs(BOTH, MIDDLE, 10, measured, 30, "fsaverage5")
    large = np.zeros(2 * N, dtype=bool)
    large[centers] = discs.counts(every) >= 30
    np.testing.assert_array_equal(fewer.geometry.centers, np.flatnonzero(large))
    assert fewer.uncovered(measured) == measured.sum() - large.sum() > 0
    with pytest.raises(
        InputError, match=r"the largest disc of `radius_mm` 0.01 has 1 vertices with data, fewer than 2"
    ):
        surface_discs(BOTH, MIDDLE, 0.01, measured, 2, "fsaverage5")


def test_geometry_of_vertices_survives_the_disk(tmp_path):
    geometry = surface_discs(BOTH, MIDDLE, 9, np.arange(2 * N) % 7 == 0, 2, "fsaverage5").geometry
    geometry.save(tmp_path / "geometry.npz")
    loaded = load_geometry(tmp_path / "geometry.npz")
    assert isinstance(loaded, SurfaceGeometry)
    assert (loaded.vertices, loaded.space, len(loaded)) == (BOTH, "fsaverage5", len(geometry))
    np.testing.assert_array_equal(loaded.centers_mm(), geometry.centers_mm())
    pial, white = (
        load_surf_mesh(fetch_surf_fsaverage("fsaverage5")[f"{kind}_left"]).coordinates for kind in ("pial", "white")
    )
    place = int(np.flatnonzero(loaded.centers == 700)[0])
    np.testing.assert_allclose(loaded.centers_mm()[place], (pial[700] + white[700]) / 2, atol=1e-4)
    back = loaded.to_volume(np.arange(len(loaded), dtype=np.float32), background=np.nan)
    assert np.isnan(back).sum() == 2 * N - len(loaded)
    loaded.write_map(tmp_path / "n.nii.gz", back)
    files = loaded.map_files(tmp_path / "n.nii.gz")
    assert [file.name for file in files] == ["n_hemi-L.func.gii", "n_hemi-R.func.gii"]
    np.testing.assert_array_equal(loaded.read_map(files), back)
    np.savez(tmp_path / "bad.npz", n_vertices=[5, 5], centers=[10], positions=np.zeros((1, 3)), space="x")
    with pytest.raises(InputError, match=r"bad.npz: its arrays n_vertices, centers, positions do not describe discs"):
        load_geometry(tmp_path / "bad.npz")


# ------------------------------------------------------------------------------------------------- from betas to a map


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Beta maps of three subjects on fsaverage5, with a medial wall of zeros, and RDMs of their discs."""
    root, rng = tmp_path_factory.mktemp("surface"), np.random.default_rng(5)
    signal = rng.standard_normal((2 * N, 8))
    for subject in ("sub-01", "sub-02", "sub-03"):
        values = signal + rng.standard_normal(signal.shape)
        values[:300] = 0
        for side, half in zip(("L", "R"), (values[:N], values[N:]), strict=True):
            save_gifti(root / "betas" / f"{subject}_hemi-{side}_betas.func.gii", half)
    (root / "names.txt").write_text("\n".join(NAMES))
    searchlight.main([str(word) for word in given(root, root / "data")])
    return root


def given(root: Path, out: Path, *extra) -> list:
    options = ["--geometry", "discs", "--radius-mm", "8", "--out", out, "-q", *extra]
    return ["--betas", root / "betas", "--conditions", root / "names.txt", *options]


def test_rdms_of_discs_are_those_of_scipy(study):
    folder = study / "data" / "searchlight_rdms"
    rdms, geometry = np.load(folder / "sub-02.npy"), load_geometry(folder / "geometry.npz")
    assert len(geometry) == 2 * N - 300
    values = np.stack(nib.load(study / "betas" / "sub-02_hemi-R_betas.func.gii").agg_data(), axis=1).astype(float)
    for vertex in (0, 77, N - 1):
        (near,) = neighbours(MIDDLE["right"], 8, np.array([vertex]))
        place = int(np.flatnonzero(geometry.centers == N + vertex)[0])
        np.testing.assert_allclose(rdms[place], pdist(values[near].T, "correlation"), atol=2e-6)


@pytest.mark.slow
def test_maps_of_discs_are_drawn_vertex_by_vertex(study, tmp_path, monkeypatch):
    data = study / "data"
    models = write_study(tmp_path / "models", np.random.default_rng(1), 8)
    arguments = ["--dnn-rdms", models / "dnn_rdms", "--results", tmp_path, "-np", 50, "--no-open", "-q"]
    assert run_script(monkeypatch, "Fig3a", "--data", data, *arguments) == 0
    folder = tmp_path / "Fig3a"
    table = pd.read_csv(folder / "results.tsv", sep="\t")
    found = load_searchlights(locate("searchlight", data, dnn_rdms=models / "dnn_rdms"), 8)
    np.testing.assert_allclose(table[["x", "y", "z"]], found.geometry.centers_mm(), atol=1e-3)
    names = {path.name for path in (folder / "maps").iterdir()}
    assert not any(name.endswith(".nii.gz") for name in names)
    (left,) = list((folder / "maps").glob("*hemi-L*stat-total*.gii"))
    values = nib.load(left).agg_data()
    expected = np.full(2 * N, np.nan)
    expected[found.geometry.centers] = table["total_adjusted_r2"]
    np.testing.assert_allclose(values, expected[:N], atol=1e-5)
    assert (folder / "brain_map.html").stat().st_size > 1e6


@pytest.mark.slow
def test_rois_of_vertices_and_their_map(study, tmp_path, monkeypatch):
    rng, data = np.random.default_rng(3), tmp_path / "data"
    labels = np.zeros(2 * N, np.int32)
    labels[400:700], labels[N + 100 : N + 300], labels[900:1200] = 1, 1, 2
    for side, half in zip(("lh", "rh"), (labels[:N], labels[N:]), strict=True):
        colours = np.array([[0, 0, 0, 0, 0], [90, 20, 20, 0, 1], [20, 90, 20, 0, 2]])
        nib.freesurfer.write_annot(str(tmp_path / f"{side}.areas.annot"), half, colours, ["unknown", "V1", "LO"], True)
    atlas = [tmp_path / f"{side}.areas.annot" for side in ("lh", "rh")]
    words = ["--betas", study / "betas", "--conditions", study / "names.txt", "--atlas", *atlas, "--out", data, "-q"]
    rois.main([str(word) for word in words])
    files = [study / "betas" / f"sub-03_hemi-{side}_betas.func.gii" for side in ("L", "R")]
    values = np.concatenate([np.stack(nib.load(path).agg_data(), axis=1) for path in files]).astype(float)
    for name, number in (("V1", 1), ("LO", 2)):
        expected = pdist(values[labels == number].T, "correlation")
        np.testing.assert_allclose(condense(np.load(data / "roi_rdms" / f"{name}.npy")[2]), expected, atol=2e-6)
    models = write_study(tmp_path / "models", rng, 8)
    arguments = ["--dnn-rdms", models / "dnn_rdms", "--results", tmp_path, "-np", 50, "--no-open", "-q"]
    assert run_script(monkeypatch, "Fig3b", "--data", data, *arguments) == 0
    (left,) = list((tmp_path / "Fig3b" / "maps").glob("*hemi-L*stat-total*.gii"))
    np.testing.assert_array_equal(np.isfinite(nib.load(left).agg_data()), labels[:N] > 0)
    with pytest.raises(InputError, match=r"`threshold` and `mask` are for volumes"):
        rois.main([str(word) for word in [*words, "--threshold", "3"]])
    nib.freesurfer.write_annot(str(atlas[1]), labels[400:450], colours, ["unknown", "V1", "LO"], True)
    with pytest.raises(
        InputError, match=r"rh.areas.annot: has labels of 50 vertices, but the beta maps have 10,242 in"
    ):
        rois.main([str(word) for word in words])


def test_discs_and_volumes_are_not_mixed(study, tmp_path, capsys):
    def refused(message, *words):
        with pytest.raises(InputError, match=message):
            searchlight.main([str(word) for word in words])

    spheres = given(study, tmp_path / "x")
    spheres[spheres.index("discs")] = "spheres"
    refused(
        r"holds 10,242 vertices of the left hemisphere and .*, not data for --geometry spheres; add --geometry discs",
        *spheres,
        "--mask",
        "m.nii",
    )
    mesh = tmp_path / "lh.gii"
    points, faces = np.zeros((5, 3), np.float32), np.array([[0, 1, 2]], np.int32)
    arrays = [
        nib.gifti.GiftiDataArray(points, intent="NIFTI_INTENT_POINTSET"),
        nib.gifti.GiftiDataArray(faces, intent="NIFTI_INTENT_TRIANGLE", datatype="NIFTI_TYPE_INT32"),
    ]
    nib.save(nib.GiftiImage(darrays=arrays), mesh)
    refused(r"lh.gii: has 5 vertices, but the beta maps 10,242 in this hemisphere",
            *given(study, tmp_path / "x", "--surface-mesh", mesh))  # fmt: skip
    for words, message in ((["--mask", "m.nii"], "--mask is for volumes"), (["--radius-mm", "0"], "needs --radius-mm")):
        with pytest.raises(SystemExit):
            searchlight.main([str(word) for word in given(study, tmp_path / "x", *words)])
        assert message in capsys.readouterr().err
