"""Label maps that tests draw and write."""

import nibabel as nib
import numpy as np
from nilearn import datasets

from models.tasks import TASKS, legend_order
from utils.plotting.colors import BELOW_CEILING_COLOR, NOT_SIGNIFICANT_COLOR, pale_color, study_colors
from utils.plotting.label_maps import LabelMap

OTHERS = {"not significant": NOT_SIGNIFICANT_COLOR, "below the noise ceiling": BELOW_CEILING_COLOR}
N_LABELS = len(TASKS) + len(OTHERS)


def make_label_map(data: np.ndarray, affine: np.ndarray, **changes) -> LabelMap:
    """A map of all tasks, as in the legend, and of the two labels of what no task explains."""
    tasks, colors = [TASKS[i] for i in legend_order(TASKS)], study_colors(TASKS)
    content = {
        "data": data,
        "affine": affine,
        "names": [task.label for task in tasks] + list(OTHERS),
        "colors": [colors[task.key] for task in tasks] + list(OTHERS.values()),
        "legend_groups": [task.group for task in tasks] + ["", ""],
        "counts": [int(count) for count in np.bincount(data.ravel(), minlength=N_LABELS + 1)[1:]],
        "unit": "searchlights",
    }
    return LabelMap(**{**content, **changes})


def patches() -> tuple[np.ndarray, np.ndarray]:
    """All labels in the grey matter behind y = -40 mm, each voxel that of the nearest of 60 seeds; the affine."""
    mask = datasets.load_mni152_gm_mask(resolution=3)
    voxels = np.argwhere(mask.get_fdata() > 0)
    xyz = nib.affines.apply_affine(mask.affine, voxels)
    voxels, xyz = voxels[xyz[:, 1] < -40], xyz[xyz[:, 1] < -40]
    seeds = xyz[np.random.default_rng(0).choice(len(xyz), 60)]
    nearest = np.argmin(((xyz[:, None] - seeds) ** 2).sum(axis=-1), axis=1)
    data = np.zeros(mask.shape, np.int16)
    data[tuple(voxels.T)] = nearest % N_LABELS + 1
    return data, mask.affine


def make_pale_map(data: np.ndarray, affine: np.ndarray, **changes) -> LabelMap:
    """A map of two groups: solid (1, 2), not significant (3), pale (4, 5)."""
    solid = ["#0077BB", "#E69F00"]
    content = {
        "data": data,
        "affine": affine,
        "names": ["2D", "3D", "not significant", "2D (lead not established)", "3D (lead not established)"],
        "colors": [*solid, NOT_SIGNIFICANT_COLOR, *map(pale_color, solid)],
        "legend_groups": [""] * 5,
        "counts": [int(count) for count in np.bincount(data.ravel(), minlength=6)[1:]],
        "unit": "searchlights",
        "title": "Strongest group",
        "pale": {0: 3, 1: 4},
        "candidates": np.where(data > 3, data - 3, 0),
        "candidate_names": ["", "2D or <3D>", "3D or 2D"],
    }
    return LabelMap(**{**content, **changes})
