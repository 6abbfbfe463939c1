"""ROI RDMs against scipy, and what cannot be used."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from utils import InputError
from utils.rois import roi_rdms


@pytest.fixture
def atlas(rng) -> np.ndarray:
    atlas = rng.integers(0, 4, (5, 6, 7))
    atlas[0, 0, 0] = 9  # an ROI of one voxel
    return atlas


def test_rdms_equal_scipy(rng, atlas):
    betas = rng.standard_normal((8, 5, 6, 7)).astype(np.float32)
    rdms = roi_rdms(betas, atlas, [3, 1])
    assert rdms.dtype == np.float64
    for rdm, roi in zip(rdms, (3, 1), strict=True):
        np.testing.assert_allclose(rdm, pdist(betas[:, atlas == roi].astype(float), "correlation"), atol=1e-12)


def test_constant_and_missing_voxels_are_left_out(rng, atlas):
    betas = rng.standard_normal((8, 5, 6, 7))
    inside = np.argwhere(atlas == 2)
    betas[:, *inside[0]] = 7.0
    betas[3, *inside[1]] = np.nan
    betas[5, *inside[2]] = np.inf
    expected = pdist(np.stack([betas[:, *voxel] for voxel in inside[3:]], axis=1), "correlation")
    np.testing.assert_allclose(roi_rdms(betas, atlas, [2])[0], expected, atol=1e-12)


def test_rois_that_cannot_be_used_are_named(rng, atlas):
    betas = rng.standard_normal((8, 5, 6, 7))
    with pytest.raises(InputError, match=r"ROI FEF \(label 25\): the atlas has no voxel with that label"):
        roi_rdms(betas, atlas, [1, 25], ["V1v", "FEF"])
    with pytest.raises(InputError, match=r"ROI 9: 1 of its 1 voxel\(s\) are usable .* expected 2 or more"):
        roi_rdms(betas, atlas, [1, 9])
    betas[:, atlas == 2] = 0
    with pytest.raises(InputError, match=r"ROI V2d \(label 2\): 0 of its \d+ voxel\(s\) are usable"):
        roi_rdms(betas, atlas, [2], ["V2d"])
    betas = rng.standard_normal((8, 5, 6, 7))
    betas[4] = 1.0
    with pytest.raises(InputError, match=r"ROI 1: a condition has the same value in all \d+ usable voxels"):
        roi_rdms(betas, atlas, [1])


def test_arrays_that_do_not_fit_are_refused(rng, atlas):
    with pytest.raises(InputError, match=r"atlas of shape \(5, 6, 7\) is not on the grid of the beta maps \(5, 6, 6\)"):
        roi_rdms(np.ones((8, 5, 6, 6)), atlas, [1])
    with pytest.raises(InputError, match=r"expected shape \(conditions, X, Y, Z\)"):
        roi_rdms(np.ones((5, 6, 7)), atlas, [1])
