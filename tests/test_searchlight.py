"""Searchlights against literal loops, scipy, and the published code's blocks."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from utils import InputError
from utils.rdms.cross_validated import cross_validated_rdms, noise_normalised_rdms, prepare, shrunk_covariance
from utils.rdms.measure import Measure, Responses
from utils.rdms.searchlights import (
    Geometry,
    block_geometry,
    block_searchlights,
    member_rdms,
    overlapping,
    release_blocks,
    sphere_searchlights,
    usable_voxels,
)

AFFINE = np.array([[3.0, 0, 0, -21], [0, 3, 0, -100], [0, 0, 3, -20], [0, 0, 0, 1]])


def literal_blocks(mask: np.ndarray, radius: int, edge: int) -> list[tuple[int, ...]]:
    """Three nested loops, as BrainIAK writes them."""
    outer = edge + 2 * radius
    blocks = []
    for i in range(0, mask.shape[0], edge):
        for j in range(0, mask.shape[1], edge):
            for k in range(0, mask.shape[2], edge):
                block = mask[i : i + outer, j : j + outer, k : k + outer]
                core = block[tuple(slice(radius, size - radius) for size in block.shape)]
                if core.any():
                    blocks.append((i, j, k, *block.shape))
    return blocks


@pytest.mark.parametrize("shape", [(10, 10, 8), (9, 11, 7), (4, 4, 4), (5, 3, 6)])
@pytest.mark.parametrize(("radius", "edge"), [(1, 2), (1, 3), (2, 2), (0, 2)])
def test_blocks_equal_three_nested_loops(rng, shape, radius, edge):
    for density in (0.02, 0.2, 0.9):
        mask = rng.random(shape) < density
        expected = literal_blocks(mask, radius, edge)
        if not expected:
            with pytest.raises(InputError):
                release_blocks(mask, radius, edge)
            continue
        assert release_blocks(mask, radius, edge).tolist() == [list(block) for block in expected]


def test_blocks_equal_the_published_code(published_sample, published_outputs):
    mask = nibabel.load(published_sample / "mask.nii").get_fdata()
    np.testing.assert_array_equal(release_blocks(mask), published_outputs["blocks"])


@pytest.mark.slow
def test_number_of_blocks_of_the_mni_brain_mask():
    from nilearn.datasets import load_mni152_brain_mask

    mask = load_mni152_brain_mask(resolution=2)
    assert mask.shape == (99, 117, 95)
    geometry = block_geometry(mask.get_fdata(), mask.affine)
    assert len(geometry) == 31_487
    assert len(np.unique(geometry.voxels)) == len(geometry.voxels)


def test_geometry_holds_every_core_voxel_once(rng):
    mask = rng.random((9, 11, 7)) < 0.1
    geometry = block_geometry(mask, AFFINE)
    blocks = release_blocks(mask)
    assert geometry.shape == (9, 11, 7)
    assert len(geometry) == len(blocks)
    expected = np.zeros(mask.shape, dtype=np.int32)
    centres = []
    for number, (i, j, k, di, dj, dk) in enumerate(blocks, start=1):
        core = np.s_[i + 1 : i + di - 1, j + 1 : j + dj - 1, k + 1 : k + dk - 1]
        assert not expected[core].any()
        expected[core] = number
        corner = np.array([i, j, k]) + 1
        centres.append(AFFINE[:3, :3] @ (corner + (np.array([di, dj, dk]) - 3) / 2) + AFFINE[:3, 3])
    volume = geometry.to_volume(np.arange(1, len(blocks) + 1, dtype=np.int32))
    assert volume.dtype == np.int32
    np.testing.assert_array_equal(volume, expected)
    np.testing.assert_allclose(geometry.centers_mm(), centres)
    # Every mask voxel is in a core, but for those in the outermost layer of the volume.
    assert (expected[1:-1, 1:-1, 1:-1][mask[1:-1, 1:-1, 1:-1]] > 0).all()


def test_volume_background_and_wrong_number_of_values(rng):
    geometry = block_geometry(np.ones((6, 6, 6)), AFFINE)
    volume = geometry.to_volume(np.ones(len(geometry)), background=np.nan)
    assert np.isnan(volume[0]).all()
    assert (volume[1:5, 1:5, 1:5] == 1).all()
    with pytest.raises(InputError, match=r"values for 8 searchlights were expected, got an array of shape \(7,\)"):
        geometry.to_volume(np.ones(7))


def test_geometry_survives_the_disk(rng, tmp_path: Path):
    geometry = block_geometry(rng.random((9, 11, 7)) < 0.1, AFFINE)
    geometry.save(tmp_path / "geometry.npz")
    loaded = Geometry.load(tmp_path / "geometry.npz")
    assert loaded.shape == geometry.shape
    for name in ("affine", "offsets", "voxels"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(geometry, name))
        assert getattr(loaded, name).dtype == getattr(geometry, name).dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voxels": np.array([0, 1, 999])}, "a voxel lies outside the volume"),
        ({"offsets": np.array([0, 3, 2])}, "offsets must grow from 0"),
        ({"offsets": np.array([0])}, "at least one searchlight"),
        ({"affine": np.eye(3)}, r"finite 4 x 4 matrix, found shape \(3, 3\)"),
        ({"shape": np.array([2, 2])}, "three positive integers"),
        ({"voxels": np.array([None, 1, 2])}, "is not a readable numpy file"),
    ],
)
def test_damaged_geometry_is_refused(tmp_path: Path, change, message):
    arrays = {"shape": np.array([2, 2, 2]), "affine": np.eye(4), "offsets": np.array([0, 2, 3]), "voxels": np.arange(3)}
    path = tmp_path / "geometry.npz"
    np.savez(path, **arrays)
    assert len(Geometry.load(path)) == 2
    np.savez(path, **{**arrays, **change})
    with pytest.raises(InputError, match=message) as caught:
        Geometry.load(path)
    assert str(path) in str(caught.value)


def test_missing_and_unreadable_geometry_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        Geometry.load(tmp_path / "geometry.npz")
    (tmp_path / "geometry.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(InputError, match="is not a readable numpy file"):
        Geometry.load(tmp_path / "geometry.npz")


def test_unusable_masks_are_refused():
    with pytest.raises(InputError, match="not a single voxel is inside"):
        release_blocks(np.zeros((6, 6, 6)))
    with pytest.raises(InputError, match=r"3 dimensions, found shape \(6, 6\)"):
        release_blocks(np.ones((6, 6)))
    rim = np.zeros((6, 6, 6))
    rim[0] = 1
    with pytest.raises(InputError, match=r"its 36 voxel\(s\) lie in the outermost layer"):
        release_blocks(rim)


def block_rdms(betas: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """RDMs of the release's blocks, computed in float64 as `python -m utils.searchlight` does."""
    searchlights = block_searchlights(mask, AFFINE)
    flat = betas.reshape(len(betas), -1)[:, searchlights.voxels]
    lookup = searchlights.lookup(usable_voxels(flat))
    everywhere = slice(0, len(searchlights))
    return member_rdms(
        Responses(np.ascontiguousarray(flat.T)), searchlights.members(lookup, everywhere), dtype=np.float64
    )


def block_patterns(betas: np.ndarray, block: np.ndarray) -> np.ndarray:
    i, j, k, di, dj, dk = block
    return betas[:, i : i + di, j : j + dj, k : k + dk].reshape(len(betas), -1)


def test_block_rdms_equal_scipy(rng):
    betas = rng.standard_normal((12, 9, 11, 7)).astype(np.float32)
    mask = rng.random((9, 11, 7)) < 0.2
    blocks = release_blocks(mask)
    assert len(np.unique(blocks[:, 3:], axis=0)) > 1  # smaller ones at the upper end among them
    rdms = block_rdms(betas, mask)
    assert rdms.dtype == np.float32
    for rdm, block in zip(rdms, blocks, strict=True):
        np.testing.assert_allclose(rdm, pdist(block_patterns(betas, block).astype(float), "correlation"), atol=2e-7)


def test_block_rdms_drop_voxels_that_say_nothing(rng):
    betas = rng.standard_normal((8, 8, 8, 8))
    betas[:, :, :, ::3] = 5.0
    betas[2, 1:3, 4, 5] = np.nan
    betas[4, 5, 5, 5] = np.inf
    mask = np.ones((8, 8, 8))
    for rdm, block in zip(block_rdms(betas, mask), release_blocks(mask), strict=True):
        patterns = block_patterns(betas, block)
        keep = np.isfinite(patterns).all(axis=0) & (np.ptp(patterns, axis=0) > 0)
        assert 0 < keep.sum() < patterns.shape[1]
        np.testing.assert_allclose(rdm, pdist(patterns[:, keep], "correlation"), atol=2e-7)


def test_block_rdms_are_nan_where_there_is_too_little(rng):
    mask = np.ones((4, 4, 4))
    betas = np.zeros((5, 4, 4, 4))
    assert np.isnan(block_rdms(betas, mask)).all()
    betas[:, 1, 1, 1] = rng.standard_normal(5)
    assert np.isnan(block_rdms(betas, mask)).all()
    betas = rng.standard_normal((5, 4, 4, 4))
    betas[0] = 1.5  # a constant pattern has no correlation: the four pairs of condition 0
    np.testing.assert_array_equal(np.isnan(block_rdms(betas, mask)[0]), [True] * 4 + [False] * 6)


def test_block_rdms_do_not_depend_on_chunks(rng, monkeypatch):
    betas = rng.standard_normal((6, 8, 9, 8))
    betas[:, 2:5, 2, 2] = 0
    mask = rng.random((8, 9, 8)) < 0.5
    whole = block_rdms(betas, mask)
    monkeypatch.setattr("utils.rdms.searchlights._CHUNK_VALUES", 1)
    np.testing.assert_allclose(block_rdms(betas, mask), whole, atol=1e-7)


def test_members_are_every_voxel_of_every_block(rng):
    shape = (9, 11, 7)
    mask = rng.random(shape) < 0.3
    searchlights, index = block_searchlights(mask, AFFINE), np.arange(np.prod(shape)).reshape(shape)
    lookup = searchlights.lookup(np.ones(len(searchlights.voxels), dtype=bool))
    members = searchlights.members(lookup, slice(0, len(searchlights)))
    for own, block in zip(members, release_blocks(mask), strict=True):
        np.testing.assert_array_equal(searchlights.voxels[own[own >= 0]], block_patterns(index[None], block)[0])
    np.testing.assert_array_equal(searchlights.members(lookup, np.array([7, 2])), members[[7, 2]])
    np.testing.assert_array_equal(searchlights.geometry.voxels, block_geometry(mask, AFFINE).voxels)


# ------------------------------------------------------------------------------------------------------------ spheres


def literal_spheres(mask: np.ndarray, affine: np.ndarray, radius_mm: float) -> list[np.ndarray]:
    """Voxels within the radius of every voxel of the mask, by distance between all pairs."""
    inside = np.argwhere(mask)
    position = inside @ affine[:3, :3].T
    return [inside[np.linalg.norm(position - center, axis=1) <= radius_mm + 1e-6] for center in position]


OBLIQUE = np.array([[2.0, 0.5, 0, -21], [-0.4, 3, 0.3, -100], [0.1, -0.2, 3.5, -20], [0, 0, 0, 1]])


@pytest.mark.parametrize(("affine", "radius_mm"), [(AFFINE, 3.0), (AFFINE, 6.5), (AFFINE, 9.0), (OBLIQUE, 5.0)])
def test_spheres_equal_a_literal_loop(rng, affine, radius_mm):
    mask = rng.random((7, 8, 6)) < 0.6
    betas = (rng.standard_normal((mask.sum(), 9)) + 5 * rng.standard_normal(9)).astype(np.float32)
    number = np.full(mask.shape, -1)
    number[mask] = np.arange(mask.sum())
    spheres = literal_spheres(mask, affine, radius_mm)
    kept = [i for i, voxels in enumerate(spheres) if len(voxels) >= 4]
    searchlights = sphere_searchlights(mask, affine, radius_mm, 4)
    np.testing.assert_array_equal(searchlights.geometry.voxels, np.flatnonzero(mask)[kept])
    np.testing.assert_array_equal(searchlights.voxels, np.flatnonzero(mask))
    usable = np.ones(len(betas), dtype=bool)
    np.testing.assert_array_equal(searchlights.counts(usable), [len(spheres[i]) for i in kept])
    members = searchlights.members(searchlights.lookup(usable), slice(0, len(kept)))
    rdms = member_rdms(Responses(betas), members, min_voxels=4)
    assert rdms.dtype == np.float32
    for rdm, i in zip(rdms, kept, strict=True):
        patterns = betas[number[tuple(spheres[i].T)]].T.astype(np.float64)
        np.testing.assert_allclose(rdm, pdist(patterns, "correlation"), atol=2e-6)


def test_unusable_voxels_leave_spheres_smaller(rng):
    mask = np.ones((5, 5, 5), dtype=bool)
    betas = rng.standard_normal((125, 6))
    usable = rng.random(125) < 0.4
    betas[~usable] = np.nan
    searchlights = sphere_searchlights(mask, AFFINE, 3, 2)
    members = searchlights.members(searchlights.lookup(usable), slice(0, 125))
    rdms = member_rdms(Responses(betas), members, min_voxels=3)
    for center, (rdm, voxels) in enumerate(zip(rdms, literal_spheres(mask, AFFINE, 3), strict=True)):
        own = np.ravel_multi_index(tuple(voxels.T), mask.shape)
        patterns = betas[own[usable[own]]].T
        assert searchlights.counts(usable)[center] == patterns.shape[1]
        if patterns.shape[1] < 3:
            assert np.isnan(rdm).all()
        else:
            np.testing.assert_allclose(rdm, pdist(patterns, "correlation"), atol=1e-7)


def test_single_precision_holds_where_means_are_large(rng):
    betas = (1000 + rng.standard_normal((200, 12))).astype(np.float32)
    members = np.stack([rng.permutation(200)[:60] for _ in range(50)])
    exact = member_rdms(Responses(betas), members, dtype=np.float64)
    np.testing.assert_allclose(member_rdms(Responses(betas), members), exact, atol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "sqeuclidean"])
def test_other_metrics_equal_scipy(rng, metric):
    betas = rng.standard_normal((40, 7))
    members = np.array([[*range(10), -1], [*range(20, 30), 39]])
    rdms = member_rdms(Responses(betas), members, Measure(metric, center=True))
    for rdm, own in zip(rdms, (range(10), [*range(20, 30), 39]), strict=True):
        patterns = betas[list(own)].T
        np.testing.assert_allclose(rdm, pdist(patterns - patterns.mean(axis=0), metric), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_normalised_spheres_are_those_of_each_alone(rng, dtype):
    mask = rng.random((11, 9, 8)) < 0.9
    n = int(mask.sum())
    values, present = prepare(rng.standard_normal((n, 3, 6)).astype(dtype), "crossnobis")
    residuals = (rng.standard_normal((n, 40)) * rng.uniform(0.5, 2, (n, 1))).astype(dtype)
    searchlights = sphere_searchlights(mask, AFFINE, 6.0, 2)
    members = searchlights.members(searchlights.lookup(rng.random(n) < 0.8), slice(0, None))
    counts = (members >= 0).sum(axis=1)
    rows = np.flatnonzero(counts >= 12)
    assert 0 < len(rows) < len(members)

    groups = list(overlapping(members[rows]))
    assert len(groups) < len(rows) / 4
    np.testing.assert_array_equal(np.sort(np.concatenate(groups)), np.arange(len(rows)))
    for group in groups:
        first, *others = (set(row[row >= 0]) for row in members[rows[group]])
        assert all(len(first & other) >= len(first) / 4 for other in others)

    responses, measure = Responses(values, present, residuals, 39), Measure("crossnobis")
    rdms = member_rdms(responses, members, measure, min_voxels=12)
    assert np.isnan(rdms[counts < 12]).all()
    for row in rows:
        own = members[row][members[row] >= 0]
        alone = cross_validated_rdms(values[own][None], present, "crossnobis", residuals[own][None], 39)[0]
        np.testing.assert_allclose(rdms[row], alone, rtol=1e-6, atol=1e-5 if dtype == np.float32 else 1e-7)
    with ThreadPoolExecutor(2) as pool:
        np.testing.assert_array_equal(member_rdms(responses, members, measure, min_voxels=12, each=pool.map), rdms)

    together = noise_normalised_rdms(values, present, residuals, 39, members[rows[groups[0]]])
    for rdm, row in zip(together, rows[groups[0]], strict=True):
        own = members[row][members[row] >= 0]
        covariance = shrunk_covariance(residuals[own].astype(np.float64), 39)
        white = np.linalg.inv(np.linalg.cholesky(covariance)) @ values[own].astype(np.float64).reshape(len(own), -1)
        alone = cross_validated_rdms(white.reshape(1, len(own), 3, 6), present, "crossnobis")[0]
        np.testing.assert_allclose(rdm, alone, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-12)


def test_spheres_equal_rsatoolbox(rng):
    toolbox = pytest.importorskip("rsatoolbox.util.searchlight", reason="rsatoolbox is not installed")
    mask = np.zeros((9, 9, 8), dtype=bool)
    mask[1:8, 2:8, 1:7] = rng.random((7, 6, 6)) < 0.8
    betas = rng.standard_normal((10, *mask.shape)).astype(np.float32)
    # Its radius is in voxels, and a voxel exactly at the radius does not belong to the sphere.
    centers, neighbours = toolbox.get_volume_searchlight(mask, radius=2.001, threshold=0, truncate_at_boundary=True)
    searchlights = sphere_searchlights(mask, AFFINE, 6.0, 2)
    assert sorted(centers) == searchlights.geometry.voxels.tolist()
    expected = toolbox.get_searchlight_RDMs(betas.reshape(10, -1), centers, neighbours, np.arange(10), verbose=False)
    order = np.argsort(centers)
    patterns = np.ascontiguousarray(betas[:, mask].T)
    members = searchlights.members(searchlights.lookup(np.ones(len(patterns), dtype=bool)), slice(0, None))
    for number, i in enumerate(order):
        own = searchlights.voxels[members[number][members[number] >= 0]]
        assert sorted(neighbours[i]) == own.tolist()
    np.testing.assert_allclose(member_rdms(Responses(patterns), members), expected.dissimilarities[order], atol=2e-6)


def test_spheres_that_cannot_be_are_refused():
    mask = np.zeros((6, 6, 6))
    with pytest.raises(InputError, match=r"`radius_mm` 2.9 reaches no neighbour, as voxels are 3 mm apart; give 3 or"):
        sphere_searchlights(mask + 1, AFFINE, 2.9, 2)
    with pytest.raises(InputError, match="not a single voxel is inside"):
        sphere_searchlights(mask, AFFINE, 6, 2)
    mask[2:4, 2:4, 2:4] = 1
    with pytest.raises(
        InputError, match=r"`min_voxels` is 9, but the largest sphere of 6 mm has 8 voxels in the mask .* has 33\)"
    ):
        sphere_searchlights(mask, AFFINE, 6, 9)
    assert len(sphere_searchlights(mask, AFFINE, 1e4, 8)) == 8
