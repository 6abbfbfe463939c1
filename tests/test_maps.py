"""Maps for other programs, read back by nibabel."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from utils import InputError
from utils.io.output import staged
from utils.plotting.export import save_map
from utils.plotting.label_maps import LabelMap, RoiLocations, ValueMap
from utils.plotting.surface import sample
from utils.rdms.atlas import Atlas

AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
AFFINE[:3, 3] = [-80, -112, -60]


@pytest.fixture
def label_map(rng):
    return LabelMap(
        data=rng.integers(0, 4, (40, 48, 40)).astype(np.int16),
        affine=AFFINE,
        names=["2D edges", "3D edges", "not significant"],
        colors=["#0077BB", "#E69F00", "#d0d0d0"],
        legend_groups=["2D", "3D", ""],
        counts=[5, 0, 7],
        unit="searchlights",
        title="Best network",
        note="Where significant.",
        key="bestNetwork",
    )


def published(tmp_path, save):
    with staged(tmp_path / "Fig") as outputs:
        save(outputs)
        outputs.publish({})
    return tmp_path / "Fig" / "maps"


def test_labels(tmp_path, label_map):
    maps = published(tmp_path, lambda o: save_map(o, label_map, simulated=True))
    stem = "space-MNI_desc-bestNetwork_dseg"
    volume = nib.load(maps / f"{stem}.nii.gz")
    assert np.array_equal(np.asarray(volume.dataobj), label_map.data)
    np.testing.assert_array_equal(volume.affine, AFFINE)
    assert volume.header.get_intent()[0] == "label"
    table = pd.read_csv(maps / f"{stem}.tsv", sep="\t")
    assert list(table.columns) == ["index", "name", "color", "n_searchlights"]
    assert list(table["name"]) == label_map.names and list(table["n_searchlights"]) == label_map.counts
    described = json.loads((maps / f"{stem}.json").read_text())
    assert described["Simulated"] is True and described["Description"] == "Best network. Where significant."
    assert (maps / f"{stem}_freesurfer.txt").read_text().splitlines() == [
        "0 Unknown 0 0 0 0", "1 2D-edges 0 119 187 0", "2 3D-edges 230 159 0 0", "3 not-significant 208 208 208 0",
    ]  # fmt: skip
    assert (maps / f"{stem}_fsleyes.lut").read_text().splitlines()[0] == "1 0.0000 0.4667 0.7333 2D edges"
    expected = sample(label_map.data, AFFINE)
    for hemi, side, structure in (("left", "L", "CortexLeft"), ("right", "R", "CortexRight")):
        stem = f"hemi-{side}_space-fsaverage_den-10k_desc-bestNetwork_dseg"
        image = nib.load(maps / f"{stem}.label.gii")
        assert np.array_equal(image.darrays[0].data, expected[hemi])
        assert set(np.unique(image.darrays[0].data)) <= set(np.unique(label_map.data))
        assert image.meta["AnatomicalStructurePrimary"] == structure
        names = image.labeltable.get_labels_as_dict()
        assert [names[k] for k in range(4)] == ["outside", *label_map.names]
        np.testing.assert_allclose(image.labeltable.labels[1].rgba, (0, 119 / 255, 187 / 255, 1), atol=1e-6)
        assert image.labeltable.labels[0].rgba[3] == 0
        assert json.loads((maps / f"{stem}.json").read_text())["SpatialReference"] == "fsaverage5"


def test_values(tmp_path, rng):
    data = rng.random((40, 48, 40)).astype(np.float32)
    data[data < 0.3] = np.nan
    values = ValueMap(data, AFFINE, "Adjusted R2", "adjusted R2", key="adjustedR2")
    maps = published(tmp_path, lambda o: save_map(o, values, simulated=False))
    volume = nib.load(maps / "space-MNI_stat-adjustedR2_statmap.nii.gz")
    np.testing.assert_array_equal(np.asarray(volume.dataobj), data)
    described = json.loads((maps / "space-MNI_stat-adjustedR2_statmap.json").read_text())
    assert described["Units"] == "adjusted R2" and described["Simulated"] is False
    expected = sample(data, AFFINE)
    for hemi, side in (("left", "L"), ("right", "R")):
        image = nib.load(maps / f"hemi-{side}_space-fsaverage_den-10k_stat-adjustedR2_statmap.func.gii")
        np.testing.assert_array_equal(image.darrays[0].data, expected[hemi])


def test_values_of_rois_fill_their_voxels():
    atlas = Atlas(np.array([[[1, 2], [3, 0]]]), AFFINE, {1: "V1", 2: "V2", 3: "V3"})
    volume = RoiLocations(atlas, [3, 1]).to_volume(np.float32([0.3, 0.1]), background=np.nan)
    np.testing.assert_array_equal(volume, np.float32([[[0.1, np.nan], [0.3, np.nan]]]))
    with pytest.raises(InputError, match="`atlas` holds none of the ROIs 7, 8; its labels must be the ids"):
        RoiLocations(atlas, [7, 8])
