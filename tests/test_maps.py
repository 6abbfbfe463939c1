"""Maps for other programs, read back by nibabel."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from models.tasks import TASKS, Model
from utils import InputError
from utils.io.output import staged
from utils.plotting.brain_maps import group_maps
from utils.plotting.colors import (
    BELOW_CEILING_COLOR,
    GROUP_COLORS,
    NOT_SIGNIFICANT_COLOR,
    pale_color,
    study_colors,
)
from utils.plotting.export import save_map
from utils.plotting.label_maps import PALE_NOTE, LabelMap, RoiLocations, ValueMap
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


# -------------------------------------------------------------------------------------------------------- solid, pale

PLACES = pd.DataFrame(
    {
        "winner": ["2D", "3D", "2D", "3D", "2D"],
        "significant": [True, False, False, False, True],
        "explained": [True, True, True, False, True],
        "tested": [True, True, True, True, False],
        "candidates": ["", "3D or 2D", "2D or <semantic>", "", ""],
        "total_adjusted_r2": 0.2, "q": 0.01, "q_lead": [0.01, 0.1, 1.0, 1.0, 0.01], "stability": 0.5,
        "ceiling_lower": 0.3, "share": [0.5, 1.2, 0.1, 0.0, np.nan],
    }
)  # fmt: skip


class Row:
    """Five places in a row."""

    affine, space, vertices = AFFINE, "MNI", None

    def to_volume(self, values, background=0):
        return np.asarray(values).reshape(5, 1, 1)


def maps_of(table):
    groups = [Model(name, name, name) for name in ("2D", "3D", "semantic")]
    return group_maps(Row(), groups, study_colors(TASKS), table, np.ones((3, 5)), np.ones((2, 5)))


def test_places_are_solid_pale_or_grey():
    first = maps_of(PLACES)[0]
    called = [first.names[label - 1] for label in first.data.ravel()]
    assert called == [
        "2D", "3D (lead not established)", "2D (lead not established)", "not significant", "below the noise ceiling",
    ]  # fmt: skip
    assert first.rows() == [(0, 5), (1, 6), (2, 7), (3, None), (4, None)]
    assert first.counts == [1, 0, 0, 1, 1, 1, 1, 0]
    named = [first.candidate_names[code] for code in first.candidates.ravel()]
    assert named == ["", "3D or 2D", "2D or <semantic>", "", ""]
    assert first.colors[5:] == [pale_color(color) for color in first.colors[:3]]
    assert "where this is above chance" not in first.note and first.pale_note


def test_without_the_column_nothing_is_pale():
    first, *others = maps_of(PLACES.drop(columns=["explained", "candidates", "share", "q_lead"]))
    assert first.names == ["2D", "3D", "semantic", "not significant", "below the noise ceiling"]
    assert first.data.ravel().tolist() == [1, 4, 4, 4, 5]
    assert not first.pale and first.candidates is None and first.pale_note == ""
    assert "where this is above chance" in first.note
    assert not {"share", "lead", "shareOfCeiling"} & {own.key for own in others}


def test_share_and_lead_are_maps_of_their_columns():
    by_key = {own.key: own for own in maps_of(PLACES)}
    assert by_key["share"].limits() == (0, 1)  # what lies above is in the hover text only
    np.testing.assert_allclose(by_key["share"].data.ravel(), PLACES["share"].astype(np.float32))
    np.testing.assert_allclose(by_key["lead"].data.ravel(), [2, 1, 0, 0, 2], atol=1e-6)


def test_files_hold_the_state(tmp_path):
    own = maps_of(PLACES)[0]
    maps = published(tmp_path, lambda o: save_map(o, own, simulated=True))
    stem = maps / "space-MNI_desc-strongestGroup_dseg"
    table = pd.read_csv(f"{stem}.tsv", sep="\t").set_index("name")["n_searchlights"]
    assert (table["3D"], table["3D (lead not established)"]) == (0, 1)
    assert PALE_NOTE in json.loads(stem.with_suffix(".json").read_text())["Description"]
    np.testing.assert_array_equal(nib.load(f"{stem}.nii.gz").get_fdata(), own.data)
    surface = nib.load(maps / "hemi-L_space-fsaverage_den-10k_desc-strongestGroup_dseg.label.gii")
    assert surface.labeltable.get_labels_as_dict()[7] == "3D (lead not established)"


# ------------------------------------------------------------------------------------------------------------- colours

# Machado et al. 2009, severity 1, on linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def distances(some, others, vision):
    """CIEDE2000 between all pairs of colours as this vision sees them."""
    color = pytest.importorskip("skimage.color")

    def lab(names):
        rgb = np.array([[int(name[i : i + 2], 16) / 255 for i in (1, 3, 5)] for name in names])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        seen = np.clip(linear @ np.transpose(VISIONS[vision]), 0, 1)
        return color.rgb2lab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055))

    return color.deltaE_ciede2000(lab(some)[:, None], lab(others)[None])


GREYS = [NOT_SIGNIFICANT_COLOR, BELOW_CEILING_COLOR]


@pytest.mark.parametrize("vision", VISIONS)
def test_pale_tints_of_groups_stay_apart_from_greys_solids_and_each_other(vision):
    solid = [GROUP_COLORS[name] for name in ("2D", "3D", "semantic")]
    pale = [pale_color(color) for color in solid]
    assert distances(pale, GREYS, vision).min() > 10
    assert distances(pale, solid, vision).min() > 15
    assert (distances(pale, pale, vision) + 99 * np.eye(3)).min() > 10


def test_pale_tints_stay_apart_from_the_shades_of_networks():
    colors = study_colors(TASKS)
    pale = [pale_color(GROUP_COLORS[name]) for name in GROUP_COLORS]
    assert distances(pale, [colors[task.key] for task in TASKS], "normal").min() > 10
    assert distances(pale, GREYS, "normal").min() > 14


def test_groups_of_ones_own_have_pale_tints_too():
    solid = [study_colors([Model(str(i), "x", f"mine {i}") for i in range(6)])[f"mine {i}"] for i in range(6)]
    pale = [pale_color(color) for color in solid]
    assert distances(pale, GREYS, "normal").min() > 10
    assert distances(pale, solid, "normal").diagonal().min() > 13


def test_the_distances_can_be_too_small():
    assert distances(["#c9cccf"], GREYS, "normal").min() < 5
