"""Data sets that tests write: the sample of the published layout, runs of beta maps, and RDMs of many subjects."""

import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
from helpers import HOME, gain_rdms
from PIL import Image
from scipy.io import savemat

from utils.rdm import expand

DATA = Path(__file__).with_name("data")
REAL = HOME.parent / "shared" / "real"  # data sets that are not redistributed: tests use them where they are at hand


def write_published_sample(root: Path) -> Path:
    """The small sample in the layout of the published release, with the quirks of its files, from tests/data.

    Blanks stand behind two names of ROIs, names of network files take several forms, the mask holds floats, the noise
    ceiling is pickled, and RDMs are symmetric and zero on their diagonals only up to rounding.
    """

    def rdms(name: str) -> np.ndarray:
        return expand(sample[name] / 2**31) + np.tril(np.full((50, 50), 2.0**-53))

    networks, rois = root / "RDM_taskonomy_bonner50", root / "kastner_ROIs_RDMs_pearson"
    searchlights = root / "sl_rad=1__max_blk_edge=2"
    for folder in (networks, rois, searchlights):
        folder.mkdir(parents=True)
    with np.load(DATA / "published_sample.npz") as sample, np.load(DATA / "published_outputs.npz") as outputs:
        for name, rdm in zip(sample["network_files"], rdms("networks"), strict=True):
            savemat(networks / name, {"rdm": rdm})
        for name, rdm in zip(sample["roi_names"], rdms("rois"), strict=True):
            savemat(rois / f"{name}.mat", {"subject_rdm": rdm})
        labels = "".join(f"{number},{name}\n" for number, name in enumerate(sample["roi_names"], start=1))
        (root / "ROIfiles_Labeling.txt").write_text("id,roi\n" + labels)
        np.save(searchlights / "all_sub_slrdms.npy", rdms("searchlights"))
        (searchlights / "noise_ceiling.pkl").write_bytes(pickle.dumps(tuple(outputs["noise_ceiling"])))
        nib.save(nib.Nifti1Image(sample["mask"].astype(np.float32), sample["affine"]), root / "mask.nii")
    return root


def write_runs(root: Path) -> Path:
    """Beta maps of twelve runs and eight categories on a coarse grid of the whole brain, and a mask of 129 voxels."""
    rng = np.random.default_rng(2001)
    shape = (6, 10, 10)
    affine = np.array([[-25, 0, 0, 62.5], [0, 25, 0, -112.5], [0, 0, 25, -112.5], [0, 0, 0, 1]])
    x, y, z = np.indices(shape)
    distance = ((x - 2.5) / 3) ** 2 + ((y - 4.5) / 4) ** 2 + ((z - 4.5) / 3.5) ** 2
    mask = np.zeros(shape, dtype=np.int16)
    mask.flat[np.argsort(distance, axis=None, kind="stable")[:129]] = 1
    nib.save(nib.Nifti1Image(mask, affine), root / "mask.nii.gz")
    (root / "conditions.txt").write_text("\n".join(f"category {name}" for name in "abcdefgh") + "\n")
    same = rng.standard_normal((*shape, 8))
    for run in range(1, 13):
        betas = (6 * (same + rng.standard_normal(same.shape))).astype(np.float32)
        nib.save(nib.Nifti1Image(betas, affine), root / f"run-{run:02d}_betas.nii.gz")
    return root


def write_fifteen_subjects(root: Path) -> Path:
    """RDMs of fifteen subjects for 78 conditions in two ROIs, of which IT follows the semantic models, and photographs.

    The photographs are parts of the two that come with scikit-learn.
    """
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(2019)
    for name in ("dnn_rdms", "roi_rdms", "stimuli"):
        (root / name).mkdir(parents=True)
    models = {"pixels": "2D", "edges": "2D", "resnet18": "semantic", "clip_rn50": "semantic"}
    rows = "".join(f"{key}\t{key}\t{group}\n" for key, group in models.items())
    (root / "models.tsv").write_text("key\tlabel\tgroup\n" + rows)
    rdms = {(key, layer): gain_rdms(rng, 1, 78)[0] for key in models for layer in ("early", "late")}
    for (key, layer), rdm in rdms.items():
        savemat(root / "dnn_rdms" / f"{key}_{layer}.mat", {"rdm": expand(rdm)})
    (root / "roi_labels.csv").write_text("id,roi\n1,EVC\n2,IT\n")
    for roi, follows in (("EVC", ("edges", "early")), ("IT", ("clip_rn50", "late"))):
        subjects = 0.5 * rdms[follows] + gain_rdms(rng, 15, 78)
        savemat(root / "roi_rdms" / f"{roi}.mat", {"subject_rdm": expand(subjects).astype(np.float32)})
    photographs = load_sample_images().images
    for number in range(78):
        top, left = (number // 13) * 40, (number // 2 % 13) * 30
        part = Image.fromarray(photographs[number % 2][top : top + 224, left : left + 224])
        part.save(root / "stimuli" / f"image_{number + 1:02d}.jpg")
    return root
